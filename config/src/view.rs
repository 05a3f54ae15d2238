//! What callers see of a virtual server's members: names shown or hidden, renamed, described anew.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use portunus_filters::mcp::uri::{normal_pattern, scheme};

use portunus_filters::glob::Glob;

/// Most patterns of one list, and most names that one server changes.
pub(crate) const MAX_RULES: usize = 1000;

/// Which names of its members a virtual server shows, and how.
///
/// Rules are over `member.original`: names of tools and prompts, URIs of resources, and templates of
/// URIs, as the member's upstream calls them. A member's name has no dot, so the first one parts
/// the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// `None` allows everything.
    pub(crate) allow: Option<Vec<Pattern>>,
    pub(crate) deny: Vec<Pattern>,
    pub(crate) rename: Changes,
    pub(crate) describe: Changes,
}

/// New texts by member and original name.
pub(crate) type Changes = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>;

impl View {
    /// Whether callers see it: some `allow` matches, or there is none, and no `deny` does.
    pub fn admits(&self, member: &str, original: &str) -> bool {
        let hit = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(member, original));
        self.allow.as_deref().is_none_or(hit) && !hit(&self.deny)
    }

    /// The name that it is served under, if the document gives it one.
    pub fn renamed(&self, member: &str, original: &str) -> Option<&str> {
        changed(&self.rename, member, original)
    }

    /// Every name that the document gives: of which member, for which original.
    pub fn renames(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.rename.iter().flat_map(|(member, changes)| {
            changes.iter().map(move |(original, name)| (&**member, &**original, &**name))
        })
    }

    /// The description that it is served with, if the document gives it one.
    pub fn described(&self, member: &str, original: &str) -> Option<&str> {
        changed(&self.describe, member, original)
    }

    /// Whether anything is hidden.
    pub fn is_selective(&self) -> bool {
        self.allow.is_some() || !self.deny.is_empty()
    }

    /// Whether everything is shown as it is.
    pub fn is_empty(&self) -> bool {
        let View { allow, deny, rename, describe } = self;
        allow.is_none() && deny.is_empty() && rename.is_empty() && describe.is_empty()
    }
}

fn changed<'a>(changes: &'a Changes, member: &str, original: &str) -> Option<&'a str> {
    changes.get(member)?.get(original).map(|text| &**text)
}

/// A pattern over `member.original`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) member: Glob,
    pub(crate) original: Glob,
}

impl Pattern {
    /// Reads `member.original`, each with any number of `*`.
    pub(crate) fn parse(text: &str) -> Result<Pattern, &'static str> {
        let (member, original) = split(text)?;
        Ok(Pattern { member: Glob::new(member), original: Glob::new(original) })
    }

    pub(crate) fn matches(&self, member: &str, original: &str) -> bool {
        self.member.matches(member) && self.original.matches(original)
    }

    /// Whether everything that `other` matches is matched by this as well.
    pub(crate) fn covers(&self, other: &Pattern) -> bool {
        self.member.covers(&other.member) && self.original.covers(&other.original)
    }

    /// Whether something is matched by both.
    pub(crate) fn overlaps(&self, other: &Pattern) -> bool {
        self.member.overlaps(&other.member) && self.original.overlaps(&other.original)
    }

    /// A pattern of exactly what both match, where one half of each covers that of the other.
    pub(crate) fn intersection(&self, other: &Pattern) -> Option<Pattern> {
        let member = self.member.narrower(&other.member)?.clone();
        let original = self.original.narrower(&other.original)?.clone();
        Some(Pattern { member, original })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.member, self.original)
    }
}

/// The form in which a pattern over URIs matches something, if it is not written so.
pub(crate) fn respelt(pattern: &str) -> Option<String> {
    scheme(pattern)?;
    match normal_pattern(pattern).form {
        Cow::Borrowed(_) => None,
        Cow::Owned(form) => Some(form),
    }
}

/// The two halves of `member.original`.
pub(crate) fn split(text: &str) -> Result<(&str, &str), &'static str> {
    match text.split_once('.') {
        Some((member, original)) if !member.is_empty() && !original.is_empty() => Ok((member, original)),
        _ => Err("does not say whose name it is"),
    }
}

/// The two halves of `upstream.original`: names of upstreams may have dots, so the longest of `known`
/// that the text begins with is the first half, else what stands before the first dot.
pub(crate) fn split_upstream<'a>(text: &'a str, known: &[&str]) -> Result<(&'a str, &'a str), &'static str> {
    let rest =
        |name: &&str| text.strip_prefix(*name).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'));
    match known.iter().filter(|name| rest(name)).map(|name| name.len()).max() {
        Some(length) => Ok((&text[..length], &text[length + 1..])),
        None => split(text).map_err(|_| "does not say whose it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(allow: Option<&[&str]>, deny: &[&str]) -> View {
        let read = |texts: &[&str]| texts.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        View { allow: allow.map(read), deny: read(deny), ..View::default() }
    }

    #[test]
    fn what_is_denied_is_hidden_even_where_it_is_allowed() {
        let table = [
            ("nothing said", view(None, &[]), true),
            ("allowed", view(Some(&["crm.*"]), &[]), true),
            ("another is allowed", view(Some(&["search.*"]), &[]), false),
            ("one of two", view(Some(&["search.*", "*.delete_*"]), &[]), true),
            ("denied", view(None, &["crm.delete_*"]), false),
            ("both", view(Some(&["crm.*"]), &["*.delete_*"]), false),
            ("another is denied", view(None, &["search.delete_*"]), true),
            ("nothing allowed", view(Some(&[]), &[]), false),
        ];
        for (name, view, shown) in table {
            assert_eq!(view.admits("crm", "delete_customer"), shown, "{name}");
        }
    }

    #[test]
    fn the_first_dot_parts_member_and_name() {
        let uris = view(None, &["files.file:///etc/*.conf"]);
        assert!(!uris.admits("files", "file:///etc/a.conf"));
        assert!(uris.admits("files", "file:///etc/a.txt"));
        for text in ["delete_*", ".x", "crm.", ""] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn changes_are_of_one_member() {
        let names = BTreeMap::from([("find_customer".into(), "find".into())]);
        let view = View { rename: BTreeMap::from([("crm".into(), names)]), ..View::default() };
        assert_eq!(view.renamed("crm", "find_customer"), Some("find"));
        assert_eq!(view.renamed("search", "find_customer"), None);
        assert_eq!(view.described("crm", "find_customer"), None);
        assert!(!view.is_empty() && View::default().is_empty());
    }
}
