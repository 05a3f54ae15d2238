//! What is told of a decision, and what is not.

use super::kit::{Kit, principal, question};
use super::*;

#[test]
fn a_decision_tells_its_rules_and_what_they_read_but_no_payload() {
    let kit = Kit::of(
        r#"package mcp.authz
default decision := {"allow": false, "reason": "no"}
decision := {"allow": true} if {
    "admin" in input.principal.roles
    input.mcp.arguments.secret == "s3cret"
}
decision := {"allow": false, "reason": "blocked"} if blocked
blocked if input.mcp.arguments.secret == "other"
never if input.principal.mfa"#,
    );
    let principal = principal(&["admin"], &[]);
    let mut asked = question(&principal);
    asked.mcp.arguments = Some(r#"{"secret": "other"}"#);
    let explained = kit.policy.explain(Entry::Decision, &asked).unwrap();
    assert_eq!(&*explained.ruling.reason, "blocked");
    let reads: Vec<(&str, Option<&str>)> =
        explained.reads.iter().map(|read| (read.path.as_str(), read.value.as_deref())).collect();
    let expected = [
        ("input.mcp.arguments.secret", Some("a string of 5 bytes")),
        ("input.principal.roles", Some(r#"["admin"]"#)),
    ];
    assert_eq!(reads, expected);
    let seen = |name: &str, line, stopped| RuleSeen {
        name: format!("data.mcp.authz.{name}"),
        path: "policy/authz.rego".to_owned(),
        line,
        stopped,
    };
    assert_eq!(
        explained.rules,
        [seen("decision", 3, None), seen("decision", 7, None), seen("blocked", 8, None)]
    );
}
