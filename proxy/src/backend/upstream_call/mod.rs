//! One client request under way at an upstream of either era.
//!
//! An [`UpstreamCall`] yields notifications, questions and one final answer, and takes answers to questions, by
//! rounds or by requests of the server. All that it sends is permitted by the [`AuthorizedCall`] that it was opened with.

mod buffered;
mod call_request;
mod doubt;
mod keeping;
mod legacy;
mod modern;
mod overseen;
pub(crate) mod reading;
pub(crate) mod server_message;
#[cfg(test)]
mod tests;
mod travel;
pub(crate) mod upstream_headers;

use crate::backend::Backend;
use crate::backend::forward::{AuthorizedCall, Failure, FailureScope};
use crate::backend::headers::ClientHeaders;
use crate::backend::resource_cache::Read;
use crate::backend::upstreams::pool::Pool;
use crate::backend::upstreams::replicas::Seat;
use crate::offload::OffloadQueue;
use buffered::Buffered;
#[cfg(test)]
pub(crate) use buffered::MAX_BUFFERED_MESSAGES;
use bytes::Bytes;
pub use call_request::{CallRequest, ResponseRules, Rounds, SchemaRefresh, SessionChoice, SessionOwner};
use doubt::Doubt;
use keeping::{Sought, look, sought};
use legacy::Legacy;
pub(crate) use modern::MAX_ASKING_BYTES;
use modern::{Modern, Speech};
use overseen::{Heard, Inspecting, unanswerable};
use portunus_config::{ServerId, Transport, Upstream};
use portunus_filters::mcp::bridge::{self, Listener, Parts, Token};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Fault, Id, Method};
use portunus_filters::{Denial, Era, Reason, Released, ReleasedQuestion};
use std::collections::VecDeque;
use std::sync::Arc;
use travel::{Travel, seated};
use upstream_headers::UpstreamHeaders;

pub use crate::sealing::CallerKey;
pub use portunus_filters::mcp::bridge::{Facts, ParamHeader, Profile, Question, Reply, Retry};
pub use server_message::{Answer, Came, Outcome};

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
    common: Box<CallParts>,
    way: CallState,
    /// Where the answer may be kept.
    read: Option<Box<Read>>,
    /// What becomes of headers that do not fit.
    doubt: Option<Doubt>,
    over: bool,
    /// What the upstream has yet to be told of questions that the client is not asked.
    unasked: Vec<(Arc<str>, Reply)>,
    /// Where an upstream has several places: the one it is at, and how it goes to another.
    seat: Option<Seat>,
    travel: Option<Box<Travel>>,
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
    pub async fn open(backend: &Arc<Backend>, mut order: CallRequest<'_>) -> Result<Self, Failure> {
        let era = match order.upstream_session {
            SessionChoice::Own(..) => Era::Legacy,
            SessionChoice::Pooled => backend.eras.choose(backend, &order.place, order.message.era).await?,
        };
        let (upstream_session, parts) = (order.upstream_session, order.parts);
        let speech = Speech::of(&mut order);
        let relist = order.relist.take();
        let travel = Travel::of(&order, era, &speech);
        let (read, meanwhile) = match look(sought(backend, &order, (era, &speech)), era).await {
            Sought::Found(answer) => return Ok(Self::given(CallParts::of(backend, order, parts)?, answer)),
            Sought::Asked { read, meanwhile } => (read, meanwhile),
        };
        let seat = seated(backend, &mut order);
        let common = CallParts::of(backend, order, parts)?;
        let mut call = match CallState::open((&common, parts), era, upstream_session, &speech).await {
            Ok(way) => Self { read, seat, travel, ..Self::new(common, way) },
            Err(failure) => Box::pin(UpstreamCall::elsewhere(common, read, (seat, travel), failure)).await?,
        };
        call.doubt = Doubt::of(relist, era, speech);
        Ok(match meanwhile {
            Some(answer) => call.aside(answer),
            None => call,
        })
    }

    /// Opens an upstream call that could not be opened where it was to be: at another replica, or with what is
    /// kept here.
    async fn elsewhere(
        common: Box<CallParts>,
        read: Option<Box<Read>>,
        way_on: (Option<Seat>, Option<Box<Travel>>),
        failure: Failure,
    ) -> Result<Self, Failure> {
        let failure = match way_on {
            (Some(seat), Some(mut travel)) if failure.reach == FailureScope::Unreached => {
                match travel.on(common.clone(), seat, &failure).await {
                    Ok((common, way, seat)) => {
                        return Ok(Self { read, seat, travel: Some(travel), ..Self::new(common, way) });
                    }
                    Err(failure) => failure,
                }
            }
            _ => failure,
        };
        let older = read.and_then(|read| read.instead(&failure));
        older.map(|answer| UpstreamCall::given(common, answer)).ok_or(failure)
    }

    fn new(common: Box<CallParts>, way: CallState) -> UpstreamCall {
        UpstreamCall {
            common,
            way,
            read: None,
            doubt: None,
            over: false,
            unasked: Vec::new(),
            seat: None,
            travel: None,
            buffered: VecDeque::new(),
            inspecting: None,
            revision_answered: None,
        }
    }

    /// The next event. Safe to cancel; waits for ever once the upstream call is over.
    pub async fn next(&mut self) -> CallEvent {
        loop {
            if let Some(turn) = self.next_buffered().await {
                return turn;
            }
            if self.over {
                std::future::pending::<()>().await;
            }
            let (heard, read) = self.next_heard().await;
            if let Some(turn) = self.inspect(heard, read) {
                return turn;
            }
        }
    }

    /// What is heard next, and where it may be kept if it is the answer. Safe to cancel.
    async fn next_heard(&mut self) -> (Heard, Option<Box<Read>>) {
        if let Some(read) = &mut self.read
            && let Some(answer) = read.kept().await
        {
            self.over = true;
            return (Heard::Done(answer), None);
        }
        let heard = self.heard().await;
        let failure = match &heard {
            Heard::Note { .. } | Heard::Ask(_) => return (heard, None),
            Heard::Done(_) => None,
            Heard::Failed(failure) => Some(failure),
        };
        self.over = true;
        match failure {
            None => self.common.place.pool.note_answer(),
            Some(failure) => self.common.place.pool.note_failure(failure),
        }
        if let Some(seat) = self.seat.take() {
            seat.judge(failure, self.common.backend.clock.now().monotonic);
        }
        let read = self.read.take();
        // An older answer may take the place of a failure.
        let older = failure.zip(read.as_deref()).and_then(|(failure, read)| read.instead(failure));
        match older {
            Some(older) => (Heard::Done(older), None),
            None => (heard, read),
        }
    }

    /// What the server says next, or what comes of its silence.
    async fn heard(&mut self) -> Heard {
        loop {
            if self.is_unsettled()
                && let Some(failure) = Box::pin(self.unsettled()).await
            {
                return Heard::Failed(failure);
            }
            if self.is_in_doubt()
                && let Some(heard) = Box::pin(self.doubted()).await
            {
                return heard;
            }
            let heard = match &mut self.way {
                CallState::Modern(modern) => modern.next(&self.common).await,
                CallState::Legacy(legacy) => legacy.next(&self.common).await,
                CallState::Given(answer) => Heard::Done(Answer::clone(answer)),
            };
            match heard {
                Heard::Failed(failure)
                    if failure.reach == FailureScope::Unreached && self.travels(&failure) => {}
                heard => {
                    if let Some(heard) = self.doubts(heard) {
                        return heard;
                    }
                }
            }
        }
    }

    /// Whether something comes before the next turn; hardly ever.
    fn is_unsettled(&self) -> bool {
        !self.unasked.is_empty() || self.is_travelling()
    }

    /// Finishes what comes before the next turn; why there is none if that fails. Safe to cancel.
    async fn unsettled(&mut self) -> Option<Failure> {
        if !self.unasked.is_empty()
            && let Err(failure) = self.refuse_unasked().await
        {
            return Some(failure);
        }
        self.travelled().await
    }

    /// Answers questions by their keys; keys that were not asked, or are answered, are passed over.
    ///
    /// # Errors
    /// [`Failure`] if the upstream cannot be told; nothing follows then.
    pub async fn reply(&mut self, replies: Vec<(Arc<str>, Reply)>) -> Result<(), Failure> {
        let told = match &mut self.way {
            CallState::Modern(modern) => modern.reply(&self.common, replies),
            CallState::Legacy(legacy) => legacy.reply(&self.common, replies).await,
            CallState::Given(_) => Ok(()),
        };
        self.over |= told.is_err();
        told
    }

    /// Breaks off, and tells a legacy upstream; also before it has answered.
    pub fn cancel(self) {
        if let CallState::Legacy(legacy) = &self.way
            && !self.over
        {
            legacy.cancel(&self.common);
        }
    }

    /// The era in which the upstream is spoken to.
    pub fn era(&self) -> Era {
        match &self.way {
            CallState::Modern(_) => Era::Modern,
            CallState::Legacy(_) => Era::Legacy,
            CallState::Given(answer) => answer.era,
        }
    }

    /// The upstream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.common.place.upstream
    }

    /// How many bytes of its client's text it keeps.
    pub fn kept_bytes(&self) -> usize {
        self.common.permit.body().len() + self.common.token.as_ref().map_or(0, String::len)
    }

    /// The connections to the upstream.
    pub fn pool(&self) -> &Pool {
        &self.common.place.pool
    }

    /// What the upstream calls its target.
    pub fn target(&self) -> Option<&Arc<str>> {
        self.common.target.as_ref().or(self.common.aimed_at.as_ref())
    }

    /// The revision of the configuration that judged the answer, once there is one.
    pub fn revision_answered(&self) -> Option<&Arc<str>> {
        self.revision_answered.as_ref()
    }

    /// What stands over the answer.
    pub fn responses(&self) -> &dyn ResponseRules {
        &*self.common.responses
    }

    /// Whose share it takes of what callers hold together.
    pub fn owner(&self) -> crate::shares::Owner {
        self.common.place.owner
    }

    /// Where large answers are worked on.
    pub fn offload(&self) -> &OffloadQueue {
        &self.common.place.pool.offload
    }
}

impl CallState {
    /// Begins a request, which `parts` are of.
    async fn open(
        request: (&CallParts, &Parts<'_>),
        era: Era,
        upstream_session: SessionChoice<'_>,
        speech: &Speech,
    ) -> Result<CallState, Failure> {
        Ok(match era {
            Era::Modern => CallState::Modern(Box::new(Modern::open(request, speech)?)),
            Era::Legacy => CallState::Legacy(Box::new(Legacy::open(request, upstream_session).await?)),
        })
    }
}

impl CallParts {
    /// Of a request, which `parts` are of.
    fn of(
        backend: &Arc<Backend>,
        order: CallRequest<'_>,
        parts: &Parts<'_>,
    ) -> Result<Box<CallParts>, Failure> {
        let method = order.message.method.clone();
        let method =
            method.ok_or_else(|| Denial::new(Reason::InvalidRequest, "the message is no request"))?;
        Ok(Box::new(CallParts {
            backend: Arc::clone(backend),
            permit: order.permit,
            upstream_headers: UpstreamHeaders::of(&order.origin, &order.place),
            place: order.place,
            client: order.message.era,
            id: order.message.id.clone(),
            method,
            token: parts.progress_token().map_err(unreadable)?,
            target: order.target,
            aimed_at: order.message.target.clone(),
            rounds: order.rounds,
            responses: order.responses,
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
