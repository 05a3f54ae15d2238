//! Whether a replica still answers, for those who wait for it.
//!
//! A replica that is stopped, or whose network is gone, keeps its connections: nothing tells a long
//! call from one that never ends. So while somebody waits, it is told no news at all, on another
//! connection, and has to take that. One asks for all who wait. Of one that was found to be so, nobody
//! waits any more: it is asked on until it gives a sign.

use super::{Member, news};
use crate::frontend::context::Gateway;
use crate::peers::PeerFailure;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
pub(super) struct Pulse {
    last: Mutex<Option<Beat>>,
    /// It keeps its connections and answers nothing.
    frozen: AtomicBool,
    /// A task asks on until it is no longer so.
    asked: AtomicBool,
}

#[derive(Clone, Copy)]
struct Beat {
    at: Instant,
    sign: Sign,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Whatever it says, it is there.
    Answers,
    /// It does not even take connections.
    Gone,
    /// None.
    Nothing,
}

/// Returns when the replica that serves an answer falls silent; never without one.
pub async fn silence(home: Option<&Arc<Member>>, gateway: &Arc<Gateway>) {
    match home {
        // Boxed: no other answer needs the room.
        Some(home) => Box::pin(home.falls_silent(gateway)).await,
        None => std::future::pending().await,
    }
}

impl Member {
    /// Returns when the replica answers nothing any more, after about 7 s of that. Safe to cancel.
    pub async fn falls_silent(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        loop {
            sleep(EVERY).await;
            match self.sign(gateway).await {
                Sign::Answers => {}
                Sign::Gone => return,
                Sign::Nothing => return self.freezes(gateway),
            }
        }
    }

    /// Whether it is known to keep its connections and to answer nothing.
    pub fn is_frozen(&self) -> bool {
        self.pulse.frozen.load(Ordering::SeqCst)
    }

    /// Nobody waits for it from now on, until it gives a sign.
    pub(super) fn freezes(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        self.pulse.frozen.store(true, Ordering::SeqCst);
        if !self.pulse.asked.swap(true, Ordering::SeqCst) {
            tokio::spawn(ask_on(Arc::clone(self), Arc::clone(gateway)));
        }
    }

    pub(super) fn thaws(&self) {
        self.pulse.frozen.store(false, Ordering::SeqCst);
    }

    async fn sign(&self, gateway: &Gateway) -> Sign {
        let mut last = self.pulse.last.lock().await;
        if let Some(beat) = last.filter(|beat| beat.at.elapsed() < EVERY) {
            return beat.sign;
        }
        let mut sign = Sign::Nothing;
        for _ in 0..MISSES {
            let until = Instant::now() + WITHIN;
            sign = match news::send(gateway, self, news::NONE, until).await {
                Ok(_) | Err(PeerFailure::Refused(_) | PeerFailure::Restarted) => Sign::Answers,
                Err(PeerFailure::Gone(_)) if Instant::now() < until => Sign::Gone,
                Err(PeerFailure::Gone(_) | PeerFailure::Ended(_) | PeerFailure::Lost(_)) => Sign::Nothing,
            };
            if sign == Sign::Answers {
                break;
            }
        }
        *last = Some(Beat { at: Instant::now(), sign });
        sign
    }

    #[cfg(test)]
    pub(super) async fn lives(&self, gateway: &Gateway) -> bool {
        self.sign(gateway).await == Sign::Answers
    }
}

/// Asks a frozen replica until it gives a sign; an answer to anything else is one too.
async fn ask_on(member: Arc<Member>, gateway: Arc<Gateway>) {
    loop {
        while member.is_frozen() {
            sleep(EVERY).await;
            match member.sign(&gateway).await {
                Sign::Answers => member.answers(),
                // Whoever speaks to it finds out at once.
                Sign::Gone => member.thaws(),
                Sign::Nothing => {}
            }
        }
        let asked = &member.pulse.asked;
        asked.store(false, Ordering::SeqCst);
        // It may have frozen again in between, when nobody else was let ask.
        if !member.is_frozen() || asked.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}
