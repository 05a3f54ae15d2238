//! The upstream sessions under one key, and the leases of calls that use them.

use super::UpstreamSession;
use crate::backend::single_flight::Turns;
use crate::shares::{Owner, Share};
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Sessions of one caller at one upstream: as many calls of it may wait for answers of people.
const MAX_PER_CALLER: usize = 64;
/// Sessions that one sweep ends: the ends wait their turn.
const MAX_ENDED: usize = 1024;

/// The upstream sessions under one key.
pub(super) struct SessionPool {
    sessions: Mutex<Vec<Pooled>>,
    /// Sessions that are being founded.
    pub(super) expected: AtomicUsize,
    /// For the founding of an upstream session that all who wait will share.
    pub(super) turns: Turns,
    /// An upstream session came free, or the founding of one failed.
    pub(super) changed: Notify,
}

/// An upstream session, and its part of all.
pub(super) struct Pooled {
    pub(super) upstream_session: Arc<UpstreamSession>,
    pub(super) share: Share,
}

/// The wishes of a call for its upstream session.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseOptions {
    /// The call may be asked something: no other that may has it.
    pub exclusive: bool,
    /// It was founded at that time or later: a server that has forgotten one may have forgotten all.
    pub since: Option<Instant>,
}

impl LeaseOptions {
    /// Any upstream session, for a call that is asked nothing.
    pub fn any() -> LeaseOptions {
        LeaseOptions::default()
    }
}

/// How a pooled upstream session is in use.
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

/// The use of an upstream session for one call.
pub struct SessionLease {
    upstream_session: Arc<UpstreamSession>,
    session_pool: Arc<SessionPool>,
    exclusive: bool,
}

impl Deref for SessionLease {
    type Target = Arc<UpstreamSession>;

    fn deref(&self) -> &Arc<UpstreamSession> {
        &self.upstream_session
    }
}

impl Drop for SessionLease {
    fn drop(&mut self) {
        let usage = &self.upstream_session.usage;
        usage.touched.store(true, Ordering::Relaxed);
        if self.exclusive {
            usage.claimed.store(false, Ordering::Release);
            self.session_pool.changed.notify_one();
        }
        usage.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes back that an upstream session is expected, however its founding ends.
pub(super) struct Expected(pub(super) Arc<SessionPool>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.expected.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SessionPool {
    pub(super) fn new() -> SessionPool {
        SessionPool {
            sessions: Mutex::default(),
            expected: AtomicUsize::new(0),
            turns: Turns::default(),
            changed: Notify::new(),
        }
    }

    /// The first upstream session that is free for such a use; the dead are cleared away.
    pub(super) fn take(
        self: &Arc<Self>,
        LeaseOptions { exclusive, since }: LeaseOptions,
    ) -> Option<SessionLease> {
        let mut sessions = self.lock();
        sessions.retain(|pooled| !pooled.upstream_session.is_dead());
        let free = |one: &&Pooled| {
            let is_new = since.is_none_or(|since| one.upstream_session.founded >= since);
            is_new && (!exclusive || !one.upstream_session.usage.claimed.swap(true, Ordering::AcqRel))
        };
        let upstream_session = Arc::clone(&sessions.iter().find(free)?.upstream_session);
        upstream_session.usage.calls.fetch_add(1, Ordering::AcqRel);
        Some(SessionLease { upstream_session, session_pool: Arc::clone(self), exclusive })
    }

    pub(super) fn add(self: &Arc<Self>, pooled: Pooled, exclusive: bool) -> SessionLease {
        let upstream_session = Arc::clone(&pooled.upstream_session);
        upstream_session.usage.calls.store(1, Ordering::Release);
        upstream_session.usage.claimed.store(exclusive, Ordering::Release);
        self.lock().push(pooled);
        self.changed.notify_waiters();
        SessionLease { upstream_session, session_pool: Arc::clone(self), exclusive }
    }

    /// True if one more upstream session may be founded for a call of its own; it is expected from then on.
    pub(super) fn expect_one(&self) -> bool {
        let sessions = self.lock();
        let room = sessions.len() + self.expected.load(Ordering::Acquire) < MAX_PER_CALLER;
        if room {
            self.expected.fetch_add(1, Ordering::AcqRel);
        }
        room
    }

    /// Takes out the upstream sessions that were idle for too long, until enough are out.
    pub(super) fn expire(&self, now: Duration, idle: Duration, ended: &mut Vec<Arc<UpstreamSession>>) {
        let mut sessions = self.lock();
        sessions.retain(|Pooled { upstream_session, .. }| {
            if upstream_session.is_dead() {
                return false;
            }
            let expired = ended.len() < MAX_ENDED && upstream_session.usage.idle_for(now) >= Some(idle);
            if expired {
                ended.push(Arc::clone(upstream_session));
            }
            !expired
        });
    }

    /// An owner's upstream sessions that no call uses, each with the time since one did.
    pub(super) fn idle(&self, now: Duration, owner: Owner) -> Vec<(Duration, Arc<UpstreamSession>)> {
        let sessions = self.lock();
        let own = sessions.iter().filter(|pooled| pooled.share.holder() == owner);
        own.filter_map(|pooled| {
            Some((pooled.upstream_session.usage.idle_for(now)?, Arc::clone(&pooled.upstream_session)))
        })
        .collect()
    }

    /// Takes those of `chosen` out that no call has taken meanwhile.
    pub(super) fn give_up(&self, chosen: &HashSet<usize>) -> Vec<Arc<UpstreamSession>> {
        let mut sessions = self.lock();
        let is_chosen = |pooled: &mut Pooled| {
            let unused = pooled.upstream_session.usage.calls.load(Ordering::Acquire) == 0;
            unused && chosen.contains(&Arc::as_ptr(&pooled.upstream_session).addr())
        };
        sessions.extract_if(.., is_chosen).map(|pooled| pooled.upstream_session).collect()
    }

    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        // Whoever waits for an upstream session of it holds it too.
        Arc::strong_count(self) == 1 && self.lock().is_empty()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Pooled>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
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
