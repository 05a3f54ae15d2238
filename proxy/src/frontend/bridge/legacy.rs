//! The front towards legacy clients (2025-03-26 to 2025-11-25): sessions are the gateway's.
//!
//! What a modern server asks by `input_required` becomes a request of its own on the stream of the
//! call (2025-11-25 transports, "Sending Messages to the Server"); the client's answer arrives as a
//! message of its own and is brought to the call that waits.

use super::call;
use super::client_answers::ClientAnswer;
use super::encoded_answer::{self, EncodedAnswer, uris_outward};
use super::founding;
use super::responder::Responder;
use super::served_call::{ServedCall, params, parts};
use super::sessions::{Session, Waiting};
use super::{lasting, lists, resource_subscription, streams};
use crate::authorize::{self, CallRules, CallTerms};
use crate::backend::gateway_requests::GatewayRequest;
use crate::backend::upstream_call::{
    CallEvent, CallRequest, Reply, Rounds, SessionChoice, SessionOwner, UpstreamCall,
};
use crate::drain::Phase;
use crate::frontend::session::End;
use crate::offload::OffloadQueue;
use crate::reply::draining;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::mcp::Id;
use portunus_filters::mcp::bridge::{self, Parts, Profile};
use portunus_filters::{Denial, Era, Kind, Message, Reason, Released, ReleasedQuestion};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a server is told that asks what the client cannot be asked.
const UNABLE: &str = r#"{"code":-32601,"message":"the client did not declare that it can be asked this"}"#;

/// Answers of one call's client that wait to be passed on.
const MAX_ANSWERS: usize = 64;

/// The id that a client was asked under, the key of the question, and what it says.
type Answered = (String, Arc<str>, Reply);
type Answers = (mpsc::Sender<Answered>, mpsc::Receiver<Answered>);

/// What a server is told whose question was not answered in time.
const UNANSWERED: &str = r#"{"code":-32603,"message":"the client did not answer in time"}"#;

/// Serves one message of a legacy client.
pub(super) async fn serve(served: &ServedCall<'_>, message: &Message, out: &mut Responder<'_>) -> End {
    let end = match call::method_name(message) {
        // Calls are most of what comes: their state should not be as large as that of the others.
        "initialize" if message.kind == Kind::Request => {
            Box::pin(founding::found(served, message, out)).await
        }
        _ => match founding::session(served) {
            Ok(session) => of_session(served, &session, message, out).await,
            Err(denial) => Err(denial),
        },
    };
    match end {
        Ok(end) => end,
        Err(denial) => served.refuse(denial, message, out).await,
    }
}

/// One message within a session.
pub(super) async fn of_session(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    served.spoken_by(|| served.profile_of(session))?;
    match message.kind {
        Kind::Request => request(served, session, message, out).await,
        Kind::Stream => {
            let responses = served.admit(message)?.responses;
            served.context.snapshot.forget();
            Box::pin(streams::get(served, session, responses, out)).await
        }
        Kind::End => {
            served.admit(message).map(drop)?;
            founding::end(served, session);
            out.record.note_answer(None);
            Ok(out.status(StatusCode::OK).await)
        }
        Kind::Response => {
            let sent = ClientAnswer::read(message)?;
            let upstream = sent.upstream(session);
            let upstream = upstream.as_ref();
            match served.admit_at(message, upstream) {
                Ok(admitted) => {
                    ClientAnswer::read(admitted.message(message))?.give(served, session, upstream, None)?;
                }
                Err(denial) => {
                    // Its server must not wait for what does not come.
                    let refused = Some(Reply::Error(authorize::error(&denial)));
                    sent.give(served, session, upstream, refused)?;
                    return Err(denial);
                }
            }
            Ok(out.status(StatusCode::ACCEPTED).await)
        }
        _ => {
            let is_cancel = call::method_name(message) == "notifications/cancelled";
            let passed = session.passed_upstream_session().filter(|_| is_cancel);
            let upstream = passed.as_ref().map(|upstream_session| &upstream_session.place().upstream);
            let admitted = served.admit_at(message, upstream)?;
            if is_cancel
                && let Some(id) = cancelled(admitted.message(message))
                && !session.cancel(&id)
                && let Some(upstream_session) = &passed
            {
                // It was called while messages passed.
                upstream_session.tell(
                    &served.gateway.backend,
                    GatewayRequest::Cancel { session: upstream_session.session(), id },
                );
            }
            Ok(out.status(StatusCode::ACCEPTED).await)
        }
    }
}

async fn request(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let parts = parts(message)?;
    match call::method_name(message) {
        "ping" => {
            served.admit(message).map(drop)?;
            Ok(empty(message, out).await)
        }
        "logging/setLevel" => {
            let admitted = served.admit(message)?;
            Box::pin(founding::set_level(served, session, &params(admitted.message(message))?)).await?;
            Ok(empty(message, out).await)
        }
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
            Box::pin(lists::list(served, message, &served.profile_of(session)?, out)).await
        }
        "resources/subscribe" | "resources/unsubscribe" => {
            Box::pin(resource_subscription::subscribe(served, session, message, out)).await?;
            Ok(empty(message, out).await)
        }
        method if bridge::is_known_method(Era::Legacy, method) || served.only().is_some() => {
            let id = message.id.as_ref();
            let Some(running) = id.and_then(|id| session.run(id)) else {
                let detail = "a request of this id is under way, or too many are";
                return Err(Denial::new(Reason::InvalidRequest, detail));
            };
            let mut call = Call::new(served, session, message);
            if let Some(replay) =
                session.replay.as_ref().filter(|_| served.context.takes_events && out.is_clients())
            {
                return Box::pin(lasting::call(call, &parts, replay, running, out)).await;
            }
            let end = tokio::select! {
                biased;
                end = call.run(&parts, out) => Some(end),
                () = running.call().cancelled() => None,
            };
            call.forget_questions();
            match end {
                Some(end) => end,
                // 2025-11-25, utilities/cancellation: no answer is sent to a cancelled request.
                None => {
                    out.record.note_cut();
                    Ok(out.end().await)
                }
            }
        }
        _ => Err(Denial::new(Reason::UnknownMethod, "no server behind this endpoint has this method")),
    }
}

/// One call and the questions that wait for its client.
pub(super) struct Call<'a, 'd> {
    pub served: &'a ServedCall<'d>,
    pub session: &'a Arc<Session>,
    pub message: &'a Message,
    /// Ids that the client sees, and keys of the questions.
    waiting: HashMap<String, Arc<str>>,
}

/// The next answer to what a client was asked; waits for ever where it was asked nothing.
async fn answered(answers: &mut Option<Answers>) -> Answered {
    let answer = match answers {
        Some((_, answers)) => answers.recv().await,
        None => None,
    };
    match answer {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

impl<'a, 'd> Call<'a, 'd> {
    pub(super) fn new(served: &'a ServedCall<'d>, session: &'a Arc<Session>, message: &'a Message) -> Self {
        Call { served, session, message, waiting: HashMap::new() }
    }

    async fn run(&mut self, parts: &Parts<'_>, out: &mut Responder<'_>) -> Result<End, Denial> {
        let upstream_call = self.open(parts, out).await?;
        self.converse(upstream_call, out).await
    }

    /// Nobody waits any more for what its client is asked.
    pub(super) fn forget_questions(&mut self) {
        if !self.waiting.is_empty() {
            self.session.forget(&self.waiting.drain().map(|(id, _)| id).collect::<Vec<_>>());
        }
    }

    pub(super) async fn open(
        &self,
        own_parts: &Parts<'_>,
        out: &mut Responder<'_>,
    ) -> Result<Guarded, Denial> {
        let (served, message) = (self.served, self.message);
        let profile = founding::profile_now(self.served, self.session)?;
        let mut routed = call::routed(served, message, own_parts.params(), &profile).await?;
        let reworded = call::reworded(message, &routed)?;
        let message = reworded.as_ref().unwrap_or(message);
        let (permit, CallTerms { responses, place }) =
            served.permit_call(message, &mut routed, &profile, out).await?;
        let message = permit.message(message);
        let changed = (!std::ptr::eq(message, self.message)).then(|| parts(message)).transpose()?;
        out.record.begin_forwarding(&place.pool);
        let failed = |failure: crate::backend::forward::Failure, out: &mut Responder<'_>| {
            out.record.note_cause(&failure.cause);
            failure.denial
        };
        served.check_era(&place).await.map_err(|failure| failed(failure, out))?;
        let upstream_session = founding::upstream_session(served, self.session, &place).await;
        let upstream_session = upstream_session.map_err(|failure| failed(failure, out))?;
        let gateway = Arc::clone(served.gateway);
        let session = Arc::clone(self.session);
        let owner: Arc<dyn SessionOwner> = Arc::new(founding::OwnSession { gateway, session });
        let call_request = CallRequest {
            permit: Arc::clone(&permit),
            message,
            parts: changed.as_ref().unwrap_or(own_parts),
            origin: Arc::clone(&served.context.origin),
            place,
            target: routed.target,
            params: routed.params,
            mirrored: Vec::new(),
            schema_refresh: call::schema_refresh(served, message, &profile, &routed.upstream),
            rounds: if self.can_be_asked(&profile) { Rounds::Asks } else { Rounds::Never },
            upstream_session: upstream_session.as_ref().map_or(SessionChoice::Pooled, |upstream_session| {
                SessionChoice::Own(upstream_session, Some(&owner))
            }),
            retry: None,
            responses: Arc::new(CallRules { gateway: Arc::clone(served.gateway), responses }),
        };
        let upstream_call = UpstreamCall::open(&served.gateway.backend, call_request)
            .await
            .map_err(|failure| failed(failure, out))?;
        Ok(Guarded(Some(upstream_call)))
    }

    fn can_be_asked(&self, profile: &Profile) -> bool {
        self.served.context.takes_events
            && bridge::may_ask(call::method_name(self.message))
            && profile.answers()
    }

    pub(super) async fn converse(
        &mut self,
        mut upstream_call: Guarded,
        out: &mut Responder<'_>,
    ) -> Result<End, Denial> {
        // Made with the first question: most calls have none.
        let mut answers: Option<Answers> = None;
        let phases = out.phases;
        let mut keepalive_timer = self.served.context.connection_state.shared_timer.lend();
        let mut silent_until = Instant::now() + self.served.context.server.keepalive;
        let mut ready = Vec::new();
        let mut answer_by = None;
        loop {
            tokio::select! {
                biased;
                event = upstream_call.next() => {
                    out.record.end_upstream_wait();
                    out.record.note_answer_revision(upstream_call.revision_answered());
                    match event {
                    CallEvent::Ask(questions) => {
                        let (answers, _) = answers.get_or_insert_with(|| mpsc::channel(MAX_ANSWERS));
                        let asking = self.ask(upstream_call.upstream(), questions, answers, out);
                        let refused = Box::pin(asking).await;
                        ready.extend(refused.map_err(|()| gone())?);
                        answer_by = Some(Instant::now() + self.served.context.server.parked.within);
                    }
                    event => {
                        if let Some(end) = self.handle_event(event, &mut upstream_call, out).await? {
                            return Ok(end);
                        }
                        if self.waiting.is_empty() {
                            out.record.begin_upstream_wait();
                        }
                    }
                    }
                },
                (id, key, reply) = answered(&mut answers) => {
                    self.waiting.remove::<String>(&id);
                    ready.push((key, reply));
                }
                () = out.gone() => return Ok(End::Broken),
                () = phases.reached(Phase::Expired) => return Err(draining()),
                () = keepalive_timer.until(silent_until) => {
                    self.served.gateway.estate.sessions.touch(self.session, self.served.gateway);
                    if self.served.context.takes_events && Box::pin(out.comment()).await.is_err() {
                        return Ok(End::Broken);
                    }
                    silent_until = Instant::now() + self.served.context.server.keepalive;
                    if answer_by.is_some_and(|by| by <= silent_until) {
                        ready.extend(self.give_up());
                    }
                }
            }
            // A modern server is told all answers of a round at once.
            let due = upstream_call.era() == Era::Legacy || self.waiting.is_empty();
            if due && !ready.is_empty() {
                if self.waiting.is_empty() {
                    out.record.begin_upstream_wait();
                }
                if let Err(failure) = Box::pin(upstream_call.reply(std::mem::take(&mut ready))).await {
                    out.record.note_cause(&failure.cause);
                    return Err(failure.denial);
                }
            }
        }
    }

    /// Answers for a client that took too long: its server must not wait for ever.
    fn give_up(&mut self) -> Vec<(Arc<str>, Reply)> {
        let (ids, keys): (Vec<_>, Vec<_>) = self.waiting.drain().unzip();
        self.session.forget(&ids);
        keys.into_iter().map(|key| (key, Reply::Error(UNANSWERED.to_owned()))).collect()
    }

    /// Asks the client; gives the replies to questions that it cannot be asked.
    async fn ask(
        &mut self,
        upstream: Option<Arc<Upstream>>,
        questions: Vec<ReleasedQuestion>,
        answers: &mpsc::Sender<Answered>,
        out: &mut Responder<'_>,
    ) -> Result<Vec<(Arc<str>, Reply)>, ()> {
        let mut refused = Vec::new();
        // A call that is over asks nothing.
        let Some(upstream) = upstream else { return Ok(Vec::new()) };
        for question in questions {
            let profile = self.served.profile_of(self.session);
            let able = profile.is_ok_and(|profile| profile.can(question.ability()));
            let waiting = Waiting::Call {
                upstream: Arc::clone(&upstream),
                key: Arc::clone(&question.key),
                answers: answers.clone(),
            };
            let home = &self.served.gateway.estate.home;
            match able.then(|| self.session.ask(home, waiting)).flatten() {
                Some(id) => {
                    // What the client is told to visit has an id of its own; ours is as good as any.
                    let asked = question.request(&id, id.trim_matches('"'));
                    self.waiting.insert(id, Arc::clone(&question.key));
                    out.event(asked, None).await.map_err(drop)?;
                }
                None => {
                    refused.push((Arc::clone(&question.key), Reply::Error(UNABLE.to_owned())));
                }
            }
        }
        Ok(refused)
    }

    /// Brings one event to the client; `Some` if it was the last.
    async fn handle_event(
        &self,
        event: CallEvent,
        upstream_call: &mut Guarded,
        out: &mut Responder<'_>,
    ) -> Result<Option<End>, Denial> {
        match event {
            CallEvent::Note(note) => Ok(out.event(note, None).await.is_err().then_some(End::Broken)),
            CallEvent::Ask(_) => Ok(None),
            CallEvent::Done(answer) => {
                let at = upstream_call.upstream().zip(upstream_call.offload());
                upstream_call.over();
                let room = answer.room.clone();
                let encoded = match at {
                    Some((at, queue)) => {
                        let profile = self.served.profile_of(self.session)?;
                        let answer = uris_outward(self.served, self.message, &profile, &at, answer).await;
                        match encoded_answer::large(&queue, Era::Legacy, self.message, &answer).await? {
                            Some(encoded) => encoded,
                            None => encoded_answer::for_legacy(self.message, &answer)?,
                        }
                    }
                    None => encoded_answer::for_legacy(self.message, &answer)?,
                };
                let EncodedAnswer { message, rpc_error, proven, .. } = encoded;
                out.record.note_proof(proven);
                out.record.note_answer(rpc_error);
                // Any other status ends the session of one widespread client.
                Ok(Some(out.last_large(StatusCode::OK, message, room).await))
            }
            CallEvent::Failed(failure) => {
                upstream_call.over();
                out.record.note_cause(&failure.cause);
                Err(failure.denial)
            }
        }
    }
}

/// An upstream call that is cancelled when it is left before its end, however that comes about.
pub(super) struct Guarded(Option<UpstreamCall>);

impl Guarded {
    async fn next(&mut self) -> CallEvent {
        match &mut self.0 {
            Some(upstream_call) => upstream_call.next().await,
            None => std::future::pending().await,
        }
    }

    async fn reply(
        &mut self,
        replies: Vec<(Arc<str>, Reply)>,
    ) -> Result<(), crate::backend::forward::Failure> {
        match &mut self.0 {
            Some(upstream_call) => upstream_call.reply(replies).await,
            None => Ok(()),
        }
    }

    fn upstream(&self) -> Option<Arc<Upstream>> {
        self.0.as_ref().map(|upstream_call| Arc::clone(upstream_call.upstream()))
    }

    fn offload(&self) -> Option<OffloadQueue> {
        self.0.as_ref().map(|upstream_call| upstream_call.offload().clone())
    }

    fn revision_answered(&self) -> Option<&Arc<str>> {
        self.0.as_ref()?.revision_answered()
    }

    fn era(&self) -> Era {
        self.0.as_ref().map_or(Era::Legacy, UpstreamCall::era)
    }

    fn over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(upstream_call) = self.0.take() {
            upstream_call.cancel();
        }
    }
}

/// The request that a `notifications/cancelled` names.
fn cancelled(message: &Message) -> Option<Id> {
    let fields = params(message).ok()?;
    Id::of(fields.get("requestId")?).ok()
}

async fn empty(message: &Message, out: &mut Responder<'_>) -> End {
    out.record.note_answer(None);
    out.last(StatusCode::OK, Released::own(bridge::wrap_result(call::id_text(message), "{}"))).await
}

fn gone() -> Denial {
    Denial::new(Reason::RequestTimeout, "the client has left")
}
