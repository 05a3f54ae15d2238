//! The rules of 2026-07-28: no session, everything in the request; questions by another round.

use super::contents;
use super::http::{Exchange, Reply};
use super::legacy::elicits_by_form;
use super::rpc::{
    self, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, NO_RESOURCE, RpcError,
};
use super::server::{Leaving, Server, converse, draining, heartbeat, progress_token};
use super::sessions::MAX_URI_BYTES;
use super::tools::{self, Elicited, Outcome, Question};
use super::voice::{Level, Voice};
use super::world::Change;
use pingora_core::server::ShutdownWatch;
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::{Envelope, Revision, Shape};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// URIs of one subscription.
const MAX_URIS: usize = 64;

/// Serves one message; the era's headers were held to the body before.
pub(super) async fn post(
    server: &Server,
    http: &mut Exchange,
    envelope: &Envelope<'_>,
    shutdown: &ShutdownWatch,
) {
    let id = envelope.id.as_ref().filter(|_| envelope.shape == Shape::Request).and_then(rpc::id_value);
    let Some(id) = id else {
        // There is nothing that a client could tell us: it cancels by closing the stream.
        return http.reply(Reply::empty(202)).await;
    };
    let caller = match Caller::of(envelope) {
        Ok(caller) => caller,
        Err(error) => return http.reply(Reply::json(400, rpc::failure(Some(&id), &error))).await,
    };
    let method = envelope.method.as_ref().map(|method| method.name()).unwrap_or_default();
    if method == "subscriptions/listen" {
        return listen(server, http, (&id, &envelope.params), shutdown).await;
    }
    let (voice, said) = Voice::new(progress_token(envelope), caller.level);
    let call = async {
        let outcome = answer(server, &caller, &voice, (method, &envelope.params)).await;
        Some(Reply::json(status(&outcome), rpc::answer(&id, outcome)))
    };
    converse(http, call, said, Leaving::Cancels).await;
}

/// What a request says of its sender.
#[derive(Debug, PartialEq)]
struct Caller {
    elicits: bool,
    level: Option<Level>,
}

impl Caller {
    /// Reads the envelope in `_meta` (2026-07-28 basic, "Per-request protocol fields").
    fn of(envelope: &Envelope<'_>) -> Result<Caller, RpcError> {
        let meta = envelope.params.object("_meta").ok().flatten().unwrap_or_default();
        let Ok(Some(capabilities)) = meta.object(META_CAPABILITIES) else {
            let message = format!("`params._meta[\"{META_CAPABILITIES}\"]` must be an object");
            return Err(RpcError::invalid_params(message));
        };
        let level = match meta.get(META_LEVEL) {
            None => None,
            Some(_) => {
                let level = meta.text(META_LEVEL).and_then(|name| Level::parse(&name));
                let wrong = || {
                    RpcError::invalid_params(format!("`params._meta[\"{META_LEVEL}\"]` must be a log level"))
                };
                Some(level.ok_or_else(wrong)?)
            }
        };
        Ok(Caller { elicits: elicits_by_form(&capabilities), level })
    }
}

async fn answer(
    server: &Server,
    caller: &Caller,
    voice: &Voice,
    (method, params): (&str, &Object<'_>),
) -> Result<Value, RpcError> {
    let mut result = match method {
        "tools/call" => call(server, caller, voice, params).await?,
        "server/discover" => json!({
            "supportedVersions": [Revision::V2026_07_28.as_str()],
            "capabilities": contents::capabilities(),
            "instructions": contents::INSTRUCTIONS
        }),
        _ => match contents::answer(&server.world, method, params) {
            Some(result) => result.map_err(renamed)?,
            None => return Err(RpcError::unknown_method(method)),
        },
    };
    if let Some(members) = result.as_object_mut() {
        members.entry("resultType").or_insert_with(|| json!("complete"));
        members.insert("_meta".to_owned(), json!({META_SERVER: server.info()}));
        members.extend(caching(method));
    }
    Ok(result)
}

/// How long and for whom a result may be kept; nothing for what is no list, page or description.
fn caching(method: &str) -> Map<String, Value> {
    let (ttl_ms, scope) = match method {
        "server/discover" | "prompts/list" | "resources/templates/list" => (300_000, "public"),
        "tools/list" => (5_000, "public"),
        "resources/list" | "resources/read" => (0, "private"),
        _ => return Map::new(),
    };
    Map::from_iter([("ttlMs".to_owned(), json!(ttl_ms)), ("cacheScope".to_owned(), json!(scope))])
}

/// An unknown resource has no code of its own any more.
fn renamed(error: RpcError) -> RpcError {
    let code = if error.code == NO_RESOURCE { INVALID_PARAMS } else { error.code };
    RpcError { code, ..error }
}

fn status(outcome: &Result<Value, RpcError>) -> u16 {
    match outcome {
        Err(error) if error.code == METHOD_NOT_FOUND => 404,
        Err(error) if error.code == MISSING_CAPABILITY => 400,
        _ => 200,
    }
}

async fn call(
    server: &Server,
    caller: &Caller,
    voice: &Voice,
    params: &Object<'_>,
) -> Result<Value, RpcError> {
    let name = params.text("name").ok_or_else(|| RpcError::invalid_params("`name` must be a string"))?;
    let arguments =
        params.object("arguments").map_err(|fault| RpcError::invalid_params(fault.to_string()))?;
    let elicited = elicited(server, &name, params)?;
    match tools::call(&server.world, voice, &name, &arguments.unwrap_or_default(), elicited).await? {
        Outcome::Done(result) => Ok(result),
        Outcome::Asks(question) => ask(server, caller, &name, question),
    }
}

/// The answer that a further round brings, from a state that we gave out for this tool.
fn elicited(server: &Server, tool: &str, params: &Object<'_>) -> Result<Option<Elicited>, RpcError> {
    let Some(state) = params.get("requestState") else {
        return match params.get("inputResponses") {
            Some(_) => Err(RpcError::invalid_params("`requestState` is missing")),
            None => Ok(None),
        };
    };
    let state = serde_json::from_str::<String>(state).unwrap_or_default();
    if !server.world.sealed(tool, &state) {
        return Err(RpcError::invalid_params("`requestState` was not given out for this call"));
    }
    let responses =
        params.object("inputResponses").map_err(|fault| RpcError::invalid_params(fault.to_string()))?;
    let Some(responses) = responses else { return Ok(None) };
    Ok(match (responses.get("name"), responses.object("name")) {
        (None, _) => None,
        (Some(_), Ok(Some(response))) => Some(Elicited::read(&response)),
        (Some(_), _) => Some(Elicited::Unusable),
    })
}

fn ask(server: &Server, caller: &Caller, tool: &str, question: Question) -> Result<Value, RpcError> {
    if !caller.elicits {
        let error = RpcError::new(MISSING_CAPABILITY, "This tool needs a client that supports elicitation");
        return Err(error.with(json!({"requiredCapabilities": {"elicitation": {"form": {}}}})));
    }
    let state =
        server.world.seal(tool).ok_or_else(|| RpcError::new(INTERNAL_ERROR, "No state can be made now"))?;
    let request = json!({"method": "elicitation/create", "params": question.params});
    Ok(
        json!({"resultType": "input_required", "inputRequests": {question.key: request}, "requestState": state}),
    )
}

/// What a client wants to be told.
#[derive(Debug, Default, PartialEq)]
struct Interests {
    tools: bool,
    resources: bool,
    uris: Vec<String>,
}

impl Interests {
    fn of(params: &Object<'_>) -> Result<Interests, RpcError> {
        let Ok(Some(wanted)) = params.object("notifications") else {
            return Err(RpcError::invalid_params("`notifications` must be an object"));
        };
        let yes = |key: &str| wanted.get(key).is_some_and(|raw| raw == "true");
        let uris: Vec<String> = match wanted.get("resourceSubscriptions") {
            None | Some("null") => Vec::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|_| RpcError::invalid_params("`resourceSubscriptions` must be an array of URIs"))?,
        };
        if uris.len() > MAX_URIS || uris.iter().any(|uri| uri.len() > MAX_URI_BYTES) {
            return Err(RpcError::invalid_params("at most 64 URIs of 1024 bytes can be subscribed to"));
        }
        Ok(Interests { tools: yes("toolsListChanged"), resources: yes("resourcesListChanged"), uris })
    }

    /// What of it will be told: all but changes of the prompts, which never change.
    fn honored(&self) -> Value {
        let mut honored = Map::new();
        if self.tools {
            honored.insert("toolsListChanged".to_owned(), json!(true));
        }
        if self.resources {
            honored.insert("resourcesListChanged".to_owned(), json!(true));
        }
        if !self.uris.is_empty() {
            honored.insert("resourceSubscriptions".to_owned(), json!(self.uris));
        }
        Value::Object(honored)
    }

    fn include(&self, change: &Change) -> bool {
        match change {
            Change::Tools => self.tools,
            Change::Resources => self.resources,
            Change::Updated(uri) => self.uris.contains(uri),
        }
    }

    /// What to say to a stream that lost count.
    fn everything(&self) -> Vec<Change> {
        let updated = self.uris.iter().cloned().map(Change::Updated);
        [Change::Tools, Change::Resources].into_iter().chain(updated).collect()
    }
}

/// Serves `subscriptions/listen` until the client leaves or the process ends.
async fn listen(
    server: &Server,
    http: &mut Exchange,
    (id, params): (&Value, &Object<'_>),
    shutdown: &ShutdownWatch,
) {
    let interests = match Interests::of(params) {
        Ok(interests) => interests,
        Err(error) => return http.reply(Reply::json(200, rpc::failure(Some(id), &error))).await,
    };
    let Ok(_permit) = server.streams.try_acquire() else {
        let error = RpcError::new(INTERNAL_ERROR, "Too many subscriptions");
        return http.reply(Reply::json(200, rpc::failure(Some(id), &error))).await;
    };
    // Subscribed before the acknowledgement, so that nothing is missed between the two.
    let (mut shutdown, mut changes) = (shutdown.clone(), server.world.changes());
    let mut beat = heartbeat();
    let meta = json!({META_SUBSCRIPTION: id});
    let acknowledged = json!({"_meta": meta, "notifications": interests.honored()});
    http.event(&rpc::notification("notifications/subscriptions/acknowledged", acknowledged)).await;
    while !http.is_broken() {
        let told = tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => vec![change],
                Err(RecvError::Lagged(_)) => interests.everything(),
                Err(RecvError::Closed) => break,
            },
            _ = beat.tick() => {
                http.keep_alive().await;
                continue;
            }
            () = draining(&mut shutdown) => break,
            () = http.disconnected() => return,
        };
        for change in told.iter().filter(|change| interests.include(change)) {
            let (method, params) = change.notification(Some(meta.clone()));
            http.event(&rpc::notification(method, params)).await;
        }
    }
    let meta = json!({META_SUBSCRIPTION: id, META_SERVER: server.info()});
    let result = json!({"resultType": "complete", "_meta": meta});
    http.reply(Reply::json(200, rpc::answer(id, Ok(result)))).await;
}

#[cfg(test)]
mod tests {
    use super::super::server::Speaks;
    use super::*;

    fn caller(meta: &str) -> Result<Caller, i64> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}"#);
        Caller::of(&Envelope::read(&text).unwrap()).map_err(|error| error.code)
    }

    #[test]
    fn the_envelope_is_checked() {
        let capabilities = |value: &str, more: &str| format!(r#"{{"{META_CAPABILITIES}":{value}{more}}}"#);
        let level = |value: &str| format!(r#","{META_LEVEL}":{value}"#);
        let cases = [
            ("nothing", "{}".to_owned(), Err(INVALID_PARAMS)),
            ("capabilities of another type", capabilities("[]", ""), Err(INVALID_PARAMS)),
            ("no capability", capabilities("{}", ""), Ok(Caller { elicits: false, level: None })),
            (
                "elicitation",
                capabilities(r#"{"elicitation":{}}"#, ""),
                Ok(Caller { elicits: true, level: None }),
            ),
            (
                "a level",
                capabilities("{}", &level(r#""info""#)),
                Ok(Caller { elicits: false, level: Some(Level::Info) }),
            ),
            ("no level", capabilities("{}", &level(r#""loud""#)), Err(INVALID_PARAMS)),
            ("level of another type", capabilities("{}", &level("7")), Err(INVALID_PARAMS)),
        ];
        for (name, meta, expected) in cases {
            assert_eq!(caller(&meta), expected, "{name}");
        }
    }

    #[test]
    fn only_what_was_asked_for_and_exists_is_honored() {
        let honored = |params: &str| {
            Interests::of(&Object::read(params).unwrap())
                .map(|interests| interests.honored())
                .map_err(|error| error.code)
        };
        let all = r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":false,"resourceSubscriptions":["demo://readme"]}}"#;
        assert_eq!(
            honored(all),
            Ok(json!({"toolsListChanged": true, "resourceSubscriptions": ["demo://readme"]}))
        );
        assert_eq!(honored(r#"{"notifications":{}}"#), Ok(json!({})));
        assert_eq!(honored("{}"), Err(INVALID_PARAMS));
        assert_eq!(honored(r#"{"notifications":{"resourceSubscriptions":[7]}}"#), Err(INVALID_PARAMS));
        let many = json!({"notifications": {"resourceSubscriptions": vec!["x"; MAX_URIS + 1]}}).to_string();
        assert_eq!(honored(&many), Err(INVALID_PARAMS));
    }

    #[test]
    fn an_answer_needs_the_state_of_its_question() {
        let server = Server::new("test", Speaks::Modern);
        let state = server.world.seal("ask_name").unwrap();
        let given = r#"{"name":{"action":"accept","content":{"name":"Ada"}}}"#;
        let cases = [
            ("first round", "{}".to_owned(), Ok(None)),
            (
                "answered",
                format!(r#"{{"requestState":"{state}","inputResponses":{given}}}"#),
                Ok(Some(Elicited::Name("Ada".to_owned()))),
            ),
            ("answer is missing", format!(r#"{{"requestState":"{state}","inputResponses":{{}}}}"#), Ok(None)),
            (
                "answer of another type",
                format!(r#"{{"requestState":"{state}","inputResponses":{{"name":7}}}}"#),
                Ok(Some(Elicited::Unusable)),
            ),
            ("state is missing", format!(r#"{{"inputResponses":{given}}}"#), Err(INVALID_PARAMS)),
            (
                "state is made up",
                format!(r#"{{"requestState":"{}","inputResponses":{given}}}"#, "0".repeat(64)),
                Err(INVALID_PARAMS),
            ),
            (
                "state is no text",
                format!(r#"{{"requestState":7,"inputResponses":{given}}}"#),
                Err(INVALID_PARAMS),
            ),
        ];
        for (name, params, expected) in cases {
            let got =
                elicited(&server, "ask_name", &Object::read(&params).unwrap()).map_err(|error| error.code);
            assert_eq!(got, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn every_result_is_marked_complete_and_lists_can_be_cached() {
        let server = Server::new("test", Speaks::Modern);
        let (voice, _said) = Voice::new(None, None);
        let caller = Caller { elicits: false, level: None };
        for method in
            ["server/discover", "tools/list", "resources/list", "resources/templates/list", "prompts/list"]
        {
            let result = answer(&server, &caller, &voice, (method, &Object::default())).await.unwrap();
            assert_eq!(result["resultType"], "complete", "{method}");
            assert!(result["ttlMs"].is_u64() && result["cacheScope"].is_string(), "{method}");
            assert_eq!(result["_meta"][META_SERVER]["name"], "test", "{method}");
        }
    }
}
