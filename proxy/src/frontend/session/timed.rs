//! Bounds what is written to a client in time.

use super::{Client, End, ReleasedHead};
use crate::drain::{Phase, Phases};
use crate::patience::patient;
use portunus_filters::Released;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::Instant;

/// Largest piece of one write: the write timeout applies to each.
const WRITE_BYTES: usize = 64 * 1024;

/// Bounds a write in time.
///
/// # Errors
/// The error of the write, or that its time is over.
pub async fn in_time<T>(
    within: Duration,
    write: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    patient(within, write).await.unwrap_or_else(|| Err(timed_out()))
}

/// As [`in_time`], and by the end of the process.
///
/// # Errors
/// The error of the write, or that its time is over.
pub async fn unless_expired<T>(
    phases: &Phases,
    within: Duration,
    write: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    tokio::select! {
        biased;
        written = in_time(within, write) => written,
        () = phases.reached(Phase::Expired) => Err(timed_out()),
    }
}

/// How long the writes of one answer may take.
pub struct WriteLimits<'a> {
    /// Each piece of it.
    pub timeout: Duration,
    /// How far the end of the process has come.
    pub phases: &'a Phases,
    /// When the call as a whole is over: no further piece is written then.
    pub deadline: Option<Instant>,
}

impl WriteLimits<'_> {
    /// Writes the head of an answer whose body comes in pieces.
    ///
    /// # Errors
    /// If the client has left or takes too long.
    pub async fn begin(&self, client: &mut Client, head: ReleasedHead) -> io::Result<()> {
        self.close_where_draining(client);
        in_time(self.timeout, pin!(client.begin(head))).await
    }

    /// Writes a part of the body. A client that reads slowly is waited for piece by piece.
    ///
    /// # Errors
    /// As [`WriteLimits::begin`].
    pub async fn write(&self, client: &mut Client, text: Released) -> io::Result<()> {
        let mut pieces = text.split(WRITE_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            unless_expired(self.phases, self.timeout, pin!(client.write(piece))).await?;
            if pieces.peek().is_some() && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(timed_out());
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub async fn end(&self, client: &mut Client) -> End {
        in_time(self.timeout, pin!(client.end())).await.map_or(End::Broken, |()| End::Done)
    }

    /// Writes an answer as a whole; in one write, if its body is no longer than one piece.
    pub async fn answer(&self, client: &mut Client, head: ReleasedHead, body: Released) -> End {
        if body.len() <= WRITE_BYTES {
            self.close_where_draining(client);
            let answered = pin!(client.answer(head, body));
            let answered = unless_expired(self.phases, self.timeout, answered).await;
            return answered.map_or(End::Broken, |()| End::Done);
        }
        if self.begin(client, head).await.is_err() || self.write(client, body).await.is_err() {
            return End::Broken;
        }
        self.end(client).await
    }

    /// A connection has no further request once the process is about to end.
    fn close_where_draining(&self, client: &mut Client) {
        if self.phases.is_reached(Phase::Draining) {
            client.close_after();
        }
    }
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
