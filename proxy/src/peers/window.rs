//! Which messages of other replicas were taken: each may be taken once.
//!
//! A replica counts what it sends to another, each kind by itself, and the other keeps a sliding window
//! of what it has taken of each run of it. So no replica, and no caller of one, can fill a table in which
//! others need room, and a window holds as long as an assertion is valid.

use super::assertion::VALID;
use super::receive::{Verdict, in_time};
use crate::sealing::Home;
use portunus_filters::Moment;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How far behind the newest a message may come: 8 KiB a window.
const WIDTH: u64 = 1 << 16;

/// Runs of replicas that are remembered, each with a window a kind.
const MAX_WINDOWS: usize = 4096;

/// What a message is; a flood of one kind leaves the others alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MessageKind {
    /// A client's request.
    Relay,
    /// Sessions that have ended.
    News,
    /// Nothing: whether it is taken tells whether somebody is there.
    Pulse,
}

/// The numbers that were given to messages for one replica.
#[derive(Default)]
pub(super) struct Numbers([AtomicU64; 3]);

impl Numbers {
    /// The number of the next message of a kind, from 1.
    pub(super) fn next(&self, kind: MessageKind) -> u64 {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What was taken of each run of each replica.
#[derive(Default)]
pub(super) struct Windows(Mutex<HashMap<(Home, MessageKind), Window>>);

struct Window {
    newest: u64,
    /// A bit for each of the last [`WIDTH`] numbers, at its remainder.
    taken: Box<[u64]>,
    until: Duration,
}

impl Windows {
    /// Takes a message that was sent at `issued`, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Verdict::Expired`]; [`Verdict::Repeated`]; [`Verdict::Busy`] if so many newer ones were taken that
    /// nobody knows.
    pub(super) fn take(
        &self,
        (from, kind): (&Home, MessageKind),
        number: u64,
        issued: u64,
        now: Moment,
    ) -> Result<(), Verdict> {
        in_time(issued, now)?;
        let mut windows = self.lock();
        let key = (from.clone(), kind);
        if windows.len() >= MAX_WINDOWS && !windows.contains_key(&key) {
            return Err(Verdict::Busy);
        }
        let window = windows.entry(key).or_insert_with(Window::new);
        // From the other clock's earliest to its latest moment, and the rest of a second.
        window.until = now.monotonic + 2 * VALID + Duration::from_secs(1);
        window.take(number)
    }

    /// Forgets runs of which nothing came for so long that all they ever sent has expired.
    pub(super) fn sweep(&self, now: Moment) {
        self.lock().retain(|_, window| now.monotonic < window.until);
    }

    #[cfg(test)]
    pub(super) fn newest(&self, from: &Home, kind: MessageKind) -> Option<u64> {
        self.lock().get(&(from.clone(), kind)).map(|window| window.newest)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Home, MessageKind), Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn new() -> Window {
        let words = usize::try_from(WIDTH / 64).unwrap_or_default();
        Window { newest: 0, taken: vec![0; words].into(), until: Duration::ZERO }
    }

    fn take(&mut self, number: u64) -> Result<(), Verdict> {
        if self.newest.saturating_sub(number) >= WIDTH {
            return Err(Verdict::Busy);
        }
        if number > self.newest {
            // What the window slides over is no longer known.
            let first = self.newest.max(number.saturating_sub(WIDTH)) + 1;
            (first..=number).for_each(|passed| self.set(passed, false));
            self.newest = number;
        }
        if self.is_set(number) {
            return Err(Verdict::Repeated);
        }
        self.set(number, true);
        Ok(())
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.taken.get(word).is_some_and(|word| word & bit != 0)
    }

    fn set(&mut self, number: u64, taken: bool) {
        let (word, bit) = place(number);
        if let Some(word) = self.taken.get_mut(word) {
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WIDTH;
    (usize::try_from(at / 64).unwrap_or_default(), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::{Clock, ManualClock};

    fn home(name: &str, boot: u32) -> Home {
        Home::new(name.into(), boot).unwrap()
    }

    #[test]
    fn a_number_is_taken_once_in_any_order() {
        let mut window = Window::new();
        for number in [1, 3, 2, 70_000, 69_999, 5_000] {
            assert_eq!(window.take(number), Ok(()), "{number}");
            assert_eq!(window.take(number), Err(Verdict::Repeated), "{number}");
        }
        assert_eq!(window.take(4_464), Err(Verdict::Busy), "behind the window");
        assert_eq!(window.take(4_465), Ok(()));
        assert_eq!(window.take(u64::MAX), Ok(()));
        assert_eq!(window.take(u64::MAX), Err(Verdict::Repeated));
        assert_eq!(window.take(70_000), Err(Verdict::Busy));
    }

    #[test]
    fn many_messages_of_one_run_and_kind_leave_room_for_all_others() {
        let (windows, clock) = (Windows::default(), ManualClock::default());
        let issued = clock.now().wall.as_secs();
        let take = |home: &Home, kind, number| windows.take((home, kind), number, issued, clock.now());
        let (one, again, other) = (home("a", 1), home("a", 2), home("b", 1));
        for number in 1..=200_000 {
            assert_eq!(take(&one, MessageKind::Relay, number), Ok(()), "{number}");
        }
        for (home, kind) in [
            (&one, MessageKind::Relay),
            (&one, MessageKind::News),
            (&one, MessageKind::Pulse),
            (&again, MessageKind::Relay),
            (&other, MessageKind::Relay),
        ] {
            assert_eq!(take(home, kind, 200_001), Ok(()), "{kind:?}");
            assert_eq!(take(home, kind, 200_001), Err(Verdict::Repeated), "{kind:?}");
        }
    }

    #[test]
    fn a_window_lasts_as_long_as_what_was_sent_is_valid() {
        let (windows, clock) = (Windows::default(), ManualClock::default());
        let (from, issued) = (home("a", 1), clock.now().wall.as_secs() + 30);
        let take = || windows.take((&from, MessageKind::Relay), 1, issued, clock.now());
        assert_eq!(take(), Ok(()));
        for _ in 0..60 {
            clock.advance(Duration::from_secs(1));
            windows.sweep(clock.now());
            assert_eq!(take(), Err(Verdict::Repeated));
        }
        clock.advance(Duration::from_secs(61));
        windows.sweep(clock.now());
        assert_eq!((take(), windows.lock().len()), (Err(Verdict::Expired), 0));
    }
}
