//! The members of a JSON object as slices of its text.
//!
//! One pass finds the members of a message and of the objects in it that a gateway reads, while it
//! proves that the whole is JSON. Where they lie is kept beside the text as a [`MessageIndex`], so that
//! nobody has to make the pass again.

mod fold;
pub(crate) mod place;
mod strict;

use super::scan::{Scan, Stop};
use super::{Bounds, Fault, Span};
use memchr::memmem;
use place::Place;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::OnceLock;

pub(super) use place::{KnownKeys, is_imitated, known_keys};
pub use strict::StrictObject;
pub(crate) use strict::keys_differ;

/// Members of one object that is taken apart, and elements of one array: servers choose how many there
/// are, and each takes memory beside its text.
pub(crate) const MAX_MEMBERS: usize = 100_000;
const MAX_ELEMENTS: usize = 1_000_000;

/// The members of a JSON object in order, values as text, no key twice.
#[derive(Debug, Default)]
pub struct Object<'a> {
    /// From the opening brace to the closing one.
    text: &'a str,
    members: Cow<'a, [Member]>,
}

/// Where a member lies in the text of its object.
#[derive(Clone, Debug)]
struct Member {
    key: Key,
    /// Key, colon and value as they stand.
    whole: Span,
    value: Span,
    /// Its members in turn, if it is one of those that messages are read for.
    inside: Option<Result<Vec<Member>, Ambiguity>>,
}

/// Where a member stands in the text of its object.
#[derive(Clone, Copy)]
pub(crate) struct Placed {
    /// Where its key begins.
    pub(crate) start: usize,
    /// The key stands there without escapes.
    pub(crate) is_plain: bool,
    /// Where its value begins.
    pub(crate) value: usize,
    /// Where both end.
    pub(crate) end: usize,
}

#[derive(Clone, Debug)]
enum Key {
    /// As it stands between its quotes.
    Plain(Span),
    /// What it says without its escapes.
    Escaped(Box<str>),
}

/// Two readers may find different values under one key.
#[derive(Clone, Copy, Debug)]
enum Ambiguity {
    /// A key occurs twice.
    Repeated,
    /// A key differs from this known one only in case.
    Folded(&'static str),
}

impl From<Ambiguity> for Fault {
    fn from(ambiguity: Ambiguity) -> Fault {
        match ambiguity {
            Ambiguity::Repeated => Fault::DuplicateKey,
            Ambiguity::Folded(known) => Fault::FoldedKey(Some(known)),
        }
    }
}

impl Member {
    fn placed(&self) -> Placed {
        Placed {
            start: self.whole.start as usize,
            is_plain: matches!(self.key, Key::Plain(_)),
            value: self.value.start as usize,
            end: self.whole.end as usize,
        }
    }
}

impl Key {
    fn of<'a>(&'a self, text: &'a str) -> &'a str {
        match self {
            Key::Plain(span) => span.text(text),
            Key::Escaped(key) => key,
        }
    }

    fn is(&self, key: &str, text: &str) -> bool {
        match self {
            // Lengths tell most keys apart.
            Key::Plain(span) => {
                (span.end - span.start) as usize == key.len() && span.of(text.as_bytes()) == key.as_bytes()
            }
            Key::Escaped(own) => **own == *key,
        }
    }
}

impl Span {
    /// Counted from `base`; empty where a text is longer than 4 GiB, which nothing here ever holds.
    fn between(base: usize, start: usize, end: usize) -> Span {
        let place = |at: usize| u32::try_from(at.saturating_sub(base)).unwrap_or(u32::MAX);
        Span { start: place(start), end: place(end) }
    }

    /// The text of this span in the one it was located in.
    fn text(self, whole: &str) -> &str {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl<'a> Object<'a> {
    /// Takes an object apart one level deep.
    ///
    /// # Errors
    /// [`Fault::Syntax`] if it is no JSON object, [`Fault::DuplicateKey`] for a repeated key.
    pub fn read(text: &'a str) -> Result<Object<'a>, Fault> {
        Object::whole(Scan::free(text), &Bounds::NONE, Place::Other)
    }

    /// Takes a message apart.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub(crate) fn message(text: &'a str) -> Result<Object<'a>, Fault> {
        Object::whole(Scan::free(text), &Bounds::NONE, Place::Message)
    }

    /// Takes a client's message apart.
    ///
    /// # Errors
    /// As [`Object::read`]; [`Fault::Bound`] where `bounds` are exceeded.
    pub(crate) fn bounded_message(text: &'a str, bounds: &Bounds) -> Result<Object<'a>, Fault> {
        Object::whole(Scan::bounded(text, bounds), bounds, Place::Message)
    }

    /// What is wrong with the text counts before what is repeated in it.
    fn whole(mut scan: Scan<'a>, bounds: &Bounds, place: Place) -> Result<Object<'a>, Fault> {
        scan.look();
        let start = scan.at();
        let members = taken_apart(&mut scan, place).map_err(|stop| stop.fault(bounds))?;
        let text = scan.since(start).map_err(|stop| stop.fault(bounds))?;
        scan.end().map_err(|stop| stop.fault(bounds))?;
        Ok(Object { text, members: Cow::Owned(members?) })
    }

    /// The object as it stands; empty where there is none.
    pub fn as_text(&self) -> &'a str {
        self.text
    }

    /// The text of a key's value.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.member(key).map(|member| member.value.text(self.text))
    }

    /// The value of a key, if it is a string.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        unquoted(self.get(key)?)
    }

    /// The value of a key, taken apart in turn, if it is an object.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, Fault> {
        match self.get(key) {
            Some(text) if text.starts_with('{') => Object::read(text).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Object::object`], for one that was taken apart with its message: `_meta` of `params`.
    ///
    /// # Errors
    /// [`Fault::DuplicateKey`] for a repeated key in it, [`Fault::FoldedKey`] for one that differs from
    /// a known one only in case.
    pub fn inside(&self, key: &str) -> Result<Option<Object<'_>>, Fault> {
        let Some(member) = self.member(key) else { return Ok(None) };
        let text = member.value.text(self.text);
        match &member.inside {
            Some(Ok(members)) => Ok(Some(Object { text, members: Cow::Borrowed(members) })),
            Some(Err(ambiguity)) => Err((*ambiguity).into()),
            None => Ok(None),
        }
    }

    /// As [`Object::inside`], to keep: `params`, `result` or `error` of a message.
    pub(crate) fn take(&mut self, key: &str) -> Option<Result<Object<'a>, Fault>> {
        let text = self.text;
        let member = self.members.to_mut().iter_mut().find(|member| member.key.is(key, text))?;
        let inside = member.inside.take()?;
        let text = member.value.text(text);
        Some(match inside {
            Ok(members) => Ok(Object { text, members: Cow::Owned(members) }),
            Err(ambiguity) => Err(ambiguity.into()),
        })
    }

    /// Every key and the text of its value, in order.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&str, &'a str)> + Clone {
        let text = self.text;
        self.members.iter().map(move |member| (member.key.of(text), member.value.text(text)))
    }

    /// Every member as it stands: its key, and the text of key, colon and value.
    pub(crate) fn wholes(&self) -> impl Iterator<Item = (&str, &'a str)> {
        let text = self.text;
        self.members.iter().map(move |member| (member.key.of(text), member.whole.text(text)))
    }

    /// Where a member stands, by its place among the others.
    pub(crate) fn placed(&self, place: usize) -> Option<Placed> {
        self.members.get(place).map(Member::placed)
    }

    /// Every key and where its member stands, in order.
    pub(crate) fn placed_members(&self) -> impl Iterator<Item = (&str, Placed)> {
        self.members.iter().map(|member| (member.key.of(self.text), member.placed()))
    }

    /// The place of a member among the others.
    pub(crate) fn position(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|member| member.key.is(key, self.text))
    }

    fn member(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.key.is(key, self.text))
    }
}

/// The places of the members of a message, of its `params` and of their `_meta` in its body.
#[derive(Clone, Debug)]
pub struct MessageIndex {
    message: Part,
    params: Option<Part>,
}

/// An object without its text.
#[derive(Clone, Debug)]
struct Part {
    span: Span,
    members: Vec<Member>,
}

impl MessageIndex {
    /// That of a message that was taken apart from a part of `body`; `None` if it was not.
    pub(super) fn of(body: &[u8], message: Object<'_>, params: Option<Object<'_>>) -> Option<MessageIndex> {
        let params = match params {
            Some(params) => Some(Part::of(body, params)?),
            None => None,
        };
        Some(MessageIndex { message: Part::of(body, message)?, params })
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

/// The members of the object that comes next.
fn taken_apart(scan: &mut Scan<'_>, place: Place) -> Result<Result<Vec<Member>, Ambiguity>, Stop> {
    scan.look();
    let base = scan.at();
    let mut imitated = None;
    let mut more = scan.enter(b'{')?;
    let mut members = Vec::with_capacity(if more { 6 } else { 0 });
    while more {
        if members.len() == MAX_MEMBERS {
            return Err(Stop::Members);
        }
        scan.look();
        let first = scan.at();
        let quoted = scan.key()?;
        let meaning = quoted.meaning().ok_or(Stop::Grammar)?;
        let deeper = place.below(&meaning);
        if place == Place::Message {
            imitated = imitated.or_else(|| fold::imitated(&meaning, &place::MESSAGE));
        }
        let key = match meaning {
            Cow::Borrowed(key) => Key::Plain(Span::between(base, first + 1, first + 1 + key.len())),
            Cow::Owned(key) => Key::Escaped(key.into()),
        };
        let opens = scan.look() == Some(b'{');
        let start = scan.at();
        let inside = match deeper.filter(|_| opens) {
            Some(place) => Some(taken_apart(scan, place)?),
            None => {
                scan.value()?;
                None
            }
        };
        let (whole, value) = (Span::between(base, first, scan.at()), Span::between(base, start, scan.at()));
        members.push(Member { key, whole, value, inside });
        more = scan.next()?;
    }
    if has_duplicates(scan.since(base)?, &members) {
        return Ok(Err(Ambiguity::Repeated));
    }
    Ok(imitated.map_or(Ok(members), |known| Err(Ambiguity::Folded(known))))
}

/// Quadratic where that is fastest; hashed (and keyed) where a hostile object would make it slow.
fn has_duplicates(text: &str, members: &[Member]) -> bool {
    if members.len() <= 16 {
        let mut rest = members;
        while let Some((member, tail)) = rest.split_first() {
            let key = member.key.of(text);
            if tail.iter().any(|other| other.key.is(key, text)) {
                return true;
            }
            rest = tail;
        }
        return false;
    }
    let mut seen = HashSet::with_capacity(members.len());
    !members.iter().all(|member| seen.insert(member.key.of(text)))
}

/// The texts of an array's elements, in order.
///
/// # Errors
/// [`Fault::Syntax`] if it is no JSON array, [`Fault::Bound`] if it has more than a million.
pub fn elements(text: &str) -> Result<Vec<&str>, Fault> {
    elements_up_to(text, MAX_ELEMENTS)
}

/// As [`elements`], of an array that may have `limit` of them.
///
/// # Errors
/// As [`elements`].
pub(crate) fn elements_up_to(text: &str, limit: usize) -> Result<Vec<&str>, Fault> {
    let mut scan = Scan::free(text);
    let bounds = Bounds { array_items: limit, ..Bounds::NONE };
    listed(&mut scan, limit).map_err(|stop| stop.fault(&bounds))
}

fn listed<'a>(scan: &mut Scan<'a>, limit: usize) -> Result<Vec<&'a str>, Stop> {
    let mut elements = Vec::new();
    let mut more = scan.enter(b'[')?;
    while more {
        if elements.len() == limit {
            return Err(Stop::ArrayItems);
        }
        elements.push(scan.value()?);
        more = scan.next()?;
    }
    scan.end()?;
    Ok(elements)
}

/// A word that is looked for in JSON texts again and again.
pub struct Word {
    text: &'static str,
    finder: OnceLock<memmem::Finder<'static>>,
}

/// What begins a character that is written as its number.
static ESCAPE: Word = Word::new("\\u");

impl Word {
    /// One of this text, which JSON must not need escapes for.
    pub const fn new(text: &'static str) -> Word {
        Word { text, finder: OnceLock::new() }
    }

    /// Whether a JSON text can have it in a key or a string. Of most texts it is known so without
    /// reading them that they have not; an escape may hide the word.
    pub fn may_be_in(&self, json: &[u8]) -> bool {
        let may_be_hidden = || memchr::memchr(b'\\', json).is_some_and(|at| ESCAPE.stands_in(&json[at..]));
        self.stands_in(json) || may_be_hidden()
    }

    fn stands_in(&self, json: &[u8]) -> bool {
        // Made once: for short texts that takes longer than the search.
        self.finder.get_or_init(|| memmem::Finder::new(self.text)).find(json).is_some()
    }
}

/// What a JSON string says that was passed as one; borrowed unless it has escapes. `None` if it is no
/// string, or half of a surrogate pair.
pub(crate) fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    let has_escapes = match inside.len() {
        // Names are short, and a search takes longer to begin than to look at them.
        0..=32 => inside.bytes().any(|byte| byte == b'\\'),
        _ => memchr::memchr(b'\\', inside.as_bytes()).is_some(),
    };
    match has_escapes {
        false => Some(Cow::Borrowed(inside)),
        true => serde_json::from_str(text).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests;
