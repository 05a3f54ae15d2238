//! Sessions of legacy clients whose messages pass have ids of the gateway, and go on whatever the endpoint becomes.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, Request, Upstream, Wire, rpc, within};
use crate::peers::Pair;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const ALLOWING: &str = "package mcp.authz\ndecision := true\n";
const REFUSING: &str = "package mcp.authz\nimport rego.v1\ndefault decision := true\ndecision := false if input.mcp.name == \"secret\"\n";

/// A server whose tools name the session that they are called in.
async fn server() -> Mcp {
    let tools = vec![tool("where"), tool("secret")];
    let names = |call: Call| async move { Ok(text(call.session.as_ref().map_or("", |session| &session.id))) };
    Mcp::start(Nature::of(Era::Legacy), tools, names).await
}

fn passing(revision: &str, url: &str, more: &str) -> String {
    format!("revision: {revision}\nupstreams:\n  up: {{ url: \"{url}\"{more} }}\nservers:\n  /mcp: up\n")
}

/// The same with a policy, so that the endpoint serves.
fn serving(revision: &str, url: &str, more: &str) -> String {
    format!("{}policy: policy.rego\n", passing(revision, url, more))
}

async fn swap(gateway: &Gateway, revision: &str, document: &str) {
    gateway.configure(document);
    let named = |status: &Value| status["revision"].as_str().is_some_and(|name| name.starts_with(revision));
    gateway.reaches(&format!("revision {revision}"), named).await;
}

async fn mode(gateway: &Gateway) -> Value {
    gateway.status().await["servers"][0]["mode"].clone()
}

async fn called(client: &mut Caller, name: &str) -> (u16, String) {
    let said = client.call(name, json!({})).await.unwrap();
    (said.head.status, if said.code().is_some() { said.all() } else { said.text().to_owned() })
}

#[tokio::test]
async fn session_goes_on_when_filters_come_and_go() {
    let server = server().await;
    let gateway =
        Gateway::start_beside(&[("policy.rego", REFUSING)], &passing("one", &server.url(), "")).await;
    assert_eq!(mode(&gateway).await, "passes");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Caller::new(Era::Legacy, gateway.address).ready().await);
    }
    let mut sessions = Vec::new();
    for client in &mut clients {
        let (_, own) = called(client, "where").await;
        assert!(own.starts_with("upstream-"), "{own}");
        assert_ne!(client.session.as_deref(), Some(own.as_str()), "the client has an id of the gateway");
        assert_eq!(called(client, "secret").await, (200, own.clone()));
        sessions.push(own);
    }
    for (revision, document, expected) in [
        ("two", serving("two", &server.url(), ""), "serves"),
        ("three", passing("three", &server.url(), ""), "passes"),
        ("four", serving("four", &server.url(), ""), "serves"),
    ] {
        swap(&gateway, revision, &document).await;
        assert_eq!(mode(&gateway).await, expected);
        for (client, own) in clients.iter_mut().zip(&sessions) {
            assert_eq!(called(client, "where").await, (200, own.clone()), "{revision}");
            let (_, secret) = called(client, "secret").await;
            assert_eq!(secret == *own, expected == "passes", "{revision}: {secret}");
        }
    }
    // One more is the gateway's own, for lists.
    assert_eq!(server.sessions(), 4);
    assert_eq!(clients[0].end().await, Ok(200));
    server.reaches("DELETE", 1).await;
    assert_eq!(called(&mut clients[0], "where").await.0, 404);
    assert_eq!(called(&mut clients[1], "where").await, (200, sessions[1].clone()));
}

#[tokio::test]
async fn stream_of_a_session_hears_its_server_before_and_after_filters_come() {
    let server = server().await;
    let gateway =
        Gateway::start_beside(&[("policy.rego", ALLOWING)], &passing("one", &server.url(), "")).await;
    let client = Caller::new(Era::Legacy, gateway.address).ready().await;
    let (mut stream, head) = client.stream(None).await.unwrap();
    assert_eq!(head.status, 200);
    server.note("notifications/tools/list_changed", json!({}));
    let heard = within(10, "the first notification", stream.chunk()).await;
    assert!(heard.is_some_and(|heard| heard.contains("list_changed")));
    swap(&gateway, "two", &serving("two", &server.url(), "")).await;
    within(10, "the end of the stream", stream.rest()).await;
    let (mut stream, head) = client.stream(None).await.unwrap();
    assert_eq!(head.status, 200);
    let heard = async {
        loop {
            server.note("notifications/tools/list_changed", json!({}));
            match tokio::time::timeout(std::time::Duration::from_millis(100), stream.chunk()).await {
                Ok(Some(heard)) if heard.contains("list_changed") => return,
                Ok(None) => panic!("the stream ended"),
                _ => {}
            }
        }
    };
    within(10, "a notification after the swap", heard).await;
}

#[tokio::test]
async fn session_of_a_passed_credential_outlives_the_credential() {
    let server = server().await;
    let more = ", credentials: passthrough";
    let gateway =
        Gateway::start_beside(&[("policy.rego", ALLOWING)], &passing("one", &server.url(), more)).await;
    let mut first = Caller::new(Era::Legacy, gateway.address).presenting("token-1").ready().await;
    let session = first.session.clone().unwrap();
    let renewed = || Caller::new(Era::Legacy, gateway.address).presenting("token-2").in_session(&session);
    let (status, own) = called(&mut renewed(), "where").await;
    assert!(status == 200 && own.starts_with("upstream-"), "{own}");
    swap(&gateway, "two", &serving("two", &server.url(), more)).await;
    assert_eq!(called(&mut first, "where").await, (200, own.clone()));
    assert_eq!(called(&mut renewed(), "where").await, (200, own));
    let listens = server.counted("GET");
    let (_stream, head) = renewed().stream(None).await.unwrap();
    assert_eq!(head.status, 200);
    server.reaches("GET", listens + 1).await;
    let heads = server.heads();
    let last = heads.iter().rev().find(|head| head.starts_with("GET")).unwrap();
    assert!(last.contains("token-2"), "each credential listens for itself: {last}");
}

#[tokio::test]
async fn id_of_a_passed_session_opens_at_its_endpoint_alone() {
    let server = server().await;
    let document = format!("{}  /other: up\n", passing("one", &server.url(), ""));
    let gateway = Gateway::start(&document).await;
    let client = Caller::new(Era::Legacy, gateway.address).ready().await;
    let session = client.session.clone().unwrap();
    let at = |path: &str| Caller::new(Era::Legacy, gateway.address).at(path).in_session(&session);
    assert_eq!(called(&mut at("/mcp"), "where").await.0, 200);
    assert_eq!(called(&mut at("/other"), "where").await.0, 404);
}

#[tokio::test]
async fn id_of_a_passed_session_is_told_to_no_other_server() {
    let (first, second) = (server().await, server().await);
    let gateway = Gateway::start(&passing("one", &first.url(), "")).await;
    let mut client = Caller::new(Era::Legacy, gateway.address).ready().await;
    assert_eq!(called(&mut client, "where").await.0, 200, "positive control");
    swap(&gateway, "two", &passing("two", &second.url(), "")).await;
    assert_eq!(called(&mut client, "where").await.0, 404);
    assert_eq!(second.heads(), [""; 0], "the session may be somebody else's there");
    swap(&gateway, "three", &passing("three", &first.url(), "")).await;
    assert_eq!(called(&mut client, "where").await.0, 200);
}

#[tokio::test]
async fn adopted_session_that_makes_room_leaves_that_of_the_server() {
    let server = server().await;
    let one_session = |document: String| format!("sessions: {{ max: 1 }}\n{document}");
    let one = one_session(passing("one", &server.url(), ""));
    let gateway = Gateway::start_beside(&[("policy.rego", ALLOWING)], &one).await;
    let mut client = Caller::new(Era::Legacy, gateway.address).ready().await;
    let (_, own) = called(&mut client, "where").await;
    swap(&gateway, "two", &one_session(serving("two", &server.url(), ""))).await;
    assert_eq!(called(&mut client, "where").await, (200, own.clone()));
    Caller::new(Era::Legacy, gateway.address).ready().await;
    assert_eq!(called(&mut client, "where").await, (200, own.clone()), "it is adopted again");
    swap(&gateway, "three", &one_session(passing("three", &server.url(), ""))).await;
    assert_eq!(called(&mut client, "where").await, (200, own));
}

#[tokio::test]
async fn questions_and_cancellations_of_passed_calls_reach_their_server_after_filters_come() {
    let (asks, cancelled) = (tool("ask"), tool("wait"));
    let over = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&over);
    let server = Mcp::start(Nature::of(Era::Legacy), vec![asks, cancelled], move |call: Call| {
        let told = Arc::clone(&told);
        async move {
            match call.tool() {
                "ask" => Ok(text(call.elicit("Your name?").await["result"]["content"]["name"].to_string())),
                _ => {
                    call.progress_saying(json!({"progress": 1})).await;
                    told.notified().await;
                    Ok(text("over"))
                }
            }
        }
    })
    .await;
    let gateway =
        Gateway::start_beside(&[("policy.rego", ALLOWING)], &passing("one", &server.url(), "")).await;
    let client = Caller::new(Era::Legacy, gateway.address).ready().await;
    let session = client.session.clone().unwrap();
    let headers = || {
        vec![
            ("accept", "application/json, text/event-stream".to_owned()),
            ("mcp-session-id", session.clone()),
            ("mcp-protocol-version", "2025-11-25".to_owned()),
        ]
    };
    let calls = async |id: u32, name: &str| {
        let mut stream = gateway.connect().await;
        let params = format!(r#"{{"name":"{name}","arguments":{{}},"_meta":{{"progressToken":1}}}}"#);
        stream.post("/mcp", &headers(), rpc(id, "tools/call", &params).as_bytes()).await;
        stream.response_head().await;
        let first = within(10, "the first event", stream.chunk()).await.expect("the call goes on");
        (stream, first)
    };
    let (mut asked, question) = calls(21, "ask").await;
    let (_waiting, _) = calls(22, "wait").await;
    swap(&gateway, "two", &serving("two", &server.url(), "")).await;
    let question: Value = serde_json::from_str(question.trim().trim_start_matches("data: ")).unwrap();
    let answer = json!({"jsonrpc": "2.0", "id": question["id"],
        "result": {"action": "accept", "content": {"name": "Ada"}}});
    assert_eq!(gateway.post("/mcp", &headers(), &answer.to_string()).await.status, 202);
    let rest = within(10, "the answer to the call", asked.rest()).await;
    assert!(rest.contains("Ada"), "{rest}");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 22}});
    assert_eq!(gateway.post("/mcp", &headers(), &cancel.to_string()).await.status, 202);
    server.reaches("notifications/cancelled", 1).await;
    over.notify_one();
}

/// A legacy server without sessions, and the heads of requests that name one.
async fn stateless() -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let named = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&named);
    let script = move |request: Request, mut wire: Wire| {
        let kept = Arc::clone(&kept);
        async move {
            if request.header("mcp-session-id").is_some() || request.head.starts_with("DELETE") {
                kept.lock().unwrap().push(request.head.clone());
            }
            let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let result = match message["method"].as_str() {
                Some("initialize") => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "stateless", "version": "1"}}),
                Some("tools/list") => json!({"tools": [tool("where")]}),
                Some("tools/call") => text("here"),
                _ => {
                    wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
                    return Some(wire);
                }
            };
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            wire.send(format!("{head}{body}")).await;
            Some(wire)
        }
    };
    (Upstream::of_an_era(script).await, named)
}

#[tokio::test]
async fn client_of_a_server_without_sessions_has_one_that_goes_on_too() {
    let (server, named) = stateless().await;
    let url = format!("http://{}/mcp", server.address);
    let more = ", era: legacy";
    let gateway = Gateway::start_beside(&[("policy.rego", ALLOWING)], &passing("one", &url, more)).await;
    let mut client = Caller::new(Era::Legacy, gateway.address).ready().await;
    let other = Caller::new(Era::Legacy, gateway.address).ready().await;
    assert!(client.session.is_some());
    assert_eq!(called(&mut client, "where").await, (200, "here".to_owned()));
    assert_eq!(other.end().await, Ok(200), "it is ended here");
    swap(&gateway, "two", &serving("two", &url, more)).await;
    assert_eq!(called(&mut client, "where").await, (200, "here".to_owned()));
    assert_eq!(*named.lock().unwrap(), Vec::<String>::new(), "the server hears of no session");
    let mut without = Caller::new(Era::Legacy, gateway.address);
    let said = without.request("tools/list", json!({})).await.unwrap();
    assert_eq!(
        said.head.status,
        400,
        "positive control: a served endpoint asks for a session: {}",
        said.all()
    );
}

/// Puts a policy in force at a replica, so that its endpoints serve.
async fn serve(replica: &Gateway) {
    let document = std::fs::read_to_string(replica.folder().join("gateway.yaml")).unwrap();
    replica.place("policy.rego", ALLOWING);
    replica.place("gateway.yaml", &format!("{document}policy: {{ path: policy.rego, time_limit: 2s }}\n"));
    replica.reaches("the policy", |status| status["servers"][0]["mode"] == "serves").await;
}

#[tokio::test]
async fn session_passes_at_any_replica_and_is_adopted_where_it_began() {
    let server = server().await;
    let mut pair = Pair::telling("", &[("up", &server)], "").await;
    let client = Caller::new(Era::Legacy, pair.a.address).ready().await;
    let session = client.session.clone().unwrap();
    let at = |address| Caller::new(Era::Legacy, address).in_session(&session);
    let (status, own) = called(&mut at(pair.b.address), "where").await;
    assert!(status == 200 && own.starts_with("upstream-"), "{own}");
    serve(&pair.a).await;
    serve(&pair.b).await;
    assert_eq!(called(&mut at(pair.b.address), "where").await, (200, own.clone()));
    let adopted = |entry: &Value| entry["message"] == "session adopted";
    pair.a.logged("the adoption", adopted).await;
    pair.a.signal("KILL");
    pair.a.ended().await;
    let goes_on = async { while called(&mut at(pair.b.address), "where").await != (200, own.clone()) {} };
    within(20, "the other replica to go on", goes_on).await;
    pair.b.logged("the adoption", adopted).await;
}
