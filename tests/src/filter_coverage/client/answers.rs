//! Answers of a client to what servers ask it.

use super::MarkingClient;
use serde_json::{Value, json};

impl MarkingClient {
    /// The answer to a question that is a request.
    pub(super) fn answer_to(&self, question: &Value) -> Value {
        let id = &question["id"];
        if question["params"]["message"].as_str().is_some_and(|text| text.contains("vain")) {
            let data = json!({"x": self.sent.write("answer-error-data")});
            let error = json!({"code": -32000, "message": self.sent.write("answer-error"), "data": data});
            return json!({"jsonrpc": "2.0", "id": id, "error": error});
        }
        let beside = self.sent.write("beside-answer");
        json!({"jsonrpc": "2.0", "id": id, "result": self.result_for(question), "x-beside": beside})
    }

    /// The result that answers a question.
    pub(super) fn result_for(&self, question: &Value) -> Value {
        let marker = |place: &str| self.sent.write(place);
        match question["method"].as_str().unwrap_or_default() {
            "elicitation/create" if question["params"]["mode"] == "url" => {
                json!({"action": "accept", "x": marker("url-answer")})
            }
            "elicitation/create" => json!({
                "action": "accept", "content": {"name": marker("user-answer")}, "_meta": {"x": marker("answer-meta")},
            }),
            "sampling/createMessage" => json!({
                "role": "assistant", "content": {"type": "text", "text": marker("sampled-text")},
                "model": marker("sampled-model"), "stopReason": marker("sampled-stop"),
            }),
            _ => json!({
                "roots": [{"uri": format!("file:///{}", marker("root-uri")), "name": marker("root-name")}],
            }),
        }
    }
}
