//! Answers that need not be asked for, and asking for them again aside.

use super::modern::ModernOptions;
use super::{Answer, CallEvent, CallParts, CallRequest, CallState, SessionChoice, UpstreamCall};
use crate::backend::Backend;
use crate::backend::resource_cache::{AtHand, Read, Wanted};
use bytes::Bytes;
use portunus_filters::Era;
use std::sync::Arc;

/// Where the answer to a request may be kept, if it may.
pub(super) fn sought(
    backend: &Arc<Backend>,
    request: &CallRequest<'_>,
    (era, options): (Era, &ModernOptions),
) -> Option<Box<Read>> {
    let reads = request.message.method.as_ref().is_some_and(|method| method.is("resources/read"));
    if !reads || request.retry.is_some() || options.mirrors() {
        return None;
    }
    let session = match request.upstream_session {
        SessionChoice::Pooled => None,
        // It is known by its stream, which has no name that lasts.
        SessionChoice::Own(upstream_session, _) if upstream_session.is_relayed() => return None,
        SessionChoice::Own(upstream_session, _) => upstream_session.id().map(|id| id.as_bytes()),
    };
    let params =
        request.message.message_index.as_ref()?.params(std::str::from_utf8(&request.message.body).ok()?);
    let target = request.target.as_deref();
    let wanted = Wanted { place: &request.place, era, session, params: &params, target };
    backend.reads.read(&backend.clock, &wanted).map(Box::new)
}

/// What is to be done for an answer.
pub(super) enum Sought {
    /// Nothing: it is here.
    Found(Answer<Bytes>),
    /// It is to be asked for; one that is here will do meanwhile.
    Asked { read: Option<Box<Read>>, meanwhile: Option<Answer<Bytes>> },
}

/// Looks for the answer to a request of an upstream of `era`.
pub(super) async fn look(read: Option<Box<Read>>, era: Era) -> Sought {
    let Some(mut read) = read else { return Sought::Asked { read: None, meanwhile: None } };
    match read.at_hand() {
        Some(AtHand::Fresh(answer) | AtHand::Renewing(answer)) => return Sought::Found(answer),
        Some(AtHand::Older(answer)) => return Sought::Asked { read: Some(read), meanwhile: Some(answer) },
        None => {}
    }
    // A legacy session is not taken by who only waits for what somebody else was answered.
    if era == Era::Legacy
        && let Some(answer) = read.kept().await
    {
        return Sought::Found(answer);
    }
    Sought::Asked { read: Some(read), meanwhile: None }
}

impl UpstreamCall {
    /// An upstream call whose answer is there.
    pub(super) fn given(call: Box<CallParts>, answer: Answer<Bytes>) -> UpstreamCall {
        UpstreamCall::new(call, CallState::Given(Box::new(answer)))
    }

    /// Gives `meanwhile` for what this upstream call asks, which goes on aside for those who ask next.
    pub(super) fn aside(self, meanwhile: Answer<Bytes>) -> UpstreamCall {
        let given = UpstreamCall::given(self.call.clone(), meanwhile);
        tokio::spawn(self.until_its_end());
        given
    }

    async fn until_its_end(mut self) {
        loop {
            match self.next().await {
                CallEvent::Note(_) => {}
                CallEvent::Ask(_) => return self.cancel(),
                CallEvent::Done(_) | CallEvent::Failed(_) => return,
            }
        }
    }
}
