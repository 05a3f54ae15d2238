//! A client that writes a marker into many places, and keeps what it gets.

use super::Markers;
use super::server::Transport;
use crate::harness::{Client, Era, Response, dial, within};
use serde_json::{Value, json};
use std::net::SocketAddr;

const OWN: &str = "io.modelcontextprotocol";

/// The replica that gets a message of the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// There is one only.
    Direct,
    /// The one that does not own the session or the suspended call that the message is about.
    Elsewhere,
    /// The one that does not own it, for answers and notifications; the owner for requests.
    AnswersElsewhere,
}

/// One client of one endpoint.
pub(super) struct MarkingClient {
    /// The gateway that owns what the client begins, and the one that it may talk to instead.
    owner: SocketAddr,
    other: SocketAddr,
    route: Route,
    path: String,
    era: Era,
    /// The revision of a legacy session.
    revision: &'static str,
    session: Option<String>,
    /// The stream of a session in the transport of 2024-11-05, once it is open.
    stream: Option<Client>,
    transport: Transport,
    next: u64,
    /// Loses each stream after its first event, and takes it up again by the id of that.
    pub(super) resumes: bool,
    /// How often it did.
    pub(super) resumed: usize,
    /// Markers that it has written.
    pub(super) sent: Markers,
    /// Heads and bodies that it got, one after the other.
    pub(super) received: String,
}

impl MarkingClient {
    pub(super) fn new(addresses: &[SocketAddr], path: &str, era: Era, route: Route) -> MarkingClient {
        MarkingClient {
            owner: addresses[0],
            other: *addresses.last().unwrap(),
            route,
            path: path.to_owned(),
            era,
            revision: "2025-11-25",
            session: None,
            stream: None,
            transport: Transport::StreamableHttp,
            next: 1,
            resumes: false,
            resumed: 0,
            sent: Markers::default(),
            received: String::new(),
        }
    }

    /// Speaks the transport of 2024-11-05.
    pub(super) fn use_http_sse(&mut self) {
        (self.transport, self.revision) = (Transport::HttpSse, "2024-11-05");
    }

    pub(super) fn era(&self) -> Era {
        self.era
    }

    /// Does everything that a client can do.
    pub(super) async fn do_everything(&mut self) {
        self.open().await;
        let [tools, prompts, resources] = self.lists().await;
        let item =
            resources.iter().find(|uri| uri.contains("item")).expect("the resource of the server").clone();
        for tool in ["work", "odd", "fails", "page", "challenges"] {
            self.call(&tools, tool).await;
        }
        self.call_with_input(&tools).await;
        if self.era == Era::Modern {
            self.task(&tools).await;
        }
        let text = self.sent.write("prompt-arguments");
        self.request("prompts/get", json!({"name": prompts[0], "arguments": {"text": text}})).await;
        for _ in 0..2 {
            self.request("resources/read", json!({"uri": item})).await;
        }
        let uri = item.replace("item", &format!("any/{}", self.sent.write("read-uri")));
        self.request("resources/read", json!({"uri": uri})).await;
        let argument = json!({"name": "text", "value": self.sent.write("completion-value")});
        let reference = json!({"type": "ref/prompt", "name": prompts[0]});
        self.request("completion/complete", json!({"ref": reference, "argument": argument})).await;
        self.listen(&item).await;
        if self.era == Era::Legacy {
            self.cancel(&tools).await;
        }
        if self.era == Era::Legacy && self.transport == Transport::StreamableHttp {
            self.batch(&tools).await;
        }
    }

    pub(super) async fn open(&mut self) {
        match self.era {
            Era::Modern => drop(self.request("server/discover", json!({})).await),
            Era::Legacy => {
                if self.transport == Transport::HttpSse {
                    self.open_http_sse().await;
                }
                let info =
                    json!({"name": "client", "version": "1", "title": self.sent.write("client-title")});
                let params = json!({"protocolVersion": self.revision, "clientInfo": info,
                    "capabilities": {"elicitation": {}, "experimental": {"x": {"x": self.sent.write("client-ability")}}}});
                self.request("initialize", params).await;
                self.notify("notifications/initialized", json!({})).await;
            }
        }
    }

    /// Opens the stream of a session, whose first event says where messages go.
    async fn open_http_sse(&mut self) {
        let mut connection = Client::over(dial(self.owner).await.unwrap(), self.owner);
        connection.open_stream(&self.path, &self.fields(&Value::Null)).await;
        self.read_head(&mut connection).await;
        let event = connection.chunk().await.unwrap();
        self.received.push_str(&event);
        self.path = event.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        self.stream = Some(connection);
    }

    /// Asks for all lists; gives the names of tools and prompts, and the URIs of resources.
    pub(super) async fn lists(&mut self) -> [Vec<String>; 3] {
        let kinds = [
            ("tools/list", "tools", "name"),
            ("prompts/list", "prompts", "name"),
            ("resources/list", "resources", "uri"),
        ];
        let mut lists: [Vec<String>; 3] = Default::default();
        for (place, (method, key, name)) in kinds.into_iter().enumerate() {
            let answer = self.request(method, json!({})).await;
            let entries = answer["result"][key].as_array().cloned().unwrap_or_default();
            lists[place] =
                entries.iter().filter_map(|entry| entry[name].as_str().map(str::to_owned)).collect();
        }
        self.request("resources/templates/list", json!({})).await;
        lists
    }

    pub(super) async fn call(&mut self, tools: &[String], tool: &str) -> Value {
        let name = named(tools, tool);
        let arguments = json!({"x": self.sent.write("arguments")});
        let meta = json!({"progressToken": self.sent.write("progress-token"), "x": self.sent.write("meta")});
        self.request("tools/call", json!({"name": name, "arguments": arguments, "_meta": meta})).await
    }

    /// A call that asks; a legacy client answers within [`MarkingClient::request`].
    async fn call_with_input(&mut self, tools: &[String]) {
        let answer = self.call(tools, "asks").await;
        let Some(asked) = answer["result"]["inputRequests"].as_object() else { return };
        let key = asked.keys().next().unwrap().clone();
        let name = named(tools, "asks");
        let arguments = json!({"x": self.sent.write("arguments")});
        let mut params =
            json!({"name": name, "arguments": arguments, "inputResponses": {key: self.elicitation_result()}});
        if let Some(state) = answer["result"].get("requestState") {
            params["requestState"] = state.clone();
        }
        self.request("tools/call", params).await;
    }

    async fn task(&mut self, tools: &[String]) {
        let begun = self.call(tools, "task").await;
        let Some(task) = begun["result"]["taskId"].as_str() else { return };
        self.request("tasks/get", json!({"taskId": task})).await;
    }

    fn elicitation_result(&self) -> Value {
        json!({"action": "accept", "content": {"name": self.sent.write("user-answer")}})
    }

    /// Reads what is said outside of calls until a list has changed.
    async fn listen(&mut self, uri: &str) {
        if self.stream.is_some() {
            let meta = json!({"x": self.sent.write("subscribe-meta")});
            self.request("resources/subscribe", json!({"uri": uri, "_meta": meta})).await;
            let mut stream = self.stream.take().unwrap();
            self.read_changes(&mut stream).await;
            self.stream = Some(stream);
            return;
        }
        let mut connection = if self.era == Era::Legacy {
            let meta = json!({"x": self.sent.write("subscribe-meta")});
            self.request("resources/subscribe", json!({"uri": uri, "_meta": meta})).await;
            let mut connection = self.connect(&Value::Null).await;
            connection.open_stream(&self.path, &self.fields(&Value::Null)).await;
            connection
        } else {
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [uri]});
            let meta = json!({"x": self.sent.write("listen-meta")});
            let message =
                self.message("subscriptions/listen", json!({"notifications": wanted, "_meta": meta}));
            self.send(&message).await
        };
        let head = self.read_head(&mut connection).await;
        if head.status != 200 {
            return;
        }
        let text = self.read_changes(&mut connection).await;
        if let Some(id) = event_id(&text).filter(|_| self.resumes) {
            let (mut connection, _) = self.resume(&id).await;
            self.read_changes(&mut connection).await;
        }
    }

    /// Reads a stream until everything that was said with the first two changes of a list has come, as it has with the third.
    async fn read_changes(&mut self, connection: &mut Client) -> String {
        let mut text = String::new();
        while text.matches("notifications/tools/list_changed").count() < 3 {
            let Some(chunk) = connection.chunk().await else { break };
            text.push_str(&chunk);
        }
        self.received.push_str(&text);
        text
    }

    /// Cancels a call that its server would never answer.
    async fn cancel(&mut self, tools: &[String]) {
        let params = json!({"name": named(tools, "hangs"), "arguments": {}, "_meta": {"progressToken": "h"}});
        let message = self.message("tools/call", params);
        let mut connection = self.send(&message).await;
        self.read_head(&mut connection).await;
        if self.stream.is_none() {
            let text = connection.chunk().await.unwrap_or_default();
            self.received.push_str(&text);
        }
        let reason = self.sent.write("cancel-reason");
        self.notify("notifications/cancelled", json!({"requestId": message["id"], "reason": reason})).await;
        if self.stream.is_some() {
            return;
        }
        // It ends when the server has heard of it.
        within(20, "the end of the call", async { while let Ok(Some(_)) = connection.try_chunk().await {} })
            .await;
    }

    /// Two calls in one body, in a session of the one revision that has batches.
    async fn batch(&mut self, tools: &[String]) {
        self.revision = "2025-03-26";
        self.session = None;
        self.open().await;
        let call = |id: u64| {
            let arguments = json!({"x": self.sent.write("batch-arguments")});
            let params = json!({"name": named(tools, "work"), "arguments": arguments});
            json!({"jsonrpc": "2.0", "id": format!("b{id}"), "method": "tools/call", "params": params})
        };
        self.post(&Value::Array(vec![call(1), call(2)])).await;
    }

    async fn notify(&mut self, method: &str, params: Value) {
        self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// The gateway that a message goes to, or a GET, for which there is no message.
    fn address_for(&self, message: &Value) -> SocketAddr {
        let is_request = message.is_null() || message["method"].is_string() && !message["id"].is_null();
        let is_asked = message["params"]["name"].as_str().is_some_and(|name| name.ends_with("asks"));
        let begins = message["method"] == "initialize"
            || self.era == Era::Modern && is_asked && message["params"]["inputResponses"].is_null();
        match self.route {
            Route::Elsewhere if !begins => self.other,
            Route::AnswersElsewhere if !is_request => self.other,
            _ => self.owner,
        }
    }

    /// Connects to the gateway that a message goes to, which has the same name as the other one.
    async fn connect(&self, message: &Value) -> Client {
        Client::over(dial(self.address_for(message)).await.unwrap(), self.owner)
    }

    /// Sends a message on a connection of its own.
    async fn send(&self, message: &Value) -> Client {
        let mut connection = self.connect(message).await;
        connection.post(&self.path, &self.fields(message), message.to_string().as_bytes()).await;
        connection
    }

    /// Sends what is answered by one body, or by none.
    async fn post(&mut self, message: &Value) {
        let mut connection = self.send(message).await;
        let answer = connection.response().await;
        self.keep(&answer, &String::from_utf8_lossy(&answer.body));
    }

    fn keep(&mut self, head: &Response, body: &str) {
        let fields: String = head.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        self.received.push_str(&format!("{}\n{fields}\n{body}\n", head.status));
    }

    /// Sends a request and reads up to its answer; questions are answered.
    async fn request(&mut self, method: &str, params: Value) -> Value {
        let message = self.message(method, params);
        within(20, method, self.exchange(&message)).await
    }

    async fn exchange(&mut self, message: &Value) -> Value {
        if let Some(stream) = self.stream.take() {
            return self.exchange_on_stream(stream, message).await;
        }
        let mut connection = self.send(message).await;
        let mut head = self.read_head(&mut connection).await;
        if let Some(session) = head.header("mcp-session-id") {
            self.session = Some(session.to_owned());
        }
        let (mut text, mut questions, mut first_event) = (String::new(), 0, None);
        while let Ok(Some(piece)) = connection.piece(&mut head).await {
            let piece = String::from_utf8_lossy(&piece).into_owned();
            self.received.push_str(&piece);
            text.push_str(&piece);
            if self.resumes
                && first_event.is_none()
                && let Some(id) = event_id(&text)
            {
                (connection, head) = self.resume(&id).await;
                (text, first_event) = (String::new(), Some(id));
                continue;
            }
            if let Some(answer) = self.answer_in(&text, &mut questions, message).await {
                if let Some(id) = first_event {
                    self.read_again(&id).await;
                }
                return answer;
            }
        }
        Value::Null
    }

    /// Posts a request and reads the stream of its session up to the answer.
    async fn exchange_on_stream(&mut self, mut stream: Client, message: &Value) -> Value {
        self.post(message).await;
        let (mut text, mut questions) = (String::new(), 0);
        let answer = loop {
            let Some(chunk) = stream.chunk().await else { break Value::Null };
            self.received.push_str(&chunk);
            text.push_str(&chunk);
            if let Some(answer) = self.answer_in(&text, &mut questions, message).await {
                break answer;
            }
        };
        self.stream = Some(stream);
        answer
    }

    /// Answers the questions that are in `text` beyond those before; gives the answer to `message` if it is there.
    async fn answer_in(&mut self, text: &str, questions: &mut usize, message: &Value) -> Option<Value> {
        let messages = messages(text);
        for asked in messages.iter().filter(|one| one["method"] == "elicitation/create").skip(*questions) {
            *questions += 1;
            let reply = json!({"jsonrpc": "2.0", "id": asked["id"], "result": self.elicitation_result()});
            self.post(&reply).await;
        }
        messages.into_iter().find(|one| one["id"] == message["id"] && one["method"].is_null())
    }

    async fn read_head(&mut self, connection: &mut Client) -> Response {
        let head = connection.response_head().await;
        self.keep(&head, "");
        head
    }

    /// Takes up a stream behind an event, at the other gateway if that gets answers.
    async fn resume(&mut self, event: &str) -> (Client, Response) {
        let address = match self.route {
            Route::Direct => self.owner,
            Route::Elsewhere | Route::AnswersElsewhere => self.other,
        };
        let mut connection = Client::over(dial(address).await.unwrap(), self.owner);
        let mut fields = self.fields(&Value::Null);
        fields.push(("last-event-id", event.to_owned()));
        connection.open_stream(&self.path, &fields).await;
        let head = self.read_head(&mut connection).await;
        assert_eq!(head.status, 200, "a stream is taken up again");
        self.resumed += 1;
        (connection, head)
    }

    /// Reads all of a call that has ended, as the gateway keeps it.
    async fn read_again(&mut self, event: &str) {
        let (mut connection, mut head) = self.resume(event).await;
        while let Ok(Some(piece)) = connection.piece(&mut head).await {
            self.received.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn message(&mut self, method: &str, mut params: Value) -> Value {
        if self.era == Era::Modern {
            let meta = &mut params["_meta"];
            meta[format!("{OWN}/protocolVersion")] = "2026-07-28".into();
            let title = self.sent.write("client-title");
            meta[format!("{OWN}/clientInfo")] = json!({"name": "client", "version": "1", "title": title});
            meta[format!("{OWN}/clientCapabilities")] =
                json!({"elicitation": {"form": {}}, "extensions": {format!("{OWN}/tasks"): {}}});
        }
        self.next += 1;
        json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params})
    }

    fn fields(&self, message: &Value) -> Vec<(&'static str, String)> {
        let mut fields =
            vec![("x-marker", self.sent.write("header")), ("user-agent", self.sent.write("user-agent"))];
        fields.extend(self.session.iter().map(|session| ("mcp-session-id", session.clone())));
        if self.era == Era::Legacy {
            fields.extend(self.session.iter().map(|_| ("mcp-protocol-version", self.revision.to_owned())));
            return fields;
        }
        let method = message["method"].as_str().unwrap_or_default();
        fields.push(("mcp-protocol-version", "2026-07-28".to_owned()));
        fields.push(("mcp-method", method.to_owned()));
        let named = match method {
            method if method.starts_with("tasks/") => "taskId",
            "resources/read" => "uri",
            _ => "name",
        };
        let name = message["params"][named].as_str();
        fields.extend(name.map(|name| ("mcp-name", name.to_owned())));
        fields
    }
}

/// The name under which a tool is listed, which may have a prefix.
fn named(tools: &[String], tool: &str) -> String {
    tools.iter().find(|name| name.ends_with(tool)).expect("a tool of this name").clone()
}

/// The id of the first event that has one.
fn event_id(events: &str) -> Option<String> {
    let id = events.lines().find_map(|line| line.strip_prefix("id:"))?;
    Some(id.trim().to_owned())
}

/// The messages that are complete in a body, JSON or events.
fn messages(body: &str) -> Vec<Value> {
    let events = body.lines().filter_map(|line| line.strip_prefix("data:"));
    let texts = events.chain(std::iter::once(body));
    texts.filter_map(|text| serde_json::from_str(text.trim()).ok()).collect()
}
