//! Which `Host` and `Origin` values are meant by what a document writes.
//!
//! Both are compared in one form: lower case, no trailing dot, IPv6 without brackets, port as a
//! number. A value that does not parse matches nothing.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A host name, address or `*.` subdomain pattern, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    name: NamePattern,
    /// `None` matches any port.
    port: Option<u16>,
}

impl HostPattern {
    /// Reads `name`, `name:port`, `*.name`, an IPv4 address or a bracketed IPv6 address.
    ///
    /// # Errors
    /// What is wrong with the text, in a few words.
    pub fn parse(text: &str) -> Result<HostPattern, &'static str> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(HostPattern { name: NamePattern::Exact(address.to_string()), port: None });
        }
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let authority = Authority::parse(rest).ok_or("not a host name, `*.` pattern or address")?;
        let name = match wildcard {
            true if authority.is_address() => return Err("`*.` goes before a name, not an address"),
            true => NamePattern::Under(authority.host.into_owned()),
            false => NamePattern::Exact(authority.host.into_owned()),
        };
        Ok(HostPattern { name, port: authority.port })
    }

    /// Whether a `Host` header names it.
    ///
    /// Without a port the header means its scheme's: 80, or 443 behind whatever ends TLS.
    pub fn matches(&self, host_header: &str) -> bool {
        HostPattern::any_matches(std::slice::from_ref(self), host_header)
    }

    /// Whether a `Host` header names one of `patterns`, as [`HostPattern::matches`].
    ///
    /// A name that stands there as it stands here is found without being parsed.
    pub fn any_matches(patterns: &[HostPattern], host_header: &str) -> bool {
        patterns.iter().any(|pattern| pattern.matches_as_written(host_header))
            || Authority::parse(host_header)
                .is_some_and(|authority| patterns.iter().any(|pattern| pattern.matches_authority(&authority)))
    }

    /// Whether connections to `host` on `port` go to what it names.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.matches_authority(&Authority { host: canonical_host(host), port: Some(port) })
    }

    /// How exactly it names a host: of two patterns that match, the greater one decides.
    pub fn specificity(&self) -> (bool, usize, bool) {
        match &self.name {
            NamePattern::Exact(name) => (true, name.len(), self.port.is_some()),
            NamePattern::Under(suffix) => (false, suffix.len(), self.port.is_some()),
        }
    }

    /// The loopback names with any port, what a loopback listener answers to by default.
    pub fn loopback() -> Vec<HostPattern> {
        ["localhost", "127.0.0.1", "::1"].map(|name| HostPattern::exact(name.to_owned())).to_vec()
    }

    /// Exactly `host`, any port.
    pub fn exact(host: String) -> HostPattern {
        HostPattern { name: NamePattern::Exact(host), port: None }
    }

    /// For a header that begins with this very name; in one, IPv6 would have brackets.
    fn matches_as_written(&self, host_header: &str) -> bool {
        let NamePattern::Exact(name) = &self.name else { return false };
        if name.contains(':') {
            return false;
        }
        let port = host_header.strip_prefix(name.as_str()).and_then(port_of);
        port.is_some_and(|port| self.matches_port(port))
    }

    fn matches_authority(&self, authority: &Authority<'_>) -> bool {
        self.matches_port(authority.port) && self.name.matches(&authority.host)
    }

    fn matches_port(&self, port: Option<u16>) -> bool {
        match (self.port, port) {
            (None, _) => true,
            (Some(wanted), Some(port)) => wanted == port,
            (Some(wanted), None) => wanted == 80 || wanted == 443,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            NamePattern::Under(suffix) => write!(f, "*.{suffix}")?,
            NamePattern::Exact(name) if name.contains(':') => write!(f, "[{name}]")?,
            NamePattern::Exact(name) => f.write_str(name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Which origins may call a listener from a browser; empty allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginRule(Vec<OriginPattern>);

impl OriginRule {
    /// Whether an `Origin` header value is listed.
    pub fn allows(&self, origin: &str) -> bool {
        if origin == "null" {
            return self.0.contains(&OriginPattern::Null);
        }
        let Some((scheme, authority)) = split_origin(origin) else { return false };
        let Some(authority) = Authority::parse(authority) else { return false };
        let port = authority.port.or(default_port(&scheme));
        self.0.iter().any(|pattern| match pattern {
            OriginPattern::Null => false,
            OriginPattern::Site { scheme: wanted, name, port: wanted_port } => {
                *wanted == scheme
                    && wanted_port.is_none_or(|wanted| Some(wanted) == port)
                    && name.matches(&authority.host)
            }
        })
    }

    /// The patterns as a document writes them.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(OriginPattern::to_string)
    }

    /// Loopback origins with any port, the default of a loopback listener.
    pub fn loopback() -> OriginRule {
        let names = || HostPattern::loopback().into_iter().map(|host| host.name);
        let site = |scheme: &str, name| OriginPattern::Site { scheme: scheme.to_owned(), name, port: None };
        OriginRule(
            names().map(|name| site("http", name)).chain(names().map(|name| site("https", name))).collect(),
        )
    }

    /// The origins of these patterns.
    pub fn new(patterns: Vec<OriginPattern>) -> OriginRule {
        OriginRule(patterns)
    }
}

/// One listed origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// The literal `null` of sandboxed frames and files.
    Null,
    /// `scheme://host[:port]`; no port here means `:*`.
    Site {
        /// Its scheme.
        scheme: String,
        /// Its host, or those under one.
        name: NamePattern,
        /// Its port; `None` is any.
        port: Option<u16>,
    },
}

impl OriginPattern {
    /// Reads `null`, `https://app.example.com`, `https://*.example.com`, `http://localhost:*`.
    pub fn parse(text: &str) -> Result<OriginPattern, &'static str> {
        if text == "null" {
            return Ok(OriginPattern::Null);
        }
        let (scheme, rest) = split_origin(text).ok_or("not an origin: `scheme://host[:port]`")?;
        let (authority, any_port) = match rest.strip_suffix(":*") {
            Some(authority) => (authority, true),
            None => (rest, false),
        };
        let host = HostPattern::parse(authority)?;
        let port = host.port.or(default_port(&scheme)).filter(|_| !any_port);
        Ok(OriginPattern::Site { scheme, name: host.name, port })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginPattern::Null => f.write_str("null"),
            OriginPattern::Site { scheme, name, port } => {
                let shown = port.filter(|port| Some(*port) != default_port(scheme));
                write!(f, "{scheme}://{}", HostPattern { name: name.clone(), port: shown })?;
                if port.is_none() && default_port(scheme).is_some() { f.write_str(":*") } else { Ok(()) }
            }
        }
    }
}

/// The name part of a pattern, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name or address.
    Exact(String),
    /// Any name below this one, at any depth, never the name itself.
    Under(String),
}

impl NamePattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            NamePattern::Exact(name) => name == host,
            NamePattern::Under(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|labels| labels.ends_with('.'))
            }
        }
    }
}

/// A `host[:port]` in canonical form; borrowed where it was written in that form already.
struct Authority<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Authority<'a>> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                (Cow::Owned(address.to_string()), after)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (name, after) = text.split_at(end);
                (host_name(name)?, after)
            }
        };
        Some(Authority { host, port: port_of(port)? })
    }

    fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

/// The port in what follows a host: nothing, or a colon and digits; `None` if it is neither.
fn port_of(text: &str) -> Option<Option<u16>> {
    match text.strip_prefix(':') {
        None => text.is_empty().then_some(None),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().map(Some),
        Some(_) => None,
    }
}

/// A DNS name or IPv4 address in lower case without its trailing dot; `None` if it is neither.
///
/// A name whose last label is a number is refused unless it is a dotted quad: resolvers read
/// `127.1` and `0x7f.1` as addresses, so it could pass one check and dial past another.
pub(crate) fn host_name(text: &str) -> Option<Cow<'_, str>> {
    let name = canonical_host(text);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    let valid = name.len() <= 253 && name.split('.').all(label_is_valid);
    (valid && (!numeric || name.parse::<IpAddr>().is_ok())).then_some(name)
}

fn canonical_host(text: &str) -> Cow<'_, str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

fn split_origin(text: &str) -> Option<(String, &str)> {
    let (scheme, authority) = text.split_once("://")?;
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then(|| (scheme.to_ascii_lowercase(), authority))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns_match_by_meaning() {
        let table = [
            ("exact", "api.example.com", "api.example.com", true),
            ("case", "API.example.com", "api.EXAMPLE.com", true),
            ("trailing dot", "api.example.com", "api.example.com.", true),
            ("trailing dot and port", "api.example.com", "api.example.com.:8080", true),
            ("any port", "api.example.com", "api.example.com:8080", true),
            ("another name", "api.example.com", "example.com", false),
            ("a suffix is no name", "example.com", "notexample.com", false),
            ("port equal", "a.org:8080", "a.org:8080", true),
            ("port differs", "a.org:8080", "a.org:8081", false),
            ("port missing", "a.org:8080", "a.org", false),
            ("default port missing", "a.org:443", "a.org", true),
            ("default port given", "a.org", "a.org:80", true),
            ("below", "*.a.org", "x.a.org", true),
            ("far below", "*.a.org", "x.y.a.org", true),
            ("not itself", "*.a.org", "a.org", false),
            ("not glued on", "*.a.org", "xa.org", false),
            ("empty label below", "*.a.org", ".a.org", false),
            ("ipv6", "[::1]", "[::1]:80", true),
            ("ipv6 written long", "[::1]", "[0:0:0:0:0:0:0:1]", true),
            ("ipv6 bare in the document", "::1", "[::1]", true),
            ("ipv6 with a port", "[::1]:81", "[::1]:82", false),
            ("ipv6 without brackets in a header", "[::1]", "::1", false),
            ("userinfo", "a.org", "x@a.org", false),
            ("empty header", "a.org", "", false),
            ("signed port", "a.org", "a.org:+80", false),
            ("port out of range", "a.org", "a.org:65536", false),
            ("port junk", "a.org", "a.org:80x", false),
        ];
        for (name, pattern, header, expected) in table {
            assert_eq!(HostPattern::parse(pattern).unwrap().matches(header), expected, "{name}");
        }
    }

    #[test]
    fn host_patterns_that_could_mislead_are_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a b",
            "a..b",
            "*.10.0.0.1",
            "127.1",
            "0x7f.1",
            "a/b",
            "http://a",
            "a*.org",
            "a.org:x",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_patterns_show_as_they_are_written() {
        for text in ["a.org", "*.a.org", "a.org:81", "[::1]", "[::1]:81", "10.0.0.1"] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
        }
    }

    fn rule(patterns: &[&str]) -> OriginRule {
        OriginRule(patterns.iter().map(|text| OriginPattern::parse(text).unwrap()).collect())
    }

    #[test]
    fn origins_are_allowed_by_meaning() {
        let table = [
            ("exact", "https://app.example.com", "https://app.example.com", true),
            ("case", "https://App.example.com", "HTTPS://app.Example.com", true),
            ("scheme differs", "https://app.example.com", "http://app.example.com", false),
            ("default port written", "https://app.example.com", "https://app.example.com:443", true),
            ("default port in the list", "https://app.example.com:443", "https://app.example.com", true),
            ("port differs", "https://app.example.com", "https://app.example.com:8443", false),
            ("any port", "http://localhost:*", "http://localhost:5173", true),
            ("any port, none", "http://localhost:*", "http://localhost", true),
            ("any port, other host", "http://localhost:*", "http://localhost.evil.org:1", false),
            ("below", "https://*.example.com", "https://x.example.com", true),
            ("not itself", "https://*.example.com", "https://example.com", false),
            ("null listed", "null", "null", true),
            ("null not listed", "https://a.org", "null", false),
            ("null is lower case", "null", "NULL", false),
            ("own scheme", "chrome-extension://abcdef", "chrome-extension://abcdef", true),
            ("own scheme, other id", "chrome-extension://abcdef", "chrome-extension://abcdeg", false),
            ("a path is no origin", "https://a.org", "https://a.org/", false),
            ("userinfo is no origin", "https://a.org", "https://x@a.org", false),
        ];
        for (name, pattern, origin, expected) in table {
            assert_eq!(rule(&[pattern]).allows(origin), expected, "{name}");
        }
    }

    #[test]
    fn no_origin_is_allowed_by_an_empty_rule() {
        assert!(!OriginRule::default().allows("https://a.org"));
        assert!(!OriginRule::default().allows("null"));
    }

    #[test]
    fn loopback_origins_have_any_port_and_both_schemes() {
        let rule = OriginRule::loopback();
        for origin in
            ["http://localhost:3000", "https://localhost", "http://127.0.0.1:6274", "http://[::1]:1"]
        {
            assert!(rule.allows(origin), "{origin}");
        }
        for origin in ["http://evil.org", "null", "http://127.0.0.2:1"] {
            assert!(!rule.allows(origin), "{origin}");
        }
    }

    #[test]
    fn origins_show_as_they_are_written() {
        let written = ["null", "https://a.org", "https://*.a.org:8443", "http://localhost:*", "app://id"];
        assert_eq!(rule(&written).patterns().collect::<Vec<_>>(), written);
    }

    #[test]
    fn a_star_is_no_origin() {
        for text in ["*", "https://*", "a.org", "https://a.org/x", "://a", "1x://a"] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }
}
