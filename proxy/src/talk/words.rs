//! What a talk takes from the translation between eras.

use std::sync::Arc;

/// What a client says of itself, as it is said again to an upstream.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// JSON object: name and version of the client.
    pub client_info: Arc<str>,
    /// JSON object: its capabilities.
    pub capabilities: Arc<str>,
    /// The log level it asks for.
    pub log_level: Option<Arc<str>>,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// JSON object: its capabilities.
    pub capabilities: Arc<str>,
    /// JSON string: its instructions.
    pub instructions: Option<Arc<str>>,
    /// JSON object: its name and version.
    pub server_info: Option<Arc<str>>,
}

/// A question of a server: elicitation, sampling or roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Names the question among those of its request.
    pub key: Arc<str>,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: Arc<str>,
    /// JSON object: what is asked.
    pub params: Arc<str>,
}

/// What a modern client's retry carries on.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// JSON object: `inputResponses`.
    pub input_responses: Option<Arc<str>>,
    /// JSON string: `requestState`.
    pub request_state: Option<Arc<str>>,
}

/// A property of a tool's arguments that a header mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// The header behind `Mcp-Param-`.
    pub header: Arc<str>,
    /// The path of the property.
    pub path: Arc<[Arc<str>]>,
}
