//! From the lists of all members to one catalogue.

use super::naming::Christening;
use super::page::{Item, MAX_TOOL_NAME};
use super::served::Writer;
use super::template::Templates;
use super::twins::{self, Twin};
use super::{Broken, Catalog, Entry, ListKind, Merged, Names, Offer, Quarantine, Server, Source};
use crate::mcp::object::Object;
use crate::mcp::rewrite;
use crate::mcp::uri::scheme;
use std::collections::HashMap;
use std::sync::Arc;

/// Items of one merged list.
const MAX_ITEMS: usize = 50_000;

/// Bytes of a page of a merged list, unless one asks for less.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// An item on its way into the list.
struct Candidate {
    member: usize,
    item: Item,
    twin: Option<Twin>,
}

/// What wants a name.
#[expect(clippy::large_enum_variant, reason = "nearly all are items, and none outlives its merge")]
enum Wanting {
    Item(Candidate),
    /// An item of a member that may come back, by its key there.
    Reserved(usize, Arc<str>),
}

impl Wanting {
    fn key(&self) -> (usize, Arc<str>) {
        match self {
            Wanting::Item(candidate) => (candidate.member, candidate.item.key.clone()),
            Wanting::Reserved(member, key) => (*member, key.clone()),
        }
    }
}

impl Catalog {
    /// Merges the lists of members, which stand in the order in which they own names.
    ///
    /// `previous` is the catalogue before this one for the same callers and of the same revision, so
    /// with the same members: names that it served keep their owner, and so do those that are
    /// reserved for a list that is not known. `page_bytes` bounds the pages of merged lists, in
    /// bytes; `None` for 1 MiB.
    pub fn merge(
        sources: &[Source],
        names: &Names,
        previous: Option<&Catalog>,
        page_bytes: Option<usize>,
    ) -> Catalog {
        let mut catalog = Catalog {
            lists: ListKind::ALL.map(|_| Merged::default()),
            members: sources.iter().map(|source| source.member.clone()).collect(),
            servers: sources.iter().enumerate().flat_map(reported).collect(),
            names: names.clone(),
            schemes: HashMap::new(),
        };
        for kind in ListKind::ALL {
            let mut list = Merged::default();
            if let Some(previous) = previous {
                list.ledger = previous.list(kind).ledger.clone();
            }
            let candidates = catalog.candidates(sources, kind);
            list.unread = sources.iter().position(|source| !source.is_read(kind)).unwrap_or(sources.len());
            catalog.fill(&mut list, kind, candidates, page_bytes.unwrap_or(PAGE_BYTES));
            catalog.lists[kind.index()] = list;
        }
        catalog.schemes = catalog.schemes();
        catalog
    }

    /// What of all members may be served or has to be kept free, in order.
    fn candidates(&mut self, sources: &[Source], kind: ListKind) -> Vec<Wanting> {
        let mut candidates = Vec::new();
        let mut first_server = 0;
        for (member, source) in sources.iter().enumerate() {
            let mut quarantine = Quarantine::default();
            let offered = offered(source, member, kind, &mut quarantine);
            let admitted = offered
                .into_iter()
                .filter(|candidate| self.names.rules.admits(&source.member, &candidate.item.judged));
            for candidate in admitted {
                if candidates.len() < MAX_ITEMS {
                    candidates.push(Wanting::Item(candidate));
                } else {
                    quarantine.add(Some(candidate.item.key), Broken::Full { limit: MAX_ITEMS });
                }
            }
            let reserved = source.reserved(kind).filter(|key| self.names.rules.admits(&source.member, key));
            let room = MAX_ITEMS - candidates.len();
            candidates.extend(reserved.take(room).map(|key| Wanting::Reserved(member, key.clone())));
            self.servers[first_server].quarantined[kind.index()].append(quarantine);
            first_server += source.servers().len();
        }
        candidates
    }

    /// Names the candidates and writes them.
    fn fill(&mut self, list: &mut Merged, kind: ListKind, candidates: Vec<Wanting>, page_bytes: usize) {
        let wanted: Vec<(usize, Arc<str>)> = candidates.iter().map(Wanting::key).collect();
        let (names, members) = (&self.names, &self.members);
        let (served, conflicts) =
            Christening { kind, names, members, ledger: &mut list.ledger, unread: list.unread }
                .assign(&wanted);
        list.conflicts = conflicts;
        let mut writer = Writer::new(page_bytes);
        for named in candidates.into_iter().zip(served) {
            let (Wanting::Item(candidate), Some(name)) = named else { continue };
            if kind == ListKind::Tools && name.len() > MAX_TOOL_NAME {
                let reason = Broken::KeyLength { limit: MAX_TOOL_NAME };
                self.set_aside(candidate, kind, reason);
                continue;
            }
            match self.changed(&candidate, kind, &name) {
                None => writer.untouched(&candidate.item),
                Some(text) => writer.changed(&text),
            }
            list.index.insert(name.clone(), list.entries.len());
            list.entries.push(entry(candidate, name));
        }
        let (served, definitions) = writer.finish();
        for (entry, definition) in list.entries.iter_mut().zip(definitions) {
            entry.definition = definition;
        }
        list.served = served;
        if kind == ListKind::Templates {
            list.templates = Templates::parse(list.entries.iter().map(|entry| (entry.member, &*entry.name)));
        }
    }

    fn set_aside(&mut self, candidate: Candidate, kind: ListKind, reason: Broken) {
        let member = &self.members[candidate.member];
        let of_member =
            |server: &&mut Server| server.name == *member || server.name.starts_with(&format!("{member}/"));
        if let Some(server) = self.servers.iter_mut().find(of_member) {
            server.quarantined[kind.index()].add(Some(candidate.item.key), reason);
        }
    }

    /// The definition as it is served, if that is not as its upstream wrote it.
    fn changed(&self, candidate: &Candidate, kind: ListKind, name: &str) -> Option<String> {
        let item = &candidate.item;
        let described = self.names.rules.described(&self.members[candidate.member], &item.key);
        let schema = candidate.twin.as_ref().map(|twin| twin.schema.as_str());
        let renamed = (*name != *item.key).then(|| rewrite::string(name));
        if renamed.is_none() && described.is_none() && schema.is_none() {
            return None;
        }
        let object = Object::read(item.text()).ok()?;
        let changed = object.rewrite().set_some(kind.item_key(), renamed);
        let changed = changed.set_some("description", described.map(rewrite::string));
        Some(changed.set_some("inputSchema", schema).text())
    }

    fn schemes(&self) -> HashMap<Box<str>, usize> {
        let mut schemes = HashMap::new();
        for kind in [ListKind::Resources, ListKind::Templates] {
            for entry in self.entries(kind) {
                if let Some(scheme) = scheme(&entry.judged) {
                    let first = schemes.entry(scheme.into()).or_insert(entry.member);
                    *first = entry.member.min(*first);
                }
            }
        }
        schemes
    }
}

/// The servers of a member with what their pages had set aside.
fn reported((member, source): (usize, &Source)) -> Vec<Server> {
    let server = |(name, lists): (Arc<str>, &super::Lists)| {
        let quarantined = |kind| lists.of(kind).listing.as_ref().map(|listing| listing.quarantined.clone());
        Server {
            name,
            member,
            states: ListKind::ALL.map(|kind| lists.of(kind).state),
            quarantined: ListKind::ALL.map(|kind| quarantined(kind).unwrap_or_default()),
        }
    };
    source.servers().into_iter().map(server).collect()
}

/// What a member offers of a list.
fn offered(source: &Source, member: usize, kind: ListKind, quarantine: &mut Quarantine) -> Vec<Candidate> {
    let plain = |item: &Item| Candidate { member, item: item.clone(), twin: None };
    match &source.offer {
        Offer::One(lists) => {
            let listing = lists.of(kind).listing.as_deref();
            listing.into_iter().flat_map(|listing| &listing.items).map(plain).collect()
        }
        Offer::Twins(twins) if kind == ListKind::Tools => {
            let twins = twins::tools(twins, quarantine);
            twins
                .into_iter()
                .map(|twin| Candidate { member, item: twin.item.clone(), twin: Some(twin) })
                .collect()
        }
        Offer::Twins(twins) => {
            let default = twins.regions.first().and_then(|(_, lists)| lists.of(kind).listing.as_deref());
            default.into_iter().flat_map(|listing| &listing.items).map(plain).collect()
        }
    }
}

fn entry(candidate: Candidate, name: Arc<str>) -> Entry {
    Entry {
        name,
        member: candidate.member,
        original: candidate.item.key,
        judged: candidate.item.judged,
        params: candidate.item.params,
        hints: candidate.item.hints,
        selector: candidate.twin.map(|twin| twin.selector),
        definition: bytes::Bytes::new(),
    }
}
