//! One message on its way: who sent it, what it is, and where its parts lie.

use crate::identity::Identity;
use crate::mcp::bridge::{Aim, aim};
use crate::mcp::headers::{self, Mirror};
use crate::mcp::object::{MessageIndex, Object};
use crate::mcp::{Bounds, Envelope, Fault, Id, LateId, Method, Revision, Shape, Span, check, text};
use bytes::Bytes;
use portunus_base::Era;
use portunus_base::Moment;
use portunus_base::Owner;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// A request that reached a listener, before its body was read.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Address of the client: the right-most hop that is not a trusted proxy.
    pub source: IpAddr,
    /// Who calls.
    pub identity: Identity,
    /// The id under which this request is logged and answered.
    pub request_id: Arc<str>,
    /// When its header section was read.
    pub at: Moment,
}

impl Arrival {
    /// The same, as if it came at another time.
    #[must_use]
    pub fn coming_at(&self, at: Moment) -> Arrival {
        Arrival { at, ..self.clone() }
    }
}

impl Arrival {
    /// The owner that it is counted by.
    pub fn owner(&self) -> Owner {
        self.identity.owner(self.source)
    }
}

/// Which way a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to an upstream.
    Up,
    /// From an upstream to the client.
    Down,
}

/// What a message is for the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's request.
    Request,
    /// A client's notification.
    Notification,
    /// A client's answer to a server's request.
    Response,
    /// A server's request (sampling, elicitation, roots).
    ServerRequest,
    /// A server's notification.
    ServerNotification,
    /// A server's answer to a client's request.
    ServerResponse,
    /// A client opens a stream (GET).
    Stream,
    /// A client ends its session (DELETE).
    End,
}

/// One message. Its text is never copied: `body` is the whole HTTP body, spans point into it.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Which way it travels.
    pub direction: Direction,
    /// Whose rules apply.
    pub era: Era,
    /// The revision, where message or header name one.
    pub revision: Option<Revision>,
    /// The method of a request or notification.
    pub method: Option<Method>,
    /// The id of a request or answer.
    pub id: Option<Id>,
    /// Tool or prompt name, resource URI or task id: what `Mcp-Name` mirrors.
    pub target: Option<Arc<str>>,
    /// Where `params` lies in `body`.
    pub params: Option<Span>,
    /// The HTTP body that holds the message, alone or in a batch.
    pub body: Bytes,
    /// Where its parts lie in `body`; `None` for one without a body.
    pub message_index: Option<Arc<MessageIndex>>,
}

impl Message {
    /// A message without a body: GET or DELETE.
    pub fn bodiless(kind: Kind, revision: Option<Revision>) -> Message {
        Message {
            kind,
            direction: Direction::Up,
            era: revision.map_or(Era::Legacy, Revision::era),
            revision,
            method: None,
            id: None,
            target: None,
            params: None,
            body: Bytes::new(),
            message_index: None,
        }
    }

    /// The method's name, or what stands for it in records.
    pub fn action(&self) -> Cow<'static, str> {
        match (&self.method, self.kind) {
            (Some(method), _) => method.to_name(),
            (None, Kind::Stream) => Cow::Borrowed("stream"),
            (None, Kind::End) => Cow::Borrowed("end"),
            (None, _) => Cow::Borrowed("response"),
        }
    }

    /// The same message as it stands in another body, which holds it alone.
    ///
    /// # Errors
    /// [`Fault`] if the body is no message.
    pub fn with_body(&self, body: &Bytes) -> Result<Message, Fault> {
        Ok(self.read_again(Envelope::read(text(body)?)?, body))
    }

    /// These messages as they stand in another body: one alone, or a batch.
    ///
    /// # Errors
    /// [`Fault`] if the body does not hold as many messages.
    pub(crate) fn all_with_body(messages: &[Message], body: &Bytes) -> Result<Vec<Message>, Fault> {
        let whole = text(body)?;
        let envelopes = match whole.trim_ascii_start().starts_with('[') {
            true => Envelope::read_batch(whole)?,
            false => vec![Envelope::read(whole)?],
        };
        if envelopes.len() != messages.len() {
            return Err(Fault::Shape("messages are missing"));
        }
        let read = messages.iter().zip(envelopes).map(|(message, envelope)| {
            if envelope.method != message.method || envelope.id != message.id {
                return Err(Fault::Shape("it is another message"));
            }
            Ok(message.read_again(envelope, body))
        });
        read.collect()
    }

    /// What a request is aimed at, in its own words.
    ///
    /// # Errors
    /// As [`aim`].
    pub(crate) fn aim(&self) -> Result<Option<Aim<'_>>, Fault> {
        let (Some(method), Some(message_index)) = (&self.method, &self.message_index) else {
            return Ok(None);
        };
        aim(method.name(), &message_index.params(text(&self.body)?))
    }

    fn read_again(&self, mut envelope: Envelope<'_>, body: &Bytes) -> Message {
        Message {
            target: target(&envelope),
            params: envelope.params_text.and_then(|text| Span::locate(body, text.as_bytes())),
            message_index: envelope.take_message_index(body).map(Arc::new),
            body: body.clone(),
            ..self.clone()
        }
    }

    fn of(mut envelope: Envelope<'_>, verdict: headers::Verdict, body: &Bytes) -> Message {
        let target = target(&envelope);
        let params = envelope.params_text.and_then(|text| Span::locate(body, text.as_bytes()));
        Message {
            kind: match envelope.shape {
                Shape::Request => Kind::Request,
                Shape::Notification => Kind::Notification,
                Shape::Result | Shape::Error => Kind::Response,
            },
            direction: Direction::Up,
            era: verdict.era,
            revision: verdict.revision,
            message_index: envelope.take_message_index(body).map(Arc::new),
            method: envelope.method,
            id: envelope.id,
            target,
            params,
            body: body.clone(),
        }
    }
}

/// What the body of one POST holds.
#[derive(Clone, Debug)]
pub enum Reading {
    /// One message.
    One(Message),
    /// A batch of 2025-03-26, never empty.
    Batch(Vec<Message>),
}

impl Reading {
    /// The messages in order.
    pub fn messages(&self) -> &[Message] {
        match self {
            Reading::One(message) => std::slice::from_ref(message),
            Reading::Batch(messages) => messages,
        }
    }
}

/// A body that was refused, with what is known for answering it.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Why.
    pub denial: Denial,
    /// The id, if it is a request and its id could be read.
    pub id: Option<Id>,
    /// The id of the question that it answers, if it is a legacy client's answer and is only too long or
    /// too wide.
    pub answers: Option<Id>,
    /// The era that the sender most likely speaks.
    pub era: Era,
    /// The method, if it could be read.
    pub method: Option<Method>,
    /// Tool or prompt name, resource URI or task id, if it could be read.
    pub target: Option<Arc<str>>,
}

impl Unreadable {
    fn new(denial: Denial, id: Option<Id>, era: Era) -> Box<Unreadable> {
        Box::new(Unreadable { denial, id, answers: None, era, method: None, target: None })
    }
}

/// Reads the body of a POST.
///
/// # Errors
/// [`Unreadable`] with [`Reason::ParseError`], [`Reason::InvalidRequest`],
/// [`Reason::BoundsExceeded`], or what [`headers::judge`] refuses.
pub fn read(
    body: &Bytes,
    bounds: &Bounds,
    mirror: &Mirror<'_>,
    offered: &[Revision],
) -> Result<Reading, Box<Unreadable>> {
    let guess = mirror.version.map_or(Era::Legacy, headers::likely_era);
    let faulty = |fault: Fault| match fault {
        Fault::Bound { .. } => out_of_bounds(body, &fault, guess),
        _ => Unreadable::new(denial(&fault), None, guess),
    };
    let text = text(body).map_err(faulty)?;
    if text.trim_ascii_start().starts_with('[') {
        check(body, bounds).map_err(faulty)?;
        return read_batch(text, body, mirror, offered)
            .map(Reading::Batch)
            .map_err(|denial| Unreadable::new(denial, None, guess));
    }
    let envelope = Envelope::read_bounded(text, bounds).map_err(faulty)?;
    match headers::judge(&envelope, mirror, offered) {
        Ok(verdict) => Ok(Reading::One(Message::of(envelope, verdict, body))),
        Err(denial) => {
            let asks = envelope.shape == Shape::Request;
            Err(Box::new(Unreadable {
                denial,
                era: era_of(&envelope.params, guess),
                target: target(&envelope),
                id: envelope.id.filter(|_| asks),
                answers: None,
                method: envelope.method,
            }))
        }
    }
}

/// A message that is only too long or too wide is still answered under its id.
fn out_of_bounds(body: &Bytes, fault: &Fault, guess: Era) -> Box<Unreadable> {
    let mut finder = LateId::default();
    finder.push(body);
    let mut unreadable = Unreadable::new(denial(fault), finder.clone().finish(), guess);
    unreadable.answers = finder.finish_answer().filter(|_| guess == Era::Legacy);
    unreadable
}

/// A batch is legal in 2025-03-26 alone, and `initialize` never belongs to one.
fn read_batch(
    text: &str,
    body: &Bytes,
    mirror: &Mirror<'_>,
    offered: &[Revision],
) -> Result<Vec<Message>, Denial> {
    let batches = mirror.version.is_none_or(|version| version == Revision::V2025_03_26.as_str());
    if !batches {
        return Err(Denial::new(Reason::InvalidRequest, "this revision has no batches: send one message"));
    }
    headers::unmirrored(mirror)?;
    let envelopes = Envelope::read_batch(text).map_err(|fault| denial(&fault))?;
    envelopes
        .into_iter()
        .map(|envelope| {
            if envelope.method.as_ref().is_some_and(|method| method.is("initialize")) {
                return Err(Denial::new(Reason::InvalidRequest, "`initialize` must not be part of a batch"));
            }
            let verdict =
                headers::judge(&envelope, &Mirror { version: mirror.version, ..Mirror::default() }, offered)?;
            Ok(Message::of(envelope, verdict, body))
        })
        .collect()
}

/// What `Mcp-Name` mirrors, as the body has it.
fn target(envelope: &Envelope<'_>) -> Option<Arc<str>> {
    let key = envelope.method.as_ref()?.rules()?.target?;
    envelope.params.text(key).map(|text| text.as_ref().into())
}

fn era_of(params: &Object<'_>, guess: Era) -> Era {
    let claimed =
        params.inside("_meta").ok().flatten().is_some_and(|meta| meta.get(headers::META_VERSION).is_some());
    if claimed { Era::Modern } else { guess }
}

fn denial(fault: &Fault) -> Denial {
    let reason = match fault {
        Fault::Syntax(_) => Reason::ParseError,
        Fault::Shape(_) | Fault::DuplicateKey | Fault::FoldedKey(_) => Reason::InvalidRequest,
        Fault::Bound { .. } => Reason::BoundsExceeded,
    };
    Denial::new(reason, fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::MAX_BATCH;

    fn reading(body: &str, version: Option<&str>) -> Result<Reading, Reason> {
        let mirror = Mirror { version, ..Mirror::default() };
        read(&Bytes::copy_from_slice(body.as_bytes()), &Bounds::default(), &mirror, &Revision::ALL)
            .map_err(|unreadable| unreadable.denial.reason)
    }

    #[test]
    fn the_parts_of_a_call_are_located_in_its_body() {
        let body =
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"a":1}}}"#;
        let Ok(Reading::One(message)) = reading(body, None) else { panic!("one message") };
        assert_eq!(message.kind, Kind::Request);
        assert_eq!(message.target.as_deref(), Some("echo"));
        assert_eq!(message.params.unwrap().of(&message.body), br#"{"name":"echo","arguments":{"a":1}}"#);
        assert_eq!(message.body, body.as_bytes());
    }

    #[test]
    fn batches_exist_in_one_revision_only() {
        let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"n/x"}]"#;
        let with_initialize = r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"}]"#;
        let modern = r#"[{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}]"#;
        let many = |count| format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"n/x"}"#; count].join(","));
        let cases = [
            ("no header", batch, None, Ok(2)),
            ("its own revision", batch, Some("2025-03-26"), Ok(2)),
            ("a later revision", batch, Some("2025-06-18"), Err(Reason::InvalidRequest)),
            ("the modern era", batch, Some("2026-07-28"), Err(Reason::InvalidRequest)),
            ("initialize inside", with_initialize, None, Err(Reason::InvalidRequest)),
            ("a modern element", modern, None, Err(Reason::HeaderMismatch)),
            ("empty", "[]", None, Err(Reason::InvalidRequest)),
            ("as many as may be", &many(MAX_BATCH), None, Ok(MAX_BATCH)),
            ("too many", &many(MAX_BATCH + 1), None, Err(Reason::BoundsExceeded)),
            ("broken", "[{]", None, Err(Reason::ParseError)),
        ];
        for (name, body, version, expected) in cases {
            assert_eq!(reading(body, version).map(|reading| reading.messages().len()), expected, "{name}");
        }
    }

    #[test]
    fn a_refused_body_keeps_its_id_and_era_for_the_answer() {
        let body = r#"{"jsonrpc":"2.0","id":"x-1","method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let body = Bytes::from_static(body.as_bytes());
        let refused = read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap_err();
        assert_eq!(refused.denial.reason, Reason::HeaderMismatch);
        assert_eq!(refused.id.unwrap().as_json(), "\"x-1\"");
        assert_eq!(refused.era, Era::Modern);
    }
}
