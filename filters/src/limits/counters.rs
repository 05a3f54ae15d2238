//! Keeps the counts of all rules in bounded tables, which survive a change of the configuration.

use super::meter::{ClockReading, Meter};
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts of a table with a lock each, so that workers seldom wait for one another.
const SHARDS: usize = 64;
/// The table of unauthenticated callers has room for `1 / STRANGERS_SHARE` of the keys that the other has.
const STRANGERS_SHARE: usize = 16;
/// Nanoseconds between two searches of one full part for keys that owe nothing.
const SWEEP_NS: u64 = 1_000_000_000;
/// Keys that are named when their budgets are nearly spent, until somebody asks.
const MOST_NAMED: usize = 64;
/// Seconds between two searches of all tables.
const SWEEP_EVERY_S: u64 = 60;

/// The counts of all rules by the names of the rules.
///
/// Keys are digests under a key of their own, so that nobody who chooses names can choose what they collide with.
pub struct Counters {
    digest_key: [u64; 2],
    rules: Mutex<HashMap<Arc<str>, RuleState>>,
    swept_s: AtomicU64,
}

/// The counts of a rule, and what they were counted by.
struct RuleState {
    shape: String,
    meter: Meter,
    counters: Arc<RuleCounters>,
}

/// The counts of one rule.
#[derive(Debug)]
pub struct RuleCounters {
    known: KeyTable,
    strangers: KeyTable,
    /// Changes of the rate.
    epoch: AtomicU64,
    /// The meter after the last of them.
    meter: Mutex<Meter>,
    outcomes: [AtomicU64; RuleOutcome::ALL.len()],
    /// Keys whose budget was spent by four fifths, and how many there were beside those.
    nearly_spent: Mutex<(Vec<String>, u64)>,
}

/// The result of a rule for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOutcome {
    /// It counted it.
    Allowed,
    /// It refused it.
    Refused,
    /// It would have refused it if it were enforced.
    Observed,
}

impl RuleOutcome {
    /// All of them, in the order of the variants.
    pub const ALL: [RuleOutcome; 3] = [RuleOutcome::Allowed, RuleOutcome::Refused, RuleOutcome::Observed];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleOutcome::Allowed => "allowed",
            RuleOutcome::Refused => "refused",
            RuleOutcome::Observed => "observed",
        }
    }
}

/// The callers that a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallerKind {
    /// Verified callers, or all callers together.
    Authenticated,
    /// Callers who have proved no name: their address is known alone.
    Unauthenticated,
}

/// The state of one key, as its [`Meter`] reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyCount {
    pub(super) first: u64,
    pub(super) second: u64,
}

/// A slot that was changed, by which it is found again.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountId {
    key: u64,
    caller_kind: CallerKind,
    is_overflow: bool,
    /// The changes of the rule's rate before it.
    epoch: u64,
}

#[derive(Debug)]
struct KeyTable {
    shards: Box<[Mutex<Shard>]>,
    /// Keys that a shard holds at most.
    most: AtomicUsize,
    /// Shared by all keys for which there is no room.
    overflow: Mutex<KeyCount>,
    /// Times that a key found no room.
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<u64, KeyCount, BuildHasherDefault<DigestHasher>>,
    swept_ns: u64,
}

/// Takes a digest for its own hash.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

impl Counters {
    /// Counts whose keys are digests under `digest_key`, which nobody outside may know.
    pub fn new(digest_key: [u64; 2]) -> Counters {
        Counters { digest_key, rules: Mutex::default(), swept_s: AtomicU64::new(0) }
    }

    pub(super) fn digest_key(&self) -> [u64; 2] {
        self.digest_key
    }

    /// The counts of a rule, with room for `most` keys: those that it had before if it counts the same things by the same kind
    /// of meter, as many as they were where its rate is another.
    pub(super) fn of_rule(
        &self,
        name: &Arc<str>,
        (shape, meter): (String, Meter),
        most: usize,
        now: ClockReading,
    ) -> (Arc<RuleCounters>, u64) {
        let mut rules = lock(&self.rules);
        if let Some(kept) = rules.get_mut(name)
            && kept.shape == shape
            && kept.meter.counts_as(meter)
        {
            kept.counters.set_most(most);
            if kept.meter != meter {
                kept.counters.rescale(kept.meter, meter, now);
                kept.meter = meter;
            }
            return (Arc::clone(&kept.counters), kept.counters.epoch.load(Ordering::Relaxed));
        }
        let counters = Arc::new(RuleCounters::new(most, meter));
        rules.insert(Arc::clone(name), RuleState { shape, meter, counters: Arc::clone(&counters) });
        (counters, 0)
    }

    /// A digest of the key of digests, by which counts under another one are told apart.
    pub(super) fn key_check(&self) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.digest_key[0], self.digest_key[1]);
        hasher.write(b"key of digests");
        hasher.finish()
    }

    /// Gives `take` each rule: its name, what it counts, by which meter, and its counts.
    pub(super) fn each_rule(&self, mut take: impl FnMut(&str, &str, Meter, &RuleCounters)) {
        let rules = lock(&self.rules);
        rules.iter().for_each(|(name, kept)| take(name, &kept.shape, kept.meter, &kept.counters));
    }

    /// Gives `take` the rule of a name, if there is one: what it counts, by which meter, and its counts.
    pub(super) fn with_rule(&self, name: &str, take: impl FnOnce(&str, Meter, &RuleCounters)) {
        if let Some(kept) = lock(&self.rules).get(name) {
            take(&kept.shape, kept.meter, &kept.counters);
        }
    }

    /// Forgets the rules that are not among `names`.
    pub(super) fn retain(&self, names: impl Fn(&str) -> bool) {
        lock(&self.rules).retain(|name, _| names(name));
    }

    /// Gives back the memory of keys that owe nothing, once a minute.
    pub fn sweep(&self, now: ClockReading) {
        let now_s = now.monotonic_ns / 1_000_000_000;
        if now_s < self.swept_s.load(Ordering::Relaxed) + SWEEP_EVERY_S {
            return;
        }
        self.swept_s.store(now_s, Ordering::Relaxed);
        let rules: Vec<(Meter, Arc<RuleCounters>)> =
            lock(&self.rules).values().map(|kept| (kept.meter, Arc::clone(&kept.counters))).collect();
        for (meter, counters) in rules {
            counters.tables().for_each(|table| table.sweep(meter, now));
        }
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counters({})", lock(&self.rules).len())
    }
}

impl RuleCounters {
    fn new(most: usize, meter: Meter) -> RuleCounters {
        RuleCounters {
            known: KeyTable::new(most),
            strangers: KeyTable::new(most.div_ceil(STRANGERS_SHARE)),
            epoch: AtomicU64::new(0),
            meter: Mutex::new(meter),
            outcomes: Default::default(),
            nearly_spent: Mutex::default(),
        }
    }

    /// Makes room for so many keys. Those that there are stay.
    fn set_most(&self, most: usize) {
        self.known.most.store(KeyTable::most_of(most), Ordering::Relaxed);
        self.strangers.most.store(KeyTable::most_of(most.div_ceil(STRANGERS_SHARE)), Ordering::Relaxed);
    }

    fn tables(&self) -> impl Iterator<Item = &KeyTable> {
        [&self.known, &self.strangers].into_iter()
    }

    fn table(&self, caller_kind: CallerKind) -> &KeyTable {
        match caller_kind {
            CallerKind::Authenticated => &self.known,
            CallerKind::Unauthenticated => &self.strangers,
        }
    }

    fn rescale(&self, before: Meter, after: Meter, now: ClockReading) {
        *lock(&self.meter) = after;
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let change = |slot: &mut KeyCount| *slot = after.rescaled(before, *slot, now);
        for table in self.tables() {
            table.shards.iter().for_each(|shard| lock(shard).slots.values_mut().for_each(change));
            change(&mut lock(&table.overflow));
        }
    }

    /// The meter by which slots are counted now. A call of an earlier configuration brings the rate of that.
    pub(super) fn meter_now(&self, own: Meter, epoch: u64) -> Meter {
        match own.is_rate() && self.epoch.load(Ordering::Relaxed) != epoch {
            true => *lock(&self.meter),
            false => own,
        }
    }

    /// Tries `charge` on a copy of the slot that a key has, or would get.
    pub(super) fn try_charge<E>(
        &self,
        (key, caller_kind): (u64, CallerKind),
        (meter, now): (Meter, ClockReading),
        charge: impl FnOnce(&mut KeyCount) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.table(caller_kind);
        let mut shard = table.shard(key);
        if table.has_room(&mut shard, key, (meter, now)) {
            return charge(&mut shard.slots.get(&key).copied().unwrap_or_default());
        }
        drop(shard);
        if meter.reads_arguments() {
            return Ok(());
        }
        let mut overflow = *lock(&table.overflow);
        charge(&mut overflow).inspect_err(|_| table.note_overflow())
    }

    /// Changes the slot of a key with `charge`, which may refuse to.
    pub(super) fn charge<E>(
        &self,
        (key, caller_kind): (u64, CallerKind),
        (meter, now): (Meter, ClockReading),
        charge: impl FnOnce(&mut KeyCount) -> Result<(), E>,
    ) -> Result<CountId, E> {
        let table = self.table(caller_kind);
        let mut shard = table.shard(key);
        let epoch = self.epoch.load(Ordering::Relaxed);
        if !table.has_room(&mut shard, key, (meter, now)) {
            drop(shard);
            table.note_overflow();
            // Different calls of different callers are no loop.
            match meter.reads_arguments() {
                true => charge(&mut KeyCount::default())?,
                false => charge(&mut lock(&table.overflow))?,
            }
            return Ok(CountId { key, caller_kind, is_overflow: true, epoch });
        }
        match shard.slots.get_mut(&key) {
            Some(slot) => charge(slot)?,
            None => {
                let mut slot = KeyCount::default();
                charge(&mut slot)?;
                if !meter.owes_nothing(slot, now) {
                    shard.slots.insert(key, slot);
                }
            }
        }
        Ok(CountId { key, caller_kind, is_overflow: false, epoch })
    }

    /// Changes a slot that was changed before, if it is still there, and drops it if it owes nothing any more. What a rate has
    /// counted before it changed is not given back: its time is that of the former rate.
    pub(super) fn give_back(
        &self,
        id: CountId,
        (meter, now): (Meter, ClockReading),
        change: impl FnOnce(&mut KeyCount),
    ) {
        if meter.is_rate() && self.epoch.load(Ordering::Relaxed) != id.epoch {
            return;
        }
        let table = self.table(id.caller_kind);
        if id.is_overflow {
            if !meter.reads_arguments() {
                change(&mut lock(&table.overflow));
            }
            return;
        }
        let mut shard = table.shard(id.key);
        let Some(slot) = shard.slots.get_mut(&id.key) else { return };
        change(slot);
        if meter.owes_nothing(*slot, now) {
            shard.slots.remove(&id.key);
        }
    }

    /// Counts a permit of a request again that goes on, whether or not there is room.
    pub(super) fn add(&self, id: CountId, amount: u64) {
        let table = self.table(id.caller_kind);
        if id.is_overflow {
            lock(&table.overflow).second += amount;
        } else {
            table.shard(id.key).slots.entry(id.key).or_default().second += amount;
        }
    }

    /// Gives `take` each slot with its key.
    pub(super) fn each_slot(&self, mut take: impl FnMut(u64, CallerKind, KeyCount)) {
        for caller_kind in [CallerKind::Authenticated, CallerKind::Unauthenticated] {
            for shard in &self.table(caller_kind).shards {
                lock(shard).slots.iter().for_each(|(key, slot)| take(*key, caller_kind, *slot));
            }
        }
    }

    /// Puts the slot of a key in its place, if there is room and it has none yet.
    pub(super) fn put(&self, key: u64, caller_kind: CallerKind, slot: KeyCount) {
        let table = self.table(caller_kind);
        let mut shard = table.shard(key);
        if shard.slots.len() < table.most.load(Ordering::Relaxed) {
            shard.slots.entry(key).or_insert(slot);
        }
    }

    /// Keys that are counted now.
    pub fn keys(&self) -> usize {
        self.tables().flat_map(|table| &table.shards).map(|shard| lock(shard).slots.len()).sum()
    }

    /// Calls since this was last asked whose key found no room: they share one count.
    pub fn take_overflowed(&self) -> u64 {
        self.tables().map(|table| table.overflowed.swap(0, Ordering::Relaxed)).sum()
    }

    pub(super) fn note_nearly_spent(&self, key: impl FnOnce() -> String) {
        let mut nearly_spent = lock(&self.nearly_spent);
        match nearly_spent.0.len() < MOST_NAMED {
            true => nearly_spent.0.push(key()),
            false => nearly_spent.1 += 1,
        }
    }

    /// The keys since this was last asked whose budget was spent by four fifths, and how many there were beside those.
    pub fn take_nearly_spent(&self) -> (Vec<String>, u64) {
        std::mem::take(&mut *lock(&self.nearly_spent))
    }

    pub(super) fn note(&self, outcome: RuleOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls with each outcome since this was last asked.
    pub fn take_outcomes(&self) -> [(RuleOutcome, u64); RuleOutcome::ALL.len()] {
        RuleOutcome::ALL.map(|outcome| (outcome, self.outcomes[outcome as usize].swap(0, Ordering::Relaxed)))
    }
}

impl KeyTable {
    fn new(most: usize) -> KeyTable {
        KeyTable {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            most: AtomicUsize::new(KeyTable::most_of(most)),
            overflow: Mutex::default(),
            overflowed: AtomicU64::new(0),
        }
    }

    fn most_of(keys: usize) -> usize {
        keys.div_ceil(SHARDS).max(1)
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        // A map takes the lowest bits and the highest seven for itself.
        lock(&self.shards[usize::from(key.to_be_bytes()[1]) % SHARDS])
    }

    fn note_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// True if a key has a slot in its shard, or would get one.
    fn has_room(&self, shard: &mut Shard, key: u64, (meter, now): (Meter, ClockReading)) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if shard.slots.len() < most || shard.slots.contains_key(&key) {
            return true;
        }
        shard.sweep_at_times(meter, now);
        shard.slots.len() < most
    }

    fn sweep(&self, meter: Meter, now: ClockReading) {
        self.shards.iter().for_each(|shard| lock(shard).sweep(meter, now));
    }
}

impl Shard {
    /// Whoever fills the table with new keys does not have it searched for each of them.
    fn sweep_at_times(&mut self, meter: Meter, now: ClockReading) {
        if now.monotonic_ns >= self.swept_ns.saturating_add(SWEEP_NS) || self.swept_ns == 0 {
            self.sweep(meter, now);
        }
    }

    fn sweep(&mut self, meter: Meter, now: ClockReading) {
        self.swept_ns = now.monotonic_ns.max(1);
        self.slots.retain(|_, slot| !meter.owes_nothing(*slot, now));
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to_fit();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
