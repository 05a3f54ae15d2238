//! A client that writes a marker into many places, and keeps what it gets.

mod actions;
mod answers;
mod oddities;
mod refusals;

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
    /// Its session and lists are refused on the way.
    pub(super) meets_refusals: bool,
    /// The request that its server is to refuse, and the way.
    refusal: Option<String>,
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
            meets_refusals: false,
            refusal: None,
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

    async fn notify(&mut self, method: &str, params: Value) {
        self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// The gateway that a message goes to, or a GET, for which there is no message.
    fn address_for(&self, message: &Value) -> SocketAddr {
        let is_request = message.is_null() || message["method"].is_string() && !message["id"].is_null();
        let is_asked = message["params"]["name"].as_str().is_some_and(|name| name.contains("asks"));
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
        let asked = messages.iter().filter(|one| one["method"].is_string() && !one["id"].is_null());
        for question in asked.skip(*questions) {
            *questions += 1;
            self.post(&self.answer_to(question)).await;
        }
        messages.into_iter().find(|one| one["id"] == message["id"] && one["method"].is_null())
    }

    async fn read_head(&mut self, connection: &mut Client) -> Response {
        let head = connection.response_head().await;
        self.keep(&head, "");
        head
    }

    async fn read_body(&mut self, connection: &mut Client, head: &mut Response) {
        let read = async {
            while let Ok(Some(piece)) = connection.piece(head).await {
                self.received.push_str(&String::from_utf8_lossy(&piece));
            }
        };
        within(20, "the end of a body", read).await;
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
        self.read_body(&mut connection, &mut head).await;
    }

    fn message(&mut self, method: &str, mut params: Value) -> Value {
        if self.era == Era::Modern {
            let meta = &mut params["_meta"];
            meta[format!("{OWN}/protocolVersion")] = "2026-07-28".into();
            let title = self.sent.write("client-title");
            meta[format!("{OWN}/clientInfo")] = json!({"name": "client", "version": "1", "title": title});
            meta[format!("{OWN}/clientCapabilities")] = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}, "extensions": {format!("{OWN}/tasks"): {}}});
        }
        self.next += 1;
        json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params})
    }

    fn fields(&self, message: &Value) -> Vec<(&'static str, String)> {
        let mut fields =
            vec![("x-marker", self.sent.write("header")), ("user-agent", self.sent.write("user-agent"))];
        fields.extend(self.session.iter().map(|session| ("mcp-session-id", session.clone())));
        fields.extend(self.refusal.iter().map(|refusal| ("x-refusal", refusal.clone())));
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
