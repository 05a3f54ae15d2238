//! The objects of a message that are taken apart with it, and the keys that have a meaning in each.

/// Which objects of a message are taken apart with it.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Message,
    Params,
    /// `_meta` of `params`.
    Meta,
    /// `ref` of `params`: what a completion is for.
    Reference,
    /// `notifications` of `params`: what a client listens to.
    Notifications,
    /// `result` or `error` of a message, or any other object.
    Other,
}

impl Place {
    /// The place that a key leads to, if it is taken apart.
    pub(super) fn below(self, key: &str) -> Option<Place> {
        match (self, key) {
            (Place::Message, "params") => Some(Place::Params),
            (Place::Message, "result" | "error") => Some(Place::Other),
            (Place::Params, "_meta") => Some(Place::Meta),
            (Place::Params, "ref") => Some(Place::Reference),
            (Place::Params, "notifications") => Some(Place::Notifications),
            _ => None,
        }
    }

    /// The keys that have a meaning here. One that differs from them only in case is refused: readers
    /// that ignore case take it for the known one (see [`super::fold`]).
    pub(super) fn known(self) -> &'static [&'static str] {
        match self {
            Place::Message => &["jsonrpc", "id", "method", "params", "result", "error"],
            Place::Params => KNOWN_PARAMS,
            Place::Meta => KNOWN_META,
            Place::Reference => &["type", "name", "uri", "title"],
            Place::Notifications => {
                &["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"]
            }
            Place::Other => &[],
        }
    }
}

/// The parameters that some revision of MCP knows, whatever the method: the most frequent ones first.
const KNOWN_PARAMS: &[&str] = &[
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
const KNOWN_META: &[&str] = &[
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
