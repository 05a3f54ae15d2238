//! Asking again for a list that its server has contradicted.
//!
//! A modern server that misses an argument's header says so (-32020), and has processed nothing. The
//! schema that the headers were made from is then an old one, unless the server is wrong itself.

use super::{Audience, Catalogs};
use crate::backend::Backend;
use crate::backend::upstream_call::SchemaRefresh;
use async_trait::async_trait;
use portunus_config::{Upstream, VirtualServer};
use portunus_filters::catalog::ListKind;
use portunus_filters::mcp::bridge::ParamHeader;
use std::sync::Arc;

/// What it takes to look at the schema of a tool once more.
pub struct Relist {
    /// The lists.
    pub catalogs: Arc<Catalogs>,
    /// The virtual server.
    pub server: Arc<VirtualServer>,
    /// For whom.
    pub audience: Arc<Audience>,
    /// The server that the call is for, as it is configured.
    pub upstream: Arc<Upstream>,
    /// The name of the tool that the client uses.
    pub tool: Arc<str>,
}

#[async_trait]
impl SchemaRefresh for Relist {
    /// The server is asked at most once in ten seconds for one audience, whatever it contradicts.
    async fn params(
        self: Box<Self>,
        backend: Arc<Backend>,
        used: Arc<[ParamHeader]>,
    ) -> Option<Arc<[ParamHeader]>> {
        let contradicted = (&*self.upstream, ListKind::Tools);
        let shown = self.catalogs.look_again(&backend, &self.server, &self.audience, contradicted).await;
        let params = Arc::clone(&shown.catalog.tool(&self.tool)?.params);
        (params != used).then_some(params)
    }
}
