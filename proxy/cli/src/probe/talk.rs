//! Speaking MCP with a server, in one era.

use crate::json::Json;
use crate::link::{Answer, Content, Link, Request, Trouble, Until};
use bytes::Bytes;
use http::{HeaderName, StatusCode};
use portunus_base::text;
use portunus_filters::Era;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::headers::META_VERSION;
use serde_json::{Map, Value, json};
use std::time::Duration;

const ACCEPT: &str = "application/json, text/event-stream";
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// One side of a conversation.
pub(super) struct Talk {
    pub(super) era: Era,
    /// Agreed on by `initialize`, or the one that modern messages claim.
    revision: Option<String>,
    /// The session of a legacy server.
    session: Option<String>,
    last: u32,
}

/// What a server answered to a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// The result.
    Result(Json),
    /// A JSON-RPC error: its code, its message as it came, its data.
    Error(i64, String, Json),
    /// No answer to the request: why, in safe words.
    Nothing(String),
}

impl Talk {
    /// As clients of 2026-07-28 speak.
    pub(super) fn modern() -> Talk {
        let revision = Some(Revision::V2026_07_28.as_str().to_owned());
        Talk { era: Era::Modern, revision, session: None, last: 0 }
    }

    /// As clients up to 2025-11-25 speak, before `initialize`.
    pub(super) fn legacy() -> Talk {
        Talk { era: Era::Legacy, revision: None, session: None, last: 0 }
    }

    /// What `initialize` brought.
    pub(super) fn agree(&mut self, revision: String, session: Option<String>) {
        (self.revision, self.session) = (Some(revision), session);
    }

    /// Whether the server keeps a session for us.
    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn call(
        &mut self,
        link: &Link,
        method: &str,
        mut params: Map<String, Value>,
    ) -> Result<Answer, Trouble> {
        self.last += 1;
        if self.era == Era::Modern {
            params.insert("_meta".to_owned(), self.claim());
        }
        let body = json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params});
        link.ask(&self.post(method, &body), Until::Answer(self.last)).await
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn notify(&self, link: &Link, method: &str) -> Result<Answer, Trouble> {
        let body = json!({"jsonrpc": "2.0", "method": method});
        link.ask(&self.post(method, &body), Until::Head).await
    }

    /// Opens the stream of what the server says on its own, and leaves it as soon as it begins.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn listen(
        &self,
        link: &Link,
        within: Duration,
        until: Until,
    ) -> Result<Answer, Trouble> {
        link.ask_within(within, &self.bodiless("GET", "text/event-stream"), until).await
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn end(&self, link: &Link) -> Result<Answer, Trouble> {
        link.ask(&self.bodiless("DELETE", ACCEPT), Until::Head).await
    }

    fn post(&self, method: &str, body: &Value) -> Request {
        let mut fields = self.fields(ACCEPT);
        if self.era == Era::Modern {
            fields.push((METHOD, method.to_owned()));
        }
        Request { method: "POST", fields, body: Bytes::from(body.to_string()) }
    }

    fn bodiless(&self, method: &'static str, accept: &str) -> Request {
        Request { method, fields: self.fields(accept), body: Bytes::new() }
    }

    fn fields(&self, accept: &str) -> Vec<(HeaderName, String)> {
        let mut fields = vec![(http::header::ACCEPT, accept.to_owned())];
        fields.extend(self.revision.iter().map(|revision| (VERSION, revision.clone())));
        fields.extend(self.session.iter().map(|session| (SESSION, session.clone())));
        fields
    }

    /// The envelope of a modern request (2026-07-28 basic, "Per-request protocol fields").
    fn claim(&self) -> Value {
        json!({
            META_VERSION: self.revision,
            "io.modelcontextprotocol/clientInfo": client(),
            "io.modelcontextprotocol/clientCapabilities": {},
        })
    }
}

/// Who the probe says that it is.
pub(super) fn client() -> Value {
    json!({"name": "portunus-probe", "version": env!("CARGO_PKG_VERSION")})
}

impl Reply {
    /// Reads the answer to a request.
    pub(super) fn of(answer: &Answer) -> Reply {
        let status = answer.status;
        let message = match &answer.content {
            Content::Message(message) => message,
            Content::Other(why, excerpt) => return Reply::Nothing(odd(status, why, excerpt)),
            Content::Event(_) | Content::Unread => return Reply::Nothing(format!("HTTP {status}")),
        };
        match (message.get("result"), message.get("error")) {
            (Some(result), None) => Reply::Result(result.clone()),
            (None, Some(error)) => {
                let code = error.get("code").and_then(Json::integer).unwrap_or_default();
                let said = error.get("message").and_then(Json::text).unwrap_or_default().to_owned();
                Reply::Error(code, said, error.get("data").cloned().unwrap_or(Json::Null))
            }
            _ => Reply::Nothing(format!("HTTP {status} with JSON that is no JSON-RPC answer")),
        }
    }

    /// The reply in safe words.
    pub(super) fn shown(&self, status: StatusCode) -> String {
        match self {
            Reply::Result(_) => format!("HTTP {}", status.as_u16()),
            Reply::Error(code, said, _) => {
                format!("HTTP {}, error {code} {}", status.as_u16(), text::json(said))
            }
            Reply::Nothing(why) => why.clone(),
        }
    }
}

fn odd(status: StatusCode, why: &str, excerpt: &str) -> String {
    match excerpt {
        "" => format!("HTTP {}: {why}", status.as_u16()),
        _ => format!("HTTP {}: {why}; it begins {}", status.as_u16(), text::json(excerpt)),
    }
}
