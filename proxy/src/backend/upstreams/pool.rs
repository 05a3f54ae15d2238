//! The connections to one upstream.
//!
//! Over HTTP/1.1, last in, first out: the warmest connection is used next and the others age out
//! together, before the five seconds after which Node and uvicorn close theirs. A connection that was
//! closed or has something to read is never given out. Over HTTP/2 calls share connections, and a new
//! one is made when all have as many streams as they may.

use super::dial::{ConnectCause, DialError, open};
use super::dns::Resolver;
use super::fault::Fault;
use super::h1;
use super::h2::{self, Link};
use super::monitor::{Answers, InstanceMonitor};
use super::request::Outgoing;
use super::stream::Stream;
use super::voucher::Voucher;
use super::wire::Head;
use crate::backend::forward::Failure;
use crate::descriptors;
use crate::metrics::UpstreamsMetrics;
use crate::offload::OffloadQueue;
use crate::shares::{Owner, Share, Shares};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_base::{HttpVersion, Scheme};
use portunus_config::Upstream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// Streams of sessions that may wait for a permit with their request made: it takes some kilobytes, and as many streams may
/// wait as there are sessions.
const MAX_WAITING_STREAMS: usize = 256;

/// Connections to one upstream, and the permits for all calls to it.
pub struct Pool {
    idle: Mutex<Vec<h1::Connection>>,
    links: Mutex<Vec<Link>>,
    /// Held while a shared connection is made, so that calls that wait share it.
    linking: tokio::sync::Mutex<()>,
    /// It has agreed on HTTP/2 before.
    shares: AtomicBool,
    permits: Arc<Shares>,
    stream_permits: Arc<Shares>,
    waiting_streams: Arc<Shares>,
    active: AtomicUsize,
    /// No configuration in force uses it, so no connection is kept for a later call.
    is_retired: AtomicBool,
    max_idle: usize,
    idle_timeout: Duration,
    voucher: Option<Voucher>,
    /// Where large texts of the upstream are read.
    pub offload: OffloadQueue,
    /// `None` where the other side is no upstream of the configuration: another replica, an issuer.
    monitor: Option<Arc<InstanceMonitor>>,
}

/// A connection, or a share of one, for one exchange over whichever protocol it speaks.
pub enum Connection {
    /// HTTP/1.1: the whole connection.
    One(h1::Connection),
    /// HTTP/2: a stream of it.
    Two(h2::Stream),
}

/// A connection in use. Dropped, it closes; [`Checkout::put_back`] keeps it.
pub struct Checkout {
    connection: Option<Connection>,
    /// It is one caller's, and never goes back.
    apart: bool,
    pool: Arc<Pool>,
    permit: Share,
}

/// Why no connection was given out.
#[derive(Debug)]
pub enum CheckoutError {
    /// All permits are in use, or all that the caller may have, and stayed so for the connect timeout.
    Exhausted,
    /// No new connection could be made.
    Dial(DialError),
}

/// What kind of connection is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckoutOptions {
    /// Not an idle one: the last was dead.
    pub fresh: bool,
    /// For a stream without an end of its own: those have permits of their own, so that clients
    /// that listen cannot keep others from calling.
    pub endless: bool,
    /// Whose share it takes.
    pub owner: Owner,
}

impl CheckoutError {
    /// The cause that it is counted as.
    pub fn cause(&self) -> ConnectCause {
        match self {
            CheckoutError::Exhausted => ConnectCause::PoolExhausted,
            CheckoutError::Dial(error) => error.cause(),
        }
    }
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
    /// An empty pool with the limits of `upstream`, which is watched.
    pub fn monitored(upstream: &Upstream, metrics: &UpstreamsMetrics) -> Pool {
        Pool { monitor: Some(metrics.instance(upstream)), ..Pool::new(upstream) }
    }

    /// An empty pool with the limits of `upstream`.
    pub fn new(upstream: &Upstream) -> Pool {
        Pool {
            idle: Mutex::new(Vec::new()),
            links: Mutex::new(Vec::new()),
            linking: tokio::sync::Mutex::new(()),
            shares: AtomicBool::new(upstream.http == HttpVersion::Two),
            permits: Shares::new(upstream.pool.max_connections),
            stream_permits: Shares::new(upstream.pool.max_streams),
            waiting_streams: Shares::new(MAX_WAITING_STREAMS),
            active: AtomicUsize::new(0),
            is_retired: AtomicBool::new(false),
            max_idle: upstream.pool.max_idle,
            idle_timeout: upstream.pool.idle_timeout,
            voucher: Voucher::new(upstream),
            offload: OffloadQueue::default(),
            monitor: None,
        }
    }

    /// What watches the instance behind it.
    pub fn monitor(&self) -> Option<&Arc<InstanceMonitor>> {
        self.monitor.as_ref()
    }

    /// The answers of the upstream, where it is watched.
    pub fn answers(&self) -> Option<Arc<Answers>> {
        self.monitor.as_ref().map(|monitor| Arc::clone(&monitor.upstream.answers))
    }

    /// Notes that the instance answered.
    pub fn note_answer(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.note_answer();
        }
    }

    /// Notes that a request to the instance failed.
    pub fn note_failure(&self, failure: &Failure) {
        if let Some(monitor) = &self.monitor {
            monitor.note_failure(failure);
        }
    }

    /// Outages of the instance that have ended: to be read before a request is sent to it.
    pub fn recoveries(&self) -> u64 {
        self.monitor.as_ref().map_or(0, |monitor| monitor.recoveries())
    }

    /// As [`Pool::note_failure`], of a request that was sent when so many outages had ended.
    pub fn note_failure_since(&self, recoveries: u64, failure: &Failure) {
        if let Some(monitor) = &self.monitor {
            monitor.note_failure_since(recoveries, failure);
        }
    }

    /// Counts a connection that was not made.
    pub fn count_connect_failure(&self, error: &CheckoutError) {
        if let Some(monitor) = &self.monitor {
            monitor.upstream.count_connect_failure(error.cause());
        }
    }

    /// The field that tells the upstream who sent these headers, where it wants one.
    pub fn vouch(&self, headers: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
        self.voucher.as_ref()?.vouch(headers)
    }

    /// How many callers' assertions are kept.
    pub fn vouched_count(&self) -> usize {
        self.voucher.as_ref().map_or(0, Voucher::len)
    }

    /// A place among the few that make their request and wait for a permit with it; `None` if a permit is free now, which
    /// is not reserved.
    ///
    /// # Errors
    /// [`CheckoutError::Exhausted`] if no place came free within the connect timeout.
    pub async fn stream_turn(
        &self,
        upstream: &Upstream,
        owner: Owner,
    ) -> Result<Option<Share>, CheckoutError> {
        if self.stream_permits.take(owner, 1).is_some() {
            return Ok(None);
        }
        let turn = timeout(upstream.timeouts.connect, self.waiting_streams.wait(owner, 1)).await;
        turn.map(Some).map_err(|_| CheckoutError::Exhausted)
    }

    /// A warm connection, or a new one.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub async fn checkout(
        self: &Arc<Self>,
        upstream: &Upstream,
        resolver: &Arc<Resolver>,
        options: CheckoutOptions,
    ) -> Result<Checkout, CheckoutError> {
        let within = upstream.timeouts.connect;
        let permits = if options.endless { &self.stream_permits } else { &self.permits };
        let permit = match permits.take(options.owner, 1) {
            Some(permit) => permit,
            None => {
                let permit = timeout(within, Box::pin(permits.wait(options.owner, 1))).await;
                permit.map_err(|_| CheckoutError::Exhausted)?
            }
        };
        let connection = match self.warm(options) {
            Some(connection) => connection,
            None => Box::pin(self.connect(upstream, resolver, options)).await.map_err(CheckoutError::Dial)?,
        };
        self.active.fetch_add(1, Ordering::Relaxed);
        Ok(Checkout { connection: Some(connection), apart: false, pool: Arc::clone(self), permit })
    }

    /// A connection that is there already.
    fn warm(&self, options: CheckoutOptions) -> Option<Connection> {
        let shared = self.shares.load(Ordering::Acquire);
        if let Some(stream) = shared.then(|| self.links().iter().find_map(Link::lease)).flatten() {
            return Some(Connection::Two(stream));
        }
        let idle = if options.fresh { None } else { self.take_idle() };
        idle.map(Connection::One)
    }

    async fn connect(
        &self,
        upstream: &Upstream,
        resolver: &Arc<Resolver>,
        options: CheckoutOptions,
    ) -> Result<Connection, DialError> {
        let _turn = match self.shares.load(Ordering::Acquire) {
            true => {
                // One attempt after the other would let the last caller wait for all of them.
                let turn = timeout(upstream.timeouts.connect, self.linking.lock()).await;
                let turn = turn.map_err(|_| DialError::TimedOut)?;
                if let Some(connection) = self.warm(options) {
                    return Ok(connection);
                }
                // Whoever had the turn before may have found that it shares no longer.
                self.shares.load(Ordering::Acquire).then_some(turn)
            }
            false => None,
        };
        let stream = open(resolver, upstream).await?;
        let shared = match upstream.http {
            HttpVersion::One => false,
            HttpVersion::Two => true,
            HttpVersion::Auto => stream.chose_http_2(),
        };
        if !shared {
            self.shares.store(false, Ordering::Release);
            return Ok(Connection::One(h1::Connection::new(stream)));
        }
        self.shares.store(true, Ordering::Release);
        match timeout(upstream.timeouts.connect, self.link(stream, upstream.url.scheme)).await {
            Ok(linked) => linked.map_err(DialError::NotHttp2),
            Err(_) => Err(DialError::TimedOut),
        }
    }

    async fn link(&self, stream: Stream, scheme: Scheme) -> std::io::Result<Connection> {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let link = Link::open(stream, scheme).await?;
        let lease = link.lease().ok_or(std::io::ErrorKind::ConnectionReset)?;
        self.links().push(link);
        Ok(Connection::Two(lease))
    }

    /// Connections waiting for work.
    pub fn idle_count(&self) -> usize {
        let links = self.links().iter().filter(|link| link.idle_since().is_some()).count();
        self.idle().len() + links
    }

    /// Calls and streams under way.
    pub fn active_count(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Keeps no connection from now on: the configuration in force has no such upstream.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.sweep(Instant::now());
    }

    fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Closes what has been idle for too long at `now`.
    pub fn sweep(&self, now: Instant) {
        if let Some(voucher) = &self.voucher {
            voucher.sweep();
        }
        let keeps = |idle: Duration| idle < self.idle_timeout && !self.is_retired();
        let expired: Vec<_> = {
            let mut idle = self.idle();
            // Oldest first: connections are pushed and popped at the end.
            let keep = idle.iter().position(|one| keeps(now.duration_since(one.idle_since)));
            let count = keep.unwrap_or(idle.len());
            idle.drain(..count).collect()
        };
        drop(expired);
        self.links().retain(|link| {
            let idle = link.idle_since().is_some_and(|since| !keeps(now.duration_since(since)));
            !idle && !link.is_retired()
        });
    }

    fn take_idle(&self) -> Option<h1::Connection> {
        loop {
            let mut connection = self.idle().pop()?;
            if connection.idle_since.elapsed() < self.idle_timeout && connection.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<h1::Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn exchange(&mut self, request: &Outgoing) -> Result<Head, Fault> {
        match self {
            Connection::One(connection) => connection.exchange(request).await,
            Connection::Two(stream) => stream.exchange(request).await,
        }
    }

    /// As [`Connection::exchange`]; `None` if that takes until `end`.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn exchange_until(
        &mut self,
        end: tokio::time::Instant,
        request: &Outgoing,
    ) -> Option<Result<Head, Fault>> {
        match self {
            Connection::One(connection) => connection.exchange_until(end, request).await,
            Connection::Two(stream) => timeout_at(end, stream.exchange(request)).await.ok(),
        }
    }

    /// The next part of the answer's body; `None` at its end. Safe to cancel.
    ///
    /// # Errors
    /// [`Fault::Broken`], [`Fault::Malformed`].
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Connection::One(connection) => connection.read_body().await,
            Connection::Two(stream) => stream.read_body().await,
        }
    }

    /// As [`Connection::read_body`], of what is here already; `None` if it must be waited for.
    pub fn arrived(&mut self) -> Option<Result<Option<Bytes>, Fault>> {
        match self {
            Connection::One(connection) => connection.arrived(),
            Connection::Two(_) => None,
        }
    }

    /// Notes that nothing came in time. A connection of one exchange ends with it; a shared one gets
    /// no new calls, for it may be dead.
    pub fn suspect(&self) {
        if let Connection::Two(stream) = self {
            stream.suspect();
        }
    }
}

impl Checkout {
    /// The connection itself.
    ///
    /// `None` only after [`Checkout::put_back`], which takes the checkout with it.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// Whose share it takes.
    pub fn owner(&self) -> Owner {
        self.permit.holder()
    }

    /// Where large texts that come over it are read.
    pub fn offload(&self) -> &OffloadQueue {
        &self.pool.offload
    }

    /// Lets nobody have the connection after this.
    pub fn keep_apart(&mut self) {
        self.apart = true;
    }

    /// Keeps the connection for the next call, if its state allows that.
    pub fn put_back(mut self) {
        // A share of a connection goes back by being dropped.
        if let Some(Connection::One(mut connection)) = self.connection.take()
            && connection.is_reusable()
            && !self.apart
        {
            connection.idle_since = Instant::now();
            let mut idle = self.pool.idle();
            if idle.len() < self.pool.max_idle && descriptors::is_plenty() && !self.pool.is_retired() {
                idle.push(connection);
            }
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.pool.active.fetch_sub(1, Ordering::Relaxed);
        if self.pool.is_retired() {
            // It may have been the last on a shared connection.
            drop(self.connection.take());
            self.pool.sweep(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
