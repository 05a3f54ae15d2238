//! `listen` and `listeners`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::tls::{self, ListenerTlsDocument};
use crate::bootstrap::ForwardedBy;
use crate::diagnostic::{Located, Place};
use crate::limits::{LABEL, MAX_BODY_BYTES, POSITIVE_DURATION, is_label};
use crate::reader::{Section, Value};
use portunus_base::{ConnectionLimits, HostPattern, OriginPattern, OriginRule};

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerDocument {
    /// `name`.
    pub name: Option<Located<String>>,
    /// `bind`.
    pub bind: Located<SocketAddr>,
    /// `hosts`; `None` leaves it to the address.
    pub hosts: Option<HostsDocument>,
    /// `origins`; `None` leaves it to the address.
    pub origins: Option<OriginRule>,
    /// `trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `forwarded_by`.
    pub forwarded_by: ForwardedBy,
    /// `forwarded_from`.
    pub forwarded_from: Option<Located<Vec<IpNet>>>,
    /// `limits`.
    pub limits: ConnectionLimits,
    /// `anonymous: allow`.
    pub anonymous: bool,
    /// `tls`.
    pub tls: Option<ListenerTlsDocument>,
    /// `http2`; `None` leaves it to `tls`.
    pub http2: Option<bool>,
    /// `proxy_protocol`, true for `v2`.
    pub proxy_protocol: Located<bool>,
    /// Where the listener is written.
    pub place: Place,
}

/// Which hosts a listener answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostsDocument {
    /// `any`.
    Any,
    /// These.
    Listed(Vec<HostPattern>),
}

/// Reads `listen` or `listeners`; `None` if neither is written.
pub(super) fn read(section: &mut Section<'_>) -> Option<Vec<ListenerDocument>> {
    section.exclusive("listen", "listeners");
    let short = section.value("listen");
    let long = section.value("listeners");
    match (short, long) {
        (None, None) => None,
        (_, Some(long)) => {
            let items = long.items();
            if items.is_empty() && long.is_list() {
                long.error("no listener is named", "write `listen: 127.0.0.1:8080`, or remove the key");
            }
            Some(items.iter().filter_map(listener).collect())
        }
        (Some(short), None) => Some(address(&short).map(short_listener).into_iter().collect()),
    }
}

/// An IP address with a port.
pub(super) fn address(value: &Value<'_>) -> Option<Located<SocketAddr>> {
    let hint =
        "write an IP address and a port, such as `127.0.0.1:8080`, or `0.0.0.0:8080` for every interface";
    value.parsed(hint, |text| text.parse().map_err(|_| "not an address with a port"))
}

/// `anonymous`, true for `allow`.
pub(super) fn anonymous(section: &mut Section<'_>) -> bool {
    let words = [("allow", true), ("loopback", false)];
    section.value("anonymous").and_then(|value| value.one_of(&words)).unwrap_or_default()
}

fn short_listener(bind: Located<SocketAddr>) -> ListenerDocument {
    let place = bind.place.clone();
    ListenerDocument {
        name: None,
        bind,
        hosts: None,
        origins: None,
        trusted_proxies: vec![],
        forwarded_by: ForwardedBy::default(),
        forwarded_from: None,
        limits: ConnectionLimits::default(),
        anonymous: false,
        tls: None,
        http2: None,
        proxy_protocol: Located { value: false, place: place.clone() },
        place,
    }
}

fn listener(value: &Value<'_>) -> Option<ListenerDocument> {
    if value.as_text().is_some() {
        return address(value).map(short_listener);
    }
    value.section(|section| {
        let bind = section.required("bind", "write `bind: 127.0.0.1:8080`").and_then(|bind| address(&bind));
        let short = bind.map(short_listener);
        let long = ListenerDocument {
            name: section.value("name").and_then(|name| label(&name)),
            hosts: section.value("hosts").and_then(|value| hosts(&value)),
            origins: section.value("origins").map(|value| origins(&value)),
            trusted_proxies: section
                .value("trusted_proxies")
                .map(|value| networks(&value))
                .unwrap_or_default(),
            forwarded_by: section
                .value("forwarded_by")
                .and_then(|value| value.one_of(&ForwardedBy::NAMES))
                .unwrap_or_default(),
            forwarded_from: section
                .value("forwarded_from")
                .map(|value| Located { value: networks(&value), place: value.place() }),
            limits: section.value("limits").and_then(|value| limits(&value)).unwrap_or_default(),
            anonymous: anonymous(section),
            tls: section.value("tls").and_then(|value| tls::listener(&value)),
            http2: section.value("http2").and_then(|value| value.flag()),
            proxy_protocol: proxy_protocol(section),
            ..short?
        };
        Some(ListenerDocument { place: section.place().clone(), ..long })
    })?
}

/// A name that can stand in a metric label.
pub(super) fn label(value: &Value<'_>) -> Option<Located<String>> {
    value.parsed(LABEL, |text| match is_label(text) {
        true => Ok(text.to_owned()),
        false => Err("no name that can stand in a metric label"),
    })
}

/// `proxy_protocol`, true for `v2`.
fn proxy_protocol(section: &mut Section<'_>) -> Located<bool> {
    let value = section.value("proxy_protocol");
    let place = value.as_ref().map_or_else(|| section.place().clone(), Value::place);
    let words = [("v2", true), ("off", false)];
    Located { value: value.and_then(|value| value.one_of(&words)).unwrap_or_default(), place }
}

fn hosts(value: &Value<'_>) -> Option<HostsDocument> {
    if value.as_text() == Some("any") {
        return Some(HostsDocument::Any);
    }
    let listed = super::secrets::hosts(value);
    (!listed.is_empty()).then_some(HostsDocument::Listed(listed))
}

fn origins(value: &Value<'_>) -> OriginRule {
    let hint = "write `https://app.example.com`, `https://*.example.com`, `http://localhost:*` or `null`";
    let pattern = |item: &Value<'_>| item.parsed(hint, OriginPattern::parse).map(|origin| origin.value);
    OriginRule::new(value.items_or_one().iter().filter_map(pattern).collect())
}

fn networks(value: &Value<'_>) -> Vec<IpNet> {
    let parse = |text: &str| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse::<IpNet>()).map_err(|_| "not a network")
    };
    let hint = "write a network such as `10.0.0.0/8`, or one address";
    value.items_or_one().iter().filter_map(|item| Some(item.parsed(hint, parse)?.value)).collect()
}

fn limits(value: &Value<'_>) -> Option<ConnectionLimits> {
    let default = ConnectionLimits::default();
    value.section(|section| {
        let mut duration = |key, default: Duration| {
            section.value(key).and_then(|value| value.duration(POSITIVE_DURATION)).unwrap_or(default)
        };
        let idle_timeout = duration("idle_timeout", default.idle_timeout);
        let header_timeout = duration("header_timeout", default.header_timeout);
        let body_timeout = duration("body_timeout", default.body_timeout);
        let write_timeout = duration("write_timeout", default.write_timeout);
        let max_connection_age = duration("max_connection_age", default.max_connection_age);
        let mut count =
            |key, range, default| section.value(key).and_then(|value| value.count(range)).unwrap_or(default);
        let max_connections = count("max_connections", 1..=1_000_000, default.max_connections);
        let max_headers = count("max_headers", 8..=256, default.max_headers);
        let max_streams = count("max_streams", 1..=1000, default.max_streams);
        let mut size =
            |key, range, default| section.value(key).and_then(|value| value.size(range)).unwrap_or(default);
        let max_header_bytes = size("max_header_bytes", (1 << 10)..=(1 << 20), default.max_header_bytes);
        let max_body_bytes = size("max_body_bytes", 1..=MAX_BODY_BYTES, default.max_body_bytes);
        ConnectionLimits {
            max_connections,
            idle_timeout,
            header_timeout,
            body_timeout,
            write_timeout,
            max_header_bytes,
            max_headers,
            max_body_bytes,
            max_streams,
            max_connection_age,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{loaded_with, problems};

    const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

    #[test]
    fn the_long_form_says_everything() {
        let text = format!(
            "{RULES}listeners:\n- name: edge\n  bind: 127.0.0.1:0\n  hosts: ['*.example.com', 'a.org:81']\n  \
             origins: ['https://app.example.com', 'null']\n  trusted_proxies: [10.0.0.0/8, '::1']\n  \
             limits: {{max_connections: 5, idle_timeout: 1s, header_timeout: 2s,\n    \
             body_timeout: 3s, write_timeout: 4s,\n    \
             max_header_bytes: 2KiB, max_headers: 9, max_body_bytes: 1MiB, max_streams: 7, max_connection_age: 5s}}\n"
        );
        let listener = loaded_with(&text, &[]).bootstrap.listeners.remove(0);
        assert_eq!((&*listener.name, listener.bind.port()), ("edge", 0));
        let hosts = listener.hosts.unwrap();
        assert!(hosts[0].matches("x.example.com") && hosts[1].matches("a.org:81"));
        assert!(listener.origins.allows("https://app.example.com") && listener.origins.allows("null"));
        assert!(!listener.origins.allows("http://localhost:1"));
        let proxies: Vec<_> = listener.trusted_proxies.iter().map(IpNet::to_string).collect();
        assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
        let seconds = Duration::from_secs;
        let expected = ConnectionLimits {
            max_connections: 5,
            idle_timeout: seconds(1),
            header_timeout: seconds(2),
            body_timeout: seconds(3),
            write_timeout: seconds(4),
            max_header_bytes: 2048,
            max_headers: 9,
            max_body_bytes: 1 << 20,
            max_streams: 7,
            max_connection_age: seconds(5),
        };
        assert_eq!(listener.limits, expected);
    }

    #[test]
    fn any_host_can_be_asked_for_on_loopback() {
        let text = format!("{RULES}listeners: [{{bind: '127.0.0.1:0', hosts: any}}]\n");
        assert_eq!(loaded_with(&text, &[]).bootstrap.listeners[0].hosts, None);
    }

    #[test]
    fn wrong_listeners_are_named() {
        let table = [
            ("listen: 8080", "listen: a number where text should be"),
            ("listen: ':8080'", "listen: `:8080`: not an address with a port"),
            ("listen: localhost:8080", "listen: `localhost:8080`: not an address with a port"),
            ("listeners: []", "listeners: no listener is named"),
            ("listeners: [{}]", "listeners[0]: `bind` is missing"),
            ("listeners: [{bind: '127.0.0.1:1', hosts: []}]", "listeners[0].hosts: the list is empty"),
            (
                "listeners: [{bind: '127.0.0.1:1', hosts: [a/b]}]",
                "listeners[0].hosts[0]: `a/b`: not a host name, `*.` pattern or address",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', origins: ['*']}]",
                "listeners[0].origins[0]: `*`: not an origin: `scheme://host[:port]`",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', trusted_proxies: [a]}]",
                "listeners[0].trusted_proxies[0]: `a`: not a network",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', forwarded_by: x-real-ip}]",
                "listeners[0].forwarded_by: `x-real-ip` is not known here",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', forwarded_from: 10.0.0.0/8}]",
                "listeners[0].forwarded_from: without `proxy_protocol: v2`, it is `trusted_proxies` that says who forwards",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', limits: {idle_timeout: 0s}}]",
                "listeners[0].limits.idle_timeout: `0s` is out of range",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', limits: {max_body: 1}}]",
                "listeners[0].limits.max_body: unknown key `max_body`",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', name: 'a b'}]",
                "listeners[0].name: `a b`: no name that can stand in a metric label",
            ),
            ("listeners: [{bind: '127.0.0.1:1', tls: {}}]", "listeners[0].tls: `certificates` is missing"),
            (
                "listeners: [{bind: '127.0.0.1:1', http2: 2}]",
                "listeners[0].http2: a number where `true` or `false` should be",
            ),
            (
                "listeners: [{bind: '127.0.0.1:1', proxy_protocol: v1}]",
                "listeners[0].proxy_protocol: `v1` is not known here",
            ),
            (
                "listen: 127.0.0.1:1\nlisteners: ['127.0.0.1:2']",
                "listeners: both `listen` and `listeners` are written",
            ),
        ];
        for (text, problem) in table {
            assert_eq!(problems(&format!("{RULES}{text}\n")), [problem], "{text}");
        }
    }
}
