//! URIs within results of a member whose resources another member has too.

use super::apart::Stand;
use super::request;
use crate::testing::{Asked, Bed, Server, Wire};
use serde_json::json;

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{}},"serverInfo":{"name":"s","version":"1"},"ttlMs":60000,"cacheScope":"private"}"#;
const LINKED: &str = r#"{"resultType":"complete","content":[{"type":"resource_link","uri":"u:1","name":"x"},{"type":"resource","resource":{"uri":"u:new","text":"t"}},{"type":"resource_link","uri":"own:1","name":"x"}]}"#;

/// Two servers with the resource `u:1`; the second also has `own:1`, and the tool.
async fn attend(asked: Asked, mut wire: Wire) -> Option<Wire> {
    let second = asked.head.starts_with("POST /b");
    match asked.method() {
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "tools/list" if second => {
            wire.result(
                &asked,
                r#"{"tools":[{"name":"link","inputSchema":{"type":"object"}}],"ttlMs":60000}"#,
            )
            .await;
        }
        "tools/list" => wire.result(&asked, r#"{"tools":[],"ttlMs":60000}"#).await,
        "resources/list" => {
            let own = if second { r#",{"uri":"own:1","name":"x"}"# } else { "" };
            let list = format!(r#"{{"resources":[{{"uri":"u:1","name":"x"}}{own}],"ttlMs":60000}}"#);
            wire.result(&asked, &list).await;
        }
        "resources/templates/list" => {
            wire.result(&asked, r#"{"resourceTemplates":[],"ttlMs":60000}"#).await;
        }
        "tools/call" => wire.result(&asked, LINKED).await,
        "resources/read" => {
            let uri = asked.body["params"]["uri"].as_str().unwrap();
            let text = if second { "of b" } else { "of a" };
            let contents = json!({"resultType": "complete", "contents": [{"uri": uri, "text": text}]});
            wire.result(&asked, &contents.to_string()).await;
        }
        _ => wire.accepted().await,
    }
    Some(wire)
}

async fn stand() -> Stand {
    let server = Server::start(attend).await;
    let upstreams = ["a", "b"]
        .map(|name| format!("  {name}: {{ url: \"http://{}/{name}\", era: modern }}\n", server.address));
    let bed = Bed::of(&format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n{}servers:\n  /mcp: {{ upstreams: [a, b] }}\n",
        upstreams.concat()
    ));
    Stand::on(server, bed)
}

#[tokio::test]
async fn every_uri_that_a_client_is_given_leads_back_to_its_server() {
    let stand = stand().await;
    let linked = stand.ask("", "tools/call", json!({"name": "link", "arguments": {}})).await;
    let content = &linked["result"]["content"];
    assert_eq!(content[0]["uri"], "portunus:b/u:1", "{linked}");
    assert_eq!(content[1]["resource"]["uri"], "portunus:b/u:new", "of no list, and its scheme is another's");
    assert_eq!(content[2]["uri"], "own:1");
    for (uri, text) in
        [("portunus:b/u:1", "of b"), ("portunus:b/u:new", "of b"), ("own:1", "of b"), ("u:1", "of a")]
    {
        let read = stand.ask("", "resources/read", json!({"uri": uri})).await;
        assert_eq!(read["result"]["contents"][0], json!({"uri": uri, "text": text}), "{read}");
    }
}

#[tokio::test]
async fn legacy_clients_are_given_them_too() {
    let stand = stand().await;
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let (head, _) = stand.post("", &request("initialize", hello)).await;
    let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let fields = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    let (_, said) =
        stand.post(&fields, &request("tools/call", json!({"name": "link", "arguments": {}}))).await;
    assert_eq!(said["result"]["content"][0]["uri"], "portunus:b/u:1", "{said}");
}
