//! Calls that wait for their client: a legacy server has asked something in the middle of its answer,
//! and a modern client is told so by `input_required` and comes back with a request of its own.
//!
//! Each parked call is a task that goes on listening to its server. It is claimed once, by the caller
//! and for the call that it was parked for; anybody else's claim reads as unknown.

use crate::context::Gateway;
use crate::drain::{Phase, reached};
use crate::talk::{CallerKey, Talk, Turn};
use portunus_config::{ParkedRules, ServerId};
use portunus_filters::mcp::bridge::Question;
use portunus_filters::{Denial, Reason};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// What a server says while its call is parked; one that says more ends it.
const MAX_TURNS: usize = 256;

/// What a parked call is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Where it was made.
    pub server: ServerId,
    /// By whom.
    pub bearer: CallerKey,
    /// Digest of its method and parameters.
    pub digest: [u8; 16],
}

/// A call given back to its client.
pub struct Resumed {
    /// The call.
    pub talk: Talk,
    /// Questions that were asked and not answered.
    pub questions: Vec<Question>,
    /// What the server said meanwhile, in order.
    pub turns: Vec<Turn>,
}

/// Calls that wait for their clients.
#[derive(Default)]
pub struct ParkedCalls {
    slots: Mutex<HashMap<u64, Slot>>,
    serial: AtomicU64,
}

struct Slot {
    ticket: Ticket,
    /// Who counts as one caller: of those who show nothing, each address.
    caller: CallerKey,
    claim: oneshot::Sender<oneshot::Sender<Resumed>>,
}

impl ParkedCalls {
    fn slots(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.slots().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parks a call; gives its serial number.
    ///
    /// # Errors
    /// [`Reason::Crowded`] if too many wait, of all callers or of this one; the call is cancelled.
    pub fn park(
        &self,
        gateway: &Arc<Gateway>,
        ticket: Ticket,
        rules: &ParkedRules,
        call: Resumed,
    ) -> Result<u64, Denial> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (claim, claimed) = oneshot::channel();
        let mut slots = self.slots();
        let caller = call.talk.caller();
        let own = slots.values().filter(|slot| slot.caller == caller).count();
        if slots.len() >= rules.max || own >= rules.per_caller {
            drop(slots);
            call.talk.cancel();
            return Err(Denial::new(Reason::Crowded, "too many calls wait for an answer of their client"));
        }
        slots.insert(serial, Slot { ticket, caller, claim });
        drop(slots);
        let until = Instant::now() + rules.within;
        tokio::spawn(wait(Arc::clone(gateway), serial, call, claimed, until));
        Ok(serial)
    }

    /// Gives a call back, once.
    ///
    /// # Errors
    /// [`Reason::UnknownState`] if there is none of that number, or it is not this caller's or call's.
    pub async fn claim(&self, serial: u64, ticket: &Ticket) -> Result<Resumed, Denial> {
        let unknown = || Denial::new(Reason::UnknownState, "`requestState` is unknown, used or expired");
        let slot = {
            let mut slots = self.slots();
            match slots.get(&serial) {
                Some(slot) if slot.ticket == *ticket => slots.remove(&serial),
                _ => None,
            }
        };
        let (hand, handed) = oneshot::channel();
        slot.ok_or_else(unknown)?.claim.send(hand).map_err(|_| unknown())?;
        handed.await.map_err(|_| unknown())
    }
}

/// Listens to a server until the call is claimed, expires, or the process ends.
async fn wait(
    gateway: Arc<Gateway>,
    serial: u64,
    mut call: Resumed,
    mut claimed: oneshot::Receiver<oneshot::Sender<Resumed>>,
    until: Instant,
) {
    let mut phase = gateway.drain.watch();
    let mut over = false;
    loop {
        tokio::select! {
            biased;
            claim = &mut claimed => {
                match claim {
                    // The caller may have left between its claim and now.
                    Ok(hand) => if let Err(call) = hand.send(call) { call.talk.cancel() },
                    Err(_) => call.talk.cancel(),
                }
                return;
            }
            turn = call.talk.next(), if !over => {
                over = matches!(turn, Turn::Done(_) | Turn::Failed(_));
                match turn {
                    Turn::Ask(questions) => call.questions.extend(questions),
                    turn => call.turns.push(turn),
                }
                if call.turns.len() + call.questions.len() > MAX_TURNS {
                    tracing::warn!(upstream = &*call.talk.upstream().name, "a server says too much to a call that waits for its client");
                    break;
                }
            }
            () = sleep_until(until) => break,
            () = reached(&mut phase, Phase::Expired) => break,
        }
    }
    gateway.estate.parked.slots().remove(&serial);
    call.talk.cancel();
}

#[cfg(test)]
mod tests;
