//! Answers to `resources/read` that may be given again.
//!
//! A modern upstream says for how long and for whom its answer holds. For that long, at most
//! `cache.max_ttl`, it is given to the same caller again, and to others only where it is public and
//! the configuration trusts that. A legacy one says nothing: its answers are kept where
//! `cache.legacy_reads` says how long, and for one caller. What asks for input, continues a call that
//! did, or is an error is never kept.
//!
//! Those who want the same at the same time wait for one answer: callers for each other where the
//! configuration trusts what is public. If it turns out that it holds for one caller only, the others
//! wait for their own; if it holds for nobody else, they all ask.
//!
//! For a while after that, at most `cache.revalidate` and at most for as long as it was fresh, it is
//! given at once, and one who got it asks again aside. For `cache.stale` it stands in while its server
//! cannot be reached or takes too long, and never for a refusal: that ends it.

mod key;
mod shelf;

use crate::backend::forward::Failure;
use crate::backend::upstream_call::{Answer, Outcome, UpstreamTarget};
use crate::sealing::CallerKey;
use arc_swap::ArcSwap;
use bytes::Bytes;
use key::{Key, digest};
use portunus_config::{CacheRules, Credentials, ServerId, Snapshot, Upstream};
use portunus_filters::mcp::bridge::{Caching, ResultType, Scope, result_type};
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Clock, Era, Moment, Reason};
use shelf::Shelf;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Resources whose last update is remembered.
const MAX_UPDATES: usize = 40_000;

/// Requests whose answers held for nobody else lately.
const MAX_FLEETING: usize = 40_000;

/// How long nobody waits for an answer of that kind.
const FLEETING_FOR: Duration = Duration::from_secs(60);

/// Bytes of a kept answer beside its text, about.
const KEPT_BYTES: usize = 288;

/// Answers that may be given again, of all virtual servers.
#[derive(Default)]
pub struct Reads {
    shelves: Mutex<HashMap<ServerId, Shelf>>,
    flights: Mutex<HashMap<Key, Brought>>,
    fleeting: Mutex<HashMap<Key, Duration>>,
    changes: Mutex<Changes>,
    in_force: ArcSwap<InForce>,
}

/// The part of the snapshot in force that decides on keeping.
#[derive(Default)]
struct InForce {
    serial: u64,
    caches: HashMap<ServerId, CacheRules>,
    upstreams: Vec<Arc<Upstream>>,
}

/// What somebody asks for, when it is there.
type Brought = watch::Receiver<Option<Arc<Kept>>>;

/// By the names of upstreams: replicas of one speak for each other.
#[derive(Default)]
struct Changes {
    /// When all resources of an upstream may have changed.
    all: HashMap<Arc<str>, Duration>,
    /// When one did, by the digest of its URI, which its server chose.
    one: HashMap<(Arc<str>, [u8; 32]), Duration>,
}

impl Changes {
    /// Forgets the updates of the upstream that has told most: all of its resources may have changed.
    fn forget_fullest(&mut self, now: Duration) {
        let mut told: HashMap<&Arc<str>, usize> = HashMap::new();
        self.one.keys().for_each(|(upstream, _)| *told.entry(upstream).or_default() += 1);
        let fullest = told.into_iter().max_by_key(|(_, count)| *count);
        let Some(fullest) = fullest.map(|(upstream, _)| Arc::clone(upstream)) else { return };
        self.one.retain(|(upstream, _), _| *upstream != fullest);
        self.all.insert(fullest, now);
    }
}

fn digest_of(uri: &str) -> [u8; 32] {
    let mut whole = [0; 32];
    whole.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, uri.as_bytes()).as_ref());
    whole
}

/// An answer that may be given again.
struct Kept {
    answer: Answer<Bytes>,
    upstream: Arc<str>,
    /// Digest of the URI that the server knows it by.
    uri_digest: [u8; 32],
    /// Who asked.
    caller: Option<CallerKey>,
    read_at: Moment,
    fresh_until: Duration,
    /// Until when it is given while somebody asks again.
    renewable_until: Duration,
    /// Until when it may stand in.
    until: Duration,
    scope: Scope,
}

/// What is about to be read.
pub struct Wanted<'a> {
    /// For whom and where.
    pub place: &'a UpstreamTarget,
    /// The era that the upstream is spoken to in.
    pub era: Era,
    /// The legacy session that the request is a part of, where it is one client's own.
    pub session: Option<&'a [u8]>,
    /// The parameters of the request.
    pub params: &'a Object<'a>,
    /// What the upstream calls it, where that is not what the client does.
    pub target: Option<&'a str>,
}

/// One request for what may be here.
pub struct Read {
    reads: Arc<Reads>,
    clock: Arc<dyn Clock>,
    server: ServerId,
    upstream: Arc<str>,
    key: Key,
    /// Digest of the URI that the server knows it by.
    uri_digest: [u8; 32],
    may_share: bool,
    /// Other callers' answers are of use, as far as is known.
    joins_others: bool,
    rules: CacheRules,
    begun: Moment,
    stage: Stage,
}

enum Stage {
    /// Nobody has looked yet.
    New,
    /// Somebody asks already.
    Waits(Brought),
    /// This one asks, for all who wait.
    Asks(Flight),
    /// This one asks for itself.
    Alone,
}

/// A request that others wait for.
struct Flight {
    key: Key,
    sender: watch::Sender<Option<Arc<Kept>>>,
}

/// An answer for which nobody has to be waited for.
#[derive(Debug)]
pub enum AtHand {
    /// It is as good as its upstream's.
    Fresh(Answer<Bytes>),
    /// It will do for now, and is to be asked for again.
    Older(Answer<Bytes>),
    /// It will do for now, and somebody asks again already.
    Renewing(Answer<Bytes>),
}

impl Reads {
    /// A read that is about to be made; `None` where nothing is kept.
    pub fn read(self: &Arc<Reads>, clock: &Arc<dyn Clock>, wanted: &Wanted<'_>) -> Option<Read> {
        let Wanted { place, params, target, .. } = wanted;
        let in_force = self.in_force.load();
        let rules = *in_force.caches.get(&place.server)?;
        let uri = params.text("uri")?;
        let continues = ["inputResponses", "requestState"].iter().any(|key| params.get(key).is_some());
        let longest = match wanted.era {
            Era::Modern => rules.max_ttl,
            Era::Legacy => rules.legacy_reads,
        };
        if !rules.reads || rules.max_bytes == 0 || longest.is_zero() || continues {
            return None;
        }
        // A message that was judged under the configuration before is answered by its server.
        if !in_force.upstreams.iter().any(|upstream| Arc::ptr_eq(upstream, &place.upstream)) {
            return None;
        }
        let (serial, upstream, caller) = (in_force.serial, place.upstream.key, Some(place.caller));
        // A legacy server says nothing of who else may have its answer.
        let may_share = wanted.era == Era::Modern && may_share(&place.upstream);
        Some(Read {
            reads: Arc::clone(self),
            clock: Arc::clone(clock),
            server: place.server.clone(),
            upstream: Arc::clone(&place.upstream.name),
            key: Key { serial, upstream, caller, request: digest(wanted) },
            uri_digest: digest_of(target.unwrap_or(&uri)),
            may_share,
            joins_others: may_share,
            rules,
            begun: clock.now(),
            stage: Stage::New,
        })
    }

    /// Notes that an upstream said that a resource changed, under the URI that it knows it by.
    pub fn updated(&self, upstream: &Upstream, uri: &str, now: Moment) {
        // A server may choose a URI of megabytes: nobody waits here until it is digested.
        let key = (Arc::clone(&upstream.name), digest_of(uri));
        let mut changes = lock(&self.changes);
        if changes.one.len() >= MAX_UPDATES {
            changes.forget_fullest(now.monotonic);
        }
        changes.one.insert(key, now.monotonic);
    }

    /// Notes that the resources of an upstream are others now.
    pub fn changed(&self, upstream: &Upstream, now: Moment) {
        lock(&self.changes).all.insert(Arc::clone(&upstream.name), now.monotonic);
    }

    /// Forgets what was read before a snapshot, and changes of upstreams that it does not have.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        let in_use = |name: &Arc<str>| snapshot.upstreams.iter().any(|upstream| upstream.name == *name);
        let caches = snapshot.routes.iter().map(|server| (server.id.clone(), server.cache)).collect();
        let upstreams = snapshot.upstreams.clone();
        self.in_force.store(Arc::new(InForce { serial: snapshot.serial, caches, upstreams }));
        lock(&self.shelves).clear();
        let mut changes = lock(&self.changes);
        changes.all.retain(|upstream, _| in_use(upstream));
        changes.one.retain(|(upstream, _), _| in_use(upstream));
    }

    /// Lets go of what can no longer stand in.
    pub fn sweep(&self, now: Moment) {
        for shelf in lock(&self.shelves).values_mut() {
            shelf.sweep(now);
        }
        lock(&self.fleeting).retain(|_, until| now.monotonic < *until);
    }

    /// Answers that are kept, and their bytes.
    pub fn sizes(&self) -> [(&'static str, usize); 2] {
        let shelves = lock(&self.shelves);
        let bytes = shelves.values().map(Shelf::bytes).sum();
        [("reads", shelves.values().map(Shelf::len).sum()), ("read_bytes", bytes)]
    }

    fn find(&self, server: &ServerId, key: &Key) -> Option<Arc<Kept>> {
        let kept = lock(&self.shelves).get_mut(server)?.get(key)?;
        (!self.is_outdated(&kept)).then_some(kept)
    }

    fn is_outdated(&self, kept: &Kept) -> bool {
        let changes = lock(&self.changes);
        let one = changes.one.get(&(Arc::clone(&kept.upstream), kept.uri_digest));
        let latest = one.max(changes.all.get(&kept.upstream));
        latest.is_some_and(|at| *at >= kept.read_at.monotonic)
    }
}

impl Read {
    /// The answer, if it is here.
    pub fn at_hand(&mut self) -> Option<AtHand> {
        let now = self.clock.now();
        let kept = self.find(|kept| now.monotonic < kept.renewable_until)?;
        let answer = kept.answer(now);
        if now.monotonic < kept.fresh_until {
            return Some(AtHand::Fresh(answer));
        }
        if let Stage::New = self.stage {
            self.stage = self.board();
        }
        match self.stage {
            Stage::Asks(_) => Some(AtHand::Older(answer)),
            Stage::Waits(_) => Some(AtHand::Renewing(answer)),
            // Its upstream did not say lately that such an answer holds for anybody else.
            Stage::New | Stage::Alone => None,
        }
    }

    /// The answer, if it is here or somebody brings it; else this one has to ask. Safe to cancel.
    pub async fn kept(&mut self) -> Option<Answer<Bytes>> {
        loop {
            match &mut self.stage {
                Stage::New => {
                    let now = self.clock.now();
                    if let Some(kept) = self.find(|kept| now.monotonic < kept.fresh_until) {
                        return Some(kept.answer(now));
                    }
                    self.stage = self.board();
                }
                Stage::Waits(brought) => {
                    let kept = brought.wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone());
                    self.stage = Stage::Alone;
                    match kept? {
                        kept if kept.is_for(self.key.caller) => return Some(kept.answer(self.clock.now())),
                        // Another caller's own: this one waits for its own.
                        _ => (self.joins_others, self.stage) = (false, Stage::New),
                    }
                }
                Stage::Asks(_) | Stage::Alone => return None,
            }
        }
    }

    /// An older answer in the place of a failure, if there is one and the server is but silent.
    pub fn instead(&self, failure: &Failure) -> Option<Answer<Bytes>> {
        let is_silent = matches!(
            failure.denial.reason,
            Reason::UpstreamUnavailable | Reason::UpstreamTimeout | Reason::UpstreamLimited
        );
        if !is_silent {
            self.forget();
            return None;
        }
        let now = self.clock.now();
        let kept = self.find(|kept| now.monotonic < kept.until)?;
        tracing::debug!(upstream = &*self.upstream, cause = failure.cause, "an older answer stands in");
        Some(kept.answer(now))
    }

    /// Offers what was answered to whoever may have it.
    pub fn keep(self, answer: &Answer<Bytes>) {
        let Some(kept) = self.keepable(answer) else {
            self.forget();
            self.note_fleeting(self.key.clone());
            return;
        };
        let kept = Arc::new(kept);
        let shared = kept.scope == Scope::Public;
        if self.may_share && !shared {
            self.note_fleeting(self.shared());
        }
        let key = Key { caller: self.key.caller.filter(|_| !shared), ..self.key.clone() };
        let mut shelves = lock(&self.reads.shelves);
        let shelf = shelves.entry(self.server.clone()).or_default();
        shelf.put(key, Arc::clone(&kept), self.rules.max_bytes);
        drop(shelves);
        if let Stage::Asks(flight) = &self.stage {
            flight.sender.send_replace(Some(kept));
        }
    }

    /// For a while nobody waits for the answer to such a request.
    fn note_fleeting(&self, key: Key) {
        let mut fleeting = lock(&self.reads.fleeting);
        if fleeting.len() < MAX_FLEETING {
            fleeting.insert(key, self.clock.now().monotonic + FLEETING_FOR);
        }
    }

    fn find(&self, is_good: impl Fn(&Kept) -> bool) -> Option<Arc<Kept>> {
        let found = |key: &Key| self.reads.find(&self.server, key).filter(|kept| is_good(kept));
        found(&self.key).or_else(|| self.may_share.then(|| found(&self.shared())).flatten())
    }

    /// What was kept is no longer what its server says.
    fn forget(&self) {
        if let Some(shelf) = lock(&self.reads.shelves).get_mut(&self.server) {
            shelf.remove(&self.key);
            shelf.remove(&self.shared());
        }
    }

    fn shared(&self) -> Key {
        Key { caller: None, ..self.key.clone() }
    }

    /// Joins whoever asks for the same, or goes first.
    fn board(&self) -> Stage {
        let now = self.clock.now().monotonic;
        let fleeting = lock(&self.reads.fleeting);
        let is_fleeting = |key: &Key| fleeting.get(key).is_some_and(|until| now < *until);
        if is_fleeting(&self.key) {
            return Stage::Alone;
        }
        let shared = Some(self.shared()).filter(|shared| self.joins_others && !is_fleeting(shared));
        drop(fleeting);
        let key = shared.unwrap_or_else(|| self.key.clone());
        let mut flights = lock(&self.reads.flights);
        if let Some(flight) = flights.get(&key) {
            return Stage::Waits(flight.clone());
        }
        let (sender, flight) = watch::channel(None);
        flights.insert(key.clone(), flight);
        Stage::Asks(Flight { key, sender })
    }

    fn keepable(&self, answer: &Answer<Bytes>) -> Option<Kept> {
        let Outcome::Result(result) = &answer.outcome else { return None };
        let object = Object::read(std::str::from_utf8(result).ok()?).ok()?;
        if result_type(&object).ok()? != ResultType::Complete {
            return None;
        }
        let caching = Caching::of(&object);
        let fresh_for = match answer.era {
            Era::Modern => Duration::from_millis(caching.ttl_ms).min(self.rules.max_ttl),
            Era::Legacy => self.rules.legacy_reads,
        };
        let renewable_for = self.rules.revalidate.min(fresh_for).min(self.rules.stale);
        let fresh_until = self.begun.monotonic + fresh_for;
        let kept = Kept {
            // A copy: the text may be a part of a buffer that holds much more.
            answer: Answer {
                outcome: Outcome::Result(Bytes::copy_from_slice(result)),
                received: None,
                room: None,
                ..answer.clone()
            },
            upstream: Arc::clone(&self.upstream),
            uri_digest: self.uri_digest,
            caller: self.key.caller,
            read_at: self.begun,
            fresh_until,
            renewable_until: fresh_until + renewable_for,
            until: fresh_until + self.rules.stale,
            scope: if self.may_share { caching.scope } else { Scope::Private },
        };
        let is_new = !self.reads.is_outdated(&kept);
        (is_new && self.clock.now().monotonic < kept.fresh_until).then_some(kept)
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if let Stage::Asks(flight) = &self.stage {
            lock(&self.reads.flights).remove(&flight.key);
        }
    }
}

impl Kept {
    /// The answer with the time that it holds from now on, for the caller alone: others have to ask
    /// here, where it is judged who may read. A legacy upstream's stays as it is: it promises nothing.
    fn answer(&self, now: Moment) -> Answer<Bytes> {
        if self.answer.era == Era::Legacy {
            return self.answer.clone();
        }
        let left = self.fresh_until.saturating_sub(now.monotonic).as_millis();
        let rewritten = std::str::from_utf8(self.answer.text()).ok().and_then(|text| {
            let object = Object::read(text).ok()?;
            let changed = object.rewrite().set("ttlMs", left.to_string());
            Some(changed.set("cacheScope", string(Scope::Private.as_str())).text())
        });
        let outcome = rewritten.map(|text| Outcome::Result(Bytes::from(text)));
        Answer { outcome: outcome.unwrap_or_else(|| self.answer.outcome.clone()), ..self.answer.clone() }
    }

    fn is_for(&self, caller: Option<CallerKey>) -> bool {
        self.scope == Scope::Public || self.caller == caller
    }

    fn bytes(&self) -> usize {
        self.answer.text().len() + KEPT_BYTES
    }
}

/// Whether what an upstream calls public may be given to other callers.
fn may_share(upstream: &Upstream) -> bool {
    upstream.trust_cache_scope && !matches!(upstream.credentials, Credentials::Passthrough)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
