//! The end of the process in order: what it still does, what it tells whom, and when it is over.

use crate::harness::{Client, Feed, Gateway, Long, Request, Upstream, Wire, rpc, within};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// An upstream whose calls arrive in `arrived` and are answered when `release` says so.
struct Held {
    feed: Feed,
    arrived: mpsc::UnboundedReceiver<()>,
    release: watch::Sender<bool>,
}

impl Held {
    async fn start() -> Held {
        let (told, arrived) = mpsc::unbounded_channel();
        let release = watch::Sender::new(false);
        let gate = release.clone();
        let feed = Feed::start(move |request: Request, mut wire: Wire| {
            let (told, mut gate) = (told.clone(), gate.subscribe());
            async move {
                told.send(()).ok();
                gate.wait_for(|open| *open).await.ok();
                wire.result(&request).await;
                Some(wire)
            }
        })
        .await;
        Held { feed, arrived, release }
    }

    async fn gateway(&self, drain: &str) -> Gateway {
        let address = self.feed.address();
        Gateway::start(&format!("{drain}upstreams:\n  up: http://{address}/mcp\nservers:\n  /mcp: up\n"))
            .await
    }

    /// A call that has arrived and waits for its answer.
    async fn call(&mut self, gateway: &Gateway) -> Client {
        let mut client = gateway.connect().await;
        client.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"wait"}"#).as_bytes()).await;
        within(5, "the call at the upstream", self.arrived.recv()).await.unwrap();
        client
    }
}

/// Waits until the drain has begun.
async fn draining(gateway: &Gateway) {
    gateway.logged("the start of the drain", |entry| entry["message"] == "draining").await;
}

/// Waits until nothing listens any more.
#[expect(clippy::disallowed_methods, reason = "a client of the gateway, not the gateway")]
async fn refuses_connections(gateway: &Gateway) {
    within(5, "the listener to close", async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {
            tick.tick().await;
        }
    })
    .await;
}

async fn assert_ends_in_order(gateway: &mut Gateway) {
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log_text());
}

#[tokio::test]
async fn a_running_call_finishes_and_its_connection_closes() {
    let mut held = Held::start().await;
    let mut gateway = held.gateway("").await;
    let mut client = held.call(&gateway).await;
    gateway.signal("TERM");
    refuses_connections(&gateway).await;
    held.release.send_replace(true);
    let response = client.response().await;
    assert_eq!((response.status, response.json()["id"].as_u64()), (200, Some(5)));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.until_closed().await, "");
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn readiness_goes_first_and_calls_are_still_taken_until_the_delay_is_over() {
    let held = Held::start().await;
    held.release.send_replace(true);
    let mut gateway = held.gateway("drain: { delay: 1s }\n").await;
    gateway.signal("TERM");
    draining(&gateway).await;
    assert_eq!(gateway.get(gateway.telemetry, "/readyz").await.status, 503);
    assert_eq!(gateway.get(gateway.telemetry, "/livez").await.status, 200);
    assert_eq!(gateway.status().await["phase"], "leaving");
    assert_eq!(gateway.post("/mcp", &[], &rpc(5, "tools/call", r#"{"name":"a"}"#)).await.status, 200);
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn streams_end_at_an_event_boundary_as_their_revision_says() {
    let mut held = Held::start().await;
    let mut gateway = held.gateway("").await;
    let mut streams = Vec::new();
    for kind in [Long::Get, Long::Listen(7)] {
        streams.push((kind, kind.open(&gateway, "/mcp").await));
    }
    let mut client = held.call(&gateway).await;
    let said = held.feed.say();
    for (_, stream) in &mut streams {
        assert_eq!(stream.chunk().await.as_deref(), Some(said.as_str()));
    }
    gateway.signal("TERM");
    for (kind, stream) in &mut streams {
        kind.assert_ending(&within(1, "the end of a stream", stream.rest()).await);
    }
    held.release.send_replace(true);
    assert_eq!(client.response().await.status, 200, "the call was not hurried by the streams' end");
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    let held = Held::start().await;
    held.release.send_replace(true);
    for signal in ["TERM", "INT"] {
        let mut gateway = held.gateway("").await;
        let mut idle = gateway.connect().await;
        idle.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
        assert_eq!(idle.response().await.status, 200, "{signal}");
        let start = Instant::now();
        gateway.signal(signal);
        assert_ends_in_order(&mut gateway).await;
        assert!(start.elapsed() < Duration::from_secs(10), "{signal}: {:?}", start.elapsed());
        assert_eq!(idle.until_closed().await, "", "{signal}");
    }
}

#[tokio::test]
async fn a_call_that_outlives_the_deadline_is_told_so() {
    let mut held = Held::start().await;
    let mut gateway = held.gateway("drain: { deadline: 300ms }\n").await;
    let mut client = held.call(&gateway).await;
    gateway.signal("TERM");
    let response = client.response().await;
    let error = &response.json()["error"];
    assert_eq!((response.json()["id"].as_u64(), error["code"].as_i64()), (Some(5), Some(-31503)));
    assert_eq!(response.reason(), "draining");
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn a_stream_of_a_call_that_outlives_the_deadline_ends_with_the_reason() {
    let feed = Feed::start(|_, mut wire: Wire| async move {
        wire.begin_events().await;
        wire.chunk(": begun\n\n").await;
        wire.closed().await;
        None
    })
    .await;
    let document = format!(
        "drain: {{ deadline: 300ms }}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        feed.address()
    );
    let mut gateway = Gateway::start(&document).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"wait"}"#).as_bytes()).await;
    client.response_head().await;
    assert_eq!(client.chunk().await.as_deref(), Some(": begun\n\n"));
    gateway.signal("TERM");
    let last = client.rest().await;
    let data = last.strip_prefix("event: message\ndata: ").unwrap_or_else(|| panic!("{last:?}"));
    let error: serde_json::Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!((error["id"].as_u64(), error["error"]["code"].as_i64()), (Some(5), Some(-31503)));
    assert_eq!(error["error"]["data"]["reason"], "draining");
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn a_stream_whose_head_never_came_does_not_hold_the_process() {
    // Node keeps the head of a silent stream back until its first event.
    let (upstream, mut arrived) = Upstream::silent().await;
    let mut gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    client.open_stream("/mcp", &[]).await;
    within(5, "the stream at the upstream", arrived.recv()).await.unwrap();
    gateway.signal("TERM");
    let response = within(2, "an answer", client.response()).await;
    assert_eq!((response.status, response.reason().as_str()), (503, "draining"));
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn the_control_socket_drains_too() {
    let mut held = Held::start().await;
    let mut gateway = held.gateway("").await;
    let mut client = held.call(&gateway).await;
    let socket = gateway.folder().join("state/control.sock");
    let mut control = std::os::unix::net::UnixStream::connect(socket).unwrap();
    control.write_all(b"POST /drain HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    control.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    refuses_connections(&gateway).await;
    held.release.send_replace(true);
    assert_eq!(client.response().await.status, 200);
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn a_second_interrupt_ends_at_once() {
    let mut held = Held::start().await;
    let mut gateway = held.gateway("").await;
    let _unanswered = held.call(&gateway).await;
    gateway.signal("INT");
    draining(&gateway).await;
    let start = Instant::now();
    gateway.signal("INT");
    gateway.ended().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
