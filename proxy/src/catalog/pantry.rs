//! Lists that callers share: equal ones in memory, public ones in meaning; and how often lists changed.

use super::fetch::{Digest, Read};
use super::larder::{Label, Larder, Last, Shows};
use super::ware::Kept;
use arc_swap::ArcSwap;
use portunus_base::Moment;
use portunus_base::table::{Holding, Table, Term};
use portunus_config::{Upstream, UpstreamKey};
use portunus_filters::catalog::{Catalog, ListKind, Listing};
use portunus_filters::mcp::bridge::Scope;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Changes of its lists that an upstream has announced, by [`ListKind::index`].
pub(super) type Changes = [u64; 4];

/// Public lists that are remembered, by [`weight_of`].
const MAX_REMEMBERED: usize = 40_000;

/// Lists of all upstreams.
pub(super) struct Pantry {
    listings: Mutex<Shared<Listing>>,
    catalogs: Mutex<Shared<Catalog>>,
    /// Counted for who had each fetched, until it is no longer fresh.
    pub(super) public: Table<Public, Kept<Listing>>,
    /// Changes that were announced, by the name of the upstream: replicas of one speak for each other.
    changes: ArcSwap<HashMap<Arc<str>, Changes>>,
    pub(super) larder: Larder,
}

/// A public list: its upstream, and what that is shown of those who share it.
pub(super) type Public = (UpstreamKey, Digest, ListKind);

impl Default for Pantry {
    fn default() -> Pantry {
        Pantry {
            listings: Mutex::default(),
            catalogs: Mutex::default(),
            public: Table::new(MAX_REMEMBERED),
            changes: ArcSwap::default(),
            larder: Larder::default(),
        }
    }
}

/// Things that somebody holds, by the digest of what they were made of.
struct Shared<T> {
    /// With the bytes of each.
    by_digest: HashMap<Digest, (Weak<T>, usize)>,
    /// Entries at which those that nobody holds any more are cleared away.
    limit: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { by_digest: HashMap::new(), limit: 0 }
    }
}

impl<T> Shared<T> {
    fn get(&self, digest: &Digest) -> Option<Arc<T>> {
        self.by_digest.get(digest)?.0.upgrade()
    }

    fn insert(&mut self, digest: Digest, thing: &Arc<T>, bytes: usize) {
        if self.by_digest.len() >= self.limit {
            self.by_digest.retain(|_, (held, _)| held.strong_count() > 0);
            self.limit = 2 * self.by_digest.len() + 64;
        }
        self.by_digest.insert(digest, (Arc::downgrade(thing), bytes));
    }
}

impl Pantry {
    /// The list as it was read, or an equal one that somebody holds.
    pub(super) fn keep(&self, read: Read<Listing>) -> Arc<Listing> {
        let bytes = read.texts.iter().map(bytes::Bytes::len).sum();
        let mut listings = lock(&self.listings);
        listings.get(&read.digest).unwrap_or_else(|| {
            let listing = Arc::new(read.what);
            listings.insert(read.digest, &listing, bytes);
            listing
        })
    }

    /// Whether somebody holds a list.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        lock(&self.listings).get(digest).is_some()
    }

    /// The list that stands in for a caller whose own was never read.
    pub(super) fn last(&self, label: &Label, shows: Shows) -> Option<Kept<Listing>> {
        let Last { pages, digest, read_at, fresh_until, .. } = self.larder.last(label, shows)?;
        let read_after = 0;
        let (what, texts) = (Last::listing(&pages, label.2)?, pages.to_vec());
        let listing = self.keep(Read { what, digest, texts, caching: None });
        Some(Kept { what: Some(listing), digest, read_at, read_after, fresh_until, scope: Scope::Private })
    }

    /// The catalogue of an origin: one that somebody holds, or a new one.
    pub(super) fn catalog(&self, origin: Digest, merged: impl FnOnce() -> Arc<Catalog>) -> Arc<Catalog> {
        if let Some(held) = lock(&self.catalogs).get(&origin) {
            return held;
        }
        let catalog = merged();
        let mut catalogs = lock(&self.catalogs);
        catalogs.get(&origin).unwrap_or_else(|| {
            catalogs.insert(origin, &catalog, 0);
            catalog
        })
    }

    /// Lists that somebody holds, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let listings = lock(&self.listings);
        let held = listings.by_digest.values().filter(|(held, _)| held.strong_count() > 0);
        held.fold((0, 0), |(count, bytes), (_, more)| (count + 1, bytes + more))
    }

    /// A list of a trusted upstream that it calls public, as long as it is fresh.
    pub(super) fn shared(
        &self,
        upstream: &Upstream,
        shown: Digest,
        kind: ListKind,
        now: Moment,
    ) -> Option<Kept<Listing>> {
        let changes = self.changes(upstream)[kind.index()];
        let kept = self.public.get(&(upstream.key, shown, kind), now)?;
        (kept.read_after >= changes).then_some(kept)
    }

    /// Offers a list to all callers who show the same, if it is public.
    pub(super) fn share(&self, list: Public, kept: &Kept<Listing>, (holding, now): (Holding, Moment)) {
        if kept.scope != Scope::Public {
            self.public.remove(&list);
            return;
        }
        if kept.fresh_until <= now.monotonic {
            return;
        }
        let term = Term { idle: Duration::MAX, until: kept.fresh_until };
        drop(self.public.insert(list, kept.clone(), holding, (term, now)));
    }

    /// Forgets public lists that are no longer fresh, and those that nobody else holds while lists take more than
    /// `max_bytes`.
    pub(super) fn sweep(&self, now: Moment, max_bytes: usize) {
        drop(self.public.sweep(now));
        if self.held().1 > max_bytes {
            let held_here_alone =
                |kept: &Kept<Listing>| kept.what.as_ref().is_none_or(|what| Arc::strong_count(what) == 1);
            drop(self.public.remove_where(|_, kept| held_here_alone(kept)));
        }
    }

    /// Counts a change of an upstream's list. Names are those of the configurations that were in force.
    pub(super) fn changed(&self, upstream: &Upstream, kind: ListKind) {
        self.changes.rcu(|changes| {
            let mut changes = HashMap::clone(changes);
            changes.entry(Arc::clone(&upstream.name)).or_default()[kind.index()] += 1;
            changes
        });
    }

    /// How many changes of each list an upstream has announced.
    pub(super) fn changes(&self, upstream: &Upstream) -> Changes {
        self.changes.load().get(&*upstream.name).copied().unwrap_or_default()
    }

    /// Forgets what is of no upstream in use. What was counted stays: a count that began anew would make
    /// lists that are kept look newer than they are.
    pub(super) fn retain(&self, upstreams: &[Arc<Upstream>]) {
        let in_use = |key| upstreams.iter().any(|upstream| upstream.key == key);
        drop(self.public.remove_where(|(upstream, ..), _| !in_use(*upstream)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
