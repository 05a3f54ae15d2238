//! Sends requests to upstreams: the only way out of the process for them.
//!
//! [`send`] takes an [`UpstreamRequest`]. [`Dispatch`] makes one from an [`Admitted`], or from a [`GatewayRequest`] of
//! the closed list of requests that the gateway makes on its own. It also turns an [`Admitted`] into an [`AuthorizedCall`],
//! which makes one for each round of its call. A path that forwards a message that no filter saw does not compile.

mod exchange;

pub use exchange::{Exchange, Held, Patience, Piece, late, malformed};

use crate::backend::gateway_requests::GatewayRequest;
use crate::backend::headers::{OwnFields, binds_connection, write_worded_head};
use crate::backend::upstreams::dial::DialError;
use crate::backend::upstreams::dns::Resolver;
use crate::backend::upstreams::fault::Fault;
use crate::backend::upstreams::pool::{CheckoutError, CheckoutOptions, Pool};
use crate::backend::upstreams::request::Outgoing;
use crate::backend::upstreams::tls::TlsFault;
use crate::request_ids::Trace;
use crate::shares::Owner;
use crate::time_limit::with_deadline;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use portunus_config::{Credentials, Upstream};
use portunus_filters::mcp;
use portunus_filters::mcp::bridge::Parts;
use portunus_filters::mcp::object::MessageIndex;
use portunus_filters::{Admitted, Arrival, Denial, Holds, Message, Reason};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The part of a client's request that a request to an upstream takes over.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// HTTP method.
    pub method: &'a Method,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// The client's query string.
    pub query: Option<&'a str>,
    /// The owner of the share that it takes of the upstream's connections.
    pub owner: Owner,
    /// Its sender.
    pub origin: &'a RequestOrigin,
}

/// The sender of a client's request, as upstreams are told of it.
#[derive(Clone, Debug)]
pub struct RequestOrigin {
    /// The sender as filters see it: its address is the one of `Forwarded`, and its id the one that is logged and answered.
    pub arrival: Arrival,
    /// True if the client's connection to here is under TLS.
    pub secure: bool,
    /// True if `X-Forwarded-Host` and `-Proto` are those of a proxy that may say how the client reached it.
    pub behind_proxy: bool,
    /// The trace that it belongs to.
    pub trace: Trace,
}

/// Turns permissions into requests.
#[derive(Debug)]
pub struct Dispatch;

/// The permission to send one message to one upstream, with its bounded retries.
pub struct UpstreamRequest {
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
    request: Outgoing,
    affinity: ConnectionAffinity,
    owner: Owner,
    retry_policy: RetryPolicy,
    /// What limits hold for it.
    holds: Holds,
    /// How long the head of the answer may take.
    first_byte: Duration,
    deadline: Option<Instant>,
}

/// The tie of a connection to its caller: one that was authenticated with, or is about to be, must not serve another
/// caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionAffinity {
    /// The gateway's own credentials, or none.
    None,
    /// The caller's, which are of the request alone.
    Possible,
    /// The caller's, and they may be of the connection.
    Made,
}

impl ConnectionAffinity {
    fn holds(self, status: StatusCode) -> bool {
        self == ConnectionAffinity::Made
            || (self == ConnectionAffinity::Possible && status == StatusCode::UNAUTHORIZED)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the client is told.
    pub denial: Denial,
    /// What the operator is told.
    pub cause: String,
    /// The upstream may still be working on the message.
    pub pending: bool,
    /// What it says of the place that was to answer.
    pub scope: FailureScope,
    /// What metrics and the log call it; `None` says nothing of the server.
    pub problem: Option<&'static str>,
}

/// What a failure says of the place that was to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureScope {
    /// Nothing.
    #[default]
    Unknown,
    /// It was not reached: nothing of the message was taken, and another place may get it.
    Unreached,
    /// It was reached, and failed.
    Failing,
}

impl Dispatch {
    /// Opens the request of a message; the permission is consumed.
    pub fn open(
        admitted: Admitted,
        inbound: &Inbound<'_>,
        upstream: Arc<Upstream>,
        pool: Arc<Pool>,
        retry_policy: RetryPolicy,
    ) -> UpstreamRequest {
        let within = deadline_of(&admitted);
        let (body, _, holds) = admitted.into_parts();
        let request_parts = RequestParts { inbound, own: &[], body };
        UpstreamRequest {
            holds,
            ..UpstreamRequest::of(request_parts, upstream, pool, retry_policy).within(within)
        }
    }

    /// Turns the permission for a message into one that lasts as long as its request.
    pub fn permit(admitted: Admitted, message: &Message) -> AuthorizedCall {
        let within = deadline_of(&admitted);
        let (body, changed, holds) = admitted.into_parts();
        let message_index = changed.as_deref().unwrap_or(message).message_index.clone();
        AuthorizedCall { body, message_index, changed, holds, within }
    }

    /// Opens the request at an upstream that a gateway request makes.
    pub fn gateway_request(
        gateway_request: &GatewayRequest,
        request_parts: RequestParts<'_>,
        upstream: Arc<Upstream>,
        pool: Arc<Pool>,
        retry_policy: RetryPolicy,
    ) -> UpstreamRequest {
        tracing::trace!(kind = gateway_request.kind(), upstream = &*upstream.name, "gateway request leaves");
        UpstreamRequest::of(request_parts, upstream, pool, retry_policy)
    }
}

/// The permission for one request at one upstream in the words of its era, with its bounded repeats
/// and its continuations: answers to the upstream's questions, further rounds, its cancellation.
pub struct AuthorizedCall {
    body: Bytes,
    message_index: Option<Arc<MessageIndex>>,
    /// The message as it may leave, if a filter changed it.
    changed: Option<Box<Message>>,
    /// The permits and charges of the request.
    pub holds: Holds,
    within: Option<Duration>,
}

/// How long the call of a tool may take by what is known of the tool, instead of what its upstream may.
fn deadline_of(admitted: &Admitted) -> Option<Duration> {
    admitted.decision_record()?.facts.as_ref()?.timeout
}

impl AuthorizedCall {
    /// What was permitted, in the client's words.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The same taken apart.
    ///
    /// # Errors
    /// [`mcp::Fault::Syntax`] if it cannot be read again, after a filter has changed it.
    pub fn parts(&self) -> Result<Parts<'_>, mcp::Fault> {
        Parts::known(self.message_index.as_deref(), &self.body)
    }

    /// Whether a filter changed the message.
    pub fn is_changed(&self) -> bool {
        self.changed.is_some()
    }

    /// The message as it may leave; `sent` is what its client sent.
    pub fn message<'m>(&'m self, sent: &'m Message) -> &'m Message {
        self.changed.as_deref().unwrap_or(sent)
    }

    /// How long all of it may take, where that is not as its upstream says.
    pub fn deadline(&self) -> Option<Duration> {
        self.within
    }

    /// Opens a request for a wording of it.
    pub fn request(
        &self,
        request_parts: RequestParts<'_>,
        upstream: Arc<Upstream>,
        pool: Arc<Pool>,
        retry_policy: RetryPolicy,
    ) -> UpstreamRequest {
        let request = UpstreamRequest::of(request_parts, upstream, pool, retry_policy).within(self.within);
        UpstreamRequest { holds: self.holds.clone(), ..request }
    }
}

/// One HTTP request as an upstream gets it.
pub struct RequestParts<'a> {
    /// Where it comes from.
    pub inbound: &'a Inbound<'a>,
    /// Fields that the gateway says in the client's place.
    pub own: &'a OwnFields,
    /// Its body.
    pub body: Bytes,
}

/// How a request may be used.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// It may be sent again after the upstream may have read it.
    pub repeatable: bool,
    /// Its answer has no end of its own.
    pub endless: bool,
}

impl UpstreamRequest {
    fn of(
        request_parts: RequestParts<'_>,
        upstream: Arc<Upstream>,
        pool: Arc<Pool>,
        retry_policy: RetryPolicy,
    ) -> UpstreamRequest {
        let RequestParts { inbound, own, body } = request_parts;
        let mut head = Outgoing::buffer(body.len());
        match pool.vouch(inbound.headers) {
            None => write_worded_head(&mut head, inbound, own, &upstream, body.len()),
            Some(vouched) => {
                let own = [own, &[vouched]].concat();
                write_worded_head(&mut head, inbound, &own, &upstream, body.len());
            }
        }
        let request = Outgoing::new(head, body);
        let total = if retry_policy.endless { None } else { upstream.timeouts.total };
        let deadline = total.map(|total| Instant::now() + total);
        let first_byte = upstream.timeouts.first_byte;
        let affinity = match upstream.credentials {
            Credentials::Passthrough if binds_connection(inbound.headers) => ConnectionAffinity::Made,
            Credentials::Passthrough => ConnectionAffinity::Possible,
            _ => ConnectionAffinity::None,
        };
        let owner = inbound.owner;
        let holds = Holds::default();
        UpstreamRequest {
            upstream,
            pool,
            request,
            affinity,
            owner,
            retry_policy,
            holds,
            first_byte,
            deadline,
        }
    }

    /// The same with a time of its own, head and all, if it has one.
    fn within(self, timeout: Option<Duration>) -> UpstreamRequest {
        match timeout.filter(|_| !self.retry_policy.endless) {
            Some(timeout) => {
                UpstreamRequest { first_byte: timeout, deadline: Some(Instant::now() + timeout), ..self }
            }
            None => self,
        }
    }

    /// The upstream it leads to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

/// Sends a message and waits for the head of its answer.
///
/// A message of which no byte was accepted is sent once more; so is a repeatable one whose
/// connection ended before a byte of the answer came.
///
/// # Errors
/// [`Failure`].
pub async fn send(request: UpstreamRequest, resolver: Arc<Resolver>) -> Result<Exchange, Failure> {
    let resolver = &resolver;
    let first_byte = Instant::now() + request.first_byte;
    let until = request.deadline.map_or(first_byte, |deadline| deadline.min(first_byte));
    let recoveries = request.pool.recoveries();
    let sent = match attempt(&request, resolver, until, false).await {
        Err(Attempt::Unread(fault)) => {
            tracing::debug!(upstream = &*request.upstream.name, %fault, "sent again on a new connection");
            attempt(&request, resolver, until, true).await
        }
        Err(Attempt::Silent(fault)) if request.retry_policy.repeatable => {
            tracing::debug!(upstream = &*request.upstream.name, %fault, "repeated on a new connection");
            attempt(&request, resolver, until, true).await
        }
        sent => sent,
    };
    sent.map_err(|attempt| {
        let failure = Failure::from(attempt);
        request.pool.note_failure_since(recoveries, &failure);
        failure
    })
}

/// How one attempt failed.
enum Attempt {
    Connect(CheckoutError),
    /// No byte was accepted.
    Unread(Fault),
    /// The connection ended before a byte of the answer.
    Silent(Fault),
    Broken(Fault),
    TimedOut(Duration),
}

async fn attempt(
    request: &UpstreamRequest,
    resolver: &Arc<Resolver>,
    until: Instant,
    fresh: bool,
) -> Result<Exchange, Attempt> {
    let options = CheckoutOptions { fresh, endless: request.retry_policy.endless, owner: request.owner };
    let taken = with_deadline(until, pin!(request.pool.checkout(&request.upstream, resolver, options))).await;
    let taken = taken.unwrap_or(Err(CheckoutError::Dial(DialError::TimedOut)));
    let mut checkout = taken.map_err(|error| {
        request.pool.count_connect_failure(&error);
        Attempt::Connect(error)
    })?;
    let broken = || Attempt::Broken(Fault::Broken(std::io::ErrorKind::NotConnected.into()));
    let connection = checkout.connection().ok_or_else(broken)?;
    let mut commit = CommitOnDrop { holds: &request.holds, stands: true };
    let exchanged = pin!(connection.exchange_until(until, &request.request)).await;
    commit.stands = !matches!(exchanged, Some(Err(Fault::Unsent(_))));
    drop(commit);
    match exchanged {
        Some(Ok(head)) => {
            if request.affinity.holds(head.status) {
                checkout.keep_apart();
            }
            Ok(Exchange { head, checkout, deadline: request.deadline })
        }
        Some(Err(fault @ Fault::Unsent(_))) => Err(Attempt::Unread(fault)),
        Some(Err(fault @ Fault::Silent(_))) => Err(Attempt::Silent(fault)),
        Some(Err(fault)) => Err(Attempt::Broken(fault)),
        None => {
            connection.suspect();
            Err(Attempt::TimedOut(request.first_byte))
        }
    }
}

/// Lets the charges for a request stand once it is sent, also if nobody waits for its answer any more.
struct CommitOnDrop<'a> {
    holds: &'a Holds,
    /// The upstream may have read some of it.
    stands: bool,
}

impl Drop for CommitOnDrop<'_> {
    fn drop(&mut self) {
        if self.stands {
            self.holds.commit();
        }
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Failure {
        let cause = denial.detail.clone().into_owned();
        let problem = problem_of(&denial);
        Failure { cause, denial, pending: true, scope: FailureScope::Unknown, problem }
    }
}

/// What a refusal says of the server: of one that a client's own credentials did not open, nothing.
fn problem_of(denial: &Denial) -> Option<&'static str> {
    denial.reason.as_str().strip_prefix("upstream_").filter(|_| denial.challenge.is_none())
}

impl From<Attempt> for Failure {
    fn from(attempt: Attempt) -> Failure {
        let unavailable = |detail: &'static str| Denial::new(Reason::UpstreamUnavailable, detail);
        let scope = match &attempt {
            Attempt::Connect(CheckoutError::Exhausted | CheckoutError::Dial(DialError::NoDescriptor)) => {
                FailureScope::Unknown
            }
            Attempt::Connect(_) | Attempt::Unread(_) => FailureScope::Unreached,
            Attempt::Silent(_) | Attempt::Broken(_) | Attempt::TimedOut(_) => FailureScope::Failing,
        };
        let dialled = match &attempt {
            // It is the gateway that has no room.
            Attempt::Connect(CheckoutError::Exhausted | CheckoutError::Dial(DialError::NoDescriptor)) => {
                Some(None)
            }
            Attempt::Connect(error) => Some(Some(error.cause().as_str())),
            _ => None,
        };
        let (denial, cause, pending) = match attempt {
            Attempt::Connect(CheckoutError::Exhausted) => {
                (unavailable("the server is busy: try again"), CheckoutError::Exhausted.to_string(), false)
            }
            Attempt::Connect(CheckoutError::Dial(error @ DialError::Tls(TlsFault::Untrusted(_)))) => {
                let detail = "the server did not prove who it is";
                (Denial::new(Reason::UpstreamUntrusted, detail), error.to_string(), false)
            }
            Attempt::Connect(error) => {
                (unavailable("the server cannot be reached"), error.to_string(), false)
            }
            Attempt::Unread(fault) => {
                (unavailable("the server does not take requests"), fault.to_string(), false)
            }
            Attempt::Silent(fault) => {
                (unavailable("the server broke off without an answer"), fault.to_string(), false)
            }
            Attempt::Broken(Fault::Malformed(why)) => {
                let denial = Denial::new(Reason::UpstreamMalformed, "the server's answer is not valid HTTP");
                (denial, why.0.to_owned(), false)
            }
            Attempt::Broken(fault) => {
                (unavailable("the server broke off within its answer"), fault.to_string(), false)
            }
            Attempt::TimedOut(after) => {
                let denial = Denial::new(Reason::UpstreamTimeout, "the server did not answer in time");
                (denial, format!("no answer within {after:?}"), true)
            }
        };
        let problem = dialled.unwrap_or_else(|| problem_of(&denial));
        Failure { denial, cause, pending, scope, problem }
    }
}
