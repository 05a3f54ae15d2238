//! The stream of an upstream session: messages of a legacy server outside of calls, and the subscriptions that it tells of.

use super::{Delivery, NoticeContent, Origin, ServerNotice, UpstreamSession};
use crate::backend::Backend;
use crate::backend::forward::{Exchange, Failure, Patience};
use crate::backend::gateway_requests::{self, Addressed, CROWDED, GatewayRequest, INCAPABLE, UNRELATED};
use crate::backend::upstream_call::reading::{Reading, Resume};
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::{UpstreamTarget, upstream_headers};
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

/// Opens the stream of an upstream session and reads it in the background until the upstream session is gone.
pub(super) fn open(backend: &Arc<Backend>, upstream_session: &Arc<UpstreamSession>) {
    upstream_session.follow(tokio::spawn(listen(Arc::downgrade(backend), Arc::downgrade(upstream_session))));
}

/// How one connection of the stream ended.
enum Lost {
    /// The server offers none, or the upstream session is gone.
    ForGood,
    /// It may be opened again.
    Again,
}

async fn listen(backend: Weak<Backend>, upstream_session: Weak<UpstreamSession>) {
    let mut resume = Resume::default();
    let mut wait = BACK_OFF.0;
    let mut opened = false;
    loop {
        let reading = match (backend.upgrade(), upstream_session.upgrade()) {
            (Some(backend), Some(upstream_session)) => {
                let UpstreamTarget { pool, upstream, owner, .. } = &upstream_session.place;
                // Boxed, as what follows: this task lasts as long as the session, and mostly it sleeps.
                let reading = match Box::pin(pool.stream_turn(upstream, *owner)).await {
                    Ok(_turn) => Box::pin(connect(&backend, &upstream_session, &resume)).await,
                    Err(_) => Err(()),
                };
                upstream_session.open.raise();
                reading
            }
            _ => return,
        };
        match reading {
            Ok(Some(mut reading)) => {
                // A server without sessions may be another than before, whatever it was asked to resume.
                let resumed = resume.last_event_id.is_some()
                    && upstream_session
                        .upgrade()
                        .is_some_and(|upstream_session| upstream_session.id.is_some());
                if opened && !resumed {
                    told(&backend, &upstream_session, NoticeContent::Gap);
                }
                opened = true;
                wait = BACK_OFF.0;
                if let Lost::ForGood = Box::pin(read(&backend, &upstream_session, &mut reading)).await {
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
    upstream_session: &Arc<UpstreamSession>,
    resume: &Resume,
) -> Result<Option<Box<Reading>>, ()> {
    let mut fields = upstream_headers::listening();
    upstream_headers::address(&mut fields, upstream_session.id.as_ref(), upstream_session.version);
    let last = resume.last_event_id.as_deref().and_then(|id| HeaderValue::from_bytes(id).ok());
    fields.extend(last.map(|id| (http::HeaderName::from_static("last-event-id"), id)));
    let addressed = Addressed { fields, upstream_session: Some(upstream_session) };
    let sent =
        gateway_requests::send(backend, &upstream_session.place, &GatewayRequest::Stream, addressed).await;
    let exchange = sent.map_err(drop)?;
    let status = exchange.head.status;
    if status.is_success() {
        let begun = Reading::begin(exchange, &upstream_session.place.upstream, Kind::Stream);
        return Ok(begun.ok().map(Box::new));
    }
    let refusal = refusal(exchange, &upstream_session.place.upstream).await;
    if upstream_session.is_unknown(status, refusal.as_deref()) {
        gone(backend, upstream_session);
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
async fn read(
    backend: &Weak<Backend>,
    upstream_session: &Weak<UpstreamSession>,
    reading: &mut Reading,
) -> Lost {
    // Under way while nothing came for long: the server may have nothing to say.
    let mut ping: Option<Pin<Box<dyn Future<Output = bool> + Send>>> = None;
    loop {
        let idle =
            upstream_session.upgrade().map(|upstream_session| upstream_session.place.upstream.timeouts.idle);
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
        let (Some(backend), Some(upstream_session)) = (backend.upgrade(), upstream_session.upgrade()) else {
            return Lost::ForGood;
        };
        match next {
            Ok(Some(message)) => sort(&backend, &upstream_session, &message),
            Ok(None) => return Lost::Again,
            // Half a message that is not ended would be held for as long as pings are answered.
            Err(failure)
                if failure.denial.reason == Reason::UpstreamTimeout && !reading.is_amid_message() =>
            {
                ping = Some(Box::pin(async move {
                    gateway_requests::answers_ping(&backend, &upstream_session).await
                }));
            }
            Err(failure) => {
                tracing::debug!(
                    upstream = &*upstream_session.place.upstream.name,
                    cause = failure.cause,
                    "stream lost"
                );
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
pub(super) fn sort(backend: &Arc<Backend>, upstream_session: &Arc<UpstreamSession>, message: &ServerMessage) {
    let content = match &message.content {
        Ok(content) => content,
        Err(unread) => {
            let upstream = &*upstream_session.place.upstream.name;
            return tracing::debug!(upstream, why = unread.detail(), "what came on a stream is not read");
        }
    };
    match (content.shape, &content.method, &content.id) {
        (Shape::Request, Some(method), Some(id)) if method.is("ping") => {
            upstream_session
                .tell(backend, GatewayRequest::Pong { session: upstream_session.session(), id: id.clone() });
        }
        (Shape::Request, _, Some(id)) => {
            let why = match upstream_session.deliver(None, message) {
                Delivery::Taken => return,
                Delivery::Full => CROWDED,
                Delivery::Nobody => match question_of_server_request(message.text(), id.as_json()) {
                    Ok(Some(question)) if upstream_session.origin == Origin::Own => {
                        return told_of(
                            backend,
                            upstream_session,
                            NoticeContent::Question { id: id.clone(), question },
                        );
                    }
                    Ok(Some(question)) if !upstream_session.place.profile.can(question.ability()) => {
                        INCAPABLE
                    }
                    _ => UNRELATED,
                },
            };
            upstream_session.tell(
                backend,
                GatewayRequest::Decline { session: upstream_session.session(), id: id.clone(), why },
            );
        }
        (Shape::Notification, Some(method), _) => {
            let delivery = match (method.name(), content.progress) {
                ("notifications/progress", Some(number)) => upstream_session.deliver(Some(number), message),
                ("notifications/message" | "notifications/cancelled", _) => {
                    upstream_session.deliver(None, message)
                }
                _ => Delivery::Nobody,
            };
            match delivery {
                Delivery::Taken => {}
                Delivery::Full => backend.metrics.untold("call", 1),
                Delivery::Nobody => {
                    let notice = NoticeContent::Notification {
                        method: method.clone(),
                        message: message.bytes.clone(),
                    };
                    told_of(backend, upstream_session, notice);
                }
            }
        }
        (Shape::Result | Shape::Error, _, Some(id)) => upstream_session.answered(id, message),
        _ => {}
    }
}

/// The upstream has forgotten the upstream session, or it has ended with its stream.
pub(super) fn gone(backend: &Arc<Backend>, upstream_session: &Arc<UpstreamSession>) {
    if upstream_session.die() {
        tracing::info!(upstream = &*upstream_session.place.upstream.name, "the server has lost a session");
        told_of(backend, upstream_session, NoticeContent::Gone);
    }
}

fn told(backend: &Weak<Backend>, upstream_session: &Weak<UpstreamSession>, content: NoticeContent) {
    if let (Some(backend), Some(upstream_session)) = (backend.upgrade(), upstream_session.upgrade()) {
        told_of(&backend, &upstream_session, content);
    }
}

fn told_of(backend: &Arc<Backend>, upstream_session: &Arc<UpstreamSession>, content: NoticeContent) {
    let place = &upstream_session.place;
    let whole = backend.instances.whole(place.upstream.key);
    let upstream = whole.unwrap_or_else(|| Arc::clone(&place.upstream));
    let share = match &content {
        NoticeContent::Notification { message, .. } => {
            match backend.unheard_bytes.take(upstream.key, message.len()) {
                None => return backend.missed(&upstream),
                share => share,
            }
        }
        NoticeContent::Question { id, question } => {
            let text = id.as_json().len() + question.params.len();
            match backend.unheard_bytes.take(upstream.key, text) {
                None => {
                    let (session, id) = (upstream_session.session(), id.clone());
                    return upstream_session
                        .tell(backend, GatewayRequest::Decline { session, id, why: CROWDED });
                }
                share => share,
            }
        }
        NoticeContent::Gap | NoticeContent::Gone => None,
    };
    let dropped = backend.notices.push(ServerNotice {
        upstream,
        server: place.server.clone(),
        caller: place.caller,
        upstream_session: Arc::clone(upstream_session),
        content,
        share: share.map(Arc::new),
    });
    if let Some(dropped) = dropped {
        backend.missed(&dropped.upstream);
    }
}

impl UpstreamSession {
    /// Resources that are subscribed to on it, of a pooled one.
    pub(crate) fn subscriptions(&self) -> Vec<Arc<str>> {
        self.lock().subscribed.keys().cloned().collect()
    }

    /// Subscribes to a resource; several who do so on one upstream session are one to the upstream.
    ///
    /// # Errors
    /// [`Failure`] if the upstream does not take the request.
    pub async fn subscribe(self: &Arc<Self>, backend: &Arc<Backend>, uri: &Arc<str>) -> Result<(), Failure> {
        let first = {
            let mut state = self.lock();
            let count = state.subscribed.entry(Arc::clone(uri)).or_insert(0);
            *count += 1;
            *count == 1
        };
        if !first {
            return Ok(());
        }
        let asked = self.ask(backend, GatewayRequest::Subscribe { uri: Arc::clone(uri) }).await;
        if asked.is_err() {
            self.lock().subscribed.remove(uri);
        }
        asked
    }

    /// Ends what [`UpstreamSession::subscribe`] began; the upstream is told in the background.
    pub fn unsubscribe(self: &Arc<Self>, backend: &Arc<Backend>, uri: &Arc<str>) {
        let last = {
            let mut state = self.lock();
            let count = state.subscribed.get_mut(uri).map(|count| {
                *count -= 1;
                *count
            });
            if count == Some(0) {
                state.subscribed.remove(uri);
            }
            count == Some(0)
        };
        if last && !self.is_dead() {
            let (upstream_session, backend) = (Arc::clone(self), Arc::clone(backend));
            let gateway_request = GatewayRequest::Unsubscribe { uri: Arc::clone(uri) };
            tokio::spawn(async move {
                drop(gateway_requests::send_on_session(&backend, &upstream_session, gateway_request).await)
            });
        }
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
