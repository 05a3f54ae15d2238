//! What the tools say of themselves: names, descriptions for a person or model, JSON Schemas.

use super::world::MAX_NOTE_BYTES;
use serde_json::{Value, json};

/// Steps of a countdown.
pub(super) const MAX_STEPS: u64 = 100;
/// Milliseconds between two steps of a countdown.
pub(super) const MAX_DELAY_MS: u64 = 10_000;

/// The tools, in a fixed order; `clear_notes` is there while there are notes to clear.
pub(super) fn tools(has_notes: bool) -> Vec<Value> {
    let mut tools = vec![echo(), add(), countdown(), ask_name(), fail(), add_note()];
    if has_notes {
        tools.push(clear_notes());
    }
    tools
}

fn echo() -> Value {
    json!({
        "name": "echo",
        "title": "Echo",
        "description": "Returns the text it was given, unchanged. Try it first: it shows that a message \
                        passes through the gateway and back byte for byte.",
        "inputSchema": object(json!({
            "text": {"type": "string", "description": "The text to return."}
        }), &["text"]),
        "annotations": reads_only()
    })
}

fn add() -> Value {
    json!({
        "name": "add",
        "title": "Add two numbers",
        "description": "Adds two numbers. The sum comes as text and as structured content with an output schema.",
        "inputSchema": object(json!({
            "a": {"type": "number", "description": "The first summand."},
            "b": {"type": "number", "description": "The second summand."}
        }), &["a", "b"]),
        "outputSchema": object(json!({
            "sum": {"type": "number", "description": "a + b"}
        }), &["sum"]),
        "annotations": reads_only()
    })
}

fn countdown() -> Value {
    json!({
        "name": "countdown",
        "title": "Count down",
        "description": "Counts down step by step and reports progress after each step, on the event stream of \
                        the call. Use it to see streaming, timeouts and cancellation: how many countdowns run \
                        and how many were cancelled is written in the resource demo://readme.",
        "inputSchema": object(json!({
            "steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS, "default": 5,
                      "description": "How many steps to count."},
            "delay_ms": {"type": "integer", "minimum": 0, "maximum": MAX_DELAY_MS, "default": 200,
                         "description": "Milliseconds between two steps."}
        }), &[]),
        "annotations": reads_only()
    })
}

fn ask_name() -> Value {
    json!({
        "name": "ask_name",
        "title": "Ask for a name",
        "description": "Asks the user for a name in the middle of the call (elicitation) and greets them by it. \
                        The client must support elicitation.",
        "inputSchema": object(json!({}), &[]),
        "annotations": reads_only()
    })
}

fn fail() -> Value {
    json!({
        "name": "fail",
        "title": "Fail",
        "description": "Always fails: the result has isError set. Shows how a tool's own failure looks, as \
                        opposed to a refusal by the gateway.",
        "inputSchema": object(json!({}), &[]),
        "annotations": reads_only()
    })
}

fn add_note() -> Value {
    json!({
        "name": "add_note",
        "title": "Add a note",
        "description": "Keeps a short note and offers it as the resource demo://note/{id}. Clients that listen \
                        are told: the list of resources changed, and demo://readme was updated. With the first \
                        note the tool clear_notes appears.",
        "inputSchema": object(json!({
            "text": {"type": "string", "minLength": 1, "maxLength": MAX_NOTE_BYTES,
                     "description": "The text of the note; at most 4096 bytes."}
        }), &["text"]),
        "outputSchema": object(json!({
            "id": {"type": "integer", "description": "The number of the note."},
            "uri": {"type": "string", "description": "The resource that holds the note."}
        }), &["id", "uri"]),
        "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": false, "openWorldHint": false}
    })
}

fn clear_notes() -> Value {
    json!({
        "name": "clear_notes",
        "title": "Clear all notes",
        "description": "Deletes all notes, of everybody. A destructive tool to try a policy on.",
        "inputSchema": object(json!({}), &[]),
        "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": true, "openWorldHint": false}
    })
}

fn object(properties: Value, required: &[&str]) -> Value {
    if required.is_empty() {
        return json!({"type": "object", "properties": properties});
    }
    json!({"type": "object", "properties": properties, "required": required})
}

fn reads_only() -> Value {
    json!({"readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_described_and_takes_an_object() {
        for tool in tools(true) {
            let name = tool["name"].as_str().unwrap();
            assert!(tool["description"].as_str().unwrap().len() > 40, "{name}");
            for schema in ["inputSchema", "outputSchema"] {
                let Some(schema) = tool.get(schema) else { continue };
                assert_eq!(schema["type"], "object", "{name}");
                for required in schema["required"].as_array().into_iter().flatten() {
                    let property = &schema["properties"][required.as_str().unwrap()];
                    assert!(property["description"].is_string(), "{name}: {required}");
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_in_a_fixed_order() {
        let names = |has_notes| -> Vec<String> {
            tools(has_notes).iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
        };
        let with = names(true);
        assert!(with.iter().enumerate().all(|(at, name)| !with[at + 1..].contains(name)));
        assert_eq!(names(false), with[..with.len() - 1]);
    }
}
