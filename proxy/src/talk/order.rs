//! The order by which a talk is opened.

use super::voice::Fields;
use super::{ParamHeader, Place, Retry};
use crate::authorize::Overseer;
use crate::bridge::sessions::Session;
use crate::catalog::Relist;
use crate::forward::{Inbound, Permit};
use crate::legs::Leg;
use portunus_filters::Message;
use portunus_filters::mcp::bridge::Parts;
use std::sync::Arc;

/// What a talk is opened with.
pub struct Order<'a> {
    /// The permission, and the body it was given for.
    pub permit: Arc<Permit>,
    /// The client's request, as it was permitted.
    pub message: &'a Message,
    /// The same taken apart.
    pub parts: &'a Parts<'a>,
    /// The HTTP request that it came with.
    pub inbound: &'a Inbound<'a>,
    /// For whom and where.
    pub place: Place,
    /// The name or URI of what it is aimed at, as the upstream calls it; `None` leaves it as it is.
    pub target: Option<Arc<str>>,
    /// Properties of the arguments that headers mirror, from the tool's schema.
    pub params: Arc<[ParamHeader]>,
    /// `Mcp-Param-*` of a modern client.
    pub mirrored: Fields,
    /// How these are looked at once more, if the upstream misses a header.
    pub relist: Option<Relist>,
    /// What becomes of questions.
    pub rounds: Rounds,
    /// The legacy session, if the upstream is a legacy one.
    pub leg: LegOf<'a>,
    /// What a modern client carries on from an earlier round.
    pub retry: Option<Retry>,
    /// Who called: what the client may be asked, and have of the answer, depends on it.
    pub overseer: Overseer,
}

/// What becomes of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// They come as [`Turn::Ask`](super::Turn::Ask).
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
    /// That of the client's own session, which may get another while there is nothing to lose.
    Own(&'a Arc<Leg>, Option<&'a Arc<Session>>),
}
