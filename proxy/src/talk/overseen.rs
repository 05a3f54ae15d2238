//! What policy does to a talk: questions that nobody is asked, and answers that are changed.

use super::{Answer, Talk, Turn};
use crate::forward::Failure;

impl Talk {
    /// The answer as the client may have it.
    pub(super) fn passed(&self, answer: Answer) -> Turn {
        match self.common.overseer.passed(&self.common.gateway, answer) {
            Ok(answer) => Turn::Done(answer),
            Err(denial) => Turn::Failed(denial.into()),
        }
    }

    /// Tells the upstream of questions that nobody is asked; if this is cut off, it is told again.
    pub(super) async fn refuse_unasked(&mut self) -> Result<(), Failure> {
        if !self.unasked.is_empty() {
            self.reply(self.unasked.clone()).await?;
            self.unasked.clear();
        }
        Ok(())
    }
}
