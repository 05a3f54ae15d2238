//! Reading HTTP/1.1 answers from bytes that may be hostile.
//!
//! Pure: bytes in, parts out (RFC 9112). Ambiguous framing is refused, never repaired: an answer
//! that two readers could cut differently is how one caller gets another's data.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::mem::MaybeUninit;

/// Bytes of one answer's head.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// What was wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Final status: 1xx are skipped.
    pub status: StatusCode,
    /// Fields as they came, framing included.
    pub headers: HeaderMap,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection may carry another request afterwards.
    pub keep_alive: bool,
}

/// Where a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// When the connection closes.
    Close,
}

impl Framing {
    /// The number of bytes that there will be, if it is known.
    pub fn length(self) -> Option<u64> {
        match self {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        }
    }

    /// The number of bytes to reserve for it, at most `most`; none if its length is not known.
    pub fn expected_bytes(self, most: usize) -> usize {
        self.length().map_or(0, |length| usize::try_from(length).map_or(most, |length| length.min(most)))
    }
}

/// Reads a head from the front of `buffer`, skipping informational ones.
///
/// `Ok(None)` means more bytes are needed.
///
/// # Errors
/// [`Malformed`] for anything that is not one unambiguous HTTP/1.x head within its limits.
pub fn read_head(buffer: &mut BytesMut) -> Result<Option<Head>, Malformed> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsing = httparse::ParserConfig::default();
        let length = match parsing.parse_response_with_uninit_headers(&mut response, buffer, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD_BYTES => {
                return Err(Malformed("the head of the answer is too large"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed("the answer is not HTTP/1.1")),
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("the status is not a number from 100 to 999"))?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed("the upstream switches protocols unasked"));
        }
        let persistent = response.version == Some(1);
        let headers = collect(response.headers)?;
        buffer.advance(length);
        if status.is_informational() {
            continue;
        }
        let framing = framing(status, &headers)?;
        let keep_alive = persistent && framing != Framing::Close && !closes(&headers);
        return Ok(Some(Head { status, headers, framing, keep_alive }));
    }
}

fn collect(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Malformed("a header has no valid name"))?;
        let value =
            HeaderValue::from_bytes(field.value).map_err(|_| Malformed("a header has no valid value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn framing(status: StatusCode, headers: &HeaderMap) -> Result<Framing, Malformed> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let framing = match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => return Err(Malformed("both Transfer-Encoding and Content-Length")),
        (Some(coding), None)
            if codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Framing::Chunked
        }
        (Some(_), None) => return Err(Malformed("a transfer coding other than chunked")),
        (None, Some(length)) if lengths.next().is_none() => Framing::Length(decimal(length)?),
        (None, Some(_)) => return Err(Malformed("more than one Content-Length")),
        (None, None) => Framing::Close,
    };
    Ok(if is_bodiless(status) { Framing::Length(0) } else { framing })
}

/// Whether an answer of this status has no body, whatever its head says (RFC 9112 §6.3).
pub fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A `Content-Length`, which is digits and nothing else.
///
/// # Errors
/// [`Malformed`] for anything else.
pub fn decimal(value: &HeaderValue) -> Result<u64, Malformed> {
    const BAD: Malformed = Malformed("Content-Length is not a number");
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(BAD)
}

fn closes(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Takes a body out of the bytes that follow its head.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Close,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer(usize),
    Done,
}

/// What [`BodyReader::next_part`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Some of the body.
    Data(Bytes),
    /// More bytes are needed.
    Starved,
    /// The body is complete.
    End,
}

impl BodyReader {
    /// A reader for a body that ends where `framing` says.
    pub fn new(framing: Framing) -> BodyReader {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
        };
        BodyReader { state }
    }

    /// The next part of the body at the front of `buffer`.
    ///
    /// # Errors
    /// [`Malformed`] for a broken chunk.
    pub fn next_part(&mut self, buffer: &mut BytesMut) -> Result<Part, Malformed> {
        loop {
            match self.state {
                State::Done => return Ok(Part::End),
                _ if buffer.is_empty() => return Ok(Part::Starved),
                State::Close => return Ok(Part::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Part::Data(data));
                }
                State::ChunkData(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Part::Data(data));
                }
                State::ChunkSize => match line(buffer, MAX_CHUNK_LINE)? {
                    Some(line) => self.state = chunk_of(&line)?,
                    None => return Ok(Part::Starved),
                },
                State::ChunkEnd => match line(buffer, 2)? {
                    Some(line) if line.is_empty() => self.state = State::ChunkSize,
                    Some(_) => return Err(Malformed("a chunk is longer than its size")),
                    None => return Ok(Part::Starved),
                },
                State::Trailer(left) => match line(buffer, left)? {
                    Some(line) if line.is_empty() => self.state = State::Done,
                    Some(line) => self.state = State::Trailer(left.saturating_sub(line.len() + 2)),
                    None => return Ok(Part::Starved),
                },
            }
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::Close
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    (buffer.split_to(length).freeze(), left - length as u64)
}

/// One line without its CRLF.
fn line(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    match memchr::memchr(b'\n', buffer) {
        Some(end) if end > limit => Err(Malformed("a line of the chunked body is too long")),
        Some(end) => {
            let mut line = buffer.split_to(end + 1).freeze();
            line.truncate(end);
            if line.last() != Some(&b'\r') {
                return Err(Malformed("a line of the chunked body does not end in CRLF"));
            }
            line.truncate(end - 1);
            Ok(Some(line))
        }
        None if buffer.len() > limit => Err(Malformed("a line of the chunked body is too long")),
        None => Ok(None),
    }
}

/// The state after a chunk-size line; extensions are ignored (RFC 9112 §7.1.1).
fn chunk_of(line: &[u8]) -> Result<State, Malformed> {
    const BAD: Malformed = Malformed("a chunk has no valid size");
    let size = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(BAD);
    }
    let size =
        std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(BAD)?;
    Ok(if size == 0 { State::Trailer(MAX_TRAILER_BYTES) } else { State::ChunkData(size) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<(u16, Framing, bool)>, Malformed> {
        let head = read_head(&mut BytesMut::from(text))?;
        Ok(head.map(|head| (head.status.as_u16(), head.framing, head.keep_alive)))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of named cases")]
    fn heads_are_read_or_refused() {
        let malformed = |why| Err(Malformed(why));
        let cases: Vec<(&str, String, Result<Option<(u16, Framing, bool)>, Malformed>)> = vec![
            (
                "length",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into(),
                Ok(Some((200, Framing::Length(5), true))),
            ),
            (
                "chunked",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n".into(),
                Ok(Some((200, Framing::Chunked, true))),
            ),
            ("neither", "HTTP/1.1 200 OK\r\n\r\n".into(), Ok(Some((200, Framing::Close, false)))),
            (
                "close",
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n".into(),
                Ok(Some((200, Framing::Length(0), false))),
            ),
            (
                "HTTP/1.0",
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n".into(),
                Ok(Some((200, Framing::Length(1), false))),
            ),
            ("no content", "HTTP/1.1 204 No\r\n\r\n".into(), Ok(Some((204, Framing::Length(0), true)))),
            (
                "informational first",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 A\r\nContent-Length: 0\r\n\r\n".into(),
                Ok(Some((202, Framing::Length(0), true))),
            ),
            ("partial", "HTTP/1.1 200 OK\r\nContent-".into(), Ok(None)),
            (
                "both",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                malformed("both Transfer-Encoding and Content-Length"),
            ),
            (
                "two lengths",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n".into(),
                malformed("more than one Content-Length"),
            ),
            (
                "signed length",
                "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n".into(),
                malformed("Content-Length is not a number"),
            ),
            (
                "list of lengths",
                "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n".into(),
                malformed("Content-Length is not a number"),
            ),
            (
                "gzip transfer",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(),
                malformed("a transfer coding other than chunked"),
            ),
            (
                "switching",
                "HTTP/1.1 101 S\r\n\r\n".into(),
                malformed("the upstream switches protocols unasked"),
            ),
            ("not HTTP", "SSH-2.0-OpenSSH\r\n\r\n".into(), malformed("the answer is not HTTP/1.1")),
            (
                "folded",
                "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n".into(),
                malformed("the answer is not HTTP/1.1"),
            ),
            (
                "endless",
                format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(MAX_HEAD_BYTES)),
                malformed("the head of the answer is too large"),
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(head(&text), expected, "{name}");
        }
    }

    fn body(framing: Framing, chunks: &[&[u8]]) -> Result<(Vec<u8>, bool), Malformed> {
        let mut reader = BodyReader::new(framing);
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            loop {
                match reader.next_part(&mut buffer)? {
                    Part::Data(data) => out.extend_from_slice(&data),
                    Part::Starved => break,
                    Part::End => return Ok((out, true)),
                }
            }
        }
        Ok((out, false))
    }

    #[test]
    fn chunked_bodies_are_read_or_refused() {
        let cases: &[(&str, &[u8], Result<(&[u8], bool), Malformed>)] = &[
            ("two chunks", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Ok((b"abcde", true))),
            ("extension", b"3;x=y\r\nabc\r\n0\r\n\r\n", Ok((b"abc", true))),
            ("trailer", b"1\r\na\r\n0\r\nX: y\r\n\r\n", Ok((b"a", true))),
            ("unfinished", b"5\r\nabc", Ok((b"abc", false))),
            ("no size", b"\r\n", Err(Malformed("a chunk has no valid size"))),
            ("signed size", b"+3\r\nabc\r\n", Err(Malformed("a chunk has no valid size"))),
            ("prefixed size", b"0x3\r\nabc\r\n", Err(Malformed("a chunk has no valid size"))),
            ("huge size", b"ffffffffffffffff\r\n", Err(Malformed("a chunk has no valid size"))),
            ("longer than its size", b"1\r\nab\r\n", Err(Malformed("a chunk is longer than its size"))),
            ("bare LF", b"1\na\r\n", Err(Malformed("a line of the chunked body does not end in CRLF"))),
        ];
        for (name, input, expected) in cases {
            let expected = expected.map(|(data, done)| (data.to_vec(), done));
            assert_eq!(body(Framing::Chunked, &[input]), expected, "{name}");
        }
    }

    #[test]
    fn a_counted_body_leaves_what_follows() {
        let mut buffer = BytesMut::from("abcHTTP");
        let mut reader = BodyReader::new(Framing::Length(3));
        assert_eq!(reader.next_part(&mut buffer), Ok(Part::Data(Bytes::from_static(b"abc"))));
        assert_eq!(reader.next_part(&mut buffer), Ok(Part::End));
        assert_eq!(&buffer[..], b"HTTP");
    }

    proptest! {
        #[test]
        fn chunked_reading_does_not_depend_on_how_bytes_arrive(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1usize..17,
        ) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = wire.chunks(step).collect();
            prop_assert_eq!(body(Framing::Chunked, &pieces), Ok((parts.concat(), true)));
        }
    }
}
