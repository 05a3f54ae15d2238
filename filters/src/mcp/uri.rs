//! The normal form of a URI, by which rules judge it (RFC 3986, sections 6.2.2 and 6.2.3).
//!
//! Servers read one resource under many spellings: another case of the scheme, `%65` for `e`, `/./`,
//! `//` or a backslash. A rule compares one text, so it is asked of one spelling. [`normal`] gives that
//! spelling for every text, and says of a text that no spelling is sure to be read alike.
//!
//! A client's URI that no server lists is refused unless it is its own normal form, see
//! [`Normal::is_exact`]: what is judged then is what is sent, byte for byte.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Schemes whose authority names a host of the DNS, and the port that goes without saying.
const HOSTED: [(&str, &str); 5] =
    [("http", "80"), ("https", "443"), ("ws", "80"), ("wss", "443"), ("ftp", "21")];

const SEPARATOR: &str = "it has an encoded slash or backslash, which servers read in different ways";
const BACKSLASH: &str = "it has a backslash";
const CONTROL: &str = "it has a control character";
const PERCENT: &str = "a `%` in it is not followed by two hexadecimal digits";
const UTF_8: &str = "its encoded bytes are not UTF-8";
const DOTS: &str = "it has a `.` or `..` that servers read in different ways";
const FILE_HOST: &str = "it names a host of a file, which servers ignore";
const USER: &str = "it names a user before its host";
const HOST: &str = "its host or port is not written in the usual way";
const SCHEME: &str = "it has no scheme";
const HIERARCHY: &str = "its scheme needs `//` and a path behind it";

/// A URI as rules judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// Its normal form; of a text that has none, the nearest to it.
    pub form: Cow<'a, str>,
    /// Why servers may read it in different ways, whatever its spelling.
    pub fault: Option<&'static str>,
}

impl Normal<'_> {
    /// Whether the text was in normal form: every server reads it as it is judged.
    pub fn is_exact(&self) -> bool {
        self.fault.is_none() && matches!(self.form, Cow::Borrowed(_))
    }
}

/// The normal form of a URI.
///
/// Scheme and encodings have one case, and what needs no encoding has none. The path has neither `.`
/// nor `..` nor empty segments. In the schemes of the web and `file`, host and port have one form.
/// What a URI may not hold is encoded.
pub fn normal(text: &str) -> Normal<'_> {
    Writer::new("").normal(text)
}

/// The normal form of a URI template (RFC 6570): expressions stay as they are.
pub fn normal_template(text: &str) -> Normal<'_> {
    Writer::new("{").normal(text)
}

/// The normal form of a pattern over URIs and templates, in which `*` stands for any run of characters.
pub fn normal_pattern(text: &str) -> Normal<'_> {
    Writer::new("{*").normal(text)
}

/// The scheme of a URI or template, if it begins with one.
pub fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let (first, rest) = scheme.as_bytes().split_first()?;
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    (first.is_ascii_alphabetic() && rest.iter().all(legal)).then_some(scheme)
}

/// Writes a normal form.
struct Writer {
    /// Characters that begin what stands as it is: `{` an expression, `*` itself.
    open: &'static str,
    out: String,
    fault: Option<&'static str>,
}

/// The part of a URI that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Authority,
    Path,
    /// Query and fragment.
    Tail,
}

impl Part {
    fn holds(self, byte: u8) -> bool {
        let plain = is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte);
        plain
            || match self {
                Part::Authority => matches!(byte, b'[' | b']'),
                Part::Path => byte == b'/',
                Part::Tail => matches!(byte, b'/' | b'?'),
            }
    }
}

impl Writer {
    fn new(open: &'static str) -> Writer {
        Writer { open, out: String::new(), fault: None }
    }

    fn normal(mut self, text: &str) -> Normal<'_> {
        self.out.reserve(text.len());
        let scheme = scheme(text).unwrap_or_default();
        let rest = match scheme {
            "" => {
                self.fails(SCHEME);
                text
            }
            scheme => &text[scheme.len() + 1..],
        };
        if !scheme.is_empty() {
            self.out.push_str(&scheme.to_ascii_lowercase());
            self.out.push(':');
        }
        let scheme = scheme.to_ascii_lowercase();
        let (front, tail) = rest.split_at(self.find(rest, &['?', '#']));
        self.hierarchy(&scheme, front);
        self.tail(tail);
        if !is_utf8(&self.out) {
            self.fails(UTF_8);
        }
        let form = if self.out == text { Cow::Borrowed(text) } else { Cow::Owned(self.out) };
        Normal { form, fault: self.fault }
    }

    /// Authority and path.
    fn hierarchy(&mut self, scheme: &str, front: &str) {
        let slashed = match front.contains('\\') {
            true => {
                self.fails(BACKSLASH);
                Cow::Owned(front.replace('\\', "/"))
            }
            false => Cow::Borrowed(front),
        };
        let is_file = scheme == "file";
        let port = HOSTED.iter().find(|(hosted, _)| *hosted == scheme).map(|(_, port)| *port);
        let Some(after) = slashed.strip_prefix("//") else {
            if port.is_some() || (is_file && !slashed.starts_with('/')) {
                self.fails(HIERARCHY);
            }
            self.out.push_str(if is_file && slashed.starts_with('/') { "//" } else { "" });
            return self.path(&slashed);
        };
        let (authority, path) = after.split_at(self.find(after, &['/']));
        self.out.push_str("//");
        let begins = self.out.len();
        self.encode(authority, Part::Authority);
        let written = self.out.split_off(begins);
        let is_open = written.contains(|character| self.open.contains(character));
        let authority = match port {
            _ if is_open => written,
            Some(port) => self.host_and_port(&written, port),
            None => self.named_authority(written, is_file),
        };
        self.out.push_str(&authority);
        match path {
            "" if port.is_some() && !is_open => self.out.push('/'),
            path => self.path(path),
        }
    }

    /// The authority of a scheme that gives it a meaning of its own: its case counts.
    fn named_authority(&mut self, authority: String, is_file: bool) -> String {
        if authority.contains('@') {
            self.fails(USER);
        }
        if is_dots(&authority) {
            self.fails(DOTS);
        }
        match is_file {
            true if authority.is_empty() || authority.eq_ignore_ascii_case("localhost") => String::new(),
            // Most servers take the path alone, and read `/etc/passwd` from `file://any/etc/passwd`.
            true => {
                self.fails(FILE_HOST);
                authority.to_ascii_lowercase()
            }
            false => authority,
        }
    }

    /// The authority of a scheme of the web.
    fn host_and_port(&mut self, authority: &str, usual: &str) -> String {
        if authority.contains('@') {
            self.fails(USER);
        }
        let place = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let (host, port) = place.unwrap_or((authority, ""));
        let host = usual_host(host).unwrap_or_else(|| {
            self.fails(HOST);
            host.to_ascii_lowercase()
        });
        match port.parse::<u16>() {
            Ok(number) if port.starts_with(|first: char| first.is_ascii_digit()) => {
                let number = number.to_string();
                if number == usual { host } else { format!("{host}:{number}") }
            }
            _ if port.is_empty() => host,
            _ => {
                self.fails(HOST);
                format!("{host}:{port}")
            }
        }
    }

    fn path(&mut self, path: &str) {
        let begins = self.out.len();
        self.encode(path, Part::Path);
        let written = self.out.split_off(begins);
        let mut kept: Vec<&str> = Vec::new();
        let mut is_folder = false;
        let Some(segments) = written.strip_prefix('/') else { return self.rootless(&written) };
        for segment in segments.split('/') {
            is_folder = matches!(segment, "" | "." | "..");
            match segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                segment => {
                    if is_dots(segment) {
                        self.fails(DOTS);
                    }
                    kept.push(segment);
                }
            }
        }
        self.out.push('/');
        self.out.push_str(&kept.join("/"));
        if is_folder && !kept.is_empty() {
            self.out.push('/');
        }
    }

    /// A path that does not begin with a slash: whether it has segments is known to its scheme alone.
    fn rootless(&mut self, path: &str) {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        if segments.any(is_dots) {
            self.fails(DOTS);
        }
        for character in path.chars() {
            if character != '/' || !self.out.ends_with('/') {
                self.out.push(character);
            }
        }
    }

    /// Query and fragment, each with the character before it.
    fn tail(&mut self, tail: &str) {
        let (query, fragment) = tail.split_at(self.find(tail, &['#']));
        for part in [query, fragment] {
            let Some(first) = part.chars().next() else { continue };
            self.out.push(first);
            self.encode(&part[1..], Part::Tail);
        }
    }

    /// Writes a text with what it may not hold encoded, and what needs no encoding decoded.
    fn encode(&mut self, text: &str, part: Part) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Some(end) = self.standing(&text[at..]) {
                self.out.push_str(&text[at..at + end]);
                at += end;
                continue;
            }
            let encoded = (byte == b'%').then(|| decoded(&bytes[at + 1..])).flatten();
            match encoded {
                Some(value) => self.encoded(value, part),
                None if part.holds(byte) => self.out.push(char::from(byte)),
                None => {
                    if byte == b'%' {
                        self.fails(PERCENT);
                    }
                    if byte.is_ascii_control() {
                        self.fails(CONTROL);
                    }
                    self.push_encoded(byte);
                }
            }
            at += if encoded.is_some() { 3 } else { 1 };
            // Bytes of one character are encoded one after another.
            while at < bytes.len() && !text.is_char_boundary(at) {
                self.push_encoded(bytes[at]);
                at += 1;
            }
        }
    }

    /// A byte that was encoded.
    fn encoded(&mut self, value: u8, part: Part) {
        match value {
            value if is_unreserved(value) => return self.out.push(char::from(value)),
            0 => self.fails(CONTROL),
            value if value.is_ascii_control() && part != Part::Tail => self.fails(CONTROL),
            b'/' | b'\\' if part != Part::Tail => self.fails(SEPARATOR),
            _ => {}
        }
        self.push_encoded(value);
    }

    fn push_encoded(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        self.out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
    }

    /// Bytes of what stands as it is at the beginning of a text.
    fn standing(&self, text: &str) -> Option<usize> {
        let first = text.chars().next().filter(|first| self.open.contains(*first))?;
        match first {
            '{' => text.find('}').map(|end| end + 1),
            _ => Some(1),
        }
    }

    /// Where one of these characters is first, outside of expressions; the end if nowhere.
    fn find(&self, text: &str, wanted: &[char]) -> usize {
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            if wanted.contains(&character) {
                break;
            }
            at += self.standing(&text[at..]).unwrap_or(character.len_utf8());
        }
        at
    }

    fn fails(&mut self, fault: &'static str) {
        self.fault.get_or_insert(fault);
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The byte that two hexadecimal digits stand for.
fn decoded(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Whether a segment is `.` or `..` to a server, or nothing where some leave its parameters out.
fn is_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or_default();
    matches!(name, "." | "..") || segment.starts_with(';')
}

/// Whether the encoded bytes of a normal form are text.
fn is_utf8(form: &str) -> bool {
    let bytes = form.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    if !form.contains('%') {
        return true;
    }
    while let Some(&byte) = bytes.get(at) {
        let encoded = (byte == b'%').then(|| decoded(&bytes[at + 1..])).flatten();
        plain.push(encoded.unwrap_or(byte));
        at += if encoded.is_some() { 3 } else { 1 };
    }
    std::str::from_utf8(&plain).is_ok()
}

/// The one form of a host; `None` for one that resolvers read in different ways.
fn usual_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Some(format!("[{}]", address.parse::<Ipv6Addr>().ok()?));
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !host.bytes().all(is_legal) || host.split('.').any(str::is_empty) {
        return None;
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    match is_number {
        true => Some(host.parse::<Ipv4Addr>().ok()?.to_string()),
        false => Some(host),
    }
}

#[cfg(test)]
mod tests;
