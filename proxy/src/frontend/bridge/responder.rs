//! Writing an answer that turns out to be one JSON message or a stream of events.
//!
//! Nothing is sent until there is something to say. An answer that comes first leaves as JSON in one
//! write; a notification or question before it, or a long silence, begins an event stream, unless the
//! client takes JSON alone.

use super::replay::Pen;
use crate::backend::headers::{Field, MCP_SESSION_ID, Stamp};
use crate::drain::{Phase, Phases};
use crate::frontend::session::{Client, End, head_of, in_time, unless_expired};
use crate::offload::INLINE_BYTES;
use crate::record::RecordGuard;
use crate::reply;
use crate::shares::Share;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderName, StatusCode, Version};
use portunus_filters::mcp::Id;
use portunus_filters::{Denial, Reason, Released};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longest piece of one write of a long event.
const WRITE_BYTES: usize = 64 * 1024;

/// Pieces up to this long in all leave in one write.
const JOINED_BYTES: usize = 16 * 1024;

/// Where an answer goes.
pub enum Sink<'a> {
    /// To the client.
    Client(&'a mut Client),
    /// To the answer of the batch that it is a part of, or to the stream of a session.
    Batch(mpsc::Sender<Part>),
    /// To a stream that is kept, and whoever listens to it; it may be over when nobody has for so long.
    Kept(&'a Pen, Option<Duration>),
}

/// A part of the answer to a batch, or of the stream of a session. While it waits for others it holds no more memory than
/// it is long: what a server sent lies in the buffer that it was read into.
#[derive(Debug)]
pub enum Part {
    /// A message ahead of an answer.
    Ahead(Released),
    /// The answer to one of the requests, with the room that it takes if it is a large one.
    Answer(Released, Option<Arc<Share>>),
}

impl Part {
    /// The message, and the room that it takes until it is written.
    pub fn into_message(self) -> (Released, Option<Arc<Share>>) {
        match self {
            Part::Ahead(message) => (message, None),
            Part::Answer(message, room) => (message, room),
        }
    }
}

/// The body of an answer.
enum Pieces {
    One(Released),
    /// Not joined, if they are long.
    Many(Vec<Released>),
}

impl Pieces {
    fn len(&self) -> usize {
        match self {
            Pieces::One(body) => body.len(),
            Pieces::Many(pieces) => pieces.iter().map(Released::len).sum(),
        }
    }
}

/// The way back to one client, for answers of our own making.
pub struct Responder<'a> {
    /// Where it goes.
    pub sink: Sink<'a>,
    /// The record.
    pub record: &'a mut RecordGuard,
    /// What the gateway adds to the head.
    pub stamp: Stamp<'a>,
    /// How long the client may take for one piece.
    pub write_timeout: Duration,
    /// How far the end of the process has come.
    pub phases: &'a Phases,
    /// The version of HTTP that the client speaks: 1.0 knows no chunks.
    pub version: Version,
    /// The client can be answered by an event stream; else what comes before its answer is left out.
    pub takes_events: bool,
    /// The head of a stream is out.
    pub begun: bool,
}

impl Responder<'_> {
    /// Whether it goes to a client, on its own.
    pub fn is_clients(&self) -> bool {
        matches!(self.sink, Sink::Client(_))
    }

    /// Returns when the client has left; of a stream that is kept, for good.
    pub async fn gone(&mut self) {
        match &mut self.sink {
            Sink::Client(client) => client.gone().await,
            Sink::Kept(pen, Some(patience)) => pen.deserted(*patience).await,
            Sink::Kept(_, None) => std::future::pending().await,
            Sink::Batch(parts) => parts.closed().await,
        }
    }

    /// A head without a body of its own: `202 Accepted` and the like.
    pub async fn status(&mut self, status: StatusCode) -> End {
        self.record.note_answer(None);
        match self.sink {
            Sink::Client(_) => self.whole(status, None, Pieces::One(Released::own(Bytes::new()))).await,
            Sink::Batch(_) | Sink::Kept(..) => End::Done,
        }
    }

    /// The answer to a request: JSON if nothing was sent before, else the last event of the stream.
    pub async fn last(&mut self, status: StatusCode, message: Released) -> End {
        self.last_large(status, message, None).await
    }

    /// The same with the room that it takes, which is free again once it is written.
    pub async fn last_large(
        &mut self,
        status: StatusCode,
        message: Released,
        room: Option<Arc<Share>>,
    ) -> End {
        if matches!(self.sink, Sink::Client(_)) {
            if !self.begun {
                return self.whole(status, None, Pieces::One(message)).await;
            }
            if message.len() > INLINE_BYTES {
                return Box::pin(self.long_event(message)).await;
            }
        }
        Box::pin(self.told(message, room)).await
    }

    /// As [`Responder::last`], where it is not all of what the client gets.
    async fn told(&mut self, message: Released, room: Option<Arc<Share>>) -> End {
        if let Sink::Batch(parts) = &self.sink {
            return sent(parts, Part::Answer(message.detached(), room))
                .await
                .map_or(End::Broken, |()| End::Done);
        }
        if let Sink::Kept(pen, _) = &self.sink {
            self.record.add_sent(message.len(), 1);
            let request_id = self.stamp.request_id;
            pen.answer(&message, |request| Released::own(too_long(request, request_id))).await;
            return End::Done;
        }
        if self.event(message, None).await.is_err() {
            return End::Broken;
        }
        self.end().await
    }

    /// As [`Responder::last`], of an answer in pieces, which are not joined.
    pub async fn pieces(&mut self, pieces: Vec<Released>) -> End {
        if !self.begun && matches!(self.sink, Sink::Client(_)) {
            return self.whole(StatusCode::OK, None, Pieces::Many(pieces)).await;
        }
        self.last(StatusCode::OK, Released::concat(&pieces)).await
    }

    /// As [`Responder::last`] of an `initialize`, which names the session it founds.
    pub async fn founding(&mut self, session: &str, message: Released) -> End {
        self.whole(StatusCode::OK, Some(session), Pieces::One(message)).await
    }

    /// Sends a message ahead of the answer. `id` is what a client resumes by.
    ///
    /// # Errors
    /// If the client has left or takes too long.
    pub async fn event(&mut self, message: Released, id: Option<&str>) -> io::Result<()> {
        if let Sink::Batch(parts) = &self.sink {
            return sent(parts, Part::Ahead(message.detached())).await;
        }
        if let Sink::Kept(pen, _) = &self.sink {
            self.record.add_sent(message.len(), 1);
            pen.write(&message).await;
            return Ok(());
        }
        if !self.takes_events {
            return Ok(());
        }
        self.begin().await?;
        self.write(message.event(id), 1).await
    }

    /// As [`Responder::event`] of a long answer, which is not copied, and the end of the stream.
    async fn long_event(&mut self, message: Released) -> End {
        let within = self.write_timeout.saturating_mul(turns(message.len()));
        let written = async {
            for part in message.event_parts(None, WRITE_BYTES) {
                self.write(part, 0).await?;
            }
            self.record.add_sent(0, 1);
            Ok::<(), io::Error>(())
        };
        match timeout(within, written).await {
            Ok(Ok(())) => self.end().await,
            _ => End::Broken,
        }
    }

    /// Sends an event that is already spelt.
    ///
    /// # Errors
    /// As [`Responder::event`].
    pub async fn write_event(&mut self, event: Released) -> io::Result<()> {
        self.begin().await?;
        self.write(event, 1).await
    }

    /// Shows that the stream is alive, to clients and to whatever stands between.
    ///
    /// # Errors
    /// As [`Responder::event`].
    pub async fn comment(&mut self) -> io::Result<()> {
        if !matches!(self.sink, Sink::Client(_)) || !self.takes_events {
            return Ok(());
        }
        self.begin().await?;
        self.write(Released::own(Bytes::from_static(b": keepalive\n\n")), 0).await
    }

    /// Begins the stream, if it has not begun.
    ///
    /// # Errors
    /// As [`Responder::event`].
    pub async fn begin(&mut self) -> io::Result<()> {
        let Sink::Client(_) = &self.sink else { return Ok(()) };
        if self.begun {
            return Ok(());
        }
        self.close_where_draining();
        let mut fields: Vec<Field<'_>> = vec![
            (CONTENT_TYPE, b"text/event-stream"),
            (CACHE_CONTROL, b"no-cache, no-transform"),
            (HeaderName::from_static("x-accel-buffering"), b"no"),
        ];
        if self.version != Version::HTTP_10 {
            fields.push((TRANSFER_ENCODING, b"chunked"));
        }
        fields.extend(self.stamp.fields());
        let head = head_of(StatusCode::OK, &fields, None)?;
        self.begun = true;
        self.record.note_http_status(200);
        let Sink::Client(client) = &mut self.sink else { return Ok(()) };
        in_time(self.write_timeout, pin!(client.begin(head))).await
    }

    /// Ends the stream, begun or not.
    pub async fn end(&mut self) -> End {
        if self.begin().await.is_err() {
            return End::Broken;
        }
        let Sink::Client(client) = &mut self.sink else { return End::Done };
        match in_time(self.write_timeout, pin!(client.end())).await {
            Ok(()) => End::Done,
            Err(_) => End::Broken,
        }
    }

    async fn whole(&mut self, status: StatusCode, session: Option<&str>, pieces: Pieces) -> End {
        let bytes = pieces.len();
        self.record.note_http_status(status.as_u16());
        self.close_where_draining();
        let Sink::Client(client) = &mut self.sink else { return End::Done };
        let mut fields: Vec<Field<'_>> = Vec::with_capacity(6);
        if bytes > 0 {
            fields.push((CONTENT_TYPE, b"application/json"));
        }
        if let Some(session) = session {
            fields.push((MCP_SESSION_ID, session.as_bytes()));
        }
        fields.extend(self.stamp.fields());
        let timeout = self.write_timeout.saturating_mul(turns(bytes));
        let written = pin!(write_pieces(client, (status, &fields), pieces, bytes));
        if unless_expired(self.phases, timeout, written).await.is_err() {
            return End::Broken;
        }
        self.record.add_sent(bytes, 0);
        End::Done
    }

    /// A connection has no further request once the process is about to end.
    fn close_where_draining(&mut self) {
        if let Sink::Client(client) = &mut self.sink
            && self.phases.is_reached(Phase::Draining)
        {
            client.close_after();
        }
    }

    async fn write(&mut self, text: Released, events: u64) -> io::Result<()> {
        let length = text.len();
        let Sink::Client(client) = &mut self.sink else { return Ok(()) };
        let written = pin!(client.write(text));
        unless_expired(self.phases, self.write_timeout.saturating_mul(turns(length)), written).await?;
        self.record.add_sent(length, events);
        Ok(())
    }
}

/// An answer of megabytes to a slow client takes as many turns of the write timeout.
fn turns(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / (1 << 20)).unwrap_or(u32::MAX)
}

async fn write_pieces(
    client: &mut Client,
    (status, fields): (StatusCode, &[Field<'_>]),
    pieces: Pieces,
    bytes: usize,
) -> io::Result<()> {
    match pieces {
        Pieces::One(body) => client.tell(status, fields, body).await,
        Pieces::Many(pieces) if bytes <= JOINED_BYTES => {
            client.tell(status, fields, Released::concat(&pieces)).await
        }
        Pieces::Many(pieces) => {
            client.begin(head_of(status, fields, Some(bytes))?).await?;
            for piece in pieces {
                client.write(piece).await?;
            }
            client.end().await
        }
    }
}

/// What is kept in the place of an answer that is too long for it.
fn too_long(request: &Id, request_id: &str) -> String {
    let detail = "the answer is longer than what is kept for a client that comes back";
    reply::lost(&Denial::new(Reason::AnswerLost, detail), request, request_id)
}

async fn sent(parts: &mpsc::Sender<Part>, part: Part) -> io::Result<()> {
    parts.send(part).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

#[cfg(test)]
mod tests;
