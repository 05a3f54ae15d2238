//! Bounded tables of what outlives a message: sessions, legs, parked calls.
//!
//! An entry ends when its owner removes it, when it was idle for too long, or at its own end. Time is
//! an argument: reading never gives out what has ended, and [`Table::sweep`] hands it to its owner,
//! who may have to tell somebody. Nothing here runs by itself.

use portunus_filters::Moment;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::mem::size_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts with a lock each, so that workers seldom wait for one another.
const SHARDS: usize = 16;

/// A map of at most so many entries, each with a [`Term`].
pub struct Table<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    len: AtomicUsize,
    capacity: AtomicUsize,
    when_full: WhenFull,
}

/// What becomes of an insertion into a full table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The entry that was idle for longest makes room.
    DisplaceIdlest,
    /// The new entry is refused.
    Refuse,
}

/// How long an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// It ends when nobody asked for it for this long.
    pub idle: Duration,
    /// It ends then, on the monotonic clock, however often it is asked for.
    pub until: Duration,
}

/// What an insertion did.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted<K, V> {
    /// There is one entry more.
    Added,
    /// The key had this value before.
    Replaced(V),
    /// This entry made room; its owner has to end it.
    Displaced(K, V),
    /// The table is full; the value comes back.
    Refused(V),
}

struct Shard<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by the turn of their last use: the idlest first.
    order: BTreeMap<u64, K>,
    turns: u64,
}

struct Entry<V> {
    value: V,
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
    pub fn new(capacity: usize, when_full: WhenFull) -> Table<K, V> {
        let shards = std::array::from_fn(|_| Mutex::new(Shard::default()));
        Table {
            shards,
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
            when_full,
        }
    }

    /// Another bound from now on. What is above it stays until it ends, or makes room.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Puts `value` under `key`.
    #[must_use = "what was displaced has to be ended, and what was refused has no place"]
    pub fn insert(&self, key: K, value: V, term: Term, now: Moment) -> Inserted<K, V> {
        let now = now.monotonic;
        // Counted before it is there, so that many at once cannot pass the bound together.
        let is_full = self.len.fetch_add(1, Ordering::Relaxed) >= self.capacity.load(Ordering::Relaxed);
        let mut shard = self.shard(&key);
        if is_full && self.when_full == WhenFull::Refuse && !shard.entries.contains_key(&key) {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Inserted::Refused(value);
        }
        let before = shard.put(key.clone(), value, term, now);
        drop(shard);
        if let Some(before) = before {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Inserted::Replaced(before);
        }
        match is_full.then(|| self.displace(&key)).flatten() {
            Some((key, value)) => Inserted::Displaced(key, value),
            None => Inserted::Added,
        }
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
        let value = self.shard(key).take(key)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(value)
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
            values + slots + shard.order.len() * size_of::<(u64, K)>()
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
        self.len.fetch_sub(taken.len(), Ordering::Relaxed);
        taken
    }

    /// Takes the idlest entry out, which is never the one that makes it necessary.
    fn displace(&self, newcomer: &K) -> Option<(K, V)> {
        let idlest = |shard: &Mutex<Shard<K, V>>| lock(shard).idlest_but(newcomer).map(|(since, _)| since);
        let found = self.shards.iter().filter_map(|shard| Some((idlest(shard)?, shard)));
        let (_, shard) = found.min_by_key(|(since, _)| *since)?;
        let mut shard = lock(shard);
        // Looked up again: it may have been used or have gone while the others were looked at.
        let (_, key) = shard.idlest_but(newcomer)?;
        let value = shard.take(&key)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some((key, value))
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let hash = self.hasher.hash_one(key).to_le_bytes();
        lock(&self.shards[usize::from(hash[0]) % SHARDS])
    }
}

impl<K: Hash + Eq + Clone, V> Shard<K, V> {
    fn put(&mut self, key: K, value: V, term: Term, now: Duration) -> Option<V> {
        let turn = self.next_turn();
        self.order.insert(turn, key.clone());
        let before = self.entries.insert(key, Entry { value, term, last_used: now, turn })?;
        self.order.remove(&before.turn);
        Some(before.value)
    }

    fn touch(&mut self, key: &K, now: Duration) -> Option<&V> {
        let turn = self.next_turn();
        let entry = self.entries.get_mut(key).filter(|entry| !entry.is_over(now))?;
        if let Some(key) = self.order.remove(&entry.turn) {
            self.order.insert(turn, key);
        }
        entry.turn = turn;
        entry.last_used = now;
        Some(&entry.value)
    }

    fn take(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.turn);
        Some(entry.value)
    }

    /// When the idlest entry was used last, and its key.
    fn idlest_but(&self, newcomer: &K) -> Option<(Duration, K)> {
        let key = self.order.values().find(|key| **key != *newcomer)?;
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
        Shard { entries: HashMap::new(), order: BTreeMap::new(), turns: 0 }
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::Clock;
    use portunus_filters::clock::ManualClock;
    use std::sync::Arc;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const TERM: Term = Term { idle: Duration::from_secs(1800), until: DAY };

    fn add<K: Hash + Eq + Clone, V>(table: &Table<K, V>, key: K, value: V, clock: &ManualClock) {
        assert!(matches!(table.insert(key, value, TERM, clock.now()), Inserted::Added));
    }

    #[test]
    fn an_entry_ends_when_it_was_idle_and_at_its_own_end() {
        let (table, clock) = (Table::new(10, WhenFull::Refuse), ManualClock::default());
        add(&table, "used", 1, &clock);
        add(&table, "idle", 2, &clock);
        for _ in 0..29 {
            clock.advance(MINUTE);
            assert_eq!(table.get(&"used", clock.now()), Some(1));
        }
        assert!(table.sweep(clock.now()).is_empty());
        clock.advance(MINUTE);
        assert_eq!(table.get(&"idle", clock.now()), None);
        assert_eq!(table.sweep(clock.now()), [2]);
        while clock.now().monotonic + MINUTE < DAY {
            clock.advance(MINUTE);
            assert_eq!(table.get(&"used", clock.now()), Some(1));
        }
        clock.advance(MINUTE);
        assert_eq!(table.get(&"used", clock.now()), None);
        assert_eq!((table.sweep(clock.now()), table.len()), (vec![1], 0));
    }

    #[test]
    fn the_idlest_of_all_makes_room() {
        let (table, clock) = (Table::new(100, WhenFull::DisplaceIdlest), ManualClock::default());
        for key in 0..100 {
            add(&table, key, (), &clock);
            clock.advance(Duration::from_secs(1));
        }
        table.get(&0, clock.now());
        clock.advance(Duration::from_secs(1));
        let displaced = |key| table.insert(key, (), TERM, clock.now());
        assert_eq!(displaced(100), Inserted::Displaced(1, ()));
        assert_eq!(displaced(101), Inserted::Displaced(2, ()));
        assert_eq!(displaced(101), Inserted::Replaced(()));
        assert_eq!(table.len(), 100);
    }

    #[test]
    fn a_full_table_may_refuse_and_still_replaces() {
        let (table, clock) = (Table::new(1, WhenFull::Refuse), ManualClock::default());
        add(&table, "a", 1, &clock);
        assert_eq!(table.insert("b", 2, TERM, clock.now()), Inserted::Refused(2));
        assert_eq!(table.insert("a", 3, TERM, clock.now()), Inserted::Replaced(1));
        assert_eq!((table.remove(&"a"), table.remove(&"a"), table.len()), (Some(3), None, 0));
        add(&table, "b", 2, &clock);
    }

    #[test]
    fn a_table_without_room_keeps_the_newest() {
        let (table, clock) = (Table::new(1, WhenFull::DisplaceIdlest), ManualClock::default());
        add(&table, 1, "old", &clock);
        assert_eq!(table.insert(2, "new", TERM, clock.now()), Inserted::Displaced(1, "old"));
        assert_eq!(table.get(&2, clock.now()), Some("new"));
    }

    #[test]
    fn many_at_once_do_not_pass_the_bound() {
        let table = Arc::new(Table::new(50, WhenFull::Refuse));
        let clock = Arc::new(ManualClock::default());
        let fill = |worker: usize| {
            let (table, clock) = (Arc::clone(&table), Arc::clone(&clock));
            std::thread::spawn(move || {
                let new = |key| matches!(table.insert((worker, key), (), TERM, clock.now()), Inserted::Added);
                (0..100).filter(|key| new(*key)).count()
            })
        };
        let workers: Vec<_> = (0..4).map(fill).collect();
        let added: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!((added, table.len()), (50, 50));
    }

    #[test]
    fn sessions_that_nobody_deletes_leave_nothing_behind() {
        let (table, clock) = (Table::new(100_000, WhenFull::DisplaceIdlest), ManualClock::default());
        let weigh = |_: &u64, value: &Vec<u8>| value.capacity();
        let empty = table.bytes(weigh);
        let mut ended = 0;
        for session in 0..50_000_u64 {
            add(&table, session, vec![0; 200], &clock);
            if session % 100 == 99 {
                clock.advance(Duration::from_secs(10));
                ended += table.sweep(clock.now()).len();
            }
        }
        assert!(table.bytes(weigh) >= 200 * table.len() && table.len() < 20_000);
        clock.advance(DAY);
        ended += table.sweep(clock.now()).len();
        assert_eq!((ended, table.len(), table.bytes(weigh)), (50_000, 0, empty));
    }

    #[test]
    fn owners_end_many_at_once() {
        let (table, clock) = (Table::new(10, WhenFull::Refuse), ManualClock::default());
        (0..10).for_each(|key| add(&table, key, key % 2, &clock));
        assert_eq!(table.remove_where(|_, value| *value == 1).len(), 5);
        assert_eq!(table.len(), 5);
    }
}
