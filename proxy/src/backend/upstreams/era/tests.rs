use super::*;
use crate::backend::gateway_requests::ask;
use crate::testing::{Asked, Bed, Server, Wire, within};
use portunus_filters::Clock;
use std::sync::atomic::{AtomicBool, Ordering};

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}"#;
const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;

/// Answers as a server of the eras in `speaks`.
async fn server(legacy: bool, modern: &'static AtomicBool) -> Server {
    Server::start(move |asked: Asked, mut wire: Wire| async move {
        let modern = modern.load(Ordering::SeqCst);
        let claims = asked.header("mcp-method").is_some();
        match (asked.method(), claims) {
            ("server/discover", true) if modern => wire.result(&asked, DISCOVERED).await,
            ("initialize", _) if legacy => wire.result(&asked, INITIALIZED).await,
            ("notifications/initialized", _) => wire.accepted().await,
            ("GET", _) => wire.status("405 No", "", "").await,
            (_, true) if modern => wire.result(&asked, r#"{"era":"modern","tools":[]}"#).await,
            (_, false) if legacy => wire.result(&asked, r#"{"era":"legacy","tools":[]}"#).await,
            _ => {
                let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request"}}"#;
                wire.status("400 Bad Request", "content-type: application/json\r\n", error).await;
            }
        }
        Some(wire)
    })
    .await
}

const TOOLS: fn() -> GatewayRequest = || GatewayRequest::List { method: "tools/list", cursor: None };

async fn listed(bed: &Bed, place: &UpstreamTarget) -> String {
    let result = within("the list", ask(&bed.gateway.backend, place, TOOLS())).await.unwrap();
    serde_json::from_slice::<serde_json::Value>(&result).unwrap()["era"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_era_is_found_out_once_and_the_clients_own_is_preferred() {
    static YES: AtomicBool = AtomicBool::new(true);
    static NO: AtomicBool = AtomicBool::new(false);
    let cases = [
        ("legacy", true, &NO, Era::Legacy, Era::Legacy),
        ("modern", false, &YES, Era::Modern, Era::Modern),
        ("both", true, &YES, Era::Legacy, Era::Modern),
    ];
    for (name, legacy, modern, for_legacy, for_modern) in cases {
        let server = server(legacy, modern).await;
        let bed = Bed::before(server.address, "");
        let (eras, place) = (&bed.gateway.backend.eras, bed.place("anna", "{}"));
        for _ in 0..3 {
            let chosen = eras.choose(&bed.gateway.backend, &place, Era::Legacy).await.unwrap();
            assert_eq!(chosen, for_legacy, "{name}");
            let chosen = eras.choose(&bed.gateway.backend, &place, Era::Modern).await.unwrap();
            assert_eq!(chosen, for_modern, "{name}");
        }
        assert_eq!(listed(&bed, &place).await, for_modern.as_str(), "{name}");
        assert_eq!(server.heard("server/discover").len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_verdict_expires_and_falls_with_the_first_answer_against_it() {
    static MODERN: AtomicBool = AtomicBool::new(true);
    let server = server(true, &MODERN).await;
    let bed = Bed::before(server.address, "");
    let place = bed.place("anna", "{}");
    assert_eq!(listed(&bed, &place).await, "modern");
    MODERN.store(false, Ordering::SeqCst);
    assert!(ask(&bed.gateway.backend, &place, TOOLS()).await.is_err());
    assert_eq!(listed(&bed, &place).await, "legacy");
    MODERN.store(true, Ordering::SeqCst);
    assert_eq!(listed(&bed, &place).await, "legacy");
    bed.clock.advance(HOLDS);
    let (eras, active) = (&bed.gateway.backend.eras, bed.gateway.active());
    let known = eras.known(&active.snapshot.upstreams[0], bed.clock.now());
    assert_eq!((known, eras.last(&place).modern), (Spoken::default(), Some(false)));
    assert_eq!(listed(&bed, &place).await, "modern");
}

#[tokio::test]
async fn whatever_a_legacy_server_says_to_a_question_that_it_does_not_know_is_legacy() {
    let error = |code: i64, id: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"no such session"}}}}"#)
    };
    let answers = [
        ("400 Bad Request", error(-32001, "ID")),
        ("400 Bad Request", error(-32001, "null")),
        ("404 Not Found", error(-32001, "null")),
        ("400 Bad Request", error(-32000, "null")),
        ("200 OK", error(-32601, "ID")),
        ("200 OK", error(-32001, "ID")),
        ("405 Method Not Allowed", String::new()),
        ("400 Bad Request", "no session".to_owned()),
    ];
    for (status, answer) in answers {
        let said = answer.clone();
        let server = Server::start(move |asked: Asked, mut wire: Wire| {
            let said = said.clone();
            async move {
                match asked.method() {
                    "server/discover" => {
                        let body = said.replace("ID", &asked.id());
                        wire.status(status, "content-type: application/json\r\n", &body).await;
                    }
                    "initialize" => wire.result(&asked, INITIALIZED).await,
                    "tools/list" => wire.result(&asked, r#"{"era":"legacy","tools":[]}"#).await,
                    _ => wire.accepted().await,
                }
                Some(wire)
            }
        })
        .await;
        let bed = Bed::before(server.address, "");
        let place = bed.place("anna", "{}");
        assert_eq!(listed(&bed, &place).await, "legacy", "{status} {answer}");
        assert_eq!(server.heard("tools/list").len(), 1, "{status} {answer}: the first call failed");
    }
}

/// A server that says this status to everything, and a gateway before it.
async fn refused_by(status: &'static str) -> (Server, Bed) {
    let server = Server::start(move |_, mut wire: Wire| async move {
        wire.status(status, "", "").await;
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, "");
    (server, bed)
}

#[tokio::test]
async fn a_server_that_is_down_or_refuses_the_credential_is_no_evidence() {
    let statuses = ["503 Down", "500 Oops", "401 No", "403 No\r\nwww-authenticate: Bearer", "403 No"];
    for status in statuses.into_iter().chain(["407 Proxy", "408 Late", "413 Much", "425 Early", "431 Long"]) {
        let (server, bed) = refused_by(status).await;
        let place = bed.place("anna", "{}");
        let failure = bed.gateway.backend.eras.of(&bed.gateway.backend, &place).await.unwrap_err();
        assert_ne!(failure.denial.reason, Reason::InvalidRequest, "{status}");
        assert!(bed.gateway.backend.eras.of(&bed.gateway.backend, &place).await.is_err(), "{status}");
        assert_eq!(server.heard("server/discover").len(), 2, "{status}: not remembered");
    }
}

#[tokio::test]
async fn a_time_that_is_named_is_for_clients_and_an_answer_to_anybody_ends_it() {
    // The answer, the time that clients are told in ms, and the pause before it is asked again in s.
    let cases = [
        ("503 Down\r\nretry-after: 300", 299_000, 1),
        ("429 Enough\r\nretry-after: 7", 6_000, 7),
        ("429 Enough\r\nretry-after: 300", 299_000, 60),
    ];
    for (status, told, pause) in cases {
        let (server, bed) = refused_by(status).await;
        let place = bed.place("anna", "{}");
        let asked = || async {
            let failure = bed.gateway.backend.eras.of(&bed.gateway.backend, &place).await.unwrap_err();
            (failure.denial.retry_after(), server.heard("server/discover").len())
        };
        asked().await;
        bed.clock.advance(Duration::from_millis(999));
        assert_eq!(asked().await, (Some(Duration::from_millis(told + 1)), 1), "{status}");
        bed.clock.advance(Duration::from_secs(pause - 1));
        assert_eq!(asked().await.1, 1, "{status}");
        bed.clock.advance(Duration::from_millis(1));
        assert_eq!(asked().await.1, 2, "{status}: asked again");
        place.pool.note_answer();
        bed.clock.advance(Duration::from_secs(1));
        assert_eq!(asked().await.1, 3, "{status}: it has answered somebody");
    }
}

#[tokio::test]
async fn a_pinned_era_is_not_asked_for() {
    static NO: AtomicBool = AtomicBool::new(false);
    let server = server(true, &NO).await;
    let bed = Bed::before(server.address, ", era: legacy");
    let place = bed.place("anna", "{}");
    bed.gateway.backend.eras.contradicted(&place, Era::Legacy);
    assert_eq!(listed(&bed, &place).await, "legacy");
    assert!(server.heard("server/discover").is_empty());
}
