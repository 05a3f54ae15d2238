//! The connections to one upstream.
//!
//! Last in, first out: the warmest connection is used next and the others age out together, before
//! the five seconds after which Node and uvicorn close theirs. A connection that was closed or has
//! something to read is never given out.

use super::dial::{DialError, dial};
use super::dns::Resolver;
use super::h1::Connection;
use portunus_config::Upstream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Idle connections to one upstream, and the permits for all of them.
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    active: AtomicUsize,
    max_idle: usize,
    idle_timeout: Duration,
}

/// A connection in use. Dropped, it closes; [`Checkout::put_back`] keeps it.
pub struct Checkout {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

/// Why no connection was given out.
#[derive(Debug)]
pub enum CheckoutError {
    /// All permits are in use, and stayed so for the connect timeout.
    Exhausted,
    /// No new connection could be made.
    Dial(DialError),
}

impl std::fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckoutError::Exhausted => f.write_str("all connections to this upstream are in use"),
            CheckoutError::Dial(error) => error.fmt(f),
        }
    }
}

impl Pool {
    /// An empty pool with the limits of `upstream`.
    pub fn new(upstream: &Upstream) -> Pool {
        Pool {
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(upstream.pool.max_connections.min(Semaphore::MAX_PERMITS))),
            active: AtomicUsize::new(0),
            max_idle: upstream.pool.max_idle,
            idle_timeout: upstream.pool.idle_timeout,
        }
    }

    /// A warm connection, or a new one; `fresh` insists on a new one.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub async fn checkout(
        self: &Arc<Self>,
        upstream: &Upstream,
        resolver: &Arc<Resolver>,
        fresh: bool,
    ) -> Result<Checkout, CheckoutError> {
        let within = upstream.timeouts.connect;
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match timeout(within, Arc::clone(&self.permits).acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                _ => return Err(CheckoutError::Exhausted),
            },
        };
        let warm = if fresh { None } else { self.take_idle() };
        let connection = match warm {
            Some(connection) => connection,
            None => {
                let url = &upstream.url;
                let stream = dial(resolver, &url.host, url.port, &upstream.addresses, within).await;
                Connection::new(stream.map_err(CheckoutError::Dial)?)
            }
        };
        self.active.fetch_add(1, Ordering::Relaxed);
        Ok(Checkout { connection: Some(connection), pool: Arc::clone(self), _permit: permit })
    }

    /// Connections waiting for work.
    pub fn idle_count(&self) -> usize {
        self.lock().len()
    }

    /// Connections at work.
    pub fn active_count(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Closes what has been idle for too long at `now`.
    pub fn sweep(&self, now: Instant) {
        let expired: Vec<Connection> = {
            let mut idle = self.lock();
            // Oldest first: connections are pushed and popped at the end.
            let keep = idle.iter().position(|one| now.duration_since(one.idle_since) < self.idle_timeout);
            let count = keep.unwrap_or(idle.len());
            idle.drain(..count).collect()
        };
        drop(expired);
    }

    fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.idle_since.elapsed() < self.idle_timeout && connection.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkout {
    /// The connection itself.
    ///
    /// `None` only after [`Checkout::put_back`], which takes the checkout with it.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// Keeps the connection for the next call. Only after a complete answer.
    pub fn put_back(mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.idle_since = Instant::now();
            let mut idle = self.pool.lock();
            if idle.len() < self.pool.max_idle {
                idle.push(connection);
            }
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.pool.active.fetch_sub(1, Ordering::Relaxed);
    }
}
