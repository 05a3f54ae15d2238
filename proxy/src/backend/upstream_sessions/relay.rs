//! The transport of 2024-11-05: one stream that is the session, and messages posted beside it.
//!
//! The server names on its stream where messages go; whatever it says, answers among it, comes on the
//! stream. There is no session id: when the stream ends, so has the session.

use super::founding::{self, Refused};
use super::stream::{gone, sort};
use super::{Origin, Terms, UpstreamSession, endpoint};
use crate::backend::Backend;
use crate::backend::forward::{Failure, Patience, late, malformed};
use crate::backend::gateway_requests::{self, Addressed, GatewayRequest, GatewayRequestAnswer};
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::upstream_headers;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge;
use portunus_filters::{Kind, Reason};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for stream, endpoint and `initialize`, if the upstream's own limits are longer.
const FOUNDED_WITHIN: Duration = Duration::from_secs(30);
/// How long a server that said nothing for long may take to answer a `ping`.
const PONG_WITHIN: Duration = Duration::from_secs(30);
/// Messages that a server may send before it has answered `initialize`.
const MAX_EARLY: usize = 16;

/// Founds a session.
pub(super) async fn request(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    origin: Origin,
    version: Revision,
) -> Result<Arc<UpstreamSession>, Refused> {
    let within = place.upstream.timeouts.first_byte.min(FOUNDED_WITHIN);
    let founded = timeout(within, found(backend, place, origin, version)).await;
    founded.unwrap_or_else(|_| {
        let cause = format!("no stream, endpoint and answer to `initialize` within {within:?}");
        Err(Failure { cause, ..late(false) }.into())
    })
}

async fn found(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    origin: Origin,
    version: Revision,
) -> Result<Arc<UpstreamSession>, Refused> {
    let mut reading = open(backend, place).await?;
    let place = entered(place, &mut reading).await?;
    let (answer, early) = initialize(backend, &place, &mut reading, version).await?;
    let (facts, agreed) = founding::read(&answer)?;
    let terms = Terms { facts: Arc::new(facts), version: agreed, id: None };
    let upstream_session = Arc::new(UpstreamSession::relayed(&backend.session_pools, place, origin, terms));
    upstream_session.follow(tokio::spawn(listen(
        Arc::downgrade(backend),
        Arc::downgrade(&upstream_session),
        reading,
    )));
    early.iter().for_each(|message| sort(backend, &upstream_session, message));
    if let Err(failure) =
        gateway_requests::send_on_session(backend, &upstream_session, GatewayRequest::Initialized).await
    {
        upstream_session.end(backend);
        return Err(failure.into());
    }
    Ok(upstream_session)
}

/// Opens the stream.
async fn open(backend: &Arc<Backend>, place: &UpstreamTarget) -> Result<Reading, Failure> {
    let addressed = Addressed { fields: upstream_headers::listening(), upstream_session: None };
    let sent = gateway_requests::send(backend, place, &GatewayRequest::Stream, addressed).await?;
    let status = sent.head.status;
    if status.is_client_error() && status != StatusCode::UNAUTHORIZED {
        let cause = format!("GET was answered by HTTP {}", status.as_u16());
        return Err(Failure { cause, ..malformed("the server offers no stream of the transport `sse`") });
    }
    Reading::begin(sent, &place.upstream, Kind::Stream)
}

/// The place that the server's messages go to, which its first event names.
async fn entered(place: &UpstreamTarget, reading: &mut Reading) -> Result<UpstreamTarget, Failure> {
    let unnamed = || malformed("the server does not say where messages go");
    let reference = reading.next(Patience::default()).await?.ok_or_else(unnamed)?;
    if reading.event_name() != Some(b"endpoint") {
        return Err(unnamed());
    }
    let path = endpoint::resolve(&place.upstream.url, &reference.bytes).map_err(|why| Failure {
        cause: format!("the endpoint {why}"),
        ..malformed("the server sends messages where they may not go")
    })?;
    let mut upstream = Upstream::clone(&place.upstream);
    upstream.url.path = path;
    Ok(UpstreamTarget { upstream: Arc::new(upstream), ..place.clone() })
}

/// The answer to `initialize`, and what was said before it.
async fn initialize(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    reading: &mut Reading,
    version: Revision,
) -> Result<(GatewayRequestAnswer, Vec<ServerMessage>), Failure> {
    let number = backend.number().to_string();
    let body = bridge::initialize(&place.profile, &number, version);
    let addressed = Addressed { fields: upstream_headers::posted(), upstream_session: None };
    let mut answer =
        gateway_requests::post(backend, place, &GatewayRequest::Initialize { version }, &addressed, body)
            .await?;
    if answer.status.is_client_error() {
        return Ok((answer, Vec::new()));
    }
    let mut early = Vec::new();
    loop {
        let message = reading.next(Patience::default()).await?;
        let message = message.ok_or_else(|| Failure::broken("the stream ended".to_owned()))?;
        answer.outcome = message.answer(&number, false);
        if answer.outcome.is_some() {
            return Ok((answer, early));
        }
        if early.len() < MAX_EARLY && reading.event_name().is_none() {
            // While more is waited for, none may be held.
            early.push(ServerMessage { room: None, ..message });
        }
    }
}

/// Reads the stream until it or the upstream session is gone.
async fn listen(backend: Weak<Backend>, upstream_session: Weak<UpstreamSession>, mut reading: Reading) {
    let mut asked = false;
    loop {
        let idle =
            upstream_session.upgrade().map(|upstream_session| upstream_session.place.upstream.timeouts.idle);
        let idle = idle.map(|idle| if asked { idle.min(PONG_WITHIN) } else { idle });
        let next = reading.next(Patience { idle, until: None }).await;
        let (Some(backend), Some(upstream_session)) = (backend.upgrade(), upstream_session.upgrade()) else {
            return;
        };
        match next {
            Ok(Some(message)) => {
                asked = false;
                if reading.event_name().is_none() {
                    sort(&backend, &upstream_session, &message);
                }
            }
            // It may have nothing to say; if it is still there, it answers.
            Err(failure) if failure.denial.reason == Reason::UpstreamTimeout && !asked => {
                asked = true;
                tokio::spawn(async move {
                    drop(
                        gateway_requests::send_on_session(&backend, &upstream_session, GatewayRequest::Ping)
                            .await,
                    )
                });
            }
            ended => {
                let cause = ended.err().map(|failure| failure.cause);
                tracing::debug!(
                    upstream = &*upstream_session.place.upstream.name,
                    cause,
                    "a session has ended with its stream"
                );
                return gone(&backend, &upstream_session);
            }
        }
    }
}
