//! What lies outside the projection never changes a decision.

use super::kit::{Kit, principal, question};
use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const POLICY: &str = r#"
    package mcp.authz
    import input.mcp.arguments as args
    default decision := {"allow": false, "reason": "no"}
    decision := {"allow": true, "reason": why} if {
        not blocked
        some role in input.principal.roles
        some grant in data.grants[role]
        glob.match(grant.tool, [], input.mcp.name)
        region_fits(grant, object.get(args, "region", "eu"))
        why := concat("", [role, " by grant"])
    } else := {"allow": false, "reason": "blocked"} if blocked
    blocked if input.principal.claims.suspended
    blocked if args.filter.danger == input.tool.risk
    region_fits(grant, region) if region in grant.regions
    region_fits(grant, _) if not grant.regions
"#;
const DATA: &str = r#"{"grants": {
    "reader": [{"tool": "search*", "regions": ["eu"]}, {"tool": "list"}],
    "admin": [{"tool": "*"}]}}"#;

fn kit() -> Kit {
    let data = [Document { path: "data.json".into(), mount: String::new(), text: DATA.into() }];
    Kit::with(POLICY, &data).unwrap()
}

/// Inputs that this policy decides in all its ways, and some that are hardly inputs at all.
fn inputs() -> impl Strategy<Value = Json> {
    let role = prop_oneof![Just("reader"), Just("admin"), Just("guest")];
    let roles = prop_oneof![
        8 => proptest::collection::vec(role, 0..3).prop_map(|roles| json!(roles)),
        1 => Just(json!("reader")),
        1 => Just(Json::Null),
    ];
    let claims = prop_oneof![
        4 => Just(json!({})),
        2 => any::<bool>().prop_map(|suspended| json!({"suspended": suspended, "other": 1})),
        1 => Just(json!([])),
    ];
    let arguments = prop_oneof![
        Just(json!({})),
        Just(json!({"region": "eu", "x": [1, {"y": null}]})),
        Just(json!({"region": "us"})),
        Just(json!({"region": {"deep": true}, "filter": {"danger": "high", "z": 1}})),
        Just(json!({"filter": {"danger": "low"}})),
        Just(json!({"filter": "high"})),
        Just(json!("text")),
        Just(Json::Null),
    ];
    let name = prop_oneof![Just("search"), Just("search_all"), Just("list"), Just("drop")];
    let risk = prop_oneof![Just("low"), Just("high")];
    (roles, claims, arguments, name, risk, any::<u8>()).prop_map(
        |(roles, claims, arguments, name, risk, noise)| {
            json!({
                "principal": {"roles": roles, "claims": claims, "subject": format!("s{noise}")},
                "mcp": {"name": name, "arguments": arguments, "method": format!("m{noise}")},
                "tool": {"risk": risk, "labels": [noise]},
                "noise": noise,
            })
        },
    )
}

/// The input with everything outside of `places` changed.
fn changed(input: &Json, places: &[String], at: &str, noise: u8) -> Json {
    let inside = |path: &str| places.iter().any(|place| place == path);
    let leads = |path: &str| places.iter().any(|place| place.starts_with(&format!("{path}.")));
    if inside(at) {
        return input.clone();
    }
    match input {
        _ if !leads(at) => json!({"other": noise}),
        Json::Object(members) => {
            let kept = members
                .iter()
                .map(|(key, value)| (key.clone(), changed(value, places, &format!("{at}.{key}"), noise)));
            let mut kept: serde_json::Map<String, Json> = kept.collect();
            kept.insert(format!("new{noise}"), json!(noise));
            Json::Object(kept)
        }
        // A rule can tell an object from what is none there, and no more.
        _ => json!(noise),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_outside_the_projection_never_changes_a_decision(input in inputs(), noise in any::<u8>()) {
        let kit = kit();
        let point = &kit.policy.points[0];
        let other = changed(&input, &point.projection.places(), "input", noise);
        let value = |json: &Json| Value::from_json_str(&json.to_string()).unwrap();
        let (first, second) = (value(&input), value(&other));
        prop_assert_eq!(point.projection.of_value(&first), point.projection.of_value(&second));
        let decided = point.interpreter.ask(first.clone());
        prop_assert!(decided.agrees(&point.interpreter.ask(second)));
        prop_assert!(decided.agrees(&point.interpreter.ask(point.projection.of_value(&first))));
    }

    #[test]
    fn callers_share_a_decision_only_if_the_policy_sees_the_same_of_them(
        one in proptest::collection::vec("[a-c]{1,3}", 0..3),
        other in proptest::collection::vec("[a-c]{1,3}", 0..3),
        first in "[ab]{0,3}",
        second in "[ab]{0,3}",
    ) {
        let kit = kit();
        let arguments = |region: &str| format!("{{\"region\":\"{region}\"}}");
        let text = |roles: &[String]| principal(&roles.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let (one, other) = (text(&one), text(&other));
        let (first, second) = (arguments(&first), arguments(&second));
        let mut asked = question(&one);
        asked.mcp.arguments = Some(&first);
        // What has arguments is kept when it comes again.
        kit.decide(&asked);
        kit.decide(&asked);
        let mut again = question(&other);
        again.mcp.arguments = Some(&second);
        prop_assert_eq!(kit.decide(&again).cached, one.roles == other.roles && first == second);
    }

    #[test]
    fn typed_and_untyped_projections_agree(
        roles in proptest::collection::vec("[a-c]{1,3}", 0..3),
        arguments in prop_oneof![
            Just(None),
            Just(Some("{}")),
            Just(Some(r#"{"region":"eu","filter":{"danger":"x","y":1}}"#)),
            Just(Some(r#"{"filter":[1]}"#)),
        ],
        tool in any::<bool>(),
    ) {
        let kit = kit();
        let point = &kit.policy.points[0];
        let principal = principal(&roles.iter().map(String::as_str).collect::<Vec<_>>(), &[("suspended", "false"), ("x", "1")]);
        let mut question = question(&principal);
        question.mcp.arguments = arguments;
        if !tool {
            question.tool = None;
        }
        let time = kit.policy.calendar.at(question.now.wall);
        let full = point.full.input(&question, time).unwrap();
        prop_assert_eq!(point.projection.input(&question, time).unwrap(), point.projection.of_value(&full));
    }
}
