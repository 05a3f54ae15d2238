//! Streams of clients that speak the transport of 2024-11-05: each is a session, from end to end.

use super::responder::Part;
use super::sessions::Session;
use crate::drain::{Phase, Phases};
use crate::frontend::context::Gateway;
use crate::frontend::estate::Estate;
use crate::sealing::{Binding, Home, LineToken, Token};
use portunus_filters::{Denial, Reason};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Streams at once.
const MAX_LINES: usize = 10_000;
/// Messages that wait for a client to take them; who has more to say waits too.
const MAX_WAITING: usize = 16;
/// Requests of one client under way, `initialize` among them.
const MAX_UNDER_WAY: usize = 1024;

/// What a stream is called.
pub type Number = [u8; 16];

/// All streams that are held here.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<Number, Arc<Line>>>);

/// One client's stream, as those see it who have something to say on it.
pub struct Line {
    /// What goes to the client.
    pub parts: mpsc::Sender<Part>,
    session: OnceLock<Arc<Session>>,
    founded: watch::Sender<bool>,
    /// An `initialize` is under way, or was answered.
    claimed: AtomicBool,
    under_way: watch::Sender<usize>,
    over: AtomicBool,
}

/// A stream, for as long as its client has it open: with it, the session ends.
pub struct OpenStream {
    gateway: Arc<Gateway>,
    number: Number,
    /// How long the id of the session could be shown again.
    lifetime: Duration,
    /// The stream.
    pub line: Arc<Line>,
    /// What goes to the client.
    pub parts: mpsc::Receiver<Part>,
}

/// A request under way, for as long as this lives.
pub struct Entry(Arc<Line>);

impl Lines {
    /// Opens a stream.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if there are too many.
    pub fn open(gateway: &Arc<Gateway>, number: Number, lifetime: Duration) -> Result<OpenStream, Denial> {
        let (sender, parts) = mpsc::channel(MAX_WAITING);
        let line = Arc::new(Line {
            parts: sender,
            session: OnceLock::new(),
            founded: watch::Sender::new(false),
            claimed: AtomicBool::new(false),
            under_way: watch::Sender::new(0),
            over: AtomicBool::new(false),
        });
        let mut lines = gateway.estate.lines.lock();
        if lines.len() >= MAX_LINES {
            return Err(Denial::new(Reason::Overloaded, "the gateway holds too many streams: try again"));
        }
        lines.insert(number, Arc::clone(&line));
        drop(lines);
        Ok(OpenStream { gateway: Arc::clone(gateway), number, lifetime, line, parts })
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Number, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token by which a query names a stream, if it names one.
pub fn named(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("session="))
}

/// The stream that a query names; `None` if it is not here, or not for this server and caller.
pub fn find(estate: &Estate, binding: &Binding<'_>, query: Option<&str>) -> Option<Arc<Line>> {
    let token = LineToken::open(&estate.seals, binding, named(query)?)?;
    let line = || estate.lines.lock().get(&token.number).cloned();
    (token.home == estate.home).then(line).flatten()
}

/// The replica that holds the stream that a query names; `None` as with [`find`].
pub fn home(estate: &Estate, binding: &Binding<'_>, query: Option<&str>) -> Option<Home> {
    LineToken::open(&estate.seals, binding, named(query)?).map(|token| token.home)
}

/// The next message for a client whose calls are answered on its stream; waits for ever for others.
pub async fn part(open_stream: &mut Option<&mut OpenStream>) -> Option<Part> {
    match open_stream {
        Some(open_stream) => open_stream.parts.recv().await,
        None => std::future::pending().await,
    }
}

/// A message that waits for such a client.
pub fn waiting(open_stream: &mut Option<&mut OpenStream>) -> Option<Part> {
    open_stream.as_mut()?.parts.try_recv().ok()
}

/// As [`Line::drained`]; never without a line.
pub async fn drained(line: Option<&Arc<Line>>, phases: &Phases) {
    match line {
        Some(line) => line.drained(phases).await,
        None => std::future::pending().await,
    }
}

impl Line {
    /// The session, once it is founded.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.get()
    }

    /// Waits until the session is founded.
    pub async fn founded(&self) -> &Arc<Session> {
        let mut founded = self.founded.subscribe();
        loop {
            if let Some(session) = self.session.get() {
                return session;
            }
            // The sender is the line's own, so that it cannot be gone.
            drop(founded.changed().await);
        }
    }

    /// Whether the caller is to found the session; nobody else is until [`Line::give_up`].
    pub fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Lets another founding be tried.
    pub fn give_up(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    /// Takes the session that was founded; whether its client is still there.
    pub fn hold(&self, session: Arc<Session>) -> bool {
        let first = self.session.set(session).is_ok();
        self.founded.send_replace(true);
        first && !self.over.load(Ordering::SeqCst)
    }

    /// Notes a request; `None` if too many are under way.
    pub fn enter(self: &Arc<Self>) -> Option<Entry> {
        let mut entered = false;
        self.under_way.send_if_modified(|count| {
            entered = *count < MAX_UNDER_WAY;
            *count += usize::from(entered);
            entered
        });
        entered.then(|| Entry(Arc::clone(self)))
    }

    /// Returns when the process leaves and no request is under way any more.
    pub async fn drained(&self, phases: &Phases) {
        phases.reached(Phase::Draining).await;
        let mut under_way = self.under_way.subscribe();
        // The sender is the line's own, so that it cannot be gone.
        drop(under_way.wait_for(|count| *count == 0).await);
    }
}

impl Entry {
    /// The stream that the answer goes to.
    pub fn line(&self) -> &Arc<Line> {
        &self.0
    }
}

impl OpenStream {
    /// What the stream is called.
    pub fn number(&self) -> Number {
        self.number
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gateway.estate.lines.lock().remove(&self.number);
        // In this order: who founds a session holds it first, and then looks whether this has ended.
        self.line.over.store(true, Ordering::SeqCst);
        if let Some(session) = self.line.session() {
            self.gateway.estate.sessions.end(session, self.lifetime, &self.gateway);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_one_stream_or_none() {
        let cases = [
            (None, None),
            (Some(""), None),
            (Some("session=a"), Some("a")),
            (Some("x=y&session=a&session=b"), Some("a")),
            (Some("session"), None),
            (Some("my_session=a"), None),
        ];
        for (query, expected) in cases {
            assert_eq!(named(query), expected, "{query:?}");
        }
    }
}
