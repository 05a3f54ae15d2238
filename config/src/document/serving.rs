//! `sessions`, `cache`, `parked` and `replay`: of one virtual server, or the default of all.

use std::time::Duration;

use crate::limits::{ANY_DURATION, MAX_BODY_BYTES, MAX_ENTRIES, POSITIVE_DURATION};
use crate::reader::{Section, Value};
use crate::serving::{CacheRules, ParkedRules, ReplayRules, SessionRules};

/// What holds for every virtual server that does not say otherwise: `sessions` and `cache` at the top.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServingDefaults {
    /// `sessions`.
    pub sessions: SessionRules,
    /// `cache`.
    pub cache: CacheRules,
}

impl ServingDefaults {
    pub(super) fn read(section: &mut Section<'_>) -> ServingDefaults {
        let built_in = ServingDefaults::default();
        ServingDefaults {
            sessions: sessions(section, built_in.sessions),
            cache: cache(section, built_in.cache),
        }
    }
}

/// `sessions`; keys that are not written are as in `base`.
pub(super) fn sessions(section: &mut Section<'_>, base: SessionRules) -> SessionRules {
    let long = |section: &mut Section<'_>| SessionRules {
        idle: duration(section, "idle", base.idle),
        lifetime: duration(section, "lifetime", base.lifetime),
        max: count(section, "max", base.max),
    };
    section.value("sessions").and_then(|value| value.section(long)).unwrap_or(base)
}

/// `cache: off`, or a mapping; keys that are not written are as in `base`.
pub(super) fn cache(section: &mut Section<'_>, base: CacheRules) -> CacheRules {
    let Some(value) = section.value("cache") else { return base };
    if !value.is_mapping() {
        return value.one_of(&[("off", CacheRules::OFF)]).unwrap_or(base);
    }
    let any = |section: &mut Section<'_>, key, default: Duration| {
        section.value(key).and_then(|value| value.duration(ANY_DURATION)).unwrap_or(default)
    };
    let long = |section: &mut Section<'_>| CacheRules {
        lists: any(section, "lists", base.lists),
        max_ttl: any(section, "max_ttl", base.max_ttl),
        stale: any(section, "stale", base.stale),
        revalidate: any(section, "revalidate", base.revalidate),
        legacy_reads: any(section, "legacy_reads", base.legacy_reads),
        coalesce: any(section, "coalesce", base.coalesce),
        reads: section.value("reads").and_then(|value| value.flag()).unwrap_or(base.reads),
        max_bytes: section
            .value("max_bytes")
            .and_then(|value| value.size(0..=usize::MAX))
            .unwrap_or(base.max_bytes),
    };
    value.section(long).unwrap_or(base)
}

/// `parked`.
pub(super) fn parked(section: &mut Section<'_>) -> ParkedRules {
    let default = ParkedRules::default();
    let long = |section: &mut Section<'_>| ParkedRules {
        max: count(section, "max", default.max),
        per_caller: count(section, "per_caller", default.per_caller),
        within: duration(section, "within", default.within),
    };
    section.value("parked").and_then(|value| value.section(long)).unwrap_or(default)
}

/// `replay`, a mapping, or `off`, the default.
pub(super) fn replay(section: &mut Section<'_>) -> Option<ReplayRules> {
    let value = section.value("replay")?;
    if !value.is_mapping() {
        value.one_of(&[("off", ())]);
        return None;
    }
    let default = ReplayRules::default();
    value.section(|section| ReplayRules {
        events: section.value("events").and_then(|value| value.count(1..=100_000)).unwrap_or(default.events),
        bytes: section
            .value("bytes")
            .and_then(|value| value.size(1..=MAX_BODY_BYTES))
            .unwrap_or(default.bytes),
    })
}

/// A wait of a server's own, such as `keepalive`.
pub(super) fn duration(section: &mut Section<'_>, key: &'static str, default: Duration) -> Duration {
    section.value(key).and_then(|value| value.duration(POSITIVE_DURATION)).unwrap_or(default)
}

fn count(section: &mut Section<'_>, key: &'static str, default: usize) -> usize {
    section.value(key).and_then(|value: Value<'_>| value.count(1..=MAX_ENTRIES)).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VirtualServer;
    use crate::testing::{loaded, problems};

    fn text(server: &str, top: &str) -> String {
        format!(
            "version: 1\nupstreams: {{a: 'http://localhost:1/'}}\n{top}servers: {{/mcp: {{upstreams: a{server}}}}}\n"
        )
    }

    fn server(server: &str, top: &str) -> VirtualServer {
        let loaded = loaded(&text(server, top));
        VirtualServer::clone(loaded.snapshot.routes.iter().next().unwrap())
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn what_is_not_written_has_its_default() {
        let server = server("", "");
        assert_eq!(server.sessions, SessionRules { idle: S(1800), lifetime: S(86_400), max: 10_000 });
        assert_eq!(server.cache, CacheRules::default());
        assert_eq!(server.parked, ParkedRules { max: 1000, per_caller: 32, within: S(600) });
        assert_eq!(server.replay, None);
        assert_eq!((server.keepalive, server.list_timeout), (S(15), S(5)));
        assert!(server.bridge && !server.http_sse);
    }

    #[test]
    fn every_key_is_read() {
        let server = server(
            ", sessions: {idle: 1s, lifetime: 2s, max: 3}, replay: {events: 4, bytes: 5KiB},\n  \
             cache: {lists: 6s, max_ttl: 7s, stale: 8s, revalidate: 4s, legacy_reads: 5s,\n  \
             coalesce: 9s, reads: false, max_bytes: 10},\n  \
             parked: {max: 11, per_caller: 12, within: 13s}, keepalive: 14s, list_timeout: 15s,\n  \
             bridge: false, http_sse: true",
            "",
        );
        assert_eq!(server.sessions, SessionRules { idle: S(1), lifetime: S(2), max: 3 });
        assert_eq!(server.replay, Some(ReplayRules { events: 4, bytes: 5 << 10 }));
        let cache = CacheRules {
            lists: S(6),
            max_ttl: S(7),
            stale: S(8),
            revalidate: S(4),
            legacy_reads: S(5),
            coalesce: S(9),
            reads: false,
            max_bytes: 10,
        };
        assert_eq!(server.cache, cache);
        assert_eq!(server.parked, ParkedRules { max: 11, per_caller: 12, within: S(13) });
        assert_eq!((server.keepalive, server.list_timeout), (S(14), S(15)));
        assert!(!server.bridge && server.http_sse);
    }

    #[test]
    fn what_stands_at_the_top_holds_for_every_server_that_does_not_say_otherwise() {
        let top = "sessions: {idle: 1m, max: 7}\ncache: {stale: 1m}\n";
        let inherits = server("", top);
        let own = server(", sessions: {max: 9}, cache: {reads: false}", top);
        assert_eq!((inherits.sessions.idle, inherits.sessions.max), (S(60), 7));
        assert_eq!((own.sessions.idle, own.sessions.max), (S(60), 9));
        assert_eq!((own.cache.stale, own.cache.reads), (S(60), false));
        assert_eq!(server("", "cache: 'off'\n").cache, CacheRules::OFF);
        assert_eq!(server(", cache: 'off'", top).cache, CacheRules::OFF);
    }

    #[test]
    fn wrong_bounds_are_named() {
        let table = [
            (", sessions: {idle: 0s}", ".sessions.idle: `0s` is out of range"),
            (", sessions: 30m", ".sessions: text where a mapping should be"),
            (", cache: lax", ".cache: `lax` is not known here"),
            (", cache: {reads: yes please}", ".cache.reads: text where `true` or `false` should be"),
            (", parked: {max: 0}", ".parked.max: `0` is out of range"),
            (", replay: {events: 0}", ".replay.events: `0` is out of range"),
            (", replay: always", ".replay: `always` is not known here"),
            (", keepalive: 0s", ".keepalive: `0s` is out of range"),
        ];
        for (server, problem) in table {
            assert_eq!(problems(&text(server, "")), [format!("servers./mcp{problem}")], "{server}");
        }
    }
}
