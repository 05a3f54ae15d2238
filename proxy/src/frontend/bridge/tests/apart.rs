//! Callers from one address whom only their server can tell apart, by a key in a header of its own.

use super::{envelope, request};
use crate::frontend::edge::ConnectionServer;
use crate::testing::{Asked, Bed, Server, Wire, within};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const ASKED: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// A server, and a gateway before it that serves clients.
pub(super) struct Stand {
    pub(super) server: Server,
    pub(super) bed: Bed,
    clients: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn key(asked: &Asked) -> String {
    asked.header("x-api-key").unwrap_or("nobody").to_owned()
}

async fn attend(asked: Asked, mut wire: Wire, sessions: &AtomicUsize, answered: &Notify) -> Wire {
    match asked.method() {
        "initialize" => {
            let number = sessions.fetch_add(1, Ordering::SeqCst);
            let fields = format!("content-type: application/json\r\nmcp-session-id: s{number}\r\n");
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{INITIALIZED}}}"#, asked.id());
            wire.status("200 OK", &fields, &body).await;
        }
        "GET" => wire.status("405 No", "", "").await,
        "tools/list" => {
            let tools = r#"{"tools":[{"name":"of_KEY","inputSchema":{"type":"object"}},{"name":"ask","inputSchema":{"type":"object"}}]}"#;
            wire.result(&asked, &tools.replace("KEY", &key(&asked))).await;
        }
        "tools/call" => {
            wire.begin_events().await;
            wire.event(ASKED).await;
            answered.notified().await;
            let text = format!(r#"{{"content":[{{"type":"text","text":"secret of {}"}}]}}"#, key(&asked));
            wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{text}}}"#, asked.id())).await;
            wire.end().await;
        }
        _ => {
            if asked.body["id"] == "q" {
                answered.notify_one();
            }
            wire.accepted().await;
        }
    }
    wire
}

/// A legacy server that shows each key a tool of its own, and asks before it answers a call.
async fn keyed() -> Stand {
    let (sessions, answered) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let server = Server::start(move |asked, wire| {
        let (sessions, answered) = (Arc::clone(&sessions), Arc::clone(&answered));
        async move { Some(attend(asked, wire, &sessions, &answered).await) }
    });
    Stand::before(server.await, "legacy")
}

impl Stand {
    pub(super) fn before(server: Server, era: &str) -> Stand {
        let bed = Bed::before(server.address, &format!(", era: {era}"));
        Stand::on(server, bed)
    }

    pub(super) fn on(server: Server, bed: Bed) -> Stand {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let clients = socket.local_addr().unwrap();
        let connection_server = ConnectionServer::new(Arc::clone(&bed.gateway), &[clients], None);
        let serving =
            tokio::spawn(Arc::new(connection_server).accept_rest(vec![socket], Duration::from_secs(60)));
        Stand { server, bed, clients, serving }
    }

    /// The answer to a modern client that shows `fields`.
    pub(super) async fn ask(&self, fields: &str, method: &str, more: Value) -> Value {
        let mut params = envelope();
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        let named = more["name"]
            .as_str()
            .or(more["uri"].as_str())
            .map(|name| format!("Mcp-Name: {name}\r\n"))
            .unwrap_or_default();
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let version = "MCP-Protocol-Version: 2026-07-28\r\n";
        self.post(&format!("{version}Mcp-Method: {method}\r\n{named}{fields}"), &request(method, params))
            .await
            .1
    }

    /// Head and message of the answer to a POST.
    #[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
    pub(super) async fn post(&self, fields: &str, body: &Value) -> (String, Value) {
        let body = body.to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.clients).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, message) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), serde_json::from_str(message).unwrap_or_default())
    }

    async fn call(&self, fields: &str, more: Value) -> Value {
        let mut params = json!({"name": "ask", "arguments": {}});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(fields, "tools/call", params).await
    }

    async fn tools(&self, fields: &str) -> String {
        let listed = self.ask(fields, "tools/list", json!({})).await;
        listed["result"]["tools"][0]["name"].as_str().unwrap().to_owned()
    }
}

const ADA: &str = "X-Api-Key: ada\r\n";
const BO: &str = "X-Api-Key: bo\r\n";

#[tokio::test]
async fn they_never_see_each_others_lists() {
    let stand = keyed().await;
    for _ in 0..2 {
        assert_eq!(stand.tools(ADA).await, "of_ada");
        assert_eq!(stand.tools(BO).await, "of_bo");
        assert_eq!(stand.tools("").await, "of_nobody");
    }
    assert_eq!(stand.server.heard("tools/list").len(), 3);
}

#[tokio::test]
async fn they_never_share_a_session_or_take_up_each_others_calls() {
    let stand = keyed().await;
    let mut states = Vec::new();
    for fields in [ADA, BO, ""] {
        let asked = stand.call(fields, json!({})).await;
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        states.push(asked["result"]["requestState"].clone());
    }
    let sessions: std::collections::HashSet<_> = stand
        .server
        .heard("tools/call")
        .iter()
        .map(|asked| asked.header("mcp-session-id").unwrap().to_owned())
        .collect();
    assert_eq!(sessions.len(), 3);
    assert_eq!(stand.bed.gateway.estate.parked.len(), 3);
    let asked = stand.call(ADA, json!({})).await;
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let taken_up = |state: &Value| json!({"inputResponses": {&key: {"action": "accept", "content": {}}}, "requestState": state});
    let stolen = stand.call(BO, taken_up(&states[0])).await;
    assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
    let stolen = stand.call("", taken_up(&states[0])).await;
    assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
}

#[tokio::test]
async fn a_call_is_taken_up_by_who_made_it_and_answered_with_its_key() {
    let stand = keyed().await;
    let asked = stand.call(ADA, json!({})).await;
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let answer = json!({"inputResponses": {key: {"action": "accept", "content": {}}}, "requestState": asked["result"]["requestState"]});
    let done = stand.call(&format!("{ADA}User-Agent: another\r\ntracestate: a=1\r\n"), answer).await;
    assert_eq!(done["result"]["content"][0]["text"], "secret of ada", "{done}");
    let shown = stand
        .server
        .heard("POST")
        .iter()
        .map(|asked| asked.header("x-api-key").map(str::to_owned))
        .collect::<Vec<_>>();
    assert_eq!(shown, [Some("ada".to_owned())], "the answer goes up as the call did");
}

#[tokio::test]
async fn what_belongs_to_one_request_makes_no_other_caller() {
    let stand = keyed().await;
    for number in 0..5 {
        let fields = format!(
            "User-Agent: {number}\r\ntracestate: a={number}\r\nX-B3-SpanId: {number}\r\nSec-Fetch-Mode: {number}\r\n"
        );
        assert_eq!(stand.tools(&fields).await, "of_nobody");
    }
    assert_eq!((stand.server.heard("initialize").len(), stand.server.heard("tools/list").len()), (1, 1));
}
