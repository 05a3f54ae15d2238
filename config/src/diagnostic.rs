//! What is wrong with a document, where, and what to do about it.
//!
//! Reading and compiling never stop at the first mistake: both write into one [`Findings`], and a
//! document is refused once, with everything that is wrong with it. No diagnostic carries the text
//! of a value that could be a secret.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;

/// One mistake or doubt, with its place and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key it concerns, from the top of the document: `upstreams.crm.url`; empty for the whole.
    pub path: String,
    /// Where that key or value is written; `None` when the file could not be read at all.
    pub at: Option<Location>,
    /// What is wrong, without a final full stop.
    pub problem: String,
    /// What to write instead.
    pub hint: String,
    /// Whether the document is refused for it.
    pub severity: Severity,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", Plain(&self.path))?;
        }
        write!(f, "{}", Plain(&self.problem))?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", Plain(&self.hint))?;
        }
        Ok(())
    }
}

/// Whether a document is refused for a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted; someone should know.
    Warning,
}

/// A position in a file, counted from one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// Line, from one.
    pub line: usize,
    /// Column in characters, from one.
    pub column: usize,
}

/// `FILE:LINE:COLUMN`.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Plain(&self.file.to_string_lossy()), self.line, self.column)
    }
}

/// Why a document is refused: every mistake in it, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(pub Vec<Diagnostic>);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// A key of a document and where it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The key from the top of the document, `servers./mcp.upstreams[0]`.
    pub path: String,
    /// Its position; `None` for the document as a whole.
    pub at: Option<Location>,
}

/// A value together with the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// Collects diagnostics of one load, from reading to compiling.
#[derive(Debug, Default)]
pub(crate) struct Findings(RefCell<Vec<Diagnostic>>);

impl Findings {
    pub(crate) fn error(&self, place: &Place, problem: impl Into<String>, hint: impl Into<String>) {
        self.add(place, Severity::Error, problem.into(), hint.into());
    }

    pub(crate) fn warn(&self, place: &Place, problem: impl Into<String>, hint: impl Into<String>) {
        self.add(place, Severity::Warning, problem.into(), hint.into());
    }

    fn add(&self, place: &Place, severity: Severity, problem: String, hint: String) {
        let Place { path, at } = place.clone();
        self.0.borrow_mut().push(Diagnostic { path, at, problem, hint, severity });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.0.borrow().iter().any(|found| found.severity == Severity::Error)
    }

    /// Everything found, once each, in the order of the files; what has no position comes first.
    pub(crate) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.0.into_inner();
        found.sort_by(|a, b| a.at.cmp(&b.at));
        found.dedup();
        found
    }
}

/// Text from a file on its way to a terminal: control and direction characters are escaped.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() || is_direction_mark(character) {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

fn is_direction_mark(character: char) -> bool {
    matches!(character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(severity: Severity) -> Diagnostic {
        Diagnostic {
            path: "upstreams.crm.url".into(),
            at: Some(Location { file: "gateway.yaml".into(), line: 7, column: 3 }),
            problem: "no such thing".into(),
            hint: "write another".into(),
            severity,
        }
    }

    #[test]
    fn a_report_is_one_block_per_diagnostic() {
        let report = Report(vec![diagnostic(Severity::Error), diagnostic(Severity::Warning)]);
        assert_eq!(
            report.to_string(),
            "gateway.yaml:7:3: upstreams.crm.url: no such thing\n  hint: write another\n\
             gateway.yaml:7:3: warning: upstreams.crm.url: no such thing\n  hint: write another"
        );
    }

    #[test]
    fn a_file_cannot_drive_the_terminal() {
        let hostile = Diagnostic { problem: "\u{1b}[31m \u{202e}".into(), ..diagnostic(Severity::Error) };
        let shown = hostile.to_string();
        assert!(shown.contains("\\u{1b}[31m \\u{202e}"), "{shown}");
    }

    #[test]
    fn findings_come_in_the_order_of_the_file() {
        let findings = Findings::default();
        for line in [9, 2, 4] {
            let at = Some(Location { file: "a".into(), line, column: 1 });
            findings.error(&Place { path: String::new(), at }, "x", "");
        }
        findings.warn(&Place::default(), "whole", "");
        findings.warn(&Place::default(), "whole", "");
        let lines: Vec<_> = findings.into_sorted().into_iter().map(|d| d.at.map(|at| at.line)).collect();
        assert_eq!(lines, [None, Some(2), Some(4), Some(9)]);
    }
}
