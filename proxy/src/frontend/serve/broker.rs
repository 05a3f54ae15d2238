//! Which messages are served here instead of forwarded as they are, and how that begins.

use super::line::Old;
use super::{Brokered, Connection, Halt, IncomingRequest, RefusalContext, Route};
use crate::authorize::FailedLookups;
use crate::backend::forward::{Exchange, RequestOrigin};
use crate::backend::headers::{ClientHeaders, MCP_SESSION_ID, Stamp, unchanged};
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstreams::answer_class::is_about_message;
use crate::frontend::bridge::responder::{Responder, Sink};
use crate::frontend::bridge::{self, ServedCall, http_sse};
use crate::frontend::call_context::CallContext;
use crate::frontend::context::{Active, Gateway, MessageSnapshot};
use crate::frontend::expected::Expect;
use crate::frontend::session::{Client, End};
use crate::identify::StreamAuthorization;
use crate::record::long_texts;
use crate::sealing::{Binding, CallerKey, SessionName};
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION};
use http::request::Parts;
use portunus_config::{Credentials, EraMode, Upstream, VirtualServer};
use portunus_filters::mcp::bridge::{ClientPlace, Profile};
use portunus_filters::message::Reading;
use portunus_filters::{Arrival, Denial, Era, Reason};
use std::sync::{Arc, OnceLock};

/// The way of one message.
pub(super) enum Way {
    /// To its server as it is.
    Direct,
    /// Served here.
    Broker,
    /// Its server has to be asked first which era it speaks.
    Unknown(Box<UpstreamTarget>),
}

impl IncomingRequest<'_> {
    /// Decides by what is configured and known; a message that the one server of its endpoint can read
    /// is never touched where no filter is on.
    pub(super) fn way(&self, active: &Active, server: &Arc<VirtualServer>, reading: &Reading) -> Way {
        let [upstream] = server.upstreams.as_slice() else { return Way::Broker };
        if !active.may_pass(server) || self.old(server).is_some() {
            return Way::Broker;
        }
        let era = reading.messages().first().map_or(Era::Legacy, |message| message.era);
        if era == Era::Legacy && self.session_name(server).is_some_and(|name| self.is_served(server, &name)) {
            return Way::Broker;
        }
        if !server.bridge {
            return Way::Direct;
        }
        // A server that is shown the same credential by all cannot tell them apart: what it hands to
        // one must not serve another, so the gateway has to see to that.
        if !passes(upstream) && !self.origin.arrival.identity.is_anonymous() {
            return Way::Broker;
        }
        let spoken = self.connection.gateway.backend.eras.known(upstream, self.origin.arrival.at).knows(era);
        match (spoken, era) {
            (Some(false), _) => Way::Broker,
            (Some(true), _) | (None, Era::Legacy) => Way::Direct,
            (None, Era::Modern) => match self.place_of(active, server, upstream) {
                Some(place) => Way::Unknown(Box::new(place)),
                None => Way::Direct,
            },
        }
    }

    /// The session that a legacy message names, if that has an id of ours; it may have begun in an earlier run of this
    /// replica or at another, and have ended.
    pub(super) fn session_name(&self, server: &VirtualServer) -> Option<Arc<SessionName>> {
        let named = self.parts.headers.get(MCP_SESSION_ID)?;
        let binding =
            Binding { server: &server.id, caller: CallerKey::for_seals(&self.origin.arrival.identity) };
        let seals = &self.connection.gateway.estate.seals;
        let recalled = self.connection.connection_state.recall(
            seals,
            &binding,
            named,
            self.origin.arrival.at.monotonic,
        )?;
        recalled.name.for_caller(&self.origin.arrival.identity)
    }

    /// Whether a message of a session is served also where messages pass: the session began by being served or was adopted
    /// since, so that something of it is kept here, or its server knows nothing of the session that the message ends.
    fn is_served(&self, server: &VirtualServer, name: &SessionName) -> bool {
        let Some(passed) = &name.passed else { return true };
        let gateway = self.connection.gateway;
        let sessions = &gateway.estate.sessions;
        let number = || name.number_for(CallerKey::for_seals(&self.origin.arrival.identity));
        (passed.own_id.is_empty() && self.parts.method == Method::DELETE)
            || (sessions.has_adopted() && sessions.find(&server.id, &number(), gateway).is_some())
    }

    /// Asks the server for its era. Without an answer, one of which it was known is served by that, for
    /// the sake of what is kept of it; of any other the message goes to it as it is, and fails as it
    /// would without us.
    pub(super) async fn ask_era(
        &mut self,
        brokered: Brokered,
        place: &UpstreamTarget,
    ) -> Result<Route, Halt> {
        let gateway = self.connection.gateway;
        let eras = &gateway.backend.eras;
        let is_legacy = match eras.choose(&gateway.backend, place, Era::Modern).await {
            Ok(era) => era == Era::Legacy,
            Err(_) => eras.last(place).knows(Era::Modern) == Some(false),
        };
        if is_legacy {
            return Ok(Route::Broker(Box::new(brokered)));
        }
        self.clear(brokered)
    }

    /// What it takes to serve an `initialize` here, if its server turns out not to know it.
    pub(super) fn founding(&self, brokered: &Brokered, expect: &Expect) -> Option<Box<Founding>> {
        let Brokered { active, server, .. } = brokered;
        let upstream = server.upstreams.first().filter(|upstream| upstream.era == EraMode::Auto)?;
        if !expect.founds_session || !server.bridge {
            return None;
        }
        let place = self.place_of(active, server, upstream)?;
        let (server, reading) = (Arc::clone(server), brokered.reading.clone());
        Some(Box::new(Founding { server, reading, serial: active.snapshot.serial, place }))
    }

    /// Serves an `initialize` here that its server does not know.
    pub(super) async fn serve_founding(&mut self, founding: Founding, client: &mut Client) -> End {
        let Founding { server, reading, serial, .. } = founding;
        self.forget_introduction();
        let settled = self.settled(server, serial).await.and_then(|(active, server)| {
            // It may be held to other bounds than before.
            let mut body = reading.messages().first().map(|first| first.body.clone()).unwrap_or_default();
            let reading = self.read_message(&mut body, &server)?;
            Ok(Brokered { active, server, reading })
        });
        match settled {
            Ok(brokered) => self.broker(brokered, client).await,
            Err(halt) => self.halted(halt, client).await,
        }
    }

    fn place_of(
        &self,
        active: &Active,
        server: &VirtualServer,
        upstream: &Arc<Upstream>,
    ) -> Option<UpstreamTarget> {
        let client_headers = Arc::new(ClientHeaders::of(&self.parts.headers, server));
        Some(UpstreamTarget {
            upstream: Arc::clone(upstream),
            pool: active.pool(upstream)?,
            server: server.id.clone(),
            caller: key(&self.connection, &self.origin.arrival, &client_headers),
            owner: self.origin.arrival.owner(),
            profile: Arc::new(Profile::silent("portunus", env!("CARGO_PKG_VERSION"))),
            headers: client_headers,
        })
    }

    /// Serves a message here.
    pub(super) async fn broker(&mut self, brokered: Brokered, client: &mut Client) -> End {
        let Brokered { active, server, reading } = brokered;
        if let Some(first) = reading.messages().first() {
            self.record.note_message(first, first.body.len());
        }
        let old = self.old(&server);
        let era = reading.messages().first().map_or(Era::Legacy, |message| message.era);
        let judged_by = (active, Arc::clone(&server), era);
        let context =
            call_context(self.connection, (&self.parts, &self.origin), judged_by, self.authorization.clone());
        let end = match context {
            // By reference: the future of the call has room for one.
            Ok(ref context) => {
                let served = ServedCall { gateway: self.connection.gateway, context };
                self.record.watch_long_texts(served.context.long_texts.as_ref());
                let mut out = Responder {
                    sink: Sink::Client(client),
                    record: &mut self.record,
                    stamp: Stamp {
                        request_id: &self.origin.arrival.request_id,
                        origin: self.cors_origin.as_ref(),
                    },
                    write_timeout: self.connection.listener.limits.write_timeout,
                    phases: &self.connection.connection_state.phases,
                    version: self.parts.version,
                    takes_events: served.context.takes_events,
                    begun: false,
                };
                match old {
                    None => bridge::serve(&served, &reading, &mut out).await,
                    Some(Old::Opens) => Box::pin(http_sse::open(&served, &reading, &mut out)).await,
                    Some(Old::Posts(line)) => {
                        Box::pin(http_sse::post(&served, &line, &reading, &mut out)).await
                    }
                    Some(Old::Unknown) => {
                        End::Refused(Denial::new(Reason::UnknownSession, "Session not found"))
                    }
                }
            }
            Err(denial) => End::Refused(denial),
        };
        match end {
            End::Refused(denial) => {
                let expected = Expect::of(&reading, &server, self.parts.version);
                let known = RefusalContext::of(&expected, server.http_status);
                Box::pin(self.refuse(&denial, &known, client)).await
            }
            end => end,
        }
    }
}

/// The key of a caller in tables, which is digested anew where caller or headers differ from the last request.
fn key(connection: &Connection<'_>, arrival: &Arrival, client_headers: &Arc<ClientHeaders>) -> CallerKey {
    connection
        .connection_state
        .caller_key(&arrival.identity, client_headers, || digested(connection, arrival, client_headers))
}

fn digested(connection: &Connection<'_>, arrival: &Arrival, client_headers: &ClientHeaders) -> CallerKey {
    let mut marks = client_headers.caller_marks();
    let shown = client_headers.get(AUTHORIZATION).filter(|_| !marks.is_empty());
    let digest =
        shown.map(|shown| (shown, connection.gateway.identifier.shown(shown, connection.connection_state)));
    if let Some((shown, digest)) = &digest {
        let credentials = marks.iter_mut().filter(|(name, _)| *name == AUTHORIZATION.as_str());
        credentials.filter(|(_, value)| *value == shown.as_bytes()).for_each(|mark| mark.1 = &digest.0);
    }
    CallerKey::for_tables(&arrival.identity, &marks)
}

/// The context of a message of a request.
///
/// # Errors
/// The refusal of a filter of the headers that go up.
pub(super) fn call_context(
    connection: Connection<'_>,
    (parts, origin): (&Arc<Parts>, &Arc<RequestOrigin>),
    (active, server, era): (Arc<Active>, Arc<VirtualServer>, Era),
    authorization: Option<Arc<StreamAuthorization>>,
) -> Result<CallContext, Denial> {
    let (headers, arrival) = (&parts.headers, &origin.arrival);
    let sent_headers = connection.connection_state.client_headers(headers, &server);
    let serial = active.snapshot.serial;
    let client_headers = connection.connection_state.permitted_headers(&sent_headers, &active)?;
    let is_of_client = headers.get("x-request-id").is_some_and(|id| id == &*arrival.request_id);
    if is_of_client && active.pipeline.reads_client_texts() {
        unchanged(&active.pipeline, ClientPlace::RequestId, &arrival.request_id)?;
    }
    let long_texts = active.pipeline.is_on().then(|| long_texts(&connection.gateway.metrics, &server));
    Ok(CallContext {
        snapshot: MessageSnapshot::holding(active),
        connection_state: Arc::clone(connection.connection_state),
        caller: key(&connection, arrival, &sent_headers),
        bearer: CallerKey::for_seals(&arrival.identity),
        authorization,
        sent_headers,
        client_headers,
        serial,
        write_timeout: connection.listener.limits.write_timeout,
        relayed: connection.relayed.is_some(),
        takes_events: headers.get_all(ACCEPT).iter().any(takes_events),
        software: OnceLock::new(),
        failed_lookups: FailedLookups::default(),
        long_texts,
        audience: OnceLock::new(),
        era,
        server,
        parts: Arc::clone(parts),
        origin: Arc::clone(origin),
    })
}

/// An `initialize` on its way to a server whose era is not known. If it has to be served here, other requests are opened
/// for it: then it is a new message to the snapshot in force, with its caller as that knows it.
pub(super) struct Founding {
    server: Arc<VirtualServer>,
    reading: Reading,
    serial: u64,
    place: UpstreamTarget,
}

impl Founding {
    /// The server answers as one that does not know the method might.
    pub(super) fn is_refused(&self, exchange: &Exchange) -> bool {
        is_about_message(exchange.head.status)
    }

    /// Whether the server speaks only to modern clients, as it says when it is asked.
    pub(super) async fn speaks_another_era(&self, gateway: &Arc<Gateway>) -> bool {
        let eras = &gateway.backend.eras;
        eras.contradicted(&self.place, Era::Legacy);
        eras.choose(&gateway.backend, &self.place, Era::Legacy).await.is_ok_and(|era| era == Era::Modern)
    }
}

fn passes(upstream: &Upstream) -> bool {
    matches!(upstream.credentials, Credentials::Passthrough)
}

fn takes_events(accept: &http::HeaderValue) -> bool {
    // What nearly all clients write.
    if accept == "application/json, text/event-stream" {
        return true;
    }
    let accept = accept.as_bytes().to_ascii_lowercase();
    [&b"text/event-stream"[..], b"text/*", b"*/*"]
        .iter()
        .any(|media| memchr::memmem::find(&accept, media).is_some())
}
