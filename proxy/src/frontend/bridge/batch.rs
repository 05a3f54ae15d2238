//! Batches of 2025-03-26 (basic, "Batching"; JSON-RPC 2.0 §6): every element is a message of its own,
//! and the answers go back together.
//!
//! What an element says ahead of its answer makes the answer of the whole a stream.

use super::responder::{Part, Responder, Sink};
use super::served_call::ServedCall;
use crate::frontend::call_context::CallContext;
use crate::frontend::context::Gateway;
use crate::frontend::intake::BodyRoom;
use crate::frontend::session::End;
use crate::record::RecordGuard;
use crate::reply;
use bytes::Bytes;
use http::StatusCode;
use portunus_filters::mcp::object::elements;
use portunus_filters::mcp::{Envelope, MAX_BATCH};
use portunus_filters::{Denial, Message, Reason, Released};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::mpsc;

/// Serves a batch.
pub(super) async fn serve(served: &ServedCall<'_>, messages: &[Message], out: &mut Responder<'_>) -> End {
    let messages = match split(messages) {
        Ok(messages) => messages,
        Err(denial) => return End::Refused(denial),
    };
    let (sender, mut parts) = mpsc::channel(MAX_BATCH);
    let mut running: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = messages
        .iter()
        .map(|message| {
            Box::pin(element(
                served.gateway,
                served.context.of_part(&served.gateway.metrics),
                message,
                sender.clone(),
            )) as Pin<Box<_>>
        })
        .collect();
    drop(sender);
    served.context.snapshot.release();
    let mut all = poll_fn(move |context| {
        running.retain_mut(|element| element.as_mut().poll(context).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    let (mut answers, mut over) = (BatchAnswers::new(served), false);
    loop {
        tokio::select! {
            biased;
            part = parts.recv() => match part {
                // The room is released here: an element that waits for room must not hold any.
                Some(Part::Answer(answer, _)) => answers.push(answer),
                Some(Part::Ahead(message)) => if out.event(message, None).await.is_err() {
                    return End::Broken;
                },
                None => break,
            },
            () = &mut all, if !over => over = true,
            () = out.gone() => return End::Broken,
        }
        if out.begun && answers.tell(out).await.is_err() {
            return End::Broken;
        }
    }
    out.record.note_answer(None);
    answers.finish(out).await
}

/// Answers that go back together.
struct BatchAnswers<'a> {
    answers: Vec<Released>,
    bytes: usize,
    room: BodyRoom<'a>,
    request_id: &'a str,
}

impl<'a> BatchAnswers<'a> {
    fn new(served: &'a ServedCall<'_>) -> BatchAnswers<'a> {
        let room = BodyRoom::new(&served.gateway.estate.batches, served.owner());
        BatchAnswers {
            answers: Vec::new(),
            bytes: 0,
            room,
            request_id: &served.context.origin.arrival.request_id,
        }
    }

    /// Keeps an answer; where there is no room for it, its request gets an error.
    fn push(&mut self, answer: Released) {
        let answer = if self.room.holds(self.bytes + answer.len()) { answer } else { self.crowded(answer) };
        self.bytes += answer.len();
        self.answers.push(answer);
    }

    fn crowded(&self, answer: Released) -> Released {
        let detail =
            "the answers to this batch take more room together than there is: send fewer requests at once";
        match Envelope::read(answer.text()).ok().and_then(|read| read.id) {
            Some(id) => {
                Released::own(reply::lost(&Denial::new(Reason::Crowded, detail), &id, self.request_id))
            }
            // Only the gateway's own errors have no readable id, and they are short.
            None => answer,
        }
    }

    /// Tells what there is as events of a stream that has begun.
    async fn tell(&mut self, out: &mut Responder<'_>) -> io::Result<()> {
        for answer in self.answers.drain(..) {
            out.event(answer, None).await?;
        }
        self.bytes = 0;
        Ok(())
    }

    async fn finish(self, out: &mut Responder<'_>) -> End {
        if out.begun {
            return out.end().await;
        }
        if self.answers.is_empty() {
            return out.status(StatusCode::ACCEPTED).await;
        }
        let BatchAnswers { answers, room: _room, .. } = self;
        let whole = Released::batch(&answers);
        drop(answers);
        out.last(StatusCode::OK, whole).await
    }
}

/// One element, with a record of its own.
async fn element(gateway: &Arc<Gateway>, call: CallContext, message: &Message, parts: mpsc::Sender<Part>) {
    let served = ServedCall { gateway, context: &call };
    let served = &served;
    let mut record = RecordGuard::new(&served.gateway.recorder, &served.context.origin.arrival);
    record.note_server(&served.context.server, &served.active().revision);
    record.note_message(message, message.body.len());
    record.watch_long_texts(served.context.long_texts.as_ref());
    let mut out = Responder {
        sink: Sink::Batch(parts.clone()),
        record: &mut record,
        stamp: crate::backend::headers::Stamp {
            request_id: &served.context.origin.arrival.request_id,
            origin: None,
        },
        write_timeout: served.context.write_timeout,
        phases: &served.context.connection_state.phases,
        version: http::Version::HTTP_11,
        takes_events: true,
        begun: false,
    };
    let end = super::one(served, message, &mut out).await;
    if let End::Refused(denial) = end {
        refused(served, &denial, message, &mut record, &parts).await;
    }
}

/// Refuses a message whose answer is a part of something.
pub(super) async fn refused(
    served: &ServedCall<'_>,
    denial: &Denial,
    message: &Message,
    record: &mut RecordGuard,
    parts: &mpsc::Sender<Part>,
) {
    record.note_denial(denial);
    if let Some(answer) = served.refusal(denial, message) {
        // All is over if nobody takes it.
        drop(parts.send(Part::Answer(Released::own(answer), None)).await);
    }
}

/// Gives every element a body of its own.
fn split(messages: &[Message]) -> Result<Vec<Message>, Denial> {
    let unreadable = || Denial::new(Reason::InvalidRequest, "the batch cannot be read");
    let body = messages.first().map(|message| message.body.clone()).unwrap_or_default();
    let texts = elements(std::str::from_utf8(&body).map_err(|_| unreadable())?).map_err(|_| unreadable())?;
    let own = |(message, text): (&Message, &str)| {
        message.with_body(&Bytes::copy_from_slice(text.as_bytes())).map_err(|_| unreadable())
    };
    messages.iter().zip(texts).map(own).collect()
}

#[cfg(test)]
mod tests;
