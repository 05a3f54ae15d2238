//! Sessions that have ended, told to every other replica.
//!
//! What is to be told waits in a bounded outbox per replica until it was taken. A replica that starts
//! knows nothing: its first message asks the others for all that they know.

use super::assertion::sha256;
use super::receive::{Verdict, in_time};
use super::relay::{PeerFailure, deliver};
use super::window::MessageKind;
use super::{Member, Peers};
use crate::backend::headers::put;
use crate::backend::upstreams::pool::CheckoutOptions;
use crate::backend::upstreams::request::Outgoing;
use crate::frontend::context::Gateway;
use crate::sealing::{Home, Purpose, Reader, Token, Writer};
use crate::tombstones::{SessionNumber, Tombstones};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// The field that says what a message with news is.
pub(super) const NEWS: &str = "portunus-news";

/// News that wait for one replica; beyond, the oldest are dropped.
const MAX_WAITING: usize = 4096;
/// News in one message, and in the answer to one that asks.
const MAX_TOLD: usize = 1024;
/// Largest answer to a message that asks: everything that a replica knows.
const MAX_ANSWER: usize = Tombstones::CAPACITY * ENTRY;
/// Number and expiry of a session.
const ENTRY: usize = 24;

/// A replica that does not take its news is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(5);

/// Largest body of a message with news.
pub const MAX_BODY: usize = MAX_TOLD * ENTRY;

/// A session that has ended, and when its id expires on the wall clock.
pub type Ended = (SessionNumber, Duration);

/// What one replica has not been told yet.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Ended>>,
    filled: Notify,
}

impl Outbox {
    /// Whether there was room without dropping the oldest.
    fn put(&self, ended: Ended) -> bool {
        let mut waiting = self.lock();
        let has_room = waiting.len() < MAX_WAITING;
        if !has_room {
            waiting.pop_front();
        }
        waiting.push_back(ended);
        self.filled.notify_one();
        has_room
    }

    fn take(&self) -> Vec<Ended> {
        let mut waiting = self.lock();
        let count = waiting.len().min(MAX_TOLD);
        waiting.drain(..count).collect()
    }

    /// Puts back what was not taken; what came meanwhile is newer.
    fn put_back(&self, ended: Vec<Ended>) {
        let mut waiting = self.lock();
        let room = MAX_WAITING.saturating_sub(waiting.len());
        ended.into_iter().rev().take(room).for_each(|one| waiting.push_front(one));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sealed statement about the body of a message with news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    from: Home,
    issued: u64,
    number: u64,
    body: [u8; 32],
    /// The sender wants to be told what the addressee knows.
    asks: bool,
}

impl Token for Envelope {
    const PURPOSE: Purpose = Purpose::Peer;
    const FORM: u8 = 4;

    fn write(&self, out: &mut Writer) {
        self.from.write(out);
        out.number(self.issued);
        out.number(self.number);
        out.bytes(&self.body);
        out.flag(self.asks);
    }

    fn read(from: &mut Reader<'_>) -> Option<Envelope> {
        Some(Envelope {
            from: Home::read(from)?,
            issued: from.number()?,
            number: from.number()?,
            body: from.array()?,
            asks: from.flag()?,
        })
    }
}

impl Peers {
    /// Tells every other replica that a session has ended before its id expires.
    /// Gives how many of them will not hear of another one for that.
    pub fn tell(&self, ended: Ended) -> u64 {
        self.members().map(|member| u64::from(!member.news.put(ended))).sum()
    }
}

/// Whether a request on the listener for peers brings news.
pub fn is_news(head: &Parts) -> bool {
    head.headers.contains_key(NEWS)
}

/// Who brings news, and of which body, before that is read: nobody else makes this replica read one.
///
/// # Errors
/// [`Verdict`].
pub fn announced(gateway: &Gateway, head: &Parts) -> Result<Envelope, Verdict> {
    let sealed = head.headers.get(NEWS).and_then(|text| text.to_str().ok());
    let binding = gateway.peers.address.binding();
    let opened = sealed.and_then(|text| Envelope::open(&gateway.estate.seals, &binding, text));
    let envelope = opened.ok_or(Verdict::Unknown)?;
    in_time(envelope.issued, gateway.clock.now())?;
    Ok(envelope)
}

/// Takes news in; gives the body of the answer.
///
/// # Errors
/// [`Verdict`].
pub fn hear(gateway: &Arc<Gateway>, envelope: &Envelope, body: &[u8]) -> Result<Bytes, Verdict> {
    let told = read(body).filter(|_| envelope.body == sha256(body)).ok_or(Verdict::Unknown)?;
    let whose = (&envelope.from, kind(told.len(), envelope.asks));
    gateway.peers.taken.take(whose, envelope.number, envelope.issued, gateway.clock.now())?;
    let known = if envelope.asks { write(&gateway.estate.sessions.ended()) } else { Bytes::new() };
    told.into_iter().for_each(|ended| take_in(gateway, ended));
    Ok(known)
}

/// Tells every other replica what it has to know, for as long as the process runs.
pub async fn run(gateway: Arc<Gateway>) {
    let mut tellers = JoinSet::new();
    for member in gateway.peers.members() {
        tellers.spawn(tell(Arc::clone(&gateway), Arc::clone(member)));
    }
    while tellers.join_next().await.is_some() {}
}

async fn tell(gateway: Arc<Gateway>, member: Arc<Member>) {
    let mut asks = true;
    loop {
        let ended = member.news.take();
        if ended.is_empty() && !asks {
            member.news.filled.notified().await;
            continue;
        }
        match send(&gateway, &member, News { ended: &ended, asks }, Instant::now() + WITHIN).await {
            Ok(known) => {
                known.into_iter().for_each(|ended| take_in(&gateway, ended));
                asks = false;
            }
            Err(failure) => {
                tracing::debug!(peer = &**member.name(), %failure, "news of ended sessions wait");
                member.news.put_back(ended);
                sleep(AGAIN).await;
            }
        }
    }
}

/// What one replica is told.
#[derive(Clone, Copy)]
pub(super) struct News<'a> {
    ended: &'a [Ended],
    /// It is asked for all that it knows.
    asks: bool,
}

/// Nothing: whether it is taken tells whether somebody is there.
pub(super) const NONE: News<'static> = News { ended: &[], asks: false };

/// Tells a replica something; gives what it knows, if it was asked.
pub(super) async fn send(
    gateway: &Gateway,
    member: &Member,
    News { ended, asks }: News<'_>,
    until: Instant,
) -> Result<Vec<Ended>, PeerFailure> {
    let body = write(ended);
    let issued = gateway.clock.now().wall.as_secs();
    let number = member.numbers.next(kind(ended.len(), asks));
    let from = gateway.peers.own().clone();
    let envelope = Envelope { from, issued, number, body: sha256(&body), asks };
    let sealed = envelope.seal(&gateway.estate.seals, &member.address.binding());
    let sealed = sealed.map_err(|oversize| PeerFailure::Refused(oversize.to_string()))?;
    let line = member.line();
    let mut head = b"POST / HTTP/1.1\r\n".to_vec();
    put(&mut head, "host", line.upstream.url.authority.as_bytes());
    put(&mut head, "content-type", b"application/octet-stream");
    put(&mut head, NEWS, sealed.as_bytes());
    put(&mut head, "content-length", body.len().to_string().as_bytes());
    head.extend_from_slice(b"\r\n");
    let mut exchange =
        deliver(gateway, &line, &Outgoing::new(head, body), CheckoutOptions::default(), until).await?;
    let lost = |why: &str| PeerFailure::Lost(why.to_owned());
    if !exchange.head.status.is_success() {
        return Err(PeerFailure::Refused(format!("HTTP {}", exchange.head.status.as_u16())));
    }
    let mut answer = BytesMut::new();
    let connection = exchange.checkout.connection().ok_or_else(|| lost("no connection"))?;
    loop {
        let part = timeout_at(until, connection.read_body()).await.map_err(|_| lost("not in time"))?;
        match part.map_err(|fault| lost(&fault.to_string()))? {
            Some(part) if answer.len() + part.len() <= MAX_ANSWER => answer.extend_from_slice(&part),
            Some(_) => return Err(lost("more than a replica can know")),
            None => break,
        }
    }
    exchange.checkout.put_back();
    read(&answer).ok_or_else(|| lost("no list of sessions"))
}

fn kind(told: usize, asks: bool) -> MessageKind {
    if told == 0 && !asks { MessageKind::Pulse } else { MessageKind::News }
}

fn take_in(gateway: &Arc<Gateway>, (session, until): Ended) {
    gateway.estate.sessions.ended_elsewhere(session, until, gateway);
}

fn write(ended: &[Ended]) -> Bytes {
    let mut body = BytesMut::with_capacity(ended.len() * ENTRY);
    for (session, until) in ended {
        body.extend_from_slice(session);
        body.extend_from_slice(&until.as_secs().to_be_bytes());
    }
    body.freeze()
}

fn read(body: &[u8]) -> Option<Vec<Ended>> {
    let (entries, rest) = body.as_chunks::<ENTRY>();
    let entry = |entry: &[u8; ENTRY]| {
        let (session, until) = entry.split_first_chunk::<16>()?;
        let until = u64::from_be_bytes(*until.first_chunk()?);
        Some((*session, Duration::from_secs(until)))
    };
    rest.is_empty().then(|| entries.iter().map(entry).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(number: u128) -> Ended {
        (number.to_be_bytes(), Duration::from_secs(1_700_000_000))
    }

    #[test]
    fn what_was_not_taken_waits_in_order_and_only_so_much_of_it() {
        let outbox = Outbox::default();
        assert!((0..3).all(|number| outbox.put(ended(number))));
        let taken = outbox.take();
        outbox.put(ended(3));
        outbox.put_back(taken);
        assert_eq!(outbox.take(), [ended(0), ended(1), ended(2), ended(3)]);

        let dropped = (0..MAX_WAITING as u128 + 1).filter(|number| !outbox.put(ended(*number))).count();
        assert_eq!(dropped, 1);
        let taken = outbox.take();
        assert_eq!((taken.len(), taken[0]), (MAX_TOLD, ended(1)), "the oldest is dropped");
        assert!((0..MAX_TOLD as u128 - 1).all(|number| outbox.put(ended(number))));
        outbox.put_back(taken);
        assert_eq!(outbox.lock().len(), MAX_WAITING);
        assert_eq!(outbox.take()[0], ended(MAX_TOLD as u128), "of what comes back, the newest stays");
    }

    #[test]
    fn news_read_back_as_they_were_written() {
        let told = vec![ended(1), ended(2)];
        let body = write(&told);
        assert_eq!(read(&body), Some(told));
        assert_eq!(read(&body[1..]), None);
        assert_eq!(read(b""), Some(vec![]));
    }
}
