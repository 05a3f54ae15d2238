//! The rules up to 2025-11-25: `initialize`, sessions, the GET stream, requests of the server.

use super::contents;
use super::http::{Exchange, Reply, accepts};
use super::rpc::{self, INTERNAL_ERROR, INVALID_REQUEST, RpcError};
use super::server::{Leaving, Server, converse, draining, heartbeat, progress_token};
use super::sessions::{MAX_URI_BYTES, Session};
use super::tools::{self, Elicited, Outcome, Question};
use super::voice::{Level, Voice};
use super::world::Change;
use pingora_core::server::ShutdownWatch;
use portunus_filters::Era;
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::{Envelope, Revision, Shape};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};

const SESSION: &str = "mcp-session-id";

/// How long the user may think about a question.
const ANSWER: Duration = Duration::from_secs(300);

/// Serves one message.
pub(super) async fn post(server: &Server, http: &mut Exchange, envelope: &Envelope<'_>) {
    if envelope.method.as_ref().is_some_and(|method| method.is("initialize"))
        && envelope.shape == Shape::Request
    {
        let reply = initialize(server, envelope);
        return http.reply(reply).await;
    }
    let session = match session(server, http) {
        Ok(session) => session,
        Err(reply) => return http.reply(reply).await,
    };
    let Some(id) = request_id(envelope) else {
        note(&session, envelope);
        return http.reply(Reply::empty(202)).await;
    };
    let (voice, said) = Voice::new(progress_token(envelope), session.level());
    let call = async {
        let outcome = answer(server, &session, &voice, envelope).await?;
        Some(Reply::json(200, rpc::answer(&id, outcome)))
    };
    converse(http, call, said, Leaving::ChangesNothing).await;
}

/// Serves a batch (2025-03-26 only), one message after the other.
pub(super) async fn batch(server: &Server, http: &mut Exchange, envelopes: &[Envelope<'_>]) {
    let session = match session(server, http) {
        Ok(session) => session,
        Err(reply) => return http.reply(reply).await,
    };
    let initializes =
        |envelope: &Envelope<'_>| envelope.method.as_ref().is_some_and(|method| method.is("initialize"));
    if session.revision > Revision::V2025_03_26 || envelopes.iter().any(initializes) {
        return http.reply(Reply::refusal(400, "No batch is possible here")).await;
    }
    let (voice, said) = Voice::new(None, session.level());
    let call = async {
        let mut answers = Vec::new();
        for envelope in envelopes {
            let Some(id) = request_id(envelope) else {
                note(&session, envelope);
                continue;
            };
            let voice = voice.with_token(progress_token(envelope));
            if let Some(outcome) = answer(server, &session, &voice, envelope).await {
                answers.push(rpc::answer(&id, outcome));
            }
        }
        let nothing = answers.is_empty();
        Some(if nothing { Reply::empty(202) } else { Reply::json(200, format!("[{}]", answers.join(","))) })
    };
    converse(http, call, said, Leaving::ChangesNothing).await;
}

/// Opens the stream of what the server says on its own.
pub(super) async fn listen(server: &Server, http: &mut Exchange, shutdown: &ShutdownWatch) {
    if !accepts(http.headers(), "text/event-stream") {
        return http.reply(Reply::refusal(406, "Accept must list text/event-stream")).await;
    }
    let session = match session(server, http) {
        Ok(session) => session,
        Err(reply) => return http.reply(reply).await,
    };
    let Ok(_permit) = server.streams.try_acquire() else {
        return http.reply(Reply::refusal(503, "Too many streams")).await;
    };
    let (mut shutdown, mut current) = (shutdown.clone(), session.open_stream());
    let mut changes = server.world.changes();
    let mut beat = heartbeat();
    http.open_stream().await;
    while !http.is_broken() {
        let told = tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => vec![change],
                Err(RecvError::Lagged(_)) => everything(&session),
                Err(RecvError::Closed) => break,
            },
            _ = beat.tick() => {
                session.touch(Instant::now());
                http.keep_alive().await;
                continue;
            }
            _ = current.changed() => break,
            () = draining(&mut shutdown) => break,
            () = http.disconnected() => break,
        };
        for change in told.iter().filter(|change| session.wants(change)) {
            let (method, params) = change.notification(None);
            http.event(&rpc::notification(method, params)).await;
        }
    }
    http.end_stream().await;
}

/// Ends a session.
pub(super) async fn end(server: &Server, http: &mut Exchange) {
    let reply = match session_id(http) {
        Err(reply) => reply,
        Ok(id) if server.sessions.end(id) => Reply::empty(200),
        Ok(_) => unknown_session(),
    };
    http.reply(reply).await;
}

fn session(server: &Server, http: &Exchange) -> Result<Arc<Session>, Reply> {
    server.sessions.find(session_id(http)?, Instant::now()).ok_or_else(unknown_session)
}

fn session_id(http: &Exchange) -> Result<&str, Reply> {
    let id = http.headers().get(SESSION).and_then(|id| id.to_str().ok());
    id.ok_or_else(|| Reply::refusal(400, "Bad Request: the Mcp-Session-Id header is missing"))
}

fn unknown_session() -> Reply {
    Reply::refusal(404, "Session not found")
}

fn request_id(envelope: &Envelope<'_>) -> Option<Value> {
    envelope.id.as_ref().filter(|_| envelope.shape == Shape::Request).and_then(rpc::id_value)
}

fn initialize(server: &Server, envelope: &Envelope<'_>) -> Reply {
    let Some(id) = request_id(envelope) else { return Reply::refusal(400, "No id") };
    let failed = |error: RpcError| Reply::json(200, rpc::failure(Some(&id), &error));
    let Some(requested) = envelope.params.text("protocolVersion") else {
        return failed(RpcError::invalid_params("`protocolVersion` must be a string"));
    };
    let Ok(Some(capabilities)) = envelope.params.object("capabilities") else {
        return failed(RpcError::invalid_params("`capabilities` must be an object"));
    };
    let revision = negotiate(&requested);
    let Some(session) = server.sessions.open(revision, elicits_by_form(&capabilities), Instant::now()) else {
        return failed(RpcError::new(INTERNAL_ERROR, "No session can be made now"));
    };
    let result = json!({
        "protocolVersion": revision.as_str(),
        "capabilities": contents::capabilities(),
        "serverInfo": server.info(),
        "instructions": contents::INSTRUCTIONS
    });
    Reply::json(200, rpc::answer(&id, Ok(result))).with(SESSION, session)
}

/// The revision that was asked for, if it has sessions, else the last that had.
fn negotiate(requested: &str) -> Revision {
    Revision::parse(requested)
        .filter(|revision| revision.era() == Era::Legacy)
        .unwrap_or(Revision::V2025_11_25)
}

/// Whether the client can show its user a form; `{}` meant one before there were other modes.
pub(super) fn elicits_by_form(capabilities: &Object<'_>) -> bool {
    let elicitation = capabilities.object("elicitation").ok().flatten();
    elicitation.is_some_and(|modes| modes.get("form").is_some() || modes.get("url").is_none())
}

/// Takes a notification, or the answer to a request of the server.
fn note(session: &Session, envelope: &Envelope<'_>) {
    match envelope.shape {
        Shape::Notification
            if envelope.method.as_ref().is_some_and(|method| method.is("notifications/cancelled")) =>
        {
            if let Some(id) = envelope.params.get("requestId") {
                session.cancel(&call_key(id));
            }
        }
        Shape::Result => {
            let result = envelope.result.and_then(|text| Object::read(text).ok());
            let elicited = result.map_or(Elicited::Unusable, |result| Elicited::read(&result));
            settle(session, envelope, elicited);
        }
        Shape::Error => {
            settle(session, envelope, Elicited::Failed(envelope.error_code.unwrap_or(INTERNAL_ERROR)))
        }
        Shape::Notification | Shape::Request => {}
    }
}

fn settle(session: &Session, envelope: &Envelope<'_>, elicited: Elicited) {
    let id = envelope.id.as_ref().and_then(rpc::id_value);
    if let Some(id) = id.as_ref().and_then(Value::as_str) {
        session.answered(id, elicited);
    }
}

/// The id of a call in one form, however it is escaped.
fn call_key(json: &str) -> String {
    match serde_json::from_str::<String>(json) {
        Ok(text) => Value::String(text).to_string(),
        Err(_) => json.to_owned(),
    }
}

/// Answers a request; `None` if it was cancelled.
async fn answer(
    server: &Server,
    session: &Arc<Session>,
    voice: &Voice,
    envelope: &Envelope<'_>,
) -> Option<Result<Value, RpcError>> {
    let id = envelope.id.as_ref()?;
    let mut call = match session.begin(call_key(id.as_json())) {
        Ok(call) => call,
        Err(message) => return Some(Err(RpcError::new(INVALID_REQUEST, message))),
    };
    tokio::select! {
        biased;
        () = call.cancelled() => None,
        outcome = dispatch(server, session, voice, envelope) => Some(outcome),
    }
}

async fn dispatch(
    server: &Server,
    session: &Session,
    voice: &Voice,
    envelope: &Envelope<'_>,
) -> Result<Value, RpcError> {
    let method = envelope.method.as_ref().map(|method| method.name()).unwrap_or_default();
    let params = &envelope.params;
    match method {
        "ping" => Ok(json!({})),
        "tools/call" => call(server, session, voice, params).await,
        "logging/setLevel" => {
            let level = params.text("level").and_then(|name| Level::parse(&name));
            session.set_level(level.ok_or_else(|| RpcError::invalid_params("`level` must be a log level"))?);
            Ok(json!({}))
        }
        "resources/subscribe" | "resources/unsubscribe" => {
            let uri = params.text("uri").filter(|uri| uri.len() <= MAX_URI_BYTES);
            let uri =
                uri.ok_or_else(|| RpcError::invalid_params("`uri` must be a string of at most 1024 bytes"))?;
            if method == "resources/unsubscribe" {
                session.unsubscribe(&uri);
            } else if !session.subscribe(&uri) {
                return Err(RpcError::new(INTERNAL_ERROR, "Too many subscriptions"));
            }
            Ok(json!({}))
        }
        _ => contents::answer(&server.world, method, params)
            .unwrap_or_else(|| Err(RpcError::unknown_method(method))),
    }
}

async fn call(
    server: &Server,
    session: &Session,
    voice: &Voice,
    params: &Object<'_>,
) -> Result<Value, RpcError> {
    let name = params.text("name").ok_or_else(|| RpcError::invalid_params("`name` must be a string"))?;
    let arguments =
        params.object("arguments").map_err(|fault| RpcError::invalid_params(fault.to_string()))?;
    let arguments = arguments.unwrap_or_default();
    let question = match tools::call(&server.world, voice, &name, &arguments, None).await? {
        Outcome::Done(result) => return Ok(result),
        Outcome::Asks(question) => question,
    };
    if !session.elicits {
        return Ok(tools::failed(
            "This tool asks you something, and your client does not support elicitation.",
        ));
    }
    let Some(elicited) = ask(session, voice, question).await else {
        return Ok(tools::failed("There was no answer in time."));
    };
    match tools::call(&server.world, voice, &name, &arguments, Some(elicited)).await? {
        Outcome::Done(result) => Ok(result),
        Outcome::Asks(_) => Err(RpcError::new(INTERNAL_ERROR, "The tool asks without an end")),
    }
}

/// Asks the user by a request on the stream of the call.
async fn ask(session: &Session, voice: &Voice, question: Question) -> Option<Elicited> {
    let (id, answer) = session.question();
    voice.say(rpc::request(&id, "elicitation/create", question.params)).await;
    if let Ok(elicited) = timeout(ANSWER, answer).await {
        return elicited.ok();
    }
    let params = json!({"requestId": id, "reason": "no answer in time"});
    voice.say(rpc::notification("notifications/cancelled", params)).await;
    None
}

/// What to say to a stream that lost count.
fn everything(session: &Session) -> Vec<Change> {
    let updated = session.subscriptions().into_iter().map(Change::Updated);
    [Change::Tools, Change::Resources].into_iter().chain(updated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_revision_is_kept_and_any_other_becomes_the_last_one() {
        for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
            assert_eq!(negotiate(revision).as_str(), revision);
        }
        for other in ["2026-07-28", "2031-01-01", "", "latest"] {
            assert_eq!(negotiate(other), Revision::V2025_11_25, "{other}");
        }
    }

    #[test]
    fn a_client_with_a_form_can_be_asked() {
        let cases = [
            ("{}", false),
            (r#"{"elicitation":{}}"#, true),
            (r#"{"elicitation":{"form":{}}}"#, true),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, true),
            (r#"{"elicitation":{"url":{}}}"#, false),
            (r#"{"elicitation":true}"#, false),
        ];
        for (capabilities, expected) in cases {
            assert_eq!(elicits_by_form(&Object::read(capabilities).unwrap()), expected, "{capabilities}");
        }
    }

    #[test]
    fn ids_of_calls_are_the_same_however_they_are_written() {
        assert_eq!(call_key(r#""a""#), call_key(r#""\u0061""#));
        assert_ne!(call_key("1"), call_key(r#""1""#));
    }

    #[test]
    fn initialize_wants_its_parameters() {
        let server = Server::new("test", super::super::server::Speaks::Legacy);
        let answered = |params: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
            initialize(&server, &Envelope::read(&text).unwrap())
        };
        assert!(answered("{}").body.contains("-32602"));
        assert!(answered(r#"{"protocolVersion":"2025-06-18"}"#).body.contains("-32602"));
        let reply = answered(
            r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}"#,
        );
        assert!(reply.body.contains(r#""protocolVersion":"2025-06-18""#), "{}", reply.body);
        assert!(reply.header.is_some_and(|(name, id)| name == SESSION && id.len() == 32));
    }
}
