//! The lists of many servers as one.
//!
//! Each page of an upstream's list is read once into slices of its text ([`Page`]); what is broken in
//! it is set aside with its reason. All pages of a list are a [`Listing`]. [`Catalog::merge`] gives
//! each item of all members a name that no other has, and writes the merged lists as pieces that
//! copy only what was changed.
//!
//! A catalogue says how well each list is known ([`State`]): what is missing from it is named in the
//! `_meta` of its lists, so a list that is not complete never looks as if it were.
//!
//! Nothing is fetched here, and nothing grows: see `proxy/src/catalog.rs` for where lists come from.

mod broken;
mod completeness;
mod filtered;
mod kind;
mod merge;
mod naming;
mod outward;
mod page;
mod resources;
mod schema;
mod served;
mod source;
mod template;
mod twins;
mod uri;

pub use broken::Broken;
pub use completeness::{Closing, INCOMPLETE};
pub use filtered::{Filtered, Shown};
pub use kind::ListKind;
pub use naming::{Conflict, Conflicts, Names, Naming, Policy, Why};
pub use outward::names_resources;
pub use page::{Hints, Item, Listing, MAX_LIST_ITEMS, Page, Quarantine, Quarantined, is_tool_name};
pub use resources::Located;
pub use served::{ServedPage, UnknownCursor};
pub use source::{Known, Lists, Offer, Source, State, Twins};
pub use template::Steps;
pub use twins::Selector;

use crate::call::{KnownTool, Subject};
use crate::mcp::bridge::ParamHeader;
use crate::mcp::object::Object;
use bytes::Bytes;
use naming::Ledger;
use served::Served;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use template::Templates;

/// The merged lists of a virtual server, for one authorization context.
#[derive(Debug)]
pub struct Catalog {
    lists: [Merged; 4],
    members: Vec<Arc<str>>,
    servers: Vec<Server>,
    names: Names,
    /// The member that first had a resource or template of each scheme.
    schemes: HashMap<Box<str>, usize>,
}

/// One merged list.
#[derive(Debug, Default)]
struct Merged {
    entries: Vec<Entry>,
    index: HashMap<Arc<str>, usize>,
    /// Of templates only.
    templates: Templates,
    /// Lookups that left templates out, because their member had used up its share of the work.
    cut_short: AtomicU64,
    served: Served,
    ledger: Ledger,
    conflicts: Conflicts,
    /// The first member whose list was not read yet; their number if all were.
    unread: usize,
}

/// A server of a member, as it is reported.
#[derive(Debug)]
pub struct Server {
    /// The member's name; `member/region` for twins.
    pub name: Arc<str>,
    /// Index of the member.
    pub member: usize,
    /// How well each list is known, by [`ListKind::index`].
    pub states: [State; 4],
    /// What is not served of each list.
    pub quarantined: [Quarantine; 4],
}

/// An item of a merged list.
#[derive(Debug)]
pub struct Entry {
    /// The name or URI under which it is served.
    pub name: Arc<str>,
    /// Index of its member.
    pub member: usize,
    /// Its name or URI at its upstream.
    pub original: Arc<str>,
    /// What rules are asked of: its original, of a URI its normal form.
    judged: Arc<str>,
    /// Arguments that are repeated in headers.
    pub params: Arc<[ParamHeader]>,
    /// What its upstream claims of it.
    pub hints: Hints,
    /// The argument that chooses its server, where several have it.
    pub selector: Option<Arc<Selector>>,
    definition: Bytes,
}

impl Entry {
    /// What rules are asked of; of a tool, with what is `known` of it. `None` for a tool of which nothing
    /// is known.
    pub fn subject(&self, kind: ListKind, known: Option<Arc<KnownTool>>) -> Option<Subject> {
        let judged = || Arc::clone(&self.judged);
        Some(match kind {
            ListKind::Tools => Subject::Tool(known?),
            ListKind::Prompts => Subject::Prompt(judged()),
            ListKind::Resources => Subject::Resource(judged()),
            ListKind::Templates => Subject::Template(judged()),
        })
    }

    /// Its definition as it is served.
    pub fn definition(&self) -> &Bytes {
        &self.definition
    }

    /// The text of a tool's input schema, the selector's argument in it.
    pub fn input_schema(&self) -> Option<&str> {
        let object = Object::read(std::str::from_utf8(&self.definition).ok()?).ok()?;
        object.get("inputSchema")
    }
}

impl Catalog {
    /// The tool that is served under a name, or may be called by it.
    pub fn tool(&self, name: &str) -> Option<&Entry> {
        self.named(ListKind::Tools, name)
    }

    /// The prompt that is served under a name, or may be called by it.
    pub fn prompt(&self, name: &str) -> Option<&Entry> {
        self.named(ListKind::Prompts, name)
    }

    /// An item by its name. One that is served bare answers to its prefixed name too, under which it may
    /// have been served before, here or at another replica.
    fn named(&self, kind: ListKind, name: &str) -> Option<&Entry> {
        let list = self.list(kind);
        if let Some(entry) = list.entry(name) {
            return Some(entry);
        }
        if self.names.policy != Policy::PrefixOnConflict || self.members.len() < 2 {
            return None;
        }
        let member = self.names.owner_of(name, &self.members)?;
        let original = self.names.unprefixed(&self.members[member], name)?;
        list.entry(original).filter(|entry| entry.member == member && *entry.original == *original)
    }

    /// The template that is served under this text, as `completion/complete` refers to it.
    pub fn template(&self, text: &str) -> Option<&Entry> {
        self.list(ListKind::Templates).entry(text)
    }

    /// The item of a list that a member has under its own name for it.
    pub fn of_member(&self, kind: ListKind, member: usize, original: &str) -> Option<&Entry> {
        self.entries(kind).iter().find(|entry| entry.member == member && *entry.original == *original)
    }

    /// All items of a list, in its order.
    pub fn entries(&self, kind: ListKind) -> &[Entry] {
        &self.list(kind).entries
    }

    /// A page of a list: the first, or the one that a cursor leads to.
    ///
    /// # Errors
    /// [`UnknownCursor`] for one that is not of this list as it is now.
    pub fn page(&self, kind: ListKind, cursor: Option<&str>) -> Result<&ServedPage, UnknownCursor> {
        self.list(kind).served.page(cursor)
    }

    /// A number for the text of a list: another one means that it changed.
    pub fn generation(&self, kind: ListKind) -> u64 {
        self.list(kind).served.generation()
    }

    /// Names of the members, in the order of [`Entry::member`].
    pub fn members(&self) -> &[Arc<str>] {
        &self.members
    }

    /// Every server with what is known of its lists, twins by themselves.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Names that more than one item wanted.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflicts> {
        self.lists.iter().map(|list| &list.conflicts)
    }

    /// Lookups of a URI that did not look at all templates: more work than is done for one message.
    pub fn lookups_cut_short(&self) -> u64 {
        self.list(ListKind::Templates).cut_short.load(Ordering::Relaxed)
    }

    fn list(&self, kind: ListKind) -> &Merged {
        &self.lists[kind.index()]
    }
}

impl Merged {
    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(*self.index.get(name)?)
    }
}

#[cfg(test)]
mod tests;
