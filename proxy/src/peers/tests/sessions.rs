//! Sessions that are kept by one replica while their clients speak to another.

use super::*;
use crate::bridge::sessions::{Session, Word};
use crate::sealing::{Binding, CallerKey, SessionToken};
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::Profile;

/// A session at `home`, and the id that its client holds.
fn found(home: &Replica, number: u8) -> (Arc<Session>, String) {
    let gateway = &home.gateway;
    let server = ServerId("*|/mcp".into());
    let profile = Arc::new(Profile::silent("client", "1"));
    let version = Revision::V2025_11_25;
    let session = Arc::new(Session::new([number; 16], server.clone(), version, profile, true));
    let served = gateway.active().snapshot.routes.server(&server).cloned().unwrap();
    gateway.estate.sessions.insert(&served, &session, Duration::from_secs(3600), gateway);
    let issued = home.clock.now().wall.as_secs();
    let home = home.own().clone();
    let token = SessionToken {
        issued,
        version,
        number: session.number,
        home,
        abilities: 0,
        client: Box::default(),
        legs: Vec::new(),
    };
    let caller = CallerKey::for_seals(&Identity::Anonymous { source: CLIENT });
    (session, token.seal(&gateway.estate.seals, &Binding { server: &server, caller }).text)
}

#[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
async fn ask(at: &Replica, method: &str, session: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at.clients).await.unwrap();
    let head = format!(
        "{method} /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n\
         MCP-Protocol-Version: 2025-11-25\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut piece = [0; 1024];
        let read = tokio::time::timeout(LONG, stream.read(&mut piece)).await.expect(end).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    text
}

async fn status(at: &Replica, method: &str, session: &str) -> u16 {
    let answer = read_until(&mut ask(at, method, session).await, "\r\n\r\n").await;
    answer[9..12].parse().unwrap()
}

#[tokio::test]
async fn a_session_is_deleted_at_its_home_and_stays_deleted_everywhere() {
    let (a, b) = pair(nobody().await);
    let telling = tokio::spawn(news::run(Arc::clone(&b.gateway)));
    let (session, id) = found(&b, 7);
    assert_eq!(status(&a, "DELETE", &id).await, 200);
    assert!(session.is_over());
    assert_eq!(status(&a, "DELETE", &id).await, 404);
    until("the other replica to hear of it", || a.gateway.estate.sessions.is_ended(&[7; 16])).await;
    drop(b);
    assert_eq!(status(&a, "DELETE", &id).await, 404, "its home is gone");
    telling.abort();
}

#[tokio::test]
async fn a_clients_stream_goes_through_to_its_home() {
    let (a, b) = pair(nobody().await);
    let (session, id) = found(&b, 7);
    let mut stream = ask(&a, "GET", &id).await;
    until("the stream to be open", || session.is_listening()).await;
    let said = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    session.push(Word::Said(said.into())).unwrap();
    let answer = read_until(&mut stream, said).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text/event-stream"), "{answer}");
    drop(stream);
    until("the home to see that the client has left", || !session.is_listening()).await;
}

#[tokio::test]
async fn what_was_relayed_is_not_relayed_again() {
    let (a, b) = pair(nobody().await);
    // Said to `b`, it would come back to `a`, whose session it is.
    let (session, id) = found(&a, 7);
    let delete = Request::delete("/mcp").header("host", "localhost").header("mcp-session-id", &id);
    let (head, trace) = (delete.body(()).unwrap().into_parts().0, trace());
    let passenger = Passenger { body: Bytes::new(), relayed: relayed(b""), ..passenger(&head, &trace) };
    a.relay(b.own(), passenger).await.unwrap();
    assert!(!session.is_over());
    assert_eq!(status(&b, "DELETE", &id).await, 200, "from a client it goes there");
    assert!(session.is_over());
}
