//! Notifications of upstreams in the words of the client's era.

use super::level::LogLevel;
use super::meta::{self, META_SUBSCRIPTION_ID, Members, is_reserved};
use super::request;
use crate::mcp::Fault;
use crate::mcp::object::{Object, unquoted};
use portunus_base::Era;

/// A progress token on both sides of the gateway, as JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// What the upstream was given.
    pub upstream: &'a str,
    /// What the client gave.
    pub client: &'a str,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// Whose words it understands.
    pub era: Era,
    /// The progress token of the request that this belongs to; without it no progress is told.
    pub token: Option<Token<'a>>,
    /// The severity from which on it wants log messages. Without one a modern client wants none, a
    /// legacy one whatever the server sends.
    pub log_level: Option<LogLevel>,
    /// The id of the `subscriptions/listen` request that this belongs to, as JSON text.
    pub subscription: Option<&'a str>,
}

/// The method by which a server tells that a resource has changed.
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";

/// That a resource has changed, as somebody gets it who asked to be told: under the URI that its
/// listener knows. Of what the server says its title goes on and nothing else.
///
/// # Errors
/// As [`Object::read`].
pub fn resource_updated(message: &str, uri: &str, listener: &Listener<'_>) -> Result<String, Fault> {
    let message = Object::read(message)?;
    let said = message.object("params")?.unwrap_or_default();
    let title = said.get("title").filter(|title| title.starts_with('"'));
    let mark = listener.subscription.filter(|_| listener.era == Era::Modern);
    let meta = mark.map(|id| Members::new().with(META_SUBSCRIPTION_ID, id).text());
    let params = Members::new().with_string("uri", uri).with_some("title", title);
    Ok(request::message(RESOURCE_UPDATED, None, &params.with_some("_meta", meta.as_deref()).text()))
}

/// A notification as its listener gets it; `None` if it is none of its business, or nothing that its
/// revision knows.
///
/// # Errors
/// [`Fault::Shape`] if it is no notification with by-name parameters; else as [`Object::read`].
pub fn notification(message: &str, listener: &Listener<'_>) -> Result<Option<String>, Fault> {
    let mut message = Object::message(message)?;
    let method = message.text("method").ok_or(Fault::Shape("`method` must be a string"))?;
    let params = match (message.take("params"), message.get("params")) {
        (Some(params), _) => params?,
        (None, None) => Object::default(),
        (None, Some(_)) => return Err(Fault::Shape("`params` must be an object")),
    };
    let token = match &*method {
        "notifications/progress" => match progress_token(&params, listener) {
            Some(token) => Some(token),
            None => return Ok(None),
        },
        "notifications/message" if !is_wanted(&params, listener) => return Ok(None),
        method if is_foreign(method, listener.era) => return Ok(None),
        _ => None,
    };
    let found = meta::of_params(&params)?;
    let marked = match listener.era {
        Era::Modern => Members::of(found.as_ref(), |key| key != META_SUBSCRIPTION_ID)
            .with_some(META_SUBSCRIPTION_ID, listener.subscription),
        Era::Legacy => Members::of(found.as_ref(), |key| !is_reserved(key)),
    };
    let rewrite = params.rewrite().set_some("progressToken", token);
    let rewrite = match marked.is_empty() {
        true => rewrite.remove("_meta"),
        false => rewrite.set("_meta", marked.text()),
    };
    let untold = message.get("params").is_none() && rewrite.is_empty();
    let told = message.rewrite();
    Ok(Some(if untold { told.text() } else { told.set("params", rewrite.text()).text() }))
}

/// The client's token, if this is progress of its request.
fn progress_token<'a>(params: &Object<'_>, listener: &Listener<'a>) -> Option<&'a str> {
    let token = listener.token?;
    let told = params.get("progressToken")?;
    let same =
        told == token.upstream || unquoted(told).is_some_and(|told| unquoted(token.upstream) == Some(told));
    same.then_some(token.client)
}

fn is_wanted(params: &Object<'_>, listener: &Listener<'_>) -> bool {
    match (listener.log_level, listener.era) {
        (None, Era::Modern) => false,
        (None, Era::Legacy) => true,
        // A level that no revision knows is better told than lost.
        (Some(wanted), _) => {
            params.text("level").and_then(|level| LogLevel::parse(&level)).is_none_or(|level| level >= wanted)
        }
    }
}

/// Whether a notification tells of a task, in the words of any revision.
pub fn is_of_task(method: &str) -> bool {
    method == "notifications/tasks" || method.starts_with("notifications/tasks/")
}

/// What only servers of the other era say, or what belongs to a connection of the gateway's own. A
/// task has its server's own id there, which no client knows, and no call whose rules would hold for
/// what is told: its client asks for it.
fn is_foreign(method: &str, era: Era) -> bool {
    match method {
        _ if is_of_task(method) => true,
        // It goes to those who asked for the resource, see `resource_updated`, and to nobody by the way.
        RESOURCE_UPDATED => true,
        "notifications/cancelled" | "notifications/subscriptions/acknowledged" => true,
        "notifications/elicitation/complete" => era == Era::Modern,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: Listener<'_> =
        Listener { era: Era::Modern, token: None, log_level: None, subscription: None };
    const LEGACY: Listener<'_> = Listener { era: Era::Legacy, ..MODERN };

    fn told(method: &str, params: &str, listener: &Listener<'_>) -> Option<String> {
        let message = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}"{params}}}"#);
        let head = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}""#);
        let told = notification(&message, listener).unwrap()?;
        Some(told.strip_prefix(&head).unwrap().strip_suffix('}').unwrap().to_owned())
    }

    #[test]
    fn progress_is_told_under_the_token_of_the_client_that_asked() {
        let token = |upstream| Some(Token { upstream, client: "\"c\"" });
        let listener = |upstream| Listener { token: token(upstream), ..MODERN };
        let mapped = Some(r#","params":{"progressToken":"c","progress": 1.0}"#.to_owned());
        for (told_token, upstream, expected) in [
            ("7", "7", mapped.clone()),
            (r#""\u0061""#, r#""a""#, mapped),
            ("8", "7", None),
            (r#""7""#, "7", None),
            (r#""\ud800""#, "7", None),
        ] {
            let params = format!(r#","params":{{"progressToken":{told_token},"progress": 1.0}}"#);
            assert_eq!(told("progress", &params, &listener(upstream)), expected, "{told_token} {upstream}");
        }
        assert_eq!(told("progress", r#","params":{"progressToken":7}"#, &LEGACY), None);
        assert_eq!(told("progress", "", &listener("7")), None);
    }

    #[test]
    fn log_messages_are_told_from_the_wanted_severity_on() {
        let at = |level| Some(format!(r#","params":{{"level":"{level}","data":1}}"#));
        let from = |log_level, listener: Listener<'static>| Listener { log_level, ..listener };
        for (level, listener, expected) in [
            ("error", MODERN, None),
            ("debug", LEGACY, at("debug")),
            ("error", from(Some(LogLevel::Error), MODERN), at("error")),
            ("alert", from(Some(LogLevel::Error), MODERN), at("alert")),
            ("warning", from(Some(LogLevel::Error), MODERN), None),
            ("warning", from(Some(LogLevel::Error), LEGACY), None),
            ("loud", from(Some(LogLevel::Error), LEGACY), at("loud")),
        ] {
            assert_eq!(told("message", &at(level).unwrap(), &listener), expected, "{level} {listener:?}");
        }
    }

    #[test]
    fn messages_of_a_subscription_are_marked_with_its_id_only_for_modern_clients() {
        let marked = Listener { subscription: Some("\"s\""), ..MODERN };
        let mark = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"s"}"#;
        let upstream = r#","params":{"a":1,"_meta":{"io.modelcontextprotocol/subscriptionId":9}}"#;
        assert_eq!(told("tools/list_changed", "", &marked), Some(format!(r#","params":{{{mark}}}"#)));
        assert_eq!(told("x/y", upstream, &marked), Some(format!(r#","params":{{"a":1,{mark}}}"#)));
        assert_eq!(told("x/y", upstream, &LEGACY), Some(r#","params":{"a":1}"#.to_owned()));
        assert_eq!(told("x/y", upstream, &MODERN), Some(r#","params":{"a":1}"#.to_owned()));
        assert_eq!(told("tools/list_changed", "", &LEGACY), Some(String::new()));
    }

    #[test]
    fn resource_update_tells_uri_and_title_alone() {
        let said = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a","title":"T","contents":[{"text":"x"}],"_meta":{"v/k":1,"io.modelcontextprotocol/subscriptionId":9}},"more":2}"#;
        let head = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"b\"c","title":"T""#;
        let marked = Listener { subscription: Some("\"s\""), ..MODERN };
        let mark = r#","_meta":{"io.modelcontextprotocol/subscriptionId":"s"}"#;
        for (listener, mark) in [(&marked, mark), (&LEGACY, ""), (&MODERN, "")] {
            assert_eq!(resource_updated(said, "b\"c", listener), Ok(format!("{head}{mark}}}}}")));
            assert_eq!(told("resources/updated", r#","params":{"uri":"a"}"#, listener), None, "by the way");
        }
        let odd = r#"{"method":"m","params":{"uri":"a","title":{"x":1}}}"#;
        assert!(resource_updated(odd, "a", &LEGACY).unwrap().ends_with(r#""params":{"uri":"a"}}"#));
    }

    #[test]
    fn what_the_other_era_alone_knows_is_not_told() {
        for (method, modern, legacy) in [
            ("subscriptions/acknowledged", false, false),
            ("cancelled", false, false),
            ("elicitation/complete", false, true),
            ("tasks", false, false),
            ("tasks/status", false, false),
            ("x/vendor", true, true),
        ] {
            let params = r#","params":{"a" : 1.0}"#;
            let expected = |told: bool| told.then(|| params.to_owned());
            assert_eq!(told(method, params, &MODERN), expected(modern), "{method}");
            assert_eq!(told(method, params, &LEGACY), expected(legacy), "{method}");
        }
    }

    #[test]
    fn what_is_no_notification_is_refused() {
        for (message, fault) in [
            (r#"{"id":1,"result":{}}"#, Fault::Shape("`method` must be a string")),
            (r#"{"method":"m","params":[]}"#, Fault::Shape("`params` must be an object")),
            (r#"{"method":"m","params":{"_meta":[]}}"#, Fault::Shape("`_meta` must be an object")),
            (r#"{"method":"m","params":{"a":1,"a":2}}"#, Fault::DuplicateKey),
        ] {
            assert_eq!(notification(message, &MODERN), Err(fault), "{message}");
        }
    }
}
