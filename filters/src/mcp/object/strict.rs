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
    let are_plain = keys.clone().all(fold::is_plain);
    let alike = |one: &str, other: &str| match are_plain {
        // Lengths tell most keys apart.
        true => one.len() == other.len() && one.eq_ignore_ascii_case(other),
        false => fold::alike(one, other),
    };
    let mut rest = keys;
    while let Some(key) = rest.next() {
        if rest.clone().any(|other| alike(key, other)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

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
