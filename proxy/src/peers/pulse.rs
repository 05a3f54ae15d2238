//! Whether a replica still answers, for those who wait for it.
//!
//! A replica that is stopped, or whose network is gone, keeps its connections: nothing tells a long
//! call from one that never ends. So while somebody waits, it is told no news at all, on another
//! connection, and has to take that. One asks for all who wait.

use super::{Member, news};
use crate::context::Gateway;
use crate::peers::PeerFailure;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Between two looks, and before the first.
const EVERY: Duration = Duration::from_secs(2);

/// For each answer.
const WITHIN: Duration = Duration::from_millis(2_500);

/// Answers that are missing in a row.
const MISSES: usize = 2;

/// What was found out last.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Option<Beat>>);

#[derive(Clone, Copy)]
struct Beat {
    at: Instant,
    lives: bool,
}

impl Member {
    /// Returns when the replica answers nothing any more, after about 7 s of that. Safe to cancel.
    pub async fn falls_silent(&self, gateway: &Gateway) {
        loop {
            sleep(EVERY).await;
            if !self.lives(gateway).await {
                return;
            }
        }
    }

    pub(super) async fn lives(&self, gateway: &Gateway) -> bool {
        let mut last = self.pulse.0.lock().await;
        if let Some(beat) = last.filter(|beat| beat.at.elapsed() < EVERY) {
            return beat.lives;
        }
        let mut lives = false;
        for _ in 0..MISSES {
            lives = match news::send(gateway, self, news::NONE, Instant::now() + WITHIN).await {
                // Whatever it says, it is there.
                Ok(_) | Err(PeerFailure::Refused(_) | PeerFailure::Restarted) => true,
                Err(PeerFailure::Gone(_) | PeerFailure::Ended(_) | PeerFailure::Lost(_)) => false,
            };
            if lives {
                break;
            }
        }
        *last = Some(Beat { at: Instant::now(), lives });
        lives
    }
}
