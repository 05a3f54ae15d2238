//! What is wrong with a policy, said so that its author can mend it.

use std::fmt;

/// A mistake, or something that is likely one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it refuses the bundle.
    pub severity: Severity,
    /// The file, as it was named to the compiler; empty if it concerns no single one.
    pub path: String,
    /// From 1; 0 if it concerns no single line.
    pub line: u32,
    /// What is wrong.
    pub text: String,
    /// How to mend it; empty where the text says it.
    pub hint: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy is not taken.
    Error,
    /// The policy is taken; `check` tells.
    Warning,
}

impl Problem {
    pub(super) fn error(path: &str, line: u32, text: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            path: path.to_owned(),
            line,
            text: text.into(),
            hint: String::new(),
        }
    }

    pub(super) fn warning(path: &str, line: u32, text: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(path, line, text) }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.is_empty(), self.line) {
            (true, _) => write!(f, "{}", self.text)?,
            (false, 0) => write!(f, "{}: {}", self.path, self.text)?,
            (false, line) => write!(f, "{}:{line}: {}", self.path, self.text)?,
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}
