//! The transport of 2024-11-05, towards servers and towards clients.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{
    Caller, Client, Era, Gateway, Mcp, Nature, Response, Runtime, Server, Upstream, rpc, within,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;

const INITIALIZE: &str = r#"{"protocolVersion":"2024-11-05","clientInfo":{"name":"old","version":"1"},"capabilities":{"elicitation":{}}}"#;

/// What a server says itself where JSON-RPC would have it say something else: no business of a gateway.
const SAID_BY_THE_SERVER: [&str; 2] = ["--allow", "unknown-method"];

async fn pass(clients: &[&str], url: &str) {
    let named = clients.iter().flat_map(|client| ["--client", client]);
    let arguments: Vec<&str> = [url].into_iter().chain(SAID_BY_THE_SERVER).chain(named).collect();
    Runtime::Python2.run(170, "clients.py", &arguments).await;
}

#[tokio::test]
async fn sdk_clients_of_every_kind_pass_every_step_before_an_sdk_server_of_the_old_transport() {
    let server = Server::start_with(Runtime::Python1, "upstream_legacy.py", &["--sse"]).await;
    let gateway = Gateway::start(&format!(
        "upstreams:\n  old: {{ url: 'http://localhost:{}/sse', transport: sse }}\n\
         servers:\n  /mcp: {{ upstreams: old, http_sse: true }}\n",
        server.address.port()
    ))
    .await;
    let url = format!("http://localhost:{}/mcp", gateway.address.port());
    pass(&["py1", "py2-modern", "ts2-legacy", "py1-sse", "ts1-sse"], &url).await;
}

#[tokio::test]
async fn sdk_clients_of_the_old_transport_pass_every_step_before_a_modern_server() {
    let server = Server::start(Runtime::Node, "upstream_modern.mjs").await;
    let gateway = Gateway::start(&format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: {{ upstreams: up, http_sse: true }}\n",
        server.url()
    ))
    .await;
    let url = format!("http://localhost:{}/mcp", gateway.address.port());
    pass(&["py1-sse", "ts1-sse", "ts1-fallback"], &url).await;
}

#[tokio::test]
async fn a_server_of_the_old_transport_that_restarts_is_found_again_by_those_who_listen() {
    let mut server = Server::start_with(Runtime::Python1, "upstream_legacy.py", &["--sse"]).await;
    let gateway = Gateway::start(&format!(
        "upstreams:\n  old: {{ url: 'http://localhost:{}/sse', transport: sse }}\n\
         servers:\n  /mcp: {{ upstreams: [old], names: prefix }}\n",
        server.address.port()
    ))
    .await;
    for era in [Era::Legacy, Era::Modern] {
        let mut caller = Caller::new(era, gateway.address).ready().await;
        let mut stream = match era {
            Era::Legacy => caller.stream(None).await.unwrap().0,
            Era::Modern => caller.listening_to(json!({"toolsListChanged": true})).await,
        };
        assert!(caller.request("tools/list", json!({})).await.unwrap().message["result"].is_object());
        server.restart(Runtime::Python1, "upstream_legacy.py", &["--sse"]).await;
        let told = async {
            while !stream.chunk().await.expect("the stream goes on").contains("tools/list_changed") {}
        };
        within(60, "the change", told).await;
        let said = caller.call("old_echo", json!({"text": "again"})).await.unwrap();
        assert_eq!(said.text(), "again", "{era:?} {}", said.all());
    }
}

/// A client of the old transport, its stream open.
pub(crate) struct Old {
    stream: Client,
    endpoint: String,
    posts: Client,
}

impl Old {
    async fn open(gateway: &Gateway) -> Old {
        Old::between(gateway, gateway).await
    }

    /// One whose stream comes from one gateway, and whose messages are posted to another.
    pub(crate) async fn between(gateway: &Gateway, other: &Gateway) -> Old {
        let mut stream = gateway.connect().await;
        stream.open_stream("/mcp", &[]).await;
        let head = stream.response_head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(head.header("mcp-session-id"), None);
        let event = stream.chunk().await.unwrap();
        let endpoint = event.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        assert!(endpoint.starts_with("/mcp?session="), "{endpoint}");
        Old { stream, endpoint, posts: other.connect().await }
    }

    /// One whose session is founded.
    async fn ready(gateway: &Gateway) -> Old {
        let mut old = Old::open(gateway).await;
        old.found().await;
        old
    }

    /// Founds its session.
    pub(crate) async fn found(&mut self) {
        let founded = self.ask(&rpc(1, "initialize", INITIALIZE)).await;
        assert_eq!(founded["result"]["protocolVersion"], "2024-11-05");
        assert_eq!(self.post(&notification("notifications/initialized")).await.status, 202);
    }

    /// Posts a message.
    pub(crate) async fn post(&mut self, body: &str) -> Response {
        self.posts.post(&self.endpoint, &[], body.as_bytes()).await;
        self.posts.response().await
    }

    /// Posts a request and gives the next message on the stream.
    pub(crate) async fn ask(&mut self, body: &str) -> Value {
        let taken = self.post(body).await;
        assert_eq!((taken.status, taken.body.len()), (202, 0));
        self.hear().await.unwrap()
    }

    /// The next message; `None` when the stream has ended.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            let event = self.stream.chunk().await?;
            if let Some((_, data)) = event.split_once("data: ") {
                return Some(serde_json::from_str(data.trim_end()).unwrap());
            }
        }
    }
}

fn notification(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)
}

fn call(id: u32, name: &str) -> String {
    rpc(id, "tools/call", &json!({"name": name, "arguments": {}}).to_string())
}

/// A legacy server with `ask`, which wants a name, `wait`, which waits to be let go, and others.
async fn server(let_go: Arc<Notify>) -> Mcp {
    let tools = ["ask", "wait", "other"].map(tool).to_vec();
    Mcp::start(Nature::of(Era::Legacy), tools, move |call: Call| {
        let let_go = Arc::clone(&let_go);
        async move {
            match call.tool() {
                "ask" => {
                    let answer = call.elicit("Your name?").await;
                    Ok(text(format!("hello {}", answer["result"]["content"]["name"].as_str().unwrap())))
                }
                "wait" => {
                    call.count("waiting");
                    let_go.notified().await;
                    Ok(text("waited"))
                }
                other => Ok(text(other)),
            }
        }
    })
    .await
}

async fn offering(server: &Mcp) -> Gateway {
    Gateway::start(&offered(server, "http_sse: true")).await
}

fn offered(server: &Mcp, settings: &str) -> String {
    format!("upstreams:\n  up: {}\nservers:\n  /mcp: {{ upstreams: up, {settings} }}\n", server.url())
}

#[tokio::test]
async fn requests_are_answered_and_clients_asked_on_the_stream() {
    let server = server(Arc::default()).await;
    let gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    let question = old.ask(&call(2, "ask")).await;
    assert_eq!(question["method"], "elicitation/create");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Bo"}}});
    assert_eq!(old.ask(&answer.to_string()).await["result"]["content"][0]["text"], "hello Bo");
    assert_eq!(old.ask(&call(3, "other")).await["id"], 3);
    let called = |record: &Value| record["action"] == "tools/call" && record["tool_name"] == "other";
    let record = gateway.recorded("the call", called).await;
    assert_eq!((&record["status"], &record["http_status"]), (&json!("ok"), &json!(202)));
    assert_eq!(gateway.records().iter().filter(|record| called(record)).count(), 1);
    assert!(gateway.records().iter().all(|record| record["action"].is_string()), "{:?}", gateway.records());
}

#[tokio::test]
async fn calls_do_not_wait_for_each_other_and_can_be_cancelled() {
    let server = server(Arc::default()).await;
    let gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    assert_eq!(old.post(&call(2, "wait")).await.status, 202);
    server.reaches("waiting", 1).await;
    assert_eq!(old.ask(&call(3, "other")).await["id"], 3, "the same connection carries the next request");
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    assert_eq!(old.post(cancel).await.status, 202);
    server.reaches("notifications/cancelled", 1).await;
    assert_eq!(old.ask(&call(4, "other")).await["id"], 4, "nothing is said to a cancelled request");
}

#[tokio::test]
async fn a_session_ends_with_its_stream() {
    let server = server(Arc::default()).await;
    let gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    assert_eq!(old.post(&call(2, "wait")).await.status, 202);
    server.reaches("waiting", 1).await;
    let Old { stream, endpoint, mut posts } = old;
    drop(stream);
    server.reaches("DELETE", 1).await;
    posts.post(&endpoint, &[], call(3, "other").as_bytes()).await;
    assert_eq!(posts.response().await.status, 404);
    assert_eq!(server.counted("tools/call"), 1);
}

#[tokio::test]
async fn a_stream_is_nobody_elses() {
    let server = server(Arc::default()).await;
    let gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    let own = old.endpoint.clone();
    let stranger = [("authorization", "Bearer stranger".to_owned())];
    let mut wrong = own.clone();
    wrong.truncate(own.len() - 2);
    let cases =
        [(own.as_str(), &stranger[..]), ("/mcp?session=", &[]), ("/mcp?session=x", &[]), (&wrong, &[])];
    for (endpoint, headers) in cases {
        let said = gateway.post(endpoint, headers, &call(2, "other")).await;
        assert_eq!((said.status, said.reason().as_str()), (404, "unknown_session"), "{endpoint}");
    }
    assert_eq!(server.counted("tools/call"), 0);
    assert_eq!(old.ask(&call(3, "other")).await["id"], 3, "the stream is as it was");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_where_its_client_hears_it() {
    let server = server(Arc::default()).await;
    let settings = "http_sse: true, bounds: { string: 1KiB }";
    let gateway = Gateway::start(&offered(&server, settings)).await;
    let mut old = Old::open(&gateway).await;
    let early = old.ask(&call(7, "other")).await;
    assert_eq!((&early["id"], &early["error"]["data"]["reason"]), (&json!(7), &json!("missing_session")));
    assert_eq!(old.post(&format!("[{}]", call(8, "other"))).await.status, 400);
    assert_eq!(old.ask(&rpc(1, "initialize", INITIALIZE)).await["id"], 1);
    let again = old.ask(&rpc(9, "initialize", INITIALIZE)).await;
    assert_eq!(again["error"]["data"]["reason"], "invalid_request");
    let large =
        rpc(10, "tools/call", &json!({"name": "other", "arguments": {"a": "x".repeat(2000)}}).to_string());
    let refused = old.ask(&large).await;
    assert_eq!(
        (&refused["id"], &refused["error"]["data"]["reason"]),
        (&json!(10), &json!("bounds_exceeded"))
    );
    assert_eq!(old.post("{").await.status, 400);
    assert_eq!(old.ask(&call(11, "other")).await["id"], 11);
    assert_eq!(server.counted("tools/call"), 1);
}

#[tokio::test]
async fn both_transports_stand_side_by_side() {
    let server = server(Arc::default()).await;
    let gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    let mut new = Caller::new(Era::Legacy, gateway.address).presenting("Bo").ready().await;
    assert_eq!(new.call("ask", json!({})).await.unwrap().text(), "hello Bo");
    assert_eq!(old.ask(&call(2, "other")).await["id"], 2);
    assert_eq!(new.call("other", json!({})).await.unwrap().text(), "other");
}

#[tokio::test]
async fn without_the_switch_nothing_is_offered() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    let mut client = gateway.connect().await;
    client.open_stream("/mcp", &[]).await;
    assert_ne!(client.response_head().await.header("content-type"), Some("text/event-stream"));
    let said = gateway.post("/mcp?session=x", &[], &call(2, "other")).await;
    assert_eq!((said.status, upstream.requests()), (200, 2), "both went to the server as they were");
}

#[tokio::test]
async fn calls_under_way_are_answered_before_a_leaving_process_ends_the_stream() {
    let let_go = Arc::new(Notify::new());
    let server = server(Arc::clone(&let_go)).await;
    let mut gateway = offering(&server).await;
    let mut old = Old::ready(&gateway).await;
    assert_eq!(old.post(&call(2, "wait")).await.status, 202);
    server.reaches("waiting", 1).await;
    let mut idle = Old::open(&gateway).await;
    gateway.signal("TERM");
    assert_eq!(idle.hear().await, None, "nothing is under way on it");
    let_go.notify_one();
    assert_eq!(old.hear().await.unwrap()["result"]["content"][0]["text"], "waited");
    assert_eq!(old.hear().await, None);
    assert!(gateway.ended().await.success());
}
