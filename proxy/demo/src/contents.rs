//! What both eras answer alike: lists, resources, prompts, completions.

use super::rpc::{NO_RESOURCE, RpcError, excerpt};
use super::schemas;
use super::world::{README, World, note_uri};
use portunus_filters::mcp::object::Object;
use serde_json::{Value, json};

const NOTE_TEMPLATE: &str = "demo://note/{id}";
const NAMES: &[&str] =
    &["Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Katherine", "Margaret", "Niklaus"];

/// The most values of one completion (2025-11-25 server/utilities/completion).
const MAX_COMPLETIONS: usize = 100;

/// What the server can do, for `initialize` and `server/discover`.
pub(super) fn capabilities() -> Value {
    json!({
        "tools": {"listChanged": true},
        "resources": {"subscribe": true, "listChanged": true},
        "prompts": {},
        "completions": {},
        "logging": {}
    })
}

/// What a model should know of the server as a whole.
pub(super) const INSTRUCTIONS: &str = "A demo server. `echo` and `add` are simple calls, `countdown` streams \
    progress, `ask_name` asks the user, `fail` fails, and `add_note` changes what demo://readme tells.";

/// Answers a method that has no state but the world's; `None` if it is not one of these.
pub(super) fn answer(world: &World, method: &str, params: &Object<'_>) -> Option<Result<Value, RpcError>> {
    Some(match method {
        "tools/list" => {
            one_page(params).map(|()| json!({"tools": schemas::tools(!world.note_ids().is_empty())}))
        }
        "resources/list" => one_page(params).map(|()| resources(world)),
        "resources/templates/list" => one_page(params).map(|()| templates()),
        "resources/read" => read(world, params),
        "prompts/list" => one_page(params).map(|()| prompts()),
        "prompts/get" => prompt(params),
        "completion/complete" => complete(world, params),
        _ => return None,
    })
}

/// Every list fits on one page, so there is no cursor that we could have given out.
fn one_page(params: &Object<'_>) -> Result<(), RpcError> {
    match params.get("cursor") {
        Some(_) => Err(RpcError::invalid_params("Invalid cursor")),
        None => Ok(()),
    }
}

fn resources(world: &World) -> Value {
    let readme = json!({
        "uri": README, "name": "readme", "title": "Read me",
        "description": "What this server offers, how many notes it holds, and which calls run.",
        "mimeType": "text/markdown"
    });
    let notes = world
        .note_ids()
        .into_iter()
        .map(|id| json!({"uri": note_uri(id), "name": format!("note {id}"), "mimeType": "text/plain"}));
    json!({"resources": std::iter::once(readme).chain(notes).collect::<Vec<Value>>()})
}

fn templates() -> Value {
    json!({"resourceTemplates": [{
        "uriTemplate": NOTE_TEMPLATE, "name": "note", "title": "A note",
        "description": "A note that the tool add_note kept.", "mimeType": "text/plain"
    }]})
}

fn read(world: &World, params: &Object<'_>) -> Result<Value, RpcError> {
    let uri = params.text("uri").ok_or_else(|| RpcError::invalid_params("`uri` must be a string"))?;
    let contents = if uri == README {
        json!({"uri": README, "mimeType": "text/markdown", "text": readme(world)})
    } else {
        let text = uri.strip_prefix("demo://note/").and_then(|id| world.note(id.parse().ok()?));
        let Some(text) = text else {
            let error = RpcError::new(NO_RESOURCE, "Resource not found");
            return Err(error.with(json!({"uri": uri})));
        };
        json!({"uri": uri, "mimeType": "text/plain", "text": text})
    };
    Ok(json!({"contents": [contents]}))
}

fn readme(world: &World) -> String {
    let (running, cancelled) = world.calls();
    format!(
        "# Portunus demo server\n\n\
         Tools: echo, add, countdown, ask_name, fail, add_note.\n\
         Prompt: greet. Resources: this page and the notes, {NOTE_TEMPLATE}.\n\n\
         Notes: {}\nCountdowns running: {running}\nCountdowns cancelled: {cancelled}\n",
        world.note_ids().len()
    )
}

fn prompts() -> Value {
    json!({"prompts": [{
        "name": "greet", "title": "Greet somebody", "description": "Asks the model for a friendly greeting.",
        "arguments": [{"name": "name", "description": "Whom to greet; names are completed.", "required": true}]
    }]})
}

fn prompt(params: &Object<'_>) -> Result<Value, RpcError> {
    let name = params.text("name").ok_or_else(|| RpcError::invalid_params("`name` must be a string"))?;
    if name != "greet" {
        return Err(RpcError::invalid_params(format!("Unknown prompt: {}", excerpt(&name))));
    }
    let whom = params
        .object("arguments")
        .ok()
        .flatten()
        .and_then(|arguments| Some(arguments.text("name")?.into_owned()));
    let whom = whom.ok_or_else(|| RpcError::invalid_params("Missing required argument: name"))?;
    let text = format!("Please greet {whom} in one friendly sentence.");
    Ok(json!({
        "description": "A greeting",
        "messages": [{"role": "user", "content": {"type": "text", "text": text}}]
    }))
}

fn complete(world: &World, params: &Object<'_>) -> Result<Value, RpcError> {
    let part = |key: &str| params.object(key).ok().flatten();
    let wrong = || RpcError::invalid_params("`ref` and `argument` must be objects with their members");
    let (reference, argument) = (part("ref").ok_or_else(wrong)?, part("argument").ok_or_else(wrong)?);
    let typed = argument.text("value").ok_or_else(wrong)?.to_lowercase();
    let kind = reference.text("type").ok_or_else(wrong)?;
    let of = reference.text(if kind == "ref/prompt" { "name" } else { "uri" }).ok_or_else(wrong)?;
    let candidates: Vec<String> = match (&*kind, &*of, &*argument.text("name").ok_or_else(wrong)?) {
        ("ref/prompt", "greet", "name") => NAMES.iter().map(|name| (*name).to_owned()).collect(),
        ("ref/resource", NOTE_TEMPLATE, "id") => world.note_ids().iter().map(u64::to_string).collect(),
        ("ref/prompt", "greet", _) | ("ref/resource", NOTE_TEMPLATE, _) => Vec::new(),
        _ => return Err(RpcError::invalid_params("`ref` names nothing that is here")),
    };
    let mut values: Vec<String> =
        candidates.into_iter().filter(|value| value.to_lowercase().starts_with(&typed)).collect();
    let total = values.len();
    values.truncate(MAX_COMPLETIONS);
    Ok(json!({"completion": {"values": values, "total": total, "hasMore": total > MAX_COMPLETIONS}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(world: &World, method: &str, params: &str) -> Result<Value, i64> {
        answer(world, method, &Object::read(params).unwrap()).unwrap().map_err(|error| error.code)
    }

    #[test]
    fn notes_are_listed_and_read() {
        let world = World::new();
        world.add_note("hello");
        let list = ask(&world, "resources/list", "{}").unwrap();
        assert_eq!(list["resources"][1]["uri"], "demo://note/1");
        let note = ask(&world, "resources/read", r#"{"uri":"demo://note/1"}"#).unwrap();
        assert_eq!(note["contents"][0]["text"], "hello");
        let readme = ask(&world, "resources/read", r#"{"uri":"demo://readme"}"#).unwrap();
        assert!(readme["contents"][0]["text"].as_str().unwrap().contains("Notes: 1\n"));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let cases = [
            ("unknown note", "resources/read", r#"{"uri":"demo://note/9"}"#, -32002),
            ("no number", "resources/read", r#"{"uri":"demo://note/x"}"#, -32002),
            ("foreign scheme", "resources/read", r#"{"uri":"file:///etc/passwd"}"#, -32002),
            ("no uri", "resources/read", "{}", -32602),
            ("unknown prompt", "prompts/get", r#"{"name":"x"}"#, -32602),
            ("prompt without its argument", "prompts/get", r#"{"name":"greet"}"#, -32602),
            ("a cursor of somebody else", "tools/list", r#"{"cursor":"2"}"#, -32602),
            ("completion of nothing", "completion/complete", "{}", -32602),
            (
                "completion of an unknown prompt",
                "completion/complete",
                r#"{"ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"name","value":""}}"#,
                -32602,
            ),
        ];
        for (name, method, params, code) in cases {
            assert_eq!(ask(&World::new(), method, params), Err(code), "{name}");
        }
    }

    #[test]
    fn names_and_note_numbers_are_completed() {
        let world = World::new();
        world.add_note("hello");
        let values = |reference: &str, argument: &str, value: &str| {
            let params =
                format!(r#"{{"ref":{reference},"argument":{{"name":"{argument}","value":"{value}"}}}}"#);
            ask(&world, "completion/complete", &params).unwrap()["completion"]["values"].clone()
        };
        let (prompt, note) = (
            r#"{"type":"ref/prompt","name":"greet"}"#,
            r#"{"type":"ref/resource","uri":"demo://note/{id}"}"#,
        );
        assert_eq!(values(prompt, "name", "a"), json!(["Ada", "Alan"]));
        assert_eq!(values(prompt, "name", "zz"), json!([]));
        assert_eq!(values(prompt, "other", ""), json!([]));
        assert_eq!(values(note, "id", ""), json!(["1"]));
    }

    #[test]
    fn other_methods_are_not_answered_here() {
        assert!(answer(&World::new(), "tools/call", &Object::default()).is_none());
    }
}
