//! A server that writes a token into every place that it can write, and keeps what it gets.

use super::Tokens;
use crate::harness::{Era, Request, Upstream, Wire};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A running server; it ends with the value.
pub(super) struct Talkative {
    upstream: Upstream,
    world: Arc<World>,
}

struct World {
    era: Era,
    sent: Tokens,
    received: Mutex<Vec<String>>,
}

impl Talkative {
    pub(super) async fn start(era: Era) -> Talkative {
        let world = Arc::new(World { era, sent: Tokens::default(), received: Mutex::default() });
        let serving = Arc::clone(&world);
        let upstream =
            Upstream::of_an_era(move |request, wire| serve(Arc::clone(&serving), request, wire)).await;
        Talkative { upstream, world }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp", self.upstream.address)
    }

    /// Tokens that it has written.
    pub(super) fn sent(&self) -> &Tokens {
        &self.world.sent
    }

    /// All requests that it got, byte for byte.
    pub(super) fn received(&self) -> Vec<String> {
        self.world.received.lock().unwrap().clone()
    }
}

async fn serve(world: Arc<World>, request: Request, wire: Wire) -> Option<Wire> {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    world.received.lock().unwrap().push(format!("{}{body}\n", request.head));
    let verb = request.head.split(' ').next().unwrap_or_default();
    let message: Value = serde_json::from_str(&body).unwrap_or_default();
    match (verb, &message) {
        ("POST", Value::Array(batch)) => world.batch(batch, wire).await,
        ("POST", _) if message["method"].is_null() || message["id"].is_null() => world.accept(wire).await,
        ("POST", _) => world.answer(&message, wire).await,
        ("GET", _) if world.era == Era::Legacy => world.stream(None, wire).await,
        ("DELETE", _) if world.era == Era::Legacy => world.accept(wire).await,
        _ => world.refuse("405 Method Not Allowed", "", "method", wire).await,
    }
}

fn note(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

impl World {
    fn token(&self, place: &str) -> String {
        self.sent.write(place)
    }

    fn fields(&self, kind: &str) -> String {
        let session = if self.era == Era::Legacy { "mcp-session-id: of-the-server\r\n" } else { "" };
        format!("content-type: {kind}\r\nx-canary: {}\r\n{session}", self.token("header"))
    }

    async fn accept(&self, mut wire: Wire) -> Option<Wire> {
        wire.send(format!("HTTP/1.1 202 Accepted\r\n{}content-length: 0\r\n\r\n", self.fields("text/plain")))
            .await;
        Some(wire)
    }

    /// An answer that is no JSON.
    async fn refuse(&self, status: &str, more: &str, place: &str, mut wire: Wire) -> Option<Wire> {
        let body = format!("<html>{}</html>", self.token(place));
        let fields = self.fields("text/html");
        wire.send(format!("HTTP/1.1 {status}\r\n{fields}{more}content-length: {}\r\n\r\n{body}", body.len()))
            .await;
        Some(wire)
    }

    async fn json(&self, body: &Value, wire: Wire) -> Option<Wire> {
        self.json_as("200 OK", body, wire).await
    }

    async fn json_as(&self, status: &str, body: &Value, mut wire: Wire) -> Option<Wire> {
        let (body, fields) = (body.to_string(), self.fields("application/json"));
        wire.send(format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())).await;
        Some(wire)
    }

    async fn begin_events(&self, wire: &mut Wire) {
        let fields = self.fields("text/event-stream");
        wire.send(format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n")).await;
    }

    fn result(&self, id: &Value, mut result: Value) -> Value {
        if self.era == Era::Modern && result.get("resultType").is_none() {
            result["resultType"] = "complete".into();
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result, "x-beside": self.token("beside-result")})
    }

    async fn answer(&self, message: &Value, wire: Wire) -> Option<Wire> {
        let (id, params) = (&message["id"], &message["params"]);
        match message["method"].as_str().unwrap_or_default() {
            "tools/call" => self.call(id, params, wire).await,
            "subscriptions/listen" => self.stream(Some(message), wire).await,
            method => match self.told(method, params) {
                Some(result) => self.json(&self.result(id, result), wire).await,
                None => {
                    let error = json!({"code": -32601, "message": self.token("no-method")});
                    let status = if self.era == Era::Modern { "404 Not Found" } else { "200 OK" };
                    self.json_as(status, &json!({"jsonrpc": "2.0", "id": id, "error": error}), wire).await
                }
            },
        }
    }

    /// The result of everything but a call.
    fn told(&self, method: &str, params: &Value) -> Option<Value> {
        let token = |place: &str| self.token(place);
        let capabilities = json!({
            "tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true},
            "prompts": {"listChanged": true}, "logging": {}, "completions": {},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        });
        let info =
            |of: &str| json!({"name": "talkative", "version": "1", "title": token(&format!("{of}-title"))});
        Some(match method {
            "initialize" if self.era == Era::Legacy => json!({
                "protocolVersion": params["protocolVersion"], "capabilities": capabilities,
                "serverInfo": info("initialize"), "instructions": token("initialize-instructions"),
                "_meta": {"x": token("initialize-meta")}, "x": token("initialize-member"),
            }),
            "server/discover" if self.era == Era::Modern => json!({
                "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "ttlMs": 60_000,
                "cacheScope": "public", "instructions": token("discover-instructions"),
                "_meta": {"io.modelcontextprotocol/serverInfo": info("discover"), "x": token("discover-meta")},
            }),
            "tools/list" => self.list("tools", |name| json!({
                "name": name, "description": token("tool-description"), "title": token("tool-title"),
                "annotations": {"title": token("tool-annotation")}, "x": token("tool-member"),
                "inputSchema": {"type": "object", "description": token("tool-schema")},
            }), &["work", "odd", "fails", "asks", "page", "challenges", "task"]),
            "prompts/list" => self.list("prompts", |name| json!({
                "name": name, "description": token("prompt-description"),
                "arguments": [{"name": "text", "description": token("prompt-argument")}],
            }), &["prompt"]),
            "resources/list" => self.list("resources", |name| json!({
                "uri": format!("talkative://{name}"), "name": name, "description": token("resource-description"),
            }), &["item"]),
            "resources/templates/list" => self.list("resourceTemplates", |name| json!({
                "uriTemplate": format!("talkative://{name}/{{text}}"), "name": name,
                "description": token("template-description"),
            }), &["any"]),
            "prompts/get" => json!({
                "description": token("prompt-got"),
                "messages": [{"role": "user", "content": {"type": "text", "text": token("prompt-message")}}],
            }),
            "resources/read" => json!({
                "contents": [{"uri": params["uri"], "text": token("read-text"), "mimeType": token("read-type")}],
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "completion/complete" => json!({"completion": {"values": [token("completion")]}}),
            "tasks/get" | "tasks/result" => json!({
                "taskId": params["taskId"], "status": "completed", "statusMessage": token("task-done"),
                "result": {"content": [{"type": "text", "text": token("task-result")}]},
                "content": [{"type": "text", "text": token("task-content")}],
            }),
            "ping" | "logging/setLevel" | "resources/subscribe" if self.era == Era::Legacy => json!({}),
            _ => return None,
        })
    }

    fn list(&self, key: &str, entry: impl Fn(&str) -> Value, names: &[&str]) -> Value {
        let entries: Vec<Value> = names.iter().map(|name| entry(name)).collect();
        json!({key: entries, "ttlMs": 60_000, "cacheScope": "public", "_meta": {"x": self.token("list-meta")}})
    }

    async fn call(&self, id: &Value, params: &Value, mut wire: Wire) -> Option<Wire> {
        let token = |place: &str| self.token(place);
        match params["name"].as_str().unwrap_or_default() {
            "page" => self.refuse("400 Bad Request", "", "page", wire).await,
            "challenges" => {
                let challenge = format!("www-authenticate: Bearer realm=\"{}\"\r\n", token("challenge"));
                self.refuse("401 Unauthorized", &challenge, "challenge-body", wire).await
            }
            "fails" => {
                let error =
                    json!({"code": -32000, "message": token("error"), "data": {"x": token("error-data")}});
                let beside = token("beside-error");
                self.json(&json!({"jsonrpc": "2.0", "id": id, "error": error, "x-beside": beside}), wire)
                    .await
            }
            "task" => {
                let task = json!({"resultType": "task", "taskId": "t-1", "status": "working",
                    "statusMessage": token("task-begun"), "ttlMs": 60_000});
                self.json(&self.result(id, task), wire).await
            }
            "asks" if self.era == Era::Modern && params["inputResponses"].is_null() => {
                let schema = json!({"type": "object", "properties": {"name": {"type": "string",
                    "description": token("question-schema")}}});
                let params = json!({"mode": "form", "message": token("question"), "requestedSchema": schema});
                let asked = json!({"resultType": "input_required", "requestState": token("request-state"),
                    "inputRequests": {"q": {"method": "elicitation/create", "params": params}}});
                self.json(&self.result(id, asked), wire).await
            }
            name => {
                self.begin_events(&mut wire).await;
                let notes = if name == "odd" { self.odd_events() } else { self.notes(params) };
                for note in notes {
                    wire.chunk(&note).await;
                }
                if name == "asks" && self.era == Era::Legacy {
                    self.question(&mut wire).await;
                }
                let result = json!({
                    "content": [{"type": "text", "text": token("result")}], "x": token("result-member"),
                    "structuredContent": {"x": token("result-structured")}, "_meta": {"x": token("result-meta")},
                });
                wire.chunk(&format!("data: {}\n\n", self.result(id, result))).await;
                wire.end_chunks().await;
                Some(wire)
            }
        }
    }

    /// What a server may say before an answer.
    fn notes(&self, params: &Value) -> [String; 2] {
        let progress = &params["_meta"]["progressToken"];
        let reported = json!({"progressToken": progress, "progress": 1, "message": self.token("progress")});
        let log = json!({"level": "error", "logger": self.token("logger"), "data": self.token("log")});
        [note("notifications/progress", &reported), note("notifications/message", &log)]
            .map(|note| format!("data: {note}\n\n"))
    }

    /// What few servers say there.
    fn odd_events(&self) -> [String; 2] {
        let unknown = note("notifications/of-nobody", &json!({"x": self.token("unknown-note")}));
        let (comment, name, id) = (self.token("comment"), self.token("event-name"), self.token("event-id"));
        [format!(": {comment}\nid: {id}\ndata: {unknown}\n\n"), format!("event: {name}\ndata: {{}}\n\n")]
    }

    /// Asks the client's user, and goes on when the answer has come.
    async fn question(&self, wire: &mut Wire) {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string",
            "description": self.token("question-schema")}}});
        let params = json!({"message": self.token("question"), "requestedSchema": schema});
        let request =
            json!({"jsonrpc": "2.0", "id": "q-1", "method": "elicitation/create", "params": params});
        wire.chunk(&format!("data: {request}\n\n")).await;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !self.received.lock().unwrap().iter().any(|request| request.contains("\"q-1\"")) {
            tick.tick().await;
        }
    }

    /// What is said outside of calls, again and again.
    async fn stream(&self, listen: Option<&Value>, mut wire: Wire) -> Option<Wire> {
        self.begin_events(&mut wire).await;
        let tag = listen.map(|listen| json!({"io.modelcontextprotocol/subscriptionId": listen["id"]}));
        let note = |method: &str, mut params: Value| {
            if let Some(tag) = &tag {
                params["_meta"] = tag.clone();
            }
            note(method, &params)
        };
        if let Some(listen) = listen {
            let wanted = json!({"notifications": listen["params"]["notifications"]});
            let acknowledged = note("notifications/subscriptions/acknowledged", wanted);
            wire.chunk(&format!("data: {acknowledged}\n\n")).await;
        }
        let log = json!({"level": "error", "data": self.token("stream-log")});
        let updated = json!({"uri": "talkative://item", "x": self.token("stream-updated")});
        let changed = json!({"x": self.token("stream-changed")});
        let said = [
            format!(": {}\n\n", self.token("stream-comment")),
            format!("id: {}\ndata: {}\n\n", self.token("stream-id"), note("notifications/message", log)),
            format!("data: {}\n\n", note("notifications/resources/updated", updated)),
            format!("data: {}\n\n", note("notifications/tools/list_changed", changed)),
        ];
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                () = wire.closed() => return None,
                _ = tick.tick() => {}
            }
            for event in &said {
                wire.chunk(event).await;
            }
        }
    }

    /// A batch of calls, whose answers come in one.
    async fn batch(&self, batch: &[Value], wire: Wire) -> Option<Wire> {
        let answers = batch.iter().filter(|message| !message["id"].is_null()).map(|message| {
            let content = json!({"content": [{"type": "text", "text": self.token("batch-result")}]});
            self.result(&message["id"], content)
        });
        let answers = Value::Array(answers.collect());
        self.json(&answers, wire).await
    }
}
