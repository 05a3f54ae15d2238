//! Speaking HTTP with a server, one request after the other, each within a bound of time and size.

use super::json::Json;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};
use portunus::backend::upstreams::dns::Resolver;
use portunus::backend::upstreams::fault::Fault;
use portunus::backend::upstreams::pool::{Checkout, CheckoutError, CheckoutOptions, Pool};
use portunus::backend::upstreams::request::Outgoing;
use portunus::backend::upstreams::wire::Head;
use portunus_config::{Credentials, Upstream};
use portunus_filters::mcp::sse::Splitter;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of one answer, and of one event: a long list of tools has a few hundred kilobytes.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Bytes of a body that is no message, kept to see what it is.
const MAX_EXCERPT_BYTES: usize = 200;

/// Connections to one server.
pub(super) struct Link {
    pub(super) upstream: Arc<Upstream>,
    pub(super) resolver: Arc<Resolver>,
    pool: Arc<Pool>,
    /// For each answer.
    within: Duration,
}

/// One request.
pub(super) struct Request {
    pub(super) method: &'static str,
    /// Fields beside those that every request has.
    pub(super) fields: Vec<(HeaderName, String)>,
    /// Empty for a method without a body.
    pub(super) body: Bytes,
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Its head: the body may have no end.
    Head,
    /// The message that answers the request of this id.
    Answer(u32),
    /// Its first event.
    Event,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    /// An event had an id: a client could resume behind it.
    pub(super) resumable: bool,
}

/// What the body of an answer holds.
#[derive(Debug)]
pub(super) enum Content {
    /// A JSON value, or the event that was waited for.
    Message(Json),
    /// The name of the first event.
    Event(String),
    /// No message: why, and how the body begins.
    Other(String, String),
    /// It was not read.
    Unread,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    Unconnected(CheckoutError),
    Broken(Fault),
    TimedOut(Duration),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unconnected(error) => error.fmt(f),
            Trouble::Broken(fault) => fault.fmt(f),
            Trouble::TimedOut(after) => write!(f, "no answer within {after:?}"),
        }
    }
}

impl Answer {
    /// The media type without its parameters, in lower case.
    pub(super) fn media(&self) -> String {
        media(&self.headers)
    }

    /// The first value of a field, as far as it is text.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Link {
    pub(super) fn new(upstream: Arc<Upstream>, within: Duration) -> Link {
        let pool = Arc::new(Pool::new(&upstream));
        Link { upstream, resolver: Arc::default(), pool, within }
    }

    /// Sends a request and reads its answer as far as it is wanted.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn ask(&self, request: &Request, until: Until) -> Result<Answer, Trouble> {
        self.ask_within(self.within, request, until).await
    }

    /// [`Link::ask`] with a bound of its own, never a longer one.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn ask_within(
        &self,
        within: Duration,
        request: &Request,
        until: Until,
    ) -> Result<Answer, Trouble> {
        let within = within.min(self.within);
        timeout(within, self.exchange(request, until)).await.unwrap_or(Err(Trouble::TimedOut(within)))
    }

    async fn exchange(&self, request: &Request, until: Until) -> Result<Answer, Trouble> {
        let wish = CheckoutOptions {
            fresh: false,
            endless: !matches!(until, Until::Answer(_)),
            ..CheckoutOptions::default()
        };
        let checkout = self.pool.checkout(&self.upstream, &self.resolver, wish).await;
        let mut checkout = checkout.map_err(Trouble::Unconnected)?;
        let gone = || Trouble::Broken(Fault::Broken(std::io::ErrorKind::NotConnected.into()));
        let connection = checkout.connection().ok_or_else(gone)?;
        let outgoing = Outgoing::new(self.head(request), request.body.clone());
        let head = connection.exchange(&outgoing).await.map_err(Trouble::Broken)?;
        let mut reading = Reading { checkout, resumable: false };
        let content = match until {
            Until::Head => Content::Unread,
            _ => reading.content(&head, until).await.map_err(Trouble::Broken)?,
        };
        let resumable = reading.resumable;
        reading.checkout.put_back();
        Ok(Answer { status: head.status, headers: head.headers, content, resumable })
    }

    fn head(&self, request: &Request) -> Vec<u8> {
        let upstream = &self.upstream;
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(format!("{} {} HTTP/1.1\r\n", request.method, upstream.url.path).as_bytes());
        put(&mut out, "host", upstream.url.authority.as_bytes());
        put(&mut out, "user-agent", concat!("portunus/", env!("CARGO_PKG_VERSION")).as_bytes());
        put(&mut out, "accept-encoding", b"identity");
        for (name, value) in &request.fields {
            put(&mut out, name.as_str(), value.as_bytes());
        }
        for (name, value) in &upstream.headers.set {
            put(&mut out, name.as_str(), value.as_bytes());
        }
        if let Credentials::Header { name, value } = &upstream.credentials {
            put(&mut out, name.as_str(), value.expose().as_bytes());
        }
        if request.method == "POST" {
            put(&mut out, "content-type", b"application/json");
            put(&mut out, "content-length", request.body.len().to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Values are our own, or were parsed as header values: none holds CR or LF.
fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The body of one answer.
struct Reading {
    checkout: Checkout,
    resumable: bool,
}

impl Reading {
    async fn content(&mut self, head: &Head, until: Until) -> Result<Content, Fault> {
        match media(&head.headers).as_str() {
            "text/event-stream" => self.events(until).await,
            "application/json" => {
                let body = self.whole().await?;
                if body.len() > MAX_BODY_BYTES {
                    return Ok(Content::Other("it exceeds 16 MiB".to_owned(), excerpt(&body)));
                }
                Ok(match Json::read(&body) {
                    Ok(message) => Content::Message(message),
                    Err(fault) => Content::Other(fault.to_string(), excerpt(&body)),
                })
            }
            "" => Ok(Content::Other("it has no content type".to_owned(), excerpt(&self.whole().await?))),
            other => {
                Ok(Content::Other(format!("its content type is {}", portunus_base::text::json(other)), {
                    excerpt(&self.whole().await?)
                }))
            }
        }
    }

    /// Up to the bound; what lies beyond is not read.
    async fn whole(&mut self) -> Result<BytesMut, Fault> {
        let mut whole = BytesMut::new();
        while whole.len() <= MAX_BODY_BYTES
            && let Some(piece) = self.piece().await?
        {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    async fn events(&mut self, until: Until) -> Result<Content, Fault> {
        let mut splitter = Splitter::new(MAX_BODY_BYTES);
        loop {
            while let Ok(Some(event)) = splitter.next_event() {
                self.resumable |= event.has_id();
                if until == Until::Event {
                    return Ok(Content::Event(name(event.raw())));
                }
                let message = event.data().and_then(|data| Json::read(&data).ok());
                if let Some(message) = message.filter(|message| answers(message, until)) {
                    return Ok(Content::Message(message));
                }
            }
            if splitter.remainder().len() > MAX_BODY_BYTES {
                return Ok(Content::Other("an event exceeds 16 MiB".to_owned(), String::new()));
            }
            match self.piece().await? {
                Some(piece) => splitter.push(&piece),
                None => {
                    let why = "its event stream ends without the answer".to_owned();
                    return Ok(Content::Other(why, String::new()));
                }
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.checkout.connection() {
            Some(connection) => connection.read_body().await,
            None => Ok(None),
        }
    }
}

fn media(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(MAX_EXCERPT_BYTES)]).trim().to_owned()
}

/// Whether it is the answer that is waited for: our ids are integers.
fn answers(message: &Json, until: Until) -> bool {
    let Until::Answer(id) = until else { return false };
    message.get("method").is_none() && message.get("id").and_then(Json::integer) == Some(i64::from(id))
}

/// The value of the first `event` line.
fn name(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let line = text.lines().find_map(|line| line.strip_prefix("event:"));
    line.unwrap_or_default().trim().to_owned()
}
