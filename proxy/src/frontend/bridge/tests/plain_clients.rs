//! Clients that take JSON alone.

use super::*;

#[tokio::test]
async fn a_modern_client_that_takes_no_event_streams_gets_json() {
    let stand = Stand::start().await;
    for (accept, media) in [("application/json", "application/json"), ("*/*", "text/event-stream")] {
        let mut params = envelope();
        params["uri"] = "a:noted".into();
        params["_meta"]["progressToken"] = "t".into();
        let fields =
            "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\nMcp-Name: a:noted\r\n";
        let asked = request("resources/read", params);
        let (head, message) = stand.ask_as(accept, fields, &asked).await;
        assert!(head.contains(&format!("content-type: {media}\r\n")), "{accept}: {head}");
        if accept == "application/json" {
            assert_eq!(message["result"]["contents"], json!([]), "{message}");
        }
    }
    let mut params = envelope();
    params["notifications"] = json!({"toolsListChanged": true});
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    let (head, _) = stand.ask_as("application/json", fields, &request("subscriptions/listen", params)).await;
    assert!(head.starts_with("HTTP/1.1 406 "), "{head}");
}
