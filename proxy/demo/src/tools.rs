//! What the tools do, the same in both eras.
//!
//! A tool that needs the user's input does not wait: it ends with [`Outcome::Asks`] and is called
//! again with the answer. The modern era sends that to the client as it is; in the legacy era the
//! session asks by a request of the server and calls again itself.

use super::rpc::{RpcError, excerpt};
use super::schemas::{MAX_DELAY_MS, MAX_STEPS};
use super::voice::{Level, Voice};
use super::world::{MAX_NOTE_BYTES, World, note_uri};
use portunus_filters::mcp::object::Object;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// How a call of a tool ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With a `CallToolResult`.
    Done(Value),
    /// With a question to the user.
    Asks(Question),
}

/// A question to the user.
#[derive(Debug)]
pub(super) struct Question {
    /// The key of the answer among `inputResponses`.
    pub(super) key: &'static str,
    /// The parameters of `elicitation/create`.
    pub(super) params: Value,
}

/// What the user answered to the question for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elicited {
    /// A name.
    Name(String),
    /// The user does not want to say.
    Declined,
    /// The user closed the form.
    Dismissed,
    /// The client answered with this JSON-RPC error code.
    Failed(i64),
    /// The client answered something else.
    Unusable,
}

impl Elicited {
    /// Reads an `ElicitResult`.
    pub(super) fn read(result: &Object<'_>) -> Elicited {
        match result.text("action").as_deref() {
            Some("accept") => {
                let name = result
                    .object("content")
                    .ok()
                    .flatten()
                    .and_then(|content| Some(content.text("name")?.into_owned()));
                name.map_or(Elicited::Unusable, Elicited::Name)
            }
            Some("decline") => Elicited::Declined,
            Some("cancel") => Elicited::Dismissed,
            _ => Elicited::Unusable,
        }
    }
}

/// Runs a tool.
///
/// # Errors
/// For a tool that does not exist; wrong arguments and failures of the tool are results with
/// `isError` (SEP-1303).
pub(super) async fn call(
    world: &World,
    voice: &Voice,
    name: &str,
    arguments: &Object<'_>,
    elicited: Option<Elicited>,
) -> Result<Outcome, RpcError> {
    let result = match name {
        "echo" => echo(arguments),
        "add" => add(arguments),
        "countdown" => countdown(world, voice, arguments).await,
        "ask_name" => return Ok(ask_name(elicited)),
        "fail" => Err("This tool always fails: nothing is wrong with your set-up.".to_owned()),
        "add_note" => add_note(world, voice, arguments).await,
        "clear_notes" if !world.note_ids().is_empty() => {
            Ok(text(&format!("Deleted {} notes.", world.clear_notes())))
        }
        _ => return Err(RpcError::invalid_params(format!("Unknown tool: {}", excerpt(name)))),
    };
    Ok(Outcome::Done(result.unwrap_or_else(|message| failed(&message))))
}

/// A result that tells of a failure.
pub(super) fn failed(message: &str) -> Value {
    json!({"content": [{"type": "text", "text": message}], "isError": true})
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn echo(arguments: &Object<'_>) -> Result<Value, String> {
    Ok(text(&string(arguments, "text")?))
}

fn add(arguments: &Object<'_>) -> Result<Value, String> {
    let (a, b) = (number(arguments, "a")?, number(arguments, "b")?);
    let exact = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b));
    let sum = match exact {
        Some(sum) => json!(sum),
        None => json!(a.as_f64().unwrap_or(f64::NAN) + b.as_f64().unwrap_or(f64::NAN)),
    };
    // `serde_json` writes what JSON has no number for as null.
    if sum.is_null() {
        return Err("The sum is too large for a number.".to_owned());
    }
    Ok(json!({"content": [{"type": "text", "text": sum.to_string()}], "structuredContent": {"sum": sum}}))
}

async fn countdown(world: &World, voice: &Voice, arguments: &Object<'_>) -> Result<Value, String> {
    let steps = whole(arguments, "steps", 5, 1..=MAX_STEPS)?;
    let delay = Duration::from_millis(whole(arguments, "delay_ms", 200, 0..=MAX_DELAY_MS)?);
    let running = world.running();
    voice.log(Level::Debug, &format!("counting down {steps} steps")).await;
    for step in 1..=steps {
        sleep(delay).await;
        voice.progress(step, steps, &format!("{} to go", steps - step)).await;
    }
    running.finish();
    Ok(text(&format!("Counted down {steps} steps.")))
}

fn ask_name(elicited: Option<Elicited>) -> Outcome {
    let Some(elicited) = elicited else {
        let params = json!({
            "message": "What is your name?",
            "requestedSchema": {
                "type": "object",
                "properties": {"name": {"type": "string", "title": "Name", "description": "How to greet you.", "minLength": 1, "maxLength": 100}},
                "required": ["name"]
            }
        });
        return Outcome::Asks(Question { key: "name", params });
    };
    Outcome::Done(match elicited {
        Elicited::Name(name) => text(&format!("Hello, {}!", excerpt(&name))),
        Elicited::Declined => text("You would rather not say. Hello all the same!"),
        Elicited::Dismissed => text("You closed the question. Hello all the same!"),
        Elicited::Failed(code) => {
            failed(&format!("The client could not ask you: it answered with error {code}."))
        }
        Elicited::Unusable => failed("The answer holds no name."),
    })
}

async fn add_note(world: &World, voice: &Voice, arguments: &Object<'_>) -> Result<Value, String> {
    let note = string(arguments, "text")?;
    if note.is_empty() || note.len() > MAX_NOTE_BYTES {
        return Err(format!("`text` must have 1 to {MAX_NOTE_BYTES} bytes."));
    }
    let id = world.add_note(&note);
    let uri = note_uri(id);
    voice.log(Level::Info, &format!("kept {uri}")).await;
    Ok(json!({
        "content": [{"type": "text", "text": format!("Kept as {uri}")}],
        "structuredContent": {"id": id, "uri": uri}
    }))
}

fn string(arguments: &Object<'_>, key: &str) -> Result<String, String> {
    arguments.text(key).map(String::from).ok_or_else(|| format!("`{key}` must be a string."))
}

fn number(arguments: &Object<'_>, key: &str) -> Result<serde_json::Number, String> {
    let raw = arguments.get(key).and_then(|raw| serde_json::from_str(raw).ok());
    raw.ok_or_else(|| format!("`{key}` must be a number."))
}

fn whole(
    arguments: &Object<'_>,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let Some(raw) = arguments.get(key) else { return Ok(default) };
    let wrong = || format!("`{key}` must be a whole number from {} to {}.", range.start(), range.end());
    let number = raw.strip_suffix(".0").unwrap_or(raw);
    number.parse().ok().filter(|number| range.contains(number)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(
        world: &World,
        name: &str,
        arguments: &str,
        elicited: Option<Elicited>,
    ) -> Result<Outcome, RpcError> {
        let (voice, _said) = Voice::new(None, None);
        call(world, &voice, name, &Object::read(arguments).unwrap(), elicited).await
    }

    async fn done(name: &str, arguments: &str) -> Value {
        match run(&World::new(), name, arguments, None).await {
            Ok(Outcome::Done(result)) => result,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn wrong_arguments_are_results_that_say_so() {
        let cases = [
            ("no text", "echo", "{}"),
            ("text of another type", "echo", r#"{"text":[[1]]}"#),
            ("no number", "add", r#"{"a":1,"b":"2"}"#),
            ("numbers that overflow", "add", r#"{"a":1.7e308,"b":1.7e308}"#),
            ("a number beyond f64", "add", r#"{"a":1e999,"b":0}"#),
            ("no steps", "countdown", r#"{"steps":0}"#),
            ("too many steps", "countdown", r#"{"steps":101}"#),
            ("negative delay", "countdown", r#"{"delay_ms":-1}"#),
            ("half a step", "countdown", r#"{"steps":1.5}"#),
            ("empty note", "add_note", r#"{"text":""}"#),
        ];
        for (case, name, arguments) in cases {
            assert_eq!(done(name, arguments).await["isError"], true, "{case}");
        }
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(MAX_NOTE_BYTES + 1));
        assert_eq!(done("add_note", &long).await["isError"], true);
    }

    #[tokio::test]
    async fn sums_of_integers_are_exact() {
        let cases = [
            ("2", "40.5", "42.5"),
            ("9007199254740993", "1", "9007199254740994"),
            ("-1", "1", "0"),
            ("9223372036854775807", "1", "9.223372036854776e+18"),
        ];
        for (a, b, sum) in cases {
            let result = done("add", &format!(r#"{{"a":{a},"b":{b}}}"#)).await;
            assert_eq!(result["content"][0]["text"], sum);
            assert_eq!(result["structuredContent"]["sum"].to_string(), sum);
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_and_used() {
        let world = World::new();
        assert!(matches!(run(&world, "ask_name", "{}", None).await, Ok(Outcome::Asks(_))));
        let answers = [
            (r#"{"action":"accept","content":{"name":"Ada"}}"#, "Hello, Ada!", false),
            (r#"{"action":"decline"}"#, "You would rather not say. Hello all the same!", false),
            (r#"{"action":"cancel"}"#, "You closed the question. Hello all the same!", false),
            (r#"{"action":"accept","content":{"name":7}}"#, "The answer holds no name.", true),
            ("{}", "The answer holds no name.", true),
        ];
        for (answer, expected, failed) in answers {
            let elicited = Elicited::read(&Object::read(answer).unwrap());
            let Ok(Outcome::Done(result)) = run(&world, "ask_name", "{}", Some(elicited)).await else {
                panic!("{answer}")
            };
            assert_eq!(
                (result["content"][0]["text"].as_str(), result["isError"] == true),
                (Some(expected), failed)
            );
        }
    }

    #[tokio::test]
    async fn clear_notes_exists_while_there_are_notes() {
        let world = World::new();
        assert!(run(&world, "clear_notes", "{}", None).await.is_err());
        world.add_note("a");
        assert!(run(&world, "clear_notes", "{}", None).await.is_ok());
        assert!(run(&world, "clear_notes", "{}", None).await.is_err());
    }

    #[tokio::test]
    async fn a_countdown_reports_every_step() {
        let (voice, mut said) = Voice::new(Some(json!("t")), None);
        let world = World::new();
        let arguments = Object::read(r#"{"steps":3,"delay_ms":0}"#).unwrap();
        call(&world, &voice, "countdown", &arguments, None).await.unwrap();
        drop(voice);
        let mut steps = Vec::new();
        while let Some(message) = said.recv().await {
            let message: Value = serde_json::from_str(&message).unwrap();
            steps.push(message["params"]["progress"].as_u64().unwrap());
        }
        assert_eq!((steps, world.calls()), (vec![1, 2, 3], (0, 0)));
    }
}
