//! Questions of servers, and what policy has to say to them.

use crate::harness::mcp::{Call, RpcError, question, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::{Value, json};

/// Of what servers ask, only who is asking may be answered.
const POLICY: &str = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": true}\n\
    decision := {\"allow\": false, \"reason\": \"not this\"} if {\n\tinput.mcp.direction == \"to_client\"\n\t\
    input.mcp.method != \"elicitation/create\"\n}\n";

/// A modern server whose tool wants two things to be known at once.
async fn server() -> Mcp {
    Mcp::start(Nature::of(Era::Modern), vec![tool("ask")], |call: Call| async move {
        if call.params.get("inputResponses").is_some() {
            call.count("answers");
            return Ok(text("thanks"));
        }
        let asked = json!({
            "who": {"method": "elicitation/create", "params": question("Your name?")},
            "where": {"method": "roots/list", "params": {}},
        });
        Ok(json!({"resultType": "input_required", "inputRequests": asked, "requestState": "s"}))
    })
    .await
}

#[tokio::test]
async fn of_several_questions_none_is_asked_if_one_is_denied() {
    for era in [Era::Legacy, Era::Modern] {
        let server = server().await;
        let document =
            format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: policy.rego\n", server.url());
        let gateway = Gateway::start_beside(&[("policy.rego", POLICY)], &document).await;
        let mut caller = Caller::new(era, gateway.address).ready().await;
        let said = caller.request("tools/call", json!({"name": "ask", "arguments": {}})).await.unwrap();
        match era {
            Era::Legacy => assert_eq!(said.message["result"]["isError"], true, "{}", said.all()),
            Era::Modern => assert_eq!(said.code(), Some(-31403), "{}", said.all()),
        }
        let asked: Vec<&Value> = said.before.iter().filter(|message| message.get("id").is_some()).collect();
        assert!(asked.is_empty(), "{era:?}: {}", said.all());
        assert_eq!(server.counted("answers"), 0, "{era:?}");
    }
}

/// A legacy server that wants its user to visit a URL first (2025-11-25 client/elicitation).
async fn visited() -> Mcp {
    Mcp::start(Nature::of(Era::Legacy), vec![tool("visit")], |_| async move {
        let visit =
            json!({"mode": "url", "url": "https://a.example/", "message": "Log in", "elicitationId": "v"});
        Err(RpcError(-32042, "a visit is required", json!({"elicitations": [visit]})))
    })
    .await
}

#[tokio::test]
async fn urls_that_an_error_asks_to_visit_are_judged_as_questions() {
    for (policy, is_asked) in [(POLICY, true), (&POLICY.replace("elicitation/create", "none"), false)] {
        for era in [Era::Legacy, Era::Modern] {
            let server = visited().await;
            let document =
                format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: policy.rego\n", server.url());
            let gateway = Gateway::start_beside(&[("policy.rego", policy)], &document).await;
            let mut caller = Caller::new(era, gateway.address).ready().await;
            let said = caller.request("tools/call", json!({"name": "visit", "arguments": {}})).await.unwrap();
            let tells = said.all().contains("https://a.example/");
            // A modern client that cannot visit URLs is not told of them.
            let code = match (is_asked, era) {
                (false, _) => -31403,
                (true, Era::Legacy) => -32042,
                (true, Era::Modern) => -32021,
            };
            assert_eq!((said.code(), tells), (Some(code), code == -32042), "{era:?}: {}", said.all());
        }
    }
}
