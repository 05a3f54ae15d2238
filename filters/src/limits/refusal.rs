//! Words the refusal of a limit, for its caller and for operators.

use super::key::shown;
use super::meter::{Meter, NoRoom, Wait};
use super::rule::Rule;
use crate::call::Call;
use portunus_base::Denial;
use portunus_base::text::json;
use std::sync::Arc;
use std::time::Duration;

/// The time after which it is worth coming back where nobody knows when a request ends.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// The limit that refused a message, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedLimit {
    /// The name of the rule.
    pub rule: Arc<str>,
    /// The parts of its key with the values that the message has.
    pub key: Vec<(&'static str, String)>,
    /// The number of calls that are counted, or the money.
    pub spent: String,
    /// The limit, as the document says it.
    pub limit: Arc<str>,
    /// Until there is room for one more, if that is known.
    pub reset: Option<Duration>,
    /// The line of the document.
    pub place: Arc<str>,
}

/// The refusal of a call by a rule.
pub(super) fn denial(rule: &Rule, reached: NoRoom, call: &Call<'_>, method: &str) -> Denial {
    let wait = match reached.wait {
        Wait::Known(wait) => Some(wait),
        Wait::Unknown => Some(UNKNOWN_WAIT),
        Wait::Endless => None,
    };
    let account = ReachedLimit {
        rule: Arc::clone(&rule.name),
        key: rule.key.iter().map(|part| (part.as_str(), shown(call, method, *part))).collect(),
        spent: rule.meter.shown_amount(reached.spent),
        limit: Arc::clone(&rule.shown),
        reset: wait.filter(|_| reached.wait != Wait::Unknown),
        place: Arc::clone(&rule.place),
    };
    let remaining = rule.meter.remaining(reached.spent);
    Denial::new(rule.meter.reason(), text(rule, wait, (call.cost_micros(), remaining)))
        .retry_in(wait)
        .with("limit", json(&rule.shown))
        .with("rule", json(&rule.name))
        .with("remaining", json_amount(rule.meter, remaining))
        .because(Arc::new(account))
}

/// The key of a call for people.
pub(super) fn shown_key(rule: &Rule, call: &Call<'_>, method: &str) -> String {
    let parts = rule.key.iter().map(|part| format!("{} {}", part.as_str(), shown(call, method, *part)));
    parts.collect::<Vec<_>>().join(", ")
}

/// The text that the caller, or its model, reads.
fn text(rule: &Rule, wait: Option<Duration>, (cost, remaining): (u64, u64)) -> String {
    let (name, limit) = (&rule.name, &rule.shown);
    let seconds = wait.unwrap_or_default().as_millis().div_ceil(1_000);
    let (cost, left) = (rule.meter.shown_amount(cost), rule.meter.shown_amount(remaining));
    match rule.meter {
        Meter::Loop(_) => format!(
            "this call repeats one with the same arguments more often than {limit} (limit `{name}`): change the \
             arguments or stop repeating it; the same call is possible again in {seconds} s"
        ),
        Meter::Concurrency { .. } => format!(
            "as many calls as limit `{name}` allows at once ({limit}) are under way: try again when one has ended"
        ),
        Meter::Rate(_) => format!("limit `{name}` of {limit} is reached: try again in {seconds} s"),
        Meter::Quota { .. } => format!("quota `{name}` of {limit} is spent: it begins again in {seconds} s"),
        Meter::Ceiling { .. } => format!("this call costs {cost}, and `{name}` allows {limit} for one call"),
        Meter::Budget { .. } if wait.is_none() => {
            format!("this call costs {cost}, more than the whole budget `{name}` of {limit}")
        }
        Meter::Budget { .. } => format!(
            "this call costs {cost}, and {left} of budget `{name}` ({limit}) are left: it begins again in {seconds} s"
        ),
    }
}

/// An amount as JSON: money is text, so that no reader rounds it.
fn json_amount(meter: Meter, amount: u64) -> String {
    match meter {
        Meter::Budget { .. } | Meter::Ceiling { .. } => json(&meter.shown_amount(amount)),
        Meter::Rate(_) | Meter::Quota { .. } | Meter::Concurrency { .. } | Meter::Loop(_) => {
            amount.to_string()
        }
    }
}
