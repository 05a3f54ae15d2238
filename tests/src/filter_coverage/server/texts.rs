//! The texts that a server writes into results, events and questions.

use super::ServerState;
use crate::filter_coverage::{HUGE, LARGE};
use crate::harness::Era;
use crate::harness::mcp::question;
use serde_json::{Value, json};

/// A notification.
pub(super) fn note(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

impl ServerState {
    /// The result of everything but a call.
    pub(super) fn result_of(&self, method: &str, params: &Value) -> Option<Value> {
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
                "_meta": {"x": marker("tool-meta")}, "outputSchema": {"type": "object", "description": marker("tool-output")},
                "icons": [{"src": format!("https://a.example/{}", marker("tool-icon"))}], marker("tool-key"): 1,
                "inputSchema": {"type": "object", "description": marker("tool-schema")},
            }), &["work", "odd", "hangs", "fails", "asks", "asks_all", "asks_in_vain", "forbids", "moves", "waits", "large", "huge",
                "large_event", "huge_event", "contents", "page", "challenges", "task"]),
            "prompts/list" => self.list("prompts", |name| json!({
                "name": name, "title": marker("prompt-title"), "_meta": {"x": marker("prompt-meta")}, "description": marker("prompt-description"),
                "arguments": [{"name": "text", "description": marker("prompt-argument")}],
            }), &["prompt", &marker("prompt-name")]),
            "resources/list" => self.list("resources", |name| json!({
                "uri": format!("server://{name}"), "name": name, "title": marker("resource-title"),
                "mimeType": marker("resource-type"), "description": marker("resource-description"),
            }), &["item", &marker("resource-uri")]),
            "resources/templates/list" => self.pages(params, self.list("resourceTemplates", |name| json!({
                "uriTemplate": format!("server://{name}/{{text}}"), "name": name,
                "description": marker("template-description"),
            }), &["any", &marker("template-uri")])),
            "prompts/get" => json!({
                "description": marker("prompt-got"),
                "messages": [{"role": "user", "content": {"type": "text", "text": marker("prompt-message")}}],
            }),
            "resources/read" => json!({
                "contents": [
                    {"uri": params["uri"], "text": marker("read-text"), "mimeType": marker("read-type")},
                    {"uri": format!("server://{}", marker("read-item-uri")), "blob": marker("read-blob")},
                ],
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

    /// The list with a page behind it, or the last page, which is empty.
    fn pages(&self, params: &Value, mut list: Value) -> Value {
        match params["cursor"].is_string() {
            true => list["resourceTemplates"] = json!([]),
            false => list["nextCursor"] = self.marker("cursor").into(),
        }
        list
    }

    /// Contents of other kinds than text.
    pub(super) fn contents(&self) -> Value {
        let marker = |place: &str| self.marker(place);
        json!({"isError": true, marker("result-key"): 1, "content": [
            {"type": "image", "data": marker("image-data"), "mimeType": marker("image-type")},
            {"type": "audio", "data": marker("audio-data"), "mimeType": "audio/wav"},
            {"type": "text", "text": "x", "annotations": {"audience": [marker("content-audience")]},
             "_meta": {"x": marker("content-meta")}},
            {"type": "resource_link", "uri": format!("server://{}", marker("link-uri")), "name": marker("link-name"),
             "description": marker("link-description")},
            {"type": "resource", "resource": {"uri": "server://item", "text": marker("embedded-text")}},
            {"type": "resource", "resource": {"uri": "server://item", "blob": marker("embedded-blob")}},
            {"type": marker("content-type"), "x": marker("unknown-content")},
        ]})
    }

    /// A result that filters read on another thread, with a marker at each end.
    pub(super) fn large_result(&self, tool: &str, place: &str) -> Value {
        let size = if tool.starts_with("huge") { HUGE } else { LARGE };
        let [first, last] = ["first", "last"].map(|end| self.marker(&format!("{tool}-{place}-{end}")));
        json!({"content": [{"type": "text", "text": format!("{first}{}{last}", "x".repeat(size))}]})
    }

    /// Events that may come before an answer.
    pub(super) fn notes(&self, params: &Value) -> [String; 2] {
        let progress = &params["_meta"]["progressToken"];
        let reported = json!({"progressToken": progress, "progress": 1, "message": self.marker("progress")});
        let log = json!({"level": "error", "logger": self.marker("logger"), "data": self.marker("log")});
        [note("notifications/progress", &reported), note("notifications/message", &log)]
            .map(|note| format!("data: {note}\n\n"))
    }

    /// Events that few servers send there.
    pub(super) fn odd_events(&self) -> [String; 2] {
        let unknown = note("notifications/of-nobody", &json!({"x": self.marker("unknown-note")}));
        let (comment, name, id) =
            (self.marker("comment"), self.marker("event-name"), self.marker("event-id"));
        let retry = self.marker("event-retry");
        let asked = json!({"jsonrpc": "2.0", "id": self.marker("request-id"), "method": "x/unknown",
            "params": {"x": self.marker("unknown-request")}});
        let ping = json!({"jsonrpc": "2.0", "id": self.marker("ping-id"), "method": "ping",
            "params": {"_meta": {"x": self.marker("ping-meta")}}});
        let asked = match self.era {
            Era::Legacy => format!("data: {asked}\n\ndata: {ping}\n\n"),
            Era::Modern => String::new(),
        };
        [
            format!("{asked}retry: {retry}\n: {comment}\nid: {id}\ndata: {unknown}\n\n"),
            format!("event: {name}\ndata: {{}}\n\n"),
        ]
    }

    /// The questions of a tool, by their keys.
    pub(super) fn questions_of(&self, tool: &str) -> Value {
        let marker = |place: &str| self.marker(place);
        let elicitation = json!({"method": "elicitation/create", "params": self.elicitation("question")});
        match tool {
            "asks" => json!({"q": elicitation}),
            "asks_in_vain" => {
                json!({"vain": {"method": "elicitation/create", "params": self.elicitation("question-vain")}})
            }
            _ => json!({
                marker("question-key"): elicitation,
                "url": {"method": "elicitation/create", "params": {
                    "mode": "url", "message": marker("url-message"), "url": format!("https://a.example/{}", marker("url")),
                }},
                "sampling": {"method": "sampling/createMessage", "params": {
                    "messages": [{"role": "user", "content": {"type": "text", "text": marker("sampling-message")}}],
                    "systemPrompt": marker("sampling-prompt"), "maxTokens": 9, "stopSequences": [marker("sampling-stop")],
                    "modelPreferences": {"hints": [{"name": marker("sampling-hint")}]},
                    "metadata": {"x": marker("sampling-metadata")}, "_meta": {"x": marker("sampling-meta")},
                }},
                "roots": {"method": "roots/list", "params": {"_meta": {"x": marker("roots-meta")}}},
            }),
        }
    }

    /// The parameters of a question to the user.
    fn elicitation(&self, place: &str) -> Value {
        let mut params = question(&self.marker(place));
        params["mode"] = "form".into();
        params["requestedSchema"]["properties"]["name"]["description"] =
            self.marker("question-schema").into();
        params["_meta"] = json!({"x": self.marker("question-meta")});
        params["x"] = self.marker("question-member").into();
        params
    }
}
