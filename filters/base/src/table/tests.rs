use super::*;
use crate::{Clock, ManualClock};
use std::sync::Arc;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TERM: Term = Term { idle: Duration::from_secs(1800), until: DAY };

fn by(last: u8) -> Holding {
    Holding { owner: Owner::at([10, 0, 0, last].into()), weight: 1 }
}

/// Puts one in; gives what was displaced.
fn put<K: Hash + Eq + Clone, V>(
    table: &Table<K, V>,
    (key, value): (K, V),
    holding: Holding,
    clock: &ManualClock,
) -> Vec<V> {
    let inserted = table.insert(key, value, holding, (TERM, clock.now()));
    assert!(inserted.replaced.is_none());
    inserted.displaced
}

fn add<K: Hash + Eq + Clone, V>(table: &Table<K, V>, key: K, value: V, clock: &ManualClock) {
    assert!(put(table, (key, value), by(1), clock).is_empty());
}

#[test]
fn an_entry_ends_when_it_was_idle_and_at_its_own_end() {
    let (table, clock) = (Table::new(10), ManualClock::default());
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
fn of_one_owner_the_idlest_makes_room() {
    let (table, clock) = (Table::new(100), ManualClock::default());
    for key in 0..100 {
        add(&table, key, key, &clock);
        clock.advance(Duration::from_secs(1));
    }
    table.get(&0, clock.now());
    clock.advance(Duration::from_secs(1));
    assert_eq!(put(&table, (100, 100), by(1), &clock), [1]);
    assert_eq!(put(&table, (101, 101), by(1), &clock), [2]);
    let again = table.insert(101, 102, by(1), (TERM, clock.now()));
    assert_eq!(again, Inserted { replaced: Some(101), displaced: Vec::new() });
    assert_eq!(table.len(), 100);
}

#[test]
fn the_fullest_makes_room_and_nobody_else() {
    let (table, clock) = (Table::new(10), ManualClock::default());
    for other in 2..=3 {
        assert!(put(&table, (u32::from(other), other), by(other), &clock).is_empty());
        clock.advance(MINUTE);
    }
    for key in 0..1000 {
        let displaced = put(&table, (100 + key, 1), by(1), &clock);
        assert!(displaced.iter().all(|owner| *owner == 1), "{key}");
    }
    assert_eq!((table.get(&2, clock.now()), table.get(&3, clock.now())), (Some(2), Some(3)));
    assert_eq!(put(&table, (4, 4), by(4), &clock), [1], "a newcomer has room");
    assert_eq!(table.len(), 10);
}

#[test]
fn of_those_who_hold_as_little_the_idlest_of_all_makes_room() {
    let (table, clock) = (Table::new(3), ManualClock::default());
    for owner in 1..=3 {
        assert!(put(&table, (owner, owner), by(owner), &clock).is_empty());
        clock.advance(MINUTE);
    }
    table.get(&1, clock.now());
    assert_eq!(put(&table, (4, 4), by(4), &clock), [2]);
    assert_eq!(put(&table, (5, 5), by(5), &clock), [3]);
}

#[test]
fn who_keeps_much_text_counts_as_several() {
    let (table, clock) = (Table::new(10), ManualClock::default());
    let heavy = Holding { weight: weight_of(4 * BYTES_PER_ENTRY), ..by(1) };
    assert_eq!((weight_of(0), weight_of(100), heavy.weight), (1, 1, 5));
    assert!(put(&table, (1, 1), heavy, &clock).is_empty());
    assert!(put(&table, (2, 1), heavy, &clock).is_empty());
    assert_eq!(put(&table, (3, 1), heavy, &clock), [1]);
    assert_eq!(put(&table, (4, 2), by(2), &clock), [1], "the fullest by what it keeps");
    assert_eq!(table.len(), 2);
    (0..5).for_each(|key| assert!(put(&table, (10 + key, 3), by(3 + key), &clock).len() <= 1));
}

#[test]
fn a_table_without_room_keeps_the_newest() {
    let (table, clock) = (Table::new(1), ManualClock::default());
    add(&table, 1, "old", &clock);
    assert_eq!(put(&table, (2, "new"), by(1), &clock), ["old"]);
    assert_eq!(put(&table, (3, "newer"), by(2), &clock), ["new"]);
    assert_eq!(table.get(&3, clock.now()), Some("newer"));
}

#[test]
fn many_at_once_do_not_pass_the_bound() {
    let (table, clock) = (Arc::new(Table::new(50)), Arc::new(ManualClock::default()));
    let fill = |worker: u8| {
        let (table, clock) = (Arc::clone(&table), Arc::clone(&clock));
        std::thread::spawn(move || {
            let new = |key| put(&table, ((worker, key), ()), by(worker), &clock).len();
            (0..100).map(new).sum::<usize>()
        })
    };
    let workers: Vec<_> = (0..4).map(fill).collect();
    let displaced: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert_eq!((displaced, table.len()), (350, 50));
}

#[test]
fn sessions_that_nobody_deletes_leave_nothing_behind() {
    let (table, clock) = (Table::new(100_000), ManualClock::default());
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
    assert!(lock(&table.owners).held.is_empty() && lock(&table.owners).fullest.is_empty());
}

#[test]
fn owners_end_many_at_once() {
    let (table, clock) = (Table::new(10), ManualClock::default());
    (0..10).for_each(|key| add(&table, key, key % 2, &clock));
    assert_eq!(table.remove_where(|_, value| *value == 1).len(), 5);
    assert_eq!(table.len(), 5);
}
