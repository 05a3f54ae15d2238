//! The text of each errand.

use super::{Errand, Session};
use bytes::Bytes;
use http::Method;
use portunus_filters::mcp::Id;
use portunus_filters::mcp::bridge::{Reply, initialized, wrap_error, wrap_result, wrap_said};
use portunus_filters::mcp::rewrite::string;

impl Errand {
    /// Its name in counters and records.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Errand::Cancel { .. } => "cancel",
            Errand::Delete { .. } => "delete",
            Errand::Pong { .. } => "pong",
            Errand::Decline { .. } => "decline",
            Errand::Answer { .. } => "answer",
            Errand::Discover => "discover",
            Errand::Initialize { .. } => "initialize",
            Errand::Initialized => "initialized",
            Errand::Stream => "stream",
            Errand::Listen { .. } => "listen",
            Errand::List { .. } => "list",
            Errand::Subscribe { .. } => "subscribe",
            Errand::Unsubscribe { .. } => "unsubscribe",
            Errand::SetLevel { .. } => "set_level",
            Errand::Ping => "ping",
        }
    }

    /// The session that it is about.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Errand::Cancel { session, .. }
            | Errand::Delete { session }
            | Errand::Pong { session, .. }
            | Errand::Decline { session, .. }
            | Errand::Answer { session, .. } => Some(session),
            _ => None,
        }
    }

    /// The HTTP method that carries it.
    pub(super) fn http(&self) -> Method {
        match self {
            Errand::Delete { .. } => Method::DELETE,
            Errand::Stream => Method::GET,
            _ => Method::POST,
        }
    }

    /// The method of the request that it is, if it is one.
    pub(super) fn method(&self) -> Option<&'static str> {
        match self {
            Errand::Discover => Some("server/discover"),
            Errand::Initialize { .. } => Some("initialize"),
            Errand::Listen { .. } => Some("subscriptions/listen"),
            Errand::List { method, .. } => Some(method),
            Errand::Subscribe { .. } => Some("resources/subscribe"),
            Errand::Unsubscribe { .. } => Some("resources/unsubscribe"),
            Errand::SetLevel { .. } => Some("logging/setLevel"),
            Errand::Ping => Some("ping"),
            _ => None,
        }
    }

    /// The message; `id` is that of a request, as JSON text. Empty where nothing but HTTP speaks.
    pub(super) fn message(&self, id: &str) -> Bytes {
        match self {
            Errand::Cancel { id, .. } => cancelled(id),
            Errand::Pong { id, .. } => wrap_result(id.as_json(), "{}").into(),
            Errand::Decline { id, why, .. } => wrap_error(id.as_json(), -32603, why, None).into(),
            Errand::Answer { id, reply: Reply::Result(result), .. } => {
                wrap_result(id.as_json(), result).into()
            }
            Errand::Answer { id, reply: Reply::Error(error), .. } => wrap_said(id.as_json(), error).into(),
            Errand::Initialized => initialized(),
            _ => self.method().map(|method| request(id, method, &self.params())).unwrap_or_default(),
        }
    }

    /// Parameters of a request, a JSON object.
    fn params(&self) -> String {
        let one = |key: &str, value: &str| format!("{{\"{key}\":{}}}", string(value));
        match self {
            Errand::List { cursor: Some(cursor), .. } => one("cursor", cursor),
            Errand::Subscribe { uri } | Errand::Unsubscribe { uri } => one("uri", uri),
            Errand::SetLevel { level } => one("level", level.as_str()),
            Errand::Listen { filter } => format!("{{\"notifications\":{}}}", filter.json()),
            _ => "{}".to_owned(),
        }
    }
}

fn request(id: &str, method: &str, params: &str) -> Bytes {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}").into()
}

fn cancelled(id: &Id) -> Bytes {
    let id = id.as_json();
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\"reason\":\"ended at the gateway\"}}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::{Envelope, Shape};

    fn id() -> Id {
        Envelope::read(r#"{"jsonrpc":"2.0","id":"a\"b","result":0}"#).unwrap().id.unwrap()
    }

    #[test]
    fn a_cancellation_names_the_request_as_it_was_written() {
        let body = cancelled(&id());
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(message["params"]["requestId"], "a\"b");
        assert_eq!(message["method"], "notifications/cancelled");
    }

    #[test]
    fn every_errand_is_the_message_that_its_name_says() {
        let session = Session::default;
        let cases = [
            (Errand::Pong { session: session(), id: id() }, Shape::Result, ""),
            (
                Errand::Decline { session: session(), id: id(), why: super::super::UNRELATED },
                Shape::Error,
                "",
            ),
            (
                Errand::Answer { session: session(), id: id(), reply: Reply::Result("{}".into()) },
                Shape::Result,
                "",
            ),
            (Errand::Discover, Shape::Request, "server/discover"),
            (
                Errand::List { method: "tools/list", cursor: Some("a\"b".into()) },
                Shape::Request,
                "tools/list",
            ),
            (Errand::Subscribe { uri: "x:\"".into() }, Shape::Request, "resources/subscribe"),
            (Errand::Ping, Shape::Request, "ping"),
            (Errand::Initialized, Shape::Notification, "notifications/initialized"),
        ];
        for (errand, shape, method) in cases {
            let body = errand.message("7");
            let envelope = Envelope::read(std::str::from_utf8(&body).unwrap()).unwrap();
            assert_eq!(envelope.shape, shape, "{errand:?}");
            assert_eq!(envelope.method.map(|method| method.name().to_owned()).unwrap_or_default(), method);
        }
        assert!(Errand::Stream.message("7").is_empty());
        assert!(Errand::Delete { session: session() }.message("7").is_empty());
    }
}
