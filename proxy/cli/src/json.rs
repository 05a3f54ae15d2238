//! JSON of a stranger, read into a tree of our own.
//!
//! `serde_json::Value` gives keys of its own a meaning that can nest without bound; this tree has
//! no such keys, and what builds it is bounded in depth and size before it starts.

use portunus_filters::mcp::{Bounds, Fault, check};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// The number, if it is an integer of 64 bits.
    Number(Option<i64>),
    Text(String),
    List(Vec<Json>),
    /// Members in their order; a key may stand twice.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// As deep as any message can be read, and otherwise wide: what a server sends passes a gateway.
    const BOUNDS: Bounds = Bounds {
        depth: Bounds::MAX_DEPTH,
        string_bytes: usize::MAX,
        array_items: 100_000,
        object_keys: 100_000,
    };

    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Fault`]: it is no JSON, or beyond the bounds.
    pub(super) fn read(body: &[u8]) -> Result<Json, Fault> {
        let text = check(body, &Json::BOUNDS)?;
        serde_json::from_str(text).map_err(|_| Fault::Syntax("the body is not valid JSON"))
    }

    /// The member of an object; the last one if the key stands twice, as most parsers have it.
    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        self.members().iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an integer.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Json::Number(number) => *number,
            _ => None,
        }
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }

    /// The members of an object; none for anything else.
    pub(super) fn members(&self) -> &[(String, Json)] {
        match self {
            Json::Object(members) => members,
            _ => &[],
        }
    }

    /// Whether it is an object.
    pub(super) fn is_object(&self) -> bool {
        matches!(self, Json::Object(_))
    }

    /// What is directly inside a list or object.
    pub(super) fn children(&self) -> Box<dyn Iterator<Item = &Json> + '_> {
        match self {
            Json::List(items) => Box::new(items.iter()),
            Json::Object(members) => Box::new(members.iter().map(|(_, value)| value)),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// Levels of lists and objects, itself among them.
    pub(super) fn depth(&self) -> usize {
        match self {
            Json::List(_) | Json::Object(_) => 1 + self.children().map(Json::depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(Some(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(i64::try_from(value).ok()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number(None))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are() {
        let json = Json::read(br#"{"a":[1,-2,1.5,null,true,"x"],"b":{"c":{}},"a2":1,"a2":2}"#).unwrap();
        let a = json.get("a").unwrap().items();
        assert_eq!(a[0].integer(), Some(1));
        assert_eq!(a[1].integer(), Some(-2));
        assert_eq!((&a[2], &a[3], &a[4]), (&Json::Number(None), &Json::Null, &Json::Bool(true)));
        assert_eq!(a[5].text(), Some("x"));
        assert_eq!(json.get("a2").unwrap().integer(), Some(2));
        assert_eq!(json.depth(), 3);
    }

    #[test]
    fn what_would_overflow_a_stack_or_is_no_json_is_refused() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(matches!(Json::read(deep.as_bytes()), Err(Fault::Bound { .. })));
        for bad in ["", "{", "{'a':1}", "1 2", "\"\\ud800\""] {
            assert!(Json::read(bad.as_bytes()).is_err(), "{bad}");
        }
        // A key that `serde_json::Value` would open once more, at each level.
        let mut nested = "1".to_owned();
        for _ in 0..20 {
            nested =
                format!("{{\"$serde_json::private::RawValue\":{}}}", serde_json::to_string(&nested).unwrap());
        }
        assert_eq!(Json::read(nested.as_bytes()).unwrap().depth(), 1);
    }
}
