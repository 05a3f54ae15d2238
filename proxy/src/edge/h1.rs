//! HTTP/1.1 towards clients: the keep-alive loop.
//!
//! Pingora waits for an idle connection and for its next header in one future, without a deadline
//! for either. Here the first byte has the idle timeout, the header section its own deadline; it is
//! checked on its raw bytes, and only then handed to a session.

use super::h2::PREFACE;
use super::{Door, Edge, Visitor};
use crate::drain::{InFlight, Phase, reached};
use crate::head::{HeadLimits, HeadScan};
use crate::serve::serve;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use portunus_config::ConnectionLimits;
use portunus_filters::{Denial, Reason};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};

/// First allocation for a header section.
const HEAD_BYTES: usize = 4096;

/// What the wait for a request ended in.
enum Awaited {
    /// A complete header section, and what arrived behind it; in flight since its first byte.
    Head(BytesMut, InFlight),
    /// The beginning of HTTP/2, and what arrived behind it.
    Preface(BytesMut),
    /// Nothing more comes, or nothing more is taken.
    Over,
    /// What came is refused.
    Refused(Denial),
}

impl Edge {
    /// Serves one connection to its end, or until it turns out to speak HTTP/2.
    pub(super) async fn run_h1(&self, door: &Door, mut stream: Stream, visitor: Visitor) {
        let limits = &door.listener.limits;
        let mut pipelined = BytesMut::new();
        // Under TLS the handshake has settled it (RFC 9113 §3.3); in the clear the first bytes do.
        let mut may_upgrade = door.listener.http2 && !visitor.secure;
        loop {
            let waited = self.await_head(&mut stream, std::mem::take(&mut pipelined), limits, may_upgrade);
            let (head, _in_flight) = match waited.await {
                Awaited::Head(head, in_flight) => (head, in_flight),
                Awaited::Preface(ahead) => {
                    return Box::pin(self.run_h2(door, stream, ahead.into(), visitor)).await;
                }
                Awaited::Over => return,
                Awaited::Refused(denial) => return self.refuse(door, visitor, &mut stream, &denial).await,
            };
            may_upgrade = false;
            let mut session = ServerSession::new_http1(stream);
            session.set_pipelined_prefix(head);
            session.set_pipelining_enabled(true);
            session.set_read_timeout(Some(limits.body_timeout));
            session.set_write_timeout(Some(limits.write_timeout));
            session.set_total_drain_timeout(Some(limits.body_timeout));
            if !matches!(session.read_request().await, Ok(true)) {
                // The raw check passed and the parser did not: nothing after it is trusted.
                let denial = Denial::new(Reason::MalformedHttp, "the header section cannot be parsed");
                return self.refuse_session(door, visitor, &mut session, &denial).await;
            }
            if self.gateway.drain.phase() >= Phase::Draining {
                session.set_keepalive(None);
            }
            let Some(reusable) = serve(session, self.connection(door, visitor)).await else { return };
            let (kept, prefix) = reusable.into_parts();
            stream = kept;
            pipelined = prefix.unwrap_or_default();
        }
    }

    /// Waits for the next header section.
    async fn await_head(
        &self,
        stream: &mut Stream,
        mut bytes: BytesMut,
        limits: &ConnectionLimits,
        may_upgrade: bool,
    ) -> Awaited {
        let in_flight = if bytes.is_empty() {
            let Some((byte, in_flight)) = self.first_byte(stream, limits.idle_timeout).await else {
                return Awaited::Over;
            };
            bytes.reserve(HEAD_BYTES);
            bytes.extend_from_slice(&[byte]);
            in_flight
        } else {
            self.gateway.drain.enter()
        };
        let deadline = Instant::now() + limits.header_timeout;
        let head_limits = HeadLimits { bytes: limits.max_header_bytes, fields: limits.max_headers };
        let mut scan = HeadScan::default();
        loop {
            let preface = may_upgrade && PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]);
            match scan.look(&bytes, head_limits) {
                _ if preface && bytes.len() >= PREFACE.len() => return Awaited::Preface(bytes),
                _ if preface => {}
                Ok(Some(_)) => return Awaited::Head(bytes, in_flight),
                Ok(None) => {}
                Err(denial) => return Awaited::Refused(denial),
            }
            bytes.reserve(HEAD_BYTES);
            match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => return Awaited::Over,
                Err(_) => {
                    let denial =
                        Denial::new(Reason::RequestTimeout, "the header section did not arrive in time");
                    return Awaited::Refused(denial);
                }
            }
        }
    }

    /// The first byte of a request, in flight from now on; holds no buffer while it waits.
    async fn first_byte(&self, stream: &mut Stream, idle: Duration) -> Option<(u8, InFlight)> {
        let drain = &self.gateway.drain;
        let mut byte = [0];
        let mut phase = drain.watch();
        let came = tokio::select! {
            biased;
            read = timeout(idle, stream.read(&mut byte)) => read.ok().map(|read| (read, drain.enter())),
            () = reached(&mut phase, Phase::Draining) => drain.linger(stream.read(&mut byte)).await,
        };
        came.and_then(|(read, in_flight)| matches!(read, Ok(1)).then_some((byte[0], in_flight)))
    }
}
