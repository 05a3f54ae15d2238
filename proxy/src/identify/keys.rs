//! The keys of issuers: fetched in the background, kept while they cannot be fetched again, in the state
//! folder too: a process that starts while an issuer is down goes on with the keys of the one before.
//!
//! A key set is replaced only by one that was read whole. A token that names a key which is not there
//! waits for one fetch, shared by all that wait and no more often than [`AGAIN`]: providers rotate keys
//! without warning, and strangers can name any key.

mod kept;

use super::fetch::{self, Fetched};
use crate::frontend::context::Gateway;
use arc_swap::ArcSwapOption;
use portunus_base::UpstreamUrl;
use portunus_config::{KeySource, Snapshot, Trust, TrustId, Upstream};
use portunus_filters::identity::KeySet;
use portunus_filters::mcp::object::Object;
use portunus_filters::{Clock, Moment};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Between two fetches that tokens ask for.
pub const AGAIN: Duration = Duration::from_secs(10);
/// Between two attempts after one that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Soonest that keys are fetched again, whatever their issuer says.
const SOONEST: Duration = Duration::from_secs(30);
/// How long a token waits for keys.
const WAIT: Duration = Duration::from_secs(5);
const MAX_METADATA_BYTES: usize = 64 << 10;

/// Key sets by the settings of their issuers.
pub struct KeySlots {
    slots: Mutex<HashMap<TrustId, Arc<KeySlot>>>,
    /// Counts changes of any key set, for streams.
    changes: watch::Sender<u64>,
    /// What the state folder has.
    stored: Mutex<Vec<kept::Entry>>,
}

/// The key set of one issuer.
pub struct KeySlot {
    trust: Arc<Trust>,
    held: ArcSwapOption<Held>,
    generation: AtomicU64,
    fetch_state: Mutex<FetchState>,
    fetched: Notify,
    /// Of an earlier process: they were not fetched in this one.
    from_disk: AtomicBool,
    changes: watch::Sender<u64>,
}

struct Held {
    keys: Arc<KeySet>,
    /// As it came, to see whether another is the same.
    text: Vec<u8>,
    etag: Option<String>,
}

/// When what was tried, in monotonic time.
#[derive(Default)]
struct FetchState {
    under_way: bool,
    /// When a token last had them fetched.
    asked: Option<Duration>,
    due: Duration,
    /// When they were fetched, on both clocks; of those of an earlier process, on that of the wall.
    got: Option<Moment>,
    failed: Option<String>,
}

/// What is known of the keys of one issuer, for the status.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// The issuer.
    pub issuer: Arc<str>,
    /// How many keys there are; `None` before the first were fetched.
    pub keys: Option<usize>,
    /// Since they were last fetched.
    pub age: Option<Duration>,
    /// They were fetched by an earlier process, and not by this one.
    pub from_disk: bool,
    /// Why the last fetch failed, if it did.
    pub failed: Option<String>,
}

impl Default for KeySlots {
    fn default() -> KeySlots {
        KeySlots { slots: Mutex::default(), changes: watch::Sender::new(0), stored: Mutex::default() }
    }
}

impl KeySlots {
    /// Makes the slots fit `snapshot`; keys of issuers that it still has are kept.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let trusts = snapshot.identities.iter().flat_map(|identities| &identities.trusts);
        *slots = trusts
            .map(|trust| {
                let kept = slots.get(&trust.id).cloned();
                (trust.id, kept.unwrap_or_else(|| Arc::new(KeySlot::new(trust, self.changes.clone()))))
            })
            .collect();
    }

    /// The keys of an issuer of the snapshot in force.
    pub fn slot(&self, trust: &TrustId) -> Option<Arc<KeySlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(trust).cloned()
    }

    /// Tells of each change of any key set.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Fetches the keys that are due, in the background.
    pub fn refresh(&self, gateway: &Arc<Gateway>) {
        let now = gateway.clock.now();
        for slot in self.all().into_iter().filter(|slot| slot.is_fetched()) {
            slot.expire(now);
            if slot.begin(|fetch_state| fetch_state.due <= now.monotonic) {
                slot.fetch_aside(gateway);
            }
            let known = slot.status(now);
            if let Some(age) = known.age {
                let ages = &gateway.metrics.identity.key_ages;
                let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
                ages.with_label_values(&[&*known.issuer]).set(seconds);
            }
        }
    }

    /// What is known of the keys by now.
    pub fn status(&self, now: Moment) -> Vec<KeyStatus> {
        let mut all: Vec<KeyStatus> = self.all().iter().map(|slot| slot.status(now)).collect();
        all.sort_by(|one, other| one.issuer.cmp(&other.issuer));
        all
    }

    /// Whether there are issuers, and no keys of any of them.
    pub fn are_missing(&self) -> bool {
        let all = self.all();
        !all.is_empty() && all.iter().all(|slot| slot.held.load().is_none())
    }

    /// Takes back the keys that an earlier process has fetched, as far as they are not too old.
    ///
    /// # Errors
    /// If there are some, and they cannot be read.
    pub fn restore(&self, folder: &Path, now: Moment) -> io::Result<()> {
        for entry in kept::read(folder)? {
            let slot = self.all().into_iter().find(|slot| slot.trust.id.hex() == entry.trust);
            if let Some(slot) = slot.filter(|slot| slot.is_fetched() && slot.held.load().is_none()) {
                slot.restore(&entry, now);
            }
        }
        Ok(())
    }

    /// Writes the keys that were fetched to the state folder, if some were since it was last done. Blocks.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn store(&self, folder: &Path) -> io::Result<()> {
        let entries: Vec<_> = self.all().iter().filter_map(|slot| slot.entry()).collect();
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if *stored == entries {
            return Ok(());
        }
        kept::write(folder, &entries)?;
        *stored = entries;
        Ok(())
    }

    fn all(&self) -> Vec<Arc<KeySlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl KeySlot {
    fn new(trust: &Arc<Trust>, changes: watch::Sender<u64>) -> KeySlot {
        let held = match &trust.keys {
            KeySource::File { keys, .. } => {
                Some(Arc::new(Held { keys: Arc::clone(keys), text: Vec::new(), etag: None }))
            }
            KeySource::Url(_) | KeySource::Discovered(_) => None,
        };
        KeySlot {
            trust: Arc::clone(trust),
            held: ArcSwapOption::from(held),
            generation: AtomicU64::new(1),
            fetch_state: Mutex::default(),
            fetched: Notify::new(),
            from_disk: AtomicBool::new(false),
            changes,
        }
    }

    fn hold(&self, held: Option<Held>) {
        self.held.store(held.map(Arc::new));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Counts its changes: what verified under another may not verify now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The keys, and the generation that they are of; `None` before the first were fetched.
    pub fn keys(&self) -> Option<(Arc<KeySet>, u64)> {
        // Read first: a change in between leaves keys that are newer than their generation, which
        // costs another verification and nothing else.
        let generation = self.generation();
        let held = self.held.load();
        held.as_ref().map(|held| (Arc::clone(&held.keys), generation))
    }

    /// Waits for keys that are newer than those of `generation`, if they may be fetched now.
    pub async fn newer(self: &Arc<Self>, gateway: &Arc<Gateway>, generation: Option<u64>) {
        if !self.is_fetched() {
            return;
        }
        let fetched = self.fetched.notified();
        let mut fetched = std::pin::pin!(fetched);
        // Before the look at the course: what ends after it is not missed.
        fetched.as_mut().enable();
        if generation.is_some_and(|generation| generation != self.generation()) {
            return;
        }
        let now = gateway.clock.now().monotonic;
        let began = self.begin(|fetch_state| {
            let again = fetch_state.asked.is_none_or(|asked| now >= asked + AGAIN);
            fetch_state.asked = fetch_state.asked.filter(|_| !again).or(Some(now));
            again
        });
        if began {
            self.fetch_aside(gateway);
        }
        let under_way = began || self.fetch_state().under_way;
        if under_way {
            drop(timeout(WAIT, fetched).await);
        }
    }

    fn is_fetched(&self) -> bool {
        !matches!(self.trust.keys, KeySource::File { .. })
    }

    /// Notes that a fetch begins, if none is under way and `when` agrees.
    fn begin(&self, when: impl FnOnce(&mut FetchState) -> bool) -> bool {
        let mut fetch_state = self.fetch_state();
        if fetch_state.under_way || !when(&mut fetch_state) {
            return false;
        }
        fetch_state.under_way = true;
        true
    }

    fn fetch_aside(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        let (slot, gateway) = (Arc::clone(self), Arc::clone(gateway));
        tokio::spawn(async move {
            let fetched = slot.fetch(&gateway).await;
            let result = if fetched.is_ok() { "ok" } else { "failed" };
            gateway.metrics.identity.fetches.with_label_values(&[&*slot.trust.issuer.name, result]).inc();
            slot.settle(fetched, gateway.clock.as_ref());
        });
    }

    async fn fetch(&self, gateway: &Gateway) -> Result<Fetched, String> {
        let at = match &self.trust.keys {
            KeySource::Url(at) => Arc::clone(at),
            KeySource::Discovered(at) => Arc::new(discover(gateway, at, &self.trust.issuer.name).await?),
            KeySource::File { .. } => return Err("the keys are in a file".to_owned()),
        };
        let etag = self.held.load().as_ref().and_then(|held| held.etag.clone());
        fetch::document(gateway, &at, &at.url.path, etag.as_deref(), KeySet::MAX_BYTES).await
    }

    /// Takes over what a fetch brought; after one that failed, what is held stays.
    fn settle(&self, fetched: Result<Fetched, String>, clock: &dyn Clock) {
        let now = clock.now();
        let taken = fetched.and_then(|fetched| {
            let latest = self.trust.refresh;
            let fresh = fetched.fresh.map_or(latest, |fresh| fresh.clamp(SOONEST.min(latest), latest));
            self.take_over(fetched).map(|()| fresh)
        });
        let mut fetch_state = self.fetch_state();
        fetch_state.under_way = false;
        let before = fetch_state.failed.take();
        match taken {
            Ok(fresh) => {
                if fetch_state.got.is_none() {
                    // The first keys are nobody's second look: the next token with another may have one.
                    fetch_state.asked = None;
                }
                (fetch_state.got, fetch_state.due) = (Some(now), now.monotonic + fresh);
                self.from_disk.store(false, Ordering::Release);
            }
            Err(problem) => (fetch_state.failed, fetch_state.due) = (Some(problem), now.monotonic + RETRY),
        }
        let failed = fetch_state.failed.clone();
        drop(fetch_state);
        self.tell(before, failed);
        self.fetched.notify_waiters();
    }

    /// Says in the log what has changed: an issuer that is down for a day is no news every five seconds.
    fn tell(&self, before: Option<String>, failed: Option<String>) {
        let issuer = &*self.trust.issuer.name;
        match failed {
            Some(problem) if before.as_ref() != Some(&problem) => {
                tracing::warn!(issuer, problem, "the keys of an issuer were not fetched");
            }
            None if before.is_some() => tracing::info!(issuer, "the keys of an issuer are fetched again"),
            Some(_) | None => {}
        }
    }

    fn take_over(&self, fetched: Fetched) -> Result<(), String> {
        let Some(text) = fetched.body else { return Ok(()) };
        if self.held.load().as_ref().is_some_and(|held| held.text == *text) {
            return Ok(());
        }
        let (keys, skipped) = KeySet::read(&text).map_err(str::to_owned)?;
        for key in &skipped {
            tracing::warn!(
                issuer = &*self.trust.issuer.name,
                position = key.position,
                kid = key.id.as_deref(),
                why = key.why,
                "a key of an issuer is not used"
            );
        }
        self.hold(Some(Held { keys: Arc::new(keys), text: text.to_vec(), etag: fetched.etag }));
        Ok(())
    }

    fn status(&self, now: Moment) -> KeyStatus {
        let from_disk = self.from_disk.load(Ordering::Acquire);
        let fetch_state = self.fetch_state();
        KeyStatus {
            issuer: Arc::clone(&self.trust.issuer.name),
            keys: self.held.load().as_ref().map(|held| held.keys.len()),
            age: fetch_state.got.map(|got| match from_disk {
                true => now.wall.saturating_sub(got.wall),
                false => now.monotonic.saturating_sub(got.monotonic),
            }),
            from_disk,
            failed: fetch_state.failed.clone(),
        }
    }

    fn fetch_state(&self) -> std::sync::MutexGuard<'_, FetchState> {
        self.fetch_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an issuer says that its keys are: at its own host, under a document that names it (RFC 8414
/// §3, OpenID Connect Discovery §4).
async fn discover(gateway: &Gateway, at: &Upstream, issuer: &str) -> Result<Upstream, String> {
    let mut told = String::new();
    for path in metadata_paths(&at.url.path) {
        let found = match fetch::document(gateway, at, &path, None, MAX_METADATA_BYTES).await {
            Ok(found) => found.body.unwrap_or_default(),
            Err(problem) => {
                told = problem;
                continue;
            }
        };
        let url = keys_url(&found, issuer)?;
        let url = UpstreamUrl::parse(&url).map_err(|problem| format!("its `jwks_uri` {problem}"))?;
        if (url.scheme, &url.host, url.port) != (at.url.scheme, &at.url.host, at.url.port) {
            return Err(format!(
                "its `jwks_uri` is at another host, `{}`: write `jwks` if that is meant",
                url.authority
            ));
        }
        return Ok(at.at(&url));
    }
    Err(format!("its metadata: {told}"))
}

/// The well-known places of an issuer's metadata.
pub(super) fn metadata_paths(path: &str) -> [String; 3] {
    let path = path.trim_end_matches('/');
    [
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/openid-configuration{path}"),
    ]
}

fn keys_url(metadata: &[u8], issuer: &str) -> Result<String, String> {
    let text = std::str::from_utf8(metadata).map_err(|_| "its metadata is not UTF-8".to_owned())?;
    let metadata = Object::read(text).map_err(|_| "its metadata is no JSON object".to_owned())?;
    if metadata.text("issuer").as_deref() != Some(issuer) {
        return Err("its metadata names another issuer".to_owned());
    }
    let url = metadata.text("jwks_uri").ok_or_else(|| "its metadata has no `jwks_uri`".to_owned())?;
    Ok(url.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use bytes::Bytes;
    use portunus_config::{MapEnvironment, load_text};

    fn slot() -> KeySlot {
        let text = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n\
                    identity: {jwt: {issuer: 'http://127.0.0.1:9', audience: x}}\n";
        let loaded = load_text(text, Path::new("g.yaml"), &MapEnvironment::default()).unwrap();
        KeySlot::new(&loaded.snapshot.identities.as_ref().unwrap().trusts[0], watch::Sender::new(0))
    }

    #[test]
    fn the_first_keys_are_nobodys_second_look() {
        let (slot, clock) = (slot(), SystemClock::default());
        let fetched = || Ok(Fetched { body: None, fresh: None, etag: None });
        for (name, left) in [("the first", None), ("the next", Some(Duration::ZERO))] {
            slot.fetch_state().asked = Some(Duration::ZERO);
            slot.settle(fetched(), &clock);
            assert_eq!(slot.fetch_state().asked, left, "{name}");
        }
    }

    /// A set of one key, with this `kid`.
    fn set(id: &str) -> Result<Fetched, String> {
        let x = "A".repeat(43);
        let text = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{x}"}}]}}"#);
        Ok(Fetched { body: Some(Bytes::from(text)), etag: None, fresh: None })
    }

    #[test]
    fn only_other_keys_are_a_change_and_a_failure_takes_none_away() {
        let (slot, clock) = (slot(), SystemClock::default());
        let told = slot.changes.subscribe();
        let after = |fetched: Result<Fetched, String>| {
            slot.settle(fetched, &clock);
            let status = slot.status(clock.now());
            (slot.generation(), status.keys, status.failed.is_some())
        };
        assert_eq!(after(Err("down".to_owned())), (1, None, true));
        assert_eq!(after(set("a")), (2, Some(1), false));
        assert_eq!(after(set("a")), (2, Some(1), false), "what was verified holds");
        assert_eq!(after(Ok(Fetched { body: None, etag: None, fresh: None })), (2, Some(1), false));
        assert_eq!(after(Err("down".to_owned())), (2, Some(1), true));
        assert_eq!(
            after(Ok(Fetched { body: Some(Bytes::from("{}")), etag: None, fresh: None })),
            (2, Some(1), true)
        );
        assert_eq!(after(set("b")), (3, Some(1), false));
        assert_eq!(*told.borrow(), 2, "streams are judged anew");
    }
}
