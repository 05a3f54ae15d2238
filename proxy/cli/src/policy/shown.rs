//! Answers of policy as JSON and as lines for people.

use portunus_filters::authorize::{Obligations, Place, Ruling, StepUp};
use serde_json::{Map, Value, json};

/// `allow` or `refuse`.
pub(super) fn word(ruling: &Ruling) -> &'static str {
    if ruling.allow { "allow" } else { "refuse" }
}

/// What stands behind an answer: the policy's reason, or why it could not answer.
pub(super) fn why(ruling: &Ruling) -> String {
    match &ruling.fault {
        Some(fault) => fault.to_string(),
        None => ruling.reason.to_string(),
    }
}

/// The decision document that an answer comes to.
pub(super) fn document(ruling: &Ruling) -> Value {
    let mut document = json!({ "allow": ruling.allow });
    if !ruling.reason.is_empty() {
        document["reason"] = json!(&*ruling.reason);
    }
    let obligations = obligations(&ruling.obligations);
    if !obligations.is_empty() {
        document["obligations"] = Value::Object(obligations);
    }
    if let Some(fault) = &ruling.fault {
        document["fault"] = json!(fault.to_string());
    }
    document
}

/// Obligations as they are written in Rego; those that are not asked for are left out.
pub(super) fn obligations(obligations: &Obligations) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| drop(shown.insert(name.to_owned(), value));
    if !obligations.redact.is_empty() {
        put("redact", obligations.redact.iter().map(|place| Value::from(pointer(place))).collect());
    }
    if !obligations.inject.is_empty() {
        let argument = |(place, text): &(Place, String)| {
            (pointer(place), serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
        };
        put("inject", Value::Object(obligations.inject.iter().map(argument).collect()));
    }
    if let Some(approval) = &obligations.approve {
        put("approve", json!({ "count": approval.count, "within": seconds(approval.within) }));
    }
    if let Some(step_up) = &obligations.step_up {
        put("step_up", shown_step_up(step_up));
    }
    if obligations.audit_strict {
        put("audit", json!("strict"));
    }
    if obligations.capture_full {
        put("capture", json!("full"));
    }
    if obligations.alert {
        put("alert", json!(true));
    }
    if let Some(cost) = obligations.cost {
        put("cost", json!(cost));
    }
    if let Some(bytes) = obligations.max_result_bytes {
        put("max_result_bytes", json!(bytes));
    }
    shown
}

fn shown_step_up(step_up: &StepUp) -> Value {
    match (&step_up.acr, step_up.max_age) {
        (None, None) => json!(true),
        (acr, age) => json!({ "acr": acr.as_deref(), "max_age": age.map(|age| age.as_secs()) }),
    }
}

fn seconds(duration: std::time::Duration) -> String {
    portunus_config::units::show_duration(duration)
}

/// A place as a JSON Pointer.
fn pointer(place: &Place) -> String {
    let step = |step: &String| format!("/{}", step.replace('~', "~0").replace('/', "~1"));
    place.0.iter().map(step).collect()
}
