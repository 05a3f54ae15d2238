//! The stream of a leg: what a legacy server says outside of calls.

use super::{Delivery, Heard, Leg, Origin, What};
use crate::backend::Backend;
use crate::backend::forward::{Exchange, Patience};
use crate::backend::gateway_requests::{self, Addressed, CROWDED, Errand, INCAPABLE, UNRELATED};
use crate::backend::upstream_call::reading::{Reading, Resume};
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::{Place, voice};
use bytes::Bytes;
use http::HeaderValue;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::mcp::Shape;
use portunus_filters::mcp::bridge::question_of_server_request;
use portunus_filters::{Kind, Reason};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::sleep;

/// How long the text of a refusal is waited for.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// First and longest wait before a lost stream is opened again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Opens the stream of a leg and reads it in the background until the leg is gone.
pub(super) fn open(backend: &Arc<Backend>, leg: &Arc<Leg>) {
    leg.follow(tokio::spawn(listen(Arc::downgrade(backend), Arc::downgrade(leg))));
}

/// How one connection of the stream ended.
enum Lost {
    /// The server offers none, or the leg is gone.
    ForGood,
    /// It may be opened again.
    Again,
}

async fn listen(backend: Weak<Backend>, leg: Weak<Leg>) {
    let mut resume = Resume::default();
    let mut wait = BACK_OFF.0;
    let mut opened = false;
    loop {
        let reading = match (backend.upgrade(), leg.upgrade()) {
            (Some(backend), Some(leg)) => {
                let Place { pool, upstream, owner, .. } = &leg.place;
                // Boxed, as what follows: this task lasts as long as the session, and mostly it sleeps.
                let reading = match Box::pin(pool.stream_turn(upstream, *owner)).await {
                    Ok(_turn) => Box::pin(connect(&backend, &leg, &resume)).await,
                    Err(_) => Err(()),
                };
                leg.open.raise();
                reading
            }
            _ => return,
        };
        match reading {
            Ok(Some(mut reading)) => {
                // A server without sessions may be another than before, whatever it was asked to resume.
                let resumed =
                    resume.last_event_id.is_some() && leg.upgrade().is_some_and(|leg| leg.id.is_some());
                if opened && !resumed {
                    told(&backend, &leg, What::Gap);
                }
                opened = true;
                wait = BACK_OFF.0;
                if let Lost::ForGood = Box::pin(read(&backend, &leg, &mut reading)).await {
                    return;
                }
                resume = reading.resume().clone();
            }
            Ok(None) => return,
            Err(()) => {}
        }
        sleep(resume.retry.unwrap_or(wait).clamp(BACK_OFF.0, BACK_OFF.1)).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

/// The stream, begun; `None` if there is none, an error if it may be there later.
async fn connect(
    backend: &Arc<Backend>,
    leg: &Arc<Leg>,
    resume: &Resume,
) -> Result<Option<Box<Reading>>, ()> {
    let mut fields = voice::listening();
    voice::address(&mut fields, leg.id.as_ref(), leg.version);
    let last = resume.last_event_id.as_deref().and_then(|id| HeaderValue::from_bytes(id).ok());
    fields.extend(last.map(|id| (http::HeaderName::from_static("last-event-id"), id)));
    let addressed = Addressed { fields, leg: Some(leg) };
    let sent = gateway_requests::send(backend, &leg.place, &Errand::Stream, addressed).await;
    let exchange = sent.map_err(drop)?;
    let status = exchange.head.status;
    if status.is_success() {
        let begun = Reading::begin(exchange, &leg.place.upstream, Kind::Stream);
        return Ok(begun.ok().map(Box::new));
    }
    let refusal = refusal(exchange, &leg.place.upstream).await;
    if leg.is_unknown(status, refusal.as_deref()) {
        gone(backend, leg);
    }
    // 405 and its like are final; an upstream that is down is not.
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::CONFLICT {
        return Err(());
    }
    Ok(None)
}

/// What a server says of a stream that it does not open.
async fn refusal(exchange: Exchange, upstream: &Arc<Upstream>) -> Option<Bytes> {
    let mut reading = Reading::begin(exchange, upstream, Kind::Stream).ok()?;
    let patience = Patience { idle: Some(REFUSED_WITHIN), until: None };
    let refusal = reading.next(patience).await.ok().flatten();
    reading.finish();
    refusal.map(|refusal| refusal.bytes)
}

/// Reads until the stream ends.
async fn read(backend: &Weak<Backend>, leg: &Weak<Leg>, reading: &mut Reading) -> Lost {
    // Under way while nothing came for long: the server may have nothing to say.
    let mut ping: Option<Pin<Box<dyn Future<Output = bool> + Send>>> = None;
    loop {
        let idle = leg.upgrade().map(|leg| leg.place.upstream.timeouts.idle);
        let idle = if ping.is_some() { None } else { idle };
        let next = tokio::select! {
            biased;
            next = reading.next(Patience { idle, until: None }) => next,
            answers = answered(&mut ping) => {
                ping = None;
                if answers {
                    continue;
                }
                return Lost::Again;
            }
        };
        let (Some(backend), Some(leg)) = (backend.upgrade(), leg.upgrade()) else { return Lost::ForGood };
        match next {
            Ok(Some(message)) => sort(&backend, &leg, &message),
            Ok(None) => return Lost::Again,
            // Half a message that is not ended would be held for as long as pings are answered.
            Err(failure)
                if failure.denial.reason == Reason::UpstreamTimeout && !reading.is_amid_message() =>
            {
                ping = Some(Box::pin(async move { gateway_requests::answers_ping(&backend, &leg).await }));
            }
            Err(failure) => {
                tracing::debug!(upstream = &*leg.place.upstream.name, cause = failure.cause, "stream lost");
                return Lost::Again;
            }
        }
    }
}

async fn answered(ping: &mut Option<Pin<Box<dyn Future<Output = bool> + Send>>>) -> bool {
    match ping {
        Some(ping) => ping.await,
        None => std::future::pending().await,
    }
}

/// Gives a message to whom it concerns.
pub(super) fn sort(backend: &Arc<Backend>, leg: &Arc<Leg>, message: &ServerMessage) {
    let content = match &message.content {
        Ok(content) => content,
        Err(unread) => {
            let upstream = &*leg.place.upstream.name;
            return tracing::debug!(upstream, why = unread.detail(), "what came on a stream is not read");
        }
    };
    match (content.shape, &content.method, &content.id) {
        (Shape::Request, Some(method), Some(id)) if method.is("ping") => {
            leg.tell(backend, Errand::Pong { session: leg.session(), id: id.clone() });
        }
        (Shape::Request, _, Some(id)) => {
            let why = match leg.deliver(None, message) {
                Delivery::Taken => return,
                Delivery::Full => CROWDED,
                Delivery::Nobody => match question_of_server_request(message.text(), id.as_json()) {
                    Ok(Some(question)) if leg.origin == Origin::Own => {
                        return told_of(backend, leg, What::Question { id: id.clone(), question });
                    }
                    Ok(Some(question)) if !leg.place.profile.can(question.ability()) => INCAPABLE,
                    _ => UNRELATED,
                },
            };
            leg.tell(backend, Errand::Decline { session: leg.session(), id: id.clone(), why });
        }
        (Shape::Notification, Some(method), _) => {
            let delivery = match (method.name(), content.progress) {
                ("notifications/progress", Some(number)) => leg.deliver(Some(number), message),
                ("notifications/message" | "notifications/cancelled", _) => leg.deliver(None, message),
                _ => Delivery::Nobody,
            };
            match delivery {
                Delivery::Taken => {}
                Delivery::Full => backend.metrics.untold("call", 1),
                Delivery::Nobody => {
                    let notice = What::Notice { method: method.clone(), message: message.bytes.clone() };
                    told_of(backend, leg, notice);
                }
            }
        }
        (Shape::Result | Shape::Error, _, Some(id)) => leg.answered(id, message),
        _ => {}
    }
}

/// The upstream has forgotten the leg, or it has ended with its stream.
pub(super) fn gone(backend: &Arc<Backend>, leg: &Arc<Leg>) {
    if leg.die() {
        tracing::info!(upstream = &*leg.place.upstream.name, "the server has lost a session");
        told_of(backend, leg, What::Gone);
    }
}

fn told(backend: &Weak<Backend>, leg: &Weak<Leg>, what: What) {
    if let (Some(backend), Some(leg)) = (backend.upgrade(), leg.upgrade()) {
        told_of(&backend, &leg, what);
    }
}

fn told_of(backend: &Arc<Backend>, leg: &Arc<Leg>, what: What) {
    let place = &leg.place;
    let whole = backend.replicas.whole(place.upstream.key);
    let upstream = whole.unwrap_or_else(|| Arc::clone(&place.upstream));
    let share = match &what {
        What::Notice { message, .. } => match backend.spoken.take(upstream.key, message.len()) {
            None => return backend.missed(&upstream),
            share => share,
        },
        What::Question { id, question } => {
            let text = id.as_json().len() + question.params.len();
            match backend.spoken.take(upstream.key, text) {
                None => {
                    let (session, id) = (leg.session(), id.clone());
                    return leg.tell(backend, Errand::Decline { session, id, why: CROWDED });
                }
                share => share,
            }
        }
        What::Gap | What::Gone => None,
    };
    let dropped = backend.heard.push(Heard {
        upstream,
        server: place.server.clone(),
        caller: place.caller,
        leg: Arc::clone(leg),
        what,
        share: share.map(Arc::new),
    });
    if let Some(dropped) = dropped {
        backend.missed(&dropped.upstream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_stream_task_takes_at_most_512_bytes() {
        // There are as many as sessions: with what opens a stream in it, it was more than 4 KiB.
        let bytes = size_of_val(&listen(Weak::new(), Weak::new()));
        assert!(bytes <= 512, "{bytes}");
    }
}
