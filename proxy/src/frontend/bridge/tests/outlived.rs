//! Servers that are down for longer than it is believed what they are.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

const GREETED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const TOOLS: &str = r#"{"tools":[{"name":"kept","inputSchema":{"type":"object"}}]}"#;

/// A legacy server, until it is down.
async fn attend_until(asked: Asked, mut wire: Wire, down: Arc<AtomicBool>) -> Option<Wire> {
    if down.load(Ordering::SeqCst) {
        return None;
    }
    match asked.method() {
        "initialize" => wire.result(&asked, GREETED).await,
        "tools/list" => wire.result(&asked, TOOLS).await,
        "server/discover" => wire.status("400 Bad Request", "", "").await,
        _ => wire.accepted().await,
    }
    Some(wire)
}

#[tokio::test]
async fn an_old_list_stands_in_although_the_era_of_its_server_would_have_to_be_asked() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let server = Server::start(move |asked, wire| attend_until(asked, wire, Arc::clone(&is_down))).await;
    let stand = Stand::before(server, Arc::new(Semaphore::new(0)), ", credentials: passthrough");
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n";
    let list = async || stand.ask("ada", fields, &request("tools/list", envelope())).await.1;
    assert_eq!(list().await["result"]["tools"][0]["name"], "kept");
    down.store(true, Ordering::SeqCst);
    stand.bed.clock.advance(Duration::from_secs(610));
    let old = list().await;
    assert_eq!(old["result"]["tools"][0]["name"], "kept", "{old}");
}
