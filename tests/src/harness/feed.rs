//! An upstream with long streams that all carry what a test says.

use super::{Client, Gateway, Request, Upstream, Wire, modern_headers, rpc};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::broadcast;

/// Events that a stream may be behind before the upstream takes it for lost.
const BACKLOG: usize = 256;

/// A scripted server: GET and `subscriptions/listen` are streams, calls are answered at once with the
/// `x-rev` header that they came with.
pub(crate) struct Feed {
    upstream: Upstream,
    events: broadcast::Sender<usize>,
    said: AtomicUsize,
}

impl Feed {
    /// Starts the server; `answer` is what happens to anything that is no stream.
    pub(crate) async fn start<S, F>(answer: S) -> Feed
    where
        S: Fn(Request, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        let events = broadcast::Sender::new(BACKLOG);
        let (source, answer) = (events.clone(), Arc::new(answer));
        let upstream = Upstream::start(move |request: Request, wire: Wire| {
            // Subscribed before the head goes out: whoever has the head misses nothing.
            let (heard, answer) = (source.subscribe(), Arc::clone(&answer));
            async move {
                let stream = request.head.starts_with("GET ")
                    || request.header("mcp-method") == Some("subscriptions/listen");
                if stream { carry(wire, heard).await } else { answer(request, wire).await }
            }
        })
        .await;
        Feed { upstream, events, said: AtomicUsize::new(0) }
    }

    /// Starts the server; calls are answered at once.
    pub(crate) async fn answering() -> Feed {
        Feed::start(|request: Request, mut wire: Wire| async move {
            let revision = request.header("x-rev").unwrap_or("none");
            wire.json(&format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"rev":"{revision}"}}}}"#,
                request.id()
            ))
            .await;
            Some(wire)
        })
        .await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// How many events were sent.
    pub(crate) fn said(&self) -> usize {
        self.said.load(Ordering::SeqCst)
    }

    /// Sends the next event on every stream, and gives it.
    pub(crate) fn say(&self) -> String {
        let number = self.said.fetch_add(1, Ordering::SeqCst) + 1;
        self.events.send(number).ok();
        event(number)
    }
}

/// The event of this number.
pub(crate) fn event(number: usize) -> String {
    format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"n\":{number}}}}}\n\n"
    )
}

async fn carry(mut wire: Wire, mut heard: broadcast::Receiver<usize>) -> Option<Wire> {
    wire.begin_events().await;
    loop {
        tokio::select! {
            () = wire.closed() => return None,
            number = heard.recv() => wire.chunk(&event(number.ok()?)).await,
        }
    }
}

/// How a long stream is opened, and how it ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Long {
    /// A legacy GET stream: it just ends.
    Get,
    /// A modern `subscriptions/listen` with this id: it ends with its result.
    Listen(u32),
}

impl Long {
    /// Opens a stream on a connection of its own; its head has come.
    pub(crate) async fn open(self, gateway: &Gateway, path: &str) -> Client {
        let mut client = gateway.connect().await;
        match self {
            Long::Get => client.open_stream(path, &[("mcp-session-id", "s-1".to_owned())]).await,
            Long::Listen(id) => {
                let mut headers = modern_headers("");
                headers.truncate(1);
                headers.push(("mcp-method", "subscriptions/listen".to_owned()));
                client.post(path, &headers, listen(id).as_bytes()).await;
            }
        }
        let head = client.response_head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{self:?}");
        client
    }

    /// The message that opens a `subscriptions/listen` stream of this id.
    pub(crate) fn listening(id: u32) -> String {
        listen(id)
    }

    /// What comes before the end of the body when the gateway ends the stream in order.
    pub(crate) fn assert_ending(self, last: &str) {
        let Long::Listen(id) = self else {
            assert_eq!(last, "", "a GET stream just ends");
            return;
        };
        let data = last.strip_prefix("event: message\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("no event at the end of a listen stream: {last:?}"));
        let message: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (message["id"].as_u64(), message["result"]["resultType"].as_str()),
            (Some(u64::from(id)), Some("complete")),
            "{last}"
        );
    }
}

fn listen(id: u32) -> String {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;
    rpc(id, "subscriptions/listen", &format!(r#"{{"notifications":{{"toolsListChanged":true}},{meta}}}"#))
}
