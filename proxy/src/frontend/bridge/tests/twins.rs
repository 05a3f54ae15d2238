//! Equal servers of several regions as one.

use super::apart::Stand;
use crate::testing::{Asked, Bed, Server, Wire};
use serde_json::json;

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"},"ttlMs":60000,"cacheScope":"private"}"#;
const TOOLS: &str = r#"{"tools":[{"name":"query","inputSchema":{"type":"object"}},{"name":"odd","inputSchema":{"type":"TYPE"}}],"ttlMs":60000}"#;

async fn attend(asked: Asked, mut wire: Wire) -> Option<Wire> {
    let first = asked.head.starts_with("POST /a");
    match asked.method() {
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "tools/list" => {
            wire.result(&asked, &TOOLS.replace("TYPE", if first { "object" } else { "array" })).await;
        }
        "tools/call" => {
            let text = format!("{} {}", if first { "eu" } else { "us" }, asked.body["params"]["arguments"]);
            let result = json!({"resultType": "complete", "content": [{"type": "text", "text": text}]});
            wire.result(&asked, &result.to_string()).await;
        }
        _ => wire.accepted().await,
    }
    Some(wire)
}

#[tokio::test]
async fn a_call_goes_to_the_region_that_it_names_if_that_has_the_tool_alike() {
    let server = Server::start(attend).await;
    let upstreams = ["a", "b"]
        .map(|name| format!("  {name}: {{ url: \"http://{}/{name}\", era: modern }}\n", server.address));
    let bed = Bed::of(&format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n{}servers:\n  /mcp:\n    upstreams:\n      \
         - {{ name: db, selector: region, regions: {{ eu: a, us: b }}, default: eu }}\n",
        upstreams.concat()
    ));
    let stand = Stand::on(server, bed);
    let call = async |name: &str, region: &str| {
        let arguments = json!({"sql": "1", "region": region});
        stand.ask("", "tools/call", json!({"name": name, "arguments": arguments})).await
    };
    let text = |said: &serde_json::Value| said["result"]["content"][0]["text"].clone();
    assert_eq!(text(&call("query", "eu").await), r#"eu {"sql":"1"}"#);
    assert_eq!(text(&call("query", "us").await), r#"us {"sql":"1"}"#);
    assert_eq!(text(&call("odd", "eu").await), r#"eu {"sql":"1"}"#);
    for (name, region, known) in [("odd", "us", "one of eu"), ("query", "asia", "one of eu, us")] {
        let refused = call(name, region).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().ends_with(known), "{refused}");
    }
    assert_eq!(stand.server.heard("tools/call").len(), 3);
}
