//! API keys from the command line to the upstream, and what upstreams are told of who shows one.

use crate::harness::{
    Era, Gateway, Long, Mcp, Nature, Request, Response, Runtime, Upstream, Wire, modern_call, modern_headers,
    run, within,
};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Runs `portunus key` in a folder; what it printed.
fn key(folder: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new(crate::harness::binary()).arg("key").args(arguments).current_dir(folder).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The id in a key.
fn id(whole: &str) -> &str {
    &whole[4..20]
}

/// A gateway whose folder had these orders for `portunus key` carried out, and what each printed.
async fn start(document: &str, orders: &[&[&str]]) -> (Gateway, Vec<String>) {
    let mut printed = vec![];
    let gateway = Gateway::start_as(document, |folder| {
        printed.extend(orders.iter().map(|order| key(folder, order)));
        run()
    })
    .await;
    (gateway, printed)
}

async fn call(gateway: &Gateway, shown: &[(&'static str, String)]) -> Response {
    let headers = [modern_headers("echo"), shown.to_vec()].concat();
    gateway.post("/mcp", &headers, &modern_call(1, "echo")).await
}

/// Whether a call got to the server and back.
async fn passes(gateway: &Gateway, shown: &[(&'static str, String)]) -> bool {
    let answer = call(gateway, shown).await;
    let passed = answer.status == 200 && answer.json()["error"].is_null();
    if !passed {
        println!("{}", String::from_utf8_lossy(&answer.body));
    }
    passed
}

fn bearer(key: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {key}"))]
}

/// An upstream that tells what came.
async fn telling() -> (Upstream, UnboundedReceiver<Request>) {
    let (seen, requests) = unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            let result = match request.header("mcp-method") {
                Some("server/discover") => {
                    r#""supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}"#
                }
                Some("tools/list") => {
                    r#""tools":[{"name":"echo","inputSchema":{"type":"object"}}],"ttlMs":0,"cacheScope":"private""#
                }
                _ => r#""content":[]"#,
            };
            let id = request.id();
            wire.json(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete",{result}}}}}"#
            ))
            .await;
            seen.send(request).ok();
            Some(wire)
        }
    })
    .await;
    (upstream, requests)
}

/// The head of the next call that came.
async fn called(requests: &mut UnboundedReceiver<Request>) -> Request {
    within(5, "the call", async {
        loop {
            let request = requests.recv().await.unwrap();
            if request.header("mcp-method") == Some("tools/call") {
                return request;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_key_is_good_until_it_is_taken_back() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let document = format!(
        "identity: {{ keys: keys.yaml }}\nupstreams:\n  up: {}\nservers:\n  /mcp: up\n",
        server.url()
    );
    let alice = ["new", "--for", "acme/alice", "--roles", "reader", "--note", "laptop"];
    let bob = ["new", "--for", "acme/bob", "--expires", "never"];
    let (gateway, keys) = start(&document, &[&alice, &alice, &bob]).await;
    assert_eq!(call(&gateway, &[]).await.status, 401);
    for key in &keys {
        assert!(passes(&gateway, &bearer(key)).await);
    }
    let strange = keys[0].replace(id(&keys[0]), id(&keys[2]));
    for wrong in [&strange, &keys[0][..60], "ptk_", "x"] {
        let refused = call(&gateway, &bearer(wrong)).await;
        assert_eq!(
            (refused.status, refused.header("portunus-outcome")),
            (401, Some("invalid_token")),
            "{wrong}"
        );
    }
    let record = gateway.recorded("a call", |record| record["user_id"] == "alice").await;
    assert_eq!(record["auth"], "api_key", "{record}");

    let mut stream = gateway.connect().await;
    let modern = ("mcp-protocol-version", "2026-07-28".to_owned());
    let shown = [bearer(&keys[0]), vec![modern, ("mcp-method", "subscriptions/listen".to_owned())]].concat();
    stream.post("/mcp", &shown, Long::listening(7).as_bytes()).await;
    assert_eq!(stream.response_head().await.status, 200);
    key(gateway.folder(), &["revoke", id(&keys[0])]);
    let over = async { while stream.try_chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    within(5, "the end of the stream", over).await;
    assert_eq!(call(&gateway, &bearer(&keys[0])).await.status, 401);
    assert!(passes(&gateway, &bearer(&keys[1])).await, "her other key");

    let log = gateway.log_text();
    let secrets = keys.iter().map(|key| &key[21..]);
    secrets.for_each(|secret| assert!(!log.contains(secret), "a secret is in the log"));
}

#[tokio::test]
async fn a_key_in_a_header_of_its_own_stays_here() {
    let (upstream, mut requests) = telling().await;
    let document = format!(
        "identity: {{ keys: {{ files: keys.yaml, shown_in: [bearer, X-API-Key] }} }}\n\
         upstreams:\n  up: {{ url: \"http://{}/mcp\" }}\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let (gateway, keys) = start(&document, &[&["new", "--for", "acme/alice"]]).await;
    for shown in [vec![("x-api-key", keys[0].clone())], bearer(&keys[0])] {
        assert!(passes(&gateway, &shown).await);
        let head = called(&mut requests).await.head;
        assert!(!head.contains(id(&keys[0])), "{head}");
    }
    let both = [bearer(&keys[0]), vec![("x-api-key", keys[0].clone())]].concat();
    assert_eq!(call(&gateway, &both).await.status, 401, "two credentials");
}

#[tokio::test]
async fn upstreams_are_told_who_is_calling_and_believe_no_client() {
    let (upstream, mut requests) = telling().await;
    let document = format!(
        "identity: {{ keys: keys.yaml }}\nupstreams:\n  up:\n    url: \"http://{}/mcp\"\n    \
         caller: {{ headers: [subject, roles], assertion: {{ key: \"file:assertion.key\", issuer: \"https://gw.test\" }} }}\n\
         servers:\n  /mcp: up\n",
        upstream.address
    );
    let signing = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut printed = String::new();
    let gateway = Gateway::start_as(&document, |folder| {
        std::fs::write(folder.join("assertion.key"), signing.serialize_pem()).unwrap();
        printed = key(folder, &["new", "--for", "acme/alice", "--roles", "reader,écrivain"]);
        run()
    })
    .await;
    let forged =
        [("x-portunus-subject", "root"), ("x-portunus-groups", "admins"), ("x-portunus-assertion", "a.b.c")];
    let forged = forged.map(|(name, value)| (name, value.to_owned())).to_vec();
    assert!(passes(&gateway, &[bearer(&printed), forged].concat()).await);
    let request = called(&mut requests).await;
    let told: Vec<&str> = request.head.lines().filter(|line| line.starts_with("x-portunus-")).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(request.header("x-portunus-subject"), Some("alice"));
    assert_eq!(request.header("x-portunus-roles"), Some("reader,%C3%A9crivain"));

    let assertion = request.header("x-portunus-assertion").unwrap();
    let audience = format!("http://{}/mcp", upstream.address);
    let published = format!("http://{}/.well-known/jwks.json", gateway.address);
    let arguments = [assertion, &published, "https://gw.test", &audience];
    let claims = Runtime::Node.run(30, "verify.mjs", &arguments).await;
    let claims: Value = serde_json::from_str(&claims).unwrap();
    assert_eq!((&claims["sub"], &claims["tenant"]), (&"alice".into(), &"acme".into()));
    assert_eq!(claims["roles"], serde_json::json!(["reader", "écrivain"]));
    let keys = gateway.get(gateway.address, "/.well-known/jwks.json").await;
    assert_eq!(keys.header("content-type"), Some("application/json"), "{keys:?}");
}

#[tokio::test]
async fn passed_initialize_that_has_to_be_served_after_a_reload_is_still_of_its_caller() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let (seen, mut asked) = unbounded_channel();
    let server = Upstream::start(move |request: Request, mut wire: Wire| {
        let (seen, mut gate) = (seen.clone(), gate.clone());
        async move {
            let id = request.id();
            if request.header("mcp-method") == Some("server/discover") {
                let result = r#""resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}"#;
                wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{result}}}}}"#)).await;
                return Some(wire);
            }
            seen.send(()).unwrap();
            gate.wait_for(|open| *open).await.unwrap();
            wire.send("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
            Some(wire)
        }
    })
    .await;
    let document = format!(
        "identity: {{ keys: {{ files: keys.yaml, shown_in: [X-API-Key] }} }}\n\
         upstreams:\n  up: {{ url: \"http://{}/mcp\", credentials: passthrough }}\nservers:\n  /mcp: up\n",
        server.address
    );
    let (gateway, keys) = start(&document, &[&["new", "--for", "acme/alice"]]).await;
    let hello = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}});
    let hello = hello.to_string();
    let headers = [("x-api-key", keys[0].clone())];
    let swapped = async {
        asked.recv().await.unwrap();
        let before = gateway.metric("portunus_activations_total{result=\"accepted\"}").await;
        gateway.configure(&format!("{document}# again\n"));
        gateway.signal("HUP");
        while gateway.metric("portunus_activations_total{result=\"accepted\"}").await == before {
            tokio::task::yield_now().await;
        }
        go.send(true).unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.post("/mcp", &headers, &hello), swapped);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.json()["result"]["serverInfo"].is_object(), "{}", answer.json());
}
