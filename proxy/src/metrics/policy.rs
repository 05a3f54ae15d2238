//! What is measured of decisions.

use super::keep;
use portunus_filters::authorize::{Class, Entry, RanOut, Unit};
use portunus_filters::decision_record::{DecisionRecord, PolicyResult};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::sync::OnceLock;

const CLASSES: usize = 5;
const RESULTS: [&str; 3] = ["allow", "deny", "error"];
const CACHE: [&str; 2] = ["miss", "hit"];

/// Decisions by what was asked, what they depend on, how they went, and whether they were remembered.
pub struct PolicyMetrics {
    decisions: IntCounterVec,
    handles: Vec<OnceLock<IntCounter>>,
    /// Messages that somebody wants to be told of.
    pub alerts: IntCounter,
    /// Analyses that turned out to be wrong.
    pub divergences: IntCounter,
    /// Questions that nobody had the time to look at again.
    pub aside_dropped: IntCounter,
    /// What the policy that is tried beside the one in force would have decided, by how it compares.
    pub shadow: IntCounterVec,
    ran_out: IntCounterVec,
}

impl PolicyMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<PolicyMetrics> {
        let counter = |name: &str, help: &str| keep(registry, IntCounter::new(name, help)?);
        let decisions = Opts::new("portunus_policy_decisions_total", "Decisions of the policy");
        let shadow = Opts::new("portunus_policy_shadow_total", "Decisions of the policy that is tried");
        let ran_out = Opts::new("portunus_policy_ran_out_total", "Times that the policy ran out of CPU time");
        let ran_out = keep(registry, IntCounterVec::new(ran_out, &["of"])?)?;
        RanOut::ALL.iter().for_each(|what| drop(ran_out.with_label_values(&[what.as_str()])));
        Ok(PolicyMetrics {
            ran_out,
            decisions: keep(
                registry,
                IntCounterVec::new(decisions, &["entry", "class", "decision", "cache"])?,
            )?,
            handles: (0..Entry::ALL.len() * CLASSES * RESULTS.len() * CACHE.len())
                .map(|_| OnceLock::new())
                .collect(),
            alerts: counter("portunus_policy_alerts_total", "Messages that raised an alert")?,
            divergences: counter(
                "portunus_policy_divergences_total",
                "Times that a policy read more than its analysis found",
            )?,
            aside_dropped: counter(
                "portunus_policy_aside_dropped_total",
                "Questions that were to be looked at again and were not",
            )?,
            shadow: keep(registry, IntCounterVec::new(shadow, &["entry", "result"])?)?,
        })
    }

    /// Counts what ran out of time.
    pub fn ran_out(&self, times: &[(RanOut, u64)]) {
        for (what, times) in times.iter().filter(|(_, times)| *times > 0) {
            self.ran_out.with_label_values(&[what.as_str()]).inc_by(*times);
        }
    }

    /// Counts what was decided of a message.
    pub fn decided(&self, decision_record: &DecisionRecord) {
        if let Some(policy_result) = &decision_record.policy {
            self.policy_result(policy_result);
        }
        if decision_record.alert {
            self.alerts.inc();
        }
    }

    fn policy_result(&self, policy_result: &PolicyResult) {
        let ruling = &policy_result.decision.ruling;
        let result = match (&ruling.fault, ruling.allow) {
            (Some(_), _) => 2,
            (None, true) => 0,
            (None, false) => 1,
        };
        let cached = usize::from(policy_result.decision.cached);
        let (class, name) = class(policy_result.class);
        let place = ((policy_result.entry as usize * CLASSES + class) * RESULTS.len() + result) * CACHE.len()
            + cached;
        let counter = || {
            let labels = [policy_result.entry.as_str(), name, RESULTS[result], CACHE[cached]];
            self.decisions.with_label_values(&labels)
        };
        if let Some(handle) = self.handles.get(place) {
            handle.get_or_init(counter).inc();
        }
        if policy_result.decision.diverged {
            self.divergences.inc();
        }
    }
}

fn class(class: Class) -> (usize, &'static str) {
    match class {
        Class::Pure => (0, "pure"),
        Class::Time(Unit::Minute) => (1, "time(minute)"),
        Class::Time(Unit::Hour) => (2, "time(hour)"),
        Class::Time(Unit::Day) => (3, "time(day)"),
        Class::WholeInput => (4, "whole_input"),
    }
}
