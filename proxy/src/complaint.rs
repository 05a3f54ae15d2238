//! Counts what goes wrong often, for one line of the log a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(60);

/// Something that goes wrong, and when the log last said so.
#[derive(Debug, Default)]
pub struct Complaint {
    count: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Complaint {
    /// Counts what went wrong.
    pub fn add(&self, times: u64) {
        self.count.fetch_add(times, Ordering::Relaxed);
    }

    /// How often it went wrong since the last line, if the next one is due.
    pub fn due(&self, now: Instant) -> Option<u64> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| now < told + EVERY) {
            return None;
        }
        *told = Some(now);
        Some(self.count.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_rest_once_a_minute() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        assert_eq!(complaint.due(start), None);
        complaint.add(2);
        assert_eq!(complaint.due(start), Some(2));
        complaint.add(3);
        assert_eq!(complaint.due(start + EVERY / 2), None);
        complaint.add(1);
        assert_eq!(complaint.due(start + EVERY), Some(4));
        assert_eq!(complaint.due(start + 3 * EVERY), None);
    }
}
