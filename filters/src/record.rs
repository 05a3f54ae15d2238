//! [`Record`]: all that is kept of one message, and [`Status`], how it ended.

use crate::decision_record::DecisionRecord;
use crate::identity::Principal;
use crate::limits::ReachedLimit;
use crate::{Era, Reason};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The record of one message, or of one batch: no payload and no secret.
///
/// Clients and servers chose some of its texts, so a sink escapes them.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its number in this run of the process.
    pub event: u64,
    /// The id under which the client knows the message.
    pub request_id: Arc<str>,
    /// The trace that the client says it belongs to.
    pub trace_id: Option<Box<str>>,
    /// The listener that took it.
    pub listener: Arc<str>,
    /// The address of the client.
    pub source: Option<IpAddr>,
    /// The method by which the caller was authenticated.
    pub auth: &'static str,
    /// The caller, once verified.
    pub caller: Option<Arc<Principal>>,
    /// When it arrived, since the Unix epoch.
    pub arrived: Duration,
    /// The name that the client's software gives itself.
    pub user_agent: Option<Box<str>>,
    /// The virtual server.
    pub server: Option<Arc<str>>,
    /// The upstream that was chosen.
    pub upstream: Option<Arc<str>>,
    /// The era of the message.
    pub era: Option<Era>,
    /// The MCP revision of the message.
    pub version: Option<&'static str>,
    /// The method of the message; of a batch, of its first.
    pub action: Option<Cow<'static, str>>,
    /// The tool, prompt, resource or task that it is about.
    pub target: Option<Arc<str>>,
    /// The revision of the configuration by which it was judged.
    pub revision: Option<Arc<str>>,
    /// The revision of the configuration by which its answer was judged, if that is another.
    pub revision_answered: Option<Arc<str>>,
    /// Bytes of its body.
    pub request_bytes: usize,
    /// Bytes of the answer that the client was sent.
    pub response_bytes: u64,
    /// Events of the answer that the client was sent.
    pub events: u64,
    /// The status line that the client was sent; 0 if none was.
    pub http_status: u16,
    /// The reason of a refusal or failure.
    pub reason: Option<Reason>,
    /// The cause of a refusal or failure, for operators alone.
    pub detail: Option<String>,
    /// The way it ended.
    pub status: Option<Status>,
    /// The code of a JSON-RPC error that its server answered; 0 if that has none.
    pub rpc_error: Option<i64>,
    /// Its server gave a result that is no tool error, so the target exists.
    pub proven: bool,
    /// The decision of the policy.
    pub decision_record: Option<Arc<DecisionRecord>>,
    /// The limit that refused it.
    pub limit: Option<Arc<ReachedLimit>>,
    /// Rules that only observe and would have refused it.
    pub observed: Vec<Arc<str>>,
    /// Texts that its client did not get, since they had to be read and are longer than what is held for that.
    pub texts_blocked: u64,
    /// Such texts that its client got unread.
    pub texts_unread: u64,
    /// From its arrival to its end.
    pub elapsed: Duration,
    /// The part of that in which its upstream was waited for.
    pub upstream_time: Option<Duration>,
}

impl Record {
    /// The way it ended: a message that was left without an end was cancelled.
    pub fn status(&self) -> Status {
        self.status.unwrap_or(Status::Cancelled)
    }

    /// The tool, if it is a call of one.
    pub fn tool(&self) -> Option<&str> {
        self.target.as_deref().filter(|_| self.action.as_deref() == Some("tools/call"))
    }
}

/// The way a message ended, as `mcp_requests_total` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Answered.
    Ok,
    /// Refused by a rule about the caller.
    Denied,
    /// Refused by a limit.
    Limited,
    /// Malformed, contradictory or out of bounds.
    Invalid,
    /// The upstream failed.
    UpstreamError,
    /// The upstream did not answer in time.
    Timeout,
    /// The client went away.
    Cancelled,
    /// The upstream answered with a JSON-RPC error.
    Error,
}

impl Status {
    /// All of them, in the order of the variants.
    pub const ALL: [Status; 8] = [
        Status::Ok,
        Status::Denied,
        Status::Limited,
        Status::Invalid,
        Status::UpstreamError,
        Status::Timeout,
        Status::Cancelled,
        Status::Error,
    ];

    /// True if the gateway refused the message; any other it let pass, with whatever end.
    pub fn is_refusal(self) -> bool {
        matches!(self, Status::Denied | Status::Limited | Status::Invalid)
    }

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Denied => "denied",
            Status::Limited => "limited",
            Status::Invalid => "invalid",
            Status::UpstreamError => "upstream_error",
            Status::Timeout => "timeout",
            Status::Cancelled => "cancelled",
            Status::Error => "error",
        }
    }
}

impl From<Reason> for Status {
    fn from(reason: Reason) -> Status {
        match reason {
            Reason::ForbiddenHost
            | Reason::ForbiddenOrigin
            | Reason::Overloaded
            | Reason::Crowded
            | Reason::Draining
            | Reason::Unauthenticated
            | Reason::InvalidToken
            | Reason::InsufficientScope
            | Reason::IdentityUnavailable
            | Reason::Forbidden
            | Reason::StepUpRequired
            | Reason::ApprovalRequired
            | Reason::PolicyError
            | Reason::PolicyLimited
            | Reason::ResultTooLarge => Status::Denied,
            Reason::RateLimited
            | Reason::QuotaSpent
            | Reason::BudgetSpent
            | Reason::ConcurrencyReached
            | Reason::LoopDetected => Status::Limited,
            Reason::UpstreamUnavailable
            | Reason::UpstreamLimited
            | Reason::UpstreamMalformed
            | Reason::UpstreamUnauthorized
            | Reason::UpstreamUntrusted
            | Reason::Untranslatable
            | Reason::EraMismatch
            | Reason::ReplicaLost
            | Reason::AnswerLost
            | Reason::RouteRemoved => Status::UpstreamError,
            Reason::UpstreamTimeout => Status::Timeout,
            Reason::MalformedHttp
            | Reason::HeadersTooLarge
            | Reason::RequestTimeout
            | Reason::UnknownRoute
            | Reason::MethodNotAllowed
            | Reason::UnsupportedMediaType
            | Reason::NotAcceptable
            | Reason::BodyTooLarge
            | Reason::ParseError
            | Reason::InvalidRequest
            | Reason::BoundsExceeded
            | Reason::HeaderMismatch
            | Reason::UnsupportedVersion
            | Reason::InvalidEnvelope
            | Reason::UnknownTool
            | Reason::UnknownPrompt
            | Reason::UnknownResource
            | Reason::UnknownMethod
            | Reason::InvalidParams
            | Reason::MissingCapability
            | Reason::MissingSession
            | Reason::UnknownSession
            | Reason::UnknownState => Status::Invalid,
        }
    }
}
