//! Passes the upstream's answer on to the client.
//!
//! Bytes pass as they came; JSON never becomes an event stream or back. What is no MCP answer is
//! replaced by a refusal that the client understands, and a stream that breaks off ends with an
//! event that says so, never with silence.

mod events;
mod json;
mod wait;

use crate::backend::forward::{Exchange, Failure, Held, Piece};
use crate::backend::gateway_requests::{PassedRequest, session_id};
use crate::backend::headers::{Stamp, response_head};
use crate::backend::upstreams::answer_class::{Class, classify};
use crate::frontend::context::Gateway;
use crate::frontend::expected::Expect;
use crate::frontend::session::{Client, End, ReleasedHead, WriteLimits};
use crate::frontend::session_field::SessionField;
use crate::peers::Member;
use crate::record::RecordGuard;
use crate::shares::Share;
use bytes::Bytes;
use portunus_config::Credentials;
use portunus_filters::{RawPass, Released};
use std::io;
use std::sync::Arc;
use wait::Ending;

/// The way back to one client.
pub struct Respond<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The request, and its server.
    pub request: PassedRequest<'a>,
    /// The client that waits for the answer.
    pub client: &'a mut Client,
    /// The record.
    pub record: &'a mut RecordGuard,
    /// The fields that the gateway adds to the head.
    pub stamp: Stamp<'a>,
    /// The answer that the client waits for.
    pub expect: Expect,
    /// How long the client may take for it.
    pub limits: WriteLimits<'a>,
    /// The replica that serves it, if that is another.
    pub home: Option<&'a Arc<Member>>,
    /// The session id for the head.
    pub session: SessionField,
    /// For the part of the answer that is held, if it is not short.
    pub room: Option<Share>,
    /// The right to pass the answer as it came.
    pub pass: RawPass,
}

impl Respond<'_> {
    /// Brings the answer to the client.
    pub async fn run(&mut self, mut exchange: Exchange) -> End {
        self.limits.deadline = exchange.deadline;
        let founded = session_id(&exchange.head).filter(|_| self.expect.founds_session).cloned();
        // Another replica has judged what its server said of credentials.
        let credentials = match self.expect.elsewhere {
            true => &Credentials::Passthrough,
            false => &self.request.upstream.credentials,
        };
        let end = match classify(&exchange.head, self.expect.kind, credentials) {
            Class::Events => self.events(&mut exchange).await,
            Class::Json { otherwise } => self.json(&mut exchange, otherwise).await,
            Class::Opaque => self.stream(&mut exchange, Bytes::new()).await,
            Class::Bare => self.write_whole(&mut exchange, Bytes::new(), None).await,
            Class::Denied(denial, cause) => self.refused(Failure { cause, ..denial.into() }),
        };
        // A failure was noted where it was found; an answer that its client left is no news.
        if matches!(end, End::Done) && !self.record.is_failed() {
            match Failure::of_status(exchange.head.status) {
                Some(failure) => self.request.pool.note_failure(&failure),
                None => self.request.pool.note_answer(),
            }
        }
        if let Some(orphan) = founded.filter(|_| matches!(end, End::Broken) && !self.expect.open.is_empty()) {
            self.request.delete_session(&orphan);
        }
        exchange.checkout.put_back();
        end
    }

    /// Refuses a message whose upstream gave no answer, and tells the upstream if it may still be at work.
    pub fn failed(&mut self, failure: Failure) -> End {
        self.record.note_cause(&failure.cause);
        if failure.pending {
            self.request.cancel(self.expect.to_cancel());
        }
        End::Refused(failure.denial)
    }

    fn note(&mut self, failure: &Failure) {
        self.record.note_cause(&failure.cause);
        self.record.note_denial(&failure.denial);
        self.request.pool.note_failure(failure);
    }

    /// The client gets a refusal in place of the answer.
    fn refused(&mut self, failure: Failure) -> End {
        self.note(&failure);
        End::Refused(failure.denial)
    }

    /// The same of an answer that was not complete, if its client is there.
    fn cut(&mut self, ending: Ending) -> End {
        match ending {
            Ending::ClientGone | Ending::Unwritten | Ending::Complete => End::Broken,
            Ending::Withdrawn(denial) => self.refused(denial.into()),
            Ending::Broken(failure) | Ending::Late(failure) | Ending::Malformed(failure) => {
                self.refused(failure)
            }
        }
    }

    /// Passes a body on piece by piece, unread; `first` is the beginning of it.
    async fn stream(&mut self, exchange: &mut Exchange, first: Bytes) -> End {
        self.record.note_http_answer(exchange.head.status.as_u16(), None);
        let length = exchange.head.framing.length();
        if self.begin(exchange, length).await.is_err() {
            return End::Broken;
        }
        let mut piece = first;
        loop {
            if !piece.is_empty() && self.write(self.pass.release(piece), 0).await.is_err() {
                return End::Broken;
            }
            self.room = None;
            piece = match self.next(Held::default(), exchange).await {
                Ok(Piece::Chunk(chunk)) => chunk,
                Ok(Piece::Room(_)) => Bytes::new(),
                Ok(Piece::End) => return self.limits.end(self.client).await,
                Err(ending) => {
                    self.cut(ending);
                    return End::Broken;
                }
            }
        }
    }

    /// Writes the head for the client; `length` of the body, or as long as it takes.
    async fn begin(&mut self, exchange: &mut Exchange, length: Option<u64>) -> io::Result<()> {
        let head = self.prepare(exchange, length)?;
        self.limits.begin(self.client, head).await
    }

    fn prepare(&mut self, exchange: &mut Exchange, length: Option<u64>) -> io::Result<ReleasedHead> {
        self.record.note_http_status(exchange.head.status.as_u16());
        let (gateway, upstream) = (self.gateway, self.request.upstream);
        let (status, mut fields) = (exchange.head.status, std::mem::take(&mut exchange.head.headers));
        let seals = &gateway.estate.seals;
        self.session.replace(&mut fields, (status, self.record.is_error()), (seals, upstream));
        let length = (length, !self.expect.http_1_0);
        let head = response_head(status, fields, length, upstream, &self.stamp).map_err(io::Error::other)?;
        Ok(ReleasedHead::passed(self.pass, head))
    }

    /// Writes an answer that was held until it was complete.
    async fn write_whole(&mut self, exchange: &mut Exchange, body: Bytes, rpc_error: Option<i64>) -> End {
        self.record.note_http_answer(exchange.head.status.as_u16(), rpc_error);
        let length = body.len();
        let Ok(head) = self.prepare(exchange, Some(length as u64)) else { return End::Broken };
        let end = self.limits.answer(self.client, head, self.pass.release(body)).await;
        if matches!(end, End::Done) {
            self.record.add_sent(length, 0);
            self.expect.open.clear();
        }
        end
    }

    /// Writes bytes that count as `events` events.
    async fn write(&mut self, text: Released, events: u64) -> io::Result<()> {
        let bytes = text.len();
        self.limits.write(self.client, text).await?;
        self.record.add_sent(bytes, events);
        Ok(())
    }
}
