//! Bounded tables of what outlives a message, such as sessions and assertions.
//!
//! An entry ends when its owner removes it, when it was idle for too long, or at its own end. Time is
//! an argument: reading never gives out what has ended, and [`Table::sweep`] hands it to its owner,
//! who may have to tell somebody. Nothing here runs by itself.
//!
//! In a full table the fullest caller's own idlest entry makes room, so that nobody can push out
//! another by asking for more. Entries that hold much text count as several, see [`weight_of`].

use crate::{Moment, Owner};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::mem::size_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts with a lock each, so that workers seldom wait for one another.
const SHARDS: usize = 16;

/// Bytes of a stranger's text that count as one entry more.
const BYTES_PER_ENTRY: usize = 4096;

/// As how many entries one counts that keeps so many bytes of what a stranger chose.
pub fn weight_of(bytes: usize) -> usize {
    1 + bytes / BYTES_PER_ENTRY
}

/// A map of at most so many entries, each with a [`Term`].
pub struct Table<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    owners: Mutex<Owners>,
    len: AtomicUsize,
    capacity: AtomicUsize,
}

/// How long an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// It ends when nobody asked for it for this long.
    pub idle: Duration,
    /// It ends then, on the monotonic clock, however often it is asked for.
    pub until: Duration,
}

/// For whom an entry is counted, and as how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The caller.
    pub owner: Owner,
    /// At least one, see [`weight_of`].
    pub weight: usize,
}

/// What an insertion did.
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<V> {
    /// The key had this value before.
    pub replaced: Option<V>,
    /// These made room; their owner has to end them.
    pub displaced: Vec<V>,
}

/// How much each owner holds, and who holds most.
#[derive(Default)]
struct Owners {
    held: HashMap<Owner, usize>,
    fullest: BTreeSet<(usize, Owner)>,
    total: usize,
}

struct Shard<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by the turn of their last use: the idlest first.
    order: BTreeMap<u64, K>,
    /// The same by owner.
    by_owner: BTreeMap<(Owner, u64), K>,
    turns: u64,
}

struct Entry<V> {
    value: V,
    holding: Holding,
    term: Term,
    last_used: Duration,
    turn: u64,
}

impl<V> Entry<V> {
    fn is_over(&self, now: Duration) -> bool {
        now >= self.term.until || now.saturating_sub(self.last_used) >= self.term.idle
    }
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    /// An empty table for at most `capacity` entries.
    pub fn new(capacity: usize) -> Table<K, V> {
        let shards = std::array::from_fn(|_| Mutex::new(Shard::default()));
        Table {
            shards,
            hasher: RandomState::new(),
            owners: Mutex::default(),
            len: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
        }
    }

    /// Another bound from now on. What is above it stays until it ends, or makes room.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Puts `value` under `key`; in a full table the fullest owner's idlest makes room.
    #[must_use = "what was displaced has to be ended"]
    pub fn insert(&self, key: K, value: V, holding: Holding, (term, now): (Term, Moment)) -> Inserted<V> {
        let entry = Entry { value, holding, term, last_used: now.monotonic, turn: 0 };
        // Counted before it is there, since another may take it out as soon as it is.
        lock(&self.owners).add(holding);
        self.len.fetch_add(1, Ordering::Relaxed);
        let before = self.shard(&key).put(key.clone(), entry);
        let replaced = before.map(|before| self.gone(before));
        let mut displaced = Vec::new();
        while let Some(owner) = self.to_displace(&key) {
            match self.displace(&key, owner) {
                Some(entry) => displaced.push(self.gone(entry)),
                // Its owner has taken it out meanwhile.
                None if owner.is_some() => {}
                None => break,
            }
        }
        Inserted { replaced, displaced }
    }

    /// The value under `key`, unless it has ended; it is no longer idle.
    pub fn get(&self, key: &K, now: Moment) -> Option<V>
    where
        V: Clone,
    {
        self.shard(key).touch(key, now.monotonic).cloned()
    }

    /// Takes the value under `key` out, ended or not.
    pub fn remove(&self, key: &K) -> Option<V> {
        let entry = self.shard(key).take(key)?;
        Some(self.gone(entry))
    }

    /// Takes out everything that `is_meant`, for owners that end many at once.
    pub fn remove_where(&self, is_meant: impl Fn(&K, &V) -> bool) -> Vec<V> {
        self.drain(|key, entry| is_meant(key, &entry.value))
    }

    /// Takes out everything that has ended at `now`, and gives its memory back.
    pub fn sweep(&self, now: Moment) -> Vec<V> {
        self.drain(|_, entry| entry.is_over(now.monotonic))
    }

    /// Number of entries, those that have ended and were not swept yet included.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes the table holds; `weigh` says what a value holds beside itself.
    pub fn bytes(&self, weigh: impl Fn(&K, &V) -> usize) -> usize {
        let sum = |shard: &Mutex<Shard<K, V>>| {
            let shard = lock(shard);
            let values: usize = shard.entries.iter().map(|(key, entry)| weigh(key, &entry.value)).sum();
            let slots = shard.entries.capacity() * (size_of::<(K, Entry<V>)>() + 1);
            let orders = size_of::<(u64, K)>() + size_of::<((Owner, u64), K)>();
            values + slots + shard.order.len() * orders
        };
        self.shards.iter().map(sum).sum()
    }

    fn drain(&self, is_meant: impl Fn(&K, &Entry<V>) -> bool) -> Vec<V> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let meant = shard.entries.iter().filter(|(key, entry)| is_meant(key, entry));
            let meant: Vec<K> = meant.map(|(key, _)| key.clone()).collect();
            taken.extend(meant.iter().filter_map(|key| shard.take(key)));
            shard.shrink();
        }
        taken.into_iter().map(|entry| self.gone(entry)).collect()
    }

    /// Counts an entry that was taken out, and gives its value.
    fn gone(&self, entry: Entry<V>) -> V {
        lock(&self.owners).subtract(entry.holding);
        self.len.fetch_sub(1, Ordering::Relaxed);
        entry.value
    }

    /// Whose entry has to make room, if one has: of those who hold as little as one can, anybody's.
    fn to_displace(&self, newcomer: &K) -> Option<Option<Owner>> {
        let fullest: Vec<(usize, Owner)> = {
            let owners = lock(&self.owners);
            if owners.total <= self.capacity.load(Ordering::Relaxed) {
                return None;
            }
            owners.fullest.iter().rev().take(2).copied().collect()
        };
        // Who holds nothing but the entry that makes it necessary has none to give.
        let has_other = |(_, owner): &&(usize, Owner)| {
            self.shards.iter().any(|shard| lock(shard).idlest_of(*owner, newcomer).is_some())
        };
        let found = fullest.iter().find(has_other).filter(|(held, _)| *held > 1);
        Some(found.map(|(_, owner)| *owner))
    }

    /// Takes the idlest entry out, of one owner or of all; never the one that makes it necessary.
    fn displace(&self, newcomer: &K, owner: Option<Owner>) -> Option<Entry<V>> {
        let idlest = |shard: &Shard<K, V>| match owner {
            Some(owner) => shard.idlest_of(owner, newcomer),
            None => shard.idlest_but(newcomer),
        };
        let since = |shard: &Mutex<Shard<K, V>>| idlest(&lock(shard)).map(|(since, _)| since);
        let found = self.shards.iter().filter_map(|shard| Some((since(shard)?, shard)));
        let (_, shard) = found.min_by_key(|(since, _)| *since)?;
        let mut shard = lock(shard);
        // Looked up again: it may have been used or have gone while the others were looked at.
        let (_, key) = idlest(&shard)?;
        shard.take(&key)
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let hash = self.hasher.hash_one(key).to_le_bytes();
        lock(&self.shards[usize::from(hash[0]) % SHARDS])
    }
}

impl Owners {
    fn add(&mut self, Holding { owner, weight }: Holding) {
        self.total += weight;
        self.set(owner, |held| held + weight);
    }

    fn subtract(&mut self, Holding { owner, weight }: Holding) {
        self.total = self.total.saturating_sub(weight);
        self.set(owner, |held| held.saturating_sub(weight));
    }

    fn set(&mut self, owner: Owner, change: impl FnOnce(usize) -> usize) {
        let before = self.held.get(&owner).copied().unwrap_or_default();
        self.fullest.remove(&(before, owner));
        match change(before) {
            0 => drop(self.held.remove(&owner)),
            after => {
                self.held.insert(owner, after);
                self.fullest.insert((after, owner));
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V> Shard<K, V> {
    fn put(&mut self, key: K, mut entry: Entry<V>) -> Option<Entry<V>> {
        let turn = self.next_turn();
        entry.turn = turn;
        let before = self.take(&key);
        self.order.insert(turn, key.clone());
        self.by_owner.insert((entry.holding.owner, turn), key.clone());
        self.entries.insert(key, entry);
        before
    }

    fn touch(&mut self, key: &K, now: Duration) -> Option<&V> {
        let turn = self.next_turn();
        let entry = self.entries.get_mut(key).filter(|entry| !entry.is_over(now))?;
        if let Some(key) = self.order.remove(&entry.turn) {
            self.order.insert(turn, key);
        }
        let owner = entry.holding.owner;
        if let Some(key) = self.by_owner.remove(&(owner, entry.turn)) {
            self.by_owner.insert((owner, turn), key);
        }
        entry.turn = turn;
        entry.last_used = now;
        Some(&entry.value)
    }

    fn take(&mut self, key: &K) -> Option<Entry<V>> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.turn);
        self.by_owner.remove(&(entry.holding.owner, entry.turn));
        Some(entry)
    }

    /// When the idlest entry was used last, and its key.
    fn idlest_but(&self, newcomer: &K) -> Option<(Duration, K)> {
        self.used(self.order.values().find(|key| **key != *newcomer)?)
    }

    /// The same of one owner's entries.
    fn idlest_of(&self, owner: Owner, newcomer: &K) -> Option<(Duration, K)> {
        let mut own = self.by_owner.range((owner, 0)..=(owner, u64::MAX));
        self.used(own.find(|(_, key)| **key != *newcomer)?.1)
    }

    fn used(&self, key: &K) -> Option<(Duration, K)> {
        Some((self.entries.get(key)?.last_used, key.clone()))
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Room for twice of what is there is kept, so that a table that breathes does not move each time.
    fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }
}

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Shard { entries: HashMap::new(), order: BTreeMap::new(), by_owner: BTreeMap::new(), turns: 0 }
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
