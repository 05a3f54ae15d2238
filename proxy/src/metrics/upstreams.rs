//! Metrics of upstreams. Label values come from the configuration alone, so that it bounds them.

use super::keep;
use crate::backend::upstreams::dial::ConnectCause;
use crate::backend::upstreams::monitor::{Answers, InstanceMonitor};
use portunus_base::UpstreamUrl;
use portunus_config::{Snapshot, Upstream};
use portunus_filters::{Reason, Status};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Outcomes of calls that were not failures of their upstream.
const ANSWERED: [Status; 5] = [Status::Ok, Status::Error, Status::Cancelled, Status::Denied, Status::Invalid];
/// States of connections.
const STATES: [&str; 2] = ["idle", "active"];

/// Metrics of all upstreams.
pub struct UpstreamsMetrics {
    up: IntGaugeVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    connections: IntGaugeVec,
    connect_failures: IntCounterVec,
    ejections: IntCounterVec,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    upstreams: HashMap<Arc<str>, Arc<UpstreamMetrics>>,
    /// By the names of upstreams, and their URLs without queries.
    instances: HashMap<(Arc<str>, String), Arc<InstanceMonitor>>,
}

/// Handles of one upstream.
pub struct UpstreamMetrics {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Who pauses in asking it learns here that it answers.
    pub answers: Arc<Answers>,
    answered: [IntCounter; ANSWERED.len()],
    failed: Box<[(Reason, IntCounter)]>,
    failed_calls: AtomicU64,
    duration: Histogram,
    /// Idle, and active.
    connections: [IntGauge; STATES.len()],
    connect_failures: [IntCounter; ConnectCause::ALL.len()],
    /// Ejections of its instances.
    pub ejections: IntCounter,
}

impl UpstreamMetrics {
    /// Counts one call of a client that went to it.
    pub fn count(&self, status: Status, reason: Option<Reason>, seconds: f64) {
        self.duration.observe(seconds);
        let failed = reason.and_then(|reason| self.failed.iter().find(|(one, _)| *one == reason));
        match failed {
            Some((_, counter)) => {
                self.failed_calls.fetch_add(1, Ordering::Relaxed);
                counter.inc();
            }
            None => {
                if let Some(position) = ANSWERED.iter().position(|one| *one == status) {
                    self.answered[position].inc();
                }
            }
        }
    }

    /// Calls of clients that failed because of it.
    pub fn failed_calls(&self) -> u64 {
        self.failed_calls.load(Ordering::Relaxed)
    }

    /// Counts a connection that was not made.
    pub fn count_connect_failure(&self, cause: ConnectCause) {
        self.connect_failures[cause as usize].inc();
    }

    /// Shows how many connections it has.
    pub fn show_connections(&self, idle: usize, active: usize) {
        for (gauge, count) in self.connections.iter().zip([idle, active]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// The label of a call that its upstream failed; `None` for refusals that say nothing of upstreams.
fn failure_label(reason: Reason) -> Option<&'static str> {
    let name = reason.as_str();
    let failed = matches!(Status::from(reason), Status::UpstreamError | Status::Timeout);
    failed.then(|| name.strip_prefix("upstream_").unwrap_or(name))
}

fn failures() -> impl Iterator<Item = (Reason, &'static str)> {
    Reason::ALL.iter().filter_map(|reason| Some((*reason, failure_label(*reason)?)))
}

impl UpstreamsMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<UpstreamsMetrics> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let (durations, help) =
            ("portunus_upstream_request_duration_seconds", "Time of a call from its forwarding to its end");
        let durations = HistogramOpts::new(durations, help).buckets(super::CALL_BUCKETS.to_vec());
        let up = "Whether the last request to an instance of an upstream was answered";
        let (ejections, ejected) = ("portunus_upstream_ejections_total", "Ejections of instances");
        Ok(UpstreamsMetrics {
            up: gauges("portunus_upstream_up", up, &["upstream", "instance"])?,
            requests: counters(
                "portunus_upstream_requests_total",
                "Messages of clients that went to an upstream, by outcome",
                &["upstream", "status"],
            )?,
            durations: keep(registry, HistogramVec::new(durations, &["upstream"])?)?,
            connections: gauges(
                "portunus_upstream_connections",
                "Idle connections to an upstream, and active calls and streams",
                &["upstream", "state"],
            )?,
            connect_failures: counters(
                "portunus_upstream_connect_failures_total",
                "Connections to an upstream that were not made",
                &["upstream", "cause"],
            )?,
            ejections: counters(ejections, ejected, &["upstream"])?,
            known: Mutex::default(),
        })
    }

    /// What watches the instance that `upstream` leads to: one for all pools with the same label values.
    ///
    /// Only here do series begin, so that what still runs on a configuration that was replaced brings none back that
    /// [`Self::retain`] has ended.
    pub fn instance(&self, upstream: &Upstream) -> Arc<InstanceMonitor> {
        let mut known = self.lock();
        let metrics = known
            .upstreams
            .entry(Arc::clone(&upstream.name))
            .or_insert_with(|| Arc::new(self.handles(&upstream.name)));
        let metrics = Arc::clone(metrics);
        let url = upstream.url.redacted();
        let up = self.up.with_label_values(&[&*upstream.name, &url]);
        let monitor = known
            .instances
            .entry((Arc::clone(&upstream.name), url.clone()))
            .or_insert_with(|| Arc::new(InstanceMonitor::new(metrics, url, up)));
        Arc::clone(monitor)
    }

    /// Forgets what `snapshot` does not have: a removed upstream must not look like one that is down.
    pub fn retain(&self, snapshot: &Snapshot) {
        let names: HashSet<&str> = snapshot.upstreams.iter().map(|one| &*one.name).collect();
        let urls: HashSet<(&str, String)> = snapshot
            .upstreams
            .iter()
            .flat_map(|one| one.urls().map(|url| (&*one.name, url.redacted())))
            .collect();
        let mut known = self.lock();
        known.instances.retain(|(name, url), _| {
            let stays = urls.contains(&(&**name, url.clone()));
            if !stays {
                self.up.remove_label_values(&[&**name, url]).ok();
            }
            stays
        });
        known.upstreams.retain(|name, _| {
            let stays = names.contains(&**name);
            if !stays {
                self.forget(name);
            }
            stays
        });
    }

    /// Reports instances that failed too often for a line each.
    pub fn sweep(&self, now: Instant) {
        let instances: Vec<_> = self.lock().instances.values().cloned().collect();
        instances.iter().for_each(|instance| instance.sweep(now));
    }

    /// The instances of an upstream, in the order of their URLs; none of one that was removed meanwhile.
    pub fn instances_of(&self, upstream: &Upstream) -> Vec<Arc<InstanceMonitor>> {
        let known = self.lock();
        let at =
            |url: &UpstreamUrl| known.instances.get(&(Arc::clone(&upstream.name), url.redacted())).cloned();
        upstream.urls().filter_map(at).collect()
    }

    fn handles(&self, name: &Arc<str>) -> UpstreamMetrics {
        let counter = |status: &str| self.requests.with_label_values(&[&**name, status]);
        UpstreamMetrics {
            name: Arc::clone(name),
            answers: Arc::default(),
            answered: ANSWERED.map(|status| counter(status.as_str())),
            failed: failures().map(|(reason, label)| (reason, counter(label))).collect(),
            failed_calls: AtomicU64::new(0),
            duration: self.durations.with_label_values(&[&**name]),
            connections: STATES.map(|state| self.connections.with_label_values(&[&**name, state])),
            connect_failures: ConnectCause::ALL
                .map(|cause| self.connect_failures.with_label_values(&[&**name, cause.as_str()])),
            ejections: self.ejections.with_label_values(&[&**name]),
        }
    }

    fn forget(&self, name: &str) {
        let statuses = ANSWERED.iter().map(|status| status.as_str());
        for status in statuses.chain(failures().map(|(_, label)| label)) {
            self.requests.remove_label_values(&[name, status]).ok();
        }
        for cause in ConnectCause::ALL {
            self.connect_failures.remove_label_values(&[name, cause.as_str()]).ok();
        }
        for state in STATES {
            self.connections.remove_label_values(&[name, state]).ok();
        }
        self.durations.remove_label_values(&[name]).ok();
        self.ejections.remove_label_values(&[name]).ok();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::forward::Failure;
    use portunus_config::{MapEnvironment, load_text};
    use portunus_filters::Denial;
    use std::path::Path;

    fn snapshot(name: &str) -> Snapshot {
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  {name}: http://127.0.0.1:9/mcp\nservers:\n  /mcp: {name}\n"
        );
        load_text(&text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap().snapshot
    }

    #[test]
    fn failure_of_a_request_that_is_older_than_the_last_recovery_begins_no_outage() {
        let metrics = UpstreamsMetrics::new(&Registry::new()).unwrap();
        let monitor = metrics.instance(&snapshot("up").upstreams[0]);
        let failure = Failure::from(Denial::new(Reason::UpstreamTimeout, "no answer"));
        let is_failing = || monitor.outage(Instant::now()).is_some();
        let sent = monitor.recoveries();
        monitor.note_failure_since(sent, &failure);
        assert!(is_failing());
        monitor.note_answer();
        monitor.note_failure_since(sent, &failure);
        assert!(!is_failing(), "it has answered since");
        monitor.note_failure_since(monitor.recoveries(), &failure);
        assert!(is_failing());
    }

    #[test]
    fn removed_upstream_series_stay_gone_when_old_handles_count() {
        let registry = Registry::new();
        let metrics = UpstreamsMetrics::new(&registry).unwrap();
        let (former, latter) = (snapshot("former"), snapshot("latter"));
        let shown = |name: &str| {
            let families = registry.gather();
            let series = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
            series.flat_map(|one| one.get_label()).any(|label| label.value() == name)
        };
        let monitor = metrics.instance(&former.upstreams[0]);
        assert!(shown("former"));
        metrics.instance(&latter.upstreams[0]);
        metrics.retain(&latter);
        monitor.upstream.count_connect_failure(ConnectCause::Refused);
        monitor.upstream.show_connections(1, 1);
        monitor.upstream.count(Status::Ok, None, 0.1);
        assert!(metrics.instances_of(&former.upstreams[0]).is_empty());
        assert_eq!(metrics.instances_of(&latter.upstreams[0]).len(), 1);
        assert!(shown("latter") && !shown("former"));
    }
}
