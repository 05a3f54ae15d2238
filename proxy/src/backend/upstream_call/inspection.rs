//! Inspects events of an upstream call before its client has them: inspectors, and the policy on questions.

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

/// The next event of an upstream call in the words of the upstream: nobody has inspected it.
pub(super) enum RawEvent {
    /// A notification, and the number by which its upstream knows the request.
    Note { message: Bytes, number: Arc<str> },
    /// Questions to the client.
    Ask(Vec<Question>),
    /// The final answer.
    Done(Answer<Bytes>),
    /// There will be no answer.
    Failed(Failure),
}

impl RawEvent {
    /// A notification that came ahead of the answer to the request `number`.
    pub(super) fn note(message: &ServerMessage, number: &str) -> RawEvent {
        RawEvent::Note { message: message.bytes.clone(), number: number.into() }
    }

    /// How long the text is that inspectors read.
    fn bytes(&self) -> usize {
        match self {
            RawEvent::Note { message, .. } => message.len(),
            RawEvent::Ask(questions) => questions.iter().map(|question| question.params.len()).sum(),
            RawEvent::Done(answer) => answer.text().len(),
            RawEvent::Failed(_) => 0,
        }
    }

    /// How many bytes of the server's text it keeps.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            RawEvent::Done(answer) => answer.kept_bytes(),
            other => other.bytes(),
        }
    }
}

/// What of it the client may have, and what the upstream is told of questions that the client is not asked.
pub(super) struct Inspected {
    event: Option<CallEvent>,
    refused: Vec<(Arc<str>, Reply)>,
    /// The revision of the configuration that judged the answer.
    revision: Option<Arc<str>>,
}

impl Inspected {
    /// An event that the upstream is told nothing of.
    fn of(event: Option<CallEvent>) -> Inspected {
        Inspected { event, refused: Vec::new(), revision: None }
    }
}

/// The inspection of a large text.
pub(super) type Inspecting = Pin<Box<dyn Future<Output = Inspected> + Send>>;

impl UpstreamCall {
    /// Holds what servers say to these rules from now on, also what they said before and nobody has heard yet.
    pub fn hold_to(&mut self, rules: Arc<dyn ResponseRules>) {
        self.call.responses = rules;
    }

    /// Reports progress under another token of the client from now on: it does not wait for anything under the
    /// former one.
    pub fn report_to(&mut self, token: Option<String>) {
        self.call.token = token;
    }

    /// Has the inspectors read what was heard. Large texts that have to be read are read where they stop no other call:
    /// [`UpstreamCall::inspected`] waits for them. `read` is where an answer may be kept.
    pub(super) fn inspect(&mut self, raw: RawEvent, read: Option<Box<Read>>) -> Option<CallEvent> {
        let bytes = raw.bytes();
        if bytes <= INLINE_BYTES || !self.must_be_read(&raw, read.is_some()) {
            let inspected = self.call.inspect(raw, read);
            return self.event_of(inspected);
        }
        let (call, queue) = (self.call.clone(), self.call.place.pool.offload.clone());
        self.inspecting =
            Some(Box::pin(async move { queue.run(bytes, move || call.inspect(raw, read)).await }));
        None
    }

    /// What a large text is to the client, once it was read. Safe to cancel.
    pub(super) async fn inspected(&mut self) -> Option<CallEvent> {
        let inspected = self.inspecting.as_mut()?.await;
        self.inspecting = None;
        self.event_of(inspected)
    }

    /// The event that comes of an inspection, if the client has one.
    fn event_of(&mut self, inspected: Inspected) -> Option<CallEvent> {
        let Inspected { event, refused, revision } = inspected;
        self.revision_answered = revision;
        self.unasked.extend(refused);
        match &event {
            // A modern server takes all answers or none: nobody is asked for nothing.
            Some(CallEvent::Ask(_))
                if !self.unasked.is_empty() && matches!(self.state, CallState::Modern(_)) =>
            {
                return None;
            }
            // Nobody else would hear the one, or be asked the other.
            Some(CallEvent::Note(_) | CallEvent::Ask(_)) => self.read = None,
            Some(CallEvent::Done(_) | CallEvent::Failed(_)) | None => {}
        }
        event
    }

    /// Whether what was heard has to be read before the client may have it.
    fn must_be_read(&self, raw: &RawEvent, is_kept: bool) -> bool {
        match raw {
            // They are put into the client's words.
            RawEvent::Note { .. } => true,
            RawEvent::Ask(_) | RawEvent::Done(_) => is_kept || self.call.responses.looks_at_answers(),
            RawEvent::Failed(_) => false,
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
    fn inspect(&self, raw: RawEvent, read: Option<Box<Read>>) -> Inspected {
        match raw {
            RawEvent::Note { message, number } => {
                let note = self.responses.note(Channel::CallNotification, &message);
                let note = note.and_then(|note| self.told(&note, &number));
                Inspected::of(note.map(CallEvent::Note))
            }
            RawEvent::Ask(questions) => {
                let (open, refused) = self.responses.sorted(questions);
                Inspected { refused, ..Inspected::of((!open.is_empty()).then_some(CallEvent::Ask(open))) }
            }
            RawEvent::Done(answer) => {
                if let Some(read) = read {
                    read.keep(&answer);
                }
                let (passed, revision) = self.responses.passed(answer);
                let event = passed.map_or_else(|denial| CallEvent::Failed(denial.into()), CallEvent::Done);
                Inspected { revision: Some(revision), ..Inspected::of(Some(event)) }
            }
            RawEvent::Failed(failure) => Inspected::of(Some(CallEvent::Failed(failure))),
        }
    }
}

/// Why questions cannot be put to the client, if they cannot.
pub(super) fn unanswerable(call: &CallParts, questions: &[Question]) -> Option<&'static str> {
    let unable = || questions.iter().any(|question| !call.place.profile.can(question.ability()));
    match call.rounds {
        Rounds::Asks if !unable() => None,
        Rounds::Through | Rounds::Asks => Some("the server asks what this client cannot answer"),
        Rounds::Never => Some("the server asks for input, and this client cannot be asked"),
    }
}
