//! Ready when the last named guard is dropped.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What the process still waits for, by name.
#[derive(Clone)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
    ready: watch::Sender<bool>,
}

/// One thing the process waits for; dropping it says it is there.
pub struct Guard {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness { waiting: Arc::default(), ready: watch::Sender::new(true) }
    }
}

impl Readiness {
    /// Makes the process wait for `name`.
    pub fn wait_for(&self, name: &'static str) -> Guard {
        self.change(|waiting| waiting.insert(name));
        Guard { name, readiness: self.clone() }
    }

    /// Names of what is not there yet; empty if the process is ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Returns once nothing is missing.
    pub async fn ready(&self) {
        // The sender lives in `self`, so the watch cannot close.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<&'static str>) -> bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        self.ready.send_replace(waiting.is_empty());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.change(|waiting| waiting.remove(self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_guard_makes_it_ready() {
        let readiness = Readiness::default();
        let (listeners, configuration) =
            (readiness.wait_for("listeners"), readiness.wait_for("configuration"));
        assert_eq!(readiness.missing(), ["configuration", "listeners"]);
        drop(listeners);
        assert_eq!(readiness.missing(), ["configuration"]);
        drop(configuration);
        readiness.ready().await;
        assert!(readiness.missing().is_empty());
    }
}
