//! What stands in the way of a call beside the policy: the facts of its tool, the controls of its
//! risk, and what the policy asks to be done first.

use super::Gate;
use super::about::JUSTIFICATION;
use crate::authorize::{Obligations, StepUp};
use crate::call::Call;
use crate::controls::Demands;
use crate::facts::{ToolFacts, Unmet};
use crate::identity::{AuthMethod, Principal};
use crate::mcp::rewrite::string;
use portunus_base::{Denial, Reason};
use std::time::Duration;

/// What stands in the way: the name of the demand, and how it is told.
pub(super) type Obstacle = (&'static str, Denial);

/// Who asks for what, with which reason.
pub(super) struct Asking<'a> {
    pub(super) principal: &'a Principal,
    pub(super) facts: Option<&'a ToolFacts>,
    pub(super) obligations: &'a Obligations,
    pub(super) is_justified: bool,
}

impl Gate {
    /// The first demand that is not met.
    pub(super) fn obstacle(&self, call: &Call<'_>, asking: &Asking<'_>) -> Option<Obstacle> {
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
    pub(super) fn demands(&self, facts: Option<&ToolFacts>) -> Demands {
        let demanded = |(controls, facts): (&crate::Controls, &ToolFacts)| controls.demands(facts.risk);
        self.controls.as_ref().zip(facts).map(demanded).unwrap_or_default()
    }
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
