//! HTTP/2 towards clients: the same calls, on connections that they share.

use crate::harness::frames::{self, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, frame, post};
use crate::harness::h2::{H2Client, finish, piece};
use crate::harness::{Authority, Feed, Gateway, Request, Upstream, Wire, dial, dial_tls, event, rpc, within};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const LIMIT: usize = 4 << 20;

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

/// A gateway that speaks HTTP/2 in the clear; `limits` is the inside of that mapping.
async fn gateway(upstream: SocketAddr, limits: &str) -> Gateway {
    let document = format!(
        "listeners:\n  - {{ bind: 127.0.0.1:0, http2: true, limits: {{ {limits} }} }}\n\
         upstreams:\n  up: {{ url: http://{upstream}/mcp, credentials: passthrough }}\nservers:\n  /mcp: up\n"
    );
    Gateway::start(&document).await
}

async fn client(gateway: &Gateway) -> H2Client {
    H2Client::over(dial(gateway.address).await.unwrap(), gateway.address).await
}

/// Two gateways one behind the other that speak HTTP/2 with each other, and a client of the first.
pub(crate) struct Chain {
    pub(crate) client: H2Client,
    _both: [Gateway; 2],
}

impl Chain {
    pub(crate) async fn before(upstream: SocketAddr, secure: bool) -> Chain {
        let authority = Authority::new("of both");
        let pair = authority.issue(&["localhost"]);
        let ca = authority.pem();
        let files = [("gw.pem", pair.chain.as_str()), ("gw.key", &pair.key), ("ca.pem", &ca)];
        let (listener, scheme, trust) = match secure {
            true => (
                "tls: { certificates: { certificate: gw.pem, key: gw.key } }",
                "https",
                ", tls: { ca: ca.pem }",
            ),
            false => ("http2: true", "http", ""),
        };
        let document = |upstream: &str| {
            format!(
                "level: info\nlisteners:\n  - {{ bind: 127.0.0.1:0, {listener} }}\n\
                 upstreams:\n  up: {{ {upstream} }}\nservers:\n  /mcp: up\n"
            )
        };
        let back = Gateway::start_beside(&files, &document(&format!("url: http://{upstream}/mcp"))).await;
        let hop = format!("url: {scheme}://localhost:{}/mcp, http: 2{trust}", back.address.port());
        let front = Gateway::start_beside(&files, &document(&hop)).await;
        let client = match secure {
            true => {
                let config = authority.client(&["h2"], None);
                let stream = dial_tls(front.address, &config, "localhost").await.unwrap();
                H2Client::over(stream, front.address).await
            }
            false => client(&front).await,
        };
        Chain { client, _both: [front, back] }
    }
}

#[tokio::test]
async fn calls_errors_and_streams_are_what_they_are_over_http_1() {
    let feed = Feed::start(|request: Request, mut wire: Wire| async move {
        if request.head.starts_with("DELETE ") {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        } else if request.header("x-how").is_some() {
            wire.begin_events().await;
            wire.chunk(&event(1)).await;
            wire.chunk(&format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}\n\n", request.id()))
                .await;
            wire.end_chunks().await;
        } else {
            wire.result(&request).await;
        }
        Some(wire)
    })
    .await;
    for secure in [false, true] {
        let chain = Chain::before(feed.address(), secure).await;
        let client = &chain.client;
        let answer = client.post("/mcp", &[], call().as_bytes()).await;
        assert_eq!((answer.status, answer.json()["id"].as_u64()), (200, Some(5)));
        assert!(answer.header("portunus-request-id").is_some() && answer.header("connection").is_none());
        for (name, path, body, status, reason) in [
            ("no JSON", "/mcp", "hello", 400, "parse_error"),
            ("nothing", "/mcp", "", 400, "parse_error"),
            ("no such server", "/other", "{}", 404, "unknown_route"),
        ] {
            let refused = client.post(path, &[], body.as_bytes()).await;
            assert_eq!((refused.status, refused.reason().as_str()), (status, reason), "{name}");
        }
        let streamed = client.post("/mcp", &[("x-how", "stream".to_owned())], call().as_bytes()).await;
        let text = String::from_utf8(streamed.body).unwrap();
        assert!(text.starts_with(&event(1)) && text.contains("\"id\":5"), "{text}");
        let (head, mut body) = client.open(client.request("GET", "/mcp", &[]), Bytes::new()).await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        for _ in 0..3 {
            let said = feed.say();
            assert_eq!(piece(&mut body).await, Some(said));
        }
        let session = [("mcp-session-id", "s-1".to_owned())];
        let deleted = client.send(client.request("DELETE", "/mcp", &session), Bytes::new()).await.unwrap();
        assert_eq!((deleted.status, deleted.body.len()), (200, 0));
        assert!(!client.is_over());
    }
}

/// A message of exactly `size` bytes, in strings below the bound of one.
fn message(head: &str, tail: &str, size: usize) -> String {
    let mut text = format!("{head}\"pad\":[\"");
    while text.len() + tail.len() + 900_000 < size {
        text.push_str(&"é🙂x".repeat(100_000));
        text.push_str("\",\"");
    }
    text.push_str(&"y".repeat(size.saturating_sub(text.len() + tail.len() + 2)));
    format!("{text}\"]{tail}")
}

#[tokio::test]
async fn bodies_of_every_size_pass_byte_for_byte_both_ways() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            wire.json(&message(r#"{"jsonrpc":"2.0","result":{"#, r#"},"id":5}"#, request.body.len())).await;
            seen.send(request.body).unwrap();
            Some(wire)
        }
    })
    .await;
    let head = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","arguments":{"#;
    for secure in [false, true] {
        let chain = Chain::before(upstream.address, secure).await;
        for size in [120, 16_383, 16_384, 16_385, 65_535, 65_536, 262_145, 1 << 20, LIMIT - 1, LIMIT] {
            let sent = message(head, "}}}", size);
            let answer = chain.client.post("/mcp", &[], sent.as_bytes()).await;
            let came = within(5, "the body", arrived.recv()).await.unwrap();
            assert!(came == sent.as_bytes() && came.len() == size, "{size} B, TLS {secure}");
            let expected = message(r#"{"jsonrpc":"2.0","result":{"#, r#"},"id":5}"#, size);
            assert!(answer.body == expected.as_bytes(), "{size} B back, TLS {secure}: {}", answer.status);
        }
        let refused = chain.client.post("/mcp", &[], message(head, "}}}", LIMIT + 1).as_bytes()).await;
        assert_eq!(refused.json()["error"]["code"], -31413, "TLS {secure}");
        assert!(arrived.try_recv().is_err(), "what is too large does not arrive");
    }
}

#[tokio::test]
async fn more_streams_than_a_connection_may_have_wait_for_their_turn() {
    const AT_ONCE: usize = 4;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, highest) = (Arc::clone(&now), Arc::clone(&most));
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let (count, highest) = (Arc::clone(&count), Arc::clone(&highest));
        async move {
            highest.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            count.fetch_sub(1, Ordering::SeqCst);
            wire.result(&request).await;
            Some(wire)
        }
    })
    .await;
    let gateway = gateway(upstream.address, &format!("max_streams: {AT_ONCE}")).await;
    let client = client(&gateway).await;
    // The answer to this one comes after the settings.
    assert_eq!(client.post("/mcp", &[], call().as_bytes()).await.status, 200);
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        let client = client.clone();
        calls.spawn(async move { client.post("/mcp", &[], call().as_bytes()).await.status });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
    assert!(most.load(Ordering::SeqCst) <= AT_ONCE, "{most:?} at once");
}

#[tokio::test]
async fn header_sections_are_bounded_and_cost_only_their_request() {
    let upstream = Upstream::answering().await;
    let gateway = gateway(upstream.address, "").await;
    let client = client(&gateway).await;
    let many: Vec<(&str, String)> = (0..200).map(|_| ("x-a", "b".to_owned())).collect();
    let large = [("x-a", "b".repeat(70_000))];
    for (name, headers) in [("many", &many[..]), ("large", &large)] {
        let answer = client.post("/mcp", headers, call().as_bytes()).await;
        assert_eq!(answer.status, 431, "{name}");
        assert_eq!(client.post("/mcp", &[], call().as_bytes()).await.status, 200, "after {name}");
    }
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_request_has_one_host_and_one_cookie() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            wire.result(&request).await;
            seen.send(request).unwrap();
            Some(wire)
        }
    })
    .await;
    let gateway = gateway(upstream.address, "").await;
    let own = gateway.address.to_string();
    let body = frame(frames::DATA, END_STREAM, 1, call().as_bytes());
    // The first byte of the answer: RFC 7541 appendix A has 8 for status 200 and 12 for 400.
    let (ok, bad) = (0x88, 0x8c);
    let host = |name: &str| frames::field("host", name);
    let cases = [
        ("an authority", post(Some(&own)), ok),
        ("both, the same", [post(Some(&own)), host(&own)].concat(), ok),
        ("only Host", [post(None), host(&own)].concat(), ok),
        ("neither", post(None), bad),
        ("both, different", [post(Some(&own)), host("localhost:1")].concat(), bad),
        ("two Hosts", [post(None), host(&own), host("localhost:1")].concat(), bad),
        ("a user", post(Some(&format!("me@{own}"))), bad),
    ];
    for (name, block, first) in cases {
        let mut frames = Frames::client(dial(gateway.address).await.unwrap()).await;
        frames.send(&[frame(HEADERS, END_HEADERS, 1, &block), body.clone()].concat()).await;
        let head = frames.until(HEADERS).await;
        assert_eq!(head.payload[0], first, "{name}");
        if first == ok {
            assert_eq!(within(5, name, arrived.recv()).await.unwrap().id(), "5", "{name}");
        }
        assert!(arrived.try_recv().is_err(), "{name}");
    }
    let crumbs = [("cookie", "a=1".to_owned()), ("cookie", "b=2".to_owned())];
    assert_eq!(client(&gateway).await.post("/mcp", &crumbs, call().as_bytes()).await.status, 200);
    assert_eq!(arrived.recv().await.unwrap().header("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn a_call_that_its_client_resets_is_cancelled_and_the_connection_goes_on() {
    let (told, mut arrived) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let told = told.clone();
        async move {
            if request.id() != "5" {
                wire.result(&request).await;
                return Some(wire);
            }
            told.send(()).unwrap();
            wire.closed().await;
            told.send(()).unwrap();
            None
        }
    })
    .await;
    let gateway = gateway(upstream.address, "").await;
    let client = client(&gateway).await;
    let request = client.request("POST", "/mcp", &[("x-request-id", "left".to_owned())]);
    let answer = client.begin(request, call().into()).await.unwrap();
    within(5, "the call at the upstream", arrived.recv()).await;
    drop(answer);
    let record = gateway.recorded("the record", |record| record["request_id"] == "left").await;
    assert_eq!(record["status"], "cancelled", "{record}");
    let other = rpc(6, "tools/call", r#"{"name":"echo"}"#);
    assert_eq!(client.post("/mcp", &[], other.as_bytes()).await.json()["id"], 6);
    assert!(!client.is_over());
}

#[tokio::test]
async fn a_body_that_does_not_come_and_calls_beyond_the_bound_are_refused_alone() {
    let (upstream, mut arrived) = Upstream::silent().await;
    let impatient = gateway(upstream.address, "body_timeout: 200ms").await;
    let slow = client(&impatient).await;
    let mut sender = slow.sender.clone().ready().await.unwrap();
    let (answer, _unsent) = sender.send_request(slow.request("POST", "/mcp", &[]), false).unwrap();
    let late = within(5, "the refusal", finish(answer)).await.unwrap();
    assert_eq!(late.header("portunus-outcome"), Some("request_timeout"), "{late:?}");
    assert!(!slow.is_over());

    let narrow = gateway(upstream.address, "max_connections: 1").await;
    let client = client(&narrow).await;
    let waiting = client.begin(client.request("POST", "/mcp", &[]), call().into()).await.unwrap();
    within(5, "the call at the upstream", arrived.recv()).await;
    let beyond = client.post("/mcp", &[], call().as_bytes()).await;
    assert_eq!(beyond.header("portunus-outcome"), Some("overloaded"), "{beyond:?}");
    assert!(!client.is_over());
    drop(waiting);
}

#[tokio::test]
async fn who_reads_slowly_holds_little_memory_and_nobody_else_up() {
    const SLOW: usize = 12;
    let large = message(r#"{"jsonrpc":"2.0","result":{"#, r#"},"id":5}"#, 16 << 20);
    let shared = Arc::new(large.clone());
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let large = Arc::clone(&shared);
        async move {
            if request.id() == "5" {
                wire.json(&large).await;
            } else {
                wire.result(&request).await;
            }
            Some(wire)
        }
    })
    .await;
    let gateway = gateway(upstream.address, "").await;
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 << 20);
    let socket = dial(gateway.address).await.unwrap();
    let client = H2Client::with(&builder, socket, gateway.address).await;
    let other = rpc(6, "tools/call", r#"{"name":"echo"}"#);
    assert_eq!(client.post("/mcp", &[], other.as_bytes()).await.status, 200);
    let before = gateway.resident_kib();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(client.open(client.request("POST", "/mcp", &[]), call().into()).await.1);
    }
    for _ in 0..20 {
        assert_eq!(client.post("/mcp", &[], other.as_bytes()).await.json()["id"], 6);
    }
    let grown = gateway.resident_kib() - before;
    assert!(grown < 40 << 10, "{SLOW} answers of {} B grew memory by {grown} KiB", large.len());
    let mut last = slow.pop().unwrap();
    drop(slow);
    let mut whole = Vec::new();
    while let Some(data) = within(30, "a piece of the answer", last.data()).await {
        let data = data.unwrap();
        last.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    assert!(whole == large.as_bytes(), "{} B of {}", whole.len(), large.len());
}

#[tokio::test]
async fn a_drain_says_goaway_finishes_calls_and_ends_streams_between_events() {
    let (told, mut arrived) = mpsc::unbounded_channel();
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
    let mut gateway = gateway(feed.address(), "").await;
    let client = client(&gateway).await;
    let (_, mut stream) = client.open(client.request("GET", "/mcp", &[]), Bytes::new()).await;
    let said = feed.say();
    assert_eq!(piece(&mut stream).await, Some(said));
    let call = client.begin(client.request("POST", "/mcp", &[]), call().into()).await.unwrap();
    within(5, "the call at the upstream", arrived.recv()).await;
    gateway.signal("TERM");
    assert_eq!(within(5, "the end of the stream", piece(&mut stream)).await, None);
    release.send_replace(true);
    let answer = within(5, "the answer", finish(call)).await.unwrap();
    assert_eq!((answer.status, answer.json()["id"].as_u64()), (200, Some(5)));
    assert_eq!(client.ended().await, "in order");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log_text());
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_closed() {
    let upstream = Upstream::answering().await;
    let gateway = gateway(upstream.address, "idle_timeout: 200ms").await;
    let client = client(&gateway).await;
    assert_eq!(client.post("/mcp", &[], call().as_bytes()).await.status, 200);
    assert_eq!(client.ended().await, "in order");
    let mut frames = Frames::client(dial(gateway.address).await.unwrap()).await;
    assert!(frames.until_closed().await.contains(&GOAWAY));
}
