//! [`Released`]: text that may be written to a client.
//!
//! Everything that writes to clients takes nothing else, so a way that forgets to say what it writes does not compile.
//! Each text names the [`Channel`] on which it reaches the client.

use crate::mcp::bridge::{self, Question};
use bytes::{Buf, Bytes};
use std::ops::Deref;

/// A place at which text of others reaches a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The result of a request, with the members beside it.
    Result,
    /// The JSON-RPC error of a request.
    Error,
    /// A notification ahead of an answer.
    CallNotification,
    /// A notification on a stream of a session or a subscription.
    StreamNotification,
    /// A question of a server: a request, or a result that requires input.
    Question,
    /// The result that has the entries of a list.
    List,
    /// The description that servers give of themselves: `initialize`, `server/discover`, the end of a subscription.
    ServerInfo,
    /// The challenges of a server that asks for other credentials.
    Challenge,
    /// Metadata of an authorization server.
    AuthorizationMetadata,
    /// An answer that is passed as it came, with its head.
    Raw,
    /// Text that the gateway wrote itself.
    Own,
}

/// Text that may be written to a client, and the channel that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    channel: Channel,
    bytes: Bytes,
}

/// A question that may be put to a client.
#[derive(Clone, Debug)]
pub struct ReleasedQuestion(Question);

/// The right to write an answer as it came.
#[derive(Clone, Copy, Debug)]
pub struct RawPass(());

impl RawPass {
    /// That of a message which goes to its one server as it came: no filter reads its answer.
    pub fn of_passed_message() -> RawPass {
        RawPass(())
    }

    /// That of an answer which the replica that owns its state has released.
    pub fn of_owner() -> RawPass {
        RawPass(())
    }

    /// Releases a part of a body.
    pub fn release(self, bytes: Bytes) -> Released {
        Released { channel: Channel::Raw, bytes }
    }
}

impl Released {
    /// Releases text that the gateway wrote itself: no server chose a part of it.
    pub fn own(text: impl Into<Bytes>) -> Released {
        Released { channel: Channel::Own, bytes: text.into() }
    }

    /// Releases text that the filters, or the inspectors of its message, have read.
    pub(crate) fn inspected(channel: Channel, bytes: Bytes) -> Released {
        Released { channel, bytes }
    }

    /// The same in other words: in those of the client, or under its present request.
    pub fn translated(&self, text: impl Into<Bytes>) -> Released {
        self.with(text.into())
    }

    /// The channel that it is for.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The text.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The text; empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The same text in memory of its own: what is kept does not hold the buffer that it was cut from.
    pub fn detached(&self) -> Released {
        self.with(Bytes::copy_from_slice(&self.bytes))
    }

    /// Parts of the text, each of at most `longest` bytes.
    pub fn split(mut self, longest: usize) -> impl Iterator<Item = Released> {
        std::iter::from_fn(move || {
            (!self.is_empty()).then(|| {
                let part = self.bytes.split_to(self.bytes.len().min(longest));
                self.with(part)
            })
        })
    }

    /// Joins texts that are one message.
    pub fn concat(parts: &[Released]) -> Released {
        let mut bytes = Vec::with_capacity(parts.iter().map(Released::len).sum());
        parts.iter().for_each(|part| bytes.extend_from_slice(&part.bytes));
        Released { channel: channel_of(parts), bytes: bytes.into() }
    }

    /// Joins answers to a JSON-RPC batch (JSON-RPC 2.0 §6).
    pub fn batch(answers: &[Released]) -> Released {
        let mut bytes = Vec::with_capacity(answers.iter().map(|answer| answer.len() + 1).sum::<usize>() + 1);
        for answer in answers {
            bytes.push(if bytes.is_empty() { b'[' } else { b',' });
            bytes.extend_from_slice(&answer.bytes);
        }
        bytes.push(b']');
        Released { channel: channel_of(answers), bytes: bytes.into() }
    }

    /// The text as an event of a stream; `id` is what a client resumes by.
    pub fn event(&self, id: Option<&str>) -> Released {
        let mut event = Vec::with_capacity(self.len() + 40 + id.map_or(0, str::len));
        self.clone().event_parts(id, usize::MAX).for_each(|part| event.extend_from_slice(&part.bytes));
        self.with(event.into())
    }

    /// As [`Released::event`], in parts of at most `longest` bytes that share the memory of the text.
    ///
    /// A message may have line ends between its members; an event has none within a `data` line.
    pub fn event_parts(self, id: Option<&str>, longest: usize) -> impl Iterator<Item = Released> + use<> {
        let channel = self.channel;
        let mut rest = Some(self.bytes);
        let mut head = match id {
            None => Bytes::from_static(b"event: message\ndata: "),
            Some(id) => Bytes::from(format!("event: message\nid: {id}\ndata: ")),
        };
        let lines = std::iter::from_fn(move || {
            let mut text = rest.take()?;
            let end = memchr::memchr2(b'\n', b'\r', &text).unwrap_or(text.len());
            let line = text.split_to(end);
            let before = std::mem::replace(&mut head, Bytes::from_static(b"\ndata: "));
            if !text.is_empty() {
                text.advance(1);
                rest = Some(text);
            }
            let released = move |bytes| Released { channel, bytes };
            let end = rest.is_none().then(|| released(Bytes::from_static(b"\n\n")));
            Some(std::iter::once(released(before)).chain(released(line).split(longest)).chain(end))
        });
        lines.flatten()
    }

    fn with(&self, bytes: Bytes) -> Released {
        Released { channel: self.channel, bytes }
    }
}

impl ReleasedQuestion {
    /// Releases a question that the inspectors of its call have read.
    pub(crate) fn inspected(question: Question) -> ReleasedQuestion {
        ReleasedQuestion(question)
    }

    /// The request by which it goes to a legacy client, as [`bridge::legacy_question`].
    pub fn request(&self, id: &str, elicitation_id: &str) -> Released {
        Released::inspected(Channel::Question, bridge::legacy_question(self, id, elicitation_id).into())
    }

    /// The answer to the request `id` by which questions go to a modern client, as [`bridge::input_required`].
    pub fn round(questions: &[ReleasedQuestion], id: &str, request_state: &str) -> Released {
        let result = bridge::input_required(questions.iter().map(|one| &one.0), request_state);
        Released::inspected(Channel::Question, bridge::wrap_result(id, &result).into())
    }
}

impl Deref for ReleasedQuestion {
    type Target = Question;

    fn deref(&self) -> &Question {
        &self.0
    }
}

impl AsRef<[u8]> for Released {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// That of texts which are joined: of all of them, or of the first that is not the gateway's own.
fn channel_of(parts: &[Released]) -> Channel {
    let mut channels = parts.iter().map(Released::channel);
    channels.find(|channel| *channel != Channel::Own).unwrap_or(Channel::Own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: impl Iterator<Item = Released>) -> (usize, String) {
        let parts: Vec<Released> = parts.collect();
        let longest = parts.iter().map(Released::len).max().unwrap_or_default();
        (longest, Released::concat(&parts).text().to_owned())
    }

    #[test]
    fn events_have_a_data_line_for_each_line_of_the_message() {
        let cases = [
            ("{}", "event: message\ndata: {}\n\n"),
            ("{\"a\":\n1}", "event: message\ndata: {\"a\":\ndata: 1}\n\n"),
            ("{\r\n}", "event: message\ndata: {\ndata: \ndata: }\n\n"),
        ];
        for (text, event) in cases {
            let message = Released::inspected(Channel::Result, text.into());
            assert_eq!(message.event(None).text(), event);
            assert_eq!(joined(message.clone().event_parts(None, 1 << 10)).1, event);
            assert_eq!(joined(message.event_parts(None, 21)).1, event);
        }
        let named = Released::own("{}").event(Some("e1"));
        assert_eq!(named.text(), "event: message\nid: e1\ndata: {}\n\n");
    }

    #[test]
    fn parts_of_an_event_are_no_longer_than_asked_for() {
        let message =
            Released::inspected(Channel::Result, format!("{{\"a\":\"{}\"}}", "x".repeat(10_000)).into());
        let (longest, text) = joined(message.clone().event_parts(None, 100));
        assert_eq!((longest, text.as_str()), (100, message.event(None).text()));
    }

    #[test]
    fn a_batch_is_one_array_on_the_channel_of_what_servers_said() {
        let answers = [Released::own("1"), Released::inspected(Channel::Result, "2".into())];
        let batch = Released::batch(&answers);
        assert_eq!((batch.text(), batch.channel()), ("[1,2]", Channel::Result));
    }

    #[test]
    fn detached_text_shares_no_memory() {
        let text = RawPass::of_passed_message().release(Bytes::from(vec![b'x'; 100]));
        let kept = text.detached();
        assert_eq!(kept, text);
        assert_ne!(kept.bytes().as_ptr(), text.bytes().as_ptr());
    }
}
