//! Counts the calls that each limit allowed and refused, and the keys that it counts.

use super::keep;
use portunus_filters::Moment;
use portunus_filters::limits::{Limits, Rule, RuleOutcome};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::sync::atomic::{AtomicU64, Ordering};

/// Metrics of limits.
pub struct LimitMetrics {
    calls: IntCounterVec,
    overflowed: IntCounterVec,
    keys: IntGaugeVec,
    nearly_spent: IntCounterVec,
    /// When the log was last told of full tables, in seconds on the monotonic clock.
    warned_s: AtomicU64,
}

/// Seconds between two lines of the log about full tables.
const WARN_EVERY_S: u64 = 60;

impl LimitMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<LimitMetrics> {
        let calls =
            Opts::new("portunus_limit_calls_total", "Calls that a rule of `limits` counted, by outcome");
        let overflowed = Opts::new(
            "portunus_limit_overflow_total",
            "Calls whose key found no room in the table of a rule, and which share one count",
        );
        let keys = Opts::new("portunus_limit_keys", "Keys that a rule of `limits` counts now");
        let nearly_spent = Opts::new(
            "portunus_limit_nearly_spent_total",
            "Budgets of which four fifths were spent before their window ended",
        );
        Ok(LimitMetrics {
            calls: keep(registry, IntCounterVec::new(calls, &["rule", "outcome"])?)?,
            overflowed: keep(registry, IntCounterVec::new(overflowed, &["rule"])?)?,
            keys: keep(registry, IntGaugeVec::new(keys, &["rule"])?)?,
            nearly_spent: keep(registry, IntCounterVec::new(nearly_spent, &["rule"])?)?,
            warned_s: AtomicU64::new(0),
        })
    }

    /// Adds the calls of each rule since this was last called.
    pub fn update(&self, limits: &Limits, now: Moment) {
        for active in limits.rules() {
            let name = &*active.rule.name;
            for (outcome, calls) in active.counters.take_outcomes() {
                self.calls.with_label_values(&[name, outcome.as_str()]).inc_by(calls);
            }
            let overflowed = active.counters.take_overflowed();
            self.overflowed.with_label_values(&[name]).inc_by(overflowed);
            if overflowed > 0 && self.may_warn(now) {
                tracing::warn!(
                    rule = name,
                    calls = overflowed,
                    "the table of a limit is full: callers without room share one count, see `limits.max_keys`"
                );
            }
            self.tell_nearly_spent(&active.rule, active.counters.take_nearly_spent());
            let keys = i64::try_from(active.counters.keys()).unwrap_or(i64::MAX);
            self.keys.with_label_values(&[name]).set(keys);
        }
    }

    fn tell_nearly_spent(&self, rule: &Rule, (keys, others): (Vec<String>, u64)) {
        let count = others + u64::try_from(keys.len()).unwrap_or(u64::MAX);
        if count == 0 {
            return;
        }
        self.nearly_spent.with_label_values(&[&*rule.name]).inc_by(count);
        let (name, limit) = (&*rule.name, &*rule.shown);
        for key in keys {
            tracing::warn!(rule = name, limit, key, "a budget is spent by four fifths");
        }
        if others > 0 {
            tracing::warn!(rule = name, limit, budgets = others, "more budgets are spent by four fifths");
        }
    }

    fn may_warn(&self, now: Moment) -> bool {
        let (now_s, warned_s) = (now.monotonic.as_secs(), self.warned_s.load(Ordering::Relaxed));
        let may = warned_s == 0 || now_s >= warned_s + WARN_EVERY_S;
        if may {
            self.warned_s.store(now_s.max(1), Ordering::Relaxed);
        }
        may
    }

    /// Calls of a rule with an outcome so far.
    pub fn calls(&self, rule: &str, outcome: RuleOutcome) -> u64 {
        self.calls.with_label_values(&[rule, outcome.as_str()]).get()
    }

    /// Removes the series of rules that `former` has and `limits` has not.
    pub fn retain(&self, limits: &Limits, former: &Limits) {
        let is_gone = |name: &str| !limits.rules().iter().any(|active| &*active.rule.name == name);
        for name in former.rules().iter().map(|active| &*active.rule.name).filter(|name| is_gone(name)) {
            for outcome in RuleOutcome::ALL {
                self.calls.remove_label_values(&[name, outcome.as_str()]).ok();
            }
            self.overflowed.remove_label_values(&[name]).ok();
            self.nearly_spent.remove_label_values(&[name]).ok();
            self.keys.remove_label_values(&[name]).ok();
        }
    }
}
