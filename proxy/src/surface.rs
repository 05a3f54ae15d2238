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
use tokio::sync::Notify;
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
    connections: HashMap<u64, OpenConnection>,
    next: u64,
    /// When the log last heard that there are too many.
    told: Option<Instant>,
}

struct OpenConnection {
    owner: Owner,
    /// Numbers grow: the smallest of an owner is its oldest.
    close: Arc<Notify>,
}

/// The place of one connection.
struct Held {
    open: Arc<Mutex<Open>>,
    number: u64,
    /// It makes room for another.
    close: Arc<Notify>,
}

impl Open {
    fn of(&self, owner: Owner) -> usize {
        self.connections.values().filter(|connection| connection.owner == owner).count()
    }

    /// Has the oldest connection of whoever has most end, unless `owner` would have as many with its new one.
    fn make_room(&mut self, owner: Owner) -> bool {
        let mut counts: HashMap<Owner, usize> = HashMap::new();
        self.connections.values().for_each(|one| *counts.entry(one.owner).or_default() += 1);
        let own = counts.get(&owner).copied().unwrap_or_default();
        let fullest = counts.into_iter().max_by_key(|(_, count)| *count);
        let Some((fullest, _)) = fullest.filter(|(_, count)| *count > own + 1) else { return false };
        let of_fullest = self.connections.iter().filter(|(_, one)| one.owner == fullest);
        let Some(oldest) = of_fullest.map(|(number, _)| *number).min() else { return false };
        if let Some(connection) = self.connections.remove(&oldest) {
            connection.close.notify_one();
        }
        true
    }
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
        let is_full = open.connections.len() >= MAX_CONNECTIONS;
        if is_full || open.of(owner) >= MAX_OF_SOURCE {
            let now = Instant::now();
            if open.told.is_none_or(|told| now >= told + TOLD_EVERY) {
                open.told = Some(now);
                let (surface, connections) = (self.name, open.connections.len());
                tracing::warn!(surface, %address, connections, "too many connections; some are closed at once");
            }
            if !is_full || !open.make_room(owner) {
                return None;
            }
        }
        let (number, close) = (open.next, Arc::<Notify>::default());
        open.next += 1;
        open.connections.insert(number, OpenConnection { owner, close: Arc::clone(&close) });
        Some(Held { open: Arc::clone(&self.open), number, close })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.open).connections.remove(&self.number);
    }
}

#[async_trait]
impl<A: ServeHttp + Send + Sync + 'static> ServerApp for Surface<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let socket = stream.get_socket_digest();
        let peer = socket.as_ref().and_then(|socket| socket.peer_addr()?.as_inet().copied())?;
        let held = self.take(peer.ip())?;
        let mut stream = Some(stream);
        while let Some(open) = stream {
            let served = timeout(WITHIN, self.app.process_new(open, shutdown));
            stream = tokio::select! {
                served = served => served.ok().flatten(),
                () = held.close.notified() => None,
            };
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
        let more = MAX_CONNECTIONS - MAX_OF_SOURCE;
        let others: Vec<Held> = (1..=more as u128).filter_map(|n| surface.take(other(n))).collect();
        assert_eq!(others.len(), more);
        drop((held, others));
        assert!(surface.take(address(1)).is_some());
        assert!(lock(&surface.open).connections.is_empty(), "nothing of a connection is kept");
    }

    #[test]
    fn who_has_least_gets_the_oldest_place_of_who_has_most() {
        let surface = Surface::new("admin", ());
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let hogs: Vec<Held> = (0..MAX_CONNECTIONS)
            .filter_map(|n| surface.take(address(u8::try_from(n % 4).unwrap())))
            .collect();
        assert_eq!(hogs.len(), MAX_CONNECTIONS);
        assert!(surface.take(address(0)).is_none(), "it would have as many as the others");
        let scrapes: Vec<Held> = (0..3).filter_map(|_| surface.take(address(9))).collect();
        let open = lock(&surface.open);
        assert_eq!((scrapes.len(), open.connections.len()), (3, MAX_CONNECTIONS));
        let gone: Vec<u64> =
            hogs.iter().map(|held| held.number).filter(|one| !open.connections.contains_key(one)).collect();
        assert!(gone.len() == 3 && gone.iter().all(|one| *one < 3 * 4), "the oldest: {gone:?}");
        assert!(scrapes.iter().all(|held| open.connections.contains_key(&held.number)));
        drop(open);
    }
}
