//! Legacy sessions that the gateway holds at upstreams.
//!
//! An upstream session belongs to one caller, credential, profile and virtual server, and is never shared beyond
//! them. Calls of one caller share its first upstream session; a call that may be asked something takes one on
//! which no other such call is under way, so that a question outside of a call's own stream has one
//! call that it can belong to. An upstream session that its upstream forgot is dead and never used again.

mod endpoint;
mod flag;
mod founding;
mod relay;
mod server_notice;
mod session_pool;
mod session_pools;
mod stream;
#[cfg(test)]
mod tests;

use crate::backend::Backend;
use crate::backend::forward::{Failure, Patience};
use crate::backend::gateway_requests::{self, Farewells, GatewayRequest, Session};
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::upstream_headers::{self, Fields};
use crate::backend::upstream_call::{Facts, Reply, UpstreamTarget};
use crate::shares::{Share, Shares};
use flag::Flag;
use founding::Refused;
use http::{HeaderValue, StatusCode};
use portunus_config::UpstreamKey;
use portunus_filters::mcp::bridge::LogLevel;
use portunus_filters::mcp::{Id, Revision};
pub use server_notice::{NoticeContent, NoticeQueue, ServerNotice};
use session_pool::Usage;
pub use session_pool::{LeaseOptions, SessionLease};
pub use session_pools::SessionPools;
pub(crate) use session_pools::credential;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};

/// Messages that wait for one call, from the stream of its upstream session.
const INBOX: usize = 64;
/// How long the stream of a new upstream session is waited for.
const OPEN_WITHIN: Duration = Duration::from_secs(1);

/// A legacy session at an upstream.
pub struct UpstreamSession {
    /// What the server said of itself.
    pub facts: Arc<Facts>,
    /// The revision that was agreed on.
    pub version: Revision,
    place: UpstreamTarget,
    /// `None` at a server that has no sessions.
    id: Option<HeaderValue>,
    posted: Fields,
    origin: Origin,
    next: AtomicU64,
    /// The upstream does not know it any more.
    dead: Flag,
    founded: Instant,
    /// Requests of its client that the server may have read: what it knows of them ends with it.
    requests: AtomicUsize,
    state: Mutex<State>,
    stream: OnceLock<AbortHandle>,
    /// Answers come on the stream (2024-11-05 transports).
    relayed: bool,
    /// The stream was opened, or refused.
    open: Flag,
    usage: Usage,
    call_message_bytes: Arc<Shares<UpstreamKey>>,
    _alive: Alive,
}

/// The agreement by which an upstream session was founded.
struct Terms {
    facts: Arc<Facts>,
    version: Revision,
    id: Option<HeaderValue>,
}

/// One upstream session more, for as long as it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn among(pools: &SessionPools) -> Alive {
        let alive = pools.counter();
        alive.fetch_add(1, Ordering::Relaxed);
        Alive(alive)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The owner of an upstream session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The pool's.
    Pooled,
    /// One legacy client's.
    Own,
    /// One legacy client's, founded by another process.
    Adopted,
}

#[derive(Default)]
struct State {
    level: Option<LogLevel>,
    /// How many are subscribed to each resource.
    subscribed: HashMap<Arc<str>, usize>,
    /// Calls under way that hear what comes on the stream of the upstream session.
    attached: Vec<Attached>,
}

struct Attached {
    number: u64,
    /// Questions may be its.
    asks: bool,
    /// Messages on their way to it.
    inbox: mpsc::Sender<Delivered>,
    /// Room for its answer, where that comes on the stream of the upstream session too.
    answer: Option<mpsc::OwnedPermit<Delivered>>,
}

/// What became of a message for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// The call will hear it.
    Taken,
    /// It is a call's, which has no room for it: nobody else may hear it, since other rules stand over others.
    Full,
    /// No call, or more than one, can be meant.
    Nobody,
}

/// A message on its way to a call, and its part of what may wait.
struct Delivered {
    message: ServerMessage,
    _share: Option<Share<UpstreamKey>>,
}

impl UpstreamSession {
    fn new(pools: &SessionPools, place: UpstreamTarget, origin: Origin, terms: Terms) -> UpstreamSession {
        let Terms { facts, version, id } = terms;
        let mut posted = upstream_headers::posted();
        upstream_headers::address(&mut posted, id.as_ref(), version);
        UpstreamSession {
            facts,
            version,
            place,
            id,
            posted,
            origin,
            next: AtomicU64::new(1),
            dead: Flag::default(),
            founded: Instant::now(),
            requests: AtomicUsize::new(0),
            state: Mutex::default(),
            stream: OnceLock::new(),
            relayed: false,
            open: Flag::default(),
            usage: Usage::default(),
            call_message_bytes: pools.call_message_bytes(),
            _alive: Alive::among(pools),
        }
    }

    fn relayed(pools: &SessionPools, place: UpstreamTarget, origin: Origin, terms: Terms) -> UpstreamSession {
        let mut upstream_session = UpstreamSession::new(pools, place, origin, terms);
        upstream_session.relayed = true;
        upstream_session
    }

    /// An upstream session that another process founded, as its sealed id names it: it has no stream here.
    pub fn adopt(
        pools: &SessionPools,
        place: UpstreamTarget,
        id: Option<HeaderValue>,
        version: Revision,
        facts: Arc<Facts>,
    ) -> Arc<UpstreamSession> {
        let upstream_session =
            UpstreamSession::new(pools, place, Origin::Adopted, Terms { facts, version, id });
        // Numbers that the home may have used must not come again.
        upstream_session.next.store(1 << 32, Ordering::Relaxed);
        upstream_session.requests.store(1, Ordering::Relaxed);
        Arc::new(upstream_session)
    }

    /// Begins to hear what the server says outside of calls, if nobody does here.
    pub fn hear(self: &Arc<Self>, backend: &Arc<Backend>) {
        if self.stream.get().is_none() {
            stream::open(backend, self);
        }
    }

    /// The session id that the upstream gave, for sealing.
    pub fn id(&self) -> Option<&HeaderValue> {
        self.id.as_ref()
    }

    /// For whom it is, and where.
    pub fn place(&self) -> &UpstreamTarget {
        &self.place
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The upstream no longer knows it.
    pub fn is_dead(&self) -> bool {
        self.dead.is_raised()
    }

    /// Whether answers come on its stream, and messages are posted elsewhere.
    pub(crate) fn is_relayed(&self) -> bool {
        self.relayed
    }

    /// Waits until it is dead.
    pub async fn lost(&self) {
        self.dead.raised().await;
    }

    /// Counts a request of its client that goes to the upstream.
    pub(crate) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a request out of the count: the upstream did not read it.
    pub(crate) fn was_unread(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the upstream may know something of its client that another session would not have.
    pub(crate) fn holds_state(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0 && !self.place.upstream.stateless_ok
    }

    /// Notes that the upstream does not know it any more: everybody who depends on it is told.
    pub(crate) fn forgotten(self: &Arc<Self>, backend: &Arc<Backend>) {
        stream::gone(backend, self);
    }

    /// Notes that the upstream no longer knows it; says whether that is news.
    pub(crate) fn die(&self) -> bool {
        let news = self.dead.raise();
        if news && self.relayed {
            // Nobody will be answered any more.
            self.lock().attached.clear();
            self.stop_listening();
        }
        news
    }

    fn stop_listening(&self) {
        if let Some(stream) = self.stream.get() {
            stream.abort();
        }
    }

    /// Makes the upstream send log messages from `level` on, if it does not already.
    ///
    /// # Errors
    /// [`Failure`] if the upstream does not take the request.
    pub async fn set_level(self: &Arc<Self>, backend: &Arc<Backend>, level: LogLevel) -> Result<(), Failure> {
        if !self.facts.has("logging") || self.lock().level == Some(level) {
            return Ok(());
        }
        gateway_requests::send_on_session(backend, self, GatewayRequest::SetLevel { level }).await?;
        self.lock().level = Some(level);
        Ok(())
    }

    /// The level that was set.
    pub fn level(&self) -> Option<LogLevel> {
        self.lock().level
    }

    /// Asks something on it.
    ///
    /// # Errors
    /// [`Failure`], also for an error answer.
    pub async fn ask(
        self: &Arc<Self>,
        backend: &Arc<Backend>,
        gateway_request: GatewayRequest,
    ) -> Result<(), Failure> {
        if let GatewayRequest::Subscribe { .. } = gateway_request {
            // What is subscribed to is told on the stream: it should be there before.
            self.listening().await;
        }
        gateway_requests::send_on_session(backend, self, gateway_request).await.map(drop)
    }

    /// Answers a question that came outside of any call.
    pub fn answer(&self, backend: &Arc<Backend>, id: Id, reply: Reply) {
        self.tell(backend, GatewayRequest::Answer { session: self.session(), id, reply });
    }

    /// Ends the session at the upstream.
    pub fn end(&self, backend: &Arc<Backend>) {
        if self.die() && self.id.is_some() {
            Farewells::tell(backend, self.session(), &self.place.upstream, &self.place.pool);
        }
        self.stop_listening();
    }

    /// Ends what is kept of it here; the session at the upstream goes on.
    pub fn let_go(&self) {
        self.die();
        self.stop_listening();
    }

    /// Runs a gateway request in the background.
    pub(crate) fn tell(&self, backend: &Arc<Backend>, gateway_request: GatewayRequest) {
        gateway_requests::run(
            backend,
            gateway_request,
            Arc::clone(&self.place.upstream),
            Arc::clone(&self.place.pool),
        );
    }

    /// What addresses it, with the credential that it was made with.
    pub(crate) fn session(&self) -> Session {
        Session::addressed(&self.place.headers, self.id.as_ref(), self.version)
    }

    /// Fields of a POST on it.
    pub(crate) fn posted(&self) -> &Fields {
        &self.posted
    }

    /// A number for an id or progress token, unique on this upstream session.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the task that reads the stream, to end it with the upstream session.
    fn follow(&self, task: JoinHandle<()>) {
        if let Err(second) = self.stream.set(task.abort_handle()) {
            second.abort();
        }
    }

    /// Waits until the stream is open, or was refused; not for long.
    pub(crate) async fn listening(&self) {
        if self.relayed {
            return;
        }
        drop(timeout(OPEN_WITHIN, self.open.raised()).await);
    }

    /// Takes in a message that belongs to no call, whatever answer it came on.
    pub(crate) fn overhear(self: &Arc<Self>, backend: &Arc<Backend>, message: &ServerMessage) {
        stream::sort(backend, self, message);
    }

    /// Whether an answer says that the upstream has forgotten the session: 404, or a 400 that says so,
    /// as several servers do (2025-11-25 transports, "Session Management").
    pub(crate) fn is_unknown(&self, status: StatusCode, refusal: Option<&[u8]>) -> bool {
        let says_so = || {
            let body = refusal.unwrap_or_default().to_ascii_lowercase();
            memchr::memmem::find(&body, b"session").is_some()
        };
        (self.id.is_some() || self.relayed)
            && (status == StatusCode::NOT_FOUND || (status == StatusCode::BAD_REQUEST && says_so()))
    }

    /// Lets a call hear what comes on the stream of the upstream session and may be its.
    pub(crate) fn attach(self: &Arc<Self>, number: u64, asks: bool) -> CallInbox {
        let (inbox, receiver) = mpsc::channel(INBOX + 1);
        let answer = self.relayed.then(|| inbox.clone().try_reserve_owned().ok()).flatten();
        let mut state = self.lock();
        // On one that is dead, nothing will be heard.
        if !self.is_dead() {
            state.attached.push(Attached { number, asks, inbox, answer });
        }
        drop(state);
        CallInbox { upstream_session: Arc::clone(self), number, inbox: receiver }
    }

    #[cfg(test)]
    pub(crate) fn attached(&self) -> usize {
        self.lock().attached.len()
    }

    /// Gives an answer to the call that waits for it on the stream.
    fn answered(&self, id: &Id, answer: &ServerMessage) {
        let Ok(number) = id.as_json().parse::<u64>() else { return };
        let mut state = self.lock();
        let call = state.attached.iter_mut().find(|one| one.number == number);
        if let Some(room) = call.and_then(|call| call.answer.take()) {
            room.send(Delivered { message: answer.clone(), _share: None });
        }
    }

    /// Ends what [`UpstreamSession::attach`] began.
    fn detach(&self, number: u64) {
        self.lock().attached.retain(|one| one.number != number);
    }

    /// Gives a message to a call that it can belong to: the one of a number, or the one that may be
    /// asked.
    fn deliver(&self, number: Option<u64>, message: &ServerMessage) -> Delivery {
        let state = self.lock();
        let mut fitting = state.attached.iter().filter(|one| match number {
            Some(number) => one.number == number,
            None => one.asks,
        });
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => {
                let Some(share) = self.call_message_bytes.take(self.place.upstream.key, message.bytes.len())
                else {
                    return Delivery::Full;
                };
                match one.inbox.try_send(Delivered { message: message.clone(), _share: Some(share) }) {
                    Ok(()) => Delivery::Taken,
                    Err(TrySendError::Full(_)) => Delivery::Full,
                    Err(TrySendError::Closed(_)) => Delivery::Nobody,
                }
            }
            _ => Delivery::Nobody,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UpstreamSession {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

/// A place of one call among those who hear the stream of an upstream session, for as long as it lives.
pub(crate) struct CallInbox {
    upstream_session: Arc<UpstreamSession>,
    number: u64,
    inbox: mpsc::Receiver<Delivered>,
}

impl CallInbox {
    /// The next message for the call; `None` when nothing will come any more. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<ServerMessage> {
        self.inbox.recv().await.map(|delivered| delivered.message)
    }

    /// As [`CallInbox::next`], for a call whose answer comes this way. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] if the stream has broken off, or nothing comes in time.
    pub(crate) async fn answer(&mut self, patience: Patience) -> Result<ServerMessage, Failure> {
        let message = patience.bound(self.next()).await?;
        message.ok_or_else(|| Failure::broken("the stream of the session is lost".to_owned()))
    }
}

impl Drop for CallInbox {
    fn drop(&mut self) {
        self.upstream_session.detach(self.number);
    }
}
