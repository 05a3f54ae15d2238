//! The objects of a message that are taken apart with it, and the keys that have a meaning in each.
//!
//! A key that differs from one of these only in case is refused: readers that ignore case take it for the
//! known one (see [`super::fold`]). At the top of a message that holds for both directions; of a client's
//! parameters it is judged once the method is known, and what a server says in its own is not judged.

use super::{Object, fold};
use crate::mcp::Fault;

/// Which objects of a message are taken apart with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Message,
    Params,
    /// Any other object: `result` and `error` of a message, some members of `params`.
    Other,
}

impl Place {
    /// The place that a key leads to, if it is taken apart.
    pub(super) fn below(self, key: &str) -> Option<Place> {
        match (self, key) {
            (Place::Message, "params") => Some(Place::Params),
            (Place::Message, "result" | "error") => Some(Place::Other),
            (Place::Params, key) => known_in(key).map(|_| Place::Other),
            _ => None,
        }
    }
}

/// Keys that have a meaning in an object.
pub(in crate::mcp) struct KnownKeys {
    pub(in crate::mcp) all: &'static [&'static str],
    pub(in crate::mcp) has: fn(&str) -> bool,
}

/// The [`KnownKeys`] that are these; whether a key is one of them is compiled to a few comparisons.
macro_rules! known_keys {
    [$($key:tt),+ $(,)?] => {
        $crate::mcp::object::KnownKeys { all: &[$($key),+], has: |key| matches!(key, $($key)|+) }
    };
}
pub(in crate::mcp) use known_keys;

/// The keys at the top of a message.
pub(super) const MESSAGE: KnownKeys = known_keys!["jsonrpc", "id", "method", "params", "result", "error"];

/// The keys of `ref` in `params`.
pub(in crate::mcp) const REFERENCE: KnownKeys = known_keys!["type", "name", "uri", "title"];

/// The keys of `notifications` in `params`.
pub(in crate::mcp) const NOTIFICATIONS: KnownKeys =
    known_keys!["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"];

/// The parameters of a method that MCP does not know which rules read all the same.
pub(in crate::mcp) const PARAMS_OF_ANY: KnownKeys =
    known_keys!["_meta", "arguments", "inputResponses", "requestState"];

/// The parameters that some revision of MCP knows, whatever the method: the most frequent ones first.
pub(in crate::mcp) const PARAMS: KnownKeys = known_keys![
    "name",
    "arguments",
    "_meta",
    "uri",
    "cursor",
    "ref",
    "argument",
    "context",
    "inputResponses",
    "requestState",
    "notifications",
    "taskId",
    "task",
    "level",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "requestId",
    "reason",
    "progressToken",
    "progress",
    "total",
    "message",
    "logger",
    "data",
    "status",
];

/// The keys of `_meta` that MCP, W3C Trace Context or this gateway give a meaning.
pub(in crate::mcp) const META: KnownKeys = known_keys![
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/serverInfo",
    "io.modelcontextprotocol/logLevel",
    "io.modelcontextprotocol/subscriptionId",
    "io.modelcontextprotocol/related-task",
    "io.portunus/justification",
    "io.portunus/run",
    "traceparent",
    "tracestate",
    "baggage",
];

/// The keys that have a meaning in an object of `params` that is taken apart with its message.
fn known_in(key: &str) -> Option<&'static KnownKeys> {
    match key {
        "_meta" => Some(&META),
        "ref" => Some(&REFERENCE),
        "notifications" => Some(&NOTIFICATIONS),
        _ => None,
    }
}

impl Object<'_> {
    /// Refuses a key of `params`, or of an object in them, that some reader takes for one that has a
    /// meaning there, and that is none of those itself.
    ///
    /// # Errors
    /// [`Fault::FoldedKey`], which names the known one; as [`Object::inside`].
    pub(in crate::mcp) fn check_params(&self, known: &KnownKeys) -> Result<(), Fault> {
        self.check_keys(known)?;
        for member in self.members.iter().filter(|member| member.inside.is_some()) {
            let key = member.key.of(self.text);
            if let (Some(known), Some(inner)) = (known_in(key), self.inside(key)?) {
                inner.check_keys(known)?;
            }
        }
        Ok(())
    }

    /// Refuses a key that some reader takes for a known one, and that is none of those itself.
    ///
    /// # Errors
    /// [`Fault::FoldedKey`], which names the known one.
    fn check_keys(&self, known: &KnownKeys) -> Result<(), Fault> {
        let imitated = self.members().find_map(|(key, _)| fold::imitated(key, known));
        imitated.map_or(Ok(()), |known| Err(Fault::FoldedKey(Some(known))))
    }
}

/// Whether `key` is none of the known keys, and some reader takes it for one of them.
pub(in crate::mcp) fn is_imitated(key: &str, known: &KnownKeys) -> bool {
    fold::imitated(key, known).is_some()
}
