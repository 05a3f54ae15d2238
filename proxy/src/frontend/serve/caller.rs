//! Identifies the caller, before the body is read.

use super::{Halt, IncomingRequest, RefusalContext, halt};
use crate::backend::headers::{self, Stamp};
use crate::frontend::context::Active;
use crate::frontend::intake::{self, BodyFault, BodyRoom, EraOf};
use crate::frontend::session::{Client, End, ReleasedHead};
use crate::identify::{
    self, MAX_REGISTRATION_BYTES, Refusal, Shown, StreamAuthorization, Trouble, WellKnown, authenticate,
    metadata, registered, resource,
};
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method};
use pingora_http::ResponseHeader;
use portunus_config::{Profile, Resource, VirtualServer};
use portunus_filters::identity::assertion::key_set;
use portunus_filters::identity::{Fault, Principal};
use portunus_filters::{Channel, Denial, Era, Identity, Reason, Released};
use std::sync::Arc;

/// Where upstreams find the keys that they verify assertions with.
const ASSERTION_KEYS: &str = "/.well-known/jwks.json";

/// The public halves of all keys that assertions are signed with; `None` if there are none.
fn assertion_keys(active: &Active) -> Option<String> {
    let rules = active.snapshot.upstreams.iter().filter_map(|upstream| upstream.caller.assertion.as_ref());
    let mut keys = rules.flat_map(|rules| rules.keys.iter().map(|key| &**key)).peekable();
    keys.peek()?;
    Some(key_set(keys))
}

impl IncomingRequest<'_> {
    /// Finds out who calls, where the server asks for that.
    pub(super) async fn identify(&mut self, server: &VirtualServer) -> Result<(), Halt> {
        self.authorization = None;
        let Some(profile) = &server.identity else { return self.check_certificate(server) };
        self.profile = Some(Arc::clone(profile));
        let gateway = self.connection.gateway;
        let shown = Shown {
            headers: &self.parts.headers,
            connection_state: self.connection.connection_state,
            source: self.origin.arrival.source,
        };
        let found = match self.connection.relayed {
            // The replica that it came in at has asked.
            Some(relayed) => self.vouched(&relayed.identity).ok_or(Trouble::Fault(Fault::Nothing)),
            None => authenticate(gateway, profile, shown, self.origin.arrival.at).await,
        };
        let principal = match found {
            Ok(principal) => principal,
            Err(trouble) => return Err(self.unidentified(trouble, profile, server)),
        };
        let vouched = self.connection.relayed.is_some();
        let connection_state = self.connection.connection_state;
        let authorization = StreamAuthorization::new(
            (server.id.clone(), profile),
            shown,
            connection_state,
            &principal,
            vouched,
        );
        self.authorization = Some(Arc::new(authorization));
        self.record.note_caller(&principal);
        Arc::make_mut(&mut self.origin).arrival.identity = Identity::Principal(principal);
        Ok(())
    }

    /// Refuses who came by a certificate that would not be taken now, where nobody is asked for more.
    fn check_certificate(&mut self, server: &VirtualServer) -> Result<(), Halt> {
        self.connection.connection_state.check_certificate(self.origin.arrival.at).map_err(|fault| {
            let metrics = &self.connection.gateway.metrics.identity;
            metrics.faults.with_label_values(&[fault.as_str()]).inc();
            self.record.note_cause(&fault);
            let known = RefusalContext { http_status: server.http_status, ..RefusalContext::default() };
            halt(Denial::new(fault.reason(), fault.told()), known)
        })
    }

    /// Leaves of the request's headers what upstreams may see of who is calling, in our words.
    fn introduce(&mut self, server: &VirtualServer) {
        let Some(profile) = &server.identity else { return };
        identify::strip(&mut Arc::make_mut(&mut self.parts).headers, profile);
        let headers = &mut Arc::make_mut(&mut self.parts).headers;
        if let Some(caller) = self.origin.arrival.identity.principal()
            && server.upstreams.iter().any(|upstream| !upstream.caller.is_empty())
        {
            headers::stamp(headers, caller);
        }
    }

    /// Makes the request's headers as they were before [`IncomingRequest::introduce`], so that its caller can be found again.
    pub(super) fn forget_introduction(&mut self) {
        let headers = &mut Arc::make_mut(&mut self.parts).headers;
        headers::strip(headers);
        if let Some(authorization) = &self.authorization {
            authorization.restore(headers);
        }
    }

    /// The snapshot that judges the message, and the virtual server in it; the caller is asked again if
    /// that is another one than it was.
    pub(super) async fn settled(
        &mut self,
        mut server: Arc<VirtualServer>,
        mut serial: u64,
    ) -> Result<(Arc<Active>, Arc<VirtualServer>), Halt> {
        loop {
            let active = self.connection.gateway.active();
            if active.snapshot.serial == serial {
                self.introduce(&server);
                return Ok((active, server));
            }
            server = self.still_served(&active, &server)?;
            serial = active.snapshot.serial;
            drop(active);
            self.identify(&server).await?;
        }
    }

    /// The same virtual server in the snapshot that judges the message.
    pub(super) fn still_served(
        &mut self,
        active: &Active,
        server: &VirtualServer,
    ) -> Result<Arc<VirtualServer>, Halt> {
        match active.snapshot.routes.server(&server.id) {
            Some(server) => {
                self.record.note_server(server, &active.revision);
                Ok(Arc::clone(server))
            }
            None => {
                let denial = Denial::new(Reason::UnknownRoute, "no MCP server is served at this path");
                Err(halt(denial, RefusalContext::default()))
            }
        }
    }

    /// A caller as another replica has found it, with a number of our own.
    fn vouched(&self, identity: &Identity) -> Option<Arc<Principal>> {
        let mut principal = Arc::clone(identity.principal()?);
        let known = Arc::make_mut(&mut principal);
        known.index = self.connection.gateway.estate.callers.principals.number(known);
        Some(principal)
    }

    fn unidentified(&mut self, trouble: Trouble, profile: &Profile, server: &VirtualServer) -> Halt {
        let known = RefusalContext { http_status: server.http_status, ..RefusalContext::default() };
        match trouble {
            Trouble::Fault(fault) => {
                let metrics = &self.connection.gateway.metrics.identity;
                metrics.faults.with_label_values(&[fault.as_str()]).inc();
                self.record.note_cause(&fault);
                let Refusal { denial, challenge } = Refusal::of(fault, profile);
                self.challenge = challenge;
                halt(denial, known)
            }
            Trouble::Unavailable(cause) => {
                self.record.note_cause(&cause);
                let detail = "it cannot be verified now who calls";
                halt(Denial::new(Reason::IdentityUnavailable, detail), known)
            }
        }
    }

    /// Answers a client that asks where to be authorized, or registers there.
    pub(super) async fn well_known(&mut self, client: &mut Client) -> Result<(), Halt> {
        let active = self.connection.gateway.active();
        if self.parts.uri.path() == ASSERTION_KEYS && self.parts.method == Method::GET {
            return assertion_keys(&active).map_or(Ok(()), |keys| Err(Halt::Told(200, Released::own(keys))));
        }
        let Some(question) = WellKnown::of(self.parts.uri.path()) else { return Ok(()) };
        let Some(server) = question.server(&active, self.host()) else { return Ok(()) };
        self.record.note_server(&server, &active.revision);
        drop(active);
        let (Some(profile), Some(resource)) = (&server.identity, resource(&server)) else { return Ok(()) };
        let reads = matches!(self.parts.method, Method::GET | Method::HEAD);
        match (reads, question.of_provider) {
            (true, false) => Err(Halt::Told(200, Released::own(resource.metadata.to_string()))),
            (true, true) => match Box::pin(metadata(self.connection.gateway, profile, resource)).await {
                Ok(metadata) => {
                    let pipeline = &self.connection.gateway.active().pipeline;
                    let released = pipeline.release(Channel::AuthorizationMetadata, metadata.as_bytes());
                    Err(match released {
                        Ok(released) => Halt::Told(200, released),
                        Err(denial) => halt(denial, RefusalContext::default()),
                    })
                }
                Err(cause) => {
                    self.record.note_cause(&cause);
                    let detail = "the authorization server does not say what it is";
                    Err(halt(Denial::new(Reason::IdentityUnavailable, detail), RefusalContext::default()))
                }
            },
            (false, true) if self.parts.method == Method::POST => {
                Box::pin(self.register(resource, client)).await
            }
            (false, _) => {
                let detail = "only GET is answered here";
                Err(halt(Denial::new(Reason::MethodNotAllowed, detail), RefusalContext::default()))
            }
        }
    }

    /// Gives a client that registers the one that is registered with the provider.
    async fn register(&mut self, resource: &Resource, client: &mut Client) -> Result<(), Halt> {
        let (headers, within) = (&self.parts.headers, self.connection.listener.limits.body_timeout);
        let mut room = BodyRoom::new(&self.connection.gateway.estate.bodies, self.origin.arrival.owner());
        let modern: EraOf = |_| Era::Modern;
        let reader = (modern, &mut room);
        let body = intake::body(client, headers, MAX_REGISTRATION_BYTES, within, reader).await;
        let body = match body {
            Ok(body) => body,
            Err(BodyFault::Denied(denial, _)) => return Err(halt(denial, RefusalContext::default())),
            Err(BodyFault::Gone) => return Err(Halt::Gone),
        };
        match registered(resource, &body) {
            Some(answer) => Err(Halt::Told(201, Released::own(answer))),
            None => {
                let detail = "a registration is a JSON object with `redirect_uris`";
                Err(halt(Denial::new(Reason::InvalidRequest, detail), RefusalContext::default()))
            }
        }
    }

    /// Writes metadata: anybody may read it, from any page.
    pub(super) async fn tell(&mut self, status: u16, document: Released, client: &mut Client) -> End {
        self.record.note_answer(None);
        self.record.note_http_status(status);
        if !intake::discard(client, &self.parts.headers).await {
            client.close_after();
        }
        let length = document.len();
        let head = || -> pingora_core::Result<ResponseHeader> {
            let mut head = ResponseHeader::build_no_case(status, Some(6))?;
            head.insert_header(CONTENT_LENGTH, length)?;
            head.insert_header(CONTENT_TYPE, "application/json")?;
            let keep = if status == 200 { "public, max-age=60" } else { "no-store" };
            head.insert_header(CACHE_CONTROL, keep)?;
            Stamp { request_id: &self.origin.arrival.request_id, origin: None }.put(&mut head)?;
            head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))?;
            Ok(head)
        };
        let body = match self.parts.method {
            Method::HEAD => Released::own(Bytes::new()),
            _ => document,
        };
        match head() {
            Ok(head) => self.write(ReleasedHead::own(head), body, client).await,
            Err(_) => End::Broken,
        }
    }
}
