//! Typed access to a document tree that reports every mistake and lets none pass.
//!
//! A [`Section`] remembers which keys were asked for; what is left when it ends is an unknown key.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use crate::diagnostic::{Findings, Located, Location, Place};
use crate::units::{parse_duration, parse_size};
use crate::yaml::{Entry, Kind, Node, join};

/// A section that is part of the format and that this build does not enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unenforced {
    /// Its key.
    pub section: String,
    /// Its place in the document.
    pub place: Place,
}

/// One value of a document on its way to a type. What it cannot become is reported.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    node: &'a Node,
    path: String,
    source: Source<'a>,
}

/// The file being read and where its mistakes go.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a Path,
    pub(crate) findings: &'a Findings,
}

impl<'a> Value<'a> {
    /// The whole document.
    pub(crate) fn root(node: &'a Node, source: Source<'a>) -> Value<'a> {
        Value { node, path: String::new(), source }
    }

    pub(crate) fn place(&self) -> Place {
        self.source.place(self.path.clone(), self.node.line, self.node.column)
    }

    pub(crate) fn error(&self, problem: impl Into<String>, hint: impl Into<String>) {
        self.source.findings.error(&self.place(), problem, hint);
    }

    pub(crate) fn warn(&self, problem: impl Into<String>, hint: impl Into<String>) {
        self.source.findings.warn(&self.place(), problem, hint);
    }

    /// Reports that `wanted` should stand here. The value is not shown: it may be a credential.
    pub(crate) fn expected<T>(&self, wanted: &str) -> Option<T> {
        let hint = match self.node.kind {
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) if wanted.starts_with("text") => {
                "put the value in quotes".to_owned()
            }
            Kind::Null => format!("write {wanted}, or remove the key"),
            _ => format!("write {wanted}"),
        };
        self.error(format!("{} where {wanted} should be", self.node.kind.name()), hint);
        None
    }

    /// The text, if it is text; nothing is reported if it is not.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self.node.kind, Kind::Integer(_) | Kind::Float(_))
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node.kind, Kind::Map(_))
    }

    pub(crate) fn text(&self) -> Option<Located<String>> {
        match self.as_text() {
            Some("") => self.expected("text that is not empty"),
            Some(text) => Some(Located { value: text.to_owned(), place: self.place() }),
            None => self.expected("text"),
        }
    }

    /// Text that `parse` accepts; its error completes a sentence that begins with the text.
    pub(crate) fn parsed<T, E: Display>(
        &self,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let text = self.text()?;
        match parse(&text.value) {
            Ok(value) => Some(Located { value, place: text.place }),
            Err(problem) => {
                self.error(format!("`{}`: {problem}", text.value), hint);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self) -> Option<bool> {
        match self.node.kind {
            Kind::Bool(flag) => Some(flag),
            _ => self.expected("`true` or `false`"),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let Kind::Integer(number) = self.node.kind else { return self.expected("a whole number") };
        self.within(usize::try_from(number).ok(), &number, &range)
    }

    /// An amount of money such as `0.05`, in millionths.
    pub(crate) fn amount_micros(&self) -> Option<u64> {
        const MOST: f64 = 1_000_000.0;
        let number = match self.node.kind {
            Kind::Float(number) => number,
            Kind::Integer(number) => i32::try_from(number).map_or(f64::INFINITY, f64::from),
            _ => return self.expected("a number such as `0.05`"),
        };
        if !(0.0..=MOST).contains(&number) {
            self.error(format!("`{number}` is out of range"), format!("write 0 to {MOST}"));
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 10^12")]
        let micros = (number * 1e6).round() as u64;
        Some(micros)
    }

    /// A duration within `range`, `30s`.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = match &self.node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Integer(number) => number.to_string(),
            _ => return self.expected("a duration such as `30s`"),
        };
        match parse_duration(&text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let show = crate::units::show_duration;
                let hint = format!("write {} to {}", show(*range.start()), show(*range.end()));
                self.error(format!("`{text}` is out of range"), hint);
                None
            }
            Err(problem) => {
                self.error(format!("`{text}` is not a duration"), problem);
                None
            }
        }
    }

    /// A number of bytes within `range`, `64KiB` or `512`.
    pub(crate) fn size(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let text = match &self.node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Integer(number) => number.to_string(),
            _ => return self.expected("a size such as `64KiB`"),
        };
        match parse_size(&text) {
            Ok(bytes) => self.within(usize::try_from(bytes).ok(), &text, &range),
            Err(problem) => {
                self.error(format!("`{text}` is not a size"), problem);
                None
            }
        }
    }

    /// One of a closed list of words. A number is one too: `1.2` needs no quotes.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let text = match &self.node.kind {
            Kind::Text(text) => text.as_str(),
            Kind::Integer(number) => &number.to_string(),
            Kind::Float(number) => &number.to_string(),
            _ => return self.expected(&format!("one of {}", quoted(&names))),
        };
        let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            self.error(format!("`{text}` is not known here"), suggestion(text, &names, "one of"));
        }
        found
    }

    /// The value as others read it, keys and all.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.node.json()
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Vec<Value<'a>> {
        match &self.node.kind {
            Kind::List(items) => self.children(items),
            _ => self.expected("a list").unwrap_or_default(),
        }
    }

    /// The items of a list, or the single value itself.
    pub(crate) fn items_or_one(&self) -> Vec<Value<'a>> {
        match &self.node.kind {
            Kind::List(items) => self.children(items),
            _ => vec![self.clone()],
        }
    }

    /// The entries of a mapping with keys of the document's own choosing.
    pub(crate) fn entries(&self) -> Vec<(Located<String>, Value<'a>)> {
        let Kind::Map(entries) = &self.node.kind else {
            return self.expected("a mapping").unwrap_or_default();
        };
        let entry = |entry: &'a Entry| {
            let path = join(&self.path, &entry.key);
            let place = self.source.place(path.clone(), entry.line, entry.column);
            let value = Value { node: &entry.value, path, source: self.source };
            (Located { value: entry.key.clone(), place }, value)
        };
        entries.iter().map(entry).collect()
    }

    /// Reads a mapping with known keys; those that `read` does not ask for are errors.
    pub(crate) fn section<T>(&self, read: impl FnOnce(&mut Section<'a>) -> T) -> Option<T> {
        let Kind::Map(entries) = &self.node.kind else { return self.expected("a mapping") };
        let mut section = Section {
            entries,
            path: self.path.clone(),
            place: self.place(),
            source: self.source,
            known: vec![],
        };
        let value = read(&mut section);
        section.report_unknown_keys();
        Some(value)
    }

    fn children(&self, items: &'a [Node]) -> Vec<Value<'a>> {
        let child =
            |(index, node)| Value { node, path: format!("{}[{index}]", self.path), source: self.source };
        items.iter().enumerate().map(child).collect()
    }

    fn within(
        &self,
        number: Option<usize>,
        written: &dyn Display,
        range: &RangeInclusive<usize>,
    ) -> Option<usize> {
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let hint = format!("write {} to {}", range.start(), range.end());
            self.error(format!("`{written}` is out of range"), hint);
        }
        number
    }
}

impl Source<'_> {
    fn place(&self, path: String, line: usize, column: usize) -> Place {
        Place { path, at: Some(Location { file: self.file.to_owned(), line, column }) }
    }
}

/// A mapping with known keys, being read.
pub(crate) struct Section<'a> {
    entries: &'a [Entry],
    path: String,
    place: Place,
    source: Source<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn error(&self, place: &Place, problem: impl Into<String>, hint: impl Into<String>) {
        self.source.findings.error(place, problem, hint);
    }

    pub(crate) fn warn(&self, place: &Place, problem: impl Into<String>, hint: impl Into<String>) {
        self.source.findings.warn(place, problem, hint);
    }

    /// The value of a key, if it is written.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Value { node: &entry.value, path: join(&self.path, key), source: self.source })
    }

    /// The value of a key that must be written.
    pub(crate) fn required(&mut self, key: &'static str, hint: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            self.error(&self.place, format!("`{key}` is missing"), hint);
        }
        value
    }

    /// A section with its place among the keys that no code of this build enforces.
    pub(crate) fn unenforced(&mut self, key: &'static str) -> Option<Unenforced> {
        #[cfg(test)]
        crate::testing::record_unenforced(&self.path, key);
        self.value(key)?;
        Some(Unenforced { section: key.to_owned(), place: self.key_place(key)? })
    }

    /// Where a key itself is written, if it is.
    pub(crate) fn key_place(&self, key: &str) -> Option<Place> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.source.place(join(&self.path, key), entry.line, entry.column))
    }

    /// Reports `second` when `first` is written too.
    pub(crate) fn exclusive(&self, first: &str, second: &str) {
        if let (Some(_), Some(place)) = (self.key_place(first), self.key_place(second)) {
            let problem = format!("both `{first}` and `{second}` are written");
            self.error(&place, problem, format!("keep one: `{first}` is the short form of `{second}`"));
        }
    }

    fn report_unknown_keys(&self) {
        #[cfg(test)]
        crate::testing::record_section(&self.path, &self.known);
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let place = self.source.place(join(&self.path, &entry.key), entry.line, entry.column);
            let hint = suggestion(&entry.key, &self.known, "known keys:");
            self.error(&place, format!("unknown key `{}`", entry.key), hint);
        }
    }
}

/// A hint that names the nearest of `known`, then all of them.
pub(crate) fn suggestion(word: &str, known: &[&str], introduction: &str) -> String {
    let allowed = 1 + word.chars().count() / 4;
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance);
    let all = format!("{introduction} {}", quoted(known));
    nearest.map_or(all.clone(), |(_, name)| format!("did you mean `{name}`? {all}"))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// Reads `text` with `read` and shows every finding as `path: problem | hint`.
    fn read<T>(text: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> (Option<T>, Vec<String>) {
        let findings = Findings::default();
        let file = Path::new("g.yaml");
        let node = yaml::parse(text, file, &findings).unwrap();
        let value = Value::root(&node, Source { file, findings: &findings }).section(read);
        let shown =
            findings.into_sorted().into_iter().map(|d| format!("{}: {} | {}", d.path, d.problem, d.hint));
        (value, shown.collect())
    }

    #[test]
    fn unknown_keys_are_errors_with_the_nearest_known_one() {
        let (_, found) = read("upstrems: 1\nxyzzy: 2\n", |section| {
            section.value("upstreams");
            section.value("servers");
        });
        assert_eq!(
            found,
            [
                "upstrems: unknown key `upstrems` | \
                 did you mean `upstreams`? known keys: `upstreams`, `servers`",
                "xyzzy: unknown key `xyzzy` | known keys: `upstreams`, `servers`",
            ]
        );
    }

    #[test]
    fn a_value_of_another_type_is_reported_without_its_text() {
        const SECOND: Duration = Duration::from_secs(1);
        type Read = fn(&Value<'_>) -> bool;
        let table: [(&str, &str, &str, Read); 18] = [
            ("text", "hunter2", "", |v| v.text().is_some()),
            ("number for text", "5", "a number where text should be", |v| v.text().is_some()),
            ("empty text", "''", "text where text that is not empty", |v| v.text().is_some()),
            ("nothing for text", "~", "nothing where text should be", |v| v.text().is_some()),
            ("count", "5", "", |v| v.count(1..=9).is_some()),
            ("text for count", "hunter2", "text where a whole number", |v| v.count(1..=9).is_some()),
            ("fraction for count", "1.5", "a number where a whole number", |v| v.count(1..=9).is_some()),
            ("count too small", "0", "`0` is out of range", |v| v.count(1..=9).is_some()),
            ("count negative", "-1", "`-1` is out of range", |v| v.count(0..=9).is_some()),
            ("count too large", "10", "`10` is out of range", |v| v.count(1..=9).is_some()),
            ("duration", "1s", "", |v| v.duration(SECOND..=SECOND).is_some()),
            ("duration without unit", "5", "`5` is not a duration", |v| {
                v.duration(SECOND..=SECOND).is_some()
            }),
            ("duration out of range", "2s", "`2s` is out of range", |v| {
                v.duration(SECOND..=SECOND).is_some()
            }),
            ("size", "1KiB", "", |v| v.size(1..=1024).is_some()),
            ("size as a number", "512", "", |v| v.size(1..=1024).is_some()),
            ("size out of range", "2KiB", "`2KiB` is out of range", |v| v.size(1..=1024).is_some()),
            ("list for mapping", "[a]", "a list where a mapping should be", |v| v.section(|_| ()).is_some()),
            ("word", "lax", "`lax` is not known here", |v| v.one_of(&[("strict", ())]).is_some()),
        ];
        for (name, text, problem, get) in table {
            let (value, found) =
                read(&format!("key: {text}"), |section| section.value("key").is_some_and(|v| get(&v)));
            assert_eq!(value, Some(problem.is_empty()), "{name}");
            let expected = format!("key: {problem}");
            assert_eq!(found.len(), usize::from(!problem.is_empty()), "{name}: {found:?}");
            assert!(
                found.iter().all(|shown| shown.starts_with(&expected) && !shown.contains("hunter2")),
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn required_and_exclusive_keys() {
        let (_, found) = read("listen: a\nlisteners: b\n", |section| {
            section.required("version", "write `version: 1`");
            section.value("listen");
            section.value("listeners");
            section.exclusive("listen", "listeners");
        });
        assert_eq!(found[0], ": `version` is missing | write `version: 1`");
        assert!(found[1].starts_with("listeners: both `listen` and `listeners` are written"), "{found:?}");
    }

    #[test]
    fn a_far_word_is_not_suggested() {
        assert_eq!(
            suggestion("timeot", &["timeout", "url"], "one of"),
            "did you mean `timeout`? one of `timeout`, `url`"
        );
        assert_eq!(suggestion("abc", &["timeout"], "one of"), "one of `timeout`");
    }
}
