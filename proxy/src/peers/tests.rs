mod sessions;

use super::assertion::{head_digest, sha256};
use super::*;
use crate::backend::forward::Exchange;
use crate::frontend::context::Gateway;
use crate::frontend::edge::ConnectionServer;
use crate::identify::Source;
use crate::request_ids::Trace;
use crate::sealing::Token;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request};
use portunus_config::{Credentials, Loaded, MapEnvironment, ReplicaId, Sealing, ServerId, load_text};
use portunus_filters::ManualClock;
use portunus_filters::{Clock, Identity};
use std::net::{IpAddr, SocketAddr, TcpListener as Socket};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
const LONG: Duration = Duration::from_secs(20);
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// One replica, serving its listener for peers.
struct Replica {
    gateway: Arc<Gateway>,
    clock: Arc<ManualClock>,
    clients: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn socket() -> Socket {
    let socket = Socket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn loaded(name: &str, key: &str, upstream: SocketAddr, others: &[(&str, SocketAddr)]) -> Loaded {
    let members: String =
        others.iter().map(|(name, at)| format!("  {name}: {{url: \"http://{at}\"}}\n")).collect();
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:0\naccess_log: off\nupstreams:\n  up: {{url: \"http://{upstream}/mcp\"}}\n  key: {{url: \
         \"http://127.0.0.1:1/\", credentials: {{header: {{name: X-Key, value: \"env:KEY\"}}}}}}\n{members}\
         servers:\n  /mcp: {{upstreams: [up]}}\n"
    );
    let variables = [("KEY".to_owned(), key.to_owned())].into();
    let environment = MapEnvironment { variables, ..Default::default() };
    let mut loaded = load_text(&text, Path::new("x.yaml"), &environment).unwrap();
    let find = |name: &str| loaded.snapshot.upstreams.iter().find(|one| *one.name == *name).unwrap();
    let Credentials::Header { value, .. } = &find("key").credentials else { panic!("a key") };
    loaded.bootstrap.sealing = Sealing { keys: vec![value.clone()] };
    let member = |(name, _): &(&str, SocketAddr)| (ReplicaId::parse(name).unwrap(), Arc::clone(find(name)));
    let listener =
        portunus_config::Listener { name: "peers".into(), ..loaded.bootstrap.listeners[0].clone() };
    let members = others.iter().map(member).collect();
    loaded.bootstrap.peers = Some(portunus_config::Peers { listener, members });
    loaded.bootstrap.replica = Some(ReplicaId::parse(name).unwrap());
    loaded
}

/// Serves on `peers` for other replicas, and on a port of its own for clients.
fn start(loaded: Loaded, peers: Socket) -> Replica {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_700_000_000));
    let gateway = Arc::new(Gateway::new(loaded, Arc::clone(&clock) as Arc<dyn Clock>).unwrap());
    let for_clients = socket();
    let clients = for_clients.local_addr().unwrap();
    let connection_server =
        ConnectionServer::new(Arc::clone(&gateway), &[clients], Some(peers.local_addr().unwrap()));
    let serving = tokio::spawn(Arc::new(connection_server).accept_rest(vec![for_clients, peers], LONG));
    Replica { gateway, clock, clients, serving }
}

const KEY: &str = "the key of all replicas, long enough";

/// `a`, which asks, and `b`, the home, before a server.
fn pair(upstream: SocketAddr) -> (Replica, Replica) {
    let (a, b) = (socket(), socket());
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    let home = start(loaded("b", KEY, upstream, &[("a", at_a)]), b);
    (start(loaded("a", KEY, upstream, &[("b", at_b)]), a), home)
}

impl Replica {
    fn member(&self, home: &Home) -> Arc<Member> {
        match self.gateway.peers.home(home) {
            Where::Peer(member) => member,
            Where::Here | Where::Gone => panic!("another replica"),
        }
    }

    async fn relay(&self, home: &Home, passenger: Passenger<'_>) -> Result<Exchange, PeerFailure> {
        relay(&self.gateway, &self.member(home), home, passenger).await
    }

    fn own(&self) -> &Home {
        self.gateway.peers.own()
    }
}

fn head(fields: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::post("/mcp?a=1").header("host", "localhost");
    let usual = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
    for (name, value) in usual.iter().chain(fields) {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// What is sealed of a client's credentials is back in its head where the request is served.
#[test]
fn credentials_are_restored_where_the_request_is_served() {
    let shown = vec![(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer t"))];
    let relayed = Relayed { credentials: shown, ..relayed(CALL) };
    let mut headers = http::HeaderMap::new();
    relayed.restore(&mut headers);
    assert_eq!(headers.get("authorization"), Some(&HeaderValue::from_static("Bearer t")));
}

fn relayed(body: &[u8]) -> Relayed {
    Relayed {
        listener: "main".into(),
        server: ServerId("*|/mcp".into()),
        source: Source { client: CLIENT, behind_proxy: false },
        secure: true,
        identity: Identity::Anonymous { source: CLIENT },
        request_id: "request-1".into(),
        body: sha256(body),
        credentials: Vec::new(),
    }
}

fn trace() -> Trace {
    Trace { parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(), joined: true }
}

fn passenger<'a>(head: &'a Parts, trace: &'a Trace) -> Passenger<'a> {
    let body = Bytes::from_static(CALL);
    Passenger { head, body, relayed: relayed(CALL), trace, endless: false, within: LONG }
}

async fn read_rest(exchange: &mut Exchange) -> String {
    let mut all = Vec::new();
    while let Some(part) = exchange.checkout.connection().unwrap().read_body().await.unwrap() {
        all.extend_from_slice(&part);
    }
    String::from_utf8(all).unwrap()
}

/// A server that tells what it was sent, and sends what it is told to.
struct Server {
    address: SocketAddr,
    received: mpsc::Receiver<String>,
    say: mpsc::Sender<String>,
}

impl Server {
    async fn received(&mut self) -> String {
        let received = tokio::time::timeout(LONG, self.received.recv()).await;
        received.expect("a request reaches the server").unwrap()
    }
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, received) = mpsc::channel(16);
    let (say, mut said) = mpsc::channel::<String>(16);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tell.send(read_request(&mut stream).await).await.unwrap();
            while let Some(piece) = said.recv().await {
                if piece.is_empty() || stream.write_all(piece.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    Server { address, received, say }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(CALL) {
        let read = stream.read_buf(&mut request).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
    }
    String::from_utf8(request).unwrap()
}

fn json_answer() -> String {
    let length = ANSWER.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{ANSWER}")
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_home_serves_a_request_as_its_client_sent_it() {
    let mut server = server().await;
    let (a, b) = pair(server.address);
    let fields = [
        ("x-request-id", "chosen by the client"),
        ("portunus-relay", "forged"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-kept", "2"),
    ];
    let (head, trace) = (head(&fields), trace());
    server.say.send(json_answer()).await.unwrap();
    let mut exchange = a.relay(b.own(), passenger(&head, &trace)).await.unwrap();
    assert_eq!((exchange.head.status.as_u16(), read_rest(&mut exchange).await.as_str()), (200, ANSWER));
    let request = server.received().await;
    assert!(request.starts_with("POST /mcp?a=1 HTTP/1.1\r\n") && request.ends_with("}}"), "{request}");
    let expected = [
        "x-kept: 2\r\n",
        "x-request-id: request-1\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-",
        "forwarded: for=198.51.100.7;host=\"localhost\";proto=https\r\n",
    ];
    for expected in expected {
        assert!(request.contains(expected), "{expected} in {request}");
    }
    assert!(!request.contains("portunus-") && !request.contains("x-hop"), "{request}");
}

#[tokio::test]
async fn a_stream_comes_back_as_it_comes() {
    let server = server().await;
    let (a, b) = pair(server.address);
    let (head, trace) = (head(&[]), trace());
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let (first, last) = (format!("data: {progress}\n\n"), format!("data: {ANSWER}\n\n"));
    let begin = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    server.say.send(format!("{begin}{first}")).await.unwrap();
    let mut exchange = a.relay(b.own(), passenger(&head, &trace)).await.unwrap();
    assert_eq!(exchange.head.headers.get("content-type").unwrap(), "text/event-stream");
    let part = exchange.checkout.connection().unwrap().read_body().await.unwrap().unwrap();
    assert_eq!(part, first, "the first event, before the last was sent");
    server.say.send(last.clone()).await.unwrap();
    server.say.send(String::new()).await.unwrap();
    assert_eq!(read_rest(&mut exchange).await, last);
}

#[tokio::test]
async fn a_body_or_a_server_that_was_not_asserted_is_refused() {
    let server = server().await;
    let (a, b) = pair(server.address);
    let (head, trace) = (head(&[]), trace());
    let table = [
        ("body", relayed(b"another"), 400),
        ("server", Relayed { server: ServerId("*|/team/mcp".into()), ..relayed(CALL) }, 404),
    ];
    for (name, relayed, status) in table {
        let passenger = Passenger { relayed, ..passenger(&head, &trace) };
        let exchange = a.relay(b.own(), passenger).await.unwrap();
        assert_eq!(exchange.head.status.as_u16(), status, "{name}");
    }
    // It did not get through to the server: that has nothing to say, and nothing waits for it.
    assert!(server.received.is_empty());
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
async fn clients_cannot_pass_for_replicas() {
    let mut server = server().await;
    let (_, b) = pair(server.address);
    let assertion = assertion(&b, &head(&[]));
    let sealed = assertion.seal(&b.gateway.estate.seals, &b.gateway.peers.address.binding()).unwrap();
    let mut stream = TcpStream::connect(b.clients).await.unwrap();
    let request = format!(
        "POST /mcp?a=1 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json, text/event-stream\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nportunus-relay: {sealed}\r\n\r\n",
        CALL.len()
    );
    stream.write_all(&[request.as_bytes(), CALL].concat()).await.unwrap();
    let received = server.received().await;
    assert!(received.contains("forwarded: for=127.0.0.1;"), "{received}");
}

static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

fn assertion(to: &Replica, head: &Parts) -> Assertion {
    Assertion {
        from: Home::new("a".into(), 1).unwrap(),
        boot: to.own().boot(),
        issued: to.clock.now().wall.as_secs(),
        number: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        head: head_digest(head),
        relayed: relayed(CALL),
    }
}

#[tokio::test]
async fn an_assertion_is_believed_once_here_now_and_of_its_request() {
    let (a, b) = pair(nobody().await);
    let plain = head(&[]);
    let believe = |assertion: &Assertion, address: &Address, head: &Parts| {
        let sealed = assertion.seal(&a.gateway.estate.seals, &address.binding()).unwrap();
        let mut head = head.clone();
        head.headers.insert(Verdict::FIELD, sealed.parse().unwrap());
        b.gateway.peers.believe(&b.gateway.estate.seals, &head, b.clock.now())
    };
    let here = &b.gateway.peers.address;
    let good = || assertion(&b, &plain);
    assert_eq!(believe(&good(), here, &plain), Ok(relayed(CALL)));

    let once = good();
    assert_eq!(believe(&once, here, &plain), Ok(relayed(CALL)));
    assert_eq!(believe(&once, here, &plain), Err(Verdict::Repeated));

    let (sooner, later) = (good().issued - 31, good().issued + 31);
    let other_path = Request::post("/mcp?a=2").header("host", "localhost").body(()).unwrap();
    let table = [
        ("another replica's", good(), Address::of("c"), plain.clone(), Verdict::Unknown),
        ("another session", good(), Address::of("b"), head(&[("mcp-session-id", "x")]), Verdict::Unknown),
        ("another caller", good(), Address::of("b"), head(&[("authorization", "x")]), Verdict::Unknown),
        ("another path", good(), Address::of("b"), other_path.into_parts().0, Verdict::Unknown),
        ("old", Assertion { issued: sooner, ..good() }, Address::of("b"), plain.clone(), Verdict::Expired),
        ("early", Assertion { issued: later, ..good() }, Address::of("b"), plain.clone(), Verdict::Expired),
        (
            "earlier run",
            Assertion { boot: good().boot ^ 1, ..good() },
            Address::of("b"),
            plain.clone(),
            Verdict::Gone,
        ),
    ];
    for (name, assertion, address, head, verdict) in table {
        assert_eq!(believe(&assertion, &address, &head), Err(verdict), "{name}");
    }
    let believe_text = |texts: &[&str]| {
        let mut head = plain.clone();
        for text in texts {
            head.headers.append(Verdict::FIELD, HeaderValue::from_str(text).unwrap());
        }
        b.gateway.peers.believe(&b.gateway.estate.seals, &head, b.clock.now())
    };
    let sealed = good().seal(&a.gateway.estate.seals, &here.binding()).unwrap();
    for texts in [&[][..], &["forged"], &[&sealed, &sealed]] {
        assert_eq!(believe_text(texts), Err(Verdict::Unknown), "{texts:?}");
    }
}

#[tokio::test]
async fn a_home_that_is_gone_is_told_from_one_that_may_have_acted() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let others = [("gone", nobody().await), ("mute", silent.local_addr().unwrap())];
    let a = start(loaded("a", KEY, nobody().await, &others), socket());
    let home = |name: &str| Home::new(name.into(), 1).unwrap();
    let (head, trace) = (head(&[]), trace());
    let gone = a.relay(&home("gone"), passenger(&head, &trace)).await;
    assert!(matches!(gone, Err(PeerFailure::Gone(_))), "{:?}", gone.err());
    let patience = Duration::from_millis(50);
    let mute = a.relay(&home("mute"), Passenger { within: patience, ..passenger(&head, &trace) }).await;
    assert!(matches!(mute, Err(PeerFailure::Lost(_))), "{:?}", mute.err());
}

#[tokio::test]
async fn a_home_that_ends_while_it_is_asked_may_have_acted_and_is_gone() {
    let ending = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let others = [("ending", ending.local_addr().unwrap())];
    let a = start(loaded("a", KEY, nobody().await, &others), socket());
    let end = async move {
        let (mut connection, _) = ending.accept().await.unwrap();
        drop(ending);
        connection.read_u8().await.unwrap();
    };
    let (head, trace) = (head(&[]), trace());
    let home = Home::new("ending".into(), 1).unwrap();
    let (ended, ()) = tokio::join!(a.relay(&home, passenger(&head, &trace)), end);
    assert!(matches!(ended, Err(PeerFailure::Ended(_))), "{:?}", ended.err());
}

#[tokio::test]
async fn a_home_that_was_started_again_says_that_it_is_gone() {
    let (a, b) = pair(nobody().await);
    let before = Home::new("b".into(), b.own().boot() ^ 1).unwrap();
    let (head, trace) = (head(&[]), trace());
    let gone = a.relay(&before, passenger(&head, &trace)).await;
    assert_eq!(gone.err(), Some(PeerFailure::Restarted));
}

#[tokio::test]
async fn a_home_without_the_listener_or_the_key_refuses_in_words() {
    let (a, b) = (socket(), socket());
    let (at_b, nobody) = (b.local_addr().unwrap(), nobody().await);
    let home = start(loaded("b", "another key, of the same length!", nobody, &[]), b);
    let stranger = start(loaded("a", KEY, nobody, &[("b", at_b)]), a);
    let (head, trace) = (head(&[]), trace());
    let refused = stranger.relay(home.own(), passenger(&head, &trace)).await.err().unwrap();
    assert!(refused.to_string().contains("`sealing`"), "{refused}");

    let (a, b) = pair(nobody);
    let relayed = Relayed { listener: "second".into(), ..relayed(CALL) };
    let refused = a.relay(b.own(), Passenger { relayed, ..passenger(&head, &trace) }).await.err().unwrap();
    assert!(refused.to_string().contains("`listeners`"), "{refused}");
}

#[tokio::test]
async fn a_token_leads_here_to_a_peer_or_nowhere() {
    let (a, b) = pair(nobody().await);
    let at = |name: &str, boot| a.gateway.peers.home(&Home::new(name.into(), boot).unwrap());
    assert!(matches!(a.gateway.peers.home(a.own()), Where::Here));
    assert!(matches!(at("a", a.own().boot() ^ 1), Where::Gone));
    assert!(matches!(at("b", 1), Where::Peer(member) if **member.name() == *"b"));
    assert!(matches!(at("c", 1), Where::Gone));
    assert_ne!(a.own().boot(), b.own().boot());
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LONG, waited).await.is_ok(), "waited for {what}");
}

#[tokio::test]
async fn a_session_that_ended_at_one_replica_has_ended_at_all() {
    let (a, b) = pair(nobody().await);
    let until_expiry = Duration::from_secs(1_700_003_600);
    b.gateway.estate.sessions.ended_elsewhere([1; 16], until_expiry, &b.gateway);
    // `a` starts, and asks; `b` is not asked to tell.
    let telling = tokio::spawn(news::run(Arc::clone(&a.gateway)));
    until("what `b` knew before", || a.gateway.estate.sessions.is_ended(&[1; 16])).await;
    a.gateway.estate.sessions.bury([2; 16], Duration::from_secs(3600), &a.gateway);
    until("what `a` says", || b.gateway.estate.sessions.is_ended(&[2; 16])).await;
    assert_eq!(b.gateway.estate.sessions.ended().last(), Some(&([2; 16], until_expiry)));
    telling.abort();
}

#[tokio::test]
async fn news_are_believed_of_replicas_only() {
    let (_, b) = pair(nobody().await);
    let mut head = head(&[]);
    head.headers.insert("portunus-news", HeaderValue::from_static("forged"));
    // Before their body is read.
    assert_eq!(news::announced(&b.gateway, &head).err(), Some(Verdict::Unknown));
    assert!(b.gateway.estate.sessions.ended().is_empty());
}
