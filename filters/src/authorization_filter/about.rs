//! What a message is about, as policy is asked of it.

use crate::authorize::{Direction, Kind};
use crate::call::{Call, Subject};
use crate::mcp::bridge::is_aimed;
use crate::mcp::object::{Object, Word};
use crate::mcp::{Fault, Method};
use crate::message::{self, Message};
use portunus_base::{Denial, Reason};
use std::borrow::Cow;

/// Key of `_meta` under which a caller says why it calls.
pub const JUSTIFICATION: &str = "io.portunus/justification";

/// Key of `_meta` under which a caller says which run a call belongs to.
pub const RUN: &str = "io.portunus/run";

/// Characters of a justification.
const MAX_JUSTIFICATION: usize = 500;

/// What both keys begin with.
static OWN: Word = Word::new("io.portunus/");

/// The part of a message that policy may ask about.
#[derive(Debug)]
pub(super) struct About<'m> {
    pub(super) method: Cow<'m, str>,
    pub(super) direction: Direction,
    pub(super) kind: Kind,
    pub(super) name: Option<&'m str>,
    pub(super) uri: Option<&'m str>,
    /// Text of an object.
    pub(super) arguments: Option<&'m str>,
    /// The client's answers to questions of the server: text of an object.
    pub(super) responses: Option<Cow<'m, str>>,
    /// Why the caller calls.
    pub(super) justification: Option<Cow<'m, str>>,
    /// Keys of `_meta` that are for the gateway alone are there.
    pub(super) speaks_to_us: bool,
}

/// The parameters of a message; none of one that has none.
pub(super) fn params(message: &Message) -> Result<Object<'_>, Denial> {
    let Some(span) = message.params else { return Ok(Object::default()) };
    if let Some(message_index) = &message.message_index {
        return Ok(message_index.params(std::str::from_utf8(&message.body).map_err(|_| unreadable())?));
    }
    let text = std::str::from_utf8(span.of(&message.body)).map_err(|_| unreadable())?;
    if !text.starts_with('{') {
        return Ok(Object::default());
    }
    Object::read(text).map_err(|fault| wrong(&fault))
}

pub(super) fn wrong(fault: &Fault) -> Denial {
    Denial::new(Reason::InvalidParams, fault.to_string())
}

fn unreadable() -> Denial {
    Denial::new(Reason::InvalidParams, "`params` cannot be read")
}

/// Whether a message may hold keys that are for the gateway alone; an escape may hide one.
pub(super) fn may_speak_to_us(message: &Message) -> bool {
    let Some(params) = message.params.map(|span| span.of(&message.body)) else { return false };
    OWN.may_be_in(params)
}

impl<'m> About<'m> {
    /// `is_ruled` if a policy is asked: then what a request is aimed at has to be known.
    pub(super) fn of(call: &Call<'m>, params: &Object<'m>, is_ruled: bool) -> Result<About<'m>, Denial> {
        let message = call.message;
        let arguments = params.get("arguments").filter(|arguments| *arguments != "null");
        if arguments.is_some_and(|arguments| !arguments.starts_with('{')) {
            return Err(Denial::new(Reason::InvalidParams, "`arguments` must be an object"));
        }
        let mut about = About {
            method: message.method.as_ref().map_or_else(|| message.action(), |method| method.name().into()),
            direction: Direction::ToServer,
            kind: Kind::Server,
            name: None,
            uri: None,
            arguments,
            responses: responses(message, params)?,
            justification: None,
            speaks_to_us: false,
        };
        if may_speak_to_us(message)
            && let Some(meta) = params.object("_meta").map_err(|fault| wrong(&fault))?
        {
            about.speaks_to_us = meta.get(JUSTIFICATION).is_some() || meta.get(RUN).is_some();
            about.justification = justification(&meta)?;
        }
        if matches!(message.method, Some(Method::Other(_))) {
            about.kind = Kind::Other;
        }
        match message.kind {
            message::Kind::Stream => about.kind = Kind::Stream,
            message::Kind::ServerRequest => {
                about.direction = Direction::ToClient;
                about.arguments = message.params.and_then(|span| text(span.of(&message.body)));
            }
            message::Kind::Request => {
                let is_known = about.aim(params, call.target.subject.as_ref());
                if is_ruled && !is_known {
                    return Err(Denial::new(
                        Reason::PolicyError,
                        "what the message is aimed at is not known",
                    ));
                }
            }
            _ => {}
        }
        Ok(about)
    }

    /// What a client's request is aimed at, as its upstream knows it; whether that is known, where the
    /// request is aimed at something. The words of the client are not read.
    fn aim(&mut self, params: &Object<'m>, subject: Option<&'m Subject>) -> bool {
        let Some(subject) = subject else {
            if &*self.method == "subscriptions/listen" {
                self.kind = Kind::Stream;
            }
            return !is_aimed(&self.method);
        };
        self.kind = subject.kind();
        (self.name, self.uri) = subject.name_and_uri();
        if let Subject::Tool(tool) = subject
            && let Some(task) = &tool.task
        {
            // What a message says about a task is said about the call that made it.
            self.arguments = task.arguments.as_deref();
        }
        if &*self.method == "completion/complete" {
            self.arguments = params.get("argument").filter(|argument| argument.starts_with('{'));
        }
        true
    }
}

/// What a client answers to questions: since 2026-07-28 `inputResponses` of its retry, before that a
/// message of its own, which stands under its id as the only answer.
///
/// # Errors
/// A [`Denial`] for `inputResponses` that are no object.
fn responses<'m>(message: &'m Message, params: &Object<'m>) -> Result<Option<Cow<'m, str>>, Denial> {
    if message.kind != message::Kind::Response {
        let given = params.get("inputResponses").filter(|given| *given != "null");
        return match given {
            Some(given) if !given.starts_with('{') => {
                Err(Denial::new(Reason::InvalidParams, "`inputResponses` must be an object"))
            }
            given => Ok(given.map(Cow::Borrowed)),
        };
    }
    let (Some(message_index), Some(id)) = (&message.message_index, &message.id) else { return Ok(None) };
    let whole = message_index.message(std::str::from_utf8(&message.body).map_err(|_| unreadable())?);
    let key = match id.meaning() {
        text if text.starts_with('"') => id.as_json().to_owned(),
        number => format!("\"{number}\""),
    };
    let answer = match (whole.get("result"), whole.get("error")) {
        (Some(result), _) => format!("{{{key}:{result}}}"),
        (None, Some(error)) => format!("{{{key}:{{\"error\":{error}}}}}"),
        (None, None) => return Ok(None),
    };
    Ok(Some(Cow::Owned(answer)))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.starts_with('{'))
}

fn justification<'m>(meta: &Object<'m>) -> Result<Option<Cow<'m, str>>, Denial> {
    let Some(given) = meta.get(JUSTIFICATION) else { return Ok(None) };
    let said = meta.text(JUSTIFICATION).filter(|said| said.chars().count() <= MAX_JUSTIFICATION);
    match said {
        Some(said) if said.trim().is_empty() => Ok(None),
        Some(said) => Ok(Some(said)),
        None if given == "null" => Ok(None),
        None => {
            let detail = format!("`{JUSTIFICATION}` must be text of at most {MAX_JUSTIFICATION} characters");
            Err(Denial::new(Reason::InvalidParams, detail))
        }
    }
}
