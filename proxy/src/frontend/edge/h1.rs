//! HTTP/1.1 towards clients: the keep-alive loop.
//!
//! The first byte has the idle timeout, the header section its own deadline. It is checked on its raw
//! bytes and only then handed to a session.

use super::h2::PREFACE;
use super::{ConnectionServer, ListenerRuntime, PeerInfo};
use crate::drain::{InFlight, Phase};
use crate::frontend::session::Client;
use crate::frontend::session::one::{Rest, Session};
use crate::head::{HeadLimits, HeadScan, read};
use crate::identify::ConnectionState;
use crate::shares::Owner;
use bytes::{Bytes, BytesMut};
use pingora_core::protocols::Stream;
use portunus_base::ConnectionLimits;
use portunus_filters::{Denial, Reason};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

/// First allocation for a request: an ordinary one fits with its body.
const HEAD_BYTES: usize = 8 * 1024;

/// What the wait for a request ended in.
enum Awaited {
    /// A complete header section, and what arrived behind it; in flight since its first byte.
    Head(Bytes, BytesMut, InFlight),
    /// The beginning of HTTP/2, and what arrived behind it.
    Preface(BytesMut),
    /// Nothing more comes, or nothing more is taken.
    Over,
    /// What came is refused.
    Refused(Denial),
}

impl ConnectionServer {
    /// Serves one connection to its end, or until it turns out to speak HTTP/2.
    pub(super) async fn run_h1(&self, runtime: &ListenerRuntime, mut stream: Stream, peer: &PeerInfo) {
        let limits = &runtime.listener.limits;
        let mut ahead = BytesMut::new();
        // Under TLS the handshake has settled it (RFC 9113 §3.3); in the clear the first bytes do.
        let connection_state = &peer.connection_state;
        let mut may_upgrade = runtime.listener.http2 && !peer.secure;
        loop {
            let begun = std::mem::take(&mut ahead);
            let waited = self.await_head(&mut stream, begun, (limits, connection_state), may_upgrade);
            let (head, behind, _in_flight) = match waited.await {
                Awaited::Head(head, ahead, in_flight) => (head, ahead, in_flight),
                Awaited::Preface(begun) => {
                    return Box::pin(self.run_h2(runtime, stream, begun.into(), peer)).await;
                }
                Awaited::Over => return Rest { stream, ahead }.close().await,
                Awaited::Refused(denial) => {
                    return self.refuse(runtime, peer, &mut stream, &denial).await;
                }
            };
            may_upgrade = false;
            let head = match read(&head) {
                Ok(head) => head,
                Err(denial) => return self.refuse(runtime, peer, &mut stream, &denial).await,
            };
            let session = Session::new(&head, Rest { stream, ahead: behind });
            let mut client = Client::One(Box::new(session));
            if connection_state.phases.is_reached(Phase::Draining) || Instant::now() >= peer.leaves_at {
                client.close_after();
            }
            // A proxy's connection is counted for nobody: its requests are.
            let share = match runtime.owner(peer.address) {
                Owner::Nobody => match runtime.admit_stream(peer, &head.headers) {
                    None => return self.refuse_stream(runtime, peer, &mut client).await,
                    share => share,
                },
                _ => None,
            };
            // Made where it stays: its seven kilobytes are not copied there for each request.
            let serving = Box::write(Box::new_uninit(), self.serve(runtime, peer, head, client));
            let served = Box::into_pin(serving).await;
            drop(share);
            let Some(rest) = served else { return };
            Rest { stream, ahead } = rest;
        }
    }

    /// Waits for the next header section.
    async fn await_head(
        &self,
        stream: &mut Stream,
        mut bytes: BytesMut,
        (limits, connection_state): (&ConnectionLimits, &ConnectionState),
        may_upgrade: bool,
    ) -> Awaited {
        let in_flight = if bytes.is_empty() {
            let begun = self.first_byte(stream, limits.idle_timeout, connection_state).await;
            let Some((byte, in_flight)) = begun else { return Awaited::Over };
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
                Ok(Some(length)) => {
                    let head = bytes.split_to(length).freeze();
                    return Awaited::Head(head, bytes, in_flight);
                }
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
    async fn first_byte(
        &self,
        stream: &mut Stream,
        idle: Duration,
        connection_state: &ConnectionState,
    ) -> Option<(u8, InFlight)> {
        let drain = &self.gateway.drain;
        let mut byte = [0];
        let mut keepalive_timer = connection_state.shared_timer.lend();
        let came = tokio::select! {
            biased;
            read = stream.read(&mut byte) => Some((read, drain.enter())),
            () = keepalive_timer.until(Instant::now() + idle) => None,
            () = connection_state.phases.reached(Phase::Draining) => {
                drain.linger(stream.read(&mut byte)).await
            }
        };
        came.and_then(|(read, in_flight)| matches!(read, Ok(1)).then_some((byte[0], in_flight)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::request::Parts;

    /// Bytes of the future that a method makes of a request; none is made for that.
    fn future_bytes<'a, F: Future>(
        _: impl FnOnce(&'a ConnectionServer, &'a ListenerRuntime, &'a PeerInfo, Parts, Client) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn future_of_a_request_takes_at_most_7400_bytes() {
        let bytes = future_bytes(ConnectionServer::serve);
        println!("bytes of the future of a request: {bytes}");
        assert!(bytes <= 7_400, "{bytes}");
    }
}
