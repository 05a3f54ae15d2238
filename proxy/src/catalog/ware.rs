//! One thing that was asked of an upstream, and when to ask again.

use super::failing::delay_after;
use super::fetch::Digest;
use crate::backend::forward::Failure;
use portunus_config::CacheRules;
use portunus_filters::Moment;
use portunus_filters::mcp::bridge::{Caching, Scope};
use std::sync::Arc;
use std::time::Duration;

/// How old what a call goes by may be where the configuration keeps nothing: a name leads to its
/// server, which judges the call.
const CALLS_GO_BY: Duration = Duration::from_secs(60);

/// What it is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be shown: it must be as good as the upstream says.
    Show,
    /// To find the way of a call: the upstream will say if it is out of date.
    Route,
}

/// What an upstream has said of a list beside the list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    /// Changes that it has announced so far.
    pub(super) changes: u64,
    /// When it last contradicted the list.
    pub(super) doubted_at: Option<Duration>,
}

/// Whether to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// What is here will do.
    No,
    /// What is here will do for now.
    Soon,
    /// Nothing here will do.
    Now,
}

/// One thing, or what became of asking for it.
#[derive(Debug)]
pub(super) struct Ware<T> {
    pub(super) kept: Option<Kept<T>>,
    tried_at: Option<Duration>,
    /// Changes that its upstream had announced when it was last asked.
    tried_after: u64,
    failed: Option<Failed>,
}

/// What an upstream answered.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// `None` if it has no such list.
    pub(super) what: Option<Arc<T>>,
    pub(super) digest: Digest,
    /// When it was asked for.
    pub(super) read_at: Moment,
    /// Changes that its upstream had announced by then: what was announced later is not in it.
    pub(super) read_after: u64,
    pub(super) fresh_until: Duration,
    pub(super) scope: Scope,
}

#[derive(Debug)]
struct Failed {
    failure: Arc<Failure>,
    failures: u32,
    retry_at: Duration,
}

impl<T> Default for Ware<T> {
    fn default() -> Self {
        Ware { kept: None, tried_at: None, tried_after: 0, failed: None }
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Kept { what: self.what.clone(), ..*self }
    }
}

impl<T> Kept<T> {
    /// An answer to what was asked `at` a time.
    pub(super) fn new(
        what: Option<Arc<T>>,
        digest: Digest,
        caching: Option<Caching>,
        at: Moment,
        rules: &CacheRules,
    ) -> Kept<T> {
        let fresh_for = match caching {
            Some(caching) => Duration::from_millis(caching.ttl_ms).min(rules.max_ttl),
            None => rules.lists,
        };
        let scope = caching.map_or(Scope::Private, |caching| caching.scope);
        Kept { what, digest, read_at: at, read_after: 0, fresh_until: at.monotonic + fresh_for, scope }
    }

    /// The same, asked for when its upstream had announced so many changes.
    #[must_use]
    pub(super) fn after(self, changes: u64) -> Kept<T> {
        Kept { read_after: changes, ..self }
    }

    fn fresh_for(&self) -> Duration {
        self.fresh_until.saturating_sub(self.read_at.monotonic)
    }
}

impl<T> Ware<T> {
    /// Whether to ask, given what its upstream has announced: whoever was told of a change is never
    /// shown what was asked for before it was announced.
    pub(super) fn need(
        &self,
        purpose: Purpose,
        now: Duration,
        announced: Announced,
        rules: &CacheRules,
    ) -> Need {
        let Some(tried_at) = self.tried_at else { return Need::Now };
        let doubted = || {
            let read_at = self.kept.as_ref().map(|kept| kept.read_at.monotonic);
            announced.doubted_at.is_some_and(|at| read_at.is_none_or(|read_at| at >= read_at))
        };
        let changed = announced.changes > self.tried_after;
        if changed || (self.failed.is_none() && doubted()) {
            return match purpose {
                Purpose::Show => Need::Now,
                Purpose::Route => Need::Soon,
            };
        }
        if let Some(failed) = &self.failed {
            return if now >= failed.retry_at { Need::Soon } else { Need::No };
        }
        let Some(kept) = &self.kept else { return Need::Now };
        let settled = now.saturating_sub(tried_at) >= rules.coalesce;
        match purpose {
            Purpose::Route => {
                let floor = if rules.lists.is_zero() { CALLS_GO_BY } else { rules.lists };
                let old = now.saturating_sub(kept.read_at.monotonic) >= kept.fresh_for().max(floor);
                if old { Need::Soon } else { Need::No }
            }
            Purpose::Show if now < kept.fresh_until || !settled => Need::No,
            // What its upstream never calls fresh is not shown a second time.
            Purpose::Show if kept.fresh_for().is_zero() => Need::Now,
            Purpose::Show if now < kept.fresh_until + rules.stale => Need::Soon,
            Purpose::Show => Need::Now,
        }
    }

    /// Changes that its upstream had announced when it was last asked.
    pub(super) fn tried_after(&self) -> u64 {
        self.tried_after
    }

    /// Takes an answer.
    pub(super) fn take(&mut self, kept: Kept<T>, now: Duration) {
        let tried_after = kept.read_after;
        *self = Ware { kept: Some(kept), tried_at: Some(now), tried_after, failed: None };
    }

    /// Takes note that there was none when so many changes were announced. What was kept stays until it
    /// is too old.
    pub(super) fn fail(&mut self, failure: Arc<Failure>, now: Duration, changes: u64) {
        let failures = self.failed.as_ref().map_or(1, |failed| failed.failures.saturating_add(1));
        self.tried_at = Some(now);
        self.tried_after = changes;
        let retry_at = now + delay_after(&failure, failures);
        self.failed = Some(Failed { failure, failures, retry_at });
    }

    /// Takes note that its upstream is known to be down; whether that is new.
    pub(super) fn give_up(&mut self, failure: &Arc<Failure>, now: Duration) -> bool {
        if self.failed.is_some() {
            return false;
        }
        self.tried_at = self.tried_at.or(Some(now));
        self.failed = Some(Failed { failure: Arc::clone(failure), failures: 0, retry_at: now });
        true
    }

    /// Takes what is known of it from elsewhere, where nothing was ever read.
    pub(super) fn stand_in(&mut self, last: impl FnOnce() -> Option<Kept<T>>) {
        self.kept = self.kept.take().or_else(last);
    }

    /// Why it could not be had, if that was so when it was last asked for.
    pub(super) fn failure(&self) -> Option<&Arc<Failure>> {
        self.failed.as_ref().map(|failed| &failed.failure)
    }

    /// What may stand in at a time.
    pub(super) fn usable(&self, now: Duration, rules: &CacheRules) -> Option<&Kept<T>> {
        let in_time = |kept: &&Kept<T>| self.failed.is_none() || now < kept.fresh_until + rules.stale;
        self.kept.as_ref().filter(in_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::{Denial, Reason};

    fn at(ms: u64) -> Moment {
        Moment { monotonic: Duration::from_millis(ms), wall: Duration::ZERO }
    }

    fn down() -> Arc<Failure> {
        Arc::new(Denial::new(Reason::UpstreamUnavailable, "down").into())
    }

    fn ware(ttl_ms: Option<u64>) -> Ware<()> {
        let caching = ttl_ms.map(|ttl_ms| Caching { ttl_ms, scope: Scope::Private });
        let mut ware = Ware::default();
        ware.take(
            Kept::new(Some(Arc::new(())), [0; 32], caching, at(0), &CacheRules::default()),
            Duration::ZERO,
        );
        ware
    }

    #[test]
    fn needs_follow_age_changes_and_failures() {
        let failed = || {
            let mut ware = ware(None);
            ware.fail(down(), Duration::from_millis(1_000), 0);
            ware
        };
        use Purpose::{Route, Show};
        let cases: [(&str, Ware<()>, Purpose, u64, u64, Need); 18] = [
            ("never asked", Ware::default(), Route, 0, 0, Need::Now),
            ("fresh", ware(Some(10_000)), Show, 9_999, 0, Need::No),
            ("a little old", ware(Some(10_000)), Show, 10_000, 0, Need::Soon),
            ("too old", ware(Some(10_000)), Show, 610_000, 0, Need::Now),
            ("capped", ware(Some(u64::MAX)), Show, 300_000, 0, Need::Soon),
            ("never fresh", ware(Some(0)), Show, 250, 0, Need::Now),
            ("never fresh, asked just now", ware(Some(0)), Show, 249, 0, Need::No),
            ("never fresh, for a call", ware(Some(0)), Route, 59_999, 0, Need::No),
            ("old, for a call", ware(Some(0)), Route, 60_000, 0, Need::Soon),
            ("legacy, fresh", ware(None), Show, 59_999, 0, Need::No),
            ("legacy, old", ware(None), Show, 60_000, 0, Need::Soon),
            ("changed", ware(None), Show, 1_000, 1, Need::Now),
            ("changed at once", ware(None), Show, 0, 1, Need::Now),
            ("changed, for a call", ware(None), Route, 1_000, 1, Need::Soon),
            ("failed", failed(), Show, 1_999, 0, Need::No),
            ("failed a while ago", failed(), Show, 2_000, 0, Need::Soon),
            ("failed, then changed", failed(), Show, 1_000, 1, Need::Now),
            ("failed, then changed, for a call", failed(), Route, 1_000, 1, Need::Soon),
        ];
        for (name, ware, purpose, now, changes, expected) in cases {
            let announced = Announced { changes, doubted_at: None };
            let need = ware.need(purpose, Duration::from_millis(now), announced, &CacheRules::default());
            assert_eq!(need, expected, "{name}");
        }
    }

    #[test]
    fn what_was_kept_stands_in_for_a_bounded_time() {
        let mut ware = ware(Some(1_000));
        let usable =
            |ware: &Ware<()>, ms| ware.usable(Duration::from_millis(ms), &CacheRules::default()).is_some();
        assert!(usable(&ware, 10_000_000), "nothing says that it is wrong");
        ware.fail(down(), Duration::from_millis(2_000), 0);
        assert!(usable(&ware, 600_999) && !usable(&ware, 601_000));
    }
}
