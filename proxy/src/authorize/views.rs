//! Lists as callers see them, kept for all who see the same.
//!
//! A view is known by what the policy can read of who looks, and by where each member leads for them,
//! so that callers share one exactly where neither the policy nor what is known of tools can tell them
//! apart. It ends with its catalogue, its configuration, and the unit of time that the policy reads.
//!
//! A list is made in slices, between which its thread does other work, and within a budget of CPU time. One that
//! cannot be made in time is an error: nobody gets a part of a list for the whole.

use super::PolicyRuntime;
use crate::frontend::bridge::ServedCall;
use bytes::Bytes;
use portunus_filters::authorization_filter::{Item, ListItem, Viewer, Visibility};
use portunus_filters::authorize::{CpuTimer, Fault, Obligations, RanOut, Use};
use portunus_filters::catalog::{Catalog, Closing, Entry, Filtered, ListKind, Shown, UnknownCursor};
use portunus_filters::mcp::bridge::{Caching, Scope};
use portunus_filters::{Denial, Reason};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Views that are kept of one configuration.
const MAX_VIEWS: usize = 10_000;

/// Bytes that they take, beside the lists of everyone.
const MAX_BYTES: u64 = 256 << 20;

/// CPU time after which a list makes way for whatever else its thread has to do.
const SLICE: Duration = Duration::from_millis(1);

/// Lists that are made at the same moment; the others wait for a slice, in turn.
const SLICES_AT_ONCE: usize = 2;

/// A list that could not be made in time is not tried again within this.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Lists as callers see them.
pub struct Views {
    kept: Cache<Key, Made, ByBytes>,
    slices: Semaphore,
}

/// One list as one kind of caller sees it.
pub struct View {
    /// What it was made of: kept alive, so that its place in memory is nobody else's.
    catalog: Arc<Catalog>,
    /// What is seen of it.
    pub list: Filtered,
    /// When it ends for everybody, as a time since the epoch.
    pub until: Duration,
}

/// A list, or why there is none: that too is the same for all.
#[derive(Clone)]
enum Made {
    View(Arc<View>),
    Failed(Arc<Failed>),
}

struct Failed {
    catalog: Arc<Catalog>,
    denial: Denial,
    until: Duration,
}

/// What was found of the entries of a list so far.
#[derive(Default)]
struct Looks {
    shown: Vec<Shown>,
    /// Entries that the policy fails on.
    faults: usize,
    first_fault: Option<Fault>,
}

/// Why a list was not made.
enum Unmade {
    /// Whoever asked may use no more CPU time. Somebody else may.
    OverBudget(Denial),
    /// Nobody's would be.
    Failed(Denial),
}

impl Made {
    /// Whether it holds for `catalog` at `now`.
    fn lasts(&self, catalog: &Arc<Catalog>, now: Duration) -> bool {
        let (of, until) = match self {
            Made::View(view) => (&view.catalog, view.until),
            Made::Failed(failed) => (&failed.catalog, failed.until),
        };
        now < until && Arc::ptr_eq(of, catalog)
    }

    fn result(self, now: Duration) -> Result<Arc<View>, Denial> {
        match self {
            Made::View(view) => Ok(view),
            Made::Failed(failed) => {
                Err(failed.denial.clone().retry_in(Some(failed.until.saturating_sub(now))))
            }
        }
    }
}

impl Unmade {
    fn denial(self) -> Denial {
        match self {
            Unmade::OverBudget(denial) => denial,
            Unmade::Failed(denial) => denial.retry_in(Some(FAILED_FOR)),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Where the catalogue lies in memory.
    catalog: usize,
    kind: ListKind,
    /// What the policy can read of who looks.
    viewer: Box<[u8]>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Made> for ByBytes {
    fn weight(&self, key: &Key, made: &Made) -> u64 {
        let bytes = match made {
            Made::View(view) => view.list.bytes(),
            Made::Failed(_) => 0,
        };
        (key.viewer.len() + bytes + 256) as u64
    }
}

impl Default for Views {
    fn default() -> Views {
        Views {
            kept: Cache::with_weighter(MAX_VIEWS, MAX_BYTES, ByBytes),
            slices: Semaphore::new(SLICES_AT_ONCE),
        }
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

/// A list that is asked for, and where its members lead for who asks.
pub struct Wanted<'a, 'm> {
    /// The merged lists.
    pub catalog: &'a Arc<Catalog>,
    /// Which of them.
    pub kind: ListKind,
    /// The upstream of a member.
    pub upstream: &'a (dyn Fn(usize) -> Option<&'m Arc<str>> + Sync),
}

impl PolicyRuntime {
    /// A list as `viewer` sees it. All who see the same wait for one that is made.
    ///
    /// # Errors
    /// [`Reason::PolicyError`] if the policy did not decide on an entry in time; [`Reason::PolicyLimited`] if
    /// the list as a whole took too long, or the caller has used up its CPU time for lists.
    pub async fn view(&self, viewer: &Viewer<'_>, wanted: &Wanted<'_, '_>) -> Result<Arc<View>, Denial> {
        let Some((mut shown_to, until)) = self.filter.view(viewer) else {
            let made = self.made(viewer, wanted, Duration::ZERO).await;
            return made.map(Arc::new).map_err(Unmade::denial);
        };
        let members = 0..wanted.catalog.members().len();
        lead_to(&mut shown_to, members.map(|member| (wanted.upstream)(member)));
        let catalog = Arc::as_ptr(wanted.catalog) as usize;
        let key = Key { catalog, kind: wanted.kind, viewer: shown_to.into() };
        let now = viewer.arrival.at.wall;
        let kept = &self.views.kept;
        loop {
            match kept.get_value_or_guard_async(&key).await {
                Ok(made) if made.lasts(wanted.catalog, now) => return made.result(now),
                Ok(_) => drop(kept.remove_if(&key, |made| !made.lasts(wanted.catalog, now))),
                Err(place) => {
                    let made = match self.made(viewer, wanted, until).await {
                        Ok(view) => Made::View(Arc::new(view)),
                        Err(Unmade::OverBudget(denial)) => return Err(denial),
                        Err(Unmade::Failed(denial)) => {
                            let catalog = Arc::clone(wanted.catalog);
                            let until = now.saturating_add(FAILED_FOR);
                            Made::Failed(Arc::new(Failed { catalog, denial, until }))
                        }
                    };
                    // One that was pushed out meanwhile is made anew for the next who asks.
                    let _ = place.insert(made.clone());
                    return made.result(now);
                }
            }
        }
    }

    async fn made(
        &self,
        viewer: &Viewer<'_>,
        wanted: &Wanted<'_, '_>,
        until: Duration,
    ) -> Result<View, Unmade> {
        let entries = wanted.catalog.entries(wanted.kind);
        let mut looks = Looks { shown: Vec::with_capacity(entries.len()), ..Looks::default() };
        let mut spent = Duration::ZERO;
        while looks.shown.len() < entries.len() {
            // Nobody closes it.
            let turn = self.views.slices.acquire().await;
            if let Some(denial) = self.filter.over_budget(viewer.arrival, Use::List) {
                self.ran_out(RanOut::Caller);
                return Err(Unmade::OverBudget(denial));
            }
            let timer = CpuTimer::start();
            let looked = self.look(viewer, wanted, (entries, &mut looks));
            let slice = timer.elapsed();
            drop(turn);
            spent += slice;
            self.filter.charge_list(viewer.arrival, slice);
            looked.map_err(|fault| self.undecided(viewer, wanted.kind, &fault))?;
            if self.filter.rules().is_some_and(|rules| spent > rules.policy.list_limit()) {
                return Err(self.too_long(viewer, wanted.kind, (looks.shown.len(), entries.len())));
            }
            if looks.shown.len() < entries.len() {
                tokio::task::yield_now().await;
            }
        }
        self.check(viewer, wanted.kind, &looks)?;
        let mut shown = looks.shown.into_iter();
        let list = wanted.catalog.filtered(wanted.kind, |_| shown.next().unwrap_or(Shown::Hidden));
        Ok(View { catalog: Arc::clone(wanted.catalog), list, until })
    }

    /// Looks at entries until a slice of time is over.
    fn look(
        &self,
        viewer: &Viewer<'_>,
        wanted: &Wanted<'_, '_>,
        (entries, looks): (&[Entry], &mut Looks),
    ) -> Result<(), Fault> {
        let (first, start) = (looks.shown.len(), Instant::now());
        for entry in &entries[first..] {
            // By the wall clock, which costs less to read than the thread's, and never runs slower.
            if looks.shown.len() > first && start.elapsed() >= SLICE {
                break;
            }
            let Some(upstream) = (wanted.upstream)(entry.member) else {
                looks.shown.push(Shown::Hidden);
                continue;
            };
            let visibility = self.visibility(viewer, wanted.kind, upstream, entry);
            let definition = std::str::from_utf8(entry.definition()).unwrap_or_default();
            looks.shown.push(match (visibility.definition(definition), visibility) {
                (_, Visibility::Hidden) => Shown::Hidden,
                (_, Visibility::Undecided(fault)) if fault.is_of_time() => return Err(fault),
                (_, Visibility::Undecided(fault)) => {
                    looks.faults += 1;
                    looks.first_fault.get_or_insert(fault);
                    Shown::Hidden
                }
                (None, Visibility::Shown(_)) => Shown::AsItIs,
                (Some(changed), Visibility::Shown(_)) => Shown::Changed(changed),
            });
        }
        Ok(())
    }

    /// Tells of entries that are hidden since the policy fails on them; a list of which nothing else is left
    /// is refused.
    fn check(&self, viewer: &Viewer<'_>, kind: ListKind, looks: &Looks) -> Result<(), Unmade> {
        let Some(fault) = &looks.first_fault else { return Ok(()) };
        tracing::warn!(
            request_id = &*viewer.arrival.request_id,
            server = &*viewer.target.server,
            list = kind.method(),
            entries = looks.faults,
            %fault,
            "entries of a list are hidden: the policy gave no decision on them"
        );
        let is_empty = looks.shown.iter().all(|shown| matches!(shown, Shown::Hidden));
        let detail = "the policy gave no decision on the entries of this list";
        match is_empty {
            true => Err(Unmade::Failed(Denial::new(Reason::PolicyError, detail))),
            false => Ok(()),
        }
    }

    fn undecided(&self, viewer: &Viewer<'_>, kind: ListKind, fault: &Fault) -> Unmade {
        self.ran_out(RanOut::Decision);
        tracing::warn!(
            request_id = &*viewer.arrival.request_id,
            server = &*viewer.target.server,
            list = kind.method(),
            %fault,
            "a list is refused: the policy gave no decision on one of its entries in time"
        );
        let detail = "the policy took too long to decide on an entry of this list";
        Unmade::Failed(Denial::new(Reason::PolicyError, detail))
    }

    fn too_long(&self, viewer: &Viewer<'_>, kind: ListKind, (done, of): (usize, usize)) -> Unmade {
        self.ran_out(RanOut::List);
        tracing::warn!(
            request_id = &*viewer.arrival.request_id,
            server = &*viewer.target.server,
            list = kind.method(),
            decided = done,
            entries = of,
            "a list is refused: the policy took too long for all of its entries; make its rules cheaper, or \
             raise `policy.time_limit`"
        );
        let detail = "the policy took too long for this list: ask again later";
        Unmade::Failed(Denial::new(Reason::PolicyLimited, detail))
    }

    fn ran_out(&self, what: RanOut) {
        if let Some(rules) = self.filter.rules() {
            rules.budgets.ran_out(what);
        }
    }

    /// How an entry of a list is seen.
    fn visibility(
        &self,
        viewer: &Viewer<'_>,
        kind: ListKind,
        upstream: &Arc<str>,
        entry: &Entry,
    ) -> Visibility {
        if !self.governs() {
            return Visibility::Shown(Arc::<Obligations>::default());
        }
        let known = (kind == ListKind::Tools).then(|| self.known(upstream, entry));
        let Some(subject) = entry.subject(kind, known) else { return Visibility::Hidden };
        self.filter.visibility_in_list(viewer, &Item { list_item: ListItem::Offered(&subject), upstream })
    }
}

impl ServedCall<'_> {
    /// The result of a list request, as who asks sees the list.
    ///
    /// # Errors
    /// [`Reason::UnknownState`] for a cursor that is not of this list as it is seen now; as [`PolicyRuntime::view`].
    pub async fn listed(
        &self,
        catalog: &Arc<Catalog>,
        (kind, cursor): (ListKind, Option<&str>),
        closing: &Closing<'_>,
    ) -> Result<Vec<Bytes>, Denial> {
        let stale = |_: UnknownCursor| {
            Denial::new(Reason::UnknownState, "the cursor is not of this list as it is now")
        };
        let active = self.active();
        if !active.policy_runtime.governs() {
            return catalog.result(kind, cursor, closing).map_err(stale);
        }
        let target = self.target(&active, &Arc::from(""));
        let viewer =
            Viewer { arrival: &self.context.origin.arrival, target: &target, era: closing.era.as_str() };
        let wanted = Wanted { catalog, kind, upstream: &|member| self.leads_to(member) };
        let view = active.policy_runtime.view(&viewer, &wanted).await?;
        let left = viewer.lasting(view.until).saturating_sub(self.context.origin.arrival.at.wall);
        let ttl_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(closing.caching.ttl_ms);
        let caching = Caching { ttl_ms, scope: Scope::Private };
        view.list.result(catalog, cursor, &Closing { caching, ..*closing }).map_err(stale)
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
