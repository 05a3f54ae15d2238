//! Deadlines that belong to a tool, and not to the server that has it.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::json;

#[tokio::test]
async fn a_tool_with_a_deadline_is_waited_for_no_longer_on_any_way() {
    for (client, era) in [Era::Legacy, Era::Modern]
        .into_iter()
        .flat_map(|client| [Era::Legacy, Era::Modern].map(|era| (client, era)))
    {
        let tools = vec![tool("hang"), tool("other")];
        let server = Mcp::start(Nature::of(era), tools, |call: Call| async move {
            if call.tool() == "hang" {
                std::future::pending::<()>().await;
            }
            Ok(text("done"))
        })
        .await;
        let document = format!(
            "upstreams:\n  up: {{ url: {}, era: {} }}\nservers:\n  /mcp: up\ntools:\n  \"up.hang\": {{ timeout: 50ms }}\n",
            server.url(),
            if era == Era::Legacy { "legacy" } else { "modern" }
        );
        let gateway = Gateway::start(&document).await;
        let mut caller = Caller::new(client, gateway.address).ready().await;
        let said = caller.call("hang", json!({})).await.unwrap();
        assert_eq!(
            said.message["error"]["data"]["reason"],
            "upstream_timeout",
            "{client:?} {era:?} {}",
            said.all()
        );
        assert_eq!(caller.call("other", json!({})).await.unwrap().text(), "done", "{client:?} {era:?}");
    }
}
