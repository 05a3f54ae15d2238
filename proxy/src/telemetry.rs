//! The read-only surface for probes and scrapers: `/livez`, `/readyz`, `/metrics`.

use crate::drain::Phase;
use crate::frontend::context::Gateway;
use crate::readiness::Readiness;
use async_trait::async_trait;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The app behind `telemetry`.
pub struct Telemetry {
    gateway: Arc<Gateway>,
    readiness: Readiness,
    address: SocketAddr,
}

impl Telemetry {
    /// A surface over this process, bound to `address`.
    pub fn new(gateway: Arc<Gateway>, readiness: Readiness, address: SocketAddr) -> Telemetry {
        Telemetry { gateway, readiness, address }
    }

    /// Whether a page on the web may have made a browser ask: on a loopback address, under a name of its
    /// own (DNS rebinding). Elsewhere scrapers use whatever names there are; old probers send none.
    fn is_rebound(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
        let is_foreign = host.is_some_and(|host| !names_this_machine(host, self.address.ip()));
        self.address.ip().is_loopback() && (is_foreign || headers.contains_key(ORIGIN))
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let mut missing = self.readiness.missing();
        let drain = &self.gateway.drain;
        // A prober asks about the address, and a successor serves there.
        if drain.phase() > Phase::Serving && !drain.succeeded() {
            missing.push("draining");
        }
        if self.gateway.lacks_keys() {
            missing.push("keys of issuers");
        }
        if missing.is_empty() {
            plain(StatusCode::OK, "ready\n")
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {}\n", missing.join(", ")))
        }
    }
}

#[async_trait]
impl ServeHttp for Telemetry {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if self.is_rebound(&request.headers) {
            let text = "this surface answers for loopback names, and no web page\n";
            return plain(StatusCode::FORBIDDEN, text);
        }
        match (&request.method, request.uri.path()) {
            (&Method::GET, "/livez" | "/health") => plain(StatusCode::OK, "alive\n"),
            (&Method::GET, "/readyz" | "/ready") => self.ready(),
            (&Method::GET, "/metrics") => {
                self.gateway.measure_limits();
                let text = self.gateway.metrics.render();
                answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            (&Method::GET, _) => plain(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n"),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "this surface only answers GET\n"),
        }
    }
}

/// Whether a `Host` is a loopback name, or an address of this machine: `own` or any loopback one.
pub fn names_this_machine(host: &str, own: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback() || ip == own)
}

/// An answer of an operating surface: never cached, never sniffed.
pub fn answer(status: StatusCode, media: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    Response::builder()
        .status(status)
        .header("Content-Type", media)
        .header("Content-Length", length)
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        .body(body)
        .unwrap_or_default()
}

/// A line or two of text.
pub fn plain(status: StatusCode, text: &str) -> Response<Vec<u8>> {
    answer(status, "text/plain; charset=utf-8", text.as_bytes().to_vec())
}
