//! Limits: how much of what callers may use, in calls.
//!
//! A rule counts calls by a key in a [`Meter`]: a rate, a quota of the calendar, calls at once, or the same call again. All
//! rules of a call are asked before any of them counts it, and the one whose wait is longest answers. Counts are kept in
//! [`Counters`], which outlive the configuration; a request that is not sent gives back what it was counted.

mod counters;
mod gcra;
mod key;
mod meter;
mod refusal;
mod rule;
mod stored;
#[cfg(test)]
mod tests;
mod window;

pub use counters::{Counters, RuleCounters, RuleOutcome};
pub use gcra::Gcra;
pub use meter::{ClockReading, Meter, show_money};
pub use refusal::ReachedLimit;
pub use rule::{Exception, KeyPart, Match, Mode, Rule, ToolPattern, Unit};
pub use stored::NotOurs;
pub use window::Period;

use crate::call::{Call, Verdict};
use crate::filter::{Filter, Needs};
use crate::message::Kind;
use crate::pipeline::{Admission, Hold};
use counters::{CountId, KeyCount};
use key::{Key, Keys};
use meter::NoRoom;
use portunus_base::{Clock, Denial};
use refusal::{denial, shown_key};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The filter of limits.
pub struct Limits {
    rules: Vec<ActiveRule>,
    digest_key: [u64; 2],
    clock: Arc<dyn Clock>,
}

/// A rule with its counts.
pub struct ActiveRule {
    /// The rule.
    pub rule: Rule,
    /// Its counts.
    pub counters: Arc<RuleCounters>,
    /// Changes of its rate before this one.
    epoch: u64,
}

impl Limits {
    /// The filter of `rules`, which go on with the counts that they have; each has room for `most_keys`.
    pub fn new(rules: &[Rule], most_keys: usize, counters: &Counters, clock: Arc<dyn Clock>) -> Limits {
        let now = ClockReading::from(clock.now());
        let active = |rule: &Rule| {
            let (counters, epoch) = counters.of_rule(&rule.name, (rule.shape(), rule.meter), most_keys, now);
            ActiveRule { rule: rule.clone(), counters, epoch }
        };
        let active: Vec<ActiveRule> = rules.iter().map(active).collect();
        counters.retain(|name| rules.iter().any(|rule| &*rule.name == name));
        Limits { rules: active, digest_key: counters.digest_key(), clock }
    }

    /// The rules in force, in the order of the document.
    pub fn rules(&self) -> &[ActiveRule] {
        &self.rules
    }
}

impl Filter for Limits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn is_on(&self) -> bool {
        !self.rules.is_empty()
    }

    fn needs(&self) -> Needs {
        // A name that no list has would be a key of its own.
        let counts_tools = |active: &ActiveRule| active.rule.key.contains(&KeyPart::Tool);
        match self.is_on() {
            true if self.rules.iter().any(counts_tools) => Needs::Definition,
            true => Needs::Facts,
            false => Needs::Name,
        }
    }

    fn applies(&self, _: Kind) -> bool {
        false
    }

    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Ok(())
    }

    fn admit(&self, call: &Call<'_>) -> Result<Admission, Denial> {
        let Some(method) = call.message.method.as_ref().filter(|_| call.message.kind == Kind::Request) else {
            return Ok(Admission::Free);
        };
        let method = method.name();
        let Some(unit) = Unit::of_method(method) else { return Ok(Admission::Free) };
        let now = self.clock.now();
        let mut keys = Keys::new(call, method, self.digest_key);
        let mut found: Vec<ApplicableRule<'_>> = Vec::new();
        // Loops come last: the arguments of a call that is refused anyway are not read.
        for reads_arguments in [false, true] {
            let asked = found.len();
            let meets = |active: &&ActiveRule| active.rule.meter.reads_arguments() == reads_arguments;
            for active in self.rules.iter().filter(meets) {
                let amount = active.rule.meter.amount(call.cost_micros());
                if amount > 0 && active.rule.applies(call, (unit, method), now) {
                    keys.each(&active.rule, |key| found.push(ApplicableRule { active, key, amount }));
                }
            }
            // One rule is asked when it counts, which costs half.
            let is_one = found.len() == 1 && self.rules.len() == 1;
            if !is_one && let Some((found, reached)) = tightest(&found[asked..], now.into()) {
                return Err(found.refuse(reached, (call, method)));
            }
        }
        match found.is_empty() {
            true => Ok(Admission::Free),
            false => self.count(&found, (call, method), now.into()),
        }
    }
}

impl Limits {
    /// Counts a call by all rules that found room for it. Another call may have taken it meanwhile: then none counts it.
    fn count(
        &self,
        found: &[ApplicableRule<'_>],
        (call, method): (&Call<'_>, &str),
        now: ClockReading,
    ) -> Result<Admission, Denial> {
        let mut hold = LimitHold {
            charges: Vec::with_capacity(found.len()),
            observed: Vec::new(),
            clock: Arc::clone(&self.clock),
            committed: AtomicBool::new(false),
            is_suspended: AtomicBool::new(false),
        };
        for found in found {
            match found.charge((call, method), now) {
                Ok(charge) => hold.charges.push(charge),
                Err(_) if found.active.rule.mode == Mode::Observe => {
                    let name = &found.active.rule.name;
                    if hold.observed.last() != Some(name) {
                        hold.observed.push(Arc::clone(name));
                    }
                }
                // The charges before it are given back with the hold.
                Err(reached) => return Err(found.refuse(reached, (call, method))),
            }
        }
        note_outcomes(found, &hold.observed);
        Ok(Admission::Granted(Box::new(hold)))
    }
}

/// A rule that counts a call, and the key that it counts it by.
struct ApplicableRule<'r> {
    active: &'r ActiveRule,
    key: Key,
    amount: u64,
}

impl ApplicableRule<'_> {
    fn refuse(&self, reached: NoRoom, (call, method): (&Call<'_>, &str)) -> Denial {
        self.active.counters.note(RuleOutcome::Refused);
        denial(&self.active.rule, reached, call, method)
    }

    fn charge(&self, (call, method): (&Call<'_>, &str), now: ClockReading) -> Result<Charge, NoRoom> {
        let ActiveRule { rule, counters, epoch } = self.active;
        let meter = counters.meter_now(rule.meter, *epoch);
        let amount = self.amount;
        let (mut then, mut is_nearly_spent) = (KeyCount::default(), false);
        let id = counters.charge(self.key, (meter, now), |slot| {
            is_nearly_spent = meter.charge(slot, amount, now)?;
            then = *slot;
            Ok(())
        })?;
        if is_nearly_spent {
            counters.note_nearly_spent(|| shown_key(rule, call, method));
        }
        Ok(Charge { counters: Arc::clone(counters), meter, id, amount, then })
    }
}

/// Notes what each rule did with a call that goes on. A rule that counts it by several keys does so once.
fn note_outcomes(found: &[ApplicableRule<'_>], observed: &[Arc<str>]) {
    for rule in found.chunk_by(|one, next| std::ptr::eq(one.active, next.active)) {
        let Some(ApplicableRule { active, .. }) = rule.first() else { continue };
        let is_observed = observed.contains(&active.rule.name);
        active.counters.note(if is_observed { RuleOutcome::Observed } else { RuleOutcome::Allowed });
    }
}

/// The enforced rule that has no room and makes the call wait longest.
fn tightest<'f, 'r>(
    found: &'f [ApplicableRule<'r>],
    now: ClockReading,
) -> Option<(&'f ApplicableRule<'r>, NoRoom)> {
    let reached = found.iter().filter(|found| found.active.rule.mode == Mode::Enforce).filter_map(|found| {
        let ActiveRule { rule, counters, epoch } = found.active;
        let meter = counters.meter_now(rule.meter, *epoch);
        let charge = |slot: &mut KeyCount| meter.charge(slot, found.amount, now).map(drop);
        Some((found, counters.try_charge(found.key, (meter, now), charge).err()?))
    });
    reached.max_by_key(|(_, reached)| reached.wait)
}

/// The charges and permits of one request. Dropped before it is committed it gives back all of it, and afterwards
/// the permits.
struct LimitHold {
    charges: Vec<Charge>,
    /// Observed rules that would have refused it.
    observed: Vec<Arc<str>>,
    clock: Arc<dyn Clock>,
    committed: AtomicBool,
    /// The permits are free while the request waits for its client.
    is_suspended: AtomicBool,
}

struct Charge {
    counters: Arc<RuleCounters>,
    meter: Meter,
    id: CountId,
    amount: u64,
    /// The slot as it was afterwards.
    then: KeyCount,
}

impl Hold for LimitHold {
    fn commit(&self) {
        self.committed.store(true, Ordering::Release);
    }

    fn suspend(&self) {
        if !self.is_suspended.swap(true, Ordering::AcqRel) {
            self.give_back(|charge| charge.meter.is_permit());
        }
    }

    fn resume(&self) {
        if self.is_suspended.swap(false, Ordering::AcqRel) {
            let permits = self.charges.iter().filter(|charge| charge.meter.is_permit());
            permits.for_each(|charge| charge.counters.add(charge.id, charge.amount));
        }
    }

    fn observed(&self) -> &[Arc<str>] {
        &self.observed
    }
}

impl LimitHold {
    fn give_back(&self, is_meant: impl Fn(&Charge) -> bool) {
        let mut meant = self.charges.iter().filter(|charge| is_meant(charge)).peekable();
        if meant.peek().is_none() {
            return;
        }
        let now = ClockReading::from(self.clock.now());
        for Charge { counters, meter, id, amount, then } in meant {
            counters.give_back(*id, (*meter, now), |slot| meter.refund(slot, (*amount, *then), now));
        }
    }
}

impl Drop for LimitHold {
    fn drop(&mut self) {
        let (committed, is_suspended) = (*self.committed.get_mut(), *self.is_suspended.get_mut());
        self.give_back(|charge| if charge.meter.is_permit() { !is_suspended } else { !committed });
    }
}
