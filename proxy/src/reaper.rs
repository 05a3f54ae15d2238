//! Where retired snapshots end.
//!
//! Dropping a snapshot with compiled policies takes milliseconds; a worker must not be the one that
//! happens to hold it last. This thread keeps each retired one until nobody else does.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often held snapshots are looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// The thread's mailbox.
pub struct Reaper<T> {
    retired: Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Reaper<T> {
    /// Starts the thread; it ends with the last sender.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> std::io::Result<Reaper<T>> {
        let (retired, mailbox) = channel();
        std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&mailbox))?;
        Ok(Reaper { retired })
    }

    /// Hands a retired snapshot over.
    pub fn retire(&self, snapshot: Arc<T>) {
        // If the thread is gone the snapshot is dropped here, which is only slower.
        drop(self.retired.send(snapshot));
    }
}

fn reap<T>(mailbox: &Receiver<Arc<T>>) {
    let mut held: Vec<Arc<T>> = Vec::new();
    loop {
        let next = if held.is_empty() {
            mailbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            mailbox.recv_timeout(PERIOD)
        };
        match next {
            Ok(snapshot) => held.push(snapshot),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Not by a look at the count: an answer that is judged just now would be left to drop it.
        held = held.into_iter().filter_map(|snapshot| Arc::try_unwrap(snapshot).err()).collect();
    }
}
