//! Refusals of sessions and lists, in the way that a header field of the client names.

use super::ServerState;
use super::output::Output;
use crate::harness::{Request, Wire};
use serde_json::{Value, json};

/// The way in which the client wants this refused, if it does.
pub(super) fn refusal_of(request: &Request, message: &Value) -> Option<String> {
    let (refused, way) = request.header("x-refusal")?.split_once(' ')?;
    let method = message["method"].as_str()?;
    let is_refused = match refused {
        "opening" => matches!(method, "initialize" | "server/discover"),
        _ => method.ends_with("/list"),
    };
    is_refused.then(|| way.to_owned())
}

impl ServerState {
    /// Refuses a request, with credentials that it asks for or with an error.
    pub(super) async fn refuse_as(&self, way: &str, message: &Value, wire: Wire) -> Option<Wire> {
        let method =
            message["method"].as_str().unwrap_or_default().replace("resources/templates", "templates");
        let marker = |part: &str| self.marker(&format!("{}-{way}-{part}", method.replace('/', "-")));
        let output = Output::Response(wire);
        let error =
            |message: String| json!({"code": -32000, "message": message, "data": {"x": marker("data")}});
        let body = |error: Value| json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
        match way {
            "401" => {
                let challenge = format!("www-authenticate: Bearer realm=\"{}\"\r\n", marker("challenge"));
                let fields = format!("{}{challenge}", self.fields("text/html"));
                output.send("401 Unauthorized", &fields, &format!("<html>{}</html>", marker("body"))).await
            }
            "403" => {
                let challenge = format!(
                    "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"{}\"\r\n",
                    marker("challenge")
                );
                let fields = format!("{}{challenge}", self.fields("application/json"));
                output.send("403 Forbidden", &fields, &body(error(marker("message"))).to_string()).await
            }
            _ => self.json(&body(error(marker("message"))), output).await,
        }
    }
}
