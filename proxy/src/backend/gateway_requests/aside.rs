//! Gateway requests that are posted, and answered on the stream of their session.

use super::ask::send_as;
use super::{Addressed, GatewayRequest, GatewayRequestAnswer};
use crate::backend::Backend;
use crate::backend::forward::{Failure, Patience};
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_sessions::UpstreamSession;
use bytes::Bytes;
use portunus_filters::Kind;
use std::sync::Arc;

/// Posts a gateway request; gives what is said to that: nothing, or a refusal.
///
/// # Errors
/// [`Failure`] if it cannot be posted.
pub(crate) async fn post(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    gateway_request: &GatewayRequest,
    addressed: &Addressed<'_>,
    body: Bytes,
) -> Result<GatewayRequestAnswer, Failure> {
    let sent = send_as(backend, place, gateway_request, addressed, body).await?;
    let mut reading = Reading::begin(sent, &place.upstream, Kind::Notification)?;
    let (status, headers) = (reading.status(), reading.headers().clone());
    let refusal = if status.is_client_error() { reading.next(Patience::default()).await? } else { None };
    reading.finish();
    Ok(GatewayRequestAnswer { status, headers, outcome: None, refusal })
}

/// Asks on an upstream session, and waits for the answer.
///
/// # Errors
/// [`Failure`] if the question cannot be posted, or the stream breaks off before the answer.
pub(super) async fn ask(
    backend: &Arc<Backend>,
    upstream_session: &Arc<UpstreamSession>,
    gateway_request: &GatewayRequest,
) -> Result<GatewayRequestAnswer, Failure> {
    let number = upstream_session.number();
    let mut inbox = upstream_session.attach(number, false);
    let number = number.to_string();
    let addressed =
        Addressed { fields: upstream_session.posted().clone(), upstream_session: Some(upstream_session) };
    let mut answer = post(
        backend,
        upstream_session.place(),
        gateway_request,
        &addressed,
        gateway_request.message(&number),
    )
    .await?;
    if answer.status.is_client_error() {
        answer.outcome = answer.refusal.as_ref().and_then(|refusal| refusal.answer(&number, true));
        return Ok(answer);
    }
    while answer.outcome.is_none() {
        answer.outcome = inbox.answer(Patience::default()).await?.answer(&number, false);
    }
    Ok(answer)
}
