//! Batches of 2025-03-26 (basic, "Batching"; JSON-RPC 2.0 §6): every element is a message of its own,
//! and the answers go back together.
//!
//! What an element says ahead of its answer makes the answer of the whole a stream.

use super::answering::{Answering, Part, Sink};
use super::desk::Desk;
use crate::intake::BodyRoom;
use crate::outcome::Outcome;
use crate::respond::End;
use bytes::Bytes;
use http::StatusCode;
use portunus_filters::mcp::MAX_BATCH;
use portunus_filters::mcp::object::elements;
use portunus_filters::{Denial, Message, Reason};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use tokio::sync::mpsc;

/// Serves a batch.
pub(super) async fn serve(desk: &Desk<'_>, messages: &[Message], out: &mut Answering<'_>) -> End {
    let messages = match split(messages) {
        Ok(messages) => messages,
        Err(denial) => return End::Refused(denial),
    };
    let (sender, mut parts) = mpsc::channel(MAX_BATCH);
    let mut running: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = messages
        .iter()
        .map(|message| Box::pin(element(desk.of_part(), message, sender.clone())) as Pin<Box<_>>)
        .collect();
    drop(sender);
    desk.snapshot.release();
    let mut all = poll_fn(move |context| {
        running.retain_mut(|element| element.as_mut().poll(context).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    let (mut answers, mut bytes, mut over) = (Vec::new(), 0, false);
    let mut room = BodyRoom::new(&desk.gateway.estate.bodies, desk.owner());
    loop {
        tokio::select! {
            biased;
            part = parts.recv() => match part {
                Some(Part::Answer(answer)) => {
                    bytes += answer.len();
                    if !room.holds(bytes) {
                        return End::Refused(too_large());
                    }
                    answers.push(answer);
                }
                Some(Part::Ahead(message)) => if out.event(&message, None).await.is_err() {
                    return End::Broken;
                },
                None => break,
            },
            () = &mut all, if !over => over = true,
            () = out.gone() => return End::Broken,
        }
    }
    out.outcome.answered(None);
    finish(answers, out).await
}

fn too_large() -> Denial {
    let detail =
        "the answers to this batch take more room together than there is: send fewer requests at once";
    Denial::new(Reason::ResultTooLarge, detail)
}

async fn finish(answers: Vec<String>, out: &mut Answering<'_>) -> End {
    if out.begun {
        for answer in answers {
            if out.event(&answer, None).await.is_err() {
                return End::Broken;
            }
        }
        return out.end().await;
    }
    match answers.is_empty() {
        true => out.status(StatusCode::ACCEPTED).await,
        false => {
            let mut whole =
                String::with_capacity(answers.iter().map(|answer| answer.len() + 1).sum::<usize>() + 1);
            for answer in answers {
                whole.push(if whole.is_empty() { '[' } else { ',' });
                whole.push_str(&answer);
            }
            whole.push(']');
            out.last(StatusCode::OK, whole).await
        }
    }
}

/// One element, with a record of its own.
async fn element(desk: Desk<'_>, message: &Message, parts: mpsc::Sender<Part>) {
    let desk = &desk;
    let mut outcome = Outcome::new(desk.gateway, desk.arrival);
    outcome.server(&desk.server, &desk.active().revision);
    outcome.message(message, message.body.len());
    let mut out = Answering {
        sink: Sink::Batch(parts.clone()),
        outcome: &mut outcome,
        stamp: crate::headers::Stamp { request_id: desk.inbound.request_id, origin: None },
        write_timeout: desk.write_timeout,
        phase: desk.gateway.drain.watch(),
        version: http::Version::HTTP_11,
        takes_events: true,
        begun: false,
    };
    let end = super::one(desk, message, &mut out).await;
    if let End::Refused(denial) = end {
        refused(desk, &denial, message, &mut outcome, &parts).await;
    }
}

/// Refuses a message whose answer is a part of something.
pub(super) async fn refused(
    desk: &Desk<'_>,
    denial: &Denial,
    message: &Message,
    outcome: &mut Outcome,
    parts: &mpsc::Sender<Part>,
) {
    outcome.denied(denial);
    if let Some(answer) = desk.refusal(denial, message) {
        // All is over if nobody takes it.
        drop(parts.send(Part::Answer(answer)).await);
    }
}

/// Gives every element a body of its own.
fn split(messages: &[Message]) -> Result<Vec<Message>, Denial> {
    let unreadable = || Denial::new(Reason::InvalidRequest, "the batch cannot be read");
    let body = messages.first().map(|message| message.body.clone()).unwrap_or_default();
    let texts = elements(std::str::from_utf8(&body).map_err(|_| unreadable())?).map_err(|_| unreadable())?;
    let own = |(message, text): (&Message, &str)| {
        super::call::with_body(message, &Bytes::copy_from_slice(text.as_bytes()))
    };
    messages.iter().zip(texts).map(own).collect()
}

#[cfg(test)]
mod tests;
