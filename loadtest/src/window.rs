//! When calls are due, and which of them are measured.

use std::time::{Duration, Instant};

/// What decides when a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// A fixed rate, whatever the answers take.
    Open {
        /// Calls a second; at least 1.
        rate: u32,
    },
    /// The answer to the call before.
    Closed,
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Load that is not measured, at the start.
    pub(crate) warm_up: Duration,
    /// Load that is.
    pub(crate) length: Duration,
}

/// The calls of a run in their order.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    start: Instant,
    /// From here on calls are measured.
    pub(crate) measured_from: Instant,
    /// From here on no call is due.
    pub(crate) end: Instant,
    /// Calls of an open loop.
    total: u64,
    next: u64,
}

impl Schedule {
    /// Begins at `start`.
    pub(crate) fn new(pace: Pace, window: Window, start: Instant) -> Schedule {
        let whole = window.warm_up + window.length;
        let total = match pace {
            Pace::Open { rate } => u64::try_from(whole.as_nanos() * u128::from(rate) / 1_000_000_000),
            Pace::Closed => Ok(u64::MAX),
        };
        Schedule {
            pace,
            start,
            measured_from: start + window.warm_up,
            end: start + whole,
            total: total.unwrap_or(u64::MAX),
            next: 0,
        }
    }

    /// Takes the next call, if it is due, with its intended start.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due()?;
        let intended = match self.pace {
            Pace::Open { .. } if due > now => return None,
            Pace::Open { .. } => due,
            Pace::Closed if now >= self.end => return None,
            Pace::Closed => now,
        };
        let number = self.next;
        self.next += 1;
        Some((number, intended))
    }

    /// When the next call is due; none if it was the last.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.pace {
            _ if self.next >= self.total => None,
            Pace::Open { rate } => {
                let nanos = u128::from(self.next) * 1_000_000_000 / u128::from(rate);
                Some(self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
            }
            Pace::Closed => Some(self.start),
        }
    }

    /// Calls that were due and not taken, of an open loop.
    pub(crate) fn left(&self) -> u64 {
        match self.pace {
            Pace::Open { .. } => self.total - self.next,
            Pace::Closed => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { warm_up: Duration::from_secs(1), length: Duration::from_secs(2) };

    #[test]
    fn an_open_loop_makes_each_call_at_its_time_however_late_it_is_asked() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Open { rate: 4 }, WINDOW, start);
        assert_eq!(schedule.take(start), Some((0, start)));
        assert_eq!(schedule.take(start + Duration::from_millis(249)), None);
        let late = start + Duration::from_secs(60);
        for number in 1..12 {
            let intended = start + Duration::from_millis(250) * u32::try_from(number).unwrap();
            assert_eq!(schedule.take(late), Some((number, intended)));
        }
        assert_eq!((schedule.take(late), schedule.next_due(), schedule.left()), (None, None, 0));
    }

    #[test]
    fn a_closed_loop_calls_until_its_end() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Closed, WINDOW, start);
        let within = start + Duration::from_millis(2_999);
        assert_eq!(schedule.take(within), Some((0, within)));
        assert_eq!(schedule.take(start + Duration::from_secs(3)), None);
    }
}
