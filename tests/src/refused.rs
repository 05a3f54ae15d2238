//! Rules that may not be put in force, and rules that give no answer, on a running gateway: what was in
//! force goes on, and the operator is told.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, Said, Upstream, run};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

const OPEN: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := true\n";

/// A server that tells with which credentials it is called.
async fn server() -> Mcp {
    Mcp::start(Nature::of(Era::Modern), vec![tool("find")], |call: Call| async move {
        call.count("called");
        Ok(text(call.tool()))
    })
    .await
}

async fn call(gateway: &Gateway) -> Said {
    Caller::new(Era::Modern, gateway.address).ready().await.call("find", json!({})).await.unwrap()
}

async fn goes_on(gateway: &Gateway, why: &str) {
    let said = call(gateway).await;
    assert_eq!(said.text(), "find", "{why}: {}", said.all());
    assert_eq!(gateway.status().await["serial"], 1, "{why}");
}

/// Waits until the `nth` change was refused, and for this problem; gives what is told of it.
async fn refusal(gateway: &Gateway, nth: usize, problem: &str) -> Value {
    let count = f64::from(u32::try_from(nth).unwrap());
    // Counted last: what is told of it is there.
    gateway.counts("portunus_activations_total", "result=\"refused\"", count).await;
    let is_it = |one: &Value| one["problem"].as_str().is_some_and(|told| told.contains(problem));
    let status = gateway.status().await;
    let told = status["refused"].as_array().unwrap().iter().find(|one| is_it(one));
    let told = told.unwrap_or_else(|| panic!("{problem}: {}", status["refused"])).clone();
    let logged = |entry: &Value| {
        entry["message"] == "configuration refused" && is_it(entry) && entry["at"] == told["at"]
    };
    let entry = gateway.logged(problem, logged).await;
    assert_eq!((&entry["level"], &entry["hint"]), (&json!("ERROR"), &told["hint"]));
    told
}

#[tokio::test]
async fn rules_that_reach_outside_or_cannot_be_read_are_refused_and_the_old_ones_go_on() {
    let server = server().await;
    let document = format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: policy.rego\n", server.url());
    let gateway = Gateway::start_beside(&[("policy.rego", OPEN)], &document).await;
    let sends = "\ndecision := false if http.send({\"url\": input.mcp.name}).status_code == 200\n";
    let table = [
        (sends, "`http.send` is not for policy that decides on messages", ":7:", "data"),
        (
            "\ndecision := false if time.now_ns() > 1\n",
            "`time.now_ns` is not for policy",
            ":7:",
            "input.time",
        ),
        ("\n\nunused if opa.runtime().env.HOME\n", "`opa.runtime` is not for policy", ":8:", "environment"),
        ("\ndecision := := 1\n", "expect", ":7:", ""),
        ("\ndecision if nothing_of_this_name\n", "nothing_of_this_name", ":7:", ""),
        ("\ndecision if f(1)\n\nf(x) := numbers.range(1, x)\n", "what is computed", ":9:", "caller"),
    ];
    for (nth, (rules, problem, line, hint)) in (1..).zip(table) {
        gateway.place("policy.rego", &format!("{OPEN}{rules}"));
        let told = refusal(&gateway, nth, problem).await;
        let at = told["at"].as_str().unwrap_or_default();
        assert!(at.starts_with("policy.rego:") && at.contains(line), "{problem}: {told}");
        assert!(told["hint"].as_str().unwrap().contains(hint), "{problem}: {told}");
        goes_on(&gateway, problem).await;
    }
    assert_eq!(server.counted("called"), table.len());
}

#[tokio::test]
async fn rules_that_give_no_decision_deny_with_a_clear_word_and_nothing_goes_on() {
    let server = server().await;
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: {{ path: policy.rego, time_limit: 2s }}\n",
        server.url()
    );
    let gateway = Gateway::start_beside(&[("policy.rego", OPEN)], &document).await;
    let head = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := true\n\nvisible := true\n\n";
    let never = "decision := false if {\n\tinput.mcp.kind == \"tool\"\n\tsome x in numbers.range(1, 20000)\n\t\
                 some y in numbers.range(1, 20000)\n\tx + y == 0\n}\n";
    let table = [
        (
            "a text",
            "decision := \"yes\" if input.mcp.kind == \"tool\"\n",
            "misshapen: it should be an object, it is a string",
        ),
        (
            "misspelt",
            "decision := {\"alow\": true} if input.mcp.kind == \"tool\"\n",
            "misshapen: it has a member `alow`",
        ),
        (
            "two values",
            "decision := false if input.mcp.kind == \"tool\"\n\ndecision := true if input.mcp.name == \"find\"\n",
            "two values where there may be one: policy.rego:11",
        ),
        (
            "a wrong type",
            "decision := false if input.mcp.name + 1 == 2\n",
            "evaluation failed: policy.rego:9",
        ),
        ("no end", never, "evaluation took longer than it may"),
    ];
    for (serial, (name, rules, fault)) in (2..).zip(table) {
        gateway.place("policy.rego", &format!("{head}{rules}"));
        gateway.reaches(name, |status| status["serial"] == serial).await;
        let said = call(&gateway).await;
        let reason = &said.message["error"]["data"]["reason"];
        assert_eq!((said.head.status, reason), (200, &json!("policy_error")), "{name} {}", said.all());
        assert!(
            !said.all().contains("policy.rego"),
            "the rules are not the caller's business: {}",
            said.all()
        );
        let told = |entry: &Value| {
            entry["level"] == "WARN" && entry["fault"].as_str().is_some_and(|told| told.contains(fault))
        };
        gateway.logged(fault, told).await;
    }
    assert_eq!(server.counted("called"), 0, "a call went on without a decision");
    gateway.place("policy.rego", OPEN);
    gateway.reaches("the good rules", |status| status["serial"] == 2 + table.len()).await;
    assert_eq!(call(&gateway).await.text(), "find");
}

/// A bundle in front of `place` with these settings of its upstream, and `rest` beside it.
fn bundle(place: &str, settings: &str, rest: &str) -> String {
    format!("version: 1\nupstreams:\n  up: {{ {place}, {settings} }}\nservers:\n  /mcp: up\n{rest}")
}

const BEARER: &str = "credentials: { bearer: 'secret:tok' }";

/// Bundles that send the secret of `own` elsewhere, and why they are refused.
fn sending(own: SocketAddr, thief: SocketAddr) -> Vec<(String, String)> {
    let elsewhere = format!("url: 'http://{thief}/mcp'");
    let asking = format!(
        "identity:\n  url: https://gw.example\n  introspection: {{ url: 'http://{thief}/ask', issuer: x, audience: y, \
         client: {{ id: us, secret: 'secret:tok' }} }}\n"
    );
    let edits = [
        bundle(&elsewhere, BEARER, ""),
        bundle(&elsewhere, "headers: { set: { X-Key: 'secret:tok' } }", ""),
        bundle(&format!("replicas: ['http://{own}/mcp', 'http://{thief}/mcp']"), BEARER, ""),
        bundle(&format!("url: 'http://{own}/mcp'"), BEARER, &asking),
    ];
    edits.map(|edit| (edit, format!("the secret `tok` may not be sent to `{thief}`"))).to_vec()
}

/// Bundles that read or reach what they may not, and why they are refused.
fn reaching(own: SocketAddr) -> Vec<(String, String)> {
    let (own, none) = (format!("url: 'http://{own}/mcp'"), "credentials: none");
    let alone = "a bundle cannot reach for a secret by itself";
    let secrets = "secrets:\n  tok: { from: 'env:TOK', hosts: ['*'] }\n";
    let edits = [
        (bundle(&own, "credentials: { bearer: 'secret:other' }", ""), "no secret is named `other`"),
        (bundle(&own, "credentials: { bearer: 'env:OTHER' }", ""), alone),
        (bundle(&own, "credentials: { bearer: 'file:/etc/hostname' }", ""), alone),
        (bundle(&own, "headers: { set: { X-Key: 'env:TOK' } }", ""), alone),
        (bundle(&own, BEARER, "policy: ../policy.rego\n"), "a bundle names files of its own folder only"),
        (bundle(&own, BEARER, secrets), "`secrets` does not belong in this file"),
        (
            bundle(&own, BEARER, "egress_ceiling: { addresses: [private] }\n"),
            "`egress_ceiling` does not belong in this file",
        ),
        (bundle("url: 'http://10.0.0.1/mcp'", none, ""), "the host `10.0.0.1` is beyond the ceiling"),
        (
            bundle("url: 'http://collect.example/mcp'", none, ""),
            "the host `collect.example` is beyond the ceiling",
        ),
        (
            bundle(&format!("{own}, addresses: [private]"), none, ""),
            "needs loopback and private addresses, beyond the ceiling",
        ),
    ];
    edits.map(|(edit, problem)| (edit, problem.to_owned())).to_vec()
}

#[tokio::test]
async fn whoever_edits_a_bundle_sends_no_secret_elsewhere_and_reaches_no_further() {
    let (server, thief) = (server().await, Upstream::unreachable().await);
    let own = server.address();
    let bootstrap = format!(
        "bundle: b\nsecrets:\n  tok: {{ from: 'env:TOK', hosts: ['{own}'] }}\n\
         egress_ceiling: {{ hosts: [127.0.0.1], addresses: [loopback] }}\n"
    );
    let begin = |folder: &Path| {
        let good = bundle(&format!("url: 'http://{own}/mcp'"), BEARER, "policy: policy.rego\n");
        std::fs::create_dir(folder.join("b")).unwrap();
        std::fs::write(folder.join("b/gateway.yaml"), good).unwrap();
        std::fs::write(folder.join("b/policy.rego"), OPEN).unwrap();
        let mut command = run();
        command.env("TOK", "s3cret").env("OTHER", "0ther");
        command
    };
    let gateway = Gateway::start_as(&bootstrap, begin).await;
    let edits = [sending(own, thief.address), reaching(own)].concat();
    for (nth, (edited, problem)) in (1..).zip(&edits) {
        gateway.place("b/gateway.yaml", edited);
        let told = refusal(&gateway, nth, problem).await;
        assert!(told["at"].as_str().is_some_and(|at| at.starts_with("b/gateway.yaml:")), "{told}");
        goes_on(&gateway, problem).await;
    }
    let told = format!("{}{}", gateway.log_text(), gateway.status().await);
    assert!(!told.contains("s3cret") && !told.contains("0ther"), "{told}");
    assert_eq!(server.counted("called"), edits.len());
    assert!(server.counted("Bearer s3cret") >= edits.len(), "the secret goes where it may");
    assert_eq!(thief.requests(), 0, "somebody else was reached");
}
