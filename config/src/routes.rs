//! Which virtual server answers a request.
//!
//! A path is matched after one normalisation, the same for documents and requests, and what two
//! readers could take for different paths is refused rather than repaired.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::snapshot::{ServerId, VirtualServer};

/// The virtual servers of a snapshot by path and host.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    servers: Vec<Arc<VirtualServer>>,
    by_id: HashMap<ServerId, Arc<VirtualServer>>,
    /// For each path the servers there, in the order of the document.
    by_path: HashMap<String, Vec<Arc<VirtualServer>>>,
}

impl Routes {
    pub(crate) fn new(servers: Vec<Arc<VirtualServer>>) -> Routes {
        let by_id = servers.iter().map(|server| (server.id.clone(), Arc::clone(server))).collect();
        let mut by_path: HashMap<String, Vec<Arc<VirtualServer>>> = HashMap::new();
        for server in &servers {
            by_path.entry(server.path.clone()).or_default().push(Arc::clone(server));
        }
        Routes { servers, by_id, by_path }
    }

    /// The virtual server for a request: its path first, then the most exactly named host.
    ///
    /// A trailing slash makes no difference. Without `host` only servers for any host answer.
    pub fn resolve(&self, host: Option<&str>, path: &NormalPath) -> Resolution<'_> {
        let Some(candidates) = self.by_path.get(path.without_trailing_slash()) else {
            return Resolution::None;
        };
        candidates
            .iter()
            .filter_map(|server| Some((best_match(server, host)?, server)))
            .max_by_key(|(specificity, _)| *specificity)
            .map_or(Resolution::None, |(_, server)| Resolution::Server(server))
    }

    /// The virtual server with this id.
    pub fn server(&self, id: &ServerId) -> Option<&Arc<VirtualServer>> {
        self.by_id.get(id)
    }

    /// Every virtual server, in the order of the document.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<VirtualServer>> {
        self.servers.iter()
    }
}

/// Who answers a request.
#[derive(Clone, Copy, Debug)]
pub enum Resolution<'a> {
    /// This virtual server.
    Server(&'a Arc<VirtualServer>),
    /// Nobody.
    None,
}

/// A request path in its one normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NormalPath(String);

impl NormalPath {
    /// Normalises a path as it stands in a request line, without its query (RFC 3986 §6.2.2).
    ///
    /// Escapes of unreserved characters are decoded, the others kept with upper-case digits.
    ///
    /// # Errors
    /// [`PathProblem`] for what has no single reading.
    pub fn parse(raw_path: &str) -> Result<NormalPath, PathProblem> {
        if !raw_path.starts_with('/') {
            return Err(PathProblem::NotAbsolute);
        }
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
        let decoded =
            if raw_path.bytes().all(plain) { raw_path.to_owned() } else { decode_unreserved(raw_path)? };
        let mut segments = decoded.as_bytes()[1..].split(|&byte| byte == b'/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                b"" if segments.peek().is_some() => return Err(PathProblem::EmptySegment),
                b"." | b".." => return Err(PathProblem::DotSegment),
                _ => {}
            }
        }
        Ok(NormalPath(decoded))
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The normal form that routes are kept under: `/mcp/` is `/mcp`, the root stays `/`.
    pub fn without_trailing_slash(&self) -> &str {
        match self.0.strip_suffix('/') {
            Some("") | None => &self.0,
            Some(shorter) => shorter,
        }
    }
}

/// Why a path has no single reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathProblem {
    /// It does not begin with `/`.
    NotAbsolute,
    /// `//` inside it.
    EmptySegment,
    /// A segment `.` or `..`, written plainly or escaped.
    DotSegment,
    /// An escaped `/` or `\`.
    EncodedSeparator,
    /// A `%` that is not followed by two hexadecimal digits.
    BadEscape,
    /// A control character, a space, `\`, `?`, `#` or non-ASCII text; escaped control characters too.
    ForbiddenCharacter,
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathProblem::NotAbsolute => "does not begin with `/`",
            PathProblem::EmptySegment => "has an empty segment (`//`)",
            PathProblem::DotSegment => "has a `.` or `..` segment",
            PathProblem::EncodedSeparator => "has an encoded separator",
            PathProblem::BadEscape => "has a `%` without two hexadecimal digits",
            PathProblem::ForbiddenCharacter => "has a character that a path cannot hold",
        })
    }
}

impl std::error::Error for PathProblem {}

/// How exactly `server` names `host`; `None` if it does not answer to it.
fn best_match(server: &VirtualServer, host: Option<&str>) -> Option<Option<(bool, usize, bool)>> {
    if server.hosts.is_empty() {
        return Some(None);
    }
    let host = host?;
    let matching = server.hosts.iter().filter(|pattern| pattern.matches(host));
    matching.map(|pattern| pattern.specificity()).max().map(Some)
}

fn decode_unreserved(raw: &str) -> Result<String, PathProblem> {
    let mut decoded = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value));
                let (Some(high), Some(low)) = digits else { return Err(PathProblem::BadEscape) };
                push_escaped(&mut decoded, high << 4 | low)?;
            }
            0..=b' ' | b'\\' | b'?' | b'#' | 0x7f.. => return Err(PathProblem::ForbiddenCharacter),
            plain => decoded.push(char::from(plain)),
        }
    }
    Ok(decoded)
}

fn push_escaped(decoded: &mut String, byte: u8) -> Result<(), PathProblem> {
    match byte {
        b'/' | b'\\' => Err(PathProblem::EncodedSeparator),
        0..b' ' | 0x7f => Err(PathProblem::ForbiddenCharacter),
        b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            decoded.push(char::from(byte));
            Ok(())
        }
        kept => {
            decoded.push_str(&format!("%{kept:02X}"));
            Ok(())
        }
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::loaded;

    #[test]
    fn paths_have_one_normal_form() {
        let table = [
            ("plain", "/mcp", Ok("/mcp")),
            ("root", "/", Ok("/")),
            ("trailing slash", "/mcp/", Ok("/mcp/")),
            ("escaped unreserved", "/%6Dcp%2D1", Ok("/mcp-1")),
            ("kept escape in upper case", "/a%3a%20", Ok("/a%3A%20")),
            ("escaped percent stays one layer", "/%252f", Ok("/%252f")),
            ("non-ASCII escaped", "/%c3%a9", Ok("/%C3%A9")),
            ("case is kept", "/MCP", Ok("/MCP")),
            ("dots inside a name", "/a..b/...", Ok("/a..b/...")),
            ("empty", "", Err(PathProblem::NotAbsolute)),
            ("asterisk form", "*", Err(PathProblem::NotAbsolute)),
            ("absolute form", "http://a/mcp", Err(PathProblem::NotAbsolute)),
            ("double slash", "//mcp", Err(PathProblem::EmptySegment)),
            ("double slash at the end", "/mcp//", Err(PathProblem::EmptySegment)),
            ("dot segment", "/a/./b", Err(PathProblem::DotSegment)),
            ("parent segment", "/a/../b", Err(PathProblem::DotSegment)),
            ("parent segment at the end", "/a/..", Err(PathProblem::DotSegment)),
            ("escaped parent segment", "/a/%2e%2E/b", Err(PathProblem::DotSegment)),
            ("half escaped parent segment", "/a/.%2e/b", Err(PathProblem::DotSegment)),
            ("escaped slash", "/a%2fb", Err(PathProblem::EncodedSeparator)),
            ("escaped backslash", "/a%5Cb", Err(PathProblem::EncodedSeparator)),
            ("backslash", "/a\\b", Err(PathProblem::ForbiddenCharacter)),
            ("escaped NUL", "/a%00", Err(PathProblem::ForbiddenCharacter)),
            ("escaped newline", "/a%0a", Err(PathProblem::ForbiddenCharacter)),
            ("escaped delete", "/a%7f", Err(PathProblem::ForbiddenCharacter)),
            ("space", "/a b", Err(PathProblem::ForbiddenCharacter)),
            ("query", "/a?b", Err(PathProblem::ForbiddenCharacter)),
            ("fragment", "/a#b", Err(PathProblem::ForbiddenCharacter)),
            ("non-ASCII", "/é", Err(PathProblem::ForbiddenCharacter)),
            ("short escape", "/a%2", Err(PathProblem::BadEscape)),
            ("bad escape", "/a%zz", Err(PathProblem::BadEscape)),
        ];
        for (name, raw, expected) in table {
            let normal = NormalPath::parse(raw);
            assert_eq!(normal.as_ref().map(NormalPath::as_str), expected.as_ref().copied(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_form(raw in "/[ -~]{0,24}") {
            if let Ok(normal) = NormalPath::parse(&raw) {
                prop_assert_eq!(NormalPath::parse(normal.as_str()), Ok(normal.clone()));
                prop_assert!(!normal.as_str().contains("//") && !normal.as_str().contains("/../"));
            }
        }
    }

    #[test]
    fn the_most_exactly_named_host_answers() {
        let routes = loaded(
            "version: 1\n\
             upstreams: {a: 'http://localhost:1/mcp'}\n\
             servers:\n\
             - {path: /mcp, name: wild, hosts: ['*.example.com'], upstreams: a}\n\
             - {path: /mcp, name: deep, hosts: ['*.team.example.com'], upstreams: a}\n\
             - {path: /mcp, name: exact, hosts: [api.example.com], upstreams: a}\n\
             - {path: /mcp, name: ported, hosts: ['api.example.com:8443'], upstreams: a}\n\
             - {path: /mcp, name: any, upstreams: a}\n\
             - {path: /only, name: only, hosts: [api.example.com], upstreams: a}\n",
        )
        .snapshot
        .routes;
        let table = [
            ("no host", None, "/mcp", Some("any")),
            ("an unknown host", Some("a.org"), "/mcp", Some("any")),
            ("a hostile host", Some("a b\u{0}"), "/mcp", Some("any")),
            ("wildcard", Some("x.example.com"), "/mcp", Some("wild")),
            ("longer wildcard", Some("x.team.example.com"), "/mcp", Some("deep")),
            ("exact", Some("API.example.com."), "/mcp", Some("exact")),
            ("exact with its port", Some("api.example.com:8443"), "/mcp", Some("ported")),
            ("trailing slash", Some("api.example.com"), "/mcp/", Some("exact")),
            ("a path below", Some("api.example.com"), "/mcp/x", None),
            ("a path above", Some("api.example.com"), "/", None),
            ("case matters in paths", Some("api.example.com"), "/MCP", None),
            ("a path of another host", Some("a.org"), "/only", None),
            ("a path of some host, without one", None, "/only", None),
        ];
        for (name, host, path, expected) in table {
            let path = NormalPath::parse(path).unwrap();
            let found = match routes.resolve(host, &path) {
                Resolution::Server(server) => Some(&*server.name),
                Resolution::None => None,
            };
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(routes.iter().len(), 6);
        for server in routes.iter() {
            assert!(Arc::ptr_eq(server, routes.server(&server.id).unwrap()));
        }
    }
}
