//! HTTP/2 on both sides of the gateway: clients that speak it, servers that do what a script says.

use super::client::{Duplex, Response};
use super::within;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use http::Request;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// One connection of a client; its clones share it.
#[derive(Clone)]
pub(crate) struct H2Client {
    /// For requests of a test's own making.
    pub(crate) sender: SendRequest<Bytes>,
    /// How the connection ended, once it has.
    pub(crate) end: watch::Receiver<Option<String>>,
    base: String,
}

/// What a stream came to.
pub(crate) type Answered = Result<Response, h2::Error>;

impl H2Client {
    /// Speaks HTTP/2 on a connection.
    pub(crate) async fn over(io: impl Duplex + 'static, address: SocketAddr) -> H2Client {
        H2Client::with(h2::client::Builder::new().enable_push(false), io, address).await
    }

    /// The same with other settings.
    pub(crate) async fn with(
        builder: &h2::client::Builder,
        io: impl Duplex + 'static,
        address: SocketAddr,
    ) -> H2Client {
        let (sender, connection) = within(10, "HTTP/2", builder.handshake(io)).await.unwrap();
        let (ended, end) = watch::channel(None);
        tokio::spawn(async move {
            let end = connection.await.map_or_else(|error| error.to_string(), |()| "in order".to_owned());
            ended.send_replace(Some(end));
        });
        H2Client { sender, end, base: format!("http://{address}") }
    }

    /// A request with the usual headers of a POST.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, String)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        request = match method {
            "POST" => request
                .header("content-type", "application/json")
                .header("accept", "application/json, text/event-stream"),
            _ => request.header("accept", "text/event-stream"),
        };
        for (name, value) in headers {
            request = request.header(*name, value.as_str());
        }
        request.body(()).unwrap()
    }

    /// Sends a POST and reads its answer.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, String)], body: &[u8]) -> Response {
        self.try_post(path, headers, body).await.unwrap()
    }

    /// Sends a POST; an error is that of its stream or connection.
    pub(crate) async fn try_post(&self, path: &str, headers: &[(&str, String)], body: &[u8]) -> Answered {
        let request = self.request("POST", path, headers);
        self.send(request, Bytes::copy_from_slice(body)).await
    }

    /// Sends any request and reads its answer.
    pub(crate) async fn send(&self, request: Request<()>, body: Bytes) -> Answered {
        within(60, "an answer", async {
            let response = self.begin(request, body).await?;
            finish(response).await
        })
        .await
    }

    /// Sends any request, its body included.
    pub(crate) async fn begin(&self, request: Request<()>, body: Bytes) -> Result<ResponseFuture, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut sending) = sender.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            sending.send_data(body, true)?;
        }
        Ok(response)
    }

    /// Opens a stream; its head has come.
    pub(crate) async fn open(&self, request: Request<()>, body: Bytes) -> (Response, RecvStream) {
        let answer = within(30, "the head of an answer", self.begin(request, body).await.unwrap()).await;
        let (head, body) = answer.unwrap().into_parts();
        (response(&head, Vec::new()), body)
    }

    /// Waits for the end of the connection.
    pub(crate) async fn ended(&self) -> String {
        let mut end = self.end.clone();
        let end = within(30, "the end of the connection", end.wait_for(Option::is_some)).await;
        end.unwrap().clone().unwrap()
    }

    /// Whether the connection is over.
    pub(crate) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }
}

/// Reads an answer to its end.
pub(crate) async fn finish(answer: ResponseFuture) -> Answered {
    let (head, mut body) = answer.await?.into_parts();
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(response(&head, whole))
}

/// The next piece of a body as text; `None` at its end, which may come in a frame of its own.
pub(crate) async fn piece(body: &mut RecvStream) -> Option<String> {
    loop {
        let data = within(30, "a piece of a body", body.data()).await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        if !data.is_empty() {
            return Some(String::from_utf8(data.to_vec()).unwrap());
        }
    }
}

fn response(head: &http::response::Parts, body: Vec<u8>) -> Response {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Response { status: head.status.as_u16(), headers, body }
}

/// A connection that an upstream has accepted.
pub(crate) type Accepted = Box<dyn Duplex>;

/// A server of connections; it ends with the value.
pub(crate) struct H2Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl H2Upstream {
    /// A server that gives each connection, after TLS where there is any, to `script` with its number
    /// from 0.
    pub(crate) async fn start<S, F>(tls: Option<ServerConfig>, script: S) -> H2Upstream
    where
        S: Fn(usize, Accepted) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, script) = (Arc::clone(&connections), Arc::new(script));
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let (script, tls) = (Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => script(number, Box::new(stream)).await,
                        Some(tls) => {
                            let Ok(secured) = tls.accept(stream).await else { return };
                            script(number, Box::new(secured)).await;
                        }
                    }
                });
            }
        });
        H2Upstream { address, connections, accepting }
    }

    /// A server that gives each request to `answer`, in a task of its own.
    pub(crate) async fn serving<S, F>(tls: Option<ServerConfig>, answer: S) -> H2Upstream
    where
        S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        H2Upstream::start(tls, move |_, io| serve(h2::server::Builder::new(), io, answer.clone())).await
    }

    /// A server that answers every request with an empty result.
    pub(crate) async fn answering(tls: Option<ServerConfig>) -> H2Upstream {
        H2Upstream::serving(tls, |request, respond| async { result(request, respond).await }).await
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one connection to its end: each request goes to `answer`, in a task of its own.
pub(crate) async fn serve<S, F>(mut builder: h2::server::Builder, io: Accepted, answer: S)
where
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// Reads a body to its end.
pub(crate) async fn body_of(request: Request<RecvStream>) -> Option<Bytes> {
    let mut body = request.into_body();
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        whole.extend_from_slice(&data);
    }
    Some(whole.freeze())
}

/// Answers with JSON; a peer that is gone is no error of the script.
pub(crate) async fn json(mut respond: SendResponse<Bytes>, body: Bytes) {
    let head = http::Response::builder()
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(())
        .unwrap();
    let Ok(mut sending) = respond.send_response(head, false) else { return };
    sending.send_data(body, true).ok();
}

/// Answers a request with an empty result.
pub(crate) async fn result(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let Some(body) = body_of(request).await else { return };
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    json(respond, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, message["id"]).into()).await;
}
