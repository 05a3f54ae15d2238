//! Waiting with a limit in time that costs nothing where nothing is waited for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// What `future` gives within this time; `None` if it takes longer.
///
/// Most writes, and reads of what has already arrived, are done at once: for those no clock is read
/// and no timer made. The future stays where its owner pinned it: those of a session are large.
pub async fn with_timeout<F: Future>(within: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    match at_once(future.as_mut()).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => timeout(within, future).await.ok(),
    }
}

/// As [`with_timeout`], up to a point in time.
pub async fn with_deadline<F: Future>(until: Instant, mut future: Pin<&mut F>) -> Option<F::Output> {
    match at_once(future.as_mut()).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => timeout_at(until, future).await.ok(),
    }
}

async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::pin;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_is_ready_needs_no_time() {
        assert_eq!(with_timeout(Duration::ZERO, pin!(ready(7))).await, Some(7));
    }

    #[tokio::test]
    async fn what_comes_later_is_waited_for_and_what_never_comes_is_not() {
        let (sender, receiver) = oneshot::channel();
        let receiver = pin!(receiver);
        let (received, ()) = tokio::join!(with_timeout(Duration::from_secs(60), receiver), async {
            sender.send(7).unwrap();
        });
        assert_eq!(received.map(Result::unwrap), Some(7));
        assert_eq!(with_timeout(Duration::from_millis(1), pin!(pending::<()>())).await, None);
    }
}
