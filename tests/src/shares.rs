//! What callers hold together is shared fairly: whoever takes all that it can get leaves room for others.
//!
//! Callers come through a proxy that is trusted to say whom it forwards for, but where connections
//! themselves are counted.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Client, Era, Gateway, Issuer, Mcp, Nature, Upstream, dial_from, rpc, within};
use serde_json::{Value, json};

/// The caller that takes all it can get, and one that wants a little.
const HOG: &str = "198.51.100.1";
const OTHER: &str = "198.51.100.2";

const PROXIED: &str = "listeners: [{bind: '127.0.0.1:0', trusted_proxies: 127.0.0.0/8}]\n";

fn from(gateway: &Gateway, era: Era, source: &str) -> Caller {
    Caller::new(era, gateway.address).with_field("x-forwarded-for", source)
}

async fn echo(era: Era) -> Mcp {
    Mcp::start(Nature::of(era), vec![tool("echo")], |call| async move { Ok(text(call.tool())) }).await
}

/// A legacy server whose calls ask their client before they answer, or wait for ever.
async fn asking() -> Mcp {
    Mcp::start(Nature::of(Era::Legacy), vec![tool("ask"), tool("wait")], |call: Call| async move {
        call.count(call.tool());
        match call.tool() {
            "ask" => Ok(text(call.elicit("Name?").await.to_string())),
            _ => std::future::pending().await,
        }
    })
    .await
}

#[tokio::test]
async fn who_begins_many_sessions_ends_its_own() {
    let server = echo(Era::Modern).await;
    let document = format!(
        "{PROXIED}upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: [up], sessions: {{max: 8}}}}\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    let mut other = from(&gateway, Era::Legacy, OTHER).ready().await;
    let first = from(&gateway, Era::Legacy, HOG).ready().await;
    for number in 0..40 {
        // Neither what a client calls itself nor any other header of it makes it another caller.
        let varied = from(&gateway, Era::Legacy, HOG).with_field("x-api-key", &number.to_string());
        varied.with_field("user-agent", &number.to_string()).ready().await;
    }
    let said = other.call("echo", json!({})).await.unwrap();
    assert_eq!(said.text(), "echo", "{}", said.all());
    let mut first = first;
    let ended = first.call("echo", json!({})).await.unwrap();
    assert_eq!(ended.head.status, 404, "its own idlest: {}", ended.all());
    let mut newcomer = from(&gateway, Era::Legacy, "198.51.100.3").ready().await;
    assert_eq!(newcomer.call("echo", json!({})).await.unwrap().text(), "echo");
    assert_eq!(other.call("echo", json!({})).await.unwrap().text(), "echo");
}

#[tokio::test]
async fn who_leaves_many_questions_unanswered_leaves_room_for_others() {
    let server = asking().await;
    let document = format!(
        "{PROXIED}upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: [up], parked: {{max: 8, per_caller: 32}}}}\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    let mut asked = 0;
    for number in 0..12 {
        let mut hog = from(&gateway, Era::Modern, HOG).with_field("x-api-key", &number.to_string());
        let said = hog.request("tools/call", json!({"name": "ask", "arguments": {}})).await.unwrap();
        asked += usize::from(said.message["result"]["resultType"] == "input_required");
    }
    assert_eq!(asked, 6, "whatever header it varies");
    let mut other = from(&gateway, Era::Modern, OTHER);
    let said = other.call("ask", json!({})).await.unwrap();
    assert!(said.text().contains("Ada"), "{}", said.all());
}

#[tokio::test]
async fn slow_calls_of_one_caller_leave_a_place_of_the_pool_for_the_first_greeting_of_another() {
    let server = asking().await;
    let document = format!(
        "{PROXIED}upstreams:\n  up: {{url: '{}', era: legacy, pool: {{max_connections: 4}}, timeouts: \
         {{connect: 2s}}}}\nservers:\n  /mcp: {{upstreams: [up], names: prefix}}\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    let mut hog = from(&gateway, Era::Modern, HOG);
    hog.request("tools/list", json!({})).await.unwrap();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let mut hog = from(&gateway, Era::Modern, HOG);
            tokio::spawn(async move { drop(hog.call("up_wait", json!({})).await) })
        })
        .collect();
    server.reaches("wait", 3).await;
    let other = within(10, "the other's session", from(&gateway, Era::Legacy, OTHER).ready()).await;
    drop(other);
    assert_eq!(server.counted("wait"), 3, "a quarter is kept");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn one_address_cannot_hold_all_connections() {
    let server = echo(Era::Modern).await;
    let document = format!(
        "listeners: [{{bind: '127.0.0.1:0', limits: {{max_connections: 8}}}}]\nupstreams:\n  up: {}\nservers:\n  \
         /mcp: up\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    let call = rpc(1, "ping", "{}");
    let mut held = Vec::new();
    let mut served = 0;
    for _ in 0..12 {
        let stream = dial_from([127, 0, 1, 1].into(), gateway.address).await.unwrap();
        let mut client = Client::over(stream, gateway.address);
        let sent = client.try_post("/mcp", &[], call.as_bytes()).await.is_ok();
        let answer = if sent { client.try_response().await } else { None };
        served += usize::from(answer.is_some_and(|answer| answer.status != 503));
        held.push(client);
    }
    assert_eq!(served, 6);
    for last in 2..4 {
        let stream = dial_from([127, 0, 1, last].into(), gateway.address).await.unwrap();
        let mut client = Client::over(stream, gateway.address);
        client.post("/mcp", &[], call.as_bytes()).await;
        assert_ne!(client.response().await.status, 503, "another address");
        held.push(client);
    }
}

#[tokio::test]
async fn one_caller_behind_a_proxy_cannot_hold_all_requests() {
    let (server, mut arrived) = Upstream::silent().await;
    let document = format!(
        "listeners: [{{bind: '127.0.0.1:0', trusted_proxies: 127.0.0.0/8, limits: {{max_connections: 8}}}}]\n\
         upstreams:\n  up: {{url: 'http://{}/mcp', era: legacy}}\nservers:\n  /mcp: up\n",
        server.address
    );
    let gateway = Gateway::start(&document).await;
    let opened = async |source: &str| {
        let mut client = gateway.connect().await;
        let call = rpc(1, "tools/call", r#"{"name":"wait","arguments":{}}"#);
        client.post("/mcp", &[("x-forwarded-for", source.to_owned())], call.as_bytes()).await;
        client
    };
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(opened(HOG).await);
        within(10, "the call at the server", arrived.recv()).await;
    }
    let mut refused = opened(HOG).await;
    assert_eq!(refused.response().await.status, 503);
    held.push(opened(OTHER).await);
    within(10, "the other's call at the server", arrived.recv()).await;
}

#[tokio::test]
async fn made_up_tokens_of_one_caller_leave_room_to_ask_about_anothers() {
    let issuer = Issuer::start(&[]).await;
    let server = echo(Era::Modern).await;
    let document = format!(
        "{PROXIED}upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
         introspection: {{issuer: idp, url: '{}/introspect', client: {{id: gw, secret: 'file:secret'}}, timeout: 10m}}\n",
        server.url(),
        issuer.url()
    );
    let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document).await;
    issuer.says("good", json!({"active": true, "sub": "anna", "aud": "https://gw.example/mcp"}));
    issuer.hold(true);
    let mut held = Vec::new();
    for number in 0..100 {
        let mut client = gateway.connect().await;
        let fields =
            [("x-forwarded-for", HOG.to_owned()), ("authorization", format!("Bearer made-up-{number}"))];
        client.post("/mcp", &fields, rpc(1, "ping", "{}").as_bytes()).await;
        held.push(client);
    }
    let mut other = from(&gateway, Era::Modern, OTHER).presenting("good");
    let call = tokio::spawn(async move { other.call("echo", json!({})).await });
    let reached = async {
        while !issuer.asked().iter().any(|form| form.contains("token=good")) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(9, "the question about the other's token", reached).await;
    issuer.hold(false);
    let said = within(20, "the other's call", call).await.unwrap().unwrap();
    assert_eq!(said.text(), "echo", "{}", said.all());
}

#[tokio::test]
async fn who_holds_one_connection_gets_a_second_beside_one_who_holds_all_others() {
    let server = echo(Era::Modern).await;
    let document = format!(
        "listeners: [{{bind: '127.0.0.1:0', limits: {{max_connections: 16}}}}]\nupstreams:\n  up: {}\nservers:\n  \
         /mcp: {{upstreams: [up], names: prefix}}\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    let mut hogs = Vec::new();
    for _ in 0..12 {
        let mut hog =
            Client::over(dial_from([127, 0, 1, 1].into(), gateway.address).await.unwrap(), gateway.address);
        hog.send(b"POST /mcp HTTP/1.1\r\n").await;
        hogs.push(hog);
    }
    let legacy = || Caller::new(Era::Legacy, gateway.address).from([127, 0, 1, 2].into());
    let mut other = legacy().ready().await;
    let (stream, _) = other.stream(None).await.unwrap();
    let said = other.call("up_echo", json!({})).await.unwrap();
    assert_eq!(said.text(), "echo", "beside its stream: {}", said.all());
    drop((stream, hogs));
}

#[tokio::test]
async fn half_sent_bodies_of_one_caller_leave_room_for_those_of_others() {
    let server = echo(Era::Modern).await;
    let document = format!("{PROXIED}upstreams:\n  up: {}\nservers:\n  /mcp: up\n", server.url());
    let gateway = Gateway::start(&document).await;
    let mut hogs = tokio::task::JoinSet::new();
    for _ in 0..45 {
        let mut hog = gateway.connect().await;
        hogs.spawn(async move {
            let head = hog.head("POST", "/mcp", &[("x-forwarded-for", HOG.to_owned())]);
            let head = format!("{head}content-type: application/json\r\ncontent-length: 4000000\r\n\r\n");
            hog.try_send(head.as_bytes()).await.ok();
            hog.try_send(&vec![b' '; 3 << 20]).await.ok();
            hog.try_head().await
        });
    }
    let first = within(30, "a refusal", hogs.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!((first.status, first.header("portunus-outcome")), (503, Some("overloaded")));
    let mut other = from(&gateway, Era::Modern, OTHER);
    let said = other.call("echo", json!({"text": "x".repeat(2 << 20)})).await.unwrap();
    assert_eq!(said.text(), "echo", "{}", said.all());
}

#[tokio::test]
async fn calls_that_wait_for_their_client_are_counted_by_what_they_keep() {
    let server = asking().await;
    let document =
        format!("{PROXIED}upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: [up]}}\n", server.url());
    let gateway = Gateway::start(&document).await;
    let arguments = json!({"text": "x".repeat(3 << 20)});
    let mut outcomes = Vec::new();
    for _ in 0..20 {
        let mut hog = from(&gateway, Era::Modern, HOG);
        let said = hog.request("tools/call", json!({"name": "ask", "arguments": arguments})).await.unwrap();
        outcomes.push(said.message["error"]["data"]["reason"] == "crowded");
    }
    let refused = outcomes.iter().filter(|refused| **refused).count();
    assert_eq!(refused, 13, "7 of a little more than 3 MiB are within three quarters of 32 MiB");
    let mut other = from(&gateway, Era::Modern, OTHER);
    let said = other.call("ask", json!({"text": "x".repeat(1 << 20)})).await.unwrap();
    assert!(said.text().contains("Ada"), "{}", said.all());
}

/// Of 64 MiB for answers to batches, one caller has three quarters.
#[tokio::test]
async fn answers_to_a_batch_take_no_more_than_their_callers_share() {
    let large = |call: Call| async move {
        if !call.params["_meta"]["progressToken"].is_null() {
            call.progress(1).await;
        }
        Ok(text("x".repeat(20 << 20)))
    };
    let server = Mcp::start(Nature::of(Era::Modern), vec![tool("large")], large).await;
    let gateway = Gateway::start(&format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: [up], names: prefix}}\n",
        server.url()
    ))
    .await;
    let greeting = json!({
        "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"},
    });
    let greeted = gateway.post("/mcp", &[], &rpc(1, "initialize", &greeting.to_string())).await;
    let session = [
        ("mcp-session-id", greeted.header("mcp-session-id").unwrap().to_owned()),
        ("accept", "application/json, text/event-stream".to_owned()),
    ];
    let batch = async |calls: u32, meta: Value| {
        let params = json!({"name": "up_large", "arguments": {}, "_meta": meta}).to_string();
        let calls: Vec<_> = (0..calls).map(|id| rpc(id, "tools/call", &params)).collect();
        gateway.post("/mcp", &session, &format!("[{}]", calls.join(","))).await
    };
    for message in batch(2, json!({})).await.json().as_array().unwrap() {
        assert_eq!(message["result"]["content"][0]["text"].as_str().unwrap().len(), 20 << 20);
    }
    let answers = batch(3, json!({})).await.json();
    let mut ids: Vec<_> = answers.as_array().unwrap().iter().map(|message| message["id"].as_u64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [Some(0), Some(1), Some(2)]);
    let refused = |message: &&Value| message["error"]["data"]["reason"] == "crowded";
    assert_eq!(answers.as_array().unwrap().iter().filter(refused).count(), 1, "the others are answered");
    // As events of a stream they wait for nobody.
    let stream = batch(3, json!({"progressToken": "p"})).await;
    let events = String::from_utf8(stream.body).unwrap();
    let told: Vec<_> = events.split("\n\n").map(|event| &event[..event.len().min(300)]).collect();
    assert_eq!((stream.status, events.matches("\"result\":").count()), (200, 3), "{told:?}");
    assert!(!events.contains("HTTP/1.1") && !events.contains("\"error\":"));
}
