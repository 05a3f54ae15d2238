//! A rule that does not end is cut off, and nobody else waits for it.

use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(3);

const ENDLESS: &str = "package mcp.authz\nimport rego.v1\ndefault decision := true\nvisible := true\n\
    decision := false if {\n\tinput.mcp.name == \"spin\"\n\tsome x in numbers.range(1, 20000)\n\t\
    some y in numbers.range(1, 20000)\n\tx + y == 0\n}\n";

pub(super) async fn run() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["spin".to_owned(), "find".to_owned()]).await;
    let document = format!(
        "level: info\nthreads: 2\nupstreams:\n  up: {}\nservers:\n  /mcp: up\n\
         policy: {{ path: policy.rego, time_limit: {}s }}\n",
        server.url(),
        LIMIT.as_secs()
    );
    let gateway = Gateway::start_beside(&[("policy.rego", ENDLESS)], &document).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    assert_eq!(caller.call("find", json!({})).await.unwrap().text(), "find");
    let mut spinner = Caller::new(Era::Modern, gateway.address);
    let began = Instant::now();
    let spinning = tokio::spawn(async move { spinner.call("spin", json!({})).await.unwrap() });
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    while !spinning.is_finished() {
        let asked = Instant::now();
        assert_eq!(caller.call("find", json!({})).await.unwrap().text(), "find");
        (calls, slowest) = (calls + 1, slowest.max(asked.elapsed()));
    }
    let refused = spinning.await.unwrap();
    assert_eq!(refused.message["error"]["data"]["reason"], "policy_error", "{}", refused.all());
    assert!(began.elapsed() >= LIMIT, "it ended after {:?}", began.elapsed());
    assert!(calls > 20, "{calls} calls in all that time: they waited for it");
    let told = |entry: &Value| entry["fault"] == "evaluation took longer than it may";
    assert_eq!(gateway.logged("the fault", told).await["level"], "WARN");
    assert_eq!(server.counted("tools/call"), calls + 1);
    println!("{calls} calls while one was decided for {LIMIT:?}, the slowest in {slowest:.0?}");
}
