//! HTTP/2 towards clients (RFC 9113): many requests share one connection, each in a task of its own.

use super::crowded;
use super::frames::Weighed;
use super::layers::Guarded;
use super::{ConnectionServer, ListenerRuntime, PeerInfo};
use crate::drain::Phase;
use crate::frontend::session::Client;
use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora_core::protocols::{Digest, Stream};
use pingora_http::RequestHeader;
use portunus_base::ConnectionLimits;
use portunus_filters::{Denial, Reason};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// What an HTTP/2 connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client may send of a body ahead of its reading here.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all bodies of a connection: what one may take of this process's memory.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Of an answer, what is held while the client takes no more.
const SEND_BUFFER: usize = 64 << 10;
/// Requests that a client took back before anybody looked at them.
const PENDING_RESETS: usize = 20;
/// Streams that ended by an error of the client's.
const ERROR_RESETS: usize = 32;
/// Requests that are no HTTP.
const MALFORMED: usize = 32;
/// A client that was asked to leave, and has nothing open, leaves within this time.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What a connection's task waits for.
enum Event {
    Request(Box<HttpSession>),
    Rejected,
    Closed(Option<Box<pingora_core::Error>>),
    StreamEnded,
    Idle,
    /// The process ends, or the connection is as old as it may be.
    Leave,
}

impl ConnectionServer {
    /// Serves one connection to its end; `ahead` are the bytes of it that were read already.
    pub(super) async fn run_h2(
        &self,
        runtime: &ListenerRuntime,
        stream: Stream,
        ahead: Vec<u8>,
        peer: &PeerInfo,
    ) {
        let limits = &runtime.listener.limits;
        let guarded: Stream = Box::new(Guarded(Weighed::new(stream, ahead, PREFACE.len())));
        let begun = timeout(limits.header_timeout, handshake(guarded, Some(options(limits)))).await;
        let Ok(Ok(mut connection)) = begun else { return };
        let digest = Arc::new(Digest::default());
        let phases = &peer.connection_state.phases;
        let (mut streams, mut malformed, mut leaving) = (JoinSet::new(), 0, false);
        // While the client learns that it is to leave, a request of it may be on its way.
        let mut _in_flight = None;
        loop {
            let patience = if leaving { LEAVE_WITHIN } else { limits.idle_timeout };
            let event = tokio::select! {
                accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => match accepted {
                    Ok(Some(H2Accept::Session(session))) => Event::Request(Box::new(session)),
                    Ok(Some(H2Accept::Rejected)) => Event::Rejected,
                    Ok(None) => Event::Closed(None),
                    Err(error) => Event::Closed(Some(error)),
                },
                Some(_) = streams.join_next(), if !streams.is_empty() => Event::StreamEnded,
                () = sleep(patience), if streams.is_empty() => Event::Idle,
                () = phases.reached(Phase::Draining), if !leaving => Event::Leave,
                () = sleep_until(peer.leaves_at), if !leaving => Event::Leave,
            };
            match event {
                Event::Request(session) => self.begin_stream(runtime, *session, peer, &mut streams),
                Event::Rejected => {
                    malformed += 1;
                    if malformed == MALFORMED {
                        let error = "too many requests were no HTTP";
                        tracing::debug!(peer = %peer.address, error, "an HTTP/2 connection ended");
                        break;
                    }
                }
                Event::Closed(error) => {
                    if let Some(error) = error {
                        tracing::debug!(peer = %peer.address, %error, "an HTTP/2 connection ended");
                    }
                    break;
                }
                Event::Idle if leaving => break,
                Event::Idle | Event::Leave => {
                    leaving = true;
                    _in_flight = Some(self.gateway.drain.enter());
                    connection.graceful_shutdown();
                }
                Event::StreamEnded => {}
            }
        }
        // What still runs finds its stream closed, and ends in its own way.
        streams.detach_all();
    }

    /// Serves one request in a task of its own.
    fn begin_stream(
        &self,
        runtime: &ListenerRuntime,
        session: HttpSession,
        peer: &PeerInfo,
        streams: &mut JoinSet<()>,
    ) {
        let limits = runtime.listener.limits;
        let mut session = ServerSession::new_http2(session);
        session.set_write_timeout(Some(limits.write_timeout));
        session.set_total_drain_timeout(Some(limits.body_timeout));
        let refused = match runtime.admit_stream(peer, &session.req_header().headers) {
            None => Err(crowded()),
            Some(permit) => as_one(session.req_header_mut(), limits.max_headers).map(|()| permit),
        };
        let head = take_head(&mut session);
        let mut client = Client::Two(Box::new(session), head.method == Method::HEAD);
        let (connection_server, runtime, peer) = (self.clone(), runtime.clone(), peer.clone());
        let in_flight = self.gateway.drain.enter();
        streams.spawn(async move {
            let _in_flight = in_flight;
            match refused {
                Ok(_permit) => {
                    connection_server.serve(&runtime, &peer, head, client).await;
                }
                Err(denial) => connection_server.refuse_client(&runtime, &peer, &mut client, &denial).await,
            }
        });
    }
}

/// Takes the request's head out of a session, which needs no more of it than method and version.
fn take_head(session: &mut ServerSession) -> Parts {
    let head = session.req_header_mut();
    let (mut rest, ()) = Request::new(()).into_parts();
    rest.method = head.method.clone();
    rest.version = head.version;
    std::mem::replace(head, rest.into()).into()
}

fn options(limits: &ConnectionLimits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(u32::try_from(limits.max_streams).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    options
}

/// Gives a request the form that the stages read: one `Host` (RFC 9113 §8.3.1), one `Cookie`
/// (§8.2.3), and no more fields than the listener takes.
///
/// # Errors
/// [`Reason::HeadersTooLarge`], [`Reason::MalformedHttp`].
fn as_one(head: &mut RequestHeader, max_fields: usize) -> Result<(), Denial> {
    if head.headers.len() > max_fields {
        let detail = format!("more than {max_fields} header fields");
        return Err(Denial::new(Reason::HeadersTooLarge, detail));
    }
    let malformed = |detail| Denial::new(Reason::MalformedHttp, detail);
    if let Some(authority) = head.uri.authority() {
        let host =
            HeaderValue::from_str(authority.as_str()).map_err(|_| malformed("`:authority` is no host"))?;
        drop(head.insert_header(HOST, host));
    }
    if let Some(cookies) = joined_cookies(&head.headers) {
        let value =
            HeaderValue::from_bytes(&cookies).map_err(|_| malformed("a cookie is no header value"))?;
        drop(head.insert_header(COOKIE, value));
    }
    Ok(())
}

/// The crumbs of a split `Cookie`; `None` if there is at most one.
fn joined_cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    (crumbs.len() > 1).then(|| crumbs.join(&b"; "[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/mcp", None).unwrap();
        head.set_uri(http::Uri::from_static("https://gw.example.com:8443/mcp"));
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn a_request_reads_as_one_of_http_1() {
        let mut head = request(&[("host", "other"), ("cookie", "a=1"), ("cookie", "b=2")]);
        as_one(&mut head, 8).unwrap();
        let values = |name: &str| -> Vec<_> { head.headers.get_all(name).iter().collect() };
        assert_eq!(values("host"), ["gw.example.com:8443"]);
        assert_eq!(values("cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn too_many_fields_are_refused() {
        let mut head = request(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(as_one(&mut head, 2).unwrap_err().reason, Reason::HeadersTooLarge);
        assert!(as_one(&mut head, 3).is_ok());
    }
}
