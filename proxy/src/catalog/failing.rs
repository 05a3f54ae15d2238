//! Upstreams that could not be asked: everybody is told at once, and one asks again, less and less
//! often.

use crate::forward::Failure;
use portunus_config::UpstreamKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Upstreams that are remembered.
const MAX_UPSTREAMS: usize = 10_000;

/// How long after how many failures in a row the next attempt may be.
pub(super) fn delay(failures: u32) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(MAX_DELAY)
}

/// Upstreams that failed for everybody when they were last asked.
#[derive(Default)]
pub(super) struct Failing(Mutex<HashMap<UpstreamKey, Down>>);

struct Down {
    failure: Arc<Failure>,
    failures: u32,
    retry_at: Duration,
}

impl Failing {
    /// Why an upstream is not asked in anybody's presence.
    pub(super) fn failure(&self, upstream: UpstreamKey) -> Option<Arc<Failure>> {
        self.lock().get(&upstream).map(|down| Arc::clone(&down.failure))
    }

    /// Whether it is time to ask again; yes to one of all who ask.
    pub(super) fn take_turn(&self, upstream: UpstreamKey, now: Duration) -> bool {
        match self.lock().get_mut(&upstream) {
            Some(down) if now >= down.retry_at => {
                down.retry_at = now + delay(down.failures);
                true
            }
            _ => false,
        }
    }

    pub(super) fn failed(&self, upstream: UpstreamKey, now: Duration, failure: &Arc<Failure>) {
        let mut all = self.lock();
        if all.len() >= MAX_UPSTREAMS {
            all.clear();
        }
        let failures = all.get(&upstream).map_or(1, |down| down.failures.saturating_add(1));
        let wait = failure.denial.retry_after().unwrap_or_default().max(delay(failures));
        all.insert(upstream, Down { failure: Arc::clone(failure), failures, retry_at: now + wait });
    }

    pub(super) fn recovered(&self, upstream: UpstreamKey) {
        self.lock().remove(&upstream);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UpstreamKey, Down>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rare() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 8, u32::MAX].map(|n| delay(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }
}
