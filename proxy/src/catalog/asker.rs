//! Asking upstreams by errands.

use super::Seeker;
use super::fetch::{Asks, Question};
use crate::backend::Backend;
use crate::backend::forward::Failure;
use crate::backend::gateway_requests::{self, Errand};
use crate::backend::upstream_call::Place;
use crate::backend::upstreams::answers::Answers;
use crate::offload::OffloadQueue;
use async_trait::async_trait;
use bytes::Bytes;
use portunus_config::{ServerId, Upstream};
use portunus_filters::{Denial, Reason};
use std::sync::Arc;

/// Asks on behalf of a seeker at a virtual server.
pub(super) struct Asker {
    pub(super) backend: Arc<Backend>,
    pub(super) server: ServerId,
    pub(super) seeker: Seeker,
}

#[async_trait]
impl Asks for Asker {
    async fn ask(&self, upstream: &Arc<Upstream>, question: Question) -> Result<Bytes, Failure> {
        let gone = || Denial::new(Reason::RouteRemoved, "this server is no longer served");
        let place = Place {
            upstream: Arc::clone(upstream),
            pool: self.backend.pool(upstream).ok_or_else(gone)?,
            server: self.server.clone(),
            caller: self.seeker.caller,
            owner: self.seeker.owner,
            profile: Arc::clone(&self.seeker.profile),
            headers: Arc::clone(&self.seeker.headers),
        };
        if let Some(only) = self.seeker.only
            && self.backend.eras.choose(&self.backend, &place, only).await? != only
        {
            return Err(Denial::new(Reason::EraMismatch, "the server does not speak the client's era").into());
        }
        let errand = match question {
            Question::Discover => Errand::Discover,
            Question::List { kind, cursor } => Errand::List { method: kind.method(), cursor },
        };
        gateway_requests::ask(&self.backend, &place, errand).await
    }

    fn offload(&self, upstream: &Upstream) -> OffloadQueue {
        self.backend.pool(upstream).map(|pool| pool.offload.clone()).unwrap_or_default()
    }

    fn answers(&self, upstream: &Upstream) -> Option<Arc<Answers>> {
        self.backend.pool(upstream)?.answers()
    }
}
