use super::{Delivery, INBOX, NoticeContent, UpstreamSession, stream};
use crate::backend::gateway_requests::CROWDED;
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::testing::{Asked, Bed, Server, Wire, within};
use bytes::Bytes;
use portunus_filters::mcp::Revision;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// More than may be told at once.
const MANY: usize = 200;

/// A server that founds sessions, and lets them end as `ends` permits.
async fn server(ends: Arc<Semaphore>, status: &'static str) -> Server {
    let sessions = Arc::new(AtomicUsize::new(0));
    Server::start(move |asked: Asked, mut wire: Wire| {
        let (sessions, ends) = (Arc::clone(&sessions), Arc::clone(&ends));
        async move {
            match asked.method() {
                "initialize" => {
                    let number = sessions.fetch_add(1, Ordering::SeqCst);
                    let fields = format!("content-type: application/json\r\nmcp-session-id: s{number}\r\n");
                    let result = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
                    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id());
                    wire.status("200 OK", &fields, &body).await;
                }
                "DELETE" => {
                    ends.acquire().await.unwrap().forget();
                    wire.status(status, "", "").await;
                }
                "GET" => wire.status("405 No", "", "").await,
                _ => wire.accepted().await,
            }
            Some(wire)
        }
    })
    .await
}

async fn own(bed: &Bed, number: usize) -> Vec<Arc<UpstreamSession>> {
    let place = bed.place("anna", "{}");
    let mut upstream_sessions = Vec::new();
    for _ in 0..number {
        upstream_sessions.push(
            bed.gateway
                .backend
                .session_pools
                .own(&bed.gateway.backend, &place, Revision::V2025_11_25)
                .await
                .unwrap(),
        );
    }
    upstream_sessions
}

async fn all_told(bed: &Bed) {
    let told = async {
        while !bed.gateway.backend.farewells.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the queue of ends", told).await;
}

#[tokio::test]
async fn every_session_that_ends_is_ended_at_its_server_however_many_end_at_once() {
    let ends = Arc::new(Semaphore::new(0));
    let server = server(Arc::clone(&ends), "200 OK").await;
    let bed = Bed::before(server.address, ", era: legacy");
    let upstream_sessions = own(&bed, MANY).await;
    assert_eq!(bed.gateway.backend.session_pools.alive(), MANY);
    for upstream_session in &upstream_sessions {
        upstream_session.end(&bed.gateway.backend);
    }
    drop(upstream_sessions);
    assert!(bed.gateway.backend.farewells.len() > MANY / 2, "most wait");
    ends.add_permits(MANY);
    for _ in 0..MANY {
        server.hears("DELETE").await;
    }
    all_told(&bed).await;
    let heard = server.heard("DELETE");
    let sessions: std::collections::HashSet<_> =
        heard.iter().map(|asked| asked.header("mcp-session-id").unwrap().to_owned()).collect();
    assert_eq!(sessions.len(), MANY);
    assert_eq!(bed.gateway.backend.session_pools.alive(), 0);
}

#[tokio::test]
async fn a_server_that_is_down_is_told_of_no_more_and_holds_up_nobody() {
    let ends = Arc::new(Semaphore::new(10 * MANY));
    let server = server(ends, "503 Down").await;
    let bed = Bed::before(server.address, ", era: legacy");
    for upstream_session in own(&bed, MANY).await {
        upstream_session.end(&bed.gateway.backend);
    }
    all_told(&bed).await;
    assert!(server.heard("DELETE").len() < MANY / 2, "{}", server.heard("DELETE").len());
    let dropped =
        bed.gateway.backend.metrics.gateway_requests.with_label_values(&["delete", "dropped"]).get();
    assert!(dropped > 0);
}

#[tokio::test]
async fn silent_stream_stays_open_while_server_answers_ping() {
    let (pings, refusal) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let permits = Arc::clone(&refusal);
    let server = Server::start(move |asked: Asked, mut wire: Wire| {
        let (pings, refusal) = (Arc::clone(&pings), Arc::clone(&refusal));
        async move {
            match asked.method() {
                "initialize" => {
                    let result = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
                    wire.result(&asked, result).await;
                }
                "ping" => match pings.fetch_add(1, Ordering::SeqCst) {
                    0 | 1 => wire.result(&asked, "{}").await,
                    2 => {
                        let error = r#"{"code":-32601,"message":"no"}"#;
                        wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, asked.id())).await;
                    }
                    _ => {
                        drop(refusal.acquire().await);
                        wire.status("500 No", "", "").await;
                    }
                },
                "GET" => {
                    wire.begin_events().await;
                    wire.closed().await;
                    return None;
                }
                _ => wire.accepted().await,
            }
            Some(wire)
        }
    })
    .await;
    let bed = Bed::before(server.address, ", era: legacy, timeouts: { idle: 50ms }");
    let upstream_sessions = own(&bed, 1).await;
    for _ in 0..4 {
        server.hears("ping").await;
    }
    assert_eq!(server.heard("GET").len(), 1, "the stream was opened again while pings were answered");
    assert!(bed.gateway.backend.notices.is_empty());
    permits.add_permits(1);
    server.hears("GET").await;
    let notice = within("the gap", bed.gateway.backend.notices.next()).await;
    assert!(matches!(notice.content, NoticeContent::Gap), "{:?}", notice.content);
    drop(upstream_sessions);
}

#[tokio::test]
async fn what_a_call_has_no_room_for_is_told_to_nobody_else() {
    let server = server(Arc::new(Semaphore::new(0)), "200 OK").await;
    let bed = Bed::before(server.address, ", era: legacy");
    let upstream_session = own(&bed, 1).await.remove(0);
    let message = |text: &'static str| ServerMessage::read(Bytes::from_static(text.as_bytes()));
    let log =
        message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#);
    let question = message(
        r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#,
    );
    let call = upstream_session.attach(upstream_session.number(), true);
    for _ in 0..=INBOX {
        assert_eq!(upstream_session.deliver(None, &log), Delivery::Taken);
    }
    assert_eq!(upstream_session.deliver(None, &log), Delivery::Full);
    stream::sort(&bed.gateway.backend, &upstream_session, &log);
    stream::sort(&bed.gateway.backend, &upstream_session, &question);
    let declined = server.hears("POST").await;
    assert!(declined.body["id"] == "q" && declined.body["error"]["message"] == CROWDED, "{}", declined.body);
    assert!(bed.gateway.backend.notices.is_empty());
    // Once there is no call, they are for whoever hears the session.
    drop(call);
    assert_eq!(upstream_session.deliver(None, &log), Delivery::Nobody);
    stream::sort(&bed.gateway.backend, &upstream_session, &question);
    assert!(matches!(
        within("the question", bed.gateway.backend.notices.next()).await.content,
        NoticeContent::Question { .. }
    ));
}
