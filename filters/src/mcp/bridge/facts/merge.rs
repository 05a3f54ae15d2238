//! What several servers say of themselves, as one.

use super::Facts;
use crate::mcp::Revision;
use crate::mcp::bridge::meta::{Members, TASKS};
use crate::mcp::object::{Object, unquoted};
use crate::mcp::rewrite::string;
use portunus_base::Era;
use std::borrow::Cow;

/// Lists that a server can have, and what it may say of each.
const LISTS: [(&str, &[&str]); 3] = [
    ("tools", &["listChanged"]),
    ("prompts", &["listChanged"]),
    ("resources", &["listChanged", "subscribe"]),
];

/// Features that a server either has or has not.
const FEATURES: [&str; 2] = ["completions", "logging"];

/// Bytes of instructions that a client gets in all; they end up in a model's context.
const MAX_INSTRUCTIONS: usize = 64 * 1024;

impl Facts {
    /// What a server of several members says of itself: it can what any of them can, tells each
    /// one's instructions under its name, and is called what `own` says (a JSON object).
    pub fn merge(parts: &[(&str, &Facts)], own: &str) -> Facts {
        Facts {
            version: parts.iter().map(|(_, facts)| facts.version).max().unwrap_or(Revision::ALL[0]),
            capabilities: capabilities(parts).into(),
            instructions: instructions(parts).map(|text| string(&text).into()),
            server_info: Some(own.into()),
        }
    }
}

fn capabilities(parts: &[(&str, &Facts)]) -> String {
    let any = |path: &str| parts.iter().any(|(_, facts)| facts.has(path));
    let mut members = Members::new();
    for (list, details) in LISTS.iter().filter(|(list, _)| any(list)) {
        let said = details.iter().filter(|detail| any(&format!("{list}.{detail}")));
        let text = said.fold(Members::new(), |said, detail| said.with(detail, "true")).text();
        members = members.with(list, &text);
    }
    for feature in FEATURES.iter().filter(|feature| any(feature)) {
        members = members.with(feature, "{}");
    }
    if parts.iter().any(|(_, facts)| has_tasks(facts)) {
        members = members.with("extensions", &Members::new().with(TASKS, "{}").text());
    }
    members.text()
}

/// Servers of older revisions mean something else by tasks.
fn has_tasks(facts: &Facts) -> bool {
    let declared = Object::read(&facts.capabilities).ok();
    let extensions = declared.and_then(|declared| declared.object("extensions").ok().flatten());
    facts.version.era() == Era::Modern && extensions.is_some_and(|extensions| extensions.get(TASKS).is_some())
}

/// One member's instructions as they are; those of several under a heading each, shortened alike
/// where all of them are too long.
fn instructions(parts: &[(&str, &Facts)]) -> Option<String> {
    let told: Vec<(&str, Cow<'_, str>)> = parts
        .iter()
        .filter_map(|(member, facts)| Some((*member, unquoted(facts.instructions.as_deref()?)?)))
        .filter(|(_, text)| !text.trim().is_empty())
        .collect();
    let share = MAX_INSTRUCTIONS / told.len().max(1);
    match told.as_slice() {
        [] => None,
        [(_, text)] if parts.len() == 1 => Some(shortened(text, share)),
        several => {
            let chapter =
                |(member, text): &(&str, Cow<'_, str>)| format!("# {member}\n\n{}", shortened(text, share));
            Some(several.iter().map(chapter).collect::<Vec<_>>().join("\n\n"))
        }
    }
}

fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{} […]", &text[..text.floor_char_boundary(bytes)])
}
