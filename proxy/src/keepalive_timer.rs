//! Waiting until something has been silent for too long, at little cost where it never is.
//!
//! To set a timer and take it back for each call costs more than most of what is done for the call. So
//! the timer of a connection stays set when a call is over: the next one moves its end, and leaves alone
//! a timer that rings before, which is then set anew. A connection without calls is woken up once.

use std::future::poll_fn;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of a connection that several of its parts wait by.
#[derive(Default)]
pub struct SharedTimer {
    idle: Mutex<KeepaliveTimer>,
}

/// A [`KeepaliveTimer`], lent to who waits.
pub struct LentTimer<'s> {
    owner: &'s SharedTimer,
    keepalive_timer: KeepaliveTimer,
}

/// A timer that is set with its first use and stays set.
#[derive(Debug, Default)]
pub struct KeepaliveTimer {
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes up.
    wakes: Option<Waker>,
}

impl SharedTimer {
    /// The timer, or a new one where it is lent already.
    pub fn lend(&self) -> LentTimer<'_> {
        LentTimer { owner: self, keepalive_timer: take(&mut *self.lock()) }
    }

    fn lock(&self) -> MutexGuard<'_, KeepaliveTimer> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for LentTimer<'_> {
    type Target = KeepaliveTimer;

    fn deref(&self) -> &KeepaliveTimer {
        &self.keepalive_timer
    }
}

impl DerefMut for LentTimer<'_> {
    fn deref_mut(&mut self) -> &mut KeepaliveTimer {
        &mut self.keepalive_timer
    }
}

impl Drop for LentTimer<'_> {
    fn drop(&mut self) {
        *self.owner.lock() = take(&mut self.keepalive_timer);
    }
}

impl KeepaliveTimer {
    /// Returns at `end`. Safe to cancel.
    pub async fn until(&mut self, end: Instant) {
        poll_fn(|context| self.poll(context, end)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, end: Instant) -> Poll<()> {
        let timer =
            self.timer.get_or_insert_with(|| Timer { sleep: Box::pin(sleep_until(end)), wakes: None });
        if timer.sleep.deadline() <= end && !timer.sleep.is_elapsed() && timer.will_wake(context) {
            return Poll::Pending;
        }
        if timer.sleep.deadline() > end {
            timer.sleep.as_mut().reset(end);
        }
        loop {
            // A task that has used up its turn would be told to wait without the timer being set, and the waker below
            // would count as set.
            let sleep = pin!(unconstrained(timer.sleep.as_mut()));
            match sleep.poll(context) {
                Poll::Ready(()) if timer.sleep.deadline() >= end => return Poll::Ready(()),
                // It was set for an earlier wait.
                Poll::Ready(()) => timer.sleep.as_mut().reset(end),
                Poll::Pending => {
                    timer.wakes = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Timer {
    fn will_wake(&self, context: &Context<'_>) -> bool {
        self.wakes.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long it took, on a clock that stands still while anything can be done.
    async fn waited(shared_timer: &SharedTimer, time: Duration) -> Duration {
        let start = Instant::now();
        shared_timer.lend().until(start + time).await;
        start.elapsed()
    }

    fn about(time: Duration, expected: Duration) -> bool {
        // The timers of tokio go by milliseconds.
        time >= expected && time < expected + Duration::from_millis(5)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_as_long_as_was_asked_for() {
        let shared_timer = SharedTimer::default();
        for seconds in [1, 3, 2, 2] {
            assert!(about(waited(&shared_timer, seconds * SECOND).await, seconds * SECOND), "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_still_set_ends_no_later_wait_and_delays_no_earlier_one() {
        let shared_timer = SharedTimer::default();
        let broken_off = async |time| timeout(SECOND, waited(&shared_timer, time)).await.is_err();
        assert!(broken_off(3 * SECOND).await);
        assert!(about(waited(&shared_timer, 4 * SECOND).await, 4 * SECOND), "it rang in between");
        assert!(broken_off(60 * SECOND).await);
        assert!(about(waited(&shared_timer, 2 * SECOND).await, 2 * SECOND), "it was set for later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_another_task_has_set_wakes_who_waits_by_it_now() {
        let shared_timer = std::sync::Arc::new(SharedTimer::default());
        let other = std::sync::Arc::clone(&shared_timer);
        let broken_off = async move { timeout(SECOND, waited(&other, 3 * SECOND)).await.is_err() };
        assert!(tokio::spawn(broken_off).await.unwrap());
        assert!(about(waited(&shared_timer, 4 * SECOND).await, 4 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn timer_is_set_also_by_a_task_that_has_used_up_its_turn() {
        let shared_timer = SharedTimer::default();
        let end = Instant::now() + SECOND;
        let mut keepalive_timer = shared_timer.lend();
        let mut silent = pin!(keepalive_timer.until(end));
        poll_fn(|context| {
            while tokio::task::coop::has_budget_remaining() {
                assert!(pin!(tokio::task::coop::consume_budget()).poll(context).is_ready());
            }
            assert!(silent.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        timeout(2 * SECOND, silent).await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_polled_in_between_still_wakes_its_task() {
        let shared_timer = SharedTimer::default();
        let end = Instant::now() + 10 * SECOND;
        let mut keepalive_timer = shared_timer.lend();
        let mut ticks = 0;
        loop {
            tokio::select! {
                biased;
                () = keepalive_timer.until(end) => break,
                () = tokio::time::sleep(SECOND) => ticks += 1,
            }
        }
        assert!((9..=10).contains(&ticks), "{ticks}");
        assert!(Instant::now() >= end);
    }

    #[tokio::test(start_paused = true)]
    async fn two_tasks_of_one_connection_do_not_take_each_others_timer() {
        let shared_timer = std::sync::Arc::new(SharedTimer::default());
        let wait = |seconds: u32| {
            let shared_timer = std::sync::Arc::clone(&shared_timer);
            tokio::spawn(async move { waited(&shared_timer, seconds * SECOND).await })
        };
        for round in 0..2 {
            let (two, one) = (wait(2), wait(1));
            assert!(about(one.await.unwrap(), SECOND), "round {round}");
            assert!(about(two.await.unwrap(), 2 * SECOND), "round {round}");
        }
    }
}
