//! The real clock.

use portunus_filters::{Clock, Moment};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the machine's clocks; the monotonic one starts with the process.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else has to take")]
    fn now(&self) -> Moment {
        Moment {
            monotonic: self.started.elapsed(),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
        }
    }
}
