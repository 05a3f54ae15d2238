//! What is known of one upstream for one audience, and one attempt at a time to know it better.

use super::Described;
use super::failing::Failing;
use super::fetch::{self, Asks, Digest, Read};
use super::larder::{Fresh, Shows, label};
use super::pantry::{Changes, Pantry};
use super::ware::{Announced, Kept, Need, Purpose, Ware};
use crate::backend::forward::Failure;
use crate::shares::Owner;
use bytes::Bytes;
use portunus_base::table::{Holding, weight_of};
use portunus_base::text;
use portunus_config::{CacheRules, Credentials, ServerId, Upstream, UpstreamKey};
use portunus_filters::catalog::{Known, ListKind, Listing, State};
use portunus_filters::mcp::bridge::Facts;
use portunus_filters::{Clock, Denial, Moment, Reason};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long what a list says is believed again after it was contradicted.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// Why a list is missing that nobody wanted to see yet.
pub(super) const UNASKED: &str = "not_asked";

/// One upstream for one audience.
#[derive(Default)]
pub(super) struct Slot {
    turn: tokio::sync::Mutex<()>,
    wares: Mutex<Wares>,
    /// Somebody sees to it without being waited for.
    tended: AtomicBool,
}

#[derive(Default)]
struct Wares {
    facts: Ware<Facts>,
    lists: [Ware<Listing>; 4],
    /// When each list was last contradicted.
    doubts: [Option<Duration>; 4],
    /// When each list was last asked for because its upstream announced a change.
    hurried: [Option<Instant>; 4],
    /// Grows with each change of the above.
    version: u64,
}

/// What an upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Lists, by [`ListKind::index`]; what the upstream says of itself is always wanted.
    pub(super) kinds: [bool; 4],
    pub(super) purpose: Purpose,
    /// Changes that the upstream had announced of each when it was wanted: who waits meanwhile for an
    /// attempt that began later needs no other, whatever was announced since.
    pub(super) after: Changes,
}

impl Wanted {
    /// The same of an upstream, after what that has announced by now.
    pub(super) fn of(self, upstream: &Upstream, pantry: &Pantry) -> Wanted {
        Wanted { after: pantry.changes(upstream), ..self }
    }

    /// What the word of a server on itself is wanted for. It changes less than what the server offers:
    /// beside lists an old one will do.
    fn of_facts(&self) -> Purpose {
        match self.kinds {
            [false, false, false, false] => self.purpose,
            _ => Purpose::Route,
        }
    }
}

/// The surroundings of an attempt.
#[derive(Clone)]
pub(super) struct Kitchen {
    pub(super) asks: Arc<dyn Asks>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: ServerId,
    /// For whom what others share of it is counted.
    pub(super) owner: Owner,
    /// What the upstream is shown of the caller.
    pub(super) shown: Digest,
    pub(super) shows: Shows,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rules: CacheRules,
    pub(super) deadline: Duration,
    pub(super) failing: Arc<Failing>,
    pub(super) pantry: Arc<Pantry>,
}

impl Kitchen {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn key(&self) -> UpstreamKey {
        self.upstream.key
    }

    /// Whether what the upstream calls public may be shared by callers.
    fn may_share(&self) -> bool {
        self.upstream.trust_cache_scope && !matches!(self.upstream.credentials, Credentials::Passthrough)
    }

    /// A list as another caller shares it, or as the upstream says.
    async fn list(
        &self,
        kind: ListKind,
        begun: Moment,
        announced: Announced,
        deadline: Instant,
    ) -> Result<Kept<Listing>, Arc<Failure>> {
        let shared = || self.pantry.shared(&self.upstream, self.shown, kind, begun);
        let is_newer =
            |kept: &Kept<Listing>| announced.doubted_at.is_none_or(|at| at < kept.read_at.monotonic);
        if let Some(shared) = self.may_share().then(shared).flatten().filter(is_newer) {
            return Ok(shared);
        }
        let read = in_time(deadline, fetch::list(&*self.asks, &self.upstream, kind)).await;
        let read = read.map_err(|failure| self.failed(failure))?;
        let (caching, digest, pages) = (read.caching, read.digest, read.texts.clone());
        let weight = weight_of(pages.iter().map(Bytes::len).sum());
        if !self.pantry.holds(&digest) {
            self.warn_of_quarantine(kind, &read.what);
        }
        let listing = self.pantry.keep(read);
        let kept = Kept::new(Some(listing), digest, caching, begun, &self.rules).after(announced.changes);
        let may_stand_in = !self.rules.stale.is_zero();
        let fresh = Fresh { kept: &kept, pages, shows: self.shows, may_stand_in };
        self.pantry.larder.keep(&self.server, &self.upstream, kind, fresh);
        if self.may_share() {
            let holding = Holding { owner: self.owner, weight };
            self.pantry.share((self.key(), self.shown, kind), &kept, (holding, self.now()));
        }
        Ok(kept)
    }

    /// Tells operators of what is not served of a list.
    fn warn_of_quarantine(&self, kind: ListKind, listing: &Listing) {
        let Some(first) = listing.quarantined.iter().next() else { return };
        let (upstream, list, count) = (&*self.upstream.name, kind.method(), listing.quarantined.len());
        let (name, reason) = (first.key.as_deref().map(text::json), first.reason.to_string());
        tracing::warn!(upstream, list, count, name, reason, "items of a server's list are not served");
    }

    /// Lets everybody know of a failed attempt where it is not the caller who was refused.
    fn failed(&self, failure: Failure) -> Arc<Failure> {
        tracing::debug!(upstream = &*self.upstream.name, cause = failure.cause, "no list");
        let failure = Arc::new(failure);
        let is_everybodys = match failure.denial.reason {
            Reason::UpstreamUnavailable | Reason::UpstreamTimeout | Reason::UpstreamUntrusted => true,
            Reason::UpstreamLimited => !matches!(self.upstream.credentials, Credentials::Passthrough),
            _ => false,
        };
        if is_everybodys {
            let answers = self.asks.answers(&self.upstream);
            self.failing.failed(self.key(), self.now().monotonic, &failure, answers);
        }
        failure
    }
}

impl Slot {
    /// How urgently the upstream has to be asked.
    pub(super) fn need(&self, wanted: &Wanted, now: Duration, rules: &CacheRules) -> Need {
        let wares = self.lock();
        let facts = wares.need_of_facts(wanted, now, rules);
        let lists = ListKind::ALL.into_iter().filter(|kind| wanted.kinds[kind.index()]);
        let lists = lists.map(|kind| {
            let announced = wares.announced(kind, wanted.after[kind.index()]);
            wares.lists[kind.index()].need(wanted.purpose, now, announced, rules)
        });
        lists.fold(facts, Need::max)
    }

    /// Notes that a list was contradicted by its server, if it was not lately.
    pub(super) fn doubt(&self, kind: ListKind, now: Duration) {
        let doubt = &mut self.lock().doubts[kind.index()];
        if doubt.is_none_or(|before| now.saturating_sub(before) >= BELIEVED_FOR) {
            *doubt = Some(now);
        }
    }

    /// Takes what is known to be down for down, without asking.
    pub(super) fn give_up(
        &self,
        wanted: &Wanted,
        failure: &Arc<Failure>,
        now: Duration,
        last: impl Fn(ListKind) -> Option<Kept<Listing>>,
    ) {
        let mut wares = self.lock();
        let mut is_new = wares.facts.give_up(failure, now);
        for kind in ListKind::ALL.into_iter().filter(|kind| wanted.kinds[kind.index()]) {
            let ware = &mut wares.lists[kind.index()];
            if ware.give_up(failure, now) {
                ware.stand_in(|| last(kind));
                is_new = true;
            }
        }
        wares.version += u64::from(is_new);
    }

    /// Whether the caller is the one who tends it now.
    pub(super) fn tend(&self) -> bool {
        !self.tended.swap(true, Ordering::AcqRel)
    }

    /// Asks for what is needed, once for all who want it.
    pub(super) async fn refresh(&self, kitchen: &Kitchen, wanted: &Wanted) {
        let _turn = self.turn.lock().await;
        // In real time, as all waiting for sockets.
        let deadline = Instant::now() + kitchen.deadline;
        let known = self.refresh_facts(kitchen, wanted, deadline).await;
        let lists = ListKind::ALL.map(|kind| async move {
            match wanted.kinds[kind.index()] {
                true => self.refresh_list(kitchen, kind, wanted, deadline).await,
                false => true,
            }
        });
        let [tools, prompts, resources, templates] = lists;
        let (tools, prompts, resources, templates) = tokio::join!(tools, prompts, resources, templates);
        if known && tools && prompts && resources && templates {
            kitchen.failing.recovered(kitchen.key());
        }
        self.tended.store(false, Ordering::Release);
    }

    /// Whether it went well.
    async fn refresh_facts(&self, kitchen: &Kitchen, wanted: &Wanted, deadline: Instant) -> bool {
        let begun = kitchen.now();
        let is_down = kitchen.failing.failure(kitchen.key(), begun.monotonic).is_some();
        let need = self.lock().need_of_facts(wanted, begun.monotonic, &kitchen.rules);
        // A server that is down is asked what it is, since that is asked of all.
        if need == Need::No && !is_down {
            return self.lock().facts.failure().is_none();
        }
        let read = in_time(deadline, fetch::facts(&*kitchen.asks, &kitchen.upstream)).await;
        let now = kitchen.now().monotonic;
        let mut wares = self.lock();
        wares.version += 1;
        match read {
            Ok(read) => wares.facts.take(kept(read, begun, kitchen), now),
            Err(failure) => wares.facts.fail(kitchen.failed(failure), now, wanted.after.iter().sum()),
        }
        wares.facts.failure().is_none()
    }

    /// Whether it went well, or there was nothing to do.
    async fn refresh_list(
        &self,
        kitchen: &Kitchen,
        kind: ListKind,
        wanted: &Wanted,
        deadline: Instant,
    ) -> bool {
        let (need, offers, doubted_at, not_before) = {
            let mut wares = self.lock();
            let announced = wares.announced(kind, wanted.after[kind.index()]);
            let now = kitchen.now().monotonic;
            let need = wares.lists[kind.index()].need(wanted.purpose, now, announced, &kitchen.rules);
            let not_before = wares.hurry(kind, announced.changes, &kitchen.rules);
            (need, wares.offers(kind), announced.doubted_at, not_before)
        };
        if need == Need::No {
            return true;
        }
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
        // From here on: what is announced while the list is asked for may not be in it.
        let (begun, changes) = (kitchen.now(), kitchen.pantry.changes(&kitchen.upstream)[kind.index()]);
        let read = match offers {
            Err(failure) => Err(failure),
            Ok(false) => Ok(Kept::new(None, Digest::default(), None, begun, &kitchen.rules).after(changes)),
            Ok(true) => kitchen.list(kind, begun, Announced { changes, doubted_at }, deadline).await,
        };
        let now = kitchen.now().monotonic;
        let mut wares = self.lock();
        wares.version += 1;
        match read {
            Ok(kept) => wares.lists[kind.index()].take(kept, now),
            Err(failure) => {
                let ware = &mut wares.lists[kind.index()];
                // One of another era than the client's is not shown to it: nothing stands in for that.
                let stands_in = failure.denial.reason != Reason::EraMismatch;
                ware.fail(failure, now, changes);
                let label = || label(&kitchen.server, &kitchen.upstream, kind);
                ware.stand_in(|| stands_in.then(|| kitchen.pantry.last(&label(), kitchen.shows)).flatten());
            }
        }
        wares.lists[kind.index()].failure().is_none()
    }

    /// Grows with each change of what is known.
    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Bytes of the definitions in its lists.
    pub(super) fn list_bytes(&self) -> usize {
        let wares = self.lock();
        let listings = wares.lists.iter().filter_map(|ware| ware.kept.as_ref()?.what.as_ref());
        listings.map(|listing| listing.bytes()).sum()
    }

    /// What the upstream says of itself; why not, if it did not.
    pub(super) fn facts(&self) -> Described {
        let wares = self.lock();
        let known = wares.facts.kept.as_ref().and_then(|kept| kept.what.clone());
        known.ok_or_else(|| wares.facts.failure().cloned().unwrap_or_else(unasked))
    }

    /// Until when that is fresh.
    pub(super) fn described_until(&self) -> Duration {
        self.lock().facts.kept.as_ref().map_or(Duration::ZERO, |kept| kept.fresh_until)
    }

    /// Why a list could not be had when it was last asked for.
    pub(super) fn failure(&self, kind: ListKind) -> Option<Arc<Failure>> {
        self.lock().lists[kind.index()].failure().cloned()
    }

    /// A list with how well it is known.
    pub(super) fn known(
        &self,
        kind: ListKind,
        now: Duration,
        rules: &CacheRules,
    ) -> (Known, Option<Kept<Listing>>) {
        let wares = self.lock();
        let ware = &wares.lists[kind.index()];
        let kept = ware.usable(now, rules).cloned();
        let state = match (ware.failure(), &kept) {
            (None, None) => State::Missing { reason: UNASKED },
            (None, Some(_)) => State::Fresh,
            (Some(failure), Some(kept)) => {
                State::Stale { read_at: kept.read_at, reason: failure.denial.reason.as_str() }
            }
            (Some(failure), None) => State::Missing { reason: failure.denial.reason.as_str() },
        };
        let listing = kept.as_ref().and_then(|kept| kept.what.clone());
        (Known { listing, state, ..Known::default() }, kept)
    }

    fn lock(&self) -> MutexGuard<'_, Wares> {
        self.wares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wares {
    /// How urgently an upstream has to be asked what it is: changes of its lists are none of that, but one
    /// that announces them while it is taken to be down is there.
    fn need_of_facts(&self, wanted: &Wanted, now: Duration, rules: &CacheRules) -> Need {
        let changes = self.facts.failure().map_or(0, |_| wanted.after.iter().sum());
        self.facts.need(wanted.of_facts(), now, Announced { changes, doubted_at: None }, rules)
    }

    /// What an upstream has said of a list that is wanted after so many of its changes.
    fn announced(&self, kind: ListKind, changes: u64) -> Announced {
        Announced { changes, doubted_at: self.doubted_at(kind) }
    }

    /// Notes that a list is asked for, and gives the time before which it should not be: an upstream that
    /// announces changes all the time is asked at once for the first, and for the next after
    /// `cache.coalesce`.
    fn hurry(&mut self, kind: ListKind, changes: u64, rules: &CacheRules) -> Option<Instant> {
        let is_hurried = changes > self.lists[kind.index()].tried_after();
        let last = &mut self.hurried[kind.index()];
        let not_before = is_hurried.then_some(*last).flatten().map(|last| last + rules.coalesce);
        if is_hurried {
            *last = not_before.max(Some(Instant::now()));
        }
        not_before
    }

    /// When a list was contradicted, if that was after it was read.
    fn doubted_at(&self, kind: ListKind) -> Option<Duration> {
        let read_at = self.lists[kind.index()].kept.as_ref().map(|kept| kept.read_at.monotonic);
        self.doubts[kind.index()].filter(|at| read_at.is_none_or(|read_at| read_at < *at))
    }

    /// Whether the upstream has such a list; why that is not known.
    fn offers(&self, kind: ListKind) -> Result<bool, Arc<Failure>> {
        if let Some(failure) = self.facts.failure() {
            return Err(Arc::clone(failure));
        }
        let facts = self.facts.kept.as_ref().and_then(|kept| kept.what.as_deref());
        Ok(facts.is_some_and(|facts| facts.has(kind.capability())))
    }
}

fn unasked() -> Arc<Failure> {
    Arc::new(Denial::new(Reason::UpstreamUnavailable, "the server was not asked yet").into())
}

fn kept<T>(read: Read<T>, begun: Moment, kitchen: &Kitchen) -> Kept<T> {
    Kept::new(Some(Arc::new(read.what)), read.digest, read.caching, begun, &kitchen.rules)
}

async fn in_time<T>(
    deadline: Instant,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout_at(deadline, asked).await.unwrap_or_else(|_| {
        Err(Denial::new(Reason::UpstreamTimeout, "the server did not answer in time").into())
    })
}
