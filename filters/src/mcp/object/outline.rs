//! What was found in a message, kept beside its body.

use super::{Member, Object};
use crate::mcp::Span;
use std::borrow::Cow;

/// Where the members of a message, of its `params` and of their `_meta` lie in its body.
#[derive(Clone, Debug)]
pub struct Outline {
    message: Part,
    params: Option<Part>,
}

/// An object without its text.
#[derive(Clone, Debug)]
struct Part {
    span: Span,
    members: Vec<Member>,
}

impl Outline {
    /// That of a message that was taken apart from a part of `body`; `None` if it was not.
    pub(in crate::mcp) fn of(
        body: &[u8],
        message: Object<'_>,
        params: Option<Object<'_>>,
    ) -> Option<Outline> {
        let params = match params {
            Some(params) => Some(Part::of(body, params)?),
            None => None,
        };
        Some(Outline { message: Part::of(body, message)?, params })
    }

    /// The message; `body` must be the one that it was found in.
    pub fn message<'a>(&'a self, body: &'a str) -> Object<'a> {
        self.message.object(body)
    }

    /// Its `params`, empty if it has none.
    pub fn params<'a>(&'a self, body: &'a str) -> Object<'a> {
        self.params.as_ref().map(|params| params.object(body)).unwrap_or_default()
    }
}

impl Part {
    fn of(body: &[u8], object: Object<'_>) -> Option<Part> {
        let span = Span::locate(body, object.text.as_bytes())?;
        Some(Part { span, members: object.members.into_owned() })
    }

    fn object<'a>(&'a self, body: &'a str) -> Object<'a> {
        Object { text: self.span.text(body), members: Cow::Borrowed(&self.members) }
    }
}

#[cfg(test)]
mod tests {
    use crate::mcp::{Bounds, Envelope};

    #[test]
    fn a_message_is_found_again_in_its_body() {
        let body = " {\"jsonrpc\":\"2.0\", \"\\u0069d\" : 7 ,\"method\":\"tools/call\",\"params\": {\"name\":\"a\",\"_meta\":{\"k\":[1]}}}\n";
        let mut envelope = Envelope::read_bounded(body, &Bounds::default()).unwrap();
        let outline = envelope.take_outline(body.as_bytes()).unwrap();
        let (message, params) = (outline.message(body), outline.params(body));
        assert_eq!(message.get("id"), Some("7"));
        assert_eq!(message.rewrite().text(), body.trim());
        assert_eq!(params.text("name").as_deref(), Some("a"));
        assert_eq!(params.inside("_meta").unwrap().unwrap().get("k"), Some("[1]"));
        let elsewhere = body.to_owned();
        assert!(Envelope::read(body).unwrap().take_outline(elsewhere.as_bytes()).is_none());
    }
}
