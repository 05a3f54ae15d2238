//! Calls whose headers a modern server finds wanting, because its list has changed.

use super::apart::Stand;
use crate::testing::{Asked, Server, Wire};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"},"ttlMs":60000,"cacheScope":"public"}"#;
const TOOL: &str = r#"{"tools":[{"name":"act","inputSchema":{"type":"object","properties":{"ARGUMENT":{"type":"string","x-mcp-header":"ARGUMENT"}}}}],"ttlMs":60000,"cacheScope":"public"}"#;
const MISMATCH: &str = r#"{"code":-32020,"message":"a header is missing"}"#;

/// Which argument the server wants in a header: by its list, and in truth.
#[derive(Default)]
struct Wants {
    listed: AtomicUsize,
    truly: AtomicUsize,
}

const ARGUMENTS: [&str; 3] = ["a", "b", "neither"];

async fn attend(asked: Asked, mut wire: Wire, wants: &Wants) -> Wire {
    match asked.method() {
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "tools/list" => {
            let argument = ARGUMENTS[wants.listed.load(Ordering::SeqCst)];
            wire.result(&asked, &TOOL.replace("ARGUMENT", argument)).await;
        }
        "tools/call" => {
            let argument = ARGUMENTS[wants.truly.load(Ordering::SeqCst)];
            let value = asked.body["params"]["arguments"][argument].as_str();
            if value.is_some() && asked.header(&format!("mcp-param-{argument}")) == value {
                wire.result(&asked, r#"{"resultType":"complete","content":[]}"#).await;
            } else {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{MISMATCH}}}"#, asked.id());
                wire.status("400 Bad Request", "content-type: application/json\r\n", &body).await;
            }
        }
        _ => wire.accepted().await,
    }
    wire
}

struct Scene {
    stand: Stand,
    wants: Arc<Wants>,
}

impl Scene {
    async fn start() -> Scene {
        let wants = Arc::<Wants>::default();
        let own = Arc::clone(&wants);
        let server = Server::start(move |asked, wire| {
            let wants = Arc::clone(&own);
            async move { Some(attend(asked, wire, &wants).await) }
        });
        let scene = Scene { stand: Stand::before(server.await, "modern"), wants };
        assert!(scene.call().await["result"].is_object());
        assert_eq!(scene.counts(), (1, 1));
        scene.pass(1);
        scene
    }

    fn wants(&self, listed: usize, truly: usize) {
        self.wants.listed.store(listed, Ordering::SeqCst);
        self.wants.truly.store(truly, Ordering::SeqCst);
    }

    fn pass(&self, seconds: u64) {
        self.stand.bed.clock.advance(Duration::from_secs(seconds));
    }

    /// A call of a client that knows the first list.
    async fn call(&self) -> Value {
        self.call_with("Mcp-Param-A: 1\r\n").await
    }

    async fn call_with(&self, fields: &str) -> Value {
        let fields = &format!("Authorization: Bearer somebody\r\n{fields}");
        let params = json!({"name": "act", "arguments": {"a": "1", "b": "2"}});
        self.stand.ask(fields, "tools/call", params).await
    }

    /// Lists and calls so far.
    fn counts(&self) -> (usize, usize) {
        let count = |method| self.stand.server.heard(method).len();
        (count("tools/list"), count("tools/call"))
    }
}

#[tokio::test]
async fn a_call_is_said_again_with_the_headers_of_the_newer_list() {
    let scene = Scene::start().await;
    scene.wants(1, 1);
    let (one, other, third) = tokio::join!(scene.call(), scene.call(), scene.call());
    for said in [one, other, third] {
        assert!(said["result"].is_object(), "{said}");
    }
    assert_eq!(scene.counts(), (2, 7), "one list for all, and each call once more");
    let last = scene.stand.server.heard("tools/call").pop().unwrap();
    assert_eq!((last.header("mcp-param-b"), last.header("mcp-param-a")), (Some("2"), Some("1")));
}

#[tokio::test]
async fn a_client_that_knows_a_newer_list_is_held_to_that() {
    let scene = Scene::start().await;
    scene.wants(1, 1);
    let said = scene.call_with("Mcp-Param-B: 2\r\n").await;
    assert!(said["result"].is_object(), "{said}");
    let said = scene.call_with("Mcp-Param-B: 3\r\n").await;
    assert_eq!(said["error"]["code"], -32020, "{said}");
    assert_eq!(scene.counts(), (2, 2), "it never reaches the server");
}

#[tokio::test]
async fn a_server_that_contradicts_its_own_list_is_believed_and_not_asked_each_time() {
    let scene = Scene::start().await;
    scene.wants(0, 2);
    for calls in 2..5 {
        let said = scene.call().await;
        assert_eq!(said["error"]["code"], -32020, "{said}");
        assert_eq!(scene.counts(), (2, calls), "the client is told, and nothing is said twice");
        scene.pass(1);
    }
    scene.pass(10);
    scene.call().await;
    assert_eq!(scene.counts(), (3, 5));
}
