//! One strict pass over JSON text from strangers.
//!
//! The grammar is that of RFC 8259, with nothing added. Beyond it, a client's message is held to
//! [`Bounds`] and may have no half of a surrogate pair in it: readers disagree on what that is. What
//! is inside an object is for [`super::object`], which goes by the same pass.
//!
//! Nothing here calls itself: what is open lies on a stack of its own, as deep as the bounds allow.

use super::Bounds;
use std::borrow::Cow;
use std::fmt;

/// Why a body cannot be read as a JSON-RPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not JSON, or not UTF-8: nothing in it can be trusted. Carries what was wrong.
    Syntax(&'static str),
    /// JSON, but not a message that this revision knows. Carries what was wrong.
    Shape(&'static str),
    /// A bound was exceeded.
    Bound {
        /// Which of [`Bounds`].
        what: &'static str,
        /// The number in force.
        limit: usize,
    },
    /// A key occurs twice in an object whose meaning depends on it.
    DuplicateKey,
    /// Servers that ignore the case of keys read another value than others do: a key differs from this
    /// known one only in case, or from another key of its object.
    FoldedKey(Option<&'static str>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Syntax(what) | Fault::Shape(what) => f.write_str(what),
            Fault::Bound { what, limit } => write!(f, "{what} exceeds the limit of {limit}"),
            Fault::DuplicateKey => f.write_str("a key occurs twice in the same object"),
            Fault::FoldedKey(Some(known)) => {
                write!(f, "a key differs from `{known}` only in case, and some servers read it as that one")
            }
            Fault::FoldedKey(None) => {
                f.write_str("a key differs only in case from another key, or from one that a rule reads")
            }
        }
    }
}

/// Why a text was not read to its end: a [`Fault`] in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Grammar,
    OpenString,
    OpenBracket,
    Hexadecimal,
    LoneHalf,
    Depth,
    StringBytes,
    ArrayItems,
    ObjectKeys,
    /// Of an object that is taken apart, whatever the bounds.
    Members,
}

impl Stop {
    /// What it means under the bounds that were in force.
    pub(crate) fn fault(self, bounds: &Bounds) -> Fault {
        match self {
            Stop::Grammar => Fault::Syntax("the body is not valid JSON"),
            Stop::OpenString => Fault::Syntax("the body ends inside a string"),
            Stop::OpenBracket => Fault::Syntax("the body ends inside an object or array"),
            Stop::Hexadecimal => Fault::Syntax("a \\u escape needs four hexadecimal digits"),
            Stop::LoneHalf => Fault::Syntax("a \\u escape is half of a surrogate pair"),
            Stop::Depth => Fault::Bound { what: "nesting depth", limit: bounds.depth.min(Bounds::MAX_DEPTH) },
            Stop::StringBytes => {
                Fault::Bound { what: "a string's length in bytes", limit: bounds.string_bytes }
            }
            Stop::ArrayItems => {
                Fault::Bound { what: "the number of items in an array", limit: bounds.array_items }
            }
            Stop::ObjectKeys => {
                Fault::Bound { what: "the number of keys in an object", limit: bounds.object_keys }
            }
            Stop::Members => {
                Fault::Bound { what: "the number of keys in an object", limit: super::object::MAX_MEMBERS }
            }
        }
    }
}

/// A body as text.
///
/// # Errors
/// [`Fault::Syntax`] if it is not UTF-8.
pub fn text(body: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(body).map_err(|_| Fault::Syntax("the body is not UTF-8"))
}

/// Checks encoding, grammar and bounds of a whole body.
///
/// # Errors
/// [`Fault::Syntax`] if it is not one JSON value in UTF-8, or has half of a surrogate pair in it;
/// [`Fault::Bound`] where `bounds` are exceeded.
pub fn check<'a>(body: &'a [u8], bounds: &Bounds) -> Result<&'a str, Fault> {
    let text = text(body)?;
    let mut scan = Scan::bounded(text, bounds);
    scan.value().and_then(|_| scan.end()).map_err(|stop| stop.fault(bounds))?;
    Ok(text)
}

/// A way through a text. What it has passed is JSON.
pub(crate) struct Scan<'a> {
    text: &'a str,
    at: usize,
    open: Vec<Level>,
    rules: Rules,
}

/// What is between the quotes of a string that was passed.
pub(crate) struct Quoted<'a> {
    inside: &'a str,
    escaped: bool,
}

impl<'a> Quoted<'a> {
    /// What it says; `None` if that is half of a surrogate pair.
    pub(crate) fn meaning(&self) -> Option<Cow<'a, str>> {
        if !self.escaped {
            return Some(Cow::Borrowed(self.inside));
        }
        serde_json::from_str(&format!("\"{}\"", self.inside)).ok().map(Cow::Owned)
    }
}

/// What is asked of a text beyond the grammar.
struct Rules {
    bounds: Bounds,
    halves: bool,
}

/// An object or array that is open.
struct Level {
    array: bool,
    items: usize,
}

impl<'a> Scan<'a> {
    /// For what a client sent.
    pub(crate) fn bounded(text: &'a str, bounds: &Bounds) -> Scan<'a> {
        let depth = bounds.depth.min(Bounds::MAX_DEPTH);
        Scan::new(text, Rules { bounds: Bounds { depth, ..*bounds }, halves: false })
    }

    /// For what was bounded before, or is bounded otherwise: the grammar, and a depth.
    pub(crate) fn free(text: &'a str) -> Scan<'a> {
        Scan::new(text, Rules { bounds: Bounds::NONE, halves: true })
    }

    fn new(text: &'a str, rules: Rules) -> Scan<'a> {
        Scan { text, at: 0, open: Vec::with_capacity(8), rules }
    }

    /// Where it is.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What lies between a place it was at and where it is.
    pub(crate) fn since(&self, start: usize) -> Result<&'a str, Stop> {
        self.text.get(start..self.at).ok_or(Stop::Grammar)
    }

    /// The next byte that is no white space.
    pub(crate) fn look(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Passes one byte and the white space before it.
    pub(crate) fn take(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.look() != Some(wanted) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Stop> {
        if self.look().is_none() { Ok(()) } else { Err(Stop::Grammar) }
    }

    /// Goes into the object or array that comes next; whether anything is in it. Goes out again of
    /// one that is empty.
    pub(crate) fn enter(&mut self, bracket: u8) -> Result<bool, Stop> {
        self.take(bracket)?;
        if self.open.len() >= self.rules.bounds.depth {
            return Err(Stop::Depth);
        }
        let array = bracket == b'[';
        if self.look() == Some(closing(array)) {
            self.at += 1;
            return Ok(false);
        }
        self.open.push(Level { array, items: 1 });
        Ok(true)
    }

    /// Goes on behind an item to the next one, or out of what has no more; whether there is one.
    pub(crate) fn next(&mut self) -> Result<bool, Stop> {
        let next = self.look();
        let level = self.open.last_mut().ok_or(Stop::Grammar)?;
        match next {
            Some(b',') => level.count(&self.rules.bounds)?,
            Some(byte) if byte == closing(level.array) => drop(self.open.pop()),
            _ => return Err(self.unexpected()),
        }
        self.at += 1;
        Ok(next == Some(b','))
    }

    /// Passes the value that comes next, and gives its text.
    pub(crate) fn value(&mut self) -> Result<&'a str, Stop> {
        self.look();
        let start = self.at;
        let floor = self.open.len();
        loop {
            let mut inside = self.enter_or_pass()?;
            while !inside {
                if self.open.len() == floor {
                    return self.since(start);
                }
                inside = self.next()?;
            }
            if self.open.last().is_some_and(|level| !level.array) {
                self.key()?;
            }
        }
    }

    /// Whether what comes next has anything in it; passes it if not.
    fn enter_or_pass(&mut self) -> Result<bool, Stop> {
        match self.look() {
            Some(b'"') => self.string().map(|_| false),
            Some(bracket @ (b'{' | b'[')) => self.enter(bracket),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word("true").map(|()| false),
            Some(b'f') => self.word("false").map(|()| false),
            Some(b'n') => self.word("null").map(|()| false),
            _ => Err(self.unexpected()),
        }
    }

    /// Passes a key and its colon, and gives the key.
    pub(crate) fn key(&mut self) -> Result<Quoted<'a>, Stop> {
        self.look();
        let key = self.string()?;
        self.take(b':')?;
        Ok(key)
    }

    /// Passes a string and gives it.
    pub(crate) fn quoted(&mut self) -> Result<Quoted<'a>, Stop> {
        self.look();
        self.string()
    }

    fn string(&mut self) -> Result<Quoted<'a>, Stop> {
        if self.byte() != Some(b'"') {
            return Err(self.unexpected());
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += string_stop(self.rest()).ok_or(Stop::OpenString)?;
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(Stop::Grammar),
            }
            escaped = true;
        }
        let inside = self.since(start)?;
        if inside.len() > self.rules.bounds.string_bytes {
            return Err(Stop::StringBytes);
        }
        self.at += 1;
        Ok(Quoted { inside, escaped })
    }

    fn escape(&mut self) -> Result<(), Stop> {
        match self.rest().get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let paired = match code_unit(self.rest())? {
                    0xD800..=0xDBFF => matches!(code_unit(&self.rest()[6..]), Ok(0xDC00..=0xDFFF)),
                    0xDC00..=0xDFFF => false,
                    _ => {
                        self.at += 6;
                        return Ok(());
                    }
                };
                if !paired && !self.rules.halves {
                    return Err(Stop::LoneHalf);
                }
                self.at += if paired { 12 } else { 6 };
            }
            Some(_) => return Err(Stop::Grammar),
            None => return Err(Stop::OpenString),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        self.pass(|byte| byte == b'-');
        if !self.pass(|byte| byte == b'0') {
            self.digits()?;
        }
        if self.pass(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.pass(|byte| matches!(byte, b'e' | b'E')) {
            self.pass(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    /// Passes at least one digit.
    fn digits(&mut self) -> Result<(), Stop> {
        let start = self.at;
        while self.pass(|byte| byte.is_ascii_digit()) {}
        if self.at == start { Err(Stop::Grammar) } else { Ok(()) }
    }

    fn word(&mut self, word: &str) -> Result<(), Stop> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(Stop::Grammar);
        }
        self.at += word.len();
        Ok(())
    }

    fn pass(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.byte().is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Something else is here than what must come.
    fn unexpected(&self) -> Stop {
        if self.at >= self.text.len() && !self.open.is_empty() { Stop::OpenBracket } else { Stop::Grammar }
    }
}

impl Level {
    fn count(&mut self, bounds: &Bounds) -> Result<(), Stop> {
        self.items += 1;
        match self.array {
            true if self.items > bounds.array_items => Err(Stop::ArrayItems),
            false if self.items > bounds.object_keys => Err(Stop::ObjectKeys),
            _ => Ok(()),
        }
    }
}

fn closing(array: bool) -> u8 {
    if array { b']' } else { b'}' }
}

/// Where the first byte is that means something within a string: a quote, a backslash, or a
/// control character, which may not be there.
///
/// Most strings of a message are a few words long: they are looked at eight bytes at a time. In long
/// ones, blocks in which nothing is are passed over by what the compiler makes vectors of.
pub(crate) fn string_stop(text: &[u8]) -> Option<usize> {
    const NEAR: usize = 64;
    let mut at = 0;
    while let Some(word) = text.get(at..)?.first_chunk() {
        let hits = word_stops(u64::from_le_bytes(*word));
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
        if at == NEAR {
            at += clean_blocks(&text[NEAR..]);
        }
    }
    text[at..].iter().position(|&byte| stops(byte)).map(|hit| at + hit)
}

/// Bytes at the beginning that need no look at each.
#[inline(never)]
fn clean_blocks(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<32>();
    let clean = |block: &&[u8; 32]| block.iter().fold(0, |hits, &byte| hits | u8::from(stops(byte))) == 0;
    blocks.iter().take_while(clean).count() * 32
}

/// Whether a byte means something within a string. All control characters and the quote, and no
/// other, are at most 0x20 once the second bit is turned.
fn stops(byte: u8) -> bool {
    (byte ^ 0x02 < 0x21) | (byte == b'\\')
}

/// As [`stops`], for eight bytes: the high bit of the first that does, and of none before it.
fn word_stops(word: u64) -> u64 {
    const fn spread(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let quotes_and_controls = (word ^ spread(0x02)).wrapping_sub(spread(0x21));
    let backslashes = (word ^ spread(b'\\')).wrapping_sub(spread(0x01));
    (quotes_and_controls | backslashes) & !word & spread(0x80)
}

/// Value of the `\uXXXX` escape that `text` begins with.
fn code_unit(text: &[u8]) -> Result<u32, Stop> {
    let escape = text.get(..6).ok_or(Stop::Hexadecimal)?;
    let digits = escape.strip_prefix(b"\\u").ok_or(Stop::Hexadecimal)?;
    digits.iter().try_fold(0, |unit, &digit| {
        let value = (digit as char).to_digit(16).ok_or(Stop::Hexadecimal)?;
        Ok(unit * 16 + value)
    })
}

#[cfg(test)]
mod tests;
