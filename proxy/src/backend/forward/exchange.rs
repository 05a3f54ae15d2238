//! Reads the body of an answer piece by piece.

use super::{Failure, FailureScope};
use crate::backend::upstreams::pool::Checkout;
use crate::backend::upstreams::wire::Head;
use crate::offload::{no_room, room_for};
use crate::shares::Share;
use bytes::Bytes;
use http::StatusCode;
use portunus_filters::{Denial, Reason};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// An answer whose head has arrived.
pub struct Exchange {
    /// The head.
    pub head: Head,
    /// The connection it comes on.
    pub checkout: Checkout,
    /// When the call as a whole is over, if it has an end.
    pub deadline: Option<Instant>,
}

/// The next part of a body that is held in part.
pub enum Piece {
    /// There is room for so many bytes of it.
    Room(usize),
    /// More of it.
    Chunk(Bytes),
    /// It is complete.
    End,
}

impl Piece {
    fn of(read: Option<Bytes>) -> Piece {
        read.map_or(Piece::End, Piece::Chunk)
    }
}

/// How much of a body is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Bytes that are held now.
    pub now: usize,
    /// Most that will be.
    pub most: usize,
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Between two pieces of it; `None` is for ever.
    pub idle: Option<Duration>,
    /// All of it.
    pub until: Option<Instant>,
}

impl Patience {
    /// The result of `next`, if it comes in time.
    ///
    /// # Errors
    /// [`late`].
    pub async fn bound<T>(self, next: impl Future<Output = T>) -> Result<T, Failure> {
        let idle = self.idle.map(|idle| Instant::now() + idle);
        match [idle, self.until].into_iter().flatten().min() {
            None => Ok(next.await),
            Some(until) => timeout_at(until, pin!(next))
                .await
                .map_err(|_| late(self.until.is_some_and(|whole| whole <= until))),
        }
    }
}

impl Exchange {
    /// The next piece of the body, if it has come already; it costs no clock and no timer.
    pub fn arrived(&mut self) -> Option<Result<Option<Bytes>, Failure>> {
        let arrived = self.checkout.connection()?.arrived()?;
        Some(arrived.map_err(|fault| Failure::broken(fault.to_string())))
    }

    /// The next part of a body of which some is held, if it has come already and needs no room.
    pub fn ready(&mut self, held: Held, room: Option<&Share>) -> Option<Result<Piece, Failure>> {
        if self.room_for(held, room).is_some() {
            return None;
        }
        Some(self.arrived()?.map(Piece::of))
    }

    /// Waits for what comes next of a body of which some is held: what is not short waits for `room` first.
    ///
    /// # Errors
    /// As [`Exchange::read`].
    pub async fn next(
        &mut self,
        held: Held,
        room: &mut Option<Share>,
        patience: Patience,
    ) -> Result<Piece, Failure> {
        let Some(bytes) = self.room_for(held, room.as_ref()) else {
            return self.read(patience).await.map(Piece::of);
        };
        let until = patience.until.or_else(|| Some(Instant::now() + patience.idle?));
        let whole = self.checkout.offload().room(self.checkout.owner(), bytes);
        let whole = Patience { idle: None, until }.bound(whole).await;
        *room = Some(whole.map_err(|_| no_room())?);
        Ok(Piece::Room(bytes))
    }

    /// The room to ask for before more of a body is read, of which some is held; `None` if it has enough.
    pub fn room_for(&self, held: Held, room: Option<&Share>) -> Option<usize> {
        room_for(held.now, self.head.framing.length(), held.most, room)
    }

    /// Waits for the next piece of the body; `None` at its end. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] if it breaks off or does not come in time.
    pub async fn read(&mut self, patience: Patience) -> Result<Option<Bytes>, Failure> {
        let broken = || Failure::broken("the connection is gone".to_owned());
        let connection = self.checkout.connection().ok_or_else(broken)?;
        let read = patience.bound(connection.read_body()).await?;
        read.map_err(|fault| Failure::broken(fault.to_string()))
    }
}

impl Failure {
    /// An answer that broke off.
    pub fn broken(cause: String) -> Failure {
        let denial = Denial::new(Reason::UpstreamUnavailable, "the server broke off within its answer");
        Failure { cause, pending: false, scope: FailureScope::Failing, ..Failure::from(denial) }
    }

    /// A stream that ended before its call was answered.
    pub fn unanswered() -> Failure {
        let detail = "the server ended its stream without an answer";
        Failure { pending: false, ..Denial::new(Reason::UpstreamUnavailable, detail).into() }
    }

    /// The failure that the status of an answer is, whatever its body says.
    pub fn of_status(status: StatusCode) -> Option<Failure> {
        let problem = match status {
            StatusCode::TOO_MANY_REQUESTS => "limited",
            status if status.is_server_error() => "unavailable",
            _ => return None,
        };
        let cause = format!("HTTP {}", status.as_u16());
        let denial = Denial::new(Reason::UpstreamUnavailable, "the server does not serve");
        Some(Failure { cause, problem: Some(problem), ..denial.into() })
    }
}

/// An answer that is none.
pub fn malformed(detail: &'static str) -> Failure {
    Failure { pending: false, ..Failure::from(Denial::new(Reason::UpstreamMalformed, detail)) }
}

/// An answer that did not come in time: all of it, or its next piece.
pub fn late(whole: bool) -> Failure {
    let detail = if whole { "the call took too long" } else { "the server sent nothing for too long" };
    Denial::new(Reason::UpstreamTimeout, detail).into()
}
