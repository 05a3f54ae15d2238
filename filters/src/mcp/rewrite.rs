//! Changing members of a JSON object while every other one keeps its bytes.
//!
//! Members stay in their order and as they were written, number text, escapes and inner spaces
//! included; only what is between two members is written anew.

use super::object::Object;
use super::scan::string_stop;
use std::borrow::Cow;

/// Changes to the members of one object.
#[derive(Debug)]
pub struct Rewrite<'o, 'a> {
    object: &'o Object<'a>,
    changes: Vec<Change<'o>>,
}

#[derive(Debug)]
struct Change<'o> {
    key: Cow<'o, str>,
    /// JSON text; `None` removes the member.
    value: Option<Cow<'o, str>>,
}

impl<'a> Object<'a> {
    /// Begins a changed copy of this object.
    pub fn rewrite(&self) -> Rewrite<'_, 'a> {
        Rewrite { object: self, changes: Vec::new() }
    }
}

impl<'o> Rewrite<'o, '_> {
    /// Gives a member a new value, in its place or after all others. `json` must be JSON text.
    #[must_use]
    pub fn set(self, key: impl Into<Cow<'o, str>>, json: impl Into<Cow<'o, str>>) -> Self {
        self.change(key.into(), Some(json.into()))
    }

    /// As [`Rewrite::set`], if there is a value.
    #[must_use]
    pub fn set_some(self, key: impl Into<Cow<'o, str>>, json: Option<impl Into<Cow<'o, str>>>) -> Self {
        match json {
            Some(json) => self.set(key, json),
            None => self,
        }
    }

    /// Takes a member away, if there is one.
    #[must_use]
    pub fn remove(mut self, key: impl Into<Cow<'o, str>>) -> Self {
        let key = key.into();
        if self.object.get(&key).is_some() {
            return self.change(key, None);
        }
        self.changes.retain(|change| change.key != key);
        self
    }

    fn change(mut self, key: Cow<'o, str>, value: Option<Cow<'o, str>>) -> Self {
        self.changes.retain(|change| change.key != key);
        self.changes.push(Change { key, value });
        self
    }

    /// Whether the object has a member.
    pub(super) fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some()
    }

    /// Whether the copy has no members.
    pub fn is_empty(&self) -> bool {
        let kept = |key: &str| self.changes.iter().all(|change| change.key != key);
        self.changes.iter().all(|change| change.value.is_none())
            && !self.object.members().any(|(key, _)| kept(key))
    }

    /// The copy as text.
    pub fn text(&self) -> String {
        self.around(None)
    }

    /// The copy as text, with what another rewrite makes as the value of `key`, which must be a member.
    pub fn text_with(&self, key: &str, inner: &Rewrite<'_, '_>) -> String {
        self.around(Some((key, inner)))
    }

    /// Writes the copy behind what `out` holds.
    pub fn write(&self, out: &mut String) {
        self.write_around(out, None);
    }

    fn around(&self, inner: Option<(&str, &Rewrite<'_, '_>)>) -> String {
        let inside = inner.map_or(0, |(_, inner)| inner.added());
        let mut out = String::with_capacity(self.object.as_text().len() + self.added() + inside);
        self.write_around(&mut out, inner);
        out
    }

    /// Bytes by which the copy may be longer than the object.
    fn added(&self) -> usize {
        2 + self.changes.iter().map(Change::len).sum::<usize>()
    }

    fn write_around(&self, out: &mut String, inner: Option<(&str, &Rewrite<'_, '_>)>) {
        out.push('{');
        let first = out.len();
        for (key, is_plain, whole) in self.object.parts() {
            let named = |out: &mut String| {
                part(out, first);
                match is_plain {
                    true => ["\"", key, "\""].into_iter().for_each(|part| out.push_str(part)),
                    false => push_string(out, key),
                }
                out.push(':');
            };
            if let Some((_, inner)) = inner.filter(|(changed, _)| *changed == key) {
                named(out);
                inner.write(out);
                continue;
            }
            match self.changes.iter().find(|change| change.key == key) {
                None => {
                    part(out, first);
                    out.push_str(whole);
                }
                Some(Change { value: None, .. }) => {}
                Some(Change { value: Some(value), .. }) => {
                    named(out);
                    out.push_str(value);
                }
            }
        }
        let known = |key: &str| self.object.get(key).is_some();
        for change in self.changes.iter().filter(|change| !known(&change.key)) {
            change.write(out, first);
        }
        out.push('}');
    }
}

impl Change<'_> {
    fn len(&self) -> usize {
        self.value.as_ref().map_or(0, |value| self.key.len() + value.len() + 4)
    }

    /// Adds a member that was not there.
    fn write(&self, out: &mut String, first: usize) {
        let Some(value) = &self.value else { return };
        part(out, first);
        push_string(out, &self.key);
        out.push(':');
        out.push_str(value);
    }
}

fn part(out: &mut String, first: usize) {
    if out.len() > first {
        out.push(',');
    }
}

/// Writes a text as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some((plain, special)) = string_stop(rest.as_bytes()).and_then(|at| rest.split_at_checked(at)) {
        out.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(control) => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// A text as a JSON string.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_named_keeps_its_bytes() {
        let text = "{ \"a\" : 1.50 ,\n\"\\u0062\":[ ] , \"c\" :  \"\\/\" }";
        let object = Object::read(text).unwrap();
        let changed = object.rewrite().set("d", "4").remove("b").set("a", "2").remove("x");
        assert_eq!(changed.text(), "{\"a\":2,\"c\" :  \"\\/\",\"d\":4}");
        assert_eq!(object.rewrite().text(), "{\"a\" : 1.50,\"\\u0062\":[ ],\"c\" :  \"\\/\"}");
    }

    #[test]
    fn the_last_change_of_a_member_counts() {
        let object = Object::read("{\"a\":1}").unwrap();
        assert_eq!(object.rewrite().set("a", "2").remove("a").text(), "{}");
        assert!(object.rewrite().remove("a").is_empty() && !object.rewrite().is_empty());
        assert_eq!(object.rewrite().remove("a").set("a", "3").text(), "{\"a\":3}");
    }

    proptest! {
        #[test]
        fn a_written_string_is_read_as_the_same(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).unwrap(), text);
        }
    }
}
