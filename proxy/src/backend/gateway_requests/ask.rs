//! Gateway requests that are waited for.

use super::{GatewayRequest, WITHIN, aside, count};
use crate::backend::Backend;
use crate::backend::forward::{
    self, Dispatch, Exchange, Failure, Patience, RequestParts, RetryPolicy, malformed,
};
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::upstream_headers::{self, Fields, UpstreamHeaders};
use crate::backend::upstream_call::{Outcome, UpstreamTarget};
use crate::backend::upstream_sessions::{LeaseOptions, UpstreamSession};
use crate::backend::upstreams::answer_class::is_about_message;
use crate::backend::upstreams::pool::Pool;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{self, Caching, Parts, Put};
use portunus_filters::{Denial, Era, Kind, Reason};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest wait for an answer, if the upstream's own limits are longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Longest answer to what is no list: all others are kept for as long as the server is known.
const MAX_DESCRIPTION_BYTES: usize = 1 << 20;

/// Asks an upstream in the words of its era, and gives the text of the result in the same words.
///
/// Safe to drop: what was asked is broken off.
///
/// # Errors
/// [`Failure`], also for an error answer.
pub async fn ask(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: GatewayRequest,
) -> Result<Bytes, Failure> {
    let wanted = match gateway_request {
        GatewayRequest::Subscribe { .. }
        | GatewayRequest::Unsubscribe { .. }
        | GatewayRequest::SetLevel { .. }
        | GatewayRequest::Ping => Era::Legacy,
        _ => Era::Modern,
    };
    let era = backend.eras.choose(backend, place, wanted).await?;
    let (place, instance) = backend.settle(place.clone());
    let answer = match era {
        Era::Modern => in_modern_words(backend, &place, &gateway_request).await,
        Era::Legacy => in_legacy_words(backend, &place, &gateway_request).await,
    };
    if let Some(instance) = instance {
        instance.judge(answer.as_ref().err(), backend.clock.now().monotonic);
    }
    answer
}

/// Whether an upstream answers at all: whatever it says to `server/discover` but that it is down.
pub(crate) async fn lives(backend: &Arc<Backend>, place: &UpstreamTarget) -> bool {
    let gateway_request = GatewayRequest::Discover;
    match exchange(backend, place, &gateway_request, Addressed::modern(&gateway_request)).await {
        Ok(answer) => !answer.status.is_server_error(),
        Err(failure) => {
            matches!(failure.denial.reason, Reason::UpstreamUnauthorized | Reason::UpstreamLimited)
        }
    }
}

async fn in_modern_words(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
) -> Result<Bytes, Failure> {
    let answer = exchange(backend, place, gateway_request, Addressed::modern(gateway_request)).await?;
    if answer.contradicts(Era::Modern) {
        backend.contradicted(place, Era::Modern);
    }
    answer.result(gateway_request)
}

/// An upstream session that the upstream forgot is replaced once: what was asked on it was not read.
async fn in_legacy_words(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
) -> Result<Bytes, Failure> {
    let pools = &backend.session_pools;
    let lease = async |since| match gateway_request {
        // Nobody hears the stream of an upstream session that all share.
        GatewayRequest::Subscribe { .. }
        | GatewayRequest::Unsubscribe { .. }
        | GatewayRequest::SetLevel { .. } => {
            pools.lease(backend, place, LeaseOptions { exclusive: false, since }).await
        }
        _ => pools.lease_any(backend, place, since).await,
    };
    let upstream_session = lease(None).await?;
    match asked(backend, &upstream_session, gateway_request).await {
        Err(_) if upstream_session.is_dead() => {
            drop(upstream_session);
            let upstream_session = lease(Some(Instant::now())).await?;
            asked(backend, &upstream_session, gateway_request).await
        }
        result => result,
    }
}

async fn asked(
    backend: &Arc<Backend>,
    upstream_session: &Arc<UpstreamSession>,
    gateway_request: &GatewayRequest,
) -> Result<Bytes, Failure> {
    if let GatewayRequest::Discover = gateway_request {
        return Ok(upstream_session.facts.discover_result(Caching::NONE).into());
    }
    if let GatewayRequest::Subscribe { .. } = gateway_request {
        // What is subscribed to is told on the stream: it should be there before.
        upstream_session.listening().await;
    }
    exchange_on_session(backend, upstream_session, gateway_request).await?.result(gateway_request)
}

/// Runs a gateway request on a legacy session; gives the text of the result, if there is one.
pub(crate) async fn send_on_session(
    backend: &Arc<Backend>,
    upstream_session: &Arc<UpstreamSession>,
    gateway_request: GatewayRequest,
) -> Result<Bytes, Failure> {
    exchange_on_session(backend, upstream_session, &gateway_request).await?.result(&gateway_request)
}

/// True if the server answers for a legacy session: an error is an answer too. While too many servers are asked
/// this, it is taken to; nothing is said of the server's health.
pub(crate) async fn answers_ping(backend: &Arc<Backend>, upstream_session: &Arc<UpstreamSession>) -> bool {
    let Ok(_permit) = backend.asked.pings.try_acquire() else { return true };
    let (place, gateway_request) = (upstream_session.place(), GatewayRequest::Ping);
    let addressed =
        Addressed { fields: upstream_session.posted().clone(), upstream_session: Some(upstream_session) };
    let asked = conversation(backend, place, &gateway_request, addressed);
    let answer = timeout(place.upstream.timeouts.first_byte.min(ANSWERED_WITHIN), asked).await;
    let answer = answer.ok().and_then(Result::ok);
    let answers = answer
        .is_some_and(|answer| !is_forgotten(backend, upstream_session, &answer) && answer.outcome.is_some());
    count(backend, &gateway_request, answers);
    answers
}

async fn exchange_on_session(
    backend: &Arc<Backend>,
    upstream_session: &Arc<UpstreamSession>,
    gateway_request: &GatewayRequest,
) -> Result<GatewayRequestAnswer, Failure> {
    let addressed =
        Addressed { fields: upstream_session.posted().clone(), upstream_session: Some(upstream_session) };
    let answer = exchange(backend, upstream_session.place(), gateway_request, addressed).await?;
    if is_forgotten(backend, upstream_session, &answer) { Err(Failure::forgotten()) } else { Ok(answer) }
}

/// True if the server said that it does not know the upstream session, which is noted.
fn is_forgotten(
    backend: &Arc<Backend>,
    upstream_session: &Arc<UpstreamSession>,
    answer: &GatewayRequestAnswer,
) -> bool {
    let is_unknown =
        upstream_session.is_unknown(answer.status, answer.refusal.as_ref().map(|refusal| &*refusal.bytes));
    if is_unknown {
        upstream_session.forgotten(backend);
    }
    is_unknown
}

/// The address of a gateway request, beside its upstream.
pub(crate) struct Addressed<'a> {
    /// Fields of the request.
    pub(crate) fields: Fields,
    /// The legacy session.
    pub(crate) upstream_session: Option<&'a Arc<UpstreamSession>>,
}

impl Addressed<'_> {
    /// To a modern upstream.
    pub(crate) fn modern(gateway_request: &GatewayRequest) -> Addressed<'static> {
        let mut fields = upstream_headers::posted();
        let method = Cow::Borrowed(gateway_request.method().unwrap_or_default());
        upstream_headers::mirror(&mut fields, Revision::V2026_07_28, method, None);
        Addressed { fields, upstream_session: None }
    }
}

/// The answer of an upstream to a gateway request.
pub(crate) struct GatewayRequestAnswer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The answer, if it is one.
    pub(crate) outcome: Option<Outcome<Bytes>>,
    /// The body of a 4xx.
    pub(crate) refusal: Option<ServerMessage>,
}

impl GatewayRequestAnswer {
    /// Whether only a server that does not speak `era` says this.
    pub(crate) fn contradicts(&self, era: Era) -> bool {
        let code = match &self.outcome {
            Some(Outcome::Error { code, .. }) => Some(*code),
            Some(Outcome::Result(_)) => return false,
            None => None,
        };
        match era {
            Era::Modern => is_about_message(self.status) && !code.is_some_and(is_modern_code),
            Era::Legacy => code.is_some_and(|code| code == -32022),
        }
    }

    /// Notes what it says of its server: one that limits how often it is asked, or sends an answer that is
    /// none, does not serve.
    fn note(&self, pool: &Pool, gateway_request: &GatewayRequest) {
        let kind = gateway_request.kind();
        let problem = match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some("limited"),
            status if status.is_server_error() => Some("unavailable"),
            status if status.is_success() && gateway_request.method().is_some() && self.outcome.is_none() => {
                Some("malformed")
            }
            _ => None,
        };
        match problem {
            None => pool.note_answer(),
            Some(_) => {
                let cause = format!("`{kind}` was answered by HTTP {}", self.status.as_u16());
                pool.note_failure(&Failure { cause, problem, ..malformed("the server does not serve") });
            }
        }
    }

    fn result(self, gateway_request: &GatewayRequest) -> Result<Bytes, Failure> {
        let (kind, status) = (gateway_request.kind(), self.status.as_u16());
        match self.outcome {
            Some(Outcome::Result(result)) => Ok(result),
            // A server that declares resources need not know of templates.
            Some(Outcome::Error { code: -32601, .. })
                if gateway_request.method() == Some("resources/templates/list") =>
            {
                Ok(Bytes::from_static(br#"{"resourceTemplates":[]}"#))
            }
            None if gateway_request.method().is_none() && self.status.is_success() => Ok(Bytes::new()),
            Some(Outcome::Error { code, .. }) => {
                let cause = format!("`{kind}` was answered by error {code} (HTTP {status})");
                Err(Failure { cause, ..malformed("the server refused what the gateway asked of it") })
            }
            None => {
                let cause = format!("`{kind}` was answered by HTTP {status} without a message");
                Err(Failure { cause, ..malformed("the server's answer is no JSON-RPC answer") })
            }
        }
    }
}

/// Codes that only a modern server gives, with a 4xx status (2026-07-28 basic, "Error Codes").
pub(crate) fn is_modern_code(code: i64) -> bool {
    matches!(code, -32022..=-32020 | -32602 | -32601)
}

/// Sends a gateway request and waits for the head of the answer.
pub(crate) async fn send(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: Addressed<'_>,
) -> Result<Exchange, Failure> {
    send_as(backend, place, gateway_request, &addressed, Bytes::new()).await
}

/// Sends a gateway request and reads on to its answer, within a time of its own.
pub(crate) async fn exchange(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: Addressed<'_>,
) -> Result<GatewayRequestAnswer, Failure> {
    let within = place.upstream.timeouts.first_byte.min(ANSWERED_WITHIN);
    let within = if gateway_request.method().is_some() { within } else { within.min(WITHIN) };
    let recoveries = place.pool.recoveries();
    let exchanged = timeout(within, async {
        let _permit = backend.asked.most.acquire().await.ok();
        conversation(backend, place, gateway_request, addressed).await
    });
    let answer = exchanged.await.unwrap_or_else(|_| {
        let denial = Denial::new(Reason::UpstreamTimeout, "the server did not answer in time");
        Err(Failure {
            cause: format!("no answer to `{}` within {within:?}", gateway_request.kind()),
            ..denial.into()
        })
    });
    count(backend, gateway_request, answer.is_ok());
    match &answer {
        Ok(answer) => answer.note(&place.pool, gateway_request),
        Err(failure) => place.pool.note_failure_since(recoveries, failure),
    }
    answer
}

async fn conversation(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: Addressed<'_>,
) -> Result<GatewayRequestAnswer, Failure> {
    if let Some(upstream_session) = addressed
        .upstream_session
        .filter(|upstream_session| upstream_session.is_relayed() && gateway_request.method().is_some())
    {
        return aside::ask(backend, upstream_session, gateway_request).await;
    }
    let number = match addressed.upstream_session {
        Some(upstream_session) => upstream_session.number(),
        None => backend.number(),
    }
    .to_string();
    let body = worded(place, gateway_request, &addressed, &number)?;
    let asked = gateway_request.method().is_some();
    let kind = if asked { Kind::Request } else { Kind::Notification };
    let sent = send_as(backend, place, gateway_request, &addressed, body).await?;
    let mut reading = Reading::begin(sent, &place.upstream, kind)?;
    let (status, headers) = (reading.status(), reading.headers().clone());
    let mut answer = GatewayRequestAnswer { status, headers, outcome: None, refusal: None };
    while asked || status.is_client_error() {
        let Some(message) = reading.next(Patience::default()).await? else { break };
        if status.is_client_error() {
            answer.refusal = Some(message.clone());
        }
        if message.bytes.len() > MAX_DESCRIPTION_BYTES
            && !matches!(gateway_request, GatewayRequest::List { .. })
        {
            return Err(malformed("the server's answer is too long"));
        }
        match message.answer(&number, status.is_client_error()) {
            Some(outcome) => {
                answer.outcome = Some(outcome);
                break;
            }
            None => match addressed.upstream_session {
                Some(upstream_session) => upstream_session.overhear(backend, &message),
                None => overhear(backend, place, &message),
            },
        }
    }
    reading.finish();
    Ok(answer)
}

/// Takes in what a server says beside its answer.
fn overhear(backend: &Backend, place: &UpstreamTarget, message: &ServerMessage) {
    if let Ok(content) = &message.content
        && let Some(method) = &content.method
    {
        backend.overheard(&place.upstream, method, message.text());
    }
}

pub(super) fn worded(
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: &Addressed<'_>,
    number: &str,
) -> Result<Bytes, Failure> {
    if let GatewayRequest::Initialize { version } = gateway_request {
        return Ok(bridge::initialize(&place.profile, number, *version));
    }
    let message = gateway_request.message(number);
    if addressed.upstream_session.is_some() {
        return Ok(message);
    }
    let unsayable = |_| malformed("what the gateway asks cannot be said");
    let text = std::str::from_utf8(&message).map_err(|_| malformed("what the gateway asks is not UTF-8"))?;
    let put = Put { id: number, progress_token: None, target: None };
    let modern = Parts::read(text)
        .and_then(|parts| bridge::modern_request(&parts, &put, &place.profile, Revision::V2026_07_28, None));
    modern.map(Bytes::from).map_err(unsayable)
}

pub(super) async fn send_as(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: &Addressed<'_>,
    body: Bytes,
) -> Result<Exchange, Failure> {
    let upstream_headers = UpstreamHeaders::own(backend, &place.headers, place.owner);
    let method = gateway_request.http();
    let repeatable = matches!(
        gateway_request,
        GatewayRequest::Discover
            | GatewayRequest::List { .. }
            | GatewayRequest::Ping
            | GatewayRequest::Stream
    );
    let retry_policy = RetryPolicy {
        repeatable,
        endless: matches!(gateway_request, GatewayRequest::Stream | GatewayRequest::Listen { .. }),
    };
    let request_parts =
        RequestParts { inbound: &upstream_headers.inbound(&method), own: &addressed.fields, body };
    let request = Dispatch::gateway_request(
        gateway_request,
        request_parts,
        Arc::clone(&place.upstream),
        Arc::clone(&place.pool),
        retry_policy,
    );
    forward::send(request, Arc::clone(&backend.resolver)).await
}
