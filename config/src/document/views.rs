//! `allow`, `deny`, `rename` and `describe` of a virtual server.

use crate::diagnostic::Located;
use crate::reader::{Section, Value};
use crate::view::{MAX_RULES, Pattern, respelt, split};

/// Longest pattern, and longest name that is changed.
const MAX_PATTERN_BYTES: usize = 1024;

/// Longest description that a document gives.
const MAX_DESCRIPTION_BYTES: usize = 16 << 10;

/// What callers see, as it is written.
#[derive(Clone, Debug, Default)]
pub struct ViewDocument {
    /// `allow`; `None` allows everything.
    pub(crate) allow: Option<Vec<Located<Pattern>>>,
    /// `deny`.
    pub(crate) deny: Vec<Located<Pattern>>,
    /// `rename`.
    pub(crate) rename: Vec<Change>,
    /// `describe`.
    pub(crate) describe: Vec<Change>,
}

/// A new text for one name of one member.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) member: Located<String>,
    pub(crate) original: String,
    pub(crate) to: Located<String>,
}

impl ViewDocument {
    /// Whether nothing of it is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty() && self.rename.is_empty() && self.describe.is_empty()
    }
}

pub(super) fn read(section: &mut Section<'_>) -> ViewDocument {
    ViewDocument {
        allow: section.value("allow").map(|value| patterns(&value)),
        deny: section.value("deny").map(|value| patterns(&value)).unwrap_or_default(),
        rename: changes(section, "rename", MAX_PATTERN_BYTES),
        describe: changes(section, "describe", MAX_DESCRIPTION_BYTES),
    }
}

const FORMS: &str = "write `MEMBER.NAME`, with `*` for any run of characters: `crm.delete_*`, `*.delete_*`, \
                     `files.file:///etc/*`";

fn patterns(value: &Value<'_>) -> Vec<Located<Pattern>> {
    let items = value.items_or_one();
    if items.is_empty() {
        // It reads as if it allowed or denied nothing, and people mean either.
        value.error("the list is empty", "name a pattern, or remove the key");
    }
    refuse_too_many(items.len(), value);
    let short = |text: &str| if text.len() > MAX_PATTERN_BYTES { Err("is too long") } else { Ok(()) };
    let pattern = |item: &Value<'_>| {
        let read = item.parsed(FORMS, |text| short(text).and_then(|()| Pattern::parse(text)))?;
        let original = read.value.original.to_string();
        if let Some(form) = respelt(&original) {
            let problem = format!("`{original}` matches no URI: rules are asked of the normal form");
            let hint = format!("write `{}.{form}`", read.value.member);
            match original.contains(":/") {
                true => item.error(problem, hint),
                // A tool may be called what looks like a URI of a scheme without slashes.
                false => item.warn(problem, hint),
            }
        }
        Some(read)
    };
    items.iter().filter_map(pattern).collect()
}

/// `{MEMBER.NAME: TEXT}`.
fn changes(section: &mut Section<'_>, key: &'static str, most_bytes: usize) -> Vec<Change> {
    let Some(value) = section.value(key) else { return vec![] };
    let entries = value.entries();
    refuse_too_many(entries.len(), &value);
    let change = |(name, to): (Located<String>, Value<'_>)| {
        let to = to.text();
        let hint = format!("write `MEMBER.NAME: TEXT`, without patterns: `{key}` changes one name at a time");
        let halves = split(&name.value).and_then(|halves| match name.value.contains('*') {
            true => Err("is a pattern"),
            false => Ok(halves),
        });
        let (member, original) = match halves {
            Ok((member, original)) => (member.to_owned(), original.to_owned()),
            Err(problem) => {
                section.error(&name.place, format!("`{}`: {problem}", name.value), hint);
                return None;
            }
        };
        if let Some(to) = to.as_ref().filter(|to| to.value.len() > most_bytes) {
            section.error(
                &to.place,
                format!("{} bytes of text", to.value.len()),
                format!("write at most {most_bytes}"),
            );
        }
        Some(Change { member: Located { value: member, place: name.place }, original, to: to? })
    };
    entries.into_iter().filter_map(change).collect()
}

fn refuse_too_many(count: usize, value: &Value<'_>) {
    if count > MAX_RULES {
        value.error(format!("{count} rules are written"), format!("write at most {MAX_RULES}"));
    }
}
