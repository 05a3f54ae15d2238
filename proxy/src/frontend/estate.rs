//! Holds the tables of clients that outlive snapshots: sessions, calls that wait, streams, lists, callers.

use crate::catalog::Catalogs;
use crate::entropy;
use crate::frontend::bridge::lines::Lines;
use crate::frontend::bridge::parked::ParkedCalls;
use crate::frontend::bridge::{Hub, Sessions};
use crate::identify::Callers;
use crate::sealing::{Home, Seals};
use crate::shares::Shares;
use portunus_config::{Bootstrap, Snapshot};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of bodies of clients that arrive or are served, beyond the first 64 KiB of each; and of answers to batches.
const MAX_BODIES_BYTES: usize = 64 << 20;

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
}

impl Estate {
    /// Empty tables of a process; `kept_key` seals where no key is configured.
    ///
    /// # Errors
    /// If a sealing key cannot be used, or the system has no randomness.
    pub fn new(bootstrap: &Bootstrap, kept_key: Option<&[u8]>) -> io::Result<Estate> {
        let boot = entropy::random().map(u32::from_be_bytes);
        let boot = boot.ok_or_else(|| io::Error::other("the system has no randomness"))?;
        let random = || format!("r{boot:08x}").into();
        let name = bootstrap.replica.as_ref().map(|replica| replica.as_str().into()).unwrap_or_else(random);
        let home = Home::new(name, boot);
        Ok(Estate {
            sessions: Sessions::default(),
            lines: Lines::default(),
            parked: ParkedCalls::default(),
            hub: Hub::default(),
            catalogs: Arc::default(),
            seals: match kept_key {
                Some(key) => Seals::of([key])?,
                None => Seals::new(&bootstrap.sealing.keys)?,
            },
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
