//! Which of the servers behind an endpoint a caller is told of.
//!
//! Of the others it learns nothing: neither what they can do and how they want to be used, nor that
//! they are missing, nor what they say outside of calls. What they offer is asked about item by item,
//! see `views`.

use super::{PolicyRuntime, ResponsePipeline};
use crate::frontend::bridge::ServedCall;
use crate::frontend::context::Gateway;
use portunus_filters::authorization_filter::{Item, ListItem, Viewer};
use portunus_filters::catalog::{Catalog, ListKind, State};
use portunus_filters::mcp::bridge::Caching;
use std::sync::Arc;

impl PolicyRuntime {
    /// Whether `viewer` is told of an upstream.
    fn tells_of(&self, viewer: &Viewer<'_>, upstream: &str) -> bool {
        self.filter.visibility(viewer, &Item { list_item: ListItem::Server, upstream }).is_shown()
    }
}

impl ServedCall<'_> {
    /// Whether the caller is told of a member, by its place. What it leads to for this caller counts.
    pub fn tells_of(&self, member: usize) -> bool {
        !self.active().policy_runtime.governs()
            || self.leads_to(member).is_some_and(|upstream| self.is_told_of(upstream))
    }

    /// Whether the caller is told of an upstream.
    pub fn is_told_of(&self, upstream: &Arc<str>) -> bool {
        self.looking(|policy_runtime, viewer| policy_runtime.tells_of(viewer, upstream)).unwrap_or(true)
    }

    /// The members of which the caller is not told that their list is missing or out of date.
    pub fn untold(&self, catalog: &Catalog, kind: ListKind) -> Vec<usize> {
        let servers = catalog.servers().iter();
        let incomplete = servers.filter(|server| server.states[kind.index()] != State::Fresh);
        incomplete.map(|server| server.member).filter(|member| !self.tells_of(*member)).collect()
    }

    /// For how long a client may keep what it was told of servers.
    pub fn told_for(&self, caching: Caching) -> Caching {
        let until = self.looking(|policy_runtime, viewer| policy_runtime.filter.servers_seen_until(viewer));
        let Some(until) = until.flatten() else { return caching };
        let left = until.saturating_sub(self.context.origin.arrival.at.wall);
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Caching { ttl_ms: caching.ttl_ms.min(left_ms), ..caching }
    }

    /// Asks something for the caller; `None` where nothing is asked of anybody.
    fn looking<T>(&self, ask: impl FnOnce(&PolicyRuntime, &Viewer<'_>) -> T) -> Option<T> {
        let active = self.active();
        if !active.policy_runtime.governs() {
            return None;
        }
        let target = self.target(&active, &Arc::from(""));
        let viewer =
            Viewer { arrival: &self.context.origin.arrival, target: &target, era: self.context.era.as_str() };
        Some(ask(&active.policy_runtime, &viewer))
    }
}

impl ResponsePipeline {
    /// True if the caller may be told of an upstream, by the configuration that is in force now.
    pub fn is_told_of(&self, gateway: &Gateway, upstream: &str) -> bool {
        let active = gateway.active();
        if !active.policy_runtime.governs() {
            return true;
        }
        let arrival = self.origin.arrival.coming_at(gateway.clock.now());
        let viewer = Viewer { arrival: &arrival, target: &self.target, era: self.era.as_str() };
        active.policy_runtime.tells_of(&viewer, upstream)
    }
}
