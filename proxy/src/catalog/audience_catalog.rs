//! One audience's view of one virtual server.

use super::compose::{self, Origin};
use super::slot::Slot;
use super::{MergedCatalog, Pantry};
use crate::shares::Owner;
use portunus_config::{Choice, Member, Upstream, UpstreamKey, VirtualServer};
use portunus_filters::Moment;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Slots of all upstreams of a server for one audience, and what they add up to.
pub(super) struct AudienceCatalog {
    /// For whom it is counted.
    owner: Owner,
    slots: Mutex<Row>,
    made: Mutex<Option<Made>>,
    /// Milliseconds on the monotonic clock.
    last_used: AtomicU64,
}

/// A slot for each upstream that may serve an audience.
#[derive(Default)]
struct Row {
    by_key: HashMap<UpstreamKey, Arc<Slot>>,
    /// In the order of the members of a server, as they were last asked for.
    ordered: Option<(Arc<VirtualServer>, Slots)>,
}

struct Made {
    server: Arc<VirtualServer>,
    /// Sum of the versions of the slots it was made of.
    version: u64,
    merged: Arc<MergedCatalog>,
    origin: Origin,
}

/// Upstreams that may serve an audience, each with what is known of it.
pub(super) type Slots = Arc<[(Arc<Upstream>, Arc<Slot>)]>;

impl AudienceCatalog {
    pub(super) fn of(owner: Owner) -> AudienceCatalog {
        AudienceCatalog {
            owner,
            slots: Mutex::default(),
            made: Mutex::default(),
            last_used: AtomicU64::new(0),
        }
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn touch(&self, now: Duration) {
        self.last_used.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn last_used(&self) -> Duration {
        Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// The slot of each upstream that may serve the audience, in the order of members. The tenant is
    /// always the same.
    pub(super) fn slots(&self, server: &Arc<VirtualServer>, tenant: Option<&str>) -> Slots {
        let mut row = lock(&self.slots);
        if let Some((_, slots)) = row.ordered.as_ref().filter(|(of, _)| Arc::ptr_eq(of, server)) {
            return Arc::clone(slots);
        }
        let upstreams = server.members.iter().flat_map(|member| upstreams(member, tenant));
        let current: Slots = upstreams
            .map(|upstream| (Arc::clone(upstream), Arc::clone(row.by_key.entry(upstream.key).or_default())))
            .collect();
        if row.by_key.len() > current.len() {
            row.by_key.retain(|key, _| current.iter().any(|(upstream, _)| upstream.key == *key));
        }
        row.ordered = Some((Arc::clone(server), Arc::clone(&current)));
        current
    }

    /// What the slots added up to, if that is still so. `None` also while it is made.
    pub(super) fn current(
        &self,
        server: &Arc<VirtualServer>,
        slots: &Slots,
        now: Moment,
    ) -> Option<Arc<MergedCatalog>> {
        let made = self.made.try_lock().ok()?;
        let made = made.as_ref().filter(|made| made.is_current(server, slots, now))?;
        Some(Arc::clone(&made.merged))
    }

    /// What the slots add up to. Merged anew only if a list in them is another one.
    pub(super) fn merged(
        &self,
        server: &Arc<VirtualServer>,
        tenant: Option<&str>,
        slots: &Slots,
        (now, pantry): (Moment, &Pantry),
    ) -> Arc<MergedCatalog> {
        let mut made = lock(&self.made);
        if let Some(current) = made.as_ref().filter(|made| made.is_current(server, slots, now)) {
            return Arc::clone(&current.merged);
        }
        let version = version(slots);
        let before = made.as_ref().filter(|made| Arc::ptr_eq(&made.server, server));
        let previous = before.map(|before| (&before.origin, &before.merged.catalog));
        let composing = compose::Composing { server, tenant, slots, now, pantry };
        let (merged, origin) = composing.merged(previous);
        let merged = Arc::new(merged);
        *made = Some(Made { server: Arc::clone(server), version, merged: Arc::clone(&merged), origin });
        merged
    }

    /// What was last made of it, for reports.
    pub(super) fn last(&self) -> Option<Arc<MergedCatalog>> {
        lock(&self.made).as_ref().map(|made| Arc::clone(&made.merged))
    }
}

impl Made {
    fn is_current(&self, server: &Arc<VirtualServer>, slots: &Slots, now: Moment) -> bool {
        Arc::ptr_eq(&self.server, server) && self.version == version(slots) && !self.merged.has_expired(now)
    }
}

fn version(slots: &Slots) -> u64 {
    slots.iter().map(|(_, slot)| slot.version()).sum()
}

/// The upstreams of a member that may serve a tenant; of twins the default first.
pub(super) fn upstreams<'a>(member: &'a Member, tenant: Option<&str>) -> Vec<&'a Arc<Upstream>> {
    match &member.choice {
        Choice::Twins { map, default, .. } => {
            let others = map.iter().filter(|(region, _)| *region != default).map(|(_, upstream)| upstream);
            map.get(default).into_iter().chain(others).collect()
        }
        choice => choice.for_tenant(tenant).into_iter().collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
