//! Which member a URI belongs to.

use super::template::Steps;
use super::{Catalog, Entry, ListKind, uri};
use crate::call::Subject;
use crate::mcp::uri::{normal, scheme};
use std::borrow::Cow;
use std::sync::atomic::Ordering;

/// Where a URI leads.
#[derive(Debug)]
pub struct Located<'a> {
    /// Index of the member.
    pub member: usize,
    /// The URI as the member knows it: what it receives.
    pub original: Cow<'a, str>,
    /// The item of the list or template that says so; `None` if only its scheme does.
    pub entry: Option<&'a Entry>,
    /// The member lists it byte for byte.
    is_listed: bool,
}

impl<'a> Located<'a> {
    fn new(member: usize, original: &'a str, entry: Option<&'a Entry>) -> Located<'a> {
        Located { member, original: Cow::Borrowed(original), entry, is_listed: false }
    }

    fn listed(entry: &'a Entry) -> Located<'a> {
        Located { is_listed: true, ..Located::new(entry.member, &entry.original, Some(entry)) }
    }

    /// What rules are asked of: the normal form of what the member receives. `None` if the member may
    /// read that in another way than it is judged: it neither lists it, nor is it in normal form.
    pub fn subject(&self) -> Option<Subject> {
        if let Some(entry) = self.entry.filter(|_| self.is_listed) {
            return entry.subject(ListKind::Resources, None);
        }
        normal(&self.original).is_exact().then(|| Subject::Resource((*self.original).into()))
    }
}

impl Catalog {
    /// Finds the member to read a URI from: by the lists, then by the templates, of which the one
    /// with most fixed text counts, then by a member's name in the URI, then by its scheme.
    ///
    /// `None` if no member has anything like it, or it is not admitted.
    pub fn resource<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        self.located(uri, &self.steps())
    }

    /// As [`Catalog::resource`], one of several of a message, for all of which `steps` is the work.
    pub fn located<'a>(&'a self, uri: &'a str, steps: &Steps) -> Option<Located<'a>> {
        if let Some(entry) = self.list(ListKind::Resources).entry(uri) {
            return Some(Located::listed(entry));
        }
        if let Some(located) = self.by_waiting(uri) {
            return Some(located);
        }
        let located =
            self.by_template(uri, steps).or_else(|| self.by_name(uri)).or_else(|| self.by_scheme(uri))?;
        let rules = &self.names.rules;
        if located.is_listed || !rules.is_selective() {
            return Some(located);
        }
        // What a member may read otherwise than the rules is not admitted by them.
        let admitted = normal(&located.original).is_exact()
            && rules.admits(&self.members[located.member], &located.original);
        admitted.then_some(located)
    }

    /// Whether what is not listed has to be in normal form to be found.
    pub fn is_selective(&self) -> bool {
        self.names.rules.is_selective()
    }

    /// The URI that the member would receive that a client's may name.
    pub fn received<'a>(&self, uri: &'a str) -> &'a str {
        match self.member_named(uri) {
            Some((_, original)) => original,
            None => uri,
        }
    }

    /// The URI that leads back to a member, for one that it speaks of.
    ///
    /// One that could not be looked up, since its message names too many, is served by its member's name.
    pub(super) fn served_uri<'a>(&'a self, member: usize, original: &'a str, steps: &Steps) -> Cow<'a, str> {
        // While a member before was not read, the URI may turn out to be that one's.
        let is_waiting = self.uris_unread() < member;
        let leads_elsewhere = match self.located(original, steps) {
            Some(located) => {
                located.member != member || is_waiting || (located.entry.is_none() && steps.ran_out())
            }
            None => steps.ran_out(),
        };
        match leads_elsewhere {
            true => Cow::Owned(uri::prefixed(&self.members[member], original)),
            false => Cow::Borrowed(original),
        }
    }

    /// The work that may be done to look up the URIs of one message.
    pub fn steps(&self) -> Steps {
        Steps::new(self.members.len())
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
        Some(Located::listed(entry))
    }

    fn by_template<'a>(&'a self, uri: &'a str, steps: &Steps) -> Option<Located<'a>> {
        let list = self.list(ListKind::Templates);
        let had_run_out = steps.ran_out();
        let found = list.templates.find(uri, steps);
        if steps.ran_out() && !had_run_out {
            list.cut_short.fetch_add(1, Ordering::Relaxed);
        }
        let entry = list.entries.get(found?)?;
        let served_as_it_is = entry.name == entry.original;
        let original = if served_as_it_is { uri } else { uri::unprefixed(uri)?.1 };
        Some(Located::new(entry.member, original, Some(entry)))
    }

    fn by_name<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let (member, original) = self.member_named(uri)?;
        // It may be served as it is as well, or in this form for the sake of another.
        let listed = self.list(ListKind::Resources).entry(original);
        match listed.filter(|entry| entry.member == member && *entry.original == *original) {
            Some(entry) => Some(Located::listed(entry)),
            None => Some(Located::new(member, original, None)),
        }
    }

    /// The member that a URI names, and the URI that it would receive.
    fn member_named<'a>(&self, uri: &'a str) -> Option<(usize, &'a str)> {
        let (name, original) = uri::unprefixed(uri)?;
        let member = self.members.iter().position(|member| **member == *name)?;
        Some((member, original))
    }

    fn by_scheme<'a>(&'a self, uri: &'a str) -> Option<Located<'a>> {
        let member = *self.schemes.get(&*scheme(uri)?.to_ascii_lowercase())?;
        Some(Located::new(member, uri, None))
    }
}
