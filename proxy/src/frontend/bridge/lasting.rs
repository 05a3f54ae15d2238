//! Calls and streams that outlive the connection that they began on, where a virtual server keeps
//! events: each runs in a task of its own, and connections only listen.
//!
//! Whoever has an id of a stream can come back to it by `Last-Event-ID`. A client that has left
//! before it was told one cannot, so that its call ends with its connection.

use super::hub;
use super::legacy::{Call, Guarded};
use super::replay::{Lost, Pen, Replay, Tail};
use super::responder::{Responder, Sink};
use super::served_call::ServedCall;
use super::sessions::{Running, Session, Word};
use super::streams::{self, Listening};
use crate::authorize::ResponsePipeline;
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
enum StreamEnd {
    /// With the stream.
    Finished(End),
    /// The client has left; whether it was told an id to come back by.
    Left { can_return: bool },
}

/// Serves a call that goes on without its client.
pub(super) async fn call(
    call: Call<'_, '_>,
    parts: &Parts<'_>,
    replay: &Arc<Replay>,
    running: Running,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let (served, session, message) = (call.served, call.session, call.message);
    let underway = Arc::clone(running.call());
    // What is refused before anything was sent may have a status of its own.
    let upstream_call = tokio::select! {
        upstream_call = call.open(parts, out) => upstream_call?,
        () = underway.cancelled() => {
            out.record.note_cut();
            return Ok(out.end().await);
        }
    };
    let (pen, tail) = replay.call(message.id.as_ref());
    let stream = tail.stream();
    let task = Task {
        gateway: Arc::clone(served.gateway),
        context: served.context.of_stream(),
        session: Arc::clone(session),
        message: message.clone(),
        running,
        record: out.record.hand_over(),
    };
    tokio::spawn(task.run(upstream_call, pen));
    match listen(served, session, tail, out).await {
        StreamEnd::Finished(end) => Ok(end),
        StreamEnd::Left { can_return: false } => {
            underway.cancel();
            Ok(End::Left)
        }
        StreamEnd::Left { can_return: true } => {
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
    async fn run(mut self, upstream_call: Guarded, pen: Pen) {
        let served = ServedCall { gateway: &self.gateway, context: &self.context };
        let mut out = answering(&served, &pen, None, &mut self.record);
        out.record.note_http_status(StatusCode::OK.as_u16());
        let mut call = Call::new(&served, &self.session, &self.message);
        let end = tokio::select! {
            end = call.converse(upstream_call, &mut out) => end,
            () = self.running.call().cancelled() => Ok(End::Broken),
        };
        call.forget_questions();
        match end {
            Ok(End::Done) => {}
            Ok(End::Broken | End::Left) => out.record.note_cut(),
            Ok(End::Refused(denial)) | Err(denial) => {
                out.record.note_denial(&denial);
                if let Some(answer) = served.refusal(&denial, &self.message) {
                    out.last(StatusCode::OK, Released::own(answer)).await;
                }
            }
        }
    }
}

/// A legacy client's GET: a new stream, or the rest of one that it has lost.
pub(super) async fn get(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    (replay, responses): (&Arc<Replay>, ResponsePipeline),
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let shown = served.context.parts.headers.get(LAST_EVENT_ID);
    let tail = match shown.map(|id| id.to_str().unwrap_or_default()) {
        None => Ok(replay.own()),
        Some(id) => replay.resume(id),
    };
    let tail = match tail {
        Ok(tail) => tail,
        Err(Lost::Answer(request, id)) => return Ok(tell_lost(served, &request, &id, out).await),
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
            let listening = (session.listen(responses.clone()), responses);
            let (gateway, call) = (Arc::clone(served.gateway), served.context.of_stream());
            tokio::spawn(tell(gateway, call, Arc::clone(session), listening, pen));
        }
        if missed {
            for kind in [ListKind::Tools, ListKind::Prompts, ListKind::Resources] {
                hub::told(served.gateway, session.push(Word::Changed(kind)));
            }
        }
    }
    out.record.note_answer(None);
    if out.begin().await.is_err() {
        return Ok(End::Left);
    }
    let stream = tail.stream();
    match listen(served, session, tail, out).await {
        StreamEnd::Finished(end) => Ok(end),
        StreamEnd::Left { .. } => {
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
    let served = ServedCall { gateway: &gateway, context: &call };
    let mut record = RecordGuard::unrecorded(&served.gateway.recorder);
    let mut out = answering(&served, &pen, Some(ABSENCE), &mut record);
    streams::flow(&served, &session, listening, None, &mut out).await;
}

/// The way into a stream that is kept.
fn answering<'a>(
    served: &'a ServedCall<'_>,
    pen: &'a Pen,
    patience: Option<Duration>,
    record: &'a mut RecordGuard,
) -> Responder<'a> {
    Responder {
        sink: Sink::Kept(pen, patience),
        record,
        stamp: Stamp { request_id: &served.context.origin.arrival.request_id, origin: None },
        write_timeout: served.context.write_timeout,
        phases: &served.context.connection_state.phases,
        version: http::Version::HTTP_11,
        takes_events: true,
        begun: false,
    }
}

/// The answer to a call is not here: the client must not wait for it for ever.
async fn tell_lost(served: &ServedCall<'_>, request: &Id, id: &str, out: &mut Responder<'_>) -> End {
    let detail = "the answer to this call is no longer kept: whether it took effect is not known here";
    let denial = Denial::new(Reason::AnswerLost, detail);
    out.record.note_denial(&denial);
    let answer = reply::lost(&denial, request, &served.context.origin.arrival.request_id);
    match out.event(Released::own(answer), Some(id)).await {
        Ok(()) => out.end().await,
        Err(_) => End::Broken,
    }
}

/// Brings a stream to its client, until it is over or the client has left.
async fn listen(
    served: &ServedCall<'_>,
    session: &Session,
    mut tail: Tail,
    out: &mut Responder<'_>,
) -> StreamEnd {
    let mut can_return = false;
    // Clients of earlier revisions take an event without a message for a broken one.
    if session.version >= Revision::V2025_11_25 {
        let priming = format!("id: {}\ndata: \n\n", tail.start);
        if out.write_event(Released::own(priming)).await.is_err() {
            return StreamEnd::Left { can_return };
        }
        can_return = true;
    }
    let mut silent_until = Instant::now() + served.context.server.keepalive;
    loop {
        let told = tokio::select! {
            biased;
            event = tail.next() => match event {
                Some(event) if event.last && !out.begun => {
                    return StreamEnd::Finished(out.last(StatusCode::OK, event.message).await);
                }
                Some(event) => {
                    let told = out.event(event.message, Some(&event.id)).await;
                    can_return |= told.is_ok();
                    told
                }
                None => return StreamEnd::Finished(out.end().await),
            },
            () = out.gone() => return StreamEnd::Left { can_return },
            () = sleep_until(silent_until) => out.comment().await,
        };
        if told.is_err() {
            return StreamEnd::Left { can_return };
        }
        silent_until = Instant::now() + served.context.server.keepalive;
    }
}
