//! What each virtual server offers to each of its callers: fetched, kept, and merged.
//!
//! Lists are read whole from every upstream of a virtual server, for one authorization context at a
//! time, and merged by [`portunus_filters::catalog`]. They are asked for when somebody wants
//! them and not before, once for all who want them at that moment, all upstreams at once and each
//! with its deadline. No call fetches a list that is already here.
//!
//! - A list is fresh for as long as its upstream says, at most `cache.max_ttl`; of a legacy upstream,
//!   which says nothing, for `cache.lists`. Then it stands in for `cache.stale` while it is asked for
//!   aside. One that is never fresh is asked for whenever it is to be shown.
//! - Changes that an upstream announces are counted. Who wants to see a list waits for one that was
//!   asked for after the last of them: whoever was told of a change never sees an older list. A server
//!   that goes on announcing is asked once in `cache.coalesce`.
//! - An upstream that is down is waited for once. Then it is told of as missing, or as out of date
//!   with its last list, and asked again aside with growing pauses, by one caller for all.
//! - Lists of different callers never mix. What an upstream calls public is shared where the
//!   configuration trusts that, and equal lists lie in memory once.
//! - A name keeps its owner as long as a configuration is in force, see
//!   [`portunus_filters::catalog::Catalog::merge`].

mod asker;
mod audience_catalog;
mod compose;
mod failing;
mod fetch;
mod larder;
mod merged_catalog;
mod pantry;
mod relist;
mod slot;
mod status;
mod ware;

use crate::backend::Backend;
use crate::backend::headers::ClientHeaders;
use crate::offload::OffloadQueue;
use crate::sealing::CallerKey;
use crate::shares::Owner;
use asker::Asker;
use audience_catalog::AudienceCatalog;
use failing::Failing;
use fetch::Asks;
use larder::file;
use pantry::Pantry;
use portunus_config::{ServerId, Snapshot, Upstream, View, VirtualServer};
use portunus_filters::catalog::{ListKind, Naming};
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::{Clock, Era, Moment};
use slot::{Kitchen, Slot, Wanted};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ware::{Need, Purpose};

pub use larder::Shows;
pub use merged_catalog::{Described, MergedCatalog, Told};
pub use relist::Relist;

/// Audiences whose lists are kept at once, of all virtual servers.
const MAX_AUDIENCE_CATALOGS: usize = 10_000;

/// Queues of lists that are to be merged.
const MERGING_QUEUES: usize = 32;

/// Of a caller's audiences, the part that makes room at once when there is none.
const DISPLACED_PART: usize = 8;

/// An audience that nobody of asked for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 60);

/// For whom something is wanted.
#[derive(Clone)]
pub struct Audience {
    /// The authorization context.
    pub caller: CallerKey,
    /// Whose share it takes of what callers hold together.
    pub owner: Owner,
    /// Its tenant, if it is known.
    pub tenant: Option<Arc<str>>,
    /// What the client says of itself.
    pub profile: Arc<Profile>,
    /// What of the client's headers goes up.
    pub headers: Arc<ClientHeaders>,
    /// What that and the caller's credential amount to.
    pub shows: Shows,
    /// The one era in which it may be served, where the endpoint does not translate.
    pub only: Option<Era>,
}

/// The rules of a view, as the merging asks for them.
struct Viewed(Arc<View>);

impl Naming for Viewed {
    fn admits(&self, member: &str, original: &str) -> bool {
        self.0.admits(member, original)
    }

    fn renamed(&self, member: &str, original: &str) -> Option<&str> {
        self.0.renamed(member, original)
    }

    fn described(&self, member: &str, original: &str) -> Option<&str> {
        self.0.described(member, original)
    }

    fn is_selective(&self) -> bool {
        self.0.is_selective()
    }

    fn renames(&self) -> Vec<(&str, &str, &str)> {
        self.0.renames().collect()
    }
}

/// The lists of all virtual servers.
#[derive(Default)]
pub struct Catalogs {
    audience_catalogs: Mutex<HashMap<Place, Arc<AudienceCatalog>>>,
    failing: Arc<Failing>,
    pantry: Arc<Pantry>,
    /// Where large lists are merged, by owner: who has many audiences has one turn at a time for them.
    merging: [OffloadQueue; MERGING_QUEUES],
    hasher: RandomState,
}

/// Whose lists they are, and in which era alone. A context has one tenant.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    server: ServerId,
    caller: CallerKey,
    only: Option<Era>,
}

impl Hash for Place {
    /// In one step, as each call does this: a digest that is told apart by the server and the era.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let words = self.server.0.as_bytes().chunks(8);
        let word = |part: &[u8]| part.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let server = words.fold(0, |hash: u64, part| hash.rotate_left(9) ^ word(part));
        let era = self.only.map_or(0, |era| 1 + u64::from(era == Era::Modern));
        state.write_u64(self.caller.part() ^ server.rotate_left(2) ^ era);
    }
}

/// How upstreams are asked; seldom needed, so made where it is.
type Asking<'a> = &'a (dyn Fn() -> Arc<dyn Asks> + Sync);

/// The virtual server and caller that lists are wanted for, and the means to get them.
struct Query<'a> {
    server: &'a Arc<VirtualServer>,
    caller: CallerKey,
    owner: Owner,
    only: Option<Era>,
    tenant: Option<&'a str>,
    client_headers: &'a ClientHeaders,
    shows: Shows,
    asking: Asking<'a>,
    clock: &'a Arc<dyn Clock>,
    /// When they were wanted.
    now: Moment,
}

impl Catalogs {
    /// What is offered, with lists of these kinds as good as their upstreams ask for; without any,
    /// what the upstreams say of themselves. Waits for upstreams, for each at most
    /// `list_timeout`, and for none that is known to be down.
    pub async fn show(
        &self,
        backend: &Arc<Backend>,
        server: &Arc<VirtualServer>,
        audience: &Audience,
        kinds: &[ListKind],
    ) -> Arc<MergedCatalog> {
        self.sought(backend, server, (audience, backend.clock.now()), (kinds, Purpose::Show, None)).await
    }

    /// What is offered, for the way of a call that came `at` a time: lists that are here will do, and are
    /// renewed aside.
    pub async fn route(
        &self,
        backend: &Arc<Backend>,
        server: &Arc<VirtualServer>,
        (audience, at): (&Audience, Moment),
        kinds: &[ListKind],
    ) -> Arc<MergedCatalog> {
        self.sought(backend, server, (audience, at), (kinds, Purpose::Route, None)).await
    }

    /// What is offered after an upstream has contradicted its list: that is asked for once more, unless
    /// it was lately.
    async fn look_again(
        &self,
        backend: &Arc<Backend>,
        server: &Arc<VirtualServer>,
        audience: &Audience,
        (upstream, kind): (&Upstream, ListKind),
    ) -> Arc<MergedCatalog> {
        let wanted = (&[kind][..], Purpose::Show, Some(upstream));
        self.sought(backend, server, (audience, backend.clock.now()), wanted).await
    }

    async fn sought(
        &self,
        backend: &Arc<Backend>,
        server: &Arc<VirtualServer>,
        (audience, now): (&Audience, Moment),
        (kinds, purpose, doubted): (&[ListKind], Purpose, Option<&Upstream>),
    ) -> Arc<MergedCatalog> {
        let asking = || -> Arc<dyn Asks> {
            let (backend, server, audience) = (Arc::clone(backend), server.id.clone(), audience.clone());
            Arc::new(Asker { backend, server, audience })
        };
        let query = Query {
            server,
            caller: audience.caller,
            owner: audience.owner,
            only: audience.only,
            tenant: audience.tenant.as_deref(),
            client_headers: &audience.headers,
            shows: audience.shows,
            asking: &asking,
            clock: &backend.clock,
            now,
        };
        if let Some(upstream) = doubted {
            self.doubt(&query, upstream, kinds);
        }
        self.merged(&query, kinds, purpose).await
    }

    /// Notes that an upstream announced a change of a list, on whatever stream; the others learn of it
    /// too. `resources/list` and `resources/templates/list` change together. Must come before anybody is
    /// told of the change. Who speaks is there: it is waited for again.
    pub fn changed(&self, upstream: &Upstream, kind: ListKind) {
        for changed in ListKind::ALL.into_iter().filter(|other| other.changed() == kind.changed()) {
            self.pantry.changed(upstream, changed);
        }
        self.failing.recovered(upstream.key);
    }

    /// What is known of a virtual server's lists, for operators: of the audience that asked last.
    /// `None` if nobody did.
    pub fn report(&self, server: &ServerId, now: Moment) -> Option<serde_json::Value> {
        let audience_catalogs = self.lock();
        let of_server: Vec<_> =
            audience_catalogs.iter().filter(|(place, _)| place.server == *server).collect();
        let (_, last) = of_server.iter().max_by_key(|(_, audience_catalog)| audience_catalog.last_used())?;
        Some(status::report(&*last.last()?, of_server.len(), now))
    }

    /// Forgets what no virtual server of a snapshot has.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        self.lock().retain(|place, _| snapshot.routes.server(&place.server).is_some());
        self.pantry.retain(&snapshot.upstreams);
        self.pantry.larder.retain(snapshot);
    }

    /// Takes back what an earlier process remembered in its state folder, before anybody asks.
    ///
    /// # Errors
    /// If there is something, and it cannot be read.
    pub fn restore(&self, folder: &Path, now: Moment, snapshot: &Snapshot) -> io::Result<()> {
        self.pantry.larder.restore(file::read(folder, now)?.into_iter(), snapshot);
        Ok(())
    }

    /// Writes what a later process may need to the state folder, if it changed. Blocks.
    ///
    /// # Errors
    /// If the folder cannot be written to; it is tried again with the next change.
    pub fn store(&self, folder: &Path) -> io::Result<()> {
        self.pantry.larder.take_changes().map_or(Ok(()), |jars| file::write(folder, jars))
    }

    /// Forgets audiences that have gone, and those that asked least lately while lists take more than
    /// the virtual servers of `snapshot` may keep together.
    pub fn sweep(&self, now: Moment, snapshot: &Snapshot) {
        let max_bytes = snapshot.routes.iter().map(|server| server.cache.max_bytes).sum();
        // What audiences would only share is given up before what they have.
        self.pantry.sweep(now, max_bytes);
        let mut audience_catalogs = self.lock();
        audience_catalogs
            .retain(|_, audience_catalog| now.monotonic < audience_catalog.last_used() + FORGOTTEN_AFTER);
        while !audience_catalogs.is_empty() && self.pantry.held().1 > max_bytes {
            let mut uses: Vec<Duration> =
                audience_catalogs.values().map(|audience_catalog| audience_catalog.last_used()).collect();
            let middle = uses.len() / 2;
            let (_, median, _) = uses.select_nth_unstable(middle);
            audience_catalogs.retain(|_, audience_catalog| audience_catalog.last_used() > *median);
        }
    }

    /// Audiences, lists in memory, the bytes of these lists, and lists that are remembered.
    pub fn sizes(&self) -> [(&'static str, usize); 4] {
        let (lists, bytes) = self.pantry.held();
        [
            ("catalogs", self.lock().len()),
            ("lists", lists),
            ("list_bytes", bytes),
            ("last_lists", self.pantry.larder.len()),
        ]
    }

    fn doubt(&self, query: &Query<'_>, upstream: &Upstream, kinds: &[ListKind]) {
        let slots = self.audience_catalog(query).slots(query.server, query.tenant);
        if let Some((_, slot)) = slots.iter().find(|(one, _)| one.key == upstream.key) {
            kinds.iter().for_each(|kind| slot.doubt(*kind, query.now.monotonic));
        }
    }

    async fn merged(&self, query: &Query<'_>, kinds: &[ListKind], purpose: Purpose) -> Arc<MergedCatalog> {
        let kinds = ListKind::ALL.map(|kind| kinds.contains(&kind));
        let wanted = Wanted { kinds, purpose, after: [0; 4] };
        let mut now = query.now;
        let audience_catalog = self.audience_catalog(query);
        let mut waited_for = Vec::new();
        let slots = audience_catalog.slots(query.server, query.tenant);
        for (upstream, slot) in &*slots {
            let wanted = wanted.of(upstream, &self.pantry);
            if self.is_wanted_now(query, upstream, slot, &wanted) {
                let (slot, kitchen) = (Arc::clone(slot), self.kitchen(query, Arc::clone(upstream)));
                // A task of its own: others wait for the same, whatever becomes of this caller.
                waited_for.push(tokio::spawn(async move { slot.refresh(&kitchen, &wanted).await }));
            }
        }
        for task in waited_for {
            if let Err(error) = task.await {
                tracing::error!(%error, "a list was not fetched to its end");
            }
            now = query.clock.now();
        }
        if let Some(current) = audience_catalog.current(query.server, &slots, now) {
            return current;
        }
        let bytes = slots.iter().map(|(_, slot)| slot.list_bytes()).sum();
        let (server, tenant) = (Arc::clone(query.server), query.tenant.map(str::to_owned));
        let (pantry, queue) = (Arc::clone(&self.pantry), self.merging(query.owner));
        queue
            .run(bytes, move || audience_catalog.merged(&server, tenant.as_deref(), &slots, (now, &pantry)))
            .await
    }

    /// Whether an upstream has to be waited for. If it should be asked and need not be waited for, it
    /// is asked aside.
    fn is_wanted_now(
        &self,
        query: &Query<'_>,
        upstream: &Arc<Upstream>,
        slot: &Arc<Slot>,
        wanted: &Wanted,
    ) -> bool {
        let now = query.now.monotonic;
        let need = slot.need(wanted, now, &query.server.cache);
        if need == Need::No {
            return false;
        }
        match self.failing.failure(upstream.key, now) {
            None if need == Need::Now => return true,
            None => {}
            Some(failure) => {
                let label = |kind| larder::label(&query.server.id, upstream, kind);
                let last = |kind| self.pantry.last(&label(kind), query.shows);
                slot.give_up(wanted, &failure, now, last);
                if !self.failing.take_turn(upstream.key, now) {
                    return false;
                }
            }
        }
        if slot.tend() {
            let (slot, wanted) = (Arc::clone(slot), *wanted);
            let kitchen = self.kitchen(query, Arc::clone(upstream));
            tokio::spawn(async move { slot.refresh(&kitchen, &wanted).await });
        }
        false
    }

    fn kitchen(&self, query: &Query<'_>, upstream: Arc<Upstream>) -> Kitchen {
        Kitchen {
            asks: (query.asking)(),
            upstream,
            server: query.server.id.clone(),
            owner: query.owner,
            shown: query.client_headers.digest(),
            shows: query.shows,
            clock: Arc::clone(query.clock),
            rules: query.server.cache,
            deadline: query.server.list_timeout,
            failing: Arc::clone(&self.failing),
            pantry: Arc::clone(&self.pantry),
        }
    }

    fn audience_catalog(&self, query: &Query<'_>) -> Arc<AudienceCatalog> {
        let place = Place { server: query.server.id.clone(), caller: query.caller, only: query.only };
        let mut audience_catalogs = self.lock();
        if audience_catalogs.len() >= MAX_AUDIENCE_CATALOGS && !audience_catalogs.contains_key(&place) {
            make_room(&mut audience_catalogs);
        }
        let new = || Arc::new(AudienceCatalog::of(query.owner));
        let audience_catalog = Arc::clone(audience_catalogs.entry(place).or_insert_with(new));
        audience_catalog.touch(query.now.monotonic);
        audience_catalog
    }

    fn merging(&self, owner: Owner) -> OffloadQueue {
        let number = self.hasher.hash_one(owner) % MERGING_QUEUES as u64;
        usize::try_from(number).ok().and_then(|number| self.merging.get(number)).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Arc<AudienceCatalog>>> {
        self.audience_catalogs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the idlest audiences of the caller that has most: a part of them at once, since looking for
/// them costs a look at all.
fn make_room(audience_catalogs: &mut HashMap<Place, Arc<AudienceCatalog>>) {
    let mut held: HashMap<Owner, usize> = HashMap::new();
    audience_catalogs
        .values()
        .for_each(|audience_catalog| *held.entry(audience_catalog.owner()).or_default() += 1);
    let Some((fullest, count)) = held.into_iter().max_by_key(|(_, count)| *count) else { return };
    // Where nobody has more than another, the idlest of all.
    let is_meant =
        |audience_catalog: &Arc<AudienceCatalog>| count == 1 || audience_catalog.owner() == fullest;
    let meant = audience_catalogs.iter().filter(|(_, audience_catalog)| is_meant(audience_catalog));
    let mut meant: Vec<(Duration, Place)> =
        meant.map(|(place, audience_catalog)| (audience_catalog.last_used(), place.clone())).collect();
    meant.sort_unstable_by_key(|(last_used, _)| *last_used);
    let most = meant.len().div_ceil(DISPLACED_PART);
    for (_, place) in meant.into_iter().take(most) {
        audience_catalogs.remove(&place);
    }
}

#[cfg(test)]
mod tests;
