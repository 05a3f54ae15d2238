//! Evaluators that are ready to run, one for each thread that asks.
//!
//! A thread that finds its evaluator at work waits the microseconds that it takes. A panic of the
//! engine ends one evaluation and the evaluator it happened in, and nobody else's call.

use super::decision::Fault;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A fixed number of places for evaluators, which are made when they are first needed.
pub(super) struct Slots<T>(Box<[Mutex<Option<T>>]>);

impl<T> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots({})", self.0.len())
    }
}

impl<T> Slots<T> {
    pub(super) fn new(count: usize) -> Slots<T> {
        Slots((0..count.max(1)).map(|_| Mutex::new(None)).collect())
    }

    /// Runs something on this thread's evaluator.
    pub(super) fn with<R>(
        &self,
        made: impl FnOnce() -> Result<T, Fault>,
        run: impl FnOnce(&mut T) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let slot = &self.0[ordinal() % self.0.len()];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut evaluator = match slot.take() {
            Some(evaluator) => evaluator,
            None => made()?,
        };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = run(&mut evaluator);
            (result, evaluator)
        }));
        let Ok((result, evaluator)) = ran else {
            return Err(Fault::Failed("the engine panicked".to_owned()));
        };
        // What failed half-way may have left something behind.
        if result.is_ok() {
            *slot = Some(evaluator);
        }
        result
    }
}

/// A number of this thread's own, from 0 up.
fn ordinal() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.with(|mine| *mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluator_that_failed_is_not_used_again() {
        let slots = Slots::new(1);
        let failed = slots.with(|| Ok(7), |_| -> Result<i32, Fault> { Err(Fault::TooLong) });
        assert_eq!(failed, Err(Fault::TooLong));
        assert_eq!(slots.with(|| Ok(8), |number| Ok(*number)), Ok(8));
    }

    #[test]
    fn a_panic_ends_one_evaluation_and_its_evaluator() {
        let slots = Slots::new(1);
        assert_eq!(slots.with(|| Ok(7), |number| Ok(*number)), Ok(7));
        let panicked = slots.with(|| Ok(8), |_: &mut i32| -> Result<i32, Fault> { panic!("of the engine") });
        assert!(matches!(panicked, Err(Fault::Failed(_))));
        assert_eq!(slots.with(|| Ok(9), |number| Ok(*number)), Ok(9));
    }
}
