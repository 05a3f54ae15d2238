//! The legs under one key, and the leases of calls that use them.

use super::Leg;
use crate::backend::single_flight::Turns;
use crate::shares::{Owner, Share};
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Legs of one caller at one upstream: as many calls of it may wait for answers of people.
const MAX_PER_CALLER: usize = 64;
/// Legs that one sweep ends: the ends wait their turn.
const MAX_ENDED: usize = 1024;

/// The legs under one key.
pub(super) struct Shelf {
    legs: Mutex<Vec<Pooled>>,
    /// Legs that are being founded.
    pub(super) expected: AtomicUsize,
    /// For the founding of a leg that all who wait will share.
    pub(super) turns: Turns,
    /// A leg came free, or the founding of one failed.
    pub(super) changed: Notify,
}

/// A leg, and its part of all.
pub(super) struct Pooled {
    pub(super) leg: Arc<Leg>,
    pub(super) share: Share,
}

/// What a call wants of its leg.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseOptions {
    /// The call may be asked something: no other that may has it.
    pub exclusive: bool,
    /// It was founded at that time or later: a server that has forgotten one may have forgotten all.
    pub since: Option<Instant>,
}

impl LeaseOptions {
    /// Any leg, for a call that is asked nothing.
    pub fn any() -> LeaseOptions {
        LeaseOptions::default()
    }
}

/// How a pooled leg is in use.
#[derive(Default)]
pub(crate) struct Usage {
    /// Calls on it.
    calls: AtomicUsize,
    /// A call that may be asked has it.
    claimed: AtomicBool,
    /// It was used since the last sweep.
    touched: AtomicBool,
    idle_since: Mutex<Option<Duration>>,
}

/// The use of a leg for one call.
pub struct LegLease {
    leg: Arc<Leg>,
    shelf: Arc<Shelf>,
    exclusive: bool,
}

impl Deref for LegLease {
    type Target = Arc<Leg>;

    fn deref(&self) -> &Arc<Leg> {
        &self.leg
    }
}

impl Drop for LegLease {
    fn drop(&mut self) {
        let usage = &self.leg.usage;
        usage.touched.store(true, Ordering::Relaxed);
        if self.exclusive {
            usage.claimed.store(false, Ordering::Release);
            self.shelf.changed.notify_one();
        }
        usage.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes back that a leg is expected, however its founding ends.
pub(super) struct Expected(pub(super) Arc<Shelf>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.expected.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shelf {
    pub(super) fn new() -> Shelf {
        Shelf {
            legs: Mutex::default(),
            expected: AtomicUsize::new(0),
            turns: Turns::default(),
            changed: Notify::new(),
        }
    }

    /// The first leg that is free for such a use; the dead are cleared away.
    pub(super) fn take(
        self: &Arc<Self>,
        LeaseOptions { exclusive, since }: LeaseOptions,
    ) -> Option<LegLease> {
        let mut legs = self.lock();
        legs.retain(|pooled| !pooled.leg.is_dead());
        let free = |one: &&Pooled| {
            let is_new = since.is_none_or(|since| one.leg.founded >= since);
            is_new && (!exclusive || !one.leg.usage.claimed.swap(true, Ordering::AcqRel))
        };
        let leg = Arc::clone(&legs.iter().find(free)?.leg);
        leg.usage.calls.fetch_add(1, Ordering::AcqRel);
        Some(LegLease { leg, shelf: Arc::clone(self), exclusive })
    }

    pub(super) fn add(self: &Arc<Self>, pooled: Pooled, exclusive: bool) -> LegLease {
        let leg = Arc::clone(&pooled.leg);
        leg.usage.calls.store(1, Ordering::Release);
        leg.usage.claimed.store(exclusive, Ordering::Release);
        self.lock().push(pooled);
        self.changed.notify_waiters();
        LegLease { leg, shelf: Arc::clone(self), exclusive }
    }

    /// Whether one more leg may be founded for a call of its own; it is expected from then on.
    pub(super) fn expect_one(&self) -> bool {
        let legs = self.lock();
        let room = legs.len() + self.expected.load(Ordering::Acquire) < MAX_PER_CALLER;
        if room {
            self.expected.fetch_add(1, Ordering::AcqRel);
        }
        room
    }

    /// Takes out the legs that were idle for too long, until enough are out.
    pub(super) fn expire(&self, now: Duration, idle: Duration, ended: &mut Vec<Arc<Leg>>) {
        let mut legs = self.lock();
        legs.retain(|Pooled { leg, .. }| {
            if leg.is_dead() {
                return false;
            }
            let expired = ended.len() < MAX_ENDED && leg.usage.idle_for(now) >= Some(idle);
            if expired {
                ended.push(Arc::clone(leg));
            }
            !expired
        });
    }

    /// An owner's legs that no call uses, each with the time since one did.
    pub(super) fn idle(&self, now: Duration, owner: Owner) -> Vec<(Duration, Arc<Leg>)> {
        let legs = self.lock();
        let own = legs.iter().filter(|pooled| pooled.share.holder() == owner);
        own.filter_map(|pooled| Some((pooled.leg.usage.idle_for(now)?, Arc::clone(&pooled.leg)))).collect()
    }

    /// Takes those of `chosen` out that no call has taken meanwhile.
    pub(super) fn give_up(&self, chosen: &HashSet<usize>) -> Vec<Arc<Leg>> {
        let mut legs = self.lock();
        let is_chosen = |pooled: &mut Pooled| {
            let unused = pooled.leg.usage.calls.load(Ordering::Acquire) == 0;
            unused && chosen.contains(&Arc::as_ptr(&pooled.leg).addr())
        };
        legs.extract_if(.., is_chosen).map(|pooled| pooled.leg).collect()
    }

    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        // Whoever waits for a leg of it holds it too.
        Arc::strong_count(self) == 1 && self.lock().is_empty()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Pooled>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    /// How long no call has used it, as sweeps see it; `None` while one does.
    fn idle_for(&self, now: Duration) -> Option<Duration> {
        let mut since = self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        if self.calls.load(Ordering::Acquire) > 0 {
            *since = None;
            return None;
        }
        if self.touched.swap(false, Ordering::Relaxed) || since.is_none() {
            *since = Some(now);
        }
        since.map(|since| now.saturating_sub(since))
    }
}
