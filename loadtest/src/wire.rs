//! HTTP/1.1 messages as they arrive, of either side.
//!
//! Only what loopback traffic between known programs needs; it trusts them to frame their messages
//! properly and reports an error where they do not.

use memchr::memmem;
use std::io::{self, Read};

/// Bytes of an unread message; grows as needed, and is used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
}

/// How much is asked for in one read.
const STEP: usize = 16 * 1024;

impl Inbox {
    /// Reads once; gives the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket says, also that it has nothing now.
    pub(crate) fn fill(&mut self, mut socket: impl Read) -> io::Result<usize> {
        if self.bytes.len() < self.filled + STEP {
            self.bytes.resize(self.filled + STEP, 0);
        }
        let read = socket.read(&mut self.bytes[self.filled..])?;
        self.filled += read;
        Ok(read)
    }

    /// What has arrived.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Whether nothing has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Drops a message from the front.
    pub(crate) fn consume(&mut self, length: usize) {
        self.bytes.copy_within(length..self.filled, 0);
        self.filled -= length;
    }

    /// Drops all, and the memory.
    pub(crate) fn reset(&mut self) {
        *self = Inbox::default();
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(usize),
    /// After its last chunk.
    Chunked,
}

/// The start of a message, without its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// The request line or the status line.
    pub(crate) first: &'a [u8],
    /// How its body ends; no field says so: there is none.
    pub(crate) framing: Framing,
    /// Whether the connection closes after it.
    pub(crate) close: bool,
    /// `Mcp-Session-Id`.
    pub(crate) session: Option<&'a [u8]>,
    /// Bytes up to the body.
    pub(crate) length: usize,
}

impl<'a> Head<'a> {
    /// The head at the front, once it is complete.
    ///
    /// # Errors
    /// A length that is none.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Option<Head<'a>>, String> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let first = memchr::memchr(b'\r', &bytes[..end]).unwrap_or(end);
        let (close, session) = (false, None);
        let mut head =
            Head { first: &bytes[..first], framing: Framing::Length(0), close, session, length: end + 4 };
        let mut rest = bytes[first..end].strip_prefix(b"\r\n").unwrap_or_default();
        while !rest.is_empty() {
            let line = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
            head.field(&rest[..line])?;
            rest = rest[line..].strip_prefix(b"\r\n").unwrap_or_default();
        }
        Ok(Some(head))
    }

    fn field(&mut self, line: &'a [u8]) -> Result<(), String> {
        // Most fields are none of these; their first letter says so.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T' | b'm' | b'M')) {
            return Ok(());
        }
        if let Some(value) = value(line, b"content-length:") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            self.framing = Framing::Length(length.ok_or("a content-length that is no number")?);
        } else if value(line, b"transfer-encoding:")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"))
        {
            self.framing = Framing::Chunked;
        } else if let Some(value) = value(line, b"connection:") {
            self.close = value.eq_ignore_ascii_case(b"close");
        } else if let Some(value) = value(line, b"mcp-session-id:") {
            self.session = Some(value);
        }
        Ok(())
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        let digits = self.first.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// The body at the front of `bytes`, once it is complete, and how many bytes it took.
///
/// Chunks are put together in `joined`. A body that comes in many reads is looked at from its start
/// each time, which is cheap for the small ones that are measured.
///
/// # Errors
/// Chunks that are none.
pub(crate) fn body<'a>(
    bytes: &'a [u8],
    framing: Framing,
    joined: &'a mut Vec<u8>,
) -> Result<Option<(&'a [u8], usize)>, String> {
    match framing {
        Framing::Length(length) => Ok(bytes.get(..length).map(|body| (body, length))),
        Framing::Chunked => match join(bytes, joined)? {
            Some(taken) => Ok(Some((joined, taken))),
            None => Ok(None),
        },
    }
}

fn join(bytes: &[u8], joined: &mut Vec<u8>) -> Result<Option<usize>, String> {
    joined.clear();
    let mut at = 0;
    loop {
        let Some(line) = memmem::find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or("a bad chunk size")?;
        let start = at + line + 2;
        let end = start.checked_add(size).ok_or("a bad chunk size")?;
        let Some(after) = bytes.get(end..end + 2) else { return Ok(None) };
        if after != b"\r\n" {
            return Err("a chunk of another length than it says".to_owned());
        }
        if size == 0 {
            return Ok(Some(end + 2));
        }
        joined.extend_from_slice(&bytes[start..end]);
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let bytes = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 12\r\nMCP-session-id: s1\r\nConnection: close\r\n\r\nbody";
        let head = Head::read(bytes).unwrap().unwrap();
        assert_eq!(head.status(), Some(200));
        assert_eq!((head.framing, head.close, head.session), (Framing::Length(12), true, Some(&b"s1"[..])));
        assert_eq!(&bytes[head.length..], b"body");
        assert_eq!(Head::read(&bytes[..40]), Ok(None));
        let bare = Head::read(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!((bare.first, bare.framing, bare.length), (&b"GET / HTTP/1.1"[..], Framing::Length(0), 18));
        assert!(Head::read(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
    }

    #[test]
    fn a_body_is_given_when_its_last_byte_is_there() {
        let mut joined = Vec::new();
        let cases: [(&str, Framing, &[u8], Option<(&[u8], usize)>); 6] = [
            ("whole", Framing::Length(3), b"abcd", Some((b"abc", 3))),
            ("partial", Framing::Length(5), b"abcd", None),
            ("chunks", Framing::Chunked, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\nx", Some((b"abc", 18))),
            ("chunks without their end", Framing::Chunked, b"2\r\nab\r\n1\r\nc\r\n0\r\n", None),
            ("half a chunk", Framing::Chunked, b"8\r\nab", None),
            ("half a size", Framing::Chunked, b"8", None),
        ];
        for (name, framing, bytes, expected) in cases {
            assert_eq!(body(bytes, framing, &mut joined).unwrap(), expected, "{name}");
        }
        for bytes in [&b"x\r\nab\r\n"[..], b"1\r\nabc\r\n"] {
            assert!(body(bytes, Framing::Chunked, &mut joined).is_err());
        }
    }

    #[test]
    fn what_was_read_is_kept_until_it_is_consumed() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.fill(&b"abc"[..]).unwrap(), 3);
        inbox.consume(2);
        assert_eq!(inbox.fill(&b"de"[..]).unwrap(), 2);
        assert_eq!(inbox.bytes(), b"cde");
    }
}
