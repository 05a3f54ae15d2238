//! Lists as callers see them, kept for all who see the same.
//!
//! A view is known by what the policy can read of who looks, and by where each member leads for them,
//! so that callers share one exactly where neither the policy nor what is known of tools can tell them
//! apart. It ends with its catalogue, its configuration, the unit of time
//! that the policy reads, and what the caller showed.

use super::Authority;
use portunus_filters::authorize::Obligations;
use portunus_filters::gate::{Item, Onlooker, Sight, Thing};
use portunus_filters::mcp::catalog::{Catalog, Entry, Filtered, ListKind, Shown};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// Views that are kept of one configuration.
const MAX_VIEWS: usize = 10_000;

/// Bytes that they take, beside the lists of everyone.
const MAX_BYTES: u64 = 256 << 20;

/// Lists as callers see them.
pub struct Views {
    kept: Cache<Key, Arc<View>, ByBytes>,
}

/// One list as one kind of caller sees it.
pub struct View {
    /// What it was made of: kept alive, so that its place in memory is nobody else's.
    catalog: Arc<Catalog>,
    /// What is seen of it.
    pub list: Filtered,
    /// When it ends, as a time since the epoch.
    pub until: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Where the catalogue lies in memory.
    catalog: usize,
    kind: ListKind,
    /// What the policy can read of who looks.
    onlooker: Box<[u8]>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<View>> for ByBytes {
    fn weight(&self, key: &Key, view: &Arc<View>) -> u64 {
        (key.onlooker.len() + view.list.bytes() + 256) as u64
    }
}

impl Default for Views {
    fn default() -> Views {
        Views { kept: Cache::with_weighter(MAX_VIEWS, MAX_BYTES, ByBytes) }
    }
}

impl Views {
    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.len() == 0
    }
}

impl Authority {
    /// A list as `onlooker` sees it; `upstream` names where a member leads for this caller.
    pub fn view<'m>(
        &self,
        onlooker: &Onlooker<'_>,
        catalog: &Arc<Catalog>,
        kind: ListKind,
        upstream: &dyn Fn(usize) -> Option<&'m Arc<str>>,
    ) -> Arc<View> {
        let Some((mut shown_to, until)) = self.gate.view(onlooker) else {
            return Arc::new(self.made(onlooker, (catalog, kind), upstream, Duration::ZERO));
        };
        lead_to(&mut shown_to, (0..catalog.members().len()).map(upstream));
        let key = Key { catalog: Arc::as_ptr(catalog) as usize, kind, onlooker: shown_to.into() };
        let now = onlooker.arrival.at.wall;
        let lasting = |view: &Arc<View>| now < view.until && Arc::ptr_eq(&view.catalog, catalog);
        if let Some(view) = self.views.kept.get(&key).filter(lasting) {
            return view;
        }
        let view = Arc::new(self.made(onlooker, (catalog, kind), upstream, until));
        self.views.kept.insert(key, Arc::clone(&view));
        view
    }

    fn made<'m>(
        &self,
        onlooker: &Onlooker<'_>,
        (catalog, kind): (&Arc<Catalog>, ListKind),
        upstream: &dyn Fn(usize) -> Option<&'m Arc<str>>,
        until: Duration,
    ) -> View {
        let look = |entry: &Entry| {
            let Some(upstream) = upstream(entry.member) else { return Shown::Hidden };
            let sight = self.sight(onlooker, kind, upstream, entry);
            let definition = std::str::from_utf8(entry.definition()).unwrap_or_default();
            match (sight.is_shown(), sight.definition(definition)) {
                (false, _) => Shown::Hidden,
                (true, None) => Shown::AsItIs,
                (true, Some(changed)) => Shown::Changed(changed),
            }
        };
        View { catalog: Arc::clone(catalog), list: catalog.filtered(kind, look), until }
    }

    /// How an entry of a list is seen.
    pub fn sight(
        &self,
        onlooker: &Onlooker<'_>,
        kind: ListKind,
        upstream: &Arc<str>,
        entry: &Entry,
    ) -> Sight {
        if !self.governs() {
            return Sight::Shown(Arc::<Obligations>::default());
        }
        let known = (kind == ListKind::Tools).then(|| self.known(upstream, entry));
        let Some(subject) = entry.subject(kind, known) else { return Sight::Hidden };
        self.gate.sight(onlooker, &Item { thing: Thing::Offered(&subject), upstream })
    }
}

/// Adds to a key where each member leads: what the policy reads of upstreams, and what is known of their
/// tools, may differ between callers whose lists are equal.
fn lead_to<'m>(key: &mut Vec<u8>, upstreams: impl Iterator<Item = Option<&'m Arc<str>>>) {
    for upstream in upstreams {
        let name = upstream.map_or("", |name| &**name);
        key.extend_from_slice(&(name.len() as u64).to_be_bytes());
        key.extend_from_slice(name.as_bytes());
    }
}
