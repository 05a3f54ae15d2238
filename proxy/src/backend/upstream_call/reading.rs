//! One exchange of an upstream call: under way, then its answer, message by message, whatever form it comes in.

use super::UpstreamTarget;
use super::server_message::{Arrived, Framed, ServerMessage, Unread};
use crate::backend::forward::{self, Exchange, Failure, FailureScope, Patience, UpstreamRequest, malformed};
use crate::backend::upstreams::answer_class::{Class, challenged, classify, not_now};
use crate::backend::upstreams::dns::Resolver;
use crate::offload::{FREE_BYTES, INLINE_BYTES, LONGEST_BYTES, OffloadQueue, no_room, room_for};
use crate::pieces::Pieces;
use crate::shares::Share;
use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};
use portunus_config::Upstream;
use portunus_filters::Challenge;
use portunus_filters::mcp::sse::Splitter;
use portunus_filters::{Denial, Kind, Reason};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Largest body of a refusal that is looked at.
const MAX_REFUSAL_BYTES: usize = 256 * 1024;
/// How long the end of a stream is waited for once its answer is there, to keep the connection.
const END_WITHIN: Duration = Duration::from_secs(1);

type Sending = Pin<Box<dyn Future<Output = Result<Exchange, Failure>> + Send>>;

/// An exchange under way.
pub(super) enum ExchangeState {
    /// The head of the answer is waited for.
    Sending(Sending, Kind),
    /// The answer is read.
    Reading(Box<Reading>),
    /// Nothing is under way.
    Idle,
}

/// An answer whose head has arrived.
pub(crate) struct Reading {
    exchange: Exchange,
    body: Body,
    status: StatusCode,
    /// The body is complete.
    ended: bool,
    resume: Resume,
    /// Of the last event, where it is not `message`.
    event_name: Option<Box<[u8]>>,
    upstream: Arc<Upstream>,
    /// What a large message is waited for.
    aside: Option<Aside>,
    /// Held while a message arrives that is not short; then the message has it.
    room: Option<Share>,
}

/// What is waited for before more of an answer is read.
type Aside = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Done {
    /// There is room for a message that is large.
    Room(Share),
    /// A large message was read.
    Read(Box<Arrived>),
}

/// A stream whose server gives longer ids to its events cannot be taken up again.
const MAX_EVENT_ID: usize = 1024;

/// Where a broken stream goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resume {
    /// The id of the last event that had one.
    pub(crate) last_event_id: Option<Vec<u8>>,
    /// How long the server wants to be left alone.
    pub(crate) retry: Option<Duration>,
}

enum Body {
    /// One message.
    Json(Pieces),
    /// One message an event.
    Events(Box<Splitter>),
    /// What a 4xx says: a message, or anything else.
    Refusal(Pieces),
    /// Nothing that is read.
    Nothing,
}

impl ExchangeState {
    /// Sends `request`; nothing leaves before the first [`ExchangeState::next`].
    pub(super) fn begin(request: UpstreamRequest, resolver: &Arc<Resolver>, sent: Kind) -> ExchangeState {
        ExchangeState::Sending(Box::pin(forward::send(request, Arc::clone(resolver))), sent)
    }

    /// The next message of the answer; `None` at its end. Safe to cancel.
    pub(super) async fn next(
        &mut self,
        upstream: &Arc<Upstream>,
        patience: Patience,
    ) -> Result<Option<ServerMessage>, Failure> {
        if let ExchangeState::Sending(sending, sent) = self {
            let exchange = sending.as_mut().await?;
            *self = ExchangeState::Reading(Box::new(Reading::begin(exchange, upstream, *sent)?));
        }
        match self {
            ExchangeState::Reading(reading) => reading.next(patience).await,
            ExchangeState::Sending(..) | ExchangeState::Idle => Ok(None),
        }
    }

    /// The answer that is read.
    pub(super) fn reading(&self) -> Option<&Reading> {
        match self {
            ExchangeState::Reading(reading) => Some(reading),
            ExchangeState::Sending(..) | ExchangeState::Idle => None,
        }
    }

    /// The status of a 4xx answer.
    pub(super) fn refusal(&self) -> Option<StatusCode> {
        self.reading().map(Reading::status).filter(StatusCode::is_client_error)
    }

    /// Lets a connection go whose answer is complete.
    pub(super) fn finish(&mut self) {
        if let ExchangeState::Reading(reading) = std::mem::replace(self, ExchangeState::Idle) {
            reading.finish();
        }
    }
}

impl Reading {
    /// Begins to read the answer to a message of the kind `sent`.
    ///
    /// # Errors
    /// [`Failure`] for what is no MCP answer.
    pub(crate) fn begin(
        exchange: Exchange,
        upstream: &Arc<Upstream>,
        sent: Kind,
    ) -> Result<Reading, Failure> {
        let (head, status) = (&exchange.head, exchange.head.status);
        if let Some(denial) = not_now(head) {
            let scope = if status.is_server_error() { FailureScope::Failing } else { FailureScope::Unknown };
            let cause = format!("{} (HTTP {})", denial.detail, status.as_u16());
            return Err(Failure { cause, pending: false, scope, ..Failure::from(denial) });
        }
        let body = match classify(head, sent, &upstream.credentials) {
            Class::Denied(denial, cause) => {
                let failing = denial.reason == Reason::UpstreamUnavailable;
                let scope = if failing { FailureScope::Failing } else { FailureScope::Unknown };
                return Err(Failure { cause, pending: false, scope, ..Failure::from(denial) });
            }
            _ if challenged(head) => {
                let fields =
                    head.headers.get_all(WWW_AUTHENTICATE).iter().map(|field| field.as_bytes().into());
                let challenge = Challenge { status: status.as_u16(), fields: fields.collect() };
                let denial =
                    Denial::new(Reason::UpstreamUnauthorized, "the server refused the client's credentials");
                return Err(Failure { pending: false, ..denial.challenged(challenge).into() });
            }
            _ if status.is_client_error() => Body::Refusal(Pieces::default()),
            Class::Events => Body::Events(Box::new(Splitter::new(LONGEST_BYTES))),
            Class::Json { .. } => Body::Json(Pieces::default()),
            Class::Opaque | Class::Bare if sent == Kind::Request || sent == Kind::Stream => {
                return Err(malformed("the server's answer is compressed, which it was not asked for"));
            }
            Class::Opaque | Class::Bare => Body::Nothing,
        };
        let mut exchange = exchange;
        if sent == Kind::Stream {
            // They are of no more use, and the stream may be there for days.
            exchange.head.headers = HeaderMap::new();
        }
        Ok(Reading {
            exchange,
            body,
            status,
            ended: false,
            resume: Resume::default(),
            event_name: None,
            upstream: Arc::clone(upstream),
            aside: None,
            room: None,
        })
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers of the answer.
    pub(crate) fn headers(&self) -> &http::HeaderMap {
        &self.exchange.head.headers
    }

    /// Where the stream can be resumed.
    pub(crate) fn resume(&self) -> &Resume {
        &self.resume
    }

    /// What the event of the last message is called, where that is not `message`.
    pub(crate) fn event_name(&self) -> Option<&[u8]> {
        self.event_name.as_deref()
    }

    /// The next message; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] if it breaks off, is too large, or does not come in time.
    pub(crate) async fn next(&mut self, patience: Patience) -> Result<Option<ServerMessage>, Failure> {
        loop {
            if self.aside.is_some()
                && let Some(message) = self.wait_aside(patience).await?
            {
                return Ok(Some(message));
            }
            if let Some(framed) = self.take()? {
                if framed.len() > INLINE_BYTES {
                    self.aside = Some(self.read_aside(framed));
                } else if let Some(message) = self.read_here(framed) {
                    return Ok(Some(message));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            let length = self.exchange.head.framing.length();
            if let Some(bytes) = room_for(self.held_bytes(), length, self.most_held(), self.room.as_ref()) {
                self.aside = Some(self.make_room(bytes));
                continue;
            }
            match self.chunk(patience).await? {
                Some(chunk) => self.push(chunk)?,
                None => self.ended = true,
            }
        }
    }

    /// Waits for what has to be done first; gives the message that it was done for.
    async fn wait_aside(&mut self, patience: Patience) -> Result<Option<ServerMessage>, Failure> {
        let Some(aside) = &mut self.aside else { return Ok(None) };
        let done = match patience.until {
            None => aside.await,
            Some(until) => tokio::time::timeout_at(until, aside)
                .await
                .map_err(|_| Failure { pending: false, ..no_room().into() })?,
        };
        self.aside = None;
        Ok(match done {
            Done::Room(room) => {
                match &mut self.body {
                    Body::Json(pieces) | Body::Refusal(pieces) => pieces.plan(room.amount()),
                    Body::Events(splitter) => splitter.plan(room.amount()),
                    Body::Nothing => {}
                }
                self.room = Some(room);
                None
            }
            Done::Read(arrived) => self.arrived(*arrived),
        })
    }

    fn read_here(&mut self, framed: Framed) -> Option<ServerMessage> {
        let (bytes, room) = (framed.len(), self.room.take());
        self.arrived(framed.read().holding(room, bytes))
    }

    /// Until it is read, a message keeps all the room that was taken for it: as many as there is room for wait for the
    /// turn of their upstream, and no other arrives meanwhile.
    fn read_aside(&mut self, framed: Framed) -> Aside {
        let (queue, bytes, room) = (self.offload(), framed.len(), self.room.take());
        Box::pin(async move {
            let arrived = queue.run(bytes, move || framed.read()).await;
            Done::Read(Box::new(arrived.holding(room, bytes)))
        })
    }

    fn make_room(&self, bytes: usize) -> Aside {
        let queue = self.offload();
        let owner = self.exchange.checkout.owner();
        Box::pin(async move { Done::Room(queue.room(owner, bytes).await) })
    }

    fn offload(&self) -> OffloadQueue {
        self.exchange.checkout.offload().clone()
    }

    /// True if a part of a message has come, and not its end.
    pub(crate) fn is_amid_message(&self) -> bool {
        self.held_bytes() > 0 || self.room.is_some() || self.aside.is_some()
    }

    /// Bytes of a message that is not complete.
    fn held_bytes(&self) -> usize {
        match &self.body {
            Body::Json(pieces) | Body::Refusal(pieces) => pieces.len(),
            Body::Events(splitter) => splitter.remainder().len(),
            Body::Nothing => 0,
        }
    }

    /// Most bytes of a message that are held.
    fn most_held(&self) -> usize {
        if matches!(self.body, Body::Refusal(_)) { MAX_REFUSAL_BYTES } else { LONGEST_BYTES }
    }

    /// Takes note of what an event says of the stream; gives its message, if somebody is to have it.
    fn arrived(&mut self, arrived: Arrived) -> Option<ServerMessage> {
        if let Some(id) = arrived.event_id {
            self.resume.last_event_id = Some(id).filter(|id| (1..=MAX_EVENT_ID).contains(&id.len()));
        }
        self.resume.retry = arrived.retry.or(self.resume.retry);
        let message = arrived.message?;
        if let Err(Unread::Notification) = message.content {
            let (upstream, bytes) = (&*self.upstream.name, message.bytes.len());
            tracing::warn!(upstream, bytes, "a notification that is too long was dropped");
            return None;
        }
        self.event_name = arrived.event_name;
        Some(message)
    }

    /// The message that is complete, if there is one.
    fn take(&mut self) -> Result<Option<Framed>, Failure> {
        match &mut self.body {
            Body::Events(splitter) => {
                let next = splitter.next_event();
                let event = next.map_err(|_| malformed("the server sent an event that is too large"))?;
                Ok(event.map(Framed::Event))
            }
            Body::Json(pieces) | Body::Refusal(pieces) if self.ended && !pieces.is_empty() => {
                Ok(Some(Framed::Body(std::mem::take(pieces).into_bytes())))
            }
            Body::Json(_) | Body::Refusal(_) | Body::Nothing => Ok(None),
        }
    }

    fn push(&mut self, chunk: Bytes) -> Result<(), Failure> {
        // More than that is planned when its room is there.
        let expected = self.exchange.head.framing.expected_bytes(FREE_BYTES);
        match &mut self.body {
            Body::Events(splitter) => splitter.push(&chunk),
            Body::Json(pieces) => {
                if pieces.len() + chunk.len() > LONGEST_BYTES {
                    return Err(malformed("the server's answer is too large"));
                }
                pieces.push(chunk, expected);
            }
            Body::Refusal(pieces) => {
                if pieces.len() + chunk.len() > MAX_REFUSAL_BYTES {
                    return Err(malformed("the server refused the request at too great a length"));
                }
                pieces.push(chunk, 0);
            }
            Body::Nothing => {}
        }
        Ok(())
    }

    async fn chunk(&mut self, patience: Patience) -> Result<Option<Bytes>, Failure> {
        match self.exchange.arrived() {
            Some(arrived) => arrived,
            None => self.exchange.read(patience).await,
        }
    }

    /// Lets the connection go, back into its pool if the answer was read to its end.
    ///
    /// A stream ends behind its answer: if the end is not here yet, it is waited for aside.
    pub(crate) fn finish(mut self) {
        if !self.ended
            && let Some(Ok(None)) = self.exchange.checkout.connection().and_then(|one| one.arrived())
        {
            self.ended = true;
        }
        if self.ended {
            return self.exchange.checkout.put_back();
        }
        tokio::spawn(async move {
            let rest = async {
                let connection = self.exchange.checkout.connection()?;
                while let Ok(Some(_)) = connection.read_body().await {}
                Some(())
            };
            if timeout(END_WITHIN, rest).await.is_ok() {
                self.exchange.checkout.put_back();
            }
        });
    }
}

/// The time that an upstream call may take; while somebody is asked, none of it passes.
pub(super) struct Budget {
    idle: Duration,
    until: Option<Instant>,
    paused: Option<Instant>,
}

impl Budget {
    /// The upstream's, unless what is asked has a deadline of its own.
    pub(super) fn of(place: &UpstreamTarget, deadline: Option<Duration>) -> Budget {
        let timeouts = &place.upstream.timeouts;
        let until = deadline.or(timeouts.total).map(|total| Instant::now() + total);
        Budget { idle: timeouts.idle, until, paused: None }
    }

    pub(super) fn patience(&self) -> Patience {
        match self.paused {
            Some(_) => Patience::default(),
            None => Patience { idle: Some(self.idle), until: self.until },
        }
    }

    pub(super) fn pause(&mut self) {
        self.paused.get_or_insert_with(Instant::now);
    }

    pub(super) fn resume(&mut self) {
        if let Some(paused) = self.paused.take() {
            let thought = paused.elapsed();
            self.until = self.until.map(|until| until + thought);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_people_does_not_count() {
        let start = Instant::now();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut budget = Budget { idle: second, until: Some(start + minute), paused: None };
        budget.pause();
        tokio::time::advance(10 * minute).await;
        budget.pause();
        assert!(budget.patience().until.is_none() && budget.patience().idle.is_none());
        budget.resume();
        assert_eq!(budget.patience().until, Some(start + 11 * minute));
        assert_eq!(budget.patience().idle, Some(second));
    }
}
