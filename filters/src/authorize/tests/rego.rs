//! Where Rego is exact, evaluation is too.

use super::kit::{Kit, principal, question};
use super::*;

fn decided(text: &str) -> Decision {
    let kit = Kit::of(&format!("package mcp.authz\n{text}"));
    let principal = principal(&["a", "b"], &[]);
    let mut question = question(&principal);
    question.mcp.arguments = Some(r#"{"list": [1, "two", 3], "n": 5}"#);
    kit.decide(&question)
}

#[test]
fn a_second_value_denies_wherever_it_comes_from() {
    let cases = [
        (
            "two definitions",
            "decision := true if input.mcp.kind == \"tool\"\ndecision := false if input.mcp.era == \"modern\"",
        ),
        (
            "one of many",
            "decision if not x\nx := 1 if input.mcp.arguments.n == 4\nx := 2 if input.mcp.arguments.n == 5\nx := 3 if input.mcp.arguments.n > 1",
        ),
        ("under a not", "decision if not denied\ndenied := \"a\" if true\ndenied := \"b\" if true"),
        ("a loop", "decision if not x\nx := role if some role in input.principal.roles"),
        ("a function", "decision if not f(5)\nf(n) := 1 if n > 4\nf(n) := 2 if n > 3"),
        (
            "a loop in a function",
            "decision if not f(input.principal.roles)\nf(all) := one if some one in all",
        ),
        ("a partial object", "decision if not o.k\no[k] := 1 if k := \"k\"\no[k] := 2 if k := \"k\""),
        (
            "a partial object's loop",
            "decision if not o.x\no[k] := v if { some v in input.mcp.arguments.list; k := \"k\" }",
        ),
        (
            "an object comprehension",
            "decision if count(o) == 1\no := {k: v | some v in input.mcp.arguments.list; k := \"k\"}",
        ),
        (
            "else",
            "decision if not x\nx := 1 if input.mcp.era == \"legacy\"\nelse := 2 if true\nx := 3 if true",
        ),
    ];
    for (name, text) in cases {
        let decision = decided(text);
        assert!(
            !decision.allow && matches!(decision.fault, Some(Fault::Conflict(_) | Fault::Failed(_))),
            "{name}: {:?}",
            decision.fault
        );
    }
}

#[test]
fn equal_values_and_values_that_exclude_each_other_are_one() {
    for (name, text) in [
        ("equal", "decision := {\"allow\": x == 1}\nx := 1 if input.mcp.era\nx := 1 if input.mcp.kind"),
        (
            "excluding",
            "decision if f(3) == \"small\"\nf(n) := \"small\" if n < 4\nf(n) := \"large\" if n >= 4",
        ),
        (
            "patterns",
            "decision if f(\"b\", 2) == 2\nf(\"a\", _) := 1\nf(\"b\", n) := n\nf(\"c\", [x, _]) := x",
        ),
        (
            "else",
            "decision if x == 2\nx := 1 if input.mcp.era == \"legacy\"\nelse := 2 if input.mcp.era == \"modern\"\nelse := 3",
        ),
        (
            "default",
            "decision if x == 7\ndefault x := 7\nx := 1 if input.mcp.era == \"a\"\nx := 2 if input.mcp.era == \"b\"",
        ),
        ("an object", "decision if o == {\"a\": 1, \"b\": 1}\no := {k: 1 | some k in input.principal.roles}"),
        ("the same twice", "decision if o == {\"k\": 1}\no[k] := 1 if { some k in [\"k\", \"k\"] }"),
        ("a set", "decision if s == {1, 2}\ns contains 1\ns contains 2 if true"),
        ("nested loops", "decision if x\nx if { some a in [1, 2]; some b in [2, 3]; a == b }"),
    ] {
        let decision = decided(text);
        assert!(decision.allow, "{name}: {:?}", decision.fault);
    }
}

#[test]
fn what_a_builtin_cannot_take_denies_and_never_keeps_a_rule_from_forbidding() {
    for (name, text) in [
        ("plus", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; x + 1 == 4 }"),
        ("modulo", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; 7 % x == 9 }"),
        ("a builtin", "decision if not denied\ndenied if startswith(input.mcp.arguments.n, \"b\")"),
        ("by zero", "decision if not denied\ndenied if 1 / (input.mcp.arguments.n - 5) == 2"),
    ] {
        let decision = decided(text);
        assert!(
            !decision.allow && matches!(decision.fault, Some(Fault::Failed(_))),
            "{name}: {:?}",
            decision.fault
        );
    }
    assert!(decided("decision if (input.mcp.arguments.n * 2 + 5 - 1) / 7 % 2 == 0").allow);
    assert!(decided("decision if {1, 2, 3} - {3} == {1, 2}").allow);
}

#[test]
fn what_is_undefined_reaches_no_function_and_ends_no_else() {
    for (name, text, expected) in [
        ("an argument", "decision if f(input.mcp.arguments.none)\nf(_) := true", false),
        ("a value", "decision := input.none if true\nelse := true", true),
        ("an element", "decision if count([input.none | true]) == 0", true),
        ("every", "decision if every r in input.principal.roles { data.no[r] }", false),
        ("a list inside a loop", "decision if { some x in [1, 3]; count([1 | x > 2]) == 0 }", true),
    ] {
        assert_eq!(decided(text).allow, expected, "{name}");
    }
}
