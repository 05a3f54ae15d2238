//! Stage 10: the upstream's answer on its way to the client.
//!
//! Bytes pass as they came; JSON never becomes an event stream or back. What is no MCP answer is
//! replaced by a refusal that the client understands, and a stream that breaks off ends with an
//! event that says so, never with silence.

mod class;
mod events;
mod json;
mod wait;

use crate::context::Gateway;
use crate::drain::Phase;
use crate::errand::Session;
use crate::forward::{Exchange, Failure};
use crate::headers::{Stamp, response_head};
use crate::outcome::Outcome;
use crate::upstreams::pool::Pool;
use bytes::Bytes;
use class::{Class, classify};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use portunus_config::{ServerId, Upstream};
use portunus_filters::mcp::Id;
use portunus_filters::{Denial, Era, Kind, Reason};
use std::sync::Arc;
use tokio::sync::watch;
use wait::{Ending, Wait};

/// Largest piece of one write: the write timeout applies to each.
const WRITE_BYTES: usize = 64 * 1024;

/// What the client waits for.
#[derive(Debug)]
pub struct Expect {
    /// What it sent; of a batch, a request if it has one.
    pub kind: Kind,
    /// Whose rules apply.
    pub era: Era,
    /// Requests that are not answered yet.
    pub open: Vec<Id>,
    /// It sent a batch.
    pub batch: bool,
    /// `subscriptions/listen`, which ends with a result, or a GET stream, which just ends.
    pub endless: bool,
    /// `initialize`, whose answer may found a session.
    pub founds_session: bool,
    /// The virtual server, looked up again at each swap.
    pub server: ServerId,
    /// The client speaks HTTP/1.0 and knows no chunks.
    pub http_1_0: bool,
}

/// The way back to one client.
pub struct Respond<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The record.
    pub outcome: &'a mut Outcome,
    /// What the gateway adds to the head.
    pub stamp: Stamp<'a>,
    /// Where the answer comes from.
    pub upstream: &'a Arc<Upstream>,
    /// Its connections.
    pub pool: &'a Arc<Pool>,
    /// The client's session headers, for errands about it.
    pub session: Session,
    /// What the client waits for.
    pub expect: Expect,
    /// Activations since the snapshot that this message was judged by.
    pub serials: watch::Receiver<u64>,
    /// How far the end of the process has come.
    pub phase: watch::Receiver<Phase>,
}

/// How an answer ended.
pub enum End {
    /// Completely: the client's connection can be used again.
    Done,
    /// Before its head was written: the caller answers.
    Refused(Denial),
    /// The client is gone, or was left with half an answer.
    Broken,
}

impl Respond<'_> {
    /// Brings the answer to the client.
    pub async fn run(&mut self, mut exchange: Exchange, client: &mut ServerSession) -> End {
        let end = match classify(&exchange.head, &self.expect, &self.upstream.credentials) {
            Class::Events => self.events(&mut exchange, client).await,
            Class::Json { checked } => self.json(&mut exchange, client, checked).await,
            Class::Opaque => self.opaque(&mut exchange, client).await,
            Class::Bare => self.bare(&exchange, client).await,
            Class::Denied(denial, cause) => {
                self.outcome.cause(&cause);
                End::Refused(denial)
            }
        };
        if exchange.head.keep_alive && exchange.body.is_done() {
            exchange.checkout.put_back();
        } else if self.expect.founds_session && matches!(end, End::Broken) {
            self.delete_orphan(&exchange);
        }
        end
    }

    /// Notes an upstream that gave no answer, and tells it if it may still be at work.
    pub fn failed(&mut self, failure: &Failure) {
        self.outcome.cause(&failure.cause);
        if failure.pending {
            self.cancel_upstream();
        }
    }

    /// The status alone, for bodies that no client should see.
    async fn bare(&mut self, exchange: &Exchange, client: &mut ServerSession) -> End {
        self.outcome.answered_status(exchange.head.status.as_u16(), None);
        self.write_whole(exchange, client, Bytes::new()).await
    }

    /// Bytes that no rule reads, as they come.
    async fn opaque(&mut self, exchange: &mut Exchange, client: &mut ServerSession) -> End {
        self.outcome.answered_status(exchange.head.status.as_u16(), None);
        let length = match exchange.head.framing {
            crate::upstreams::wire::Framing::Length(length) => Some(length),
            _ => None,
        };
        if self.begin(exchange, length, client).await.is_err() {
            return End::Broken;
        }
        self.stream_rest(exchange, client).await
    }

    /// Passes the rest of a body on, piece by piece.
    async fn stream_rest(&mut self, exchange: &mut Exchange, client: &mut ServerSession) -> End {
        loop {
            match self.next(exchange, client).await {
                Wait::Chunk(chunk) => {
                    if self.write(client, &chunk, 0).await.is_err() {
                        return End::Broken;
                    }
                }
                Wait::End => return self.finish(client).await,
                Wait::Swapped => {}
                Wait::Ended(ending) => {
                    self.note(&ending);
                    return End::Broken;
                }
            }
        }
    }

    /// Writes the head for the client; `length` of the body, or as long as it takes.
    async fn begin(
        &mut self,
        exchange: &Exchange,
        length: Option<u64>,
        client: &mut ServerSession,
    ) -> pingora_core::Result<()> {
        self.outcome.http_status(exchange.head.status.as_u16());
        if *self.phase.borrow() >= Phase::Draining {
            client.set_keepalive(None);
        }
        let head = self.head(exchange, length)?;
        client.write_response_header(Box::new(head)).await
    }

    fn head(&self, exchange: &Exchange, length: Option<u64>) -> pingora_core::Result<ResponseHeader> {
        let mut head = response_head(exchange.head.status.as_u16(), &exchange.head.headers, self.upstream)?;
        match length {
            Some(length) => head.insert_header(CONTENT_LENGTH, length)?,
            None if self.expect.http_1_0 => {}
            None => head.insert_header(TRANSFER_ENCODING, "chunked")?,
        }
        self.stamp.put(&mut head)?;
        Ok(head)
    }

    async fn write_whole(&mut self, exchange: &Exchange, client: &mut ServerSession, body: Bytes) -> End {
        self.outcome.sent(body.len(), 0);
        if self.begin(exchange, Some(body.len() as u64), client).await.is_err() {
            return End::Broken;
        }
        if !body.is_empty() && client.write_response_body(body, false).await.is_err() {
            return End::Broken;
        }
        self.finish(client).await
    }

    /// Writes bytes that count as `events` events.
    async fn write(
        &mut self,
        client: &mut ServerSession,
        bytes: &Bytes,
        events: u64,
    ) -> pingora_core::Result<()> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(WRITE_BYTES));
            client.write_response_body(piece, false).await?;
        }
        self.outcome.sent(bytes.len(), events);
        Ok(())
    }

    async fn finish(&mut self, client: &mut ServerSession) -> End {
        match client.finish_body().await {
            Ok(()) => End::Done,
            Err(_) => End::Broken,
        }
    }

    /// Notes an ending in the record, and gives the refusal that it means.
    fn note(&mut self, ending: &Ending) -> Option<Denial> {
        let (reason, detail) = match ending {
            Ending::ClientGone => return None,
            Ending::Fault(fault) => {
                self.outcome.cause(fault);
                (Reason::UpstreamUnavailable, "the server broke off within its answer")
            }
            Ending::Idle => (Reason::UpstreamTimeout, "the server sent nothing for too long"),
            Ending::Deadline => (Reason::UpstreamTimeout, "the call took too long"),
            Ending::Expired => (Reason::Draining, "the gateway is shutting down"),
            Ending::RouteRemoved => (Reason::RouteRemoved, "this endpoint is no longer served"),
        };
        let denial = Denial::new(reason, detail);
        self.outcome.denied(&denial);
        Some(denial)
    }

    fn delete_orphan(&self, exchange: &Exchange) {
        if let Some(id) = exchange.head.headers.get("mcp-session-id") {
            let session = self.session.clone().named(id);
            let errand = crate::errand::Errand::Delete { session };
            crate::errand::run(self.gateway, errand, Arc::clone(self.upstream), Arc::clone(self.pool));
        }
    }
}
