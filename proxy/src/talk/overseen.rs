//! What policy does to a talk: questions that nobody is asked, and answers that are changed.

use super::{Answer, Common, Question, Rounds, Talk, Turn};
use crate::authorize::Overseer;
use crate::context::Gateway;
use crate::forward::Failure;
use crate::offload::INLINE_BYTES;
use crate::reads::Read;
use portunus_filters::mcp::Envelope;
use portunus_filters::{Cleared, Released};
use std::sync::Arc;

impl Talk {
    /// Holds what servers say to the inspectors of a message that takes the call up again, beside those of the call.
    pub fn hold_to(&mut self, cleared: &Cleared) {
        self.common.overseer.add(cleared.inspectors());
    }

    /// Reports progress under another token of the client from now on; gives the former one.
    pub fn report_to(&mut self, token: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.common.token, token)
    }

    /// A notification that was worded for the `former` token; `None` if nobody waits for it any more.
    pub fn renamed(&self, note: Released, former: Option<&str>) -> Option<Released> {
        let is_progress = |text: &str| {
            Envelope::read(text)
                .is_ok_and(|read| read.method.is_some_and(|method| method.is("notifications/progress")))
        };
        match (is_progress(note.text()), former) {
            (true, Some(former)) => self.common.told(&note, former),
            _ => Some(note),
        }
    }

    /// The last turn: the answer as the client may have it, and kept where it may be. What has to be
    /// read for that is, if it is large, where it stops no other call. Safe to cancel.
    pub(super) async fn close(&mut self, answer: Answer, read: Option<Box<Read>>) -> Turn {
        let (overseer, gateway) = (&self.common.overseer, &self.common.gateway);
        let is_looked_at = read.is_some() || overseer.looks_at_answers(gateway);
        if answer.text().len() <= INLINE_BYTES || !is_looked_at {
            return closed(overseer, gateway, answer, read);
        }
        let (overseer, gateway) = (overseer.clone(), Arc::clone(gateway));
        let queue = self.common.place.pool.offload.clone();
        self.closing = Some(Box::pin(async move {
            queue.run(answer.text().len(), move || closed(&overseer, &gateway, answer, read)).await
        }));
        self.closed().await
    }

    /// What became of a large answer. Safe to cancel.
    pub(super) async fn closed(&mut self) -> Turn {
        match &mut self.closing {
            Some(closing) => {
                let turn = closing.await;
                self.closing = None;
                turn
            }
            None => std::future::pending().await,
        }
    }

    /// Tells the upstream of questions that nobody is asked; if this is cut off, it is told again.
    pub(super) async fn refuse_unasked(&mut self) -> Result<(), Failure> {
        self.reply(self.unasked.clone()).await?;
        self.unasked.clear();
        Ok(())
    }
}

fn closed(overseer: &Overseer, gateway: &Gateway, answer: Answer, read: Option<Box<Read>>) -> Turn {
    if let Some(read) = read {
        read.keep(&answer);
    }
    match overseer.passed(gateway, answer) {
        Ok(answer) => Turn::Done(answer),
        Err(denial) => Turn::Failed(denial.into()),
    }
}

/// Why questions cannot be put to the client, if they cannot.
pub(super) fn unanswerable(common: &Common, questions: &[Question]) -> Option<&'static str> {
    let unable = || questions.iter().any(|question| !common.place.profile.can(question.ability()));
    match common.rounds {
        Rounds::Asks if !unable() => None,
        Rounds::Through | Rounds::Asks => Some("the server asks what this client cannot answer"),
        Rounds::Never => Some("the server asks for input, and this client cannot be asked"),
    }
}
