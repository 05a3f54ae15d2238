//! Event streams.
//!
//! The head goes out before the first event, each event as soon as it is complete, with its bytes
//! as they came: comments, ids and retry times included. Ends come at event boundaries only.

use super::wait::{Ending, Wait};
use super::{End, Respond};
use crate::forward::Exchange;
use crate::metrics::Counted;
use crate::reply::{last_event, listen_complete};
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use portunus_filters::mcp::sse::{Event, Splitter};
use portunus_filters::mcp::{Envelope, Shape};
use portunus_filters::{Denial, Era, Kind, Reason};

/// Largest event: results of 20 MB exist, and one event is held until it is complete.
const MAX_EVENT_BYTES: usize = 32 * 1024 * 1024;

/// What is known of a stream so far.
struct Progress {
    splitter: Splitter,
    /// An event had an id: the client can resume, so an early end is no failure.
    resumable: bool,
    rpc_error: Option<i64>,
}

impl Respond<'_> {
    pub(super) async fn events(&mut self, exchange: &mut Exchange, client: &mut ServerSession) -> End {
        if self.begin(exchange, None, client).await.is_err() {
            return End::Broken;
        }
        let _open = self.expect.endless.then(|| Counted::one(&self.gateway.metrics.streams));
        let mut progress =
            Progress { splitter: Splitter::new(MAX_EVENT_BYTES), resumable: false, rpc_error: None };
        let last = loop {
            match self.next(exchange, client).await {
                Wait::Chunk(chunk) => {
                    progress.splitter.push(&chunk);
                    match self.pass_events(&mut progress, client).await {
                        Ok(()) => {}
                        Err(Stop::Client) => return End::Broken,
                        Err(Stop::Oversize) => break self.oversize(),
                    }
                }
                Wait::End => break self.ended(&progress),
                Wait::Swapped => {}
                Wait::Ended(Ending::ClientGone) => {
                    self.left(&progress);
                    return End::Broken;
                }
                Wait::Ended(ending) => break self.cut(&ending, &progress),
            }
        };
        self.close(last, client).await
    }

    /// Writes every event that is complete.
    async fn pass_events(&mut self, progress: &mut Progress, client: &mut ServerSession) -> Result<(), Stop> {
        while let Some(event) = progress.splitter.next_event().map_err(|_| Stop::Oversize)? {
            progress.resumable |= event.has_id();
            if self.follow(&event, progress) {
                self.write(client, event.raw(), 1).await.map_err(|_| Stop::Client)?;
            }
        }
        Ok(())
    }

    /// Keeps track of what an event answers; `false` if it must not reach the client.
    fn follow(&mut self, event: &Event, progress: &mut Progress) -> bool {
        let Some(data) = event.data() else { return true };
        let Some(envelope) = std::str::from_utf8(&data).ok().and_then(|text| Envelope::read(text).ok())
        else {
            return true;
        };
        match envelope.shape {
            Shape::Request if self.expect.era == Era::Modern => {
                // A modern server asks by `input_required`; a request of its own would hang its call.
                tracing::warn!(
                    upstream = &*self.upstream.name,
                    "dropped a server's request on a modern stream"
                );
                false
            }
            Shape::Result | Shape::Error => {
                if let Some(id) = &envelope.id {
                    self.expect.open.retain(|open| open != id);
                }
                progress.rpc_error = envelope.error_code;
                true
            }
            Shape::Request | Shape::Notification => true,
        }
    }

    /// The upstream ended the stream: by its rules, or without the answer it owes.
    fn ended(&mut self, progress: &Progress) -> Option<Bytes> {
        if self.expect.kind == Kind::Stream || self.expect.open.is_empty() || progress.resumable {
            self.outcome.answered(progress.rpc_error);
            return None;
        }
        let denial =
            Denial::new(Reason::UpstreamUnavailable, "the server ended its stream without an answer");
        self.outcome.denied(&denial);
        self.final_error(&denial)
    }

    /// The stream ends for a reason of its own; the bytes that say so, if anything has to.
    fn cut(&mut self, ending: &Ending, progress: &Progress) -> Option<Bytes> {
        let graceful = matches!(ending, Ending::Expired | Ending::RouteRemoved) && self.expect.endless;
        if graceful || self.expect.open.is_empty() {
            self.outcome.answered(progress.rpc_error);
            return self.expect.open.first().map(listen_complete);
        }
        let denial = self.note(ending)?;
        // A client that can resume asks again for what it missed; an error would end its call.
        let resumes = progress.resumable && matches!(ending, Ending::Fault(_));
        if resumes { None } else { self.final_error(&denial) }
    }

    fn oversize(&mut self) -> Option<Bytes> {
        let denial = Denial::new(Reason::UpstreamMalformed, "the server sent an event that is too large");
        self.outcome.denied(&denial);
        self.final_error(&denial)
    }

    fn final_error(&self, denial: &Denial) -> Option<Bytes> {
        let events =
            self.expect.open.iter().map(|id| last_event(denial, id, self.expect.era, self.stamp.request_id));
        let joined: Vec<u8> = events.flat_map(|event| event.to_vec()).collect();
        (!joined.is_empty()).then(|| Bytes::from(joined))
    }

    /// The client closed a stream that has no end of its own: nothing was cancelled.
    fn left(&mut self, progress: &Progress) {
        if self.expect.endless || self.expect.open.is_empty() {
            self.outcome.answered(progress.rpc_error);
        }
    }

    async fn close(&mut self, last: Option<Bytes>, client: &mut ServerSession) -> End {
        if let Some(bytes) = last
            && self.write(client, &bytes, 1).await.is_err()
        {
            return End::Broken;
        }
        self.finish(client).await
    }
}

enum Stop {
    Client,
    Oversize,
}
