//! Keeps the holds of a stream that listens at a server, for as long as a task carries the stream.

use portunus_filters::Holds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The holds of a stream that several tasks may carry, one after the other.
#[derive(Clone, Default)]
pub(super) struct StreamHolds(Arc<Mutex<Holds>>);

impl StreamHolds {
    pub(super) fn new(holds: Holds) -> StreamHolds {
        StreamHolds(Arc::new(Mutex::new(holds)))
    }

    fn lock(&self) -> MutexGuard<'_, Holds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the charges stand.
    pub(super) fn commit(&self) {
        self.lock().commit();
    }

    /// Gives the permits back: no stream is opened any more.
    pub(super) fn release(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }
}
