//! Calls servers, and keeps what that takes: connections, names, sessions, eras, answers.
//!
//! It outlives snapshots and knows nothing of clients. After each activation [`Backend::reconcile`] keeps what the new
//! snapshot still uses, adds what is new and lets go of the rest. A pool that was let go closes with its last call.

pub mod forward;
pub mod gateway_requests;
pub mod headers;
pub mod resource_cache;
pub mod single_flight;
pub mod upstream_call;
pub mod upstream_sessions;
pub mod upstreams;

use crate::backend::gateway_requests::{Asked, Farewells, MAX_BACKGROUND_REQUESTS};
use crate::backend::resource_cache::Reads;
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_sessions::{NoticeQueue, SessionPools};
use crate::backend::upstreams::dns::Resolver;
use crate::backend::upstreams::era::Eras;
use crate::backend::upstreams::instances::{InstanceLease, Instances};
use crate::backend::upstreams::pool::Pool;
use crate::metrics::Metrics;
use crate::request_ids::RequestIds;
use crate::shares::Shares;
use arc_swap::ArcSwap;
use portunus_base::Host;
use portunus_config::{Snapshot, Upstream, UpstreamKey};
use portunus_filters::mcp::Method;
use portunus_filters::{Clock, Era};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Bytes of text that is kept whole: calls that wait for their clients, what servers say to them, URIs of subscriptions.
const MAX_TEXT_BYTES: usize = 32 << 20;
/// Bytes of notifications and requests outside of answers that are not yet delivered: most are within a millisecond.
const MAX_UNHEARD_BYTES: usize = 16 << 20;

/// Pools by upstream.
pub type Pools = HashMap<UpstreamKey, Arc<Pool>>;

/// Learns what servers say of changes, on whatever stream they say it.
pub trait NoticeListener: Send + Sync {
    /// Notes a notification that a server sent ahead of an answer, before its client hears of it.
    fn overheard(&self, backend: &Backend, upstream: &Upstream, method: &Method, text: &str);

    /// Notes that a message of a server was lost, which may have told of any change.
    fn missed(&self, backend: &Backend, upstream: &Upstream);
}

/// The tables and services that calls to upstreams use.
pub struct Backend {
    pools: ArcSwap<Pools>,
    /// Those of the snapshot before.
    former_pools: ArcSwap<Pools>,
    /// Names of upstreams.
    pub resolver: Arc<Resolver>,
    /// Which eras upstreams speak.
    pub eras: Eras,
    /// Several instances behind one name.
    pub instances: Instances,
    /// Legacy sessions at upstreams.
    pub session_pools: SessionPools,
    /// Messages of legacy upstreams outside of calls.
    pub notices: NoticeQueue,
    /// Answers that may be given again.
    pub reads: Arc<Reads>,
    /// Sessions whose servers are to be told that they have ended.
    pub farewells: Farewells,
    /// Permits for what the gateway asks on its own.
    pub asked: Asked,
    /// Permits for what the gateway says on its own.
    pub gateway_requests: Arc<Semaphore>,
    /// Bytes of text that has to be kept whole, such as URIs that clients are subscribed to.
    pub texts: Arc<Shares>,
    /// Bytes of what servers say outside of answers, as long as somebody has yet to hear it.
    pub unheard_bytes: Arc<Shares<UpstreamKey>>,
    /// Ids of requests.
    pub ids: Arc<RequestIds>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Everything that is measured.
    pub metrics: Arc<Metrics>,
    /// The threads of calls, once they run.
    pub calls: OnceLock<Handle>,
    listener: Box<dyn NoticeListener>,
    numbers: AtomicU64,
}

impl Backend {
    /// Empty tables of a process.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        listener: Box<dyn NoticeListener>,
    ) -> io::Result<Backend> {
        Ok(Backend {
            pools: ArcSwap::default(),
            former_pools: ArcSwap::default(),
            resolver: Arc::default(),
            eras: Eras::default(),
            instances: Instances::default(),
            session_pools: SessionPools::default(),
            notices: NoticeQueue::default(),
            reads: Arc::default(),
            farewells: Farewells::default(),
            asked: Asked::default(),
            gateway_requests: Arc::new(Semaphore::new(MAX_BACKGROUND_REQUESTS)),
            texts: Shares::new(MAX_TEXT_BYTES),
            unheard_bytes: Shares::new(MAX_UNHEARD_BYTES),
            ids: Arc::new(RequestIds::new()?),
            clock,
            metrics,
            calls: OnceLock::new(),
            listener,
            numbers: AtomicU64::new(0),
        })
    }

    /// Starts a task that calls upstreams, on the threads of calls: the thread that made a connection drives it, and
    /// calls use it later.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.calls.get() {
            Some(calls) => drop(calls.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Makes the tables fit `snapshot` and gives the pools it needs.
    pub fn reconcile(&self, snapshot: &Snapshot) -> Arc<Pools> {
        let before = self.pools.load();
        let monitor = &self.metrics.upstreams;
        let pools = snapshot.upstreams.iter().map(|upstream| {
            let kept = before.get(&upstream.key).cloned();
            (upstream.key, kept.unwrap_or_else(|| Arc::new(Pool::monitored(upstream, monitor))))
        });
        let pools: Arc<Pools> = Arc::new(pools.collect());
        before.iter().filter(|(key, _)| !pools.contains_key(key)).for_each(|(_, pool)| pool.retire());
        self.former_pools.store(self.pools.swap(Arc::clone(&pools)));
        self.instances.reconcile(snapshot, monitor);
        monitor.retain(snapshot);
        self.reads.reconcile(snapshot);
        self.resolver.retain(|name| snapshot.upstreams.iter().any(|upstream| is_host(upstream, name)));
        pools
    }

    /// The pool of an upstream of the snapshot in force, or of the one before, by which a call may still be served.
    pub fn pool(&self, upstream: &Upstream) -> Option<Arc<Pool>> {
        let pool = self.pools.load().get(&upstream.key).cloned();
        pool.or_else(|| self.former_pools.load().get(&upstream.key).cloned())
    }

    /// The upstreams of the snapshot in force, and the places of those that have several.
    pub fn upstream_keys(&self) -> Vec<UpstreamKey> {
        self.pools.load().keys().copied().chain(self.instances.keys()).collect()
    }

    /// The place of a call among the instances of its upstream, where its caller's session is if it
    /// has one.
    pub fn settle(&self, place: UpstreamTarget) -> (UpstreamTarget, Option<InstanceLease>) {
        let now = self.clock.now().monotonic;
        self.instances.settle(place, now, |place| self.session_pools.holds(place))
    }

    /// Notes that an upstream, or an instance of it, answered as one that does not speak `era`.
    pub fn contradicted(&self, place: &UpstreamTarget, era: Era) {
        // Verdicts are about all instances.
        match self.instances.whole(place.upstream.key) {
            Some(upstream) => self.eras.contradicted(&UpstreamTarget { upstream, ..place.clone() }, era),
            None => self.eras.contradicted(place, era),
        }
    }

    /// Notes what a server said ahead of an answer.
    pub fn overheard(&self, upstream: &Upstream, method: &Method, text: &str) {
        self.listener.overheard(self, upstream, method, text);
    }

    /// Notes that a message of a server was lost.
    pub fn missed(&self, upstream: &Upstream) {
        self.listener.missed(self, upstream);
    }

    /// A number for the id of a request, which no other request of this process has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes what has been idle for too long at `now`, and gives the sizes of the tables.
    pub fn sweep(&self, now: Instant) -> Vec<(&'static str, usize)> {
        let pools = self.pools.load();
        let (mut idle, mut active, mut vouched, mut answers) = (0, 0, 0, 0);
        let instances = self.instances.pools();
        for pool in pools.values().chain(&instances) {
            pool.sweep(now);
            idle += pool.idle_count();
            active += pool.active_count();
            vouched += pool.vouched_count();
            answers += pool.offload.held();
        }
        show_connections(pools.values().chain(&instances));
        self.metrics.upstreams.sweep(now);
        let sizes = [
            ("upstream_connections_idle", idle),
            ("upstream_connections_active", active),
            ("upstream_pools", pools.len() + instances.len()),
            ("assertions", vouched),
            ("names", self.resolver.len()),
            ("upstream_sessions", self.session_pools.alive()),
            ("farewells", self.farewells.len()),
            ("heard", self.notices.len()),
            ("eras", self.eras.len()),
            ("kept_text_bytes", self.texts.held()),
            ("answer_bytes", answers),
            ("unheard_bytes", self.unheard_bytes.held()),
        ];
        sizes.into_iter().chain(self.reads.sizes()).collect()
    }
}

/// Measures the connections of each upstream, over all its instances.
fn show_connections<'p>(pools: impl Iterator<Item = &'p Arc<Pool>>) {
    let mut counts = HashMap::new();
    for pool in pools {
        let Some(monitor) = pool.monitor() else { continue };
        // By handle, not name: a pool of a replaced configuration may hold those of a removed upstream of
        // the same name.
        let upstream = &monitor.upstream;
        let (_, idle, active) = counts.entry(Arc::as_ptr(upstream)).or_insert((upstream, 0, 0));
        *idle += pool.idle_count();
        *active += pool.active_count();
    }
    for (upstream, idle, active) in counts.into_values() {
        upstream.show_connections(idle, active);
    }
}

fn is_host(upstream: &Upstream, name: &str) -> bool {
    upstream.urls().any(|url| matches!(&url.host, Host::Name(host) if host == name))
}
