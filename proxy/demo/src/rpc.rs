//! The text of JSON-RPC messages that a demo server sends, and its errors.
//!
//! Incoming messages are read by `portunus_filters::mcp` in place and never become a
//! `serde_json::Value`: only scalars do. What a client nests is skipped, not built.

use portunus_filters::mcp::Id;
use serde_json::{Value, json};

/// The message is no JSON.
pub(super) const PARSE_ERROR: i64 = -32700;
/// The message is no request that is served here.
pub(super) const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters are wrong.
pub(super) const INVALID_PARAMS: i64 = -32602;
/// The server could not do it.
pub(super) const INTERNAL_ERROR: i64 = -32603;
/// There is no such resource (up to 2025-11-25; later revisions say [`INVALID_PARAMS`]).
pub(super) const NO_RESOURCE: i64 = -32002;
/// A header contradicts the body (2026-07-28).
pub(super) const HEADER_MISMATCH: i64 = -32020;
/// The client lacks a capability that the request needs (2026-07-28).
pub(super) const MISSING_CAPABILITY: i64 = -32021;
/// The revision is not served (2026-07-28).
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// The error of a JSON-RPC answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) data: Option<Value>,
}

impl RpcError {
    /// An error without `data`.
    pub(super) fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), data: None }
    }

    /// Wrong parameters.
    pub(super) fn invalid_params(message: impl Into<String>) -> RpcError {
        RpcError::new(INVALID_PARAMS, message)
    }

    /// A method that this server does not have.
    pub(super) fn unknown_method(name: &str) -> RpcError {
        RpcError::new(METHOD_NOT_FOUND, format!("Method not found: {}", excerpt(name)))
    }

    /// Adds `data`.
    pub(super) fn with(self, data: Value) -> RpcError {
        RpcError { data: Some(data), ..self }
    }
}

/// The answer to a request.
pub(super) fn answer(id: &Value, outcome: Result<Value, RpcError>) -> String {
    match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string(),
        Err(error) => failure(Some(id), &error),
    }
}

/// An error answer; without an id where none could be read.
pub(super) fn failure(id: Option<&Value>, error: &RpcError) -> String {
    let mut body = json!({"code": error.code, "message": error.message});
    if let Some(data) = &error.data {
        body["data"] = data.clone();
    }
    json!({"jsonrpc": "2.0", "id": id, "error": body}).to_string()
}

/// A request of the server's own.
pub(super) fn request(id: &str, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// A notification.
pub(super) fn notification(method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

/// The id as a value that is written as the client wrote it.
///
/// `None` for an integer beyond 64 bits: it would come back as another number.
pub(super) fn id_value(id: &Id) -> Option<Value> {
    serde_json::from_str::<Value>(id.as_json()).ok().filter(|value| !value.is_f64())
}

/// Client text that goes back into a message, cut to what a person reads.
pub(super) fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::Envelope;

    #[test]
    fn answers_carry_the_id_as_it_was_written() {
        for (id, expected) in [
            ("7", Some("7")),
            (r#""7""#, Some(r#""7""#)),
            ("18446744073709551615", Some("18446744073709551615")),
            ("99999999999999999999999", None),
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let envelope = Envelope::read(&text).unwrap();
            let value = id_value(envelope.id.as_ref().unwrap());
            assert_eq!(value.map(|value| value.to_string()).as_deref(), expected, "{id}");
        }
    }

    #[test]
    fn errors_without_a_readable_id_say_null() {
        let text = failure(None, &RpcError::new(PARSE_ERROR, "no JSON"));
        assert!(text.contains(r#""id":null"#), "{text}");
    }

    #[test]
    fn excerpts_end_at_a_character() {
        assert_eq!(excerpt(&"ż".repeat(200)).chars().count(), 80);
        assert_eq!(excerpt("short"), "short");
    }
}
