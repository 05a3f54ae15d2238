//! The life of one request, read downward.
//!
//! identify → admit (host, origin) → resolve → intake → filters → forward → respond; the record is
//! written when the [`Outcome`] is dropped, whatever happened. One snapshot is held from resolve to
//! forward and let go before the answer is awaited.

use crate::context::{Active, Gateway};
use crate::drain::Phase;
use crate::errand::Session;
use crate::forward::{Dispatch, Inbound, Leg, Use, send};
use crate::headers::Stamp;
use crate::identify::{Source, Trace, source};
use crate::intake::{self, BodyFault};
use crate::metrics::Stage;
use crate::outcome::Outcome;
use crate::reply::{self, Refused};
use crate::respond::{End, Expect, Respond};
use crate::upstreams::pool::Pool;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, USER_AGENT, VARY};
use http::{HeaderValue, Method, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::server::ReusableHttpStream;
use pingora_http::{RequestHeader, ResponseHeader};
use portunus_config::{HttpStatus, Listener, NormalPath, Resolution, Upstream, VirtualServer};
use portunus_filters::call::Target;
use portunus_filters::mcp::Id;
use portunus_filters::message::{Reading, Unreadable};
use portunus_filters::{Arrival, Denial, Era, Kind, Message, Reason};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// The connection that a request came on.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The listener.
    pub listener: &'a Arc<Listener>,
    /// The other end.
    pub peer: IpAddr,
}

/// One request on its way through the stages.
struct Passage<'a> {
    connection: Connection<'a>,
    request: RequestHeader,
    arrival: Arrival,
    source: Source,
    trace: Trace,
    origin: Option<HeaderValue>,
    outcome: Outcome,
}

/// A message that may be forwarded, and everything its answer needs; holds no snapshot.
struct Outbound {
    leg: Leg,
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
    expect: Expect,
    refused: Knowledge,
    serials: watch::Receiver<u64>,
}

/// What a refusal may use of a message.
#[derive(Default)]
struct Knowledge {
    kind: Option<Kind>,
    era: Option<Era>,
    id: Option<Id>,
    method: Option<portunus_filters::mcp::Method>,
    http_status: HttpStatus,
}

/// A stage that ended the request.
enum Halt {
    Refused(Box<Denial>, Box<Knowledge>),
    Preflight,
    Gone,
}

/// Serves one request; gives the connection back if it can carry another.
pub async fn serve(mut client: ServerSession, connection: Connection<'_>) -> Option<ReusableHttpStream> {
    let mut passage = Passage::begin(&client, connection);
    let end = match passage.admit(&mut client).await {
        Ok(outbound) => passage.exchange(outbound, &mut client).await,
        Err(Halt::Refused(denial, known)) => passage.refuse(&denial, &known, &mut client).await,
        Err(Halt::Preflight) => passage.preflight(&mut client).await,
        Err(Halt::Gone) => End::Broken,
    };
    passage.outcome.stage_done(Stage::Respond);
    drop(passage);
    match end {
        End::Done => client.finish().await.ok().flatten(),
        End::Refused(_) | End::Broken => {
            client.shutdown().await;
            None
        }
    }
}

impl<'a> Passage<'a> {
    fn begin(client: &ServerSession, connection: Connection<'a>) -> Passage<'a> {
        let request = client.req_header().clone();
        let (gateway, listener) = (connection.gateway, connection.listener);
        let source = source(connection.peer, &request.headers, &listener.trusted_proxies);
        let arrival = Arrival {
            listener: listener.name.as_str().into(),
            source: source.client,
            identity: gateway.identifier.identity(&request.headers, source.client),
            request_id: gateway.identifier.request_id(&request.headers),
            at: gateway.clock.now(),
        };
        let trace = gateway.identifier.trace(&request.headers);
        let mut outcome = Outcome::new(gateway, &arrival);
        let user_agent = request.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        outcome.client(user_agent, Some(trace.id()));
        Passage { connection, request, arrival, source, trace, origin: None, outcome }
    }

    /// Everything up to the permission to forward.
    async fn admit(&mut self, client: &mut ServerSession) -> Result<Outbound, Halt> {
        self.host_and_origin()?;
        if self.request.method == Method::OPTIONS && self.origin.is_some() {
            return Err(Halt::Preflight);
        }
        let serials = self.connection.gateway.serials();
        let active = self.connection.gateway.active();
        let server = self.resolve(&active)?;
        let known = Knowledge { http_status: server.http_status, ..Knowledge::default() };
        let reading = match intake::kind_of(&self.request.method).map_err(|denial| halt(denial, known))? {
            None => self.read_post(client, &server).await?,
            Some(kind) => {
                intake::singular(&self.request.headers)
                    .map_err(|denial| halt(denial, Knowledge::default()))?;
                Reading::One(intake::bodiless(kind, &self.request.headers))
            }
        };
        self.outcome.stage_done(Stage::Intake);
        self.clear(&active, &server, &reading, serials)
    }

    /// Stage 2, before anything costly: for whom is this request, and who may send it from a page?
    fn host_and_origin(&mut self) -> Result<(), Halt> {
        let listener = self.connection.listener;
        let host = self.host();
        if let Some(hosts) = &listener.hosts
            && !hosts.iter().any(|pattern| pattern.matches(host))
        {
            let denial = Denial::new(Reason::ForbiddenHost, "this listener does not answer for that Host");
            return Err(halt(denial, Knowledge::default()));
        }
        let mut origins = self.request.headers.get_all(ORIGIN).iter();
        let origin = origins.next();
        let allowed =
            |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| listener.origins.allows(origin));
        match origin {
            None => Ok(()),
            Some(origin) if allowed(origin) && origins.next().is_none() => {
                self.origin = Some(origin.clone());
                Ok(())
            }
            Some(_) => {
                let denial =
                    Denial::new(Reason::ForbiddenOrigin, "pages of that Origin may not call this gateway");
                Err(halt(denial, Knowledge::default()))
            }
        }
    }

    /// Stage 4: the virtual server of this host and path.
    fn resolve(&mut self, active: &Active) -> Result<Arc<VirtualServer>, Halt> {
        let unknown = |detail| halt(Denial::new(Reason::UnknownRoute, detail), Knowledge::default());
        let path = NormalPath::parse(self.request.uri.path())
            .map_err(|_| unknown("the path cannot be normalised"))?;
        match active.snapshot.routes.resolve(Some(self.host()), &path) {
            Resolution::Server(server) => {
                self.outcome.server(server, &active.revision);
                self.outcome.stage_done(Stage::Resolve);
                Ok(Arc::clone(server))
            }
            Resolution::None => Err(unknown("no MCP server is served at this path")),
        }
    }

    fn host(&self) -> &str {
        self.request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
    }

    /// Stage 3: the message of a POST.
    async fn read_post(
        &mut self,
        client: &mut ServerSession,
        server: &VirtualServer,
    ) -> Result<Reading, Halt> {
        let known = || Knowledge { http_status: server.http_status, ..Knowledge::default() };
        intake::declared(&self.request.headers).map_err(|denial| halt(denial, known()))?;
        let limits = &self.connection.listener.limits;
        let limit = server.max_body_bytes.map_or(limits.max_body_bytes, |own| own.min(limits.max_body_bytes));
        let era = intake::likely_era(&self.request.headers);
        match intake::body(client, limit, limits.body_timeout, era).await {
            Ok(body) => {
                intake::message(&body, &self.request.headers, &server.bounds, &intake::offered(server))
                    .map_err(|unreadable| {
                        let Unreadable { denial, id, era } = *unreadable;
                        let kind = id.is_some().then_some(Kind::Request);
                        halt(denial, Knowledge { kind, id, era: Some(era), ..known() })
                    })
            }
            Err(BodyFault::Denied(denial, id)) => {
                let kind = id.is_some().then_some(Kind::Request);
                Err(halt(denial, Knowledge { kind, id, era: Some(era), ..known() }))
            }
            Err(BodyFault::Gone) => Err(Halt::Gone),
        }
    }

    /// Stages 5 to 8, and the leg that they permit.
    fn clear(
        &mut self,
        active: &Active,
        server: &Arc<VirtualServer>,
        reading: &Reading,
        serials: watch::Receiver<u64>,
    ) -> Result<Outbound, Halt> {
        let messages = reading.messages();
        let known = Knowledge::of(reading, server.http_status);
        if self.connection.gateway.drain.phase() >= Phase::Expired {
            return Err(halt(Denial::new(Reason::Draining, "the gateway is shutting down"), known));
        }
        if let Some(first) = messages.first() {
            self.outcome.message(first, first.body.len());
        }
        let unserved = || Denial::new(Reason::UpstreamUnavailable, "no server stands behind this endpoint");
        let found = server.upstreams.first().and_then(|upstream| Some((upstream, active.pool(upstream)?)));
        let Some((upstream, pool)) = found else { return Err(halt(unserved(), known)) };
        let target = Target { server: Arc::clone(&server.name), upstream: Arc::clone(&upstream.name) };
        let cleared = match active.pipeline.judge(&self.arrival, messages, &target, |_| {}) {
            Ok(cleared) => cleared,
            Err(denial) => return Err(halt(denial, known)),
        };
        self.outcome.stage_done(Stage::Filters);
        let expect = expect(reading, server, self.request.version);
        let inbound = Inbound {
            method: &self.request.method,
            headers: &self.request.headers,
            query: self.request.uri.query(),
            client: self.source.client,
            behind_proxy: self.source.behind_proxy,
            request_id: &self.arrival.request_id,
            traceparent: &self.trace.parent,
        };
        let use_of = Use { repeatable: messages.iter().all(is_repeatable), endless: expect.endless };
        let leg = Dispatch::open(cleared, &inbound, Arc::clone(upstream), Arc::clone(&pool), use_of);
        Ok(Outbound { leg, upstream: Arc::clone(upstream), pool, expect, refused: known, serials })
    }

    /// Stages 9 and 10.
    async fn exchange(&mut self, outbound: Outbound, client: &mut ServerSession) -> End {
        let Outbound { leg, upstream, pool, expect, refused, serials } = outbound;
        self.outcome.forwarding(&upstream.name);
        let gateway = Arc::clone(self.connection.gateway);
        let sent = tokio::select! {
            biased;
            sent = send(leg, &gateway.estate.resolver) => Some(sent),
            _ = client.read_body_or_idle(true) => None,
        };
        self.outcome.stage_done(Stage::Forward);
        let session = Session::of(&self.request.headers);
        let end = {
            let stamp = Stamp { request_id: &self.arrival.request_id, origin: self.origin.as_ref() };
            let phase = gateway.drain.watch();
            let (outcome, gateway) = (&mut self.outcome, &gateway);
            let mut respond = Respond {
                gateway,
                outcome,
                stamp,
                upstream: &upstream,
                pool: &pool,
                session,
                expect,
                serials,
                phase,
            };
            match sent {
                Some(Ok(exchange)) => respond.run(exchange, client).await,
                Some(Err(failure)) => {
                    respond.failed(&failure);
                    End::Refused(failure.denial)
                }
                None => End::Broken,
            }
        };
        match end {
            End::Refused(denial) => self.refuse(&denial, &refused, client).await,
            end => end,
        }
    }

    /// Writes a refusal and keeps the connection where that is possible.
    async fn refuse(&mut self, denial: &Denial, known: &Knowledge, client: &mut ServerSession) -> End {
        self.outcome.denied(denial);
        let refused = Refused {
            kind: known.kind,
            era: known.era,
            id: known.id.as_ref(),
            method: known.method.as_ref(),
            http_status: known.http_status,
        };
        let answer = reply::refuse(denial, &refused, &self.arrival.request_id);
        self.outcome.http_status(answer.status.as_u16());
        let limits = &self.connection.listener.limits;
        let leaving = self.connection.gateway.drain.phase() >= Phase::Draining;
        if leaving
            || answer.close
            || !intake::discard(client, limits.max_body_bytes, limits.body_timeout).await
        {
            client.set_keepalive(None);
        }
        let head = self.refusal_head(denial, &answer);
        match head {
            Ok(head) => self.write(head, answer.body, client).await,
            Err(_) => End::Broken,
        }
    }

    fn refusal_head(&self, denial: &Denial, answer: &reply::Answer) -> pingora_core::Result<ResponseHeader> {
        let mut head = ResponseHeader::build_no_case(answer.status, Some(10))?;
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
        if !answer.body.is_empty() {
            head.insert_header(CONTENT_TYPE, "application/json")?;
        }
        if let Some(allow) = answer.allow {
            head.insert_header(ALLOW, allow)?;
        }
        if let Some(seconds) = answer.retry_after {
            head.insert_header(RETRY_AFTER, seconds)?;
        }
        head.insert_header("Portunus-Outcome", denial.reason.as_str())?;
        self.stamp().put(&mut head)?;
        Ok(head)
    }

    fn stamp(&self) -> Stamp<'_> {
        Stamp { request_id: &self.arrival.request_id, origin: self.origin.as_ref() }
    }

    /// Answers a CORS preflight (Fetch standard §3.2) of a listed origin.
    async fn preflight(&mut self, client: &mut ServerSession) -> End {
        self.outcome.answered(None);
        self.outcome.http_status(204);
        if !intake::discard(client, 0, self.connection.listener.limits.body_timeout).await {
            client.set_keepalive(None);
        }
        match self.preflight_head() {
            Ok(head) => self.write(head, Bytes::new(), client).await,
            Err(_) => End::Broken,
        }
    }

    fn preflight_head(&self) -> pingora_core::Result<ResponseHeader> {
        let mut head = ResponseHeader::build_no_case(204, Some(8))?;
        self.stamp().put(&mut head)?;
        head.insert_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")?;
        let asked = self.request.headers.get("access-control-request-headers");
        let headers = asked.cloned().unwrap_or(HeaderValue::from_static("content-type"));
        head.insert_header("Access-Control-Allow-Headers", headers)?;
        head.insert_header("Access-Control-Max-Age", "600")?;
        head.append_header(VARY, "Access-Control-Request-Headers")?;
        Ok(head)
    }

    async fn write(&mut self, head: ResponseHeader, body: Bytes, client: &mut ServerSession) -> End {
        self.outcome.sent(body.len(), 0);
        if client.write_response_header(Box::new(head)).await.is_err() {
            return End::Broken;
        }
        if !body.is_empty() && client.write_response_body(body, false).await.is_err() {
            return End::Broken;
        }
        match client.finish_body().await {
            Ok(()) => End::Done,
            Err(_) => End::Broken,
        }
    }
}

impl Knowledge {
    fn of(reading: &Reading, http_status: HttpStatus) -> Knowledge {
        match reading {
            Reading::One(message) => Knowledge {
                kind: Some(message.kind),
                era: Some(message.era),
                id: message.id.clone().filter(|_| message.kind == Kind::Request),
                method: message.method.clone(),
                http_status,
            },
            Reading::Batch(_) => Knowledge { era: Some(Era::Legacy), http_status, ..Knowledge::default() },
        }
    }
}

fn halt(denial: Denial, known: Knowledge) -> Halt {
    Halt::Refused(Box::new(denial), Box::new(known))
}

/// What the client waits for, from what it sent.
fn expect(reading: &Reading, server: &VirtualServer, version: Version) -> Expect {
    let messages = reading.messages();
    let requests = || messages.iter().filter(|message| message.kind == Kind::Request);
    let kind = match (requests().next(), messages.first()) {
        (Some(_), _) => Kind::Request,
        (None, Some(first)) => first.kind,
        (None, None) => Kind::Notification,
    };
    let rule = |test: fn(&portunus_filters::mcp::method::Rules) -> bool| {
        messages.iter().filter_map(|message| message.method.as_ref()?.rules()).any(test)
    };
    Expect {
        kind,
        era: messages.first().map_or(Era::Legacy, |message| message.era),
        open: requests().filter_map(|message| message.id.clone()).collect(),
        batch: matches!(reading, Reading::Batch(_)),
        endless: kind == Kind::Stream || rule(|rules| rules.endless),
        founds_session: rule(|rules| rules.name == "initialize"),
        server: server.id.clone(),
        http_1_0: version == Version::HTTP_10,
    }
}

/// Whether a message may be sent again after its upstream may have read it.
fn is_repeatable(message: &Message) -> bool {
    match message.kind {
        Kind::Stream | Kind::End => true,
        _ => message.method.as_ref().and_then(|method| method.rules()).is_some_and(|rules| rules.repeatable),
    }
}
