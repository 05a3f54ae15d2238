//! The end of the process, in order: no new work, running calls finish, then nothing is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long an idle connection is kept while draining: a request may already be on its way.
const LINGER: Duration = Duration::from_millis(200);
/// The same where a successor serves already, so that nobody waits for the end of this process: longer
/// than the 5 s after which most pools of clients drop an idle connection by themselves.
const UNHURRIED: Duration = Duration::from_secs(6);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal work.
    Serving,
    /// Not ready any more, but still accepting: balancers take notice.
    Leaving,
    /// No new connections; streams end, calls finish.
    Draining,
    /// The deadline passed: what still runs ends with an error.
    Expired,
}

/// The phases that have come. To wait takes locks of this value and its clones alone, not of its parent or its children.
#[derive(Clone, Default)]
pub struct Phases {
    leaving: CancellationToken,
    draining: CancellationToken,
    expired: CancellationToken,
}

/// The phase, and the exchanges that are in flight.
#[derive(Default)]
pub struct Drain {
    phases: Phases,
    in_flight: TaskTracker,
    succeeded: AtomicBool,
}

/// One exchange in flight.
pub type InFlight = TaskTrackerToken;

impl Phases {
    /// The same phases with locks of their own, for a connection.
    pub fn child(&self) -> Phases {
        Phases {
            leaving: self.leaving.child_token(),
            draining: self.draining.child_token(),
            expired: self.expired.child_token(),
        }
    }

    /// The phase now.
    pub fn now(&self) -> Phase {
        let later = [Phase::Expired, Phase::Draining, Phase::Leaving];
        later.into_iter().find(|phase| self.is_reached(*phase)).unwrap_or(Phase::Serving)
    }

    /// True if `phase`, or a later one, has come.
    pub fn is_reached(&self, phase: Phase) -> bool {
        self.token(phase).is_none_or(CancellationToken::is_cancelled)
    }

    /// Waits until `phase`, or a later one, has come.
    pub async fn reached(&self, phase: Phase) {
        if let Some(token) = self.token(phase) {
            token.cancelled().await;
        }
    }

    /// Cancelled when a phase has come; the first has no beginning.
    fn token(&self, phase: Phase) -> Option<&CancellationToken> {
        match phase {
            Phase::Serving => None,
            Phase::Leaving => Some(&self.leaving),
            Phase::Draining => Some(&self.draining),
            Phase::Expired => Some(&self.expired),
        }
    }
}

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.phases.now()
    }

    /// The phases, to be waited for.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Goes on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        for passed in [Phase::Leaving, Phase::Draining, Phase::Expired] {
            if let Some(token) = self.phases.token(passed).filter(|_| passed <= phase) {
                token.cancel();
            }
        }
    }

    /// Notes that a successor serves in place of this process.
    pub fn succeed(&self) {
        self.succeeded.store(true, Ordering::Release);
    }

    /// Whether a successor serves in place of this process.
    pub fn succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }

    /// Waits for `request` on a connection that was idle when draining began, as long as that makes
    /// sense. It is in flight from the beginning, and without a gap when it came.
    pub async fn linger<F: Future>(&self, request: F) -> Option<(F::Output, InFlight)> {
        let in_flight = self.enter();
        let patience = if self.succeeded() { UNHURRIED } else { LINGER };
        tokio::select! {
            biased;
            request = request => Some((request, in_flight)),
            () = sleep(patience) => None,
            () = self.phases.reached(Phase::Expired) => None,
        }
    }

    /// Counts an exchange until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.token()
    }

    /// Exchanges in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Waits until nothing is in flight.
    pub async fn idle(&self) {
        // Until then the last of each moment wakes up nobody.
        self.in_flight.close();
        self.in_flight.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn idle_waits_for_the_last_exchange() {
        let drain = Arc::new(Drain::default());
        drain.idle().await;
        let (first, second) = (drain.enter(), drain.enter());
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_longer_where_nobody_waits_and_never_beyond_the_deadline() {
        let silence = std::future::pending::<()>;
        let drain = Arc::new(Drain::default());
        let began = tokio::time::Instant::now();
        assert!(drain.linger(silence()).await.is_none());
        assert_eq!(began.elapsed().as_millis(), 200);
        let (request, in_flight) = drain.linger(std::future::ready(7)).await.unwrap();
        assert_eq!((request, drain.in_flight()), (7, 1));
        drop(in_flight);

        drain.succeed();
        let began = tokio::time::Instant::now();
        let (_, in_flight) = tokio::join!(drain.linger(silence()), async { drain.in_flight() });
        assert_eq!((began.elapsed().as_secs(), in_flight, drain.in_flight()), (6, 1, 0));
        drain.advance(Phase::Expired);
        let began = tokio::time::Instant::now();
        assert!(drain.linger(silence()).await.is_none());
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test]
    async fn phases_never_go_back_and_are_told_to_each_child() {
        let drain = Drain::default();
        let child = drain.phases().child();
        assert_eq!((drain.phase(), child.now()), (Phase::Serving, Phase::Serving));
        let waiting = tokio::spawn({
            let child = child.clone();
            async move { child.reached(Phase::Draining).await }
        });
        tokio::task::yield_now().await;
        drain.advance(Phase::Leaving);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && child.is_reached(Phase::Leaving));
        drain.advance(Phase::Draining);
        drain.advance(Phase::Leaving);
        waiting.await.unwrap();
        child.reached(Phase::Serving).await;
        let late = drain.phases().child();
        assert_eq!([drain.phase(), child.now(), late.now()], [Phase::Draining; 3]);
    }
}
