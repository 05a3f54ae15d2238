//! The connections to one upstream.
//!
//! Over HTTP/1.1, last in, first out: the warmest connection is used next and the others age out
//! together, before the five seconds after which Node and uvicorn close theirs. A connection that was
//! closed or has something to read is never given out. Over HTTP/2 calls share connections, and a new
//! one is made when all have as many streams as they may.

use super::answers::Answers;
use super::connection::Connection;
use super::dial::{ConnectCause, DialError, open};
use super::dns::Resolver;
use super::monitor::InstanceMonitor;
use super::stream::Stream;
use super::voucher::Voucher;
use super::{h1, h2::Link};
use crate::backend::forward::Failure;
use crate::descriptors;
use crate::metrics::UpstreamsMetrics;
use crate::offload::OffloadQueue;
use crate::shares::{Owner, Share, Shares};
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_base::{HttpVersion, Scheme};
use portunus_config::Upstream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

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
        wish: CheckoutOptions,
    ) -> Result<Checkout, CheckoutError> {
        let within = upstream.timeouts.connect;
        let permits = if wish.endless { &self.stream_permits } else { &self.permits };
        let permit = match permits.take(wish.owner, 1) {
            Some(permit) => permit,
            None => {
                let permit = timeout(within, Box::pin(permits.wait(wish.owner, 1))).await;
                permit.map_err(|_| CheckoutError::Exhausted)?
            }
        };
        let connection = match self.warm(wish) {
            Some(connection) => connection,
            None => Box::pin(self.connect(upstream, resolver, wish)).await.map_err(CheckoutError::Dial)?,
        };
        self.active.fetch_add(1, Ordering::Relaxed);
        Ok(Checkout { connection: Some(connection), apart: false, pool: Arc::clone(self), permit })
    }

    /// A connection that is there already.
    fn warm(&self, wish: CheckoutOptions) -> Option<Connection> {
        let shared = self.shares.load(Ordering::Acquire);
        if let Some(stream) = shared.then(|| self.links().iter().find_map(Link::lease)).flatten() {
            return Some(Connection::Two(stream));
        }
        let idle = if wish.fresh { None } else { self.take_idle() };
        idle.map(Connection::One)
    }

    async fn connect(
        &self,
        upstream: &Upstream,
        resolver: &Arc<Resolver>,
        wish: CheckoutOptions,
    ) -> Result<Connection, DialError> {
        let _turn = match self.shares.load(Ordering::Acquire) {
            true => {
                // One attempt after the other would let the last caller wait for all of them.
                let turn = timeout(upstream.timeouts.connect, self.linking.lock()).await;
                let turn = turn.map_err(|_| DialError::TimedOut)?;
                if let Some(connection) = self.warm(wish) {
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
mod tests {
    use super::super::request::Outgoing;
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    /// A listener, and an upstream that points at it.
    async fn upstream(pool: &str) -> (TcpListener, Arc<Upstream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!(
            "version: 1\nupstreams:\n  up: {{ url: http://{address}/mcp, pool: {pool}, timeouts: {{ connect: 100ms }} }}\nservers:\n  /mcp: up\n"
        );
        let loaded = load_text(&text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap();
        (listener, Arc::clone(&loaded.snapshot.upstreams[0]))
    }

    async fn checkout(pool: &Arc<Pool>, upstream: &Upstream) -> Result<Checkout, CheckoutError> {
        pool.checkout(upstream, &Arc::new(Resolver::default()), Default::default()).await
    }

    fn is_warm(connection: &Connection) -> bool {
        matches!(connection, Connection::One(connection) if connection.reused)
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        listener.accept().await.unwrap().0
    }

    #[tokio::test]
    async fn the_warmest_connection_is_used_next() {
        let (listener, up) = upstream("{ max_idle: 2 }").await;
        let pool = Arc::new(Pool::new(&up));
        let (first, second) = (checkout(&pool, &up).await.unwrap(), checkout(&pool, &up).await.unwrap());
        let (mut one, mut two) = (accept(&listener).await, accept(&listener).await);
        assert_eq!((pool.active_count(), pool.idle_count()), (2, 0));
        first.put_back();
        second.put_back();
        let mut again = checkout(&pool, &up).await.unwrap();
        let connection = again.connection().unwrap();
        assert!(is_warm(connection));
        let request = Outgoing::new(b"x".to_vec(), bytes::Bytes::new());
        let exchanged = connection.exchange(&request);
        assert!(tokio::time::timeout(Duration::from_millis(50), exchanged).await.is_err(), "nobody answers");
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut two, &mut byte).await.unwrap();
        one.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_closed_or_has_something_to_read_is_not_given_out() {
        let (listener, up) = upstream("{ max_idle: 4 }").await;
        let pool = Arc::new(Pool::new(&up));
        for unasked in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let mut one = checkout(&pool, &up).await.unwrap();
            let mut far = accept(&listener).await;
            far.write_all(unasked).await.unwrap();
            far.shutdown().await.unwrap();
            let Some(Connection::One(stream_has_news)) = one.connection() else { panic!("not HTTP/1.1") };
            while stream_has_news.is_quiet() {
                tokio::task::yield_now().await;
            }
            one.put_back();
            assert!(!is_warm(checkout(&pool, &up).await.unwrap().connection().unwrap()));
            drop(accept(&listener).await);
        }
    }

    #[tokio::test]
    async fn idle_connections_age_out_and_surplus_ones_are_not_kept() {
        let (listener, up) = upstream("{ max_idle: 1, idle_timeout: 4s }").await;
        let pool = Arc::new(Pool::new(&up));
        let (one, two) = (checkout(&pool, &up).await.unwrap(), checkout(&pool, &up).await.unwrap());
        let _far = (accept(&listener).await, accept(&listener).await);
        one.put_back();
        two.put_back();
        assert_eq!(pool.idle_count(), 1);
        pool.sweep(Instant::now() + Duration::from_secs(3));
        assert_eq!(pool.idle_count(), 1);
        pool.sweep(Instant::now() + Duration::from_secs(5));
        assert_eq!(pool.idle_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn few_streams_wait_for_a_permit_with_their_request() {
        let (_listener, up) = upstream("{ max_streams: 4 }").await;
        let pool = Pool::new(&up);
        let at = |last: u8| Owner::at([10, 0, 0, last].into());
        assert!(pool.stream_turn(&up, at(1)).await.unwrap().is_none(), "there are permits");
        let _open =
            [pool.stream_permits.take(at(1), 3).unwrap(), pool.stream_permits.take(at(2), 1).unwrap()];
        let mut turns = Vec::new();
        while let Ok(turn) = pool.stream_turn(&up, at(1)).await {
            turns.push(turn.unwrap());
        }
        assert_eq!(turns.len(), MAX_WAITING_STREAMS / 4 * 3, "a quarter is for others");
        assert!(pool.stream_turn(&up, at(3)).await.unwrap().is_some());
        turns.pop();
        assert!(pool.stream_turn(&up, at(1)).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_permit_there_is_no_connection() {
        let (_listener, up) = upstream("{ max_connections: 1 }").await;
        let pool = Arc::new(Pool::new(&up));
        let held = checkout(&pool, &up).await.unwrap();
        assert!(matches!(checkout(&pool, &up).await, Err(CheckoutError::Exhausted)));
        let listens = CheckoutOptions { endless: true, ..Default::default() };
        let stream = pool.checkout(&up, &Arc::new(Resolver::default()), listens).await;
        assert!(stream.is_ok(), "streams have their own");
        drop(held);
        assert!(checkout(&pool, &up).await.is_ok());
    }
}
