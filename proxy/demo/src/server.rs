//! One demo server: a path, the eras it speaks, and the way of a request to the era's rules.

use super::http::{Exchange, Reply, accepts, local};
use super::rpc::{
    self, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, RpcError, UNSUPPORTED_VERSION,
};
use super::sessions::Sessions;
use super::world::World;
use super::{legacy, modern};
use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora_core::server::ShutdownWatch;
use portunus_filters::mcp::headers::{META_VERSION, Mirror, judge};
use portunus_filters::mcp::{Bounds, Envelope, Fault, Revision, Shape, check};
use portunus_filters::{Denial, Era};
use serde_json::{Value, json};
use std::time::Duration;
use std::{future::Future, pin::pin};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Streams without an end of their own at once: GET and `subscriptions/listen`.
const MAX_STREAMS: usize = 1024;
/// How often a quiet stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The revisions a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// All of them, on one endpoint.
    Both,
    /// 2025-11-25 and before; knows nothing of what came after.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// One server.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) world: World,
    pub(super) sessions: Sessions,
    pub(super) streams: Semaphore,
    speaks: Speaks,
}

impl Server {
    /// A server that was not asked anything yet.
    pub(super) fn new(name: &'static str, speaks: Speaks) -> Server {
        let streams = Semaphore::new(MAX_STREAMS);
        Server { name, world: World::new(), sessions: Sessions::default(), streams, speaks }
    }

    /// The server's name and version.
    pub(super) fn info(&self) -> Value {
        json!({"name": self.name, "title": "Portunus demo server", "version": env!("CARGO_PKG_VERSION")})
    }

    /// Serves one HTTP request.
    pub(super) async fn serve(&self, http: &mut Exchange, shutdown: &ShutdownWatch) {
        if let Err(reply) = local(http.headers()) {
            return http.reply(reply).await;
        }
        let modern =
            self.speaks == Speaks::Modern || (self.speaks == Speaks::Both && is_modern(http.headers()));
        match (http.method(), modern) {
            (&Method::POST, _) => self.post(http, shutdown).await,
            (_, true) => http.reply(Reply::not_allowed("POST")).await,
            (&Method::GET, false) => legacy::listen(self, http, shutdown).await,
            (&Method::DELETE, false) => legacy::end(self, http).await,
            _ => http.reply(Reply::not_allowed("GET, POST, DELETE")).await,
        }
    }

    async fn post(&self, http: &mut Exchange, shutdown: &ShutdownWatch) {
        if !accepts(http.headers(), "application/json") || !accepts(http.headers(), "text/event-stream") {
            let reply = Reply::refusal(406, "Accept must list application/json and text/event-stream");
            return http.reply(reply).await;
        }
        let body = match http.body().await {
            Ok(body) => body,
            Err(reply) => return http.reply(reply).await,
        };
        match self.read(http.headers(), &body) {
            Err(reply) => http.reply(reply).await,
            Ok(Reading::Batch(envelopes)) => legacy::batch(self, http, &envelopes).await,
            Ok(Reading::One(envelope, Era::Legacy)) => legacy::post(self, http, &envelope).await,
            Ok(Reading::One(envelope, Era::Modern)) => modern::post(self, http, &envelope, shutdown).await,
        }
    }

    fn read<'a>(&self, headers: &HeaderMap, body: &'a Bytes) -> Result<Reading<'a>, Reply> {
        let text = check(body, &Bounds::default()).map_err(|fault| unreadable(&fault))?;
        if text.trim_ascii_start().starts_with('[') && self.speaks != Speaks::Modern && !is_modern(headers) {
            let version = version(headers).ok().flatten();
            if version.is_some_and(|version| version != Revision::V2025_03_26.as_str()) {
                return Err(Reply::refusal(400, "This revision has no batches"));
            }
            return Envelope::read_batch(text).map(Reading::Batch).map_err(|fault| unreadable(&fault));
        }
        let envelope = Envelope::read(text).map_err(|fault| unreadable(&fault))?;
        if envelope.id.as_ref().is_some_and(|id| rpc::id_value(id).is_none()) {
            return Err(Reply::refusal(400, "An integer id must have 64 bits"));
        }
        let era = era(self.speaks, &envelope, headers).map_err(|error| {
            let id =
                envelope.id.as_ref().filter(|_| envelope.shape == Shape::Request).and_then(rpc::id_value);
            Reply::json(400, rpc::failure(id.as_ref(), &error))
        })?;
        Ok(Reading::One(envelope, era))
    }
}

enum Reading<'a> {
    One(Envelope<'a>, Era),
    Batch(Vec<Envelope<'a>>),
}

/// What a client that leaves means for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is cancelled (2026-07-28).
    Cancels,
    /// It goes on (up to 2025-11-25: only `notifications/cancelled` cancels).
    ChangesNothing,
}

/// Runs a call, and sends what it says meanwhile as events and its outcome as the answer.
///
/// The answer is plain JSON as long as nothing was said before it. A call without an outcome (it
/// was cancelled) ends the stream without an answer.
pub(super) async fn converse(
    http: &mut Exchange,
    call: impl Future<Output = Option<Reply>>,
    mut said: mpsc::Receiver<String>,
    leaving: Leaving,
) {
    let mut call = pin!(call);
    let mut beat = heartbeat();
    let outcome = loop {
        let broken = http.is_broken();
        if broken && leaving == Leaving::Cancels {
            return;
        }
        tokio::select! {
            biased;
            Some(message) = said.recv() => http.event(&message).await,
            outcome = &mut call => break outcome,
            _ = beat.tick() => http.keep_alive().await,
            () = http.disconnected(), if !broken => {}
        }
    };
    while let Ok(message) = said.try_recv() {
        http.event(&message).await;
    }
    match outcome {
        Some(reply) => http.reply(reply).await,
        None => http.end_stream().await,
    }
}

/// Ticks whenever a quiet stream has to say that it lives.
pub(super) fn heartbeat() -> Interval {
    let mut beat = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// The `progressToken` of a request.
pub(super) fn progress_token(envelope: &Envelope<'_>) -> Option<Value> {
    let meta = envelope.params.object("_meta").ok().flatten()?;
    scalar(meta.get("progressToken")?)
}

/// A string or a number.
///
/// Nothing else from a client becomes a `Value`: with the feature `raw_value` an object that names
/// `serde_json`'s private token is parsed again inside, past every bound on depth.
fn scalar(json: &str) -> Option<Value> {
    let scalar = json.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
    scalar.then(|| serde_json::from_str(json).ok()).flatten()
}

/// Waits until the process is told to end.
pub(super) async fn draining(shutdown: &mut ShutdownWatch) {
    // An error says that nobody is left who could tell, which is an end too.
    drop(shutdown.wait_for(|down| *down).await);
}

/// Decides whose rules a message follows.
fn era(speaks: Speaks, envelope: &Envelope<'_>, headers: &HeaderMap) -> Result<Era, RpcError> {
    let mirror = mirror(headers)?;
    let offered: &[Revision] = match speaks {
        Speaks::Both => &Revision::ALL,
        Speaks::Modern => &[Revision::V2026_07_28],
        Speaks::Legacy => return plain_legacy(&mirror),
    };
    let verdict = judge(envelope, &mirror, offered).map_err(|denial| refusal(&denial))?;
    if speaks == Speaks::Modern && verdict.era == Era::Legacy {
        return Err(modern_only(envelope));
    }
    Ok(verdict.era)
}

/// A server of before 2026-07-28 knows only whether it has the revision in the header.
fn plain_legacy(mirror: &Mirror<'_>) -> Result<Era, RpcError> {
    let known =
        |version: &str| Revision::parse(version).is_some_and(|revision| revision.era() == Era::Legacy);
    match mirror.version {
        Some(version) if !known(version) => {
            let message = format!("Bad Request: unsupported protocol version {}", rpc::excerpt(version));
            Err(RpcError::new(INVALID_REQUEST, message))
        }
        _ => Ok(Era::Legacy),
    }
}

/// Tells a legacy client what is spoken here.
fn modern_only(envelope: &Envelope<'_>) -> RpcError {
    if envelope.method.as_ref().is_some_and(|method| method.is("initialize")) {
        let requested = envelope.params.text("protocolVersion").unwrap_or_default();
        return unsupported(&requested);
    }
    match envelope.shape {
        Shape::Request => {
            RpcError::new(INVALID_PARAMS, format!("`params._meta[\"{META_VERSION}\"]` is missing"))
        }
        Shape::Notification => RpcError::new(HEADER_MISMATCH, "the `MCP-Protocol-Version` header is missing"),
        Shape::Result | Shape::Error => {
            RpcError::new(INVALID_REQUEST, "a client sends no answers: use `inputResponses`")
        }
    }
}

fn refusal(denial: &Denial) -> RpcError {
    use portunus_filters::Reason;
    let code = match denial.reason {
        Reason::HeaderMismatch => HEADER_MISMATCH,
        Reason::InvalidEnvelope => INVALID_PARAMS,
        Reason::UnsupportedVersion => {
            let requested = denial.data.iter().find(|(key, _)| *key == "requested");
            let requested = requested.and_then(|(_, json)| serde_json::from_str::<String>(json).ok());
            return unsupported(&requested.unwrap_or_default());
        }
        _ => INVALID_REQUEST,
    };
    RpcError::new(code, denial.detail.clone())
}

/// Only modern revisions are listed: `initialize` is how the others are agreed on.
fn unsupported(requested: &str) -> RpcError {
    let data = json!({"supported": [Revision::V2026_07_28.as_str()], "requested": rpc::excerpt(requested)});
    RpcError::new(UNSUPPORTED_VERSION, "Unsupported protocol version").with(data)
}

fn mirror(headers: &HeaderMap) -> Result<Mirror<'_>, RpcError> {
    Ok(Mirror {
        version: version(headers)?,
        method: single(headers, "mcp-method")?,
        name: single(headers, "mcp-name")?,
    })
}

fn version(headers: &HeaderMap) -> Result<Option<&str>, RpcError> {
    single(headers, "mcp-protocol-version")
}

fn is_modern(headers: &HeaderMap) -> bool {
    let revision = version(headers).ok().flatten().and_then(Revision::parse);
    revision.is_some_and(|revision| revision.era() == Era::Modern)
}

/// A header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(http::HeaderValue::to_str).transpose();
    match (value, values.next()) {
        (Ok(value), None) => Ok(value.map(str::trim)),
        _ => Err(RpcError::new(HEADER_MISMATCH, format!("the `{name}` header is repeated or not text"))),
    }
}

fn unreadable(fault: &Fault) -> Reply {
    let code = if matches!(fault, Fault::Syntax(_)) { PARSE_ERROR } else { INVALID_REQUEST };
    Reply::json(400, rpc::failure(None, &RpcError::new(code, fault.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: &str = "2026-07-28";

    fn headers(version: Option<&'static str>, method: Option<&'static str>) -> HeaderMap {
        let pairs = [("mcp-protocol-version", version), ("mcp-method", method)];
        pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.parse().ok()?, value?.parse().ok()?)))
            .collect()
    }

    fn judged(speaks: Speaks, body: &str, version: Option<&'static str>) -> Result<Era, i64> {
        let headers = headers(version, Some("tools/list"));
        era(speaks, &Envelope::read(body).unwrap(), &headers).map_err(|error| error.code)
    }

    #[test]
    fn each_server_speaks_its_eras_only() {
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let claimed = |version: &str| {
            let meta = format!(r#"{{"{META_VERSION}":"{version}"}}"#);
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}"#)
        };
        let (modern, future) = (claimed(MODERN), claimed("2031-01-01"));
        let (both, legacy, only) = (Speaks::Both, Speaks::Legacy, Speaks::Modern);
        let cases = [
            ("plain on both", both, plain, None, Ok(Era::Legacy)),
            ("modern on both", both, &modern, Some(MODERN), Ok(Era::Modern)),
            ("header is missing", both, &modern, None, Err(HEADER_MISMATCH)),
            ("header of another revision", both, &modern, Some("2025-11-25"), Err(HEADER_MISMATCH)),
            ("claim is missing", both, plain, Some(MODERN), Err(INVALID_PARAMS)),
            ("future on both", both, &future, Some("2031-01-01"), Err(UNSUPPORTED_VERSION)),
            ("plain on legacy", legacy, plain, Some("2025-06-18"), Ok(Era::Legacy)),
            ("modern on legacy", legacy, &modern, Some(MODERN), Err(INVALID_REQUEST)),
            ("plain on modern", only, plain, None, Err(INVALID_PARAMS)),
            ("legacy header on modern", only, plain, Some("2025-11-25"), Err(UNSUPPORTED_VERSION)),
            ("modern on modern", only, &modern, Some(MODERN), Ok(Era::Modern)),
        ];
        for (name, speaks, body, version, expected) in cases {
            assert_eq!(judged(speaks, body, version), expected, "{name}");
        }
    }

    #[test]
    fn a_server_without_sessions_tells_initialize_what_it_speaks() {
        let body =
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
        let error = era(Speaks::Modern, &Envelope::read(body).unwrap(), &HeaderMap::new()).unwrap_err();
        assert_eq!(error.code, UNSUPPORTED_VERSION);
        assert_eq!(error.data, Some(json!({"supported": [MODERN], "requested": "2025-06-18"})));
    }

    #[test]
    fn a_repeated_header_is_a_mismatch() {
        let mut headers = headers(Some(MODERN), None);
        headers.append("mcp-protocol-version", http::HeaderValue::from_static("2025-11-25"));
        assert_eq!(version(&headers).unwrap_err().code, HEADER_MISMATCH);
    }

    #[test]
    fn only_scalars_of_a_client_become_values() {
        assert_eq!(scalar("\"t\""), Some(json!("t")));
        assert_eq!(scalar("-7"), Some(json!(-7)));
        let mut deep = "1".to_owned();
        for _ in 0..190 {
            let inner = deep.replace('\\', "\\u005c").replace('"', "\\u0022");
            let object = format!("{{\"$serde_json::private::RawValue\":\"{inner}\"}}");
            deep = format!("{}{object}{}", "[".repeat(60), "]".repeat(60));
        }
        // Whoever builds this as a `Value` overflows the stack.
        let deep = format!("{{\"a\":{deep}}}");
        for other in ["{}", "[]", "null", "true", &deep] {
            assert_eq!(scalar(other), None);
        }
    }
}
