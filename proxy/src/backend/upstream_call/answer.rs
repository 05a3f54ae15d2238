//! The end of an upstream call.

use super::server_message::ServerMessage;
use crate::shares::Share;
use bytes::Bytes;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::{self, Facts};
use portunus_filters::mcp::{Remarks, Span};
use std::sync::Arc;

/// The final answer, in the upstream's words: `Bytes` as they came, `Released` once inspectors have read them.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// Whose words they are.
    pub era: Era,
    /// What was answered.
    pub outcome: Outcome<T>,
    /// What the server said of itself before, where that is known: a legacy one says it once.
    pub facts: Option<Arc<Facts>>,
    /// The message that it came in, if that was read and nothing was written anew since.
    pub came: Option<Came>,
    /// The share of its upstream's room that it has until it is written, if it is a large one.
    pub room: Option<Arc<Share>>,
}

/// The message that an answer came in.
#[derive(Clone, Debug)]
pub struct Came {
    /// The message.
    pub message: Bytes,
    /// It answers the client's request under the client's own id.
    pub under_own_id: bool,
    /// What its result says at its top.
    pub remarks: Remarks,
}

impl Came {
    fn of(message: &ServerMessage, under_own_id: bool) -> Option<Came> {
        let remarks = message.content.as_ref().ok()?.remarks?;
        Some(Came { message: message.bytes.clone(), under_own_id, remarks })
    }
}

impl Answer<Bytes> {
    /// That of a server of `era`, found in its message; `under_own_id` as in [`Came`].
    pub(super) fn of(
        message: &ServerMessage,
        era: Era,
        outcome: Outcome<Bytes>,
        facts: Option<Arc<Facts>>,
        under_own_id: bool,
    ) -> Answer<Bytes> {
        let (came, room) = (Came::of(message, under_own_id), message.room.clone());
        Answer { era, outcome, facts, came, room }
    }

    /// One that is said in the words of a modern server, which did not write it.
    pub(super) fn own(outcome: Outcome<Bytes>) -> Answer<Bytes> {
        Answer { era: Era::Modern, outcome, facts: None, came: None, room: None }
    }
}

impl<T> Answer<T> {
    /// The text of the result or of the error.
    pub fn text(&self) -> &T {
        match &self.outcome {
            Outcome::Result(text) | Outcome::Error { error: text, .. } => text,
        }
    }

    /// The same answer with another outcome, which may be a part of the message that it came in.
    pub fn with<U: AsRef<[u8]>>(self, outcome: Outcome<U>) -> Answer<U> {
        let Answer { era, facts, came, room, .. } = self;
        let mut answer = Answer { era, outcome, facts, came: None, room };
        answer.came = came.filter(|came| Span::locate(&came.message, answer.text().as_ref()).is_some());
        answer
    }
}

impl<T: AsRef<[u8]>> Answer<T> {
    /// How many bytes it keeps, with the message that it came in.
    pub fn kept_bytes(&self) -> usize {
        // Its text is a part of the message.
        self.came.as_ref().map_or(self.text().as_ref().len(), |came| came.message.len())
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub enum Outcome<T> {
    /// The text of `result`.
    Result(T),
    /// An error.
    Error {
        /// Its code.
        code: i64,
        /// The text of `error`.
        error: T,
    },
}

impl Outcome<Bytes> {
    /// Whether it is an error, or the result of a tool that says `isError`.
    pub(super) fn failed(&self) -> bool {
        match self {
            Outcome::Error { .. } => true,
            Outcome::Result(result) => bridge::is_tool_error(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_its_message_for_as_long_as_it_is_a_part_of_it() {
        let message =
            ServerMessage::read(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#));
        let outcome = message.answer("1", false).unwrap();
        let answer = Answer::of(&message, Era::Modern, outcome.clone(), None, true);
        assert_eq!(answer.kept_bytes(), message.bytes.len());
        let kept = answer.clone().with(outcome);
        assert_eq!(kept.came.unwrap().message, message.bytes);
        let changed = answer.with(Outcome::Result(Bytes::from_static(b"{}")));
        assert!(changed.came.is_none());
        assert_eq!(changed.kept_bytes(), 2);
    }
}
