//! Loads documents for the tests of this crate.

use std::path::Path;

use crate::environment::MapEnvironment;
use crate::{Diagnostic, Loaded, Report, Severity, load_text};

/// A document that is accepted, with an empty environment.
pub(crate) fn loaded(text: &str) -> Loaded {
    loaded_with(text, &[])
}

/// A document that is accepted, with these environment variables.
pub(crate) fn loaded_with(text: &str, variables: &[(&str, &str)]) -> Loaded {
    load_text(text, Path::new("gateway.yaml"), &environment(variables))
        .unwrap_or_else(|report| panic!("{report}"))
}

/// The errors of a document that is refused, as `path: problem`.
pub(crate) fn problems(text: &str) -> Vec<String> {
    problems_with(text, &[])
}

/// The errors of a document that is refused, with these environment variables.
pub(crate) fn problems_with(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    refused(text, &environment(variables))
        .0
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .map(brief)
        .collect()
}

/// The report on a document that is refused.
pub(crate) fn refused(text: &str, environment: &MapEnvironment) -> Report {
    match load_text(text, Path::new("gateway.yaml"), environment) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(report) => report,
    }
}

pub(crate) fn brief(diagnostic: &Diagnostic) -> String {
    match diagnostic.path.as_str() {
        "" => diagnostic.problem.clone(),
        path => format!("{path}: {}", diagnostic.problem),
    }
}

pub(crate) fn environment(variables: &[(&str, &str)]) -> MapEnvironment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    MapEnvironment { variables: variables.iter().map(owned).collect(), ..MapEnvironment::default() }
}
