//! The read-only surface for probes and scrapers: `/livez`, `/readyz`, `/metrics`.

use crate::context::Gateway;
use crate::drain::Phase;
use crate::readiness::Readiness;
use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use std::sync::Arc;

/// The app behind `telemetry`.
pub struct Telemetry {
    gateway: Arc<Gateway>,
    readiness: Readiness,
}

impl Telemetry {
    /// A surface over this process.
    pub fn new(gateway: Arc<Gateway>, readiness: Readiness) -> Telemetry {
        Telemetry { gateway, readiness }
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let mut missing = self.readiness.missing();
        let drain = &self.gateway.drain;
        // A prober asks about the address, and a successor serves there.
        if drain.phase() > Phase::Serving && !drain.succeeded() {
            missing.push("draining");
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
        match (&request.method, request.uri.path()) {
            (&Method::GET, "/livez" | "/health") => plain(StatusCode::OK, "alive\n"),
            (&Method::GET, "/readyz" | "/ready") => self.ready(),
            (&Method::GET, "/metrics") => answer(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.gateway.metrics.render(),
            ),
            (&Method::GET, _) => plain(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n"),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "this surface only answers GET\n"),
        }
    }
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
