//! Watches upstreams: whether each instance answers and what the log says of that, and whether an upstream has answered
//! anybody since it was last asked in vain.
//!
//! The first failure is logged at once, and the first answer after it, with what was lost between.
//! An instance that fails on and off would fill the log: beyond five outages a minute one line sums
//! up the rest.

use crate::backend::forward::Failure;
use crate::metrics::UpstreamMetrics;
use prometheus::IntGauge;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Outages of one window that get lines of their own.
const TOLD: u32 = 5;
/// Bytes of a cause that are logged: some of it may be a server's text.
pub(crate) const MAX_CAUSE: usize = 256;
/// The least length of a pause: an upstream that answers calls and fails what the gateway asks is not
/// asked with every call.
pub const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// One instance of an upstream, as its label values name it.
pub struct InstanceMonitor {
    /// Its upstream.
    pub upstream: Arc<UpstreamMetrics>,
    /// Its URL without the query.
    pub url: String,
    up: IntGauge,
    is_failing: AtomicBool,
    /// Outages that ended.
    recoveries: AtomicU64,
    outages: Mutex<Outages>,
}

/// A failure that goes on, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageStatus {
    /// What it is called.
    pub problem: &'static str,
    /// For how long it has been going on.
    pub age: Duration,
    /// Calls of clients that failed meanwhile.
    pub failed_calls: u64,
}

impl InstanceMonitor {
    /// One that has not failed yet.
    pub fn new(upstream: Arc<UpstreamMetrics>, url: String, up: IntGauge) -> InstanceMonitor {
        up.set(1);
        let (is_failing, recoveries) = (AtomicBool::new(false), AtomicU64::new(0));
        InstanceMonitor { upstream, url, up, is_failing, recoveries, outages: Mutex::default() }
    }

    /// Notes an answer. Costs two loads, unless it ends an outage or a pause.
    pub fn note_answer(&self) {
        self.upstream.answers.note();
        if self.is_failing.load(Ordering::Relaxed) {
            self.recover(Instant::now());
        }
    }

    /// Notes a failure, if it says something of the instance.
    pub fn note_failure(&self, failure: &Failure) {
        self.note_failure_since(self.recoveries(), failure);
    }

    /// As [`InstanceMonitor::note_failure`], of a request that was sent when so many outages had ended. If another one has
    /// ended since, the instance answered after it failed this request, which is old news then.
    pub fn note_failure_since(&self, recoveries: u64, failure: &Failure) {
        if let Some(problem) = failure.problem {
            self.fail(recoveries, problem, &failure.cause, Instant::now());
        }
    }

    /// Outages that have ended.
    pub fn recoveries(&self) -> u64 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// The outage that goes on now, if there is one.
    pub fn outage(&self, now: Instant) -> Option<OutageStatus> {
        let outages = self.lock();
        let outage = outages.current.as_ref()?;
        Some(OutageStatus {
            problem: outage.problem,
            age: now.saturating_duration_since(outage.since),
            failed_calls: self.upstream.failed_calls().saturating_sub(outage.calls_before),
        })
    }

    /// Sums up the outages that got no line, once in a window.
    pub fn sweep(&self, now: Instant) {
        let summed = self.lock().sum_up(now);
        if let Some(outages) = summed {
            let failing = self.is_failing.load(Ordering::Relaxed);
            tracing::warn!(
                upstream = &*self.upstream.name,
                instance = self.url,
                outages,
                failing,
                "upstream fails on and off"
            );
        }
    }

    fn fail(&self, recoveries: u64, problem: &'static str, cause: &str, now: Instant) {
        let mut outages = self.lock();
        if self.recoveries() != recoveries {
            return;
        }
        let calls = self.upstream.failed_calls();
        let Some(is_told) = outages.begin(problem, calls, now) else { return };
        self.is_failing.store(true, Ordering::Relaxed);
        self.up.set(0);
        drop(outages);
        if is_told {
            tracing::warn!(
                upstream = &*self.upstream.name,
                instance = self.url,
                problem,
                cause = &cause[..cause.floor_char_boundary(MAX_CAUSE)],
                "upstream is failing"
            );
        }
    }

    fn recover(&self, now: Instant) {
        let mut outages = self.lock();
        let Some((outage, is_told)) = outages.end() else { return };
        self.is_failing.store(false, Ordering::Relaxed);
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        self.up.set(1);
        drop(outages);
        if is_told {
            tracing::warn!(
                upstream = &*self.upstream.name,
                instance = self.url,
                problem = outage.problem,
                failed_calls = self.upstream.failed_calls().saturating_sub(outage.calls_before),
                after_s = now.saturating_duration_since(outage.since).as_secs_f32(),
                "upstream answers again"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outages of one instance, or issuer, and which of them the log tells.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    current: Option<Outage>,
    /// The log has a line of the current one.
    is_told: bool,
    window: Option<Instant>,
    told: u32,
    untold: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    problem: &'static str,
    since: Instant,
    /// Failed calls before it.
    pub(crate) calls_before: u64,
}

impl Outages {
    /// Begins an outage, if none goes on: whether it gets a line.
    pub(crate) fn begin(&mut self, problem: &'static str, calls_before: u64, now: Instant) -> Option<bool> {
        if self.current.is_some() {
            return None;
        }
        self.current = Some(Outage { problem, since: now, calls_before });
        if self.untold == 0 && self.window.is_none_or(|began| now >= began + WINDOW) {
            (self.window, self.told) = (Some(now), 0);
        }
        self.is_told = self.told < TOLD;
        let count = if self.is_told { &mut self.told } else { &mut self.untold };
        *count += 1;
        Some(self.is_told)
    }

    /// Ends the outage, if one goes on, and says whether the log has told of it.
    pub(crate) fn end(&mut self) -> Option<(Outage, bool)> {
        Some((self.current.take()?, self.is_told))
    }

    /// How many outages of the window that is over got no line, if any.
    pub(crate) fn sum_up(&mut self, now: Instant) -> Option<u32> {
        let is_over = self.window.is_some_and(|began| now >= began + WINDOW);
        if self.untold == 0 || !is_over {
            return None;
        }
        (self.window, self.told) = (Some(now), 0);
        self.is_told |= self.current.is_some();
        Some(std::mem::take(&mut self.untold))
    }
}

/// The answers of one upstream, of whichever instance and to whomever: whether one came since it was last asked in vain.
#[derive(Debug, Default)]
pub struct Answers {
    /// Somebody pauses.
    awaited: AtomicBool,
    /// Answers that were awaited.
    count: AtomicU64,
}

/// A pause in which an upstream is not asked, unless it answers somebody meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    /// `None` where nobody watches the upstream.
    answers: Option<Arc<Answers>>,
    seen: u64,
    at_least_until: Duration,
}

impl Answers {
    /// Notes an answer. Costs a load, unless somebody pauses.
    pub fn note(&self) {
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::AcqRel) {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Pause {
    /// One that begins at `now`.
    pub fn begin(answers: Option<Arc<Answers>>, now: Duration) -> Pause {
        // Read first: an answer between the two ends the pause, and is not overlooked.
        let seen = answers.as_ref().map_or(0, |answers| answers.count.load(Ordering::Acquire));
        answers.iter().for_each(|answers| answers.awaited.store(true, Ordering::Release));
        Pause { answers, seen, at_least_until: now + SHORTEST_PAUSE }
    }

    /// Whether an answer has ended it.
    pub fn is_over(&self, now: Duration) -> bool {
        let count = self.answers.as_ref().map_or(self.seen, |answers| answers.count.load(Ordering::Acquire));
        now >= self.at_least_until && count != self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_its_end_once() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        assert_eq!(outages.begin("refused", 7, now), Some(true));
        assert_eq!(outages.begin("timeout", 8, now), None, "it goes on");
        let (outage, is_told) = outages.end().unwrap();
        assert_eq!((outage.problem, outage.calls_before, is_told), ("refused", 7, true));
        assert!(outages.end().is_none());
    }

    #[test]
    fn outages_beyond_those_of_a_window_are_summed_up() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        for number in 0..TOLD + 3 {
            let is_told = number < TOLD;
            assert_eq!(outages.begin("timeout", 0, start), Some(is_told), "{number}");
            assert_eq!(outages.end().map(|(_, told)| told), Some(is_told), "{number}");
        }
        assert_eq!(outages.begin("timeout", 0, start), Some(false));
        assert_eq!(outages.sum_up(start + WINDOW / 2), None);
        assert_eq!(outages.sum_up(start + WINDOW), Some(4));
        assert_eq!(outages.end().map(|(_, told)| told), Some(true), "the sum told that it fails");
        assert_eq!(outages.sum_up(start + 2 * WINDOW), None);
        assert_eq!(outages.begin("timeout", 0, start + 2 * WINDOW), Some(true));
    }

    #[test]
    fn an_answer_ends_all_pauses_that_began_before_it_and_none_that_begins_later() {
        let (answers, now) = (Arc::<Answers>::default(), Duration::from_secs(100));
        let begin = || Pause::begin(Some(Arc::clone(&answers)), now);
        answers.note();
        let before = [begin(), begin()];
        assert!(before.iter().all(|pause| !pause.is_over(now + SHORTEST_PAUSE)));
        answers.note();
        let after = begin();
        assert!(before.iter().all(|pause| !pause.is_over(now) && pause.is_over(now + SHORTEST_PAUSE)));
        assert!(!after.is_over(now + SHORTEST_PAUSE));
        assert!(!Pause::begin(None, now).is_over(now + 2 * SHORTEST_PAUSE));
    }
}
