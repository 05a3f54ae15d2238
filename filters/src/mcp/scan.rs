//! One pass over hostile bytes before a parser sees them.
//!
//! `serde_json` is safe against depth but skips over the contents of values nobody asked for, so
//! it accepts lone surrogates and unbounded strings there. This pass checks encoding and bounds of
//! the whole message without building anything; whether it is well-formed JSON is then the
//! parser's business.

use super::Bounds;
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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Syntax(what) | Fault::Shape(what) => f.write_str(what),
            Fault::Bound { what, limit } => write!(f, "{what} exceeds the limit of {limit}"),
            Fault::DuplicateKey => f.write_str("a key occurs twice in the same object"),
        }
    }
}

/// Checks encoding and bounds of a whole body.
///
/// # Errors
/// [`Fault::Syntax`] for invalid UTF-8, lone surrogates, unbalanced brackets and open strings;
/// [`Fault::Bound`] where `bounds` are exceeded.
pub fn check<'a>(body: &'a [u8], bounds: &Bounds) -> Result<&'a str, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::Syntax("the body is not UTF-8"))?;
    let depth_limit = bounds.depth.min(Bounds::MAX_DEPTH);
    let mut nest = Nest { counts: [0; Bounds::MAX_DEPTH], arrays: [false; Bounds::MAX_DEPTH], depth: 0 };
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        match byte {
            b'"' => {
                let end = string_end(body, at + 1)?;
                if end - at - 1 > bounds.string_bytes {
                    return Err(Fault::Bound {
                        what: "a string's length in bytes",
                        limit: bounds.string_bytes,
                    });
                }
                at = end;
            }
            b'{' | b'[' => nest.open(byte == b'[', depth_limit)?,
            b'}' | b']' => nest.close(byte == b']')?,
            b',' => nest.item(bounds)?,
            _ => {}
        }
        at += 1;
    }
    if nest.depth != 0 {
        return Err(Fault::Syntax("the body ends inside an object or array"));
    }
    Ok(text)
}

/// Counts items per open bracket.
struct Nest {
    counts: [u32; Bounds::MAX_DEPTH],
    arrays: [bool; Bounds::MAX_DEPTH],
    depth: usize,
}

impl Nest {
    fn open(&mut self, array: bool, limit: usize) -> Result<(), Fault> {
        if self.depth >= limit {
            return Err(Fault::Bound { what: "nesting depth", limit });
        }
        self.counts[self.depth] = 1;
        self.arrays[self.depth] = array;
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self, array: bool) -> Result<(), Fault> {
        match self.depth.checked_sub(1) {
            Some(depth) if self.arrays[depth] == array => {
                self.depth = depth;
                Ok(())
            }
            _ => Err(Fault::Syntax("brackets do not match")),
        }
    }

    fn item(&mut self, bounds: &Bounds) -> Result<(), Fault> {
        let Some(top) = self.depth.checked_sub(1) else {
            return Err(Fault::Syntax("a comma outside of any object or array"));
        };
        self.counts[top] += 1;
        let (limit, what) = if self.arrays[top] {
            (bounds.array_items, "the number of items in an array")
        } else {
            (bounds.object_keys, "the number of keys in an object")
        };
        if self.counts[top] as usize > limit {
            return Err(Fault::Bound { what, limit });
        }
        Ok(())
    }
}

/// Where the first quote or backslash is.
///
/// Most strings of a message are shorter than what it costs to set up a search by vectors: the
/// first bytes are looked at eight at a time.
pub(super) fn quote_or_escape(text: &[u8]) -> Option<usize> {
    const NEAR: usize = 32;
    let (near, far) = text.split_at(text.len().min(NEAR));
    let (words, rest) = near.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = zero_bytes(word ^ spread(b'"')) | zero_bytes(word ^ spread(b'\\'));
        if hits != 0 {
            return Some(index * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let start = near.len() - rest.len();
    match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(hit) => Some(start + hit),
        None => Some(near.len() + memchr::memchr2(b'"', b'\\', far)?),
    }
}

const fn spread(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The high bit of the first byte that is zero, and of none before it.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(spread(0x01)) & !word & spread(0x80)
}

/// Index of the quote that closes the string starting at `at`; surrogate escapes must pair.
fn string_end(body: &[u8], mut at: usize) -> Result<usize, Fault> {
    const OPEN: Fault = Fault::Syntax("the body ends inside a string");
    loop {
        let rest = body.get(at..).ok_or(OPEN)?;
        let hit = at + quote_or_escape(rest).ok_or(OPEN)?;
        if body[hit] == b'"' {
            return Ok(hit);
        }
        at = hit + 2;
        if body.get(hit + 1) != Some(&b'u') {
            continue;
        }
        let unit = code_unit(body, hit)?;
        at = hit + 6;
        match unit {
            0xD800..=0xDBFF if matches!(code_unit(body, at), Ok(0xDC00..=0xDFFF)) => at += 6,
            0xD800..=0xDFFF => return Err(Fault::Syntax("a \\u escape is half of a surrogate pair")),
            _ => {}
        }
    }
}

/// Value of the `\uXXXX` escape at `at`.
fn code_unit(body: &[u8], at: usize) -> Result<u32, Fault> {
    const BAD: Fault = Fault::Syntax("a \\u escape needs four hexadecimal digits");
    let escape = body.get(at..at + 6).ok_or(BAD)?;
    let digits = escape.strip_prefix(b"\\u").ok_or(BAD)?;
    digits.iter().try_fold(0, |unit, &digit| {
        let value = (digit as char).to_digit(16).ok_or(BAD)?;
        Ok(unit * 16 + value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn bodies_are_judged_by_encoding_and_bounds() {
        let bounds = Bounds { depth: 4, string_bytes: 8, array_items: 3, object_keys: 2 };
        let bound = |what, limit| Err(Fault::Bound { what, limit });
        let pair = Err(Fault::Syntax("a \\u escape is half of a surrogate pair"));
        let cases: &[(&str, &[u8], Result<(), Fault>)] = &[
            ("depth at the limit", b"[[[[]]]]", Ok(())),
            ("depth over the limit", b"[[[[[]]]]]", bound("nesting depth", 4)),
            ("string at the limit", br#"["12345678"]"#, Ok(())),
            ("string over the limit", br#"["123456789"]"#, bound("a string's length in bytes", 8)),
            ("items at the limit", b"[1,2,3]", Ok(())),
            ("items over the limit", b"[1,2,3,4]", bound("the number of items in an array", 3)),
            ("keys over the limit", br#"{"a":1,"b":2,"c":3}"#, bound("the number of keys in an object", 2)),
            ("brackets in strings are text", br#"["[[[[[["]"#, Ok(())),
            ("commas in strings are text", br#"[",,,,,"]"#, Ok(())),
            ("escaped quote", br#"["\"["]"#, Ok(())),
            ("bracket kinds differ", b"[}", Err(Fault::Syntax("brackets do not match"))),
            ("more closed than opened", b"]", Err(Fault::Syntax("brackets do not match"))),
            ("open array", b"[", Err(Fault::Syntax("the body ends inside an object or array"))),
            ("open string", b"[\"a", Err(Fault::Syntax("the body ends inside a string"))),
            ("backslash at the end", b"[\"a\\", Err(Fault::Syntax("the body ends inside a string"))),
            ("invalid UTF-8", b"[\"\xff\"]", Err(Fault::Syntax("the body is not UTF-8"))),
            ("lone high surrogate", br#"["\ud83d"]"#, pair.clone()),
            ("lone low surrogate", br#"["\ude00"]"#, pair.clone()),
            ("high then text", br#"["\ud83dx"]"#, pair),
            (
                "short escape",
                br#"["\u12"]"#,
                Err(Fault::Syntax("a \\u escape needs four hexadecimal digits")),
            ),
        ];
        for (name, body, expected) in cases {
            assert_eq!(&check(body, &bounds).map(drop), expected, "{name}");
        }
        let wide = Bounds::default();
        assert_eq!(check(br#"["\ud83d\ude00"]"#, &wide).map(drop), Ok(()), "surrogate pair");
    }

    #[test]
    fn the_first_quote_or_escape_is_found_wherever_it_stands() {
        for length in 0..80 {
            let mut text = vec![b'!'; length];
            assert_eq!(quote_or_escape(&text), None, "{length}");
            for at in (0..length).rev() {
                for stop in [b'"', b'\\'] {
                    text[at] = stop;
                    assert_eq!(quote_or_escape(&text), Some(at), "{at} of {length}");
                }
            }
        }
        assert_eq!(quote_or_escape("\u{a2}\u{dc}\u{22}".as_bytes()), Some(4));
    }

    #[test]
    fn twenty_thousand_brackets_are_refused_by_depth() {
        let verdict = check(nested(20_000).as_bytes(), &Bounds::default()).map(drop);
        assert_eq!(verdict, Err(Fault::Bound { what: "nesting depth", limit: 64 }));
    }

    #[test]
    fn no_configuration_lifts_the_depth_above_what_the_parser_takes() {
        let bounds = Bounds { depth: usize::MAX, ..Bounds::default() };
        assert!(check(nested(Bounds::MAX_DEPTH).as_bytes(), &bounds).is_ok());
        assert!(check(nested(Bounds::MAX_DEPTH + 1).as_bytes(), &bounds).is_err());
        assert!(serde_json::from_str::<serde_json::Value>(&nested(Bounds::MAX_DEPTH)).is_ok());
    }
}
