//! HTTP/2 towards upstreams that leave, refuse, reset or stall: which calls are saved, and what the
//! others are told.

use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, field, frame,
};
use crate::harness::h2::{Accepted, H2Upstream, body_of, json, result, serve};
use crate::harness::{Client, Gateway, Response, Upstream, Wire, rpc, within};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Barrier, mpsc, watch};

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

/// A gateway before an upstream that speaks HTTP/2 in the clear.
async fn before(upstream: SocketAddr, timeouts: &str) -> Gateway {
    let document = format!(
        "upstreams:\n  up: {{ url: http://{upstream}/mcp, http: 2, timeouts: {{ {timeouts} }} }}\nservers:\n  /mcp: up\n"
    );
    Gateway::start(&document).await
}

async fn answers(gateway: &Gateway) -> Response {
    within(10, "an answer", gateway.post("/mcp", &[], &call())).await
}

fn assert_result(response: &Response, what: &str) {
    assert_eq!(response.json()["result"], serde_json::json!({}), "{what}: {response:?}");
}

const RESULT: &str = r#"{"jsonrpc":"2.0","id":5,"result":{}}"#;

/// Serves one connection: every request gets an empty result.
async fn well(io: Accepted) {
    serve(h2::server::Builder::new(), io, |request, respond| async { result(request, respond).await }).await;
}

/// Reads up to the head of a request, and gives the number of its stream.
async fn request(frames: &mut Frames) -> u32 {
    frames.until(HEADERS).await.stream
}

#[tokio::test]
async fn a_call_above_the_last_of_a_goaway_is_sent_again_and_one_below_it_is_answered() {
    let (told, mut arrived) = mpsc::unbounded_channel();
    let saved = watch::Sender::new(false);
    let second_saved = saved.clone();
    let upstream = H2Upstream::start(None, move |number, io| {
        let (told, mut saved) = (told.clone(), second_saved.subscribe());
        async move {
            if number > 0 {
                return well(io).await;
            }
            let mut frames = Frames::server(io).await;
            let first = request(&mut frames).await;
            told.send(()).unwrap();
            assert!(request(&mut frames).await > first);
            let last = [&first.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
            frames.send(&frame(GOAWAY, 0, 0, &last)).await;
            saved.wait_for(|saved| *saved).await.unwrap();
            frames.answer(first, RESULT).await;
            frames.until_closed().await;
        }
    })
    .await;
    let gateway = before(upstream.address, "").await;
    let mut first = gateway.connect().await;
    first.post("/mcp", &[], call().as_bytes()).await;
    within(5, "the first call", arrived.recv()).await;
    assert_result(&answers(&gateway).await, "above the last");
    assert_eq!(upstream.connections(), 2);
    saved.send_replace(true);
    assert_result(&first.response().await, "below the last");
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let upstream = H2Upstream::serving(None, move |request, mut respond| {
        let seen = Arc::clone(&seen);
        async move {
            match seen.fetch_add(1, Ordering::SeqCst) {
                0 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                _ => result(request, respond).await,
            }
        }
    })
    .await;
    let gateway = before(upstream.address, "").await;
    assert_result(&answers(&gateway).await, "refused once");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn only_what_may_be_repeated_is_repeated_when_a_connection_dies_before_the_answer() {
    for (method, repeated) in [("tools/call", false), ("tools/list", true)] {
        let upstream = H2Upstream::start(None, |number, io| async move {
            if number > 0 {
                return well(io).await;
            }
            let mut frames = Frames::server(io).await;
            request(&mut frames).await;
        })
        .await;
        let gateway = before(upstream.address, "").await;
        let body = rpc(5, method, r#"{"name":"echo"}"#);
        let response = within(10, "an answer", gateway.post("/mcp", &[], &body)).await;
        match repeated {
            true => assert_result(&response, method),
            false => assert_eq!(response.reason(), "upstream_unavailable", "{method}"),
        }
        assert_result(&answers(&gateway).await, "the next call");
        assert_eq!(upstream.connections(), 2, "{method}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_a_reset_costs_no_connection() {
    const INTERNAL_ERROR: [u8; 4] = 2_u32.to_be_bytes();
    let upstream = H2Upstream::start(None, |_, io| async move {
        let mut frames = Frames::server(io).await;
        let beginnings = [
            None,
            Some(("application/json", "{\"jsonrpc\"")),
            Some(("text/event-stream", ": hello\n\nevent: message\ndata: {\"jso")),
        ];
        for beginning in beginnings {
            let stream = request(&mut frames).await;
            if let Some((media, text)) = beginning {
                let head = [field(":status", "200"), field("content-type", media)].concat();
                let head = frame(HEADERS, END_HEADERS, stream, &head);
                frames.send(&[head, frame(DATA, 0, stream, text.as_bytes())].concat()).await;
                frames.taken_in().await;
            }
            frames.send(&frame(RST_STREAM, 0, stream, &INTERNAL_ERROR)).await;
        }
        let stream = request(&mut frames).await;
        frames.answer(stream, RESULT).await;
        frames.until_closed().await;
    })
    .await;
    let gateway = before(upstream.address, "").await;
    for name in ["a reset before the head", "a reset within a body"] {
        let response = answers(&gateway).await;
        assert_eq!(response.reason(), "upstream_unavailable", "{name}: {response:?}");
    }
    let streamed = answers(&gateway).await;
    let text = String::from_utf8(streamed.body).unwrap();
    let error = text.strip_prefix(": hello\n\nevent: message\ndata: ").unwrap_or_else(|| panic!("{text}"));
    assert!(error.contains("-31503") && !error.contains("{\"jso\n"), "{text}");
    assert_result(&answers(&gateway).await, "after the resets");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_went_silent_gets_no_further_calls() {
    let large =
        rpc(5, "tools/call", &format!(r#"{{"name":"echo","arguments":{{"t":"{}"}}}}"#, "x".repeat(900_000)));
    // A body that is never let in, and an answer that never comes.
    for (name, body) in [("no window", large), ("no answer", call())] {
        let upstream = H2Upstream::start(None, |number, io| async move {
            if number > 0 {
                return well(io).await;
            }
            Frames::server(io).await.until_closed().await;
        })
        .await;
        let gateway = before(upstream.address, "first_byte: 300ms").await;
        let response = within(10, name, gateway.post("/mcp", &[], &body)).await;
        assert_eq!(response.reason(), "upstream_timeout", "{name}");
        assert_result(&answers(&gateway).await, name);
        assert_eq!(upstream.connections(), 2, "{name}");
    }
}

#[tokio::test]
async fn an_early_refusal_of_a_large_body_arrives_whole() {
    let upstream = H2Upstream::start(None, |_, io| async move {
        let mut frames = Frames::server(io).await;
        let stream = request(&mut frames).await;
        let head = [field(":status", "413"), field("content-type", "application/json")].concat();
        frames.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
        // Its body follows once the head was acted on.
        for _ in 0..3 {
            frames.taken_in().await;
        }
        frames.send(&frame(DATA, END_STREAM, stream, b"{}")).await;
        // RFC 9113 section 8.1: what is left of the request is not wanted.
        frames.send(&frame(RST_STREAM, 0, stream, &0_u32.to_be_bytes())).await;
        frames.until_closed().await;
    })
    .await;
    let gateway = before(upstream.address, "").await;
    let body =
        rpc(5, "tools/call", &format!(r#"{{"name":"echo","arguments":{{"t":"{}"}}}}"#, "x".repeat(900_000)));
    let response = within(10, "the refusal", gateway.post("/mcp", &[], &body)).await;
    assert_eq!((response.status, response.body.as_slice()), (413, b"{}".as_slice()), "{response:?}");
}

#[tokio::test]
async fn calls_beyond_the_streams_of_an_upstream_get_a_connection_of_their_own() {
    let meeting = Arc::new(Barrier::new(3));
    let shared = Arc::clone(&meeting);
    let upstream = H2Upstream::start(None, move |_, io| {
        let meeting = Arc::clone(&shared);
        async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(1);
            serve(builder, io, move |request, respond| {
                let meeting = Arc::clone(&meeting);
                async move {
                    // None is answered before all are there.
                    meeting.wait().await;
                    result(request, respond).await;
                }
            })
            .await;
        }
    })
    .await;
    let gateway = before(upstream.address, "").await;
    let mut calls: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        client.post("/mcp", &[], call().as_bytes()).await;
        calls.push(client);
    }
    for client in &mut calls {
        assert_result(&client.response().await, "at once");
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn calls_share_a_connection() {
    let meeting = Arc::new(Barrier::new(8));
    let upstream = H2Upstream::serving(None, move |request, respond| {
        let meeting = Arc::clone(&meeting);
        async move {
            meeting.wait().await;
            let Some(body) = body_of(request).await else { return };
            assert!(!body.is_empty());
            json(respond, RESULT.into()).await;
        }
    })
    .await;
    let gateway = before(upstream.address, "").await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        let mut client = gateway.connect().await;
        client.post("/mcp", &[], call().as_bytes()).await;
        calls.push(client);
    }
    for client in &mut calls {
        assert_result(&client.response().await, "shared");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn what_does_not_speak_http_2_gets_no_request() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let speaks_http_1 = Upstream::start(move |request, mut wire: Wire| {
        let told = told.clone();
        async move {
            told.send(request.head).unwrap();
            wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            wire.closed().await;
            None
        }
    })
    .await;
    let silent = Upstream::raw(|mut wire: Wire| async move { wire.closed().await }).await;
    for (upstream, cause) in [(&speaks_http_1, "HTTP/2 did not begin"), (&silent, "no connection in time")] {
        let gateway = before(upstream.address, "connect: 300ms").await;
        assert_eq!(answers(&gateway).await.reason(), "upstream_unavailable", "{cause}");
        gateway.tells(cause).await;
    }
    assert_eq!(heard.recv().await.as_deref(), Some("PRI * HTTP/2.0\r\n\r\n"), "the preface alone");
    assert!(heard.try_recv().is_err());
}
