//! Clients that read what they, or others, have read before.

mod admissions;
mod apart;
mod challenges;
mod following;
mod hidden;
mod holds;
mod inspected;
mod led_elsewhere;
mod needs;
mod outlived;
mod plain_clients;
mod relist;
mod snapshots;
mod states;
mod swapped;
mod twins;
mod unbridged;
mod uris;
mod verbatim;

use crate::frontend::bridge::hub;
use crate::frontend::edge::ConnectionServer;
use crate::testing::{Asked, Bed, Server, Wire, within};
use portunus_filters::mcp::{Envelope, Method};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"resources":{"subscribe":true}},"serverInfo":{"name":"s","version":"1"},"ttlMs":60000,"cacheScope":"private"}"#;
const ACKNOWLEDGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"1"}}}"#;
const UPDATED: &str = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1","_meta":{"io.modelcontextprotocol/subscriptionId":"1"}}}"#;

const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":ID,"progress":1}}"#;

/// A modern server with a resource that lasts a minute, and a gateway before it that serves clients.
struct Stand {
    server: Server,
    bed: Bed,
    clients: SocketAddr,
    /// The server says that its resource changed.
    changes: Arc<Semaphore>,
    serving: JoinHandle<()>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn attend(asked: Asked, mut wire: Wire, changes: Arc<Semaphore>) -> Option<Wire> {
    match (asked.method(), asked.body["params"]["uri"].as_str()) {
        ("server/discover", _) => wire.result(&asked, DISCOVERED).await,
        ("resources/read", Some("a:broken")) if asked.body["params"]["_meta"]["breaks"] == true => {
            return None;
        }
        ("resources/read", Some("a:noted")) => {
            let id = asked.id();
            wire.begin_events().await;
            wire.event(&PROGRESS.replace("ID", &id)).await;
            wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"contents":[],"ttlMs":60000}}}}"#))
                .await;
            wire.end().await;
        }
        ("resources/read", uri) => {
            let text = r#"{"resultType":"complete","contents":[{"uri":"URI","text":"one"}],"ttlMs":60000,"cacheScope":"public"}"#;
            wire.result(&asked, &text.replace("URI", uri.unwrap())).await;
        }
        ("subscriptions/listen", _) => {
            wire.begin_events().await;
            wire.event(ACKNOWLEDGED).await;
            while let Ok(change) = changes.acquire().await {
                change.forget();
                wire.event(UPDATED).await;
            }
        }
        _ => wire.accepted().await,
    }
    Some(wire)
}

impl Stand {
    async fn start() -> Stand {
        let changes = Arc::new(Semaphore::new(0));
        let told = Arc::clone(&changes);
        let server = Server::start(move |asked, wire| attend(asked, wire, Arc::clone(&told))).await;
        Stand::before(server, changes, ", era: modern")
    }

    /// Before a server that asks for other credentials.
    async fn challenging(status: &'static str, upstream: &str) -> Stand {
        let server = Server::start(move |_, mut wire| async move {
            let fields = "www-authenticate: Bearer a=\"1\"\r\nwww-authenticate: Basic\r\n";
            wire.status(status, fields, "").await;
            Some(wire)
        });
        Stand::before(server.await, Arc::new(Semaphore::new(0)), upstream)
    }

    fn before(server: Server, changes: Arc<Semaphore>, upstream: &str) -> Stand {
        let bed = Bed::before(server.address, upstream);
        Stand::of(server, changes, bed)
    }

    fn of(server: Server, changes: Arc<Semaphore>, bed: Bed) -> Stand {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let clients = socket.local_addr().unwrap();
        let connection_server = ConnectionServer::new(Arc::clone(&bed.gateway), &[clients], None);
        let serving =
            tokio::spawn(Arc::new(connection_server).accept_rest(vec![socket], Duration::from_secs(60)));
        Stand { server, bed, clients, changes, serving }
    }

    async fn send(&self, bearer: &str, fields: &str, body: &Value) -> TcpStream {
        let accept = "Accept: application/json, text/event-stream\r\n";
        self.post(bearer, &format!("{accept}{fields}"), body).await
    }

    /// Head and message of an answer to a client of `ada` that says itself what it accepts.
    async fn ask_as(&self, accept: &str, fields: &str, body: &Value) -> (String, Value) {
        answered(self.post("ada", &format!("Accept: {accept}\r\n{fields}"), body).await).await
    }

    #[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
    async fn post(&self, bearer: &str, fields: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.clients).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{fields}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        stream
    }

    /// Head and message of an answer.
    async fn ask(&self, bearer: &str, fields: &str, body: &Value) -> (String, Value) {
        answered(self.send(bearer, fields, body).await).await
    }

    /// What a modern client is told that reads `uri`, with `more` parameters.
    async fn read(&self, bearer: &str, uri: &str, more: &Value) -> Value {
        let fields =
            format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\nMcp-Name: {uri}\r\n");
        let mut params = envelope();
        params["uri"] = uri.into();
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "_meta" => {
                    params["_meta"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone())
                }
                _ => params[key] = value.clone(),
            }
        }
        self.ask(bearer, &fields, &request("resources/read", params)).await.1
    }

    /// The fields of a session of `ada`.
    async fn session(&self) -> String {
        let client = json!({"name": "c", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let (head, _) = self.ask("ada", "", &request("initialize", hello)).await;
        let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
    }

    /// Opens the GET stream of a session of `ada`.
    #[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
    async fn listen(&self, fields: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.clients).await.unwrap();
        let head = format!(
            "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ada\r\n\
             Accept: text/event-stream\r\n{fields}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    fn reads(&self) -> usize {
        self.server.heard("resources/read").len()
    }
}

/// Head and message of an answer.
async fn answered(mut stream: TcpStream) -> (String, Value) {
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, message) = answer.split_once("\r\n\r\n").unwrap();
    (format!("{head}\r\n"), serde_json::from_str(message).unwrap_or_default())
}

fn envelope() -> Value {
    json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }})
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

#[tokio::test]
async fn a_client_of_either_era_is_told_what_is_kept_in_its_own_words() {
    let stand = Stand::start().await;
    let told = |left: u64, scope: &str| {
        let contents = json!([{"uri": "a:1", "text": "one"}]);
        json!({"resultType": "complete", "contents": contents, "ttlMs": left, "cacheScope": scope})
    };
    assert_eq!(stand.read("ada", "a:1", &json!({})).await["result"], told(60_000, "public"));
    stand.bed.clock.advance(Duration::from_secs(1));
    assert_eq!(
        stand.read("ada", "a:1", &json!({})).await,
        json!({"jsonrpc": "2.0", "id": 7, "result": told(59_000, "private")})
    );
    assert_eq!(stand.reads(), 1);
    let fields = stand.session().await;
    let (_, said) = stand.ask("ada", &fields, &request("resources/read", json!({"uri": "a:1"}))).await;
    assert_eq!(said["result"], json!({"contents": [{"uri": "a:1", "text": "one"}]}));
    assert_eq!(stand.reads(), 1);
    stand.ask("ada", &fields, &request("resources/read", json!({"uri": "a:2"}))).await;
    assert_eq!(stand.read("ada", "a:2", &json!({})).await["result"]["ttlMs"], 60_000);
    assert_eq!(stand.reads(), 2, "what a legacy client reads is kept too");
    stand.read("bo", "a:1", &json!({})).await;
    assert_eq!(stand.reads(), 3, "another caller");
}

#[tokio::test]
async fn a_read_that_says_more_is_not_answered_by_one_that_does_not() {
    let stand = Stand::start().await;
    stand.read("ada", "a:1", &json!({})).await;
    let retries = [json!({"inputResponses": {"a": {"action": "decline"}}}), json!({"inputResponses": {}})];
    for (before, more) in retries.into_iter().chain([json!({"vendor/depth": 2})]).enumerate() {
        stand.read("ada", "a:1", &more).await;
        assert_eq!(stand.reads(), before + 2, "{more}");
        stand.read("ada", "a:1", &json!({"_meta": {"progressToken": 1}})).await;
        assert_eq!(stand.reads(), before + 2, "after {more}");
    }
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\nMcp-Name: a:1\r\nMcp-Param-X: 1\r\n";
    let mut params = envelope();
    params["uri"] = "a:1".into();
    stand.ask("ada", fields, &request("resources/read", params)).await;
    let heard = stand.server.heard("resources/read");
    assert_eq!((heard.len(), heard[4].header("mcp-param-x")), (5, Some("1")), "it goes up with its header");
}

#[tokio::test]
async fn what_came_after_a_notification_is_not_kept() {
    let stand = Stand::start().await;
    for reads in [1, 2] {
        stand.read("ada", "a:noted", &json!({"_meta": {"progressToken": "t"}})).await;
        assert_eq!(stand.reads(), reads);
    }
}

#[tokio::test]
async fn what_a_read_that_says_more_brought_is_not_kept() {
    let stand = Stand::start().await;
    stand.read("ada", "a:1", &json!({"inputResponses": {"a": {"action": "decline"}}})).await;
    stand.read("ada", "a:1", &json!({})).await;
    assert_eq!(stand.reads(), 2);
}

#[tokio::test]
async fn an_older_answer_stands_in_while_its_server_breaks_off() {
    let stand = Stand::start().await;
    let breaks = json!({"_meta": {"breaks": true}});
    assert!(stand.read("ada", "a:broken", &breaks).await["error"].is_object());
    stand.read("ada", "a:broken", &json!({})).await;
    stand.bed.clock.advance(Duration::from_secs(90));
    let result = stand.read("ada", "a:broken", &breaks).await["result"].clone();
    assert_eq!((&result["ttlMs"], &result["contents"][0]["text"]), (&json!(0), &json!("one")));
    assert!(stand.read("bo", "a:broken", &breaks).await["error"].is_object());
}

#[tokio::test]
async fn an_older_answer_is_told_at_once_and_asked_for_again_aside() {
    let stand = Stand::start().await;
    stand.read("ada", "a:1", &json!({})).await;
    stand.bed.clock.advance(Duration::from_secs(61));
    assert_eq!(stand.read("ada", "a:1", &json!({})).await["result"]["ttlMs"], 0);
    let renewed = async {
        while stand.read("ada", "a:1", &json!({})).await["result"]["ttlMs"] == 0 {
            tokio::task::yield_now().await;
        }
    };
    within("the newer answer", renewed).await;
    assert_eq!(stand.reads(), 2);
}

#[tokio::test]
async fn what_a_server_says_to_who_listens_ends_what_is_kept() {
    let stand = Stand::start().await;
    stand.read("ada", "a:1", &json!({})).await;
    let mut params = envelope();
    params["notifications"] = json!({"resourceSubscriptions": ["a:1"]});
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    let mut stream = stand.send("bo", fields, &request("subscriptions/listen", params)).await;
    stand.changes.add_permits(1);
    let mut told = String::new();
    let updated = async {
        while !told.contains("notifications/resources/updated") {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "{told}");
            told.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    within("the news", updated).await;
    stand.read("ada", "a:1", &json!({})).await;
    assert_eq!(stand.reads(), 2);
}

#[tokio::test]
async fn what_is_said_outside_of_calls_ends_what_it_is_about() {
    let stand = Stand::start().await;
    let gateway = &stand.bed.gateway;
    let upstream = Arc::clone(&gateway.active().snapshot.upstreams[0]);
    let table = [
        (UPDATED, 1),
        (r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:2"}}"#, 0),
        (r#"{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}"#, 1),
        (r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#, 0),
    ];
    for (notice, more) in table {
        stand.read("ada", "a:1", &json!({})).await;
        let before = stand.reads();
        let method: Method = Envelope::read(notice).unwrap().method.unwrap();
        for word in hub::words(&upstream.name, &method, notice) {
            hub::outdate(gateway, &upstream, &word);
        }
        stand.bed.clock.advance(Duration::from_millis(1));
        stand.read("ada", "a:1", &json!({})).await;
        assert_eq!(stand.reads() - before, more, "{notice}");
    }
}

#[tokio::test]
async fn a_client_hears_what_a_server_asks_of_its_own_credentials() {
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    for (status, era) in
        [("401 Unauthorized", "modern"), ("403 Forbidden", "modern"), ("401 Unauthorized", "auto")]
    {
        let stand = Stand::challenging(status, &format!(", era: {era}, credentials: passthrough")).await;
        let (head, message) = stand.ask("ada", "", &request("initialize", hello.clone())).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{era}: {head}");
        let asked: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("www-authenticate: ")).collect();
        assert_eq!(asked, ["Bearer a=\"1\"", "Basic"], "{status} {era}");
        if era == "modern" {
            assert_eq!(
                (&message["id"], &message["error"]["data"]["reason"]),
                (&json!(7), &json!("upstream_unauthorized"))
            );
        }
    }
    let stand = Stand::challenging("401 Unauthorized", ", era: modern").await;
    let (head, message) = stand.ask("ada", "", &request("initialize", hello)).await;
    assert!(head.starts_with("HTTP/1.1 502") && !head.contains("www-authenticate"), "{head}");
    assert_eq!(message["error"]["data"]["reason"], "upstream_unauthorized");
}
