//! The text of each gateway request.

use super::{GatewayRequest, Session};
use bytes::Bytes;
use http::Method;
use portunus_filters::mcp::Id;
use portunus_filters::mcp::bridge::{Reply, initialized, wrap_error, wrap_error_text, wrap_result};
use portunus_filters::mcp::rewrite::string;

impl GatewayRequest {
    /// Its name in counters and records.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            GatewayRequest::Cancel { .. } => "cancel",
            GatewayRequest::Delete { .. } => "delete",
            GatewayRequest::Pong { .. } => "pong",
            GatewayRequest::Decline { .. } => "decline",
            GatewayRequest::Answer { .. } => "answer",
            GatewayRequest::Discover => "discover",
            GatewayRequest::Initialize { .. } => "initialize",
            GatewayRequest::Initialized => "initialized",
            GatewayRequest::Stream => "stream",
            GatewayRequest::Listen { .. } => "listen",
            GatewayRequest::List { .. } => "list",
            GatewayRequest::Subscribe { .. } => "subscribe",
            GatewayRequest::Unsubscribe { .. } => "unsubscribe",
            GatewayRequest::SetLevel { .. } => "set_level",
            GatewayRequest::Ping => "ping",
        }
    }

    /// The session that it is about.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            GatewayRequest::Cancel { session, .. }
            | GatewayRequest::Delete { session }
            | GatewayRequest::Pong { session, .. }
            | GatewayRequest::Decline { session, .. }
            | GatewayRequest::Answer { session, .. } => Some(session),
            _ => None,
        }
    }

    /// The HTTP method that carries it.
    pub(super) fn http(&self) -> Method {
        match self {
            GatewayRequest::Delete { .. } => Method::DELETE,
            GatewayRequest::Stream => Method::GET,
            _ => Method::POST,
        }
    }

    /// The method of the request that it is, if it is one.
    pub(super) fn method(&self) -> Option<&'static str> {
        match self {
            GatewayRequest::Discover => Some("server/discover"),
            GatewayRequest::Initialize { .. } => Some("initialize"),
            GatewayRequest::Listen { .. } => Some("subscriptions/listen"),
            GatewayRequest::List { method, .. } => Some(method),
            GatewayRequest::Subscribe { .. } => Some("resources/subscribe"),
            GatewayRequest::Unsubscribe { .. } => Some("resources/unsubscribe"),
            GatewayRequest::SetLevel { .. } => Some("logging/setLevel"),
            GatewayRequest::Ping => Some("ping"),
            _ => None,
        }
    }

    /// The message; `id` is that of a request, as JSON text. Empty where nothing but HTTP speaks.
    pub(super) fn message(&self, id: &str) -> Bytes {
        match self {
            GatewayRequest::Cancel { id, .. } => cancelled(id),
            GatewayRequest::Pong { id, .. } => wrap_result(id.as_json(), "{}").into(),
            GatewayRequest::Decline { id, why, .. } => wrap_error(id.as_json(), -32603, why, None).into(),
            GatewayRequest::Answer { id, reply: Reply::Result(result), .. } => {
                wrap_result(id.as_json(), result).into()
            }
            GatewayRequest::Answer { id, reply: Reply::Error(error), .. } => {
                wrap_error_text(id.as_json(), error).into()
            }
            GatewayRequest::Initialized => initialized(),
            _ => self.method().map(|method| request(id, method, &self.params())).unwrap_or_default(),
        }
    }

    /// Parameters of a request, a JSON object.
    fn params(&self) -> String {
        let one = |key: &str, value: &str| format!("{{\"{key}\":{}}}", string(value));
        match self {
            GatewayRequest::List { cursor: Some(cursor), .. } => one("cursor", cursor),
            GatewayRequest::Subscribe { uri } | GatewayRequest::Unsubscribe { uri } => one("uri", uri),
            GatewayRequest::SetLevel { level } => one("level", level.as_str()),
            GatewayRequest::Listen { filter } => format!("{{\"notifications\":{}}}", filter.json()),
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
    fn every_gateway_request_is_the_message_that_its_name_says() {
        let session = Session::default;
        let cases = [
            (GatewayRequest::Pong { session: session(), id: id() }, Shape::Result, ""),
            (
                GatewayRequest::Decline { session: session(), id: id(), why: super::super::UNRELATED },
                Shape::Error,
                "",
            ),
            (
                GatewayRequest::Answer { session: session(), id: id(), reply: Reply::Result("{}".into()) },
                Shape::Result,
                "",
            ),
            (GatewayRequest::Discover, Shape::Request, "server/discover"),
            (
                GatewayRequest::List { method: "tools/list", cursor: Some("a\"b".into()) },
                Shape::Request,
                "tools/list",
            ),
            (GatewayRequest::Subscribe { uri: "x:\"".into() }, Shape::Request, "resources/subscribe"),
            (GatewayRequest::Ping, Shape::Request, "ping"),
            (GatewayRequest::Initialized, Shape::Notification, "notifications/initialized"),
        ];
        for (gateway_request, shape, method) in cases {
            let body = gateway_request.message("7");
            let envelope = Envelope::read(std::str::from_utf8(&body).unwrap()).unwrap();
            assert_eq!(envelope.shape, shape, "{gateway_request:?}");
            assert_eq!(envelope.method.map(|method| method.name().to_owned()).unwrap_or_default(), method);
        }
        assert!(GatewayRequest::Stream.message("7").is_empty());
        assert!(GatewayRequest::Delete { session: session() }.message("7").is_empty());
    }
}
