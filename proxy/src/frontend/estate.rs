//! Holds the tables of clients that outlive snapshots: sessions, calls that wait, streams, lists, callers.

use crate::catalog::Catalogs;
use crate::entropy;
use crate::frontend::bridge::lines::Lines;
use crate::frontend::bridge::parked::ParkedCalls;
use crate::frontend::bridge::{Hub, Sessions};
use crate::identify::Callers;
use crate::sealing::{Home, Seals};
use crate::shares::Shares;
use crate::state_file;
use portunus_config::{Bootstrap, Snapshot};
use portunus_filters::limits::{Counters, Limits, NotOurs};
use portunus_filters::{Clock, Moment};
use ring::hmac;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of bodies of clients that arrive or are served, beyond the first 64 KiB of each; and of answers to batches.
const MAX_BODIES_BYTES: usize = 64 << 20;

/// The file with the counts of quotas and budgets.
const COUNTS: &str = "limits";
/// A longer one was not written here: 25 bytes for each of 10 million keys.
const MAX_COUNTS_BYTES: u64 = 250 << 20;

/// The tables that outlive snapshots.
pub struct Estate {
    /// Sessions of legacy clients.
    pub sessions: Sessions,
    /// Streams of clients of 2024-11-05.
    pub lines: Lines,
    /// Calls that wait for their clients.
    pub parked: ParkedCalls,
    /// Listeners, by their subjects.
    pub hub: Hub,
    /// Lists of virtual servers.
    pub catalogs: Arc<Catalogs>,
    /// Keys that seal tokens of clients.
    pub seals: Seals,
    /// This run of this replica.
    pub home: Home,
    /// Callers, and who vouches for them.
    pub callers: Callers,
    /// Bodies of clients, as long as their requests are served.
    pub bodies: Arc<Shares>,
    /// Answers to batches, as long as they wait for each other.
    pub batches: Arc<Shares>,
    /// Counts of limits.
    pub counters: Counters,
}

impl Estate {
    /// Empty tables of a process; `kept_key` seals where no key is configured.
    ///
    /// # Errors
    /// If a sealing key cannot be used, or the system has no randomness.
    pub fn new(bootstrap: &Bootstrap, kept_key: Option<&[u8]>) -> io::Result<Estate> {
        let boot = entropy::random().map(u32::from_be_bytes);
        let boot = boot.ok_or_else(|| io::Error::other("the system has no randomness"))?;
        let seals = match kept_key {
            Some(key) => Seals::of([key])?,
            None => Seals::new(&bootstrap.sealing.keys)?,
        };
        let random = || format!("r{boot:08x}").into();
        let name = bootstrap.replica.as_ref().map(|replica| replica.as_str().into()).unwrap_or_else(random);
        let home = Home::new(name, boot);
        Ok(Estate {
            sessions: Sessions::default(),
            lines: Lines::default(),
            parked: ParkedCalls::default(),
            hub: Hub::default(),
            catalogs: Arc::default(),
            counters: Counters::new(digest_key(&seals)),
            seals,
            home: home.ok_or_else(|| io::Error::other("the name of the replica is no visible ASCII"))?,
            callers: Callers::default(),
            bodies: Shares::new(MAX_BODIES_BYTES),
            batches: Shares::new(MAX_BODIES_BYTES),
        })
    }

    /// Makes the tables fit `snapshot`.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        self.catalogs.reconcile(snapshot);
        self.callers.reconcile(snapshot);
    }

    /// Writes the counts of quotas and budgets for a later process, if `folder` can be written to.
    ///
    /// # Errors
    /// If it cannot.
    pub fn store_counts(&self, folder: &Path, now: Moment) -> io::Result<()> {
        state_file::write(&folder.join(COUNTS), &self.counters.to_bytes(now.into()))
    }

    /// Takes back the counts that an earlier process has written.
    ///
    /// # Errors
    /// If the file cannot be read, or is none of ours.
    pub fn restore_counts(&self, folder: &Path, now: Moment) -> io::Result<()> {
        let Some(bytes) = state_file::read(&folder.join(COUNTS), MAX_COUNTS_BYTES)? else { return Ok(()) };
        let taken = self.counters.take_back(&bytes, now.into());
        taken.map_err(|NotOurs| {
            io::Error::new(io::ErrorKind::InvalidData, "it was not written by this gateway")
        })
    }

    /// The limits of `snapshot`, which go on with the counts that there are.
    pub fn limits(&self, snapshot: &Snapshot, clock: &Arc<dyn Clock>) -> Limits {
        let (rules, max_keys) =
            snapshot.limits.as_ref().map_or((&[][..], 0), |limits| (&limits.rules, limits.max_keys));
        Limits::new(rules, max_keys, &self.counters, Arc::clone(clock))
    }

    /// Sizes of the tables, by name.
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let sizes = [
            ("sessions", self.sessions.len().0),
            ("tombstones", self.sessions.len().1),
            ("lines", self.lines.len()),
            ("kept_events", self.sessions.kept().load(Ordering::Relaxed)),
            ("parked", self.parked.len()),
            ("subscriptions", self.hub.len()),
            ("body_bytes", self.bodies.held()),
            ("batch_bytes", self.batches.held()),
        ];
        sizes.into_iter().chain(self.catalogs.sizes()).chain(self.callers.sizes()).collect()
    }
}

/// The key of the digests that limits count by: the same in each process with the same sealing keys, so that counts can be
/// taken back, and known to nobody else.
fn digest_key(seals: &Seals) -> [u64; 2] {
    let digest = hmac::sign(seals.identity_key(), b"keys of limits");
    let word = |at: usize| {
        digest.as_ref()[at..at + 8].iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte))
    };
    [word(0), word(8)]
}
