//! Policies as a whole: compiled, asked, and caught where they would go wrong.

mod explained;
mod keys;
pub(crate) mod kit;
mod nets;
mod projected;
mod refused;
mod rego;

use super::*;
use kit::{Kit, asked, question};
use std::time::Duration;

#[test]
fn who_what_where_when_and_why_decide() {
    let kit = Kit::of(
        r#"
        package mcp.authz
        default decision := {"allow": false, "reason": "nobody said so"}
        decision := {"allow": true, "reason": "an operator at work"} if {
            "operator" in input.principal.roles
            input.mcp.name == "restart"
            input.mcp.arguments.region == input.principal.claims.region
            input.context.zone == "office"
            input.time.hour >= 9
            input.time.hour < 17
            input.context.justification != ""
        }"#,
    );
    let principal = kit::principal(&["operator"], &[("region", "\"eu\"")]);
    let mut good = question(&principal);
    good.mcp.name = Some("restart");
    good.mcp.arguments = Some(r#"{"force": true, "region": "eu"}"#);
    good.context.zone = Some("office");
    good.context.justification = Some("it hangs");
    good.now.wall = Duration::from_secs(10 * 3_600);
    let decision = kit.decide(&good);
    assert_eq!((decision.allow, &*decision.reason), (true, "an operator at work"));

    let stranger = kit::principal(&["operator"], &[("region", "\"us\"")]);
    let mut others = [good; 6];
    others[0].principal = &stranger;
    others[1].mcp.name = Some("stop");
    others[2].mcp.arguments = Some(r#"{"region": "us"}"#);
    others[3].context.zone = None;
    others[4].now.wall = Duration::from_secs(17 * 3_600);
    others[5].context.justification = None;
    for (index, other) in others.iter().enumerate() {
        let decision = kit.decide(other);
        assert_eq!((decision.allow, &*decision.reason), (false, "nobody said so"), "{index}");
    }
}

#[test]
fn a_decision_is_remembered_for_all_who_look_the_same() {
    let kit = Kit::of(
        r#"
        package mcp.authz
        default decision := false
        decision if "reader" in input.principal.roles
        "#,
    );
    let anna = kit::principal(&["reader"], &[]);
    let bert = kit::principal_named("bert", &["reader"]);
    let carl = kit::principal_named("carl", &["writer"]);
    assert!(!kit.decide(&question(&anna)).cached);
    assert!(kit.decide(&question(&anna)).cached);
    assert!(kit.decide(&question(&bert)).cached, "the policy cannot tell them apart");
    let other = kit.decide(&question(&carl));
    assert_eq!((other.allow, other.cached), (false, false));
}

#[test]
fn a_decision_ends_with_the_hour_it_depends_on_and_with_what_was_shown() {
    let kit = Kit::of(
        r#"
        package mcp.authz
        default decision := false
        decision if input.time.hour < 12
        "#,
    );
    fn at(principal: &crate::identity::Principal, minutes: u64) -> Question<'_> {
        let mut question = question(principal);
        question.now.wall = Duration::from_secs(minutes * 60);
        question
    }
    let mut principal = kit::principal(&[], &[]);
    assert!(kit.decide(&at(&principal, 11 * 60 + 58)).allow);
    assert!(kit.decide(&at(&principal, 11 * 60 + 59)).cached);
    let noon = kit.decide(&at(&principal, 12 * 60));
    assert_eq!((noon.allow, noon.cached), (false, false));

    principal.not_after = Some(Duration::from_secs(13 * 3_600 + 60));
    assert!(!kit.decide(&at(&principal, 13 * 60)).cached);
    assert!(kit.decide(&at(&principal, 13 * 60)).cached);
    assert!(!kit.decide(&at(&principal, 13 * 60 + 1)).cached);
}

#[test]
fn a_policy_is_asked_by_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
    shared::<DecisionCache>();
    let kit = Kit::of(
        "package mcp.authz\ndefault decision := false\ndecision if input.principal.subject == \"u7\"",
    );
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let kit = &kit;
            scope.spawn(move || {
                for number in 0..50 {
                    let caller = kit::principal_named(&format!("u{}", number % 10), &[]);
                    assert_eq!(kit.decide(&question(&caller)).allow, number % 10 == 7, "{worker} {number}");
                }
            });
        }
    });
}

#[test]
fn a_new_policy_finds_nothing_of_the_old_one() {
    let old = Kit::of("package mcp.authz\ndecision := true");
    let new =
        Kit { cache: DecisionCache::new(100, 100_000), ..Kit::of("package mcp.authz\ndecision := false") };
    let principal = kit::principal(&[], &[]);
    assert!(old.decide(&question(&principal)).allow);
    let decision = new.policy.decide(Entry::Decision, &question(&principal), &old.cache);
    assert_eq!((decision.allow, decision.cached), (false, false));
}

#[test]
fn classes_say_what_a_decision_depends_on() {
    let class = |body: &str| {
        let text = format!("package mcp.authz\ndefault decision := false\ndecision if {{ {body} }}");
        let kit = Kit::of(&text);
        (kit.policy.classes()[0].1.to_string(), kit.policy.reads(Entry::Decision))
    };
    let cases: &[(&str, &str, &[&str])] = &[
        ("input.principal.mfa", "pure", &["input.principal.mfa"]),
        ("not input.principal.claims.suspended", "pure", &["input.principal.claims.suspended"]),
        (
            "input.time.hour > 8; input.time.weekday != \"Sunday\"",
            "time(hour)",
            &["input.time.hour", "input.time.weekday"],
        ),
        ("input.time.date == \"2026-07-28\"", "time(day)", &["input.time.date"]),
        ("input.time == {}", "time(minute)", &["input.time"]),
        ("some k; input[k] == 1", "whole_input", &["input"]),
        ("count(input) == 3", "whole_input", &["input"]),
        (
            "args := input.mcp.arguments; args.a == args.b",
            "pure",
            &["input.mcp.arguments.a", "input.mcp.arguments.b"],
        ),
        ("object.get(input.mcp.arguments, \"a\", 1) == 1", "pure", &["input.mcp.arguments.a"]),
        ("some k; input.mcp.arguments[k] == 1", "pure", &["input.mcp.arguments"]),
        ("x := input.principal; y := x.claims; y.level > 1", "pure", &["input.principal.claims.level"]),
        ("x := input.principal; f(x)} f(p) if { p.mfa ", "pure", &["input.principal"]),
        ("every r in input.principal.roles { startswith(r, \"a\") }", "pure", &["input.principal.roles"]),
        ("data.grants[input.principal.subject]", "pure", &["input.principal.subject"]),
    ];
    for (body, expected, reads) in cases {
        let found = class(body);
        assert_eq!(
            (found.0.as_str(), found.1.iter().map(String::as_str).collect::<Vec<_>>()),
            (*expected, reads.to_vec()),
            "{body}"
        );
    }
}

#[test]
fn what_stands_beside_the_decision_is_asked_by_itself() {
    let kit = Kit::of(
        r#"
        package mcp.authz
        decision := input.mcp.arguments.ok
        visible := input.mcp.name != "hidden"
        content := count(input.findings) == 0
        "#,
    );
    let principal = kit::principal(&[], &[]);
    let mut question = question(&principal);
    question.mcp.name = Some("shown");
    question.findings = Some("[]");
    assert!(asked(&kit, Entry::Visible, &question).allow);
    assert!(asked(&kit, Entry::Content, &question).allow);
    assert_eq!(kit.decide(&question).fault, Some(Fault::Undefined));
    question.mcp.name = Some("hidden");
    question.findings = Some(r#"[{"rule": "iban"}]"#);
    assert!(!asked(&kit, Entry::Visible, &question).allow);
    assert!(!asked(&kit, Entry::Content, &question).allow);
    assert!(kit.policy.reads_arguments(Entry::Decision) && !kit.policy.reads_arguments(Entry::Visible));

    let plain = Kit::of("package mcp.authz\ndecision := true");
    assert!(!plain.policy.has(Entry::Visible));
    assert_eq!(asked(&plain, Entry::Visible, &question).fault, Some(Fault::NoEntry));
}

#[test]
fn rules_that_read_the_same_have_answers_of_their_own() {
    let kit =
        Kit::of("package mcp.authz\ndecision := input.mcp.name == \"a\"\nvisible := input.mcp.name != \"a\"");
    let principal = kit::principal(&[], &[]);
    let question = question(&principal);
    assert!(!kit.decide(&question).allow);
    let visible = asked(&kit, Entry::Visible, &question);
    assert_eq!((visible.allow, visible.cached), (true, false));
}

#[test]
fn a_view_is_equal_for_callers_whose_lists_are() {
    let kit = Kit::of(
        r#"package mcp.authz
        default decision := false
        decision if { input.tool.risk == "low"; "reader" in input.principal.roles; input.time.hour < 12 }
        decision if input.mcp.name == "help""#,
    );
    let (anna, bert) =
        (kit::principal(&["reader"], &[("x", "1")]), kit::principal_named("bert", &["reader"]));
    let carl = kit::principal_named("carl", &["writer"]);
    let view = |question: &Question<'_>| kit.policy.view(Entry::Decision, question).unwrap();
    let mut other = question(&bert);
    other.mcp.name = Some("other");
    other.tool = None;
    assert_eq!(view(&question(&anna)), view(&other));
    assert_ne!(view(&question(&anna)).key, view(&question(&carl)).key);
    assert_eq!(view(&other).until, Duration::from_secs(300));
    other.now.wall = Duration::from_secs(3_599);
    assert_eq!(view(&other).until, Duration::from_secs(3_600));
    other.now.wall = Duration::from_secs(3_600);
    assert_ne!(view(&other).key, view(&question(&anna)).key);
}

#[test]
fn data_is_read_from_where_it_is_mounted() {
    let module = "package mcp.authz\ndecision := data.grants[input.principal.subject].allow";
    let data = [
        Document {
            path: "data/grants.json".into(),
            mount: "grants".into(),
            text: r#"{"anna": {"allow": true}}"#.into(),
        },
        Document {
            path: "data/more.json".into(),
            mount: String::new(),
            text: r#"{"grants": {"bert": {"allow": false}}}"#.into(),
        },
    ];
    let kit = Kit::with(module, &data).unwrap();
    assert!(kit.decide(&question(&kit::principal(&[], &[]))).allow);
    assert!(!kit.decide(&question(&kit::principal_named("bert", &[]))).allow);
}

#[test]
fn arguments_that_readers_disagree_on_are_not_decided_on() {
    let kit =
        Kit::of("package mcp.authz\ndefault decision := false\ndecision if input.mcp.arguments.amount < 10");
    let principal = kit::principal(&[], &[]);
    for arguments in [
        r#"{"amount": 1, "amount": 100}"#,
        r#"{"amount": 9007199254740993.5}"#,
        r#"{"amount": {"a": 1, "a": 2}}"#,
    ] {
        let mut question = question(&principal);
        question.mcp.arguments = Some(arguments);
        let decision = kit.decide(&question);
        assert!(!decision.allow && matches!(decision.fault, Some(Fault::Unreadable(_))), "{arguments}");
    }
}
