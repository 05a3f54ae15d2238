//! What an upstream is told of callers, as a document would write it.

use serde_json::{Value, json};

use super::duration;
use crate::caller::{AssertionRules, CallerFact, CallerRules};

pub(super) fn caller(rules: &CallerRules) -> Option<Value> {
    let name =
        |fact: &CallerFact| CallerFact::NAMES.iter().find(|(_, named)| named == fact).map(|(name, _)| *name);
    let headers: Vec<&str> = rules.headers.iter().filter_map(name).collect();
    let shown = json!({
        "headers": (!headers.is_empty()).then_some(headers),
        "assertion": rules.assertion.as_ref().map(|rules| assertion(rules)),
    });
    (!rules.is_empty()).then_some(shown)
}

fn assertion(rules: &AssertionRules) -> Value {
    json!({
        "key": rules.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "issuer": rules.issuer,
        "audience": rules.audience,
        "lifetime": duration(rules.lifetime),
        "header": rules.header.as_str(),
    })
}
