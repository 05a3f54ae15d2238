//! What several servers say of themselves, as one.

use super::Facts;
use crate::mcp::Revision;
use crate::mcp::bridge::meta::Members;
use crate::mcp::object::{Object, unquoted};
use crate::mcp::rewrite::string;
use std::borrow::Cow;
use std::collections::HashSet;

/// Lists that a server can have, and what it may say of each.
const LISTS: [(&str, &[&str]); 3] = [
    ("tools", &["listChanged"]),
    ("prompts", &["listChanged"]),
    ("resources", &["listChanged", "subscribe"]),
];

/// Features that a server either has or has not.
const FEATURES: [&str; 2] = ["completions", "logging"];

/// Open sets of features by name; the first server that has one describes it.
const NAMED: [&str; 2] = ["extensions", "experimental"];

/// Names kept of an open set.
const MAX_NAMED: usize = 256;

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
    let declared: Vec<Object<'_>> =
        parts.iter().filter_map(|(_, facts)| Object::read(&facts.capabilities).ok()).collect();
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
    for set in NAMED.iter().filter(|set| any(set)) {
        members = members.with(set, &union(&declared, set));
    }
    members.text()
}

/// The members of the objects under one key, each name once.
fn union(declared: &[Object<'_>], key: &str) -> String {
    let mut seen = HashSet::new();
    let mut members = Members::new();
    for set in declared.iter().filter_map(|object| object.object(key).ok().flatten()) {
        for (name, text) in set.members() {
            if seen.len() < MAX_NAMED && seen.insert(name.to_owned()) {
                members = members.with(name, text);
            }
        }
    }
    members.text()
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
