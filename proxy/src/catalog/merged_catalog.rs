//! The lists that one audience is offered, and what is known of those that are missing.

use crate::backend::forward::Failure;
use portunus_filters::catalog::{Catalog, ListKind};
use portunus_filters::mcp::bridge::{Caching, Facts, Scope};
use portunus_filters::{Moment, Reason};
use std::sync::Arc;
use std::time::Duration;

/// What an upstream says of itself, or why it does not.
pub type Described = Result<Arc<Facts>, Arc<Failure>>;

/// Whether somebody is told of a member, by its place.
pub type Told<'a> = &'a dyn Fn(usize) -> bool;

/// That a list is known, or why it is not; nobody may have asked.
pub(super) type Known = Result<(), Option<Arc<Failure>>>;

/// What a virtual server offers to one audience.
#[derive(Debug)]
pub struct MergedCatalog {
    /// The merged lists. Members have the places that they have in the configuration.
    pub catalog: Arc<Catalog>,
    /// What the upstream of each member says of itself, of twins the default; `None` for members that
    /// the audience's tenant has not.
    pub facts: Vec<Option<Described>>,
    /// For whom each list may be kept: for all only what nobody filtered and all upstreams call public.
    pub(super) scope: [Scope; 4],
    /// By member.
    pub(super) known: Vec<[Known; 4]>,
    pub(super) fresh_until: [Duration; 4],
    pub(super) described_until: Duration,
    /// When something that stands in is too old for it.
    pub(super) expires: Duration,
}

impl MergedCatalog {
    /// For how long and for whom a client may keep a list.
    pub fn caching(&self, kind: ListKind, now: Moment) -> Caching {
        let left = self.fresh_until[kind.index()].saturating_sub(now.monotonic);
        Caching { ttl_ms: milliseconds(left), scope: self.scope[kind.index()] }
    }

    /// What the upstreams that spoke say of themselves, with the names of their members.
    pub fn known_facts(&self, told: Told<'_>) -> Vec<(Arc<str>, Arc<Facts>)> {
        let known = self.described(told).filter_map(|(member, facts)| Some((member, facts.as_ref().ok()?)));
        known.map(|(member, facts)| (Arc::clone(member), Arc::clone(facts))).collect()
    }

    /// The members whose upstreams did not say what they are, and why.
    pub fn silent(&self, told: Told<'_>) -> Vec<(Arc<str>, Reason)> {
        let silent = self.described(told).filter_map(|(member, facts)| Some((member, facts.as_ref().err()?)));
        silent.map(|(member, failure)| (Arc::clone(member), failure.denial.reason)).collect()
    }

    /// Why no upstream says what it is, if none does.
    pub fn silence(&self, told: Told<'_>) -> Option<&Arc<Failure>> {
        // Seldom does one of them not.
        self.facts.iter().flatten().find(|facts| facts.is_err())?;
        let mut all = self.described(told).map(|(_, facts)| facts);
        let first = all.next()?.as_ref().err()?;
        all.all(Result::is_err).then_some(first)
    }

    fn described<'a, 't>(
        &'a self,
        told: Told<'t>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Described)> + use<'a, 't> {
        let members = self.catalog.members().iter().zip(&self.facts).enumerate();
        let there = members.filter_map(|(place, (member, facts))| Some((place, member, facts.as_ref()?)));
        there.filter(move |(place, ..)| told(*place)).map(|(_, member, facts)| (member, facts))
    }

    /// For how long and for whom a client may keep what the upstreams say of themselves.
    pub fn description_caching(&self, now: Moment) -> Caching {
        Caching {
            ttl_ms: milliseconds(self.described_until.saturating_sub(now.monotonic)),
            scope: Scope::Private,
        }
    }

    /// Why nothing is known of a list at all: no upstream said what it has, nor ever did. A list that
    /// is empty for that reason should be refused.
    pub fn failure(&self, kind: ListKind, told: Told<'_>) -> Option<&Arc<Failure>> {
        let lists = || self.known.iter().map(|lists| &lists[kind.index()]).enumerate();
        // Seldom is one of them missing.
        lists().find(|(_, list)| matches!(list, Err(Some(_))))?;
        let mut first = None;
        for (_, list) in lists().filter(|(place, _)| told(*place)) {
            first = first.or(list.as_ref().err()?.as_ref());
        }
        first
    }

    pub(super) fn has_expired(&self, now: Moment) -> bool {
        now.monotonic >= self.expires
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
