//! Counts calls and money in the state of a key, by each kind of limit.

use super::counters::KeyCount;
use super::gcra::Gcra;
use super::window::Period;
use chrono_tz::Tz;
use portunus_base::{Moment, Reason};
use std::time::Duration;

/// One reading of the clocks, as counts take it.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    pub(super) monotonic_ns: u64,
    pub(super) wall: Duration,
}

impl From<Moment> for ClockReading {
    fn from(now: Moment) -> ClockReading {
        ClockReading {
            monotonic_ns: u64::try_from(now.monotonic.as_nanos()).unwrap_or(u64::MAX),
            wall: now.wall,
        }
    }
}

/// How a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// So many per time, with a burst.
    Rate(Gcra),
    /// So many in each window of the calendar.
    Quota {
        /// How many.
        most: u64,
        /// The window.
        period: Period,
        /// The zone whose clock ends it.
        zone: Tz,
    },
    /// So many at once.
    Concurrency {
        /// How many.
        most: u64,
    },
    /// The same tool with the same arguments so many times per time.
    Loop(Gcra),
    /// So much money in each window of the calendar.
    Budget {
        /// How much, in millionths of the author's currency.
        most_micros: u64,
        /// The window.
        period: Period,
        /// The zone whose clock ends it.
        zone: Tz,
    },
    /// So much money for one call.
    Ceiling {
        /// How much, in millionths of the author's currency.
        most_micros: u64,
    },
}

/// A limit that has no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub(super) wait: Wait,
    /// How many are counted now, or millionths of money.
    pub(super) spent: u64,
}

/// The time until a limit has room again, the shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Until another call ends.
    Unknown,
    Known(Duration),
    /// It never has room for this call.
    Endless,
}

/// The bit of a budget's spending that says that four fifths of it were told of.
const IS_TOLD: u64 = 1 << 63;

impl Meter {
    /// The reason of its refusals.
    pub fn reason(self) -> Reason {
        match self {
            Meter::Rate(_) => Reason::RateLimited,
            Meter::Quota { .. } => Reason::QuotaSpent,
            Meter::Concurrency { .. } => Reason::ConcurrencyReached,
            Meter::Loop(_) => Reason::LoopDetected,
            Meter::Budget { .. } | Meter::Ceiling { .. } => Reason::BudgetSpent,
        }
    }

    /// True if the counts of one are counts of the other, whatever their limits.
    pub(super) fn counts_as(self, other: Meter) -> bool {
        match (self, other) {
            (Meter::Quota { period, zone, .. }, Meter::Quota { period: other, zone: elsewhere, .. })
            | (Meter::Budget { period, zone, .. }, Meter::Budget { period: other, zone: elsewhere, .. }) => {
                (period, zone) == (other, elsewhere)
            }
            _ => std::mem::discriminant(&self) == std::mem::discriminant(&other),
        }
    }

    /// As how much it counts a call of this price.
    pub(super) fn amount(self, cost_micros: u64) -> u64 {
        match self {
            Meter::Budget { .. } | Meter::Ceiling { .. } => cost_micros,
            Meter::Rate(_) | Meter::Quota { .. } | Meter::Concurrency { .. } | Meter::Loop(_) => 1,
        }
    }

    /// Counts a call as `amount`; true if that spends four fifths of a budget for the first time in its window.
    pub(super) fn charge(self, slot: &mut KeyCount, amount: u64, now: ClockReading) -> Result<bool, NoRoom> {
        match self {
            Meter::Rate(gcra) | Meter::Loop(gcra) => {
                let reached = |wait_ns| NoRoom {
                    wait: Wait::Known(Duration::from_nanos(wait_ns)),
                    spent: gcra.spent(slot.first, now.monotonic_ns),
                };
                slot.first = gcra.admit(slot.first, now.monotonic_ns).map_err(reached)?;
            }
            Meter::Quota { most, period, zone } => {
                self.charge_window(slot, (amount, most), (period, zone, now))?
            }
            Meter::Budget { most_micros, period, zone } => {
                let is_told = slot.second & IS_TOLD;
                slot.second -= is_told;
                let window = slot.first;
                let charged = self.charge_window(slot, (amount, most_micros), (period, zone, now));
                let is_told = if slot.first == window { is_told } else { 0 };
                let tells = is_told == 0 && slot.second >= most_micros - most_micros / 5;
                slot.second |= if tells { IS_TOLD } else { is_told };
                charged?;
                return Ok(tells);
            }
            Meter::Concurrency { most } => {
                if slot.second >= most {
                    return Err(NoRoom { wait: Wait::Unknown, spent: slot.second });
                }
                slot.second += 1;
            }
            Meter::Ceiling { most_micros } => {
                if amount > most_micros {
                    return Err(NoRoom { wait: Wait::Endless, spent: amount });
                }
            }
        }
        Ok(false)
    }

    fn charge_window(
        self,
        slot: &mut KeyCount,
        (amount, most): (u64, u64),
        (period, zone, now): (Period, Tz, ClockReading),
    ) -> Result<(), NoRoom> {
        if self.owes_nothing(*slot, now) {
            *slot = KeyCount { first: period.end_s(zone, now.wall), second: 0 };
        }
        if amount > most.saturating_sub(slot.second) {
            let until_end = Duration::from_secs(slot.first).saturating_sub(now.wall);
            let wait = if amount > most { Wait::Endless } else { Wait::Known(until_end) };
            return Err(NoRoom { wait, spent: slot.second });
        }
        slot.second += amount;
        Ok(())
    }

    /// Takes a call back that was counted as `amount` and after which the slot was `then`, as far as it is still counted.
    pub(super) fn refund(self, slot: &mut KeyCount, (amount, then): (u64, KeyCount), now: ClockReading) {
        match self {
            Meter::Rate(gcra) | Meter::Loop(gcra) => {
                let then = (then.first, then.second);
                (slot.first, slot.second) = gcra.refund((slot.first, slot.second), then, now.monotonic_ns);
            }
            Meter::Quota { .. } | Meter::Budget { .. } if slot.first != then.first => {}
            Meter::Quota { .. } | Meter::Budget { .. } | Meter::Concurrency { .. } => {
                let is_told = slot.second & IS_TOLD;
                slot.second = (slot.second - is_told).saturating_sub(amount) | is_told;
            }
            Meter::Ceiling { .. } => {}
        }
    }

    /// True if what it counts is held as long as the request lasts.
    pub(super) fn is_permit(self) -> bool {
        matches!(self, Meter::Concurrency { .. })
    }

    /// True if its keys are digests of arguments.
    pub(super) fn reads_arguments(self) -> bool {
        matches!(self, Meter::Loop(_))
    }

    /// True if its state is a time that follows from its rate.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Meter::Rate(_) | Meter::Loop(_))
    }

    /// True if a key is as one that was never counted.
    pub(super) fn owes_nothing(self, slot: KeyCount, now: ClockReading) -> bool {
        match self {
            Meter::Rate(_) | Meter::Loop(_) => slot.first.saturating_add(slot.second) <= now.monotonic_ns,
            // A window that ends later than any can was begun by a clock that was wrong.
            Meter::Quota { period, .. } | Meter::Budget { period, .. } => {
                let now_s = now.wall.as_secs();
                slot.first <= now_s || slot.first > now_s + period.longest_s()
            }
            Meter::Concurrency { .. } => slot.second == 0,
            Meter::Ceiling { .. } => true,
        }
    }

    /// True if it refuses nothing that `other` does not refuse as well, where both count the same calls.
    pub fn never_binds_beside(self, other: Meter) -> bool {
        let counts_alike = self.counts_as(other);
        match (self, other) {
            (Meter::Rate(own), Meter::Rate(other)) | (Meter::Loop(own), Meter::Loop(other)) => {
                own.admits_all_of(other)
            }
            (Meter::Quota { most, .. }, Meter::Quota { most: other, .. }) => counts_alike && most >= other,
            (Meter::Budget { most_micros, .. }, Meter::Budget { most_micros: other, .. }) => {
                counts_alike && most_micros >= other
            }
            (Meter::Concurrency { most }, Meter::Concurrency { most: other })
            | (Meter::Ceiling { most_micros: most }, Meter::Ceiling { most_micros: other }) => most >= other,
            _ => false,
        }
    }

    /// How much is left where so much is spent and a call was refused.
    pub(super) fn remaining(self, spent: u64) -> u64 {
        match self {
            Meter::Budget { most_micros, .. } => most_micros.saturating_sub(spent),
            Meter::Ceiling { most_micros } => most_micros,
            Meter::Rate(_) | Meter::Quota { .. } | Meter::Concurrency { .. } | Meter::Loop(_) => 0,
        }
    }

    /// An amount for people: a number of calls, or money.
    pub(super) fn shown_amount(self, amount: u64) -> String {
        match self {
            Meter::Budget { .. } | Meter::Ceiling { .. } => show_money(amount),
            Meter::Rate(_) | Meter::Quota { .. } | Meter::Concurrency { .. } | Meter::Loop(_) => {
                amount.to_string()
            }
        }
    }

    /// A slot of `before` with as many spent.
    pub(super) fn rescaled(self, before: Meter, slot: KeyCount, now: ClockReading) -> KeyCount {
        match (before, self) {
            (Meter::Rate(before), Meter::Rate(after)) | (Meter::Loop(before), Meter::Loop(after)) => {
                KeyCount { first: after.rescaled(before, slot.first, now.monotonic_ns), second: 0 }
            }
            _ => slot,
        }
    }
}

/// Shows millionths as `$0.05`.
pub fn show_money(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
    let digits = format!("{rest:06}");
    match digits.trim_end_matches('0') {
        "" => format!("${whole}"),
        short => format!("${whole}.{short:0<2}"),
    }
}
