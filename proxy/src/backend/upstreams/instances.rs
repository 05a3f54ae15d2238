//! Several identical instances behind one upstream's name.
//!
//! A call goes to the instance with the fewest under way, or where its caller's session is. One that
//! fails calls in a row is left alone for a while, longer each time; one that fails its probes, until
//! it answers one. If none is left, all are tried: a guess is better than a refusal.

use super::pool::Pool;
use crate::backend::Backend;
use crate::backend::forward::{Failure, FailureScope};
use crate::backend::gateway_requests;
use crate::backend::upstream_call::{CallerKey, Profile, UpstreamTarget};
use crate::metrics::UpstreamsMetrics;
use crate::shares::Owner;
use portunus_config::{Ejection, Health, ServerId, Snapshot, Upstream, UpstreamKey};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Longest time that an instance is left alone.
const MAX_EJECTED: Duration = Duration::from_secs(300);

/// The instances of every upstream that has several, or is probed.
#[derive(Default)]
pub struct Instances {
    sets: Mutex<HashMap<UpstreamKey, Arc<InstanceSet>>>,
}

/// The instances of one upstream.
struct InstanceSet {
    /// As the document has it.
    upstream: Arc<Upstream>,
    instances: Vec<Arc<Instance>>,
    /// Ties are broken in turn.
    turn: AtomicUsize,
}

/// One instance.
struct Instance {
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
    in_flight: AtomicUsize,
    health: Mutex<InstanceHealth>,
}

/// The health of an instance, as calls and probes have found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InstanceHealth {
    failed_calls: usize,
    ejections: u32,
    ejected_until: Option<Duration>,
    failed_probes: usize,
    probed_at: Option<Duration>,
}

/// The use of an instance for one call.
pub struct InstanceLease {
    instance: Arc<Instance>,
}

/// The status of one instance, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// Where it is, without its query.
    pub url: String,
    /// `healthy`, `ejected` or `unhealthy`.
    pub state: &'static str,
    /// Calls under way.
    pub in_flight: usize,
}

impl Instances {
    /// Makes the sets fit `snapshot`; what is known of instances that stay is kept.
    pub fn reconcile(&self, snapshot: &Snapshot, metrics: &UpstreamsMetrics) {
        let mut sets = self.lock();
        let known: HashMap<UpstreamKey, Arc<Instance>> = sets
            .values()
            .flat_map(|set| set.instances.iter())
            .map(|instance| (instance.upstream.key, Arc::clone(instance)))
            .collect();
        let several =
            snapshot.upstreams.iter().filter(|one| !one.replicas.is_empty() || one.health.is_some());
        *sets = several
            .map(|upstream| (upstream.key, Arc::new(InstanceSet::of(upstream, &known, metrics))))
            .collect();
    }

    /// The place of a call: `place` itself unless its upstream has several. `prefers` is where the
    /// caller would rather go, such as to its session.
    pub fn settle(
        &self,
        place: UpstreamTarget,
        now: Duration,
        prefers: impl Fn(&UpstreamTarget) -> bool,
    ) -> (UpstreamTarget, Option<InstanceLease>) {
        self.settle_beside(place, now, prefers, None)
    }

    /// As [`Instances::settle`], but not where `beside` is.
    pub fn settle_beside(
        &self,
        place: UpstreamTarget,
        now: Duration,
        prefers: impl Fn(&UpstreamTarget) -> bool,
        beside: Option<&InstanceLease>,
    ) -> (UpstreamTarget, Option<InstanceLease>) {
        if place.upstream.replicas.is_empty() {
            return (place, None);
        }
        let set = self.lock().get(&place.upstream.key).cloned();
        let Some(set) = set else { return (place, None) };
        let at = |instance: &Arc<Instance>| UpstreamTarget {
            upstream: Arc::clone(&instance.upstream),
            pool: Arc::clone(&instance.pool),
            ..place.clone()
        };
        let Some(instance) = set.choose(now, |instance| prefers(&at(instance)), beside) else {
            return (place, None);
        };
        (at(&instance), Some(InstanceLease::at(&instance)))
    }

    /// Leases the instance of that key, if there is one.
    pub fn lease(&self, key: UpstreamKey) -> Option<InstanceLease> {
        let sets = self.lock();
        let mut instances = sets.values().flat_map(|set| set.instances.iter());
        instances.find(|instance| instance.upstream.key == key).map(InstanceLease::at)
    }

    /// The upstream as the document has it, of which `key` is an instance.
    pub fn whole(&self, key: UpstreamKey) -> Option<Arc<Upstream>> {
        let sets = self.lock();
        if sets.is_empty() {
            return None;
        }
        let set = sets.values().find(|set| set.instances.iter().any(|instance| instance.upstream.key == key));
        set.map(|set| Arc::clone(&set.upstream))
    }

    /// Keys of all instances.
    pub fn keys(&self) -> Vec<UpstreamKey> {
        self.all().iter().map(|instance| instance.upstream.key).collect()
    }

    /// The connections to all instances.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.all().iter().map(|instance| Arc::clone(&instance.pool)).collect()
    }

    /// The status of all instances at `now`.
    pub fn status(&self, now: Duration) -> Vec<InstanceStatus> {
        let mut all: Vec<_> = self.all().iter().map(|instance| instance.status(now)).collect();
        all.sort_by(|one, other| (&one.upstream, &one.url).cmp(&(&other.upstream, &other.url)));
        all
    }

    /// Probes the instances that are due, in the background.
    pub fn probe(&self, backend: &Arc<Backend>) {
        let now = backend.clock.now().monotonic;
        for instance in self.all() {
            let Some(health) = instance.upstream.health.filter(|health| instance.is_due(now, health)) else {
                continue;
            };
            let probing = Arc::clone(backend);
            backend.spawn(async move {
                let place = instance.place();
                let lives =
                    timeout(health.timeout, gateway_requests::lives(&probing, &place)).await.unwrap_or(false);
                if instance.probed(lives, &health) {
                    instance.log_health(lives);
                }
            });
        }
    }

    fn all(&self) -> Vec<Arc<Instance>> {
        self.lock().values().flat_map(|set| set.instances.iter().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UpstreamKey, Arc<InstanceSet>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstanceSet {
    fn of(
        upstream: &Arc<Upstream>,
        known: &HashMap<UpstreamKey, Arc<Instance>>,
        metrics: &UpstreamsMetrics,
    ) -> InstanceSet {
        let instances = upstream.urls().map(|url| {
            let at = Arc::new(upstream.at(url));
            match known.get(&at.key) {
                // Timeouts and headers may have changed.
                Some(known) => Arc::new(Instance {
                    upstream: at,
                    pool: Arc::clone(&known.pool),
                    in_flight: AtomicUsize::new(0),
                    health: Mutex::new(*known.lock()),
                }),
                None => Arc::new(Instance::new(at, metrics)),
            }
        });
        InstanceSet {
            upstream: Arc::clone(upstream),
            instances: instances.collect(),
            turn: AtomicUsize::new(0),
        }
    }

    fn choose(
        &self,
        now: Duration,
        prefers: impl Fn(&Arc<Instance>) -> bool,
        beside: Option<&InstanceLease>,
    ) -> Option<Arc<Instance>> {
        let elsewhere = |instance: &&Arc<Instance>| {
            beside.is_none_or(|beside| instance.upstream.key != beside.instance.upstream.key)
        };
        let others: Vec<_> = self.instances.iter().filter(elsewhere).collect();
        let fit: Vec<_> = others.iter().copied().filter(|instance| instance.is_fit(now)).collect();
        let open = if fit.is_empty() { others } else { fit };
        if let Some(preferred) = open.iter().find(|instance| prefers(instance)) {
            return Some(Arc::clone(preferred));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(open.len())?;
        let (front, back) = open.split_at(start);
        let least =
            back.iter().chain(front).min_by_key(|instance| instance.in_flight.load(Ordering::Relaxed));
        least.map(|instance| Arc::clone(instance))
    }
}

impl Instance {
    fn new(upstream: Arc<Upstream>, metrics: &UpstreamsMetrics) -> Instance {
        let pool = Arc::new(Pool::monitored(&upstream, metrics));
        Instance { upstream, pool, in_flight: AtomicUsize::new(0), health: Mutex::default() }
    }

    /// Where a probe goes: for nobody.
    fn place(&self) -> UpstreamTarget {
        UpstreamTarget {
            upstream: Arc::clone(&self.upstream),
            pool: Arc::clone(&self.pool),
            server: ServerId("".into()),
            caller: CallerKey::for_all(),
            owner: Owner::Nobody,
            profile: Arc::new(Profile::silent("portunus", env!("CARGO_PKG_VERSION"))),
            headers: Arc::default(),
        }
    }

    fn is_fit(&self, now: Duration) -> bool {
        self.lock().is_fit(now, self.upstream.health.as_ref())
    }

    fn is_due(&self, now: Duration, health: &Health) -> bool {
        let mut state = self.lock();
        let due = state.probed_at.is_none_or(|at| now.saturating_sub(at) >= health.interval);
        if due {
            state.probed_at = Some(now);
        }
        due
    }

    fn probed(&self, lives: bool, health: &Health) -> bool {
        self.lock().probed(lives, health)
    }

    fn log_health(&self, lives: bool) {
        let (upstream, instance) = (&*self.upstream.name, self.upstream.url.redacted());
        match lives {
            true => tracing::warn!(upstream, instance, "instance healthy again: it answered a probe"),
            false => tracing::warn!(upstream, instance, "instance unhealthy: it failed its probes"),
        }
    }

    fn note_answer(&self) {
        let was_ejected = self.lock().answered();
        if was_ejected {
            let (upstream, instance) = (&*self.upstream.name, self.upstream.url.redacted());
            tracing::warn!(upstream, instance, "instance no longer ejected: it answered a call");
        }
    }

    fn note_failure(&self, now: Duration) {
        let ejected_for = self.lock().failed(now, &self.upstream.ejection);
        let Some(ejected_for) = ejected_for else { return };
        if let Some(monitor) = self.pool.monitor() {
            monitor.upstream.ejections.inc();
        }
        tracing::warn!(
            upstream = &*self.upstream.name,
            instance = self.upstream.url.redacted(),
            for_s = ejected_for.as_secs_f32(),
            "instance ejected: it failed calls in a row"
        );
    }

    fn status(&self, now: Duration) -> InstanceStatus {
        let health = *self.lock();
        let state = match (health.is_fit(now, None), self.is_fit(now)) {
            (_, true) => "healthy",
            (false, _) => "ejected",
            (true, false) => "unhealthy",
        };
        InstanceStatus {
            upstream: Arc::clone(&self.upstream.name),
            url: self.upstream.url.redacted(),
            state,
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InstanceHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstanceLease {
    fn at(instance: &Arc<Instance>) -> InstanceLease {
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        InstanceLease { instance: Arc::clone(instance) }
    }

    /// Notes how the call went; `failure` is none if there was an answer.
    pub fn judge(&self, failure: Option<&Failure>, now: Duration) {
        match failure.map(|failure| failure.scope) {
            None => self.instance.note_answer(),
            Some(FailureScope::Unknown) => {}
            Some(FailureScope::Unreached | FailureScope::Failing) => self.instance.note_failure(now),
        }
    }
}

impl Drop for InstanceLease {
    fn drop(&mut self) {
        self.instance.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InstanceHealth {
    fn is_fit(&self, now: Duration, health: Option<&Health>) -> bool {
        let ejected = self.ejected_until.is_some_and(|until| now < until);
        let unhealthy = health.is_some_and(|health| self.failed_probes >= health.unhealthy_after);
        !ejected && !unhealthy
    }

    /// Whether it was ejected before this answer.
    fn answered(&mut self) -> bool {
        let was_ejected = self.ejected_until.is_some();
        (self.failed_calls, self.ejections, self.ejected_until) = (0, 0, None);
        was_ejected
    }

    /// For how long this failure ejects it, if it does.
    fn failed(&mut self, now: Duration, ejection: &Ejection) -> Option<Duration> {
        self.failed_calls += 1;
        if self.failed_calls < ejection.after || self.ejected_until.is_some_and(|until| now < until) {
            return None;
        }
        let longer = 2u32.saturating_pow(self.ejections);
        self.ejections += 1;
        let ejected_for = ejection.base.saturating_mul(longer).min(MAX_EJECTED);
        self.ejected_until = Some(now + ejected_for);
        // Once it is back, one more failure is enough.
        self.failed_calls = ejection.after.saturating_sub(1);
        Some(ejected_for)
    }

    /// Whether this probe changes what is thought of it.
    fn probed(&mut self, lives: bool, health: &Health) -> bool {
        let before = self.failed_probes >= health.unhealthy_after;
        self.failed_probes = if lives { 0 } else { self.failed_probes.saturating_add(1) };
        before != (self.failed_probes >= health.unhealthy_after)
    }
}

#[cfg(test)]
mod tests;
