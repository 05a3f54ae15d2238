//! One attempt at a time, whose failure all who waited for it share.

use crate::backend::forward::Failure;
use std::sync::{Mutex, PoisonError};
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// A queue for something that is made once for all who want it.
#[derive(Default)]
pub struct Turns {
    turn: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, Failure)>>,
}

impl Turns {
    /// Waits for a turn; whoever gets it looks first whether the thing is there by now.
    ///
    /// # Errors
    /// The failure of an attempt that ended after `since`: one attempt after the other would let the
    /// last in the queue wait for all of them.
    pub async fn take(&self, since: Instant) -> Result<MutexGuard<'_, ()>, Failure> {
        let turn = self.turn.lock().await;
        match self.failed_since(since) {
            Some(failure) => Err(failure),
            None => Ok(turn),
        }
    }

    /// The failure of an attempt that ended after `since`.
    pub fn failed_since(&self, since: Instant) -> Option<Failure> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| *at >= since).map(|(_, failure)| failure.clone())
    }

    /// Notes that an attempt failed.
    pub fn fail(&self, failure: &Failure) {
        let failed = Some((Instant::now(), failure.clone()));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::{Denial, Reason};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn who_waited_shares_the_failure_and_who_comes_later_tries_anew() {
        let turns = Turns::default();
        let begun = Instant::now();
        let first = turns.take(begun).await.map(drop);
        assert!(first.is_ok());
        turns.fail(&Denial::new(Reason::UpstreamUnavailable, "down").into());
        assert_eq!(turns.take(begun).await.map(drop).unwrap_err().cause, "down");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(turns.take(Instant::now()).await.is_ok());
    }
}
