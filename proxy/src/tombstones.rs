//! Sessions that have ended before their time, so that no replica brings them back to life.
//!
//! The ids of sessions say everything that a replica needs to serve them; that one was deleted is the
//! one thing they cannot say. Memory is taken once: beyond the bound the tombstone that was set first
//! is forgotten, and [`Tombstones::set`] says so.

use portunus_filters::Moment;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The number of a session.
pub type SessionNumber = [u8; 16];

/// A set of at most so many ended sessions, each kept until its id would have expired anyway.
pub struct Tombstones {
    graves: Mutex<Graves>,
}

struct Graves {
    until: HashMap<SessionNumber, Duration>,
    /// In the order in which they were set.
    order: VecDeque<SessionNumber>,
    capacity: usize,
}

impl Tombstones {
    /// Ended sessions that a process remembers.
    pub const CAPACITY: usize = 100_000;

    /// An empty set with room for `capacity`, at no more than 120 bytes each.
    pub fn new(capacity: usize) -> Tombstones {
        // With twice the room the map never grows for the slots that removals leave behind.
        let (until, order) = (HashMap::with_capacity(2 * capacity), VecDeque::with_capacity(capacity));
        Tombstones { graves: Mutex::new(Graves { until, order, capacity }) }
    }

    /// Notes that a session has ended; `until`, on the wall clock, its id expires. Gives whether the
    /// oldest one was forgotten for it.
    pub fn set(&self, session: SessionNumber, until: Duration) -> bool {
        let mut graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = graves.until.get_mut(&session) {
            *known = until.max(*known);
            return false;
        }
        let is_full = graves.order.len() >= graves.capacity;
        if is_full && let Some(oldest) = graves.order.pop_front() {
            graves.until.remove(&oldest);
        }
        graves.until.insert(session, until);
        graves.order.push_back(session);
        is_full
    }

    /// Whether a session has ended.
    pub fn is_set(&self, session: &SessionNumber) -> bool {
        self.graves.lock().unwrap_or_else(PoisonError::into_inner).until.contains_key(session)
    }

    /// Every session in the set, in the order in which they were set.
    pub fn all(&self) -> Vec<(SessionNumber, Duration)> {
        let graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        let grave = |session: &SessionNumber| Some((*session, *graves.until.get(session)?));
        graves.order.iter().filter_map(grave).collect()
    }

    /// Forgets the sessions whose ids have expired at `now`.
    pub fn sweep(&self, now: Moment) {
        let mut graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        let Graves { until, order, .. } = &mut *graves;
        until.retain(|_, until| *until > now.wall);
        order.retain(|session| until.contains_key(session));
    }

    /// Number of sessions in the set.
    pub fn len(&self) -> usize {
        self.graves.lock().unwrap_or_else(PoisonError::into_inner).order.len()
    }

    /// Whether no session is in the set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Tombstones {
    fn default() -> Self {
        Tombstones::new(Tombstones::CAPACITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::Clock;
    use portunus_filters::ManualClock;

    fn session(number: u32) -> SessionNumber {
        u128::from(number).to_be_bytes()
    }

    #[test]
    fn an_ended_session_stays_ended_until_its_id_expires() {
        let (ended, clock) = (Tombstones::new(10), ManualClock::default());
        assert!(!ended.set(session(1), Duration::from_secs(10)));
        // Both replicas may say so, the later expiry counts.
        assert!(!ended.set(session(1), Duration::from_secs(20)));
        assert!(!ended.set(session(1), Duration::from_secs(5)));
        assert!(ended.is_set(&session(1)) && !ended.is_set(&session(2)));
        clock.advance(Duration::from_secs(19));
        ended.sweep(clock.now());
        assert!(ended.is_set(&session(1)));
        clock.advance(Duration::from_secs(1));
        ended.sweep(clock.now());
        assert!(!ended.is_set(&session(1)) && ended.is_empty());
    }

    #[test]
    fn memory_is_taken_once() {
        let ended = Tombstones::new(1_000);
        let room = |ended: &Tombstones| {
            let graves = ended.graves.lock().unwrap();
            (graves.until.capacity(), graves.order.capacity())
        };
        let (map, order) = room(&ended);
        for number in 0..50_000 {
            assert_eq!(ended.set(session(number), Duration::MAX), number >= 1_000);
            assert!(room(&ended).0 <= map && room(&ended).1 == order, "after {number}");
        }
        assert_eq!(ended.len(), 1_000);
        assert!(ended.is_set(&session(49_999)) && !ended.is_set(&session(48_999)));
    }
}
