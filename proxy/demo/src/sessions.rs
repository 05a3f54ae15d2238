//! Sessions of the legacy era: who they are, what runs in them, what they subscribed to.

use super::tools::Elicited;
use super::voice::Level;
use super::world::{Change, hex};
use portunus_filters::mcp::Revision;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// Sessions held; the one that was idle longest makes room.
const MAX_SESSIONS: usize = 1024;
/// A session that did nothing for so long is forgotten.
const MAX_IDLE: Duration = Duration::from_secs(30 * 60);
/// Calls of one session at once.
const MAX_CALLS: usize = 64;
/// Subscriptions of one session.
const MAX_SUBSCRIPTIONS: usize = 64;
/// Bytes of a URI that is subscribed to.
pub(super) const MAX_URI_BYTES: usize = 1024;

/// The sessions of one server, by their id.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Begins a session; `None` if the system has no random bytes for its id.
    pub(super) fn open(&self, revision: Revision, elicits: bool, now: Instant) -> Option<String> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let id = hex(&bytes);
        let mut table = self.table();
        table.retain(|_, session| {
            let stays = session.idle(now) < MAX_IDLE;
            if !stays {
                session.end();
            }
            stays
        });
        if table.len() >= MAX_SESSIONS {
            let oldest = table.iter().max_by_key(|(_, session)| session.idle(now)).map(|(id, _)| id.clone());
            if let Some(session) = oldest.and_then(|id| table.remove(&id)) {
                session.end();
            }
        }
        table.insert(id.clone(), Arc::new(Session::new(revision, elicits, now)));
        Some(id)
    }

    /// The session of that id, unless it ended; this counts as its use.
    pub(super) fn find(&self, id: &str, now: Instant) -> Option<Arc<Session>> {
        let mut table = self.table();
        if table.get(id)?.idle(now) >= MAX_IDLE {
            table.remove(id)?.end();
            return None;
        }
        let session = Arc::clone(table.get(id)?);
        session.touch(now);
        Some(session)
    }

    /// Ends a session with all that runs in it; whether there was one.
    pub(super) fn end(&self, id: &str) -> bool {
        let session = self.table().remove(id);
        session.inspect(|session| session.end()).is_some()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session.
pub(super) struct Session {
    /// What `initialize` agreed on.
    pub(super) revision: Revision,
    /// Whether the client can ask its user.
    pub(super) elicits: bool,
    state: Mutex<State>,
    /// Which GET stream is the current one; every change ends the streams before it.
    stream: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    used: Option<Instant>,
    level: Option<Level>,
    subscriptions: HashSet<String>,
    /// Running calls by their id as JSON text; a dropped sender cancels the call.
    calls: HashMap<String, oneshot::Sender<()>>,
    questions: HashMap<String, oneshot::Sender<Elicited>>,
    asked: u64,
}

impl Session {
    fn new(revision: Revision, elicits: bool, now: Instant) -> Session {
        let state = Mutex::new(State { used: Some(now), ..State::default() });
        Session { revision, elicits, state, stream: watch::Sender::new(0) }
    }

    /// Notes that the session is in use.
    pub(super) fn touch(&self, now: Instant) {
        self.state().used = Some(now);
    }

    /// From which level on the client wants log lines; `None` until it said so.
    pub(super) fn level(&self) -> Option<Level> {
        self.state().level
    }

    /// Sets from which level on the client wants log lines.
    pub(super) fn set_level(&self, level: Level) {
        self.state().level = Some(level);
    }

    /// Subscribes to a resource; whether there was room for it.
    pub(super) fn subscribe(&self, uri: &str) -> bool {
        let mut state = self.state();
        if state.subscriptions.len() >= MAX_SUBSCRIPTIONS && !state.subscriptions.contains(uri) {
            return false;
        }
        state.subscriptions.insert(uri.to_owned());
        true
    }

    /// Ends a subscription, if there is one.
    pub(super) fn unsubscribe(&self, uri: &str) {
        self.state().subscriptions.remove(uri);
    }

    /// Whether the client is to be told of a change.
    pub(super) fn wants(&self, change: &Change) -> bool {
        match change {
            Change::Tools | Change::Resources => true,
            Change::Updated(uri) => self.state().subscriptions.contains(uri),
        }
    }

    /// What the client subscribed to.
    pub(super) fn subscriptions(&self) -> Vec<String> {
        self.state().subscriptions.iter().cloned().collect()
    }

    /// Begins a call under its id.
    ///
    /// # Errors
    /// What to tell a client that runs too many, or uses the id of a call that still runs.
    pub(super) fn begin(self: &Arc<Self>, id: String) -> Result<Call, &'static str> {
        let (cancel, cancelled) = oneshot::channel();
        let mut state = self.state();
        if state.calls.contains_key(&id) {
            return Err("a request with this id is still running");
        }
        if state.calls.len() >= MAX_CALLS {
            return Err("this session runs too many requests at once");
        }
        state.calls.insert(id.clone(), cancel);
        Ok(Call { session: Arc::clone(self), id, cancelled })
    }

    /// Cancels a call, if it still runs.
    pub(super) fn cancel(&self, id: &str) {
        self.state().calls.remove(id);
    }

    /// Makes an id for a request of the server, and the place where its answer will come.
    pub(super) fn question(&self) -> (String, oneshot::Receiver<Elicited>) {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        state.asked += 1;
        let id = format!("demo-{}", state.asked);
        state.questions.retain(|_, waiting| !waiting.is_closed());
        state.questions.insert(id.clone(), sender);
        (id, answer)
    }

    /// Hands the client's answer to whoever asked; one that nobody waits for is dropped.
    pub(super) fn answered(&self, id: &str, elicited: Elicited) {
        if let Some(waiting) = self.state().questions.remove(id) {
            waiting.send(elicited).ok();
        }
    }

    /// Opens the one GET stream: the watch changes when it has to end.
    pub(super) fn open_stream(&self) -> watch::Receiver<u64> {
        self.stream.send_modify(|generation| *generation += 1);
        self.stream.subscribe()
    }

    /// Ends streams, calls and questions.
    fn end(&self) {
        self.stream.send_modify(|generation| *generation += 1);
        let mut state = self.state();
        state.calls.clear();
        state.questions.clear();
    }

    fn idle(&self, now: Instant) -> Duration {
        self.state().used.map_or(Duration::MAX, |used| now.saturating_duration_since(used))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that the client can cancel.
pub(super) struct Call {
    session: Arc<Session>,
    id: String,
    cancelled: oneshot::Receiver<()>,
}

impl Call {
    /// Waits until the call is cancelled or its session ends.
    pub(super) async fn cancelled(&mut self) {
        // The sender is never used, only dropped.
        (&mut self.cancelled).await.ok();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.cancelled.close();
        let mut state = self.session.state();
        // After a cancellation the id may already belong to another call.
        if state.calls.get(&self.id).is_some_and(oneshot::Sender::is_closed) {
            state.calls.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVISION: Revision = Revision::V2025_11_25;

    #[test]
    fn the_session_that_was_idle_longest_makes_room() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let first = sessions.open(REVISION, false, at(0)).unwrap();
        let second = sessions.open(REVISION, false, at(1)).unwrap();
        for _ in 2..MAX_SESSIONS {
            sessions.open(REVISION, false, at(2)).unwrap();
        }
        assert!(sessions.find(&first, at(3)).is_some());
        sessions.open(REVISION, false, at(4)).unwrap();
        assert!(sessions.find(&first, at(5)).is_some());
        assert!(sessions.find(&second, at(5)).is_none());
        assert_eq!(sessions.table().len(), MAX_SESSIONS);
    }

    #[test]
    fn idle_sessions_are_forgotten() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let id = sessions.open(REVISION, false, start).unwrap();
        assert!(sessions.find(&id, start + MAX_IDLE / 2).is_some());
        assert!(sessions.find(&id, start + MAX_IDLE).is_some());
        assert!(sessions.find(&id, start + MAX_IDLE * 2).is_none());
    }

    #[tokio::test]
    async fn an_ended_session_takes_everything_with_it() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.open(REVISION, false, now).unwrap();
        let session = sessions.find(&id, now).unwrap();
        let mut stream = session.open_stream();
        let mut call = session.begin("1".to_owned()).unwrap_or_else(|error| panic!("{error}"));
        let (_, answer) = session.question();
        assert!(sessions.end(&id));
        assert!(!sessions.end(&id));
        stream.changed().await.unwrap();
        call.cancelled().await;
        assert!(answer.await.is_err());
        assert!(sessions.find(&id, now).is_none());
    }

    #[test]
    fn calls_are_bounded_and_their_ids_unique() {
        let session = Arc::new(Session::new(REVISION, false, Instant::now()));
        let calls: Vec<Call> = (0..MAX_CALLS).map(|id| session.begin(id.to_string()).ok().unwrap()).collect();
        assert!(session.begin("0".to_owned()).is_err());
        assert!(session.begin("more".to_owned()).is_err());
        session.cancel("0");
        let again = session.begin("0".to_owned());
        drop(calls);
        assert!(again.is_ok());
        assert!(session.begin("0".to_owned()).is_err());
        assert!(session.begin("1".to_owned()).is_ok());
    }

    #[test]
    fn subscriptions_are_bounded() {
        let session = Session::new(REVISION, false, Instant::now());
        assert!((0..MAX_SUBSCRIPTIONS).all(|n| session.subscribe(&n.to_string())));
        assert!(session.subscribe("0"));
        assert!(!session.subscribe("more"));
        session.unsubscribe("0");
        assert!(session.subscribe("more"));
        assert!(session.wants(&Change::Updated("more".to_owned())));
        assert!(!session.wants(&Change::Updated("0".to_owned())));
    }

    #[tokio::test]
    async fn a_new_stream_ends_the_one_before() {
        let session = Session::new(REVISION, false, Instant::now());
        let mut first = session.open_stream();
        let second = session.open_stream();
        first.changed().await.unwrap();
        assert!(!second.has_changed().unwrap());
    }
}
