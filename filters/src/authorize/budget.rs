//! CPU time that callers use up for decisions, for lists, and for what is made of decisions later.
//!
//! Callers are counted by [`Owner`]. Their time drains at a fixed rate, and a caller above its burst is
//! asked to come again. Decisions that cost about as much as the message around them are not charged, so
//! that only who makes them dear has an account.

use crate::Owner;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Callers with an account. Who has used the least loses it when more come.
const MAX_ACCOUNTS: usize = 8_192;

/// The part of them that is forgotten at once.
const FORGOTTEN_PART: usize = 8;

/// Of what one decision may take, a caller may use this many times as much a second.
const DECISIONS_A_SECOND: u32 = 5;

/// A list may take as long as this many decisions.
const DECISIONS_A_LIST: u32 = 100;

/// Lists in a row that may take so long.
const LISTS_AT_ONCE: u32 = 2;

/// A decision that takes less than this part of what one may take is not charged.
const FREE_PART: u32 = 40;

/// What CPU time is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A decision on a message.
    Decision,
    /// A list as a caller sees it.
    List,
    /// A decision that is explained, compared or recorded after it was told.
    Sampling,
}

impl Use {
    const COUNT: usize = Use::Sampling as usize + 1;
}

/// The accounts of callers.
#[derive(Debug, Default)]
pub struct CpuBudgets {
    accounts: Mutex<HashMap<Owner, Account>>,
    /// Whether anybody has an account, which is seen without a lock.
    is_used: AtomicBool,
    ran_out: [AtomicU64; RanOut::ALL.len()],
}

/// What ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RanOut {
    /// One decision.
    Decision,
    /// The budget of a caller.
    Caller,
    /// A list as a whole.
    List,
}

impl RanOut {
    /// Each of them.
    pub const ALL: [RanOut; 3] = [RanOut::Decision, RanOut::Caller, RanOut::List];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RanOut::Decision => "decision",
            RanOut::Caller => "caller",
            RanOut::List => "list",
        }
    }
}

/// What one caller has used, by what for.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// By [`Use`].
    used: [Duration; Use::COUNT],
    /// Monotonic time at which that was so.
    at: Duration,
}

/// Budgets that follow from what one decision may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) limit: Duration,
}

impl Rates {
    fn a_second(self) -> Duration {
        self.limit * DECISIONS_A_SECOND
    }

    fn burst(self, purpose: Use) -> Duration {
        match purpose {
            Use::Decision | Use::Sampling => self.a_second(),
            Use::List => self.a_list() * LISTS_AT_ONCE,
        }
    }

    pub(super) fn a_list(self) -> Duration {
        self.limit * DECISIONS_A_LIST
    }

    pub(super) fn is_free(self, spent: Duration) -> bool {
        spent < self.limit / FREE_PART
    }
}

impl Account {
    /// The same at `now`.
    fn drained(self, rates: Rates, now: Duration) -> Account {
        let passed = now.saturating_sub(self.at).as_secs_f64().min(1e6);
        let drained = rates.a_second().mul_f64(passed);
        Account { used: self.used.map(|used| used.saturating_sub(drained)), at: self.at.max(now) }
    }

    fn used(&self, purpose: Use) -> Duration {
        self.used[purpose as usize]
    }

    fn total(&self) -> Duration {
        self.used.iter().sum()
    }
}

impl CpuBudgets {
    /// For how long a caller is to wait at `now`, a monotonic time, before it may use more.
    ///
    /// # Errors
    /// That time, at least a millisecond.
    pub(super) fn admit(
        &self,
        owner: impl FnOnce() -> Owner,
        (purpose, rates): (Use, Rates),
        now: Duration,
    ) -> Result<(), Duration> {
        if !self.is_used.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(account) = self.lock().get(&owner()).map(|account| account.drained(rates, now)) else {
            return Ok(());
        };
        let above = account.used(purpose).saturating_sub(rates.burst(purpose));
        if account.used(purpose) < rates.burst(purpose) {
            return Ok(());
        }
        let seconds = above.as_secs_f64() / rates.a_second().as_secs_f64();
        Err(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
    }

    /// Notes that a caller has used some.
    pub(super) fn charge(
        &self,
        owner: Owner,
        (purpose, rates): (Use, Rates),
        (spent, now): (Duration, Duration),
    ) {
        let mut accounts = self.lock();
        if accounts.len() >= MAX_ACCOUNTS && !accounts.contains_key(&owner) {
            make_room(&mut accounts, rates, now);
        }
        let account = accounts.entry(owner).or_default();
        *account = account.drained(rates, now);
        account.used[purpose as usize] += spent;
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Notes that something ran out of time.
    pub fn ran_out(&self, what: RanOut) {
        self.ran_out[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each thing ran out of time since this was asked last.
    pub fn take_ran_out(&self) -> [(RanOut, u64); RanOut::ALL.len()] {
        RanOut::ALL.map(|what| (what, self.ran_out[what as usize].swap(0, Ordering::Relaxed)))
    }

    /// Callers with an account.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the callers who have nothing to pay at `now`, where one decision may take `limit`.
    pub fn sweep(&self, limit: Duration, now: Duration) {
        if self.is_used.load(Ordering::Relaxed) {
            let mut accounts = self.lock();
            accounts.retain(|_, account| !account.drained(Rates { limit }, now).total().is_zero());
            self.is_used.store(!accounts.is_empty(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets who has nothing to pay, else those who used the least: a part at once, since looking for them
/// costs a look at all.
fn make_room(accounts: &mut HashMap<Owner, Account>, rates: Rates, now: Duration) {
    accounts.retain(|_, account| !account.drained(rates, now).total().is_zero());
    if accounts.len() >= MAX_ACCOUNTS {
        let mut totals: Vec<Duration> =
            accounts.values().map(|account| account.drained(rates, now).total()).collect();
        let (_, limit, _) = totals.select_nth_unstable(MAX_ACCOUNTS / FORGOTTEN_PART);
        let (limit, mut left) = (*limit, MAX_ACCOUNTS / FORGOTTEN_PART);
        accounts.retain(|_, account| {
            let goes = left > 0 && account.drained(rates, now).total() <= limit;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { limit: Duration::from_millis(10) };
    const MS: Duration = Duration::from_millis(1);

    fn at(address: &str) -> Owner {
        Owner::at(address.parse().unwrap())
    }

    #[test]
    fn who_has_used_up_its_budget_waits_until_it_has_drained_and_nobody_else_does() {
        let budgets = CpuBudgets::default();
        let may = |address, purpose, now| budgets.admit(|| at(address), (purpose, RATES), now);
        for _ in 0..6 {
            budgets.charge(at("10.0.0.1"), (Use::Decision, RATES), (10 * MS, Duration::ZERO));
        }
        let wait = may("10.0.0.1", Use::Decision, Duration::ZERO).unwrap_err();
        assert_eq!(wait, 200 * MS, "10 ms too much, at 50 ms a second");
        assert!(may("10.0.0.1", Use::Decision, wait + MS).is_ok());
        assert!(may("10.0.0.2", Use::Decision, Duration::ZERO).is_ok(), "another caller");
        assert!(may("10.0.0.1", Use::List, Duration::ZERO).is_ok(), "lists are counted apart");
        budgets.charge(at("10.0.0.1"), (Use::List, RATES), (2_000 * MS, Duration::ZERO));
        assert!(may("10.0.0.1", Use::List, Duration::ZERO).is_err());
        budgets.sweep(RATES.limit, Duration::from_secs(39));
        assert_eq!(budgets.len(), 1);
        budgets.sweep(RATES.limit, Duration::from_secs(41));
        assert!(budgets.is_empty());
    }

    #[test]
    fn the_dearest_callers_keep_their_accounts() {
        let budgets = CpuBudgets::default();
        let number = |number: usize| at(&format!("10.0.{}.{}", number / 256, number % 256));
        budgets.charge(at("10.9.9.9"), (Use::Decision, RATES), (90 * MS, Duration::ZERO));
        for each in 0..MAX_ACCOUNTS + 100 {
            budgets.charge(number(each), (Use::Decision, RATES), (MS, Duration::ZERO));
        }
        assert!((MAX_ACCOUNTS / 2..=MAX_ACCOUNTS).contains(&budgets.len()), "{}", budgets.len());
        assert!(budgets.admit(|| at("10.9.9.9"), (Use::Decision, RATES), Duration::ZERO).is_err());
    }
}
