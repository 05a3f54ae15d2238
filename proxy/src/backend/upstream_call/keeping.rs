//! Answers that need not be asked for, and asking for them again aside.

use super::modern::Speech;
use super::{Answer, Common, LegOf, Order, Talk, Turn, Way};
use crate::backend::Backend;
use crate::backend::resource_cache::{AtHand, Read, Wanted};
use bytes::Bytes;
use portunus_filters::Era;
use std::sync::Arc;

/// Where the answer to a request may be kept, if it may.
pub(super) fn sought(
    backend: &Arc<Backend>,
    order: &Order<'_>,
    (era, speech): (Era, &Speech),
) -> Option<Box<Read>> {
    let reads = order.message.method.as_ref().is_some_and(|method| method.is("resources/read"));
    if !reads || order.retry.is_some() || speech.mirrors() {
        return None;
    }
    let session = match order.leg {
        LegOf::Pooled => None,
        // It is known by its stream, which has no name that lasts.
        LegOf::Own(leg, _) if leg.is_relayed() => return None,
        LegOf::Own(leg, _) => leg.id().map(|id| id.as_bytes()),
    };
    let params = order.message.outline.as_ref()?.params(std::str::from_utf8(&order.message.body).ok()?);
    let target = order.target.as_deref();
    let wanted = Wanted { place: &order.place, era, session, params: &params, target };
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

impl Talk {
    /// A talk whose answer is there.
    pub(super) fn given(common: Box<Common>, answer: Answer<Bytes>) -> Talk {
        Talk::new(common, Way::Given(Box::new(answer)))
    }

    /// Gives `meanwhile` for what this talk asks, which goes on aside for those who ask next.
    pub(super) fn aside(self, meanwhile: Answer<Bytes>) -> Talk {
        let given = Talk::given(self.common.clone(), meanwhile);
        tokio::spawn(self.until_its_end());
        given
    }

    async fn until_its_end(mut self) {
        loop {
            match self.next().await {
                Turn::Note(_) => {}
                Turn::Ask(_) => return self.cancel(),
                Turn::Done(_) | Turn::Failed(_) => return,
            }
        }
    }
}
