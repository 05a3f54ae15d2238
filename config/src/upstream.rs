//! An MCP server behind the gateway: where it is and how it is spoken to.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::address::AddressGrant;
use crate::secret::{Reference, Secret, sha256};
use crate::tls::{HttpVersion, UpstreamTls};

/// One MCP server behind the gateway.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its key in the document; a label in metrics and records.
    pub name: Arc<str>,
    /// Equal keys may share connections, across revisions too.
    pub key: UpstreamKey,
    /// Where it is.
    pub url: UpstreamUrl,
    /// Which protocol era it speaks.
    pub era: EraMode,
    /// How long its answers may take.
    pub timeouts: Timeouts,
    /// How many connections it is given.
    pub pool: Pool,
    /// Changes to the headers that it receives.
    pub headers: HeaderRules,
    /// What the gateway shows it about itself or the client.
    pub credentials: Credentials,
    /// Which `Host` it receives.
    pub host: HostPolicy,
    /// Which resolved addresses may be dialled.
    pub addresses: AddressGrant,
    /// How it is spoken to under `https`; `None` under `http`.
    pub tls: Option<UpstreamTls>,
    /// Which version of HTTP it speaks.
    pub http: HttpVersion,
}

/// Identity of an upstream's connections: a hash over its name, URL, credentials, pool, connect
/// timeout and address grant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamKey([u8; 32]);

impl UpstreamKey {
    /// `settings` is everything beside the credentials that connections depend on.
    pub(crate) fn of(settings: &impl fmt::Debug, credentials: &Credentials) -> UpstreamKey {
        let credentials = match credentials {
            Credentials::None => "none".to_owned(),
            Credentials::Passthrough => "passthrough".to_owned(),
            Credentials::Header { name, value } => format!("{name} {:?}", value.digest()),
        };
        // `Debug` quotes texts and names fields, so that no two upstreams can run together.
        UpstreamKey(sha256(format!("{settings:?} {credentials}").as_bytes()))
    }
}

impl fmt::Display for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamKey({self})")
    }
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Name or literal address.
    pub host: Host,
    /// The scheme's port unless the URL names one.
    pub port: u16,
    /// Path with the query, if there is one; at least `/`.
    pub path: String,
    /// What stands in a `Host` header: brackets around IPv6, no default port.
    pub authority: String,
}

impl UpstreamUrl {
    /// Reads an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// What is wrong, without the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<UpstreamUrl, &'static str> {
        let (scheme, rest) = split_scheme(text).ok_or("does not begin with `http://` or `https://`")?;
        if rest.contains('#') {
            return Err("has a fragment, which is never sent");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("holds a user name or password; use `credentials`");
        }
        let (host, port) = split_port(authority)?;
        let host = Host::parse(host)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err("has a space, control or non-ASCII character in its path; escape it with `%`");
        }
        http::uri::PathAndQuery::try_from(path.as_str())
            .map_err(|_| "has a path that cannot be requested")?;
        let port = port.unwrap_or(scheme.default_port());
        let authority =
            if port == scheme.default_port() { host.to_string() } else { format!("{host}:{port}") };
        Ok(UpstreamUrl { scheme, host, port, path, authority })
    }

    /// The URL with its query hidden, since queries are known to carry keys.
    pub fn redacted(&self) -> String {
        let path =
            self.path.split_once('?').map_or(self.path.clone(), |(path, _)| format!("{path}?[secret]"));
        format!("{}://{}{path}", self.scheme, self.authority)
    }
}

/// Plain or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// 80 or 443.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to resolve, in lower case, without a trailing dot.
    Name(String),
    /// A literal address.
    Ip(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Result<Host, &'static str> {
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address.parse().map(|v6| Host::Ip(IpAddr::V6(v6))).map_err(|_| "has a bad IPv6 address");
        }
        let name = crate::hosts::host_name(text).ok_or("has no valid host name")?;
        Ok(name.parse().map_or_else(|_| Host::Name(name.into_owned()), Host::Ip))
    }

    /// What a literal address or `localhost`, written on this machine, grants by itself.
    pub fn own_grant(&self) -> AddressGrant {
        use crate::address::AddressClass;
        match self {
            Host::Name(name) if name == "localhost" || name.ends_with(".localhost") => {
                AddressGrant { loopback: true, private: false }
            }
            Host::Name(_) => AddressGrant::default(),
            Host::Ip(address) => AddressGrant {
                loopback: AddressClass::of(*address) == AddressClass::Loopback,
                private: AddressClass::of(*address) == AddressClass::Private,
            },
        }
    }

    /// The name or address without brackets, as host patterns compare it.
    pub(crate) fn bare(&self) -> String {
        match self {
            Host::Name(name) => name.clone(),
            Host::Ip(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Which protocol era an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraMode {
    /// Found out by a probe.
    #[default]
    Auto,
    /// Revisions up to 2025-11-25.
    Legacy,
    /// Revision 2026-07-28 and later.
    Modern,
}

impl EraMode {
    /// The mode as written in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            EraMode::Auto => "auto",
            EraMode::Legacy => "legacy",
            EraMode::Modern => "modern",
        }
    }
}

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept a connection. Default 5 s.
    pub connect: Duration,
    /// From the end of the request to the first byte of the answer. Default 60 s.
    pub first_byte: Duration,
    /// Between two bytes of a stream. Default 300 s.
    pub idle: Duration,
    /// A whole call; never applied to GET streams and `subscriptions/listen`. Default 10 min.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
            total: Some(Duration::from_secs(600)),
        }
    }
}

/// How many connections an upstream is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections kept. Default 64.
    pub max_idle: usize,
    /// Idle connections are closed after this. Default 4 s: Node and uvicorn close theirs at 5 s.
    pub idle_timeout: Duration,
    /// Connections for calls at once, idle ones not counted. Default 1024.
    pub max_connections: usize,
    /// Connections for streams without an end of their own, beside those for calls: clients that
    /// listen must not keep others from calling. Default 4096.
    pub max_streams: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { max_idle: 64, idle_timeout: Duration::from_secs(4), max_connections: 1024, max_streams: 4096 }
    }
}

/// Changes to the headers that an upstream receives: `remove` first, then `set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Set to exactly this value; values from secrets are marked sensitive.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Not forwarded.
    pub remove: Vec<HeaderName>,
    /// Where the values that come from secrets were read from, for people.
    pub sources: Vec<(HeaderName, Reference)>,
}

/// What an upstream is shown as credentials. The client's own are stripped unless they pass through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// A secret in a header field; a bearer token is `authorization` with its scheme.
    Header {
        /// The field.
        name: HeaderName,
        /// Its whole value.
        value: Secret,
    },
    /// The client's own `Authorization`.
    Passthrough,
}

/// Which `Host` an upstream receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// Its own authority.
    #[default]
    Upstream,
    /// The one the client sent.
    Preserve,
}

fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((Scheme::Http, rest)),
        "https" => Some((Scheme::Https, rest)),
        _ => None,
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    let Some(colon) = authority[after_address..].find(':') else { return Ok((authority, None)) };
    let (host, port) = authority.split_at(after_address + colon);
    let digits = &port[1..];
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok((host, Some(port))),
        _ => Err("has a port that is not between 1 and 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_into_their_parts() {
        let table = [
            ("name", "http://crm.internal/mcp", "crm.internal", 80, "/mcp", "crm.internal"),
            ("port", "http://crm:9101/mcp", "crm", 9101, "/mcp", "crm:9101"),
            ("default port written", "https://crm:443/mcp", "crm", 443, "/mcp", "crm"),
            ("no path", "http://crm", "crm", 80, "/", "crm"),
            ("query", "http://crm/mcp?a=b", "crm", 80, "/mcp?a=b", "crm"),
            ("query without path", "http://crm?a", "crm", 80, "/?a", "crm"),
            ("case and dot", "HTTP://CRM.Internal./MCP", "crm.internal", 80, "/MCP", "crm.internal"),
            ("ipv4", "http://127.0.0.1:1/", "127.0.0.1", 1, "/", "127.0.0.1:1"),
            ("ipv6", "http://[::1]:9/", "[::1]", 9, "/", "[::1]:9"),
            ("ipv6 default port", "http://[0:0::1]/", "[::1]", 80, "/", "[::1]"),
        ];
        for (name, text, host, port, path, authority) in table {
            let url = UpstreamUrl::parse(text).unwrap();
            assert_eq!((url.host.to_string().as_str(), url.port), (host, port), "{name}");
            assert_eq!((url.path.as_str(), url.authority.as_str()), (path, authority), "{name}");
        }
    }

    #[test]
    fn urls_that_two_readers_could_take_apart_are_refused() {
        for text in [
            "",
            "crm:80/mcp",
            "ftp://crm/",
            "http://",
            "http:///mcp",
            "http://user:pw@crm/",
            "http://crm@evil.org/",
            "http://crm#@evil.org/",
            "http://crm/a#b",
            "http://crm\\@evil.org/",
            "http://crm/a b",
            "http://crm/\u{e9}",
            "http://crm/a\\b",
            "http://crm:0/",
            "http://crm:65536/",
            "http://crm:+80/",
            "http://crm:/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            "http://::1/",
            "http://a..b/",
        ] {
            assert!(UpstreamUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_is_not_shown() {
        let url = UpstreamUrl::parse("http://crm:81/mcp?key=hunter2").unwrap();
        assert_eq!(url.redacted(), "http://crm:81/mcp?[secret]");
    }

    #[test]
    fn only_what_is_written_as_an_address_grants_itself() {
        let grant = |text: &str| UpstreamUrl::parse(text).unwrap().host.own_grant().names();
        assert_eq!(grant("http://127.0.0.1/"), ["loopback"]);
        assert_eq!(grant("http://localhost/"), ["loopback"]);
        assert_eq!(grant("http://a.localhost/"), ["loopback"]);
        assert_eq!(grant("http://10.0.0.1/"), ["private"]);
        assert!(grant("http://crm.internal/").is_empty());
        assert!(grant("http://8.8.8.8/").is_empty());
    }
}
