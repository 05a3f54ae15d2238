//! A JSON object that every reader reads alike, whether it regards the case of keys or not.

use super::{Object, fold};
use crate::mcp::Fault;
use std::collections::HashSet;

/// An object that a rule, an edit or a selector reads: no two of its keys differ in case alone, and a
/// key that is asked for is not there in another case.
#[derive(Debug, Default)]
pub struct StrictObject<'a>(Object<'a>);

impl<'a> StrictObject<'a> {
    /// Takes an object apart one level deep.
    ///
    /// # Errors
    /// As [`Object::read`]; [`Fault::FoldedKey`] for two keys that differ in case alone.
    pub fn read(text: &'a str) -> Result<StrictObject<'a>, Fault> {
        StrictObject::of(Object::read(text)?)
    }

    /// The same of an object that was taken apart.
    ///
    /// # Errors
    /// [`Fault::FoldedKey`] for two keys that differ in case alone.
    pub fn of(object: Object<'a>) -> Result<StrictObject<'a>, Fault> {
        match keys_differ(object.members().map(|(key, _)| key)) {
            true => Ok(StrictObject(object)),
            false => Err(Fault::FoldedKey(None)),
        }
    }

    /// The text of a key's value.
    ///
    /// # Errors
    /// [`Fault::FoldedKey`] if the key is there in another case only.
    pub fn get(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        if let Some(value) = self.0.get(key) {
            return Ok(Some(value));
        }
        match self.0.members().any(|(own, _)| fold::alike(own, key)) {
            true => Err(Fault::FoldedKey(None)),
            false => Ok(None),
        }
    }

    /// The object, for one of which all keys are wanted.
    pub fn into_object(self) -> Object<'a> {
        self.0
    }

    /// The object, to be copied or written anew.
    pub fn as_object(&self) -> &Object<'a> {
        &self.0
    }
}

/// Whether no reader takes two of the keys for one.
///
/// Quadratic where that is fastest; hashed (and keyed) where a hostile object would make it slow.
pub(crate) fn keys_differ<'k>(keys: impl ExactSizeIterator<Item = &'k str> + Clone) -> bool {
    if keys.len() > 16 {
        let mut seen = HashSet::with_capacity(keys.len());
        return keys.into_iter().all(|key| seen.insert(fold::form(key)));
    }
    if differ_at_a_glance(keys.clone()) {
        return true;
    }
    let mut rest = keys;
    while let Some(key) = rest.next() {
        if rest.clone().any(|other| fold::alike(key, other)) {
            return false;
        }
    }
    true
}

/// Whether the length and the letters at both ends tell all keys apart, whatever their case; that is so
/// for most objects, and asks for each key once.
fn differ_at_a_glance<'k>(mut keys: impl Iterator<Item = &'k str>) -> bool {
    let mut seen = 0u64;
    keys.all(|key| {
        let (Some(first), Some(last)) = (key.bytes().next(), key.bytes().next_back()) else { return false };
        // The case of a letter is in none of these bits.
        let (first, last) = (usize::from(first & 0x1f), usize::from(last & 0x1f));
        let mark = 1 << ((first + 3 * last + 7 * key.len()) % 64);
        let is_new = seen & mark == 0;
        seen |= mark;
        is_new && fold::is_plain(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn objects_are_read_only_where_every_reader_agrees() {
        let folded = Err(Fault::FoldedKey(None));
        let cases: [(&str, &str, Result<Option<&str>, Fault>); 9] = [
            ("there", r#"{"amount":1,"b":2}"#, Ok(Some("1"))),
            ("absent", r#"{"b":2}"#, Ok(None)),
            ("in another case", r#"{"Amount":1}"#, folded.clone()),
            ("in two cases", r#"{"amount":1,"AMOUNT":2}"#, folded.clone()),
            ("by an escape", r#"{"amount":1,"\u0041mount":2}"#, folded.clone()),
            ("as C ends it", r#"{"amount":1,"amount\u0000":2}"#, folded.clone()),
            ("by a long s", r#"{"amount":1,"s":1,"\u017f":2}"#, folded),
            ("twice", r#"{"amount":1,"amount":2}"#, Err(Fault::DuplicateKey)),
            ("its value alone", r#"{"amount":"Amount","x":"X"}"#, Ok(Some("\"Amount\""))),
        ];
        for (name, text, expected) in cases {
            assert_eq!(StrictObject::read(text).and_then(|object| object.get("amount")), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn keys_differ_where_no_two_are_alike(keys in vec("[abBkK\u{212a}\u{17f}sS\0]{0,3}", 0..20)) {
            let pairs = |at: usize| keys[at + 1..].iter().map(move |other| (at, other));
            let alike = (0..keys.len()).flat_map(pairs).any(|(at, other)| fold::alike(&keys[at], other));
            prop_assert_eq!(keys_differ(keys.iter().map(String::as_str)), !alike);
        }
    }

    #[test]
    fn keys_that_differ_in_case_are_found_in_small_and_large_objects() {
        for count in [2, 16, 17, 3_000] {
            let keys: Vec<String> = (0..count).map(|key| format!("k{key}")).collect();
            let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            assert!(keys_differ(keys.iter().copied()), "{count}");
            keys.pop();
            keys.push("K0");
            assert!(!keys_differ(keys.iter().copied()), "{count}");
        }
    }
}
