//! A latch.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// It is raised once, and may be waited for. There are two for each session: a channel would take ten times
/// the memory.
#[derive(Default)]
pub(super) struct Flag {
    raised: AtomicBool,
    told: Notify,
}

impl Flag {
    /// Raises it, and gives whether it was not.
    pub(super) fn raise(&self) -> bool {
        let news = !self.raised.swap(true, Ordering::AcqRel);
        if news {
            self.told.notify_waiters();
        }
        news
    }

    /// True once it is raised.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Waits until it is raised.
    pub(super) async fn raised(&self) {
        let mut told = pin!(self.told.notified());
        // Before the look at what is: what happens in between is not missed.
        told.as_mut().enable();
        if !self.is_raised() {
            told.await;
        }
    }
}
