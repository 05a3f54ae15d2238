//! Events of a session's streams, kept for a client that comes back for what it missed.
//!
//! A stream is written through a [`Pen`], by a task that does not depend on a connection. Each event is
//! kept, and handed to the one [`Tail`] that listens; a new tail begins with what was kept since the
//! event that its client saw last, and takes the place of the former. The oldest events of the session
//! make room for new ones. Nothing here spawns or knows HTTP.

mod event_id;

use event_id::{EventId, OWN, Place};
use portunus_config::ReplayRules;
use portunus_filters::Released;
use portunus_filters::mcp::Id;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

/// What the id of an event takes at most where that of its request is short.
const ID_BYTES: usize = 128;

/// What is kept of one session.
pub struct Replay {
    rules: ReplayRules,
    /// Tells the ids of this table from those of others.
    table: u32,
    /// Events that all sessions keep.
    all: Arc<AtomicUsize>,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// Of all streams, the oldest first.
    kept: VecDeque<Event>,
    bytes: usize,
    streams: HashMap<u64, StreamProgress>,
    /// Streams of calls so far.
    calls: u64,
    /// Tails so far.
    tails: u64,
}

/// One stream: it is forgotten when nothing more comes and nothing is left.
struct StreamProgress {
    request: Option<Id>,
    /// Somebody may still write.
    open: bool,
    answered: bool,
    written: u64,
    kept: usize,
    tail: Option<(u64, mpsc::Sender<Event>)>,
    /// Nobody listens, and the call was let go on.
    let_alone: bool,
    /// When the last tail left.
    left: Instant,
    /// Told when a tail comes or leaves.
    moved: Arc<Notify>,
}

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Event {
    stream: u64,
    number: u64,
    /// What its client will show to have seen it.
    pub id: Arc<str>,
    /// The message.
    pub message: Released,
    /// It is the answer: the stream ends with it.
    pub last: bool,
}

impl Event {
    /// What keeping it takes: the request's id, which its client chose, is part of its own.
    fn bytes(&self) -> usize {
        self.message.len() + self.id.len().saturating_sub(ID_BYTES)
    }
}

/// The right to write one stream. Dropped without an answer, the stream of a call is forgotten.
pub struct Pen {
    replay: Arc<Replay>,
    stream: u64,
    moved: Arc<Notify>,
}

/// One client's way through a stream. At most one tail listens to a stream.
pub struct Tail {
    replay: Arc<Replay>,
    stream: u64,
    number: u64,
    kept: VecDeque<Event>,
    live: mpsc::Receiver<Event>,
    /// An id by which the client can come back before it has seen an event.
    pub start: String,
    /// Events before this tail are lost to its client.
    pub missed: bool,
}

/// Why a stream cannot be taken up again.
#[derive(Debug, PartialEq)]
pub enum Lost {
    /// What is shown is no id of ours, or nothing follows it.
    Nothing,
    /// The answer to this request, and how an event is called that tells so.
    Answer(Id, String),
}

impl StreamProgress {
    fn new(request: Option<Id>) -> StreamProgress {
        StreamProgress {
            request,
            open: false,
            answered: false,
            written: 0,
            kept: 0,
            tail: None,
            let_alone: false,
            left: Instant::now(),
            moved: Arc::default(),
        }
    }

    fn is_done(&self) -> bool {
        !self.open && self.kept == 0
    }

    fn is_left(&self) -> bool {
        self.open && self.tail.is_none()
    }
}

impl Pages {
    /// What is kept of a stream behind the event of a number.
    fn after(&self, stream: u64, seen: u64) -> impl Iterator<Item = &Event> {
        self.kept.iter().filter(move |event| event.stream == stream && event.number > seen)
    }
}

impl Replay {
    /// An empty table; `all` counts what it keeps, together with others.
    pub fn new(rules: ReplayRules, table: u32, all: Arc<AtomicUsize>) -> Arc<Replay> {
        let pages = Pages { streams: HashMap::from([(OWN, StreamProgress::new(None))]), ..Pages::default() };
        Arc::new(Replay { rules, table, all, pages: Mutex::new(pages) })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the stream of a call, with the tail of its client.
    pub fn call(self: &Arc<Self>, request: Option<&Id>) -> (Pen, Tail) {
        let mut pages = self.pages();
        pages.calls += 1;
        let stream = pages.calls;
        let mut progress = StreamProgress::new(request.cloned());
        progress.open = true;
        let moved = Arc::clone(&progress.moved);
        pages.streams.insert(stream, progress);
        let tail = self.attach(&mut pages, stream, 0);
        (Pen { replay: Arc::clone(self), stream, moved }, tail)
    }

    /// The pen of the stream for what is said outside of calls; `None` while somebody else has it.
    pub fn own_pen(self: &Arc<Self>) -> Option<Pen> {
        let mut pages = self.pages();
        let progress = pages.streams.get_mut(&OWN).filter(|progress| !progress.open)?;
        progress.open = true;
        let moved = Arc::clone(&progress.moved);
        Some(Pen { replay: Arc::clone(self), stream: OWN, moved })
    }

    /// What is said outside of calls from now on.
    pub fn own(self: &Arc<Self>) -> Tail {
        let mut pages = self.pages();
        let written = pages.streams.get(&OWN).map_or(0, |progress| progress.written);
        self.attach(&mut pages, OWN, written)
    }

    /// What followed the event that a client shows, and what follows it from now on.
    ///
    /// Outside of calls there is always something that may follow: where nothing is known of the
    /// event, a new tail begins here, and says what was missed.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn resume(self: &Arc<Self>, shown: &str) -> Result<Tail, Lost> {
        let shown = EventId::parse(shown).ok_or(Lost::Nothing)?;
        let seen = match shown.place {
            Place::Event(number) | Place::Behind(number, _) => number,
            Place::End => return Err(Lost::Nothing),
        };
        let mut pages = self.pages();
        let progress = pages.streams.get(&shown.stream);
        let known = progress.filter(|progress| self.table == shown.table && seen <= progress.written);
        let follows =
            known.is_some_and(|progress| progress.open) || pages.after(shown.stream, seen).next().is_some();
        match (known.is_some(), shown.stream) {
            (true, OWN) => Ok(self.attach(&mut pages, OWN, seen)),
            (true, stream) if follows => Ok(self.attach(&mut pages, stream, seen)),
            (_, OWN) => {
                drop(pages);
                let mut anew = self.own();
                anew.missed = true;
                Ok(anew)
            }
            (_, stream) => Err(shown.request.map_or(Lost::Nothing, |request| {
                Lost::Answer(request.clone(), self.spell(stream, Place::End, Some(request)))
            })),
        }
    }

    /// Lets a call go on that nobody listens to any more, if fewer than `most` of them do; else gives its
    /// request.
    pub fn superfluous(&self, stream: u64, most: usize) -> Option<Id> {
        let mut pages = self.pages();
        let alone =
            pages.streams.values().filter(|progress| progress.let_alone && progress.is_left()).count();
        let progress =
            pages.streams.get_mut(&stream).filter(|progress| stream != OWN && progress.is_left())?;
        progress.let_alone |= alone < most;
        if progress.let_alone { None } else { progress.request.clone() }
    }

    /// Whether another tail has taken the place of one.
    fn is_replaced(&self, stream: u64, number: u64) -> bool {
        let pages = self.pages();
        let tail = pages.streams.get(&stream).and_then(|progress| progress.tail.as_ref());
        tail.is_some_and(|(newest, _)| *newest != number)
    }

    /// Whether what is said outside of calls is kept, and nobody listens.
    pub fn is_deserted(&self) -> bool {
        self.pages().streams.get(&OWN).is_some_and(|progress| progress.open && progress.tail.is_none())
    }

    fn attach(self: &Arc<Self>, pages: &mut Pages, stream: u64, seen: u64) -> Tail {
        pages.tails += 1;
        let number = pages.tails;
        let kept: VecDeque<Event> = pages.after(stream, seen).cloned().collect();
        // One event is on its way at a time: whoever writes waits for a slow client as it would
        // without this table.
        let (sender, live) = mpsc::channel(1);
        let mut missed = false;
        let mut request = None;
        if let Some(progress) = pages.streams.get_mut(&stream) {
            missed = progress.written - seen > kept.len() as u64;
            request.clone_from(&progress.request);
            if progress.open || stream == OWN {
                progress.tail = Some((number, sender));
                progress.let_alone = false;
                progress.moved.notify_one();
            }
        }
        let start = self.spell(stream, Place::Behind(seen, number), request);
        Tail { replay: Arc::clone(self), stream, number, kept, live, start, missed }
    }

    /// Keeps a message; gives the event, and who waits for it.
    fn keep(
        &self,
        stream: u64,
        message: Released,
        last: bool,
    ) -> Option<(Event, Option<(u64, mpsc::Sender<Event>)>)> {
        let mut pages = self.pages();
        let progress = pages.streams.get_mut(&stream)?;
        progress.written += 1;
        progress.answered |= last;
        let place = if last { Place::End } else { Place::Event(progress.written) };
        let id = self.spell(stream, place, progress.request.clone()).into();
        let event = Event { stream, number: progress.written, id, message, last };
        let tail = progress.tail.clone();
        if event.bytes() <= self.rules.bytes {
            progress.kept += 1;
            pages.bytes += event.bytes();
            pages.kept.push_back(event.clone());
            self.all.fetch_add(1, Ordering::Relaxed);
            self.make_room(&mut pages);
        }
        Some((event, tail))
    }

    fn make_room(&self, pages: &mut Pages) {
        while pages.kept.len() > self.rules.events || pages.bytes > self.rules.bytes {
            let Some(oldest) = pages.kept.pop_front() else { return };
            self.all.fetch_sub(1, Ordering::Relaxed);
            pages.bytes -= oldest.bytes();
            if let Some(progress) = pages.streams.get_mut(&oldest.stream) {
                progress.kept -= 1;
                if progress.is_done() && oldest.stream != OWN {
                    pages.streams.remove(&oldest.stream);
                }
            }
        }
    }

    fn forget(&self, pages: &mut Pages, stream: u64) {
        pages.streams.remove(&stream);
        let (forgotten, kept): (VecDeque<Event>, _) =
            std::mem::take(&mut pages.kept).into_iter().partition(|event| event.stream == stream);
        pages.kept = kept;
        pages.bytes -= forgotten.iter().map(Event::bytes).sum::<usize>();
        self.all.fetch_sub(forgotten.len(), Ordering::Relaxed);
    }

    fn spell(&self, stream: u64, place: Place, request: Option<Id>) -> String {
        EventId { table: self.table, stream, place, request }.to_string()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let kept = self.pages().kept.len();
        self.all.fetch_sub(kept, Ordering::Relaxed);
    }
}

impl Pen {
    /// Writes a message, as soon as who listens has taken the one before.
    pub async fn write(&self, message: &Released) {
        if let Some((event, Some(tail))) = self.replay.keep(self.stream, message.detached(), false) {
            self.hand(tail, event).await;
        }
    }

    /// Gives an event to who listens. Who has left finds it in the table, coming back; so does another
    /// who has taken the place of one that takes nothing any more, and is not made to wait for that.
    async fn hand(&self, (number, tail): (u64, mpsc::Sender<Event>), event: Event) {
        let mut handed = pin!(tail.send(event));
        loop {
            tokio::select! {
                biased;
                _ = &mut handed => return,
                () = self.moved.notified() => {
                    if self.replay.is_replaced(self.stream, number) {
                        return;
                    }
                }
            }
        }
    }

    /// Writes the answer, with which the stream ends. Of one that is too long to be kept, `instead` is.
    pub async fn answer(&self, message: &Released, instead: impl FnOnce(&Id) -> Released) {
        let long = message.len() > self.replay.rules.bytes;
        let kept = match self.request().filter(|_| long) {
            Some(request) => instead(&request),
            None => message.detached(),
        };
        if let Some((event, Some(tail))) = self.replay.keep(self.stream, kept, true) {
            let message = if long { message.clone() } else { event.message.clone() };
            self.hand(tail, Event { message, ..event }).await;
        }
    }

    fn request(&self) -> Option<Id> {
        self.replay.pages().streams.get(&self.stream)?.request.clone()
    }

    /// Returns when nobody has listened for `patience`.
    pub async fn deserted(&self, patience: Duration) {
        loop {
            let until = self.left().map(|left| left + patience);
            if until.is_some_and(|until| until <= Instant::now()) {
                return;
            }
            let elapsed = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.moved.notified() => {}
                () = elapsed => {}
            }
        }
    }

    /// Since when nobody listens.
    fn left(&self) -> Option<Instant> {
        let pages = self.replay.pages();
        let progress = pages.streams.get(&self.stream)?;
        progress.tail.is_none().then_some(progress.left)
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        let mut pages = self.replay.pages();
        let Some(progress) = pages.streams.get_mut(&self.stream) else { return };
        progress.open = false;
        progress.tail = None;
        if self.stream != OWN && (!progress.answered || progress.is_done()) {
            self.replay.forget(&mut pages, self.stream);
        }
    }
}

impl Tail {
    /// Whether it is what is said outside of calls.
    pub fn is_own(&self) -> bool {
        self.stream == OWN
    }

    /// Which stream it is of.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// The next event; `None` once the stream is over, or another tail has taken its place.
    pub async fn next(&mut self) -> Option<Event> {
        // A message goes to one stream only (2025-11-25 transports, "Multiple Connections").
        if !self.kept.is_empty() && self.replay.is_replaced(self.stream, self.number) {
            return None;
        }
        match self.kept.pop_front() {
            Some(event) => Some(event),
            None => self.live.recv().await,
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut pages = self.replay.pages();
        let Some(progress) = pages.streams.get_mut(&self.stream) else { return };
        if progress.tail.as_ref().is_some_and(|(number, _)| *number == self.number) {
            progress.tail = None;
            progress.left = Instant::now();
            progress.moved.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
