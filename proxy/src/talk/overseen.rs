//! What policy does to a talk: questions that nobody is asked, and answers that are changed.

use super::{Answer, Common, Question, Rounds, Talk, Turn};
use crate::forward::Failure;
use portunus_filters::Cleared;

impl Talk {
    /// Holds the answer to the rules of a message that takes the call up again, beside those of the call.
    pub fn hold_to(&mut self, cleared: &Cleared) {
        self.common.overseer.add(cleared.answer_rules());
    }

    /// The answer as the client may have it.
    pub(super) fn passed(&self, answer: Answer) -> Turn {
        match self.common.overseer.passed(&self.common.gateway, answer) {
            Ok(answer) => Turn::Done(answer),
            Err(denial) => Turn::Failed(denial.into()),
        }
    }

    /// Tells the upstream of questions that nobody is asked; if this is cut off, it is told again.
    pub(super) async fn refuse_unasked(&mut self) -> Result<(), Failure> {
        self.reply(self.unasked.clone()).await?;
        self.unasked.clear();
        Ok(())
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
