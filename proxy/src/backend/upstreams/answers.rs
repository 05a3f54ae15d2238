//! Whether an upstream has answered anybody since it was last asked in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What a pause lasts at least: an upstream that answers calls and fails what the gateway asks is not
/// asked with every call.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// The answers of one upstream, of whichever instance and to whomever.
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
        Pause { answers, seen, at_least_until: now + SHORTEST }
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
    fn an_answer_ends_all_pauses_that_began_before_it_and_none_that_begins_later() {
        let (answers, now) = (Arc::<Answers>::default(), Duration::from_secs(100));
        let begin = || Pause::begin(Some(Arc::clone(&answers)), now);
        answers.note();
        let before = [begin(), begin()];
        assert!(before.iter().all(|pause| !pause.is_over(now + SHORTEST)));
        answers.note();
        let after = begin();
        assert!(before.iter().all(|pause| !pause.is_over(now) && pause.is_over(now + SHORTEST)));
        assert!(!after.is_over(now + SHORTEST));
        assert!(!Pause::begin(None, now).is_over(now + 2 * SHORTEST));
    }
}
