//! From what is known of each upstream to one offering.
//!
//! Merging costs time and memory, so it is done again only when a list is another one, and callers
//! with equal lists share one catalogue.

use super::audience_catalog::{Slots, upstreams};
use super::fetch::Digest;
use super::larder::label;
use super::slot::{Slot, UNASKED};
use super::{MergedCatalog, Pantry, Viewed};
use portunus_config::{Choice, Member, NamePolicy, Upstream, VirtualServer};
use portunus_filters::catalog::{
    Catalog, Known, ListKind, Lists, Names, Offer, Policy, Source, State, Twins,
};
use portunus_filters::mcp::bridge::Scope;
use portunus_filters::{Moment, Reason};
use ring::digest::{Context, SHA256};
use std::sync::Arc;
use std::time::Duration;

/// What an offering is made of.
pub(super) struct Composing<'a> {
    pub(super) server: &'a VirtualServer,
    pub(super) tenant: Option<&'a str>,
    pub(super) slots: &'a Slots,
    pub(super) now: Moment,
    pub(super) pantry: &'a Pantry,
}

/// What a catalogue was made of: equal origins make equal catalogues.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// Digest of the lists and the names that were given before.
    line: Digest,
    /// Digest of the lists alone.
    lists: Digest,
    /// How well each list is known.
    states: Vec<State>,
}

/// What is gathered while sources are built.
struct Gathering {
    lists: Context,
    states: Vec<State>,
    fresh_until: [Duration; 4],
    public: [bool; 4],
    expires: Duration,
    /// By member.
    known: Vec<[super::merged_catalog::Known; 4]>,
}

impl Composing<'_> {
    /// The offering, given the catalogue before it under the same configuration.
    pub(super) fn merged(&self, previous: Option<(&Origin, &Arc<Catalog>)>) -> (MergedCatalog, Origin) {
        let mut gathering = Gathering {
            lists: Context::new(&SHA256),
            states: Vec::new(),
            fresh_until: [Duration::MAX; 4],
            public: [self.is_same_for_all(); 4],
            expires: Duration::MAX,
            known: Vec::new(),
        };
        let sources: Vec<Source> =
            self.server.members.iter().map(|member| self.source(member, &mut gathering)).collect();
        let origin = self.origin(&gathering, previous.map(|(origin, _)| origin));
        let merged = || {
            let previous = previous.map(|(_, catalog)| &**catalog);
            Arc::new(Catalog::merge(&sources, &self.names(), previous, None))
        };
        let catalog = match previous {
            Some((before, catalog)) if *before == origin => Arc::clone(catalog),
            _ if origin.states.iter().all(is_lasting) => self.pantry.catalog(origin.line, merged),
            _ => merged(),
        };
        let scope = gathering.public.map(|public| if public { Scope::Public } else { Scope::Private });
        let Gathering { known, fresh_until, expires, .. } = gathering;
        let described = self.slots.iter().map(|(_, slot)| slot.described_until());
        let described_until = described.min().unwrap_or_default();
        let facts = self.facts();
        (MergedCatalog { catalog, facts, scope, known, fresh_until, described_until, expires }, origin)
    }

    /// Whether nothing but its upstreams makes callers see different lists.
    fn is_same_for_all(&self) -> bool {
        let by_tenant = |member: &Member| matches!(member.choice, Choice::ByTenant { .. });
        self.server.view.is_empty() && !self.server.members.iter().any(by_tenant)
    }

    fn origin(&self, gathering: &Gathering, before: Option<&Origin>) -> Origin {
        let lists = digest(gathering.lists.clone());
        let states = gathering.states.clone();
        if let Some(before) = before.filter(|before| before.lists == lists && before.states == states) {
            return before.clone();
        }
        let mut line = Context::new(&SHA256);
        line.update(self.server.id.0.as_bytes());
        line.update(format!("{:?}", (&self.names(), &self.server.view)).as_bytes());
        line.update(&before.map_or([0; 32], |before| before.line));
        line.update(&lists);
        Origin { line: digest(line), lists, states }
    }

    /// A member that has no upstream for the tenant offers nothing, and keeps its place.
    fn source(&self, member: &Member, gathering: &mut Gathering) -> Source {
        gathering.known.push(ListKind::ALL.map(|_| Err(None)));
        let offer = match &member.choice {
            Choice::Twins { selector, map, default } => {
                let others = map.iter().filter(|(region, _)| *region != default);
                let regions = map.get_key_value(default).into_iter().chain(others);
                let regions =
                    regions.map(|(region, upstream)| (Arc::clone(region), self.lists(upstream, gathering)));
                Offer::Twins(Twins { selector: Arc::clone(selector), regions: regions.collect() })
            }
            choice => {
                let upstream = choice.for_tenant(self.tenant);
                Offer::One(upstream.map(|upstream| self.lists(upstream, gathering)).unwrap_or_default())
            }
        };
        gathering.lists.update(b"/");
        Source { member: Arc::clone(&member.name), offer }
    }

    fn lists(&self, upstream: &Arc<Upstream>, gathering: &mut Gathering) -> Lists {
        let Some(slot) = self.slot(upstream) else { return Lists::default() };
        Lists(Box::new(ListKind::ALL.map(|kind| self.list(upstream, slot, kind, gathering))))
    }

    fn list(&self, upstream: &Upstream, slot: &Slot, kind: ListKind, gathering: &mut Gathering) -> Known {
        let rules = &self.server.cache;
        let (mut known, kept) = slot.known(kind, self.now.monotonic, rules);
        let not_shown = [UNASKED, Reason::EraMismatch.as_str()];
        if matches!(known.state, State::Missing { reason } if !not_shown.contains(&reason)) {
            let label = label(&self.server.id, upstream, kind);
            (known.reserved, known.is_remembered) = self.pantry.larder.names(&label);
        }
        // What is not for the client has no names there.
        known.is_remembered |= known.state == State::Missing { reason: Reason::EraMismatch.as_str() };
        let fresh_until = kept.as_ref().map_or(Duration::ZERO, |kept| kept.fresh_until);
        let index = kind.index();
        gathering.fresh_until[index] = gathering.fresh_until[index].min(fresh_until);
        gathering.public[index] &= match &kept {
            Some(kept) if kept.what.is_none() => true,
            Some(kept) => kept.scope == Scope::Public && upstream.trust_cache_scope,
            None => false,
        };
        if known.listing.is_some() && known.state != State::Fresh {
            gathering.expires = gathering.expires.min(fresh_until + rules.stale);
        }
        match (&known.state, gathering.known.last_mut().map(|lists| &mut lists[index])) {
            (State::Missing { .. }, Some(Err(failure))) => {
                *failure = failure.take().or_else(|| slot.failure(kind));
            }
            (State::Missing { .. }, _) => {}
            (_, Some(known)) => *known = Ok(()),
            (_, None) => {}
        }
        gathering.states.push(known.state);
        let is_missing = matches!(known.state, State::Missing { .. });
        gathering.lists.update(&[known.listing.is_some(), is_missing, known.is_remembered].map(u8::from));
        gathering.lists.update(&kept.map_or(Digest::default(), |kept| kept.digest));
        for name in known.reserved.iter() {
            gathering.lists.update(name.as_bytes());
            gathering.lists.update(b"\0");
        }
        known
    }

    fn slot(&self, upstream: &Upstream) -> Option<&Slot> {
        self.slots.iter().find(|(one, _)| one.key == upstream.key).map(|(_, slot)| &**slot)
    }

    fn facts(&self) -> Vec<Option<super::Described>> {
        let facts = |member: &Member| {
            let first = upstreams(member, self.tenant).into_iter().next()?;
            Some(self.slot(first)?.facts())
        };
        self.server.members.iter().map(facts).collect()
    }

    fn names(&self) -> Names {
        let policy = match self.server.names {
            NamePolicy::Prefix => Policy::Prefix,
            NamePolicy::PrefixOnConflict => Policy::PrefixOnConflict,
            NamePolicy::None => Policy::None,
        };
        let rules = Arc::new(Viewed(Arc::clone(&self.server.view)));
        Names { policy, separator: Arc::clone(&self.server.separator), rules }
    }
}

/// Whether a list is as its upstream says, or not wanted by anybody.
fn is_lasting(state: &State) -> bool {
    matches!(state, State::Fresh | State::Missing { reason: UNASKED })
}

fn digest(context: Context) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
