//! Passes event streams.
//!
//! The head goes out before the first event, each event as soon as it is complete, with its bytes
//! as they came: comments, ids and retry times included. Ends come at event boundaries only.

use super::Respond;
use super::wait::Ending;
use crate::backend::forward::{Exchange, Failure, Held, Piece, malformed};
use crate::frontend::bridge::announces;
use crate::frontend::session::End;
use crate::metrics::Counted;
use crate::offload::LONGEST_BYTES;
use crate::reply::{last_events, listen_complete};
use bytes::Bytes;
use portunus_filters::mcp::Summary;
use portunus_filters::mcp::sse::{Event, Splitter};
use portunus_filters::{Era, Released};

/// The state of a stream so far.
struct Progress {
    splitter: Splitter,
    /// An event had an id: the client can resume, so an early end is no failure.
    resumable: bool,
    rpc_error: Option<i64>,
}

impl Respond<'_> {
    pub(super) async fn events(&mut self, exchange: &mut Exchange) -> End {
        if self.begin(exchange, None).await.is_err() {
            return End::Broken;
        }
        let _open = self.expect.endless.then(|| Counted::one(&self.request.backend.metrics.streams));
        let splitter = Splitter::new(LONGEST_BYTES);
        let mut progress = Progress { splitter, resumable: false, rpc_error: None };
        let ending = loop {
            let held = Held { now: progress.splitter.remainder().len(), most: LONGEST_BYTES };
            match self.next(held, exchange).await {
                Ok(Piece::Room(bytes)) => progress.splitter.plan(bytes),
                Ok(Piece::Chunk(chunk)) => {
                    progress.splitter.push(&chunk);
                    if let Err(ending) = self.pass_events(&mut progress).await {
                        break ending;
                    }
                }
                Ok(Piece::End) => {
                    // The second half of the CRLF that ended the last event.
                    if progress.splitter.remainder() == b"\n"
                        && self.write(Released::own(Bytes::from_static(b"\n")), 0).await.is_err()
                    {
                        break Ending::Unwritten;
                    }
                    break Ending::Complete;
                }
                Err(ending) => break ending,
            }
        };
        self.conclude(ending, &progress).await
    }

    /// Writes every event that is complete.
    async fn pass_events(&mut self, progress: &mut Progress) -> Result<(), Ending> {
        let too_large = |_| Ending::Malformed(malformed("the server sent an event that is too large"));
        while let Some(event) = progress.splitter.next_event().map_err(too_large)? {
            let (summary, has_id, announcement) = self.read_event(&event).await;
            if let Some(room) = &mut self.room {
                room.shrink(event.raw().len());
            }
            // It would ask by `input_required`; a request of its own makes its call hang.
            if summary.asks && self.expect.era == Era::Modern {
                let detail = "the server sent a request, which this revision does not have";
                return Err(Ending::Malformed(malformed(detail)));
            }
            if let Some(answer) = summary.answer {
                self.record.note_proof(answer.succeeds);
                progress.rpc_error = answer.rpc_error;
            }
            // The events that another replica kept are lost with it, and of its messages that one has taken note.
            if !self.expect.elsewhere {
                // The modern era has no resumption: an id there promises nothing.
                progress.resumable |= has_id && self.expect.era == Era::Legacy;
                for method in &summary.notifications {
                    self.request.backend.overheard(self.request.upstream, method, &announcement);
                }
            }
            let released = self.pass.release(event.raw().clone());
            self.write(released, 1).await.map_err(|_| Ending::Unwritten)?;
            // Only now: until it is written, the answer is owed.
            self.expect.open.retain(|open| !summary.answered.contains(open));
            self.room = None;
        }
        Ok(())
    }

    /// Sums up an event, a large one where it stops no other call. Beside it stands if a client can resume from it, and its
    /// text if that announces a change of what is kept here.
    async fn read_event(&self, event: &Event) -> (Summary, bool, String) {
        let (length, batches) = (event.raw().len(), self.expect.era == Era::Legacy);
        let event = event.clone();
        let read = move || {
            let data = event.data().unwrap_or_default();
            let text = std::str::from_utf8(&data).unwrap_or_default();
            let summary = Summary::read(text, batches).unwrap_or_default();
            let announcement = summary.notifications.iter().any(announces).then(|| text.to_owned());
            (summary, event.has_id(), announcement.unwrap_or_default())
        };
        self.request.pool.offload.run(length, read).await
    }

    /// Notes how a stream ends, and tells its client if it has to know.
    async fn conclude(&mut self, ending: Ending, progress: &Progress) -> End {
        let (answered, endless) = (self.expect.open.is_empty(), self.expect.endless);
        // A client that can resume asks again for what it missed; an error would end its call.
        let resumes = progress.resumable && matches!(ending, Ending::Broken(_));
        let failure = match ending {
            Ending::Unwritten => return End::Broken,
            Ending::ClientGone if !answered && !endless => return End::Broken,
            Ending::ClientGone => {
                // Of a stream without an end of its own, that is how it ends.
                self.record.note_answer(progress.rpc_error);
                return End::Left;
            }
            Ending::Malformed(failure) => Some(failure),
            _ if answered => None,
            Ending::Complete if progress.resumable => None,
            Ending::Complete => Some(Failure::unanswered()),
            Ending::Withdrawn(_) if endless => None,
            Ending::Withdrawn(denial) => Some(denial.into()),
            Ending::Broken(failure) | Ending::Late(failure) => Some(failure),
        };
        let text = if let Some(failure) = failure {
            self.note(&failure);
            let (open, era) = (&self.expect.open, self.expect.era);
            (!resumes).then(|| last_events(&failure.denial, open, era, self.stamp.request_id)).flatten()
        } else {
            self.record.note_answer(progress.rpc_error);
            self.expect.open.first().filter(|_| endless).map(listen_complete)
        };
        if let Some(text) = text
            && self.write(Released::own(text), 1).await.is_err()
        {
            return End::Broken;
        }
        self.limits.end(self.client).await
    }
}
