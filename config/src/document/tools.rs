//! `tools`: patterns over names of tools, and what is known of those.

use std::sync::Arc;
use std::time::Duration;

use portunus_filters::{Class, Risk};

use super::listeners::label;
use crate::dates::parse_end;
use crate::diagnostic::Located;
use crate::limits::POSITIVE_DURATION;
use crate::reader::{Section, Value};
use crate::tools::Fact;

/// Most lines of one document.
const MAX_LINES: usize = 1000;

/// Longest pattern.
const MAX_PATTERN_BYTES: usize = 256;

/// Most labels, and most scopes, of one line.
const MAX_WORDS: usize = 64;

/// One pattern and what is known of the tools that it matches.
#[derive(Clone, Debug)]
pub struct ToolLine {
    /// `UPSTREAM.NAME`, each with any number of `*`.
    pub pattern: Located<String>,
    /// Each fact at most once.
    pub facts: Vec<Fact>,
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<ToolLine> {
    let Some(value) = section.value("tools") else { return vec![] };
    let entries = value.entries();
    if entries.is_empty() && value.is_mapping() {
        value.error("no tool is named", "write `UPSTREAM.NAME: {risk: high}`, or remove the section");
    }
    if entries.len() > MAX_LINES {
        value.error(format!("{} lines are written", entries.len()), format!("write at most {MAX_LINES}"));
    }
    entries.into_iter().filter_map(line).collect()
}

fn line((pattern, value): (Located<String>, Value<'_>)) -> Option<ToolLine> {
    if pattern.value.len() > MAX_PATTERN_BYTES {
        value.error("the pattern is too long", format!("write at most {MAX_PATTERN_BYTES} bytes"));
    }
    let facts = value.section(facts)?;
    if facts.is_empty() {
        value.error("nothing is said of these tools", "write a fact, such as `risk: high`");
    }
    Some(ToolLine { pattern, facts })
}

fn facts(section: &mut Section<'_>) -> Vec<Fact> {
    let longest = Duration::from_secs(10 * 365 * 86_400);
    let ages = Duration::from_secs(1)..=longest;
    let date = "write the last day, `2026-12-31`, or a time of UTC, `2026-12-31T08:00:00Z`";
    let facts = [
        section.value("risk").and_then(|value| value.one_of(&Risk::NAMES)).map(Fact::Risk),
        section.value("class").and_then(|value| value.one_of(&Class::NAMES)).map(Fact::Class),
        section.value("labels").and_then(|value| words(&value, label)).map(Fact::Labels),
        section.value("scopes").and_then(|value| words(&value, scope)).map(Fact::Scopes),
        section.value("cost").and_then(|value| value.amount_micros()).map(Fact::CostMicros),
        section.value("timeout").and_then(|value| value.duration(POSITIVE_DURATION)).map(Fact::Timeout),
        section.value("owner").and_then(|value| label(&value)).map(|owner| Fact::Owner(owner.value.into())),
        section
            .value("not_after")
            .and_then(|value| value.parsed(date, parse_end))
            .map(|end| Fact::NotAfter(end.value)),
        section.value("read_only").and_then(|value| value.flag()).map(Fact::ReadOnly),
        section.value("idempotent").and_then(|value| value.flag()).map(Fact::Idempotent),
        section.value("max_auth_age").and_then(|value| value.duration(ages)).map(Fact::MaxAuthAge),
    ];
    facts.into_iter().flatten().collect()
}

/// One word or a list of them: sorted, each once.
fn words(value: &Value<'_>, word: impl Fn(&Value<'_>) -> Option<Located<String>>) -> Option<Arc<[Arc<str>]>> {
    let items = value.items_or_one();
    if items.len() > MAX_WORDS {
        value.error(format!("{} words are written", items.len()), format!("write at most {MAX_WORDS}"));
    }
    let mut words: Vec<Arc<str>> =
        items.iter().map(|item| word(item).map(|word| word.value.into())).collect::<Option<_>>()?;
    words.sort_unstable();
    words.dedup();
    Some(words.into())
}

/// A scope: printable ASCII without space, `"` and `\` (RFC 6749, section 3.3).
fn scope(value: &Value<'_>) -> Option<Located<String>> {
    let hint = "write the scope as the authorization server knows it: `crm.write`";
    let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    value.parsed(hint, |text| match text.len() <= 256 && text.bytes().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("is no OAuth scope"),
    })
}
