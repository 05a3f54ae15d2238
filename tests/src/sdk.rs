//! Real MCP clients and servers through the gateway: what passes directly passes through.
//!
//! The short form; `prove::conformance` and `prove::clients` run every revision and every client.

use crate::harness::{Gateway, Request, Runtime, Server, Upstream, Wire, rpc, url, within};
use crate::prove;
use tokio::sync::mpsc;

/// A gateway before `server`, which gets `settings` besides its URL.
async fn gateway_before(server: &Server, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams:\n  up: {{ url: {}{settings} }}\nservers:\n  /mcp: up\n",
        server.url()
    ))
    .await
}

#[tokio::test]
async fn three_sdk_clients_pass_every_step_through_the_gateway() {
    let server = Server::start(Runtime::Python2, "upstream.py").await;
    let gateway = gateway_before(&server, "").await;
    let clients = ["py1", "py2-modern", "ts2-auto"].map(|name| ["--client", name]).concat();
    let through = url(gateway.address);
    let arguments = [&[through.as_str()], &clients[..]].concat();
    Runtime::Python2.run(170, "clients.py", &arguments).await;
}

#[tokio::test]
async fn sdk_clients_of_one_era_pass_every_step_before_a_server_of_the_other() {
    prove::matrix::quick().await;
}

/// The suite at two revisions, directly and through a gateway with `settings` for its upstream.
async fn conforms(settings: &str) {
    let server = Server::start(Runtime::Node, "fixture.mjs").await;
    let gateway = gateway_before(&server, settings).await;
    let (direct, through) = (server.url(), url(gateway.address));
    let versions = ["2025-11-25", "2026-07-28"].map(|version| ["--spec-version", version]).concat();
    let arguments = [&["--upstream", &direct, "--gateway", &through], &versions[..]].concat();
    let told = Runtime::Python2.run(170, "through.py", &arguments).await;
    assert!(told.ends_with(" passed, 0 failed, 0 skipped\n"), "{told}");
}

#[tokio::test]
async fn the_conformance_suite_passes_as_it_does_directly() {
    conforms("").await;
}

#[tokio::test]
async fn the_conformance_suite_passes_with_the_host_of_the_client() {
    conforms(", host: preserve").await;
}

#[tokio::test]
async fn server_everything_answers_through_the_gateway() {
    let server = Server::everything().await;
    let gateway = gateway_before(&server, "").await;
    let told = Runtime::Node.run(60, "everything.mjs", &[&url(gateway.address)]).await;
    assert!(told.contains("echo answered"), "{told}");
    for action in ["initialize", "tools/list", "tools/call"] {
        gateway.recorded(action, |record| record["action"] == action && record["status"] == "ok").await;
    }
}

#[tokio::test]
async fn what_the_suite_does_not_see_passes_too() {
    let server = Server::start(Runtime::Node, "fixture.mjs").await;
    let gateway = gateway_before(&server, "").await;
    Runtime::Node.run(170, "extra.mjs", &[&url(gateway.address)]).await;
}

#[tokio::test]
async fn a_session_whose_founding_answer_arrived_is_never_ended_by_the_gateway() {
    // The SDKs close the stream of `initialize` as soon as they have its result.
    let (seen, mut requests) = mpsc::unbounded_channel::<Request>();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            let founds = request.id() == "1";
            seen.send(request).ok();
            if !founds {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                return Some(wire);
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nmcp-session-id: s-1\r\ntransfer-encoding: chunked\r\n\r\n").await;
            wire.chunk("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n").await;
            wire.closed().await;
            None
        }
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], rpc(1, "initialize", "{}").as_bytes()).await;
    let head = client.response_head().await;
    let session = head.header("mcp-session-id").expect("a session").to_owned();
    assert!(client.chunk().await.unwrap().contains("result"));
    drop(client);
    gateway.recorded("the record", |record| record["action"] == "initialize").await;
    // A gateway request would have set off before this call.
    gateway.post("/mcp", &[("mcp-session-id", session)], &rpc(2, "tools/list", "{}")).await;
    let mut methods = Vec::new();
    while methods.len() < 2 {
        let request = within(5, "a request", requests.recv()).await.unwrap();
        let session = request.header("mcp-session-id").map(str::to_owned);
        methods.push((request.head.split(' ').next().unwrap().to_owned(), session));
    }
    let expected = [("POST".to_owned(), None), ("POST".to_owned(), Some("s-1".to_owned()))];
    assert_eq!(methods, expected, "the gateway ended a session that its client has");
}
