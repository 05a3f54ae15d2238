//! What was decided of a message: for its record, for metrics, and for who has to explain it.

use crate::authorize::{Class, Decision, Entry, Explanation, Fault};
use crate::facts::ToolFacts;
use portunus_base::Denial;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A decision and what it was about.
#[derive(Debug, Default)]
pub struct DecisionRecord {
    /// What the policy said; `None` where there is none.
    pub policy: Option<PolicyResult>,
    /// What is known of the tool, for calls of one.
    pub facts: Option<Arc<ToolFacts>>,
    /// Which demand stood in the way beside the policy: `scopes`, `step_up` and the like.
    pub unmet: Option<&'static str>,
    /// Why the caller calls, as it says.
    pub justification: Option<Arc<str>>,
    /// Somebody is told.
    pub alert: bool,
    /// The price of the call, in millionths of the configuration's currency.
    pub cost_micros: Option<u64>,
    /// What is done with the question later.
    pub sampled: Sampled,
    /// The question, for whoever does that: taken once, since payload is in it.
    pub question: SampledInput,
    /// How the refusal came about, once that was looked at.
    pub explained: OnceLock<Explanation>,
}

/// What is done with a question after it was answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampled {
    /// The policy that is tried is asked too.
    pub tried: bool,
    /// It is recorded.
    pub recorded: bool,
}

/// The whole input document of a question as JSON text, for one taker.
#[derive(Debug, Default)]
pub struct SampledInput(Mutex<Option<String>>);

impl SampledInput {
    pub(crate) fn of(input: Option<String>) -> SampledInput {
        SampledInput(Mutex::new(input))
    }

    /// The text, to who asks first.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Chooses one of every so many.
#[derive(Debug, Default)]
pub struct Sampler {
    every: AtomicU32,
    seen: AtomicU32,
}

impl Sampler {
    /// One that chooses one of `every`; 0 chooses none.
    pub fn one_of(every: u32) -> Sampler {
        Sampler { every: AtomicU32::new(every), seen: AtomicU32::new(0) }
    }

    /// Chooses one of `every` from now on; 0 chooses none.
    pub fn set(&self, every: u32) {
        self.every.store(every, Ordering::Relaxed);
    }

    pub(crate) fn chooses(&self) -> bool {
        match self.every.load(Ordering::Relaxed) {
            0 => false,
            every => self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(every),
        }
    }
}

/// What a policy said.
#[derive(Clone, Debug)]
pub struct PolicyResult {
    /// The rule that was asked.
    pub entry: Entry,
    /// What it depends on.
    pub class: Class,
    /// Its answer.
    pub decision: Decision,
}

impl DecisionRecord {
    /// The account that a refusal carries.
    pub fn of_refusal(denial: &Denial) -> Option<Arc<DecisionRecord>> {
        denial.account()
    }

    /// The rule that decided, for records: the entry point, or the demand that was not met.
    pub fn rule(&self) -> Option<&'static str> {
        self.unmet.or_else(|| self.policy.as_ref().map(|policy_result| policy_result.entry.as_str()))
    }

    /// What the policy says, in its own words.
    pub fn reason(&self) -> Option<&Arc<str>> {
        self.policy
            .as_ref()
            .map(|policy_result| &policy_result.decision.ruling.reason)
            .filter(|reason| !reason.is_empty())
    }

    /// Why the policy gave no decision.
    pub fn fault(&self) -> Option<&Fault> {
        self.policy.as_ref()?.decision.ruling.fault.as_ref()
    }

    /// The names of the obligations of the call.
    pub fn obligations(&self) -> Vec<&'static str> {
        let Some(policy_result) = &self.policy else { return Vec::new() };
        let asked = &policy_result.decision.ruling.obligations;
        let named = [
            ("redact", !asked.redact.is_empty()),
            ("inject", !asked.inject.is_empty()),
            ("approve", asked.approve.is_some()),
            ("step_up", asked.step_up.is_some()),
            ("audit", asked.audit_strict),
            ("capture", asked.capture_full),
            ("alert", asked.alert),
            ("cost", asked.cost.is_some()),
            ("max_result_bytes", asked.max_result_bytes.is_some()),
        ];
        named.into_iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| name).collect()
    }
}
