//! One HTTP exchange: reading the request within bounds, answering with JSON or an event stream.
//!
//! A write that fails only marks the exchange as broken: what follows does nothing, and the
//! connection is dropped at the end. So the code above needs no error path for a client that left.

use super::rpc::{self, INVALID_REQUEST, RpcError};
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, Method};
use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a request body.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// Bytes that are read and dropped so that a client with a larger body still gets its answer.
const MAX_DISCARDED_BYTES: usize = 4 << 20;
/// From the end of one request to the header of the next.
const IDLE: Duration = Duration::from_secs(75);
/// For the whole body.
const BODY: Duration = Duration::from_secs(30);
/// For one write to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// An answer in one piece.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: u16,
    /// JSON, or nothing.
    pub(super) body: String,
    /// One header more.
    pub(super) header: Option<(&'static str, String)>,
}

impl Reply {
    /// A JSON answer.
    pub(super) fn json(status: u16, body: String) -> Reply {
        Reply { status, body, header: None }
    }

    /// An answer without a body.
    pub(super) fn empty(status: u16) -> Reply {
        Reply::json(status, String::new())
    }

    /// A refusal of the HTTP request itself.
    pub(super) fn refusal(status: u16, message: &str) -> Reply {
        Reply::json(status, rpc::failure(None, &RpcError::new(INVALID_REQUEST, message)))
    }

    /// The answer to a method that the endpoint does not take.
    pub(super) fn not_allowed(allow: &str) -> Reply {
        Reply::refusal(405, "Method not allowed").with(ALLOW.as_str(), allow.to_owned())
    }

    /// Adds a header.
    pub(super) fn with(self, name: &'static str, value: String) -> Reply {
        Reply { header: Some((name, value)), ..self }
    }
}

/// One request and its answer.
pub(super) struct Exchange {
    session: ServerSession,
    streaming: bool,
    broken: bool,
}

impl Exchange {
    /// Reads the next request header; `None` if there is none.
    pub(super) async fn accept(mut session: ServerSession, draining: bool) -> Option<Exchange> {
        match timeout(IDLE, session.read_request()).await {
            Ok(Ok(true)) => {}
            _ => return None,
        }
        session.set_keepalive(if draining { None } else { Some(IDLE.as_secs()) });
        session.set_write_timeout(Some(WRITE));
        Some(Exchange { session, streaming: false, broken: false })
    }

    /// The HTTP method.
    pub(super) fn method(&self) -> &Method {
        &self.session.req_header().method
    }

    /// The path, without the query.
    pub(super) fn path(&self) -> &str {
        self.session.req_header().uri.path()
    }

    /// The request headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.session.req_header().headers
    }

    /// Reads the body.
    ///
    /// # Errors
    /// A refusal of a body that is too large, too slow, coded, or not declared as JSON.
    pub(super) async fn body(&mut self) -> Result<Bytes, Reply> {
        declared_as_json(self.headers())?;
        if self
            .headers()
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            // Pingora takes an interim response before the body for the end of the connection.
            let keep_alive = self.session.get_keepalive();
            self.broken |= self.session.write_continue_response().await.is_err();
            self.session.set_keepalive(keep_alive);
        }
        let mut body = Vec::new();
        let mut seen = 0;
        let reading = async {
            while let Some(chunk) = self.session.read_request_body().await.ok()? {
                seen += chunk.len();
                if seen <= MAX_BODY_BYTES {
                    body.extend_from_slice(&chunk);
                } else if seen > MAX_DISCARDED_BYTES {
                    break;
                }
            }
            Some(())
        };
        match timeout(BODY, reading).await {
            Err(_) => Err(Reply::refusal(408, "The body did not come in time")),
            Ok(None) => Err(Reply::refusal(400, "The body broke off")),
            Ok(Some(())) if seen > MAX_BODY_BYTES => {
                Err(Reply::refusal(413, "The body is larger than 1 MiB"))
            }
            Ok(Some(())) => Ok(body.into()),
        }
    }

    /// Answers in one piece; on an open event stream, by its last event.
    pub(super) async fn reply(&mut self, reply: Reply) {
        if self.streaming {
            if !reply.body.is_empty() {
                self.event(&reply.body).await;
            }
            self.write(Bytes::new(), true).await;
            return;
        }
        let Ok(mut head) = ResponseHeader::build(reply.status, Some(4)) else { return self.broken = true };
        let mut fits = head.insert_header(CONTENT_LENGTH, reply.body.len().to_string()).is_ok();
        if !reply.body.is_empty() {
            fits &= head.insert_header(CONTENT_TYPE, "application/json").is_ok();
        }
        if let Some((name, value)) = reply.header {
            fits &= head.insert_header(name, value).is_ok();
        }
        self.broken |= !fits || self.session.write_response_header(Box::new(head)).await.is_err();
        self.write(reply.body.into(), true).await;
    }

    /// Opens the event stream, unless it is open.
    pub(super) async fn open_stream(&mut self) {
        if self.streaming || self.broken {
            return;
        }
        let Ok(mut head) = ResponseHeader::build(200, Some(6)) else { return self.broken = true };
        let fits = head.insert_header(CONTENT_TYPE, "text/event-stream").is_ok()
            && head.insert_header(CACHE_CONTROL, "no-cache, no-transform").is_ok()
            && head.insert_header("x-accel-buffering", "no").is_ok()
            && head.insert_header(TRANSFER_ENCODING, "chunked").is_ok();
        self.streaming = true;
        self.broken |= !fits || self.session.write_response_header(Box::new(head)).await.is_err();
    }

    /// Sends a message on the event stream.
    pub(super) async fn event(&mut self, message: &str) {
        self.open_stream().await;
        self.write(format!("event: message\ndata: {message}\n\n").into(), false).await;
    }

    /// Sends a comment, so that nobody on the way takes the stream for dead.
    pub(super) async fn keep_alive(&mut self) {
        self.open_stream().await;
        self.write(Bytes::from_static(b": keep-alive\n\n"), false).await;
    }

    /// Ends the event stream.
    pub(super) async fn end_stream(&mut self) {
        self.open_stream().await;
        self.write(Bytes::new(), true).await;
    }

    /// Whether a write failed or the client left.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Waits until the client leaves; the body must have been read.
    pub(super) async fn disconnected(&mut self) {
        // A pipelined byte ends in an error too: the answer could not be told from the next one's.
        self.session.read_body_or_idle(true).await.ok();
        self.broken = true;
    }

    /// Hands the connection back, if it can carry another request.
    pub(super) async fn finish(self) -> Option<ReusedHttpStream> {
        if self.broken {
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&self.session);
        let stream = self.session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }

    async fn write(&mut self, bytes: Bytes, end: bool) {
        if !self.broken {
            self.broken = self.session.write_response_body(bytes, end).await.is_err();
        }
    }
}

/// Checks that the request comes from this machine: the server listens on loopback, and a web page
/// that a browser shows must not reach it by a name it made up (2025-11-25 transports, "Security
/// Warning").
///
/// # Errors
/// A refusal of any other `Host` or `Origin`.
pub(super) fn local(headers: &HeaderMap) -> Result<(), Reply> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| !is_loopback(host)) {
        return Err(Reply::refusal(403, "Host is not this machine"));
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match authority {
        Some(("http" | "https", authority)) if is_loopback(authority) => Ok(()),
        _ => Err(Reply::refusal(403, "Origin is not this machine")),
    }
}

/// Whether the client takes a media type; without `Accept` it takes anything (RFC 9110 §12.5.1).
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut given = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    given.peek().is_none()
        || given.flat_map(|value| value.split(',')).any(|range| {
            let range = range.split(';').next().unwrap_or_default().trim();
            let whole = range.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
            range.eq_ignore_ascii_case(media_type)
                || range == "*/*"
                || whole.is_some_and(|prefix| media_type.starts_with(&prefix.to_ascii_lowercase()))
        })
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Reply> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Reply::refusal(415, "Content-Type must be application/json"));
    }
    let coding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Reply::refusal(415, "Content-Encoding must be identity"));
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => return rest.strip_prefix("::1]").is_some_and(is_port),
        None => authority.find(':').map_or(authority, |at| &authority[..at]),
    };
    is_port(&authority[host.len()..]) && (host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1")
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    type Case<'a> = (&'a str, &'a [(&'static str, &'static str)], bool);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_this_machine_is_served() {
        let cases: &[Case<'_>] = &[
            ("address and port", &[("host", "127.0.0.1:8080")], true),
            ("name", &[("host", "LocalHost")], true),
            ("IPv6", &[("host", "[::1]:80")], true),
            ("another name", &[("host", "evil.example")], false),
            ("a name that begins well", &[("host", "localhost.evil.example")], false),
            ("an address that begins well", &[("host", "127.0.0.1.evil.example:80")], false),
            ("bad port", &[("host", "localhost:x")], false),
            ("IPv6 with more", &[("host", "[::1]evil")], false),
            ("local page", &[("host", "localhost"), ("origin", "http://localhost:6274")], true),
            ("foreign page", &[("host", "localhost"), ("origin", "https://evil.example")], false),
            ("opaque page", &[("host", "localhost"), ("origin", "null")], false),
            ("other scheme", &[("host", "localhost"), ("origin", "file://localhost")], false),
        ];
        for (name, pairs, served) in cases {
            assert_eq!(local(&headers(pairs)).is_ok(), *served, "{name}");
        }
    }

    #[test]
    fn accept_is_read_as_ranges() {
        let cases: &[Case<'_>] = &[
            ("absent", &[], true),
            ("named", &[("accept", "application/json, text/event-stream")], true),
            ("two lines", &[("accept", "application/json"), ("accept", "text/event-stream;q=0.5")], true),
            ("anything", &[("accept", "*/*")], true),
            ("any text", &[("accept", "Text/*")], true),
            ("upper case", &[("accept", "TEXT/EVENT-STREAM")], true),
            ("only JSON", &[("accept", "application/json")], false),
            ("nonsense", &[("accept", "*")], false),
        ];
        for (name, pairs, expected) in cases {
            assert_eq!(accepts(&headers(pairs), "text/event-stream"), *expected, "{name}");
        }
    }

    #[test]
    fn bodies_are_plain_json() {
        let cases: &[Case<'_>] = &[
            ("JSON", &[("content-type", "application/json")], true),
            ("with charset", &[("content-type", "application/json; charset=utf-8")], true),
            ("form", &[("content-type", "application/x-www-form-urlencoded")], false),
            ("nothing", &[], false),
            ("zipped", &[("content-type", "application/json"), ("content-encoding", "gzip")], false),
        ];
        for (name, pairs, expected) in cases {
            assert_eq!(declared_as_json(&headers(pairs)).is_ok(), *expected, "{name}");
        }
    }
}
