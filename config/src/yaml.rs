//! YAML text to a bounded tree with positions.
//!
//! A document is data, not a program: anchors, aliases, tags and a second document are refused.
//! The tree is built from the events of the parser, so each is met where it stands and nesting is
//! bounded before it is followed.

use std::collections::HashSet;
use std::path::Path;

use saphyr::ScalarOwned;
use saphyr_parser::{Event, Parser, ScanError, Span, StrInput, Tag};

use crate::diagnostic::{Findings, Location, Place, Report};

/// Largest document.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;

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
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { events: Parser::new_from_str(text), file, findings };
    if text.len() > MAX_BYTES {
        let _ = reader.error("", (1, 1), "the document is larger than 8 MiB", "split it, or generate less");
        return None;
    }
    reader.document().ok().flatten()
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

/// The rest of the document cannot be read; the reason is among the findings.
struct Unreadable;

/// A value; none if it was left out, with the reason among the findings.
type Read = Result<Option<Node>, Unreadable>;

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    file: &'a Path,
    findings: &'a Findings,
}

impl<'a> Reader<'a> {
    /// Reports a problem at line and column, both from 1; as a value, nothing.
    fn error(
        &self,
        path: &str,
        (line, column): (usize, usize),
        problem: impl Into<String>,
        hint: &str,
    ) -> Read {
        let at = Some(Location { file: self.file.to_owned(), line, column });
        self.findings.error(&Place { path: path.to_owned(), at }, problem, hint);
        Ok(None)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Unreadable> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Unreadable {
        let hint = match error.info() {
            info if info.contains("anchor") => "text that begins with `*` or `&` must stand in quotes",
            info if info.contains("tab") => "indent with spaces",
            _ => "check the indentation, and put text with special characters in quotes",
        };
        let at = error.marker();
        let problem = format!("this is not valid YAML: {}", error.info());
        let _ = self.error("", (at.line(), at.col() + 1), problem, hint);
        Unreadable
    }

    /// The only document of the text.
    fn document(&mut self) -> Read {
        let mut root = None;
        let mut is_empty = true;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_none() => {
                    let first = self.next()?;
                    root = self.value(first, "", 0)?;
                    is_empty = matches!(root, Some(Node { kind: Kind::Null, .. }));
                }
                Event::DocumentStart(_) => {
                    let hint = "keep one document per file; `---` begins another";
                    self.error("", start(span), "a second document follows", hint)?;
                    break;
                }
                _ => {}
            }
        }
        if !is_empty {
            return Ok(root);
        }
        self.error("", (1, 1), "the document is empty", "begin with `version: 1`")
    }

    /// The value that begins with an event.
    fn value(&mut self, (event, span): (Event<'a>, Span), path: &str, depth: usize) -> Read {
        let at = start(span);
        self.check_depth(depth, at, path)?;
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = ScalarOwned::parse_from_cow_and_metadata(text, style, tag.as_ref());
                (anchor, scalar.filter(|_| is_plain(tag.as_deref())).map(Kind::from))
            }
            Event::SequenceStart(anchor, tag) => {
                let items = self.list(path, depth)?;
                (anchor, is_plain(tag.as_deref()).then_some(Kind::List(items)))
            }
            Event::MappingStart(anchor, tag) => {
                let entries = self.mapping(path, depth)?;
                (anchor, is_plain(tag.as_deref()).then_some(Kind::Map(entries)))
            }
            // An alias, since every other event that can stand here begins a value.
            _ => (1, Some(Kind::Null)),
        };
        if anchor != 0 {
            let hint = "repeat the text instead; if `&` or `*` is meant as text, put that text in quotes";
            return self.error(path, at, "anchors and aliases are not understood", hint);
        }
        match kind {
            Some(kind) => Ok(Some(Node { kind, line: at.0, column: at.1 })),
            None => self.error(path, at, "a YAML tag is not understood", "write the plain value"),
        }
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Vec<Node>, Unreadable> {
        let mut items = Vec::new();
        for index in 0.. {
            match self.next()? {
                (Event::SequenceEnd, _) => break,
                first => items.extend(self.value(first, &format!("{path}[{index}]"), depth + 1)?),
            }
        }
        Ok(items)
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Vec<Entry>, Unreadable> {
        let mut entries = Vec::new();
        let mut keys = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            let (line, column) = start(span);
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, style, 0, tag) if is_plain(tag.as_deref()) => {
                    match ScalarOwned::parse_from_cow_and_metadata(text, style, tag.as_ref()) {
                        Some(ScalarOwned::String(key)) => Some(key),
                        _ => None,
                    }
                }
                other => {
                    self.skip(other, span, path, depth + 1)?;
                    None
                }
            };
            let (first, at) = self.next()?;
            let Some(key) = key else {
                self.skip(first, at, path, depth + 1)?;
                self.error(path, (line, column), "a key is not text", "put the key in quotes")?;
                continue;
            };
            let path = join(path, &key);
            if !keys.insert(key.clone()) {
                self.skip(first, at, &path, depth + 1)?;
                let hint = "each key may be written once; merge the two";
                self.error(&path, (line, column), format!("the key `{key}` is written twice"), hint)?;
                continue;
            }
            let value = self.value((first, at), &path, depth + 1)?;
            entries.extend(value.map(|value| Entry { key, line, column, value }));
        }
    }

    /// Reads over the value that begins with an event.
    fn skip(&mut self, first: Event<'a>, span: Span, path: &str, depth: usize) -> Result<(), Unreadable> {
        let (mut event, mut span) = (first, span);
        let mut open = 0;
        loop {
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    open += 1;
                    self.check_depth(depth + open, start(span), path)?;
                }
                Event::SequenceEnd | Event::MappingEnd => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
            (event, span) = self.next()?;
        }
    }

    fn check_depth(&self, depth: usize, at: (usize, usize), path: &str) -> Result<(), Unreadable> {
        if depth > MAX_DEPTH {
            self.error(path, at, "nested deeper than 64 levels", "nest less")?;
            return Err(Unreadable);
        }
        Ok(())
    }
}

impl From<ScalarOwned> for Kind {
    fn from(scalar: ScalarOwned) -> Kind {
        match scalar {
            ScalarOwned::Null => Kind::Null,
            ScalarOwned::Boolean(value) => Kind::Bool(value),
            ScalarOwned::Integer(value) => Kind::Integer(value),
            ScalarOwned::FloatingPoint(value) => Kind::Float(value.into_inner()),
            ScalarOwned::String(text) => Kind::Text(text),
        }
    }
}

/// Line and column of the first character, both from 1.
fn start(span: Span) -> (usize, usize) {
    (span.start.line(), span.start.col() + 1)
}

/// Whether a value means the same without its tag: it has none, or one of the core schema.
fn is_plain(tag: Option<&Tag>) -> bool {
    tag.is_none_or(Tag::is_yaml_core_schema)
}

/// The path of `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
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
        let table = [
            ("empty", "", "the document is empty", 1, 1),
            ("only a comment", "# hello\n", "the document is empty", 1, 1),
            ("only a separator", "---\n", "the document is empty", 1, 1),
            ("two documents", "a: 1\n---\nb: 1\n", "a second document follows", 2, 1),
            ("anchor of a list", bomb, "anchors and aliases are not understood", 1, 4),
            ("alias", bomb, "anchors and aliases are not understood", 2, 5),
            ("anchor in a flow mapping", "{a: &a x}", "anchors and aliases are not understood", 1, 5),
            ("anchor of a key", "&a b: 1\n", "a key is not text", 1, 1),
            ("alias as key", "a: &a x\n*a : 1\n", "a key is not text", 2, 1),
            ("tag", "a: !thing {b: 1}\n", "a YAML tag is not understood", 1, 4),
            ("number as key", "a: {1: b}\n", "a key is not text", 1, 5),
            ("list as key", "a: {[1]: b}\n", "a key is not text", 1, 5),
            ("tag of a key", "!thing a: b\n", "a key is not text", 1, 1),
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
        let texts = [
            "a: this &that and *this",
            "# &a *a\nb: 1",
            "a: \"&a\"\nb: \"*a\"",
            "a: x&y\nb: x*y",
            "\" *\": 1\n\"?&\": 2",
            "a: |\n  - &a x\n  - *a\n",
        ];
        for text in texts {
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
