//! Facts of tools and controls.

use portunus_filters::{Control, Controls};
use serde_json::{Map, Value, json};

use super::duration;
use crate::dates::show_end;
use crate::tools::{Fact, ToolRules};

/// `tools`; nothing where nothing is said of any.
pub(super) fn tools(rules: &ToolRules) -> Option<Value> {
    let line =
        |(pattern, facts): (String, &[Fact])| (pattern, Value::Object(facts.iter().map(fact).collect()));
    let lines: Map<String, Value> = rules.iter().map(line).collect();
    (!lines.is_empty()).then_some(Value::Object(lines))
}

/// `controls`.
pub(super) fn controls(controls: &Controls) -> Value {
    let without: Vec<&str> = controls.without.iter().map(|control: &Control| control.as_str()).collect();
    json!({ "profile": controls.profile.as_str(), "without": without })
}

fn fact(fact: &Fact) -> (String, Value) {
    let value = match fact {
        Fact::Risk(risk) => json!(risk.as_str()),
        Fact::Class(class) => json!(class.as_str()),
        Fact::Labels(words) | Fact::Scopes(words) => words.iter().map(|word| json!(&**word)).collect(),
        Fact::CostMicros(micros) => cost(*micros),
        Fact::Timeout(time) | Fact::MaxAuthAge(time) => json!(duration(*time)),
        Fact::Owner(owner) => json!(&**owner),
        Fact::NotAfter(end) => json!(show_end(*end)),
        Fact::ReadOnly(flag) | Fact::Idempotent(flag) => json!(flag),
    };
    (fact.name().to_owned(), value)
}

/// Millionths as a decimal number; twelve digits are exact in a double.
#[expect(clippy::cast_precision_loss, reason = "a document can say at most 10^12 millionths")]
fn cost(micros: u64) -> Value {
    match micros.is_multiple_of(1_000_000) {
        true => json!(micros / 1_000_000),
        false => json!(micros as f64 / 1e6),
    }
}
