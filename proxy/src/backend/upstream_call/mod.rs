//! One client request under way at an upstream of either era.
//!
//! An [`UpstreamCall`] yields notifications, questions and one final answer, and takes answers to questions, by
//! rounds or by requests of the server. All that it sends is permitted by the [`AuthorizedCall`] that it was opened with.

mod buffered;
mod call_request;
mod failover;
mod inspection;
mod keeping;
mod legacy;
mod modern;
pub(crate) mod reading;
mod schema_retry;
pub(crate) mod server_message;
#[cfg(test)]
mod tests;
pub(crate) mod upstream_headers;

use crate::backend::Backend;
use crate::backend::forward::{AuthorizedCall, Failure, FailureScope};
use crate::backend::headers::ClientHeaders;
use crate::backend::resource_cache::Read;
use crate::backend::upstreams::instances::InstanceLease;
use crate::backend::upstreams::pool::Pool;
use crate::offload::OffloadQueue;
use buffered::Buffered;
#[cfg(test)]
pub(crate) use buffered::MAX_BUFFERED_MESSAGES;
use bytes::Bytes;
pub use call_request::{CallRequest, ResponseRules, Rounds, SchemaRefresh, SessionChoice, SessionOwner};
use failover::{Failover, assign_instance};
use inspection::{Inspecting, RawEvent, unanswerable};
use keeping::{Sought, look, sought};
use legacy::Legacy;
pub(crate) use modern::MAX_ASKING_BYTES;
use modern::{Modern, ModernOptions};
use portunus_config::{ServerId, Transport, Upstream};
use portunus_filters::mcp::bridge::{self, Listener, Parts, Token};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Fault, Id, Method};
use portunus_filters::{Denial, Era, Reason, Released, ReleasedQuestion};
use schema_retry::SchemaRetry;
use std::collections::VecDeque;
use std::sync::Arc;
use upstream_headers::UpstreamHeaders;

pub use crate::sealing::CallerKey;
pub use portunus_filters::mcp::bridge::{Facts, ParamHeader, Profile, Question, Reply, Retry};
pub use server_message::{Answer, Outcome, ReceivedMessage};

/// For whom something is said, and where: what every session, pool entry and cache key contains.
#[derive(Clone)]
pub struct UpstreamTarget {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its connections.
    pub pool: Arc<Pool>,
    /// The virtual server that the client speaks to.
    pub server: ServerId,
    /// The authorization context.
    pub caller: CallerKey,
    /// Whose share it takes.
    pub owner: crate::shares::Owner,
    /// What the client says of itself.
    pub profile: Arc<Profile>,
    /// Headers of the client that go up, and tell it from others.
    pub headers: Arc<ClientHeaders>,
}

impl UpstreamTarget {
    /// The same upstream for no caller in particular: nobody can be asked, and nothing of a client is
    /// said.
    pub(crate) fn for_all(&self) -> UpstreamTarget {
        UpstreamTarget {
            caller: CallerKey::for_all(),
            owner: Default::default(),
            profile: Arc::new(Profile::silent("portunus", env!("CARGO_PKG_VERSION"))),
            headers: Arc::default(),
            ..self.clone()
        }
    }
}

/// The next event of an upstream call.
#[derive(Debug)]
pub enum CallEvent {
    /// A notification of this request in the client's words, with the client's progress token.
    Note(Released),
    /// Questions to the client, answered by [`UpstreamCall::reply`]; more may follow before that.
    Ask(Vec<ReleasedQuestion>),
    /// The final answer; nothing follows.
    Done(Answer<Released>),
    /// There will be no answer; nothing follows.
    Failed(Failure),
}

/// One client request under way at an upstream. Dropped, it breaks off without telling the upstream.
pub struct UpstreamCall {
    call: Box<CallParts>,
    state: CallState,
    /// Where the answer may be kept.
    read: Option<Box<Read>>,
    /// The retry where headers do not fit the schema.
    schema_retry: Option<SchemaRetry>,
    over: bool,
    /// What the upstream has yet to be told of questions that the client is not asked.
    unasked: Vec<(Arc<str>, Reply)>,
    /// Where an upstream has several instances: the one it is at, and its failover to others.
    instance: Option<InstanceLease>,
    failover: Option<Box<Failover>>,
    /// What was heard while the client was away.
    buffered: VecDeque<Buffered>,
    /// What was heard last, while inspectors read it aside.
    inspecting: Option<Inspecting>,
    /// The revision of the configuration that judged the answer, once there is one.
    revision_answered: Option<Arc<str>>,
}

/// The parts of an upstream call that do not depend on the era of its upstream.
#[derive(Clone)]
struct CallParts {
    backend: Arc<Backend>,
    place: UpstreamTarget,
    permit: Arc<AuthorizedCall>,
    upstream_headers: UpstreamHeaders,
    /// The era of the client.
    client: Era,
    /// The client's id of the request.
    id: Option<Id>,
    method: Method,
    /// The client's progress token, as JSON text.
    token: Option<String>,
    target: Option<Arc<str>>,
    /// What the client calls its target.
    aimed_at: Option<Arc<str>>,
    rounds: Rounds,
    responses: Arc<dyn ResponseRules>,
}

enum CallState {
    Modern(Box<Modern>),
    Legacy(Box<Legacy>),
    /// It was answered before.
    Given(Box<Answer<Bytes>>),
}

impl UpstreamCall {
    /// Begins; returns before the upstream has answered.
    ///
    /// # Errors
    /// [`Failure`] if the upstream's era or a legacy session cannot be had, or the message not be said
    /// in the upstream's words.
    pub async fn open(backend: &Arc<Backend>, mut request: CallRequest<'_>) -> Result<Self, Failure> {
        let era = match request.upstream_session {
            SessionChoice::Own(..) => Era::Legacy,
            SessionChoice::Pooled => {
                backend.eras.choose(backend, &request.place, request.message.era).await?
            }
        };
        let (upstream_session, parts) = (request.upstream_session, request.parts);
        let options = ModernOptions::of(&mut request);
        let schema_refresh = request.schema_refresh.take();
        let failover = Failover::of(&request, era, &options);
        let (read, meanwhile) = match look(sought(backend, &request, (era, &options)), era).await {
            Sought::Found(answer) => return Ok(Self::given(CallParts::of(backend, request, parts)?, answer)),
            Sought::Asked { read, meanwhile } => (read, meanwhile),
        };
        let instance = assign_instance(backend, &mut request);
        let call = CallParts::of(backend, request, parts)?;
        let mut upstream_call = match CallState::open((&call, parts), era, upstream_session, &options).await {
            Ok(state) => Self { read, instance, failover, ..Self::new(call, state) },
            Err(failure) => {
                Box::pin(UpstreamCall::open_elsewhere(call, read, (instance, failover), failure)).await?
            }
        };
        upstream_call.schema_retry = SchemaRetry::of(schema_refresh, era, options);
        Ok(match meanwhile {
            Some(answer) => upstream_call.aside(answer),
            None => upstream_call,
        })
    }

    /// Opens an upstream call that could not be opened where it was to be: at another replica, or with what is
    /// kept here.
    async fn open_elsewhere(
        call: Box<CallParts>,
        read: Option<Box<Read>>,
        alternatives: (Option<InstanceLease>, Option<Box<Failover>>),
        failure: Failure,
    ) -> Result<Self, Failure> {
        let failure = match alternatives {
            (Some(instance), Some(mut failover)) if failure.scope == FailureScope::Unreached => {
                match failover.reopen(call.clone(), instance, &failure).await {
                    Ok((call, state, instance)) => {
                        return Ok(Self {
                            read,
                            instance,
                            failover: Some(failover),
                            ..Self::new(call, state)
                        });
                    }
                    Err(failure) => failure,
                }
            }
            _ => failure,
        };
        let older = read.and_then(|read| read.instead(&failure));
        older.map(|answer| UpstreamCall::given(call, answer)).ok_or(failure)
    }

    fn new(call: Box<CallParts>, state: CallState) -> UpstreamCall {
        UpstreamCall {
            call,
            state,
            read: None,
            schema_retry: None,
            over: false,
            unasked: Vec::new(),
            instance: None,
            failover: None,
            buffered: VecDeque::new(),
            inspecting: None,
            revision_answered: None,
        }
    }

    /// The next event. Safe to cancel; waits for ever once the upstream call is over.
    pub async fn next(&mut self) -> CallEvent {
        loop {
            if let Some(event) = self.next_buffered().await {
                return event;
            }
            if self.over {
                std::future::pending::<()>().await;
            }
            let (raw, read) = self.next_raw_event().await;
            if let Some(event) = self.inspect(raw, read) {
                return event;
            }
        }
    }

    /// What is heard next, and where it may be kept if it is the answer. Safe to cancel.
    async fn next_raw_event(&mut self) -> (RawEvent, Option<Box<Read>>) {
        if let Some(read) = &mut self.read
            && let Some(answer) = read.kept().await
        {
            self.over = true;
            return (RawEvent::Done(answer), None);
        }
        let raw = self.receive().await;
        let failure = match &raw {
            RawEvent::Note { .. } | RawEvent::Ask(_) => return (raw, None),
            RawEvent::Done(_) => None,
            RawEvent::Failed(failure) => Some(failure),
        };
        self.over = true;
        match failure {
            None => self.call.place.pool.note_answer(),
            Some(failure) => self.call.place.pool.note_failure(failure),
        }
        if let Some(instance) = self.instance.take() {
            instance.judge(failure, self.call.backend.clock.now().monotonic);
        }
        let read = self.read.take();
        // An older answer may take the place of a failure.
        let older = failure.zip(read.as_deref()).and_then(|(failure, read)| read.instead(failure));
        match older {
            Some(older) => (RawEvent::Done(older), None),
            None => (raw, read),
        }
    }

    /// What the server says next, or what comes of its silence.
    async fn receive(&mut self) -> RawEvent {
        loop {
            if self.is_unsettled()
                && let Some(failure) = Box::pin(self.unsettled()).await
            {
                return RawEvent::Failed(failure);
            }
            if self.is_refreshing_schema()
                && let Some(raw) = Box::pin(self.retry_with_fresh_schema()).await
            {
                return raw;
            }
            let raw = match &mut self.state {
                CallState::Modern(modern) => modern.next(&self.call).await,
                CallState::Legacy(legacy) => legacy.next(&self.call).await,
                CallState::Given(answer) => RawEvent::Done(Answer::clone(answer)),
            };
            match raw {
                RawEvent::Failed(failure)
                    if failure.scope == FailureScope::Unreached && self.start_failover(&failure) => {}
                raw => {
                    if let Some(raw) = self.refresh_schema_on_mismatch(raw) {
                        return raw;
                    }
                }
            }
        }
    }

    /// Whether something comes before the next event; hardly ever.
    fn is_unsettled(&self) -> bool {
        !self.unasked.is_empty() || self.is_failing_over()
    }

    /// Finishes what comes before the next event; why there is none if that fails. Safe to cancel.
    async fn unsettled(&mut self) -> Option<Failure> {
        if !self.unasked.is_empty()
            && let Err(failure) = self.refuse_unasked().await
        {
            return Some(failure);
        }
        self.finish_failover().await
    }

    /// Answers questions by their keys; keys that were not asked, or are answered, are passed over.
    ///
    /// # Errors
    /// [`Failure`] if the upstream cannot be told; nothing follows then.
    pub async fn reply(&mut self, replies: Vec<(Arc<str>, Reply)>) -> Result<(), Failure> {
        let told = match &mut self.state {
            CallState::Modern(modern) => modern.reply(&self.call, replies),
            CallState::Legacy(legacy) => legacy.reply(&self.call, replies).await,
            CallState::Given(_) => Ok(()),
        };
        self.over |= told.is_err();
        told
    }

    /// Breaks off, and tells a legacy upstream; also before it has answered.
    pub fn cancel(self) {
        if let CallState::Legacy(legacy) = &self.state
            && !self.over
        {
            legacy.cancel(&self.call);
        }
    }

    /// The era in which the upstream is spoken to.
    pub fn era(&self) -> Era {
        match &self.state {
            CallState::Modern(_) => Era::Modern,
            CallState::Legacy(_) => Era::Legacy,
            CallState::Given(answer) => answer.era,
        }
    }

    /// The upstream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.call.place.upstream
    }

    /// How many bytes of its client's text it keeps.
    pub fn kept_bytes(&self) -> usize {
        self.call.permit.body().len() + self.call.token.as_ref().map_or(0, String::len)
    }

    /// The connections to the upstream.
    pub fn pool(&self) -> &Pool {
        &self.call.place.pool
    }

    /// What the upstream calls its target.
    pub fn target(&self) -> Option<&Arc<str>> {
        self.call.target.as_ref().or(self.call.aimed_at.as_ref())
    }

    /// The revision of the configuration that judged the answer, once there is one.
    pub fn revision_answered(&self) -> Option<&Arc<str>> {
        self.revision_answered.as_ref()
    }

    /// What stands over the answer.
    pub fn responses(&self) -> &dyn ResponseRules {
        &*self.call.responses
    }

    /// Whose share it takes of what callers hold together.
    pub fn owner(&self) -> crate::shares::Owner {
        self.call.place.owner
    }

    /// Where large answers are worked on.
    pub fn offload(&self) -> &OffloadQueue {
        &self.call.place.pool.offload
    }
}

impl CallState {
    /// Begins a request, which `parts` are of.
    async fn open(
        request: (&CallParts, &Parts<'_>),
        era: Era,
        upstream_session: SessionChoice<'_>,
        options: &ModernOptions,
    ) -> Result<CallState, Failure> {
        Ok(match era {
            Era::Modern => CallState::Modern(Box::new(Modern::open(request, options)?)),
            Era::Legacy => CallState::Legacy(Box::new(Legacy::open(request, upstream_session).await?)),
        })
    }
}

impl CallParts {
    /// Of a request, which `parts` are of.
    fn of(
        backend: &Arc<Backend>,
        request: CallRequest<'_>,
        parts: &Parts<'_>,
    ) -> Result<Box<CallParts>, Failure> {
        let method = request.message.method.clone();
        let method =
            method.ok_or_else(|| Denial::new(Reason::InvalidRequest, "the message is no request"))?;
        Ok(Box::new(CallParts {
            backend: Arc::clone(backend),
            permit: request.permit,
            upstream_headers: UpstreamHeaders::of(&request.origin, &request.place),
            place: request.place,
            client: request.message.era,
            id: request.message.id.clone(),
            method,
            token: parts.progress_token().map_err(unreadable)?,
            target: request.target,
            aimed_at: request.message.target.clone(),
            rounds: request.rounds,
            responses: request.responses,
        }))
    }

    /// The client's request.
    fn parts(&self) -> Result<Parts<'_>, Failure> {
        self.permit.parts().map_err(|fault| unreadable(fault).into())
    }

    /// Whether a modern server gets the request under the client's own id, which concerns nothing but
    /// the answer to this POST. A progress token could be another caller's too, and an id that is a text is one that no
    /// filter reads.
    fn passes(&self) -> bool {
        let is_number = self.id.as_ref().is_some_and(Id::is_number);
        self.client == Era::Modern && self.rounds == Rounds::Through && self.token.is_none() && is_number
    }

    /// Whether the upstream may ask something on this request.
    fn may_be_asked(&self) -> bool {
        self.rounds == Rounds::Asks && self.place.profile.answers() && bridge::may_ask(self.method.name())
    }

    /// Whether the upstream may say something about this request that does not name it: the request
    /// then needs an upstream session on which nothing else could be meant.
    fn is_told_aside(&self) -> bool {
        let logs = self.place.profile.log_level.is_some();
        self.may_be_asked() || (logs && self.place.upstream.transport == Transport::HttpSse)
    }

    fn is_repeatable(&self) -> bool {
        self.method.rules().is_some_and(|rules| rules.repeatable)
    }

    /// A notification in the client's words; `None` if it is not for it.
    fn told(&self, note: &Released, number: &str) -> Option<Released> {
        match bridge::notification(note.text(), &self.listener(number)) {
            Ok(told) => told.map(|told| note.translated(told)),
            Err(fault) => {
                tracing::debug!(upstream = &*self.place.upstream.name, %fault, "notification dropped");
                None
            }
        }
    }

    /// Whether the client would get a notification if no rule stood over it.
    pub(super) fn hears(&self, note: &[u8], number: &str) -> bool {
        let note = std::str::from_utf8(note).unwrap_or_default();
        bridge::notification(note, &self.listener(number)).is_ok_and(|told| told.is_some())
    }

    /// The client, who waits for the answer to what its upstream knows as `number`.
    fn listener<'a>(&'a self, number: &'a str) -> Listener<'a> {
        let token = self.token.as_deref().map(|client| Token { upstream: number, client });
        let log_level = self.place.profile.log_level;
        Listener { era: self.client, token, log_level, subscription: None }
    }

    /// The outcome of a request whose questions stay without an answer: what a model can read if it
    /// was a tool's, else an error.
    fn unanswered(&self, detail: &str) -> Outcome<Bytes> {
        if self.method.is("tools/call") {
            return Outcome::Result(bridge::tool_error(detail).into());
        }
        let error = format!("{{\"code\":-32603,\"message\":{}}}", string(detail));
        Outcome::Error { code: -32603, error: error.into() }
    }
}

fn unreadable(fault: Fault) -> Denial {
    Denial::new(Reason::InvalidRequest, fault.to_string())
}
