//! What attackers send: refused by the table, on every path, without reaching an upstream.

use crate::harness::{
    Client, Gateway, Request, Response, Upstream, Wire, modern_call, modern_headers, rpc, within,
};
use serde_json::Value;

/// Sends raw bytes and reads the answer; the connection must close after it.
async fn refused(gateway: &Gateway, bytes: &[u8]) -> (u16, String) {
    let mut client = gateway.connect().await;
    client.try_send(bytes).await.ok();
    let response = client.response().await;
    assert_eq!(client.until_closed().await, "", "bytes after the refusal");
    (response.status, response.header("portunus-outcome").unwrap_or_default().to_owned())
}

/// An array of more items than the default bounds allow.
fn wide() -> String {
    format!("[0{}]", ",0".repeat(150_000))
}

#[tokio::test]
async fn a_string_may_be_as_long_as_the_body_that_it_is_in_unless_bounds_say_less() {
    let upstream = Upstream::answering().await;
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n  /short: {{ upstreams: [up], bounds: {{ string: 1MiB }} }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let arguments = format!(r#"{{"name":"echo","arguments":{{"t":"{}"}}}}"#, "x".repeat(2 << 20));
    let call = rpc(9, "tools/call", &arguments);
    let served = gateway.post("/mcp", &[], &call).await;
    assert!(served.status == 200 && served.json()["result"].is_object(), "{}", served.status);
    let refused = gateway.post("/short", &[], &call).await;
    assert_eq!((refused.reason().as_str(), refused.json()["id"].as_u64()), ("bounds_exceeded", Some(9)));
}

#[tokio::test]
async fn ambiguous_http_is_refused_and_closed() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let host = gateway.address;
    let post = |fields: &str, body: &str| {
        format!("POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{fields}\r\n{body}")
    };
    let body = rpc(1, "ping", "{}");
    let length = body.len();
    let smuggled = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n");
    let malformed = (400, "malformed_http".to_owned());
    let cases = vec![
        ("length with coding", post(&smuggled, &format!("0\r\n\r\n{body}")), malformed.clone()),
        (
            "second length",
            post(&format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"), &body),
            malformed.clone(),
        ),
        ("bare LF", format!("POST /mcp HTTP/1.1\nHost: {host}\nContent-Length: 0\n\n"), malformed.clone()),
        ("folded header", post("X-A: b\r\n c\r\n", ""), malformed.clone()),
        ("space before colon", post("Content-Length : 0\r\n", ""), malformed.clone()),
        ("NUL in a value", post("X-A: a\0b\r\n", ""), malformed.clone()),
        ("escape in a value", post("X-A: a\x1bb\r\n", ""), malformed.clone()),
        (
            "absolute form for another host",
            format!("POST http://evil/mcp HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            malformed.clone(),
        ),
        ("two hosts", post("Host: evil\r\n", ""), malformed.clone()),
        ("obsolete version", format!("POST /mcp HTTP/0.9\r\nHost: {host}\r\n\r\n"), malformed),
        ("too many headers", post(&"X-A: b\r\n".repeat(200), ""), (431, "headers_too_large".into())),
        (
            "too large headers",
            post(&format!("X-A: {}\r\n", "b".repeat(70_000)), ""),
            (431, "headers_too_large".into()),
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(refused(&gateway, bytes.as_bytes()).await, expected, "{name}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of named cases")]
async fn bad_messages_are_refused_by_the_table_on_a_kept_connection() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    let nested = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let wide = rpc(9, "tools/call", &format!(r#"{{"name":"echo","arguments":{{"t":{}}}}}"#, wide()));
    let none: Vec<(&str, String)> = vec![];
    let modern = |change: (&'static str, &str)| -> Vec<(&'static str, String)> {
        let headers = modern_headers("echo").into_iter();
        headers
            .map(|(name, value)| if name == change.0 { (name, change.1.to_owned()) } else { (name, value) })
            .collect()
    };
    let cases: Vec<(&str, Vec<(&str, String)>, Vec<u8>, u16, i64, &str)> = vec![
        ("depth 20,000", none.clone(), nested.into_bytes(), 200, -31413, "bounds_exceeded"),
        ("a wide array, legacy", none.clone(), wide.into_bytes(), 200, -31413, "bounds_exceeded"),
        (
            "duplicate method",
            none.clone(),
            br#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#.to_vec(),
            400,
            -32600,
            "invalid_request",
        ),
        (
            "duplicate name",
            none.clone(),
            rpc(1, "tools/call", r#"{"name":"a","n\u0061me":"b"}"#).into_bytes(),
            400,
            -32600,
            "invalid_request",
        ),
        ("wrong first byte", none.clone(), b"hello".to_vec(), 400, -32700, "parse_error"),
        ("empty", none.clone(), Vec::new(), 400, -32700, "parse_error"),
        (
            "invalid UTF-8",
            none.clone(),
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}".to_vec(),
            400,
            -32700,
            "parse_error",
        ),
        (
            "lone surrogate",
            none.clone(),
            rpc(1, "ping", r#"{"a":"\ud800"}"#).into_bytes(),
            400,
            -32700,
            "parse_error",
        ),
        (
            "null id",
            none.clone(),
            br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_vec(),
            400,
            -32600,
            "invalid_request",
        ),
        (
            "batch of a later revision",
            vec![("mcp-protocol-version", "2025-06-18".into())],
            b"[]".to_vec(),
            400,
            -32600,
            "invalid_request",
        ),
        (
            "header names another tool",
            modern(("mcp-name", "delete_all")),
            modern_call(1, "echo").into_bytes(),
            400,
            -32020,
            "header_mismatch",
        ),
        (
            "header names another method",
            modern(("mcp-method", "tools/list")),
            modern_call(1, "echo").into_bytes(),
            400,
            -32020,
            "header_mismatch",
        ),
        (
            "header names another revision",
            modern(("mcp-protocol-version", "2025-11-25")),
            modern_call(1, "echo").into_bytes(),
            400,
            -32020,
            "header_mismatch",
        ),
        (
            "legacy body with a contradicting header",
            vec![("mcp-name", "safe".into())],
            rpc(1, "tools/call", r#"{"name":"echo"}"#).into_bytes(),
            400,
            -32020,
            "header_mismatch",
        ),
    ];
    for (name, headers, body, status, code, reason) in cases {
        client.post("/mcp", &headers, &body).await;
        let response = client.response().await;
        let shown = (response.status, response.json()["error"]["code"].as_i64(), response.reason());
        assert_eq!(shown, (status, Some(code), reason.to_owned()), "{name}");
        assert_eq!(response.header("portunus-outcome"), Some(reason), "{name}");
        assert!(response.header("portunus-request-id").is_some(), "{name}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn unsupported_versions_list_what_is_served() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let body = modern_call(1, "echo").replace("2026-07-28", "2031-01-01");
    let mut headers = modern_headers("echo");
    headers[0].1 = "2031-01-01".to_owned();
    let response = gateway.post("/mcp", &headers, &body).await;
    let error = &response.json()["error"];
    assert_eq!((response.status, error["code"].as_i64()), (400, Some(-32022)));
    assert_eq!(error["data"]["supported"], serde_json::json!(["2026-07-28"]));
    assert_eq!(error["data"]["requested"], "2031-01-01");
}

#[tokio::test]
async fn oversize_is_answered_as_each_era_understands() {
    let upstream = Upstream::unreachable().await;
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: {{ upstreams: [up], max_body_bytes: 1000 }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let last = format!(
        r#"{{"method":"tools/call","params":{{"a":"{}"}},"jsonrpc":"2.0","id":77}}"#,
        "x".repeat(1200)
    );
    let response = gateway.post("/mcp", &[], &last).await;
    assert_eq!(
        (response.status, response.json()["id"].as_u64()),
        (200, Some(77)),
        "the id is found at the end"
    );
    assert_eq!(response.json()["error"]["code"], -31413);
    let modern = [("mcp-protocol-version", "2026-07-28".to_owned())];
    let response = gateway.post("/mcp", &modern, &last).await;
    assert_eq!((response.status, response.reason().as_str()), (413, "body_too_large"));
    let huge = last.replace("xxxx", "xxxxxxxxxxxxxxxx");
    let response = gateway.post("/mcp", &[], &huge).await;
    assert_eq!(response.status, 413, "beyond twice the limit nothing is read");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of named cases")]
async fn foreign_hosts_origins_media_and_methods_are_refused() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let exchange = async |request: String| -> Response {
        let mut client = gateway.connect().await;
        client.send(request.as_bytes()).await;
        client.response().await
    };
    let own = gateway.address;
    let cases = [
        (
            "rebound host",
            "POST /mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n".to_owned(),
            403,
            "forbidden_host",
        ),
        (
            "foreign origin",
            format!(
                "POST /mcp HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n"
            ),
            403,
            "forbidden_origin",
        ),
        (
            "null origin",
            format!("POST /mcp HTTP/1.1\r\nHost: {own}\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n"),
            403,
            "forbidden_origin",
        ),
        (
            "preflight of a foreign origin",
            format!("OPTIONS /mcp HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\n\r\n"),
            403,
            "forbidden_origin",
        ),
        (
            "a form",
            format!(
                "POST /mcp HTTP/1.1\r\nHost: {own}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
            415,
            "unsupported_media_type",
        ),
        (
            "gzip",
            format!(
                "POST /mcp HTTP/1.1\r\nHost: {own}\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
            415,
            "unsupported_media_type",
        ),
        (
            "nothing acceptable",
            format!(
                "POST /mcp HTTP/1.1\r\nHost: {own}\r\nContent-Type: application/json\r\nAccept: image/png\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
            406,
            "not_acceptable",
        ),
        (
            "PUT",
            format!("PUT /mcp HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n\r\n"),
            405,
            "method_not_allowed",
        ),
        (
            "unknown path",
            format!("POST /other HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n\r\n"),
            404,
            "unknown_route",
        ),
        (
            "encoded separator",
            format!("POST /x%2fmcp HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n\r\n"),
            404,
            "unknown_route",
        ),
        (
            "dot segments",
            format!("POST /x/../mcp HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n\r\n"),
            404,
            "unknown_route",
        ),
    ];
    for (name, request, status, reason) in cases {
        let response = exchange(request).await;
        assert_eq!((response.status, response.header("portunus-outcome")), (status, Some(reason)), "{name}");
        assert_ne!(response.header("connection"), Some("close"), "{name}");
    }
}

#[tokio::test]
async fn drips_stalls_and_half_closes_end_at_their_deadlines() {
    let upstream = Upstream::unreachable().await;
    let listener = "listeners:\n  - bind: 127.0.0.1:0\n    limits: { header_timeout: 300ms, body_timeout: 300ms, idle_timeout: 300ms }\n";
    let gateway = Gateway::start(&format!(
        "{listener}upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    ))
    .await;
    let host = gateway.address;

    let mut idle = gateway.connect().await;
    assert_eq!(idle.until_closed().await, "", "an idle connection ends without a word");

    let mut stalled = gateway.connect().await;
    stalled.send(b"POST /mcp HTTP/1.1\r\n").await;
    assert!(stalled.until_closed().await.starts_with("HTTP/1.1 408"), "a header section that stops");

    let dripped = drip(gateway.connect().await, format!("POST /mcp HTTP/1.1\r\nHost: {host}\r\nX: ")).await;
    assert!(dripped.starts_with("HTTP/1.1 408"), "a header section that drips: {dripped}");

    let begun = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n"
    );
    let dripped = drip(gateway.connect().await, begun.clone()).await;
    assert!(dripped.starts_with("HTTP/1.1 408"), "a body that drips: {dripped}");

    let mut half = gateway.connect().await;
    half.send(begun.as_bytes()).await;
    half.half_close().await;
    half.until_closed().await;
}

/// Sends a byte every 20 ms after `begun` until the other side has had enough.
async fn drip(mut client: Client, begun: String) -> String {
    client.send(begun.as_bytes()).await;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
    for _ in 0..100 {
        tick.tick().await;
        if client.try_send(b"x").await.is_err() {
            break;
        }
    }
    client.until_closed().await
}

#[tokio::test]
async fn a_clients_answer_is_never_answered_under_its_id() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let modern = [("mcp-protocol-version", "2026-07-28".to_owned())];
    let response = gateway.post("/mcp", &modern, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert!(response.status >= 400 && response.json()["id"].is_null(), "{response:?}");
}

#[tokio::test]
async fn an_answer_beyond_the_bounds_is_refused_to_the_server_that_waits_for_it() {
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        told.send(serde_json::from_slice::<Value>(&request.body).unwrap()).ok();
        async move {
            wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
            Some(wire)
        }
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {{ url: 'http://{}/mcp', era: legacy }}\nservers:\n  /mcp: {{ upstreams: [up], max_body_bytes: 1MiB }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let long = format!(r#""{}""#, "x".repeat((1 << 20) + 100));
    for (name, value, reason) in [
        ("too wide", wide(), Some("bounds_exceeded")),
        ("too long", long, Some("body_too_large")),
        ("as it should be", "1".to_owned(), None),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"q-1","result":{{"t":{value}}}}}"#);
        let response = gateway.post("/mcp", &[], &body).await;
        assert_eq!((response.status, response.body.len()), (202, 0), "{name}: {response:?}");
        let answer = within(10, "the answer at the server", answers.recv()).await.unwrap();
        assert_eq!(answer["id"], "q-1", "{name}");
        assert_eq!(answer["error"]["data"]["reason"].as_str(), reason, "{name}: {answer}");
    }
}

#[tokio::test]
async fn mirrored_headers_beside_what_they_cannot_mirror_are_refused() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let batch = format!("[{}]", rpc(1, "tools/call", r#"{"name":"delete_all"}"#));
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned();
    for (name, header, body) in [
        ("a batch", ("mcp-name", "safe"), &batch),
        ("a batch's method", ("mcp-method", "tools/list"), &batch),
        ("an answer", ("mcp-method", "tools/call"), &answer),
    ] {
        let response = gateway.post("/mcp", &[(header.0, header.1.to_owned())], body).await;
        assert_eq!((response.status, response.reason().as_str()), (400, "header_mismatch"), "{name}");
    }
}

#[tokio::test]
async fn each_era_is_kept_out_of_a_server_of_the_other() {
    let upstream = Upstream::unreachable().await;
    let document = format!(
        "upstreams:\n  new: {{ url: http://{0}/mcp, era: modern }}\n  old: {{ url: http://{0}/mcp, era: legacy }}\nservers:\n  /new: {{ upstreams: new, bridge: false }}\n  /old: {{ upstreams: old, bridge: false }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let legacy = rpc(1, "initialize", r#"{"protocolVersion":"2025-11-25"}"#);
    assert_eq!(gateway.post("/new", &[], &legacy).await.reason(), "unsupported_version");
    let modern = gateway.post("/old", &modern_headers("echo"), &modern_call(1, "echo")).await;
    assert_eq!(
        (modern.reason().as_str(), modern.json()["error"]["code"].as_i64()),
        ("unsupported_version", Some(-32022))
    );
    let mut client = gateway.connect().await;
    let head = client.head("DELETE", "/new", &[("mcp-protocol-version", "banana".to_owned())]);
    client.send(format!("{head}\r\n").as_bytes()).await;
    assert_eq!(client.response().await.status, 400, "an unknown revision without a body");
}

#[tokio::test]
async fn nothing_behind_a_chunked_body_is_read_as_a_request() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    let body = rpc(1, "ping", "{}");
    let mut client = gateway.connect().await;
    let head = client.head("POST", "/mcp", &[]);
    let smuggled = client.head("DELETE", "/mcp", &[]);
    let wire = format!(
        "{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n\r\n{smuggled}\r\n",
        body.len()
    );
    client.try_send(wire.as_bytes()).await.ok();
    client.until_closed().await;
    assert!(upstream.requests() <= 1, "the bytes behind a broken last chunk ran as a request");
}

#[tokio::test]
async fn the_refusal_of_a_body_that_is_still_being_sent_arrives() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    for _ in 0..5 {
        let mut client = gateway.connect().await;
        let modern = [("mcp-protocol-version", "2026-07-28".to_owned())];
        let head = client.head("POST", "/mcp", &modern);
        client
            .send(
                format!("{head}content-type: application/json\r\ncontent-length: 6000000\r\n\r\n").as_bytes(),
            )
            .await;
        // More than the sockets' buffers take, less than all of it.
        client.try_send(&[b'x'; 20_000]).await.ok();
        let response = client.response().await;
        assert_eq!((response.status, response.header("connection")), (413, Some("close")));
    }
}
