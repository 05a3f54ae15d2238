//! `_meta`, and the writing of objects that are mostly copied.

use crate::mcp::Fault;
use crate::mcp::object::Object;
use crate::mcp::rewrite::push_string;

/// Key of what a modern client says it is.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Key of what a modern client can do.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Key of the severity from which on a modern client wants log messages.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Key of what a modern server says it is.
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// Key of the id of the `subscriptions/listen` request that a notification belongs to.
pub const META_SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The one extension whose messages find their way to the member that they are about; its declaration
/// holds nothing. What others and `experimental` features would need is not known here, so none is
/// promised.
pub(super) const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Whether the protocol itself gives a key of `_meta` its meaning. Those of one era mean nothing in
/// the other.
pub(super) fn is_reserved(key: &str) -> bool {
    key.starts_with("io.modelcontextprotocol/")
}

/// `_meta` of the parameters of a message; `null` is none.
///
/// # Errors
/// [`Fault::Shape`] if it is no object, [`Fault::DuplicateKey`] for a repeated key.
pub(super) fn of_params<'o>(params: &'o Object<'_>) -> Result<Option<Object<'o>>, Fault> {
    if let Some(meta) = params.inside("_meta")? {
        return Ok(Some(meta));
    }
    match params.get("_meta") {
        None | Some("null") => Ok(None),
        Some(_) => Err(Fault::Shape("`_meta` must be an object")),
    }
}

/// An object of JSON under way.
#[derive(Debug)]
pub(crate) struct Members(String);

impl Members {
    pub(crate) fn new() -> Members {
        Members::with_capacity(128)
    }

    pub(super) fn with_capacity(bytes: usize) -> Members {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Members(text)
    }

    /// The members of an object whose keys are wanted, as they stand.
    pub(super) fn of(object: Option<&Object<'_>>, wanted: impl Fn(&str) -> bool) -> Members {
        let mut members = Members::new();
        for (_, whole) in object.iter().flat_map(|object| object.wholes()).filter(|(key, _)| wanted(key)) {
            members.part();
            members.0.push_str(whole);
        }
        members
    }

    /// Adds a member; `json` must be JSON text, and the key not be there yet.
    pub(crate) fn with(mut self, key: &str, json: &str) -> Members {
        self.part();
        push_string(&mut self.0, key);
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    /// As [`Members::with`], if there is a value.
    pub(super) fn with_some(self, key: &str, json: Option<&str>) -> Members {
        match json {
            Some(json) => self.with(key, json),
            None => self,
        }
    }

    /// As [`Members::with`], for a text.
    pub(super) fn with_string(mut self, key: &str, text: &str) -> Members {
        self.part();
        push_string(&mut self.0, key);
        self.0.push(':');
        push_string(&mut self.0, text);
        self
    }

    /// Adds members as they stand, none of whose keys may be there yet.
    pub(super) fn with_members(mut self, members: &str) -> Members {
        self.part();
        self.0.push_str(members);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn text(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn part(&mut self) {
        if !self.is_empty() {
            self.0.push(',');
        }
    }
}

/// An array of JSON of texts that are JSON.
pub(super) fn array<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::from("[");
    for item in items {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(item);
    }
    out.push(']');
    out
}
