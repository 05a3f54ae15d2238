//! Time as an argument.
//!
//! Everything that decides by time takes a [`Clock`] or a [`Moment`], so a test moves time by hand
//! and a decision never depends on when it happens to run. I/O deadlines are not decisions: they
//! use the runtime's timers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Time since an arbitrary start; never goes backwards.
    pub monotonic: Duration,
    /// Time since the Unix epoch, as the machine believes it.
    pub wall: Duration,
}

/// Where time is read.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn now(&self) -> Moment;
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed_ns: AtomicU64,
}

impl ManualClock {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let elapsed = Duration::from_nanos(self.elapsed_ns.load(Ordering::Relaxed));
        Moment { monotonic: elapsed, wall: elapsed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::default();
        let before = clock.now();
        assert_eq!(before, clock.now());
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.now().monotonic - before.monotonic, Duration::from_secs(3));
    }
}
