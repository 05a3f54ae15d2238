//! Where an upstream is: absolute URLs that no two readers take apart differently.

use std::fmt;
use std::net::IpAddr;

use crate::address::AddressGrant;

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
    pub fn bare(&self) -> String {
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
