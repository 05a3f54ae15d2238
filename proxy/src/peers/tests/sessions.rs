//! Sessions that are kept by one replica while their clients speak to another.

use super::*;
use crate::frontend::bridge::sessions::{Session, Word};
use crate::peers::window::MessageKind;
use crate::sealing::{Binding, CallerKey, SessionToken};
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::Profile;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        passes: false,
        abilities: 0,
        client: Box::default(),
        upstream_sessions: Vec::new(),
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
        let read = tokio::time::timeout(LONG, stream.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| panic!("no {end} in {text}")).unwrap();
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
async fn messages_that_adopt_a_session_at_once_get_the_same() {
    let (a, _b) = pair(nobody().await);
    let server = ServerId("*|/mcp".into());
    let served = a.gateway.active().snapshot.routes.server(&server).cloned().unwrap();
    let made = AtomicUsize::new(0);
    let adopt = |start: &Barrier| {
        let make = || {
            made.fetch_add(1, Ordering::Relaxed);
            let profile = Arc::new(Profile::silent("client", "1"));
            let session = Session::new([7; 16], server.clone(), Revision::V2025_11_25, profile, false);
            (Arc::new(session), Duration::from_secs(3600))
        };
        start.wait();
        a.gateway.estate.sessions.adopt(&served, &[7; 16], &a.gateway, make)
    };
    let start = Barrier::new(8);
    let sessions: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| adopt(&start))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sessions.iter().all(|session| Arc::ptr_eq(session, &sessions[0])));
    assert_eq!((made.into_inner(), a.gateway.estate.sessions.len().0), (1, 1));
}

#[tokio::test]
async fn a_session_that_ends_while_it_is_adopted_stays_ended() {
    let (a, _b) = pair(nobody().await);
    let server = ServerId("*|/mcp".into());
    let served = a.gateway.active().snapshot.routes.server(&server).cloned().unwrap();
    let sessions = &a.gateway.estate.sessions;
    let make = || {
        sessions.ended_elsewhere([7; 16], Duration::MAX, &a.gateway);
        let profile = Arc::new(Profile::silent("client", "1"));
        let session = Session::new([7; 16], server.clone(), Revision::V2025_11_25, profile, false);
        (Arc::new(session), Duration::from_secs(3600))
    };
    let session = sessions.adopt(&served, &[7; 16], &a.gateway, make);
    assert!(session.is_over() && sessions.len().0 == 0);
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

/// A place between two replicas that passes everything on until it is frozen; then it keeps all
/// connections, and what is connected after, and nothing moves.
async fn between(to: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            tokio::spawn(pass(near, to, frozen.clone()));
        }
    });
    (at, freeze)
}

#[expect(clippy::disallowed_methods, reason = "a stand-in for the network between replicas")]
async fn pass(mut near: TcpStream, to: SocketAddr, mut frozen: tokio::sync::watch::Receiver<bool>) {
    let mut far = TcpStream::connect(to).await.unwrap();
    tokio::select! {
        biased;
        () = async { drop(frozen.wait_for(|frozen| *frozen).await) } => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
    }
    std::future::pending().await
}

#[tokio::test]
async fn who_waits_for_a_home_that_is_frozen_is_told_within_seconds() {
    let server = nobody().await;
    let (a, b) = (socket(), socket());
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    let b = start(loaded("b", KEY, server, &[("a", at_a)]), b);
    let (at_b, freeze) = between(at_b).await;
    let a = start(loaded("a", KEY, server, &[("b", at_b)]), a);
    let (held, session) = found(&b, 7);
    let mut stream = ask(&a, "GET", &session).await;
    until("the stream to be open", || held.is_listening()).await;
    read_until(&mut stream, "\r\n\r\n").await;
    let member = a.member(b.own());
    let pulses = || b.gateway.peers.taken.newest(a.own(), MessageKind::Pulse).unwrap_or_default();
    let before = pulses();
    let lives = futures_of(16, || member.lives(&a.gateway)).await;
    assert_eq!((lives, pulses() - before), (16, 1), "one asks for all");
    freeze.send_replace(true);
    let text = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo"}}"#;
    let mut call = ask_with(&a, &session, text).await;
    let told = read_until(&mut call, "replica_lost").await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("\"id\":3"), "{told}");
    read_until(&mut stream, "0\r\n\r\n").await;
    assert!(member.is_frozen());
    let (head, trace) = (head(&[]), trace());
    let at_once = tokio::time::timeout(Duration::ZERO, a.relay(b.own(), passenger(&head, &trace))).await;
    assert!(matches!(at_once, Ok(Err(PeerFailure::Lost(_)))), "somebody waits for it again");
    freeze.send_replace(false);
    until("the home to give a sign", || !member.is_frozen()).await;
    assert_eq!(status(&a, "DELETE", &session).await, 200);
    assert!(held.is_over());
}

#[tokio::test]
async fn a_home_that_froze_and_is_gone_is_not_waited_out() {
    let (a, b) = pair(nobody().await);
    let (member, home) = (a.member(b.own()), b.own().clone());
    drop(b);
    member.freezes(&a.gateway);
    until("the end to be found out", || !member.is_frozen()).await;
    let (head, trace) = (head(&[]), trace());
    let failure = a.relay(&home, passenger(&head, &trace)).await.err();
    assert!(matches!(failure, Some(PeerFailure::Gone(_))), "{failure:?}");
}

/// How many of `count` that run at once are true.
async fn futures_of<F: Future<Output = bool>>(count: usize, future: impl Fn() -> F) -> usize {
    let mut all: Vec<_> = (0..count).map(|_| Box::pin(future())).collect();
    let mut yes = 0;
    std::future::poll_fn(|context| {
        all.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(lives) => {
                yes += usize::from(lives);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    yes
}

#[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
async fn ask_with(at: &Replica, session: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at.clients).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: application/json, text/event-stream\r\n\
         Content-Type: application/json\r\nMcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}
