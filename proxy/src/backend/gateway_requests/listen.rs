//! Listening to a modern upstream for as long as somebody hears.

use super::ask::{send_as, worded};
use super::{Addressed, GatewayRequest};
use crate::backend::Backend;
use crate::backend::forward::{Failure, Patience};
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstreams::instances::InstanceLease;
use bytes::Bytes;
use portunus_filters::Kind;
use portunus_filters::mcp::Shape;
use portunus_filters::mcp::bridge::Filter;
use std::sync::Arc;
use std::time::Duration;

/// A stream of `subscriptions/listen` (2026-07-28 patterns/subscriptions).
pub struct Listening {
    reading: Reading,
    idle: Duration,
    _instance: Option<InstanceLease>,
}

/// Asks a modern upstream to tell what `filter` names.
///
/// # Errors
/// [`Failure`] if the upstream does not begin to tell.
pub async fn listen(
    backend: &Arc<Backend>,
    place: &UpstreamTarget,
    filter: &Filter,
) -> Result<Listening, Failure> {
    let (place, instance) = backend.settle(place.clone());
    let place = &place;
    let gateway_request = GatewayRequest::Listen { filter: filter.clone() };
    let number = backend.number().to_string();
    let addressed = Addressed::modern(&gateway_request);
    let body = worded(place, &gateway_request, &addressed, &number)?;
    let sent = send_as(backend, place, &gateway_request, &addressed, body).await?;
    let reading = Reading::begin(sent, &place.upstream, Kind::Request)
        .inspect_err(|failure| place.pool.note_failure(failure))?;
    Ok(Listening { reading, idle: place.upstream.timeouts.idle, _instance: instance })
}

impl Listening {
    /// The next notification; `None` when the upstream has ended the stream, or refused it. Safe to
    /// cancel.
    pub async fn next(&mut self) -> Option<Bytes> {
        let patience = Patience { idle: Some(self.idle), until: None };
        let message = self.reading.next(patience).await.ok().flatten()?;
        let shape = message.content.as_ref().ok()?.shape;
        (shape == Shape::Notification).then_some(message.bytes)
    }
}
