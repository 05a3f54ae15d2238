//! Endpoints that do not translate between eras.

use super::*;

const LIST: &str = r#"{"tools":[{"name":"NAME","inputSchema":{"type":"object"}}],"ttlMs":60000}"#;

/// A server that speaks one era alone, with one tool.
async fn server(modern: bool) -> Server {
    Server::start(move |asked, mut wire| async move {
        let list = LIST.replace("NAME", if modern { "new" } else { "old" });
        match (asked.method(), modern) {
            ("server/discover", true) => wire.result(&asked, DISCOVERED_TOOLS).await,
            ("initialize", false) => wire.result(&asked, INITIALIZED).await,
            ("tools/list", _) => wire.result(&asked, &list).await,
            ("notifications/initialized", false) => wire.accepted().await,
            _ => wire.status("400 Bad Request", "content-type: text/plain\r\n", "no").await,
        }
        Some(wire)
    })
    .await
}

const DISCOVERED_TOOLS: &str = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;

/// An endpoint with these members, of servers of which the last stays at hand.
async fn stand(members: &[(&str, bool)]) -> (Stand, Vec<Server>) {
    let mut servers = Vec::new();
    let mut upstreams = String::new();
    for (name, modern) in members {
        let server = server(*modern).await;
        upstreams.push_str(&format!("  {name}: {{ url: \"http://{}/mcp\" }}\n", server.address));
        servers.push(server);
    }
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n{upstreams}servers:\n  \
         /mcp: {{upstreams: [{}], bridge: false}}\n",
        names.join(", ")
    );
    let last = servers.pop().unwrap();
    (Stand::of(last, Arc::new(Semaphore::new(0)), Bed::of(&text)), servers)
}

async fn modern(stand: &Stand, method: &str, name: Option<&str>) -> (String, Value) {
    let mut params = envelope();
    let mut fields = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n");
    if let Some(name) = name {
        params["name"] = name.into();
        fields.push_str(&format!("Mcp-Name: {name}\r\n"));
    }
    stand.ask("ada", &fields, &request(method, params)).await
}

/// Names of tools, and which members are missing for which reason.
fn told(result: &Value) -> (Vec<&str>, Vec<(&str, &str)>) {
    let tools = result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
    let missing = result["_meta"]["io.portunus/incomplete"].as_array().unwrap().iter();
    let missing = missing.map(|one| (one["upstream"].as_str().unwrap(), one["reason"].as_str().unwrap()));
    (tools.collect(), missing.collect())
}

#[tokio::test]
async fn a_client_meets_only_servers_of_its_era_and_hears_of_the_others() {
    let (stand, others) = stand(&[("l", false), ("m", true)]).await;
    let (_, listed) = modern(&stand, "tools/list", None).await;
    assert_eq!(told(&listed["result"]), (vec!["new"], vec![("l", "era_mismatch")]));
    let fields = stand.session().await;
    let (_, listed) = stand.ask("ada", &fields, &request("tools/list", json!({}))).await;
    assert_eq!(told(&listed["result"]), (vec!["old"], vec![("m", "era_mismatch")]));
    let (_, refused) = modern(&stand, "tools/call", Some("old")).await;
    assert_eq!(refused["error"]["data"]["reason"], "unknown_tool", "{refused}");
    let (_, refused) = stand.ask("ada", &fields, &request("tools/call", json!({"name": "new"}))).await;
    assert_eq!(refused["error"]["data"]["reason"], "unknown_tool", "{refused}");
    assert!(others[0].heard("tools/call").is_empty() && stand.server.heard("tools/call").is_empty());
}

#[tokio::test]
async fn a_client_of_an_era_that_no_server_speaks_is_sent_to_the_other() {
    let (legacy, _others) = stand(&[("l", false), ("k", false)]).await;
    let (head, message) = modern(&legacy, "server/discover", None).await;
    assert!(head.starts_with("HTTP/1.1 404 ") && message["error"]["code"] == -32601, "{head} {message}");
    assert!(!legacy.session().await.is_empty());
    let (modern_alone, _others) = stand(&[("m", true), ("n", true)]).await;
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let (head, message) = modern_alone.ask("ada", "", &request("initialize", hello)).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert_eq!(message["error"]["data"]["reason"], "unsupported_version");
}
