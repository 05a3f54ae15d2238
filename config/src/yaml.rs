//! YAML text to a bounded tree with positions.
//!
//! A document is data, not a program: anchors, aliases, tags and a second document are refused.
//! The library's loader recurses and copies what anchors name, so nesting and anchors are bounded
//! on the text, before it runs.

use std::path::Path;

use saphyr::{LoadableYamlNode, MarkedYamlOwned, ScalarOwned, ScanError, YamlDataOwned};

use crate::diagnostic::{Findings, Location, Place, Report};

/// Largest document.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;

/// Indentation and list markers before the text of a line. Each level of block nesting takes a
/// column, two levels can share one, and flow nesting ends at 255: 128 keeps the loader's recursion
/// under 520 levels.
const MAX_INDENT: usize = 128;

/// Stray `&word` in text that is allowed. Each could be an anchor, which the loader copies once.
const MAX_ANCHOR_LIKE: usize = 16;

/// One value with its position.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Node {
    /// The value as other readers see it.
    pub(crate) fn json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(flag) => (*flag).into(),
            Kind::Integer(number) => (*number).into(),
            Kind::Float(number) => (*number).into(),
            Kind::Text(text) => text.as_str().into(),
            Kind::List(items) => items.iter().map(Node::json).collect(),
            Kind::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect()
            }
        }
    }
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Integer(_) | Kind::Float(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// One key of a mapping, with the position of the key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Node,
}

/// Reads one document; `None` when nothing of it can be used, with the reason among `findings`.
pub(crate) fn parse(text: &str, file: &Path, findings: &Findings) -> Option<Node> {
    let reader = Loader { file, findings };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !reader.is_bounded(text) {
        return None;
    }
    let (documents, masked) = reader.load(text)?;
    let mut documents = documents.into_iter();
    let Some(first) = documents.next().filter(|first| !is_empty(first)) else {
        reader.error("", (1, 1), "the document is empty", "begin with `version: 1`");
        return None;
    };
    if let Some(second) = documents.next() {
        let start = second.span.start;
        let hint = "keep one document per file; `---` begins another";
        reader.error("", (start.line(), start.col() + 1), "a second document follows", hint);
    }
    reader.convert(first, "", 0, &masked)
}

/// The value of a YAML or JSON text, under the bounds of a document; `origin` names it in reports.
///
/// # Errors
/// What is wrong with it.
pub fn value_of(text: &str, origin: &Path) -> Result<serde_json::Value, Report> {
    let findings = Findings::default();
    let node = parse(text, origin, &findings);
    match node {
        Some(node) if !findings.has_errors() => Ok(node.json()),
        _ => Err(Report(findings.into_sorted())),
    }
}

struct Loader<'a> {
    file: &'a Path,
    findings: &'a Findings,
}

impl Loader<'_> {
    fn error(&self, path: &str, (line, column): (usize, usize), problem: impl Into<String>, hint: &str) {
        let at = Some(Location { file: self.file.to_owned(), line, column });
        self.findings.error(&Place { path: path.to_owned(), at }, problem, hint);
    }

    /// Whether the loader can be trusted with the text.
    fn is_bounded(&self, text: &str) -> bool {
        if text.len() > MAX_BYTES {
            self.error("", (1, 1), "the document is larger than 8 MiB", "split it, or generate less");
            return false;
        }
        let mut anchors = Vec::new();
        let mut aliases = Vec::new();
        for (index, line) in text.split(['\n', '\r']).enumerate() {
            let indent = line.bytes().take_while(|byte| b" \t-?:".contains(byte)).count();
            if indent > MAX_INDENT {
                self.error("", (index + 1, 1), "a line is indented by more than 128 columns", "nest less");
                return false;
            }
            if let Some(column) = line.chars().position(|character| MASKS.contains(&u32::from(character))) {
                let hint = "remove it; it is no character of any script";
                self.error("", (index + 1, column + 1), "a noncharacter stands here", hint);
                return false;
            }
            if !line.trim_start().starts_with('#') {
                node_marks(line, '&', |_, name| anchors.push(name));
                node_marks(line, '*', |column, name| aliases.push((index + 1, column, name)));
            }
        }
        let hint = "repeat the text instead; if `&` or `*` is meant as text, put that text in quotes";
        let bomb = aliases.into_iter().find(|(.., name)| anchors.contains(name));
        if let Some((line, column, _)) = bomb {
            self.error("", (line, column), "anchors and aliases are not understood", hint);
            return false;
        }
        if anchors.len() > MAX_ANCHOR_LIKE {
            self.error("", (1, 1), "anchors are not understood", hint);
            return false;
        }
        true
    }

    /// Runs the library's loader, which stops at the first key that is written twice: such a key is
    /// masked, to be reported by [`Loader::convert`] with its path, and the rest is read.
    fn load(&self, text: &str) -> Option<(Vec<MarkedYamlOwned>, Vec<char>)> {
        let mut text = text.to_owned();
        let mut masked = Vec::new();
        loop {
            match MarkedYamlOwned::load_from_str(&text) {
                Ok(documents) => return Some((documents, masked)),
                Err(error) => {
                    let is_duplicate = error.info() == "duplicated key in mapping";
                    if !(is_duplicate && mask(&mut text, error.marker().index(), &mut masked)) {
                        self.syntax_error(&error);
                        return None;
                    }
                }
            }
        }
    }

    fn syntax_error(&self, error: &ScanError) {
        let hint = match error.info() {
            info if info.contains("anchor") => "text that begins with `*` or `&` must stand in quotes",
            info if info.contains("tab") => "indent with spaces",
            info if info.contains("duplicated key") => "each key may be written once",
            _ => "check the indentation, and put text with special characters in quotes",
        };
        let at = error.marker();
        self.error("", (at.line(), at.col() + 1), format!("this is not valid YAML: {}", error.info()), hint);
    }

    /// A tree that holds only what a document may; what it may not is reported and left out.
    fn convert(&self, node: MarkedYamlOwned, path: &str, depth: usize, masked: &[char]) -> Option<Node> {
        let (line, column) = (node.span.start.line(), node.span.start.col() + 1);
        if depth > MAX_DEPTH {
            self.error(path, (line, column), "nested deeper than 64 levels", "nest less");
            return None;
        }
        let kind = match node.data {
            YamlDataOwned::Value(scalar) => match scalar {
                ScalarOwned::Null => Kind::Null,
                ScalarOwned::Boolean(value) => Kind::Bool(value),
                ScalarOwned::Integer(value) => Kind::Integer(value),
                ScalarOwned::FloatingPoint(value) => Kind::Float(value.into_inner()),
                ScalarOwned::String(text) => Kind::Text(text),
            },
            YamlDataOwned::Sequence(items) => {
                let convert =
                    |(index, item)| self.convert(item, &format!("{path}[{index}]"), depth + 1, masked);
                Kind::List(items.into_iter().enumerate().filter_map(convert).collect())
            }
            YamlDataOwned::Mapping(entries) => {
                let convert = |(key, value)| self.convert_entry(key, value, (path, depth), masked);
                Kind::Map(entries.into_iter().filter_map(convert).collect())
            }
            _ => {
                self.error(path, (line, column), "a YAML tag is not understood", "write the plain value");
                return None;
            }
        };
        Some(Node { kind, line, column })
    }

    fn convert_entry(
        &self,
        key: MarkedYamlOwned,
        value: MarkedYamlOwned,
        (path, depth): (&str, usize),
        masked: &[char],
    ) -> Option<Entry> {
        let (line, column) = (key.span.start.line(), key.span.start.col() + 1);
        let YamlDataOwned::Value(ScalarOwned::String(key)) = key.data else {
            self.error(path, (line, column), "a key is not text", "put the key in quotes");
            return None;
        };
        if let Some(key) = unmask(&key, masked) {
            let hint = "each key may be written once; merge the two";
            self.error(&join(path, &key), (line, column), format!("the key `{key}` is written twice"), hint);
            return None;
        }
        let value = self.convert(value, &join(path, &key), depth + 1, masked)?;
        Some(Entry { key, line, column, value })
    }
}

/// The path of `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Noncharacters that mark the first letter of keys written twice.
const MASKS: std::ops::RangeInclusive<u32> = 0xfdd0..=0xfdef;

/// Replaces the first letter of the key at `index` (in characters); false if that cannot be done.
fn mask(text: &mut String, index: usize, masked: &mut Vec<char>) -> bool {
    let mut at = text.char_indices().skip(index);
    let letter = match at.next() {
        Some((_, '"' | '\'')) => at.next(),
        first => first,
    };
    let replacement = u32::try_from(masked.len())
        .ok()
        .map(|count| MASKS.start() + count)
        .filter(|code| MASKS.contains(code));
    match (letter, replacement.and_then(char::from_u32)) {
        (Some((offset, letter)), Some(replacement)) if letter.is_alphanumeric() || letter == '/' => {
            text.replace_range(offset..offset + letter.len_utf8(), replacement.encode_utf8(&mut [0; 4]));
            masked.push(letter);
            true
        }
        _ => false,
    }
}

/// The key as it was written, if it was masked.
fn unmask(key: &str, masked: &[char]) -> Option<String> {
    let first = key.chars().next()?;
    let letter = masked.get(usize::try_from(u32::from(first).checked_sub(*MASKS.start())?).ok()?)?;
    Some(key.replacen(first, &letter.to_string(), 1))
}

/// Calls `found` with column and name of every `mark` that could begin an anchor or alias.
fn node_marks<'a>(line: &'a str, mark: char, mut found: impl FnMut(usize, &'a str)) {
    for (column, (offset, _)) in line.char_indices().enumerate().filter(|(_, (_, c))| *c == mark) {
        let before = line[..offset].chars().next_back();
        let rest = &line[offset + 1..];
        let end = rest.find(|c: char| c.is_whitespace() || "[]{},".contains(c)).unwrap_or(rest.len());
        if before.is_none_or(|c| c.is_whitespace() || "[{,:-?".contains(c)) && end > 0 {
            found(column + 1, &rest[..end]);
        }
    }
}

fn is_empty(node: &MarkedYamlOwned) -> bool {
    matches!(node.data, YamlDataOwned::Value(ScalarOwned::Null) | YamlDataOwned::BadValue)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn findings_of(text: &str) -> (bool, Vec<(String, usize, usize, String)>) {
        let findings = Findings::default();
        let parsed = parse(text, Path::new("g.yaml"), &findings).is_some();
        let row = |found: crate::Diagnostic| {
            let at = found.at.unwrap();
            (found.path, at.line, at.column, found.problem)
        };
        (parsed, findings.into_sorted().into_iter().map(row).collect())
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_at_its_place() {
        let bomb = "a: &a [x]\nb: [*a, *a]\n";
        let many_anchors: String = (0..17).map(|index| format!("k{index}: &n{index} x\n")).collect();
        let table = [
            ("empty", "", "the document is empty", 1, 1),
            ("only a comment", "# hello\n", "the document is empty", 1, 1),
            ("only a separator", "---\n", "the document is empty", 1, 1),
            ("two documents", "a: 1\n---\nb: 1\n", "a second document follows", 3, 1),
            ("alias", bomb, "anchors and aliases are not understood", 2, 5),
            ("alias in a flow mapping", "{a: &a x, b:*a}", "anchors and aliases", 1, 13),
            ("many anchors", many_anchors.as_str(), "anchors are not understood", 1, 1),
            ("tag", "a: !thing {b: 1}\n", "a YAML tag is not understood", 1, 4),
            ("number as key", "a: {1: b}\n", "a key is not text", 1, 5),
            ("noncharacter", "a: b\n\u{fdd0}c: d\n", "a noncharacter", 2, 1),
            ("unclosed", "a: [1\n", "this is not valid YAML", 2, 1),
            ("unknown alias", "a: *b\n", "this is not valid YAML", 1, 4),
        ];
        for (name, text, problem, line, column) in table {
            let (_, found) = findings_of(text);
            let hit = found.iter().any(|(_, l, c, p)| p.starts_with(problem) && (*l, *c) == (line, column));
            assert!(hit, "{name}: {found:?}");
        }
    }

    #[test]
    fn a_value_that_begins_with_a_star_is_told_to_use_quotes() {
        let findings = Findings::default();
        parse("hosts: [*.example.com]\n", Path::new("g.yaml"), &findings);
        assert!(findings.into_sorted()[0].hint.contains("quotes"));
    }

    #[test]
    fn ampersands_and_stars_in_text_are_no_anchors() {
        for text in ["a: this &that and *this", "# &a *a\nb: 1", "a: \"&a\"\nb: \"*a\"", "a: x&y\nb: x*y"] {
            assert_eq!(findings_of(text), (true, vec![]), "{text}");
        }
    }

    #[test]
    fn every_key_written_twice_is_named_and_the_rest_is_read() {
        let text = "a: 1\nb: {c: 1, c: 2, 'c': 3}\na: 2\n/x: 1\n\"/x\": 2\n";
        let (parsed, found) = findings_of(text);
        let places: Vec<_> =
            found.iter().map(|(path, line, column, _)| (path.as_str(), *line, *column)).collect();
        assert!(parsed);
        assert_eq!(places, [("b.c", 2, 11), ("b.c", 2, 17), ("a", 3, 1), ("/x", 5, 1)]);
    }

    #[test]
    fn deep_nesting_is_refused_without_deep_recursion() {
        let table = [
            ("block, one line", "- ".repeat(1 << 20) + "x"),
            ("block, indented", (0..400).map(|depth| " ".repeat(depth) + "a:\n").collect()),
            ("flow", "[".repeat(1 << 20)),
            ("both, at what the loader is given", "- ".repeat(64) + &"[".repeat(250) + &"]".repeat(250)),
            ("explicit keys", "? ".repeat(1 << 20) + "x"),
            ("65 levels", "[".repeat(66) + &"]".repeat(66)),
        ];
        for (name, text) in table {
            let (_, found) = findings_of(&text);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
        }
        assert_eq!(findings_of(&("[".repeat(65) + &"]".repeat(65))).1, vec![]);
    }

    #[test]
    fn an_oversized_document_is_refused_unread() {
        let (parsed, found) = findings_of(&"#".repeat(MAX_BYTES + 1));
        assert!(!parsed && found[0].3.contains("8 MiB"));
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        assert_eq!(findings_of("\u{feff}a: 1\n"), (true, vec![]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_but_never_silently(text in "[-a-c:?&*!|>'\"{}\\[\\], \n#\t]{0,60}") {
            let (parsed, found) = findings_of(&text);
            prop_assert!(parsed || !found.is_empty());
        }
    }
}
