//! Policies that are not taken, and evaluations that deny.

use super::kit::{Kit, lenient_settings, module, principal, question};
use super::*;

fn problems(text: &str) -> String {
    let problems = Kit::with(text, &[]).map(|_| ()).unwrap_err();
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn what_reaches_outside_is_refused_with_its_line_even_where_nothing_calls_it() {
    let cases = [
        ("http.send({\"url\": \"https://example.com\"})", "`http.send` is not for policy"),
        ("time.now_ns() > 0", "read input.time"),
        ("rand.intn(\"a\", 2) == 1", "the same question must have the same answer"),
        ("opa.runtime()", "policy reads no environment"),
        ("uuid.rfc4122(\"a\") != \"\"", "the same answer"),
        ("io.jwt.decode(\"a\")", "there is no function `io.jwt.decode`"),
        ("print(\"a\")", "nothing reads it"),
        ("nonsense(1)", "there is no function `nonsense`"),
    ];
    for (body, expected) in cases {
        let text = format!("package mcp.authz\ndecision := true\nunused if {{\n  {body}\n}}");
        let found = problems(&text);
        assert!(found.contains("policy/authz.rego:4: ") && found.contains(expected), "{body}: {found}");
    }
}

#[test]
fn nobody_chooses_how_much_a_builtin_makes() {
    for call in [
        "numbers.range(1, input.mcp.arguments.n)",
        "net.cidr_expand(input.context.source_ip)",
        "bits.lsh(1, input.mcp.arguments.n)",
    ] {
        let found = problems(&format!("package mcp.authz\ndecision := true\nunused := {call}"));
        assert!(found.contains("authz.rego:3: ") && found.contains("what is computed"), "{call}: {found}");
    }
    Kit::of("package mcp.authz\ndecision := count(numbers.range(-1, 3)) == 5");
}

#[test]
fn functions_of_the_policy_are_no_builtins_whatever_they_are_called() {
    let modules = [
        module("package mcp.authz\nimport data.lib.net\ndecision := net.inside(input.context.zone)"),
        Module {
            path: "lib.rego".into(),
            text: "package lib.net\ninside(zone) := zone == \"office\"".into(),
        },
    ];
    let policy = Policy::compile(&modules, &[], &lenient_settings()).unwrap();
    let kit = Kit::around(policy);
    let principal = principal(&[], &[]);
    let mut question = question(&principal);
    question.context.zone = Some("office");
    assert!(kit.decide(&question).allow);
}

#[test]
fn mistakes_are_all_told_with_their_places() {
    let modules = [
        Module { path: "one.rego".into(), text: "package one\nallow if {".into() },
        Module { path: "two.rego".into(), text: "package two\n\nx := := 1".into() },
        module("package mcp.authz\ndecision := true"),
        module("package mcp.authz\ndecision := true"),
    ];
    let data =
        [Document { path: "data.json".into(), mount: String::new(), text: "{\"a\":1,\"a\":2}".into() }];
    let settings = Settings { time_zone: "Mars/Olympus".into(), ..lenient_settings() };
    let problems = Policy::compile(&modules, &data, &settings).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for expected in ["one.rego:2", "two.rego:3", "given twice", "data.json", "Mars/Olympus"] {
        assert!(told.iter().any(|problem| problem.contains(expected)), "{expected}: {told:#?}");
    }
}

#[test]
fn a_policy_without_its_entry_point_is_refused() {
    assert!(problems("package mcp.authz\nallow := true").contains("no rule data.mcp.authz.decision"));
}

#[test]
fn an_object_whose_keys_the_engine_would_not_compare_is_refused() {
    for keys in ["o[\"k\"] := 1", "o.k := 1 if input.principal.mfa"] {
        let text = format!("package mcp.authz\ndecision if o.k == 1\n{keys}\no[k] := 2 if some k in [\"k\"]");
        assert!(problems(&text).contains("authz.rego:4: data.mcp.authz.o has keys"), "{}", problems(&text));
    }
}

#[test]
fn what_is_likely_not_meant_is_told_with_its_line() {
    let kit = Kit::of(
        r#"package mcp.authz
decision := {"allow": true, "reasons": []} if {
    some key
    input.mcp.arguments[key] == "a"
}
decision := "yes" if input.principal.mfa
forgotten if input.principal.mfa
"#,
    );
    let warnings: Vec<String> = kit.policy.warnings().iter().map(ToString::to_string).collect();
    for expected in [
        "policy/authz.rego:2: data.mcp.authz.decision has no default",
        "policy/authz.rego:2: a decision has no member `reasons`",
        "policy/authz.rego:4: input.mcp.arguments is read with a computed key",
        "policy/authz.rego:6: a decision is true, false or an object",
        "policy/authz.rego:7: nothing asks data.mcp.authz.forgotten",
    ] {
        assert!(warnings.iter().any(|text| text.starts_with(expected)), "{expected}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
    let clean =
        "package mcp.authz\ndefault decision := false\ndecision if helped\nhelped if input.principal.mfa";
    assert_eq!(Kit::of(clean).policy.warnings(), []);
}

#[test]
fn what_the_input_document_does_not_have_is_told() {
    let kit =
        Kit::of("package mcp.authz\ndefault decision := false\ndecision if input.principal.role == \"a\"");
    let warnings: Vec<String> = kit.policy.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|text| text.starts_with("input.principal.role is read")), "{warnings:?}");
}

#[test]
fn what_the_engine_would_read_as_a_call_and_rego_as_two_statements_is_refused() {
    let text = "package mcp.authz\nf(x) := x\ndecision if {\n  input.mcp.name == f\n  (1 + 1) == 2\n}";
    assert!(problems(text).contains("authz.rego:5: `f` is followed by"), "{}", problems(text));
}

#[test]
fn calls_that_would_lose_arguments_are_refused() {
    let text = "package mcp.authz\nf(a,b,c,d,e,g,h,i,j) := true\ndecision := f(1,2,3,4,5,6,7,8,9)";
    assert!(problems(text).contains("authz.rego:3: `f` is called with more than 8"));
}

#[test]
fn a_policy_whose_reading_cannot_be_told_is_given_everything() {
    let kit = Kit::of(
        "package mcp.authz\ndecision if x with input.principal.mfa as true\nx if input.principal.mfa",
    );
    assert_eq!(kit.policy.classes(), [(Entry::Decision, Class::WholeInput)]);
    let warnings = format!("{:?}", kit.policy.warnings());
    assert!(warnings.contains("what is read cannot be told") && warnings.contains("line: 2"), "{warnings}");
    assert!(kit.decide(&question(&principal(&[], &[]))).allow);
}

#[test]
fn evaluation_that_does_not_end_denies() {
    let text = "package mcp.authz\ndecision := count([1 | some x in numbers.range(1, 1000); some y in numbers.range(1, 1000); x == y]) > 0";
    let kit = Kit::around(Policy::compile(&[module(text)], &[], &Settings::default()).unwrap());
    let decision = kit.decide(&question(&principal(&[], &[])));
    assert_eq!((decision.allow, &decision.fault), (false, &Some(Fault::TooLong)));
    assert!(kit.cache.is_empty(), "the machine may have been busy");
}

#[test]
fn an_answer_that_is_no_decision_denies() {
    for (rule, undefined) in
        [("decision := \"yes\"", false), ("decision if input.mcp.name == \"other\"", true)]
    {
        let kit = Kit::of(&format!("package mcp.authz\n{rule}"));
        let decision = kit.decide(&question(&principal(&[], &[])));
        let faulty = match decision.fault {
            Some(Fault::Undefined) => undefined,
            Some(Fault::Misshapen(_)) => !undefined,
            _ => false,
        };
        assert!(!decision.allow && faulty, "{rule}: {:?}", decision.fault);
    }
}
