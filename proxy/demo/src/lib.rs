//! Demo MCP servers for `portunus demo`: something to put behind a gateway and try it on.
//!
//! | path | speaks |
//! |---|---|
//! | `/dual/mcp` | every revision, on one endpoint |
//! | `/legacy/mcp` | 2024-11-05 to 2025-11-25; knows nothing of what came after |
//! | `/modern/mcp` | 2026-07-28 only |
//!
//! Each path is a server of its own with its own notes and sessions. They are servers, not the data
//! path: JSON is built as `serde_json` values, and nothing here is used by the gateway. They listen
//! on loopback and refuse a `Host` or `Origin` of anywhere else.
//!
//! Read downward: [`Demo`] → `server` (path, era) → `legacy` or `modern` → `tools`, `contents`.

mod contents;
mod http;
mod legacy;
mod modern;
mod rpc;
mod schemas;
mod server;
mod sessions;
mod tools;
mod voice;
mod world;

use self::http::{Exchange, Reply};
use self::server::{Server, Speaks};
use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use std::sync::Arc;

/// The demo servers, as one application for a Pingora service.
pub struct Demo {
    servers: [(&'static str, Server); 3],
}

impl Demo {
    /// Where the server is that speaks every revision.
    pub const DUAL: &'static str = "/dual/mcp";
    /// Where the server is that speaks 2025-11-25 and before.
    pub const LEGACY: &'static str = "/legacy/mcp";
    /// Where the server is that speaks 2026-07-28.
    pub const MODERN: &'static str = "/modern/mcp";

    /// Servers that were not asked anything yet.
    pub fn new() -> Demo {
        Demo {
            servers: [
                (Demo::DUAL, Server::new("demo-dual", Speaks::Both)),
                (Demo::LEGACY, Server::new("demo-legacy", Speaks::Legacy)),
                (Demo::MODERN, Server::new("demo-modern", Speaks::Modern)),
            ],
        }
    }
}

impl Default for Demo {
    fn default() -> Demo {
        Demo::new()
    }
}

#[async_trait]
impl HttpServerApp for Demo {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let draining = *shutdown.borrow();
        let mut http = Exchange::accept(session, draining).await?;
        match self.servers.iter().find(|(path, _)| *path == http.path()) {
            Some((_, server)) => server.serve(&mut http, shutdown).await,
            None => http.reply(Reply::refusal(404, "There is no server at this path")).await,
        }
        http.finish().await
    }
}
