//! The request by which an upstream call is opened.

use super::upstream_headers::Fields;
use super::{Answer, ParamHeader, Question, Reply, Retry, UpstreamCall, UpstreamTarget};
use crate::backend::Backend;
use crate::backend::forward::{AuthorizedCall, Failure, RequestOrigin};
use crate::backend::upstream_sessions::UpstreamSession;
use async_trait::async_trait;
use bytes::Bytes;
use portunus_filters::mcp::bridge::Parts;
use portunus_filters::{Channel, Denial, Holds, Inspectors, Message, Released, ReleasedQuestion};
use std::any::Any;
use std::sync::Arc;

/// The request by which an upstream call is opened.
pub struct CallRequest<'a> {
    /// The permission, and the body it was given for.
    pub permit: Arc<AuthorizedCall>,
    /// The client's request, as it was permitted.
    pub message: &'a Message,
    /// The same taken apart.
    pub parts: &'a Parts<'a>,
    /// The sender of the HTTP request that it came with.
    pub origin: Arc<RequestOrigin>,
    /// For whom and where.
    pub place: UpstreamTarget,
    /// The name or URI of what it is aimed at, as the upstream calls it; `None` leaves it as it is.
    pub target: Option<Arc<str>>,
    /// Properties of the arguments that headers mirror, from the tool's schema.
    pub params: Arc<[ParamHeader]>,
    /// `Mcp-Param-*` of a modern client.
    pub mirrored: Fields,
    /// How these are looked at once more, if the upstream misses a header.
    pub schema_refresh: Option<Box<dyn SchemaRefresh>>,
    /// What becomes of questions.
    pub rounds: Rounds,
    /// The legacy session, if the upstream is a legacy one.
    pub upstream_session: SessionChoice<'a>,
    /// What a modern client carries on from an earlier round.
    pub retry: Option<Retry>,
    /// Who called: what the client may be asked, and have of the answer, depends on it.
    pub responses: Arc<dyn ResponseRules>,
}

/// The filters towards the client of a call: what it may be asked, and have of what its server says.
pub trait ResponseRules: Any + Send + Sync {
    /// True if answers have to be read for [`ResponseRules::passed`].
    fn looks_at_answers(&self) -> bool;

    /// A notification as the client may have it; `None` if it may not.
    fn note(&self, channel: Channel, message: &Bytes) -> Option<Released>;

    /// The questions that the client may be asked, and what the server is told of the others.
    fn sorted(&self, questions: Vec<Question>) -> (Vec<ReleasedQuestion>, Vec<(Arc<str>, Reply)>);

    /// The answer as the client may have it, or what the filters refuse of it; and the revision of the configuration that
    /// has judged it.
    fn passed(&self, answer: Answer<Bytes>) -> (Result<Answer<Released>, Denial>, Arc<str>);

    /// The inspectors of texts of servers that are for the client.
    fn inspectors(&self) -> &Inspectors;

    /// True if the policy that let the call through reads arguments.
    fn reads_arguments(&self) -> bool;
}

/// Looks once more at the schema that the headers of a call were made from, after its server missed one.
#[async_trait]
pub trait SchemaRefresh: Send {
    /// The arguments that headers mirror by the list as it is now, if they are others than `used`.
    async fn params(
        self: Box<Self>,
        backend: Arc<Backend>,
        used: Arc<[ParamHeader]>,
    ) -> Option<Arc<[ParamHeader]>>;
}

/// A client whose own session with a server may be made again.
#[async_trait]
pub trait SessionOwner: Send + Sync {
    /// Its session with the server at `place`: the one it has, or a new one where nothing is lost by that.
    ///
    /// # Errors
    /// [`Failure`] if there is none.
    async fn obtain_upstream_session(&self, place: &UpstreamTarget) -> Result<Arc<UpstreamSession>, Failure>;
}

/// What becomes of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// They come as [`CallEvent::Ask`](super::CallEvent::Ask).
    Asks,
    /// `input_required` of a modern upstream is a final answer as it is; a legacy one is refused.
    Through,
    /// The client cannot answer: they are refused.
    Never,
}

/// Which legacy session carries a request.
#[derive(Clone, Copy)]
pub enum SessionChoice<'a> {
    /// One of the pool of its place.
    Pooled,
    /// That of the client's own session, which may get another while there is nothing to lose.
    Own(&'a Arc<UpstreamSession>, Option<&'a Arc<dyn SessionOwner>>),
}

impl UpstreamCall {
    /// The permits and charges of the call.
    pub fn holds(&self) -> &Holds {
        &self.call.permit.holds
    }
}
