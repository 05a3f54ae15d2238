//! Lists are fetched for filters that need them, and for no others.

use super::*;

async fn asking() -> Server {
    Server::start(|asked, mut wire| async move {
        let result = match asked.method() {
            "prompts/get" => r#"{"resultType":"complete","messages":[]}"#,
            "prompts/list" => r#"{"resultType":"complete","prompts":[{"name":"p"}],"ttlMs":60000,"cacheScope":"private"}"#,
            _ => r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"prompts":{}},"ttlMs":60000,"cacheScope":"private"}"#,
        };
        wire.result(&asked, result).await;
        Some(wire)
    })
    .await
}

async fn lists_fetched(stand: Stand) -> usize {
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: prompts/get\r\nMcp-Name: p\r\n";
    let mut params = envelope();
    params["name"] = "p".into();
    let (_, said) = stand.ask("ada", fields, &request("prompts/get", params)).await;
    assert_eq!(said["result"]["messages"], json!([]), "{said}");
    stand.server.heard("prompts/list").len()
}

#[tokio::test]
async fn prompt_is_looked_up_where_policy_may_hide_it_and_not_where_facts_suffice() {
    let server = asking().await;
    let rated = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{}/mcp\", era: modern }}\n\
         servers:\n  /mcp: up\ntools:\n  \"up.echo\": {{ risk: low }}\n",
        server.address
    );
    let changes = || Arc::new(Semaphore::new(0));
    assert_eq!(lists_fetched(Stand::of(server, changes(), Bed::of(&rated))).await, 0);
    let server = asking().await;
    let allowing = "package mcp.authz\ndecision := true\n";
    let bed = Bed::under(allowing, server.address, ", era: modern");
    assert_eq!(lists_fetched(Stand::of(server, changes(), bed)).await, 1);
}
