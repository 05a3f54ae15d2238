//! Upstreams that misbehave: what their clients see.

use crate::harness::{Gateway, Request, Response, Upstream, Wire, modern_call, modern_headers, rpc, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

/// A call to an upstream that sends these bytes and closes.
async fn answer_to(bytes: &'static str) -> Response {
    let upstream = Upstream::start(move |_, mut wire: Wire| async move {
        wire.send(bytes).await;
        None
    })
    .await;
    Gateway::before(upstream.address).await.post("/mcp", &[], &call()).await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of named cases")]
async fn answers_that_are_none_become_errors_in_band() {
    let cases = [
        (
            "HTML with 200",
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
            -31502,
        ),
        (
            "HTML with 500",
            "HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
            -31502,
        ),
        (
            "HTML with 502",
            "HTTP/1.1 502 Bad\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
            -31503,
        ),
        (
            "a redirect",
            "HTTP/1.1 307 R\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            -31502,
        ),
        ("202 to a request", "HTTP/1.1 202 A\r\ncontent-length: 0\r\n\r\n", -31502),
        (
            "200 without a body",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
            -31502,
        ),
        (
            "broken JSON",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{]",
            -31502,
        ),
        (
            "another id",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":6,\"result\":{}}",
            -31502,
        ),
        (
            "its credentials refused",
            "HTTP/1.1 401 U\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n",
            -31502,
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x", -31502),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", -31502),
        ("half a head", "HTTP/1.1 200 OK\r\ncontent-ty", -31503),
        (
            "half a body",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"jsonrpc\"",
            -31503,
        ),
        ("nothing", "", -31503),
    ];
    for (name, bytes, code) in cases {
        let response = answer_to(bytes).await;
        let body = response.json();
        assert_eq!(
            (response.status, body["id"].as_u64(), body["error"]["code"].as_i64()),
            (200, Some(5), Some(code)),
            "{name}"
        );
        assert_eq!(body["error"]["data"]["origin"], "gateway", "{name}");
        assert!(response.header("portunus-outcome").is_some(), "{name}");
    }
}

#[tokio::test]
async fn statuses_that_mean_something_pass() {
    let cases = [
        (
            "session gone",
            "HTTP/1.1 404 N\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            404,
            "{}",
        ),
        (
            "bad request",
            "HTTP/1.1 400 B\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nno",
            400,
            "no",
        ),
        ("HTML 404", "HTTP/1.1 404 N\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", 404, ""),
    ];
    for (name, bytes, status, body) in cases {
        let response = answer_to(bytes).await;
        assert_eq!(
            (response.status, String::from_utf8_lossy(&response.body).as_ref()),
            (status, body),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_answer_without_a_length_is_complete_at_the_end_of_the_connection() {
    let response =
        answer_to("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}").await;
    assert_eq!((response.status, response.json()["id"].as_u64()), (200, Some(5)));
    assert_eq!(response.header("content-length"), Some("36"));
}

#[tokio::test]
async fn a_compressed_answer_passes_as_it_is() {
    let response = answer_to(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    )
    .await;
    assert_eq!(
        (response.header("content-encoding"), response.body.as_slice()),
        (Some("gzip"), b"abc".as_slice())
    );
}

#[tokio::test]
async fn an_unreachable_upstream_is_told_so_that_no_client_mistakes_its_era() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::before(port).await;
    let discover = modern_call(3, "x").replace("tools/call", "server/discover");
    let modern: Vec<(&str, String)> =
        vec![("mcp-protocol-version", "2026-07-28".into()), ("mcp-method", "server/discover".into())];
    let cases = [
        ("call", vec![], call(), 200),
        ("modern call", modern_headers("echo"), modern_call(5, "echo"), 200),
        ("initialize", vec![], rpc(1, "initialize", "{}"), 503),
        ("discover", modern, discover, 503),
        ("notification", vec![], r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.into(), 202),
        ("answer", vec![], r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into(), 202),
        ("batch", vec![], format!("[{}]", call()), 200),
    ];
    for (name, headers, body, status) in cases {
        let response = gateway.post("/mcp", &headers, &body).await;
        assert_eq!(response.status, status, "{name}");
        assert_eq!(response.header("portunus-outcome"), Some("upstream_unavailable"), "{name}");
    }
    let mut client = gateway.connect().await;
    client.open_stream("/mcp", &[]).await;
    assert_eq!(client.response().await.status, 503, "GET");
}

/// An upstream whose event stream is what `script` makes of it.
async fn stream_of(pieces: Vec<&'static str>, proper_end: bool) -> (Gateway, Upstream) {
    let upstream = Upstream::start(move |_, mut wire: Wire| {
        let pieces = pieces.clone();
        async move {
            wire.begin_events().await;
            for piece in pieces {
                wire.chunk(piece).await;
            }
            if proper_end {
                wire.end_chunks().await;
            }
            None
        }
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, timeouts: {{ idle: 400ms, first_byte: 400ms }} }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    (Gateway::start(&document).await, upstream)
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_event_at_an_event_boundary() {
    let whole =
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    for (name, proper_end) in [("abort within an event", false), ("end without an answer", true)] {
        let (gateway, _upstream) = stream_of(vec![": hello\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n", "event: message\ndata: {\"jso"], proper_end).await;
        let mut client = gateway.connect().await;
        client.post("/mcp", &[], call().as_bytes()).await;
        assert_eq!(client.response_head().await.status, 200, "{name}");
        let text = client.rest().await;
        let rest = text
            .strip_prefix(": hello\n\n")
            .and_then(|text| text.strip_prefix(whole))
            .unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(!rest.contains("{\"jso\n") && !text.contains("\nid:"), "{name}: {rest}");
        let data =
            rest.strip_prefix("event: message\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
        let error: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (error["id"].as_u64(), error["error"]["code"].as_i64()),
            (Some(5), Some(-31503)),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_resumable_stream_may_end_without_an_answer() {
    let (gateway, _upstream) = stream_of(vec!["id: 0\nretry: 50\ndata: \n\n"], true).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], call().as_bytes()).await;
    client.response_head().await;
    assert_eq!(client.rest().await, "id: 0\nretry: 50\ndata: \n\n");
}

#[tokio::test]
async fn a_server_request_on_a_modern_stream_ends_its_call_with_an_error() {
    let asks = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n";
    let (gateway, _upstream) = stream_of(vec![asks], false).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &modern_headers("echo"), modern_call(5, "echo").as_bytes()).await;
    client.response_head().await;
    let text = client.rest().await;
    assert!(text.contains("-31502") && !text.contains("sampling"), "{text}");
}

#[tokio::test]
async fn a_modern_stream_with_event_ids_still_owes_its_answer() {
    let note = "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    for proper_end in [true, false] {
        let (gateway, _upstream) = stream_of(vec![note], proper_end).await;
        let mut client = gateway.connect().await;
        client.post("/mcp", &modern_headers("echo"), modern_call(5, "echo").as_bytes()).await;
        client.response_head().await;
        assert!(client.rest().await.contains("-31503"), "proper end: {proper_end}");
    }
}

#[tokio::test]
async fn a_batch_answered_within_one_event_is_answered() {
    let answers = "data: [{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}]\n\n";
    let (gateway, _upstream) = stream_of(vec![answers], true).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], format!("[{}]", call()).as_bytes()).await;
    client.response_head().await;
    assert_eq!(client.rest().await, answers);
}

#[tokio::test]
async fn an_early_refusal_of_a_large_body_is_not_missed() {
    let upstream = Upstream::raw(|mut wire: Wire| async move {
        wire.read_some().await;
        wire.send("HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
            .await;
        wire.idle().await;
    })
    .await;
    let document = format!(
        "listeners:\n  - {{ bind: 127.0.0.1:0, limits: {{ max_body_bytes: 12MiB }} }}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: {{ upstreams: [up], bounds: {{ depth: 9, string: 12MiB }} }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let body =
        rpc(5, "tools/call", &format!(r#"{{"name":"echo","arguments":{{"t":"{}"}}}}"#, "x".repeat(9 << 20)));
    let response = within(10, "the early answer", gateway.post("/mcp", &[], &body)).await;
    assert_eq!((response.status, response.body.as_slice()), (413, b"{}".as_slice()));
}

#[tokio::test]
async fn streams_do_not_take_the_connections_of_calls() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        if request.head.starts_with("GET") {
            wire.begin_events().await;
            wire.closed().await;
            return None;
        }
        wire.result(&request).await;
        Some(wire)
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, pool: {{ max_connections: 2 }} }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.connect().await;
        client.open_stream("/mcp", &[]).await;
        assert_eq!(client.response_head().await.status, 200);
        streams.push(client);
    }
    assert_eq!(gateway.post("/mcp", &[], &call()).await.json()["result"], serde_json::json!({}));
}

#[tokio::test]
async fn a_session_that_nobody_learned_of_is_ended_and_a_known_one_is_not() {
    for leaves_early in [true, false] {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let (release, gate) = tokio::sync::watch::channel(false);
        let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
            let (seen, mut gate) = (seen.clone(), gate.clone());
            async move {
                let deletes = request.head.starts_with("DELETE");
                seen.send(request.clone()).unwrap();
                if deletes {
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    return Some(wire);
                }
                gate.wait_for(|open| *open || !leaves_early).await.ok();
                wire.send("HTTP/1.1 200 OK\r\nmcp-session-id: s-7\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
                wire.chunk("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n").await;
                wire.closed().await;
                None
            }
        })
        .await;
        let gateway = Gateway::before(upstream.address).await;
        let mut client = gateway.connect().await;
        client.post("/mcp", &[], rpc(1, "initialize", "{}").as_bytes()).await;
        within(5, "initialize", requests.recv()).await;
        if leaves_early {
            drop(client);
            gateway.recorded("the client's leaving", |record| record["status"] == "cancelled").await;
            release.send(true).unwrap();
            let ended = within(5, "the end of the session", requests.recv()).await.unwrap();
            assert!(ended.head.starts_with("DELETE") && ended.header("mcp-session-id") == Some("s-7"));
        } else {
            client.response_head().await;
            assert!(client.chunk().await.unwrap().contains("result"));
            drop(client);
            gateway.recorded("the client's leaving", |record| record["action"] == "initialize").await;
            let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
            assert!(
                !text.contains("portunus_gateway_requests_total{kind=\"delete\""),
                "a live session was ended"
            );
        }
    }
}

#[tokio::test]
async fn half_an_event_and_then_silence_ends_at_the_idle_timeout() {
    let (cancelled, mut told) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let cancelled = cancelled.clone();
        async move {
            if String::from_utf8_lossy(&request.body).contains("notifications/cancelled") {
                cancelled.send(request).unwrap();
                wire.send("HTTP/1.1 202 A\r\ncontent-length: 0\r\n\r\n").await;
                return Some(wire);
            }
            wire.begin_events().await;
            wire.chunk("data: {\"half").await;
            wire.closed().await;
            None
        }
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, timeouts: {{ idle: 300ms }} }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[("mcp-session-id", "s-9".to_owned())], call().as_bytes()).await;
    client.response_head().await;
    let text = client.rest().await;
    assert!(text.starts_with("event: message\n") && text.contains("-31504"), "{text}");
    let cancel = within(5, "the cancellation", told.recv()).await.unwrap();
    assert_eq!(cancel.header("mcp-session-id"), Some("s-9"));
    let message: serde_json::Value = serde_json::from_slice(&cancel.body).unwrap();
    assert_eq!(message["params"]["requestId"], 5);
}

#[tokio::test]
async fn a_stream_that_outlives_its_call_ends_properly_after_its_error() {
    let upstream = Upstream::start(|_, mut wire: Wire| async move {
        wire.begin_events().await;
        wire.closed().await;
        None
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, timeouts: {{ total: 300ms }} }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], call().as_bytes()).await;
    client.response_head().await;
    // `rest` insists on the last chunk.
    assert!(client.rest().await.contains("-31504"));
}

#[tokio::test]
async fn slow_heads_end_at_the_first_byte_timeout() {
    let upstream = Upstream::start(|_, mut wire: Wire| async move {
        wire.closed().await;
        None
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, timeouts: {{ first_byte: 200ms }} }}\nservers:\n  /mcp: up\n  /mirror: {{ upstreams: [up], http_status: mirror }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let response = gateway.post("/mcp", &[], &call()).await;
    assert_eq!((response.status, response.json()["error"]["code"].as_i64()), (200, Some(-31504)));
    let response = gateway.post("/mirror", &[], &call()).await;
    assert_eq!((response.status, response.json()["error"]["code"].as_i64()), (504, Some(-31504)));
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_twice() {
    // The second request of each connection is read and then dropped without a word.
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let turn = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if turn % 2 == 1 {
                return None;
            }
            wire.result(&request).await;
            Some(wire)
        }
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let list = rpc(5, "tools/list", "{}");
    assert_eq!(gateway.post("/mcp", &[], &list).await.json()["result"], serde_json::json!({}));
    assert_eq!(
        gateway.post("/mcp", &[], &list).await.json()["result"],
        serde_json::json!({}),
        "a list is repeated"
    );
    assert_eq!(upstream.requests(), 3);
    assert_eq!(gateway.post("/mcp", &[], &call()).await.reason(), "upstream_unavailable", "a call is not");
    assert_eq!(upstream.requests(), 4);
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_is_not_used_again() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        wire.result(&request).await;
        None
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    for _ in 0..20 {
        assert_eq!(gateway.post("/mcp", &[], &call()).await.status, 200);
    }
    assert_eq!(upstream.requests(), 20);
}

#[tokio::test]
async fn names_inside_never_reach_a_client() {
    let upstream = Upstream::unreachable().await;
    let document = format!(
        "upstreams:\n  up: http://crm.internal.invalid:{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address.port()
    );
    let gateway = Gateway::start(&document).await;
    let response = gateway.post("/mcp", &[], &call()).await;
    assert_eq!(response.reason(), "upstream_unavailable");
    assert!(!String::from_utf8_lossy(&response.body).contains("crm.internal"), "internal names stay inside");
}
