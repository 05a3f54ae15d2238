//! Which methods each era knows, and what a request aims at.

use crate::mcp::Fault;
use crate::mcp::object::Object;
use crate::mcp::rewrite::string;
use portunus_base::Era;
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
/// [`Fault::Shape`] if the parameter is missing or no string; as [`Reference::of`].
pub fn aim<'a>(method: &str, params: &Object<'a>) -> Result<Option<Aim<'a>>, Fault> {
    const MISSING: Fault = Fault::Shape("the parameter that names what the request is for must be a string");
    let named = |key: &str| params.text(key).ok_or(MISSING);
    Ok(Some(match method {
        "tools/call" => Aim::Tool(named("name")?),
        "prompts/get" => Aim::Prompt(named("name")?),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Aim::Resource(named("uri")?),
        method if method.starts_with("tasks/") && method != "tasks/list" => Aim::Task(named("taskId")?),
        "completion/complete" => match Reference::of(params)? {
            Reference { kind: ReferenceKind::Prompt, target, .. } => Aim::Prompt(target),
            Reference { kind: ReferenceKind::Resource, target, .. } => Aim::Resource(target),
        },
        _ => return Ok(None),
    }))
}

/// What a completion is about, by the `type` of its `ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// `ref/prompt`.
    Prompt,
    /// `ref/resource`: a URI or a template.
    Resource,
}

/// The `ref` of `completion/complete`.
#[derive(Debug)]
pub struct Reference<'a> {
    /// What it refers to.
    pub kind: ReferenceKind,
    /// The name, URI or template.
    pub target: Cow<'a, str>,
    object: Object<'a>,
}

impl<'a> Reference<'a> {
    /// Reads it. Its type alone says what it refers to: with a name beside a URI, servers differ in
    /// which of both they take.
    ///
    /// # Errors
    /// [`Fault::Shape`] if it is missing, of an unknown type, without what its type names, or with what
    /// another type names; [`Fault::DuplicateKey`] for a repeated key.
    pub fn of(params: &Object<'a>) -> Result<Reference<'a>, Fault> {
        let object = params.object("ref")?.ok_or(Fault::Shape("`ref` must be an object"))?;
        let kind = match object.text("type").as_deref() {
            Some("ref/prompt") => ReferenceKind::Prompt,
            Some("ref/resource") => ReferenceKind::Resource,
            _ => return Err(Fault::Shape("the `type` of `ref` must be `ref/prompt` or `ref/resource`")),
        };
        if object.get(kind.other_key()).is_some() {
            return Err(Fault::Shape(match kind {
                ReferenceKind::Prompt => "a `ref/prompt` must not have a `uri`",
                ReferenceKind::Resource => "a `ref/resource` must not have a `name`",
            }));
        }
        let target = object.text(kind.key()).ok_or(Fault::Shape(match kind {
            ReferenceKind::Prompt => "the `name` of a `ref/prompt` must be a string",
            ReferenceKind::Resource => "the `uri` of a `ref/resource` must be a string",
        }))?;
        Ok(Reference { kind, target, object })
    }

    /// Its text with another name, URI or template.
    pub fn aimed(&self, target: &str) -> String {
        self.object.rewrite().set(self.kind.key(), string(target)).text()
    }
}

impl ReferenceKind {
    /// The member that names what it is about.
    fn key(self) -> &'static str {
        match self {
            ReferenceKind::Prompt => "name",
            ReferenceKind::Resource => "uri",
        }
    }

    fn other_key(self) -> &'static str {
        match self {
            ReferenceKind::Prompt => "uri",
            ReferenceKind::Resource => "name",
        }
    }
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

/// Whether requests of a method are aimed at an item of a list: whether [`aim`] finds a tool, a prompt or
/// a resource in one that is well formed.
pub fn is_aimed(method: &str) -> bool {
    method == "completion/complete" || target_key(method).is_some_and(|key| key != "taskId")
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
            ("tools/call", r#"{"name":7}"#, missing),
            ("completion/complete", r#"{"ref":{"name":"a","name":"b"}}"#, Err(Fault::DuplicateKey)),
            ("completion/complete", "{}", Err(Fault::Shape("`ref` must be an object"))),
        ];
        for (method, params, expected) in cases {
            let aim = aim(method, &Object::read(params).unwrap());
            if let Ok(aim) = &aim {
                let at_an_item = aim.as_ref().is_some_and(|aim| !matches!(aim, Aim::Task(_)));
                assert_eq!(is_aimed(method), at_an_item, "{method} {params}");
            }
            assert_eq!(aim, expected, "{method} {params}");
        }
    }

    #[test]
    fn a_reference_is_what_its_type_says_and_nothing_beside() {
        for (reference, fault) in [
            (r#"{"type":"ref/prompt","name":"a","uri":"a:b"}"#, "a `ref/prompt` must not have a `uri`"),
            (r#"{"type":"ref/prompt","name":"a","uri":null}"#, "a `ref/prompt` must not have a `uri`"),
            (r#"{"type":"ref/prompt","uri":"a:b"}"#, "a `ref/prompt` must not have a `uri`"),
            (r#"{"type":"ref/resource","uri":"a:b","name":"a"}"#, "a `ref/resource` must not have a `name`"),
            (r#"{"type":"ref/resource","uri":7}"#, "the `uri` of a `ref/resource` must be a string"),
            (r#"{"type":"ref/prompt"}"#, "the `name` of a `ref/prompt` must be a string"),
            (
                r#"{"type":"ref/tool","name":"a"}"#,
                "the `type` of `ref` must be `ref/prompt` or `ref/resource`",
            ),
            (r#"{"name":"a"}"#, "the `type` of `ref` must be `ref/prompt` or `ref/resource`"),
            (r#"{"uri":"a:b"}"#, "the `type` of `ref` must be `ref/prompt` or `ref/resource`"),
        ] {
            let params = format!("{{\"ref\":{reference}}}");
            let read = Reference::of(&Object::read(&params).unwrap());
            assert_eq!(read.err(), Some(Fault::Shape(fault)), "{reference}");
        }
        let params = r#"{"ref":{"type":"ref/\u0070rompt","title":"t","name":"a"}}"#;
        let read = Object::read(params).unwrap();
        let reference = Reference::of(&read).unwrap();
        assert_eq!((reference.kind, &*reference.target), (ReferenceKind::Prompt, "a"));
        assert_eq!(reference.aimed("b"), r#"{"type":"ref/\u0070rompt","title":"t","name":"b"}"#);
    }
}
