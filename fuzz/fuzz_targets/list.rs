//! A page of a server's list, whatever it holds: what is served of it is JSON, leads back to one item
//! of one server, and no name is there twice.
//!
//! The first byte of an input chooses the list, the rest is the result. Two members give the same list, the
//! second after its first item, so that every name is wanted twice.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portunus_filters::catalog::{
    Catalog, Known, ListKind, Listing, Lists, Names, Naming, Offer, Page, Policy, Source,
};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::sync::Arc;

/// Rules that change nothing.
struct Plain;

impl Naming for Plain {
    fn admits(&self, _: &str, _: &str) -> bool {
        true
    }

    fn renamed(&self, _: &str, _: &str) -> Option<&str> {
        None
    }

    fn described(&self, _: &str, _: &str) -> Option<&str> {
        None
    }

    fn renames(&self) -> Vec<(&str, &str, &str)> {
        Vec::new()
    }
}

fuzz_target!(|input: &[u8]| {
    let [chosen, result @ ..] = input else { return };
    let kind = ListKind::ALL[usize::from(*chosen) % 4];
    let Ok(page) = Page::read(&Bytes::copy_from_slice(result), kind) else { return };
    for item in &page.items {
        let definition = item.definition();
        assert!(!item.key().is_empty() && is_json(&definition), "{definition:?}");
    }
    let count = page.items.len() + page.quarantined.len();
    let listing = Arc::new(Listing::join(vec![page], kind));
    assert_eq!(listing.items.len() + listing.quarantined.len(), count, "nothing is lost unsaid");
    for policy in [Policy::Prefix, Policy::PrefixOnConflict, Policy::None] {
        merged(&listing, kind, policy);
    }
});

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

fn source(member: &str, listing: &Arc<Listing>, kind: ListKind) -> Source {
    let mut lists = Lists::default();
    lists.0[kind.index()] = Known::fresh(Arc::clone(listing));
    Source { member: member.into(), offer: Offer::One(lists) }
}

fn merged(listing: &Arc<Listing>, kind: ListKind, policy: Policy) {
    let names = Names { policy, separator: "_".into(), rules: Arc::new(Plain) };
    let sources = [source("a", listing, kind), source("b", listing, kind)];
    let catalog = Catalog::merge(&sources, &names, None, Some(256));
    let mut served = HashSet::new();
    for entry in catalog.entries(kind) {
        assert!(served.insert(entry.name.clone()), "{} is there twice", entry.name);
        assert!(is_json(entry.definition()));
        assert!(listing.items.iter().any(|item| *item.key() == entry.original));
        let found = match kind {
            ListKind::Tools => catalog.tool(&entry.name),
            ListKind::Prompts => catalog.prompt(&entry.name),
            ListKind::Templates => catalog.template(&entry.name),
            ListKind::Resources => catalog.resource(&entry.name).and_then(|located| located.entry),
        };
        assert!(found.is_some_and(|found| found.member == entry.member && found.original == entry.original));
    }
    let mut cursor = None;
    let mut written = 0;
    loop {
        let page = catalog.page(kind, cursor.as_deref()).expect("a cursor leads on");
        let text = [b"[", page.pieces.concat().as_slice(), b"]"].concat();
        let items: Vec<&RawValue> = serde_json::from_slice(&text).expect("a page is JSON");
        written += items.len();
        cursor.clone_from(&page.next_cursor);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(written, catalog.entries(kind).len());
}
