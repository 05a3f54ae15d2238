//! `portunus decide`: one decision, and what it depends on.

use super::shown::{document, why, word};
use super::{Trouble, policy, text};
use clap::{Args, ValueEnum};
use portunus_base::text::tame;
use portunus_config::PolicyRules;
use portunus_filters::authorize::{self, RuleSeen, Ruling};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What is asked of which policy.
#[derive(Debug, Args)]
pub(crate) struct DecideArguments {
    /// A configuration, a folder of rules, or one `.rego` file.
    path: PathBuf,
    /// The input document as JSON; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Which rule is asked.
    #[arg(long, value_enum, default_value = "decision")]
    entry: Entry,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which rule is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Entry {
    /// May the message pass?
    Decision,
    /// Does the caller see it in lists?
    Visible,
    /// May it pass, now that it was inspected?
    Content,
}

impl From<Entry> for authorize::Entry {
    fn from(entry: Entry) -> authorize::Entry {
        match entry {
            Entry::Decision => authorize::Entry::Decision,
            Entry::Visible => authorize::Entry::Visible,
            Entry::Content => authorize::Entry::Content,
        }
    }
}

/// The answer of the command.
///
/// # Errors
/// [`Trouble`] if there is no policy or no input.
pub(crate) fn run(arguments: &DecideArguments) -> Result<String, Trouble> {
    let rules = policy(&arguments.path)?;
    let input = text(&arguments.input)?;
    explained(&rules, arguments.entry.into(), &input, arguments.json).map_err(Trouble::Other)
}

fn explained(
    rules: &PolicyRules,
    entry: authorize::Entry,
    input: &str,
    json: bool,
) -> Result<String, String> {
    let unreadable = |fault| format!("the input cannot be read in one way: {fault}");
    let explained = rules.policy.explain_input(entry, input).map_err(unreadable)?;
    let explained = explained.ok_or_else(|| format!("the policy has no rule `{}`", entry.as_str()))?;
    let full = rules.policy.ask_in_full(entry, input).map_err(unreadable)?;
    let value: Value =
        serde_json::from_str(input).map_err(|error| format!("the input is no JSON: {error}"))?;
    let classes = rules.policy.classes();
    let class = classes.iter().find(|(known, _)| *known == entry).map(|(_, class)| class.to_string());
    let reads = rules.policy.reads(entry);
    let projection: Vec<(String, Option<Value>)> =
        reads.into_iter().map(|path| (path.clone(), at(&value, &path).cloned())).collect();
    let seen = Seen {
        ruling: &explained.ruling,
        full: &full,
        rules: &explained.rules,
        class: class.unwrap_or_default(),
        projection,
    };
    Ok(if json { format!("{:#}\n", seen.json()) } else { seen.lines() })
}

/// A decision and what it depends on.
struct Seen<'a> {
    ruling: &'a Ruling,
    /// The same by the rules as they are written, given the whole input.
    full: &'a Ruling,
    class: String,
    /// The rules that took part.
    rules: &'a [RuleSeen],
    /// What the rules can read, with its value.
    projection: Vec<(String, Option<Value>)>,
}

impl Seen<'_> {
    fn json(&self) -> Value {
        let projection = self.projection.iter().map(|(path, value)| (path.clone(), json!(value)));
        json!({
            "decision": document(self.ruling),
            "class": self.class,
            "projection": Value::Object(projection.collect()),
            "rules": self.rules.iter().map(rule_document).collect::<Vec<_>>(),
            "agrees_in_full": self.ruling == self.full,
        })
    }

    fn lines(&self) -> String {
        let mut lines = vec![format!("decision: {}", word(self.ruling))];
        let why = why(self.ruling);
        if !why.is_empty() {
            lines.push(format!("reason: {}", tame(&why)));
        }
        if let Some(obligations) = document(self.ruling).get("obligations") {
            lines.push(format!("obligations: {}", tame(&obligations.to_string())));
        }
        lines.push(format!("depends on: {}", self.class));
        for (path, value) in &self.projection {
            let value = value.as_ref().map_or_else(|| "undefined".to_owned(), Value::to_string);
            lines.push(format!("  {} = {}", tame(path), tame(&value)));
        }
        lines.push("rules that took part:".to_owned());
        lines.extend(self.rules.iter().map(rule_line));
        if self.ruling != self.full {
            let other = format!("{} ({})", word(self.full), why_of(self.full));
            lines.push(format!("With all of the input the rules say otherwise: {}.", tame(&other)));
        }
        lines.join("\n") + "\n"
    }
}

fn rule_document(rule: &RuleSeen) -> Value {
    json!({ "rule": rule.name, "file": rule.path, "line": rule.line, "stopped_behind_line": rule.stopped })
}

fn rule_line(rule: &RuleSeen) -> String {
    let stopped = match rule.stopped {
        Some(line) => format!(", held up to line {line}"),
        None => String::new(),
    };
    tame(&format!("  {}:{}: {}{stopped}", rule.path, rule.line, rule.name))
}

fn why_of(ruling: &Ruling) -> String {
    match why(ruling) {
        none if none.is_empty() => "no reason given".to_owned(),
        why => why,
    }
}

/// The part of an input document at `input.…`.
fn at<'a>(input: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').skip(1).try_fold(input, |value, name| value.get(name))
}
