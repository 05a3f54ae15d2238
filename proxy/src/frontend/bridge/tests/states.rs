//! What a client carries from one round of a call to the next.

use super::*;

const ASKS: &str = r#"{"resultType":"input_required","requestState":"theirs","inputRequests":{"q":{"method":"roots/list","params":{}}}}"#;

/// A server that wants to know something first, and then is content.
async fn ask_first(asked: Asked, mut wire: Wire) -> Option<Wire> {
    let params = &asked.body["params"];
    match asked.method() {
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "tools/call" | "prompts/get" if params.get("inputResponses").is_none() => {
            wire.result(&asked, ASKS).await;
        }
        _ => wire.result(&asked, r#"{"resultType":"complete","content":[]}"#).await,
    }
    Some(wire)
}

#[tokio::test]
async fn a_servers_state_serves_its_caller_in_time_for_the_same_call() {
    let server = Server::start(ask_first).await;
    let stand = Stand::before(server, Arc::new(Semaphore::new(0)), ", era: modern");
    let ask = async |bearer: &str, method: &str, more: Value| {
        let fields =
            format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\nMcp-Name: echo\r\n");
        let mut params = envelope();
        params["name"] = "echo".into();
        params["arguments"] = json!({"a": "1"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stand.ask(bearer, &fields, &request(method, params)).await.1
    };
    let asked = ask("ada", "tools/call", json!({})).await;
    let state = asked["result"]["requestState"].as_str().unwrap_or_else(|| panic!("{asked}"));
    assert_ne!(state, "theirs");
    let retry = json!({"inputResponses": {"q": {"roots": []}}, "requestState": state});
    let elsewhere = json!({"arguments": {"a": "2"}, "inputResponses": {}, "requestState": state});
    let made_up = json!({"inputResponses": {}, "requestState": "theirs"});
    for (name, bearer, method, more) in [
        ("another caller", "bert", "tools/call", &retry),
        ("another method", "ada", "prompts/get", &retry),
        ("other arguments", "ada", "tools/call", &elsewhere),
        ("the server's own", "ada", "tools/call", &made_up),
    ] {
        let refused = ask(bearer, method, more.clone()).await;
        assert_eq!(refused["error"]["data"]["reason"], "unknown_state", "{name}: {refused}");
    }
    let again = json!({"_meta": envelope()["_meta"], "inputResponses": {"q": {}}, "requestState": state});
    for more in [&retry, &again] {
        let done = ask("ada", "tools/call", more.clone()).await;
        assert_eq!(done["result"]["content"], json!([]), "{done}");
    }
    let heard = stand.server.heard("tools/call");
    let states: Vec<&Value> = heard.iter().map(|asked| &asked.body["params"]["requestState"]).collect();
    assert_eq!(states, [&Value::Null, &json!("theirs"), &json!("theirs")]);
    stand.bed.clock.advance(Duration::from_secs(601));
    let late = ask("ada", "tools/call", retry).await;
    assert_eq!(late["error"]["data"]["reason"], "unknown_state", "{late}");
}
