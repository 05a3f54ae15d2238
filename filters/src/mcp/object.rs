//! The members of a JSON object as slices of its text.
//!
//! `serde_json` says once whether a text is JSON. What is inside a text that is can then be found by
//! its quotes and brackets alone. One walk finds the members of a message and of the objects in it
//! that a gateway reads, instead of one parse for each.

use super::Fault;
use super::scan::quote_or_escape;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;

const BAD: Fault = Fault::Syntax("the body is not valid JSON");

/// The members of a JSON object in order, values as text, no key twice.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<Member<'a>>);

#[derive(Debug)]
struct Member<'a> {
    key: Cow<'a, str>,
    text: &'a str,
    /// Its members in turn, if it is one of those that messages are read for.
    inside: Option<Result<Object<'a>, Fault>>,
}

/// Which objects of a message are taken apart with it.
#[derive(Clone, Copy)]
enum Place {
    Message,
    Params,
    Deeper,
}

impl Place {
    /// The place that a key leads to, if it is taken apart.
    fn below(self, key: &str) -> Option<Place> {
        match (self, key) {
            (Place::Message, "params") => Some(Place::Params),
            (Place::Message, "result" | "error") | (Place::Params, "_meta") => Some(Place::Deeper),
            _ => None,
        }
    }
}

impl<'a> Object<'a> {
    /// Takes an object apart one level deep.
    ///
    /// # Errors
    /// [`Fault::Syntax`] if it is no JSON object, [`Fault::DuplicateKey`] for a repeated key.
    pub fn read(text: &'a str) -> Result<Object<'a>, Fault> {
        let whole: &RawValue = serde_json::from_str(text).map_err(|_| BAD)?;
        Object::within(whole.get(), Place::Deeper)
    }

    /// Takes a message apart.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub(super) fn message(text: &'a str) -> Result<Object<'a>, Fault> {
        let whole: &RawValue = serde_json::from_str(text).map_err(|_| BAD)?;
        Object::element(whole)
    }

    /// Takes a message apart that is an element of a batch.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub(super) fn element(whole: &'a RawValue) -> Result<Object<'a>, Fault> {
        Object::within(whole.get(), Place::Message)
    }

    /// Takes an object apart in a text that was parsed before.
    ///
    /// In any other text members may be found that are none; what is found is still bounded by the
    /// text, and nothing in it is trusted because it was found.
    fn within(text: &'a str, place: Place) -> Result<Object<'a>, Fault> {
        Walk { text, at: 0 }.object(place).ok_or(BAD)?
    }

    /// The text of a key's value.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.member(key).map(|member| member.text)
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
            Some(text) if text.starts_with('{') => Object::within(text, Place::Deeper).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Object::object`], for one that was taken apart with its message: `_meta` of `params`.
    ///
    /// # Errors
    /// [`Fault::DuplicateKey`] for a repeated key in it.
    pub fn inside(&self, key: &str) -> Result<Option<&Object<'a>>, Fault> {
        match self.member(key).and_then(|member| member.inside.as_ref()) {
            Some(inside) => inside.as_ref().map(Some).map_err(Clone::clone),
            None => Ok(None),
        }
    }

    /// As [`Object::inside`], to keep: `params`, `result` or `error` of a message.
    pub(super) fn take(&mut self, key: &str) -> Option<Result<Object<'a>, Fault>> {
        self.0.iter_mut().find(|member| member.key == key)?.inside.take()
    }

    fn member(&self, key: &str) -> Option<&Member<'a>> {
        self.0.iter().find(|member| member.key == key)
    }

    /// Quadratic where that is fastest; hashed (and keyed) where a hostile object would make it slow.
    fn has_duplicates(&self) -> bool {
        if self.0.len() <= 16 {
            let mut rest = self.0.as_slice();
            while let Some((member, tail)) = rest.split_first() {
                if tail.iter().any(|other| other.key == member.key) {
                    return true;
                }
                rest = tail;
            }
            return false;
        }
        let mut seen = HashSet::with_capacity(self.0.len());
        !self.0.iter().all(|member| seen.insert(member.key.as_ref()))
    }
}

/// What a JSON string says; borrowed unless it has escapes. `None` if it is no string.
pub(super) fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let inside = text.strip_prefix('"')?;
    match quote_or_escape(inside.as_bytes())? {
        end if end + 1 == inside.len() && inside.ends_with('"') => Some(Cow::Borrowed(&inside[..end])),
        _ => serde_json::from_str(text).ok().map(Cow::Owned),
    }
}

/// A way through JSON text by its quotes and brackets.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// The object that comes next; `None` if none does.
    fn object(&mut self, place: Place) -> Option<Result<Object<'a>, Fault>> {
        let mut members = Vec::with_capacity(6);
        self.take(b'{')?;
        while self.look()? != b'}' {
            let key = self.key()?;
            self.take(b':')?;
            let deeper = place.below(&key).filter(|_| self.look() == Some(b'{'));
            let start = self.at;
            let (text, inside) = match deeper {
                Some(place) => {
                    let inside = self.object(place)?;
                    (self.text.get(start..self.at)?, Some(inside))
                }
                None => (self.value()?, None),
            };
            members.push(Member { key, text, inside });
            if self.look()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        let object = Object(members);
        Some(if object.has_duplicates() { Err(Fault::DuplicateKey) } else { Ok(object) })
    }

    fn key(&mut self) -> Option<Cow<'a, str>> {
        self.take(b'"')?;
        let start = self.at;
        let stop = start + quote_or_escape(self.text.as_bytes().get(start..)?)?;
        if self.text.as_bytes()[stop] == b'"' {
            self.at = stop + 1;
            return self.text.get(start..stop).map(Cow::Borrowed);
        }
        self.at = self.string_end(start - 1)?;
        unquoted(self.text.get(start - 1..self.at)?)
    }

    /// The next byte that is no white space.
    fn look(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let space = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))?;
        self.at += space;
        Some(rest[space])
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.look()? == wanted).then(|| self.at += 1)
    }

    /// The text of the value that comes next, or of a key.
    fn value(&mut self) -> Option<&'a str> {
        let first = self.look()?;
        let start = self.at;
        match first {
            b'"' => self.at = self.string_end(start)?,
            b'{' | b'[' => self.at = self.bracket_end(start)?,
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
                let rest = &self.text.as_bytes()[start..];
                self.at = start + rest.iter().position(ends)?;
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }

    /// Where the string that starts at `start` ends, its quote included.
    fn string_end(&self, start: usize) -> Option<usize> {
        let mut at = start + 1;
        loop {
            let hit = at + quote_or_escape(self.text.as_bytes().get(at..)?)?;
            if self.text.as_bytes()[hit] == b'"' {
                return Some(hit + 1);
            }
            at = hit + 2;
        }
    }

    /// Where the object or array that starts at `start` ends, its bracket included.
    fn bracket_end(&self, start: usize) -> Option<usize> {
        let (mut at, mut depth) = (start, 0usize);
        loop {
            match self.text.as_bytes().get(at)? {
                b'"' => at = self.string_end(at)? - 1,
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 1 => return Some(at + 1),
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    #[test]
    fn duplicates_are_found_in_small_and_large_objects() {
        for keys in [2, 16, 17, 5_000] {
            let members: Vec<String> = (0..keys).map(|key| format!("\"k{key}\":0")).collect();
            let clean = format!("{{{}}}", members.join(","));
            assert!(Object::read(&clean).is_ok(), "{keys}");
            let repeated = format!("{{{},\"k0\":1}}", members.join(","));
            assert_eq!(Object::read(&repeated).map(|_| ()), Err(Fault::DuplicateKey), "{keys}");
        }
    }

    #[test]
    fn members_are_found_as_they_stand() {
        let text =
            " { \"a\" : 1 ,\n\"b\":{\"x\":[\"]}\",{}]} , \"\\u0063\" : \"\\\"}\" ,\"d\":[ ] , \"e\":null } ";
        let object = Object::read(text).unwrap();
        let found: Vec<(&str, &str)> =
            object.0.iter().map(|member| (member.key.as_ref(), member.text)).collect();
        let expected =
            [("a", "1"), ("b", "{\"x\":[\"]}\",{}]}"), ("c", "\"\\\"}\""), ("d", "[ ]"), ("e", "null")];
        assert_eq!(found, expected);
        assert_eq!(object.text("c").as_deref(), Some("\"}"));
        assert_eq!(object.object("b").unwrap().unwrap().get("x"), Some("[\"]}\",{}]"));
    }

    #[test]
    fn a_message_is_taken_apart_with_what_it_is_read_for() {
        let text =
            r#"{"params": {"_meta" : {"a":1}, "x":{"_meta":{}}} ,"result":{"isError":true},"y":{"z":1}}"#;
        let mut message = Object::message(text).unwrap();
        assert_eq!(message.get("params"), Some(r#"{"_meta" : {"a":1}, "x":{"_meta":{}}}"#));
        assert!(message.take("y").is_none());
        assert_eq!(message.take("result").unwrap().unwrap().get("isError"), Some("true"));
        let params = message.take("params").unwrap().unwrap();
        assert_eq!(params.inside("_meta").unwrap().unwrap().get("a"), Some("1"));
        assert!(params.inside("x").unwrap().is_none());
        let repeated = Object::message(r#"{"params":{"_meta":{"a":1,"a":2}}}"#)
            .unwrap()
            .take("params")
            .unwrap()
            .unwrap();
        assert_eq!(repeated.inside("_meta").map(drop), Err(Fault::DuplicateKey));
    }

    #[test]
    fn what_is_no_object_is_refused_and_never_walked_out_of() {
        for text in [
            "",
            "{",
            "}",
            "[]",
            "7",
            "\"a\"",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{a:1}",
            "{\"a\":1}x",
            "{\"a\":\"\\\"}",
        ] {
            assert_eq!(Object::read(text).map(drop), Err(BAD), "{text}");
        }
        for text in
            ["{\"a\":", "{\"a", "{\"a\":\"\\", "{\"a\":[", "{{", "{\"a\":,", "{\"\\ud800\":1}", "]", "{]"]
        {
            assert!(Object::within(text, Place::Message).is_err(), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let object = proptest::collection::btree_map(any::<String>(), inner.clone(), 0..5);
            prop_oneof![
                proptest::collection::vec(inner, 0..5).prop_map(Value::from),
                object.prop_map(|members| Value::Object(Map::from_iter(members))),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_a_parser_finds(
            members in proptest::collection::btree_map(any::<String>(), json(), 0..20),
            pretty in any::<bool>(),
        ) {
            let whole = Value::Object(Map::from_iter(members.clone()));
            let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) };
            let text = text.unwrap();
            let object = Object::within(&text, Place::Deeper).unwrap();
            prop_assert_eq!(object.0.len(), members.len());
            for (key, value) in &members {
                let found: Value = serde_json::from_str(object.get(key).unwrap()).unwrap();
                prop_assert_eq!(&found, value);
                let text = object.text(key);
                prop_assert_eq!(text.as_deref(), value.as_str());
            }
        }

        #[test]
        fn the_walk_stays_inside_of_any_text(text in "[{}\\[\\],:\"\\\\ a1\u{e9}]{0,24}") {
            drop(Object::within(&text, Place::Message));
        }
    }
}
