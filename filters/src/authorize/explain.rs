//! How one decision came about, for a person who asks.
//!
//! Evaluated anew and slowly, off the path of messages.

use super::decision::Ruling;
use super::question::Question;
use super::source::rule_path_of;
use super::{Entry, Policy, json};
use crate::mcp::Fault;
use regorus::unstable::{Module, Rule};
use regorus::{Engine, Value};
use std::collections::BTreeSet;

/// Of a value in JSON no more is told than this.
const MAX_VALUE_BYTES: usize = 256;
/// Members that hold what a caller wrote.
const PAYLOAD: [&str; 4] =
    ["input.mcp.arguments", "input.mcp.responses", "input.findings", "input.context.justification"];

/// How a decision came about.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision, on what is read of the input.
    pub ruling: Ruling,
    /// What was read, and what it said.
    pub reads: Vec<Read>,
    /// The rules that took part, in the order of their files and lines.
    pub rules: Vec<RuleSeen>,
}

/// A place of the input that the policy can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// As `input.…`.
    pub path: String,
    /// Its JSON text, cut after 256 bytes; `None` if it was undefined. Of arguments, findings and
    /// justifications only what kind of value it is: they are payload.
    pub value: Option<String>,
}

/// One definition of a rule, as it was evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSeen {
    /// Path of the rule, such as `data.mcp.authz.decision`.
    pub name: String,
    /// Its file.
    pub path: String,
    /// Where the definition begins.
    pub line: u32,
    /// The line behind which nothing of it was evaluated, if that is not all of it.
    pub stopped: Option<u32>,
}

impl Policy {
    /// How `question` is decided. `None` if the policy has no such entry point.
    pub fn explain(&self, entry: Entry, question: &Question<'_>) -> Option<Explanation> {
        let point = self.point(entry)?;
        let time = self.calendar.at(question.now.wall);
        Some(match point.full.input(question, time) {
            Ok(input) => self.explained(entry, &input)?,
            Err(fault) => {
                let ruling = Ruling::fault(super::Fault::Unreadable(fault));
                Explanation { ruling, reads: Vec::new(), rules: Vec::new() }
            }
        })
    }

    /// The same for an input document as JSON text.
    ///
    /// # Errors
    /// A [`Fault`] if the text cannot be read in one way.
    pub fn explain_input(&self, entry: Entry, input: &str) -> Result<Option<Explanation>, Fault> {
        Ok(self.explained(entry, &json::value(input)?))
    }

    fn explained(&self, entry: Entry, input: &Value) -> Option<Explanation> {
        let point = self.point(entry)?;
        let projected = point.in_force().of_value(input);
        let reads = point
            .in_force()
            .places()
            .into_iter()
            .map(|path| Read { value: at(&projected, &path).map(|value| told(&path, value)), path });
        let reads = reads.collect();
        let (ruling, rules) = point.interpreter.traced(projected, rules_seen);
        Some(Explanation { ruling, reads, rules })
    }
}

fn at<'v>(input: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').skip(1).try_fold(input, |value, name| value.as_object().ok()?.get(&Value::from(name)))
}

/// What is said of a value that was read.
fn told(path: &str, value: &Value) -> String {
    if PAYLOAD.iter().any(|place| path.starts_with(place) || place.starts_with(path)) {
        return kind(value);
    }
    let mut text = serde_json::to_string(value).unwrap_or_default();
    if text.len() > MAX_VALUE_BYTES {
        let end = text.floor_char_boundary(MAX_VALUE_BYTES);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(text) => format!("a string of {} bytes", text.len()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Set(items) => format!("a set of {}", items.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
        Value::Undefined => "undefined".to_owned(),
    }
}

/// The definitions that an engine which counted lines has evaluated.
fn rules_seen(engine: &mut Engine) -> Vec<RuleSeen> {
    let files = engine.get_coverage_report().map(|report| report.files).unwrap_or_default();
    let mut seen = Vec::new();
    for module in engine.get_modules().iter() {
        let path = module.package.refr.span().source.get_path();
        if let Some(file) = files.iter().find(|file| file.path == *path) {
            seen.extend(module.policy.iter().filter_map(|rule| definition(module, rule, &file.covered)));
        }
    }
    seen
}

fn definition(module: &Module, rule: &Rule, covered: &BTreeSet<u32>) -> Option<RuleSeen> {
    let Rule::Spec { bodies, .. } = rule else { return None };
    let lines: BTreeSet<u32> =
        bodies.iter().flat_map(|body| body.query.stmts.iter().map(|statement| statement.span.line)).collect();
    let evaluated: BTreeSet<u32> = lines.intersection(covered).copied().collect();
    if evaluated.is_empty() && !(lines.is_empty() && covered.contains(&rule.span().line)) {
        return None;
    }
    Some(RuleSeen {
        name: rule_path_of(&module.package.refr, rule)?,
        path: rule.span().source.get_path().clone(),
        line: rule.span().line,
        stopped: evaluated.last().copied().filter(|_| evaluated.len() < lines.len()),
    })
}
