//! What is known of a message for its answer, and for a refusal of it.

use crate::frontend::expected::Expect;
use crate::reply::Refused;
use portunus_config::HttpStatus;
use portunus_filters::mcp::Id;
use portunus_filters::{Era, Kind, Message};

/// What a refusal may use of a message.
#[derive(Default)]
pub(super) struct RefusalContext {
    pub(super) kind: Option<Kind>,
    pub(super) era: Option<Era>,
    pub(super) ids: Vec<Id>,
    pub(super) batch: bool,
    pub(super) method: Option<portunus_filters::mcp::Method>,
    pub(super) http_status: HttpStatus,
}

impl RefusalContext {
    /// What is known of a message before anything of its answer was passed on.
    pub(super) fn of(expect: &Expect, http_status: HttpStatus) -> RefusalContext {
        RefusalContext {
            kind: Some(expect.kind),
            era: Some(expect.era),
            ids: expect.open.clone(),
            batch: expect.batch,
            method: expect.method.clone(),
            http_status,
        }
    }

    /// The same as a refusal is made from it.
    pub(super) fn refused(&self) -> Refused<'_> {
        Refused {
            kind: self.kind,
            era: self.era,
            ids: &self.ids,
            batch: self.batch,
            method: self.method.as_ref(),
            http_status: self.http_status,
        }
    }
}

/// Whether a message may be sent again after its upstream may have read it.
pub(super) fn is_repeatable(message: &Message) -> bool {
    match message.kind {
        Kind::Stream | Kind::End => true,
        _ => message.method.as_ref().and_then(|method| method.rules()).is_some_and(|rules| rules.repeatable),
    }
}
