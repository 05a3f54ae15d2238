//! A server that writes a marker into many places, and keeps what it gets.

use super::Markers;
use crate::harness::mcp::question;
use crate::harness::{Era, Request, Upstream, Wire};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A running server; it ends with the value.
pub(super) struct MarkingServer {
    upstream: Upstream,
    state: Arc<ServerState>,
}

struct ServerState {
    era: Era,
    sent: Markers,
    received: watch::Sender<Vec<String>>,
}

impl MarkingServer {
    pub(super) async fn start(era: Era) -> MarkingServer {
        let state =
            Arc::new(ServerState { era, sent: Markers::default(), received: watch::Sender::default() });
        let serving = Arc::clone(&state);
        let upstream =
            Upstream::of_an_era(move |request, wire| serve(Arc::clone(&serving), request, wire)).await;
        MarkingServer { upstream, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp", self.upstream.address)
    }

    /// Markers that it has written.
    pub(super) fn sent(&self) -> &Markers {
        &self.state.sent
    }

    /// Heads and bodies of all requests that it got.
    pub(super) fn received(&self) -> Vec<String> {
        self.state.received.borrow().clone()
    }
}

async fn serve(state: Arc<ServerState>, request: Request, wire: Wire) -> Option<Wire> {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    state.received.send_modify(|received| received.push(format!("{}{body}\n", request.head)));
    let verb = request.head.split(' ').next().unwrap_or_default();
    let message: Value = serde_json::from_str(&body).unwrap_or_default();
    match (verb, &message) {
        ("POST", Value::Array(batch)) => state.batch(batch, wire).await,
        ("POST", _) if message["method"].is_null() || message["id"].is_null() => state.accept(wire).await,
        ("POST", _) => state.answer(&message, wire).await,
        ("GET", _) if state.era == Era::Legacy => state.stream(None, wire).await,
        ("DELETE", _) if state.era == Era::Legacy => state.accept(wire).await,
        _ => state.refuse("405 Method Not Allowed", "", "method", wire).await,
    }
}

fn note(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

impl ServerState {
    fn marker(&self, place: &str) -> String {
        self.sent.write(place)
    }

    fn fields(&self, kind: &str) -> String {
        let session = if self.era == Era::Legacy { "mcp-session-id: of-the-server\r\n" } else { "" };
        format!("content-type: {kind}\r\nx-marker: {}\r\n{session}", self.marker("header"))
    }

    async fn accept(&self, wire: Wire) -> Option<Wire> {
        self.send("202 Accepted", &self.fields("text/plain"), "", wire).await
    }

    /// An answer that is no JSON.
    async fn refuse(&self, status: &str, more: &str, place: &str, wire: Wire) -> Option<Wire> {
        let body = format!("<html>{}</html>", self.marker(place));
        self.send(status, &format!("{}{more}", self.fields("text/html")), &body, wire).await
    }

    async fn send(&self, status: &str, fields: &str, body: &str, mut wire: Wire) -> Option<Wire> {
        wire.send(format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())).await;
        Some(wire)
    }

    async fn json(&self, body: &Value, wire: Wire) -> Option<Wire> {
        self.json_as("200 OK", body, wire).await
    }

    async fn json_as(&self, status: &str, body: &Value, wire: Wire) -> Option<Wire> {
        self.send(status, &self.fields("application/json"), &body.to_string(), wire).await
    }

    async fn begin_events(&self, wire: &mut Wire) {
        let fields = self.fields("text/event-stream");
        wire.send(format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n")).await;
    }

    fn result(&self, id: &Value, mut result: Value) -> Value {
        if self.era == Era::Modern && result.get("resultType").is_none() {
            result["resultType"] = "complete".into();
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result, "x-beside": self.marker("beside-result")})
    }

    async fn answer(&self, message: &Value, wire: Wire) -> Option<Wire> {
        let (id, params) = (&message["id"], &message["params"]);
        match message["method"].as_str().unwrap_or_default() {
            "tools/call" => self.call(id, params, wire).await,
            "subscriptions/listen" => self.stream(Some(message), wire).await,
            method => match self.result_of(method, params) {
                Some(result) => self.json(&self.result(id, result), wire).await,
                None => {
                    let error = json!({"code": -32601, "message": self.marker("no-method")});
                    let status = if self.era == Era::Modern { "404 Not Found" } else { "200 OK" };
                    self.json_as(status, &json!({"jsonrpc": "2.0", "id": id, "error": error}), wire).await
                }
            },
        }
    }

    /// The result of everything but a call.
    fn result_of(&self, method: &str, params: &Value) -> Option<Value> {
        let marker = |place: &str| self.marker(place);
        let capabilities = json!({
            "tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true},
            "prompts": {"listChanged": true}, "logging": {}, "completions": {},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        });
        let info = |of: &str| json!({"name": "marking-server", "version": "1", "title": marker(&format!("{of}-title"))});
        Some(match method {
            "initialize" if self.era == Era::Legacy => json!({
                "protocolVersion": params["protocolVersion"], "capabilities": capabilities,
                "serverInfo": info("initialize"), "instructions": marker("initialize-instructions"),
                "_meta": {"x": marker("initialize-meta")}, "x": marker("initialize-member"),
            }),
            "server/discover" if self.era == Era::Modern => json!({
                "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "ttlMs": 60_000,
                "cacheScope": "public", "instructions": marker("discover-instructions"),
                "_meta": {"io.modelcontextprotocol/serverInfo": info("discover"), "x": marker("discover-meta")},
            }),
            "tools/list" => self.list("tools", |name| json!({
                "name": name, "description": marker("tool-description"), "title": marker("tool-title"),
                "annotations": {"title": marker("tool-annotation")}, "x": marker("tool-member"),
                "inputSchema": {"type": "object", "description": marker("tool-schema")},
            }), &["work", "odd", "hangs", "fails", "asks", "page", "challenges", "task"]),
            "prompts/list" => self.list("prompts", |name| json!({
                "name": name, "description": marker("prompt-description"),
                "arguments": [{"name": "text", "description": marker("prompt-argument")}],
            }), &["prompt"]),
            "resources/list" => self.list("resources", |name| json!({
                "uri": format!("server://{name}"), "name": name, "description": marker("resource-description"),
            }), &["item"]),
            "resources/templates/list" => self.list("resourceTemplates", |name| json!({
                "uriTemplate": format!("server://{name}/{{text}}"), "name": name,
                "description": marker("template-description"),
            }), &["any"]),
            "prompts/get" => json!({
                "description": marker("prompt-got"),
                "messages": [{"role": "user", "content": {"type": "text", "text": marker("prompt-message")}}],
            }),
            "resources/read" => json!({
                "contents": [{"uri": params["uri"], "text": marker("read-text"), "mimeType": marker("read-type")}],
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "completion/complete" => json!({"completion": {"values": [marker("completion")]}}),
            "tasks/get" | "tasks/result" => json!({
                "taskId": params["taskId"], "status": "completed", "statusMessage": marker("task-done"),
                "result": {"content": [{"type": "text", "text": marker("task-result")}]},
                "content": [{"type": "text", "text": marker("task-content")}],
            }),
            "ping" | "logging/setLevel" | "resources/subscribe" if self.era == Era::Legacy => json!({}),
            _ => return None,
        })
    }

    fn list(&self, key: &str, entry: impl Fn(&str) -> Value, names: &[&str]) -> Value {
        let entries: Vec<Value> = names.iter().map(|name| entry(name)).collect();
        json!({key: entries, "ttlMs": 60_000, "cacheScope": "public", "_meta": {"x": self.marker("list-meta")}})
    }

    async fn call(&self, id: &Value, params: &Value, mut wire: Wire) -> Option<Wire> {
        let marker = |place: &str| self.marker(place);
        match params["name"].as_str().unwrap_or_default() {
            "page" => self.refuse("400 Bad Request", "", "page", wire).await,
            "challenges" => {
                let challenge = format!("www-authenticate: Bearer realm=\"{}\"\r\n", marker("challenge"));
                self.refuse("401 Unauthorized", &challenge, "challenge-body", wire).await
            }
            "fails" => {
                let error =
                    json!({"code": -32000, "message": marker("error"), "data": {"x": marker("error-data")}});
                let beside = marker("beside-error");
                self.json(&json!({"jsonrpc": "2.0", "id": id, "error": error, "x-beside": beside}), wire)
                    .await
            }
            "task" => {
                let task = json!({"resultType": "task", "taskId": "t-1", "status": "working",
                    "statusMessage": marker("task-begun"), "ttlMs": 60_000});
                self.json(&self.result(id, task), wire).await
            }
            "asks" if self.era == Era::Modern && params["inputResponses"].is_null() => {
                let mut params = self.elicitation();
                params["mode"] = "form".into();
                let asked = json!({"resultType": "input_required", "requestState": marker("request-state"),
                    "inputRequests": {"q": {"method": "elicitation/create", "params": params}}});
                self.json(&self.result(id, asked), wire).await
            }
            name => {
                self.begin_events(&mut wire).await;
                let notes = if name == "odd" { self.odd_events() } else { self.notes(params) };
                for note in notes {
                    wire.chunk(&note).await;
                }
                if name == "hangs" {
                    self.hear("notifications/cancelled").await;
                    return None;
                }
                if name == "asks" && self.era == Era::Legacy {
                    self.question(&mut wire).await;
                }
                let result = json!({
                    "content": [{"type": "text", "text": marker("result")}], "x": marker("result-member"),
                    "structuredContent": {"x": marker("result-structured")}, "_meta": {"x": marker("result-meta")},
                });
                wire.chunk(&format!("data: {}\n\n", self.result(id, result))).await;
                wire.end_chunks().await;
                Some(wire)
            }
        }
    }

    /// Events that may come before an answer.
    fn notes(&self, params: &Value) -> [String; 2] {
        let progress = &params["_meta"]["progressToken"];
        let reported = json!({"progressToken": progress, "progress": 1, "message": self.marker("progress")});
        let log = json!({"level": "error", "logger": self.marker("logger"), "data": self.marker("log")});
        [note("notifications/progress", &reported), note("notifications/message", &log)]
            .map(|note| format!("data: {note}\n\n"))
    }

    /// Events that few servers send there.
    fn odd_events(&self) -> [String; 2] {
        let unknown = note("notifications/of-nobody", &json!({"x": self.marker("unknown-note")}));
        let (comment, name, id) =
            (self.marker("comment"), self.marker("event-name"), self.marker("event-id"));
        [format!(": {comment}\nid: {id}\ndata: {unknown}\n\n"), format!("event: {name}\ndata: {{}}\n\n")]
    }

    /// The parameters of a question.
    fn elicitation(&self) -> Value {
        let mut params = question(&self.marker("question"));
        params["requestedSchema"]["properties"]["name"]["description"] =
            self.marker("question-schema").into();
        params
    }

    /// Asks the client's user, and goes on when the answer has come.
    async fn question(&self, wire: &mut Wire) {
        let params = self.elicitation();
        let request =
            json!({"jsonrpc": "2.0", "id": "q-1", "method": "elicitation/create", "params": params});
        wire.chunk(&format!("data: {request}\n\n")).await;
        self.hear("\"q-1\"").await;
    }

    /// Waits until a request has come with this in it.
    async fn hear(&self, part: &str) {
        let mut received = self.received.subscribe();
        received.wait_for(|all| all.iter().any(|request| request.contains(part))).await.unwrap();
    }

    /// Says what concerns no call, ten times a second.
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
        let log = json!({"level": "error", "data": self.marker("stream-log")});
        let updated = json!({"uri": "server://item", "x": self.marker("stream-updated")});
        let changed = json!({"x": self.marker("stream-changed")});
        let said = [
            format!(": {}\n\n", self.marker("stream-comment")),
            format!("id: {}\ndata: {}\n\n", self.marker("stream-id"), note("notifications/message", log)),
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
            let content = json!({"content": [{"type": "text", "text": self.marker("batch-result")}]});
            self.result(&message["id"], content)
        });
        let answers = Value::Array(answers.collect());
        self.json(&answers, wire).await
    }
}
