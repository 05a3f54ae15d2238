//! Any POST body under any mirrored headers is read or refused, never half understood.
//!
//! An input is three lines, `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` (an empty line is
//! an absent header), and the body after them. So seeds can be read and written by hand.
//!
//! What is taken for JSON, and what is found in it, is compared with a reader that is not ours.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portunus_filters::Message;
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::{Bounds, Envelope, Fault, Id, Revision, check};
use portunus_filters::message::{Reading, read};
use serde_json::Value;
use serde_json::value::RawValue;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let mut header =
        || parts.next().and_then(|line| std::str::from_utf8(line).ok()).filter(|line| !line.is_empty());
    let mirror = Mirror { version: header(), method: header(), name: header() };
    let body = Bytes::copy_from_slice(parts.next().unwrap_or_default());

    compare_the_grammar(&body);

    match read(&body, &Bounds::default(), &mirror, &Revision::ALL) {
        Ok(reading) => {
            assert!(serde_json::from_slice::<&RawValue>(&body).is_ok(), "what is accepted is JSON");
            assert!(!reading.messages().is_empty(), "a batch is never empty");
            reading.messages().iter().for_each(|message| judge_parts(message, &body));
            if let Reading::One(message) = &reading {
                compare_with_another_reader(message, &body);
            }
        }
        Err(refused) => {
            refused.id.iter().for_each(judge_id);
            for (key, json) in &refused.denial.data {
                assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "`{key}` is not JSON: {json}");
            }
            assert!(
                read(&body, &Bounds::STRICT, &mirror, &Revision::ALL).is_err(),
                "stricter bounds do not let more through"
            );
        }
    }
});

/// Text is JSON for us if it is for another reader, save for halves of surrogate pairs.
fn compare_the_grammar(body: &[u8]) {
    let checked = check(body, &Bounds::default());
    let raw = serde_json::from_slice::<&RawValue>(body);
    match checked {
        Ok(_) => assert!(raw.is_ok(), "what is accepted is JSON"),
        Err(Fault::Syntax(why)) => assert!(raw.is_err() || why.contains("surrogate"), "refused JSON: {why}"),
        Err(_) => {}
    }
    // It reads what a string means, so it refuses such halves too.
    if serde_json::from_slice::<Value>(body).is_ok() {
        assert!(matches!(checked, Ok(_) | Err(Fault::Bound { .. })), "refused what others read");
    }
    // An upstream's text is held to the grammar alone.
    if let (Ok(text), Err(_)) = (std::str::from_utf8(body), raw) {
        assert!(Envelope::read(text).is_err(), "an answer that is no JSON");
    }
}

/// The body is the input, and what points into it stays inside and says what it should.
fn judge_parts(message: &Message, body: &Bytes) {
    assert_eq!(message.body, body, "the body is untouched");
    message.id.iter().for_each(judge_id);
    let Some(span) = message.params else { return };
    assert!(span.start < span.end && span.end as usize <= body.len(), "{span:?} of {}", body.len());
    let params = span.of(body);
    assert!(
        params.starts_with(b"{") && serde_json::from_slice::<&RawValue>(params).is_ok(),
        "`params` is an object"
    );
}

/// An id goes back into answers as it is.
fn judge_id(id: &Id) {
    assert!(serde_json::from_str::<&RawValue>(id.as_json()).is_ok(), "an id is JSON: {}", id.as_json());
}

/// Method, id and parameters are what an ordinary JSON reader finds.
fn compare_with_another_reader(message: &Message, body: &Bytes) {
    // It refuses numbers beyond its types, which pass through us as text.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    let method = message.method.as_ref().map(|method| method.name());
    assert_eq!(value.get("method").and_then(Value::as_str), method, "method");
    let id = message.id.as_ref().and_then(|id| serde_json::from_str::<Value>(id.as_json()).ok());
    assert_eq!(value.get("id").filter(|id| !id.is_null()), id.as_ref(), "id");
    if method.is_some() {
        let params = message.params.and_then(|span| serde_json::from_slice::<Value>(span.of(body)).ok());
        assert_eq!(value.get("params"), params.as_ref(), "params");
    }
    if method == Some("tools/call") {
        assert_eq!(value["params"]["name"].as_str(), message.target.as_deref(), "name of the tool");
    }
}
