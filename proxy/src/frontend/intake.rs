//! Makes a well-formed message of a request's headers and body.
//!
//! Methods, media types, codings and sizes are judged before the body is read where that is
//! possible; parsing and the agreement of headers and body are the filters crate's.

use crate::frontend::session::{BodyError, Client};
use crate::pieces::Pieces;
use crate::shares::{Owner, Share, Shares};
use crate::time_limit::with_timeout;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portunus_config::{EraMode, VirtualServer};
use portunus_filters::mcp::Bounds;
use portunus_filters::mcp::headers::{self as mcp_headers, Mirror};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Id, LateId, Revision};
use portunus_filters::message::{Reading, Unreadable, read};
use portunus_filters::{Denial, Era, Kind, Message, Reason};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Headers that decide something.
const DECISIVE: [HeaderName; 6] = [
    MCP_PROTOCOL_VERSION,
    MCP_METHOD,
    MCP_NAME,
    HeaderName::from_static("mcp-session-id"),
    CONTENT_TYPE,
    HeaderName::from_static("last-event-id"),
];

/// First allocation for a body whose length is not declared.
const BODY_BYTES: usize = 8 * 1024;

/// What is read of a body that nobody wants, and for how long.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_millis(300);

/// Why there is no body.
pub enum BodyFault {
    /// It is refused; the id if it was found on the way.
    Denied(Denial, Option<Id>),
    /// The client went away.
    Gone,
}

/// What the HTTP method asks for.
///
/// # Errors
/// [`Reason::MethodNotAllowed`].
pub fn kind_of(method: &Method) -> Result<Option<Kind>, Denial> {
    match *method {
        Method::POST => Ok(None),
        Method::GET => Ok(Some(Kind::Stream)),
        Method::DELETE => Ok(Some(Kind::End)),
        _ => Err(Denial::new(Reason::MethodNotAllowed, "an MCP endpoint takes POST, GET and DELETE")),
    }
}

/// Judges what a POST declares about itself, and leaves the media type in its plainest form: servers read
/// parameters of one, and spaces beyond ASCII, in ways of their own.
///
/// # Errors
/// [`Reason::UnsupportedMediaType`], [`Reason::NotAcceptable`], [`Reason::HeaderMismatch`] for a
/// mirrored header that is sent twice.
pub fn declared(headers: &mut HeaderMap) -> Result<(), Denial> {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let media = |detail| Err(Denial::new(Reason::UnsupportedMediaType, detail));
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return media("the Content-Type must be application/json");
    };
    let is_plain = *content_type == JSON;
    if !is_plain && !is_json(content_type.as_bytes()) {
        return media("the Content-Type must be application/json in UTF-8");
    }
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return media("send the body without a content coding");
    }
    if !accepts_mcp(headers) {
        return Err(Denial::new(Reason::NotAcceptable, "accept application/json and text/event-stream"));
    }
    singular(headers)?;
    if !is_plain {
        headers.insert(CONTENT_TYPE, JSON);
    }
    Ok(())
}

/// Headers that decide something must not be there twice.
///
/// # Errors
/// [`Reason::HeaderMismatch`].
pub fn singular(headers: &HeaderMap) -> Result<(), Denial> {
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    for name in &DECISIVE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Denial::new(Reason::HeaderMismatch, format!("the `{name}` header is sent twice")));
        }
    }
    Ok(())
}

/// Bytes of a body that are kept for nobody's account: there are only so many connections.
const FREE_BYTES: usize = 64 << 10;
/// By how much an account grows at least.
const ROOM_STEP: usize = 64 << 10;

/// What the bodies of one owner take while they arrive and are served, of what all may take.
pub struct BodyRoom<'a> {
    shares: &'a Arc<Shares>,
    owner: Owner,
    share: Option<Share>,
}

impl<'a> BodyRoom<'a> {
    /// For one body.
    pub fn new(shares: &'a Arc<Shares>, owner: Owner) -> BodyRoom<'a> {
        BodyRoom { shares, owner, share: None }
    }

    /// What it took, which is to be held as long as the body is.
    pub fn into_share(self) -> Option<Share> {
        self.share
    }

    /// True if so many bytes may be kept, of one body or of answers that go back together.
    pub fn holds(&mut self, bytes: usize) -> bool {
        let held = FREE_BYTES + self.share.as_ref().map_or(0, Share::amount);
        if bytes <= held {
            return true;
        }
        let more = (bytes - held).max(ROOM_STEP);
        match &mut self.share {
            Some(share) => share.grow(more),
            None => {
                self.share = self.shares.take(self.owner, more);
                self.share.is_some()
            }
        }
    }
}

/// Which era a request is of, by its headers. Asked where a body is too large alone.
pub type EraOf = fn(&HeaderMap) -> Era;

/// Reads the body within its limits.
///
/// A legacy client understands a refusal only under its request's id, so of a body that is too
/// large up to twice the limit is read on, without keeping it, to find that id.
///
/// # Errors
/// [`BodyFault`].
pub async fn body(
    client: &mut Client,
    headers: &HeaderMap,
    limit: usize,
    within: Duration,
    (era, room): (EraOf, &mut BodyRoom<'_>),
) -> Result<Bytes, BodyFault> {
    match with_timeout(within, pin!(collect(client, headers, limit, (era, room)))).await {
        Some(result) => result,
        None => {
            let late = Denial::new(Reason::RequestTimeout, "the body did not arrive in time");
            Err(BodyFault::Denied(late, None))
        }
    }
}

async fn collect(
    client: &mut Client,
    headers: &HeaderMap,
    limit: usize,
    (era, room): (EraOf, &mut BodyRoom<'_>),
) -> Result<Bytes, BodyFault> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| {
        length > limit.saturating_mul(2) || (length > limit && era(headers) == Era::Modern)
    }) {
        return Err(BodyFault::Denied(too_large(limit), None));
    }
    if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        client.go_on().await.map_err(|_| BodyFault::Gone)?;
    }
    let mut whole = Pieces::default();
    while let Some(chunk) = client.read_body().await.map_err(fault)? {
        if whole.len() + chunk.len() > limit {
            return oversize(client, &whole.into_bytes(), chunk, limit, era(headers)).await;
        }
        if !room.holds(whole.len() + chunk.len()) {
            let detail = "too many large bodies are open at once";
            return Err(BodyFault::Denied(Denial::new(Reason::Overloaded, detail), None));
        }
        whole.push(chunk, declared.unwrap_or(BODY_BYTES).min(limit));
    }
    Ok(whole.into_bytes())
}

/// A client's answer to a server's question that is too long or too wide is refused to the server, which
/// waits for it: no client understands a refusal of an answer, and some end their session by one.
pub fn refused_answer(question: &Id, denial: &Denial) -> Bytes {
    let (id, detail) =
        (question.as_json(), string(&format!("the client's answer is refused: {}", denial.detail)));
    let reason = denial.reason;
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-31413,\"message\":{detail},\
         \"data\":{{\"reason\":\"{reason}\",\"origin\":\"gateway\"}}}}}}"
    ))
}

/// What stands for a legacy body that is too large.
async fn oversize(
    client: &mut Client,
    kept: &[u8],
    chunk: Bytes,
    limit: usize,
    era: Era,
) -> Result<Bytes, BodyFault> {
    let denied = |id| Err(BodyFault::Denied(too_large(limit), id));
    if era == Era::Modern {
        return denied(None);
    }
    let mut finder = LateId::default();
    finder.push(kept);
    finder.push(&chunk);
    let mut seen = kept.len() + chunk.len();
    while let Ok(Some(chunk)) = client.read_body().await {
        seen += chunk.len();
        if seen > limit.saturating_mul(2) {
            return denied(None);
        }
        finder.push(&chunk);
    }
    match finder.clone().finish_answer() {
        Some(question) => Ok(refused_answer(&question, &too_large(limit))),
        None => denied(finder.finish()),
    }
}

/// Reads and drops what the client still sends, so that its connection can be kept.
///
/// A body that is here, or arrives at once, is worth a connection; nothing else is waited for: the
/// answer comes after it.
pub async fn discard(client: &mut Client, headers: &HeaderMap) -> bool {
    if client.is_body_done() {
        return true;
    }
    if headers.contains_key(EXPECT) {
        return false;
    }
    let dropped = async {
        let mut seen = 0;
        loop {
            match client.read_body().await {
                Ok(Some(chunk)) => seen += chunk.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
            if seen > DISCARD_BYTES {
                return false;
            }
        }
    };
    timeout(DISCARD_WITHIN, dropped).await.unwrap_or(false)
}

/// Reads the message of a POST.
///
/// # Errors
/// As [`read`].
pub fn message(
    body: &Bytes,
    headers: &HeaderMap,
    bounds: &Bounds,
    offered: &[Revision],
) -> Result<Reading, Box<Unreadable>> {
    read(body, bounds, &mirror(headers), offered)
}

/// The revisions that a virtual server serves: all, or where it does not bridge eras, those of its
/// upstreams.
pub fn offered(server: &VirtualServer) -> &'static [Revision] {
    if server.bridge {
        return &Revision::ALL;
    }
    let serves = |era: Era| {
        server.upstreams.iter().any(|upstream| match upstream.era {
            EraMode::Auto => true,
            EraMode::Legacy => era == Era::Legacy,
            EraMode::Modern => era == Era::Modern,
        })
    };
    match (serves(Era::Modern), serves(Era::Legacy)) {
        (true, true) => &Revision::ALL,
        (true, false) => Revision::MODERN,
        (false, true) => Revision::LEGACY,
        (false, false) => &[],
    }
}

/// The message that a GET or DELETE stands for.
///
/// # Errors
/// [`Reason::UnsupportedVersion`] for a revision that is not offered.
pub fn bodiless(kind: Kind, headers: &HeaderMap, offered: &[Revision]) -> Result<Message, Denial> {
    let revision = mcp_headers::bodiless(mirror(headers).version, offered)?;
    Ok(Message::bodiless(kind, revision))
}

/// The era that the headers alone suggest.
pub fn likely_era(headers: &HeaderMap) -> Era {
    let version = headers.get(MCP_PROTOCOL_VERSION).and_then(|value| value.to_str().ok());
    version.map_or(Era::Legacy, |version| mcp_headers::likely_era(version.trim()))
}

fn mirror(headers: &HeaderMap) -> Mirror<'_> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().map_or("", str::trim));
    Mirror { version: text(MCP_PROTOCOL_VERSION), method: text(MCP_METHOD), name: text(MCP_NAME) }
}

fn is_json(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    parts.next().is_some_and(|media| media.eq_ignore_ascii_case(b"application/json"))
        && parts.all(|parameter| {
            let lower = parameter.to_ascii_lowercase();
            !lower.starts_with(b"charset") || matches!(&lower[..], b"charset=utf-8" | b"charset=\"utf-8\"")
        })
}

/// True if nothing is named in `Accept`, or a form in which answers come.
fn accepts_mcp(headers: &HeaderMap) -> bool {
    const TAKEN: [&[u8]; 5] =
        [b"application/json", b"text/event-stream", b"application/*", b"text/*", b"*/*"];
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    values.peek().is_none()
        || values
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|range| range.split(|&byte| byte == b';').next())
            .any(|range| TAKEN.iter().any(|taken| range.trim_ascii().eq_ignore_ascii_case(taken)))
}

fn too_large(limit: usize) -> Denial {
    Denial::new(Reason::BodyTooLarge, format!("the body exceeds {limit} bytes"))
        .with("limitBytes", limit.to_string())
}

/// A body that broke off: by its own framing, or with its connection.
fn fault(error: BodyError) -> BodyFault {
    match error {
        BodyError::Late => {
            BodyFault::Denied(Denial::new(Reason::RequestTimeout, "the body did not arrive in time"), None)
        }
        BodyError::Gone => BodyFault::Gone,
        BodyError::Malformed => {
            BodyFault::Denied(Denial::new(Reason::MalformedHttp, "the body's framing is broken"), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_post_declares_what_it_carries() {
        let json = ("content-type", "application/json");
        let media = Err(Reason::UnsupportedMediaType);
        let with_charset = ("content-type", "application/json; charset=utf-8");
        let cases: &mut [(&str, HeaderMap, Result<(), Reason>)] = &mut [
            ("plain", headers(&[json]), Ok(())),
            (
                "two kinds",
                headers(&[with_charset, ("content-type", "text/plain")]),
                Err(Reason::HeaderMismatch),
            ),
            ("charset", headers(&[("content-type", "Application/JSON; charset=UTF-8")]), Ok(())),
            ("another charset", headers(&[("content-type", "application/json; charset=utf-16")]), media),
            ("a form", headers(&[("content-type", "text/plain")]), media),
            ("nothing", headers(&[]), media),
            ("compressed", headers(&[json, ("content-encoding", "gzip")]), media),
            ("identity", headers(&[json, ("content-encoding", "identity")]), Ok(())),
            ("both accepted", headers(&[json, ("accept", "application/json, text/event-stream")]), Ok(())),
            ("anything accepted", headers(&[json, ("accept", "text/html, */*;q=0.1")]), Ok(())),
            (
                "nothing of ours accepted",
                headers(&[json, ("accept", "text/html")]),
                Err(Reason::NotAcceptable),
            ),
            (
                "two names",
                headers(&[json, ("mcp-name", "a"), ("mcp-name", "b")]),
                Err(Reason::HeaderMismatch),
            ),
        ];
        for (name, headers, expected) in cases {
            assert_eq!(declared(headers).map_err(|denial| denial.reason), *expected, "{name}");
            // A server reads no more than was judged here.
            assert!(expected.is_err() || headers["content-type"] == json.1, "{name}");
        }
    }

    #[test]
    fn only_three_methods_mean_something() {
        assert_eq!(kind_of(&Method::POST), Ok(None));
        assert_eq!(kind_of(&Method::GET), Ok(Some(Kind::Stream)));
        assert_eq!(kind_of(&Method::DELETE), Ok(Some(Kind::End)));
        for method in [Method::PUT, Method::HEAD, Method::PATCH, Method::TRACE, Method::CONNECT] {
            assert_eq!(
                kind_of(&method).map_err(|denial| denial.reason),
                Err(Reason::MethodNotAllowed),
                "{method}"
            );
        }
    }
}
