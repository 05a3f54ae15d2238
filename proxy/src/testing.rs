//! Tests: a gateway in this process, and servers that do what a script says.

use crate::authorize::{CallRules, ResponsePipeline};
use crate::backend::forward::{Dispatch, Failure, RequestOrigin};
use crate::backend::upstream_call::{
    CallRequest, ParamHeader, Profile, Retry, Rounds, SessionChoice, UpstreamCall, UpstreamTarget,
};
use crate::frontend::context::Gateway;
use crate::request_ids::Trace;
use crate::sealing::CallerKey;
use crate::shares::Owner;
use bytes::Bytes;
use portunus_config::{MapEnvironment, load_text};
use portunus_filters::call::Target;
use portunus_filters::identity::{Identity, Principal};
use portunus_filters::mcp::bridge::Parts;
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::{Bounds, Revision};
use portunus_filters::message::{Reading, read};
use portunus_filters::{Arrival, Clock, Era, Message, Moment};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// A clock that only tests move.
#[derive(Debug, Default)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Moment {
        let now = Duration::from_millis(self.0.load(Ordering::SeqCst));
        Moment { monotonic: now, wall: now }
    }
}

/// One request as a script sees it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

impl Asked {
    pub(crate) fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_else(|| self.head.split(' ').next().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub(crate) fn id(&self) -> String {
        self.body["id"].to_string()
    }
}

/// The connection that a request came on.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.ok();
    }

    pub(crate) async fn status(&mut self, status: &str, fields: &str, body: &str) {
        let length = body.len();
        self.send(&format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\n\r\n{body}")).await;
    }

    pub(crate) async fn json(&mut self, body: &str) {
        self.status("200 OK", "content-type: application/json\r\n", body).await;
    }

    pub(crate) async fn result(&mut self, asked: &Asked, result: &str) {
        self.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id())).await;
    }

    pub(crate) async fn accepted(&mut self) {
        self.status("202 Accepted", "", "").await;
    }

    pub(crate) async fn begin_events(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }

    pub(crate) async fn event(&mut self, message: &str) {
        self.raw_event(&format!("data: {message}\n\n")).await;
    }

    pub(crate) async fn raw_event(&mut self, event: &str) {
        self.send(&format!("{:x}\r\n{event}\r\n", event.len())).await;
    }

    pub(crate) async fn end(&mut self) {
        self.send("0\r\n\r\n").await;
    }

    pub(crate) async fn closed(&mut self) {
        let mut piece = [0; 1024];
        while self.0.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    }
}

/// A server that gives each request to its script; it ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Asked>>>,
    news: tokio::sync::Mutex<UnboundedReceiver<Asked>>,
    accepting: AbortHandle,
}

impl Server {
    pub(crate) async fn start<S, F>(script: S) -> Server
    where
        S: Fn(Asked, Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Wire>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (told, news) = unbounded_channel();
        let (script, log) = (Arc::new(script), Arc::clone(&heard));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(attend(stream, Arc::clone(&script), Arc::clone(&log), told.clone()));
            }
        });
        let news = tokio::sync::Mutex::new(news);
        Server { address, heard, news, accepting: accepting.abort_handle() }
    }

    /// Requests so far whose JSON-RPC (or else HTTP) method is `method`.
    pub(crate) fn heard(&self, method: &str) -> Vec<Asked> {
        self.heard.lock().unwrap().iter().filter(|asked| asked.method() == method).cloned().collect()
    }

    /// Waits for the next request of that method that was not waited for yet.
    pub(crate) async fn hears(&self, method: &str) -> Asked {
        let mut news = self.news.lock().await;
        let wait = async {
            loop {
                let asked = news.recv().await.unwrap();
                if asked.method() == method {
                    return asked;
                }
            }
        };
        within(method, wait).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn attend<S, F>(
    stream: TcpStream,
    script: Arc<S>,
    log: Arc<Mutex<Vec<Asked>>>,
    told: UnboundedSender<Asked>,
) where
    S: Fn(Asked, Wire) -> F + Send + Sync + 'static,
    F: Future<Output = Option<Wire>> + Send + 'static,
{
    let mut wire = Some(Wire(stream));
    while let Some(mut open) = wire.take() {
        let Some(asked) = request(&mut open.0).await else { return };
        log.lock().unwrap().push(asked.clone());
        told.send(asked.clone()).ok();
        wire = script(asked, open).await;
    }
}

async fn request(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        stream.read_buf(&mut bytes).await.ok().filter(|read| *read > 0)?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut asked = Asked { head, body: serde_json::Value::Null };
    let length: usize = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        stream.read_buf(&mut bytes).await.ok().filter(|read| *read > 0)?;
    }
    if length > 0 {
        asked.body = serde_json::from_slice(&bytes[end..]).unwrap();
    }
    Some(asked)
}

/// Waits for `future` and says what was waited for if it does not come.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(40), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited for {what}"),
    }
}

/// A gateway with one upstream.
pub(crate) struct Bed {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) clock: Arc<Hand>,
}

impl Bed {
    /// In front of `address`; `more` are further settings of the upstream.
    pub(crate) fn before(address: SocketAddr, more: &str) -> Bed {
        Bed::with(&format!("url: \"http://{address}/mcp\"{more}"))
    }

    /// In front of an upstream with these settings.
    pub(crate) fn with(settings: &str) -> Bed {
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ {settings} }}\nservers:\n  /mcp: up\n"
        );
        Bed::of(&text)
    }

    /// On this document.
    pub(crate) fn of(text: &str) -> Bed {
        Bed::among(text, MapEnvironment::default())
    }

    /// In front of a server, under a policy.
    pub(crate) fn under(rego: &str, address: SocketAddr, more: &str) -> Bed {
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{address}/mcp\"{more} }}\n\
             servers:\n  /mcp: up\npolicy: {{ path: policy.rego, time_limit: 1s }}\n"
        );
        let files = [("policy.rego".into(), rego.to_owned())].into();
        Bed::among(&text, MapEnvironment { files, ..MapEnvironment::default() })
    }

    /// Puts this document in force.
    pub(crate) fn activate(&self, text: &str) {
        self.gateway.activate(load_text(text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap());
    }

    /// On this document, which refers to things of an environment.
    pub(crate) fn among(text: &str, environment: MapEnvironment) -> Bed {
        let loaded = load_text(text, Path::new("t.yaml"), &environment).unwrap();
        let clock = Arc::new(Hand::default());
        let gateway = Arc::new(Gateway::new(loaded, Arc::clone(&clock) as Arc<dyn Clock>).unwrap());
        Bed { gateway, clock }
    }

    /// A place for `caller`, whose client declares `capabilities`.
    pub(crate) fn place(&self, caller: &str, capabilities: &str) -> UpstreamTarget {
        let active = self.gateway.active();
        let upstream = Arc::clone(&active.snapshot.upstreams[0]);
        let params =
            format!(r#"{{"capabilities":{capabilities},"clientInfo":{{"name":"t","version":"1"}}}}"#);
        let principal = Principal::named("t", caller);
        let owner = Owner::Principal(principal.holder.0);
        UpstreamTarget {
            pool: active.pool(&upstream).unwrap(),
            upstream,
            server: active.snapshot.routes.iter().next().unwrap().id.clone(),
            caller: CallerKey::for_tables(&Identity::Principal(Arc::new(principal)), &[]),
            owner,
            profile: Arc::new(Profile::of_initialize(&Object::read(&params).unwrap()).unwrap()),
            headers: Arc::default(),
        }
    }

    /// Opens an upstream call for `body`, a client's request.
    pub(crate) async fn open(&self, place: &UpstreamTarget, body: &str, rounds: Rounds) -> UpstreamCall {
        self.open_with(place, body, Choice::of(rounds)).await.unwrap()
    }

    pub(crate) async fn open_with(
        &self,
        place: &UpstreamTarget,
        body: &str,
        choice: Choice<'_>,
    ) -> Result<UpstreamCall, Failure> {
        let Choice { rounds, upstream_session, retry, params } = choice;
        let message = message(body);
        let arrival = arrival(self.clock.now());
        let target = Target::new(&"s".into(), &place.upstream.name);
        let active = self.gateway.active();
        let cleared =
            active.pipeline.judge(&arrival, std::slice::from_ref(&message), &target, |_| {}).unwrap();
        let origin = Arc::new(origin(arrival.clone()));
        let responses = ResponsePipeline::of(&origin, target.clone(), message.era, &cleared);
        let admitted = active.pipeline.admit(cleared, &arrival, &message, &target).unwrap();
        let admitted = admitted.at_once().ok().expect("no filter of a test has requests wait");
        let parts = Parts::read(body).unwrap();
        let call_request = CallRequest {
            permit: Arc::new(Dispatch::permit(admitted, &message)),
            message: &message,
            parts: &parts,
            origin,
            place: place.clone(),
            target: None,
            params,
            mirrored: Vec::new(),
            schema_refresh: None,
            rounds,
            upstream_session,
            retry,
            responses: Arc::new(CallRules { gateway: Arc::clone(&self.gateway), responses }),
        };
        UpstreamCall::open(&self.gateway.backend, call_request).await
    }
}

/// Somebody of whom nothing is known.
pub(crate) fn arrival(at: Moment) -> Arrival {
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let identity = Identity::Anonymous { source };
    Arrival { listener: "l".into(), source, identity, request_id: "r".into(), at }
}

/// What stands over what somebody is told of whom nothing is known.
pub(crate) fn responses() -> ResponsePipeline {
    let target = Target::new(&"s".into(), &"".into());
    ResponsePipeline::of_client(&Arc::new(origin(arrival(Hand::default().now()))), target, Era::Legacy)
}

/// How an upstream call is opened.
pub(crate) struct Choice<'a> {
    pub(crate) rounds: Rounds,
    pub(crate) upstream_session: SessionChoice<'a>,
    pub(crate) retry: Option<Retry>,
    pub(crate) params: Arc<[ParamHeader]>,
}

impl Choice<'_> {
    pub(crate) fn of(rounds: Rounds) -> Choice<'static> {
        Choice { rounds, upstream_session: SessionChoice::Pooled, retry: None, params: [].into() }
    }
}

/// A client's message.
pub(crate) fn message(body: &str) -> Message {
    let envelope = body.contains("io.modelcontextprotocol/protocolVersion");
    let method = serde_json::from_str::<serde_json::Value>(body).unwrap()["method"].to_string();
    let method = method.trim_matches('"').to_owned();
    let name = body.contains("\"name\":\"echo\"").then_some("echo");
    let mirror = match envelope {
        true => Mirror { version: Some("2026-07-28"), method: Some(&method), name },
        false => Mirror { version: Some("2025-11-25"), method: None, name: None },
    };
    let read = read(&Bytes::copy_from_slice(body.as_bytes()), &Bounds::default(), &mirror, &Revision::ALL);
    match read.unwrap() {
        Reading::One(message) => message,
        Reading::Batch(_) => panic!("a batch"),
    }
}

/// The sender of a request that nothing more is known of.
pub(crate) fn origin(arrival: Arrival) -> RequestOrigin {
    let trace = Trace { parent: "00-a-b-00".into(), joined: false };
    RequestOrigin { arrival, secure: false, behind_proxy: false, trace }
}
