//! What an event of a kept stream is called, and what its client shows in `Last-Event-ID`.
//!
//! `TABLE.STREAM.EVENT[.REQUEST]`: the table of the session, 8 hex digits; the stream, 0 for what is
//! said outside of calls; the event, counted from 1, or `end` for an answer. A call's stream names
//! its request too: where its events are lost, the client can still be told so by an answer.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portunus_filters::mcp::{Envelope, Id};
use std::fmt;

/// The stream of what is said outside of calls.
pub(super) const OWN: u64 = 0;
/// Request ids longer than this, as JSON text, are left out.
const MAX_REQUEST_ID: usize = 128;

/// The name of one event, or of a place between two.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EventId {
    /// The table that the event was kept in.
    pub table: u32,
    /// Its stream.
    pub stream: u64,
    /// Which one it is.
    pub place: Place,
    /// The request that its stream answers.
    pub request: Option<Id>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The event of a number.
    Event(u64),
    /// Behind the event of a number, as the tail of a number found it: no event is called like this.
    Behind(u64, u64),
    /// The answer, behind which nothing follows.
    End,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}.", self.table, self.stream)?;
        match self.place {
            Place::Event(number) => write!(f, "{number}")?,
            Place::Behind(number, tail) => write!(f, "{number}-{tail}")?,
            Place::End => f.write_str("end")?,
        }
        match self.request.as_ref().map(Id::as_json).filter(|id| id.len() <= MAX_REQUEST_ID) {
            Some(text) if text.starts_with('"') => write!(f, ".s{}", URL_SAFE_NO_PAD.encode(text)),
            Some(number) => write!(f, ".{number}"),
            None => Ok(()),
        }
    }
}

impl EventId {
    /// Reads what a client shows; `None` if it can be from no session of ours.
    pub(super) fn parse(text: &str) -> Option<EventId> {
        let mut parts = text.splitn(4, '.');
        let table = parts.next().filter(|table| table.len() == 8)?;
        let table = u32::from_str_radix(table, 16).ok()?;
        let stream = parts.next()?.parse().ok()?;
        let place = Place::parse(parts.next()?)?;
        let request = match parts.next() {
            Some(text) => Some(request(text)?),
            None => None,
        };
        Some(EventId { table, stream, place, request })
    }
}

impl Place {
    fn parse(text: &str) -> Option<Place> {
        match (text, text.split_once('-')) {
            ("end", _) => Some(Place::End),
            (_, Some((number, tail))) => Some(Place::Behind(number.parse().ok()?, tail.parse().ok()?)),
            (number, None) => number.parse().ok().map(Place::Event),
        }
    }
}

fn request(text: &str) -> Option<Id> {
    let decoded = match text.strip_prefix('s') {
        Some(coded) => String::from_utf8(URL_SAFE_NO_PAD.decode(coded).ok()?).ok()?,
        None => text.to_owned(),
    };
    // Read as a message would be: what is shown here is anybody's text.
    let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":{decoded},\"result\":{{}}}}");
    let id = Envelope::read(&message).ok()?.id?;
    (id.as_json() == decoded && decoded.len() <= MAX_REQUEST_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_spelt() {
        let id = |text: &str| Some(Id::of(text).unwrap());
        let cases = [
            ("0000002a.0.7", EventId { table: 42, stream: 0, place: Place::Event(7), request: None }),
            (
                "ffffffff.3.7-2.-9",
                EventId { table: u32::MAX, stream: 3, place: Place::Behind(7, 2), request: id("-9") },
            ),
            (
                "0000002a.3.end.sImEi",
                EventId { table: 42, stream: 3, place: Place::End, request: id("\"a\"") },
            ),
        ];
        for (text, event) in cases {
            assert_eq!(event.to_string(), text);
            assert_eq!(EventId::parse(text), Some(event), "{text}");
        }
    }

    #[test]
    fn a_long_request_id_is_left_out() {
        let request = Some(Id::of(&format!("\"{}\"", "x".repeat(MAX_REQUEST_ID))).unwrap());
        let event = EventId { table: 1, stream: 2, place: Place::Event(3), request };
        assert_eq!(event.to_string(), "00000001.2.3");
    }

    #[test]
    fn what_is_no_name_is_none() {
        let two = URL_SAFE_NO_PAD.encode("1,\"x\":2");
        let long = URL_SAFE_NO_PAD.encode(format!("\"{}\"", "x".repeat(MAX_REQUEST_ID)));
        let cases = [
            String::new(),
            "7".to_owned(),
            "2a.0.7".to_owned(),
            "0000002a.0".to_owned(),
            "0000002a.0.last".to_owned(),
            "0000002a.0.1-".to_owned(),
            "0000002a.1.1.x".to_owned(),
            "0000002a.1.1.1.5".to_owned(),
            format!("0000002a.1.1.s{two}"),
            format!("0000002a.1.1.s{long}"),
        ];
        for text in cases {
            assert_eq!(EventId::parse(&text), None, "{text}");
        }
    }
}
