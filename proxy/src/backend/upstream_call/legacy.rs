//! An upstream call with a legacy upstream: one POST on a session, whose stream asks by requests of its own.

use super::reading::{Budget, ExchangeState, Resume};
use super::server_message::{ServerMessage, Unread};
use super::upstream_headers::{self, Fields};
use super::{
    Answer, CallParts, Outcome, Question, RawEvent, Reply, SessionChoice, SessionOwner, UpstreamTarget,
    unanswerable, unreadable,
};
use crate::backend::forward::{Failure, Patience, RequestParts, RetryPolicy, malformed, send};
use crate::backend::gateway_requests::{GatewayRequest, INCAPABLE, UNRELATED};
use crate::backend::upstream_sessions::{CallInbox, LeaseOptions, SessionLease, UpstreamSession};
use crate::backend::upstreams::answer_class::is_about_message;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use portunus_config::SessionSharing;
use portunus_filters::mcp::bridge::{self, Ability, Parts, Put};
use portunus_filters::mcp::{Id, Shape};
use portunus_filters::{Denial, Era, Kind, Reason};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long further questions are waited for, so that they make one round.
const GATHER: Duration = Duration::from_millis(25);
/// Questions of one request.
const MAX_QUESTIONS: usize = 64;
/// How often a stream that broke off is resumed.
const MAX_RESUMED: u32 = 64;
/// The wait before a stream is resumed where the server names none, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

type Renewing = Pin<Box<dyn Future<Output = Result<Held, Failure>> + Send>>;

pub(super) struct Legacy {
    held: Held,
    /// Id and progress token, unique on the upstream session.
    number: u64,
    id: String,
    exchange: ExchangeState,
    /// The request was taken, and its answer comes on the stream of the upstream session.
    posted: bool,
    budget: Budget,
    inbox: Option<CallInbox>,
    questions: Questions,
    renewing: Option<Renewing>,
    renewed: bool,
    resuming: Option<Pin<Box<Sleep>>>,
    resume: Resume,
    resumed: u32,
}

/// The upstream session that carries the request.
enum Held {
    Leased(SessionLease),
    /// One client's own, and the session of that client where it may have another upstream session.
    Own(Arc<UpstreamSession>, Option<Arc<dyn SessionOwner>>),
}

impl Held {
    fn upstream_session(&self) -> &Arc<UpstreamSession> {
        match self {
            Held::Leased(lease) => lease,
            Held::Own(upstream_session, _) => upstream_session,
        }
    }
}

/// What the upstream asked.
#[derive(Default)]
struct Questions {
    asked: u64,
    /// Not handed out yet.
    fresh: Vec<Question>,
    /// When they are.
    due: Option<Instant>,
    /// Not answered yet.
    open: Vec<(Arc<str>, Id)>,
    /// What a modern client would have to declare to be asked what it could not be.
    lacking: Option<Ability>,
}

/// What happened first.
enum Event {
    Answer(Result<Option<ServerMessage>, Failure>),
    Aside(Option<ServerMessage>),
    Due,
}

impl Legacy {
    /// Begins a request, which `parts` are of.
    pub(super) async fn open(
        (call, parts): (&CallParts, &Parts<'_>),
        upstream_session: SessionChoice<'_>,
    ) -> Result<Legacy, Failure> {
        let held = match upstream_session {
            SessionChoice::Own(upstream_session, session) => {
                Held::Own(Arc::clone(upstream_session), session.map(Arc::clone))
            }
            SessionChoice::Pooled => Held::Leased(lease(call, None).await?),
        };
        let mut legacy = Legacy {
            held,
            number: 0,
            id: String::new(),
            exchange: ExchangeState::Idle,
            posted: false,
            budget: Budget::of(&call.place, call.permit.deadline()),
            inbox: None,
            questions: Questions::default(),
            renewing: None,
            renewed: false,
            resuming: None,
            resume: Resume::default(),
            resumed: 0,
        };
        legacy.begin(call, parts)?;
        Ok(legacy)
    }

    /// Sends the request on the upstream session that is held.
    fn begin(&mut self, call: &CallParts, parts: &Parts<'_>) -> Result<(), Failure> {
        let upstream_session = Arc::clone(self.held.upstream_session());
        self.number = upstream_session.number();
        self.id = self.number.to_string();
        let put = Put {
            id: &self.id,
            progress_token: call.token.is_some().then_some(self.id.as_str()),
            target: call.target.as_deref(),
        };
        let body = bridge::legacy_request(parts, &put).map_err(unreadable)?;
        let asks = call.is_told_aside();
        let hears = asks || call.token.is_some() || upstream_session.is_relayed();
        self.inbox = hears.then(|| upstream_session.attach(self.number, asks));
        self.posted = false;
        upstream_session.requested();
        self.exchange = self.sent(call, &Method::POST, upstream_session.posted(), body.into());
        Ok(())
    }

    fn sent(&self, call: &CallParts, method: &Method, fields: &Fields, body: Bytes) -> ExchangeState {
        let place = self.place(call);
        let inbound = call.upstream_headers.inbound(method);
        let parts = RequestParts { inbound: &inbound, own: fields, body };
        let streams = method == Method::GET;
        let retry = RetryPolicy { repeatable: streams || call.is_repeatable(), endless: streams };
        let request = call.permit.request(parts, Arc::clone(&place.upstream), Arc::clone(&place.pool), retry);
        let kind = match streams {
            true => Kind::Stream,
            false if self.held.upstream_session().is_relayed() => Kind::Notification,
            false => Kind::Request,
        };
        ExchangeState::begin(request, &call.backend.resolver, kind)
    }

    pub(super) async fn next(&mut self, call: &CallParts) -> RawEvent {
        loop {
            if let Err(failure) = self.prepare(call).await {
                return RawEvent::Failed(failure);
            }
            let due = self.questions.due;
            let event = tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
                next = self.exchange.next(&call.place.upstream, self.budget.patience()), if !self.posted => {
                    Event::Answer(next)
                }
                aside = next_aside(&mut self.inbox) => Event::Aside(aside),
                failure = late(self.budget.patience()), if self.posted => Event::Answer(Err(failure)),
            };
            let raw = match event {
                Event::Answer(Ok(Some(message))) => self.take(call, &message),
                Event::Answer(Ok(None)) => self.ended(call, None),
                Event::Answer(Err(failure)) => self.ended(call, Some(failure)),
                Event::Aside(Some(message)) => self.take(call, &message),
                Event::Due => Ok(self.hand_out()),
                Event::Aside(None) => {
                    self.inbox = None;
                    let cause = || Failure::broken("the stream of the session has ended".to_owned());
                    if self.held.upstream_session().is_relayed() { Err(cause()) } else { Ok(None) }
                }
            };
            match raw {
                Ok(Some(raw)) => return raw,
                Ok(None) => {}
                Err(failure) => return RawEvent::Failed(failure),
            }
        }
    }

    /// Finishes what has to be done before there is an answer to read.
    async fn prepare(&mut self, call: &CallParts) -> Result<(), Failure> {
        if let Some(renewing) = &mut self.renewing {
            let held = renewing.as_mut().await;
            self.renewing = None;
            self.held = held?;
            self.begin(call, &call.parts()?)?;
        }
        if let Some(pause) = &mut self.resuming {
            pause.as_mut().await;
            self.resuming = None;
            let mut fields = upstream_headers::listening();
            let upstream_session = self.held.upstream_session();
            upstream_headers::address(&mut fields, upstream_session.id(), upstream_session.version);
            let last = self.resume.last_event_id.as_deref();
            let last = last.and_then(|id| HeaderValue::from_bytes(id).ok());
            fields.extend(last.map(|id| (HeaderName::from_static("last-event-id"), id)));
            self.exchange = self.sent(call, &Method::GET, &fields, Bytes::new());
        }
        Ok(())
    }

    /// What a message of the upstream means.
    fn take(&mut self, call: &CallParts, message: &ServerMessage) -> Result<Option<RawEvent>, Failure> {
        let refused = self.exchange.refusal();
        let upstream_session = Arc::clone(self.held.upstream_session());
        if let Some(status) = refused
            && upstream_session.is_unknown(status, Some(&message.bytes))
        {
            return self.forgotten(call).map(|()| None);
        }
        let content = match &message.content {
            Ok(content) => content,
            Err(_) if refused.is_some() => return Ok(None),
            Err(unread) => return Err(malformed(unread.detail())),
        };
        let text = message.text();
        match (content.shape, &content.method, &content.id) {
            // For those who asked for the resource, on whatever stream it came.
            (Shape::Notification, Some(method), _) if method.is(bridge::RESOURCE_UPDATED) => {
                upstream_session.overhear(&call.backend, message);
                Ok(None)
            }
            (Shape::Notification, method, _) => {
                if let Some(method) = method {
                    call.backend.overheard(&call.place.upstream, method, text);
                }
                Ok(Some(RawEvent::note(message, &self.id)))
            }
            (Shape::Request, Some(method), Some(id)) if method.is("ping") => {
                upstream_session.tell(
                    &call.backend,
                    GatewayRequest::Pong { session: upstream_session.session(), id: id.clone() },
                );
                Ok(None)
            }
            (Shape::Request, _, Some(id)) => Ok(self.asked(call, text, id.clone())),
            _ => {
                let Some(outcome) = content.answer(&self.id, refused.is_some()) else {
                    return if refused.is_some() { Ok(None) } else { Err(no_message()) };
                };
                self.note_era(call, &outcome);
                self.exchange.finish();
                self.inbox = None;
                // The next call may have it, however long the answer is looked at.
                self.held = Held::Own(Arc::clone(&upstream_session), None);
                let lacking = self.questions.lacking.filter(|_| outcome.failed());
                Ok(Some(RawEvent::Done(match lacking {
                    // In words that only its client's era has (2026-07-28 basic, "Error Codes").
                    Some(ability) => Answer::own(incapable(ability)),
                    None => {
                        let facts = Some(Arc::clone(&upstream_session.facts));
                        Answer::of(message, Era::Legacy, outcome, facts, false)
                    }
                })))
            }
        }
    }

    /// A request of the upstream.
    fn asked(&mut self, call: &CallParts, text: &str, id: Id) -> Option<RawEvent> {
        let upstream_session = self.held.upstream_session();
        self.questions.asked += 1;
        let key = format!("q{}", self.questions.asked);
        let question = bridge::question_of_server_request(text, &key).ok().flatten();
        let ability = question.as_ref().map(Question::ability);
        let lacking = ability.filter(|ability| !call.place.profile.can(*ability));
        if call.client == Era::Modern && lacking.is_some() {
            self.questions.lacking = lacking;
        }
        let room = self.questions.open.len() < MAX_QUESTIONS;
        match question.filter(|one| room && unanswerable(call, std::slice::from_ref(one)).is_none()) {
            Some(question) => {
                self.questions.open.push((Arc::clone(&question.key), id));
                self.questions.fresh.push(question);
                self.budget.pause();
                // A modern client answers all of a round at once; a legacy one each by itself.
                if call.client == Era::Legacy {
                    return self.hand_out();
                }
                self.questions.due.get_or_insert_with(|| Instant::now() + GATHER);
                None
            }
            None => {
                let why = if lacking.is_some() { INCAPABLE } else { UNRELATED };
                upstream_session.tell(
                    &call.backend,
                    GatewayRequest::Decline { session: upstream_session.session(), id, why },
                );
                None
            }
        }
    }

    fn hand_out(&mut self) -> Option<RawEvent> {
        self.questions.due = None;
        let fresh = std::mem::take(&mut self.questions.fresh);
        (!fresh.is_empty()).then_some(RawEvent::Ask(fresh))
    }

    pub(super) async fn reply(
        &mut self,
        call: &CallParts,
        replies: Vec<(Arc<str>, Reply)>,
    ) -> Result<(), Failure> {
        for (key, reply) in replies {
            let Some(at) = self.questions.open.iter().position(|(open, _)| *open == key) else { continue };
            let (_, id) = &self.questions.open[at];
            let body = match &reply {
                Reply::Result(result) => bridge::wrap_result(id.as_json(), result),
                Reply::Error(error) => bridge::wrap_error_text(id.as_json(), error),
            };
            self.tell(call, body.into()).await?;
            self.questions.open.swap_remove(at);
        }
        if self.questions.open.is_empty() {
            self.budget.resume();
        }
        Ok(())
    }

    /// Sends an answer to a question, a continuation of the request.
    async fn tell(&mut self, call: &CallParts, body: Bytes) -> Result<(), Failure> {
        let (place, upstream_session) = (self.place(call).clone(), Arc::clone(self.held.upstream_session()));
        let (inbound, fields) = (call.upstream_headers.inbound(&Method::POST), upstream_session.posted());
        let parts = RequestParts { inbound: &inbound, own: fields, body };
        let retry = RetryPolicy { repeatable: false, endless: false };
        let request = call.permit.request(parts, Arc::clone(&place.upstream), Arc::clone(&place.pool), retry);
        let exchange = send(request, Arc::clone(&call.backend.resolver)).await?;
        let status = exchange.head.status;
        if status.is_success() {
            exchange.checkout.put_back();
            return Ok(());
        }
        if upstream_session.is_unknown(status, None) {
            upstream_session.forgotten(&call.backend);
            return Err(Failure::forgotten());
        }
        Err(Failure {
            cause: format!("an answer to a question was refused by HTTP {}", status.as_u16()),
            ..malformed("the server does not take the answer to its question")
        })
    }

    /// The upstream has forgotten the session: the request was not read, and goes out once more where
    /// the session is the pool's, or its client has left nothing in it.
    fn forgotten(&mut self, call: &CallParts) -> Result<(), Failure> {
        self.inbox = None;
        self.exchange = ExchangeState::Idle;
        let upstream_session = Arc::clone(self.held.upstream_session());
        upstream_session.was_unread();
        upstream_session.forgotten(&call.backend);
        if self.renewed {
            return Err(Failure::forgotten());
        }
        self.renewed = true;
        let (call, since) = (call.clone(), Instant::now());
        self.renewing = Some(match &self.held {
            Held::Leased(_) => Box::pin(async move { lease(&call, Some(since)).await.map(Held::Leased) }),
            Held::Own(_, None) => return Err(Failure::forgotten()),
            Held::Own(_, Some(session)) => {
                let session = Arc::clone(session);
                Box::pin(async move {
                    let upstream_session = session.obtain_upstream_session(&call.place).await?;
                    Ok(Held::Own(upstream_session, Some(session)))
                })
            }
        });
        Ok(())
    }

    /// The answer ended without being one, or broke off: a stream with ids is resumed.
    fn ended(&mut self, call: &CallParts, failure: Option<Failure>) -> Result<Option<RawEvent>, Failure> {
        if let Some(status) = self.exchange.refusal() {
            if self.held.upstream_session().is_unknown(status, None) {
                return self.forgotten(call).map(|()| None);
            }
            return Err(failure.unwrap_or_else(|| Failure {
                cause: format!("HTTP {} without a JSON-RPC message", status.as_u16()),
                ..malformed("the server refused the request without an answer")
            }));
        }
        if failure.is_none() && self.held.upstream_session().is_relayed() {
            self.posted = true;
            self.exchange.finish();
            return Ok(None);
        }
        let late = failure.as_ref().is_some_and(|failure| failure.pending);
        if let Some(reading) = self.exchange.reading().filter(|_| !late) {
            let resume = reading.resume();
            self.resume.retry = resume.retry.or(self.resume.retry);
            if resume.last_event_id.is_some() {
                self.resume.last_event_id.clone_from(&resume.last_event_id);
            }
        }
        if !late && self.resume.last_event_id.is_some() && self.resumed < MAX_RESUMED {
            self.resumed += 1;
            self.exchange = ExchangeState::Idle;
            self.resuming = Some(Box::pin(sleep(self.resume.retry.unwrap_or(RETRY.0).min(RETRY.1))));
            return Ok(None);
        }
        Err(failure.unwrap_or_else(Failure::unanswered))
    }

    /// A refusal in words that only a modern server uses.
    fn note_era(&self, call: &CallParts, outcome: &Outcome<Bytes>) {
        if let Outcome::Error { code: -32022 | -32020, .. } = outcome
            && self.exchange.refusal().is_some_and(is_about_message)
        {
            self.held.upstream_session().forgotten(&call.backend);
            call.backend.contradicted(&call.place, Era::Legacy);
        }
    }

    /// Tells the upstream that nobody waits any more.
    pub(super) fn cancel(&self, call: &CallParts) {
        let upstream_session = self.held.upstream_session();
        if self.renewing.is_none() && !upstream_session.is_dead() {
            let id = Id::from(self.number);
            upstream_session
                .tell(&call.backend, GatewayRequest::Cancel { session: upstream_session.session(), id });
        }
    }

    /// Where messages of the request go.
    fn place<'c>(&'c self, call: &'c CallParts) -> &'c UpstreamTarget {
        let upstream_session = self.held.upstream_session();
        if upstream_session.is_relayed() { upstream_session.place() } else { &call.place }
    }
}

/// An upstream session for the request; one that sends log messages as the client wants them.
async fn lease(call: &CallParts, since: Option<Instant>) -> Result<SessionLease, Failure> {
    let (backend, place) = (&call.backend, &call.place);
    let pools = &backend.session_pools;
    let options = |since| LeaseOptions { exclusive: call.is_told_aside(), since };
    if !call.may_be_asked() && place.upstream.sessions == SessionSharing::Shared {
        // A log level would be everybody's.
        return pools.lease_any(backend, place, since).await;
    }
    let lease = pools.lease(backend, place, options(since)).await?;
    let Some(level) = place.profile.log_level else { return Ok(lease) };
    match Box::pin(lease.set_level(backend, level)).await {
        Err(_) if lease.is_dead() => {
            drop(lease);
            pools.lease(backend, place, options(Some(Instant::now()))).await
        }
        Err(failure) => {
            tracing::debug!(upstream = &*place.upstream.name, cause = failure.cause, "no log level set");
            Ok(lease)
        }
        Ok(()) => Ok(lease),
    }
}

/// When patience is at its end.
async fn late(patience: Patience) -> Failure {
    let idle = patience.idle.map(|idle| Instant::now() + idle);
    match [idle, patience.until].into_iter().flatten().min() {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
    Denial::new(Reason::UpstreamTimeout, "the server did not answer in time").into()
}

async fn next_aside(inbox: &mut Option<CallInbox>) -> Option<ServerMessage> {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => std::future::pending().await,
    }
}

/// The error for a client that did not declare what a server needed of it.
fn incapable(ability: Ability) -> Outcome<Bytes> {
    let required = ability.required();
    let error = format!(
        "{{\"code\":-32021,\"message\":\"the server asks for what this client did not declare\",\"data\":{{\"requiredCapabilities\":{required}}}}}"
    );
    Outcome::Error { code: -32021, error: error.into() }
}

fn no_message() -> Failure {
    malformed(Unread::NoMessage.detail())
}
