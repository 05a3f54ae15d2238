//! The life of one request, read downward.
//!
//! admit (host, origin) → resolve → identify → intake → route → forward → respond; the record is settled when
//! its [`RecordGuard`] is dropped, whatever happened. Once the body is here, one snapshot decides on the message until
//! it is sent, and is let go before the answer is awaited. A message that cannot be passed as it is goes to
//! [`crate::frontend::bridge`], which runs the filters, or to another replica.

mod answer;
mod away;
mod broker;
mod caller;
mod line;
mod passed_session;
mod refusal_context;

use broker::{Founding, Way};
use refusal_context::{RefusalContext, is_repeatable};

use crate::authorize;
use crate::backend::forward::{Dispatch, Inbound, RequestOrigin, RetryPolicy, UpstreamRequest, send};
use crate::backend::gateway_requests::PassedRequest;
use crate::backend::headers::{self, Stamp};
use crate::backend::upstreams::pool::Pool;
use crate::drain::Phase;
use crate::frontend::bridge::lines::Line;
use crate::frontend::context::{Active, Gateway};
use crate::frontend::expected::Expect;
use crate::frontend::intake::{self, BodyFault, BodyRoom};
use crate::frontend::respond::Respond;
use crate::frontend::session::one::Rest;
use crate::frontend::session::{Client, End};
use crate::frontend::session_field::SessionField;
use crate::identify::{ConnectionState, StreamAuthorization, source};
use crate::metrics::Stage;
use crate::peers::Relayed;
use crate::record::RecordGuard;
use crate::reply::draining;
use crate::request_ids::Trace;
use crate::shares::Share;
use answer::write_limits;
use away::Away;
use bytes::Bytes;
use http::header::{HOST, ORIGIN, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method};
use memchr::memmem;
use portunus_base::HostPattern;
use portunus_config::{HttpStatus, Listener, NormalPath, Profile, Resolution, Upstream, VirtualServer};
use portunus_filters::call::Target;
use portunus_filters::message::{Reading, Unreadable};
use portunus_filters::{Arrival, Denial, Kind, Message, RawPass, Reason, Released};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// The connection that a request came on.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The listener.
    pub listener: &'a Arc<Listener>,
    /// The other end; behind a PROXY protocol header, who that names.
    pub peer: IpAddr,
    /// Forwarding headers are read if the other end may write them.
    pub forwards: bool,
    /// It is under TLS.
    pub secure: bool,
    /// What whoever opened it has shown of itself.
    pub connection_state: &'a Arc<ConnectionState>,
    /// Another replica sent the request, and what it found out about it: it was charged there, and is
    /// never sent on.
    pub relayed: Option<&'a Relayed>,
}

/// Found in few messages, and looked for in all that come without the header.
static TRACEPARENT: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("traceparent"));

/// One request on its way through the stages.
struct IncomingRequest<'a> {
    connection: Connection<'a>,
    /// Its method, target and headers, without those of the connection.
    parts: Arc<Parts>,
    /// Its sender and time.
    origin: Arc<RequestOrigin>,
    /// The page that it comes from, if that may read the answer.
    cors_origin: Option<HeaderValue>,
    /// The stream that its answer goes to, if that is another request's.
    line: Option<Arc<Line>>,
    record: RecordGuard,
    /// What a caller that is refused is asked for.
    challenge: Option<HeaderValue>,
    /// What its stream depends on, if it opens one.
    authorization: Option<Arc<StreamAuthorization>>,
    /// What is asked of callers where it goes.
    profile: Option<Arc<Profile>>,
    /// What its body takes of what all bodies may.
    body_share: Option<Share>,
}

/// A message that may be forwarded, and everything its answer needs; holds no snapshot.
struct Outbound {
    request: UpstreamRequest,
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
    expect: Expect,
    session: SessionField,
    http_status: HttpStatus,
    /// It is an `initialize` that may have to be served here after all.
    founding: Option<Box<Founding>>,
}

/// What becomes of a message that was read.
enum Route {
    /// It goes to its server as it is, and the answer comes back as it is.
    Forward(Box<Outbound>),
    /// It is served here, with one server or several.
    Broker(Box<Brokered>),
    /// It is served by another replica.
    Away(Box<Away>),
}

/// A message that is served here.
#[derive(Clone)]
struct Brokered {
    /// The snapshot that judges it.
    active: Arc<Active>,
    /// The virtual server in that snapshot.
    server: Arc<VirtualServer>,
    reading: Reading,
}

/// A stage that ended the request.
enum Halt {
    Refused(Box<Denial>, Box<RefusalContext>),
    Preflight,
    /// It asked for a document that everybody may have.
    Told(u16, Released),
    Gone,
}

/// Serves one request; gives the connection back if it can carry another.
pub async fn serve(head: Parts, mut client: Client, connection: Connection<'_>) -> Option<Rest> {
    let mut request = IncomingRequest::begin(head, connection);
    let end = match request.admit(&mut client).await {
        Ok(Route::Forward(outbound)) => request.exchange(*outbound, &mut client).await,
        Ok(Route::Broker(brokered)) => request.broker(*brokered, &mut client).await,
        Ok(Route::Away(away)) => Box::pin(request.send_on(*away, &mut client)).await,
        Err(halt) => Box::pin(request.halted(halt, &mut client)).await,
    };
    request.record.end_last_stage();
    if matches!(end, End::Broken) {
        request.record.note_cut();
    }
    match end {
        End::Done => {
            if !client.is_body_done() {
                intake::discard(&mut client, &request.parts.headers).await;
            }
            client.finish().await
        }
        // Dropped, not shut down: that would flush to a client that may never read.
        End::Refused(_) | End::Left | End::Broken => None,
    }
}

impl<'a> IncomingRequest<'a> {
    fn begin(mut request: Parts, connection: Connection<'a>) -> IncomingRequest<'a> {
        headers::strip(&mut request.headers);
        let (gateway, listener) = (connection.gateway, connection.listener);
        let source = match connection.relayed {
            Some(relayed) => relayed.source.clone(),
            None => {
                let from = if connection.forwards { &listener.forwarded_from[..] } else { &[] };
                source(connection.peer, &request.headers, from, listener.forwarded_by)
            }
        };
        let own = &gateway.identifier;
        let (identity, request_id) = match connection.relayed {
            Some(relayed) => (relayed.identity.clone(), Arc::clone(&relayed.request_id)),
            None => (
                own.identity(&request.headers, source.client, connection.connection_state),
                gateway.backend.ids.request_id(&request.headers),
            ),
        };
        let listener = Arc::clone(&listener.name);
        let at = gateway.clock.now();
        let arrival = Arrival { listener, source: source.client, identity, request_id, at };
        let mut record = RecordGuard::new(&gateway.recorder, &arrival);
        let origin = RequestOrigin {
            arrival,
            secure: connection.secure,
            behind_proxy: source.behind_proxy,
            trace: gateway.backend.ids.trace(&request.headers),
        };
        let user_agent = request.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        record.note_client(user_agent, Some(origin.trace.id()));
        IncomingRequest {
            connection,
            parts: Arc::new(request),
            origin: Arc::new(origin),
            cors_origin: None,
            line: None,
            record,
            challenge: None,
            authorization: None,
            profile: None,
            body_share: None,
        }
    }

    /// Everything up to the permission to forward.
    async fn admit(&mut self, client: &mut Client) -> Result<Route, Halt> {
        self.host_and_origin()?;
        if self.parts.method == Method::OPTIONS && self.cors_origin.is_some() {
            return Err(Halt::Preflight);
        }
        let gateway = self.connection.gateway;
        self.well_known(client).await?;
        let (server, serial) = self.resolve(&gateway.active())?;
        self.identify(&server).await?;
        self.line = self.line(&server);
        let known = RefusalContext { http_status: server.http_status, ..RefusalContext::default() };
        let kind = intake::kind_of(&self.parts.method).map_err(|denial| halt(denial, known))?;
        let mut body = match kind {
            None => Some(self.read_body(client, &server).await?),
            Some(_) => None,
        };
        // The body may have taken its time: from here on, and for good, the snapshot of now counts.
        let (active, server) = self.settled(server, serial).await?;
        let reading = match (&mut body, kind) {
            (Some(body), _) => self.read_message(body, &server)?,
            (None, kind) => self.read_bodiless(kind.unwrap_or(Kind::Stream), &server)?,
        };
        self.record.end_stage(Stage::Intake);
        let way = self.way(&active, &server, &reading);
        let passes = matches!(way, Way::Direct | Way::Unknown(_));
        if let Some(away) = self.away((&active, passes), &server, &reading, &body.unwrap_or_default()) {
            return Ok(Route::Away(Box::new(away)));
        }
        match way {
            Way::Direct => self.clear(Brokered { active, server, reading }),
            Way::Broker => Ok(Route::Broker(Box::new(Brokered { active, server, reading }))),
            Way::Unknown(place) => Box::pin(self.ask_era(Brokered { active, server, reading }, &place)).await,
        }
    }

    /// Checks `Host` and `Origin`, before anything costly.
    fn host_and_origin(&mut self) -> Result<(), Halt> {
        let listener = self.connection.listener;
        if let Some(hosts) = &listener.hosts
            && !HostPattern::any_matches(hosts, self.host())
        {
            let denial = Denial::new(Reason::ForbiddenHost, "this listener does not answer for that Host");
            return Err(halt(denial, RefusalContext::default()));
        }
        let mut origins = self.parts.headers.get_all(ORIGIN).iter();
        let origin = origins.next();
        let allowed =
            |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| listener.origins.allows(origin));
        match origin {
            None => Ok(()),
            Some(origin) if allowed(origin) && origins.next().is_none() => {
                self.cors_origin = Some(origin.clone());
                Ok(())
            }
            Some(_) => {
                let denial =
                    Denial::new(Reason::ForbiddenOrigin, "pages of that Origin may not call this gateway");
                Err(halt(denial, RefusalContext::default()))
            }
        }
    }

    /// The virtual server of this host and path, and the serial of the snapshot that has it.
    fn resolve(&mut self, active: &Active) -> Result<(Arc<VirtualServer>, u64), Halt> {
        let unknown = |detail| halt(Denial::new(Reason::UnknownRoute, detail), RefusalContext::default());
        let path =
            NormalPath::parse(self.parts.uri.path()).map_err(|_| unknown("the path cannot be normalised"))?;
        match active.snapshot.routes.resolve(Some(self.host()), &path) {
            Resolution::Server(server) if self.is_asserted(|relayed| relayed.server == server.id) => {
                self.record.note_server(server, &active.revision);
                self.record.end_stage(Stage::Resolve);
                Ok((Arc::clone(server), active.snapshot.serial))
            }
            Resolution::Server(_) => Err(unknown("another server was asserted for this path")),
            Resolution::None => Err(unknown("no MCP server is served at this path")),
        }
    }

    /// Whether the replica that sent the request, if one did, said this of it.
    fn is_asserted(&self, holds: impl FnOnce(&Relayed) -> bool) -> bool {
        self.connection.relayed.is_none_or(holds)
    }

    fn host(&self) -> &str {
        self.parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
    }

    /// Reads the body of a POST; holds no snapshot while it waits.
    async fn read_body(&mut self, client: &mut Client, server: &VirtualServer) -> Result<Bytes, Halt> {
        let known = || RefusalContext { http_status: server.http_status, ..RefusalContext::default() };
        intake::declared(&mut Arc::make_mut(&mut self.parts).headers)
            .map_err(|denial| halt(denial, known()))?;
        let limits = &self.connection.listener.limits;
        let limit = server.max_body_bytes.map_or(limits.max_body_bytes, |own| own.min(limits.max_body_bytes));
        let phases = &self.connection.connection_state.phases;
        let mut room = BodyRoom::new(&self.connection.gateway.estate.bodies, self.origin.arrival.owner());
        let body = tokio::select! {
            biased;
            body = intake::body(
                client, &self.parts.headers, limit, limits.body_timeout, (intake::likely_era, &mut room)
            ) => body,
            () = phases.reached(Phase::Expired) => Err(BodyFault::Denied(draining(), None)),
        };
        self.body_share = room.into_share();
        match body {
            Ok(body) if self.is_asserted(|relayed| relayed.covers(&body)) => Ok(body),
            Ok(_) => {
                let detail = "another body was asserted for this request";
                Err(halt(Denial::new(Reason::InvalidRequest, detail), known()))
            }
            Err(BodyFault::Denied(denial, id)) => {
                let kind = id.is_some().then_some(Kind::Request);
                let ids = id.into_iter().collect();
                let era = Some(intake::likely_era(&self.parts.headers));
                Err(halt(denial, RefusalContext { kind, ids, era, ..known() }))
            }
            Err(BodyFault::Gone) => Err(Halt::Gone),
        }
    }

    /// Reads the message in a body. In the place of an answer that is beyond the bounds stands its
    /// refusal.
    fn read_message(&mut self, body: &mut Bytes, server: &VirtualServer) -> Result<Reading, Halt> {
        let read = |body: &Bytes| {
            intake::message(body, &self.parts.headers, &server.bounds, intake::offered(server))
        };
        let mut message = read(body);
        if let Err(unreadable) = &message
            && let Some(question) = &unreadable.answers
        {
            *body = intake::refused_answer(question, &unreadable.denial);
            message = read(body);
        }
        let reading = message.map_err(|unreadable| {
            let Unreadable { denial, id, era, method, target, answers: _ } = *unreadable;
            self.record.note_refused_message(era, method.as_ref(), target, body.len());
            let kind = id.is_some().then_some(Kind::Request);
            let ids = id.into_iter().collect();
            let http_status = server.http_status;
            halt(denial, RefusalContext { kind, ids, era: Some(era), method, http_status, batch: false })
        })?;
        if let Reading::One(message) = &reading {
            self.join_trace(message);
        }
        Ok(reading)
    }

    /// Goes on with the trace that a message names where its request names none (2026-07-28 basic,
    /// "OpenTelemetry Trace Context").
    fn join_trace(&mut self, message: &Message) {
        if self.origin.trace.joined || TRACEPARENT.find(&message.body).is_none() {
            return;
        }
        let text = std::str::from_utf8(&message.body).unwrap_or_default();
        let params = message.message_index.as_ref().map(|index| index.params(text)).unwrap_or_default();
        let meta = params.object("_meta").ok().flatten();
        if let Some(trace) = meta.and_then(|meta| Trace::named(&meta.text("traceparent")?)) {
            self.record.note_trace(trace.id());
            Arc::make_mut(&mut self.origin).trace = trace;
        }
    }

    /// Makes the message that a GET or DELETE stands for.
    fn read_bodiless(&mut self, kind: Kind, server: &VirtualServer) -> Result<Reading, Halt> {
        let headers = &self.parts.headers;
        let message = intake::singular(headers)
            .and_then(|()| intake::bodiless(kind, headers, intake::offered(server)))
            .map_err(|denial| {
                halt(denial, RefusalContext { kind: Some(kind), ..RefusalContext::default() })
            })?;
        Ok(Reading::One(message))
    }

    /// The request of a message that goes to its server as it came. No filter is on where it does: what one would read is
    /// served.
    fn clear(&mut self, brokered: Brokered) -> Result<Route, Halt> {
        let Brokered { active, server, reading } = &brokered;
        let messages = reading.messages();
        let expect = self.awaiting(Expect::of(reading, server, self.parts.version));
        let refused = |denial| halt(denial, RefusalContext::of(&expect, server.http_status));
        if self.connection.connection_state.phases.is_reached(Phase::Expired) {
            return Err(refused(draining()));
        }
        if let Some(first) = messages.first() {
            self.record.note_message(first, first.body.len());
        }
        let found = server.upstreams.first().and_then(|upstream| Some((upstream, active.pool(upstream)?)));
        let Some((upstream, pool)) = found else {
            let detail = "no server stands behind this endpoint";
            return Err(refused(Denial::new(Reason::UpstreamUnavailable, detail)));
        };
        let target = Target::new(&server.name, &upstream.name);
        let (gateway, arrival) = (self.connection.gateway, &self.origin.arrival);
        let cleared = authorize::judge(gateway, active, arrival, messages, &target).map_err(refused)?;
        // Never, since the same snapshot let it pass; but no guess is made where a filter is on.
        let Some(admitted) = active.pipeline.pass(cleared) else {
            return Err(refused(Denial::new(
                Reason::PolicyError,
                "a rule has to read this, and was not asked",
            )));
        };
        let session = self.replace_session_id(&brokered, &expect).map_err(refused)?;
        let inbound = Inbound {
            method: &self.parts.method,
            headers: &self.parts.headers,
            query: self.parts.uri.query(),
            owner: self.origin.arrival.owner(),
            origin: &self.origin,
        };
        let retry = RetryPolicy { repeatable: messages.iter().all(is_repeatable), endless: expect.endless };
        let request = Dispatch::open(admitted, &inbound, Arc::clone(upstream), Arc::clone(&pool), retry);
        let founding = self.founding(&brokered, &expect);
        let http_status = server.http_status;
        let upstream = Arc::clone(upstream);
        let outbound = Outbound { request, upstream, pool, expect, session, http_status, founding };
        Ok(Route::Forward(Box::new(outbound)))
    }

    /// What the client waits for, as long as it may.
    fn awaiting(&self, expect: Expect) -> Expect {
        Expect { authorization: self.authorization.clone(), ..expect }
    }

    /// Forwards a message as it is, and passes its answer on.
    async fn exchange(&mut self, outbound: Outbound, client: &mut Client) -> End {
        let Outbound { request: upstream_request, upstream, pool, expect, session, http_status, founding } =
            outbound;
        self.record.begin_forwarding(&pool);
        let gateway = Arc::clone(self.connection.gateway);
        let phases = &self.connection.connection_state.phases;
        let headers = &self.parts.headers;
        let request = PassedRequest { backend: &gateway.backend, headers, upstream: &upstream, pool: &pool };
        let mut respond = Respond {
            gateway: &gateway,
            request,
            client,
            record: &mut self.record,
            stamp: Stamp { request_id: &self.origin.arrival.request_id, origin: self.cors_origin.as_ref() },
            expect,
            limits: write_limits(self.connection),
            home: None,
            session,
            room: None,
            pass: RawPass::of_passed_message(),
        };
        let mut sending = Box::pin(send(upstream_request, Arc::clone(&gateway.backend.resolver)));
        let sent = tokio::select! {
            // An answer that is there is passed on, whatever else has happened.
            biased;
            sent = &mut sending => sent,
            () = respond.client.gone() => {
                // A session that is being founded is waited for, to be ended: nobody will ever use it.
                if respond.expect.founds_session {
                    request.delete_founded(sending);
                }
                return End::Broken;
            }
            denial = respond.expect.withdrawn(&gateway, &upstream, phases) => Err(denial.into()),
        };
        respond.record.end_upstream_wait();
        if let (Ok(exchange), Some(founding)) = (&sent, founding)
            && founding.is_refused(exchange)
            && founding.speaks_another_era(&gateway).await
        {
            drop((sent, respond));
            return Box::pin(self.serve_founding(*founding, client)).await;
        }
        let end = match sent {
            Ok(exchange) => respond.run(exchange).await,
            Err(failure) => respond.failed(failure),
        };
        match end {
            End::Refused(denial) => {
                let known = RefusalContext::of(&respond.expect, http_status);
                Box::pin(self.refuse(&denial, &known, client)).await
            }
            end => end,
        }
    }
}

fn halt(denial: Denial, known: RefusalContext) -> Halt {
    Halt::Refused(Box::new(denial), Box::new(known))
}
