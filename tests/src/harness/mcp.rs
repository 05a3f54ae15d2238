//! A small MCP server of one era, which counts what it is asked and leaves calls to the test.

mod call;
mod fault;
mod nature;

use super::{Request, Upstream, Wire, within};
pub(crate) use call::{Call, Session, question};
use fault::{Fault, result};
pub(crate) use fault::{text, tool};
pub(crate) use nature::Nature;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Which half of the protocol's history is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-11-25: sessions, a GET stream, requests from the server.
    Legacy,
    /// 2026-07-28: no state.
    Modern,
}

/// A result, or code and message of an error.
pub(crate) type Reply = Result<Value, RpcError>;

/// An error by its code, message and `data`, an object or nothing.
pub(crate) struct RpcError(pub(crate) i64, pub(crate) &'static str, pub(crate) Value);

impl From<(i64, &'static str)> for RpcError {
    fn from((code, message): (i64, &'static str)) -> RpcError {
        RpcError(code, message, Value::Null)
    }
}

type Script = dyn Fn(Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync;

/// A running server; it ends with the value.
pub(crate) struct Mcp {
    upstream: Upstream,
    world: Arc<World>,
}

struct World {
    nature: Nature,
    tools: Mutex<Vec<Value>>,
    /// Status and headers that stand in for every answer.
    refusal: Mutex<Option<String>>,
    script: Box<Script>,
    counts: Mutex<BTreeMap<String, usize>>,
    heads: Mutex<Vec<String>>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    founded: AtomicUsize,
    /// Notifications for every stream, each with its event; or the end of them all.
    notes: broadcast::Sender<Option<Arc<(Value, String)>>>,
}

impl Mcp {
    /// Starts a server with these tools; `script` answers calls.
    pub(crate) async fn start<S, F>(nature: Nature, tools: Vec<Value>, script: S) -> Mcp
    where
        S: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let world = Arc::new(World {
            nature,
            tools: Mutex::new(tools),
            refusal: Mutex::default(),
            script: Box::new(move |call| Box::pin(script(call))),
            counts: Mutex::default(),
            heads: Mutex::default(),
            sessions: Mutex::default(),
            founded: AtomicUsize::new(0),
            notes: broadcast::Sender::new(64),
        });
        let serving = Arc::clone(&world);
        let upstream =
            Upstream::of_an_era(move |request, wire| serve(Arc::clone(&serving), request, wire)).await;
        Mcp { upstream, world }
    }

    /// A server whose tools answer with their own name.
    pub(crate) async fn naming(nature: Nature, names: &[String]) -> Mcp {
        let tools = names.iter().map(|name| tool(name)).collect();
        Mcp::start(nature, tools, |call: Call| async move { Ok(text(call.tool())) }).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.upstream.address)
    }

    /// How often it got a message of this method; verbs and credentials count too.
    pub(crate) fn counted(&self, method: &str) -> usize {
        self.world.counts.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    /// Waits until it has counted so many.
    pub(crate) async fn reaches(&self, what: &str, count: usize) {
        let reached = async {
            while self.counted(what) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(10, &format!("{what} to come {count} times"), reached).await;
    }

    /// Request line and headers of all that came, in the order in which it came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.world.heads.lock().unwrap().clone()
    }

    /// All counts.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.world.counts.lock().unwrap().clone()
    }

    /// Legacy sessions that were not ended.
    pub(crate) fn sessions(&self) -> usize {
        self.world.sessions.lock().unwrap().len()
    }

    /// Is as after a restart: sessions are forgotten, open streams have ended, the tools are others.
    pub(crate) fn restart(&self, tools: Vec<Value>) {
        *self.world.tools.lock().unwrap() = tools;
        self.forget();
        self.world.notes.send(None).ok();
    }

    /// Has other tools from now on, and says nothing of it.
    pub(crate) fn set_tools(&self, tools: Vec<Value>) {
        *self.world.tools.lock().unwrap() = tools;
    }

    /// Answers everything by this status line and these headers from now on, or nothing any more.
    pub(crate) fn refuse(&self, head: Option<&str>) {
        *self.world.refusal.lock().unwrap() = head.map(str::to_owned);
    }

    /// Forgets all sessions, as a restart does.
    pub(crate) fn forget(&self) {
        self.world.sessions.lock().unwrap().clear();
    }

    /// Says that something happened, on every stream that listens.
    pub(crate) fn note(&self, method: &str, params: Value) {
        let note = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let event = event(&note);
        self.world.notes.send(Some(Arc::new((note, event)))).ok();
    }
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

async fn serve(world: Arc<World>, request: Request, mut wire: Wire) -> Option<Wire> {
    world.heads.lock().unwrap().push(request.head.clone());
    let verb = request.head.split(' ').next().unwrap_or_default();
    let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    world.count(message["method"].as_str().unwrap_or(if verb == "POST" { "an answer" } else { verb }));
    if let Some(credential) = request.header("authorization") {
        world.count(credential);
    }
    let refusal = world.refusal.lock().unwrap().clone();
    if let Some(head) = refusal {
        let body = "<html>busy</html>";
        let fields = format!("content-type: text/html\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        wire.send(format!("HTTP/1.1 {head}\r\n{fields}")).await;
        return Some(wire);
    }
    if !world.nature.delay.is_zero() {
        tokio::select! {
            () = wire.closed() => return None,
            () = tokio::time::sleep(world.nature.delay) => {}
        }
    }
    match (world.nature.era, verb) {
        (Era::Modern, "POST") => world.modern(&message, wire).await,
        (Era::Modern, _) => {
            wire.send("HTTP/1.1 405 Method Not Allowed\r\nallow: POST\r\ncontent-length: 0\r\n\r\n").await;
            Some(wire)
        }
        (Era::Legacy, "POST") if message["method"] == "initialize" => world.found(&message, wire).await,
        (Era::Legacy, verb) => {
            let id = request.header("mcp-session-id");
            let session = id.and_then(|id| world.sessions.lock().unwrap().get(id).cloned());
            let Some(session) = session else {
                let status = if id.is_some() { world.nature.unknown } else { 400 };
                if status < 300 {
                    wire.send(format!("HTTP/1.1 {status} Fine\r\ncontent-length: 0\r\n\r\n")).await;
                    return Some(wire);
                }
                Fault::new(status, -32001, "no such session").send(&mut wire, &message["id"]).await;
                return Some(wire);
            };
            match verb {
                "POST" => world.legacy(session, &message, wire).await,
                "GET" => world.listen(wire, None).await,
                _ => {
                    world.sessions.lock().unwrap().remove(&session.id);
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    Some(wire)
                }
            }
        }
    }
}

impl World {
    fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    async fn found(&self, message: &Value, mut wire: Wire) -> Option<Wire> {
        let number = self.founded.fetch_add(1, Ordering::SeqCst);
        let id = format!("upstream-{number}-{:p}", self);
        self.sessions
            .lock()
            .unwrap()
            .insert(id.clone(), Arc::new(Session { id: id.clone(), ..Session::default() }));
        let result = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}},
            "serverInfo": {"name": "scripted", "version": "1"},
            "instructions": self.nature.instructions,
        });
        let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
        wire.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: {id}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        Some(wire)
    }

    async fn legacy(
        self: &Arc<Self>,
        session: Arc<Session>,
        message: &Value,
        mut wire: Wire,
    ) -> Option<Wire> {
        if message.get("method").is_none() {
            let waiting = session.waiting.lock().unwrap().remove(message["id"].as_str().unwrap_or_default());
            if let Some(waiting) = waiting {
                waiting.send(message.clone()).ok();
            }
        }
        if message.get("method").is_none() || message.get("id").is_none() {
            wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
            return Some(wire);
        }
        match message["method"].as_str().unwrap_or_default() {
            "tools/call" => self.call(Some(session), message, wire).await,
            "tools/list" => self.list(message, wire).await,
            "resources/list" => {
                let watched = json!({"uri": "scripted://watched", "name": "watched"});
                result(&mut wire, &message["id"], json!({"resources": [watched]})).await;
                Some(wire)
            }
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
                result(&mut wire, &message["id"], json!({})).await;
                Some(wire)
            }
            _ => {
                Fault::new(200, -32601, Fault::NO_METHOD).send(&mut wire, &message["id"]).await;
                Some(wire)
            }
        }
    }

    async fn modern(self: &Arc<Self>, message: &Value, mut wire: Wire) -> Option<Wire> {
        if message.get("id").is_none() {
            wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
            return Some(wire);
        }
        let claimed = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        if claimed != "2026-07-28" {
            let data = json!({"supported": ["2026-07-28"], "requested": claimed});
            Fault { data, ..Fault::new(400, -32022, "Unsupported protocol version") }
                .send(&mut wire, &message["id"])
                .await;
            return Some(wire);
        }
        match message["method"].as_str().unwrap_or_default() {
            method if method == "tools/call" || method.starts_with("tasks/") => {
                self.call(None, message, wire).await
            }
            "tools/list" => self.list(message, wire).await,
            "subscriptions/listen" => self.listen(wire, Some(message)).await,
            "server/discover" => {
                let found = json!({
                    "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": self.nature.ttl_ms,
                    "cacheScope": "private", "capabilities": {"tools": {"listChanged": true}},
                    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1"}},
                    "instructions": self.nature.instructions,
                });
                result(&mut wire, &message["id"], found).await;
                Some(wire)
            }
            _ => {
                Fault::new(404, -32601, Fault::NO_METHOD).send(&mut wire, &message["id"]).await;
                Some(wire)
            }
        }
    }

    async fn list(&self, message: &Value, mut wire: Wire) -> Option<Wire> {
        let cursor = message["params"]["cursor"].as_str();
        let start: usize = cursor.map_or(0, |cursor| cursor.parse().expect("a cursor of this server"));
        let mut list = {
            let tools = self.tools.lock().unwrap();
            let end = start.saturating_add(self.nature.page).min(tools.len());
            let mut list = json!({"tools": tools[start..end]});
            if end < tools.len() {
                list["nextCursor"] = end.to_string().into();
            }
            list
        };
        if self.nature.era == Era::Modern {
            list["resultType"] = "complete".into();
            list["ttlMs"] = self.nature.ttl_ms.into();
            list["cacheScope"] = self.nature.scope.into();
        }
        result(&mut wire, &message["id"], list).await;
        Some(wire)
    }

    /// Runs the script, with its questions on an event stream if it has any.
    async fn call(
        self: &Arc<Self>,
        session: Option<Arc<Session>>,
        message: &Value,
        mut wire: Wire,
    ) -> Option<Wire> {
        let (stream, mut asked) = mpsc::channel(1);
        let (method, params) =
            (message["method"].as_str().unwrap_or_default().to_owned(), message["params"].clone());
        let mut answer =
            pin!((self.script)(Call { method, params, session, stream, world: Arc::clone(self) }));
        let mut streams = false;
        let reply = loop {
            tokio::select! {
                Some(request) = asked.recv() => {
                    if !std::mem::replace(&mut streams, true) {
                        wire.begin_events().await;
                    }
                    wire.chunk(&format!("data: {request}\n\n")).await;
                }
                reply = &mut answer => break reply,
                () = wire.closed() => return None,
            }
        };
        // What was said right before the answer.
        while let Ok(request) = asked.try_recv() {
            if !std::mem::replace(&mut streams, true) {
                wire.begin_events().await;
            }
            wire.chunk(&format!("data: {request}\n\n")).await;
        }
        let answer = match reply {
            Ok(mut result) => {
                if self.nature.era == Era::Modern && result.get("resultType").is_none() {
                    result["resultType"] = "complete".into();
                }
                json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
            }
            Err(RpcError(code, reason, data)) => {
                let mut error = json!({"code": code, "message": reason});
                data.as_object().into_iter().for_each(|data| error["data"] = json!(data));
                json!({"jsonrpc": "2.0", "id": message["id"], "error": error})
            }
        };
        if streams {
            wire.chunk(&format!("data: {answer}\n\n")).await;
            wire.end_chunks().await;
        } else {
            wire.json(&answer.to_string()).await;
        }
        Some(wire)
    }

    /// A GET stream, or with a message the stream of its `subscriptions/listen`.
    async fn listen(&self, mut wire: Wire, message: Option<&Value>) -> Option<Wire> {
        let mut notes = self.notes.subscribe();
        wire.begin_events().await;
        let tag = message.map(|message| json!({"io.modelcontextprotocol/subscriptionId": message["id"]}));
        if let (Some(message), Some(tag)) = (message, &tag) {
            let params = json!({"notifications": message["params"]["notifications"], "_meta": tag});
            let method = "notifications/subscriptions/acknowledged";
            let acknowledged = json!({"jsonrpc": "2.0", "method": method, "params": params});
            wire.chunk(&event(&acknowledged)).await;
        }
        loop {
            tokio::select! {
                () = wire.closed() => return None,
                note = notes.recv() => {
                    let Some(note) = note.ok()? else {
                        wire.end_chunks().await;
                        return None;
                    };
                    let Some(tag) = &tag else {
                        wire.chunk(&note.1).await;
                        continue;
                    };
                    let mut tagged = note.0.clone();
                    tagged["params"]["_meta"] = tag.clone();
                    wire.chunk(&event(&tagged)).await;
                }
            }
        }
    }
}
