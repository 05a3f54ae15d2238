//! Three nets under the projection, each shown to catch an analysis that misses a part of the input.

use super::kit::{Kit, lenient_settings, module, principal, question};
use super::*;
use crate::authorize::compile;

const POLICY: &str = r#"
    package mcp.authz
    default decision := false
    decision if {
        "reader" in input.principal.roles
        not input.principal.claims.suspended
    }"#;
const MISSED: &str = "input.principal.claims.suspended";

/// The policy under an analysis that misses a place, with the first net cut.
fn mutant() -> Kit {
    let policy = compile::compile(
        &[module(POLICY)],
        &[],
        &lenient_settings(),
        &compile::Analysis { told: |reads| reads.without(MISSED), compared: false },
    );
    Kit::around(policy.unwrap())
}

#[test]
fn the_analysis_itself_misses_nothing() {
    let kit = Kit::of(POLICY);
    assert_eq!(kit.policy.reads(Entry::Decision), [MISSED, "input.principal.roles"]);
    assert_eq!(kit.policy.classes(), [(Entry::Decision, Class::Pure)]);
}

#[test]
fn the_compiled_program_tells_on_an_analysis_that_misses_something() {
    let analysis = compile::Analysis { told: |reads| reads.without(MISSED), compared: true };
    let policy = compile::compile(&[module(POLICY)], &[], &lenient_settings(), &analysis).unwrap();
    assert_eq!(policy.classes(), [(Entry::Decision, Class::WholeInput)]);
    let suspended = principal(&["reader"], &[("suspended", "true")]);
    assert!(!Kit::around(policy).decide(&question(&suspended)).allow);
}

#[test]
fn samples_tell_on_an_analysis_that_misses_something() {
    let suspended = r#"{"principal": {"roles": ["reader"], "claims": {"suspended": true}}}"#;
    let problems = mutant().policy.self_test([("suspended.json", suspended)]).unwrap_err();
    assert!(problems[0].to_string().contains("suspended.json"), "{problems:?}");
    assert_eq!(Kit::of(POLICY).policy.self_test([("suspended.json", suspended)]), Ok(()));
}

#[test]
fn one_evaluation_in_256_tells_on_an_analysis_that_misses_something() {
    let kit = mutant();
    let suspended = principal(&["reader"], &[("suspended", "true")]);
    let fresh = DecisionCache::new(1_000, 1_000_000);
    let decision = kit.policy.decide(Entry::Decision, &question(&suspended), &fresh);
    assert!(!decision.allow && decision.diverged && decision.fault == Some(Fault::Diverged));
    for _ in 0..300 {
        let decision = kit.decide(&question(&suspended));
        assert!(!decision.allow && !decision.diverged);
    }
    assert_eq!(kit.policy.classes(), [(Entry::Decision, Class::WholeInput)]);
}

#[test]
fn every_256th_evaluation_is_looked_at() {
    let kit = mutant();
    let active = principal(&["reader"], &[]);
    let suspended = principal(&["reader"], &[("suspended", "true")]);
    let empty = || DecisionCache::new(10, 1_000);
    for _ in 0..256 {
        assert!(kit.policy.decide(Entry::Decision, &question(&active), &empty()).allow);
    }
    let caught = kit.policy.decide(Entry::Decision, &question(&suspended), &empty());
    assert!(caught.diverged && !caught.allow);
}

#[test]
fn what_no_rule_reads_cannot_turn_the_rules_against_their_projection() {
    let rego =
        "package mcp.authz\ndefault decision := false\ndecision if input.mcp.arguments.region == \"eu\"";
    let caller = principal(&[], &[]);
    for arguments in [r#"{"region": "eu", "odd": 1e400}"#, r#"{"region": "eu", "odd": {"a": 1, "a": 2}}"#] {
        let kit = Kit::of(rego);
        let mut asked = question(&caller);
        asked.mcp.arguments = Some(arguments);
        // The first evaluation is one that is made with all of the input too.
        let decision = kit.decide(&asked);
        assert!(decision.allow && !decision.diverged, "{arguments}: {decision:?}");
        assert_eq!(kit.policy.classes(), [(Entry::Decision, Class::Pure)], "{arguments}");
    }
}
