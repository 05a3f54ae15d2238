//! `upstreams`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::caller::{CallerDocument, caller};
use super::credentials::{CredentialsDocument, HeadersDocument, credentials, header_rules};
use super::replicas;
use super::tls::{self, UpstreamTlsDocument};
use crate::diagnostic::{Located, Place};
use crate::limits::{LABEL, POSITIVE_DURATION, is_label};
use crate::reader::{Section, Value};
use crate::replicas::{Ejection, Health};
use crate::upstream::{EraMode, HostPolicy, SessionSharing, Transport};
use portunus_base::{AddressGrant, HttpVersion, Pool, Timeouts, UpstreamUrl};

/// One upstream.
#[derive(Clone, Debug)]
pub struct UpstreamDocument {
    /// Its key.
    pub name: Located<String>,
    /// `url`, or the first of `replicas`; `None` if it could not be read.
    pub url: Option<Located<UpstreamUrl>>,
    /// The others of `replicas`.
    pub replicas: Vec<Located<UpstreamUrl>>,
    /// `health`.
    pub health: Option<Health>,
    /// `ejection`.
    pub ejection: Ejection,
    /// `transport`.
    pub transport: Transport,
    /// `sessions: shared`, where it is written.
    pub shared_sessions: Option<Place>,
    /// `stateless_ok`.
    pub stateless_ok: bool,
    /// `trust_cache_scope: true`, where it is written.
    pub trust_cache_scope: Option<Place>,
    /// `labels`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `era`; `None` for `auto`.
    pub era: Option<Located<EraMode>>,
    /// `timeout` or `timeouts`.
    pub timeouts: Timeouts,
    /// `pool`.
    pub pool: Pool,
    /// `headers`.
    pub headers: HeadersDocument,
    /// `credentials`.
    pub credentials: CredentialsDocument,
    /// `caller`.
    pub caller: Option<CallerDocument>,
    /// `host`.
    pub host: HostPolicy,
    /// `addresses`.
    pub addresses: AddressGrant,
    /// `tls`.
    pub tls: Option<UpstreamTlsDocument>,
    /// `http`; `None` for HTTP/1.1.
    pub http: Option<Located<HttpVersion>>,
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<UpstreamDocument> {
    let hint = "name at least one MCP server: `upstreams: {crm: \"http://127.0.0.1:9101/mcp\"}`";
    let Some(value) = section.required("upstreams", hint) else { return vec![] };
    if !value.is_mapping() {
        return value.expected("a mapping from names to URLs").unwrap_or_default();
    }
    let entries = value.entries();
    if entries.is_empty() {
        value.error("no upstream is named", hint);
    }
    entries.into_iter().map(|(name, value)| upstream(name, &value, section)).collect()
}

/// `addresses`, a list of `loopback` and `private`.
pub(super) fn addresses(value: &Value<'_>) -> AddressGrant {
    let loopback = AddressGrant { loopback: true, private: false };
    let private = AddressGrant { loopback: false, private: true };
    let words = [("loopback", loopback), ("private", private)];
    let granted = value.items_or_one().into_iter().filter_map(|item| item.one_of(&words));
    granted.fold(AddressGrant::default(), |all, one| all.union(one))
}

/// An upstream is there whatever is wrong inside it: servers may name it without a second complaint.
fn upstream(name: Located<String>, value: &Value<'_>, section: &Section<'_>) -> UpstreamDocument {
    if !is_label(&name.value) {
        section.error(&name.place, "no name that can stand in a metric label", LABEL);
    }
    let blank = blank(name);
    if value.as_text().is_some() {
        return UpstreamDocument { url: replicas::url(value), ..blank };
    }
    value.section(|section| long(section, blank.clone())).unwrap_or(blank)
}

/// An upstream of which nothing is written.
pub(super) fn blank(name: Located<String>) -> UpstreamDocument {
    UpstreamDocument {
        name,
        url: None,
        replicas: vec![],
        health: None,
        ejection: Ejection::default(),
        transport: Transport::default(),
        shared_sessions: None,
        stateless_ok: false,
        trust_cache_scope: None,
        labels: BTreeMap::new(),
        era: None,
        timeouts: Timeouts::default(),
        pool: Pool::default(),
        headers: HeadersDocument::default(),
        credentials: CredentialsDocument::default(),
        caller: None,
        host: HostPolicy::default(),
        addresses: AddressGrant::default(),
        tls: None,
        http: None,
    }
}

/// Timeouts of what the gateway fetches for itself: all of them this one.
pub(super) fn gateway_request_timeouts(timeout: Option<Duration>) -> Timeouts {
    let all = timeout.unwrap_or(Duration::from_secs(5));
    Timeouts { connect: all, first_byte: all, idle: all, total: Some(all) }
}

fn long(section: &mut Section<'_>, blank: UpstreamDocument) -> UpstreamDocument {
    let (url, replicas) = replicas::urls(section);
    let labels = section.value("labels");
    UpstreamDocument {
        url,
        replicas,
        health: section.value("health").and_then(|value| replicas::health(&value)),
        ejection: section.value("ejection").and_then(|value| replicas::ejection(&value)).unwrap_or_default(),
        transport: section.value("transport").and_then(|value| value.one_of(&TRANSPORTS)).unwrap_or_default(),
        shared_sessions: section.value("sessions").and_then(|value| shared(&value)),
        stateless_ok: section.value("stateless_ok").and_then(|value| value.flag()).unwrap_or_default(),
        trust_cache_scope: section
            .value("trust_cache_scope")
            .and_then(|value| value.flag()?.then(|| value.place())),
        labels: labels.map(|value| replicas::labels(&value, section)).unwrap_or_default(),
        era: section.value("era").and_then(|value| era(&value)),
        timeouts: timeouts(section),
        pool: section.value("pool").and_then(|value| pool(&value)).unwrap_or_default(),
        headers: section.value("headers").and_then(|value| header_rules(&value)).unwrap_or_default(),
        credentials: section.value("credentials").and_then(|value| credentials(&value)).unwrap_or_default(),
        caller: section.value("caller").and_then(|value| caller(&value)),
        host: section.value("host").and_then(|value| value.one_of(&HOSTS)).unwrap_or_default(),
        addresses: section.value("addresses").map(|value| addresses(&value)).unwrap_or_default(),
        tls: section.value("tls").and_then(|value| tls::upstream(&value)),
        http: tls::http_version(section),
        ..blank
    }
}

const ERAS: [(&str, EraMode); 3] =
    [("auto", EraMode::Auto), ("legacy", EraMode::Legacy), ("modern", EraMode::Modern)];

const HOSTS: [(&str, HostPolicy); 2] =
    [("upstream", HostPolicy::Upstream), ("preserve", HostPolicy::Preserve)];

const TRANSPORTS: [(&str, Transport); 2] =
    [("streamable", Transport::Streamable), ("sse", Transport::HttpSse)];

fn era(value: &Value<'_>) -> Option<Located<EraMode>> {
    value.one_of(&ERAS).map(|era| Located { value: era, place: value.place() })
}

/// Where `shared` is written.
fn shared(value: &Value<'_>) -> Option<Place> {
    let sharing =
        value.one_of(&[("per_caller", SessionSharing::PerCaller), ("shared", SessionSharing::Shared)]);
    (sharing? == SessionSharing::Shared).then(|| value.place())
}

fn timeouts(section: &mut Section<'_>) -> Timeouts {
    section.exclusive("timeout", "timeouts");
    let default = Timeouts::default();
    if let Some(value) = section.value("timeout") {
        let short = value.duration(POSITIVE_DURATION);
        section.value("timeouts");
        return short.map_or(default, |all| Timeouts { first_byte: all, total: Some(all), ..default });
    }
    let long = |section: &mut Section<'_>| {
        let total = match section.value("total") {
            Some(value) if value.as_text() == Some("none") => None,
            Some(value) => value.duration(POSITIVE_DURATION).or(default.total),
            None => default.total,
        };
        let mut duration = |key, default: Duration| {
            section.value(key).and_then(|value| value.duration(POSITIVE_DURATION)).unwrap_or(default)
        };
        Timeouts {
            connect: duration("connect", default.connect),
            first_byte: duration("first_byte", default.first_byte),
            idle: duration("idle", default.idle),
            total,
        }
    };
    section.value("timeouts").and_then(|value| value.section(long)).unwrap_or(default)
}

fn pool(value: &Value<'_>) -> Option<Pool> {
    let default = Pool::default();
    value.section(|section| {
        let idle = section.value("idle_timeout").and_then(|value| value.duration(POSITIVE_DURATION));
        let mut count = |key, least, default| {
            section.value(key).and_then(|value| value.count(least..=1_000_000)).unwrap_or(default)
        };
        Pool {
            max_idle: count("max_idle", 0, default.max_idle),
            idle_timeout: idle.unwrap_or(default.idle_timeout),
            max_connections: count("max_connections", 1, default.max_connections),
            max_streams: count("max_streams", 0, default.max_streams),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Upstream;
    use crate::testing::{loaded_with, problems};

    fn upstream(value: &str) -> Upstream {
        let text = format!("version: 1\nupstreams: {{a: {value}}}\nservers: {{/mcp: a}}\n");
        let upstreams = loaded_with(&text, &[("T", "t0k")]).snapshot.upstreams;
        Upstream::clone(&upstreams[0])
    }

    #[test]
    fn defaults_are_filled_in() {
        let short = upstream("'http://localhost:1/mcp'");
        assert_eq!(
            (short.era, short.host, short.pool),
            (EraMode::Auto, HostPolicy::Upstream, Pool::default())
        );
        assert_eq!(short.timeouts, Timeouts::default());
        assert_eq!(short.key, upstream("{url: 'http://localhost:1/mcp'}").key);
    }

    #[test]
    fn the_long_form_says_everything() {
        let long = upstream(
            "{url: 'http://h/mcp', era: legacy, \n  \
             timeouts: {connect: 1s, first_byte: 2s, idle: 3s, total: none},\n  \
             pool: {max_idle: 1, idle_timeout: 2s, max_connections: 3, max_streams: 2}, \n  \
             host: preserve, addresses: [private],\n  \
             headers: {set: {X-Team: blue, X-Key: 'env:T'}, remove: [X-Debug]}}",
        );
        let seconds = Duration::from_secs;
        let timeouts =
            Timeouts { connect: seconds(1), first_byte: seconds(2), idle: seconds(3), total: None };
        assert_eq!(long.timeouts, timeouts);
        assert_eq!(
            long.pool,
            Pool { max_idle: 1, idle_timeout: seconds(2), max_connections: 3, max_streams: 2 }
        );
        assert_eq!((long.era, long.host), (EraMode::Legacy, HostPolicy::Preserve));
        assert_eq!(long.addresses.names(), ["private"]);
        let set: Vec<_> = long
            .headers
            .set
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap(), v.is_sensitive()))
            .collect();
        assert_eq!(set, [("x-team", "blue", false), ("x-key", "t0k", true)]);
        assert_eq!(long.headers.remove, ["x-debug"]);
    }

    #[test]
    fn the_short_timeout_is_for_the_answer_and_the_whole() {
        let timeouts = upstream("{url: 'http://h/', timeout: 7s}").timeouts;
        let seven = Duration::from_secs(7);
        assert_eq!(timeouts, Timeouts { first_byte: seven, total: Some(seven), ..Timeouts::default() });
    }

    #[test]
    fn connections_are_shared_only_between_equal_settings() {
        let base = "url: 'http://h/'";
        let key = upstream(&format!("{{{base}}}")).key;
        for same in ["era: modern", "timeout: 9s", "host: preserve", "headers: {remove: [X-A]}"] {
            assert_eq!(upstream(&format!("{{{base}, {same}}}")).key, key, "{same}");
        }
        for other in [
            "pool: {max_idle: 1}",
            "timeouts: {connect: 1s}",
            "addresses: [private]",
            "credentials: passthrough",
            "credentials: {bearer: 'env:T'}",
            "credentials: {header: {name: X-Key, value: 'env:T'}}",
        ] {
            assert_ne!(upstream(&format!("{{{base}, {other}}}")).key, key, "{other}");
        }
        assert_ne!(upstream("{url: 'http://h/other'}").key, key);
    }

    #[test]
    fn a_credential_in_a_plain_header_is_warned_about_and_hidden() {
        let text = "version: 1\nupstreams: {a: {url: 'http://h/', headers: {set: {X-Api-Key: hunter2}}}}\n\
                    servers: {/mcp: a}\n";
        let loaded = loaded_with(text, &[]);
        let warning = loaded
            .warnings
            .iter()
            .find(|warning| warning.path == "upstreams.a.headers.set.X-Api-Key")
            .unwrap();
        assert!(!warning.to_string().contains("hunter2"));
        assert!(loaded.snapshot.upstreams[0].headers.set[0].1.is_sensitive());
    }

    /// The only error of a document with this upstream, from its name on.
    fn problem(value: &str) -> String {
        let found = problems(&format!("version: 1\nupstreams: {{a: {value}}}\nservers: {{/mcp: a}}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].strip_prefix("upstreams.a").unwrap_or(&found[0]).to_owned()
    }

    #[test]
    fn wrong_upstreams_are_named() {
        let table = [
            ("", ": nothing where a mapping should be"),
            ("''", ": text where text that is not empty should be"),
            ("{}", ": `url` is missing"),
            ("'ftp://h/'", ": the URL does not begin with `http://` or `https://`"),
            ("{url: 'http://u:pw@h/'}", ".url: the URL holds a user name or password; use `credentials`"),
        ];
        for (value, expected) in table {
            assert_eq!(problem(value), expected, "{value}");
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let table = [
            ("era: ancient", ".era: `ancient` is not known here"),
            ("timeout: 0s", ".timeout: `0s` is out of range"),
            ("timeout: 1s, timeouts: {}", ".timeouts: both `timeout` and `timeouts` are written"),
            ("timeouts: {total: never}", ".timeouts.total: `never` is not a duration"),
            ("pool: {max_connections: 0}", ".pool.max_connections: `0` is out of range"),
            ("addresses: [all]", ".addresses[0]: `all` is not known here"),
            ("headers: {set: {Host: x}}", ".headers.set.Host: this field belongs to the gateway"),
            ("headers: {set: {Authorization: x}}", ".headers.set.Authorization: `Authorization` is not set"),
            (
                "headers: {set: {X-A: \"a\\nb\"}}",
                ".headers.set.X-A: the value cannot stand in a header field",
            ),
            ("headers: {set: {X-A: a, x-a: b}}", ".headers.set.x-a: this field is set twice"),
            ("headers: {remove: [Mcp-Name]}", ".headers.remove[0]: this field belongs to the gateway"),
            ("credentials: {}", ".credentials: exactly one kind of credentials should stand here"),
            ("credentials: {exchange: {}}", ".credentials.exchange: this build cannot enforce `exchange`"),
            (
                "credentials: {header: {name: Host, value: 'env:T'}}",
                ".credentials.header.name: this field belongs to the gateway",
            ),
        ];
        for (setting, expected) in table {
            let found = problem(&format!("{{url: 'http://h/', {setting}}}"));
            assert!(found.starts_with(expected), "{setting}: {found}");
        }
    }

    #[test]
    fn upstreams_are_a_mapping_of_labels() {
        let table = [
            ("servers: {}", vec!["`upstreams` is missing", "servers: no server is named"]),
            ("upstreams: {}\nservers: {/mcp: a}", vec!["upstreams: no upstream is named"]),
            (
                "upstreams: [a]\nservers: {/mcp: a}",
                vec!["upstreams: a list where a mapping from names to URLs should be"],
            ),
            (
                "upstreams: {'a b': 'http://h/'}\nservers: {/mcp: 'a b'}",
                vec!["upstreams.a b: no name that can stand in a metric label"],
            ),
        ];
        for (text, expected) in table {
            assert_eq!(problems(&format!("version: 1\n{text}\n")), expected, "{text}");
        }
    }
}
