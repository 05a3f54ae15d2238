//! What must pass whole: bytes, events as they come, streams, headers, cancellation.

use crate::harness::{Gateway, Request, Upstream, Wire, modern_call, modern_headers, rpc, within};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{"n": 1.0e5, "u":"\u00e9 ż", "a":[], "b":false}}"#)
}

/// An upstream that hands every request over and answers with an empty result.
async fn listening() -> (Upstream, mpsc::UnboundedReceiver<Request>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            match request.id().as_str() {
                "null" => wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await,
                _ => wire.result(&request).await,
            }
            seen.send(request).ok();
            Some(wire)
        }
    })
    .await;
    (upstream, requests)
}

#[tokio::test]
async fn heads_comments_and_events_leave_as_they_come() {
    let (go, gate) = tokio::sync::mpsc::unbounded_channel::<()>();
    let gate = Arc::new(tokio::sync::Mutex::new(gate));
    let upstream = Upstream::start(move |_, mut wire: Wire| {
        let gate = Arc::clone(&gate);
        async move {
            let mut gate = gate.lock().await;
            wire.begin_events().await;
            for piece in [
                ": ping\r\n\r\n",
                "id: 7\nretry: 3000\ndata: \n\n",
                "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}\r\r",
            ] {
                gate.recv().await;
                wire.chunk(piece).await;
            }
            wire.end_chunks().await;
            Some(wire)
        }
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], call().as_bytes()).await;
    let head = client.response_head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "before the first event");
    for expected in [
        ": ping\r\n\r\n",
        "id: 7\nretry: 3000\ndata: \n\n",
        "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}\r\r",
    ] {
        go.send(()).unwrap();
        assert_eq!(client.chunk().await.as_deref(), Some(expected));
    }
    assert_eq!(client.chunk().await, None);
    client.post("/mcp", &[], b"[]").await;
    assert_eq!(client.response().await.status, 400, "the connection is kept");
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_with_length_or_chunks() {
    let (upstream, mut requests) = listening().await;
    let gateway = Gateway::before(upstream.address).await;
    let body = call();
    gateway.post("/mcp", &[], &body).await;
    assert_eq!(requests.recv().await.unwrap().body, body.as_bytes());

    let mut client = gateway.connect().await;
    let head = client.head("POST", "/mcp", &[]);
    client
        .send(
            format!("{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
        )
        .await;
    for piece in body.as_bytes().chunks(7) {
        client.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let arrived = requests.recv().await.unwrap();
    assert_eq!(arrived.body, body.as_bytes());
    assert_eq!(arrived.header("transfer-encoding"), None);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let (upstream, _requests) = listening().await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    let body = call();
    let head = client.head("POST", "/mcp", &[]);
    let head = format!(
        "{head}content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).await;
    assert_eq!(client.response_head().await.status, 100);
    client.send(body.as_bytes()).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (upstream, _requests) = listening().await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    let one = |id: u32| {
        let body = rpc(id, "ping", "{}");
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            gateway.address,
            body.len()
        )
    };
    client.send(format!("{}{}{}", one(1), one(2), one(3)).as_bytes()).await;
    for id in 1..=3 {
        assert_eq!(client.response().await.json()["id"], id);
    }
}

#[tokio::test]
async fn a_request_that_arrives_while_a_bodiless_one_waits_is_not_cut() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let mut gate = gate.clone();
        async move {
            if request.head.starts_with("DELETE") {
                gate.wait_for(|open| *open).await.ok();
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            } else {
                wire.result(&request).await;
            }
            Some(wire)
        }
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    let head = client.head("DELETE", "/mcp", &[]);
    client.send(format!("{head}\r\n").as_bytes()).await;
    while upstream.requests() == 0 {
        tokio::task::yield_now().await;
    }
    client.post("/mcp", &[], call().as_bytes()).await;
    // Another call makes sure that the gateway has had the chance to read what waits.
    gateway.post("/mcp", &[], &call()).await;
    go.send(true).unwrap();
    assert_eq!(client.response().await.status, 200, "the DELETE");
    assert_eq!(client.response().await.json()["id"], 5, "the call behind it");
}

#[tokio::test]
async fn unfinished_bodies_hold_no_snapshot() {
    let (upstream, _requests) = listening().await;
    let document = |revision: u32| {
        format!(
            "revision: r{revision}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
            upstream.address
        )
    };
    let gateway = Gateway::start(&document(0)).await;
    let mut unfinished = Vec::new();
    for revision in 1..=3 {
        let mut client = gateway.connect().await;
        let head = client.head("POST", "/mcp", &[]);
        client
            .send(format!("{head}content-type: application/json\r\ncontent-length: 500\r\n\r\n{{").as_bytes())
            .await;
        gateway.reaches("the body's beginning", |status| status["in_flight"] == revision).await;
        unfinished.push(client);
        gateway.configure(&document(revision));
        gateway.reaches("the next revision", |status| status["serial"] == revision + 1).await;
    }
    gateway.reaches("the last two snapshots", |status| status["snapshots_alive"] == 2).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_gives_its_place_back() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        let text = "x".repeat(20 << 20);
        wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"t":"{text}"}}}}"#, request.id())).await;
        Some(wire)
    })
    .await;
    let document = format!(
        "listeners:\n  - {{ bind: 127.0.0.1:0, limits: {{ max_connections: 1, write_timeout: 300ms }} }}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let mut silent = gateway.connect().await;
    silent.post("/mcp", &[], call().as_bytes()).await;
    gateway.recorded("the end of the call", |record| record["status"] == "cancelled").await;
    gateway.reaches("the connection to be given up", |status| status["connections"] == 0).await;
    assert_eq!(gateway.post("/mcp", &[], "{").await.status, 400, "the next client");
}

#[tokio::test]
async fn every_verb_and_kind_of_message_passes() {
    let (upstream, mut requests) = listening().await;
    let gateway = Gateway::before(upstream.address).await;
    let session = [("mcp-session-id", "s-1".to_owned())];
    let batch =
        r#"[{"jsonrpc":"2.0","method":"notifications/a"},{"jsonrpc":"2.0","method":"notifications/b"}]"#;
    for (name, body) in [
        ("notification", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        ("batch of 2025-03-26", batch),
    ] {
        let response = gateway.post("/mcp", &session, body).await;
        assert_eq!((response.status, response.body.len()), (202, 0), "{name}");
        let arrived = requests.recv().await.unwrap();
        assert_eq!(
            (arrived.header("mcp-session-id"), arrived.body.as_slice()),
            (Some("s-1"), body.as_bytes()),
            "{name}"
        );
    }
    let mut client = gateway.connect().await;
    let head = client.head("DELETE", "/mcp", &session);
    client.send(format!("{head}\r\n").as_bytes()).await;
    assert_eq!(client.response().await.status, 202);
    let arrived = requests.recv().await.unwrap();
    assert!(
        arrived.head.starts_with("DELETE /mcp HTTP/1.1\r\n") && arrived.header("content-length").is_none()
    );
}

#[tokio::test]
async fn a_trace_is_that_of_the_header_else_that_of_the_message() {
    let (upstream, mut requests) = listening().await;
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: {{ upstreams: up, bridge: false }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let trace = |digit: &str| format!("00-{}-00f067aa0ba902b7-01", digit.repeat(32));
    let cases = [
        ("both", Some(trace("a")), trace("b"), Some(trace("a"))),
        ("the message's", None, trace("b"), Some(trace("b"))),
        ("an invalid header", Some("00-0-0-0".to_owned()), trace("b"), Some(trace("b"))),
        ("neither is valid", None, trace("0"), None),
    ];
    for (number, (name, header, named, expected)) in cases.into_iter().enumerate() {
        let meta = format!(r#"{{"name":"a","arguments":{{}},"_meta":{{"traceparent":"{named}"}}}}"#);
        let id = ("x-request-id", format!("traced-{number}"));
        let headers: Vec<_> = header.map(|header| ("traceparent", header)).into_iter().chain([id]).collect();
        gateway.post("/mcp", &headers, &rpc(1, "tools/call", &meta)).await;
        let arrived = requests.recv().await.unwrap();
        assert!(
            String::from_utf8_lossy(&arrived.body).contains(&named),
            "{name}: the message stays as it is"
        );
        let sent = arrived.header("traceparent").unwrap();
        let made = expected.is_none() && sent != named;
        assert!(made || Some(sent) == expected.as_deref(), "{name}: {sent}");
        let id = format!("traced-{number}");
        let record = gateway.recorded("the record", |record| record["request_id"] == id.as_str()).await;
        assert_eq!(record["trace_id"].as_str(), sent.get(3..35), "{name}");
    }
}

#[tokio::test]
async fn the_upstream_learns_who_called_once_and_from_us() {
    let (upstream, mut requests) = listening().await;
    let document = format!(
        "listeners:\n  - {{ bind: 127.0.0.1:0, hosts: any, trusted_proxies: [127.0.0.0/8] }}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: {{ upstreams: up, bridge: false }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("x-forwarded-for", "6.6.6.6, 198.51.100.7".to_owned()),
        ("x-forwarded-proto", "https".to_owned()),
        ("x-request-id", "mine-1".to_owned()),
        ("traceparent", trace.to_owned()),
        ("authorization", "Bearer client-token".to_owned()),
        ("cookie", "a=b".to_owned()),
        ("connection", "x-hop".to_owned()),
        ("x-hop", "1".to_owned()),
        ("x-kept", "2".to_owned()),
    ];
    let response = gateway.post("/mcp?tag=1", &headers, &call()).await;
    assert_eq!(response.header("portunus-request-id"), Some("mine-1"));
    let arrived = requests.recv().await.unwrap();
    assert!(arrived.head.starts_with("POST /mcp?tag=1 HTTP/1.1\r\n"), "{}", arrived.head);
    let forwarded = format!("for=198.51.100.7;host=\"{}\";proto=https", gateway.address);
    assert_eq!(arrived.header("forwarded"), Some(forwarded.as_str()));
    assert_eq!(arrived.header("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(arrived.header("traceparent"), Some(trace));
    assert_eq!(arrived.header("x-request-id"), Some("mine-1"));
    assert_eq!(arrived.header("x-kept"), Some("2"));
    for stripped in ["authorization", "cookie", "x-hop", "x-forwarded-for", "x-forwarded-proto"] {
        assert_eq!(arrived.header(stripped), None, "{stripped}");
    }
    let record = gateway.recorded("the record", |record| record["request_id"] == "mine-1").await;
    assert_eq!(record["ip_address"], "198.51.100.7");
    assert_eq!(record["auth"], "presented");
    assert!(!gateway.log_text().contains("client-token"));
}

#[tokio::test]
async fn listed_origins_may_call_and_are_told_so() {
    let (upstream, _requests) = listening().await;
    let gateway = Gateway::before(upstream.address).await;
    let origin = ("origin", "http://localhost:3000".to_owned());
    let mut client = gateway.connect().await;
    let asked = [origin.clone(), ("access-control-request-headers", "mcp-session-id, x-mine".to_owned())];
    let head = client.head("OPTIONS", "/mcp", &asked);
    client.send(format!("{head}\r\n").as_bytes()).await;
    let preflight = client.response().await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("mcp-session-id, x-mine"));
    let response = gateway.post("/mcp", &[origin], &call()).await;
    assert_eq!(response.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert!(response.header("access-control-expose-headers").unwrap().contains("Mcp-Session-Id"));
}

#[tokio::test]
async fn twenty_megabytes_come_through_as_json_and_as_an_event() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"text":"{}"}}}}"#,
            request.id(),
            "x".repeat(20 << 20)
        );
        if request.header("mcp-protocol-version").is_some() {
            wire.json(&body).await;
        } else {
            wire.begin_events().await;
            wire.chunk(&format!("data: {body}\n\n")).await;
            wire.end_chunks().await;
        }
        Some(wire)
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let json = gateway.post("/mcp", &modern_headers("echo"), &modern_call(5, "echo")).await;
    assert_eq!(json.json()["result"]["text"].as_str().unwrap().len(), 20 << 20);
    let events = gateway.post("/mcp", &[], &call()).await;
    let data = events.body.strip_prefix(b"data: ").unwrap().strip_suffix(b"\n\n").unwrap();
    assert_eq!(data.len(), json.body.len());
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_upstream_before_and_after_its_head() {
    for head_first in [false, true] {
        let (left, mut gone) = mpsc::unbounded_channel();
        let (arrived, mut started) = mpsc::unbounded_channel();
        let upstream = Upstream::start(move |_, mut wire: Wire| {
            let (left, arrived) = (left.clone(), arrived.clone());
            async move {
                if head_first {
                    wire.begin_events().await;
                }
                arrived.send(()).unwrap();
                wire.closed().await;
                left.send(()).unwrap();
                None
            }
        })
        .await;
        let gateway = Gateway::before(upstream.address).await;
        let mut client = gateway.connect().await;
        client.post("/mcp", &modern_headers("echo"), modern_call(5, "echo").as_bytes()).await;
        within(5, "the request", started.recv()).await;
        if head_first {
            client.response_head().await;
        }
        drop(client);
        within(5, "the upstream's connection to close", gone.recv()).await;
        gateway.recorded("the record", |record| record["status"] == "cancelled").await;
    }
}

#[tokio::test]
async fn a_slow_reader_holds_its_upstream_back_and_loses_nothing() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        wire.begin_events().await;
        let note = format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"t\":\"{}\"}}}}\n\n", "y".repeat(60_000));
        for _ in 0..1200 {
            wire.chunk(&note).await;
        }
        wire.chunk(&format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}\n\n", request.id())).await;
        wire.end_chunks().await;
        Some(wire)
    })
    .await;
    let gateway = Gateway::before(upstream.address).await;
    let before = gateway.resident_kib();
    let mut client = gateway.connect().await;
    client.post("/mcp", &[], call().as_bytes()).await;
    client.response_head().await;
    // Until the record of another call is there the stream has had time to fill every buffer.
    for _ in 0..20 {
        gateway.get(gateway.telemetry, "/metrics").await;
    }
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "72 MB were held for a reader that does not read: {grown} KiB");
    let text = client.rest().await;
    assert_eq!(text.matches("notifications/message").count(), 1200);
    assert!(text.ends_with("\"result\":{}}\n\n"));
}

#[tokio::test]
async fn a_connection_serves_all_callers_unless_it_may_be_ones_own() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&taken);
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        noted.lock().unwrap().push(wire.number);
        async move {
            match request.header("authorization") {
                Some("Bearer old") => {
                    wire.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
                }
                _ => wire.result(&request).await,
            }
            Some(wire)
        }
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: 'http://{}/mcp', credentials: passthrough }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    // One after the other on one connection: the next is read when the one before is over.
    let mut client = gateway.connect().await;
    for (shown, status) in [
        ("Bearer one", 200),
        ("bearer two", 200),
        ("Negotiate ticket", 200),
        ("Bearer one", 200),
        ("Bearer old", 401),
        ("Basic b3RoZXI6", 200),
        ("Own two", 200),
        ("Bearer one", 200),
    ] {
        client.post("/mcp", &[("authorization", shown.to_owned())], call().as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{shown}");
    }
    assert_eq!(*taken.lock().unwrap(), [0, 0, 0, 1, 1, 2, 2, 3]);
}
