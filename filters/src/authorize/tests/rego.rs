//! Where Rego is exact, the compiled program is too.

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
            "decision",
        ),
        (
            "one of many",
            "decision if not x\nx := 1 if input.mcp.arguments.n == 4\nx := 2 if input.mcp.arguments.n == 5\nx := 3 if input.mcp.arguments.n > 1",
            "x",
        ),
        ("under a not", "decision if not denied\ndenied := \"a\" if true\ndenied := \"b\" if true", "denied"),
        ("a loop", "decision if not x\nx := role if some role in input.principal.roles", "x"),
        ("a function", "decision if not f(5)\nf(n) := 1 if n > 4\nf(n) := 2 if n > 3", "f"),
        (
            "a loop in a function",
            "decision if not f(input.principal.roles)\nf(all) := one if some one in all",
            "f",
        ),
        ("a partial object", "decision if not o.k\no[k] := 1 if k := \"k\"\no[k] := 2 if k := \"k\"", "o"),
        (
            "a partial object's loop",
            "decision if not o.x\no[k] := v if { some v in input.mcp.arguments.list; k := \"k\" }",
            "o",
        ),
        (
            "an object comprehension",
            "decision if count(o) == 1\no := {k: v | some v in input.mcp.arguments.list; k := \"k\"}",
            "o",
        ),
        (
            "else",
            "decision if not x\nx := 1 if input.mcp.era == \"legacy\"\nelse := 2 if true\nx := 3 if true",
            "x",
        ),
    ];
    for (name, text, rule) in cases {
        let decision = decided(text);
        let conflict = Some(Fault::Conflict(format!("data.mcp.authz.{rule}")));
        assert_eq!((decision.allow, &decision.fault), (false, &conflict), "{name}");
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
fn an_error_in_one_try_leaves_the_others() {
    for (name, text) in [
        ("plus", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; x + 1 == 4 }"),
        ("minus", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; x - 1 == 2 }"),
        ("times", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; x * 2 == 6 }"),
        ("over", "decision if not denied\ndenied if { some x in input.mcp.arguments.list; 9 / x == 3 }"),
        (
            "modulo",
            "decision if not denied\ndenied if { some x in input.mcp.arguments.list; 7 % x == 1; x > 1 }",
        ),
        (
            "a builtin",
            "decision if not denied\ndenied if { some x in [\"a\", 5, \"bad\"]; startswith(x, \"b\") }",
        ),
    ] {
        let decision = decided(text);
        assert_eq!((decision.allow, &decision.fault), (false, &Some(Fault::Undefined)), "{name}");
    }
    assert!(decided("decision if (input.mcp.arguments.n * 2 + 5 - 1) / 7 % 2 == 0").allow);
    assert!(decided("decision if {1, 2, 3} - {3} == {1, 2}").allow);
}
