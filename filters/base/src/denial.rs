//! Why a message is refused.
//!
//! A [`Reason`] is a closed list and part of the contract: `error.data.reason`, the metric label,
//! the `Portunus-Outcome` header and a row of `docs/errors.md` are all its name. How a reason looks
//! on the wire is decided in one place, the proxy's `reply` module.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal),+ $(,)?) => {
        /// The closed list of refusals.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the stages that give it.
            pub const ALL: &[Reason] = &[$(Reason::$variant),+];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $name),+ }
            }
        }
    };
}

reasons! {
    /// The connection, header section or framing broke HTTP's rules; the connection is closed.
    MalformedHttp => "malformed_http",
    /// The header section is larger, or has more fields, than the listener takes.
    HeadersTooLarge => "headers_too_large",
    /// A header section or body did not arrive before its deadline.
    RequestTimeout => "request_timeout",
    /// A connection or request above what this process may hold at once.
    Overloaded => "overloaded",
    /// `Host` names no host that this listener answers for.
    ForbiddenHost => "forbidden_host",
    /// `Origin` is not listed.
    ForbiddenOrigin => "forbidden_origin",
    /// No virtual server has this host and path.
    UnknownRoute => "unknown_route",
    /// Nothing was shown of who calls, and this endpoint asks for it.
    Unauthenticated => "unauthenticated",
    /// What was shown of who calls does not hold.
    InvalidToken => "invalid_token",
    /// What was shown holds, and does not reach as far as this.
    InsufficientScope => "insufficient_scope",
    /// The policy does not allow it.
    Forbidden => "forbidden",
    /// The caller has to authenticate again, or better, for this.
    StepUpRequired => "step_up_required",
    /// Others have to agree to it first.
    ApprovalRequired => "approval_required",
    /// The policy gave no decision.
    PolicyError => "policy_error",
    /// The caller has used up its CPU time for decisions or lists.
    PolicyLimited => "policy_limited",
    /// A rate has no room for one more.
    RateLimited => "rate_limited",
    /// A quota has no room for one more before its window ends.
    QuotaSpent => "quota_spent",
    /// A budget has no room for the price of the call before its window ends, or the price is above the ceiling of a call.
    BudgetSpent => "budget_spent",
    /// As many are under way as may be at once.
    ConcurrencyReached => "concurrency_reached",
    /// The same call was repeated too often.
    LoopDetected => "loop_detected",
    /// The answer is longer than this caller may have.
    ResultTooLarge => "result_too_large",
    /// Nobody can tell now whether what was shown holds.
    IdentityUnavailable => "identity_unavailable",
    /// The HTTP method has no meaning on an MCP endpoint.
    MethodNotAllowed => "method_not_allowed",
    /// The body is not declared as uncoded UTF-8 JSON.
    UnsupportedMediaType => "unsupported_media_type",
    /// The client accepts neither JSON nor an event stream.
    NotAcceptable => "not_acceptable",
    /// The body is larger than the limit.
    BodyTooLarge => "body_too_large",
    /// The body is no JSON, or not UTF-8.
    ParseError => "parse_error",
    /// The body is JSON and no message that this revision knows.
    InvalidRequest => "invalid_request",
    /// The message is nested, long or wide beyond the bounds of the virtual server.
    BoundsExceeded => "bounds_exceeded",
    /// A header contradicts the body, or one that the revision asks for is missing.
    HeaderMismatch => "header_mismatch",
    /// The protocol revision is not served here.
    UnsupportedVersion => "unsupported_version",
    /// The modern envelope in `_meta` is missing or broken.
    InvalidEnvelope => "invalid_envelope",
    /// No tool of that name is served here.
    UnknownTool => "unknown_tool",
    /// No prompt of that name is served here.
    UnknownPrompt => "unknown_prompt",
    /// No resource of that URI is served here.
    UnknownResource => "unknown_resource",
    /// No server behind this endpoint has the method.
    UnknownMethod => "unknown_method",
    /// The parameters are not those of the method.
    InvalidParams => "invalid_params",
    /// The request needs something that the client did not declare.
    MissingCapability => "missing_capability",
    /// A request of a session, without the session's id.
    MissingSession => "missing_session",
    /// The session has ended, never was, or is another caller's.
    UnknownSession => "unknown_session",
    /// The `requestState` or cursor has expired, was used, or is another caller's.
    UnknownState => "unknown_state",
    /// As many calls wait for input of this caller, or of all, as may; or a session has as many
    /// subscriptions.
    Crowded => "crowded",
    /// A call that waited for its client at a replica that is gone.
    ReplicaLost => "replica_lost",
    /// The client came back for an answer that is no longer kept.
    AnswerLost => "answer_lost",
    /// The server's answer has no form in the client's revision.
    Untranslatable => "untranslatable",
    /// The server speaks another era than the client, and the endpoint does not translate.
    EraMismatch => "era_mismatch",
    /// The upstream cannot be reached, or broke off before it answered.
    UpstreamUnavailable => "upstream_unavailable",
    /// The upstream takes no more requests for now.
    UpstreamLimited => "upstream_limited",
    /// The upstream did not prove that it is who the configuration names.
    UpstreamUntrusted => "upstream_untrusted",
    /// The upstream did not answer in time.
    UpstreamTimeout => "upstream_timeout",
    /// The upstream answered something that is no MCP answer.
    UpstreamMalformed => "upstream_malformed",
    /// The upstream refused the credentials of the gateway, or those of the client that it was shown.
    UpstreamUnauthorized => "upstream_unauthorized",
    /// The gateway is shutting down.
    Draining => "draining",
    /// The configuration that this stream ran under is gone.
    RouteRemoved => "route_removed",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The member of `error.data` that says when it is worth coming back.
const RETRY_AFTER_MS: &str = "retryAfterMs";

/// A refusal on its way to the client.
///
/// `detail` is public: it never holds payload, credentials or addresses inside.
#[derive(Clone, Debug)]
pub struct Denial {
    /// Which of the closed list.
    pub reason: Reason,
    /// What a person should read.
    pub detail: Cow<'static, str>,
    /// Further members of `error.data`, values as JSON text.
    pub data: Vec<(&'static str, String)>,
    /// Boxed, as refusals are what most functions may give back.
    account: Option<Box<Account>>,
    /// What a server asks of the client that it refused by itself.
    pub challenge: Option<Box<Challenge>>,
}

/// The account of how a refusal came about, for readers who know its type: opaque here.
#[derive(Clone)]
struct Account(Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

/// Refusals are compared by what a client gets.
impl PartialEq for Denial {
    fn eq(&self, other: &Denial) -> bool {
        (self.reason, &self.detail, &self.data, &self.challenge)
            == (other.reason, &other.detail, &other.data, &other.challenge)
    }
}

/// A server's refusal of the credentials that the client itself has shown it (RFC 9110 sections
/// 11.6.1 and 15.5.2; MCP authorization, "Error Handling").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// HTTP status: 401 or 403.
    pub status: u16,
    /// Values of `WWW-Authenticate`, as the server wrote them.
    pub fields: Vec<Box<[u8]>>,
}

impl Denial {
    /// A refusal with its public text.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Denial {
        Denial { reason, detail: detail.into(), data: Vec::new(), account: None, challenge: None }
    }

    /// Adds a member of `error.data`; `json` must be JSON text.
    #[must_use]
    pub fn with(mut self, key: &'static str, json: String) -> Denial {
        self.data.push((key, json));
        self
    }

    /// Adds when it is worth coming back, as `error.data.retryAfterMs`: never at once.
    #[must_use]
    pub fn retry_in(self, after: Option<Duration>) -> Denial {
        match after {
            Some(after) => self.with(RETRY_AFTER_MS, after.as_millis().max(1).to_string()),
            None => self,
        }
    }

    /// When it is worth coming back, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        let (_, ms) = self.data.iter().find(|(key, _)| *key == RETRY_AFTER_MS)?;
        ms.parse().ok().map(Duration::from_millis)
    }

    /// Adds how it came about, for the operator alone.
    #[must_use]
    pub fn because(self, account: Arc<impl Any + Send + Sync>) -> Denial {
        Denial { account: Some(Box::new(Account(account))), ..self }
    }

    /// The account of how it came about, if one of this type was left.
    pub fn account<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let Account(account) = &**self.account.as_ref()?;
        Arc::clone(account).downcast().ok()
    }

    /// Adds what the server asks of the client.
    #[must_use]
    pub fn challenged(self, challenge: Challenge) -> Denial {
        Denial { challenge: Some(Box::new(challenge)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_snake_case() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            let name = reason.as_str();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(Reason::ALL[index + 1..].iter().all(|other| other.as_str() != name), "{name}");
        }
    }
}
