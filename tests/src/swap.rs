//! A configuration that changes while the gateway runs: what swaps, and what lives on.

use crate::harness::{Feed, Gateway, Long, Upstream, rpc, within};
use serde_json::Value;
use std::net::SocketAddr;

fn call() -> String {
    rpc(1, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

/// A document with these paths, all before one upstream.
fn document(revision: &str, upstream: SocketAddr, paths: &[&str]) -> String {
    let servers: String = paths.iter().map(|path| format!("  {path}: up\n")).collect();
    format!("revision: {revision}\nupstreams:\n  up: http://{upstream}/mcp\nservers:\n{servers}")
}

/// Whether a revision, which is shown as `LABEL (DIGEST)`, has this label.
fn is_labelled(revision: &Value, label: &str) -> bool {
    revision.as_str().and_then(|revision| revision.split(' ').next()) == Some(label)
}

/// Puts a document in force and waits, for at most a second, until it is.
async fn swap(gateway: &Gateway, document: &str, label: &str) {
    gateway.configure(document);
    let live = gateway.reaches("the revision", |status| is_labelled(&status["revision"], label));
    within(1, "the change", live).await;
}

#[tokio::test]
async fn a_good_change_is_live_within_a_second_and_named_in_records() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::start(&document("one", upstream.address, &["/mcp"])).await;
    let mut kept = gateway.connect().await;
    for revision in ["one", "two"] {
        if revision == "two" {
            swap(&gateway, &document(revision, upstream.address, &["/mcp", "/more"]), revision).await;
        }
        kept.post("/mcp", &[("x-request-id", revision.to_owned())], call().as_bytes()).await;
        assert_eq!(kept.response().await.status, 200, "{revision}");
        let record = gateway.recorded(revision, |record| record["request_id"] == revision).await;
        assert!(is_labelled(&record["bundle_revision"], revision), "{record}");
    }
    assert_eq!(gateway.post("/more", &[], &call()).await.status, 200);
    assert_eq!(gateway.metric(r#"portunus_activations_total{result="accepted"}"#).await, Some(2.0));
}

#[tokio::test]
async fn a_bad_change_leaves_the_old_one_serving_and_is_told_everywhere() {
    let upstream = Upstream::answering().await;
    let good = document("one", upstream.address, &["/mcp"]);
    let gateway = Gateway::start(&good).await;
    gateway.configure(&good.replace("one", "two").replace("servers:", "server:"));
    let refused = |status: &Value| !status["refused"].as_array().unwrap().is_empty();
    let status = gateway.reaches("the refusal", refused).await;
    assert!(is_labelled(&status["revision"], "one") && status["serial"] == 1, "{status}");
    assert!(status["refused"].to_string().contains("did you mean `servers`"), "{}", status["refused"]);
    let refusal = |entry: &Value| entry["message"] == "configuration refused";
    assert_eq!(gateway.logged("the refusal in the log", refusal).await["level"], "ERROR");
    assert_eq!(gateway.metric(r#"portunus_activations_total{result="refused"}"#).await, Some(1.0));
    assert_eq!(gateway.post("/mcp", &[], &call()).await.status, 200);

    swap(&gateway, &document("three", upstream.address, &["/mcp"]), "three").await;
    assert_eq!(gateway.status().await["refused"], serde_json::json!([]));
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_and_the_rest_is_live() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::start(&document("one", upstream.address, &["/mcp"])).await;
    let change = document("two", upstream.address, &["/mcp", "/more"]);
    swap(&gateway, &format!("drain: 5s\nthreads: 63\n{change}"), "two").await;
    assert_eq!(gateway.status().await["restart_needed"], serde_json::json!(["threads", "drain"]));
    assert_eq!(gateway.post("/more", &[], &call()).await.status, 200);
    let told = |entry: &Value| {
        entry["level"] == "WARN" && entry["keys"].as_str().is_some_and(|keys| keys == "threads, drain")
    };
    gateway.logged("the warning", told).await;
    swap(&gateway, &document("three", upstream.address, &["/mcp"]), "three").await;
    assert_eq!(gateway.status().await["restart_needed"], serde_json::json!([]));
}

#[tokio::test]
async fn a_removed_route_ends_its_streams_within_a_second_and_no_others() {
    let feed = Feed::answering().await;
    let gateway = Gateway::start(&document("one", feed.address(), &["/mcp", "/gone"])).await;
    let kinds = [Long::Get, Long::Listen(7)];
    let mut streams = Vec::new();
    for path in ["/mcp", "/gone"] {
        for kind in kinds {
            streams.push((path, kind, kind.open(&gateway, path).await));
        }
    }
    let before = feed.say();
    for (path, kind, client) in &mut streams {
        assert_eq!(client.chunk().await.as_deref(), Some(before.as_str()), "{path} {kind:?}");
    }
    gateway.configure(&document("two", feed.address(), &["/mcp"]));
    for (_, kind, client) in streams.iter_mut().filter(|(path, ..)| *path == "/gone") {
        kind.assert_ending(&within(1, "the end of a stream", client.rest()).await);
    }
    assert!(is_labelled(&gateway.status().await["revision"], "two"));
    let after = feed.say();
    for (path, kind, client) in streams.iter_mut().filter(|(path, ..)| *path == "/mcp") {
        assert_eq!(client.chunk().await.as_deref(), Some(after.as_str()), "{path} {kind:?}");
    }
    assert_eq!(gateway.post("/gone", &[], &call()).await.status, 404);
}

#[tokio::test]
async fn a_message_that_takes_its_time_is_judged_once_by_the_snapshot_of_when_it_is_whole() {
    let feed = Feed::answering().await;
    let marked = |revision: &str, paths: &[&str]| {
        let url = format!("http://{}/mcp", feed.address());
        let rules = format!("{{ url: {url}, headers: {{ set: {{ X-Rev: {revision} }} }} }}");
        document(revision, feed.address(), paths).replace(&url, &rules)
    };
    let gateway = Gateway::start(&marked("one", &["/mcp", "/gone"])).await;
    let body = call();
    let mut slow = Vec::new();
    for path in ["/mcp", "/gone"] {
        let mut client = gateway.connect().await;
        let head = client.head("POST", path, &[("x-request-id", path.replace('/', ""))]);
        let length = body.len();
        let head = format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        client.send(format!("{head}{}", &body[..9]).as_bytes()).await;
        slow.push(client);
    }
    gateway.reaches("both messages", |status| status["in_flight"] == 2).await;
    swap(&gateway, &marked("two", &["/mcp"]), "two").await;
    swap(&gateway, &marked("three", &["/mcp"]), "three").await;
    gateway.reaches("the last two snapshots", |status| status["snapshots_alive"] == 2).await;
    for client in &mut slow {
        client.send(&body.as_bytes()[9..]).await;
    }
    assert_eq!(slow[0].response().await.json()["result"]["rev"], "three");
    let record = gateway.recorded("the record", |record| record["request_id"] == "mcp").await;
    assert!(is_labelled(&record["bundle_revision"], "three"), "{record}");
    assert_eq!(slow[1].response().await.reason(), "unknown_route");
}

#[tokio::test]
async fn open_streams_hold_no_snapshot() {
    let feed = Feed::answering().await;
    let gateway = Gateway::start(&document("r-0", feed.address(), &["/mcp"])).await;
    let mut streams = Vec::new();
    for number in 0..25 {
        for kind in [Long::Get, Long::Listen(number)] {
            streams.push(kind.open(&gateway, "/mcp").await);
        }
    }
    gateway.reaches("all streams", |status| status["streams"] == 50).await;
    for number in 1..=10 {
        let revision = format!("r-{number}");
        swap(&gateway, &document(&revision, feed.address(), &["/mcp"]), &revision).await;
    }
    gateway.reaches("the last two snapshots", |status| status["snapshots_alive"] == 2).await;
    let said = feed.say();
    for client in &mut streams {
        assert_eq!(client.chunk().await.as_deref(), Some(said.as_str()));
    }
}

#[tokio::test]
async fn a_removed_route_ends_a_stream_whose_head_never_came() {
    let (upstream, mut arrived) = Upstream::silent().await;
    let gateway = Gateway::start(&document("one", upstream.address, &["/mcp", "/gone"])).await;
    let mut client = gateway.connect().await;
    client.open_stream("/gone", &[]).await;
    within(5, "the stream at the upstream", arrived.recv()).await.unwrap();
    swap(&gateway, &document("two", upstream.address, &["/mcp"]), "two").await;
    let response = within(1, "an answer", client.response()).await;
    assert_eq!(response.reason(), "route_removed");
}
