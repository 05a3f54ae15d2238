//! Nothing goes stale in silence: who was told of a change sees it, and a server that restarts is found
//! again.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Client, Era, Gateway, Issuer, Key, Mcp, Nature, Said, within};
use serde_json::json;

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];
const CHANGED: &str = "notifications/tools/list_changed";
const UPDATED: &str = "notifications/resources/updated";
const WATCHED: &str = "scripted://watched";

/// A server with `change`, after which it has another tool, as it says on the stream of that call; its
/// other tools say their name.
async fn server(era: Era) -> Mcp {
    let answer = |call: Call| async move {
        if call.tool() == "change" {
            let name = call.text("to");
            call.change_tools(vec![tool("change"), tool(&name)]).await;
        }
        Ok(text(call.tool()))
    };
    let nature = Nature { ttl_ms: 300_000, ..Nature::of(era) };
    Mcp::start(nature, vec![tool("change"), tool("first")], answer).await
}

/// A gateway with endpoints that serve the server: among others, and alone.
async fn gateway(server: &Mcp, other: &Mcp) -> Gateway {
    let document = format!(
        "level: info\nupstreams:\n  up: {}\n  other: {}\nservers:\n  /merged: {{upstreams: [up, other]}}\n  \
         /viewed: {{upstreams: [up], deny: [\"up.x*\"]}}\n",
        server.url(),
        other.url()
    );
    Gateway::start(&document).await
}

const PATHS: [&str; 2] = ["/merged", "/viewed"];

async fn other() -> Mcp {
    Mcp::naming(Nature::of(Era::Modern), &["other".to_owned()]).await
}

async fn tools(caller: &mut Caller) -> Vec<String> {
    let said = caller.request("tools/list", json!({})).await.unwrap();
    let tools = said.message["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    let names = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned());
    names.filter(|name| name != "other" && name != "change").collect()
}

/// Reads a stream until it has told of something.
async fn told(stream: &mut Client, what: &str) {
    let mut text = String::new();
    let read = async {
        while !text.contains(what) {
            text.push_str(&stream.chunk().await.expect("the stream goes on"));
        }
    };
    within(20, what, read).await;
}

#[tokio::test]
async fn a_change_that_a_call_brings_about_is_in_the_next_list_at_once() {
    for (upstream, client) in ERAS.into_iter().flat_map(|upstream| ERAS.map(|client| (upstream, client))) {
        for path in PATHS {
            let (server, other) = (server(upstream).await, other().await);
            let gateway = gateway(&server, &other).await;
            let mut caller = Caller::new(client, gateway.address).at(path).ready().await;
            assert_eq!(tools(&mut caller).await, ["first"], "{upstream:?} {client:?} {path}");
            for name in ["second", "third", "fourth"] {
                let said = caller.call("change", json!({"to": name})).await.unwrap();
                assert_eq!(said.text(), "change", "{}", said.all());
                assert_eq!(tools(&mut caller).await, [name], "{upstream:?} {client:?} {path}");
            }
            let before = server.counted("tools/list");
            assert_eq!(tools(&mut caller).await, ["fourth"]);
            assert_eq!(server.counted("tools/list"), before, "what did not change is not asked for");
        }
    }
}

#[tokio::test]
async fn a_change_on_a_stream_is_in_the_list_of_who_was_told_of_it() {
    for (upstream, client) in ERAS.into_iter().flat_map(|upstream| ERAS.map(|client| (upstream, client))) {
        let (server, other) = (server(upstream).await, other().await);
        let gateway = gateway(&server, &other).await;
        let mut caller = Caller::new(client, gateway.address).at("/merged").ready().await;
        let mut stream = listen(&mut caller, client).await;
        heard(&server, upstream).await;
        for name in ["second", "third"] {
            // The list is as young as it can be when the change is announced.
            tools(&mut caller).await;
            server.set_tools(vec![tool(name)]);
            server.note(CHANGED, json!({}));
            told(&mut stream, CHANGED).await;
            assert_eq!(tools(&mut caller).await, [name], "{upstream:?} {client:?}");
        }
    }
}

async fn listen(caller: &mut Caller, era: Era) -> Client {
    match era {
        Era::Legacy => caller.stream(None).await.unwrap().0,
        Era::Modern => {
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
            let mut stream = caller.listening_to(wanted).await;
            told(&mut stream, "acknowledged").await;
            stream
        }
    }
}

/// Waits until the server is listened to.
async fn heard(server: &Mcp, era: Era) {
    let stream = if era == Era::Legacy { "GET" } else { "subscriptions/listen" };
    server.reaches(stream, 1).await;
}

/// What a call that needs a session of the server comes to.
fn judged(said: &Said) -> (u16, Option<i64>, &str) {
    (said.head.status, said.code(), said.text())
}

#[tokio::test]
async fn a_legacy_server_that_restarts_is_found_again_by_those_who_listen() {
    for unknown in [404, 400] {
        for (client, path) in ERAS.into_iter().flat_map(|client| PATHS.map(|path| (client, path))) {
            let case = format!("{client:?} {path} {unknown}");
            let nature = Nature { unknown, ..Nature::of(Era::Legacy) };
            let answer = |call: Call| async move { Ok(text(call.tool())) };
            let server = Mcp::start(nature, vec![tool("first")], answer).await;
            let other = other().await;
            let gateway = gateway(&server, &other).await;
            let mut caller = Caller::new(client, gateway.address).at(path).ready().await;
            if client == Era::Legacy {
                let said = caller.request("resources/subscribe", json!({"uri": WATCHED})).await.unwrap();
                assert!(said.message["result"].is_object(), "{}", said.all());
            }
            let mut stream = listen(&mut caller, client).await;
            assert_eq!(tools(&mut caller).await, ["first"], "{case}");
            server.reaches("resources/subscribe", 1).await;
            server.restart(vec![tool("second")]);
            told(&mut stream, CHANGED).await;
            assert_eq!(tools(&mut caller).await, ["second"], "{case}");
            server.reaches("resources/subscribe", 2).await;
            until_told(&server, &mut stream).await;
            // Nothing of the client was in the session that was lost.
            let said = caller.call("second", json!({})).await.unwrap();
            assert_eq!(judged(&said), (200, None, "second"), "{case} {}", said.all());
        }
    }
}

#[tokio::test]
async fn each_of_several_instances_that_restarts_is_found_again() {
    let (one, two, other) = (server(Era::Legacy).await, server(Era::Legacy).await, other().await);
    let gateway = Gateway::start(&format!(
        "upstreams:\n  up: {{replicas: ['{}', '{}']}}\n  other: {}\nservers:\n  /merged: {{upstreams: [up, other]}}\n",
        one.url(),
        two.url(),
        other.url()
    ))
    .await;
    let mut listeners = Vec::new();
    for client in [ERAS, ERAS, ERAS].concat() {
        let mut caller = Caller::new(client, gateway.address).at("/merged").ready().await;
        let stream = listen(&mut caller, client).await;
        assert_eq!(tools(&mut caller).await, ["first"], "{client:?}");
        listeners.push((client, caller, stream));
    }
    assert!(one.sessions() > 0 && two.sessions() > 0, "both have sessions");
    one.restart(vec![tool("second")]);
    two.restart(vec![tool("second")]);
    for (client, caller, stream) in &mut listeners {
        told(stream, CHANGED).await;
        assert_eq!(tools(caller).await, ["second"], "{client:?}");
        let said = caller.call("second", json!({})).await.unwrap();
        assert_eq!(judged(&said), (200, None, "second"), "{client:?} {}", said.all());
    }
}

/// Waits until what the server says of its resource is told.
async fn until_told(server: &Mcp, stream: &mut Client) {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    let mut text = String::new();
    let read = async {
        while !text.contains(UPDATED) {
            tokio::select! {
                chunk = stream.chunk() => text.push_str(&chunk.expect("the stream goes on")),
                _ = tick.tick() => server.note(UPDATED, json!({"uri": WATCHED})),
            }
        }
    };
    within(20, "the update", read).await;
}

#[tokio::test]
async fn a_session_in_which_a_client_did_something_is_404_once_its_server_has_lost_it() {
    for listens in [false, true] {
        for path in PATHS {
            let (server, other) = (server(Era::Legacy).await, other().await);
            let gateway = gateway(&server, &other).await;
            let mut caller = Caller::new(Era::Legacy, gateway.address).at(path).ready().await;
            assert_eq!(caller.call("first", json!({})).await.unwrap().text(), "first");
            let mut stream = match listens {
                true => Some(listen(&mut caller, Era::Legacy).await),
                false => None,
            };
            server.restart(vec![tool("first"), tool("second")]);
            if let Some(stream) = &mut stream {
                told(stream, CHANGED).await;
            }
            for _ in 0..2 {
                let said = caller.call("first", json!({})).await.unwrap();
                assert_eq!(judged(&said), (404, Some(-32600), ""), "{path} {listens} {}", said.all());
            }
            if path == "/merged" {
                let said = caller.call("other", json!({})).await.unwrap();
                assert_eq!(judged(&said), (200, None, "other"), "its other servers have lost nothing");
            }
            let mut caller = caller.ready().await;
            let said = caller.call("first", json!({})).await.unwrap();
            assert_eq!(judged(&said), (200, None, "first"), "{path} {listens} {}", said.all());
        }
    }
}

#[tokio::test]
async fn a_session_without_state_goes_on_where_its_server_restarts() {
    let (server, other) = (server(Era::Legacy).await, other().await);
    let document = format!(
        "upstreams:\n  up: {{url: \"{}\", stateless_ok: true}}\n  other: {}\nservers:\n  /merged: \
         {{upstreams: [up, other]}}\n",
        server.url(),
        other.url()
    );
    let gateway = Gateway::start(&document).await;
    let mut caller = Caller::new(Era::Legacy, gateway.address).at("/merged").ready().await;
    for _ in 0..3 {
        assert_eq!(caller.call("first", json!({})).await.unwrap().text(), "first");
        server.forget();
    }
}

#[tokio::test]
async fn calls_of_modern_clients_go_on_whatever_sessions_their_server_has_forgotten() {
    let (server, other) = (server(Era::Legacy).await, other().await);
    let gateway = gateway(&server, &other).await;
    let caller = || Caller::new(Era::Modern, gateway.address).at("/merged");
    // Each such call has a session of its own while it runs.
    let mut callers = [caller(), caller(), caller(), caller()];
    let all = async |callers: &mut [Caller; 4]| {
        let [a, b, c, d] = callers;
        let call = async |one: &mut Caller| one.call("first", json!({})).await.unwrap();
        let (a, b, c, d) = tokio::join!(call(a), call(b), call(c), call(d));
        for said in [a, b, c, d] {
            assert_eq!(judged(&said), (200, None, "first"), "{}", said.all());
        }
    };
    for _ in 0..3 {
        all(&mut callers).await;
        server.forget();
    }
    all(&mut callers).await;
}

/// Refusals that say when to come back, the code and reason that they become, and the time.
const REFUSALS: [(&str, i64, &str); 4] = [
    ("429 Too Many Requests\r\nretry-after: 7", -31429, "upstream_limited"),
    ("429 Too Many Requests", -31429, "upstream_limited"),
    ("503 Service Unavailable\r\nretry-after: 900", -31503, "upstream_unavailable"),
    ("503 Service Unavailable", -31503, "upstream_unavailable"),
];

fn expected_ms(head: &str) -> Option<u64> {
    match head {
        head if head.contains("retry-after: 7") => Some(7_000),
        head if head.contains("retry-after: 900") => Some(300_000),
        _ => None,
    }
}

#[tokio::test]
async fn a_server_that_takes_no_more_for_now_is_said_to_and_keeps_its_era() {
    for (upstream, client) in ERAS.into_iter().flat_map(|upstream| ERAS.map(|client| (upstream, client))) {
        for path in ["/merged", "/plain"] {
            let (server, other) = (server(upstream).await, other().await);
            let document = format!(
                "upstreams:\n  up: {}\n  other: {}\nservers:\n  /merged: {{upstreams: [up, other]}}\n  /plain: up\n",
                server.url(),
                other.url()
            );
            let gateway = Gateway::start(&document).await;
            let mut caller = Caller::new(client, gateway.address).at(path).ready().await;
            assert_eq!(caller.call("first", json!({})).await.unwrap().text(), "first");
            let discovered = server.counted("server/discover");
            for (head, code, reason) in &REFUSALS {
                let case = format!("{upstream:?} {client:?} {path} {head}");
                server.refuse(Some(head));
                for _ in 0..3 {
                    let said = caller.call("first", json!({})).await.unwrap();
                    let error = &said.message["error"];
                    assert_eq!((said.head.status, said.code()), (200, Some(*code)), "{case} {}", said.all());
                    assert_eq!(error["data"]["reason"], *reason, "{case}");
                    assert_eq!(error["data"]["retryAfterMs"].as_u64(), expected_ms(head), "{case}");
                    let seconds = expected_ms(head).map(|ms| (ms / 1000).to_string());
                    assert_eq!(said.head.header("retry-after"), seconds.as_deref(), "{case}");
                }
                assert_eq!(server.counted("server/discover"), discovered, "{case}: asked for its era");
            }
            server.refuse(None);
            let said = caller.call("first", json!({})).await.unwrap();
            assert_eq!(judged(&said), (200, None, "first"), "{upstream:?} {client:?} {path} {}", said.all());
            assert_eq!(server.counted("server/discover"), discovered, "{upstream:?} {client:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_limited_from_the_start_is_not_asked_for_its_era_by_each_call() {
    let (server, other) = (server(Era::Modern).await, other().await);
    let gateway = gateway(&server, &other).await;
    server.refuse(Some("429 Too Many Requests\r\nretry-after: 60"));
    let mut caller = Caller::new(Era::Modern, gateway.address).at("/viewed");
    for _ in 0..5 {
        let said = caller.call("first", json!({})).await.unwrap();
        assert_eq!(said.message["error"]["data"]["reason"], "upstream_limited", "{}", said.all());
        let left = said.message["error"]["data"]["retryAfterMs"].as_u64().unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
    }
    assert_eq!(server.counted("server/discover"), 1);
}

#[tokio::test]
async fn sessions_outlive_a_restart_of_the_gateway_without_configured_keys() {
    let answer =
        |call: Call| async move { Ok(text(call.session.map(|own| own.id.clone()).unwrap_or_default())) };
    let server = Mcp::start(Nature::of(Era::Legacy), vec![tool("first")], answer).await;
    let other = other().await;
    let mut gateway = gateway(&server, &other).await;
    let mut caller = Caller::new(Era::Legacy, gateway.address).at("/merged").ready().await;
    let own = caller.call("first", json!({})).await.unwrap().text().to_owned();
    let session = caller.session.clone().unwrap();
    for how in ["TERM", "KILL"] {
        gateway.signal(how);
        gateway.ended().await;
        gateway = gateway.again().await;
        let mut caller = Caller::new(Era::Legacy, gateway.address).at("/merged").in_session(&session);
        for (tool, answer) in [("first", own.as_str()), ("other", "other")] {
            let said = caller.call(tool, json!({})).await.unwrap();
            assert_eq!(judged(&said), (200, None, answer), "{how} {}", said.all());
        }
    }
}

#[tokio::test]
async fn a_sealing_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (server, other) = (server(Era::Legacy).await, other().await);
    let mut gateway = gateway(&server, &other).await;
    let key = gateway.folder().join("state/sealing.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.signal("TERM");
    gateway.ended().await;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = gateway.command(&["run", "--config", "gateway.yaml"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("chmod 600"), "{said}");
}

#[tokio::test]
async fn progress_after_a_question_is_told_under_the_token_of_the_retry() {
    let answer = |call: Call| async move {
        call.progress(1).await;
        call.elicit("Your name?").await;
        call.progress(2).await;
        Ok(text("done"))
    };
    let server = Mcp::start(Nature::of(Era::Legacy), vec![tool("ask")], answer).await;
    let other = other().await;
    let gateway = gateway(&server, &other).await;
    let mut caller = Caller::new(Era::Modern, gateway.address).at("/merged");
    let params = |token: &str| json!({"name": "ask", "arguments": {}, "_meta": {"progressToken": token}});
    let tokens = |said: &Said| -> Vec<(String, u64)> {
        let notes = said.before.iter().map(|note| &note["params"]);
        notes
            .map(|note| {
                (note["progressToken"].as_str().unwrap().to_owned(), note["progress"].as_u64().unwrap())
            })
            .collect()
    };
    let asked = caller.request("tools/call", params("one")).await.unwrap();
    assert_eq!(tokens(&asked), [("one".to_owned(), 1)], "{}", asked.all());
    let result = &asked.message["result"];
    let key = result["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let mut retry = params("two");
    retry["requestState"] = result["requestState"].clone();
    retry["inputResponses"] = json!({key: {"action": "accept", "content": {"name": "Ada"}}});
    let done = caller.request("tools/call", retry).await.unwrap();
    assert_eq!((done.text(), tokens(&done)), ("done", vec![("two".to_owned(), 2)]), "{}", done.all());
}

#[tokio::test]
async fn keys_of_an_issuer_outlive_a_restart_while_it_is_down() {
    let key = Key::new("k1");
    let (issuer, server) = (Issuer::start(&[&key]).await, server(Era::Modern).await);
    let document = |max_stale: &str| {
        format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', \
             jwks: {{max_stale: {max_stale}}}}}\n",
            server.url(),
            issuer.url()
        )
    };
    let (kept, none) = (document("24h"), document("0s"));
    let mut gateway = Gateway::start(&kept).await;
    let token = issuer.token_with(&key, "https://gw.example/mcp", json!({"sub": "anna"}));
    let called = async |gateway: &Gateway| {
        let mut caller = Caller::new(Era::Modern, gateway.address).presenting(&token);
        caller.call("first", json!({})).await.unwrap()
    };
    let known = async |gateway: &Gateway| gateway.status().await["identity"]["issuers"][0].clone();
    assert_eq!(called(&gateway).await.text(), "first");
    assert_eq!(
        (&known(&gateway).await["from_disk"], &known(&gateway).await["keys"]),
        (&json!(false), &json!(1))
    );
    drop(issuer);
    let ready = async |gateway: &Gateway| gateway.get(gateway.telemetry, "/readyz").await;
    for _ in 0..2 {
        gateway.signal("TERM");
        gateway.ended().await;
        gateway = gateway.again().await;
        assert_eq!(called(&gateway).await.text(), "first");
        assert_eq!(known(&gateway).await["from_disk"], true);
        assert_eq!(ready(&gateway).await.status, 200);
    }
    gateway.configure(&none);
    gateway.signal("TERM");
    gateway.ended().await;
    gateway = gateway.again().await;
    let said = called(&gateway).await;
    assert_eq!(
        (said.head.status, &said.message["error"]["data"]["reason"]),
        (503, &json!("identity_unavailable"))
    );
    let unready = ready(&gateway).await;
    let text = String::from_utf8(unready.body).unwrap();
    assert_eq!((unready.status, text.as_str()), (503, "not ready: keys of issuers\n"));
}
