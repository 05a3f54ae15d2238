//! Answers that reach their client as their server wrote them.

use super::*;

/// What follows the head of the answer to a call.
async fn told(stand: &Stand, more: Value) -> String {
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
    let mut params = envelope();
    params["name"] = "echo".into();
    params["arguments"] = json!({});
    params["_meta"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut stream = stand.send("ada", fields, &request("tools/call", params)).await;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn an_answer_between_modern_parties_keeps_its_bytes_and_its_words() {
    const SAID: &str = "{ \"result\":{\"resultType\":\"complete\" ,\n\"content\":[ ],\"x\":1.50},\"x-own\":[7 ], \"jsonrpc\":\"2.0\",\"id\" : ID}";
    let server = Server::start(|asked, mut wire| async move {
        match asked.method() {
            "server/discover" => wire.result(&asked, DISCOVERED).await,
            _ => wire.json(&SAID.replace("ID", &asked.id())).await,
        }
        Some(wire)
    });
    let stand = Stand::before(server.await, Arc::new(Semaphore::new(0)), ", era: modern");
    assert_eq!(told(&stand, json!({})).await, SAID.replace("ID", "7"));
    // A progress token goes up as another one, and the request under another id.
    let counted = told(&stand, json!({"progressToken": "t"})).await;
    assert_ne!(stand.server.heard("tools/call")[1].id(), "7");
    let expected = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"resultType\":\"complete\" ,\n\"content\":[ ],\"x\":1.50}}";
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn an_answer_of_a_legacy_server_is_added_to_and_keeps_its_bytes() {
    const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"1"}}"#;
    let server = Server::start(|asked, mut wire| async move {
        match asked.method() {
            "initialize" => wire.result(&asked, INITIALIZED).await,
            "tools/call" => wire.result(&asked, "{\"content\" : [ ],\n\"x\":1.50 }").await,
            _ => wire.accepted().await,
        }
        Some(wire)
    });
    let stand = Stand::before(server.await, Arc::new(Semaphore::new(0)), ", era: legacy");
    let expected = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\" : [ ],\n\"x\":1.50 ,\"resultType\":\"complete\",\
                    \"_meta\":{\"io.modelcontextprotocol/serverInfo\":{\"name\":\"old\",\"version\":\"1\"}}}}";
    assert_eq!(told(&stand, json!({})).await, expected);
}
