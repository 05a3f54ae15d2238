//! Upstreams that could not be asked: everybody is told at once, and one asks again, less and less
//! often. Whoever is answered meanwhile, by whatever, ends that for all.

use crate::backend::forward::Failure;
use crate::backend::upstreams::monitor::{Answers, Pause};
use portunus_config::UpstreamKey;
use portunus_filters::Reason;
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

/// The same after a failure. A server that takes no more requests is given the time that it names, within
/// bounds; when one that is unavailable wants to see clients again says nothing of when it is back.
pub(super) fn delay_after(failure: &Failure, failures: u32) -> Duration {
    let is_limited = failure.denial.reason == Reason::UpstreamLimited;
    let named = failure.denial.retry_after().filter(|_| is_limited).unwrap_or_default();
    named.min(MAX_DELAY).max(delay(failures))
}

/// Upstreams that failed for everybody when they were last asked.
#[derive(Default)]
pub(super) struct Failing(Mutex<HashMap<UpstreamKey, Down>>);

struct Down {
    failure: Arc<Failure>,
    failures: u32,
    retry_at: Duration,
    pause: Pause,
}

impl Failing {
    /// Why an upstream is not asked in anybody's presence.
    pub(super) fn failure(&self, upstream: UpstreamKey, now: Duration) -> Option<Arc<Failure>> {
        let mut all = self.lock();
        let down = all.get(&upstream)?;
        if down.pause.is_over(now) {
            all.remove(&upstream);
            return None;
        }
        Some(Arc::clone(&down.failure))
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

    pub(super) fn failed(
        &self,
        upstream: UpstreamKey,
        now: Duration,
        failure: &Arc<Failure>,
        answers: Option<Arc<Answers>>,
    ) {
        let mut all = self.lock();
        if all.len() >= MAX_UPSTREAMS {
            all.clear();
        }
        let failures = all.get(&upstream).map_or(1, |down| down.failures.saturating_add(1));
        let retry_at = now + delay_after(failure, failures);
        let pause = Pause::begin(answers, now);
        all.insert(upstream, Down { failure: Arc::clone(failure), failures, retry_at, pause });
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
    use portunus_filters::Denial;

    #[test]
    fn attempts_become_rare() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 8, u32::MAX].map(|n| delay(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn a_time_that_a_server_names_is_for_clients_unless_it_takes_no_more() {
        let cases = [
            (Reason::UpstreamUnavailable, 300, 1, 1),
            (Reason::UpstreamUnavailable, 300, 3, 4),
            (Reason::UpstreamLimited, 7, 1, 7),
            (Reason::UpstreamLimited, 7, 6, 32),
            (Reason::UpstreamLimited, 300, 1, 60),
        ];
        for (reason, named, failures, expected) in cases {
            let denial = Denial::new(reason, "scripted").retry_in(Some(Duration::from_secs(named)));
            let waits = delay_after(&denial.into(), failures);
            assert_eq!(waits.as_secs(), expected, "{reason:?} {named} {failures}");
        }
    }
}
