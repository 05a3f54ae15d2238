//! Calls and streams that outlive the connection that they began on, where a virtual server keeps
//! events: each runs in a task of its own, and connections only listen.
//!
//! Whoever has an id of a stream can come back to it by `Last-Event-ID`. A client that has left
//! before it was told one cannot, so that its call ends with its connection.

use super::answering::{Answering, Sink};
use super::desk::Desk;
use super::hub;
use super::legacy::{Call, Guarded};
use super::replay::{Lost, Pen, Replay, Tail};
use super::sessions::{Running, Session, Word};
use super::streams::{self, Listening};
use crate::authorize::Overseer;
use crate::backend::headers::Stamp;
use crate::frontend::call_context::CallContext;
use crate::frontend::context::Gateway;
use crate::frontend::session::End;
use crate::record::RecordGuard;
use crate::reply;
use http::{HeaderName, StatusCode};
use portunus_filters::catalog::ListKind;
use portunus_filters::mcp::bridge::Parts;
use portunus_filters::mcp::{Id, Revision};
use portunus_filters::{Denial, Message, Reason, Released};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What is said outside of calls is kept for a client that has been gone for this long; after that,
/// nobody listens to its servers any more.
const ABSENCE: Duration = Duration::from_secs(120);

/// Calls of one session that go on while their client is away; one more ends when it leaves. They hold
/// what calls hold, and nothing of their client's.
const MAX_LEFT_ALONE: usize = 64;

/// How listening to a stream ended.
enum Heard {
    /// With the stream.
    All(End),
    /// The client has left; whether it was told an id to come back by.
    Left { can_return: bool },
}

/// Serves a call that goes on without its client.
pub(super) async fn call(
    call: Call<'_, '_>,
    parts: &Parts<'_>,
    replay: &Arc<Replay>,
    running: Running,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    let (desk, session, message) = (call.desk, call.session, call.message);
    let underway = Arc::clone(running.call());
    // What is refused before anything was sent may have a status of its own.
    let talk = tokio::select! {
        talk = call.open(parts, out) => talk?,
        () = underway.cancelled.notified() => {
            out.record.note_cut();
            return Ok(out.end().await);
        }
    };
    let (pen, tail) = replay.call(message.id.as_ref());
    let stream = tail.stream();
    let task = Task {
        gateway: Arc::clone(desk.gateway),
        context: desk.call.of_stream(),
        session: Arc::clone(session),
        message: message.clone(),
        running,
        record: out.record.hand_over(),
    };
    tokio::spawn(task.run(talk, pen));
    match listen(desk, session, tail, out).await {
        Heard::All(end) => Ok(end),
        Heard::Left { can_return: false } => {
            underway.cancelled.notify_one();
            Ok(End::Left)
        }
        Heard::Left { can_return: true } => {
            leave_alone(session, replay, stream);
            Ok(End::Left)
        }
    }
}

/// Ends the call of a stream that its client has left, if too many go on without it.
fn leave_alone(session: &Session, replay: &Replay, stream: u64) {
    if let Some(request) = replay.superfluous(stream, MAX_LEFT_ALONE) {
        session.cancel(&request);
    }
}

/// One call, and what of its request it needs.
struct Task {
    gateway: Arc<Gateway>,
    context: CallContext,
    session: Arc<Session>,
    message: Message,
    running: Running,
    record: RecordGuard,
}

impl Task {
    async fn run(mut self, talk: Guarded, pen: Pen) {
        let desk = Desk { gateway: &self.gateway, call: &self.context };
        let mut out = answering(&desk, &pen, None, &mut self.record);
        out.record.note_http_status(StatusCode::OK.as_u16());
        let mut call = Call::new(&desk, &self.session, &self.message);
        let end = tokio::select! {
            end = call.converse(talk, &mut out) => end,
            () = self.running.call().cancelled.notified() => Ok(End::Broken),
        };
        call.forget_questions();
        match end {
            Ok(End::Done) => {}
            Ok(End::Broken | End::Left) => out.record.note_cut(),
            Ok(End::Refused(denial)) | Err(denial) => {
                out.record.note_denial(&denial);
                if let Some(answer) = desk.refusal(&denial, &self.message) {
                    out.last(StatusCode::OK, Released::own(answer)).await;
                }
            }
        }
    }
}

/// A legacy client's GET: a new stream, or the rest of one that it has lost.
pub(super) async fn get(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    (replay, overseer): (&Arc<Replay>, Overseer),
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    let shown = desk.call.head.headers.get(LAST_EVENT_ID);
    let tail = match shown.map(|id| id.to_str().unwrap_or_default()) {
        None => Ok(replay.own()),
        Some(id) => replay.resume(id),
    };
    let tail = match tail {
        Ok(tail) => tail,
        Err(Lost::Answer(request, id)) => return Ok(tell_lost(desk, &request, &id, out).await),
        Err(Lost::Nothing) => {
            let detail = "nothing follows the event that `Last-Event-ID` names: open a stream without it";
            return Err(Denial::new(Reason::InvalidRequest, detail));
        }
    };
    if tail.is_own() {
        // While nobody had the pen, nothing was kept.
        let pen = replay.own_pen();
        let missed = tail.missed || (pen.is_some() && shown.is_some());
        if let Some(pen) = pen {
            let listening = (session.listen(overseer.clone()), overseer);
            let (gateway, call) = (Arc::clone(desk.gateway), desk.call.of_stream());
            tokio::spawn(tell(gateway, call, Arc::clone(session), listening, pen));
        }
        if missed {
            for kind in [ListKind::Tools, ListKind::Prompts, ListKind::Resources] {
                hub::told(desk.gateway, session.push(Word::Changed(kind)));
            }
        }
    }
    out.record.note_answer(None);
    if out.begin().await.is_err() {
        return Ok(End::Left);
    }
    let stream = tail.stream();
    match listen(desk, session, tail, out).await {
        Heard::All(end) => Ok(end),
        Heard::Left { .. } => {
            leave_alone(session, replay, stream);
            Ok(End::Left)
        }
    }
}

/// Tells a session what happens outside of its calls.
async fn tell(
    gateway: Arc<Gateway>,
    call: CallContext,
    session: Arc<Session>,
    listening: Listening,
    pen: Pen,
) {
    let desk = Desk { gateway: &gateway, call: &call };
    let mut record = RecordGuard::unrecorded(&desk.gateway.recorder);
    let mut out = answering(&desk, &pen, Some(ABSENCE), &mut record);
    streams::flow(&desk, &session, listening, None, &mut out).await;
}

/// The way into a stream that is kept.
fn answering<'a>(
    desk: &'a Desk<'_>,
    pen: &'a Pen,
    patience: Option<Duration>,
    record: &'a mut RecordGuard,
) -> Answering<'a> {
    Answering {
        sink: Sink::Kept(pen, patience),
        record,
        stamp: Stamp { request_id: desk.call.request_id(), origin: None },
        write_timeout: desk.call.write_timeout,
        phase: desk.gateway.drain.watch(),
        version: http::Version::HTTP_11,
        takes_events: true,
        begun: false,
    }
}

/// The answer to a call is not here: the client must not wait for it for ever.
async fn tell_lost(desk: &Desk<'_>, request: &Id, id: &str, out: &mut Answering<'_>) -> End {
    let detail = "the answer to this call is no longer kept: whether it took effect is not known here";
    let denial = Denial::new(Reason::AnswerLost, detail);
    out.record.note_denial(&denial);
    let answer = reply::lost(&denial, request, desk.call.request_id());
    match out.event(Released::own(answer), Some(id)).await {
        Ok(()) => out.end().await,
        Err(_) => End::Broken,
    }
}

/// Brings a stream to its client, until it is over or the client has left.
async fn listen(desk: &Desk<'_>, session: &Session, mut tail: Tail, out: &mut Answering<'_>) -> Heard {
    let mut can_return = false;
    // Clients of earlier revisions take an event without a message for a broken one.
    if session.version >= Revision::V2025_11_25 {
        let priming = format!("id: {}\ndata: \n\n", tail.start);
        if out.write_event(Released::own(priming)).await.is_err() {
            return Heard::Left { can_return };
        }
        can_return = true;
    }
    let mut silent_until = Instant::now() + desk.call.server.keepalive;
    loop {
        let told = tokio::select! {
            biased;
            event = tail.next() => match event {
                Some(event) if event.last && !out.begun => {
                    return Heard::All(out.last(StatusCode::OK, event.message).await);
                }
                Some(event) => {
                    let told = out.event(event.message, Some(&event.id)).await;
                    can_return |= told.is_ok();
                    told
                }
                None => return Heard::All(out.end().await),
            },
            () = out.gone() => return Heard::Left { can_return },
            () = sleep_until(silent_until) => out.comment().await,
        };
        if told.is_err() {
            return Heard::Left { can_return };
        }
        silent_until = Instant::now() + desk.call.server.keepalive;
    }
}
