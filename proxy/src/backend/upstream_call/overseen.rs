//! Between what an upstream says and its client: inspectors, and the policy on questions.

use super::{Answer, CallEvent, CallParts, CallState, Question, Reply, ResponseRules, Rounds, UpstreamCall};
use crate::backend::forward::Failure;
use crate::backend::resource_cache::Read;
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::offload::INLINE_BYTES;
use bytes::Bytes;
use portunus_filters::Channel;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What an upstream says next, in its own words: nobody has inspected it.
pub(super) enum Heard {
    /// A notification, and the number by which its upstream knows the request.
    Note { message: Bytes, number: Arc<str> },
    /// Questions to the client.
    Ask(Vec<Question>),
    /// The final answer.
    Done(Answer<Bytes>),
    /// There will be no answer.
    Failed(Failure),
}

impl Heard {
    /// A notification that came ahead of the answer to the request `number`.
    pub(super) fn note(message: &ServerMessage, number: &str) -> Heard {
        Heard::Note { message: message.bytes.clone(), number: number.into() }
    }

    /// How long the text is that inspectors read.
    fn bytes(&self) -> usize {
        match self {
            Heard::Note { message, .. } => message.len(),
            Heard::Ask(questions) => questions.iter().map(|question| question.params.len()).sum(),
            Heard::Done(answer) => answer.text().len(),
            Heard::Failed(_) => 0,
        }
    }

    /// How many bytes of the server's text it keeps.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            Heard::Done(answer) => answer.kept_bytes(),
            other => other.bytes(),
        }
    }
}

/// What of it the client may have, and what the upstream is told of questions that the client is not asked.
pub(super) struct Inspected {
    turn: Option<CallEvent>,
    refused: Vec<(Arc<str>, Reply)>,
    /// The revision of the configuration that judged the answer.
    revision: Option<Arc<str>>,
}

impl Inspected {
    /// A turn that the upstream is told nothing of.
    fn of(turn: Option<CallEvent>) -> Inspected {
        Inspected { turn, refused: Vec::new(), revision: None }
    }
}

/// The inspection of a large text.
pub(super) type Inspecting = Pin<Box<dyn Future<Output = Inspected> + Send>>;

impl UpstreamCall {
    /// Holds what servers say to these rules from now on, also what they said before and nobody has heard yet.
    pub fn hold_to(&mut self, rules: Arc<dyn ResponseRules>) {
        self.common.responses = rules;
    }

    /// Reports progress under another token of the client from now on: it does not wait for anything under the
    /// former one.
    pub fn report_to(&mut self, token: Option<String>) {
        self.common.token = token;
    }

    /// Has the inspectors read what was heard. Large texts that have to be read are read where they stop no other call:
    /// [`UpstreamCall::inspected`] waits for them. `read` is where an answer may be kept.
    pub(super) fn inspect(&mut self, heard: Heard, read: Option<Box<Read>>) -> Option<CallEvent> {
        let bytes = heard.bytes();
        if bytes <= INLINE_BYTES || !self.must_be_read(&heard, read.is_some()) {
            let inspected = self.common.inspect(heard, read);
            return self.turn_of(inspected);
        }
        let (common, queue) = (self.common.clone(), self.common.place.pool.offload.clone());
        self.inspecting =
            Some(Box::pin(async move { queue.run(bytes, move || common.inspect(heard, read)).await }));
        None
    }

    /// What a large text is to the client, once it was read. Safe to cancel.
    pub(super) async fn inspected(&mut self) -> Option<CallEvent> {
        let inspected = self.inspecting.as_mut()?.await;
        self.inspecting = None;
        self.turn_of(inspected)
    }

    /// The turn that comes of an inspection, if the client has one.
    fn turn_of(&mut self, inspected: Inspected) -> Option<CallEvent> {
        let Inspected { turn, refused, revision } = inspected;
        self.revision_answered = revision;
        self.unasked.extend(refused);
        match &turn {
            // A modern server takes all answers or none: nobody is asked for nothing.
            Some(CallEvent::Ask(_))
                if !self.unasked.is_empty() && matches!(self.way, CallState::Modern(_)) =>
            {
                return None;
            }
            // Nobody else would hear the one, or be asked the other.
            Some(CallEvent::Note(_) | CallEvent::Ask(_)) => self.read = None,
            Some(CallEvent::Done(_) | CallEvent::Failed(_)) | None => {}
        }
        turn
    }

    /// Whether what was heard has to be read before the client may have it.
    fn must_be_read(&self, heard: &Heard, is_kept: bool) -> bool {
        match heard {
            // They are put into the client's words.
            Heard::Note { .. } => true,
            Heard::Ask(_) | Heard::Done(_) => is_kept || self.common.responses.looks_at_answers(),
            Heard::Failed(_) => false,
        }
    }

    /// Tells the upstream of questions that nobody is asked; if this is cut off, it is told again.
    pub(super) async fn refuse_unasked(&mut self) -> Result<(), Failure> {
        self.reply(self.unasked.clone()).await?;
        self.unasked.clear();
        Ok(())
    }
}

impl CallParts {
    /// What was heard, as the client may have it.
    fn inspect(&self, heard: Heard, read: Option<Box<Read>>) -> Inspected {
        match heard {
            Heard::Note { message, number } => {
                let note = self.responses.note(Channel::CallNotification, &message);
                let note = note.and_then(|note| self.told(&note, &number));
                Inspected::of(note.map(CallEvent::Note))
            }
            Heard::Ask(questions) => {
                let (open, refused) = self.responses.sorted(questions);
                Inspected { refused, ..Inspected::of((!open.is_empty()).then_some(CallEvent::Ask(open))) }
            }
            Heard::Done(answer) => {
                if let Some(read) = read {
                    read.keep(&answer);
                }
                let (passed, revision) = self.responses.passed(answer);
                let turn = passed.map_or_else(|denial| CallEvent::Failed(denial.into()), CallEvent::Done);
                Inspected { revision: Some(revision), ..Inspected::of(Some(turn)) }
            }
            Heard::Failed(failure) => Inspected::of(Some(CallEvent::Failed(failure))),
        }
    }
}

/// Why questions cannot be put to the client, if they cannot.
pub(super) fn unanswerable(common: &CallParts, questions: &[Question]) -> Option<&'static str> {
    let unable = || questions.iter().any(|question| !common.place.profile.can(question.ability()));
    match common.rounds {
        Rounds::Asks if !unable() => None,
        Rounds::Through | Rounds::Asks => Some("the server asks what this client cannot answer"),
        Rounds::Never => Some("the server asks for input, and this client cannot be asked"),
    }
}
