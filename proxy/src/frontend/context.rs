//! Everything that a message can reach: the snapshot in force, its own, and what outlives them.

use crate::access_log::Sink;
use crate::authorize::{PolicyRuntime, SamplingQueue};
use crate::backend::upstreams::pool::Pool;
use crate::backend::{Backend, Pools};
use crate::drain::Drain;
use crate::frontend::bridge::CatalogNotices;
use crate::frontend::edge::LiveTls;
use crate::frontend::estate::Estate;
use crate::identify::Identifier;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::reaper::Reaper;
use crate::record::Recorder;
use crate::refusals::Refusals;
use arc_swap::{ArcSwap, Guard};
use portunus_config::{
    Bootstrap, Carry, Diagnostic, Loaded, ServerId, Severity, Snapshot, Upstream, VirtualServer,
};
use portunus_filters::call::Target;
use portunus_filters::filter::Filter;
use portunus_filters::limits::Limits;
use portunus_filters::{Admitting, Arrival, Cleared, Clock, Denial, Message, Pipeline};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::watch;

/// The process, as a message sees it.
pub struct Gateway {
    active: ArcSwap<Active>,
    /// The snapshot that was in force before: it judges the answers to what was sent under it.
    former: Mutex<Option<Arc<Active>>>,
    serials: watch::Sender<u64>,
    carry: Mutex<Carry>,
    reaper: Reaper<Active>,
    /// What the process was started with.
    pub bootstrap: Bootstrap,
    /// TLS of each listener, in the order of the document; it swaps without a restart.
    pub tls: Vec<Option<Arc<LiveTls>>>,
    /// The tables and services that calls to upstreams use.
    pub backend: Arc<Backend>,
    /// Tables that outlive snapshots.
    pub estate: Estate,
    /// Everything that is measured.
    pub metrics: Arc<Metrics>,
    /// What looks at questions to policy once more.
    pub sampling_queue: SamplingQueue,
    /// Where records go.
    pub recorder: Arc<Recorder>,
    /// Where time is read.
    pub clock: Arc<dyn Clock>,
    /// The end of the process.
    pub drain: Arc<Drain>,
    /// Names callers.
    pub identifier: Identifier,
    /// This replica and the others.
    pub peers: Peers,
    /// The last configuration that was refused, and what needs a restart.
    pub reload: Mutex<ReloadState>,
}

/// What became of the last change of the configuration.
#[derive(Debug, Default)]
pub struct ReloadState {
    /// Diagnostics of a configuration that was refused; empty if the last one is in force.
    pub refused: Vec<Diagnostic>,
    /// Keys that changed and wait for a restart.
    pub restart_needed: Vec<&'static str>,
    /// Warnings of the configuration in force.
    pub warnings: Vec<Diagnostic>,
}

/// One snapshot in force, with the pools and filters it runs on.
pub struct Active {
    /// What is enforced.
    pub snapshot: Snapshot,
    /// The filters, in order.
    pub pipeline: Pipeline,
    /// What of them asks policy.
    pub policy_runtime: PolicyRuntime,
    /// The filter of limits.
    pub limits: Arc<Limits>,
    /// Name of the revision, for records.
    pub revision: Arc<str>,
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
}

impl Active {
    fn new(
        snapshot: Snapshot,
        pools: Arc<Pools>,
        (policy_runtime, limits): (PolicyRuntime, Limits),
        metrics: Arc<Metrics>,
    ) -> Active {
        metrics.snapshots_alive.inc();
        let revision = snapshot.revision.to_string().into();
        let limits = Arc::new(limits);
        let pipeline = Pipeline::new(filters(&policy_runtime, &limits));
        Active { snapshot, pipeline, policy_runtime, limits, revision, pools, metrics }
    }

    /// True if messages at a virtual server may pass as they came, where its one upstream speaks their era: nothing is
    /// chosen, merged or changed there, and no filter reads anything. All others are served.
    pub fn may_pass(&self, server: &VirtualServer) -> bool {
        server.is_plain() && !self.pipeline.is_on()
    }

    /// True if messages at a virtual server may pass to this upstream: limits and credentials may be others than they were.
    pub fn may_pass_to(&self, server: &ServerId, upstream: &Upstream) -> bool {
        let same = |one: &Arc<Upstream>| one.name == upstream.name && one.url == upstream.url;
        let server = self.snapshot.routes.server(server);
        server.is_some_and(|server| self.may_pass(server) && server.upstreams.iter().any(same))
    }

    /// Has the filters take permits and charges for the request that a cleared message opens, and measures that.
    ///
    /// # Errors
    /// As [`Pipeline::admit`].
    pub fn admit(
        &self,
        cleared: Cleared,
        arrival: &Arrival,
        message: &Message,
        target: &Target,
    ) -> Result<Admitting, Denial> {
        let begun = self.limits.is_on().then(Instant::now);
        let admitting = self.pipeline.admit(cleared, arrival, message, target);
        if let Some(begun) = begun {
            self.metrics.filter(self.limits.name(), begun.elapsed().as_secs_f64());
        }
        admitting
    }

    /// The pool of an upstream of this snapshot.
    pub fn pool(&self, upstream: &Upstream) -> Option<Arc<Pool>> {
        self.pools.get(&upstream.key).cloned()
    }
}

/// The filters of a snapshot, in order.
fn filters(policy_runtime: &PolicyRuntime, limits: &Arc<Limits>) -> Vec<Box<dyn Filter>> {
    let authorization: Box<dyn Filter> = Box::new(Arc::clone(&policy_runtime.filter));
    // One that counts nothing costs nothing.
    let limits = limits.is_on().then(|| Box::new(Arc::clone(limits)) as Box<dyn Filter>);
    let all = std::iter::once(authorization).chain(limits);
    #[cfg(feature = "text-marker")]
    let all = all.chain([Box::new(portunus_filters::text_marker::TextMarker) as Box<dyn Filter>]);
    #[cfg(test)]
    let all = all.chain(TEST_FILTERS.take().into_iter().map(|filter| Box::new(filter) as Box<dyn Filter>));
    all.collect()
}

#[cfg(test)]
thread_local! {
    /// Filters of the next snapshot that this thread puts in force.
    pub(crate) static TEST_FILTERS: std::cell::RefCell<Vec<Arc<dyn Filter>>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Drop for Active {
    fn drop(&mut self) {
        self.metrics.snapshots_alive.dec();
    }
}

impl Gateway {
    /// A gateway that enforces `loaded`, and leaves nothing for a later process.
    ///
    /// # Errors
    /// As [`Gateway::keeping`].
    pub fn new(loaded: Loaded, clock: Arc<dyn Clock>) -> std::io::Result<Gateway> {
        Gateway::keeping(loaded, clock, None)
    }

    /// A gateway that enforces `loaded`, and seals by `kept_key` where that names no key.
    ///
    /// # Errors
    /// If the access log cannot be opened, a thread not be started or the system has no randomness.
    pub fn keeping(
        loaded: Loaded,
        clock: Arc<dyn Clock>,
        kept_key: Option<&[u8]>,
    ) -> std::io::Result<Gateway> {
        let metrics = Arc::new(Metrics::new().map_err(std::io::Error::other)?);
        let estate = Estate::new(&loaded.bootstrap, kept_key)?;
        let notices = Box::new(CatalogNotices(Arc::clone(&estate.catalogs)));
        let backend = Arc::new(Backend::new(Arc::clone(&clock), Arc::clone(&metrics), notices)?);
        let mut carry = Carry::default();
        let mut snapshot = loaded.snapshot;
        carry.activate(&mut snapshot);
        let pools = backend.reconcile(&snapshot);
        estate.reconcile(&snapshot);
        metrics.resolve(&snapshot);
        metrics.edge.certificates(&loaded.bootstrap);
        let serial = snapshot.serial;
        let sampling_queue = SamplingQueue::start(Arc::clone(&metrics))?;
        let policy_runtime = PolicyRuntime::of(&snapshot, &sampling_queue.recording, None);
        let limits = estate.limits(&snapshot, &clock);
        let active = Active::new(snapshot, pools, (policy_runtime, limits), Arc::clone(&metrics));
        let recorder = Arc::new(Recorder {
            access_log: Sink::open(&loaded.bootstrap.access_log, Arc::clone(&metrics))?,
            refusals: Refusals::default(),
            metrics: Arc::clone(&metrics),
            ids: Arc::clone(&backend.ids),
        });
        let gateway = Gateway {
            active: ArcSwap::from_pointee(active),
            former: Mutex::default(),
            serials: watch::Sender::new(serial),
            carry: Mutex::new(carry),
            reaper: Reaper::start()?,
            recorder,
            identifier: Identifier::new(estate.seals.identity_key().clone()),
            peers: Peers::new(&loaded.bootstrap, estate.home.clone()),
            tls: live_tls(&loaded.bootstrap),
            bootstrap: loaded.bootstrap,
            backend,
            estate,
            metrics,
            sampling_queue,
            clock,
            drain: Arc::new(Drain::default()),
            reload: Mutex::new(ReloadState { warnings: loaded.warnings, ..ReloadState::default() }),
        };
        gateway.activated("accepted");
        Ok(gateway)
    }

    /// The snapshot in force. A message that is being served has one of its own, see
    /// [`MessageSnapshot`].
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// True if a snapshot is the one in force or the one before; somebody may still hold an older one.
    pub fn keeps(&self, active: &Active) -> bool {
        let is_it = |kept: &Arc<Active>| std::ptr::eq(&raw const **kept, active);
        self.is_in_force(active) || self.former().as_ref().is_some_and(is_it)
    }

    /// Adds the calls that limits have counted since the last time to the metrics.
    pub fn measure_limits(&self) {
        self.metrics.limits.update(&self.glance().limits, self.clock.now());
    }

    /// True if a snapshot is the one in force.
    pub fn is_in_force(&self, active: &Active) -> bool {
        std::ptr::eq(&raw const **self.glance(), active)
    }

    /// Whether nobody could say who they are: callers are named by tokens alone, and no issuer's keys are here.
    pub fn lacks_keys(&self) -> bool {
        let active = self.active();
        let names_otherwise = active.snapshot.identities.as_ref().is_none_or(|identities| {
            !identities.inspections.is_empty()
                || identities.keys.is_some()
                || identities.certificates.is_some()
        });
        !names_otherwise && self.estate.callers.keys.are_missing()
    }

    /// The snapshot in force, to look at something in it and let it go at once: costs less, and holds up
    /// whoever keeps many of them.
    pub fn glance(&self) -> Guard<Arc<Active>> {
        self.active.load()
    }

    /// Serial numbers of activations, for streams that outlive them.
    pub fn serials(&self) -> watch::Receiver<u64> {
        self.serials.subscribe()
    }

    /// Puts a compiled configuration in force.
    ///
    /// What the process cannot change while it runs keeps its old value and is named in the status.
    pub fn activate(&self, loaded: Loaded) {
        let restart_needed = self.bootstrap.restart_needed(&loaded.bootstrap);
        if !restart_needed.is_empty() {
            tracing::warn!(keys = restart_needed.join(", "), "changed keys take effect at the next start");
        }
        for (listener, live) in self.bootstrap.listeners.iter().zip(&self.tls) {
            if let (Some(live), Some(tls)) = (live, loaded.bootstrap.listener_tls(&listener.name)) {
                live.replace(tls);
            }
        }
        self.peers.renew(&loaded.bootstrap);
        self.metrics.edge.certificates(&loaded.bootstrap);
        self.end_former();
        let mut snapshot = loaded.snapshot;
        self.carry.lock().unwrap_or_else(PoisonError::into_inner).activate(&mut snapshot);
        let serial = snapshot.serial;
        self.metrics.resolve(&snapshot);
        let pools = self.backend.reconcile(&snapshot);
        self.estate.reconcile(&snapshot);
        let before = self.active.load();
        let policy_runtime =
            PolicyRuntime::of(&snapshot, &self.sampling_queue.recording, Some(&before.policy_runtime));
        drop(before);
        let filters = (policy_runtime, self.estate.limits(&snapshot, &self.clock));
        let active = Arc::new(Active::new(snapshot, pools, filters, Arc::clone(&self.metrics)));
        tracing::info!(revision = %active.revision, serial, "configuration in force");
        self.measure_limits();
        let former = self.active.swap(active);
        self.metrics.limits.retain(&self.glance().limits, &former.limits);
        *self.former() = Some(former);
        self.serials.send_replace(serial);
        *self.reload.lock().unwrap_or_else(PoisonError::into_inner) =
            ReloadState { refused: Vec::new(), restart_needed, warnings: loaded.warnings };
        self.activated("accepted");
    }

    /// Notes a configuration that was refused; the one in force stays.
    pub fn refuse_configuration(&self, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics.iter().filter(|one| one.severity == Severity::Error) {
            tracing::error!(
                at = diagnostic.at.as_ref().map(tracing::field::display),
                path = diagnostic.path,
                problem = diagnostic.problem,
                hint = diagnostic.hint,
                "configuration refused"
            );
        }
        self.reload.lock().unwrap_or_else(PoisonError::into_inner).refused = diagnostics;
        self.metrics.activations.with_label_values(&["refused"]).inc();
    }

    /// Drops the snapshot before the one in force, since two are enough; a message that is not sent yet may hold it longer.
    fn end_former(&self) {
        let former = self.former().take();
        if let Some(Err(held)) = former.map(Arc::try_unwrap) {
            self.reaper.retire(held);
        }
    }

    fn former(&self) -> MutexGuard<'_, Option<Arc<Active>>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn activated(&self, result: &str) {
        let now = self.clock.now().wall.as_secs();
        self.metrics.activations.with_label_values(&[result]).inc();
        self.metrics.activated_at.set(i64::try_from(now).unwrap_or(i64::MAX));
    }
}

fn live_tls(bootstrap: &Bootstrap) -> Vec<Option<Arc<LiveTls>>> {
    let live =
        |listener: &portunus_config::Listener| listener.tls.clone().map(|tls| Arc::new(LiveTls::new(tls)));
    bootstrap.listeners.iter().map(live).collect()
}

/// The snapshot by which one message is routed, judged and sent: one for all of it, whatever is activated
/// meanwhile.
///
/// It is let go when the request is sent, since its answer may take hours. From then on [`AnswerSnapshot`] counts, and
/// for what is not a message the snapshot in force.
pub struct MessageSnapshot(Mutex<Held>);

enum Held {
    /// The message is still judged by it.
    Whole(Arc<Active>),
    /// The message was sent.
    Remembered(AnswerSnapshot),
}

/// The snapshot by which answers to a message are judged: that of the message for as long as the gateway keeps it, then
/// the one in force. The default is the one in force.
#[derive(Clone, Default)]
pub struct AnswerSnapshot(Weak<Active>);

impl AnswerSnapshot {
    /// That of a message that `active` has judged.
    pub fn of(active: &Arc<Active>) -> AnswerSnapshot {
        AnswerSnapshot(Arc::downgrade(active))
    }

    /// The snapshot that judges what is answered now.
    pub fn active(&self, gateway: &Gateway) -> Arc<Active> {
        self.0.upgrade().filter(|own| gateway.keeps(own)).unwrap_or_else(|| gateway.active())
    }
}

impl MessageSnapshot {
    /// That of a message which is to be judged by `active`.
    pub fn holding(active: Arc<Active>) -> MessageSnapshot {
        MessageSnapshot(Mutex::new(Held::Whole(active)))
    }

    /// The snapshot of the message; once its request was sent, the one that judges its answers.
    pub fn active(&self, gateway: &Gateway) -> Arc<Active> {
        match &*self.lock() {
            Held::Whole(active) => Arc::clone(active),
            Held::Remembered(own) => own.active(gateway),
        }
    }

    /// The snapshot that judges the answers to the message.
    pub fn for_answers(&self) -> AnswerSnapshot {
        self.lock().for_answers()
    }

    /// Lets the snapshot go: the request was judged, and what is left to judge is its answer.
    pub fn release(&self) {
        drop(self.hand_over());
    }

    /// Has `active`, which has judged the message last, judge its answers.
    pub fn answer_under(&self, active: &Arc<Active>) {
        self.replace(AnswerSnapshot::of(active));
    }

    /// Lets the snapshot go for good: what a stream brings is judged by the one in force.
    pub fn forget(&self) {
        self.replace(AnswerSnapshot::default());
    }

    /// Gives the snapshot to whoever serves the message from here on.
    pub fn hand_over(&self) -> MessageSnapshot {
        let own = self.for_answers();
        MessageSnapshot(Mutex::new(self.replace(own)))
    }

    /// The same snapshot for a part of the message.
    pub fn share(&self) -> MessageSnapshot {
        let held = match &*self.lock() {
            Held::Whole(active) => Held::Whole(Arc::clone(active)),
            Held::Remembered(own) => Held::Remembered(own.clone()),
        };
        MessageSnapshot(Mutex::new(held))
    }

    fn replace(&self, own: AnswerSnapshot) -> Held {
        std::mem::replace(&mut *self.lock(), Held::Remembered(own))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn for_answers(&self) -> AnswerSnapshot {
        match self {
            Held::Whole(active) => AnswerSnapshot::of(active),
            Held::Remembered(own) => own.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bed;

    const DOCUMENT: &str = "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: { url: \"http://127.0.0.1:9/\" }\nservers:\n  /mcp: up\n";

    #[tokio::test]
    async fn withdrawn_snapshot_judges_no_answers_even_if_somebody_holds_it() {
        let bed = Bed::of(DOCUMENT);
        let held = bed.gateway.active();
        let own = AnswerSnapshot::of(&held);
        bed.activate(DOCUMENT);
        assert!(Arc::ptr_eq(&own.active(&bed.gateway), &held), "it is the one before");
        bed.activate(DOCUMENT);
        assert!(Arc::ptr_eq(&own.active(&bed.gateway), &bed.gateway.active()));
    }
}
