//! Sessions of legacy clients, at their home.
//!
//! What never changes is sealed into the id that the client holds; here is what changes: upstream sessions that
//! were made again, the log level, subscriptions, calls under way and questions that wait for the
//! client. One value a session, reached by its number.

mod word;

use super::replay::Replay;
use crate::authorize::ResponsePipeline;
use crate::backend::upstream_call::Reply;
use crate::backend::upstream_sessions::UpstreamSession;
use crate::sealing::Home;
use crate::shares::{Owner, Share, Shares};
use portunus_base::table::{Holding, weight_of};
use portunus_config::{ServerId, Upstream, UpstreamKey};
use portunus_filters::mcp::bridge::{LogLevel, Profile};
use portunus_filters::mcp::{Id, Revision};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
pub use word::{Spoken, Word};

/// Questions of one session that wait for its client at once.
const MAX_QUESTIONS: usize = 64;
/// Calls of one session under way at once; more are refused.
const MAX_CALLS: usize = 1024;
/// Resources that one session is subscribed to.
const MAX_URIS: usize = 1024;
/// Messages that wait for a client's GET stream; the oldest are dropped.
pub const MAX_PUSHED: usize = 256;

/// One legacy client's session.
pub struct Session {
    /// Its number, which its id holds too.
    pub number: [u8; 16],
    /// Where it was founded.
    pub server: ServerId,
    /// The revision that client and gateway agreed on.
    pub version: Revision,
    /// What the client said of itself.
    pub profile: Arc<Profile>,
    /// Founded here; otherwise adopted from its sealed id.
    pub native: bool,
    /// Its messages passed before it was adopted: the session at the server is its client's.
    passed: Option<Arc<()>>,
    /// Whose share it takes of what callers hold together.
    owner: Owner,
    /// Bytes of the client's headers that its sessions at servers keep.
    shown_bytes: usize,
    upstream_sessions: Mutex<HashMap<UpstreamKey, OwnUpstreamSession>>,
    level: Mutex<Option<LogLevel>>,
    calls: Mutex<Vec<Arc<Underway>>>,
    questions: Mutex<HashMap<String, Waiting>>,
    /// By upstream and its own URI, what the client calls it.
    uris: Mutex<BTreeMap<(Arc<str>, Arc<str>), Subscribed>>,
    stream: Mutex<Option<mpsc::Sender<Word>>>,
    /// Who listens, and may not be asked everything.
    responses: Mutex<Option<ResponsePipeline>>,
    /// What is kept for a client that comes back, where its virtual server wants that.
    pub replay: Option<Arc<Replay>>,
    serial: AtomicU64,
    over: AtomicBool,
    /// Told when the session ends, and when what it listens for changes.
    pub changed: Notify,
}

/// A resource that a client is subscribed to.
struct Subscribed {
    /// What the client calls it.
    served: Arc<str>,
    _share: Share,
}

/// What a session has at one upstream.
#[derive(Default)]
struct OwnUpstreamSession {
    upstream_session: Option<Arc<UpstreamSession>>,
    /// The server knew something of the client, and has forgotten it.
    lost: bool,
    /// For the founding of an upstream session that all who wait will use.
    init_lock: Arc<tokio::sync::Mutex<()>>,
}

/// The server has forgotten what a client has done there: the client must begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLost;

/// Who waits for the answer to a question.
pub enum Waiting {
    /// A call: the question's key there, and its way back.
    Call {
        /// Its upstream.
        upstream: Arc<Upstream>,
        /// The question's key.
        key: Arc<str>,
        /// The id under which the client saw it, the key, and the answer.
        answers: mpsc::Sender<(String, Arc<str>, Reply)>,
    },
    /// A legacy server, outside of any call.
    UpstreamSession {
        /// Its session.
        upstream_session: Arc<UpstreamSession>,
        /// Its own id of the question.
        id: Id,
    },
}

impl Waiting {
    /// The upstream that the answer goes to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        match self {
            Waiting::Call { upstream, .. } => upstream,
            Waiting::UpstreamSession { upstream_session, .. } => &upstream_session.place().upstream,
        }
    }
}

/// A call under way.
pub struct Underway {
    id: Id,
    cancelled: Notify,
}

impl Underway {
    /// Waits until it is cancelled.
    pub async fn cancelled(&self) {
        self.cancelled.notified().await;
    }

    /// Tells the one who waits that it is cancelled.
    pub fn cancel(&self) {
        self.cancelled.notify_one();
    }
}

/// A call that can be cancelled by its id, for as long as this lives.
pub struct Running {
    session: Arc<Session>,
    call: Arc<Underway>,
}

impl Running {
    /// The call.
    pub fn call(&self) -> &Arc<Underway> {
        &self.call
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.session.locked(&self.session.calls);
        if let Some(at) = calls.iter().position(|call| Arc::ptr_eq(call, &self.call)) {
            calls.swap_remove(at);
        }
    }
}

/// Why a client is not told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// It has no stream open.
    Nobody,
    /// It does not keep up.
    Full,
}

impl Session {
    /// A session that has just been founded, or adopted.
    pub fn new(
        number: [u8; 16],
        server: ServerId,
        version: Revision,
        profile: Arc<Profile>,
        native: bool,
    ) -> Session {
        Session {
            number,
            server,
            version,
            profile,
            native,
            passed: None,
            owner: Owner::Nobody,
            shown_bytes: 0,
            upstream_sessions: Mutex::default(),
            level: Mutex::default(),
            calls: Mutex::default(),
            questions: Mutex::default(),
            uris: Mutex::default(),
            stream: Mutex::default(),
            responses: Mutex::default(),
            replay: None,
            serial: AtomicU64::new(0),
            over: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// The same, with a table of what is said to its client.
    #[must_use]
    pub fn keeping(self, replay: Option<Arc<Replay>>) -> Session {
        Session { replay, ..self }
    }

    /// The same, counted for a caller of whom servers are shown so many bytes.
    #[must_use]
    pub fn owned_by(self, owner: Owner, shown_bytes: usize) -> Session {
        Session { owner, shown_bytes, ..self }
    }

    /// The same, of a session whose messages passed before; with the mark by which those are known.
    #[must_use]
    pub fn marked_as_passed(self, mark: Arc<()>) -> Session {
        Session { passed: Some(mark), ..self }
    }

    /// Whether its messages passed before it was adopted.
    pub fn passed(&self) -> bool {
        self.passed.is_some()
    }

    /// The session at the one server of a session that passed before, whose own ids of requests the client may have.
    pub fn passed_upstream_session(&self) -> Option<Arc<UpstreamSession>> {
        self.passed().then(|| self.upstream_sessions().into_iter().next()).flatten()
    }

    /// For whom it is counted, and as how many: what a client says of itself is kept with it.
    pub fn holding(&self) -> Holding {
        Holding { owner: self.owner, weight: weight_of(self.profile.bytes() + self.shown_bytes) }
    }

    fn locked<'m, T>(&self, of: &'m Mutex<T>) -> MutexGuard<'m, T> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its own session at an upstream, if it has one.
    pub fn upstream_session(&self, upstream: &UpstreamKey) -> Option<Arc<UpstreamSession>> {
        self.locked(&self.upstream_sessions).get(upstream)?.upstream_session.clone()
    }

    /// Its own session at an upstream, for a request of its client.
    ///
    /// # Errors
    /// [`StateLost`] for ever after the server has forgotten one in which the client has done something.
    pub fn upstream_session_for_request(
        &self,
        upstream: &UpstreamKey,
    ) -> Result<Option<Arc<UpstreamSession>>, StateLost> {
        let upstream_sessions = self.locked(&self.upstream_sessions);
        let Some(own) = upstream_sessions.get(upstream) else { return Ok(None) };
        if own.lost { Err(StateLost) } else { Ok(own.upstream_session.clone()) }
    }

    /// Every session that it has at upstreams.
    pub fn upstream_sessions(&self) -> Vec<Arc<UpstreamSession>> {
        self.locked(&self.upstream_sessions).values().filter_map(|own| own.upstream_session.clone()).collect()
    }

    /// Whether it should have a session of its own at an upstream: it had one, or was to have one.
    pub fn expects_upstream_session(&self, upstream: &UpstreamKey) -> bool {
        self.locked(&self.upstream_sessions).contains_key(upstream)
    }

    /// Notes that it should have a session of its own at an upstream.
    pub fn expect_upstream_session(&self, upstream: UpstreamKey) {
        self.locked(&self.upstream_sessions).entry(upstream).or_default();
    }

    /// The turn of who founds its session at an upstream.
    pub fn init_lock(&self, upstream: UpstreamKey) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.locked(&self.upstream_sessions).entry(upstream).or_default().init_lock)
    }

    /// Takes a session at an upstream; gives it back if this one has ended.
    ///
    /// # Errors
    /// What it was given.
    pub fn hold(
        &self,
        upstream: UpstreamKey,
        upstream_session: Arc<UpstreamSession>,
    ) -> Result<(), Arc<UpstreamSession>> {
        let mut upstream_sessions = self.locked(&self.upstream_sessions);
        if self.is_over() {
            return Err(upstream_session);
        }
        upstream_sessions.entry(upstream).or_default().upstream_session = Some(upstream_session);
        Ok(())
    }

    /// Lets a session at an upstream go that its server has forgotten, and what the client had there.
    pub fn lose(&self, upstream: &UpstreamKey, upstream_session: &Arc<UpstreamSession>) {
        let mut upstream_sessions = self.locked(&self.upstream_sessions);
        let own = upstream_sessions.get_mut(upstream);
        let Some(own) = own.filter(|own| {
            own.upstream_session.as_ref().is_some_and(|held| Arc::ptr_eq(held, upstream_session))
        }) else {
            return;
        };
        own.upstream_session = None;
        own.lost |= upstream_session.holds_state();
        drop(upstream_sessions);
        // Who listens has to listen elsewhere.
        self.changed.notify_one();
    }

    /// The least severe level of log messages that the client wants.
    pub fn level(&self) -> Option<LogLevel> {
        *self.locked(&self.level)
    }

    /// Sets the level of log messages.
    pub fn set_level(&self, level: LogLevel) {
        *self.locked(&self.level) = Some(level);
    }

    /// Notes a call; `None` if one of that id is under way, or too many are.
    pub fn run(self: &Arc<Self>, id: &Id) -> Option<Running> {
        let mut calls = self.locked(&self.calls);
        if calls.len() >= MAX_CALLS || calls.iter().any(|call| call.id == *id) {
            return None;
        }
        let call = Arc::new(Underway { id: id.clone(), cancelled: Notify::new() });
        calls.push(Arc::clone(&call));
        drop(calls);
        Some(Running { session: Arc::clone(self), call })
    }

    /// Cancels a call; whether it was under way here.
    pub fn cancel(&self, id: &Id) -> bool {
        let meant = self.locked(&self.calls).iter().find(|call| call.id == *id).cloned();
        meant.inspect(|call| call.cancel()).is_some()
    }

    /// Gives a question the id under which the client sees it, as JSON text; `None` if too many wait.
    pub fn ask(&self, home: &Home, waiting: Waiting) -> Option<String> {
        let mut questions = self.locked(&self.questions);
        if questions.len() >= MAX_QUESTIONS {
            return None;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let id = format!("\"{}.{:x}.{serial}\"", home.replica(), home.boot());
        questions.insert(id.clone(), waiting);
        Some(id)
    }

    /// The upstream that asked a question.
    pub fn asked_by(&self, id: &Id) -> Option<Arc<Upstream>> {
        self.locked(&self.questions).get(id.meaning()).map(|waiting| Arc::clone(waiting.upstream()))
    }

    /// Takes the question that a client answers.
    pub fn answered(&self, id: &Id) -> Option<Waiting> {
        self.locked(&self.questions).remove(id.meaning())
    }

    /// Forgets questions whose call is over.
    pub fn forget(&self, ids: &[String]) {
        let mut questions = self.locked(&self.questions);
        for id in ids {
            questions.remove(id);
        }
    }

    /// Notes a subscription to what an upstream calls `original`; `None` if there are too many, or no room
    /// for its text among that of all, else whether it is new.
    pub fn subscribe(
        &self,
        upstream: &Arc<str>,
        original: &Arc<str>,
        served: &Arc<str>,
        texts: &Arc<Shares>,
    ) -> Option<bool> {
        let mut uris = self.locked(&self.uris);
        let key = (Arc::clone(upstream), Arc::clone(original));
        if uris.len() >= MAX_URIS && !uris.contains_key(&key) {
            return None;
        }
        let share = texts.take(self.owner, original.len() + served.len())?;
        let subscribed = Subscribed { served: Arc::clone(served), _share: share };
        let new = uris.insert(key, subscribed).is_none();
        drop(uris);
        self.changed.notify_one();
        Some(new)
    }

    /// Ends a subscription; whether there was one.
    pub fn unsubscribe(&self, upstream: &Arc<str>, original: &Arc<str>) -> bool {
        let was = self.locked(&self.uris).remove(&(Arc::clone(upstream), Arc::clone(original)));
        self.changed.notify_one();
        was.is_some()
    }

    /// What the client calls a resource that it is subscribed to.
    pub fn served_uri(&self, upstream: &Arc<str>, original: &Arc<str>) -> Option<Arc<str>> {
        let uris = self.locked(&self.uris);
        let served =
            uris.get(&(Arc::clone(upstream), Arc::clone(original))).map(|one| Arc::clone(&one.served));
        // Its client may have subscribed to it while messages passed.
        served.or_else(|| self.passed().then(|| Arc::clone(original)))
    }

    /// Resources of an upstream that the client wants to hear of.
    pub fn uris_at(&self, upstream: &str) -> Vec<Arc<str>> {
        let uris = self.locked(&self.uris);
        uris.keys().filter(|(name, _)| **name == *upstream).map(|(_, uri)| Arc::clone(uri)).collect()
    }

    /// Opens the client's stream: what is pushed from now on. An earlier one ends.
    pub fn listen(&self, responses: ResponsePipeline) -> mpsc::Receiver<Word> {
        let (sender, receiver) = mpsc::channel(MAX_PUSHED);
        // Before there is anybody to be told something, it is known what they may be told.
        *self.locked(&self.responses) = Some(responses);
        *self.locked(&self.stream) = Some(sender);
        receiver
    }

    /// Who listens, if somebody has.
    pub fn responses(&self) -> Option<ResponsePipeline> {
        self.locked(&self.responses).clone()
    }

    /// Whether the client has a stream open.
    pub fn is_listening(&self) -> bool {
        let open = self.locked(&self.stream).as_ref().is_some_and(|stream| !stream.is_closed());
        open && !self.replay.as_ref().is_some_and(|replay| replay.is_deserted())
    }

    /// Says something on the client's stream.
    ///
    /// # Errors
    /// [`Untold`].
    pub fn push(&self, word: Word) -> Result<(), Untold> {
        let stream = self.locked(&self.stream);
        stream.as_ref().ok_or(Untold::Nobody)?.try_send(word).map_err(|error| match error {
            TrySendError::Full(_) => Untold::Full,
            TrySendError::Closed(_) => Untold::Nobody,
        })
    }

    /// Ends the session: calls are cancelled, its stream ends. Gives the upstream sessions that are left to end.
    pub fn end(&self) -> Vec<Arc<UpstreamSession>> {
        self.over.store(true, Ordering::Release);
        for call in self.locked(&self.calls).iter() {
            call.cancel();
        }
        self.locked(&self.questions).clear();
        *self.locked(&self.stream) = None;
        self.changed.notify_one();
        self.locked(&self.upstream_sessions).drain().filter_map(|(_, own)| own.upstream_session).collect()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
