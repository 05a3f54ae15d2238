//! What policy is asked: the typed form of the input document.
//!
//! Everything is borrowed from what a message is known by at that stage, so asking copies nothing.
//! JSON stays text: what policy reads of it is found in place.

use crate::identity::Principal;
use portunus_base::Moment;
use std::net::IpAddr;
use std::sync::Arc;

/// Which rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// May this message pass?
    Decision,
    /// Does the caller see this tool, prompt or resource in lists?
    Visible,
    /// May it pass, now that its content was inspected?
    Content,
}

impl Entry {
    /// Every entry point, in the order of the stages.
    pub const ALL: [Entry; 3] = [Entry::Decision, Entry::Visible, Entry::Content];

    /// The name in the log, in metrics and in `check`.
    pub fn as_str(self) -> &'static str {
        match self {
            Entry::Decision => "decision",
            Entry::Visible => "visible",
            Entry::Content => "content",
        }
    }
}

/// One question to policy.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// What for.
    pub mcp: Mcp<'a>,
    /// What is known of the tool, for calls of one.
    pub tool: Option<Tool<'a>>,
    /// Where from, and why.
    pub context: Context<'a>,
    /// Score of this caller's earlier messages.
    pub threat: Threat,
    /// What inspection found, as the JSON text of an array; only for [`Entry::Content`].
    pub findings: Option<&'a str>,
    /// When: policy reads `input.time` of it, in the policy's time zone.
    pub now: Moment,
}

/// `input.mcp`: the message.
#[derive(Clone, Copy, Debug)]
pub struct Mcp<'a> {
    /// JSON-RPC method, such as `tools/call`.
    pub method: &'a str,
    /// Who sends it.
    pub direction: Direction,
    /// Label of the virtual server.
    pub server: &'a str,
    /// Name of the upstream, where one is chosen.
    pub upstream: Option<&'a str>,
    /// What it is about.
    pub kind: Kind,
    /// Name of the tool or prompt at its upstream.
    pub name: Option<&'a str>,
    /// URI of the resource or template that its upstream receives, in normal form.
    pub uri: Option<&'a str>,
    /// Arguments as the text of a JSON object.
    pub arguments: Option<&'a str>,
    /// The client's answers to questions of the server, by their keys, as the text of a JSON object.
    pub responses: Option<&'a str>,
    /// `modern` or `legacy`.
    pub era: &'a str,
}

/// `input.mcp.direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `to_server`: the client sends it.
    ToServer,
    /// `to_client`: the server sends it (sampling, elicitation).
    ToClient,
}

impl Direction {
    /// The value in the input document.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::ToServer => "to_server",
            Direction::ToClient => "to_client",
        }
    }
}

/// `input.mcp.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `tool`.
    Tool,
    /// `prompt`.
    Prompt,
    /// `resource`.
    Resource,
    /// `template`: a resource template in a list.
    Template,
    /// `server`: a method of the server as a whole.
    Server,
    /// `stream`: a stream that a client opens or holds.
    Stream,
    /// `other`: a method that MCP does not know.
    Other,
}

impl Kind {
    /// The value in the input document.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Tool => "tool",
            Kind::Prompt => "prompt",
            Kind::Resource => "resource",
            Kind::Template => "template",
            Kind::Server => "server",
            Kind::Stream => "stream",
            Kind::Other => "other",
        }
    }
}

/// `input.tool`: facts of the document, and what the server claims.
#[derive(Clone, Copy, Debug)]
pub struct Tool<'a> {
    /// Name at its server.
    pub original: &'a str,
    /// `low`, `medium`, `high`, `critical` or `unrated`.
    pub risk: &'a str,
    /// Class of the data that it touches.
    pub class: &'a str,
    /// Labels, sorted.
    pub labels: &'a [Arc<str>],
    /// Scopes that a caller needs for it, sorted.
    pub scopes: &'a [Arc<str>],
    /// Who answers for it.
    pub owner: Option<&'a str>,
    /// It changes nothing.
    pub read_only: Option<bool>,
    /// Calling it twice does what calling it once does.
    pub idempotent: Option<bool>,
    /// What its server says of it, as the text of a JSON object: a claim, never a fact.
    pub claimed: Option<&'a str>,
}

/// `input.context`: where from, and why.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Address of the client.
    pub source_ip: IpAddr,
    /// Name of the narrowest network of `data.zones` that holds the address.
    pub zone: Option<&'a str>,
    /// Name of the listener.
    pub listener: &'a str,
    /// Name of the client's software, as it says.
    pub client: Option<&'a str>,
    /// What the caller gave as reason.
    pub justification: Option<&'a str>,
}

/// `input.threat.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threat {
    /// `none`.
    #[default]
    None,
    /// `low`.
    Low,
    /// `high`.
    High,
}

impl Threat {
    /// The value in the input document.
    pub fn as_str(self) -> &'static str {
        match self {
            Threat::None => "none",
            Threat::Low => "low",
            Threat::High => "high",
        }
    }
}
