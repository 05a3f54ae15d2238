//! The front towards legacy clients (2025-03-26 to 2025-11-25): sessions are the gateway's.
//!
//! What a modern server asks by `input_required` becomes a request of its own on the stream of the
//! call (2025-11-25 transports, "Sending Messages to the Server"); the client's answer arrives as a
//! message of its own and is brought to the call that waits.

use super::answering::Answering;
use super::call;
use super::desk::{Desk, params, parts};
use super::founding;
use super::said::{self, Said};
use super::sessions::{Session, Waiting};
use super::{lasting, lists, streams, uris};
use crate::authorize::{self, CallRules, CallTerms};
use crate::backend::gateway_requests::Errand;
use crate::backend::upstream_call::{LegOf, Order, Reply, Rounds, SessionOwner, Talk, Turn};
use crate::drain::{Phase, reached};
use crate::frontend::session::End;
use crate::offload::OffloadQueue;
use crate::reply::draining;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::mcp::bridge::{self, Parts, Profile};
use portunus_filters::mcp::{Envelope, Id};
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
pub(super) async fn serve(desk: &Desk<'_>, message: &Message, out: &mut Answering<'_>) -> End {
    let end = match call::method_name(message) {
        // Calls are most of what comes: their state should not be as large as that of the others.
        "initialize" if message.kind == Kind::Request => Box::pin(founding::found(desk, message, out)).await,
        _ => match founding::session(desk) {
            Ok(session) => of_session(desk, &session, message, out).await,
            Err(denial) => Err(denial),
        },
    };
    match end {
        Ok(end) => end,
        Err(denial) => desk.refuse(denial, message, out).await,
    }
}

/// One message within a session.
pub(super) async fn of_session(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    desk.spoken_by(|| desk.profile_of(session))?;
    match message.kind {
        Kind::Request => request(desk, session, message, out).await,
        Kind::Stream => {
            let overseer = desk.admit(message)?.overseer;
            desk.call.snapshot.forget();
            Box::pin(streams::get(desk, session, overseer, out)).await
        }
        Kind::End => {
            desk.admit(message).map(drop)?;
            founding::end(desk, session);
            out.record.note_answer(None);
            Ok(out.status(StatusCode::OK).await)
        }
        Kind::Response => {
            match desk.admit(message) {
                Ok(admitted) => answer(desk, session, admitted.message(message), None)?,
                Err(denial) => {
                    // Its server must not wait for what does not come.
                    answer(desk, session, message, Some(Reply::Error(authorize::error(&denial))))?;
                    return Err(denial);
                }
            }
            Ok(out.status(StatusCode::ACCEPTED).await)
        }
        _ => {
            let admitted = desk.admit(message)?;
            if call::method_name(message) == "notifications/cancelled"
                && let Some(id) = cancelled(admitted.message(message))
                && !session.cancel(&id)
                && let Some(leg) = session.passed_leg()
            {
                // It was called while messages passed.
                leg.tell(&desk.gateway.backend, Errand::Cancel { session: leg.session(), id });
            }
            Ok(out.status(StatusCode::ACCEPTED).await)
        }
    }
}

async fn request(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    let parts = parts(message)?;
    match call::method_name(message) {
        "ping" => {
            desk.admit(message).map(drop)?;
            Ok(empty(message, out).await)
        }
        "logging/setLevel" => {
            let admitted = desk.admit(message)?;
            Box::pin(founding::set_level(desk, session, &params(admitted.message(message))?)).await?;
            Ok(empty(message, out).await)
        }
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
            Box::pin(lists::list(desk, message, &desk.profile_of(session)?, out)).await
        }
        "resources/subscribe" | "resources/unsubscribe" => {
            Box::pin(streams::subscribe(desk, session, message, out)).await?;
            Ok(empty(message, out).await)
        }
        method if bridge::is_known_method(Era::Legacy, method) || desk.only().is_some() => {
            let id = message.id.as_ref();
            let Some(running) = id.and_then(|id| session.run(id)) else {
                let detail = "a request of this id is under way, or too many are";
                return Err(Denial::new(Reason::InvalidRequest, detail));
            };
            let mut call = Call::new(desk, session, message);
            if let Some(replay) =
                session.replay.as_ref().filter(|_| desk.call.takes_events && out.is_clients())
            {
                return lasting::call(call, &parts, replay, running, out).await;
            }
            let end = tokio::select! {
                biased;
                end = call.run(&parts, out) => Some(end),
                () = running.call().cancelled.notified() => None,
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
    pub desk: &'a Desk<'d>,
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
    pub(super) fn new(desk: &'a Desk<'d>, session: &'a Arc<Session>, message: &'a Message) -> Self {
        Call { desk, session, message, waiting: HashMap::new() }
    }

    async fn run(&mut self, parts: &Parts<'_>, out: &mut Answering<'_>) -> Result<End, Denial> {
        let talk = self.open(parts, out).await?;
        self.converse(talk, out).await
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
        out: &mut Answering<'_>,
    ) -> Result<Guarded, Denial> {
        let (desk, message) = (self.desk, self.message);
        let profile = founding::profile_now(self.desk, self.session)?;
        let mut aim = call::aim(desk, message, own_parts.params(), &profile).await?;
        let reworded = call::reworded(message, &aim)?;
        let message = reworded.as_ref().unwrap_or(message);
        let (permit, CallTerms { overseer, place }) =
            desk.permit_call(message, &mut aim, &profile, out).await?;
        let message = permit.message(message);
        let changed = (!std::ptr::eq(message, self.message)).then(|| parts(message)).transpose()?;
        out.record.begin_forwarding(&place.pool);
        let failed = |failure: crate::backend::forward::Failure, out: &mut Answering<'_>| {
            out.record.note_cause(&failure.cause);
            failure.denial
        };
        desk.check_era(&place).await.map_err(|failure| failed(failure, out))?;
        let leg = match founding::leg(desk, self.session, &place).await {
            Ok(leg) => leg,
            Err(failure) => return Err(failed(failure, out)),
        };
        let gateway = Arc::clone(desk.gateway);
        let session = Arc::clone(self.session);
        let owner: Arc<dyn SessionOwner> = Arc::new(founding::OwnSession { gateway, session });
        let order = Order {
            permit: Arc::clone(&permit),
            message,
            parts: changed.as_ref().unwrap_or(own_parts),
            origin: Arc::clone(&desk.call.head.origin),
            place,
            target: aim.target,
            params: aim.params,
            mirrored: Vec::new(),
            relist: call::relist(desk, message, &profile, &aim.upstream),
            rounds: if self.can_be_asked(&profile) { Rounds::Asks } else { Rounds::Never },
            leg: leg.as_ref().map_or(LegOf::Pooled, |leg| LegOf::Own(leg, Some(&owner))),
            retry: None,
            overseer: Arc::new(CallRules { gateway: Arc::clone(desk.gateway), overseer }),
        };
        let talk = Talk::open(&desk.gateway.backend, order).await.map_err(|failure| failed(failure, out))?;
        Ok(Guarded(Some(talk)))
    }

    fn can_be_asked(&self, profile: &Profile) -> bool {
        self.desk.call.takes_events && bridge::may_ask(call::method_name(self.message)) && profile.answers()
    }

    pub(super) async fn converse(
        &mut self,
        mut talk: Guarded,
        out: &mut Answering<'_>,
    ) -> Result<End, Denial> {
        // Made with the first question: most calls have none.
        let mut answers: Option<Answers> = None;
        let mut phase = out.phase.clone();
        let mut silence = self.desk.call.guest.silences.lend();
        let mut silent_until = Instant::now() + self.desk.call.server.keepalive;
        let mut ready = Vec::new();
        let mut answer_by = None;
        loop {
            tokio::select! {
                biased;
                turn = talk.next() => {
                    out.record.end_upstream_wait();
                    out.record.note_answer_revision(talk.revision_answered());
                    match turn {
                    Turn::Ask(questions) => {
                        let (answers, _) = answers.get_or_insert_with(|| mpsc::channel(MAX_ANSWERS));
                        let refused = Box::pin(self.ask(questions, answers, out)).await;
                        ready.extend(refused.map_err(|()| gone())?);
                        answer_by = Some(Instant::now() + self.desk.call.server.parked.within);
                    }
                    turn => {
                        if let Some(end) = self.turn(turn, &mut talk, out).await? {
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
                () = reached(&mut phase, Phase::Expired) => return Err(draining()),
                () = silence.until(silent_until) => {
                    self.desk.gateway.estate.sessions.touch(self.session, self.desk.gateway);
                    if self.desk.call.takes_events && Box::pin(out.comment()).await.is_err() {
                        return Ok(End::Broken);
                    }
                    silent_until = Instant::now() + self.desk.call.server.keepalive;
                    if answer_by.is_some_and(|by| by <= silent_until) {
                        ready.extend(self.give_up());
                    }
                }
            }
            // A modern server is told all answers of a round at once.
            let due = talk.era() == Era::Legacy || self.waiting.is_empty();
            if due && !ready.is_empty() {
                if self.waiting.is_empty() {
                    out.record.begin_upstream_wait();
                }
                if let Err(failure) = Box::pin(talk.reply(std::mem::take(&mut ready))).await {
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
        questions: Vec<ReleasedQuestion>,
        answers: &mpsc::Sender<Answered>,
        out: &mut Answering<'_>,
    ) -> Result<Vec<(Arc<str>, Reply)>, ()> {
        let mut refused = Vec::new();
        for question in questions {
            let profile = self.desk.profile_of(self.session);
            let able = profile.is_ok_and(|profile| profile.can(question.ability()));
            let waiting = Waiting::Call { key: Arc::clone(&question.key), answers: answers.clone() };
            let home = &self.desk.gateway.estate.home;
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

    /// Brings one turn to the client; `Some` if it was the last.
    async fn turn(
        &self,
        turn: Turn,
        talk: &mut Guarded,
        out: &mut Answering<'_>,
    ) -> Result<Option<End>, Denial> {
        match turn {
            Turn::Note(note) => Ok(out.event(note, None).await.is_err().then_some(End::Broken)),
            Turn::Ask(_) => Ok(None),
            Turn::Done(answer) => {
                let at = talk.upstream().zip(talk.offload());
                talk.over();
                let room = answer.room.clone();
                let said = match at {
                    Some((at, queue)) => {
                        let profile = self.desk.profile_of(self.session)?;
                        let answer = uris::outward(self.desk, self.message, &profile, &at, answer).await;
                        match said::large(&queue, Era::Legacy, self.message, &answer).await? {
                            Some(said) => said,
                            None => said::for_legacy(self.message, &answer)?,
                        }
                    }
                    None => said::for_legacy(self.message, &answer)?,
                };
                let Said { message, rpc_error, proven, .. } = said;
                out.record.note_proof(proven);
                out.record.note_answer(rpc_error);
                // Any other status ends the session of one widespread client.
                Ok(Some(out.last_large(StatusCode::OK, message, room).await))
            }
            Turn::Failed(failure) => {
                talk.over();
                out.record.note_cause(&failure.cause);
                Err(failure.denial)
            }
        }
    }
}

/// A talk that is cancelled when it is left before its end, however that comes about.
pub(super) struct Guarded(Option<Talk>);

impl Guarded {
    async fn next(&mut self) -> Turn {
        match &mut self.0 {
            Some(talk) => talk.next().await,
            None => std::future::pending().await,
        }
    }

    async fn reply(
        &mut self,
        replies: Vec<(Arc<str>, Reply)>,
    ) -> Result<(), crate::backend::forward::Failure> {
        match &mut self.0 {
            Some(talk) => talk.reply(replies).await,
            None => Ok(()),
        }
    }

    fn upstream(&self) -> Option<Arc<Upstream>> {
        self.0.as_ref().map(|talk| Arc::clone(talk.upstream()))
    }

    fn offload(&self) -> Option<OffloadQueue> {
        self.0.as_ref().map(|talk| talk.offload().clone())
    }

    fn revision_answered(&self) -> Option<&Arc<str>> {
        self.0.as_ref()?.revision_answered()
    }

    fn era(&self) -> Era {
        self.0.as_ref().map_or(Era::Legacy, Talk::era)
    }

    fn over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(talk) = self.0.take() {
            talk.cancel();
        }
    }
}

/// Brings a client's answer to the call that waits for it.
///
/// `instead` is what the call gets in its place.
fn answer(
    desk: &Desk<'_>,
    session: &Session,
    message: &Message,
    instead: Option<Reply>,
) -> Result<(), Denial> {
    let unreadable = |_| Denial::new(Reason::InvalidRequest, "the answer cannot be read");
    let text = std::str::from_utf8(&message.body)
        .map_err(|_| Denial::new(Reason::ParseError, "the body is not UTF-8"))?;
    let envelope = Envelope::read(text).map_err(unreadable)?;
    let Some(id) = envelope.id.as_ref() else { return Ok(()) };
    let waiting = match (session.answered(id), session.passed_leg()) {
        (Some(waiting), _) => waiting,
        // It was asked by the server itself, while messages passed.
        (None, Some(leg)) => Waiting::Leg { leg, id: id.clone() },
        // One that comes too late, or twice, is of no use to anybody.
        (None, None) => return Ok(()),
    };
    let reply = match instead {
        Some(reply) => reply,
        None => bridge::legacy_reply(text).map_err(unreadable)?,
    };
    match waiting {
        // A call that is over has dropped its end; more answers than it asked for cannot be.
        Waiting::Call { key, answers } => drop(answers.try_send((id.meaning().to_owned(), key, reply))),
        Waiting::Leg { leg, id } => leg.answer(&desk.gateway.backend, id, reply),
    }
    Ok(())
}

/// The request that a `notifications/cancelled` names.
fn cancelled(message: &Message) -> Option<Id> {
    let fields = params(message).ok()?;
    Id::of(fields.get("requestId")?).ok()
}

async fn empty(message: &Message, out: &mut Answering<'_>) -> End {
    out.record.note_answer(None);
    out.last(StatusCode::OK, Released::own(bridge::wrap_result(call::id_text(message), "{}"))).await
}

fn gone() -> Denial {
    Denial::new(Reason::RequestTimeout, "the client has left")
}
