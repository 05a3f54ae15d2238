//! The policy's time is CPU time, and bounded: for one decision, for a list, and for a caller. What runs out of it is
//! told, logged and counted, and delays nobody else.

use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Said, within};
use serde_json::{Value, json};
use std::collections::HashSet;

const RESOURCE: &str = "https://gw.example/mcp";

/// Takes as long as a caller wishes.
const LOOP: &str = "package mcp.authz\nimport rego.v1\ndefault decision := true\nvisible := true\n\
    decision := false if {\n\tsome x in input.mcp.arguments.items\n\tsome y in input.mcp.arguments.items\n\t\
    x + y == -1\n}\n";

/// Takes too long to decide on one tool.
const ONE_IS_DEAR: &str = "package mcp.authz\nimport rego.v1\ndecision := true\ndefault visible := true\n\
    visible := false if {\n\tinput.mcp.name == \"spin\"\n\tsome x in numbers.range(1, 20000)\n\t\
    some y in numbers.range(1, 20000)\n\tx + y == 0\n}\n";

/// Takes milliseconds for each tool: a tenth of what one decision may take in the test below, and for all tools several times
/// what a list may take, also where the machine is four times as fast or as slow.
const ALL_ARE_DEAR: &str = "package mcp.authz\nimport rego.v1\ndecision := true\ndefault visible := true\n\
    visible := false if {\n\tinput.mcp.kind == \"tool\"\n\tsome x in numbers.range(1, 5000)\n\tx == 0\n}\n";

struct Bed {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl Bed {
    async fn start(tools: &[String], file: (&str, &str), policy: &str) -> Bed {
        Bed::start_with(tools, &[file], policy).await
    }

    async fn start_with(tools: &[String], files: &[(&str, &str)], policy: &str) -> Bed {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let server = Mcp::naming(Nature::of(Era::Modern), tools).await;
        let document = format!(
            "level: info\nupstreams:\n  up: {}\nservers:\n  /mcp: up\n  /other: up\nidentity:\n  \
             url: https://gw.example\n  jwt: {{issuer: '{}', roles: roles, audience: '{RESOURCE}'}}\npolicy: {policy}\n",
            server.url(),
            issuer.url()
        );
        let gateway = Gateway::start_beside(files, &document).await;
        Bed { gateway, issuer, key, server }
    }

    async fn caller(&self, era: Era, subject: &str, roles: &[&str]) -> Caller {
        let claims = json!({"sub": subject, "roles": roles});
        let token = self.issuer.token_with(&self.key, RESOURCE, claims);
        Caller::new(era, self.gateway.address).presenting(&token).ready().await
    }
}

fn tools(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn reason(said: &Said) -> &str {
    said.message["error"]["data"]["reason"].as_str().unwrap_or_default()
}

fn retry_after(said: &Said) -> u64 {
    said.message["error"]["data"]["retryAfterMs"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn caller_who_makes_decisions_dear_is_limited_and_others_are_served() {
    for era in [Era::Legacy, Era::Modern] {
        let bed = Bed::start(&tools(&["find"]), ("p.rego", LOOP), "{path: p.rego, time_limit: 50ms}").await;
        let items = |first: usize| json!({ "items": (first..first + 3_000).collect::<Vec<_>>() });
        let mut calm = bed.caller(era, "calm", &[]).await;
        let mut spinner = bed.caller(era, "spinner", &[]).await;
        assert_eq!(calm.call("find", json!({})).await.unwrap().text(), "find");
        let first = spinner.call("find", items(0)).await.unwrap();
        assert_eq!((reason(&first), first.code()), ("policy_error", Some(-31403)), "{}", first.all());
        let mut limited = None;
        for number in 1..60 {
            let said = spinner.call("find", items(number)).await.unwrap();
            if reason(&said) == "policy_limited" {
                limited = Some(said);
                break;
            }
            assert_eq!(reason(&said), "policy_error", "{}", said.all());
        }
        let limited = limited.expect("nothing stops a caller who uses up a worker");
        assert_eq!((limited.head.status, limited.code()), (200, Some(-31429)), "{}", limited.all());
        assert!((1..60_000).contains(&retry_after(&limited)), "{}", limited.all());
        assert_eq!(calm.call("find", json!({"items": [1]})).await.unwrap().text(), "find", "{era:?}");
        // What took too long is not tried again, whoever asks.
        let again = calm.call("find", items(0)).await.unwrap();
        assert_eq!(reason(&again), "policy_error", "{}", again.all());
        assert!(
            bed.gateway
                .counted("portunus_policy_decisions_total", "cache=\"hit\",class=\"pure\",decision=\"error\"")
                .await
                > 0.0
        );
        assert_eq!(bed.server.counted("tools/call"), 2, "{era:?}");
        let told = |entry: &Value| entry["refused_callers"].as_u64() > Some(0);
        assert_eq!(bed.gateway.logged("the callers", told).await["level"], "WARN");
        assert!(bed.gateway.counted("portunus_policy_ran_out_total", "of=\"caller\"").await > 0.0);
        assert!(bed.gateway.counted("portunus_policy_ran_out_total", "of=\"decision\"").await > 0.0);
        let told = |record: &Value| {
            record["policy_fault"].as_str().is_some_and(|fault| fault.contains("has used up its CPU time"))
        };
        bed.gateway.recorded("the refusal", told).await;
        within(30, "the budget to fill again", async {
            while reason(&spinner.call("find", json!({"items": [2]})).await.unwrap()) == "policy_limited" {}
        })
        .await;
    }
}

#[tokio::test]
async fn list_with_an_entry_that_takes_too_long_is_an_error_and_never_empty() {
    for era in [Era::Legacy, Era::Modern] {
        let bed = Bed::start(
            &tools(&["find", "spin"]),
            ("p.rego", ONE_IS_DEAR),
            "{path: p.rego, time_limit: 50ms}",
        )
        .await;
        for subject in ["one", "two"] {
            let mut caller = bed.caller(era, subject, &[]).await;
            let said = caller.request("tools/list", json!({})).await.unwrap();
            assert_eq!(reason(&said), "policy_error", "{}", said.all());
            assert!((1..60_000).contains(&retry_after(&said)), "{}", said.all());
            let said = caller.call("spin", json!({})).await.unwrap();
            assert_eq!(reason(&said), "policy_error", "unknown or not, nobody knows: {}", said.all());
            assert_eq!(caller.call("find", json!({})).await.unwrap().text(), "find");
            let prompts = caller.request("prompts/list", json!({})).await.unwrap();
            assert!(prompts.message["result"]["prompts"].is_array(), "{}", prompts.all());
        }
        let told = |entry: &Value| entry["list"] == "tools/list" && entry["level"] == "WARN";
        bed.gateway.logged("the list", told).await;
        let refused = bed.gateway.log_text().matches("a list is refused").count();
        assert_eq!(refused, 1, "the second caller waits for nothing that is known");
        assert_eq!(bed.server.counted("tools/call"), 2);
    }
}

#[tokio::test]
async fn list_that_takes_too_long_as_a_whole_delays_nobody_and_is_an_error() {
    let names: Vec<String> = (0..3_000).map(|number| format!("tool_{number}")).collect();
    let bed = Bed::start(&names, ("p.rego", ALL_ARE_DEAR), "{path: p.rego, time_limit: 50ms}").await;
    let mut caller =
        bed.caller(Era::Modern, "one", &[]).await.patient_for(std::time::Duration::from_secs(120));
    let mut other = bed.caller(Era::Modern, "two", &[]).await.at("/other");
    let listing = tokio::spawn(async move { caller.request("tools/list", json!({})).await.unwrap() });
    let mut calls = 0;
    while !listing.is_finished() {
        assert!(other.request("prompts/list", json!({})).await.unwrap().message["result"].is_object());
        calls += 1;
    }
    let said = listing.await.unwrap();
    assert_eq!((reason(&said), said.code()), ("policy_limited", Some(-31429)), "{}", said.all());
    assert!(retry_after(&said) > 0);
    assert!(calls > 20, "{calls} calls in all that time: they waited for it");
    bed.gateway.logged("the list", |entry| entry["decided"].as_u64() > Some(0)).await;
    bed.gateway.counts("portunus_policy_ran_out_total", "of=\"list\"", 1.0).await;
}

#[tokio::test]
async fn callers_whom_roles_do_not_tell_apart_share_one_list() {
    let roles =
        "roles: {reader: {allow: 'up.get_*'}, writer: {allow: 'up.*'}, office: {groups: x, allow: 'up.x'}}\n";
    let names = ["get_a", "get_b", "set_a"];
    let bed = Bed::start(&tools(&names), ("roles.yaml", roles), "{builtin: rbac, data: roles.yaml}").await;
    let mut seen = HashSet::new();
    for number in 0..12 {
        let (roles, expected) = match number % 3 {
            0 => (&["reader"][..], 2),
            1 => (&["reader", "unheard_of"][..], 2),
            _ => (&["writer"][..], 3),
        };
        let mut caller = bed.caller(Era::Modern, &format!("caller-{number}"), roles).await;
        let said = caller.request("tools/list", json!({})).await.unwrap();
        let listed =
            said.message["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all())).len();
        assert_eq!(listed, expected, "{roles:?}");
        seen.insert(roles);
        assert_eq!(caller.call("get_a", json!({"n": number})).await.unwrap().text(), "get_a");
        let refused = caller.call("set_a", json!({})).await.unwrap();
        assert_eq!(refused.code().is_none(), roles == ["writer"], "{}", refused.all());
    }
    assert_eq!(seen.len(), 3);
    bed.gateway.counts("portunus_table_entries", "table=\"views\"", 2.0).await;
    bed.gateway.counts("portunus_table_entries", "table=\"decisions\"", 0.0).await;
}

#[tokio::test]
async fn answers_to_arguments_are_remembered_when_they_come_again() {
    let bed = Bed::start(&tools(&["find"]), ("p.rego", LOOP), "p.rego").await;
    let mut caller = bed.caller(Era::Modern, "one", &[]).await;
    let decided = async |cache: &str| {
        let label = format!("cache=\"{cache}\",class=\"pure\",decision=\"allow\",entry=\"decision\"");
        bed.gateway.counted("portunus_policy_decisions_total", &label).await
    };
    for number in 0..20 {
        caller.call("find", json!({"items": [number]})).await.unwrap();
    }
    let hits = decided("hit").await;
    for _ in 0..3 {
        caller.call("find", json!({"items": [100]})).await.unwrap();
    }
    assert_eq!(decided("hit").await - hits, 1.0, "worked out twice, and remembered");
    bed.gateway.counts("portunus_table_entries", "table=\"decisions\"", 2.0).await;
}

/// Takes long to refuse one caller, and refuses all others at once.
const TRIED: &str = "package mcp.authz\nimport rego.v1\ndecision := {\"allow\": false, \"reason\": input.principal.subject} if {\n\t\
    input.mcp.kind == \"tool\"\n\tcount([x | some x in loop; some y in loop; x + y == -1]) == 0\n}\n\
    default loop := []\nloop := numbers.range(1, 20000) if input.principal.subject == \"dear\"\n";

#[tokio::test]
async fn costly_shadow_comparisons_of_one_caller_leave_those_of_others() {
    let open = "package mcp.authz\nimport rego.v1\ndecision := true\nvisible := true\n";
    let policy = "{path: p.rego, time_limit: 50ms, shadow: {path: next.rego}}";
    let files = [("p.rego", open), ("next.rego", TRIED)];
    let bed = Bed::start_with(&tools(&["find"]), &files, policy).await;
    let mut dear = bed.caller(Era::Modern, "dear", &[]).await;
    let dropped = "portunus_policy_aside_dropped_total";
    within(60, "the end of what is looked at", async {
        while bed.gateway.metric(dropped).await.is_none_or(|count| count < 3.0) {
            assert_eq!(dear.call("find", json!({})).await.unwrap().text(), "find");
        }
    })
    .await;
    let mut calm = bed.caller(Era::Modern, "calm", &[]).await;
    assert_eq!(calm.call("find", json!({})).await.unwrap().text(), "find");
    let told = |entry: &Value| entry["difference"] == "would_deny" && entry["tried_reason"] == "calm";
    bed.gateway.logged("the comparison for the other caller", told).await;
}

/// Has two values for one tool, and for a caller with one role for all.
const FAILS: &str = "package mcp.authz\nimport rego.v1\ndecision := true\nvisible := true\n\
    visible := false if input.mcp.name == \"twice\"\nvisible := false if \"broken\" in input.principal.roles\n";

#[tokio::test]
async fn what_the_policy_fails_on_is_hidden_and_told_of_and_a_list_of_nothing_else_is_refused() {
    let names = ["plain", "twice"];
    let bed = Bed::start(&tools(&names), ("policy.rego", FAILS), "{path: policy.rego}").await;
    for era in [Era::Legacy, Era::Modern] {
        let mut well = bed.caller(era, "ann", &["reader"]).await;
        let said = well.request("tools/list", json!({})).await.unwrap();
        let tools = said.message["result"]["tools"].as_array().unwrap();
        assert!(tools.len() == 1 && tools[0]["name"] == "plain", "{}", said.all());
        let mut broken = bed.caller(era, "bob", &["broken"]).await;
        let said = broken.request("tools/list", json!({})).await.unwrap();
        assert_eq!(reason(&said), "policy_error", "{}", said.all());
    }
    let told =
        |entry: &Value| entry["message"].as_str().is_some_and(|said| said.contains("entries of a list"));
    let line = bed.gateway.logged("that entries are hidden", told).await;
    assert!(line["fault"].as_str().is_some_and(|fault| fault.contains("policy.rego")), "{line}");
}
