//! Which member a URI belongs to.

use super::{Catalog, Entry, ListKind, uri};
use std::borrow::Cow;

/// Where a URI leads.
#[derive(Debug)]
pub struct Located<'a> {
    /// Index of the member.
    pub member: usize,
    /// The URI as the member knows it.
    pub original: Cow<'a, str>,
    /// The item of the list or template that says so; `None` if only its scheme does.
    pub entry: Option<&'a Entry>,
}

impl Catalog {
    /// Finds the member to read a URI from: by the lists, then by the templates, of which the one
    /// with most fixed text counts, then by a member's name in the URI, then by its scheme.
    ///
    /// `None` if no member has anything like it, or it is not admitted.
    pub fn resource<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        if let Some(entry) = self.list(ListKind::Resources).entry(uri) {
            let original = Cow::Borrowed(&*entry.original);
            return Some(Located { member: entry.member, original, entry: Some(entry) });
        }
        if let Some(located) = self.by_waiting(uri) {
            return Some(located);
        }
        let located = self.by_template(uri).or_else(|| self.by_name(uri)).or_else(|| self.by_scheme(uri))?;
        let admitted = self.names.rules.admits(&self.members[located.member], &located.original);
        admitted.then_some(located)
    }

    /// The URI that leads back to a member, for one that it speaks of.
    pub(super) fn served_uri<'a>(&'a self, member: usize, original: &'a str) -> Cow<'a, str> {
        // While a member before was not read, the URI may turn out to be that one's.
        let is_waiting = self.uris_unread() < member;
        match self.resource(original) {
            Some(located) if located.member != member || is_waiting => {
                Cow::Owned(uri::prefixed(&self.members[member], original))
            }
            _ => Cow::Borrowed(original),
        }
    }

    /// The first member whose URIs are not all known.
    fn uris_unread(&self) -> usize {
        self.list(ListKind::Resources).unread.min(self.list(ListKind::Templates).unread)
    }

    /// A listed URI that is served prefixed only because a member before was not read yet: until then it
    /// leads to who lists it.
    fn by_waiting<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let list = self.list(ListKind::Resources);
        let waiting = self.members.iter().skip(list.unread.saturating_add(1));
        let entry = waiting.filter_map(|member| list.entry(&uri::prefixed(member, uri))).next()?;
        Some(Located { member: entry.member, original: Cow::Borrowed(&*entry.original), entry: Some(entry) })
    }

    fn by_template<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let list = self.list(ListKind::Templates);
        let matching = list.entries.iter().zip(&list.templates).filter_map(|(entry, template)| {
            let template = template.as_ref().filter(|template| template.matches(uri))?;
            Some((template.literal_bytes(), entry))
        });
        // The last of equals is the largest: reversed, so that the first counts.
        let (_, entry) = matching.rev().max_by_key(|(literal_bytes, _)| *literal_bytes)?;
        let served_as_it_is = entry.name == entry.original;
        let original = if served_as_it_is { uri } else { uri::unprefixed(uri)?.1 };
        Some(Located { member: entry.member, original: Cow::Borrowed(original), entry: Some(entry) })
    }

    fn by_name<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let (name, original) = uri::unprefixed(uri)?;
        let member = self.members.iter().position(|member| **member == *name)?;
        Some(Located { member, original: Cow::Borrowed(original), entry: None })
    }

    fn by_scheme<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let member = *self.schemes.get(uri::scheme(uri)?)?;
        Some(Located { member, original: Cow::Borrowed(uri), entry: None })
    }
}
