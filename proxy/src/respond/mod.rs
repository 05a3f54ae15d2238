//! Stage 10: the upstream's answer on its way to the client.
//!
//! Bytes pass as they came; JSON never becomes an event stream or back. What is no MCP answer is
//! replaced by a refusal that the client understands, and a stream that breaks off ends with an
//! event that says so, never with silence.

mod events;
mod json;
mod wait;

use crate::context::Gateway;
use crate::drain::{Phase, reached};
use crate::errand::{self, Session};
use crate::forward::{Exchange, Failure};
use crate::headers::{MCP_SESSION_ID, Stamp, response_head};
use crate::identify::Standing;
use crate::offload::no_room;
use crate::peers::Member;
use crate::record::RecordGuard;
use crate::reply::{caller_lost, draining, route_removed};
use crate::sealing::SessionField;
use crate::session::{Client, End, ReleasedHead, in_time, timed_out};
use crate::shares::Share;
use crate::upstreams::answer_class::{Class, classify};
use crate::upstreams::pool::Pool;
use crate::upstreams::wire::Head;
use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue, StatusCode};
use portunus_config::{Credentials, ServerId, Upstream};
use portunus_filters::mcp::{Id, Method};
use portunus_filters::{Denial, Era, Kind, RawPass, Reason, Released};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use wait::{Ending, Wait};
pub use wait::{unrouted, unwelcome};

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
    /// The method of what it sent, if that is one message.
    pub method: Option<Method>,
    /// It sent a batch.
    pub batch: bool,
    /// `subscriptions/listen`, which ends with a result, or a GET stream, which just ends.
    pub endless: bool,
    /// `initialize`, whose answer may found a session.
    pub founds_session: bool,
    /// The virtual server, looked up again at each swap.
    pub server: ServerId,
    /// Another replica serves it, keeps its deadlines and watches its route.
    pub elsewhere: bool,
    /// The client speaks HTTP/1.0 and knows no chunks.
    pub http_1_0: bool,
    /// What a stream depends on; `None` where nobody was asked who calls.
    pub standing: Option<Arc<Standing>>,
}

/// The way back to one client.
pub struct Respond<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The record.
    pub record: &'a mut RecordGuard,
    /// What the gateway adds to the head.
    pub stamp: Stamp<'a>,
    /// Where the answer comes from.
    pub upstream: &'a Arc<Upstream>,
    /// Its connections.
    pub pool: &'a Arc<Pool>,
    /// The client's headers, for errands about its session.
    pub headers: &'a HeaderMap,
    /// What the client waits for.
    pub expect: Expect,
    /// How far the end of the process has come.
    pub phase: watch::Receiver<Phase>,
    /// How long the client may take for one piece of the answer.
    pub write_timeout: Duration,
    /// When the call as a whole is over.
    pub deadline: Option<Instant>,
    /// The replica that serves it, if that is another.
    pub home: Option<&'a Arc<Member>>,
    /// What becomes of the session id in the head.
    pub session: SessionField,
    /// For the part of the answer that is held, if it is not short.
    pub room: Option<Share>,
    /// The right to pass the answer as it came.
    pub pass: RawPass,
}

impl Respond<'_> {
    /// Brings the answer to the client.
    pub async fn run(&mut self, mut exchange: Exchange, client: &mut Client) -> End {
        self.deadline = exchange.deadline;
        let founded = session_id(&exchange.head).filter(|_| self.expect.founds_session).cloned();
        // Another replica has judged what its server said of credentials.
        let credentials = match self.expect.elsewhere {
            true => &Credentials::Passthrough,
            false => &self.upstream.credentials,
        };
        let end = match classify(&exchange.head, self.expect.kind, credentials) {
            Class::Events => self.events(&mut exchange, client).await,
            Class::Json { otherwise } => self.json(&mut exchange, client, otherwise).await,
            Class::Opaque => self.opaque(&mut exchange, client).await,
            Class::Bare => self.bare(&mut exchange, client).await,
            Class::Denied(denial, cause) => self.refused(denial, cause),
        };
        // A failure was noted where it was found; an answer that its client left is no news.
        if matches!(end, End::Done) {
            self.note_status(exchange.head.status);
        }
        if let Some(orphan) = founded.filter(|_| matches!(end, End::Broken) && !self.expect.open.is_empty()) {
            errand::delete_orphan(self.gateway, &orphan, Session::of(self.headers), self.upstream, self.pool);
        }
        exchange.checkout.put_back();
        end
    }

    /// Notes an upstream that gave no answer, and tells it if it may still be at work.
    pub fn failed(&mut self, failure: &Failure) {
        self.record.note_cause(&failure.cause);
        if failure.pending {
            self.cancel_upstream();
        }
    }

    /// The client left before the head of its answer. A session that is being founded is waited for,
    /// to be ended: nobody will ever use it.
    pub fn abandoned(&self, sending: Pin<Box<dyn Future<Output = Result<Exchange, Failure>> + Send>>) {
        if !self.expect.founds_session {
            return;
        }
        let (gateway, session) = (Arc::clone(self.gateway), Session::of(self.headers));
        let (upstream, pool) = (Arc::clone(self.upstream), Arc::clone(self.pool));
        tokio::spawn(async move {
            if let Ok(exchange) = sending.await
                && let Some(orphan) = session_id(&exchange.head)
            {
                errand::delete_orphan(&gateway, orphan, session, &upstream, &pool);
            }
        });
    }

    /// The client gets a refusal in place of the answer.
    fn refused(&mut self, denial: Denial, cause: String) -> End {
        self.record.note_cause(&cause);
        self.note_failure(Failure { cause, ..denial.clone().into() });
        End::Refused(denial)
    }

    fn note_failure(&self, failure: Failure) {
        self.pool.note_failure(&failure);
    }

    /// Notes what a whole answer says of its server, unless its body was noted as a failure.
    fn note_status(&self, status: StatusCode) {
        let problem = match status {
            StatusCode::TOO_MANY_REQUESTS => "limited",
            status if status.is_server_error() => "unavailable",
            _ if self.record.is_failed() => return,
            _ => return self.pool.note_answer(),
        };
        let cause = format!("HTTP {}", status.as_u16());
        let denial = Denial::new(Reason::UpstreamUnavailable, "the server does not serve");
        self.note_failure(Failure { cause, problem: Some(problem), ..denial.into() });
    }

    /// The status alone, for bodies that no client should see.
    async fn bare(&mut self, exchange: &mut Exchange, client: &mut Client) -> End {
        self.record.note_http_answer(exchange.head.status.as_u16(), None);
        self.write_whole(exchange, client, Bytes::new()).await
    }

    /// Bytes that no rule reads, as they come.
    async fn opaque(&mut self, exchange: &mut Exchange, client: &mut Client) -> End {
        self.record.note_http_answer(exchange.head.status.as_u16(), None);
        let length = exchange.head.framing.length();
        if self.begin(exchange, length, client).await.is_err() {
            return End::Broken;
        }
        self.stream_rest(exchange, client).await
    }

    /// Passes the rest of a body on, piece by piece.
    async fn stream_rest(&mut self, exchange: &mut Exchange, client: &mut Client) -> End {
        loop {
            match self.next((0, 0), exchange, client).await {
                Wait::Room(_) => {}
                Wait::Chunk(chunk) => {
                    if self.write(client, self.pass.release(chunk), 0).await.is_err() {
                        return End::Broken;
                    }
                }
                Wait::End => return self.finish(client).await,
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
        exchange: &mut Exchange,
        length: Option<u64>,
        client: &mut Client,
    ) -> io::Result<()> {
        let head = self.prepare(exchange, length, client)?;
        in_time(self.write_timeout, pin!(client.begin(head))).await
    }

    /// The head for the client, of a body of `length` bytes or of as many as come.
    fn prepare(
        &mut self,
        exchange: &mut Exchange,
        length: Option<u64>,
        client: &mut Client,
    ) -> io::Result<ReleasedHead> {
        self.record.note_http_status(exchange.head.status.as_u16());
        if *self.phase.borrow() >= Phase::Draining {
            client.close_after();
        }
        let (status, mut fields) = (exchange.head.status, std::mem::take(&mut exchange.head.headers));
        let seals = &self.gateway.estate.seals;
        self.session.replace(&mut fields, (status, self.record.is_error()), (seals, self.upstream));
        // RFC 9110 §8.6: a 204 has no length.
        let told = length.filter(|length| *length > 0 || status != StatusCode::NO_CONTENT);
        let head = response_head(status, fields, told, self.upstream, &self.stamp);
        let mut head = head.map_err(io::Error::other)?;
        if length.is_none() && !self.expect.http_1_0 {
            head.insert_header(TRANSFER_ENCODING, "chunked").map_err(io::Error::other)?;
        }
        Ok(ReleasedHead::passed(self.pass, head))
    }

    /// Writes head, body and end; together, if the body is no longer than one piece.
    async fn write_whole(&mut self, exchange: &mut Exchange, client: &mut Client, body: Bytes) -> End {
        let length = body.len();
        let end = if length <= WRITE_BYTES {
            let Ok(head) = self.prepare(exchange, Some(length as u64), client) else { return End::Broken };
            let written = pin!(client.answer(head, self.pass.release(body)));
            let written = tokio::select! {
                biased;
                written = in_time(self.write_timeout, written) => written,
                () = reached(&mut self.phase, Phase::Expired) => Err(timed_out()),
            };
            if written.is_err() {
                return End::Broken;
            }
            self.record.add_sent(length, 0);
            End::Done
        } else {
            if self.begin(exchange, Some(length as u64), client).await.is_err()
                || self.write(client, self.pass.release(body), 0).await.is_err()
            {
                return End::Broken;
            }
            self.finish(client).await
        };
        if matches!(end, End::Done) {
            self.expect.open.clear();
        }
        end
    }

    /// Writes bytes that count as `events` events.
    ///
    /// A client that reads slowly is waited for piece by piece, but not beyond the end of the call or
    /// of the process.
    async fn write(&mut self, client: &mut Client, text: Released, events: u64) -> io::Result<()> {
        let bytes = text.len();
        let mut pieces = text.split(WRITE_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let written = pin!(client.write(piece));
            tokio::select! {
                biased;
                written = in_time(self.write_timeout, written) => written?,
                () = reached(&mut self.phase, Phase::Expired) => return Err(timed_out()),
            }
            if pieces.peek().is_some() && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(timed_out());
            }
        }
        self.record.add_sent(bytes, events);
        Ok(())
    }

    async fn finish(&mut self, client: &mut Client) -> End {
        match in_time(self.write_timeout, pin!(client.end())).await {
            Ok(()) => End::Done,
            Err(_) => End::Broken,
        }
    }

    /// Takes the record back from another replica whose answer broke off.
    fn note_loss(&mut self, ending: &Ending) {
        if matches!(ending, Ending::Fault(_) | Ending::HomeLost) {
            self.record.take_back();
        }
    }

    /// Notes an ending in the record, and gives the refusal that it means.
    fn note(&mut self, ending: &Ending) -> Option<Denial> {
        self.note_loss(ending);
        let denial = match ending {
            Ending::ClientGone => return None,
            Ending::Fault(fault) => {
                self.record.note_cause(fault);
                Denial::new(Reason::UpstreamUnavailable, "the server broke off within its answer")
            }
            Ending::Idle => Denial::new(Reason::UpstreamTimeout, "the server sent nothing for too long"),
            Ending::Deadline => Denial::new(Reason::UpstreamTimeout, "the call took too long"),
            Ending::Crowded => no_room(),
            Ending::HomeLost => {
                Denial::new(Reason::ReplicaLost, "the replica that keeps this session does not answer")
            }
            Ending::Expired => draining(),
            Ending::RouteRemoved => route_removed(),
            Ending::CallerLost => caller_lost(),
        };
        self.record.note_denial(&denial);
        self.note_failure(denial.clone().into());
        Some(denial)
    }
}

/// The id of the session that an answer founds.
fn session_id(head: &Head) -> Option<&HeaderValue> {
    head.headers.get(MCP_SESSION_ID)
}
