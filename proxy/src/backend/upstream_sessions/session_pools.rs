//! The upstream sessions that calls of one caller share.

use super::Refused;
use super::founding;
use super::session_pool::{Expected, LeaseOptions, Pooled, SessionLease, SessionPool};
use super::{Origin, UpstreamSession};
use crate::backend::Backend;
use crate::backend::forward::Failure;
use crate::backend::upstream_call::{CallerKey, UpstreamTarget};
use crate::shares::{Owner, Share, Shares};
use http::header::{AUTHORIZATION, COOKIE};
use portunus_base::table::weight_of;
use portunus_config::{Credentials, ServerId, SessionSharing, UpstreamKey};
use portunus_filters::mcp::Revision;
use portunus_filters::{Denial, Era, Reason};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Upstream sessions in all; those that keep much of a client's text count as several.
const MAX_SESSIONS: usize = 10_000;
/// Bytes of messages that wait for calls, of all servers.
const MAX_CALL_MESSAGE_BYTES: usize = 32 << 20;
/// An upstream session that no call used for this long is ended.
const IDLE: Duration = Duration::from_secs(300);
/// Of a caller's idle upstream sessions, the part that makes room at once when there is none.
const DISPLACED_PART: usize = 8;

/// All upstream sessions of pools, by what keeps callers apart.
pub struct SessionPools {
    pools: Mutex<HashMap<Key, Arc<SessionPool>>>,
    shares: Arc<Shares>,
    alive: Arc<AtomicUsize>,
    call_message_bytes: Arc<Shares<UpstreamKey>>,
}

impl Default for SessionPools {
    fn default() -> SessionPools {
        SessionPools {
            pools: Mutex::default(),
            shares: Shares::new(MAX_SESSIONS),
            alive: Arc::default(),
            call_message_bytes: Shares::new(MAX_CALL_MESSAGE_BYTES),
        }
    }
}

/// The properties that two calls must have in common to share an upstream session.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    upstream: UpstreamKey,
    server: ServerId,
    caller: CallerKey,
    /// The client's own, where it is what the upstream sees.
    credential: Option<Box<[u8]>>,
    profile: [u8; 32],
}

impl Hash for Key {
    /// By digests, of which a part will do; what is left out seldom differs alone.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut profile = [0; 8];
        profile.copy_from_slice(&self.profile[..8]);
        (self.upstream, self.caller, u64::from_ne_bytes(profile)).hash(state);
    }
}

impl Key {
    fn of(place: &UpstreamTarget) -> Key {
        let passes = matches!(place.upstream.credentials, Credentials::Passthrough);
        Key {
            upstream: place.upstream.key,
            server: place.server.clone(),
            caller: place.caller,
            credential: passes.then(|| credential(place)),
            profile: *place.profile.key(),
        }
    }
}

/// What passes through, digested: keys outlive the calls that showed it.
pub(crate) fn credential(place: &UpstreamTarget) -> Box<[u8]> {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for name in [AUTHORIZATION, COOKIE] {
        for value in place.headers.get_all(&name) {
            digest.update(&value.len().to_be_bytes());
            digest.update(value.as_bytes());
        }
        digest.update(name.as_str().as_bytes());
    }
    digest.finish().as_ref().into()
}

impl SessionPools {
    /// An upstream session for a call that is asked nothing, and leaves nothing in its session: where the document
    /// says so, one that callers share.
    ///
    /// # Errors
    /// As [`SessionPools::lease`].
    pub async fn lease_any(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        since: Option<Instant>,
    ) -> Result<SessionLease, Failure> {
        let options = LeaseOptions { exclusive: false, since };
        match place.upstream.sessions {
            SessionSharing::PerCaller => self.lease(backend, place, options).await,
            SessionSharing::Shared => self.lease(backend, &place.for_all(), options).await,
        }
    }

    /// An upstream session for one call. Founds one if there is none.
    ///
    /// # Errors
    /// [`Failure`] if none can be founded, or the caller has too many.
    pub async fn lease(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        options: LeaseOptions,
    ) -> Result<SessionLease, Failure> {
        let exclusive = options.exclusive;
        let at = (!place.upstream.replicas.is_empty()).then(|| backend.settle(place.clone()));
        let place = at.as_ref().map_or(place, |(place, _instance)| place);
        let session_pool = self.session_pool(place);
        let begun = Instant::now();
        let until = begun + place.upstream.timeouts.connect;
        loop {
            let changed = session_pool.changed.notified();
            if let Some(lease) = session_pool.take(options) {
                return Ok(lease);
            }
            if let Some(failure) = session_pool.turns.failed_since(begun) {
                return Err(failure);
            }
            if !exclusive {
                let _turn = session_pool.turns.take(begun).await?;
                if let Some(lease) = session_pool.take(options) {
                    return Ok(lease);
                }
                return Box::pin(self.found(backend, place, &session_pool, false)).await;
            }
            if session_pool.expect_one() {
                return Box::pin(self.found(backend, place, &session_pool, true)).await;
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(busy("too many calls of this caller wait at the server"));
            }
        }
    }

    /// Founds the session of one legacy client, which ends it by [`UpstreamSession::end`]; one that nobody waits
    /// for any more is ended at once.
    ///
    /// # Errors
    /// [`Failure`] if the upstream founds none.
    pub async fn own(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        version: Revision,
    ) -> Result<Arc<UpstreamSession>, Failure> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (place, instance) = backend.settle(place.clone());
        let backend = Arc::clone(backend);
        tokio::spawn(async move {
            let _instance = instance;
            let founded = founding::request(&backend, &place, Origin::Own, version).await;
            let founded = founded.map_err(|refused| refused.noted(&backend, &place));
            if let Err(Ok(unwanted)) = sender.send(founded) {
                unwanted.end(&backend);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(busy("the server's session was not founded")))
    }

    /// Ends what has been idle for too long, or belongs to an upstream that is configured no longer.
    pub fn sweep(&self, backend: &Arc<Backend>) {
        let now = backend.clock.now().monotonic;
        let known: HashSet<UpstreamKey> = backend.upstream_keys().into_iter().collect();
        let mut ended = Vec::new();
        self.lock().retain(|key, session_pool| {
            let idle = if known.contains(&key.upstream) { IDLE } else { Duration::ZERO };
            session_pool.expire(now, idle, &mut ended);
            !session_pool.is_unused()
        });
        for upstream_session in ended {
            upstream_session.end(backend);
        }
    }

    /// True if there is an upstream session for calls at `place`.
    pub fn holds(&self, place: &UpstreamTarget) -> bool {
        let session_pool = self.lock().get(&Key::of(place)).cloned();
        session_pool.is_some_and(|session_pool| {
            session_pool.lock().iter().any(|pooled| !pooled.upstream_session.is_dead())
        })
    }

    /// Upstream sessions of pools and of clients.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Bytes of what servers say to calls and that these have yet to take.
    pub(super) fn call_message_bytes(&self) -> Arc<Shares<UpstreamKey>> {
        Arc::clone(&self.call_message_bytes)
    }

    pub(super) fn counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.alive)
    }

    /// Upstream sessions of all pools; those that keep much of a client's text count as several.
    pub fn len(&self) -> usize {
        self.shares.held()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn found(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        session_pool: &Arc<SessionPool>,
        exclusive: bool,
    ) -> Result<SessionLease, Failure> {
        if !exclusive {
            session_pool.expected.fetch_add(1, Ordering::AcqRel);
        }
        let expected = Expected(Arc::clone(session_pool));
        let share = self.share(backend, place);
        let share = share.ok_or_else(|| busy("the gateway holds too many sessions at servers"))?;
        let (backend, place) = (Arc::clone(backend), place.clone());
        // Whoever waits for it may leave; the session is there all the same, and the next one's.
        let founding = tokio::spawn(async move {
            let newest = Revision::LEGACY.first().copied().unwrap_or(Revision::V2025_11_25);
            let founded = founding::request(&backend, &place, Origin::Pooled, newest).await;
            let session_pool = Arc::clone(&expected.0);
            match founded {
                Ok(upstream_session) => Ok(session_pool.add(Pooled { upstream_session, share }, exclusive)),
                Err(refused) => {
                    let failure = refused.noted(&backend, &place);
                    session_pool.turns.fail(&failure);
                    session_pool.changed.notify_waiters();
                    Err(failure)
                }
            }
        });
        founding.await.unwrap_or_else(|_| Err(busy("the server's session was not founded")))
    }

    /// The part of an upstream session that is to be founded; where there is none, the idlest of the caller that has most
    /// make room.
    fn share(&self, backend: &Arc<Backend>, place: &UpstreamTarget) -> Option<Share> {
        let weight = weight_of(place.profile.bytes() + place.headers.bytes());
        let take = || self.shares.take(place.owner, weight);
        take().or_else(|| {
            let fullest = self.shares.fullest();
            let others = fullest.into_iter().chain([place.owner]);
            others.into_iter().find_map(|owner| {
                self.displace(backend, owner);
                take()
            })
        })
    }

    /// Ends the idlest of an owner's upstream sessions that no call uses: a part of them at once, since looking for
    /// them costs a look at all.
    fn displace(&self, backend: &Arc<Backend>, owner: Owner) {
        let now = backend.clock.now().monotonic;
        let pools: Vec<Arc<SessionPool>> = self.lock().values().cloned().collect();
        let mut idle: Vec<(Duration, Arc<UpstreamSession>)> =
            pools.iter().flat_map(|one| one.idle(now, owner)).collect();
        idle.sort_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        let most = idle.len().div_ceil(DISPLACED_PART).max(1);
        let chosen: HashSet<usize> = idle
            .iter()
            .take(most)
            .map(|(_, upstream_session)| Arc::as_ptr(upstream_session).addr())
            .collect();
        let ended: Vec<Arc<UpstreamSession>> =
            pools.iter().flat_map(|session_pool| session_pool.give_up(&chosen)).collect();
        drop(pools);
        self.lock().retain(|_, session_pool| !session_pool.is_unused());
        for upstream_session in ended {
            upstream_session.end(backend);
        }
    }

    fn session_pool(&self, place: &UpstreamTarget) -> Arc<SessionPool> {
        let key = Key::of(place);
        let mut pools = self.lock();
        let session_pool = pools.entry(key).or_insert_with(|| Arc::new(SessionPool::new()));
        Arc::clone(session_pool)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<SessionPool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    /// What the caller is told; what it says of the upstream's era is remembered.
    fn noted(self, backend: &Backend, place: &UpstreamTarget) -> Failure {
        match self {
            Refused::NotLegacy(failure) => {
                backend.contradicted(place, Era::Legacy);
                failure
            }
            Refused::Failed(failure) => {
                place.pool.note_failure(&failure);
                failure
            }
        }
    }
}

fn busy(detail: &'static str) -> Failure {
    let denial = Denial::new(Reason::UpstreamUnavailable, detail);
    Failure { pending: false, problem: None, ..Failure::from(denial) }
}
