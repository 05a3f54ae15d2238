//! Which methods each era knows, and what a request aims at.

use crate::mcp::Fault;
use crate::mcp::object::Object;
use crate::message::Era;
use std::borrow::Cow;

/// Requests that a client of any revision may send.
const BOTH: &[&str] = &[
    "tools/call",
    "tools/list",
    "prompts/get",
    "prompts/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
    "tasks/get",
    "tasks/cancel",
];

/// Those that 2026-07-28 added, its tasks extension included.
const MODERN: &[&str] = &["server/discover", "subscriptions/listen", "tasks/update"];

/// Those that it removed.
const LEGACY: &[&str] = &[
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/result",
    "tasks/list",
];

/// Whether clients of an era may send a request of this method. A modern client is told of others by
/// HTTP 404, which no legacy server would send.
pub fn is_known_method(era: Era, method: &str) -> bool {
    let own = match era {
        Era::Modern => MODERN,
        Era::Legacy => LEGACY,
    };
    BOTH.contains(&method) || own.contains(&method)
}

/// Whether results of a method carry `ttlMs` and `cacheScope` (2026-07-28 utilities/caching).
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "server/discover"
    )
}

/// Whether a server may answer a method by `input_required` (2026-07-28 patterns/mrtr).
pub fn may_ask(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// What a request aims at, by the name that its sender knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim<'a> {
    /// A tool's name.
    Tool(Cow<'a, str>),
    /// A prompt's name.
    Prompt(Cow<'a, str>),
    /// A resource's URI, or the URI template that is to be completed.
    Resource(Cow<'a, str>),
    /// A task's id.
    Task(Cow<'a, str>),
}

impl<'a> Aim<'a> {
    /// The name, URI or id.
    pub fn name(&self) -> &str {
        match self {
            Aim::Tool(name) | Aim::Prompt(name) | Aim::Resource(name) | Aim::Task(name) => name,
        }
    }
}

/// What a request aims at: `completion/complete` by its `ref`, others by a parameter. `None` for
/// methods that aim at nothing.
///
/// # Errors
/// [`Fault::Shape`] if the parameter is missing or no string, [`Fault::DuplicateKey`] for a repeated
/// key in `ref`.
pub fn aim<'a>(method: &str, params: &Object<'a>) -> Result<Option<Aim<'a>>, Fault> {
    const MISSING: Fault = Fault::Shape("the parameter that names what the request is for must be a string");
    let named = |key: &str| params.text(key).ok_or(MISSING);
    Ok(Some(match method {
        "tools/call" => Aim::Tool(named("name")?),
        "prompts/get" => Aim::Prompt(named("name")?),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Aim::Resource(named("uri")?),
        method if method.starts_with("tasks/") && method != "tasks/list" => Aim::Task(named("taskId")?),
        "completion/complete" => {
            let reference = params.object("ref")?.ok_or(Fault::Shape("`ref` must be an object"))?;
            match reference_key(&reference) {
                "name" => Aim::Prompt(reference.text("name").ok_or(MISSING)?),
                key => Aim::Resource(reference.text(key).ok_or(MISSING)?),
            }
        }
        _ => return Ok(None),
    }))
}

/// The member of a completion's `ref` that names what it is about.
pub(super) fn reference_key(reference: &Object<'_>) -> &'static str {
    if reference.text("type").as_deref() == Some("ref/prompt") { "name" } else { "uri" }
}

/// The parameter that names what a request aims at, where it is one of its own.
pub(super) fn target_key(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        method if method.starts_with("tasks/") && method != "tasks/list" => Some("taskId"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::Method;

    #[test]
    fn each_era_knows_its_own_methods() {
        for (method, modern, legacy) in [
            ("tools/call", true, true),
            ("server/discover", true, false),
            ("subscriptions/listen", true, false),
            ("initialize", false, true),
            ("ping", false, true),
            ("logging/setLevel", false, true),
            ("resources/subscribe", false, true),
            ("sampling/createMessage", false, false),
            ("x/made_up", false, false),
        ] {
            assert_eq!(is_known_method(Era::Modern, method), modern, "{method}");
            assert_eq!(is_known_method(Era::Legacy, method), legacy, "{method}");
        }
        for method in BOTH.iter().chain(MODERN).chain(LEGACY) {
            assert!(Method::of(method).rules().is_some(), "{method}");
        }
    }

    #[test]
    fn what_is_mirrored_in_a_header_is_what_a_request_aims_at() {
        for method in BOTH.iter().chain(MODERN) {
            if let Some(key) = Method::of(method).rules().and_then(|rules| rules.target) {
                assert_eq!(target_key(method), Some(key), "{method}");
            }
        }
    }

    #[test]
    fn requests_name_what_they_aim_at() {
        let missing = Err(Fault::Shape("the parameter that names what the request is for must be a string"));
        let cases = [
            ("tools/call", r#"{"name":"a\u0062"}"#, Ok(Some(Aim::Tool("ab".into())))),
            ("prompts/get", r#"{"name":"a"}"#, Ok(Some(Aim::Prompt("a".into())))),
            ("resources/read", r#"{"uri":"a:b"}"#, Ok(Some(Aim::Resource("a:b".into())))),
            ("tasks/get", r#"{"taskId":"t"}"#, Ok(Some(Aim::Task("t".into())))),
            (
                "completion/complete",
                r#"{"ref":{"type":"ref/prompt","name":"a"}}"#,
                Ok(Some(Aim::Prompt("a".into()))),
            ),
            (
                "completion/complete",
                r#"{"ref":{"type":"ref/resource","uri":"a:{b}"}}"#,
                Ok(Some(Aim::Resource("a:{b}".into()))),
            ),
            ("tools/list", "{}", Ok(None)),
            ("tasks/list", "{}", Ok(None)),
            ("tools/call", r#"{"name":7}"#, missing.clone()),
            ("completion/complete", r#"{"ref":{"type":"ref/prompt"}}"#, missing),
            ("completion/complete", r#"{"ref":{"name":"a","name":"b"}}"#, Err(Fault::DuplicateKey)),
            ("completion/complete", "{}", Err(Fault::Shape("`ref` must be an object"))),
        ];
        for (method, params, expected) in cases {
            assert_eq!(aim(method, &Object::read(params).unwrap()), expected, "{method} {params}");
        }
    }
}
