//! What a talk ends with.

use super::server_message::ServerMessage;
use crate::shares::Share;
use bytes::Bytes;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::{self, Facts};
use portunus_filters::mcp::{Remarks, Span};
use std::sync::Arc;

/// The final answer, in the upstream's words.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whose words they are.
    pub era: Era,
    /// What was answered.
    pub outcome: Outcome,
    /// What the server said of itself before, where that is known: a legacy one says it once.
    pub facts: Option<Arc<Facts>>,
    /// The message that it came in, if that was read.
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
    pub(super) fn of(message: &ServerMessage, under_own_id: bool) -> Option<Came> {
        let remarks = message.content.as_ref().ok()?.remarks?;
        Some(Came { message: message.bytes.clone(), under_own_id, remarks })
    }
}

impl Answer {
    /// The message that it came in, if it is still that: nothing was written anew since.
    pub fn as_it_came(&self) -> Option<&Came> {
        self.came.as_ref().filter(|came| Span::locate(&came.message, self.text()).is_some())
    }

    /// The text of the result or of the error.
    pub fn text(&self) -> &Bytes {
        match &self.outcome {
            Outcome::Result(text) | Outcome::Error { error: text, .. } => text,
        }
    }
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

impl Outcome {
    /// Whether it is an error, or the result of a tool that says `isError`.
    pub(super) fn failed(&self) -> bool {
        match self {
            Outcome::Error { .. } => true,
            Outcome::Result(result) => bridge::is_tool_error(result),
        }
    }
}
