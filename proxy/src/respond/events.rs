//! Event streams.
//!
//! The head goes out before the first event, each event as soon as it is complete, with its bytes
//! as they came: comments, ids and retry times included. Ends come at event boundaries only.

use super::Respond;
use super::wait::{Ending, Wait};
use crate::bridge::{announces, overheard};
use crate::forward::Exchange;
use crate::metrics::Counted;
use crate::offload::LONGEST_BYTES;
use crate::reply::{last_event, listen_complete};
use crate::session::{Client, End};
use bytes::Bytes;
use portunus_filters::mcp::sse::{Event, Splitter};
use portunus_filters::mcp::{Envelope, Id, Method, Shape, bridge};
use portunus_filters::{Denial, Era, Kind, Reason, Released};

/// What is known of a stream so far.
struct Progress {
    splitter: Splitter,
    /// An event had an id: the client can resume, so an early end is no failure.
    resumable: bool,
    rpc_error: Option<i64>,
    /// Requests that the event at hand answers.
    answered: Vec<Id>,
}

impl Respond<'_> {
    pub(super) async fn events(&mut self, exchange: &mut Exchange, client: &mut Client) -> End {
        if self.begin(exchange, None, client).await.is_err() {
            return End::Broken;
        }
        let _open = self.expect.endless.then(|| Counted::one(&self.gateway.metrics.streams));
        let mut progress = Progress {
            splitter: Splitter::new(LONGEST_BYTES),
            resumable: false,
            rpc_error: None,
            answered: Vec::new(),
        };
        let last = loop {
            match self.next((progress.splitter.remainder().len(), LONGEST_BYTES), exchange, client).await {
                Wait::Room(bytes) => progress.splitter.plan(bytes),
                Wait::Chunk(chunk) => {
                    progress.splitter.push(&chunk);
                    match self.pass_events(&mut progress, client).await {
                        Ok(()) => {}
                        Err(Stop::Client) => return End::Broken,
                        Err(Stop::Malformed(detail)) => break self.malformed(detail),
                    }
                }
                Wait::End => {
                    // The second half of the CRLF that ended the last event.
                    if progress.splitter.remainder() == b"\n"
                        && self.write(client, Released::own(Bytes::from_static(b"\n")), 0).await.is_err()
                    {
                        return End::Broken;
                    }
                    break self.ended(&progress);
                }
                Wait::Ended(Ending::ClientGone) => return self.left(&progress),
                Wait::Ended(ending) => break self.cut(&ending, &progress),
            }
        };
        self.close(last, client).await
    }

    /// Writes every event that is complete.
    async fn pass_events(&mut self, progress: &mut Progress, client: &mut Client) -> Result<(), Stop> {
        const TOO_LARGE: Stop = Stop::Malformed("the server sent an event that is too large");
        while let Some(event) = progress.splitter.next_event().map_err(|_| TOO_LARGE)? {
            let followed = self.read_event(&event).await;
            if let Some(room) = &mut self.room {
                room.shrink(event.raw().len());
            }
            if self.follow(followed, progress)? {
                let released = self.pass.release(event.raw().clone());
                self.write(client, released, 1).await.map_err(|_| Stop::Client)?;
                // Only now: until it is written, the answer is owed.
                self.expect.open.retain(|open| !progress.answered.contains(open));
                progress.answered.clear();
            }
            self.room = None;
        }
        Ok(())
    }

    /// Reads an event, a large one where it stops no other call.
    async fn read_event(&self, event: &Event) -> Followed {
        let (event, era) = (event.clone(), self.expect.era);
        self.pool.offload.run(event.raw().len(), move || Followed::read(&event, era)).await
    }

    /// Keeps track of what an event answers; whether the event goes on.
    fn follow(&mut self, event: Followed, progress: &mut Progress) -> Result<bool, Stop> {
        // The modern era has no resumption: an id there promises nothing. What another replica kept is
        // lost with it.
        let resumes = self.expect.era == Era::Legacy && !self.expect.elsewhere;
        progress.resumable |= resumes && event.has_id;
        let mut goes_on = true;
        for envelope in event.messages {
            match envelope.shape {
                // It would ask by `input_required`; a request of its own makes its call hang.
                Shape::Request if self.expect.era == Era::Modern => {
                    return Err(Stop::Malformed(
                        "the server sent a request, which this revision does not have",
                    ));
                }
                Shape::Result | Shape::Error => {
                    self.record.note_proof(envelope.is_success);
                    progress.rpc_error = envelope.error_code;
                    progress.answered.extend(envelope.id);
                }
                Shape::Notification => {
                    if let Some(method) = &envelope.method {
                        // Of another replica's message its home has taken note.
                        if let Some(text) = &envelope.announcement
                            && !self.expect.elsewhere
                        {
                            overheard(self.gateway, self.upstream, method, text);
                        }
                        goes_on &= !self.strays(method);
                    }
                }
                Shape::Request => {}
            }
        }
        Ok(goes_on)
    }

    /// Whether a notification on the answer to a call is about something that its caller may be kept
    /// from: a resource or a task of which policy was not asked.
    fn strays(&self, method: &Method) -> bool {
        let concerns = method.is(bridge::RESOURCE_UPDATED) || bridge::is_of_task(method.name());
        concerns && !self.expect.elsewhere && self.gateway.glance().pipeline.is_on()
    }

    /// The upstream ended the stream: by its rules, or without the answer it owes.
    fn ended(&mut self, progress: &Progress) -> Option<Released> {
        if self.expect.kind == Kind::Stream || self.expect.open.is_empty() || progress.resumable {
            self.record.note_answer(progress.rpc_error);
            return None;
        }
        let denial =
            Denial::new(Reason::UpstreamUnavailable, "the server ended its stream without an answer");
        self.record.note_denial(&denial);
        self.note_failure(denial.clone().into());
        self.final_error(&denial)
    }

    /// The stream ends for a reason of its own; the bytes that say so, if anything has to.
    fn cut(&mut self, ending: &Ending, progress: &Progress) -> Option<Released> {
        self.note_loss(ending);
        let graceful = matches!(ending, Ending::Expired | Ending::RouteRemoved | Ending::CallerLost)
            && self.expect.endless;
        if graceful || self.expect.open.is_empty() {
            self.record.note_answer(progress.rpc_error);
            return self.expect.open.first().map(|id| Released::own(listen_complete(id)));
        }
        let denial = self.note(ending)?;
        // A client that can resume asks again for what it missed; an error would end its call.
        let resumes = progress.resumable && matches!(ending, Ending::Fault(_));
        if resumes { None } else { self.final_error(&denial) }
    }

    fn malformed(&mut self, detail: &'static str) -> Option<Released> {
        let denial = Denial::new(Reason::UpstreamMalformed, detail);
        self.record.note_denial(&denial);
        self.note_failure(denial.clone().into());
        self.final_error(&denial)
    }

    fn final_error(&self, denial: &Denial) -> Option<Released> {
        let events =
            self.expect.open.iter().map(|id| last_event(denial, id, self.expect.era, self.stamp.request_id));
        let joined: Vec<u8> = events.flat_map(|event| event.to_vec()).collect();
        (!joined.is_empty()).then(|| Released::own(joined))
    }

    /// The client closed its end: of a stream without an end of its own, that is how it ends.
    fn left(&mut self, progress: &Progress) -> End {
        if self.expect.endless || self.expect.open.is_empty() {
            self.record.note_answer(progress.rpc_error);
            return End::Left;
        }
        End::Broken
    }

    async fn close(&mut self, last: Option<Released>, client: &mut Client) -> End {
        if let Some(text) = last
            && self.write(client, text, 1).await.is_err()
        {
            return End::Broken;
        }
        self.finish(client).await
    }
}

/// What is to be known of an event that passes.
struct Followed {
    /// A client can resume from it.
    has_id: bool,
    /// Of its messages.
    messages: Vec<Message>,
}

/// What is to be known of a message that passes.
struct Message {
    shape: Shape,
    id: Option<Id>,
    method: Option<Method>,
    error_code: Option<i64>,
    is_success: bool,
    /// Its text, if it announces a change of what is kept here.
    announcement: Option<String>,
}

impl Followed {
    fn read(event: &Event, era: Era) -> Followed {
        let data = event.data().unwrap_or_default();
        let text = std::str::from_utf8(&data).unwrap_or_default();
        let is_batch = era == Era::Legacy && text.trim_ascii_start().starts_with('[');
        let read = match is_batch {
            true => Envelope::read_batch(text),
            false => Envelope::read(text).map(|envelope| vec![envelope]),
        };
        let messages = read.unwrap_or_default().into_iter().map(|envelope| Message {
            is_success: envelope.is_success(),
            announcement: envelope
                .method
                .as_ref()
                .filter(|method| announces(method))
                .map(|_| text.to_owned()),
            shape: envelope.shape,
            id: envelope.id,
            method: envelope.method,
            error_code: envelope.error_code,
        });
        Followed { has_id: event.has_id(), messages: messages.collect() }
    }
}

enum Stop {
    Client,
    Malformed(&'static str),
}
