//! An upstream call with a modern upstream: one POST a round (2026-07-28 patterns/mrtr).

use super::reading::{Budget, ExchangeState};
use super::server_message::{ServerMessage, Unread};
use super::upstream_headers::{self, Fields};
use super::{
    Answer, CallParts, CallRequest, Outcome, RawEvent, Reply, Retry, Rounds, unanswerable, unreadable,
};
use crate::backend::forward::{Failure, RequestParts, RetryPolicy, malformed};
use crate::backend::upstreams::answer_class::is_about_message;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use portunus_filters::mcp::bridge::{self, ParamHeader, Parts, Put};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Id, ResultSummary, Revision, Shape};
use portunus_filters::{Era, Kind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Longest result that says it is more than what was asked for: it may hold an image to look at.
pub(crate) const MAX_ASKING_BYTES: usize = 4 << 20;
/// Rounds of one request.
const MAX_ROUNDS: u32 = 8;
/// The first wait and the longest before an upstream that only wants to be asked again is.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
const VERSION: Revision = Revision::V2026_07_28;

/// What only a modern upstream is told.
#[derive(Clone)]
pub(super) struct ModernOptions {
    params: Arc<[ParamHeader]>,
    retry: Option<Retry>,
    /// `Mcp-Param-*` of a modern client.
    sent: Fields,
}

impl ModernOptions {
    pub(super) fn of(request: &mut CallRequest<'_>) -> ModernOptions {
        ModernOptions {
            params: Arc::clone(&request.params),
            retry: request.retry.clone(),
            sent: std::mem::take(&mut request.mirrored),
        }
    }

    /// Whether the client said more of its arguments than their schema asks for.
    pub(super) fn mirrors(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Arguments that headers mirror.
    pub(super) fn params(&self) -> Arc<[ParamHeader]> {
        Arc::clone(&self.params)
    }

    /// The same by another schema.
    pub(super) fn with(self, params: Arc<[ParamHeader]>) -> ModernOptions {
        ModernOptions { params, ..self }
    }
}

pub(super) struct Modern {
    exchange: ExchangeState,
    budget: Budget,
    /// Fields of every round.
    fields: Fields,
    /// The id of the round under way, as JSON text; `None` if it is the client's.
    own_id: Option<String>,
    rounds: u32,
    round: Option<Round>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Where a client's error answer ended the request.
    last: Option<Outcome<Bytes>>,
}

/// Questions that are out.
struct Round {
    state: Option<String>,
    open: Vec<Arc<str>>,
    replies: Vec<(Arc<str>, String)>,
}

impl Modern {
    /// Begins a request, which `parts` are of.
    pub(super) fn open(
        (call, parts): (&CallParts, &Parts<'_>),
        options: &ModernOptions,
    ) -> Result<Modern, Failure> {
        let mut modern = Modern {
            exchange: ExchangeState::Idle,
            budget: Budget::of(&call.place, call.permit.deadline()),
            fields: fields(call, parts, options)?,
            own_id: None,
            rounds: 0,
            round: None,
            pause: None,
            last: None,
        };
        modern.send(call, parts, options.retry.as_ref())?;
        Ok(modern)
    }

    /// Whether nothing was asked on the way, so that the request can be said once more.
    pub(super) fn is_in_first_round(&self) -> bool {
        self.rounds == 0
    }

    fn send(&mut self, call: &CallParts, parts: &Parts<'_>, retry: Option<&Retry>) -> Result<(), Failure> {
        let body = match call.passes() {
            true => self.passed(call, parts, retry),
            false => self.worded(call, parts, retry),
        }?;
        let place = &call.place;
        let inbound = call.upstream_headers.inbound(&Method::POST);
        let request_parts = RequestParts { inbound: &inbound, own: &self.fields, body };
        let retry_policy = RetryPolicy { repeatable: call.is_repeatable(), endless: false };
        let request = call.permit.request(
            request_parts,
            Arc::clone(&place.upstream),
            Arc::clone(&place.pool),
            retry_policy,
        );
        self.exchange = ExchangeState::begin(request, &call.backend.resolver, Kind::Request);
        Ok(())
    }

    /// The request as its client wrote it, as far as that can stay.
    fn passed(
        &mut self,
        call: &CallParts,
        parts: &Parts<'_>,
        retry: Option<&Retry>,
    ) -> Result<Bytes, Failure> {
        self.own_id = None;
        let changed = bridge::passed_request(parts, call.target.as_deref(), VERSION, retry);
        Ok(changed.map_err(unreadable)?.map_or_else(|| call.permit.body().clone(), Bytes::from))
    }

    /// The request in the words of a modern client, under a number of our own.
    fn worded(
        &mut self,
        call: &CallParts,
        parts: &Parts<'_>,
        retry: Option<&Retry>,
    ) -> Result<Bytes, Failure> {
        let id = self.own_id.insert(call.backend.number().to_string()).as_str();
        let put =
            Put { id, progress_token: call.token.is_some().then_some(id), target: call.target.as_deref() };
        let body = bridge::modern_request(parts, &put, &call.place.profile, VERSION, retry);
        Ok(body.map_err(unreadable)?.into())
    }

    /// The id of the round under way, by its meaning.
    fn id<'t>(&'t self, call: &'t CallParts) -> &'t str {
        self.own_id.as_deref().unwrap_or_else(|| call.id.as_ref().map_or("", Id::meaning))
    }

    pub(super) async fn next(&mut self, call: &CallParts) -> RawEvent {
        loop {
            if let Some(outcome) = self.last.take() {
                return RawEvent::Done(Answer::own(outcome));
            }
            if let Some(pause) = &mut self.pause {
                pause.as_mut().await;
                self.pause = None;
                if let Err(failure) = self.go_on(call) {
                    return RawEvent::Failed(failure);
                }
            }
            if self.round.is_some() {
                // Nothing comes before the answers have gone.
                return std::future::pending().await;
            }
            let raw = match self.exchange.next(&call.place.upstream, self.budget.patience()).await {
                Ok(Some(message)) => self.take(call, &message),
                Ok(None) => Err(self.ended(call)),
                Err(failure) => Err(failure),
            };
            match raw {
                Ok(Some(raw)) => return raw,
                Ok(None) => {}
                Err(failure) => return RawEvent::Failed(failure),
            }
        }
    }

    /// What a message of the upstream means.
    fn take(&mut self, call: &CallParts, message: &ServerMessage) -> Result<Option<RawEvent>, Failure> {
        let refused = self.exchange.refusal().is_some();
        let content = match &message.content {
            Ok(content) => content,
            Err(_) if refused => return Ok(None),
            Err(unread) => return Err(malformed(unread.detail())),
        };
        match content.shape {
            Shape::Notification => {
                let text = message.text();
                if let Some(method) = &content.method {
                    call.backend.overheard(&call.place.upstream, method, text);
                }
                // For those who asked for the resource, and not for its caller.
                let is_update =
                    content.method.as_ref().is_some_and(|method| method.is(bridge::RESOURCE_UPDATED));
                Ok((!is_update).then(|| RawEvent::note(message, self.id(call))))
            }
            // It would ask by `input_required`.
            Shape::Request => Err(malformed("the server sent a request, which this revision does not have")),
            Shape::Result | Shape::Error => {
                let Some(outcome) = content.answer(self.id(call), refused) else {
                    return if refused { Ok(None) } else { Err(no_message()) };
                };
                self.note_era(call, &outcome);
                self.exchange.finish();
                if let Some(asking) = Modern::asking(call, &outcome, content.summary)? {
                    return self.asked(call, asking);
                }
                let answer = Answer::of(message, Era::Modern, outcome, None, call.passes());
                Ok(Some(RawEvent::Done(answer)))
            }
        }
    }

    /// The text of a result that asks for input, if the gateway puts the questions to the client; `None` for a result that
    /// passes as it is, and for an error.
    ///
    /// # Errors
    /// [`Failure`] if it may ask, and is too long to be read for that.
    fn asking<'o>(
        call: &CallParts,
        outcome: &'o Outcome<Bytes>,
        summary: Option<ResultSummary>,
    ) -> Result<Option<&'o Bytes>, Failure> {
        let Outcome::Result(result) = outcome else { return Ok(None) };
        let may_ask = summary.is_none_or(|summary| summary.unusual);
        if call.rounds == Rounds::Through || !may_ask {
            return Ok(None);
        }
        if result.len() > MAX_ASKING_BYTES {
            return Err(malformed("the server asks for input at too great a length"));
        }
        Ok(Some(result).filter(|result| bridge::asks(result)))
    }

    /// The questions of such a result.
    fn asked(&mut self, call: &CallParts, result: &Bytes) -> Result<Option<RawEvent>, Failure> {
        let text = std::str::from_utf8(result).map_err(|_| no_message())?;
        let asked = bridge::questions_of(text);
        let (questions, state) = asked.map_err(|fault| Failure {
            cause: fault.to_string(),
            ..malformed("the server asks for something that this revision does not have")
        })?;
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(malformed("the server asks for too many rounds"));
        }
        if let Some(detail) = unanswerable(call, &questions) {
            return Ok(Some(RawEvent::Done(Answer::own(call.unanswered(detail)))));
        }
        let open = questions.iter().map(|question| Arc::clone(&question.key)).collect();
        self.round = Some(Round { state, open, replies: Vec::new() });
        if questions.is_empty() {
            let wait = BACK_OFF.0 * 2u32.saturating_pow(self.rounds.saturating_sub(1));
            self.pause = Some(Box::pin(sleep(wait.min(BACK_OFF.1))));
            return Ok(None);
        }
        self.budget.pause();
        Ok(Some(RawEvent::Ask(questions)))
    }

    pub(super) fn reply(&mut self, call: &CallParts, replies: Vec<(Arc<str>, Reply)>) -> Result<(), Failure> {
        let Some(round) = &mut self.round else { return Ok(()) };
        for (key, reply) in replies {
            let Some(at) = round.open.iter().position(|open| *open == key) else { continue };
            match reply {
                Reply::Result(result) => {
                    round.open.swap_remove(at);
                    round.replies.push((key, result));
                }
                // `inputResponses` has no place for an error.
                Reply::Error(_) => {
                    self.round = None;
                    self.last = Some(call.unanswered("the client did not answer what the server asked"));
                    return Ok(());
                }
            }
        }
        if round.open.is_empty() { self.go_on(call) } else { Ok(()) }
    }

    /// Begins the next round with what was answered.
    fn go_on(&mut self, call: &CallParts) -> Result<(), Failure> {
        let Some(round) = self.round.take() else { return Ok(()) };
        self.budget.resume();
        let responses = (!round.replies.is_empty()).then(|| {
            let members: Vec<String> =
                round.replies.iter().map(|(key, json)| format!("{}:{json}", string(key))).collect();
            format!("{{{}}}", members.join(","))
        });
        let retry = Retry { input_responses: responses, request_state: round.state };
        self.send(call, &call.parts()?, Some(&retry))
    }

    /// The answer ended without being one.
    fn ended(&self, call: &CallParts) -> Failure {
        let Some(status) = self.exchange.refusal() else { return Failure::unanswered() };
        if is_about_message(status) {
            call.backend.contradicted(&call.place, Era::Modern);
        }
        Failure {
            cause: format!("HTTP {} without a JSON-RPC message", status.as_u16()),
            ..malformed("the server refused the request without an answer")
        }
    }

    /// A refusal in words that no modern server uses.
    fn note_era(&self, call: &CallParts, outcome: &Outcome<Bytes>) {
        if let Outcome::Error { code, .. } = outcome
            && self.exchange.refusal().is_some_and(is_about_message)
            && !crate::backend::gateway_requests::is_modern_code(*code)
        {
            call.backend.contradicted(&call.place, Era::Modern);
        }
    }
}

fn no_message() -> Failure {
    malformed(Unread::NoMessage.detail())
}

/// Fields of a POST: what it mirrors of its body, and what a modern client says of arguments that no
/// schema here knows.
fn fields(call: &CallParts, parts: &Parts<'_>, options: &ModernOptions) -> Result<Fields, Failure> {
    let mut fields = upstream_headers::posted();
    let target = call.target.as_deref().or(call.aimed_at.as_deref());
    upstream_headers::mirror(&mut fields, VERSION, call.method.to_name(), target.map(bridge::mcp_name));
    if !options.params.is_empty() {
        for (name, value) in bridge::param_headers(parts.params(), &options.params)? {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                fields.push((name, value));
            }
        }
    }
    for (name, value) in &options.sent {
        if fields.iter().all(|(own, _)| own != name) {
            fields.push((name.clone(), value.clone()));
        }
    }
    Ok(fields)
}
