use super::super::{Answer, CallEvent, Outcome, ParamHeader, Reply, Retry, Rounds};
use super::{NOBODY, PERSON, call, failure, modern_call, note, questions, result, turn};
use crate::testing::{Asked, Bed, Choice, Server, Wire};
use portunus_filters::{Era, Reason};

const PINNED: &str = ", era: modern";

/// Asks for a name once, then greets.
async fn asking(asked: Asked, mut wire: Wire) -> Option<Wire> {
    match asked.body["params"]["inputResponses"]["k\"1"]["content"]["name"].as_str() {
        Some(name) => {
            let result = format!(r#"{{"resultType":"complete","content":[],"greeted":"{name}"}}"#);
            wire.result(&asked, &result).await;
        }
        None => {
            let asks = r#"{"resultType":"input_required","inputRequests":{"k\"1":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"st\u0061te"}"#;
            wire.result(&asked, asks).await;
        }
    }
    Some(wire)
}

fn named(name: &str) -> Reply {
    Reply::Result(format!(r#"{{"action":"accept","content":{{"name":"{name}"}}}}"#))
}

#[tokio::test]
async fn a_legacy_clients_call_is_said_in_modern_words_and_its_question_answered() {
    let server = Server::start(asking).await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let mut opened = bed.open(&place, &call(""), Rounds::Asks).await;
    let asked = questions(&mut opened).await;
    assert_eq!((&*asked[0].key, &*asked[0].method), ("k\"1", "elicitation/create"));
    opened.reply(vec![(asked[0].key.clone(), named("Ada"))]).await.unwrap();
    assert_eq!(result(&mut opened).await["greeted"], "Ada");
    let heard = server.heard("tools/call");
    assert_eq!(heard.len(), 2);
    assert_ne!(heard[0].id(), heard[1].id(), "a retry is a request of its own");
    assert_eq!(heard[1].body["params"]["requestState"], "state");
    for (name, value) in
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "echo")]
    {
        assert_eq!(heard[0].header(name), Some(value));
    }
    let meta = &heard[0].body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "t");
}

#[tokio::test]
async fn what_a_client_does_not_answer_ends_the_call_as_a_tool_error() {
    let server = Server::start(asking).await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let mut opened = bed.open(&place, &call(""), Rounds::Asks).await;
    let asked = questions(&mut opened).await;
    let refusal = Reply::Error(r#"{"code":-32000,"message":"no"}"#.to_owned());
    opened.reply(vec![(asked[0].key.clone(), refusal)]).await.unwrap();
    assert_eq!(result(&mut opened).await["isError"], true);
    for (capabilities, rounds) in [(NOBODY, Rounds::Asks), (PERSON, Rounds::Never)] {
        let mut opened = bed.open(&bed.place("bert", capabilities), &call(""), rounds).await;
        assert_eq!(result(&mut opened).await["isError"], true, "{rounds:?}");
    }
}

#[tokio::test]
async fn questions_pass_through_to_a_client_that_knows_them_and_its_retry_goes_on() {
    let server = Server::start(asking).await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let mut opened = bed.open(&place, &modern_call(""), Rounds::Through).await;
    assert_eq!(result(&mut opened).await["resultType"], "input_required");
    let retry = Retry {
        input_responses: Some(r#"{"k\"1":{"action":"accept","content":{"name":"Eve"}}}"#.into()),
        request_state: Some(r#""st\u0061te""#.into()),
    };
    let opened = bed
        .open_with(&place, &modern_call(""), Choice { retry: Some(retry), ..Choice::of(Rounds::Through) })
        .await;
    assert_eq!(result(&mut opened.unwrap()).await["greeted"], "Eve");
}

#[tokio::test]
async fn a_modern_clients_request_stays_as_it_is_but_for_a_progress_token_and_an_id_that_is_a_text() {
    let server = Server::start(|asked: Asked, mut wire: Wire| async move {
        wire.result(&asked, "{}").await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let place = bed.place("anna", PERSON);
    let watched = modern_call("").replace(r#""_meta":{"#, r#""_meta":{"progressToken":1,"#);
    let numbered = modern_call("").replace(r#""id":"c""#, r#""id":7"#);
    for call in [&numbered, &watched, &modern_call("")] {
        result(&mut bed.open(&place, call, Rounds::Through).await).await;
    }
    let heard = server.heard("tools/call");
    let sent: serde_json::Value = serde_json::from_str(&numbered).unwrap();
    assert_eq!(heard[0].body, sent);
    assert!(heard[2].body["id"].is_number(), "no filter reads a text in its place");
    let token = &heard[1].body["params"]["_meta"]["progressToken"];
    assert!(*token != 1 && *token == heard[1].body["id"], "another caller may have chosen the same: {token}");
}

#[tokio::test]
async fn an_upstream_that_only_wants_time_is_asked_again_and_not_for_ever() {
    let server = Server::start(|asked: Asked, mut wire: Wire| async move {
        wire.result(&asked, r#"{"resultType":"input_required","requestState":"again"}"#).await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", NOBODY), &call(""), Rounds::Asks).await;
    assert_eq!(failure(&mut opened).await.denial.reason, Reason::UpstreamMalformed);
    assert_eq!(server.heard("tools/call").len(), 9);
}

#[tokio::test]
async fn progress_comes_under_the_clients_token() {
    let server = Server::start(|asked: Asked, mut wire: Wire| async move {
        let token = &asked.body["params"]["_meta"]["progressToken"];
        wire.begin_events().await;
        let progress = |token: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
            )
        };
        wire.event(&progress("\"another\"")).await;
        wire.event(&progress(&token.to_string())).await;
        wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"ok":true}}}}"#, asked.id())).await;
        wire.end().await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let body = call(r#","_meta":{"progressToken":"mi\u006ee"}"#);
    let place = bed.place("anna", NOBODY);
    let mut opened = bed.open(&place, &body, Rounds::Asks).await;
    assert_eq!(note(&mut opened).await["params"]["progressToken"], "mine");
    assert_eq!(result(&mut opened).await["ok"], true);
    let kept = async {
        while place.pool.idle_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    crate::testing::within("the connection to go back into its pool", kept).await;
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let cases = [
        ("page", "500 Oops", "text/html", "<html>", Err(Reason::UpstreamMalformed)),
        ("down", "503 Oops", "text/html", "<html>", Err(Reason::UpstreamUnavailable)),
        ("no message", "200 OK", "application/json", "{}", Err(Reason::UpstreamMalformed)),
        (
            "another's answer",
            "200 OK",
            "application/json",
            r#"{"jsonrpc":"2.0","id":"x","result":{}}"#,
            Err(Reason::UpstreamMalformed),
        ),
        (
            "error without an id",
            "400 No",
            "application/json",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"m"}}"#,
            Ok(-32020),
        ),
        ("challenge", "401 No", "text/plain", "", Err(Reason::UpstreamUnauthorized)),
    ];
    for (name, status, media, body, expected) in cases {
        let server = Server::start(move |_, mut wire: Wire| async move {
            wire.status(status, &format!("content-type: {media}\r\n"), body).await;
            Some(wire)
        })
        .await;
        let bed = Bed::before(server.address, PINNED);
        let mut opened = bed.open(&bed.place("anna", NOBODY), &call(""), Rounds::Asks).await;
        let got = match turn(&mut opened).await {
            CallEvent::Done(Answer { outcome: Outcome::Error { code, .. }, era: Era::Modern, .. }) => {
                Ok(code)
            }
            CallEvent::Failed(failure) => Err(failure.denial.reason),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(got, expected, "{name}");
    }
}

#[tokio::test]
async fn a_challenge_to_the_clients_own_credential_is_kept() {
    let server = Server::start(|_, mut wire: Wire| async move {
        wire.status("401 No", "www-authenticate: Bearer x=\"y\"\r\n", "").await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, ", era: modern, credentials: passthrough");
    let mut opened = bed.open(&bed.place("anna", NOBODY), &call(""), Rounds::Asks).await;
    let challenge = failure(&mut opened).await.denial.challenge.unwrap();
    assert_eq!((challenge.status, challenge.fields), (401, vec![b"Bearer x=\"y\"".as_slice().into()]));
}

#[tokio::test]
async fn breaking_off_closes_the_connection_before_the_upstream_has_answered() {
    let (told, closed) = tokio::sync::oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    let server = Server::start(move |_, mut wire: Wire| {
        let told = told.lock().unwrap().take();
        async move {
            wire.closed().await;
            told.unwrap().send(()).ok();
            None
        }
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let mut opened = bed.open(&bed.place("anna", NOBODY), &call(""), Rounds::Asks).await;
    tokio::select! {
        turn = opened.next() => panic!("{turn:?}"),
        _ = server.hears("tools/call") => {}
    }
    opened.cancel();
    crate::testing::within("the end of the connection", closed).await.unwrap();
}

#[tokio::test]
async fn arguments_are_mirrored_as_the_schema_declares() {
    let server = Server::start(|asked: Asked, mut wire: Wire| async move {
        wire.result(&asked, "{}").await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, PINNED);
    let params = [ParamHeader { name: "Count".into(), path: vec!["n".into()].into() }];
    let choice = Choice { params: params.into(), ..Choice::of(Rounds::Asks) };
    let mut opened = bed.open_with(&bed.place("anna", NOBODY), &call(""), choice).await.unwrap();
    result(&mut opened).await;
    assert_eq!(server.heard("tools/call")[0].header("mcp-param-count"), Some("1.50"));
}
