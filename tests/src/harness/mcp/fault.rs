//! Tools and answers of the scripted server.

use super::super::Wire;
use serde_json::{Value, json};

/// A tool without parameters that it names.
pub(crate) fn tool(name: &str) -> Value {
    json!({"name": name, "description": name, "inputSchema": {"type": "object"}})
}

/// A result of one text.
pub(crate) fn text(value: impl Into<String>) -> Value {
    json!({"content": [{"type": "text", "text": value.into()}]})
}

/// Answers with a result.
pub(super) async fn result(wire: &mut Wire, id: &Value, result: Value) {
    wire.json(&json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()).await;
}

/// An error with its HTTP status.
pub(super) struct Fault {
    pub(super) status: u16,
    pub(super) code: i64,
    pub(super) message: &'static str,
    pub(super) data: Value,
}

impl Fault {
    pub(super) const NO_METHOD: &str = "Method not found";

    pub(super) fn new(status: u16, code: i64, message: &'static str) -> Fault {
        Fault { status, code, message, data: Value::Null }
    }

    pub(super) async fn send(self, wire: &mut Wire, id: &Value) {
        let mut error = json!({"code": self.code, "message": self.message});
        if !self.data.is_null() {
            error["data"] = self.data;
        }
        let body = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
        wire.send(format!(
            "HTTP/1.1 {} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.status,
            body.len()
        ))
        .await;
    }
}
