//! Reading a JSON-RPC envelope in place.
//!
//! Only the top level, `params` and `params._meta` are taken apart, by borrowed slices; everything
//! else stays text. The same key twice in one of these objects is refused, however it is escaped:
//! two parsers that disagree on which one counts are how a gateway is bypassed.

use super::{Fault, Method};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// What a message is, from its envelope alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Has a method and an id: wants an answer.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has an id, and a result.
    Result,
    /// Has an error, and the id it answers if that could be read.
    Error,
}

/// A JSON-RPC id: a string or an integer, kept as it was written.
///
/// Two ids are equal if they mean the same: `"a"` is `"\u0061"`, and `1` is never `"1"`
/// (JSON-RPC 2.0 §4).
#[derive(Clone, Debug)]
pub struct Id {
    text: Box<str>,
    unescaped: Option<Box<str>>,
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        match (&self.unescaped, &other.unescaped) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.text == other.text,
            _ => false,
        }
    }
}

impl Id {
    /// The id as JSON text, ready to be written into an answer.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    fn read(raw: &RawValue) -> Result<Id, Fault> {
        const BAD: Fault = Fault::Shape("the id must be a string or an integer");
        let text = raw.get();
        if text.starts_with('"') {
            let unescaped: Cow<'_, str> = serde_json::from_str(text).map_err(|_| BAD)?;
            return Ok(Id { text: text.into(), unescaped: Some(unescaped.into()) });
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BAD);
        }
        Ok(Id { text: text.into(), unescaped: None })
    }
}

/// One JSON-RPC message, borrowed from its text.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Request, notification or answer.
    pub shape: Shape,
    /// The id, where the shape has one.
    pub id: Option<Id>,
    /// The method of a request or notification.
    pub method: Option<Method>,
    /// The members of `params`, in order; empty for answers.
    pub params: Object<'a>,
    /// The text of `params`.
    pub params_text: Option<&'a str>,
    /// The `code` of an error answer, if it is an integer.
    pub error_code: Option<i64>,
    /// The text of `result`.
    pub result: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    /// Reads one message from text that [`super::check`] accepted.
    ///
    /// # Errors
    /// [`Fault::Syntax`] if it is no JSON, [`Fault::Shape`] if it is no JSON-RPC 2.0 message with
    /// by-name parameters, [`Fault::DuplicateKey`] for a repeated key.
    pub fn read(text: &'a str) -> Result<Envelope<'a>, Fault> {
        if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            return Err(not_an_object(text));
        }
        let members = Object::read(text)?;
        if members.text("jsonrpc").as_deref() != Some("2.0") {
            return Err(Fault::Shape("`jsonrpc` must be \"2.0\""));
        }
        match members.get("method") {
            Some(_) => Envelope::of_call(&members),
            None => Envelope::of_answer(&members),
        }
    }

    /// Reads the messages of a batch (2025-03-26, JSON-RPC 2.0 §6).
    ///
    /// # Errors
    /// As [`Envelope::read`]; also for an empty batch.
    pub fn read_batch(text: &'a str) -> Result<Vec<Envelope<'a>>, Fault> {
        let elements: Vec<&'a RawValue> =
            serde_json::from_str(text).map_err(|_| Fault::Syntax("the body is not valid JSON"))?;
        if elements.is_empty() {
            return Err(Fault::Shape("a batch must not be empty"));
        }
        elements.into_iter().map(|element| Envelope::read(element.get())).collect()
    }

    /// Whether it is a result that does not say `isError`.
    pub fn is_success(&self) -> bool {
        let failed = |text| {
            Object::read(text)
                .ok()
                .and_then(|result| result.get("isError"))
                .is_some_and(|flag| flag.get() == "true")
        };
        self.shape == Shape::Result && !self.result.is_some_and(failed)
    }

    fn of_call(members: &Object<'a>) -> Result<Envelope<'a>, Fault> {
        let name = members.text("method").ok_or(Fault::Shape("`method` must be a string"))?;
        if members.get("result").is_some() || members.get("error").is_some() {
            return Err(Fault::Shape("a message has either a method or an answer"));
        }
        let id = members.get("id").map(Id::read).transpose()?;
        let params_text = members.get("params").map(RawValue::get);
        let params = match params_text {
            Some(text) if text.starts_with('{') => Object::read(text)?,
            Some(_) => return Err(Fault::Shape("`params` must be an object")),
            None => Object::default(),
        };
        Ok(Envelope {
            shape: if id.is_some() { Shape::Request } else { Shape::Notification },
            id,
            method: Some(Method::of(&name)),
            params,
            params_text,
            error_code: None,
            result: None,
        })
    }

    fn of_answer(members: &Object<'a>) -> Result<Envelope<'a>, Fault> {
        let shape = match (members.get("result"), members.get("error")) {
            (Some(_), None) => Shape::Result,
            (None, Some(_)) => Shape::Error,
            (None, None) => return Err(Fault::Shape("neither a method nor a result nor an error")),
            (Some(_), Some(_)) => return Err(Fault::Shape("both a result and an error")),
        };
        let id = match members.get("id") {
            // An error about a request whose id could not be read (JSON-RPC 2.0 §5).
            Some(raw) if shape == Shape::Error && raw.get() == "null" => None,
            None if shape == Shape::Error => None,
            Some(raw) => Some(Id::read(raw)?),
            None => return Err(Fault::Shape("a result must carry an id")),
        };
        let error_code = match members.get("error") {
            Some(error) if error.get().starts_with('{') => {
                Object::read(error.get())?.get("code").and_then(|code| code.get().parse().ok())
            }
            _ => None,
        };
        Ok(Envelope {
            shape,
            id,
            method: None,
            params: Object::default(),
            params_text: None,
            error_code,
            result: members.get("result").map(RawValue::get),
        })
    }
}

fn not_an_object(text: &str) -> Fault {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => Fault::Shape("a message must be a JSON object"),
        Err(_) => Fault::Syntax("the body is not valid JSON"),
    }
}

/// The members of a JSON object in order, values as text, no key twice.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Takes an object apart one level deep.
    ///
    /// # Errors
    /// [`Fault::Syntax`] if it is no JSON object, [`Fault::DuplicateKey`] for a repeated key.
    pub fn read(text: &'a str) -> Result<Object<'a>, Fault> {
        let object: Object<'a> =
            serde_json::from_str(text).map_err(|_| Fault::Syntax("the body is not valid JSON"))?;
        if object.has_duplicates() { Err(Fault::DuplicateKey) } else { Ok(object) }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The value of a key, if it is a string.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        let raw = self.get(key)?.get();
        serde_json::from_str::<Text<'a>>(raw).ok().map(|text| text.0)
    }

    /// The value of a key, taken apart in turn, if it is an object.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, Fault> {
        match self.get(key).map(RawValue::get) {
            Some(text) if text.starts_with('{') => Object::read(text).map(Some),
            _ => Ok(None),
        }
    }

    /// Quadratic where that is fastest; hashed (and keyed) where a hostile object would make it slow.
    fn has_duplicates(&self) -> bool {
        if self.0.len() <= 16 {
            let mut rest = self.0.as_slice();
            while let Some(((key, _), tail)) = rest.split_first() {
                if tail.iter().any(|(other, _)| other == key) {
                    return true;
                }
                rest = tail;
            }
            return false;
        }
        let mut seen = HashSet::with_capacity(self.0.len());
        !self.0.iter().all(|(key, _)| seen.insert(key.as_ref()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::with_capacity(6);
                while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A string that stays borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of named cases")]
    fn envelopes_are_told_apart() {
        let shape = Fault::Shape;
        let cases: &[(&str, &str, Result<Shape, Fault>)] = &[
            ("request", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Ok(Shape::Request)),
            ("leading space", " \n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", Ok(Shape::Request)),
            ("string id", r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, Ok(Shape::Request)),
            ("negative id", r#"{"jsonrpc":"2.0","id":-7,"method":"ping"}"#, Ok(Shape::Request)),
            ("notification", r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, Ok(Shape::Notification)),
            ("result", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Ok(Shape::Result)),
            ("error", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1}}"#, Ok(Shape::Error)),
            ("error without id", r#"{"jsonrpc":"2.0","error":{"code":-1}}"#, Ok(Shape::Error)),
            ("unknown keys stay", r#"{"jsonrpc":"2.0","id":1,"method":"ping","x":[1]}"#, Ok(Shape::Request)),
            (
                "null id",
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "fractional id",
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "exponent id",
                r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "version 1",
                r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
                Err(shape("`jsonrpc` must be \"2.0\"")),
            ),
            (
                "numeric method",
                r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
                Err(shape("`method` must be a string")),
            ),
            (
                "positional params",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
                Err(shape("`params` must be an object")),
            ),
            (
                "method and result",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
                Err(shape("a message has either a method or an answer")),
            ),
            (
                "result and error",
                r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
                Err(shape("both a result and an error")),
            ),
            (
                "result without id",
                r#"{"jsonrpc":"2.0","result":{}}"#,
                Err(shape("a result must carry an id")),
            ),
            ("array", "[]", Err(shape("a message must be a JSON object"))),
            ("text", "hello", Err(Fault::Syntax("the body is not valid JSON"))),
            ("empty", "", Err(Fault::Syntax("the body is not valid JSON"))),
            (
                "trailing bytes",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping"}x"#,
                Err(Fault::Syntax("the body is not valid JSON")),
            ),
            (
                "duplicate method",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
                Err(Fault::DuplicateKey),
            ),
            (
                "duplicate by escape",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","\u006dethod":"b"}"#,
                Err(Fault::DuplicateKey),
            ),
            (
                "duplicate name",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"y"}}"#,
                Err(Fault::DuplicateKey),
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(&Envelope::read(text).map(|envelope| envelope.shape), expected, "{name}");
        }
    }

    #[test]
    fn ids_are_equal_by_meaning_and_never_across_types() {
        let id = |text: &str| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":{text},"result":{{}}}}"#);
            Envelope::read(&message).unwrap().id.unwrap()
        };
        assert_eq!(id(r#""a""#), id(r#""\u0061""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_eq!(id("9007199254740993").as_json(), "9007199254740993");
    }

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
    fn a_batch_is_read_element_by_element() {
        let text = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"n"}]"#;
        let shapes: Vec<Shape> = Envelope::read_batch(text).unwrap().iter().map(|e| e.shape).collect();
        assert_eq!(shapes, [Shape::Request, Shape::Notification]);
        assert!(Envelope::read_batch("[]").is_err());
        assert!(Envelope::read_batch(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7]"#).is_err());
    }
}
