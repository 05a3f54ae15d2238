//! Asking upstreams by gateway requests.

use super::Audience;
use super::fetch::{Asks, Question};
use crate::backend::Backend;
use crate::backend::forward::Failure;
use crate::backend::gateway_requests::{self, GatewayRequest};
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstreams::monitor::Answers;
use crate::offload::OffloadQueue;
use async_trait::async_trait;
use bytes::Bytes;
use portunus_config::{ServerId, Upstream};
use portunus_filters::{Denial, Reason};
use std::sync::Arc;

/// Asks on behalf of an audience at a virtual server.
pub(super) struct Asker {
    pub(super) backend: Arc<Backend>,
    pub(super) server: ServerId,
    pub(super) audience: Audience,
}

#[async_trait]
impl Asks for Asker {
    async fn ask(&self, upstream: &Arc<Upstream>, question: Question) -> Result<Bytes, Failure> {
        let gone = || Denial::new(Reason::RouteRemoved, "this server is no longer served");
        let place = UpstreamTarget {
            upstream: Arc::clone(upstream),
            pool: self.backend.pool(upstream).ok_or_else(gone)?,
            server: self.server.clone(),
            caller: self.audience.caller,
            owner: self.audience.owner,
            profile: Arc::clone(&self.audience.profile),
            headers: Arc::clone(&self.audience.headers),
        };
        if let Some(only) = self.audience.only
            && self.backend.eras.choose(&self.backend, &place, only).await? != only
        {
            return Err(Denial::new(Reason::EraMismatch, "the server does not speak the client's era").into());
        }
        let gateway_request = match question {
            Question::Discover => GatewayRequest::Discover,
            Question::List { kind, cursor } => GatewayRequest::List { method: kind.method(), cursor },
        };
        gateway_requests::ask(&self.backend, &place, gateway_request).await
    }

    fn offload(&self, upstream: &Upstream) -> OffloadQueue {
        self.backend.pool(upstream).map(|pool| pool.offload.clone()).unwrap_or_default()
    }

    fn answers(&self, upstream: &Upstream) -> Option<Arc<Answers>> {
        self.backend.pool(upstream)?.answers()
    }
}
