//! Calls that wait for their client: a legacy server has asked something in the middle of its answer,
//! and a modern client is told so by `input_required` and comes back with a request of its own.
//!
//! Each parked call is a task that goes on listening to its server. It is claimed once, by the caller
//! and for the call that it was parked for; anybody else's claim reads as unknown.

use crate::backend::upstream_call::{CallerKey, UpstreamCall};
use crate::drain::Phase;
use crate::frontend::context::Gateway;
use crate::shares::{Holding, Owner, Share};
use portunus_config::{ParkedRules, ServerId};
use portunus_filters::{Denial, Reason, ReleasedQuestion};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// Calls that wait, of all virtual servers together.
const MAX_PARKED: usize = 100_000;

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
    pub upstream_call: UpstreamCall,
    /// Questions that were asked and not answered.
    pub questions: Vec<ReleasedQuestion>,
}

/// Calls that wait for their clients.
#[derive(Default)]
pub struct ParkedCalls {
    table: Mutex<Table>,
    serial: AtomicU64,
}

/// The calls, and how many of them are whose.
#[derive(Default)]
struct Table {
    slots: HashMap<u64, Slot>,
    of_servers: Counts<ServerId>,
    of_callers: Counts<Owner>,
    of_callers_at: Counts<(ServerId, Owner)>,
    /// Callers of whom a call waits there.
    callers_at: Counts<ServerId>,
}

/// How many there are of each; only those of whom there are some take room.
struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Counts(HashMap::new())
    }
}

impl<K: Eq + Hash> Counts<K> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Whether it is the first.
    fn add(&mut self, key: K) -> bool {
        let count = self.0.entry(key).or_default();
        *count += 1;
        *count == 1
    }

    /// Whether it was the last.
    fn take(&mut self, key: &K) -> bool {
        let Some(count) = self.0.get_mut(key) else { return false };
        *count -= 1;
        let was_last = *count == 0;
        if was_last {
            self.0.remove(key);
        }
        was_last
    }
}

struct Slot {
    ticket: Ticket,
    /// Who counts as one caller.
    caller: Owner,
    claim: oneshot::Sender<oneshot::Sender<Resumed>>,
}

impl Table {
    /// Whether one more call of a caller may wait; why not.
    ///
    /// Places of a virtual server, and of all, are shared as [`Holding::admits`] says: a few who never
    /// answer leave room for everybody else.
    fn admits(&self, server: &ServerId, caller: Owner, rules: &ParkedRules) -> Result<(), &'static str> {
        let at_server = self.of_servers.of(server);
        let own_here = self.of_callers_at.of(&(server.clone(), caller));
        let (all, own) = (self.slots.len(), self.of_callers.of(&caller));
        if own >= rules.per_caller {
            return Err("as many of the caller's calls as may wait for its answers");
        }
        let others_here = self.callers_at.of(server) - usize::from(own_here > 0);
        let others = self.of_callers.len() - usize::from(own > 0);
        let here = Holding { total: at_server, own: own_here, others: others_here };
        let everywhere = Holding { total: all, own, others };
        match here.admits(rules.max, 1) && everywhere.admits(MAX_PARKED, 1) {
            true => Ok(()),
            false => Err("as many calls as may wait for answers of their clients"),
        }
    }

    fn insert(&mut self, serial: u64, slot: Slot) {
        let (server, caller) = (&slot.ticket.server, slot.caller);
        self.of_servers.add(server.clone());
        self.of_callers.add(caller);
        if self.of_callers_at.add((server.clone(), caller)) {
            self.callers_at.add(server.clone());
        }
        self.slots.insert(serial, slot);
    }

    fn remove(&mut self, serial: u64) -> Option<Slot> {
        let slot = self.slots.remove(&serial)?;
        let (server, caller) = (&slot.ticket.server, slot.caller);
        self.of_servers.take(server);
        self.of_callers.take(&caller);
        if self.of_callers_at.take(&(server.clone(), caller)) {
            self.callers_at.take(server);
        }
        Some(slot)
    }
}

impl Resumed {
    /// How many bytes of the client's and the server's text it keeps.
    fn bytes(&self) -> usize {
        let asked: usize = self.questions.iter().map(|question| question.params.len()).sum();
        self.upstream_call.kept_bytes() + asked
    }
}

impl ParkedCalls {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.table().slots.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parks a call; gives its serial number.
    ///
    /// # Errors
    /// [`Reason::Crowded`] if too many wait: of this caller, at this virtual server, or of all; the call
    /// is cancelled.
    pub fn park(
        &self,
        gateway: &Arc<Gateway>,
        ticket: Ticket,
        rules: &ParkedRules,
        call: Resumed,
    ) -> Result<u64, Denial> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (claim, claimed) = oneshot::channel();
        let mut table = self.table();
        let caller = call.upstream_call.owner();
        let admitted = table.admits(&ticket.server, caller, rules).and_then(|()| {
            let share = gateway.backend.texts.take(caller, call.bytes());
            share.ok_or("as much text as calls of the caller that wait for answers may keep")
        });
        let share = match admitted {
            Ok(share) => share,
            Err(detail) => {
                drop(table);
                call.upstream_call.cancel();
                return Err(Denial::new(Reason::Crowded, detail));
            }
        };
        table.insert(serial, Slot { ticket, caller, claim });
        drop(table);
        // Before its client can know that it waits: it may call again at once.
        call.upstream_call.holds().suspend();
        let until = Instant::now() + rules.within;
        tokio::spawn(wait(Arc::clone(gateway), serial, (call, share), claimed, until));
        Ok(serial)
    }

    /// Gives a call back, once.
    ///
    /// # Errors
    /// [`Reason::UnknownState`] if there is none of that number, or it is not this caller's or call's.
    pub async fn claim(&self, serial: u64, ticket: &Ticket) -> Result<Resumed, Denial> {
        let unknown = || Denial::new(Reason::UnknownState, "`requestState` is unknown, used or expired");
        let slot = {
            let mut table = self.table();
            let is_meant = table.slots.get(&serial).is_some_and(|slot| slot.ticket == *ticket);
            if is_meant { table.remove(serial) } else { None }
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
    (mut call, _share): (Resumed, Share),
    mut claimed: oneshot::Receiver<oneshot::Sender<Resumed>>,
    until: Instant,
) {
    loop {
        tokio::select! {
            biased;
            claim = &mut claimed => {
                match claim {
                    // The caller may have left between its claim and now.
                    Ok(hand) => {
                        call.upstream_call.holds().resume();
                        if let Err(call) = hand.send(call) { call.upstream_call.cancel() }
                    }
                    Err(_) => call.upstream_call.cancel(),
                }
                return;
            }
            had_room = call.upstream_call.buffer_next() => if !had_room {
                tracing::warn!(upstream = &*call.upstream_call.upstream().name, "a server says too much to a call that waits for its client");
                break;
            },
            () = sleep_until(until) => break,
            () = gateway.drain.phases().reached(Phase::Expired) => break,
        }
    }
    gateway.estate.parked.table().remove(serial);
    call.upstream_call.cancel();
}

#[cfg(test)]
mod tests;
