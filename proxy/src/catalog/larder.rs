//! What is remembered of lists beyond those who asked for them: the last good ones, and who had which
//! name.
//!
//! A list stands in for a caller whose own was never read only if its server was shown nothing of the
//! one that it was read for, so that it belongs to nobody in particular. Of all other lists nothing
//! but names is remembered, and they serve only to keep these free for their owner.

pub(super) mod file;

use super::fetch::{self, Digest};
use super::ware::Kept;
use bytes::Bytes;
use portunus_config::{ServerId, SessionSharing, Snapshot, Upstream, UpstreamMark, VirtualServer};
use portunus_filters::Moment;
use portunus_filters::catalog::{ListKind, Listing, Page};
use portunus_filters::mcp::bridge::Scope;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lists that are remembered.
const MAX_LISTS: usize = 10_000;

/// Names that are remembered of one list.
const MAX_NAMES: usize = 5_000;

/// Bytes of all lists and names that are remembered.
const MAX_BYTES: usize = 16 << 20;

/// What upstreams are shown of a caller, and so for whom else its lists may stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shows {
    /// A header of its own, or a credential that passes: its lists are its own.
    Upstreams,
    /// A credential, to the gateway alone: its sessions are its own.
    Gateway,
    /// Nothing to anybody.
    #[default]
    Nothing,
}

/// A list as it is remembered: of a virtual server, an upstream, a kind.
pub(super) type Label = (ServerId, UpstreamMark, ListKind);

/// Everything that is remembered.
#[derive(Default)]
pub(super) struct Larder {
    jars: Mutex<HashMap<Label, Jar>>,
    changed: AtomicBool,
}

/// What is remembered of one list.
#[derive(Default)]
pub(super) struct Jar {
    pub(super) last: Option<Last>,
    /// Of tools and prompts: URIs may say more of a caller than names do.
    pub(super) names: Arc<[Arc<str>]>,
}

/// A list that stands in, as text: what is read of it belongs to those who use it.
#[derive(Clone)]
pub(super) struct Last {
    /// The results that it was read from.
    pub(super) pages: Arc<[Bytes]>,
    pub(super) digest: Digest,
    pub(super) read_at: Moment,
    pub(super) fresh_until: Duration,
    /// Also for callers whom the gateway knows by something.
    pub(super) open: bool,
}

/// A list that was just read.
pub(super) struct Fresh<'a> {
    pub(super) kept: &'a Kept<Listing>,
    pub(super) pages: Vec<Bytes>,
    pub(super) shows: Shows,
    /// Whether it may stand in for another at all.
    pub(super) may_stand_in: bool,
}

/// The label of a list.
pub(super) fn label(server: &ServerId, upstream: &Upstream, kind: ListKind) -> Label {
    (server.clone(), upstream.mark, kind)
}

impl Larder {
    /// Remembers a list that was just read.
    pub(super) fn keep(&self, server: &ServerId, upstream: &Upstream, kind: ListKind, fresh: Fresh<'_>) {
        let Some(listing) = fresh.kept.what.as_deref() else { return };
        let open = upstream.sessions == SessionSharing::Shared
            || (fresh.kept.scope == Scope::Public && upstream.trust_cache_scope);
        let is_nobodys = match fresh.shows {
            Shows::Nothing => true,
            Shows::Gateway => open,
            Shows::Upstreams => false,
        };
        let label = label(server, upstream, kind);
        let mut jars = self.lock();
        if jars.len() >= MAX_LISTS && !jars.contains_key(&label) {
            return;
        }
        let elsewhere: usize =
            jars.iter().filter(|(one, _)| **one != label).map(|(_, jar)| jar.bytes()).sum();
        let jar = jars.entry(label).or_default();
        let mut is_new = jar.learn(listing, kind);
        if is_nobodys && fresh.may_stand_in {
            let Kept { digest, read_at, fresh_until, .. } = *fresh.kept;
            is_new |= jar.last.as_ref().is_none_or(|last| last.digest != digest);
            jar.last = Some(Last { pages: fresh.pages.into(), digest, read_at, fresh_until, open });
        }
        if elsewhere + jar.bytes() > MAX_BYTES {
            jar.last = None;
        }
        if elsewhere + jar.bytes() > MAX_BYTES {
            jar.names = Arc::default();
        }
        if is_new {
            self.changed.store(true, Ordering::Release);
        }
    }

    /// The list that stands in for a caller whose own was never read.
    pub(super) fn last(&self, label: &Label, shows: Shows) -> Option<Last> {
        let jars = self.lock();
        let last = jars.get(label)?.last.as_ref()?;
        let may_have = match shows {
            Shows::Nothing => true,
            Shows::Gateway => last.open,
            Shows::Upstreams => false,
        };
        may_have.then(|| last.clone())
    }

    /// Names that the upstream has or had, and whether these are all that were read of it.
    pub(super) fn names(&self, label: &Label) -> (Arc<[Arc<str>]>, bool) {
        let names = self.lock().get(label).map(|jar| Arc::clone(&jar.names)).unwrap_or_default();
        let is_whole = !names.is_empty() && names.len() < MAX_NAMES;
        (names, is_whole)
    }

    /// Forgets what is of no virtual server, or of no upstream of it.
    pub(super) fn retain(&self, snapshot: &Snapshot) {
        let in_use = in_use(snapshot);
        self.lock().retain(|(server, mark, _), _| in_use.contains(&(server.clone(), *mark)));
    }

    /// Takes back what was remembered before, as far as `snapshot` has use for it.
    pub(super) fn restore(&self, jars: impl Iterator<Item = (Label, Jar)>, snapshot: &Snapshot) {
        let in_use = in_use(snapshot);
        let used = jars.filter(|((server, mark, _), _)| in_use.contains(&(server.clone(), *mark)));
        self.lock().extend(used.take(MAX_LISTS));
    }

    /// Everything, if it changed since it was last taken.
    pub(super) fn take_changes(&self) -> Option<Vec<(Label, Jar)>> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return None;
        }
        let copy = |(label, jar): (&Label, &Jar)| {
            (label.clone(), Jar { last: jar.last.clone(), names: Arc::clone(&jar.names) })
        };
        Some(self.lock().iter().map(copy).collect())
    }

    /// Lists that are remembered.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Label, Jar>> {
        self.jars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jar {
    /// Adds the names of a list; whether one is new. Where there are too many, these alone remain.
    fn learn(&mut self, listing: &Listing, kind: ListKind) -> bool {
        if kind.by_uri() {
            return false;
        }
        let known: HashSet<&str> = self.names.iter().map(|name| &**name).collect();
        let own = || listing.items.iter().map(|item| Arc::clone(item.key()));
        let new: Vec<Arc<str>> = own().filter(|name| !known.contains(&**name)).collect();
        if new.is_empty() {
            return false;
        }
        self.names = match known.len() + new.len() <= MAX_NAMES {
            true => self.names.iter().cloned().chain(new).collect(),
            false => own().take(MAX_NAMES).collect(),
        };
        true
    }

    fn bytes(&self) -> usize {
        let pages: usize = self.last.iter().flat_map(|last| last.pages.iter()).map(Bytes::len).sum();
        pages + self.names.iter().map(|name| name.len() + 32).sum::<usize>()
    }
}

impl Last {
    /// A list of an earlier process, read `at` a time of the wall clock: it stands in as one that is
    /// no longer fresh from now on.
    pub(super) fn of_pages(pages: Vec<Bytes>, open: bool, at: Moment) -> Last {
        let digest = fetch::digest(&pages);
        Last { pages: pages.into(), digest, read_at: at, fresh_until: at.monotonic, open }
    }

    /// What stands in it; `None` if it cannot be read.
    pub(super) fn listing(pages: &[Bytes], kind: ListKind) -> Option<Listing> {
        let read: Result<Vec<Page>, _> = pages.iter().map(|page| Page::read(page, kind)).collect();
        read.ok().map(|pages| Listing::join(pages, kind))
    }
}

/// What a snapshot has use for.
fn in_use(snapshot: &Snapshot) -> HashSet<(ServerId, UpstreamMark)> {
    let of_server = |server: &Arc<VirtualServer>| {
        let id = server.id.clone();
        let marks = server.upstreams.iter().map(|one| one.mark);
        marks.map(move |mark| (id.clone(), mark)).collect::<Vec<_>>()
    };
    snapshot.routes.iter().flat_map(of_server).collect()
}
