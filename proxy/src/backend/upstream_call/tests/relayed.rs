use super::super::{Reply, Rounds};
use super::{NOBODY, PERSON, failure, modern_call, questions, result};
use crate::testing::{Asked, Bed, Server, Wire};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const INITIALIZED: &str =
    r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const QUESTION: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// A server of 2024-11-05 that asks before it answers a call, and ends its stream at a call for it.
async fn server() -> Server {
    let stage = Arc::new(Stage::default());
    Server::start(move |asked, wire| serve(asked, wire, Arc::clone(&stage))).await
}

struct Stage {
    say: UnboundedSender<String>,
    said: Mutex<UnboundedReceiver<String>>,
    /// The answer that waits for an answer.
    held: Mutex<String>,
}

impl Default for Stage {
    fn default() -> Stage {
        let (say, said) = unbounded_channel();
        Stage { say, said: Mutex::new(said), held: Mutex::default() }
    }
}

async fn serve(asked: Asked, mut wire: Wire, stage: Arc<Stage>) -> Option<Wire> {
    if asked.method() == "GET" {
        wire.begin_events().await;
        wire.raw_event("event: endpoint\r\ndata: /messages/?session_id=7\r\n\r\n").await;
        let mut said = stage.said.lock().await;
        while let Some(message) = said.recv().await.filter(|message| message != "end") {
            wire.event(&message).await;
        }
        wire.end().await;
        return None;
    }
    assert!(asked.head.starts_with("POST /messages/?session_id=7 "), "{}", asked.head);
    let answer = |result: &str| format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id());
    let words = match asked.method() {
        "initialize" => answer(INITIALIZED),
        "tools/call" if asked.body["params"]["arguments"]["n"] == 0 => "end".to_owned(),
        "tools/call" => {
            *stage.held.lock().await = answer(r#"{"ran":true}"#);
            QUESTION.to_owned()
        }
        "tools/list" => answer(r#"{"tools":[]}"#),
        "POST" => stage.held.lock().await.clone(),
        _ => String::new(),
    };
    wire.accepted().await;
    if !words.is_empty() {
        stage.say.send(words).unwrap();
    }
    Some(wire)
}

#[tokio::test]
async fn answers_and_questions_come_on_the_stream_of_the_session() {
    let server = server().await;
    let bed = Bed::before(server.address, ", transport: sse");
    let place = bed.place("anna", PERSON);
    let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let asked = questions(&mut opened).await;
    opened.reply(vec![(asked[0].key.clone(), Reply::Result(r#"{"action":"cancel"}"#.into()))]).await.unwrap();
    assert_eq!(result(&mut opened).await["ran"], true);
    let listed = crate::backend::gateway_requests::ask(
        &bed.gateway.backend,
        &place,
        crate::backend::gateway_requests::GatewayRequest::List { method: "tools/list", cursor: None },
    );
    assert_eq!(listed.await.unwrap(), r#"{"tools":[]}"#);
    assert_eq!(server.heard("initialize").len(), 1);
    assert!(server.heard("server/discover").is_empty());
}

#[tokio::test]
async fn a_call_whose_session_ends_with_its_stream_fails_and_the_next_has_a_new_one() {
    let server = server().await;
    let bed = Bed::before(server.address, ", transport: sse");
    let place = bed.place("anna", NOBODY);
    let ending = modern_call("").replace("1.50", "0");
    let mut opened = bed.open(&place, &ending, Rounds::Asks).await;
    failure(&mut opened).await;
    let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    assert_eq!(result(&mut opened).await["ran"], true);
    assert_eq!(server.heard("initialize").len(), 2);
}
