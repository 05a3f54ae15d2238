//! Threads beside those of the show itself.

use tokio::runtime::{Builder, Runtime};

/// Threads for what is to take none of the time of a show; they end with the value.
pub(super) struct SpareThreads(Option<Runtime>);

impl SpareThreads {
    /// So many threads, which give way to all others by `niceness`.
    pub(super) fn start(threads: usize, niceness: i32) -> SpareThreads {
        let low = move || assert!(niceness == 0 || rustix::process::nice(niceness).is_ok());
        let mut builder = Builder::new_multi_thread();
        SpareThreads(Some(builder.worker_threads(threads).on_thread_start(low).enable_all().build().unwrap()))
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.0.as_ref().unwrap()
    }
}

impl Drop for SpareThreads {
    fn drop(&mut self) {
        // Not waited for: within a runtime nothing may block.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}
