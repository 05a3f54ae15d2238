//! The transport of 2024-11-05 towards clients: a GET names where messages are posted to, and every
//! answer comes on its stream.
//!
//! What is behind it is a session of a legacy client like any other; only that it ends with its stream.

use super::lines::{Entry, Line, Lines, OpenStream};
use super::responder::{Part, Responder, Sink};
use super::served_call::ServedCall;
use super::streams::{self, Stream};
use super::{batch, call, founding, legacy};
use crate::authorize::ResponsePipeline;
use crate::backend::headers::Stamp;
use crate::drain::Phase;
use crate::frontend::call_context::CallContext;
use crate::frontend::context::Gateway;
use crate::frontend::session::End;
use crate::metrics::Counted;
use crate::record::RecordGuard;
use crate::sealing::{Binding, LineToken, Token};
use http::{StatusCode, Version};
use portunus_filters::mcp::bridge;
use portunus_filters::message::Reading;
use portunus_filters::{Denial, Era, Kind, Message, Reason, Released};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a client may hold a stream without a session.
const FOUNDED_WITHIN: Duration = Duration::from_secs(60);

/// Serves a GET that opens a stream.
pub async fn open(served: &ServedCall<'_>, reading: &Reading, out: &mut Responder<'_>) -> End {
    let Some(message) = reading.messages().first() else { return End::Broken };
    let opened = served.admit(message).and_then(|admitted| {
        let open_stream =
            Lines::open(served.gateway, founding::session_number()?, founding::lifetime(served))?;
        Ok((open_stream, admitted.responses))
    });
    match opened {
        Ok(opened) => {
            served.context.snapshot.forget();
            carry(served, opened, out).await
        }
        Err(denial) => End::Refused(denial),
    }
}

async fn carry(
    served: &ServedCall<'_>,
    (mut open_stream, responses): (OpenStream, ResponsePipeline),
    out: &mut Responder<'_>,
) -> End {
    if out.write_event(Released::own(endpoint(served, &open_stream))).await.is_err() {
        return End::Left;
    }
    let _open = Counted::one(&served.gateway.metrics.streams);
    let line = Arc::clone(&open_stream.line);
    match unfounded(served, (&mut open_stream, &responses), out).await {
        Some(end) => end,
        None => {
            let session = line.founded().await;
            let words = session.listen(responses.clone());
            streams::flow(served, session, (words, responses), Some(&mut open_stream), out).await
        }
    }
}

/// The event that says where messages go: to this path, whatever the stream was opened at.
fn endpoint(served: &ServedCall<'_>, open_stream: &OpenStream) -> String {
    let token = LineToken { home: served.gateway.estate.home.clone(), number: open_stream.number() };
    let binding = Binding { server: &served.context.server.id, caller: served.context.bearer };
    // Of a length that always fits.
    let sealed = token.seal(&served.gateway.estate.seals, &binding).unwrap_or_default();
    let path = if served.context.server.path.is_empty() { "/" } else { &served.context.server.path };
    format!("event: endpoint\ndata: {path}?session={sealed}\n\n")
}

/// Carries what there is to say before there is a session; the end if it comes to none.
async fn unfounded(
    served: &ServedCall<'_>,
    (open_stream, responses): (&mut OpenStream, &ResponsePipeline),
    out: &mut Responder<'_>,
) -> Option<End> {
    let mut stream = Stream::new(served, responses.clone(), None, None);
    stream.ends_at = Phase::Expired;
    let (line, phases) = (Arc::clone(&open_stream.line), &served.context.connection_state.phases);
    let until = Instant::now() + FOUNDED_WITHIN;
    loop {
        tokio::select! {
            biased;
            _ = line.founded() => return None,
            Some(part) = open_stream.parts.recv() => {
                let (message, _room) = part.into_message();
                if out.event(message, None).await.is_err() {
                    return Some(End::Left);
                }
            }
            () = line.drained(phases) => return Some(stream.over(out).await),
            () = sleep_until(until) => return Some(stream.over(out).await),
            end = stream.wait(served, out) => if end.is_some() { return end },
        }
    }
}

/// Serves a POST that is about `line`.
pub async fn post(
    served: &ServedCall<'_>,
    line: &Arc<Line>,
    reading: &Reading,
    out: &mut Responder<'_>,
) -> End {
    let Reading::One(message) = reading else {
        let detail = "one message a POST: this transport has no batches";
        return End::Refused(Denial::new(Reason::InvalidRequest, detail));
    };
    if message.era != Era::Legacy {
        let detail = "a session of 2024-11-05 takes messages of legacy revisions only";
        return End::Refused(Denial::new(Reason::InvalidRequest, detail));
    }
    if message.kind == Kind::Request {
        return request(served, line, message, out).await;
    }
    let ended = match line.session() {
        Some(session) => legacy::of_session(served, session, message, out).await,
        None => Err(not_initialized()),
    };
    ended.unwrap_or_else(End::Refused)
}

/// Takes a request, and serves it aside: its answer has another way than that of its POST.
async fn request(
    served: &ServedCall<'_>,
    line: &Arc<Line>,
    message: &Message,
    out: &mut Responder<'_>,
) -> End {
    let Some(entry) = line.enter() else {
        let detail = "too many requests of this session are under way";
        return End::Refused(Denial::new(Reason::Overloaded, detail));
    };
    let taken = out.status(StatusCode::ACCEPTED).await;
    let record = out.record.hand_over();
    let (gateway, call) = (Arc::clone(served.gateway), served.context.of_stream());
    tokio::spawn(aside(gateway, call, entry, message.clone(), record));
    taken
}

async fn aside(
    gateway: Arc<Gateway>,
    call: CallContext,
    entry: Entry,
    message: Message,
    mut record: RecordGuard,
) {
    let (served, line) = (ServedCall { gateway: &gateway, context: &call }, entry.line());
    let mut out = Responder {
        sink: Sink::Batch(line.parts.clone()),
        record: &mut record,
        stamp: Stamp { request_id: &served.context.origin.arrival.request_id, origin: None },
        write_timeout: served.context.write_timeout,
        phases: &served.context.connection_state.phases,
        version: Version::HTTP_11,
        takes_events: true,
        begun: false,
    };
    let ended = match (call::method_name(&message), line.session()) {
        ("initialize", _) => found(&served, line, &message, &mut out).await,
        (_, Some(session)) if touched(&served, session) => {
            legacy::of_session(&served, session, &message, &mut out).await
        }
        _ => Err(not_initialized()),
    };
    match ended {
        Ok(End::Done) => {}
        Ok(End::Refused(denial)) | Err(denial) => {
            batch::refused(&served, &denial, &message, &mut record, &line.parts).await;
        }
        Ok(End::Left | End::Broken) => record.note_cut(),
    }
}

/// Whether the session is still there; it is no longer idle.
fn touched(served: &ServedCall<'_>, session: &super::sessions::Session) -> bool {
    served.gateway.estate.sessions.find(&session.server, &session.number, served.gateway).is_some()
}

/// Founds the session of a stream, once.
async fn found(
    served: &ServedCall<'_>,
    line: &Arc<Line>,
    message: &Message,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    if !line.claim() {
        return Err(Denial::new(Reason::InvalidRequest, "the session of this stream is initialized"));
    }
    let founded = founding::begin(served, message).await.inspect_err(|_| line.give_up())?;
    if !line.hold(Arc::clone(&founded.session)) {
        founding::end(served, &founded.session);
    }
    out.record.note_answer(None);
    let answer = bridge::wrap_result(call::id_text(message), founded.result.text());
    Ok(out.last(StatusCode::OK, founded.result.translated(answer)).await)
}

fn not_initialized() -> Denial {
    Denial::new(Reason::MissingSession, "the stream has no session: initialize first")
}

/// Refuses a message that was not read, but names its request, where that is waited for.
///
/// Gives back `false` if the stream does not take it.
pub fn refuse(line: &Line, body: String) -> bool {
    line.parts.try_send(Part::Answer(Released::own(body), None)).is_ok()
}
