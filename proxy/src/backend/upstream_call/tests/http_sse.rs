use super::super::{Reply, Rounds};
use super::{NOBODY, PERSON, failure, modern_call, note, questions, result};
use crate::backend::upstream_sessions::NoticeContent;
use crate::testing::{Asked, Bed, Server, Wire, within};
use portunus_filters::Reason;
use portunus_filters::mcp::Revision;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const INITIALIZED: &str = r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{},"logging":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const ENDPOINT: &str = "event: endpoint\r\ndata: /messages/?session_id=5ecret\r\n\r\n";

/// What a script does to its newest stream.
enum Do {
    Say(String),
    End,
}

/// A server of the old transport, whose calls a test answers.
struct Old {
    server: Server,
    stream: Arc<Mutex<Option<UnboundedSender<Do>>>>,
}

impl Old {
    /// Names `endpoint` on its streams and answers what is posted with `status`.
    async fn start(endpoint: String, status: &'static str) -> Old {
        let stream: Arc<Mutex<Option<UnboundedSender<Do>>>> = Arc::default();
        let newest = Arc::clone(&stream);
        let server = Server::start(move |asked: Asked, mut wire: Wire| {
            let (newest, endpoint) = (Arc::clone(&newest), endpoint.clone());
            async move {
                match asked.method() {
                    "GET" => {
                        let (sender, mut said) = unbounded_channel();
                        *newest.lock().unwrap() = Some(sender);
                        wire.begin_events().await;
                        wire.raw_event(": hello\n\n").await;
                        wire.raw_event(&endpoint).await;
                        while let Some(Do::Say(message)) = said.recv().await {
                            wire.raw_event(&message).await;
                        }
                        return None;
                    }
                    "initialize" => say(&newest, &answer(&asked, INITIALIZED)),
                    _ => {}
                }
                wire.status(if asked.method() == "tools/call" { status } else { "202 Accepted" }, "", "")
                    .await;
                Some(wire)
            }
        })
        .await;
        Old { server, stream }
    }

    async fn usual() -> Old {
        Old::start(ENDPOINT.to_owned(), "202 Accepted").await
    }

    fn bed(&self, more: &str) -> Bed {
        Bed::with(&format!("url: \"http://{}/sse?key=1\", transport: sse{more}", self.server.address))
    }

    fn says(&self, message: &str) {
        say(&self.stream, message);
    }

    fn ends(&self) {
        self.stream.lock().unwrap().take().unwrap().send(Do::End).ok();
    }
}

fn say(stream: &Mutex<Option<UnboundedSender<Do>>>, message: &str) {
    let event = format!("event: message\r\ndata: {message}\r\n\r\n");
    stream.lock().unwrap().as_ref().unwrap().send(Do::Say(event)).ok();
}

fn answer(asked: &Asked, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id())
}

fn line(asked: &Asked) -> &str {
    asked.head.lines().next().unwrap()
}

#[tokio::test]
async fn calls_are_posted_where_the_server_says_and_answered_on_its_stream_whatever_their_order() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let place = bed.place("anna", NOBODY);
    let mut one = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let mut two = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let answers = async {
        let (first, second) = (old.server.hears("tools/call").await, old.server.hears("tools/call").await);
        assert_eq!(line(&first), "POST /messages/?session_id=5ecret HTTP/1.1");
        old.says(&answer(&second, &format!(r#"{{"to":{}}}"#, second.id())));
        old.says(&answer(&first, &format!(r#"{{"to":{}}}"#, first.id())));
        [first.id(), second.id()]
    };
    let (one, two, ids) = tokio::join!(result(&mut one), result(&mut two), answers);
    let answered = [one["to"].to_string(), two["to"].to_string()];
    assert!(answered == ids || answered == [ids[1].clone(), ids[0].clone()], "{answered:?} {ids:?}");
    assert_eq!(line(&old.server.heard("GET")[0]), "GET /sse?key=1 HTTP/1.1");
    assert_eq!(old.server.heard("initialize").len(), 1);
    for said in ["initialize", "notifications/initialized"] {
        assert_eq!(line(&old.server.heard(said)[0]), line(&old.server.heard("tools/call")[0]));
    }
    assert!(
        old.server.heard("tools/call")[0].header("mcp-protocol-version").is_none(),
        "2024-11-05 has none"
    );
}

#[tokio::test]
async fn progress_questions_and_logs_on_the_stream_belong_to_the_call() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let meta = r#","_meta":{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}"#;
    let place = bed.place("anna", PERSON);
    let place = crate::backend::upstream_call::UpstreamTarget {
        profile: Arc::new(place.profile.with_log_level(Some(portunus_filters::mcp::bridge::LogLevel::Info))),
        ..place
    };
    let levelled = async {
        let asked = old.server.hears("logging/setLevel").await;
        old.says(&answer(&asked, "{}"));
    };
    let call = super::call(meta);
    let (mut opened, ()) = tokio::join!(bed.open(&place, &call, Rounds::Asks), levelled);
    let script = async {
        let asked = old.server.hears("tools/call").await;
        old.says(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
            asked.id()
        ));
        old.says(
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"d"}}"#,
        );
        old.says(r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#);
        asked
    };
    let (progress, asked) = tokio::join!(note(&mut opened), script);
    assert_eq!(progress["params"]["progressToken"], "p");
    assert_eq!(note(&mut opened).await["method"], "notifications/message");
    let question = questions(&mut opened).await.remove(0);
    opened
        .reply(vec![(question.key.clone(), Reply::Result(r#"{"action":"decline"}"#.into()))])
        .await
        .unwrap();
    old.says(&answer(&asked, r#"{"done":true}"#));
    assert_eq!(result(&mut opened).await["done"], true);
    let told = old.server.heard("POST");
    assert_eq!((&told[0].body["id"], line(&told[0])), (&"q".into(), line(&asked)));
}

#[tokio::test]
async fn calls_whose_clients_want_logs_have_a_session_each() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let place = bed.place("anna", NOBODY);
    let place = crate::backend::upstream_call::UpstreamTarget {
        profile: Arc::new(place.profile.with_log_level(Some(portunus_filters::mcp::bridge::LogLevel::Info))),
        ..place
    };
    let call = modern_call("");
    let levelled = async || {
        let asked = old.server.hears("logging/setLevel").await;
        old.says(&answer(&asked, "{}"));
    };
    let (_one, ()) = tokio::join!(bed.open(&place, &call, Rounds::Never), levelled());
    let (mut two, ()) = tokio::join!(bed.open(&place, &call, Rounds::Never), levelled());
    let told = async {
        old.server.hears("tools/call").await;
        old.says(
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"d"}}"#,
        );
    };
    assert_eq!(tokio::join!(note(&mut two), told).0["method"], "notifications/message");
    assert_eq!(old.server.heard("GET").len(), 2);
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_not_waited_for_any_more() {
    let old = Old::usual().await;
    let bed = old.bed(", timeouts: { first_byte: 200ms }");
    let place = bed.place("anna", NOBODY);
    let backend = &bed.gateway.backend;
    let upstream_session = backend.session_pools.own(backend, &place, Revision::V2025_11_25).await.unwrap();
    let failure = upstream_session
        .ask(&bed.gateway.backend, crate::backend::gateway_requests::GatewayRequest::Ping)
        .await
        .unwrap_err();
    assert_eq!((failure.denial.reason, upstream_session.attached()), (Reason::UpstreamTimeout, 0));
}

#[tokio::test]
async fn an_answer_is_never_crowded_out_by_what_is_said_before_it() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let mut opened = bed.open(&bed.place("anna", PERSON), &modern_call(""), Rounds::Asks).await;
    let asked = tokio::select! {
        turn = opened.next() => panic!("{turn:?}"),
        asked = old.server.hears("tools/call") => asked,
    };
    for _ in 0..500 {
        old.says(
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"d"}}"#,
        );
    }
    old.says(&answer(&asked, r#"{"done":true}"#));
    old.says(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    loop {
        let notice = within("the end", bed.gateway.backend.notices.next()).await;
        if matches!(&notice.content, NoticeContent::Notification { method, .. } if method.is("notifications/tools/list_changed"))
        {
            break;
        }
    }
    assert_eq!(result(&mut opened).await["done"], true);
}

#[tokio::test]
async fn a_session_ends_with_its_stream_and_with_it_the_calls_under_way() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let place = bed.place("anna", NOBODY);
    let mut opened = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let end = async {
        old.server.hears("tools/call").await;
        old.ends();
    };
    let (failed, ()) = tokio::join!(failure(&mut opened), end);
    assert_eq!(failed.denial.reason, Reason::UpstreamUnavailable);
    let gone = within("news of it", bed.gateway.backend.notices.next()).await;
    assert!(matches!(gone.content, NoticeContent::Gone) && gone.upstream_session.is_dead());
    let mut again = bed.open(&place, &modern_call(""), Rounds::Asks).await;
    let answered = async {
        let asked = old.server.hears("tools/call").await;
        old.says(&answer(&asked, r#"{"again":true}"#));
    };
    assert_eq!(tokio::join!(result(&mut again), answered).0["again"], true);
    assert_eq!(old.server.heard("GET").len(), 2);
}

#[tokio::test]
async fn an_event_that_is_too_large_ends_the_session() {
    let old = Old::usual().await;
    let bed = old.bed("");
    let mut opened = bed.open(&bed.place("anna", NOBODY), &modern_call(""), Rounds::Asks).await;
    let flood = async {
        old.server.hears("tools/call").await;
        old.says(&"x".repeat(33 << 20));
    };
    let (failed, ()) = tokio::join!(failure(&mut opened), flood);
    assert_eq!(failed.denial.reason, Reason::UpstreamUnavailable);
    let gone = within("news of it", bed.gateway.backend.notices.next()).await;
    assert!(matches!(gone.content, NoticeContent::Gone) && gone.upstream_session.is_dead());
}

#[tokio::test]
async fn an_endpoint_of_another_origin_is_refused_and_never_reached() {
    let elsewhere = Server::start(|asked: Asked, _| async move { panic!("reached: {}", asked.head) }).await;
    let at = |address: SocketAddr| format!("event: endpoint\ndata: http://{address}/messages\n\n");
    let cases = [
        at(elsewhere.address),
        format!("event: endpoint\ndata: //{}/messages\n\n", elsewhere.address),
        "data: /messages\n\n".to_owned(),
        format!("event: endpoint\ndata: /{}\n\n", "a".repeat(5000)),
    ];
    for endpoint in cases {
        let old = Old::start(endpoint.clone(), "202 Accepted").await;
        let bed = old.bed("");
        let pools = &bed.gateway.backend.session_pools;
        let founded =
            pools.own(&bed.gateway.backend, &bed.place("anna", NOBODY), Revision::V2025_11_25).await;
        let failure = founded.err().unwrap();
        assert_eq!(failure.denial.reason, Reason::UpstreamMalformed, "{endpoint:.40}");
        assert!(!failure.cause.contains("/messages"), "{}", failure.cause);
        assert!(old.server.heard("initialize").is_empty());
    }
}

#[tokio::test]
async fn what_no_server_of_this_transport_does_founds_no_session() {
    let cases = [
        ("405 Method Not Allowed", "", "", Reason::UpstreamMalformed),
        ("200 OK", "content-type: application/json\r\n", "{}", Reason::UpstreamMalformed),
        ("503 Down", "", "", Reason::UpstreamUnavailable),
        ("401 No", "www-authenticate: Bearer\r\n", "", Reason::UpstreamUnauthorized),
        (
            "200 OK",
            "content-type: text/event-stream\r\n",
            "event: endpoint\ndata: /m\n",
            Reason::UpstreamMalformed,
        ),
    ];
    for (status, fields, body, reason) in cases {
        let server = Server::start(move |_, mut wire: Wire| async move {
            wire.status(status, fields, body).await;
            Some(wire)
        })
        .await;
        let bed = Bed::with(&format!("url: \"http://{}/sse\", transport: sse", server.address));
        let pools = &bed.gateway.backend.session_pools;
        let founded =
            pools.own(&bed.gateway.backend, &bed.place("anna", NOBODY), Revision::V2025_11_25).await;
        assert_eq!(founded.err().unwrap().denial.reason, reason, "{status} {body}");
    }
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_replaced_once() {
    let old = Old::start(ENDPOINT.to_owned(), "404 Not Found").await;
    let bed = old.bed("");
    let mut opened = bed.open(&bed.place("anna", NOBODY), &modern_call(""), Rounds::Asks).await;
    failure(&mut opened).await;
    assert_eq!((old.server.heard("GET").len(), old.server.heard("tools/call").len()), (2, 2));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_asked_whether_it_lives() {
    let old = Old::usual().await;
    let bed = old.bed(", timeouts: { idle: 100ms }");
    let place = bed.place("anna", NOBODY);
    let pools = &bed.gateway.backend.session_pools;
    let upstream_session = pools.own(&bed.gateway.backend, &place, Revision::V2025_11_25).await.unwrap();
    let asked = old.server.hears("ping").await;
    old.says(&answer(&asked, "{}"));
    old.server.hears("ping").await;
    assert!(!upstream_session.is_dead());
    let gone = within("the end of the session", bed.gateway.backend.notices.next()).await;
    assert!(matches!(gone.content, NoticeContent::Gone) && upstream_session.is_dead());
}
