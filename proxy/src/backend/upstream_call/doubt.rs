//! Saying a call once more when its server missed a header: with those of the schema as it is now.

use super::modern::{Modern, Speech};
use super::{Answer, CallState, Heard, Outcome, SchemaRefresh, UpstreamCall};
use crate::backend::forward::Failure;
use bytes::Bytes;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::ParamHeader;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The server found headers that do not fit the body (2026-07-28 streamable-http), and did nothing.
const HEADER_MISMATCH: i64 = -32020;

type Asking = Pin<Box<dyn Future<Output = Option<Arc<[ParamHeader]>>> + Send>>;

/// What becomes of the first answer that says so.
pub(super) enum Doubt {
    /// Nothing was said yet.
    Open(Box<(Box<dyn SchemaRefresh>, Speech)>),
    /// The list is asked for again.
    Asks(Asking, Box<(Speech, Answer<Bytes>)>),
}

impl Doubt {
    pub(super) fn of(relist: Option<Box<dyn SchemaRefresh>>, era: Era, speech: Speech) -> Option<Doubt> {
        let relist = relist.filter(|_| era == Era::Modern)?;
        Some(Doubt::Open(Box::new((relist, speech))))
    }
}

impl UpstreamCall {
    /// Asks for the list again if that may help; gives back what was heard if not.
    pub(super) fn doubts(&mut self, heard: Heard) -> Option<Heard> {
        let is_first = matches!(&self.way, CallState::Modern(modern) if modern.is_in_first_round());
        match (heard, self.doubt.take()) {
            (Heard::Done(answer), Some(Doubt::Open(open))) if is_first && is_mismatch(&answer) => {
                let (relist, speech) = *open;
                let asking = relist.params(Arc::clone(&self.common.backend), speech.params());
                self.doubt = Some(Doubt::Asks(asking, Box::new((speech, answer))));
                None
            }
            (heard, doubt) => {
                self.doubt = doubt;
                Some(heard)
            }
        }
    }

    /// Whether the list is asked for again.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self.doubt, Some(Doubt::Asks(..)))
    }

    /// Says the call again if its schema is another one; else the answer stands. Safe to cancel.
    pub(super) async fn doubted(&mut self) -> Option<Heard> {
        let Some(Doubt::Asks(asking, _)) = &mut self.doubt else { return None };
        let params = asking.await;
        let Some(Doubt::Asks(_, known)) = self.doubt.take() else { return None };
        let (speech, answer) = *known;
        let Some(params) = params else { return Some(Heard::Done(answer)) };
        tracing::debug!(upstream = &*self.upstream().name, "a call is said again by a newer list");
        match self.say_again(&speech.with(params)) {
            Ok(()) => None,
            Err(failure) => Some(Heard::Failed(failure)),
        }
    }

    fn say_again(&mut self, speech: &Speech) -> Result<(), Failure> {
        self.way = CallState::Modern(Box::new(Modern::open((&self.common, &self.common.parts()?), speech)?));
        Ok(())
    }
}

fn is_mismatch(answer: &Answer<Bytes>) -> bool {
    matches!(answer.outcome, Outcome::Error { code: HEADER_MISMATCH, .. })
}
