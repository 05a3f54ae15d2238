//! A server that writes a marker into many places, and keeps what it gets.

mod output;
mod refusals;
mod texts;

use super::Markers;
use crate::harness::{Era, Request, Upstream, Wire};
use output::Output;
use refusals::refusal_of;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use texts::note;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// The transport that a side speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    StreamableHttp,
    /// That of 2024-11-05: answers come on one stream.
    HttpSse,
}

/// A running server; it ends with the value.
pub(super) struct MarkingServer {
    upstream: Upstream,
    state: Arc<ServerState>,
}

struct ServerState {
    era: Era,
    transport: Transport,
    /// Streams of the transport of 2024-11-05, by the number in the URI that each was given.
    streams: Mutex<Vec<UnboundedSender<String>>>,
    sent: Markers,
    received: watch::Sender<Vec<String>>,
}

impl MarkingServer {
    pub(super) async fn start(era: Era, transport: Transport) -> MarkingServer {
        let state = Arc::new(ServerState {
            era,
            transport,
            streams: Mutex::default(),
            sent: Markers::default(),
            received: watch::Sender::default(),
        });
        let serving = Arc::clone(&state);
        let upstream =
            Upstream::of_an_era(move |request, wire| serve(Arc::clone(&serving), request, wire)).await;
        MarkingServer { upstream, state }
    }

    /// An upstream of a document that leads to it, with `more` settings.
    pub(super) fn as_upstream(&self, more: &str) -> String {
        let (path, transport) = match self.state.transport {
            Transport::StreamableHttp => ("mcp", ""),
            Transport::HttpSse => ("sse", ", transport: sse"),
        };
        format!("{{ url: \"http://{}/{path}\"{transport}{more} }}", self.upstream.address)
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
    if let Some(way) = refusal_of(&request, &message) {
        return state.refuse_as(&way, &message, wire).await;
    }
    match (verb, &message) {
        ("POST", _) if state.transport == Transport::HttpSse => state.post(&request, message, wire).await,
        ("GET", _) if state.transport == Transport::HttpSse => state.stream_of_session(wire).await,
        ("POST", Value::Array(batch)) => state.batch(batch, wire).await,
        ("POST", _) if message["method"].is_null() || message["id"].is_null() => state.accept(wire).await,
        ("POST", _) => state.answer(&message, Output::Response(wire)).await,
        ("GET", _) if state.era == Era::Legacy => {
            let mut output = Output::Response(wire);
            state.begin_events(&mut output).await;
            state.stream(None, output).await
        }
        ("DELETE", _) if state.era == Era::Legacy => state.accept(wire).await,
        _ => state.refuse("405 Method Not Allowed", "", "method", Output::Response(wire)).await,
    }
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
        Output::Response(wire).send("202 Accepted", &self.fields("text/plain"), "").await
    }

    /// An answer that is no JSON.
    async fn refuse(&self, status: &str, more: &str, place: &str, output: Output) -> Option<Wire> {
        let body = format!("<html>{}</html>", self.marker(place));
        output.send(status, &format!("{}{more}", self.fields("text/html")), &body).await
    }

    async fn json(&self, body: &Value, output: Output) -> Option<Wire> {
        self.json_as("200 OK", body, output).await
    }

    async fn json_as(&self, status: &str, body: &Value, output: Output) -> Option<Wire> {
        output.send(status, &self.fields("application/json"), &body.to_string()).await
    }

    async fn begin_events(&self, output: &mut Output) {
        output.begin_events(&self.fields("text/event-stream")).await;
    }

    fn result(&self, id: &Value, mut result: Value) -> Value {
        if self.era == Era::Modern && result.get("resultType").is_none() {
            result["resultType"] = "complete".into();
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result, "x-beside": self.marker("beside-result")})
    }

    async fn answer(&self, message: &Value, mut output: Output) -> Option<Wire> {
        let (id, params) = (&message["id"], &message["params"]);
        match message["method"].as_str().unwrap_or_default() {
            "tools/call" => self.call(id, params, output).await,
            "subscriptions/listen" => {
                self.begin_events(&mut output).await;
                self.stream(Some(message), output).await
            }
            method => match self.result_of(method, params) {
                Some(result) => self.json(&self.result(id, result), output).await,
                None => {
                    let error = json!({"code": -32601, "message": self.marker("no-method")});
                    let status = if self.era == Era::Modern { "404 Not Found" } else { "200 OK" };
                    self.json_as(status, &json!({"jsonrpc": "2.0", "id": id, "error": error}), output).await
                }
            },
        }
    }

    async fn call(&self, id: &Value, params: &Value, mut output: Output) -> Option<Wire> {
        let marker = |place: &str| self.marker(place);
        match params["name"].as_str().unwrap_or_default() {
            name @ ("page" | "challenges" | "forbids" | "moves" | "waits") => {
                self.refuse_call(name, id, output).await
            }
            "large" | "huge" => {
                let result = self.large_result(params["name"].as_str().unwrap_or_default(), "json");
                self.json(&self.result(id, result), output).await
            }
            "contents" => self.json(&self.result(id, self.contents()), output).await,
            "fails" => {
                let error =
                    json!({"code": -32000, "message": marker("error"), "data": {"x": marker("error-data")}});
                let beside = marker("beside-error");
                self.json(&json!({"jsonrpc": "2.0", "id": id, "error": error, "x-beside": beside}), output)
                    .await
            }
            "task" => {
                let task = json!({"resultType": "task", "taskId": "t-1", "status": "working",
                    "statusMessage": marker("task-begun"), "ttlMs": 60_000});
                self.json(&self.result(id, task), output).await
            }
            name if name.starts_with("asks")
                && self.era == Era::Modern
                && params["inputResponses"].is_null() =>
            {
                let asked = json!({"resultType": "input_required", "requestState": marker("request-state"),
                    "inputRequests": self.questions_of(name)});
                self.json(&self.result(id, asked), output).await
            }
            name => {
                self.begin_events(&mut output).await;
                let notes = if name == "odd" { self.odd_events() } else { self.notes(params) };
                for note in notes {
                    output.event(&note).await;
                }
                if let "large_event" | "huge_event" = name {
                    let log = json!({"level": "error", "data": self.large_result(name, "note")});
                    output.event(&format!("data: {}\n\n", note("notifications/message", &log))).await;
                    let result = self.result(id, self.large_result(name, "event"));
                    output.event(&format!("data: {result}\n\n")).await;
                    return output.end(&marker("trailer")).await;
                }
                if name == "hangs" {
                    self.hear("notifications/cancelled").await;
                    return None;
                }
                if name.starts_with("asks") && self.era == Era::Legacy {
                    self.ask(name, &mut output).await;
                }
                let result = json!({
                    "content": [{"type": "text", "text": marker("result")}], "x": marker("result-member"),
                    "structuredContent": {"x": marker("result-structured")}, "_meta": {"x": marker("result-meta")},
                });
                output.event(&format!("data: {}\n\n", self.result(id, result))).await;
                output.end(&marker("trailer")).await
            }
        }
    }

    /// An answer that is none of the protocol.
    async fn refuse_call(&self, tool: &str, id: &Value, output: Output) -> Option<Wire> {
        let marker = |place: &str| self.marker(place);
        match tool {
            "page" => self.refuse("400 Bad Request", "", "page", output).await,
            "challenges" => {
                let challenge = format!("www-authenticate: Bearer realm=\"{}\"\r\n", marker("challenge"));
                self.refuse("401 Unauthorized", &challenge, "challenge-body", output).await
            }
            "forbids" => {
                let challenge = format!(
                    "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"{}\"\r\n",
                    marker("challenge-scope")
                );
                let error = json!({"code": -32001, "message": marker("forbidden-error")});
                let body = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
                let fields = format!("{}{challenge}", self.fields("application/json"));
                output.send("403 Forbidden", &fields, &body).await
            }
            "moves" => {
                let location = format!("location: /{}\r\n", marker("location"));
                self.refuse("307 Temporary Redirect", &location, "moved-body", output).await
            }
            _ => {
                let wait = format!("retry-after: {}\r\n", marker("retry-after"));
                self.refuse(&format!("429 {}", marker("status-text")), &wait, "busy-body", output).await
            }
        }
    }

    /// Asks the client, and goes on when all answers have come.
    async fn ask(&self, tool: &str, output: &mut Output) {
        let Value::Object(questions) = self.questions_of(tool) else { unreachable!("questions have keys") };
        for (key, mut request) in questions {
            request["jsonrpc"] = "2.0".into();
            request["id"] = key.as_str().into();
            if request["params"]["mode"] == "url" {
                request["params"]["elicitationId"] = self.marker("url-id").into();
            }
            output.event(&format!("data: {request}\n\n")).await;
            self.hear_answer(&key).await;
        }
        if tool == "asks_all" {
            let done = json!({"elicitationId": self.marker("url-id"), "x": self.marker("url-done")});
            output.event(&format!("data: {}\n\n", note("notifications/elicitation/complete", &done))).await;
        }
    }

    /// Waits until the answer to a request of this id has come.
    async fn hear_answer(&self, id: &str) {
        self.hear(&format!("\"id\":\"{id}\"")).await;
    }

    /// Waits until a request has come with this in it.
    async fn hear(&self, part: &str) {
        let mut received = self.received.subscribe();
        received.wait_for(|all| all.iter().any(|request| request.contains(part))).await.unwrap();
    }

    /// Says what concerns no call, ten times a second.
    async fn stream(&self, listen: Option<&Value>, mut output: Output) -> Option<Wire> {
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
            output.event(&format!("data: {acknowledged}\n\n")).await;
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
                () = output.closed() => return None,
                _ = tick.tick() => {}
            }
            for event in &said {
                output.event(event).await;
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
        self.json(&answers, Output::Response(wire)).await
    }

    /// A message in the transport of 2024-11-05. What is refused is answered by its own response.
    async fn post(self: Arc<Self>, request: &Request, message: Value, wire: Wire) -> Option<Wire> {
        let refuses = matches!(
            message["params"]["name"].as_str(),
            Some("page" | "challenges" | "forbids" | "moves" | "waits")
        );
        if refuses {
            return self.answer(&message, Output::Response(wire)).await;
        }
        if !message["method"].is_null() && !message["id"].is_null() {
            let number = request.head.split_once("session=").and_then(|(_, rest)| rest.split('&').next());
            let number: usize = number.unwrap().parse().unwrap();
            let stream = self.streams.lock().unwrap()[number].clone();
            let state = Arc::clone(&self);
            tokio::spawn(async move { state.answer(&message, Output::Stream(stream)).await });
        }
        self.accept(wire).await
    }

    /// The one stream of a session in the transport of 2024-11-05.
    async fn stream_of_session(&self, wire: Wire) -> Option<Wire> {
        let (stream, mut events) = unbounded_channel();
        let number = {
            let mut streams = self.streams.lock().unwrap();
            streams.push(stream.clone());
            streams.len() - 1
        };
        let mut output = Output::Response(wire);
        self.begin_events(&mut output).await;
        let endpoint = format!("/messages?session={number}&x={}", self.marker("endpoint"));
        output.event(&format!("event: endpoint\ndata: {endpoint}\n\n")).await;
        let said = self.stream(None, Output::Stream(stream));
        let written = async {
            while let Some(event) = events.recv().await {
                output.event(&event).await;
            }
        };
        tokio::select! {
            _ = said => None,
            () = written => None,
        }
    }
}
