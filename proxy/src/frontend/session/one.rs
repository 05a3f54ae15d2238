//! HTTP/1.1 towards a client: one request and its answer (RFC 9112).
//!
//! Pingora's session would parse again what the raw check has parsed, keep two header maps, and write
//! head and body apart. This one reads what was checked, with the same strict reader of bodies as the
//! upstream side, and writes an answer at once.

use super::BodyError;
use crate::backend::headers::{Field, put, put_decimal};
use crate::backend::upstreams::wire::{BodyReader, Framing, Part, is_bodiless};
use crate::pieces::fill;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::ResponseHeader;
use std::io::{self, Write};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const READ_BYTES: usize = 8 * 1024;
/// What a client may send ahead while it waits for an answer.
const AHEAD_BYTES: usize = 64 * 1024;
/// A body up to this size leaves in one write with its head.
const ONE_WRITE_BYTES: usize = 16 * 1024;
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
/// Room for the head of an answer.
const HEAD_BYTES: usize = 512;

/// One request on its connection.
pub struct Session {
    rest: Rest,
    body: BodyReader,
    /// The method was HEAD: its answer has no body, whatever its head says.
    bodiless: bool,
    http_1_0: bool,
    /// The connection goes on after this answer.
    persists: bool,
    /// The answer is on its way, and in which form.
    answer: Answer,
}

/// A connection between two requests.
pub struct Rest {
    /// The connection.
    pub stream: Stream,
    /// What was read of it and not used.
    pub ahead: BytesMut,
}

impl Rest {
    /// Ends the connection in order: what was said is complete.
    pub async fn close(mut self) {
        // A client that never reads is not waited for.
        drop(timeout(CLOSE_WITHIN, AsyncWriteExt::shutdown(&mut self.stream)).await);
    }
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    /// As many bytes as are left of its length.
    Counted(u64),
    Chunked,
    /// To the end of the connection.
    ToTheEnd,
    Done,
}

impl Session {
    /// A session for a request whose head was read; `rest` is what follows it.
    pub fn new(head: &Parts, rest: Rest) -> Session {
        let http_1_0 = head.version == Version::HTTP_10;
        Session {
            body: BodyReader::new(framing(&head.headers)),
            bodiless: head.method == Method::HEAD,
            persists: match http_1_0 {
                true => names(&head.headers, b"keep-alive"),
                false => !names(&head.headers, b"close"),
            },
            http_1_0,
            rest,
            answer: Answer::None,
        }
    }

    pub(super) fn is_body_done(&self) -> bool {
        self.body.is_done()
    }

    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.body.next_part(&mut self.rest.ahead) {
                Ok(Part::Data(data)) => return Ok(Some(data)),
                Ok(Part::End) => return Ok(None),
                Ok(Part::Starved) => {}
                Err(_) => return Err(BodyError::Malformed),
            }
            if !matches!(self.fill().await, Ok(read) if read > 0) {
                return Err(BodyError::Gone);
            }
        }
    }

    /// What comes while an answer is awaited is the next request, up to a bound; beyond it the client's
    /// leaving is noticed when it is written to.
    pub(super) async fn gone(&mut self) {
        while self.rest.ahead.len() < AHEAD_BYTES {
            if !matches!(self.fill().await, Ok(read) if read > 0) {
                return;
            }
        }
        std::future::pending().await
    }

    async fn fill(&mut self) -> io::Result<usize> {
        fill(&mut self.rest.stream, &mut self.rest.ahead, READ_BYTES).await
    }

    pub(super) async fn go_on(&mut self) -> io::Result<()> {
        if self.http_1_0 {
            // RFC 9110 §10.1.1: it would take that for the answer.
            return Ok(());
        }
        self.rest.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        self.rest.stream.flush().await
    }

    pub(super) fn close_after(&mut self) {
        self.persists = false;
    }

    pub(super) async fn begin(&mut self, head: &ResponseHeader) -> io::Result<()> {
        let mut wire = Vec::with_capacity(HEAD_BYTES);
        self.put_head(&mut wire, head)?;
        self.send(&wire).await
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.bodiless || piece.is_empty() {
            return Ok(());
        }
        match self.answer {
            Answer::Counted(left) => {
                let left = left.checked_sub(piece.len() as u64).ok_or_else(beyond)?;
                self.answer = Answer::Counted(left);
                self.send(piece).await
            }
            Answer::ToTheEnd => self.send(piece).await,
            Answer::Chunked => {
                let mut wire = Vec::with_capacity(piece.len().min(ONE_WRITE_BYTES) + 16);
                write!(wire, "{:x}\r\n", piece.len())?;
                if piece.len() <= ONE_WRITE_BYTES {
                    wire.extend_from_slice(piece);
                    wire.extend_from_slice(b"\r\n");
                    return self.send(&wire).await;
                }
                self.rest.stream.write_all(&wire).await?;
                self.rest.stream.write_all(piece).await?;
                self.send(b"\r\n").await
            }
            Answer::None | Answer::Done => Err(beyond()),
        }
    }

    pub(super) async fn end(&mut self) -> io::Result<()> {
        match self.answer {
            Answer::Chunked if !self.bodiless => self.send(b"0\r\n\r\n").await?,
            Answer::Counted(left) if left > 0 && !self.bodiless => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the answer is shorter than its length",
                ));
            }
            _ => {}
        }
        self.answer = Answer::Done;
        Ok(())
    }

    pub(super) async fn answer(&mut self, head: &ResponseHeader, body: &[u8]) -> io::Result<()> {
        let mut wire = Self::buffer(body);
        self.put_head(&mut wire, head)?;
        match self.answer {
            Answer::Counted(length) if self.bodiless || length == body.len() as u64 => {}
            _ => return Err(beyond()),
        }
        self.send_whole(wire, body).await
    }

    /// As [`Session::answer`], with a head of these fields and the length of its body.
    pub(super) async fn tell(
        &mut self,
        status: StatusCode,
        fields: &[Field<'_>],
        body: &[u8],
    ) -> io::Result<()> {
        if is_bodiless(status) && !self.bodiless && !body.is_empty() {
            return Err(beyond());
        }
        let mut wire = Self::buffer(body);
        put_status(&mut wire, status);
        if has_length(status) {
            wire.extend_from_slice(b"content-length: ");
            put_decimal(&mut wire, body.len());
            wire.extend_from_slice(b"\r\n");
        }
        for (name, value) in fields {
            put(&mut wire, name.as_str(), value);
        }
        self.put_end(&mut wire, false);
        self.send_whole(wire, body).await
    }

    /// Room for a head, and for the body that leaves with it.
    fn buffer(body: &[u8]) -> Vec<u8> {
        Vec::with_capacity(HEAD_BYTES + if body.len() <= ONE_WRITE_BYTES { body.len() } else { 0 })
    }

    /// Sends a head and all of its body.
    async fn send_whole(&mut self, mut wire: Vec<u8>, body: &[u8]) -> io::Result<()> {
        let body = if self.bodiless { &[] } else { body };
        if body.len() <= ONE_WRITE_BYTES {
            wire.extend_from_slice(body);
            self.send(&wire).await?;
        } else {
            self.rest.stream.write_all(&wire).await?;
            self.send(body).await?;
        }
        self.answer = Answer::Done;
        Ok(())
    }

    pub(super) async fn finish(self) -> Option<Rest> {
        let Session { rest, answer, body, persists, .. } = self;
        if answer != Answer::Done {
            return None;
        }
        if persists && body.is_done() {
            return Some(rest);
        }
        rest.close().await;
        None
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.rest.stream.write_all(bytes).await?;
        self.rest.stream.flush().await
    }

    /// Puts the head down, and notes what form of body it announces.
    fn put_head(&mut self, wire: &mut Vec<u8>, head: &ResponseHeader) -> io::Result<()> {
        let (status, fields) = (head.status, &head.headers);
        self.answer = announced(status, fields)?;
        if self.answer == Answer::ToTheEnd {
            self.persists = false;
        }
        put_status(wire, status);
        for (name, value) in fields {
            put(wire, name.as_str(), value.as_bytes());
        }
        self.put_end(wire, fields.contains_key(DATE));
        Ok(())
    }

    /// Puts down what a head ends with.
    fn put_end(&self, wire: &mut Vec<u8>, dated: bool) {
        if !dated {
            put(wire, "date", get_cached_date().as_bytes());
        }
        match (self.persists, self.http_1_0) {
            (false, _) => put(wire, "connection", b"close"),
            (true, true) => put(wire, "connection", b"keep-alive"),
            (true, false) => {}
        }
        wire.extend_from_slice(b"\r\n");
    }
}

/// Whether the head of an answer says how long it is (RFC 9110 §8.6).
pub(super) fn has_length(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT
}

fn put_status(wire: &mut Vec<u8>, status: StatusCode) {
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    wire.extend_from_slice(b"\r\n");
}

/// Where a request's body ends (RFC 9112 §6.3); the raw check has left one answer to that.
fn framing(fields: &HeaderMap) -> Framing {
    if fields.contains_key(TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    let length = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    Framing::Length(length.unwrap_or(0))
}

/// What form of body a head announces.
fn announced(status: StatusCode, fields: &HeaderMap) -> io::Result<Answer> {
    if is_bodiless(status) {
        return Ok(Answer::Counted(0));
    }
    match fields.get(CONTENT_LENGTH) {
        _ if fields.contains_key(TRANSFER_ENCODING) => Ok(Answer::Chunked),
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            length.map(Answer::Counted).ok_or_else(beyond)
        }
        None => Ok(Answer::ToTheEnd),
    }
}

/// Whether `Connection` has this token.
fn names(fields: &HeaderMap, token: &[u8]) -> bool {
    fields
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(token))
}

fn beyond() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the body is not the one that the head announces")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::io::DuplexStream;

    /// A session for a request of these fields, what follows it, and the client's end.
    fn session(
        method: &str,
        version: Version,
        fields: &[(&str, &str)],
        ahead: &[u8],
    ) -> (Session, DuplexStream) {
        let mut head = http::Request::builder().method(method).version(version);
        for (name, value) in fields {
            head = head.header(*name, *value);
        }
        let (head, ()) = head.body(()).unwrap().into_parts();
        let (near, far) = tokio::io::duplex(1 << 20);
        let rest = Rest { stream: Box::new(near), ahead: BytesMut::from(ahead) };
        (Session::new(&head, rest), far)
    }

    fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build_no_case(status, None).unwrap();
        for (name, value) in fields {
            head.insert_header(*name, *value).unwrap();
        }
        head
    }

    /// All that the client has received when the session is gone.
    async fn received(session: Session, mut far: DuplexStream) -> (String, bool) {
        let kept = session.finish().await;
        let persists = kept.is_some();
        drop(kept);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        (String::from_utf8(bytes).unwrap(), persists)
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_says_whether_the_connection_goes_on() {
        let (one, ten) = (Version::HTTP_11, Version::HTTP_10);
        let cases: [(&str, Version, &[(&str, &str)], Option<&str>, bool); 5] = [
            ("1.1", one, &[], None, true),
            ("1.1 that closes", one, &[("connection", "x, Close")], Some("close"), false),
            ("1.0", ten, &[], Some("close"), false),
            ("1.0 that keeps", ten, &[("connection", "Keep-Alive")], Some("keep-alive"), true),
            ("an unread body", one, &[("content-length", "3")], None, false),
        ];
        for (name, version, fields, connection, persists) in cases {
            let (mut session, far) = session("POST", version, fields, b"");
            session.answer(&answer(200, &[("content-length", "2")]), b"{}").await.unwrap();
            let (text, kept) = received(session, far).await;
            assert!(text.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: "), "{name}: {text}");
            assert!(text.ends_with("\r\n\r\n{}"), "{name}: {text}");
            let told = text.lines().find_map(|line| line.strip_prefix("connection: "));
            assert_eq!((told, kept), (connection, persists), "{name}");
        }
    }

    #[tokio::test]
    async fn bodies_come_in_the_form_that_their_head_announces() {
        let cases: [(&str, &[(&'static str, &'static str)], &str, bool); 3] = [
            ("counted", &[("content-length", "4")], "\r\n\r\nabcd", true),
            ("chunked", &[("transfer-encoding", "chunked")], "\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n", true),
            ("to the end", &[], "connection: close\r\n\r\nabcd", false),
        ];
        for (name, fields, end, persists) in cases {
            let (mut session, far) = session("POST", Version::HTTP_11, &[], b"");
            session.begin(&answer(200, fields)).await.unwrap();
            for piece in ["ab", "", "cd"] {
                session.write(piece.as_bytes()).await.unwrap();
            }
            session.end().await.unwrap();
            let (text, kept) = received(session, far).await;
            assert!(text.ends_with(end), "{name}: {text}");
            assert_eq!(kept, persists, "{name}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_the_announced_one_is_an_error() {
        let counted = answer(200, &[("content-length", "3")]);
        let (mut longer, _far) = session("POST", Version::HTTP_11, &[], b"");
        longer.begin(&counted).await.unwrap();
        assert!(longer.write(b"abcd").await.is_err());
        let (mut shorter, _far) = session("POST", Version::HTTP_11, &[], b"");
        shorter.begin(&counted).await.unwrap();
        shorter.write(b"ab").await.unwrap();
        assert!(shorter.end().await.is_err() && shorter.finish().await.is_none());
        let (mut other, _far) = session("POST", Version::HTTP_11, &[], b"");
        assert!(other.answer(&counted, b"ab").await.is_err());
    }

    #[tokio::test]
    async fn answers_to_head_and_without_content_have_no_body() {
        let (mut head, far) = session("HEAD", Version::HTTP_11, &[], b"");
        head.answer(&answer(405, &[("content-length", "2")]), b"{}").await.unwrap();
        assert!(received(head, far).await.0.ends_with("\r\n\r\n"));
        let (mut empty, far) = session("DELETE", Version::HTTP_11, &[], b"");
        empty.answer(&answer(204, &[]), b"").await.unwrap();
        let (text, kept) = received(empty, far).await;
        assert!(text.ends_with("\r\n\r\n") && kept, "{text}");
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end_and_no_further() {
        let cases: [(&str, (&str, &str), &[u8], &[u8]); 2] = [
            ("counted", ("content-length", "5"), b"abcdeGET ", b"GET "),
            ("chunked", ("transfer-encoding", "chunked"), b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\nGET ", b"GET "),
        ];
        for (name, field, bytes, behind) in cases {
            let (early, late) = bytes.split_at(3);
            let (mut session, mut far) = session("POST", Version::HTTP_11, &[field], early);
            far.write_all(late).await.unwrap();
            let mut body = Vec::new();
            while let Some(piece) = session.read_body().await.unwrap() {
                body.extend_from_slice(&piece);
            }
            assert_eq!(body, b"abcde", "{name}");
            session.answer(&answer(202, &[("content-length", "0")]), b"").await.unwrap();
            assert_eq!(session.finish().await.unwrap().ahead, behind, "{name}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_from_a_broken_one() {
        let (mut gone, far) = session("POST", Version::HTTP_11, &[("content-length", "5")], b"ab");
        drop(far);
        assert!(gone.read_body().await.unwrap().is_some());
        assert_eq!(gone.read_body().await, Err(BodyError::Gone));
        let (mut broken, _far) =
            session("POST", Version::HTTP_11, &[("transfer-encoding", "chunked")], b"x\r\n");
        assert_eq!(broken.read_body().await, Err(BodyError::Malformed));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_behind_what_it_sent_ahead() {
        let (mut session, mut far) = session("POST", Version::HTTP_11, &[], b"POST ");
        far.write_all(b"/mcp HTTP/1.1").await.unwrap();
        drop(far);
        session.gone().await;
        assert_eq!(session.rest.ahead, "POST /mcp HTTP/1.1");
    }

    #[tokio::test]
    async fn only_a_client_that_knows_it_is_told_to_go_on() {
        for (version, told) in [
            (Version::HTTP_11, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"),
            (Version::HTTP_10, "HTTP/1.1 200"),
        ] {
            let (mut session, far) = session("POST", version, &[], b"");
            session.go_on().await.unwrap();
            session.answer(&answer(200, &[("content-length", "0")]), b"").await.unwrap();
            assert!(received(session, far).await.0.starts_with(told), "{version:?}");
        }
    }
}
