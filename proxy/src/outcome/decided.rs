//! The members of a record that say what was decided.

use portunus_base::text::push_json;
use portunus_filters::gate::Judged;
use std::fmt::Write;

/// Writes them behind those that are there.
pub(super) fn write(line: &mut String, judged: &Judged) {
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(line, ",\"{name}\":");
            push_json(line, value);
        }
    };
    field("rule", judged.rule());
    field("policy_reason", judged.reason().map(|reason| &**reason));
    field("policy_fault", judged.fault().map(ToString::to_string).as_deref());
    field("risk_level", judged.facts.as_ref().map(|facts| facts.risk.as_str()));
    field("data_classification", judged.facts.as_ref().map(|facts| facts.class.as_str()));
    field("justification", judged.justification.as_deref());
    let obligations = judged.obligations();
    if !obligations.is_empty() {
        // Names of the closed list, which need no escapes.
        let _ = write!(line, ",\"obligations\":[\"{}\"]", obligations.join("\",\""));
    }
    if let Some(micros) = judged.cost_micros {
        let _ = write!(line, ",\"cost_usd\":{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    }
}
