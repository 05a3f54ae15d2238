//! `portunus diff`: which recorded decisions another policy would change.

use super::shown::{why, word};
use super::{Trouble, policy, reader};
use clap::Args;
use portunus_base::text::tame;
use portunus_config::PolicyRules;
use portunus_filters::authorize::{Entry, Ruling};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// Which policies are compared on what.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The policy as it is: a configuration, a folder of rules, or one `.rego` file.
    old: PathBuf,
    /// The policy as it would be.
    new: PathBuf,
    /// Recorded questions, one JSON document a line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    replay: PathBuf,
    /// Differences that are printed; all are counted.
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    show: usize,
}

/// Longest line of a recording.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// A recorded question: an input document with the rule that was asked, or an input document alone.
#[derive(Deserialize)]
struct Recorded<'a> {
    #[serde(default)]
    entry: Option<String>,
    #[serde(borrow)]
    input: &'a RawValue,
}

/// The answer of the command. Its exit code is 1 if a decision changes.
///
/// # Errors
/// [`Trouble`] if a policy or the recording cannot be read.
pub(crate) fn run(arguments: &DiffArguments) -> Result<(String, ExitCode), Trouble> {
    let (old, new) = (policy(&arguments.old)?, policy(&arguments.new)?);
    let mut comparison =
        Comparison { old: &old, new: &new, show: arguments.show, ..Comparison::of(&old, &new) };
    let mut recording = reader(&arguments.replay)?;
    let mut line = String::new();
    loop {
        line.clear();
        let count = recording.by_ref().take(MAX_LINE_BYTES).read_line(&mut line);
        match count {
            Ok(0) => break,
            Ok(_) if line.trim().is_empty() => comparison.line += 1,
            Ok(_) => comparison.compare(&line).map_err(|problem| {
                format!("{}:{}: {problem}", arguments.replay.display(), comparison.line)
            })?,
            Err(error) => return Err(super::unreadable(&arguments.replay, &error).into()),
        }
    }
    let changed = comparison.changed > 0;
    Ok((comparison.report(), if changed { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
}

struct Comparison<'a> {
    old: &'a PolicyRules,
    new: &'a PolicyRules,
    show: usize,
    line: usize,
    compared: usize,
    changed: usize,
    shown: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn of(old: &'a PolicyRules, new: &'a PolicyRules) -> Comparison<'a> {
        Comparison { old, new, show: 0, line: 0, compared: 0, changed: 0, shown: Vec::new() }
    }

    fn compare(&mut self, line: &str) -> Result<(), String> {
        self.line += 1;
        let (entry, input) = question(line)?;
        let unreadable = |fault| format!("the question cannot be read in one way: {fault}");
        let before = self.old.policy.ask(entry, input).map_err(unreadable)?;
        let after = self.new.policy.ask(entry, input).map_err(unreadable)?;
        self.compared += 1;
        if before == after {
            return Ok(());
        }
        self.changed += 1;
        if self.shown.len() < self.show {
            let about = about(input);
            let change = if before.allow == after.allow { ", another answer" } else { "" };
            self.shown.push(format!(
                "{}: {}: {} -> {}{change}",
                self.line,
                tame(&about),
                tame(&answer(&before)),
                tame(&answer(&after)),
            ));
        }
        Ok(())
    }

    fn report(self) -> String {
        let mut lines = self.shown;
        let hidden = self.changed - lines.len();
        if hidden > 0 {
            lines.push(format!("{hidden} more; `--show` prints them"));
        }
        let known = self.old.policy.reads(Entry::Decision);
        let further = self.new.policy.reads(Entry::Decision).into_iter().filter(|path| !known.contains(path));
        let further: Vec<String> = further.collect();
        if !further.is_empty() {
            lines.push(format!(
                "The new policy reads more than the old one, which a recording of the old one may not have: {}.",
                further.join(", ")
            ));
        }
        lines.push(format!("{} of {} decisions change", self.changed, self.compared));
        lines.join("\n") + "\n"
    }
}

/// The rule and the input document of a line.
fn question(line: &str) -> Result<(Entry, &str), String> {
    let Ok(Recorded { entry, input }) = serde_json::from_str::<Recorded<'_>>(line) else {
        return Ok((Entry::Decision, line.trim()));
    };
    let known = |name: &str| Entry::ALL.into_iter().find(|entry| entry.as_str() == name);
    match entry.as_deref().map_or(Some(Entry::Decision), known) {
        Some(entry) => Ok((entry, input.get())),
        None => Err("`entry` is none of decision, visible, content".to_owned()),
    }
}

fn answer(ruling: &Ruling) -> String {
    match why(ruling) {
        why if why.is_empty() => word(ruling).to_owned(),
        why => format!("{} ({why})", word(ruling)),
    }
}

/// Who asked for what, in short.
fn about(input: &str) -> String {
    let input: serde_json::Value = serde_json::from_str(input).unwrap_or_default();
    let texts = [
        input.pointer("/principal/subject"),
        input.pointer("/mcp/method"),
        input.pointer("/mcp/name").or(input.pointer("/mcp/uri")),
    ];
    let texts: Vec<&str> = texts.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    if texts.is_empty() { "a question".to_owned() } else { texts.join(" ") }
}
