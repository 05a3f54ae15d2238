//! Sends what few clients do: members and headers of their own, and messages that no server knows.

use super::{MarkingClient, named};
use crate::filter_coverage::FIELD_NAME_END;
use crate::filter_coverage::server::Transport;
use crate::harness::{Client, dial, within};
use serde_json::json;

/// Header fields that a client may write a marker into, and what stands around it.
const FIELDS: [(&str, &str, &str); 22] = [
    ("tracestate", "vendor=", ""),
    ("traceparent", "", ""),
    ("baggage", "key=", ""),
    ("x-request-id", "", ""),
    ("x-correlation-id", "", ""),
    ("x-b3-traceid", "", ""),
    ("x-forwarded-for", "", ""),
    ("x-forwarded-host", "", ""),
    ("x-forwarded-proto", "", ""),
    ("forwarded", "for=\"", "\""),
    ("x-real-ip", "", ""),
    ("via", "1.1 ", ""),
    ("cookie", "a=", ""),
    ("authorization", "Bearer ", ""),
    ("accept-language", "", ""),
    ("referer", "https://a.example/", ""),
    ("cache-control", "x=", ""),
    ("mcp-param-x", "", ""),
    ("mcp-unknown", "", ""),
    ("last-event-id", "", ""),
    ("x-portunus-subject", "", ""),
    ("sec-fetch-site", "", ""),
];

impl MarkingClient {
    pub(super) async fn do_odd_things(&mut self, tools: &[String]) {
        let tool = named(tools, "contents");
        self.say_more(&tool).await;
        self.say_unknown().await;
        if self.transport == Transport::StreamableHttp {
            self.send_fields(&tool).await;
        }
    }

    /// Calls with members that are the client's own.
    async fn say_more(&mut self, tool: &str) {
        let marker = |place: &str| self.sent.write(place);
        let meta = json!({"traceparent": marker("meta-traceparent"), "tracestate": marker("meta-tracestate"),
            "baggage": marker("meta-baggage"), "io.modelcontextprotocol/x": marker("meta-reserved"), marker("meta-key"): 1});
        let params = json!({"name": tool, "arguments": {marker("argument-key"): 1}, "x": marker("parameter"),
            marker("parameter-key"): 1, "_meta": meta});
        let request = self.message("tools/call", params);
        within(20, "a call", self.exchange(&request)).await;
        let mut request = self.message("tools/call", json!({"name": tool, "arguments": {}}));
        request["id"] = self.sent.write("id").into();
        within(20, "a call with a text for an id", self.exchange(&request)).await;
        let mut request = self.message("tools/call", json!({"name": tool, "arguments": {}}));
        request["x"] = self.sent.write("beside-params").into();
        request[self.sent.write("beside-key")] = 1.into();
        within(20, "a call with members beside", self.exchange(&request)).await;
        let answers = json!({self.sent.write("answer-key"): {"x": self.sent.write("unasked-answer")}});
        let state = self.sent.write("client-state");
        let params = json!({"name": tool, "arguments": {}, "inputResponses": answers, "requestState": state});
        self.request("tools/call", params).await;
    }

    /// Messages that a server may not know.
    async fn say_unknown(&mut self) {
        let method = format!("x/{}", self.sent.write("method"));
        self.request(&method, json!({})).await;
        let x = self.sent.write("unknown-parameter");
        self.request("x/unknown", json!({"x": x})).await;
        for (method, key, place) in [
            ("logging/setLevel", "level", "log-level"),
            ("resources/unsubscribe", "uri", "unsubscribe-uri"),
            ("prompts/get", "name", "asked-prompt"),
            ("tasks/get", "taskId", "task-id"),
            ("tasks/cancel", "taskId", "cancelled-task"),
            ("ping", "x", "ping"),
        ] {
            let text = self.sent.write(place);
            self.request(method, json!({key: text})).await;
        }
        for (method, place) in [
            ("notifications/unknown", "client-note"),
            ("notifications/roots/list_changed", "roots-changed"),
            ("notifications/progress", "client-progress"),
        ] {
            let x = self.sent.write(place);
            let mut note =
                self.message(method, json!({"x": x, "message": x, "progressToken": 1, "progress": 1}));
            note.as_object_mut().unwrap().remove("id");
            self.post(&note).await;
        }
    }

    /// Calls with a header field or a path that has a marker, each by itself since it may be refused.
    async fn send_fields(&mut self, tool: &str) {
        for (name, before, after) in FIELDS {
            let value = format!("{before}{}{after}", self.sent.write(&format!("field-{name}")));
            self.call_with("", &[(name, value)], tool).await;
        }
        // A name that has a dot is dropped.
        let name = format!("x-{}", self.sent.write("field-name").replace('.', FIELD_NAME_END));
        self.call_with("", &[(&name, "1".to_owned())], tool).await;
        let query = format!("?x={}", self.sent.write("query"));
        self.call_with(&query, &[], tool).await;
        let path = format!("/{}", self.sent.write("path"));
        self.call_with(&path, &[], tool).await;
        let host = self.sent.write("field-host");
        self.call_at(&host, tool).await;
    }

    async fn call_with(&mut self, path: &str, fields: &[(&str, String)], tool: &str) {
        let message = self.message("tools/call", json!({"name": tool, "arguments": {}}));
        let all: Vec<(&str, String)> =
            self.fields(&message).into_iter().chain(fields.iter().cloned()).collect();
        let mut connection = self.connect(&message).await;
        connection.post(&format!("{}{path}", self.path), &all, message.to_string().as_bytes()).await;
        let mut head = self.read_head(&mut connection).await;
        self.read_body(&mut connection, &mut head).await;
    }

    /// Calls under a host name of the client's choice.
    async fn call_at(&mut self, host: &str, tool: &str) {
        let message = self.message("tools/call", json!({"name": tool, "arguments": {}}));
        let fields: String =
            self.fields(&message).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let body = message.to_string();
        let mut connection = Client::over(dial(self.owner).await.unwrap(), self.owner);
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {host}\r\n{fields}content-type: application/json\r\naccept: application/json, \
             text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            body.len()
        );
        connection.send(head.as_bytes()).await;
        let mut head = self.read_head(&mut connection).await;
        self.read_body(&mut connection, &mut head).await;
    }
}
