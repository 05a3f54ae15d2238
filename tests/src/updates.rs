//! That a resource has changed is told to those who asked for it, as long as they may hear of it.

use crate::harness::mcp::{text, tool};
use crate::harness::{Caller, Client, Era, Gateway, Mcp, Nature, within};
use serde_json::{Value, json};

const UPDATED: &str = "notifications/resources/updated";

/// What the server lists, and what it does not.
const WATCHED: &str = "scripted://watched";
const OTHER: &str = "scripted://other";

/// Everything but the other resource is open.
const RULES: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\
    decision if input.mcp.uri == \"scripted://watched\"\n";

async fn server() -> Mcp {
    Mcp::start(Nature::of(Era::Legacy), vec![tool("a")], |call| async move { Ok(text(call.tool())) }).await
}

fn say(server: &Mcp) {
    for uri in [OTHER, WATCHED] {
        let params =
            json!({"uri": uri, "title": "T", "contents": [{"text": "s3cret"}], "_meta": {"k": "s3cret"}});
        server.note(UPDATED, params);
    }
    // What comes after them: of a legacy client's stream the next, of a modern one's a moment later.
    server.note("notifications/x", json!({}));
    server.note("notifications/tools/list_changed", json!({}));
}

/// Updates that are told until what comes after them is told, each as its parameters.
async fn told(server: &Mcp, stream: &mut Client, era: Era) -> Vec<Value> {
    let mark = if era == Era::Legacy { "notifications/x" } else { "tools/list_changed" };
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    let mut text = String::new();
    let all = async {
        while !text.contains(mark) {
            tokio::select! {
                chunk = stream.chunk() => text.push_str(&chunk.expect("the stream goes on")),
                _ = tick.tick() => say(server),
            }
        }
    };
    within(20, "the mark", all).await;
    assert!(!text.contains("s3cret"), "{text}");
    let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let messages = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let mut updates: Vec<Value> = messages
        .filter(|message| message["method"] == UPDATED)
        .map(|message| message["params"].clone())
        .collect();
    updates.dedup();
    updates
}

async fn stream(caller: &mut Caller, era: Era, uris: &[&str]) -> Client {
    match era {
        Era::Legacy => {
            for uri in uris {
                let said = caller.request("resources/subscribe", json!({"uri": uri})).await.unwrap();
                assert!(said.message["result"].is_object(), "{}", said.all());
            }
            caller.stream(None).await.unwrap().0
        }
        Era::Modern => {
            caller.listening_to(json!({"toolsListChanged": true, "resourceSubscriptions": uris})).await
        }
    }
}

#[tokio::test]
async fn updates_are_told_to_those_who_asked_with_uri_and_title_alone() {
    let server = server().await;
    let document = format!("upstreams:\n  up: {}\n", server.url());
    for (view, path) in [("up", "plain"), ("{upstreams: [up], deny: [\"up.x*\"]}", "viewed")] {
        let document = format!("{document}servers:\n  /mcp: {view}\npolicy: policy.rego\n");
        let gateway = Gateway::start_beside(&[("policy.rego", RULES)], &document).await;
        for era in [Era::Legacy, Era::Modern] {
            let mut nobody = Caller::new(era, gateway.address).ready().await;
            let mut stream_of_nobody = stream(&mut nobody, era, &[]).await;
            assert_eq!(told(&server, &mut stream_of_nobody, era).await, [json!(null); 0], "{path} {era:?}");
            let mut anna = Caller::new(era, gateway.address).ready().await;
            let mut watching = stream(&mut anna, era, &[WATCHED]).await;
            let updates = told(&server, &mut watching, era).await;
            let [update] = updates.as_slice() else { panic!("{path} {era:?} {updates:?}") };
            let mut update = update.clone();
            let meta = update.as_object_mut().unwrap().remove("_meta");
            assert_eq!(update, json!({"uri": WATCHED, "title": "T"}), "{path} {era:?}");
            let keys = meta.iter().flat_map(|meta| meta.as_object().unwrap().keys().cloned());
            let expected: &[&str] = match era {
                Era::Legacy => &[],
                Era::Modern => &["io.modelcontextprotocol/subscriptionId"],
            };
            assert_eq!(keys.collect::<Vec<_>>(), expected, "{path} {era:?}");
        }
    }
}

#[tokio::test]
async fn updates_end_with_the_right_to_them() {
    let closed = RULES.replace("scripted://watched", "scripted://nothing");
    for era in [Era::Legacy, Era::Modern] {
        for by_view in [false, true] {
            let server = server().await;
            let document = |view: &str| {
                let upstream = server.url();
                format!("upstreams:\n  up: {upstream}\nservers:\n  /mcp: {view}\npolicy: policy.rego\n")
            };
            let open = document("{upstreams: [up], deny: [\"up.x*\"]}");
            let gateway = Gateway::start_beside(&[("policy.rego", RULES)], &open).await;
            let mut anna = Caller::new(era, gateway.address).ready().await;
            let mut watching = stream(&mut anna, era, &[WATCHED]).await;
            assert_eq!(told(&server, &mut watching, era).await.len(), 1, "{era:?} {by_view}");
            let before = gateway.status().await["serial"].clone();
            match by_view {
                true => gateway.configure(&document("{upstreams: [up], deny: [\"up.scripted*\"]}")),
                false => gateway.place("policy.rego", &closed),
            }
            gateway.reaches("the new rules", |status| status["serial"] != before).await;
            // What was on its way before the rules changed is told before the mark.
            told(&server, &mut watching, era).await;
            assert_eq!(told(&server, &mut watching, era).await, [json!(null); 0], "{era:?} {by_view}");
        }
    }
}
