//! Tells servers what clients do not wait for any more, where messages pass.

use super::{GatewayRequest, Session, run};
use crate::backend::Backend;
use crate::backend::forward::{Exchange, Failure};
use crate::backend::headers::MCP_SESSION_ID;
use crate::backend::upstreams::pool::Pool;
use crate::backend::upstreams::wire::Head;
use http::{HeaderMap, HeaderValue};
use portunus_config::Upstream;
use portunus_filters::mcp::Id;
use std::sync::Arc;

/// A request that passes to a server.
#[derive(Clone, Copy)]
pub struct PassedRequest<'a> {
    /// The process.
    pub backend: &'a Arc<Backend>,
    /// The client's headers, which name its session.
    pub headers: &'a HeaderMap,
    /// The server.
    pub upstream: &'a Arc<Upstream>,
    /// Its connections.
    pub pool: &'a Arc<Pool>,
}

/// The id of the session that an answer founds.
pub fn session_id(head: &Head) -> Option<&HeaderValue> {
    head.headers.get(MCP_SESSION_ID)
}

impl PassedRequest<'_> {
    /// Cancels legacy requests, if they belong to a session.
    pub fn cancel(&self, ids: &[Id]) {
        if ids.is_empty() {
            return;
        }
        let session = Session::of(self.headers);
        for id in ids.iter().filter(|_| session.exists()) {
            let gateway_request = GatewayRequest::Cancel { session: session.clone(), id: id.clone() };
            run(self.backend, gateway_request, Arc::clone(self.upstream), Arc::clone(self.pool));
        }
    }

    /// Ends the legacy session that an answer founded and nobody learned of.
    pub fn delete_session(&self, id: &HeaderValue) {
        let gateway_request = GatewayRequest::Delete { session: Session::of(self.headers).named(id) };
        run(self.backend, gateway_request, Arc::clone(self.upstream), Arc::clone(self.pool));
    }

    /// The same as soon as the answer is here.
    pub fn delete_founded(&self, answer: impl Future<Output = Result<Exchange, Failure>> + Send + 'static) {
        let (backend, headers) = (Arc::clone(self.backend), self.headers.clone());
        let (upstream, pool) = (Arc::clone(self.upstream), Arc::clone(self.pool));
        tokio::spawn(async move {
            if let Ok(exchange) = answer.await
                && let Some(id) = session_id(&exchange.head)
            {
                let (backend, headers) = (&backend, &headers);
                PassedRequest { backend, headers, upstream: &upstream, pool: &pool }.delete_session(id);
            }
        });
    }
}
