//! An upstream call with a legacy upstream: one POST on a session, whose stream asks by requests of its own.

use super::reading::{Budget, Course, Resume};
use super::server_message::{ServerMessage, Unread};
use super::upstream_headers::{self, Fields};
use super::{
    Answer, CallParts, Heard, Outcome, Question, Reply, SessionChoice, SessionOwner, UpstreamTarget,
    unanswerable, unreadable,
};
use crate::backend::forward::{Failure, Patience, RequestParts, RetryPolicy, malformed, send};
use crate::backend::gateway_requests::{GatewayRequest, INCAPABLE, UNRELATED};
use crate::backend::upstream_sessions::{Ear, LeaseOptions, SessionLease, UpstreamSession};
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
    course: Course,
    /// The request was taken, and its answer comes on the stream of the upstream session.
    posted: bool,
    budget: Budget,
    inbox: Option<Ear>,
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
        (common, parts): (&CallParts, &Parts<'_>),
        upstream_session: SessionChoice<'_>,
    ) -> Result<Legacy, Failure> {
        let held = match upstream_session {
            SessionChoice::Own(upstream_session, session) => {
                Held::Own(Arc::clone(upstream_session), session.map(Arc::clone))
            }
            SessionChoice::Pooled => Held::Leased(lease(common, None).await?),
        };
        let mut legacy = Legacy {
            held,
            number: 0,
            id: String::new(),
            course: Course::Idle,
            posted: false,
            budget: Budget::of(&common.place, common.permit.deadline()),
            inbox: None,
            questions: Questions::default(),
            renewing: None,
            renewed: false,
            resuming: None,
            resume: Resume::default(),
            resumed: 0,
        };
        legacy.begin(common, parts)?;
        Ok(legacy)
    }

    /// Sends the request on the upstream session that is held.
    fn begin(&mut self, common: &CallParts, parts: &Parts<'_>) -> Result<(), Failure> {
        let upstream_session = Arc::clone(self.held.upstream_session());
        self.number = upstream_session.number();
        self.id = self.number.to_string();
        let put = Put {
            id: &self.id,
            progress_token: common.token.is_some().then_some(self.id.as_str()),
            target: common.target.as_deref(),
        };
        let body = bridge::legacy_request(parts, &put).map_err(unreadable)?;
        let asks = common.is_told_aside();
        let hears = asks || common.token.is_some() || upstream_session.is_relayed();
        self.inbox = hears.then(|| upstream_session.attach(self.number, asks));
        self.posted = false;
        upstream_session.requested();
        self.course = self.sent(common, &Method::POST, upstream_session.posted(), body.into());
        Ok(())
    }

    fn sent(&self, common: &CallParts, method: &Method, fields: &Fields, body: Bytes) -> Course {
        let place = self.place(common);
        let inbound = common.upstream_headers.inbound(method);
        let wording = RequestParts { inbound: &inbound, own: fields, body };
        let streams = method == Method::GET;
        let use_of = RetryPolicy { repeatable: streams || common.is_repeatable(), endless: streams };
        let request =
            common.permit.request(wording, Arc::clone(&place.upstream), Arc::clone(&place.pool), use_of);
        let kind = match streams {
            true => Kind::Stream,
            false if self.held.upstream_session().is_relayed() => Kind::Notification,
            false => Kind::Request,
        };
        Course::begin(request, &common.backend.resolver, kind)
    }

    pub(super) async fn next(&mut self, common: &CallParts) -> Heard {
        loop {
            if let Err(failure) = self.prepare(common).await {
                return Heard::Failed(failure);
            }
            let due = self.questions.due;
            let event = tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
                next = self.course.next(&common.place.upstream, self.budget.patience()), if !self.posted => {
                    Event::Answer(next)
                }
                aside = heard(&mut self.inbox) => Event::Aside(aside),
                failure = late(self.budget.patience()), if self.posted => Event::Answer(Err(failure)),
            };
            let heard = match event {
                Event::Answer(Ok(Some(message))) => self.take(common, &message),
                Event::Answer(Ok(None)) => self.ended(common, None),
                Event::Answer(Err(failure)) => self.ended(common, Some(failure)),
                Event::Aside(Some(message)) => self.take(common, &message),
                Event::Due => Ok(self.hand_out()),
                Event::Aside(None) => {
                    self.inbox = None;
                    let cause = || Failure::broken("the stream of the session has ended".to_owned());
                    if self.held.upstream_session().is_relayed() { Err(cause()) } else { Ok(None) }
                }
            };
            match heard {
                Ok(Some(heard)) => return heard,
                Ok(None) => {}
                Err(failure) => return Heard::Failed(failure),
            }
        }
    }

    /// Finishes what has to be done before there is an answer to read.
    async fn prepare(&mut self, common: &CallParts) -> Result<(), Failure> {
        if let Some(renewing) = &mut self.renewing {
            let held = renewing.as_mut().await;
            self.renewing = None;
            self.held = held?;
            self.begin(common, &common.parts()?)?;
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
            self.course = self.sent(common, &Method::GET, &fields, Bytes::new());
        }
        Ok(())
    }

    /// What a message of the upstream means.
    fn take(&mut self, common: &CallParts, message: &ServerMessage) -> Result<Option<Heard>, Failure> {
        let refused = self.course.refusal();
        let upstream_session = Arc::clone(self.held.upstream_session());
        if let Some(status) = refused
            && upstream_session.is_unknown(status, Some(&message.bytes))
        {
            return self.forgotten(common).map(|()| None);
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
                upstream_session.overhear(&common.backend, message);
                Ok(None)
            }
            (Shape::Notification, method, _) => {
                if let Some(method) = method {
                    common.backend.overheard(&common.place.upstream, method, text);
                }
                Ok(Some(Heard::note(message, &self.id)))
            }
            (Shape::Request, Some(method), Some(id)) if method.is("ping") => {
                upstream_session.tell(
                    &common.backend,
                    GatewayRequest::Pong { session: upstream_session.session(), id: id.clone() },
                );
                Ok(None)
            }
            (Shape::Request, _, Some(id)) => Ok(self.asked(common, text, id.clone())),
            _ => {
                let Some(outcome) = content.answer(&self.id, refused.is_some()) else {
                    return if refused.is_some() { Ok(None) } else { Err(no_message()) };
                };
                self.note_era(common, &outcome);
                self.course.finish();
                self.inbox = None;
                // The next call may have it, however long the answer is looked at.
                self.held = Held::Own(Arc::clone(&upstream_session), None);
                let lacking = self.questions.lacking.filter(|_| outcome.failed());
                Ok(Some(Heard::Done(match lacking {
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
    fn asked(&mut self, common: &CallParts, text: &str, id: Id) -> Option<Heard> {
        let upstream_session = self.held.upstream_session();
        self.questions.asked += 1;
        let key = format!("q{}", self.questions.asked);
        let question = bridge::question_of_server_request(text, &key).ok().flatten();
        let ability = question.as_ref().map(Question::ability);
        let lacking = ability.filter(|ability| !common.place.profile.can(*ability));
        if common.client == Era::Modern && lacking.is_some() {
            self.questions.lacking = lacking;
        }
        let room = self.questions.open.len() < MAX_QUESTIONS;
        match question.filter(|one| room && unanswerable(common, std::slice::from_ref(one)).is_none()) {
            Some(question) => {
                self.questions.open.push((Arc::clone(&question.key), id));
                self.questions.fresh.push(question);
                self.budget.pause();
                // A modern client answers all of a round at once; a legacy one each by itself.
                if common.client == Era::Legacy {
                    return self.hand_out();
                }
                self.questions.due.get_or_insert_with(|| Instant::now() + GATHER);
                None
            }
            None => {
                let why = if lacking.is_some() { INCAPABLE } else { UNRELATED };
                upstream_session.tell(
                    &common.backend,
                    GatewayRequest::Decline { session: upstream_session.session(), id, why },
                );
                None
            }
        }
    }

    fn hand_out(&mut self) -> Option<Heard> {
        self.questions.due = None;
        let fresh = std::mem::take(&mut self.questions.fresh);
        (!fresh.is_empty()).then_some(Heard::Ask(fresh))
    }

    pub(super) async fn reply(
        &mut self,
        common: &CallParts,
        replies: Vec<(Arc<str>, Reply)>,
    ) -> Result<(), Failure> {
        for (key, reply) in replies {
            let Some(at) = self.questions.open.iter().position(|(open, _)| *open == key) else { continue };
            let (_, id) = &self.questions.open[at];
            let body = match &reply {
                Reply::Result(result) => bridge::wrap_result(id.as_json(), result),
                Reply::Error(error) => bridge::wrap_said(id.as_json(), error),
            };
            self.tell(common, body.into()).await?;
            self.questions.open.swap_remove(at);
        }
        if self.questions.open.is_empty() {
            self.budget.resume();
        }
        Ok(())
    }

    /// Sends an answer to a question, a continuation of the request.
    async fn tell(&mut self, common: &CallParts, body: Bytes) -> Result<(), Failure> {
        let (place, upstream_session) =
            (self.place(common).clone(), Arc::clone(self.held.upstream_session()));
        let (inbound, fields) = (common.upstream_headers.inbound(&Method::POST), upstream_session.posted());
        let wording = RequestParts { inbound: &inbound, own: fields, body };
        let use_of = RetryPolicy { repeatable: false, endless: false };
        let way =
            common.permit.request(wording, Arc::clone(&place.upstream), Arc::clone(&place.pool), use_of);
        let exchange = send(way, Arc::clone(&common.backend.resolver)).await?;
        let status = exchange.head.status;
        if status.is_success() {
            exchange.checkout.put_back();
            return Ok(());
        }
        if upstream_session.is_unknown(status, None) {
            upstream_session.forgotten(&common.backend);
            return Err(Failure::forgotten());
        }
        Err(Failure {
            cause: format!("an answer to a question was refused by HTTP {}", status.as_u16()),
            ..malformed("the server does not take the answer to its question")
        })
    }

    /// The upstream has forgotten the session: the request was not read, and goes out once more where
    /// the session is the pool's, or its client has left nothing in it.
    fn forgotten(&mut self, common: &CallParts) -> Result<(), Failure> {
        self.inbox = None;
        self.course = Course::Idle;
        let upstream_session = Arc::clone(self.held.upstream_session());
        upstream_session.was_unread();
        upstream_session.forgotten(&common.backend);
        if self.renewed {
            return Err(Failure::forgotten());
        }
        self.renewed = true;
        let (common, since) = (common.clone(), Instant::now());
        self.renewing = Some(match &self.held {
            Held::Leased(_) => Box::pin(async move { lease(&common, Some(since)).await.map(Held::Leased) }),
            Held::Own(_, None) => return Err(Failure::forgotten()),
            Held::Own(_, Some(session)) => {
                let session = Arc::clone(session);
                Box::pin(async move {
                    let upstream_session = session.obtain_upstream_session(&common.place).await?;
                    Ok(Held::Own(upstream_session, Some(session)))
                })
            }
        });
        Ok(())
    }

    /// The answer ended without being one, or broke off: a stream with ids is resumed.
    fn ended(&mut self, common: &CallParts, failure: Option<Failure>) -> Result<Option<Heard>, Failure> {
        if let Some(status) = self.course.refusal() {
            if self.held.upstream_session().is_unknown(status, None) {
                return self.forgotten(common).map(|()| None);
            }
            return Err(failure.unwrap_or_else(|| Failure {
                cause: format!("HTTP {} without a JSON-RPC message", status.as_u16()),
                ..malformed("the server refused the request without an answer")
            }));
        }
        if failure.is_none() && self.held.upstream_session().is_relayed() {
            self.posted = true;
            self.course.finish();
            return Ok(None);
        }
        let late = failure.as_ref().is_some_and(|failure| failure.pending);
        if let Some(reading) = self.course.reading().filter(|_| !late) {
            let said = reading.resume();
            self.resume.retry = said.retry.or(self.resume.retry);
            if said.last_event_id.is_some() {
                self.resume.last_event_id.clone_from(&said.last_event_id);
            }
        }
        if !late && self.resume.last_event_id.is_some() && self.resumed < MAX_RESUMED {
            self.resumed += 1;
            self.course = Course::Idle;
            self.resuming = Some(Box::pin(sleep(self.resume.retry.unwrap_or(RETRY.0).min(RETRY.1))));
            return Ok(None);
        }
        Err(failure.unwrap_or_else(Failure::unanswered))
    }

    /// A refusal in words that only a modern server uses.
    fn note_era(&self, common: &CallParts, outcome: &Outcome<Bytes>) {
        if let Outcome::Error { code: -32022 | -32020, .. } = outcome
            && self.course.refusal().is_some_and(is_about_message)
        {
            self.held.upstream_session().forgotten(&common.backend);
            common.backend.contradicted(&common.place, Era::Legacy);
        }
    }

    /// Tells the upstream that nobody waits any more.
    pub(super) fn cancel(&self, common: &CallParts) {
        let upstream_session = self.held.upstream_session();
        if self.renewing.is_none() && !upstream_session.is_dead() {
            let id = Id::from(self.number);
            upstream_session
                .tell(&common.backend, GatewayRequest::Cancel { session: upstream_session.session(), id });
        }
    }

    /// Where messages of the request go.
    fn place<'c>(&'c self, common: &'c CallParts) -> &'c UpstreamTarget {
        let upstream_session = self.held.upstream_session();
        if upstream_session.is_relayed() { upstream_session.place() } else { &common.place }
    }
}

/// An upstream session for the request; one that sends log messages as the client wants them.
async fn lease(common: &CallParts, since: Option<Instant>) -> Result<SessionLease, Failure> {
    let (backend, place) = (&common.backend, &common.place);
    let pools = &backend.session_pools;
    let options = |since| LeaseOptions { exclusive: common.is_told_aside(), since };
    if !common.may_be_asked() && place.upstream.sessions == SessionSharing::Shared {
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

async fn heard(inbox: &mut Option<Ear>) -> Option<ServerMessage> {
    match inbox {
        Some(ear) => ear.next().await,
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
