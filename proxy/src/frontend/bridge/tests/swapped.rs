//! Configurations that come while a call waits for its turn, or while a session lives.

use super::admissions::{CALL_FIELDS, Counts, Limit, call, limited, reaches, stand_before};
use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::mcp::bridge::ClientPlace;
use portunus_filters::{Call, Denial, Kind, Reason, Verdict};
use std::borrow::Cow;
use tokio::sync::Notify;

/// Refuses each message that servers get.
struct Refusal;

impl Filter for Refusal {
    fn name(&self) -> &'static str {
        "refusal"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Err(Denial::new(Reason::Forbidden, "not now"))
    }
}

/// Changes what clients say of themselves.
struct Renaming;

impl Filter for Renaming {
    fn name(&self) -> &'static str {
        "renaming"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Ok(())
    }
    fn reads_client_texts(&self) -> bool {
        true
    }
    fn client_text<'t>(&self, _: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(match text.contains("secret") {
            true => Cow::Owned(text.replace("secret", "hidden")),
            false => Cow::Borrowed(text),
        })
    }
}

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"private"}"#;
const TOOLS: &str = r#"{"resultType":"complete","tools":[{"name":"echo","inputSchema":{"type":"object"}}],"ttlMs":60000,"cacheScope":"private"}"#;

async fn answering() -> Server {
    Server::start(|asked, mut wire| async move {
        let result = match asked.method() {
            "tools/call" => r#"{"resultType":"complete","content":[]}"#,
            "tools/list" => TOOLS,
            _ => DISCOVERED,
        };
        wire.result(&asked, result).await;
        Some(wire)
    })
    .await
}

fn queueing() -> Arc<Counts> {
    limited(Counts { turn: Some(Notify::new()), ..Counts::default() })
}

fn document(stand: &Stand, path: &str) -> String {
    let address = stand.server.address;
    format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{address}{path}\", era: modern }}\n\
         servers:\n  /mcp: up\n"
    )
}

#[tokio::test]
async fn waiting_call_is_refused_by_a_configuration_that_comes_meanwhile() {
    let counts = queueing();
    let stand = stand_before(answering().await, ", era: modern");
    let waits = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
    reaches(&counts, [1, 1, 1]).await;
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&counts))), Arc::new(Refusal)]);
    stand.bed.activate(&document(&stand, "/mcp"));
    let (_, said) = answered(waits).await;
    assert_eq!(said["error"]["data"]["reason"], "forbidden", "{said}");
    reaches(&counts, [1, 0, 0]).await;
    assert_eq!(stand.server.heard("tools/call").len(), 0);
}

#[tokio::test]
async fn waiting_call_goes_on_under_a_configuration_that_allows_it() {
    let counts = queueing();
    let stand = stand_before(answering().await, ", era: modern");
    let waits = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
    reaches(&counts, [1, 1, 1]).await;
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&counts)))]);
    stand.bed.activate(&document(&stand, "/mcp"));
    counts.turn.as_ref().unwrap().notify_one();
    let (_, said) = answered(waits).await;
    assert_eq!(said["result"]["content"], json!([]), "{said}");
    // It was admitted by the configuration that it came under, and is not by the next.
    reaches(&counts, [1, 0, 1]).await;
}

#[tokio::test]
async fn waiting_call_ends_with_the_server_that_it_leads_to() {
    let counts = queueing();
    let stand = stand_before(answering().await, ", era: modern");
    let waits = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
    reaches(&counts, [1, 1, 1]).await;
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&counts)))]);
    stand.bed.activate(&document(&stand, "/other"));
    let (_, said) = answered(waits).await;
    assert_eq!(said["error"]["data"]["reason"], "route_removed", "{said}");
    reaches(&counts, [1, 0, 0]).await;
}

#[tokio::test]
async fn waiting_call_ends_with_the_view_that_had_its_tool() {
    for (denied, outcome) in [("other", None), ("echo", Some("route_removed"))] {
        let counts = queueing();
        let server = answering().await;
        let address = server.address;
        let viewed = |tool: &str| {
            format!(
                "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{address}/mcp\", era: modern }}\n\
                 servers:\n  /mcp: {{ upstreams: up, deny: [\"up.{tool}\"] }}\n"
            )
        };
        let stand = Stand::of(server, Arc::new(Semaphore::new(0)), Bed::of(&viewed("another")));
        let waits = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
        reaches(&counts, [1, 1, 1]).await;
        TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&counts)))]);
        stand.bed.activate(&viewed(denied));
        counts.turn.as_ref().unwrap().notify_one();
        let (_, said) = answered(waits).await;
        assert_eq!(said["error"]["data"]["reason"].as_str(), outcome, "{denied}: {said}");
    }
}

#[tokio::test]
async fn waiting_call_is_bounded_by_the_time_of_its_tool() {
    let counts = queueing();
    let server = answering().await;
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{}/mcp\", era: modern }}\n\
         servers:\n  /mcp: up\ntools:\n  \"up.echo\": {{ timeout: 1ms }}\n",
        server.address
    );
    let stand = Stand::of(server, Arc::new(Semaphore::new(0)), Bed::of(&text));
    let (_, said) = stand.ask("ada", CALL_FIELDS, &call(&json!({}))).await;
    assert_eq!(said["error"]["data"]["reason"], "overloaded", "{said}");
    reaches(&counts, [1, 0, 0]).await;
}

#[tokio::test]
async fn living_session_says_what_the_filters_in_force_let_its_client_say() {
    let stand = stand_before(answering().await, ", era: modern");
    let client = json!({"name": "secret", "version": "1"});
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::default()))]);
    stand.bed.activate(&document(&stand, "/mcp"));
    let (head, _) = stand.ask("ada", "", &request("initialize", hello)).await;
    let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let fields = format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\nX-Note: secret\r\n");
    let echo = || request("tools/call", json!({"name": "echo", "arguments": {}}));
    let said = || {
        let heard = stand.server.heard("tools/call");
        let last = heard.last().unwrap();
        let name = last.body["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"].clone();
        (name, last.head.contains("x-note: secret"))
    };
    stand.ask("ada", &fields, &echo()).await;
    assert_eq!(said(), ("secret".into(), true), "positive control");
    TEST_FILTERS.set(vec![Arc::new(Renaming)]);
    stand.bed.activate(&document(&stand, "/mcp"));
    stand.ask("ada", &fields, &echo()).await;
    assert_eq!(said(), ("hidden".into(), false));
    stand.bed.activate(&document(&stand, "/mcp"));
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::default()))]);
    stand.bed.activate(&document(&stand, "/mcp"));
    stand.ask("ada", &fields, &echo()).await;
    assert_eq!(said(), ("secret".into(), true), "nothing of it is lost");
}

#[tokio::test]
async fn names_and_host_that_a_filter_would_change_refuse_the_request() {
    TEST_FILTERS.set(vec![Arc::new(Renaming)]);
    let stand = stand_before(answering().await, ", era: modern");
    let ask = async |more: &str| {
        let (_, said) = stand.ask("ada", &format!("{CALL_FIELDS}{more}"), &call(&json!({}))).await;
        said["error"]["data"]["reason"].clone()
    };
    assert_eq!(ask("X-Request-Id: plain\r\nX-Note: secret\r\n").await, Value::Null, "positive control");
    for named in ["X-Secret-Note: a\r\n".to_lowercase().as_str(), "X-Request-Id: secret-1\r\n"] {
        assert_eq!(ask(named).await, "invalid_request", "{named}");
    }
    assert_eq!(stand.server.heard("tools/call").len(), 1);
}
