//! Bounds of what a virtual server keeps on behalf of its callers.

use std::time::Duration;

/// How long sessions that the gateway gives to clients live, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRules {
    /// A session that nothing uses ends after this. Default 30 min.
    pub idle: Duration,
    /// A session ends after this, used or not. Default 24 h.
    pub lifetime: Duration,
    /// Sessions at once; for one more the longest idle ends. Default 10000.
    pub max: usize,
}

impl SessionRules {
    /// Most that a session of an anonymous caller lives: whoever holds its id is its caller.
    pub const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(3600);

    /// How long a session of this kind of caller lives.
    pub fn lifetime_of(&self, anonymous: bool) -> Duration {
        match anonymous {
            true => self.lifetime.min(SessionRules::ANONYMOUS_LIFETIME),
            false => self.lifetime,
        }
    }
}

impl Default for SessionRules {
    fn default() -> Self {
        SessionRules {
            idle: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(24 * 3600),
            max: 10_000,
        }
    }
}

/// What is kept of the answers of upstreams, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRules {
    /// Lists of legacy upstreams, which do not say how long theirs last, are fresh for this. Default 60 s.
    pub lists: Duration,
    /// Most that an upstream's own `ttlMs` counts. Default 5 min.
    pub max_ttl: Duration,
    /// What is no longer fresh may stand in for this long while it is refreshed or its upstream is
    /// down. Default 10 min.
    pub stale: Duration,
    /// An answer to `resources/read` that is no longer fresh is given at once for this long, while it is
    /// asked for again aside: at most for as long as it was fresh, and within `stale`. Default 30 s.
    pub revalidate: Duration,
    /// Answers of legacy upstreams to `resources/read`, which do not say how long theirs last, are
    /// fresh for this. Default 0: none is kept.
    pub legacy_reads: Duration,
    /// Changes of lists within this time are one change. Default 250 ms.
    pub coalesce: Duration,
    /// Whether answers to `resources/read` are kept. Default true.
    pub reads: bool,
    /// Bytes of all that is kept for one virtual server. Default 64 MiB.
    pub max_bytes: usize,
}

impl CacheRules {
    /// Nothing is served a second time.
    pub const OFF: CacheRules = CacheRules {
        lists: Duration::ZERO,
        max_ttl: Duration::ZERO,
        stale: Duration::ZERO,
        revalidate: Duration::ZERO,
        legacy_reads: Duration::ZERO,
        coalesce: Duration::from_millis(250),
        reads: false,
        max_bytes: 0,
    };
}

impl Default for CacheRules {
    fn default() -> Self {
        CacheRules {
            lists: Duration::from_secs(60),
            max_ttl: Duration::from_secs(300),
            stale: Duration::from_secs(600),
            revalidate: Duration::from_secs(30),
            legacy_reads: Duration::ZERO,
            coalesce: Duration::from_millis(250),
            reads: true,
            max_bytes: 64 << 20,
        }
    }
}

/// Bounds on calls that wait for input of their caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedRules {
    /// Calls at once. Default 1000.
    pub max: usize,
    /// Calls at once of one caller. Default 32.
    pub per_caller: usize,
    /// A caller answers within this time: people think and type. Default 10 min.
    pub within: Duration,
}

impl Default for ParkedRules {
    fn default() -> Self {
        ParkedRules { max: 1000, per_caller: 32, within: Duration::from_secs(600) }
    }
}

/// How many events of a stream are kept for a client that resumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayRules {
    /// Events of one session. Default 256.
    pub events: usize,
    /// Their bytes. Default 1 MiB.
    pub bytes: usize,
}

impl Default for ReplayRules {
    fn default() -> Self {
        ReplayRules { events: 256, bytes: 1 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anonymous_session_is_at_most_an_hour_old() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let rules = |lifetime| SessionRules { lifetime, ..SessionRules::default() };
        assert_eq!(rules(hours(24)).lifetime_of(true), hours(1));
        assert_eq!(rules(hours(24)).lifetime_of(false), hours(24));
        assert_eq!(rules(Duration::from_secs(60)).lifetime_of(true), Duration::from_secs(60));
    }
}
