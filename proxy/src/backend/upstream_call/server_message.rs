//! Reads each message of an upstream once, within bounds.
//!
//! All that upstreams send to calls, to gateway requests and on streams goes by here, so that a bound holds for
//! all of it, and a large text is read where it stops no other call. What is found is kept beside the
//! text; nobody has to read it again to know what it is. The final one is the [`Answer`] of its call.

use crate::shares::Share;
use bytes::Bytes;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::{self, Facts};
use portunus_filters::mcp::sse::Event;
use portunus_filters::mcp::{Envelope, Fault, Id, Method, ResultSummary, Shape, Span};
use std::sync::Arc;
use std::time::Duration;

/// Longest request of an upstream: it may hold an image, as the client's answer may.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Longest notification.
const MAX_NOTIFICATION_BYTES: usize = 1 << 20;
/// Longest error.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// A message of an upstream.
#[derive(Clone, Debug)]
pub(crate) struct ServerMessage {
    /// Its text.
    pub(crate) bytes: Bytes,
    /// What it is, or why it is not read.
    pub(crate) content: Result<Content, Unread>,
    /// The room that it takes, if it is a large one.
    pub(crate) room: Option<Arc<Share>>,
}

/// What a message is.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Request, notification or answer.
    pub(crate) shape: Shape,
    /// The id, where the shape has one.
    pub(crate) id: Option<Id>,
    /// The method of a request or notification.
    pub(crate) method: Option<Method>,
    /// What a result says that decides how it is passed on.
    pub(crate) summary: Option<ResultSummary>,
    /// The progress token of a notification, if it is a number.
    pub(crate) progress: Option<u64>,
    /// What an answer says, if it is one that can be passed on.
    answer: Option<Outcome<Bytes>>,
}

/// Why a message is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is no JSON-RPC message.
    NoMessage,
    /// It has more members than anybody keeps apart.
    Members,
    /// A request that is too long.
    Request,
    /// A notification that is too long.
    Notification,
    /// An error that is too long.
    Error,
}

impl Unread {
    /// What a client is told whose call ends with it.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Unread::NoMessage => "the server's answer is no JSON-RPC answer",
            Unread::Members => "the server's answer has an object with more keys than are read",
            Unread::Request => "the server sent a request that is too long",
            Unread::Notification => "the server sent a notification that is too long",
            Unread::Error => "the server sent an error that is too long",
        }
    }
}

impl ServerMessage {
    /// Reads a message.
    pub(crate) fn read(bytes: Bytes) -> ServerMessage {
        let content = Content::read(&bytes);
        ServerMessage { bytes, content, room: None }
    }

    /// Its text; empty if it is no text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// The answer to the request `id`, by its meaning. Before a refused request was read, its error may
    /// have no id (JSON-RPC 2.0 §5).
    pub(crate) fn answer(&self, id: &str, refused: bool) -> Option<Outcome<Bytes>> {
        self.content.as_ref().ok()?.answer(id, refused)
    }
}

impl Content {
    fn read(bytes: &Bytes) -> Result<Content, Unread> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unread::NoMessage)?;
        let envelope = Envelope::read(text).map_err(|fault| match fault {
            Fault::Bound { .. } => Unread::Members,
            _ => Unread::NoMessage,
        })?;
        let (limit, unread) = match envelope.shape {
            Shape::Result => (usize::MAX, Unread::NoMessage),
            Shape::Request => (MAX_REQUEST_BYTES, Unread::Request),
            Shape::Notification => (MAX_NOTIFICATION_BYTES, Unread::Notification),
            Shape::Error => (MAX_ERROR_BYTES, Unread::Error),
        };
        if bytes.len() > limit {
            return Err(unread);
        }
        let answer = match envelope.shape {
            Shape::Result => {
                envelope.result.map(|result| Outcome::Result(bytes.slice_ref(result.as_bytes())))
            }
            Shape::Error => match bridge::answer(text) {
                Ok(bridge::Answer::Error(error)) => {
                    Some(Outcome::Error { code: error.code, error: bytes.slice_ref(error.whole.as_bytes()) })
                }
                _ => None,
            },
            Shape::Request | Shape::Notification => None,
        };
        let progress = envelope.params.get("progressToken").and_then(|token| token.parse().ok());
        let Envelope { shape, id, method, summary, .. } = envelope;
        Ok(Content { shape, id, method, summary, progress, answer })
    }

    /// As [`ServerMessage::answer`].
    pub(crate) fn answer(&self, id: &str, refused: bool) -> Option<Outcome<Bytes>> {
        let answers = self.id.as_ref().map_or(refused, |answered| answered.meaning() == id);
        self.answer.clone().filter(|_| answers)
    }
}

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
    pub received: Option<ReceivedMessage>,
    /// The share of its upstream's room that it has until it is written, if it is a large one.
    pub room: Option<Arc<Share>>,
}

/// The message that an answer came in.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The message.
    pub message: Bytes,
    /// It answers the client's request under the client's own id.
    pub under_own_id: bool,
    /// What its result says at its top.
    pub summary: ResultSummary,
}

impl ReceivedMessage {
    fn of(message: &ServerMessage, under_own_id: bool) -> Option<ReceivedMessage> {
        let summary = message.content.as_ref().ok()?.summary?;
        Some(ReceivedMessage { message: message.bytes.clone(), under_own_id, summary })
    }
}

impl Answer<Bytes> {
    /// That of a server of `era`, found in its message; `under_own_id` as in [`ReceivedMessage`].
    pub(super) fn of(
        message: &ServerMessage,
        era: Era,
        outcome: Outcome<Bytes>,
        facts: Option<Arc<Facts>>,
        under_own_id: bool,
    ) -> Answer<Bytes> {
        let (received, room) = (ReceivedMessage::of(message, under_own_id), message.room.clone());
        Answer { era, outcome, facts, received, room }
    }

    /// One that is said in the words of a modern server, which did not write it.
    pub(super) fn own(outcome: Outcome<Bytes>) -> Answer<Bytes> {
        Answer { era: Era::Modern, outcome, facts: None, received: None, room: None }
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
        let Answer { era, facts, received, room, .. } = self;
        let mut answer = Answer { era, outcome, facts, received: None, room };
        answer.received =
            received.filter(|received| Span::locate(&received.message, answer.text().as_ref()).is_some());
        answer
    }
}

impl<T: AsRef<[u8]>> Answer<T> {
    /// How many bytes it keeps, with the message that it came in.
    pub fn kept_bytes(&self) -> usize {
        // Its text is a part of the message.
        self.received.as_ref().map_or(self.text().as_ref().len(), |received| received.message.len())
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

/// A message in the form in which it came.
pub(super) enum Framed {
    /// As a body.
    Body(Bytes),
    /// As an event of a stream.
    Event(Event),
}

/// What came, taken out of its form.
pub(super) struct Arrived {
    /// The message; `None` for an event without one.
    pub(super) message: Option<ServerMessage>,
    /// The id that an event sets; empty for none.
    pub(super) event_id: Option<Vec<u8>>,
    /// The reconnection time that an event sets.
    pub(super) retry: Option<Duration>,
    /// What the event of a message is called, where that is not `message`.
    pub(super) event_name: Option<Box<[u8]>>,
}

impl Arrived {
    /// Has the message hold what it needs of the room that was taken for it: its `bytes`.
    pub(super) fn holding(mut self, room: Option<Share>, bytes: usize) -> Arrived {
        if let (Some(message), Some(mut room)) = (&mut self.message, room) {
            room.shrink(bytes);
            message.room = Some(Arc::new(room));
        }
        self
    }
}

impl Framed {
    /// Bytes that have to be looked at.
    pub(super) fn len(&self) -> usize {
        match self {
            Framed::Body(body) => body.len(),
            Framed::Event(event) => event.raw().len(),
        }
    }

    /// Takes the message out and reads it.
    pub(super) fn read(self) -> Arrived {
        let event = match self {
            Framed::Body(body) => {
                let message = Some(ServerMessage::read(body));
                return Arrived { message, event_id: None, retry: None, event_name: None };
            }
            Framed::Event(event) => event,
        };
        let data = event.data().filter(|data| !data.trim_ascii().is_empty());
        Arrived {
            event_id: event.id().map(<[u8]>::to_vec),
            retry: event.retry_ms().map(Duration::from_millis),
            event_name: data.is_some().then(|| event.name().map(Box::from)).flatten(),
            message: data.map(|data| ServerMessage::read(slice_of(event.raw(), &data))),
        }
    }
}

/// `part` as a share of `whole` if it is the most of it, else a copy: comments of an event can be longer than its message
/// by any factor, and who keeps the message counts no more than that.
fn slice_of(whole: &Bytes, part: &[u8]) -> Bytes {
    match Span::locate(whole, part) {
        Some(span) if 2 * part.len() >= whole.len() => whole.slice(span.start as usize..span.end as usize),
        _ => Bytes::copy_from_slice(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shares_the_memory_of_what_it_came_in_only_if_it_is_most_of_it() {
        let message = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
        for (comment, is_shared) in [(10, true), (1 << 20, false)] {
            let raw = Bytes::from(format!(": {}\ndata: {message}\n\n", "x".repeat(comment)));
            let part = slice_of(&raw, &raw[raw.len() - message.len() - 2..raw.len() - 2]);
            assert_eq!(part, message);
            assert_eq!(!raw.is_unique(), is_shared, "a comment of {comment} bytes");
        }
    }

    #[test]
    fn each_kind_of_message_has_its_own_length() {
        let padded = |head: &str, tail: &str, bytes: usize| format!("{head}{}{tail}", "x".repeat(bytes));
        let result = |bytes| padded(r#"{"jsonrpc":"2.0","id":1,"result":{"a":""#, r#""}}"#, bytes);
        let error =
            |bytes| padded(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""#, r#""}}"#, bytes);
        let call = |id: &'static str| {
            move |bytes| {
                padded(&format!(r#"{{"jsonrpc":"2.0",{id}"method":"a","params":{{"a":""#), r#""}}"#, bytes)
            }
        };
        let (request, notification) = (call(r#""id":1,"#), call(""));
        let cases: [(&str, String, Result<Shape, Unread>); 8] = [
            ("result", result(20 << 20), Ok(Shape::Result)),
            ("request", request(3 << 20), Ok(Shape::Request)),
            ("long request", request(5 << 20), Err(Unread::Request)),
            ("notification", notification(1 << 19), Ok(Shape::Notification)),
            ("long notification", notification(2 << 20), Err(Unread::Notification)),
            ("error", error(1 << 19), Ok(Shape::Error)),
            ("long error", error(2 << 20), Err(Unread::Error)),
            ("no message", "[]".to_owned(), Err(Unread::NoMessage)),
        ];
        for (name, text, expected) in cases {
            let read = ServerMessage::read(Bytes::from(text)).content.map(|content| content.shape);
            assert_eq!(read, expected, "{name}");
        }
    }

    #[test]
    fn tiny_keys_without_number_are_not_taken_apart() {
        let keys: Vec<String> = (0..300_000).map(|key| format!("\"{key}\":0")).collect();
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{}}}}}"#, keys.join(","));
        assert_eq!(ServerMessage::read(Bytes::from(text)).content.err(), Some(Unread::Members));
    }

    #[test]
    fn an_answer_keeps_its_message_for_as_long_as_it_is_a_part_of_it() {
        let message =
            ServerMessage::read(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#));
        let outcome = message.answer("1", false).unwrap();
        let answer = Answer::of(&message, Era::Modern, outcome.clone(), None, true);
        assert_eq!(answer.kept_bytes(), message.bytes.len());
        let kept = answer.clone().with(outcome);
        assert_eq!(kept.received.unwrap().message, message.bytes);
        let changed = answer.with(Outcome::Result(Bytes::from_static(b"{}")));
        assert!(changed.received.is_none());
        assert_eq!(changed.kept_bytes(), 2);
    }
}
