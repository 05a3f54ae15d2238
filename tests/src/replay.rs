//! Clients that lose a stream and come back for the rest by `Last-Event-ID`.

use crate::harness::mcp::{Call, Reply, text, tool};
use crate::harness::{Client, Era, Gateway, Mcp, Nature, Response};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A legacy server and a modern one, whose calls go on when the test lets them.
pub(crate) struct Pace {
    pub(crate) old: Mcp,
    pub(crate) new: Mcp,
    steps: Arc<Semaphore>,
}

impl Pace {
    pub(crate) async fn start() -> Pace {
        let steps = Arc::new(Semaphore::new(0));
        Pace {
            old: Pace::server(Era::Legacy, "old", &steps).await,
            new: Pace::server(Era::Modern, "new", &steps).await,
            steps,
        }
    }

    async fn server(era: Era, name: &str, steps: &Arc<Semaphore>) -> Mcp {
        let tools = ["count", "ask", "other"].map(|action| tool(&format!("{name}_{action}"))).to_vec();
        let steps = Arc::clone(steps);
        Mcp::start(Nature::of(era), tools, move |call| walk(call, Arc::clone(&steps))).await
    }

    /// Lets calls take so many steps.
    pub(crate) fn step(&self, count: usize) {
        self.steps.add_permits(count);
    }

    async fn gateway(&self) -> Gateway {
        let (old, new) = (self.old.url(), self.new.url());
        let kept = |rules: &str| format!("{{ upstreams: [old, new], replay: {{ {rules} }} }}");
        let (all, few, short) = (kept("events: 64"), kept("events: 2"), kept("bytes: 600B"));
        Gateway::start(&format!(
            "level: info\nupstreams: {{ old: {old}, new: {new} }}\nservers:\n  /mcp: {all}\n  /few: {few}\n  \
             /short: {short}\n  /none: {{ upstreams: [old, new] }}\n"
        ))
        .await
    }
}

/// Counts to three, a step each, and then ends.
async fn walk(call: Call, steps: Arc<Semaphore>) -> Reply {
    let step = async || steps.acquire().await.unwrap().forget();
    if call.tool().ends_with("other") {
        return Ok(text("other"));
    }
    if call.tool().ends_with("ask") {
        step().await;
        let answer = call.elicit("Your name?").await;
        return Ok(text(format!("hello {}", answer["result"]["content"]["name"].as_str().unwrap())));
    }
    struct Left<'a>(&'a Call);
    impl Drop for Left<'_> {
        fn drop(&mut self) {
            self.0.count("left");
        }
    }
    let _left = Left(&call);
    for number in 1..=3 {
        step().await;
        call.progress(number).await;
    }
    step().await;
    Ok(text("x".repeat(call.text("length").parse().unwrap_or(1))))
}

/// One event: its id, and its message or null.
#[derive(Debug)]
pub(crate) struct Event {
    id: Option<String>,
    /// What it says, or null.
    pub(crate) message: Value,
}

impl Event {
    /// What it shows: the number of a report of progress, or the text of an answer.
    fn gist(&self) -> String {
        let answer = self.message["result"]["content"][0]["text"].as_str();
        answer.map_or_else(|| self.message["params"]["progress"].to_string(), str::to_owned)
    }

    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("no id: {self:?}"))
    }
}

/// A session of a client that reads streams event by event.
pub(crate) struct Session {
    address: SocketAddr,
    path: &'static str,
    version: &'static str,
    id: String,
}

/// A stream that the client reads.
pub(crate) struct Stream {
    client: Client,
    head: Response,
}

impl Session {
    pub(crate) async fn begin(address: SocketAddr, path: &'static str) -> Session {
        Session::of("2025-11-25", address, path).await
    }

    async fn of(version: &'static str, address: SocketAddr, path: &'static str) -> Session {
        let mut session = Session { address, path, version, id: String::new() };
        let params = json!({
            "protocolVersion": version, "clientInfo": {"name": "test", "version": "1"},
            "capabilities": {"elicitation": {}},
        });
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let head = session.post(&initialize).await.head;
        session.id = head.header("mcp-session-id").unwrap().to_owned();
        session
    }

    /// The same session at another address.
    pub(crate) fn at(&self, address: SocketAddr) -> Session {
        Session { address, id: self.id.clone(), ..*self }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        match self.id.as_str() {
            "" => Vec::new(),
            id => vec![("mcp-session-id", id.to_owned()), ("mcp-protocol-version", self.version.to_owned())],
        }
    }

    pub(crate) async fn post(&self, message: &Value) -> Stream {
        let mut client = Client::connect(self.address).await;
        client.post(self.path, &self.headers(), message.to_string().as_bytes()).await;
        let head = client.response_head().await;
        Stream { client, head }
    }

    pub(crate) async fn call(&self, id: u64, name: &str, arguments: Value) -> Stream {
        let params = json!({"name": name, "arguments": arguments, "_meta": {"progressToken": id}});
        self.post(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})).await
    }

    /// Opens a GET stream, or the rest of one.
    pub(crate) async fn get(&self, last_event: Option<&str>) -> Stream {
        let mut client = Client::connect(self.address).await;
        let mut headers = self.headers();
        headers.extend(last_event.map(|id| ("last-event-id", id.to_owned())));
        client.open_stream(self.path, &headers).await;
        let head = client.response_head().await;
        Stream { client, head }
    }

    async fn end(&self) -> u16 {
        let mut client = Client::connect(self.address).await;
        let head = client.head("DELETE", self.path, &self.headers());
        client.send(format!("{head}\r\n").as_bytes()).await;
        client.response_head().await.status
    }
}

impl Stream {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            let text = self.client.chunk().await?;
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let id = field("id:").map(str::to_owned);
            let message = field("data:").and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
            if !text.starts_with(':') {
                return Some(Event { id, message });
            }
        }
    }

    /// What is left, as what it shows.
    pub(crate) async fn gists(&mut self) -> Vec<String> {
        gists(&self.rest().await)
    }

    /// What is left.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut rest = Vec::new();
        while let Some(event) = self.event().await {
            rest.push(event);
        }
        rest
    }

    /// The event before any message.
    pub(crate) async fn primed(&mut self) -> String {
        let event = self.event().await.unwrap();
        assert_eq!(event.message, Value::Null);
        event.id().to_owned()
    }
}

/// What events show, in order.
fn gists(events: &[Event]) -> Vec<String> {
    events.iter().map(Event::gist).collect()
}

/// The reason of the refusal that an event carries.
pub(crate) fn lost(events: &[Event], request: u64) -> &str {
    let answer = &events.last().unwrap().message;
    assert_eq!(answer["id"], request);
    answer["error"]["data"]["reason"].as_str().unwrap()
}

#[tokio::test]
async fn a_call_goes_on_without_its_client_which_gets_the_rest_once_it_is_back() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    for (name, server) in [("old_count", &pace.old), ("new_count", &pace.new)] {
        let session = Session::begin(gateway.address, "/mcp").await;
        let mut stream = session.call(7, name, json!({})).await;
        let mut seen = HashSet::from([stream.primed().await]);
        pace.step(1);
        let first = stream.event().await.unwrap();
        assert_eq!(first.gist(), "1");
        drop(stream);
        pace.step(2);
        let mut stream = session.get(Some(first.id())).await;
        seen.insert(first.id().to_owned());
        seen.insert(stream.primed().await);
        pace.step(1);
        let rest = stream.rest().await;
        assert_eq!(gists(&rest), ["2", "3", "x"], "{name}");
        seen.extend(rest.iter().map(|event| event.id().to_owned()));
        assert_eq!(seen.len(), 6, "{name}: an id of its own for each: {seen:?}");
        let mut again = session.get(Some(rest[0].id())).await;
        again.primed().await;
        assert_eq!(again.gists().await, ["3", "x"], "{name}");
        assert_eq!(session.get(Some(rest[2].id())).await.head.status, 400, "nothing follows the answer");
        assert_eq!(server.counted("tools/call"), 1, "{name}");
    }
}

#[tokio::test]
async fn a_question_waits_for_its_client_to_come_back() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let session = Session::begin(gateway.address, "/mcp").await;
    let mut stream = session.call(7, "old_ask", json!({})).await;
    let start = stream.primed().await;
    drop(stream);
    pace.step(1);
    let mut stream = session.get(Some(&start)).await;
    stream.primed().await;
    let asked = stream.event().await.unwrap();
    assert_eq!(asked.message["method"], "elicitation/create");
    let result = json!({"action": "accept", "content": {"name": "Ada"}});
    let answer = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": result});
    assert_eq!(session.post(&answer).await.head.status, 202);
    assert_eq!(stream.gists().await, ["hello Ada"]);
}

#[tokio::test]
async fn what_another_session_was_told_cannot_be_had_by_its_ids() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let (own, other) =
        (Session::begin(gateway.address, "/mcp").await, Session::begin(gateway.address, "/mcp").await);
    let mut stream = own.call(7, "old_count", json!({})).await;
    let mut another = other.call(8, "old_count", json!({})).await;
    let (start, _) = (stream.primed().await, another.primed().await);
    pace.step(8);
    assert_eq!(stream.gists().await, ["1", "2", "3", "x"]);
    assert_eq!(another.gists().await, ["1", "2", "3", "x"]);
    let told = other.get(Some(&start)).await.rest().await;
    assert_eq!((told.len(), lost(&told, 7)), (1, "answer_lost"), "{told:?}");
    assert_eq!(other.get(Some(told[0].id())).await.head.status, 400, "it is told once");
    assert_eq!(own.get(Some("7")).await.head.status, 400);
}

#[tokio::test]
async fn no_more_is_kept_than_is_configured() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    for (path, length) in [("/few", 1), ("/short", 700)] {
        let session = Session::begin(gateway.address, path).await;
        let mut stream = session.call(7, "new_count", json!({"length": length.to_string()})).await;
        let start = stream.primed().await;
        pace.step(4);
        let all = stream.rest().await;
        assert_eq!(all[3].gist().len(), length, "who stays gets all of it");
        let mut stream = session.get(Some(&start)).await;
        stream.primed().await;
        let rest = stream.rest().await;
        match path {
            "/few" => assert_eq!(gists(&rest), ["3", "x"]),
            _ => assert_eq!(lost(&rest, 7), "answer_lost"),
        }
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_or_whose_session_ends_does_not_go_on() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    for (ended, name) in ["old_count", "new_count"].into_iter().enumerate() {
        let server = if ended == 0 { &pace.old } else { &pace.new };
        let session = Session::begin(gateway.address, "/mcp").await;
        let start = session.call(7, name, json!({})).await.primed().await;
        server.reaches("tools/call", 1).await;
        let params = json!({"requestId": 7});
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        assert_eq!(session.post(&cancel).await.head.status, 202);
        server.reaches("left", 1).await;
        assert_eq!(lost(&session.get(Some(&start)).await.rest().await, 7), "answer_lost", "{name}");

        session.call(8, name, json!({})).await.primed().await;
        server.reaches("tools/call", 2).await;
        assert_eq!(session.end().await, 200);
        server.reaches("left", 2).await;
        assert_eq!(session.get(Some(&start)).await.head.status, 404);
    }
}

#[tokio::test]
async fn of_the_calls_of_a_client_that_has_left_only_so_many_go_on() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let session = Session::begin(gateway.address, "/mcp").await;
    let (mut streams, mut starts) = (Vec::new(), Vec::new());
    for id in 0..65 {
        let mut stream = session.call(id, "old_count", json!({})).await;
        starts.push(stream.primed().await);
        streams.push(stream);
    }
    pace.old.reaches("tools/call", 65).await;
    streams.clear();
    pace.old.reaches("left", 1).await;
    for start in &starts[..11] {
        streams.push(session.get(Some(start)).await);
    }
    for id in 65..76 {
        let mut stream = session.call(id, "old_count", json!({})).await;
        stream.primed().await;
        streams.push(stream);
    }
    pace.old.reaches("tools/call", 76).await;
    // Who has come back to calls and leaves again finds their places taken.
    drop(streams);
    pace.old.reaches("left", 12).await;
    assert_eq!(session.end().await, 200);
    pace.old.reaches("left", 76).await;
}

#[tokio::test]
async fn what_is_said_outside_of_calls_is_kept_too() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let session = Session::begin(gateway.address, "/mcp").await;
    let say = |text: u64| {
        let params = json!({"level": "error", "data": text});
        pace.old.note("notifications/message", params);
    };
    let data = |event: &Event| event.message["params"]["data"].as_u64();
    let mut stream = session.get(None).await;
    stream.primed().await;
    // When the server is heard first cannot be seen from outside.
    let first = loop {
        say(0);
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(50), stream.event()).await {
            break event.unwrap();
        }
    };
    say(1);
    let last = loop {
        let event = stream.event().await.unwrap();
        if data(&event) == Some(1) {
            break event;
        }
    };
    assert_eq!(data(&first), Some(0));
    drop(stream);
    say(2);
    say(3);
    let mut stream = session.get(Some(last.id())).await;
    stream.primed().await;
    say(4);
    for text in 2..=4 {
        assert_eq!(data(&stream.event().await.unwrap()), Some(text));
    }
    let mut next = session.get(Some("00000000.0.5")).await;
    next.primed().await;
    assert!(stream.event().await.is_none(), "the session has one stream");
    let told: HashSet<_> = [next.event().await, next.event().await, next.event().await]
        .map(|event| event.unwrap().message["method"].as_str().unwrap().to_owned())
        .into();
    let expected = ["tools", "prompts", "resources"].map(|list| format!("notifications/{list}/list_changed"));
    assert_eq!(told, HashSet::from(expected), "what was missed is not known");
}

#[tokio::test]
async fn an_earlier_revision_is_told_ids_with_its_messages_alone() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let session = Session::of("2025-06-18", gateway.address, "/mcp").await;
    pace.step(2);
    let mut stream = session.call(7, "new_count", json!({})).await;
    let first = stream.event().await.unwrap();
    assert_eq!((first.gist().as_str(), stream.event().await.unwrap().gist().as_str()), ("1", "2"));
    drop(stream);
    pace.step(2);
    assert_eq!(gists(&session.get(Some(first.id())).await.rest().await), ["2", "3", "x"]);
    let json = session.call(8, "new_other", json!({})).await;
    assert_eq!(json.head.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn without_replay_nothing_has_an_id_and_a_call_ends_with_its_client() {
    let pace = Pace::start().await;
    let gateway = pace.gateway().await;
    let session = Session::begin(gateway.address, "/none").await;
    pace.step(1);
    let mut stream = session.call(7, "new_count", json!({})).await;
    let event = stream.event().await.unwrap();
    assert_eq!((event.gist().as_str(), event.id), ("1", None));
    drop(stream);
    pace.new.reaches("left", 1).await;
}
