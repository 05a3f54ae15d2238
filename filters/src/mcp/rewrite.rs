//! Changing members of a JSON object while every other one keeps its bytes.
//!
//! Members stay in their order and as they were written, number text, escapes and inner spaces
//! included, and so does what lies between two members that stay.

use super::object::{Object, Placed};
use super::scan::string_stop;
use std::borrow::Cow;

/// As many changes as most objects undergo.
const CHANGES: usize = 4;

/// Changes to the members of one object.
#[derive(Debug)]
pub struct Rewrite<'o, 'a> {
    object: &'o Object<'a>,
    changes: Vec<Change<'o>>,
}

#[derive(Debug)]
struct Change<'o> {
    key: Cow<'o, str>,
    /// The member that it changes; `None` adds one.
    at: Option<usize>,
    /// JSON text; `None` removes the member.
    value: Option<Cow<'o, str>>,
}

impl<'a> Object<'a> {
    /// Begins a changed copy of this object.
    pub fn rewrite(&self) -> Rewrite<'_, 'a> {
        Rewrite { object: self, changes: Vec::with_capacity(CHANGES) }
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
        self.changes.retain(|change| change.key != key);
        if let at @ Some(_) = self.object.position(&key) {
            self.changes.push(Change { key, at, value: None });
        }
        self
    }

    fn change(mut self, key: Cow<'o, str>, value: Option<Cow<'o, str>>) -> Self {
        self.changes.retain(|change| change.key != key);
        let at = self.object.position(&key);
        self.changes.push(Change { key, at, value });
        self
    }

    /// Whether the copy has no members.
    pub fn is_empty(&self) -> bool {
        // Each takes another member away.
        self.changes.iter().all(|change| change.value.is_none())
            && self.changes.len() == self.object.members().len()
    }

    /// The copy as text.
    pub fn text(&self) -> String {
        self.around(None)
    }

    /// The copy as text, with what another rewrite makes as the value of `key`.
    pub fn text_with(&self, key: &str, inner: &Rewrite<'_, '_>) -> String {
        self.around(Some((key, inner)))
    }

    /// Writes the copy behind what `out` holds.
    pub fn write(&self, out: &mut String) {
        self.write_around(out, None);
    }

    fn around(&self, inner: Option<(&str, &Rewrite<'_, '_>)>) -> String {
        let inside = inner.map_or(0, |(key, inner)| key.len() + 4 + inner.added());
        let mut out = String::with_capacity(self.object.as_text().len() + self.added() + inside);
        self.write_around(&mut out, inner);
        out
    }

    /// Bytes by which the copy may be longer than the object.
    fn added(&self) -> usize {
        2 + self.changes.iter().map(Change::len).sum::<usize>()
    }

    fn write_around(&self, out: &mut String, inner: Option<(&str, &Rewrite<'_, '_>)>) {
        let text = self.object.as_text();
        let mut copy = Copy::of(if text.is_empty() { "{}" } else { text }, out);
        let inner_at = inner.and_then(|(key, _)| self.object.position(key));
        let (mut from, mut gone) = (0, 0);
        while let Some(place) = self.next_change(from, inner_at) {
            let Some(member) = self.object.placed(place) else { break };
            let change = self.changes.iter().find(|change| change.at == Some(place));
            match (inner.filter(|_| inner_at == Some(place)), change.and_then(|one| one.value.as_deref())) {
                (Some((key, inner)), _) => {
                    copy.name(member, key);
                    inner.write(copy.out);
                }
                (None, Some(value)) => {
                    copy.name(member, change.map_or("", |change| &change.key));
                    copy.out.push_str(value);
                }
                (None, None) => {
                    copy.leave_out(self.object, (place, 0), place > gone);
                    gone += 1;
                }
            }
            from = place + 1;
        }
        let all = self.object.members().len();
        let end = all.checked_sub(1).and_then(|last| self.object.placed(last)).map_or(1, |last| last.end);
        copy.up_to(end);
        let mut is_first = all == gone;
        for change in self.changes.iter().filter(|change| change.at.is_none()) {
            let Some(value) = &change.value else { continue };
            copy.add(&change.key, &mut is_first);
            copy.out.push_str(value);
        }
        if let Some((key, inner)) = inner.filter(|_| inner_at.is_none()) {
            copy.add(key, &mut is_first);
            inner.write(copy.out);
        }
        copy.finish();
    }

    /// The next member from `from` on that does not stay as it is.
    fn next_change(&self, from: usize, inner: Option<usize>) -> Option<usize> {
        let changed = self.changes.iter().filter_map(|change| change.at);
        changed.chain(inner).filter(|place| *place >= from).min()
    }
}

/// A text that is copied in pieces.
pub(crate) struct Copy<'t> {
    text: &'t str,
    /// How much of it is copied, or left out.
    pub(crate) done: usize,
    /// What it is copied to, and what comes between.
    pub(crate) out: &'t mut String,
}

impl<'t> Copy<'t> {
    pub(crate) fn of(text: &'t str, out: &'t mut String) -> Copy<'t> {
        Copy { text, done: 0, out }
    }

    pub(crate) fn finish(mut self) {
        self.up_to(self.text.len());
    }

    pub(crate) fn up_to(&mut self, end: usize) {
        if let Some(piece) = self.text.get(self.done..end) {
            self.out.push_str(piece);
            self.done = end;
        }
    }

    /// Leaves out the member at a `place` of an object that begins at `base`, with the comma before it, or
    /// behind it if no other `stays_before` it.
    pub(crate) fn leave_out(
        &mut self,
        object: &Object<'_>,
        (place, base): (usize, usize),
        stays_before: bool,
    ) {
        let Some(member) = object.placed(place) else { return };
        if stays_before {
            let before = place.checked_sub(1).and_then(|before| object.placed(before));
            self.up_to(base + before.map_or(member.start, |before| before.end));
            self.done = base + member.end;
        } else {
            self.up_to(base + member.start);
            self.done = base + object.placed(place + 1).map_or(member.end, |next| next.start);
        }
    }

    /// Copies up to the value of a member, for another one. A key with escapes is spelt without: nobody is
    /// to take it for another than who changed it.
    fn name(&mut self, member: Placed, key: &str) {
        if member.is_plain {
            self.up_to(member.value);
        } else {
            self.up_to(member.start);
            push_string(self.out, key);
            self.out.push(':');
        }
        self.done = member.end;
    }

    /// Writes the key of a member that was not there.
    fn add(&mut self, key: &str, is_first: &mut bool) {
        if !std::mem::take(is_first) {
            self.out.push(',');
        }
        push_string(self.out, key);
        self.out.push(':');
    }
}

impl Change<'_> {
    fn len(&self) -> usize {
        self.value.as_ref().map_or(0, |value| self.key.len() + value.len() + 4)
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
        assert_eq!(changed.text(), "{ \"a\" : 2 , \"c\" :  \"\\/\",\"d\":4 }");
        let cases = [
            ("nothing", object.rewrite(), text),
            (
                "an escaped key",
                object.rewrite().set("b", "3"),
                "{ \"a\" : 1.50 ,\n\"b\":3 , \"c\" :  \"\\/\" }",
            ),
            ("the first", object.rewrite().remove("a"), "{ \"\\u0062\":[ ] , \"c\" :  \"\\/\" }"),
            ("the last", object.rewrite().remove("c"), "{ \"a\" : 1.50 ,\n\"\\u0062\":[ ] }"),
            ("the first two", object.rewrite().remove("b").remove("a"), "{ \"c\" :  \"\\/\" }"),
            ("the last two", object.rewrite().remove("b").remove("c"), "{ \"a\" : 1.50 }"),
            ("all but the middle", object.rewrite().remove("c").remove("a"), "{ \"\\u0062\":[ ] }"),
            ("all", object.rewrite().remove("c").remove("a").remove("b"), "{  }"),
        ];
        for (name, changed, expected) in cases {
            assert_eq!(changed.text(), expected, "{name}");
        }
        let all = object.rewrite().remove("c").remove("a").remove("b").set("d", "4").set("e", "5");
        assert_eq!(all.text(), "{ \"d\":4,\"e\":5 }");
        assert_eq!(Object::default().rewrite().set("d", "4").text(), "{\"d\":4}");
    }

    #[test]
    fn an_object_within_is_written_in_its_place() {
        let (outer, inner) = ("{\"a\":1, \"p\" : {\"x\":[]}, \"z\":2}", "{\"x\":[]}");
        let (outer, inner) = (Object::read(outer).unwrap(), Object::read(inner).unwrap());
        let changed = outer.rewrite().set("b", "3").text_with("p", &inner.rewrite().set("y", "4"));
        assert_eq!(changed, "{\"a\":1, \"p\" : {\"x\":[],\"y\":4}, \"z\":2,\"b\":3}");
        let added = outer.rewrite().remove("a").text_with("q", &inner.rewrite());
        assert_eq!(added, "{\"p\" : {\"x\":[]}, \"z\":2,\"q\":{\"x\":[]}}");
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
        fn a_copy_says_what_was_asked_for(
            members in prop::collection::btree_map("[a-d]", 0u8..10, 0..4),
            changes in prop::collection::vec(("[a-f]", prop::option::of(10u8..20)), 0..6),
            spaces in prop::sample::select(vec!["", " ", "\n "]),
        ) {
            let mut expected = serde_json::Map::new();
            let whole: Vec<_> = members.iter().map(|(key, n)| format!("{spaces}\"{key}\"{spaces}:{n}{spaces}")).collect();
            expected.extend(members.iter().map(|(key, n)| (key.clone(), (*n).into())));
            let text = format!("{{{}}}", whole.join(","));
            let object = Object::read(&text).unwrap();
            let mut rewrite = object.rewrite();
            for (key, value) in &changes {
                rewrite = match value {
                    Some(value) => rewrite.set(key.as_str(), value.to_string()),
                    None => rewrite.remove(key.as_str()),
                };
                match value {
                    Some(value) => expected.insert(key.clone(), (*value).into()),
                    None => expected.remove(key),
                };
            }
            prop_assert_eq!(rewrite.is_empty(), expected.is_empty());
            let copy: serde_json::Value = serde_json::from_str(&rewrite.text()).unwrap();
            prop_assert_eq!(copy, serde_json::Value::Object(expected));
        }

        #[test]
        fn a_written_string_is_read_as_the_same(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).unwrap(), text);
        }
    }
}
