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
            (Place::Message, "result" | "error") | (Place::Params, "_meta" | "ref" | "notifications") => {
                Some(Place::Other)
            }
            _ => None,
        }
    }
}

/// The keys at the top of a message.
pub(super) const MESSAGE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// The keys of `ref` in `params`.
pub(in crate::mcp) const REFERENCE: &[&str] = &["type", "name", "uri", "title"];

/// The keys of `notifications` in `params`.
pub(in crate::mcp) const NOTIFICATIONS: &[&str] =
    &["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"];

/// The parameters of a method that MCP does not know which rules read all the same.
pub(in crate::mcp) const PARAMS_OF_ANY: &[&str] = &["_meta", "arguments", "inputResponses", "requestState"];

/// The parameters that some revision of MCP knows, whatever the method: the most frequent ones first.
pub(in crate::mcp) const PARAMS: &[&str] = &[
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
pub(in crate::mcp) const META: &[&str] = &[
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

impl Object<'_> {
    /// Refuses a key that some reader takes for a known one, and that is none of those itself.
    ///
    /// # Errors
    /// [`Fault::FoldedKey`], which names the known one.
    pub(in crate::mcp) fn check_keys(&self, known: &'static [&'static str]) -> Result<(), Fault> {
        let imitated = self.members().find_map(|(key, _)| fold::imitated(key, known));
        imitated.map_or(Ok(()), |known| Err(Fault::FoldedKey(Some(known))))
    }
}

/// Whether `key` is none of the known keys, and some reader takes it for one of them.
pub(in crate::mcp) fn is_imitated(key: &str, known: &'static [&'static str]) -> bool {
    fold::imitated(key, known).is_some()
}
