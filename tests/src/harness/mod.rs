//! Gateways, upstreams and clients for tests.

mod balancer;
mod caller;
mod certs;
mod client;
pub(crate) mod clock;
mod demo;
mod feed;
pub(crate) mod frames;
mod front;
mod gateway;
pub(crate) mod h2;
mod issuer;
pub(crate) mod mcp;
mod provider;
mod sdk;
mod upstream;

pub(crate) use balancer::Balancer;
pub(crate) use caller::{Caller, Lost, Said};
pub(crate) use certs::{Authority, Pair, VERSIONS};
pub(crate) use client::{Client, Response, dial, dial_from, dial_tls};
pub(crate) use demo::Demo;
pub(crate) use feed::{Feed, Long, event};
pub(crate) use front::{Front, Mood};
pub(crate) use gateway::{Gateway, binary, marking_binary, release_binary, run, run_binary};
pub(crate) use issuer::{Issuer, Key};
pub(crate) use mcp::{Era, Mcp, Nature};
pub(crate) use provider::Provider;
pub(crate) use sdk::{Runtime, Server, free_address, root, url};
pub(crate) use upstream::{Request, Upstream, Wire};

use std::future::Future;
use std::time::Duration;

/// How many times as long as on an idle machine a test may take.
const TIMEOUT_FACTOR: u64 = 4;

/// Waits for `future` and says what was waited for if it does not come; `seconds` are those of an idle machine.
pub(crate) async fn within<F: Future>(seconds: u64, what: &str, future: F) -> F::Output {
    let limit = Duration::from_secs(TIMEOUT_FACTOR * seconds);
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} for {what}"),
    }
}

/// A legacy request as JSON text.
pub(crate) fn rpc(id: u32, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// A modern `tools/call` as JSON text.
pub(crate) fn modern_call(id: u32, tool: &str) -> String {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;
    rpc(id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{{}},{meta}}}"#))
}

/// The headers that go with [`modern_call`].
pub(crate) fn modern_headers(tool: &str) -> Vec<(&'static str, String)> {
    vec![
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", "tools/call".to_owned()),
        ("mcp-name", tool.to_owned()),
    ]
}
