//! An MCP client of one era that says exactly what a test wants, and answers questions.

use super::{Client, Era, Response, dial_from};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The names of the envelope of 2026-07-28 all begin so.
const OWN: &str = "io.modelcontextprotocol";

/// One client; a legacy one has a session once it is [open](Caller::open).
pub(crate) struct Caller {
    address: SocketAddr,
    source: Ipv4Addr,
    path: String,
    era: Era,
    token: Option<String>,
    /// Fields of each of its requests, beside those of the protocol.
    fields: Vec<(&'static str, String)>,
    /// What each of its connections begins with.
    preface: Vec<u8>,
    /// What it accepts elicitations with.
    name: String,
    /// The id of its session.
    pub(crate) session: Option<String>,
    /// Whether every request goes on a connection of its own.
    fresh: bool,
    patience: Duration,
    connection: Option<Client>,
    next: u64,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Said {
    /// Status and headers.
    pub(crate) head: Response,
    /// Notifications and requests that came before the answer.
    pub(crate) before: Vec<Value>,
    /// The answer, or null.
    pub(crate) message: Value,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No connection, or it broke.
    Broken,
    /// The client's patience was at an end.
    Late,
}

impl Said {
    /// The text of a tool's result.
    pub(crate) fn text(&self) -> &str {
        self.message["result"]["content"][0]["text"].as_str().unwrap_or_default()
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> Option<i64> {
        self.message["error"]["code"].as_i64()
    }

    /// Everything that came, as text.
    pub(crate) fn all(&self) -> String {
        format!("{} {:?} {:?} {}", self.head.status, self.head.headers, self.before, self.message)
    }
}

impl Caller {
    /// A client of `/mcp`.
    pub(crate) fn new(era: Era, address: SocketAddr) -> Caller {
        Caller {
            address,
            source: Ipv4Addr::LOCALHOST,
            path: "/mcp".to_owned(),
            era,
            token: None,
            fields: Vec::new(),
            preface: Vec::new(),
            name: "Ada".to_owned(),
            session: None,
            fresh: false,
            patience: Duration::from_secs(30),
            connection: None,
            next: 1,
        }
    }

    /// A client of another path.
    pub(crate) fn at(self, path: &str) -> Caller {
        Caller { path: path.to_owned(), ..self }
    }

    /// A client at another address of this machine.
    pub(crate) fn from(self, source: Ipv4Addr) -> Caller {
        Caller { source, ..self }
    }

    /// A client that presents a bearer token and is called by it.
    pub(crate) fn presenting(self, token: &str) -> Caller {
        Caller { token: Some(token.to_owned()), name: token.to_owned(), ..self }
    }

    /// A client that accepts elicitations with this name.
    pub(crate) fn named(self, name: &str) -> Caller {
        Caller { name: name.to_owned(), ..self }
    }

    /// A client each of whose requests has one more field.
    pub(crate) fn with_field(mut self, name: &'static str, value: &str) -> Caller {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// A client whose connections begin with these bytes.
    pub(crate) fn behind(self, preface: &[u8]) -> Caller {
        Caller { preface: preface.to_vec(), ..self }
    }

    /// A client with a connection for each request.
    pub(crate) fn fresh(self) -> Caller {
        Caller { fresh: true, ..self }
    }

    /// A client that waits only so long for an answer, whatever comes before it.
    pub(crate) fn patient_for(self, patience: Duration) -> Caller {
        Caller { patience, ..self }
    }

    /// A client in the same session, with another's token or none.
    pub(crate) fn in_session(self, session: &str) -> Caller {
        Caller { session: Some(session.to_owned()), ..self }
    }

    /// Makes the client ready for calls: a legacy one gets its session.
    pub(crate) async fn ready(mut self) -> Caller {
        if self.era == Era::Legacy {
            let said = self.open().await.unwrap();
            assert_eq!(said.head.status, 200, "{}", said.all());
        }
        self
    }

    /// Begins the session of a legacy client.
    pub(crate) async fn open(&mut self) -> Result<Said, Lost> {
        self.session = None;
        let params = json!({
            "protocolVersion": "2025-11-25", "clientInfo": {"name": "test", "version": "1"},
            "capabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
        });
        let said = self.request("initialize", params).await?;
        self.session = said.head.header("mcp-session-id").map(str::to_owned);
        if said.head.status == 200 {
            self.notify("notifications/initialized", json!({})).await?;
        }
        Ok(said)
    }

    /// The id that its next request will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    /// Calls a tool and answers what it asks, in the way of the era.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Lost> {
        let mut params = json!({"name": tool, "arguments": arguments});
        loop {
            let mut said = self.request("tools/call", params.clone()).await?;
            let result = &said.message["result"];
            if result["resultType"] != "input_required" {
                return Ok(said);
            }
            let asked = result["inputRequests"].as_object().cloned().unwrap_or_default();
            let answers = asked.keys().map(|key| (key.clone(), self.accepted()));
            params["inputResponses"] = Value::Object(answers.collect());
            match result.get("requestState") {
                Some(state) => params["requestState"] = state.clone(),
                None => drop(params.as_object_mut().unwrap().remove("requestState")),
            }
            said.before.clear();
        }
    }

    /// Sends a request and reads up to its answer.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Result<Said, Lost> {
        let patience = self.patience;
        let answered = tokio::time::timeout(patience, self.converse(method, params)).await;
        answered.unwrap_or(Err(Lost::Late))
    }

    /// Sends the request that `edit` makes of the text of an honest one, under the headers of that one,
    /// and reads up to its answer.
    pub(crate) async fn edited(
        &mut self,
        method: &str,
        params: Value,
        edit: impl FnOnce(&str) -> String,
    ) -> Result<Said, Lost> {
        let message = self.message(method, params);
        let text = edit(&message.to_string());
        let patience = self.patience;
        let answered = tokio::time::timeout(patience, self.exchange(&message, &text)).await;
        answered.unwrap_or(Err(Lost::Late))
    }

    async fn converse(&mut self, method: &str, params: Value) -> Result<Said, Lost> {
        let message = self.message(method, params);
        self.exchange(&message, &message.to_string()).await
    }

    fn message(&mut self, method: &str, params: Value) -> Value {
        let id = self.next;
        self.next += 1;
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": self.enveloped(params)})
    }

    async fn exchange(&mut self, message: &Value, body: &str) -> Result<Said, Lost> {
        let id = &message["id"];
        let mut connection = self.send(message, body).await?;
        let mut head = connection.try_head().await.ok_or(Lost::Broken)?;
        let events = head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let (mut text, mut before) = (String::new(), Vec::new());
        while let Some(piece) = connection.piece(&mut head).await.map_err(|_| Lost::Broken)? {
            // Some servers end lines with CRLF; JSON text has neither.
            text.push_str(&String::from_utf8(piece).unwrap().replace('\r', ""));
            while let Some((event, rest)) = events.then(|| text.split_once("\n\n")).flatten() {
                let (message, rest) = (event_message(event), rest.to_owned());
                text = rest;
                let Some(message) = message else { continue };
                if message["id"] == *id && message.get("method").is_none() {
                    // What follows is the end of the body; it is not worth a connection.
                    return Ok(Said { head, before, message });
                }
                if message.get("id").is_some() {
                    self.reply(&message).await?;
                }
                before.push(message);
            }
        }
        let message = if events { Value::Null } else { serde_json::from_str(&text).unwrap_or_default() };
        if !self.fresh && head.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(Said { head, before, message })
    }

    /// Sends a notification; gives the status.
    pub(crate) async fn notify(&mut self, method: &str, params: Value) -> Result<u16, Lost> {
        self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await
    }

    /// Answers a request of the server: an elicitation is accepted, all else is refused.
    async fn reply(&self, request: &Value) -> Result<(), Lost> {
        let mut reply = json!({"jsonrpc": "2.0", "id": request["id"]});
        match request["method"].as_str() {
            Some("elicitation/create") => reply["result"] = self.accepted(),
            _ => reply["error"] = json!({"code": -32601, "message": "no"}),
        }
        // On a connection of its own: the answer's stream is still open.
        let status = self.post(&reply).await?;
        assert!(status == 202 || status == 404, "an answer got {status}");
        Ok(())
    }

    fn accepted(&self) -> Value {
        json!({"action": "accept", "content": {"name": self.name}})
    }

    /// Posts what has no answer; gives the status.
    pub(crate) async fn post(&self, message: &Value) -> Result<u16, Lost> {
        let mut connection = self.dial().await?;
        let body = message.to_string();
        let sent = connection.try_post(&self.path, &self.headers(message), body.as_bytes()).await;
        sent.map_err(|_| Lost::Broken)?;
        Ok(self.wait(connection.try_head()).await?.ok_or(Lost::Broken)?.status)
    }

    /// Opens the GET stream of the session; gives its head too.
    pub(crate) async fn stream(&self, last_event: Option<&str>) -> Result<(Client, Response), Lost> {
        let mut connection = self.dial().await?;
        let mut headers = self.headers(&Value::Null);
        headers.extend(last_event.map(|id| ("last-event-id", id.to_owned())));
        connection.open_stream(&self.path, &headers).await;
        let head = self.wait(connection.try_head()).await?.ok_or(Lost::Broken)?;
        Ok((connection, head))
    }

    /// Opens a `subscriptions/listen` stream of a modern client.
    pub(crate) async fn listening(&mut self) -> Client {
        self.listening_to(json!({"toolsListChanged": true})).await
    }

    /// The same for these notifications.
    pub(crate) async fn listening_to(&mut self, notifications: Value) -> Client {
        let params = json!({"notifications": notifications});
        let id = self.next;
        self.next += 1;
        let params = self.enveloped(params);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": params});
        let mut connection = self.dial().await.unwrap();
        connection.post(&self.path, &self.headers(&message), message.to_string().as_bytes()).await;
        assert_eq!(connection.response_head().await.status, 200);
        connection
    }

    /// Ends the session; gives the status.
    pub(crate) async fn end(&self) -> Result<u16, Lost> {
        let mut connection = self.dial().await?;
        let head = connection.head("DELETE", &self.path, &self.headers(&Value::Null));
        connection.try_send(format!("{head}\r\n").as_bytes()).await.map_err(|_| Lost::Broken)?;
        Ok(self.wait(connection.try_head()).await?.ok_or(Lost::Broken)?.status)
    }

    async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Lost> {
        tokio::time::timeout(self.patience, future).await.map_err(|_| Lost::Late)
    }

    async fn dial(&self) -> Result<Client, Lost> {
        let stream = dial_from(self.source, self.address).await.map_err(|_| Lost::Broken)?;
        let mut connection = Client::over(stream, self.address);
        connection.try_send(&self.preface).await.map_err(|_| Lost::Broken)?;
        Ok(connection)
    }

    async fn send(&mut self, message: &Value, body: &str) -> Result<Client, Lost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let sent = connection.try_post(&self.path, &self.headers(message), body.as_bytes()).await;
        sent.map_err(|_| Lost::Broken)?;
        Ok(connection)
    }

    fn enveloped(&self, mut params: Value) -> Value {
        if self.era == Era::Modern {
            let own = params["_meta"].take();
            params["_meta"] = json!({
                format!("{OWN}/protocolVersion"): "2026-07-28",
                format!("{OWN}/clientInfo"): {"name": "test", "version": "1"},
                format!("{OWN}/clientCapabilities"): {
                    "elicitation": {"form": {}}, "sampling": {}, "roots": {},
                    "extensions": {format!("{OWN}/tasks"): {}},
                },
            });
            for (key, value) in own.as_object().into_iter().flatten() {
                params["_meta"][key] = value.clone();
            }
        }
        params
    }

    fn headers(&self, message: &Value) -> Vec<(&'static str, String)> {
        let mut headers = self.fields.clone();
        headers.extend(self.token.iter().map(|token| ("authorization", format!("Bearer {token}"))));
        headers.extend(self.session.iter().map(|session| ("mcp-session-id", session.clone())));
        match self.era {
            Era::Modern => {
                headers.push(("mcp-protocol-version", "2026-07-28".to_owned()));
                let named = match message["method"].as_str() {
                    Some(method) if method.starts_with("tasks/") => "taskId",
                    Some("resources/read") => "uri",
                    _ => "name",
                };
                let mirrored = [("mcp-method", &message["method"]), ("mcp-name", &message["params"][named])];
                let mirrored = mirrored.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
                headers.extend(mirrored.map(|(name, value)| (name, value.to_owned())));
            }
            Era::Legacy if self.session.is_some() => {
                headers.push(("mcp-protocol-version", "2025-11-25".to_owned()));
            }
            Era::Legacy => {}
        }
        headers
    }
}

/// The message of one event; `None` for a comment or an event without text.
fn event_message(event: &str) -> Option<Value> {
    let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
    let data: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    serde_json::from_str(&data.join("\n")).ok()
}
