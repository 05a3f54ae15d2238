//! What runs and outlives snapshots: connections, names, sessions, calls that wait, lists.
//!
//! After each activation [`Estate::reconcile`] keeps what the new snapshot still uses, adds what is
//! new and lets go of the rest. A pool that was let go closes with its last call.

use crate::bridge::lines::Lines;
use crate::bridge::parked::ParkedCalls;
use crate::bridge::{Hub, Sessions};
use crate::catalog::Catalogs;
use crate::context::Gateway;
use crate::entropy::Entropy;
use crate::errand::{Asked, Farewells};
use crate::identify::Callers;
use crate::legs::{Hearsay, Legs};
use crate::metrics::Metrics;
use crate::reads::Reads;
use crate::sealing::{Home, Seals};
use crate::shares::Shares;
use crate::talk::Place;
use crate::upstreams::dns::Resolver;
use crate::upstreams::era::Eras;
use crate::upstreams::pool::Pool;
use crate::upstreams::replicas::{Replicas, Seat};
use portunus_config::{Bootstrap, Host, Snapshot, Upstream, UpstreamKey};
use portunus_filters::Era;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of text that is kept whole: calls that wait for their clients, what servers say to them, URIs of subscriptions.
const MAX_TEXT_BYTES: usize = 32 << 20;
/// Bytes of notifications and requests outside of answers that are not yet delivered: most are within a millisecond.
const MAX_UNHEARD_BYTES: usize = 16 << 20;
/// Bytes of bodies of clients that arrive or are served, beyond the first 64 KiB of each; and of answers to batches.
const MAX_BODIES_BYTES: usize = 64 << 20;

/// Pools by upstream.
pub type Pools = HashMap<UpstreamKey, Arc<Pool>>;

/// The tables that outlive snapshots.
pub struct Estate {
    pools: Mutex<Pools>,
    /// Names of upstreams.
    pub resolver: Arc<Resolver>,
    /// Which eras upstreams speak.
    pub eras: Eras,
    /// Several places behind one name.
    pub replicas: Replicas,
    /// Legacy sessions at upstreams.
    pub legs: Legs,
    /// What legacy upstreams say outside of calls.
    pub heard: Hearsay,
    /// Sessions of legacy clients.
    pub sessions: Sessions,
    /// Streams of clients of 2024-11-05.
    pub lines: Lines,
    /// Calls that wait for their clients.
    pub parked: ParkedCalls,
    /// Who listens to what.
    pub hub: Hub,
    /// What virtual servers offer.
    pub catalogs: Catalogs,
    /// Answers that may be given again.
    pub reads: Arc<Reads>,
    /// What is sealed into what clients carry.
    pub seals: Seals,
    /// This run of this replica.
    pub home: Home,
    /// Sessions whose servers are to be told that they have ended.
    pub farewells: Farewells,
    /// Permits for what the gateway asks on its own.
    pub asked: Asked,
    /// Callers, and who vouches for them.
    pub callers: Callers,
    /// Bytes of clients' text that has to be kept whole, such as URIs that they are subscribed to.
    pub texts: Arc<Shares>,
    /// Bodies of clients, as long as their requests are served.
    pub bodies: Arc<Shares>,
    /// Answers to batches, as long as they wait for each other.
    pub batches: Arc<Shares>,
    /// Bytes of what servers say outside of answers, as long as somebody has yet to hear it.
    pub spoken: Arc<Shares<UpstreamKey>>,
    numbers: AtomicU64,
}

impl Estate {
    /// Empty tables of a process; `kept_key` seals where no key is configured.
    ///
    /// # Errors
    /// If a sealing key cannot be used, or the system has no randomness.
    pub fn new(bootstrap: &Bootstrap, kept_key: Option<&[u8]>) -> io::Result<Estate> {
        let boot = Entropy::new().take().map(u32::from_be_bytes);
        let boot = boot.ok_or_else(|| io::Error::other("the system has no randomness"))?;
        let random = || format!("r{boot:08x}").into();
        let name = bootstrap.replica.as_ref().map(|replica| replica.as_str().into()).unwrap_or_else(random);
        let home = Home::new(name, boot);
        Ok(Estate {
            pools: Mutex::default(),
            resolver: Arc::default(),
            eras: Eras::default(),
            replicas: Replicas::default(),
            legs: Legs::default(),
            heard: Hearsay::default(),
            sessions: Sessions::default(),
            lines: Lines::default(),
            parked: ParkedCalls::default(),
            hub: Hub::default(),
            catalogs: Catalogs::default(),
            reads: Arc::default(),
            seals: match kept_key {
                Some(key) => Seals::of([key])?,
                None => Seals::new(&bootstrap.sealing.keys)?,
            },
            home: home.ok_or_else(|| io::Error::other("the name of the replica is no visible ASCII"))?,
            farewells: Farewells::default(),
            asked: Asked::default(),
            callers: Callers::default(),
            texts: Shares::new(MAX_TEXT_BYTES),
            bodies: Shares::new(MAX_BODIES_BYTES),
            batches: Shares::new(MAX_BODIES_BYTES),
            spoken: Shares::new(MAX_UNHEARD_BYTES),
            numbers: AtomicU64::new(0),
        })
    }

    /// Makes the tables fit `snapshot` and gives the pools it needs.
    pub fn reconcile(&self, snapshot: &Snapshot, metrics: &Metrics) -> Pools {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Pools = snapshot
            .upstreams
            .iter()
            .map(|upstream| {
                let kept = pools.get(&upstream.key).cloned();
                (
                    upstream.key,
                    kept.unwrap_or_else(|| Arc::new(Pool::monitored(upstream, &metrics.upstreams))),
                )
            })
            .collect();
        pools.iter().filter(|(key, _)| !kept.contains_key(key)).for_each(|(_, pool)| pool.retire());
        *pools = kept;
        self.catalogs.reconcile(snapshot);
        self.replicas.reconcile(snapshot, &metrics.upstreams);
        metrics.upstreams.retain(snapshot);
        self.reads.reconcile(snapshot);
        self.callers.reconcile(snapshot);
        self.resolver.retain(|name| snapshot.upstreams.iter().any(|upstream| is_host(upstream, name)));
        pools.clone()
    }

    /// The place of a call among the replicas of its upstream, where its caller's session is if it
    /// has one.
    pub fn settle(&self, gateway: &Gateway, place: Place) -> (Place, Option<Seat>) {
        let now = gateway.clock.now().monotonic;
        self.replicas.settle(place, now, |place| self.legs.holds(place))
    }

    /// Notes that an upstream, or a replica of it, answered as one that does not speak `era`.
    pub fn contradicted(&self, place: &Place, era: Era) {
        // Verdicts are about all replicas.
        match self.replicas.whole(place.upstream.key) {
            Some(upstream) => self.eras.contradicted(&Place { upstream, ..place.clone() }, era),
            None => self.eras.contradicted(place, era),
        }
    }

    /// A number for the id of a request, which no other request of this process has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes what has been idle for too long at `now`, and measures the tables.
    pub fn sweep(&self, now: Instant, metrics: &Metrics) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut idle, mut active, mut vouched, mut answers) = (0, 0, 0, 0);
        let replicas = self.replicas.pools();
        for pool in pools.values().chain(&replicas) {
            pool.sweep(now);
            idle += pool.idle_count();
            active += pool.active_count();
            vouched += pool.vouched_count();
            answers += pool.offload.held();
        }
        Estate::show_connections(pools.values().chain(&replicas));
        metrics.upstreams.sweep(now);
        let sizes = [
            ("upstream_connections_idle", idle),
            ("upstream_connections_active", active),
            ("upstream_pools", pools.len() + replicas.len()),
            ("assertions", vouched),
            ("names", self.resolver.len()),
            ("legs", self.legs.alive()),
            ("farewells", self.farewells.len()),
            ("heard", self.heard.len()),
            ("eras", self.eras.len()),
            ("sessions", self.sessions.len().0),
            ("tombstones", self.sessions.len().1),
            ("lines", self.lines.len()),
            ("kept_events", self.sessions.kept().load(Ordering::Relaxed)),
            ("parked", self.parked.len()),
            ("subscriptions", self.hub.len()),
            ("kept_text_bytes", self.texts.held()),
            ("body_bytes", self.bodies.held()),
            ("batch_bytes", self.batches.held()),
            ("answer_bytes", answers),
            ("unheard_bytes", self.spoken.held()),
        ];
        let kept = self.catalogs.sizes().into_iter().chain(self.reads.sizes()).chain(self.callers.sizes());
        for (table, size) in sizes.into_iter().chain(kept) {
            metrics.tables.with_label_values(&[table]).set(i64::try_from(size).unwrap_or(i64::MAX));
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
}

fn is_host(upstream: &Upstream, name: &str) -> bool {
    upstream.urls().any(|url| matches!(&url.host, Host::Name(host) if host == name))
}
