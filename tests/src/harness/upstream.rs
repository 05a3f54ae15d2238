//! A server that does exactly what a test's script says.

use super::client::Duplex;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// A scripted server; it ends with the value.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// One request, read completely.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Request line and headers.
    pub(crate) head: String,
    /// Body.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether the gateway wants to know, in its own name, which era is spoken here.
    fn asks_for_the_era(&self) -> bool {
        let message: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let client = &message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"];
        message["method"] == "server/discover" && client == "portunus"
    }

    /// The id of its message, as JSON text.
    pub(crate) fn id(&self) -> String {
        let message: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        message["id"].to_string()
    }
}

/// The connection that a request came on.
pub(crate) struct Wire {
    /// Which of the connections it is, in the order in which they came.
    pub(crate) number: usize,
    stream: Box<dyn Duplex>,
}

impl Wire {
    /// Sends bytes; a peer that is gone is no error of the script.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.ok();
        self.stream.flush().await.ok();
    }

    /// Answers with JSON and a length.
    pub(crate) async fn json(&mut self, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// Says that the modern era is spoken here: scripts are about what comes after.
    async fn era_of(&mut self, request: &Request) {
        let result = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}"#;
        self.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())).await;
    }

    /// Answers a request with an empty result.
    pub(crate) async fn result(&mut self, request: &Request) {
        self.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id())).await;
    }

    /// Begins an event stream.
    pub(crate) async fn begin_events(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }

    /// Sends one chunk.
    pub(crate) async fn chunk(&mut self, text: &str) {
        self.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// Ends a chunked body.
    pub(crate) async fn end_chunks(&mut self) {
        self.send("0\r\n\r\n").await;
    }

    /// Reads whatever is there.
    pub(crate) async fn read_some(&mut self) {
        let mut piece = [0; 1024];
        assert!(self.stream.read(&mut piece).await.is_ok(), "the connection broke");
    }

    /// Keeps the connection open and does nothing, until the script is ended.
    pub(crate) async fn idle(&mut self) {
        std::future::pending().await
    }

    /// Waits until the other side closes.
    pub(crate) async fn closed(&mut self) {
        let mut piece = [0; 1024];
        while self.stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    }
}

impl Upstream {
    /// A server that gives each request to `script`, which gives the connection back to keep it.
    pub(crate) async fn start<S, F>(script: S) -> Upstream
    where
        S: Fn(Request, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        Upstream::start_with(None, true, script).await
    }

    /// The same for a script that says itself which era it speaks.
    pub(crate) async fn of_an_era<S, F>(script: S) -> Upstream
    where
        S: Fn(Request, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        Upstream::start_with(None, false, script).await
    }

    /// The same under TLS; who fails the handshake does not come to the script.
    pub(crate) async fn secured<S, F>(tls: ServerConfig, script: S) -> Upstream
    where
        S: Fn(Request, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        Upstream::start_with(Some(TlsAcceptor::from(Arc::new(tls))), true, script).await
    }

    async fn start_with<S, F>(tls: Option<TlsAcceptor>, is_modern: bool, script: S) -> Upstream
    where
        S: Fn(Request, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (counted, script) = (Arc::clone(&requests), Arc::new(script));
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).ok();
                let (script, counted, tls) = (Arc::clone(&script), Arc::clone(&counted), tls.clone());
                tokio::spawn(async move {
                    let stream: Box<dyn Duplex> = match tls {
                        None => Box::new(stream),
                        Some(tls) => match tls.accept(stream).await {
                            Ok(secured) => Box::new(secured),
                            Err(_) => return,
                        },
                    };
                    let mut wire = Some(Wire { number, stream });
                    while let Some(mut open) = wire.take() {
                        let Some(request) = read_request(&mut open.stream).await else { return };
                        if is_modern && request.asks_for_the_era() {
                            open.era_of(&request).await;
                            wire = Some(open);
                            continue;
                        }
                        counted.fetch_add(1, Ordering::SeqCst);
                        wire = script(request, open).await;
                    }
                });
            }
        });
        Upstream { address, requests, accepting }
    }

    /// A server that gives each connection to `script` before anything was read.
    pub(crate) async fn raw<S, F>(script: S) -> Upstream
    where
        S: Fn(Wire) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(script(Wire { number, stream: Box::new(stream) }));
            }
        });
        Upstream { address, requests: Arc::default(), accepting }
    }

    /// A server that reads each request, tells of it, and never answers.
    pub(crate) async fn silent() -> (Upstream, UnboundedReceiver<()>) {
        let (told, arrived) = unbounded_channel();
        let upstream = Upstream::start(move |_, mut wire: Wire| {
            let told = told.clone();
            async move {
                told.send(()).ok();
                wire.closed().await;
                None
            }
        })
        .await;
        (upstream, arrived)
    }

    /// A server that must not be reached.
    pub(crate) async fn unreachable() -> Upstream {
        Upstream::start(|request: Request, _| async move {
            panic!("a refused message reached the upstream: {}", request.head);
        })
        .await
    }

    /// A server that answers every request with an empty result and notifications with 202.
    pub(crate) async fn answering() -> Upstream {
        Upstream::start(answer_any).await
    }

    /// The same under TLS.
    pub(crate) async fn answering_secured(tls: ServerConfig) -> Upstream {
        Upstream::secured(tls, answer_any).await
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer_any(request: Request, mut wire: Wire) -> Option<Wire> {
    if request.id() == "null" {
        wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
    } else {
        wire.result(&request).await;
    }
    Some(wire)
}

async fn read_request(stream: &mut Box<dyn Duplex>) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break end;
        }
        bytes.reserve(64 * 1024);
        stream.read_buf(&mut bytes).await.ok().filter(|read| *read > 0)?;
    };
    let head = String::from_utf8(bytes.drain(..end + 4).collect()).ok()?;
    let mut request = Request { head, body: bytes };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.body.len() < length {
        request.body.reserve(64 * 1024);
        stream.read_buf(&mut request.body).await.ok().filter(|read| *read > 0)?;
    }
    Some(request)
}
