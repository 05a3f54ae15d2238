//! Calls to a server without the gateway: what delays these too is none of the gateway's doing.

use crate::harness::{Caller, Era};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Time between two of them.
const PACE: Duration = Duration::from_millis(10);
/// A call that took no longer is as usual.
const USUAL: Duration = Duration::from_millis(20);

/// Calls of the whole show that may take longer.
const MOST_SLOW: usize = 60;

/// Direct calls, one after the other, until the value is dropped.
pub(super) struct Direct {
    slow: Arc<Mutex<Vec<(Instant, Duration)>>>,
    calls: JoinHandle<()>,
}

impl Direct {
    pub(super) fn start(server: SocketAddr) -> Direct {
        let slow: Arc<Mutex<Vec<_>>> = Arc::default();
        let noted = Arc::clone(&slow);
        let calls = tokio::spawn(async move {
            let mut caller = Caller::new(Era::Modern, server).ready().await;
            let mut tick = interval(PACE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                // From when it was due: a call that could not even begin in time counts too.
                let due = tick.tick().await.into_std();
                caller.call("work", json!({"word": "w"})).await.unwrap();
                let took = due.elapsed();
                if took > USUAL {
                    noted.lock().unwrap().push((due, took));
                }
            }
        });
        Direct { slow, calls }
    }

    /// The longest that a direct call was delayed within the time after `start`.
    pub(super) fn delay(&self, start: Instant, took: Duration) -> Duration {
        let end = start + took;
        let slow = self.slow.lock().unwrap();
        let within = |(due, took): &(Instant, Duration)| {
            let (from, to) = ((*due).max(start), (*due + *took).min(end));
            to.saturating_duration_since(from)
        };
        slow.iter().map(within).max().unwrap_or_default()
    }

    /// Asserts that the machine was not so busy that delays of the gateway could hide among its own.
    pub(super) fn assert_few_delayed(&self) {
        let slow = self.slow.lock().unwrap();
        let longest = slow.iter().map(|(_, took)| *took).max().unwrap_or_default();
        println!("{} direct calls took over {USUAL:?}, the longest {longest:.1?}", slow.len());
        assert!(slow.len() <= MOST_SLOW, "the machine is too busy to tell");
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.calls.abort();
    }
}
