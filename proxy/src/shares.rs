//! Fair shares of what callers hold together: connections, streams, places of pools, suspended calls.
//!
//! Everything that strangers can fill is counted by its [`Owner`], and one rule says who may have more:
//! the last quarter is kept for owners who have less than an equal share. Who has to wait is served in turn by owner, so
//! that a caller with a thousand requests waits for them, and nobody else does. Where something can be
//! displaced instead, see [`portunus_base::table`], which counts by the same owners.

use portunus_config::UpstreamKey;
pub use portunus_filters::Owner;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Who shares are counted by.
pub trait Holder: Copy + Eq + Hash {
    /// Whether it is held to a share.
    fn has_share(&self) -> bool {
        true
    }
}

impl Holder for Owner {
    fn has_share(&self) -> bool {
        *self != Owner::Nobody
    }
}

impl Holder for UpstreamKey {}

/// What is held of something that holders share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// By all.
    pub total: usize,
    /// By who asks for more.
    pub own: usize,
    /// How many hold some, who asks not counted.
    pub others: usize,
}

impl Holding {
    /// Whether who asks may have `amount` more of at most `most`.
    ///
    /// The last quarter is for those who hold nothing, or would have no more than an equal share if one
    /// more came: who has one connection and needs a second is not kept from it by one who has all others.
    pub fn admits(self, most: usize, amount: usize) -> bool {
        let after = self.own.saturating_add(amount);
        let is_modest = self.own == 0 || after <= most / (self.others + 2);
        let open = if is_modest { most } else { most - most / 4 };
        self.total.saturating_add(amount) <= open
    }
}

/// So many places, or bytes, for all holders together.
pub struct Shares<K: Holder = Owner> {
    most: usize,
    state: Mutex<State<K>>,
}

struct State<K> {
    total: usize,
    held: HashMap<K, usize>,
    waiting: HashMap<K, VecDeque<Waiter>>,
    /// Holders of whom somebody waits, in the order in which they are served.
    turns: VecDeque<K>,
    numbers: u64,
}

struct Waiter {
    number: u64,
    amount: usize,
    granted: oneshot::Sender<()>,
}

/// What one holder has; dropped, it is free for the next.
pub struct Share<K: Holder = Owner> {
    shares: Arc<Shares<K>>,
    holder: K,
    amount: usize,
}

impl<K: Holder> Shares<K> {
    /// Shares of `most` in all.
    pub fn new(most: usize) -> Arc<Shares<K>> {
        let state = State {
            total: 0,
            held: HashMap::new(),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            numbers: 0,
        };
        Arc::new(Shares { most, state: Mutex::new(state) })
    }

    /// What all may hold together.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A share of `amount`, if the holder may have it now.
    pub fn take(self: &Arc<Self>, holder: K, amount: usize) -> Option<Share<K>> {
        let admitted = self.lock().admit(self.most, holder, amount);
        admitted.then(|| Share { shares: Arc::clone(self), holder, amount })
    }

    /// A share of `amount`, at most of all that there is; waits for its turn. Safe to cancel.
    ///
    /// Who holds some and waits for more may wait for ever: everything is to be asked for at once.
    pub async fn wait(self: &Arc<Self>, holder: K, amount: usize) -> Share<K> {
        let amount = amount.min(self.most);
        let waiting = {
            let mut state = self.lock();
            if state.admit(self.most, holder, amount) {
                return Share { shares: Arc::clone(self), holder, amount };
            }
            let (granted, grant) = oneshot::channel();
            let number = state.queue(holder, amount, granted);
            Waiting { shares: Arc::clone(self), holder, amount, number, grant, is_granted: false }
        };
        waiting.share().await
    }

    /// Who holds most.
    pub fn fullest(&self) -> Option<K> {
        let state = self.lock();
        state.held.iter().max_by_key(|(_, amount)| **amount).map(|(holder, _)| *holder)
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.lock().total
    }

    fn release(&self, holder: K, amount: usize) {
        let mut state = self.lock();
        state.subtract(holder, amount);
        state.serve(self.most);
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Holder> State<K> {
    /// Gives the holder `amount` more, if it may have it. One look into the table: each call comes here several times.
    fn admit(&mut self, most: usize, holder: K, amount: usize) -> bool {
        let holders = self.held.len();
        let held = holder.has_share().then(|| self.held.entry(holder));
        let own = if let Some(Entry::Occupied(held)) = &held { *held.get() } else { 0 };
        let others = holders - usize::from(own > 0);
        let admitted = Holding { total: self.total, own, others }.admits(most, amount);
        if admitted {
            self.total += amount;
            if let Some(held) = held {
                *held.or_default() += amount;
            }
        }
        admitted
    }

    fn subtract(&mut self, holder: K, amount: usize) {
        self.total -= amount;
        if let Entry::Occupied(mut held) = self.held.entry(holder) {
            match *held.get() - amount {
                0 => drop(held.remove()),
                left => *held.get_mut() = left,
            }
        }
    }

    fn queue(&mut self, holder: K, amount: usize, granted: oneshot::Sender<()>) -> u64 {
        self.numbers += 1;
        let waiters = self.waiting.entry(holder).or_default();
        if waiters.is_empty() {
            self.turns.push_back(holder);
        }
        waiters.push_back(Waiter { number: self.numbers, amount, granted });
        self.numbers
    }

    /// Serves those who wait, one of each holder after the other.
    fn serve(&mut self, most: usize) {
        let mut passed = 0;
        while passed < self.turns.len() && self.total < most {
            let Some(holder) = self.turns.pop_front() else { return };
            let first = self.waiting.get(&holder).and_then(VecDeque::front).map(|first| first.amount);
            if let Some(amount) = first
                && !self.admit(most, holder, amount)
            {
                self.turns.push_back(holder);
                passed += 1;
                continue;
            }
            passed = 0;
            let Some(waiters) = self.waiting.get_mut(&holder) else { continue };
            let next = waiters.pop_front();
            match waiters.is_empty() {
                true => drop(self.waiting.remove(&holder)),
                false => self.turns.push_back(holder),
            }
            if let Some(next) = next {
                // Who has left takes it back from its own end, see `Waiting`.
                let _ = next.granted.send(());
            }
        }
    }

    /// Takes one who waits out of the queue; whether it was there.
    fn leave(&mut self, holder: K, number: u64) -> bool {
        let Some(waiters) = self.waiting.get_mut(&holder) else { return false };
        let Some(at) = waiters.iter().position(|waiter| waiter.number == number) else { return false };
        waiters.remove(at);
        if waiters.is_empty() {
            self.waiting.remove(&holder);
            self.turns.retain(|turn| *turn != holder);
        }
        true
    }
}

impl<K: Holder> Share<K> {
    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Makes it larger, if the holder may have so much more now.
    pub fn grow(&mut self, amount: usize) -> bool {
        let admitted = self.shares.lock().admit(self.shares.most, self.holder, amount);
        if admitted {
            self.amount += amount;
        }
        admitted
    }

    /// Makes it smaller, if it is larger than `amount`.
    pub fn shrink(&mut self, amount: usize) {
        let less = self.amount.saturating_sub(amount);
        self.amount -= less;
        self.shares.release(self.holder, less);
    }

    /// Whose it is.
    pub fn holder(&self) -> K {
        self.holder
    }
}

impl<K: Holder> std::fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({})", self.amount)
    }
}

impl<K: Holder> Drop for Share<K> {
    fn drop(&mut self) {
        self.shares.release(self.holder, self.amount);
    }
}

/// A place in the queue.
struct Waiting<K: Holder> {
    shares: Arc<Shares<K>>,
    holder: K,
    amount: usize,
    number: u64,
    grant: oneshot::Receiver<()>,
    is_granted: bool,
}

impl<K: Holder> Waiting<K> {
    async fn share(mut self) -> Share<K> {
        // The sender goes when it has granted, and never before.
        drop((&mut self.grant).await);
        self.is_granted = true;
        Share { shares: Arc::clone(&self.shares), holder: self.holder, amount: self.amount }
    }
}

impl<K: Holder> Drop for Waiting<K> {
    fn drop(&mut self) {
        if self.is_granted {
            return;
        }
        let mut state = self.shares.lock();
        if !state.leave(self.holder, self.number) {
            state.subtract(self.holder, self.amount);
        }
        // Others may have waited behind a larger amount than there was.
        state.serve(self.shares.most);
    }
}

#[cfg(test)]
mod tests;
