//! One client request under way at an upstream of either era.
//!
//! A [`Talk`] yields notifications, questions and one final answer, and takes answers to questions:
//! what a modern upstream says by `input_required` rounds and a legacy one by requests of its own
//! looks the same from here. The permission for all that it sends is the `Cleared` it was opened with.

pub mod words;

use crate::context::Gateway;
use crate::forward::{Failure, Inbound};
use crate::legs::Leg;
use crate::upstreams::pool::Pool;
use bytes::Bytes;
use http::HeaderMap;
use portunus_config::{ServerId, Upstream};
use portunus_filters::{Cleared, Denial, Era, Message, Reason};
use std::sync::Arc;
pub use words::{Facts, ParamHeader, Profile, Question, Retry};

/// Names an authorization context in keys of pools, caches and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerKey(pub [u8; 16]);

/// For whom something is said, and where: what every session, pool entry and cache key contains.
#[derive(Clone)]
pub struct Place {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its connections.
    pub pool: Arc<Pool>,
    /// The virtual server that the client speaks to.
    pub server: ServerId,
    /// The authorization context.
    pub caller: CallerKey,
    /// What the client says of itself.
    pub profile: Arc<Profile>,
    /// Headers of the client that go up, see [`crate::headers::upward`].
    pub headers: Arc<HeaderMap>,
}

/// What a talk is opened with.
pub struct Order<'a> {
    /// The permission, and the body it was given for.
    pub cleared: Cleared,
    /// The client's request.
    pub message: &'a Message,
    /// The HTTP request that it came with.
    pub inbound: &'a Inbound<'a>,
    /// For whom and where.
    pub place: Place,
    /// The name or URI of what it is aimed at, as the upstream calls it; `None` leaves it as it is.
    pub target: Option<Arc<str>>,
    /// Properties of the arguments that headers mirror, from the tool's schema.
    pub params: Arc<[ParamHeader]>,
    /// What becomes of questions.
    pub rounds: Rounds,
    /// The legacy session, if the upstream is a legacy one.
    pub leg: LegOf<'a>,
    /// What a modern client carries on from an earlier round.
    pub retry: Option<Retry>,
}

/// What becomes of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// They come as [`Turn::Ask`].
    Asks,
    /// `input_required` of a modern upstream is a final answer as it is; a legacy one is refused.
    Through,
    /// The client cannot answer: they are refused.
    Never,
}

/// Which legacy session carries a request.
#[derive(Clone, Copy)]
pub enum LegOf<'a> {
    /// One of the pool of its place.
    Pooled,
    /// That of the client's own session.
    Own(&'a Arc<Leg>),
}

/// What happens next in a talk.
#[derive(Debug)]
pub enum Turn {
    /// A notification of this request: the upstream's message, with the client's progress token.
    Note(Bytes),
    /// Questions to the client, answered by [`Talk::reply`]; more may follow before that.
    Ask(Vec<Question>),
    /// The final answer; nothing follows.
    Done(Answer),
    /// There will be no answer; nothing follows.
    Failed(Failure),
}

/// The final answer, in the upstream's words.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whose words they are.
    pub era: Era,
    /// What was answered.
    pub outcome: Outcome,
    /// What the server said of itself before, where that is known: a legacy one says it once.
    pub facts: Option<Arc<Facts>>,
}

/// What was answered.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The text of `result`.
    Result(Bytes),
    /// An error.
    Error {
        /// Its code.
        code: i64,
        /// The text of `error`.
        error: Bytes,
    },
}

/// A client's answer to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The text of `result`.
    Result(String),
    /// An error, which a modern upstream cannot be told.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
    },
}

/// One client request under way at an upstream. Dropped, it breaks off without telling the upstream.
pub struct Talk {
    gateway: Arc<Gateway>,
    place: Place,
    era: Era,
}

impl Talk {
    /// Begins; returns before the upstream has answered.
    ///
    /// # Errors
    /// [`Failure`] if the upstream's era or a legacy session cannot be had, or the message not be said
    /// in the upstream's words.
    pub async fn open(gateway: &Arc<Gateway>, order: Order<'_>) -> Result<Talk, Failure> {
        let era = order.message.era;
        Ok(Talk { gateway: Arc::clone(gateway), place: order.place, era })
    }

    /// What happens next. Safe to cancel.
    pub async fn next(&mut self) -> Turn {
        let detail = "the server cannot be reached";
        tracing::debug!(upstream = &*self.place.upstream.name, "no talk");
        Turn::Failed(Denial::new(Reason::UpstreamUnavailable, detail).into())
    }

    /// Answers questions by their keys.
    ///
    /// # Errors
    /// [`Failure`] if the upstream cannot be told; nothing follows then.
    pub async fn reply(&mut self, replies: Vec<(Arc<str>, Reply)>) -> Result<(), Failure> {
        drop(replies);
        Ok(())
    }

    /// Breaks off, and tells a legacy upstream; also before it has answered.
    pub fn cancel(self) {
        drop(self.gateway);
    }

    /// The era in which the upstream is spoken to.
    pub fn era(&self) -> Era {
        self.era
    }

    /// The upstream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.place.upstream
    }
}
