//! Founding a legacy session: `initialize`, then `notifications/initialized`.

use super::{Origin, Terms, UpstreamSession, relay, stream};
use crate::backend::Backend;
use crate::backend::forward::{Failure, malformed};
use crate::backend::gateway_requests::{self, Addressed, GatewayRequest, GatewayRequestAnswer};
use crate::backend::headers::MCP_SESSION_ID;
use crate::backend::upstream_call::upstream_headers;
use crate::backend::upstream_call::{Facts, Outcome, UpstreamTarget};
use crate::backend::upstreams::answer_class::is_about_message;
use portunus_config::Transport;
use portunus_filters::mcp::Revision;
use portunus_filters::{Denial, Reason};
use std::sync::Arc;

/// Why there is no session.
pub(crate) enum Refused {
    /// The upstream does not speak a legacy revision.
    NotLegacy(Failure),
    /// It may, but not now or not with us.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused::Failed(failure)
    }
}

/// Founds a session and opens its stream.
pub(crate) async fn request(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    origin: Origin,
    version: Revision,
) -> Result<Arc<UpstreamSession>, Refused> {
    if place.upstream.transport == Transport::HttpSse {
        return relay::request(backend, place, origin, version).await;
    }
    let gateway_request = GatewayRequest::Initialize { version };
    let answer = gateway_requests::exchange(
        backend,
        place,
        &gateway_request,
        Addressed { fields: upstream_headers::posted(), upstream_session: None },
    )
    .await?;
    let (facts, agreed) = read(&answer)?;
    let id = answer.headers.get(MCP_SESSION_ID).cloned();
    let terms = Terms { facts: Arc::new(facts), version: agreed, id };
    let upstream_session =
        Arc::new(UpstreamSession::new(&backend.session_pools, place.clone(), origin, terms));
    if let Err(failure) =
        gateway_requests::send_on_session(backend, &upstream_session, GatewayRequest::Initialized).await
    {
        upstream_session.end(backend);
        return Err(failure.into());
    }
    stream::open(backend, &upstream_session);
    Ok(upstream_session)
}

/// What the server said of itself, and the revision that it wants.
pub(super) fn read(answer: &GatewayRequestAnswer) -> Result<(Facts, Revision), Refused> {
    let result = match &answer.outcome {
        Some(Outcome::Result(result)) => result,
        Some(Outcome::Error { code, .. }) => {
            let cause =
                format!("`initialize` was answered by error {code} (HTTP {})", answer.status.as_u16());
            let failure = Failure { cause, ..malformed("the server does not begin a session") };
            let evidence = is_era_evidence(*code) || is_about_message(answer.status);
            return Err(if evidence { Refused::NotLegacy(failure) } else { failure.into() });
        }
        None => {
            let cause = format!("`initialize` was answered by HTTP {}", answer.status.as_u16());
            let failure = Failure { cause, ..malformed("the server does not begin a session") };
            return Err(if is_about_message(answer.status) {
                Refused::NotLegacy(failure)
            } else {
                failure.into()
            });
        }
    };
    let text = std::str::from_utf8(result).map_err(|_| malformed("the server's answer is not UTF-8"))?;
    let facts = Facts::of_initialize(text).map_err(|fault| Failure {
        cause: fault.to_string(),
        ..malformed("the server's answer to `initialize` is none")
    })?;
    match facts.version {
        version if Revision::LEGACY.contains(&version) => Ok((facts, version)),
        _ => Err(Refused::NotLegacy(malformed("the server wants a revision that has no sessions"))),
    }
}

/// Error codes by which a modern server answers `initialize` (2026-07-28 versioning; JSON-RPC 2.0 §5.1).
fn is_era_evidence(code: i64) -> bool {
    matches!(code, -32022..=-32020 | -32601)
}

impl Failure {
    /// The server has forgotten the session of one client, and with it what the client has done there: it
    /// has to begin anew (2025-11-25 transports, "Session Management").
    pub(crate) fn session_lost() -> Failure {
        let denial = Denial::new(Reason::UnknownSession, "Session not found");
        let cause = "the server has forgotten the session that the client used there".to_owned();
        Failure { cause, pending: false, ..Failure::from(denial) }
    }

    /// The upstream has forgotten a session: what was sent on it was not read.
    pub(crate) fn forgotten() -> Failure {
        let denial = Denial::new(Reason::UpstreamUnavailable, "the server has forgotten this session");
        Failure { pending: false, problem: None, ..Failure::from(denial) }
    }
}
