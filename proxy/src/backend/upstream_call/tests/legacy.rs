use super::super::{CallEvent, Outcome, Reply, Rounds};
use super::{NOBODY, PERSON, call, failure, modern_call, note, questions, result, turn};
use crate::backend::upstream_call::SessionChoice;
use crate::backend::upstream_sessions::LeaseOptions;
use crate::backend::upstream_sessions::NoticeContent;
use crate::testing::{Asked, Bed, Choice, Server, Wire, within};
use portunus_filters::mcp::Revision;
use portunus_filters::{Era, Reason};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

const PINNED: &str = ", era: legacy";
const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"logging":{},"resources":{"subscribe":true}},"serverInfo":{"name":"s","version":"1"}}"#;

/// Answers what keeps a session, with ids `s1`, `s2` and so on; gives back what it does not answer.
async fn session(asked: &Asked, wire: &mut Wire, next: &AtomicUsize) -> bool {
    match asked.method() {
        "initialize" => {
            let number = next.fetch_add(1, Ordering::SeqCst) + 1;
            let fields = format!("content-type: application/json\r\nmcp-session-id: s{number}\r\n");
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{INITIALIZED}}}"#, asked.id());
            wire.status("200 OK", &fields, &body).await;
        }
        "GET" => wire.status("405 Method Not Allowed", "", "").await,
        "DELETE" => wire.status("200 OK", "", "").await,
        method if method.starts_with("notifications/") => wire.accepted().await,
        _ => return false,
    }
    true
}

async fn echoing() -> Server {
    let sessions = Arc::new(AtomicUsize::new(0));
    Server::start(move |asked: Asked, mut wire: Wire| {
        let sessions = Arc::clone(&sessions);
        async move {
            if !session(&asked, &mut wire, &sessions).await {
                let session = asked.header("mcp-session-id").unwrap();
                wire.result(&asked, &format!(r#"{{"session":"{session}"}}"#)).await;
            }
            Some(wire)
        }
    })
    .await
}

#[tokio::test]
async fn a_modern_clients_call_is_said_in_legacy_words_on_a_session() {
    let server = echoing().await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", NOBODY);
    for _ in 0..3 {
        let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
        assert_eq!(result(&mut opened).await["session"], "s1");
    }
    assert_eq!(server.heard("initialize").len(), 1);
    assert_eq!(server.heard("notifications/initialized").len(), 1);
    let calls = server.heard("tools/call");
    let ids: std::collections::HashSet<String> = calls.iter().map(Asked::id).collect();
    assert_eq!(ids.len(), 3, "ids are unique in a session");
    assert_eq!(calls[0].header("mcp-protocol-version"), Some("2025-11-25"));
    assert!(calls[0].body["params"].get("_meta").is_none());
    assert!(calls[0].header("mcp-method").is_none());
}

#[tokio::test]
async fn callers_profiles_and_servers_never_share_a_session() {
    let server = echoing().await;
    let bed = Bed::before(server.address, PINNED);
    let mut seen = std::collections::HashSet::new();
    for (caller, capabilities) in [("anna", NOBODY), ("bert", NOBODY), ("anna", PERSON)] {
        let place = bed.place(caller, capabilities);
        let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
        assert!(seen.insert(result(&mut opened).await["session"].to_string()), "{caller} {capabilities}");
    }
    let mut elsewhere = bed.place("anna", NOBODY);
    elsewhere.server = portunus_config::ServerId("*|/other".into());
    let mut opened = bed.open(&elsewhere, &modern_call(""), Rounds::Asks).await;
    assert!(seen.insert(result(&mut opened).await["session"].to_string()));
}

#[tokio::test]
async fn a_session_is_founded_once_for_a_stampede() {
    let server = echoing().await;
    let bed = Arc::new(Bed::before(server.address, PINNED));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let bed = Arc::clone(&bed);
        calls.spawn(async move {
            let place = bed.place("anna", NOBODY);
            let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
            result(&mut opened).await
        });
    }
    within("all calls", calls.join_all()).await;
    assert_eq!(server.heard("initialize").len(), 1);
}

/// Asks on the stream of the call, and greets by what was answered.
async fn asking(asked: Asked, wire: Wire, sessions: Arc<AtomicUsize>, answers: Arc<Answers>) -> Option<Wire> {
    let mut wire = wire;
    if session(&asked, &mut wire, &sessions).await {
        return Some(wire);
    }
    if asked.body.get("method").is_none() {
        *answers.last.lock().await = asked.body.clone();
        answers.came.notify_one();
        wire.accepted().await;
        return Some(wire);
    }
    wire.begin_events().await;
    wire.event(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
    answers.came.notified().await;
    wire.event(r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#).await;
    answers.came.notified().await;
    let answer = answers.last.lock().await.clone();
    wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"answer":{answer}}}}}"#, asked.id())).await;
    wire.end().await;
    Some(wire)
}

#[derive(Default)]
struct Answers {
    last: Mutex<serde_json::Value>,
    came: Notify,
}

async fn asking_server() -> Server {
    let (sessions, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Answers::default()));
    Server::start(move |asked, wire| asking(asked, wire, Arc::clone(&sessions), Arc::clone(&answers))).await
}

#[tokio::test]
async fn requests_of_the_server_become_questions_and_its_pings_are_answered() {
    let server = asking_server().await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", PERSON), &modern_call(""), Rounds::Asks).await;
    let asked = questions(&mut opened).await;
    assert_eq!(&*asked[0].method, "elicitation/create");
    opened
        .reply(vec![(asked[0].key.clone(), Reply::Result(r#"{"action":"decline"}"#.into()))])
        .await
        .unwrap();
    let answer = result(&mut opened).await["answer"].clone();
    assert_eq!((&answer["id"], &answer["result"]["action"]), (&"q".into(), &"decline".into()));
}

#[tokio::test]
async fn who_cannot_be_asked_is_not() {
    let server = asking_server().await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", NOBODY), &modern_call(""), Rounds::Asks).await;
    assert_eq!(result(&mut opened).await["answer"]["error"]["code"], -32603);
}

/// Asks for a sample whatever the client declared, and fails where it gets none.
async fn heedless(asked: Asked, mut wire: Wire) -> Option<Wire> {
    if asked.method() == "tools/call" {
        wire.begin_events().await;
        wire.event(r#"{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}"#).await;
        let failed = r#"{"content":[],"isError":true}"#;
        wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{failed}}}"#, asked.id())).await;
        wire.end().await;
    } else if asked.body.get("error").is_some() {
        wire.accepted().await;
    } else {
        session(&asked, &mut wire, &AtomicUsize::new(0)).await;
    }
    Some(wire)
}

#[tokio::test]
async fn a_modern_client_is_told_what_it_would_have_had_to_declare() {
    let server = Server::start(heedless).await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let CallEvent::Done(answer) = turn(&mut opened).await else { panic!("no answer") };
    assert_eq!(answer.era, Era::Modern);
    let Outcome::Error { code: -32021, error } = answer.outcome else { panic!("{answer:?}") };
    let error: serde_json::Value = serde_json::from_str(error.text()).unwrap();
    assert!(error["data"]["requiredCapabilities"]["sampling"].is_object());
    let mut opened = bed.open(&place, &call(""), Rounds::Asks).await;
    assert_eq!(result(&mut opened).await["isError"], true, "a legacy client gets what the tool said");
}

#[tokio::test]
async fn callers_share_a_session_only_where_the_document_says_so_and_nobody_can_be_asked() {
    let server = echoing().await;
    let bed = Bed::before(server.address, ", era: legacy, sessions: shared");
    let mut sessions = Vec::new();
    for (caller, capabilities) in [("anna", NOBODY), ("bert", NOBODY), ("anna", PERSON), ("bert", PERSON)] {
        let mut opened = bed.open(&bed.place(caller, capabilities), &modern_call(""), Rounds::Asks).await;
        sessions.push(result(&mut opened).await["session"].as_str().unwrap().to_owned());
    }
    assert_eq!(sessions, ["s1", "s1", "s2", "s3"]);
    let founded = server.heard("initialize");
    assert_eq!(founded[0].body["params"]["clientInfo"]["name"], "portunus");
    assert!(founded[0].body["params"]["capabilities"].as_object().unwrap().is_empty());
}

/// A server that holds every call until it is let go, and counts sessions.
async fn holding(let_go: Arc<Notify>) -> Server {
    let sessions = Arc::new(AtomicUsize::new(0));
    Server::start(move |asked: Asked, mut wire: Wire| {
        let (sessions, let_go) = (Arc::clone(&sessions), Arc::clone(&let_go));
        async move {
            if !session(&asked, &mut wire, &sessions).await {
                let_go.notified().await;
                let session = asked.header("mcp-session-id").unwrap();
                wire.result(&asked, &format!(r#"{{"session":"{session}"}}"#)).await;
            }
            Some(wire)
        }
    })
    .await
}

#[tokio::test]
async fn calls_that_may_be_asked_have_a_session_each_while_they_run() {
    let let_go = Arc::new(Notify::new());
    let server = holding(Arc::clone(&let_go)).await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let mut one = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let mut two = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let both =
        async { (result(&mut one).await["session"].clone(), result(&mut two).await["session"].clone()) };
    let release = async {
        server.hears("tools/call").await;
        let_go.notify_one();
        server.hears("tools/call").await;
        let_go.notify_one();
    };
    let ((first, second), ()) = tokio::join!(both, release);
    assert_ne!(first, second);
    let mut again = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let_go.notify_one();
    assert_eq!(result(&mut again).await["session"], "s1", "a free session is used again");
    assert_eq!(server.heard("initialize").len(), 2);
}

/// A server that forgets its sessions when told to, and refuses those in one of two ways.
async fn forgetful(forgotten: Arc<AtomicBool>, status: &'static str, body: &'static str) -> Server {
    let sessions = Arc::new(AtomicUsize::new(0));
    Server::start(move |asked: Asked, mut wire: Wire| {
        let (sessions, forgotten) = (Arc::clone(&sessions), Arc::clone(&forgotten));
        async move {
            let stale = forgotten.load(Ordering::SeqCst) && asked.header("mcp-session-id") == Some("s1");
            if stale && asked.method() != "DELETE" {
                wire.status(status, "content-type: application/json\r\n", body).await;
            } else if !session(&asked, &mut wire, &sessions).await {
                wire.result(&asked, r#"{"ran":true}"#).await;
            }
            Some(wire)
        }
    })
    .await
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_replaced_and_the_call_sent_once_more() {
    let refusals = [
        ("404 Not Found", ""),
        (
            "400 Bad Request",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No valid session ID"}}"#,
        ),
    ];
    for (status, body) in refusals {
        let forgotten = Arc::new(AtomicBool::new(false));
        let server = forgetful(Arc::clone(&forgotten), status, body).await;
        let bed = Bed::before(server.address, PINNED);
        let place = bed.place("anna", PERSON);
        let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
        result(&mut opened).await;
        forgotten.store(true, Ordering::SeqCst);
        let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
        assert_eq!(result(&mut opened).await["ran"], true, "{status}");
        let heard = server.heard("tools/call");
        let sessions: Vec<_> = heard.iter().map(|asked| asked.header("mcp-session-id").unwrap()).collect();
        assert_eq!(sessions, ["s1", "s1", "s2"], "{status}");
    }
}

#[tokio::test]
async fn the_forgotten_session_of_a_client_is_its_own_to_found_again() {
    let forgotten = Arc::new(AtomicBool::new(false));
    let server = forgetful(Arc::clone(&forgotten), "404 Not Found", "").await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let backend = &bed.gateway.backend;
    let upstream_session = backend.session_pools.own(backend, &place, Revision::V2025_06_18).await.unwrap();
    forgotten.store(true, Ordering::SeqCst);
    let opened = bed
        .open_with(
            &place,
            &call(""),
            Choice {
                upstream_session: SessionChoice::Own(&upstream_session, None),
                ..Choice::of(Rounds::Asks)
            },
        )
        .await;
    failure(&mut opened.unwrap()).await;
    assert!(upstream_session.is_dead());
    assert_eq!(server.heard("initialize").len(), 1);
}

#[tokio::test]
async fn a_call_that_ended_here_is_cancelled_at_the_server_before_it_answers() {
    let server = holding(Arc::new(Notify::new())).await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", NOBODY), &modern_call(""), Rounds::Asks).await;
    let asked = tokio::select! {
        turn = opened.next() => panic!("{turn:?}"),
        asked = server.hears("tools/call") => asked,
    };
    opened.cancel();
    let cancelled = server.hears("notifications/cancelled").await;
    assert_eq!(cancelled.body["params"]["requestId"], asked.body["id"]);
    assert_eq!(cancelled.header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_resumed_where_it_has_ids() {
    let sessions = Arc::new(AtomicUsize::new(0));
    let call_id = Arc::new(Mutex::new(String::new()));
    let server = Server::start(move |asked: Asked, mut wire: Wire| {
        let (sessions, call_id) = (Arc::clone(&sessions), Arc::clone(&call_id));
        async move {
            if asked.header("last-event-id") == Some("e7") {
                wire.begin_events().await;
                let id = call_id.lock().await.clone();
                wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resumed":true}}}}"#)).await;
                wire.end().await;
            } else if !session(&asked, &mut wire, &sessions).await {
                *call_id.lock().await = asked.id();
                wire.begin_events().await;
                wire.raw_event("id: e7\nretry: 1\ndata:\n\n").await;
                wire.end().await;
            }
            Some(wire)
        }
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", NOBODY), &modern_call(""), Rounds::Asks).await;
    assert_eq!(result(&mut opened).await["resumed"], true);
}

/// A server whose GET stream says what a test sends.
async fn speaking() -> (Server, tokio::sync::mpsc::UnboundedSender<String>, Arc<Notify>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
    let (receiver, sessions) = (Arc::new(Mutex::new(receiver)), Arc::new(AtomicUsize::new(0)));
    let let_go = Arc::new(Notify::new());
    let released = Arc::clone(&let_go);
    let server = Server::start(move |asked: Asked, mut wire: Wire| {
        let (receiver, sessions) = (Arc::clone(&receiver), Arc::clone(&sessions));
        let let_go = Arc::clone(&let_go);
        async move {
            if asked.method() == "GET" {
                wire.begin_events().await;
                while let Some(message) = receiver.lock().await.recv().await {
                    wire.event(&message).await;
                }
                return None;
            }
            if asked.body.get("method").is_none() {
                wire.accepted().await;
            } else if !session(&asked, &mut wire, &sessions).await {
                if asked.method() == "tools/call" {
                    let_go.notified().await;
                }
                wire.result(&asked, "{}").await;
            }
            Some(wire)
        }
    })
    .await;
    (server, sender, released)
}

const QUESTION: &str = r#"{"jsonrpc":"2.0","id":"g","method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

#[tokio::test]
async fn what_comes_on_a_sessions_stream_finds_its_call_or_the_hub() {
    let (server, say, let_go) = speaking().await;
    let bed = Bed::before(server.address, PINNED);
    let body = modern_call("").replace("\"_meta\":{", "\"_meta\":{\"progressToken\":7,");
    let mut opened = bed.open(&bed.place("anna", PERSON), &body, Rounds::Asks).await;
    let asked = tokio::select! {
        turn = opened.next() => panic!("{turn:?}"),
        asked = server.hears("tools/call") => asked,
    };
    let token = &asked.body["params"]["_meta"]["progressToken"];
    say.send(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#.into()).unwrap();
    say.send(format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
    ))
    .unwrap();
    say.send(QUESTION.into()).unwrap();
    assert_eq!(note(&mut opened).await["params"]["progressToken"], 7);
    let asked = questions(&mut opened).await;
    opened.reply(vec![(asked[0].key.clone(), Reply::Result(r#"{"action":"cancel"}"#.into()))]).await.unwrap();
    let_go.notify_one();
    result(&mut opened).await;
    let notice = within("the list change", bed.gateway.backend.notices.next()).await;
    assert!(
        matches!(notice.content, NoticeContent::Notification { method, .. } if method.is("notifications/tools/list_changed"))
    );
    assert_eq!(notice.caller, bed.place("anna", PERSON).caller);
}

#[tokio::test]
async fn a_question_that_belongs_to_no_call_is_declined_or_told_to_the_client_whose_session_it_is() {
    let (server, say, _) = speaking().await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let lease = bed
        .gateway
        .backend
        .session_pools
        .lease(&bed.gateway.backend, &place, LeaseOptions { exclusive: true, since: None })
        .await
        .unwrap();
    say.send(QUESTION.into()).unwrap();
    let declined = async {
        loop {
            let asked = server.hears("POST").await;
            if asked.body["id"] == "g" {
                return asked;
            }
        }
    };
    assert_eq!(declined.await.body["error"]["code"], -32603);
    drop(lease);

    let (server, say, _) = speaking().await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let backend = &bed.gateway.backend;
    let upstream_session = backend.session_pools.own(backend, &place, Revision::V2025_11_25).await.unwrap();
    say.send(QUESTION.into()).unwrap();
    let notice = within("the question", bed.gateway.backend.notices.next()).await;
    let NoticeContent::Question { id, question } = notice.content else { panic!("no question") };
    assert_eq!(&*question.method, "elicitation/create");
    upstream_session.answer(&bed.gateway.backend, id, Reply::Result(r#"{"action":"decline"}"#.into()));
    assert_eq!(server.hears("POST").await.body["result"]["action"], "decline");
}

#[tokio::test]
async fn sessions_that_nobody_uses_are_ended() {
    let server = echoing().await;
    let bed = Bed::before(server.address, PINNED);
    let pools = &bed.gateway.backend.session_pools;
    let place = bed.place("anna", NOBODY);
    let lease = pools.lease(&bed.gateway.backend, &place, LeaseOptions::any()).await.unwrap();
    for _ in 0..3 {
        bed.clock.advance(Duration::from_secs(400));
        pools.sweep(&bed.gateway.backend);
    }
    assert_eq!(pools.len(), 1, "a session in use is kept");
    drop(lease);
    pools.sweep(&bed.gateway.backend);
    bed.clock.advance(Duration::from_secs(299));
    pools.sweep(&bed.gateway.backend);
    assert_eq!(pools.len(), 1);
    bed.clock.advance(Duration::from_secs(2));
    pools.sweep(&bed.gateway.backend);
    assert!(pools.is_empty());
    assert_eq!(server.hears("DELETE").await.header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_server_that_founds_no_session_fails_all_who_wait_at_once() {
    let server = Server::start(|_, mut wire: Wire| async move {
        wire.status("503 Down", "", "").await;
        Some(wire)
    })
    .await;
    let bed = Arc::new(Bed::before(server.address, PINNED));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let bed = Arc::clone(&bed);
        calls.spawn(async move {
            let place = bed.place("anna", NOBODY);
            let opened = bed.open_with(&place, &modern_call(""), Choice::of(Rounds::Asks)).await;
            opened.map(drop).unwrap_err().denial.reason
        });
    }
    let reasons = within("all calls", calls.join_all()).await;
    assert!(reasons.iter().all(|reason| *reason == Reason::UpstreamUnavailable));
    assert!(server.heard("initialize").len() < 10, "{}", server.heard("initialize").len());
}
