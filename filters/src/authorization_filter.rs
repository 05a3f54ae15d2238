//! Asks policy about each message, and applies the decision.
//!
//! The policy itself is in [`crate::authorize`]; here is which question a message is, what beside the
//! policy may stand in its way, and what is done with a message and its answer because of it. The same
//! filter says what lists show, so that what a caller sees and what it may do never fall apart.

mod about;
mod answer;
mod edits;
mod task;
#[cfg(test)]
mod tests;
mod texts;
mod visibility;

pub use about::{JUSTIFICATION, RUN};
pub use visibility::{Item, ListItem, Lookup, Viewer, Visibility};

use crate::authorize::{
    Class, Context, CpuBudgets, Decision, DecisionCache, Entry, Fault, Mcp, Memory, Obligations, Policy,
    Question, StepUp, Threat, Tool, Use,
};
use crate::call::{AnswerRules, Call, KnownTool, TaskCall, Verdict};
use crate::controls::{Controls, Demands};
use crate::decision_record::{DecisionRecord, PolicyResult, Sampled, SampledInput, Sampler};
use crate::facts::{ToolFacts, Unmet};
use crate::filter::{Filter, Needs};
use crate::identity::{AuthMethod, Identity, Principal};
use crate::mcp::rewrite::string;
use crate::message::{Arrival, Kind};
use about::About;
use portunus_base::{Denial, Reason};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Characters of a policy's reason that a client is told.
const MAX_REASON: usize = 500;

/// Who asks where nobody is known.
static NOBODY: LazyLock<Principal> = LazyLock::new(|| {
    let nobody = Principal { auth: AuthMethod::Anonymous, ..Principal::named("", "") };
    nobody.with_digest()
});

/// What every message has to pass.
#[derive(Debug, Default)]
pub struct AuthorizationFilter {
    rules: Option<Rules>,
    controls: Option<Controls>,
    /// Something is known of tools.
    rated: bool,
    /// Which questions the policy that is tried is asked too.
    tried: Sampler,
    /// Which questions are recorded.
    recorded: Arc<Sampler>,
}

/// The policy in force.
#[derive(Debug)]
pub struct Rules {
    /// Its rules.
    pub policy: Arc<Policy>,
    /// What it said before.
    pub decisions: Arc<DecisionCache>,
    /// CPU time that callers have used.
    pub budgets: Arc<CpuBudgets>,
    /// What lists show.
    pub lists: Lists,
    /// Whether callers are told the reason that the policy gives.
    pub reasons_to_client: bool,
}

/// What lists show to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// What the entry point `visible` says.
    Visible,
    /// What the entry point `decision` allows.
    Decision,
    /// Everything.
    Show,
    /// What `decision` allows when it is asked without arguments.
    WithoutArguments,
}

/// An obstacle to a call beside the policy: the name of the demand that it does not meet, and how it is told.
type Obstacle = (&'static str, Denial);

/// Who asks for what, with which reason.
struct Asking<'a> {
    principal: &'a Principal,
    facts: Option<&'a ToolFacts>,
    obligations: &'a Obligations,
    is_justified: bool,
}

/// A question to the policy, and what it says.
struct Asked<'a> {
    asked: Question<'a>,
    policy_result: Option<PolicyResult>,
    /// Rules of the call beside those of the message.
    answer: AnswerRules,
}

impl AuthorizationFilter {
    /// A filter that asks `rules`, and holds tools to what `controls` ask of their risk and, if any is
    /// `rated`, to what is known of them.
    pub fn new(rules: Option<Rules>, controls: Option<Controls>, rated: bool) -> AuthorizationFilter {
        AuthorizationFilter { rules, controls, rated, ..AuthorizationFilter::default() }
    }

    /// The same, of whose questions one of `tried` is asked of another policy too, and some are
    /// `recorded`.
    #[must_use]
    pub fn with_sampling(self, tried: u32, recorded: Arc<Sampler>) -> AuthorizationFilter {
        AuthorizationFilter { tried: Sampler::one_of(tried), recorded, ..self }
    }

    /// The policy that is asked, if one is.
    pub fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    /// Whether anything is asked of messages beyond what their servers ask.
    pub fn governs(&self) -> bool {
        self.rules.is_some() || self.controls.is_some() || self.rated
    }

    /// Whether the policy reads a part of the input, written as `input.…`.
    pub fn reads(&self, place: &str) -> bool {
        let Some(rules) = &self.rules else { return false };
        let within = |read: &String| {
            read == "input" || read == place || read.starts_with(&format!("{place}.")) || {
                place.strip_prefix(read.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
        };
        Entry::ALL.iter().any(|entry| rules.policy.reads(*entry).iter().any(within))
    }

    /// What is to be looked at later: every refusal, and some of the rest.
    fn sampled(
        &self,
        question: &Question<'_>,
        policy_result: Option<&PolicyResult>,
    ) -> (Sampled, SampledInput) {
        let (Some(rules), Some(policy_result)) = (&self.rules, policy_result) else {
            return Default::default();
        };
        // What took too long once is not worked out again, which is what each of these does.
        if policy_result.decision.fault.as_ref().is_some_and(Fault::is_of_time) {
            return Default::default();
        }
        let sampled = Sampled { tried: self.tried.chooses(), recorded: self.recorded.chooses() };
        let wanted = sampled.tried || sampled.recorded || !policy_result.decision.allow;
        let input = || rules.policy.input(policy_result.entry, question);
        (sampled, SampledInput::of(wanted.then(input).flatten()))
    }

    fn ruled(&self, question: &Question<'_>) -> Option<PolicyResult> {
        let rules = self.rules.as_ref()?;
        Some(rules.ask(Entry::Decision, question))
    }

    fn denied(&self, policy_result: &PolicyResult) -> Denial {
        let ruling = &policy_result.decision.ruling;
        match &ruling.fault {
            Some(Fault::Unreadable(fault)) => about::wrong(fault),
            Some(Fault::OverBudget(wait)) => limited(*wait),
            Some(Fault::TooLong) => {
                Denial::new(Reason::PolicyError, "the policy took too long to decide, so this is refused")
            }
            Some(_) => Denial::new(Reason::PolicyError, "the policy gave no decision, so this is refused"),
            None => {
                let told = self.rules.as_ref().is_some_and(|rules| rules.reasons_to_client);
                match told && !ruling.reason.is_empty() {
                    true => {
                        let reason: String = ruling.reason.chars().take(MAX_REASON).collect();
                        Denial::new(Reason::Forbidden, reason)
                    }
                    false => Denial::new(Reason::Forbidden, "the policy does not allow this"),
                }
            }
        }
    }
}

impl AuthorizationFilter {
    /// Asks the policy. Of a task it is asked of the call first, since a rule may speak of
    /// `tools/call` alone; where it allows no such call, it allows nothing about its task.
    fn asked<'a>(&self, asked: Question<'a>, is_of_task: bool) -> Asked<'a> {
        if !is_of_task {
            return Asked { policy_result: self.ruled(&asked), asked, answer: AnswerRules::default() };
        }
        let mut as_call = asked;
        as_call.mcp.method = "tools/call";
        match self.ruled(&as_call) {
            Some(policy_result) if !policy_result.decision.allow => {
                Asked { asked: as_call, policy_result: Some(policy_result), answer: AnswerRules::default() }
            }
            policy_result => {
                let obligations = policy_result
                    .map(|policy_result| AnswerRules::of(&policy_result.decision.ruling.obligations));
                Asked { policy_result: self.ruled(&asked), asked, answer: obligations.unwrap_or_default() }
            }
        }
    }

    /// Whether policy reads the arguments of calls.
    pub fn reads_arguments(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.policy.reads_arguments(Entry::Decision))
    }

    /// The first demand that is not met: of the facts of the tool, of the controls of its risk, or of what the policy asks to
    /// be done first.
    fn obstacle(&self, call: &Call<'_>, asking: &Asking<'_>) -> Option<Obstacle> {
        let demands = self.demands(asking.facts);
        let principal = asking.principal;
        if demands.authentication && principal.auth == AuthMethod::Anonymous {
            let detail = "this tool is for verified callers only";
            return Some(("authentication", Denial::new(Reason::Unauthenticated, detail)));
        }
        if demands.policy && self.rules.is_none() {
            let detail = "this tool asks for a policy that allows it, and none is in force";
            return Some(("policy", Denial::new(Reason::Forbidden, detail)));
        }
        let now = call.arrival.at.wall;
        let auth_time = principal.auth_time.map(Duration::from_secs);
        if let Some(unmet) = asking.facts.and_then(|facts| facts.unmet(&principal.scopes, auth_time, now)) {
            return Some(of_facts(&unmet));
        }
        let asked = asking.obligations.step_up.as_ref();
        let is_weak = demands.step_up && !principal.mfa;
        if is_weak || asked.is_some_and(|wanted| !has_stepped_up(wanted, principal, now)) {
            return Some(("step_up", stepping_up(&asked.cloned().unwrap_or_default())));
        }
        if demands.justification && !asking.is_justified {
            let detail = format!("this tool asks why it is called: say so in `_meta[\"{JUSTIFICATION}\"]`");
            return Some(("justification", Denial::new(Reason::Forbidden, detail)));
        }
        let approvals = asking.obligations.approve.map_or(0, |approve| approve.count).max(demands.approvals);
        (approvals > 0).then(|| {
            let detail = match approvals {
                1 => "somebody else has to agree to this call first".to_owned(),
                count => format!("{count} others have to agree to this call first"),
            };
            let denial = Denial::new(Reason::ApprovalRequired, detail);
            ("approval", denial.with("approvals", approvals.to_string()))
        })
    }

    /// What the risk of a tool asks for.
    fn demands(&self, facts: Option<&ToolFacts>) -> Demands {
        let demanded = |(controls, facts): (&Controls, &ToolFacts)| controls.demands(facts.risk);
        self.controls.as_ref().zip(facts).map(demanded).unwrap_or_default()
    }
}

impl AuthorizationFilter {
    /// The refusal of whatever a caller asks that is not known yet, if it has used up its CPU time for it.
    pub fn over_budget(&self, arrival: &Arrival, purpose: Use) -> Option<Denial> {
        let rules = self.rules.as_ref()?;
        let owner = || principal(arrival).owner(arrival.source);
        rules.policy.wait_for(purpose, owner, (&rules.budgets, arrival.at.monotonic)).map(limited)
    }

    /// Charges a caller for CPU time that a list took.
    pub fn charge_list(&self, arrival: &Arrival, spent: Duration) {
        if let Some(rules) = &self.rules {
            let owner = principal(arrival).owner(arrival.source);
            rules.policy.charge(owner, (Use::List, spent), (&rules.budgets, arrival.at.monotonic));
        }
    }

    /// The refusal of a message about something that is hidden because time ran out.
    pub fn denied_by_time(&self, decision_record: &DecisionRecord) -> Option<Denial> {
        let policy_result = decision_record.policy.as_ref()?;
        policy_result.decision.fault.as_ref()?.is_of_time().then(|| self.denied(policy_result))
    }
}

/// What a caller is told who has used up its CPU time.
fn limited(wait: Duration) -> Denial {
    let detail = "too much of the policy's time was used for this caller: ask again later";
    Denial::new(Reason::PolicyLimited, detail).retry_in(Some(wait))
}

impl Rules {
    fn ask(&self, entry: Entry, question: &Question<'_>) -> PolicyResult {
        let memory = Memory { decisions: &self.decisions, budgets: Some(&self.budgets), keeps: true };
        self.ask_with(entry, question, &memory)
    }

    fn ask_with(&self, entry: Entry, question: &Question<'_>, memory: &Memory<'_>) -> PolicyResult {
        let decision: Decision = self.policy.decide_with(entry, question, memory);
        PolicyResult { entry, class: self.policy.class(entry).unwrap_or(Class::WholeInput), decision }
    }
}

impl Filter for AuthorizationFilter {
    fn name(&self) -> &'static str {
        "authorize"
    }

    fn is_on(&self) -> bool {
        self.governs()
    }

    fn needs(&self) -> Needs {
        // A thing that its caller may not see, or that is withdrawn, reads as absent.
        if self.governs() { Needs::Definition } else { Needs::Name }
    }

    fn applies(&self, kind: Kind) -> bool {
        !matches!(kind, Kind::ServerNotification | Kind::ServerResponse)
    }

    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        let facts = call.target.tool().map(|tool| &tool.facts);
        let task = task_of(call);
        let of_task = task.map(TaskCall::answer_rules).unwrap_or_default();
        if !self.governs() && !about::may_speak_to_us(call.message) {
            verdict.inspectors.extend(of_task.into_inspector());
            return Ok(());
        }
        let params = about::params(call.message)?;
        let about = About::of(call, &params, self.rules.is_some())?;
        let principal = principal(call.arrival);
        let Asked { asked, policy_result, answer } = self.asked(question(call, &about), task.is_some());
        let (sampled, sampled_input) = self.sampled(&asked, policy_result.as_ref());
        let nothing = Arc::default();
        let obligations = policy_result
            .as_ref()
            .map_or(&nothing, |policy_result| &policy_result.decision.ruling.obligations);
        let asking = Asking {
            principal,
            facts: facts.map(|facts| &**facts),
            obligations,
            // A task goes on for the reason that its call was made for.
            is_justified: about.justification.is_some() || task.is_some(),
        };
        let refusal = match policy_result.as_ref().filter(|policy_result| !policy_result.decision.allow) {
            Some(policy_result) => Some((None, self.denied(policy_result))),
            None => self.obstacle(call, &asking).map(|(unmet, denial)| (Some(unmet), denial)),
        };
        let mut decision_record = DecisionRecord {
            facts: facts.cloned(),
            justification: about.justification.as_deref().map(Arc::from),
            alert: obligations.alert || self.demands(asking.facts).alert,
            cost_micros: cost(obligations, asking.facts).filter(|_| task.is_none()),
            sampled,
            question: sampled_input,
            ..DecisionRecord::default()
        };
        if let Some((unmet, denial)) = refusal {
            (decision_record.unmet, decision_record.policy) = (unmet, policy_result);
            return Err(denial.because(Arc::new(decision_record)));
        }
        // A message about a task has no arguments.
        let inject = if task.is_some() { &[] } else { obligations.inject.as_slice() };
        verdict.edits.extend(edits::edit(call.message, &params, about.speaks_to_us, inject)?);
        verdict.inspectors.extend(AnswerRules::of(obligations).and(&answer).and(&of_task).into_inspector());
        decision_record.policy = policy_result;
        verdict.decision_record = Some(Arc::new(decision_record));
        Ok(())
    }
}

/// Who asks.
fn principal(arrival: &Arrival) -> &Principal {
    match &arrival.identity {
        Identity::Principal(principal) => principal,
        Identity::Anonymous { .. } | Identity::Presented { .. } => &NOBODY,
    }
}

/// The call that made the task which a message is about.
fn task_of<'a>(call: &Call<'a>) -> Option<&'a TaskCall> {
    call.target.tool()?.task.as_deref()
}

fn question<'a>(call: &'a Call<'_>, about: &'a About<'_>) -> Question<'a> {
    let target = call.target;
    Question {
        principal: principal(call.arrival),
        mcp: Mcp {
            method: &about.method,
            direction: about.direction,
            server: &target.server,
            upstream: Some(&*target.upstream).filter(|upstream| !upstream.is_empty()),
            kind: about.kind,
            name: about.name,
            uri: about.uri,
            arguments: about.arguments,
            responses: about.responses.as_deref(),
            era: call.message.era.as_str(),
        },
        tool: target.tool().map(|known| tool(known)),
        context: Context {
            source_ip: call.arrival.source,
            zone: target.zone.as_deref(),
            listener: &call.arrival.listener,
            client: target.client.as_deref(),
            justification: about.justification.as_deref(),
        },
        threat: Threat::None,
        findings: None,
        now: call.arrival.at,
    }
}

fn tool(tool: &KnownTool) -> Tool<'_> {
    let facts: &ToolFacts = &tool.facts;
    Tool {
        original: &tool.original,
        risk: facts.risk.as_str(),
        class: facts.class.as_str(),
        labels: &facts.labels,
        scopes: &facts.scopes,
        owner: facts.owner.as_deref(),
        read_only: facts.read_only,
        idempotent: facts.idempotent,
        claimed: tool.claimed.as_deref(),
    }
}

/// The price of a call, in millionths: what the policy says counts more than what is known of the tool.
fn cost(obligations: &Obligations, facts: Option<&ToolFacts>) -> Option<u64> {
    obligations.cost.map(millionths).or_else(|| facts?.cost_micros)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a price is never negative, and one that is out of range saturates"
)]
fn millionths(cost: f64) -> u64 {
    (cost * 1e6).round() as u64
}

fn of_facts(unmet: &Unmet) -> Obstacle {
    match unmet {
        Unmet::Withdrawn => (
            "withdrawn",
            Denial::new(Reason::Forbidden, "this tool has been withdrawn and is not called any more"),
        ),
        Unmet::Scopes(scopes) => {
            let scopes = scopes.join(" ");
            let denial =
                Denial::new(Reason::InsufficientScope, "this tool asks for scopes that were not granted");
            ("scopes", denial.with("scope", string(&scopes)))
        }
        Unmet::Reauthentication(longest) => {
            let wanted = StepUp { acr: None, max_age: Some(*longest) };
            ("max_auth_age", stepping_up(&wanted))
        }
    }
}

/// Whether a caller has shown what is asked for: a class of authentication, or more than one factor
/// where none is named, and recently enough.
fn has_stepped_up(wanted: &StepUp, principal: &Principal, now: Duration) -> bool {
    let is_strong = match &wanted.acr {
        Some(acr) => principal.acr.as_ref() == Some(acr),
        None => principal.mfa || wanted.max_age.is_some(),
    };
    let is_recent = wanted.max_age.is_none_or(|longest| {
        let at = principal.auth_time.map(Duration::from_secs);
        at.is_some_and(|at| now.saturating_sub(at) <= longest)
    });
    is_strong && is_recent
}

/// RFC 9470 §3: what a challenge names.
fn stepping_up(wanted: &StepUp) -> Denial {
    let mut denial = Denial::new(Reason::StepUpRequired, "authenticate again, and better, for this");
    if let Some(acr) = &wanted.acr {
        denial = denial.with("acrValues", string(acr));
    }
    if let Some(longest) = wanted.max_age {
        denial = denial.with("maxAge", longest.as_secs().to_string());
    }
    denial
}
