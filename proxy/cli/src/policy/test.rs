//! `portunus test`: a policy's own tests, as a gateway runs them before it takes a policy.

use super::{Trouble, policy};
use clap::Args;
use portunus_base::text::tame;
use portunus_filters::authorize::trial::{Coverage, Outcome, Test, Trial};
use portunus_filters::authorize::{Problem, Severity};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which tests are run.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// A configuration, a folder of rules, or one `.rego` file.
    path: PathBuf,
    /// Least part of the rules' lines that tests have to reach, in percent.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage: Option<u8>,
    /// Name every test, and not only those that fail.
    #[arg(long, short)]
    verbose: bool,
}

/// The answer of the command. Its exit code is 1 if a test fails, or too little is covered.
///
/// # Errors
/// [`Trouble`] if there is no policy, or it has no tests.
pub(crate) fn run(arguments: &TestArguments) -> Result<(String, ExitCode), Trouble> {
    let rules = policy(&arguments.path)?;
    let trial = rules.trial().map_err(|problems| unrun(&problems))?;
    if trial.tests.is_empty() {
        let problem = "no rule `test_…` in a file whose name ends in `_test.rego` was found";
        return Err(format!("{}: {problem}", arguments.path.display()).into());
    }
    let least = f64::from(arguments.coverage.unwrap_or_default()) / 100.0;
    let passed = trial.passed() && trial.share() >= least;
    let code = if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok((report(&trial, arguments.verbose, least), code))
}

fn unrun(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    let errors: Vec<String> = errors.map(|problem| tame(&problem.to_string())).collect();
    format!("the tests cannot be run\n{}", errors.join("\n"))
}

fn report(trial: &Trial, verbose: bool, least: f64) -> String {
    let mut text = String::new();
    for test in &trial.tests {
        if verbose || !matches!(test.outcome, Outcome::Passed) {
            text += &line(test);
            text.push('\n');
        }
    }
    let count = |pick: fn(&Outcome) -> bool| trial.tests.iter().filter(|test| pick(&test.outcome)).count();
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped));
    let failed = trial.tests.len() - passed - skipped;
    // Writing to a `String` cannot fail.
    let _ =
        writeln!(text, "{} test(s): {passed} passed, {failed} failed, {skipped} skipped", trial.tests.len());
    let _ = writeln!(
        text,
        "{} input(s) decided by all of them and by what the rules read of them; {} left out, whose tests replace \
         data or functions",
        trial.replayed, trial.mocked
    );
    let _ = writeln!(text, "{:.1} % of the rules' lines covered", trial.share() * 100.0);
    for file in trial.coverage.iter().filter(|file| !file.missed.is_empty()) {
        let _ = writeln!(text, "  {}: not line {}", tame(&file.path), missed(file));
    }
    if trial.share() < least {
        let _ = writeln!(text, "too little: {:.0} % are asked for", least * 100.0);
    }
    text
}

fn line(test: &Test) -> String {
    let (word, detail) = match &test.outcome {
        Outcome::Passed => ("pass", String::new()),
        Outcome::Failed => ("FAIL", String::new()),
        Outcome::Errored(problem) => ("FAIL", format!(": {problem}")),
        Outcome::Diverged(entries) => (
            "FAIL",
            format!(": {entries} decided otherwise by what the rules are said to read; report this policy"),
        ),
        Outcome::Skipped => ("skip", String::new()),
    };
    tame(&format!("{word} {}:{}: {}{detail}", test.path, test.line, test.name))
}

/// Lines as ranges: `3, 7-9`.
fn missed(file: &Coverage) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for line in file.missed.iter().copied() {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == line => *end = line,
            _ => ranges.push((line, line)),
        }
    }
    let shown = |(start, end): &(u32, u32)| {
        if start == end { start.to_string() } else { format!("{start}-{end}") }
    };
    ranges.iter().map(shown).collect::<Vec<_>>().join(", ")
}
