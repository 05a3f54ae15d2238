//! Bounds the connections of an operating surface, and the time of each request on them.
//!
//! Nobody is asked who they are there, so that strangers who reach the address could hold descriptors and
//! memory by requests that never end. What is beyond the bounds is closed at once.

use crate::shares::Owner;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Connections at once.
const MAX_CONNECTIONS: usize = 128;

/// Connections at once of one address, of IPv6 of one network of 64 bits.
const MAX_OF_SOURCE: usize = 32;

/// For a request and its answer, the wait for it included.
const WITHIN: Duration = Duration::from_secs(20);

/// From one line of the log about connections that were closed to the next.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// An app behind bounds.
pub struct Surface<A> {
    app: Arc<A>,
    name: &'static str,
    open: Arc<Mutex<Open>>,
}

/// Connections that are open.
#[derive(Default)]
struct Open {
    by_owner: HashMap<Owner, usize>,
    all: usize,
    /// When the log last heard that there are too many.
    told: Option<Instant>,
}

/// The place of one connection.
struct Held {
    open: Arc<Mutex<Open>>,
    owner: Owner,
}

impl<A> Surface<A> {
    /// A surface of this name, by which the log calls it.
    pub fn new(name: &'static str, app: A) -> Surface<A> {
        Surface { app: Arc::new(app), name, open: Arc::default() }
    }

    /// A place for a connection; `None` if there are too many.
    fn take(&self, address: IpAddr) -> Option<Held> {
        let owner = Owner::at(address);
        let mut open = lock(&self.open);
        let own = open.by_owner.get(&owner).copied().unwrap_or_default();
        if open.all >= MAX_CONNECTIONS || own >= MAX_OF_SOURCE {
            let now = Instant::now();
            if open.told.is_none_or(|told| now >= told + TOLD_EVERY) {
                open.told = Some(now);
                let (surface, connections) = (self.name, open.all);
                tracing::warn!(surface, %address, connections, "too many connections; more are closed at once");
            }
            return None;
        }
        open.all += 1;
        open.by_owner.insert(owner, own + 1);
        Some(Held { open: Arc::clone(&self.open), owner })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.all -= 1;
        if let Some(own) = open.by_owner.get_mut(&self.owner) {
            *own -= 1;
            if *own == 0 {
                open.by_owner.remove(&self.owner);
            }
        }
    }
}

#[async_trait]
impl<A: ServeHttp + Send + Sync + 'static> ServerApp for Surface<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let socket = stream.get_socket_digest();
        let peer = socket.as_ref().and_then(|socket| socket.peer_addr()?.as_inet().copied())?;
        let _held = self.take(peer.ip())?;
        let mut stream = Some(stream);
        while let Some(open) = stream {
            stream = timeout(WITHIN, self.app.process_new(open, shutdown)).await.ok().flatten();
        }
        None
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn one_source_leaves_room_for_others_and_all_together_are_bounded() {
        let surface = Surface::new("telemetry", ());
        let address = |n: u128| IpAddr::from(Ipv6Addr::from(0x2001_0db8 << 96 | n));
        let held: Vec<Held> = (0..MAX_OF_SOURCE as u128).filter_map(|n| surface.take(address(n))).collect();
        assert_eq!(held.len(), MAX_OF_SOURCE);
        assert!(surface.take(address(999)).is_none(), "of the same network");
        let other = |n: u128| address(n << 64);
        let others: Vec<Held> = (1..1_000).filter_map(|n| surface.take(other(n))).collect();
        assert_eq!(held.len() + others.len(), MAX_CONNECTIONS);
        drop((held, others));
        assert!(surface.take(address(1)).is_some());
        assert!(lock(&surface.open).by_owner.is_empty(), "nothing of a source is kept");
    }
}
