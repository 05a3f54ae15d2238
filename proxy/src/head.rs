//! The raw check of a request's header section, before anything parses it.
//!
//! Whatever two parsers could read differently is refused on the bytes themselves (RFC 9112 §2.2,
//! §5, §6.3): bare LF, folded lines, space around a name, control bytes, two lengths, a length
//! beside a transfer coding, two hosts, a target that names another host. Most parsers repair some of
//! these silently.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use portunus_filters::{Denial, Reason};

/// Room for the fields of an ordinary request.
const FIELDS: usize = 16;

/// Limits on a header section.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes up to and with the empty line.
    pub bytes: usize,
    /// Field lines.
    pub fields: usize,
}

/// What has been read of a header section.
#[derive(Debug, Default)]
pub struct HeadScan {
    scanned: usize,
    line: usize,
}

impl HeadScan {
    /// Looks at what arrived since the last look; `Ok(Some(n))` is the length of a complete section.
    ///
    /// # Errors
    /// A [`Denial`] with [`Reason::MalformedHttp`] or [`Reason::HeadersTooLarge`].
    pub fn look(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, Denial> {
        while let Some(hit) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let end = self.scanned + hit;
            if end + 1 > limits.bytes {
                return Err(too_large(limits));
            }
            if end == 0 || bytes[end - 1] != b'\r' {
                return Err(malformed("a header line ends in a bare LF"));
            }
            let empty = end - 1 == self.line;
            let first = self.line == 0;
            self.scanned = end + 1;
            self.line = end + 1;
            match (empty, first) {
                (true, true) => return Err(malformed("the request line is empty")),
                (true, false) => return check(&bytes[..=end], limits).map(|()| Some(end + 1)),
                (false, _) => {}
            }
        }
        self.scanned = bytes.len();
        if bytes.len() > limits.bytes { Err(too_large(limits)) } else { Ok(None) }
    }
}

/// Reads a section that [`HeadScan::look`] has found to be complete and sound.
///
/// # Errors
/// [`Reason::MalformedHttp`] for a target or a value that has no form in which the stages could read it.
pub fn read(section: &Bytes) -> Result<Parts, Denial> {
    let mut lines = Lines(section.strip_suffix(b"\r\n\r\n").unwrap_or(section));
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::from_bytes(method).map_err(|_| malformed("the method is no token"))?;
    head.uri = Uri::from_maybe_shared(section.slice_ref(target))
        .map_err(|_| malformed("the request target is no URI"))?;
    if first.ends_with(b"HTTP/1.0") {
        head.version = Version::HTTP_10;
    }
    head.headers.reserve(FIELDS);
    for line in lines {
        let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(line.len()));
        let name = HeaderName::from_bytes(name).map_err(|_| malformed("a header name is no token"))?;
        let value = section.slice_ref(value.get(1..).unwrap_or_default().trim_ascii());
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| malformed("a header value has a control character"))?;
        head.headers.append(name, value);
    }
    Ok(head)
}

/// Checks a complete header section.
fn check(section: &[u8], limits: HeadLimits) -> Result<(), Denial> {
    let mut lines = Lines(section.strip_suffix(b"\r\n\r\n").unwrap_or(section));
    let first = lines.next().unwrap_or_default();
    let target = request_line(first)?;
    let mut framing = Framing::default();
    let mut fields = 0;
    for line in lines {
        fields += 1;
        if fields > limits.fields {
            return Err(Denial::new(
                Reason::HeadersTooLarge,
                format!("more than {} header fields", limits.fields),
            ));
        }
        field(line, &mut framing)?;
    }
    if first.ends_with(b"HTTP/1.0") && framing.codings > 0 {
        return Err(malformed("HTTP/1.0 has no transfer codings"));
    }
    framing.judge(target)
}

/// The lines of a section, without their ends.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.0).unwrap_or(self.0.len());
        let line = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// Checks `METHOD SP target SP HTTP/1.x` and gives the target.
fn request_line(line: &[u8]) -> Result<&[u8], Denial> {
    let mut parts = line.split(|&byte| byte == b' ');
    let parts = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = parts else {
        return Err(malformed("the request line is not `METHOD target HTTP/1.1`"));
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err(malformed("the method is no token"));
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(malformed("the request target has characters that must be percent-encoded"));
    }
    if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
        return Err(malformed("the version is neither HTTP/1.1 nor HTTP/1.0"));
    }
    Ok(target)
}

/// What the fields say about where the message ends and whom it is for.
#[derive(Default)]
struct Framing<'a> {
    lengths: usize,
    codings: usize,
    hosts: usize,
    host: &'a [u8],
}

impl Framing<'_> {
    fn judge(&self, target: &[u8]) -> Result<(), Denial> {
        if self.lengths > 1 {
            return Err(malformed("more than one Content-Length"));
        }
        if self.codings > 1 {
            return Err(malformed("more than one Transfer-Encoding"));
        }
        if self.lengths > 0 && self.codings > 0 {
            return Err(malformed("both Content-Length and Transfer-Encoding"));
        }
        if self.hosts != 1 {
            return Err(malformed("a request must have exactly one Host"));
        }
        match absolute_authority(target) {
            Some(authority) if !authority.eq_ignore_ascii_case(self.host) => {
                Err(malformed("the request target names another host than Host"))
            }
            None if target != b"*" && !target.starts_with(b"/") => {
                Err(malformed("the request target is no path"))
            }
            _ => Ok(()),
        }
    }
}

fn field<'a>(line: &'a [u8], framing: &mut Framing<'a>) -> Result<(), Denial> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(malformed("a header field is folded over two lines"));
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Err(malformed("a header line has no colon"));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(malformed("a header name is no token"));
    }
    // Without an early end the compiler checks many bytes at once.
    if value.iter().fold(false, |found, &byte| found | (byte < b' ' && byte != b'\t') | (byte == 0x7f)) {
        return Err(malformed("a header value has a control character"));
    }
    let value = value.trim_ascii();
    if name.eq_ignore_ascii_case(b"content-length") {
        framing.lengths += 1;
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(malformed("Content-Length is not a number"));
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        framing.codings += 1;
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("a transfer coding other than chunked"));
        }
    } else if name.eq_ignore_ascii_case(b"host") {
        framing.hosts += 1;
        framing.host = value;
    }
    Ok(())
}

/// The authority of `http://authority/…`.
fn absolute_authority(target: &[u8]) -> Option<&[u8]> {
    if target.starts_with(b"/") {
        return None;
    }
    let scheme_end = target.windows(3).position(|part| part == b"://")?;
    if target[..scheme_end].contains(&b'/') {
        return None;
    }
    let rest = &target[scheme_end + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Which bytes a name may have (RFC 9110 §5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

fn malformed(detail: &'static str) -> Denial {
    Denial::new(Reason::MalformedHttp, detail)
}

fn too_large(limits: HeadLimits) -> Denial {
    Denial::new(Reason::HeadersTooLarge, format!("the header section exceeds {} bytes", limits.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 300, fields: 4 };

    fn look(text: &str) -> Result<Option<usize>, String> {
        HeadScan::default().look(text.as_bytes(), LIMITS).map_err(|denial| denial.detail.into_owned())
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of named cases")]
    fn whatever_two_parsers_could_read_differently_is_refused() {
        let post = |fields: &str| format!("POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let cases: Vec<(&str, String, &str)> = vec![
            (
                "length and coding",
                post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
                "both Content-Length and Transfer-Encoding",
            ),
            (
                "two lengths",
                post("Content-Length: 3\r\nContent-Length: 3\r\n"),
                "more than one Content-Length",
            ),
            ("list of lengths", post("Content-Length: 3, 3\r\n"), "Content-Length is not a number"),
            ("signed length", post("Content-Length: +3\r\n"), "Content-Length is not a number"),
            (
                "coding in HTTP/1.0",
                "POST /mcp HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                "HTTP/1.0 has no transfer codings",
            ),
            (
                "two codings",
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
                "more than one Transfer-Encoding",
            ),
            (
                "another coding",
                post("Transfer-Encoding: gzip, chunked\r\n"),
                "a transfer coding other than chunked",
            ),
            ("bare LF", "POST /mcp HTTP/1.1\nHost: a\r\n\r\n".into(), "a header line ends in a bare LF"),
            (
                "bare LF in fields",
                "POST /mcp HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into(),
                "a header line ends in a bare LF",
            ),
            ("folded", post("X: a\r\n b\r\n"), "a header field is folded over two lines"),
            ("space before colon", post("Content-Length : 3\r\n"), "a header name is no token"),
            ("NUL", post("X: a\0b\r\n"), "a header value has a control character"),
            ("bare CR", post("X: a\rb\r\n"), "a header value has a control character"),
            ("DEL", post("X: a\x7fb\r\n"), "a header value has a control character"),
            ("no colon", post("X\r\n"), "a header line has no colon"),
            ("empty name", post(": x\r\n"), "a header name is no token"),
            ("two hosts", post("Host: b\r\n"), "a request must have exactly one Host"),
            ("no host", "GET / HTTP/1.1\r\n\r\n".into(), "a request must have exactly one Host"),
            (
                "another host",
                "GET http://b/mcp HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                "the request target names another host than Host",
            ),
            (
                "user in the target",
                "GET http://a@b/mcp HTTP/1.1\r\nHost: b\r\n\r\n".into(),
                "the request target names another host than Host",
            ),
            (
                "tab in the request line",
                "GET\t/mcp HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                "the request line is not `METHOD target HTTP/1.1`",
            ),
            (
                "space in the target",
                "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                "the request line is not `METHOD target HTTP/1.1`",
            ),
            (
                "raw bytes in the target",
                "GET /\u{17c} HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                "the request target has characters that must be percent-encoded",
            ),
            (
                "HTTP/2 preface",
                "PRI * HTTP/2.0\r\n\r\n".into(),
                "the version is neither HTTP/1.1 nor HTTP/1.0",
            ),
            (
                "relative target",
                "GET mcp HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                "the request target is no path",
            ),
            ("empty line first", "\r\n".into(), "the request line is empty"),
            ("too many fields", post(&"X: y\r\n".repeat(4)), "more than 4 header fields"),
            (
                "too large",
                post(&format!("X: {}\r\n", "y".repeat(300))),
                "the header section exceeds 300 bytes",
            ),
            ("too large and unfinished", "A".repeat(301), "the header section exceeds 300 bytes"),
        ];
        for (name, text, expected) in cases {
            assert_eq!(look(&text), Err(expected.to_owned()), "{name}");
        }
    }

    #[test]
    fn honest_requests_pass_in_any_pieces() {
        let requests = [
            "POST /mcp?x=1 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\n",
            "POST http://a:80/mcp HTTP/1.1\r\nhost: A:80\r\nTransfer-Encoding: chunked\r\nX: \ty \r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n",
            "GET /redirect?to=http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for request in requests {
            let wire = format!("{request}BODY");
            assert_eq!(look(&wire), Ok(Some(request.len())), "{request}");
            let mut scan = HeadScan::default();
            for end in 1..request.len() {
                assert_eq!(scan.look(&request.as_bytes()[..end], LIMITS), Ok(None), "{request} up to {end}");
            }
            assert_eq!(scan.look(request.as_bytes(), LIMITS), Ok(Some(request.len())));
        }
    }

    #[test]
    fn a_sound_section_is_read_as_it_is_written() {
        let section = Bytes::from_static(
            b"POST /mcp?a=b HTTP/1.0\r\nHost: gw:80\r\nX-A:  one \r\nx-a:\ttwo\r\nEmpty:\r\n\r\n",
        );
        let head = read(&section).unwrap();
        assert_eq!((head.method.as_str(), head.version), ("POST", Version::HTTP_10));
        assert_eq!((head.uri.path(), head.uri.query()), ("/mcp", Some("a=b")));
        let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["one", "two"]);
        assert_eq!(
            (head.headers["host"].as_bytes(), head.headers["empty"].as_bytes()),
            (&b"gw:80"[..], &b""[..])
        );
        let target = Bytes::from_static(b"GET /a|b<c> HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(read(&target).unwrap_err().reason, Reason::MalformedHttp);
    }
}
