//! The front towards modern clients (2026-07-28): every request stands for itself.
//!
//! What a legacy server asks in the middle of its answer parks the call, and the client is told by
//! `input_required` (patterns/mrtr); its retry is judged as a new message and takes the call up again.

use super::call::LeadsTo;
use super::encoded_answer::{self, EncodedAnswer, uris_outward};
use super::parked::{Resumed, Ticket};
use super::request_state::{self, State};
use super::responder::Responder;
use super::served_call::{ServedCall, parts};
use super::{call, lists, streams, tasks};
use crate::authorize::{CallRules, CallTerms};
use crate::backend::upstream_call::{CallEvent, CallRequest, Reply, Rounds, SessionChoice, UpstreamCall};
use crate::drain::Phase;
use crate::frontend::session::End;
use crate::reply::draining;
use crate::sealing::CallerKey;
use http::StatusCode;
use portunus_filters::mcp::Fault;
use portunus_filters::mcp::bridge::{self, InputResponses, Parts, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Denial, Era, Kind, Message, Reason, ReleasedQuestion};
use std::sync::Arc;
use tokio::time::Instant;

/// Serves one message of a modern client.
pub(super) async fn serve(served: &ServedCall<'_>, message: &Message, out: &mut Responder<'_>) -> End {
    let end = match message.kind {
        Kind::Request => request(served, message, out).await,
        Kind::Stream | Kind::End => {
            Err(Denial::new(Reason::MethodNotAllowed, "this revision knows POST alone"))
        }
        // Nothing that a modern client notifies of concerns a server: it cancels by closing.
        _ => match served.admit(message) {
            Ok(_) => Ok(out.status(StatusCode::ACCEPTED).await),
            Err(denial) => Err(denial),
        },
    };
    match end {
        Ok(end) => end,
        Err(denial) => served.refuse(denial, message, out).await,
    }
}

async fn request(served: &ServedCall<'_>, message: &Message, out: &mut Responder<'_>) -> Result<End, Denial> {
    let parts = parts(message)?;
    let fields = parts.params();
    let profile = served.introduced(fields)?;
    served.spoken_by(|| Ok(Arc::clone(&profile)))?;
    match call::method_name(message) {
        // Calls are most of what comes: their state should not be as large as that of the others.
        "server/discover" => Box::pin(lists::discover(served, message, &profile, out)).await,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
            Box::pin(lists::list(served, message, &profile, out)).await
        }
        "subscriptions/listen" => Box::pin(streams::listen(served, message, &profile, out)).await,
        method if bridge::is_known_method(Era::Modern, method) || takes_any(served, &profile).await => {
            calls(served, message, &parts, profile, out).await
        }
        _ => Err(Denial::new(Reason::UnknownMethod, "no server behind this endpoint has this method")),
    }
}

/// Whether the endpoint's one server is of the client's own era and may have methods of its own.
async fn takes_any(served: &ServedCall<'_>, profile: &Arc<Profile>) -> bool {
    let place = served.only().and_then(|only| served.place(&served.active(), only, profile).ok());
    let Some(place) = place else { return false };
    let era = served.gateway.backend.eras.choose(&served.gateway.backend, &place, Era::Modern).await;
    era.is_ok_and(|era| era == Era::Modern)
}

/// One call, from its first round or a later one.
async fn calls(
    served: &ServedCall<'_>,
    message: &Message,
    own_parts: &Parts<'_>,
    profile: Arc<Profile>,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let (replies, state) = answers(own_parts.params())?;
    let mut round = Round { served, message, parts: own_parts, profile };
    match state {
        Some(state) => Box::pin(round.take_up(&state, replies, out)).await,
        None if !replies.is_empty() => round.open(Carried::Answers(None), out).await,
        None => round.open(Carried::Nothing, out).await,
    }
}

/// A client's answers to questions, by their keys, and the `requestState` beside them.
type ClientAnswers = (Vec<(Arc<str>, String)>, Option<String>);

/// The answers to questions in the parameters of a retry; none if it is none.
fn answers(fields: &Object<'_>) -> Result<ClientAnswers, Denial> {
    Ok(match bridge::input_responses(fields).map_err(unreadable)? {
        Some(InputResponses { responses, request_state }) => (responses, request_state),
        None => (Vec::new(), None),
    })
}

fn unreadable(fault: Fault) -> Denial {
    Denial::new(Reason::InvalidParams, fault.to_string())
}

/// The part of a request that goes on with an earlier round.
enum Carried {
    Nothing,
    /// Its answers to questions, and the state of a modern server.
    Answers(Option<String>),
}

/// One round of a call.
struct Round<'a, 'd> {
    served: &'a ServedCall<'d>,
    message: &'a Message,
    profile: Arc<Profile>,
    parts: &'a Parts<'a>,
}

impl Round<'_, '_> {
    /// What a retry of this call is known by; few calls ever need it.
    fn ticket(&self, leads_to: &LeadsTo) -> Ticket {
        let digest = request_state::digest(self.message, self.parts.params(), leads_to);
        let bearer = CallerKey::for_states(
            &self.served.context.origin.arrival.identity,
            &self.served.context.sent_headers.caller_marks(),
        );
        Ticket { server: self.served.context.server.id.clone(), bearer, digest }
    }

    /// Goes on with the call that a `requestState` stands for, if the retry leads where that led.
    async fn take_up(
        &mut self,
        state: &str,
        replies: Vec<(Arc<str>, String)>,
        out: &mut Responder<'_>,
    ) -> Result<End, Denial> {
        let (served, message) = (self.served, self.message);
        let routed = call::routed(served, message, self.parts.params(), &self.profile).await?;
        let leads_to = routed.leads_to(self.message);
        let ticket = self.ticket(&leads_to);
        let serial = match request_state::open_state(served, &ticket, state)? {
            // The answers to a URL that had to be visited: the server wants the same call again.
            State::Again => return self.open(Carried::Nothing, out).await,
            State::Upstream(state) => return self.open(Carried::Answers(Some(state)), out).await,
            State::Parked(serial) => serial,
        };
        // The answers are a message like any other: judged before they go on.
        let cleared = served.clear(message, &routed.upstream.name, routed.subject)?;
        served.context.snapshot.release();
        let changed = cleared.changed().map(parts).transpose()?;
        let replies = match &changed {
            Some(changed) => answers(changed.params())?.0,
            None => replies,
        };
        let token = changed.as_ref().unwrap_or(self.parts).progress_token().map_err(unreadable)?;
        let mut resumed = served.gateway.estate.parked.claim(serial, &ticket).await?;
        if !served.context.server.leads_to(resumed.upstream_call.upstream()) {
            resumed.upstream_call.cancel();
            let detail = "the server of this call is no longer served here";
            return Err(Denial::new(Reason::RouteRemoved, detail));
        }
        let rules = CallRules::taken_up(
            resumed.upstream_call.responses(),
            cleared.inspectors(),
            served.context.snapshot.for_answers(),
        )?;
        resumed.upstream_call.hold_to(rules);
        resumed.upstream_call.report_to(token);
        out.record.begin_forwarding(resumed.upstream_call.pool());
        self.resume(resumed, (replies, &leads_to), out).await
    }

    async fn open(&mut self, carried: Carried, out: &mut Responder<'_>) -> Result<End, Denial> {
        let (served, message) = (self.served, self.message);
        let routed = call::routed(served, message, self.parts.params(), &self.profile).await?;
        let (mut routed, mirrored) = call::mirrored(served, message, &self.profile, routed).await?;
        let reworded = call::reworded(message, &routed)?;
        let message = reworded.as_ref().unwrap_or(message);
        let (permit, CallTerms { responses, place }) =
            served.permit_call(message, &mut routed, &self.profile, out).await?;
        // Headers that mirror arguments which a filter has changed or taken away are made anew from the rest.
        let mirrored = if permit.is_changed() { Vec::new() } else { mirrored };
        let message = permit.message(message);
        let changed = (!std::ptr::eq(message, self.message)).then(|| parts(message)).transpose()?;
        let own_parts = changed.as_ref().unwrap_or(self.parts);
        let retry = match carried {
            Carried::Nothing => None,
            Carried::Answers(state) => Some(request_state::retry_of(&answers(own_parts.params())?.0, state)),
        };
        let place = match routed.at {
            Some(at) => tasks::at_instance(served, place, at),
            None => place,
        };
        out.record.begin_forwarding(&place.pool);
        let era = served.gateway.backend.eras.choose(&served.gateway.backend, &place, Era::Modern).await;
        let era = match (era, served.check_era(&place).await) {
            (Ok(era), Ok(())) => era,
            (Err(failure), _) | (_, Err(failure)) => {
                out.record.note_cause(&failure.cause);
                return Err(failure.denial);
            }
        };
        let leads_to = routed.leads_to(self.message);
        let call_request = CallRequest {
            permit: Arc::clone(&permit),
            message,
            parts: own_parts,
            origin: Arc::clone(&served.context.origin),
            place,
            target: routed.target,
            params: routed.params,
            mirrored,
            schema_refresh: call::schema_refresh(served, message, &self.profile, &routed.upstream),
            rounds: match era {
                Era::Modern => Rounds::Through,
                Era::Legacy if self.can_be_asked() => Rounds::Asks,
                Era::Legacy => Rounds::Never,
            },
            upstream_session: SessionChoice::Pooled,
            retry,
            responses: Arc::new(CallRules { gateway: Arc::clone(served.gateway), responses }),
        };
        match UpstreamCall::open(&served.gateway.backend, call_request).await {
            Ok(upstream_call) => self.converse(upstream_call, (Vec::new(), &leads_to), out).await,
            Err(failure) => {
                out.record.note_cause(&failure.cause);
                Err(failure.denial)
            }
        }
    }

    /// Only these may be answered by a question.
    fn can_be_asked(&self) -> bool {
        bridge::may_ask(call::method_name(self.message)) && self.profile.answers()
    }

    /// Takes a parked call up again with the client's answers.
    async fn resume(
        &mut self,
        resumed: Resumed,
        (replies, leads_to): (Vec<(Arc<str>, String)>, &LeadsTo),
        out: &mut Responder<'_>,
    ) -> Result<End, Denial> {
        let Resumed { mut upstream_call, questions } = resumed;
        let answer = |question: &ReleasedQuestion| replies.iter().find(|(key, _)| *key == question.key);
        let (answered, open): (Vec<_>, Vec<_>) =
            questions.into_iter().partition(|question| answer(question).is_some());
        let told: Vec<_> = answered
            .iter()
            .filter_map(|question| {
                let (key, reply) = answer(question)?;
                Some((Arc::clone(key), Reply::Result(reply.clone())))
            })
            .collect();
        if !told.is_empty()
            && let Err(failure) = upstream_call.reply(told).await
        {
            out.record.note_cause(&failure.cause);
            return Err(failure.denial);
        }
        self.converse(upstream_call, (open, leads_to), out).await
    }

    /// Brings what the server says to the client until the call is over or there are `open` questions: what was said
    /// before these can be answered comes with them.
    async fn converse(
        &mut self,
        mut upstream_call: UpstreamCall,
        (mut open, leads_to): (Vec<ReleasedQuestion>, &LeadsTo),
        out: &mut Responder<'_>,
    ) -> Result<End, Denial> {
        let phases = out.phases;
        let mut keepalive_timer = self.served.context.connection_state.shared_timer.lend();
        let mut silent_until = Instant::now() + self.served.context.server.keepalive;
        loop {
            let event = tokio::select! {
                biased;
                event = next_event(&mut upstream_call, open.is_empty()) => event,
                () = out.gone() => {
                    upstream_call.cancel();
                    return Ok(End::Broken);
                }
                () = phases.reached(Phase::Expired) => {
                    upstream_call.cancel();
                    return Err(draining());
                }
                () = keepalive_timer.until(silent_until) => {
                    if Box::pin(out.comment()).await.is_err() {
                        upstream_call.cancel();
                        return Ok(End::Broken);
                    }
                    silent_until = Instant::now() + self.served.context.server.keepalive;
                    continue;
                }
            };
            out.record.end_upstream_wait();
            out.record.note_answer_revision(upstream_call.revision_answered());
            let Some(event) = event else {
                return Box::pin(self.park(upstream_call, (open, leads_to), out)).await;
            };
            match self.handle_event(event, (&mut upstream_call, leads_to), out).await? {
                Next::More => out.record.begin_upstream_wait(),
                Next::Over(end) => return Ok(over(upstream_call, end)),
                Next::Ask(questions) => open.extend(questions),
            }
        }
    }

    async fn park(
        &mut self,
        upstream_call: UpstreamCall,
        (questions, leads_to): (Vec<ReleasedQuestion>, &LeadsTo),
        out: &mut Responder<'_>,
    ) -> Result<End, Denial> {
        let served = self.served;
        let call = Resumed { upstream_call, questions: questions.clone() };
        let rules = &served.context.server.parked;
        let ticket = self.ticket(leads_to);
        let serial = served.gateway.estate.parked.park(served.gateway, ticket.clone(), rules, call)?;
        let state = request_state::seal_parked(served, &ticket, serial)?;
        out.record.note_answer(None);
        let asked = ReleasedQuestion::round(&questions, call::id_text(self.message), &state);
        Ok(out.last(StatusCode::OK, asked).await)
    }

    /// Brings one event to the client.
    async fn handle_event(
        &self,
        event: CallEvent,
        (upstream_call, leads_to): (&mut UpstreamCall, &LeadsTo),
        out: &mut Responder<'_>,
    ) -> Result<Next, Denial> {
        match event {
            CallEvent::Note(note) => match out.event(note, None).await {
                Ok(()) => Ok(Next::More),
                Err(_) => Ok(Next::Over(End::Broken)),
            },
            CallEvent::Ask(questions) => Ok(Next::Ask(questions)),
            CallEvent::Done(answer) => {
                let room = answer.room.clone();
                let answer = tasks::outward(self.served, self.message, upstream_call, answer)?;
                let upstream = upstream_call.upstream();
                let answer = uris_outward(self.served, self.message, &self.profile, upstream, answer).await;
                let encoded =
                    match encoded_answer::large(upstream_call.offload(), Era::Modern, self.message, &answer)
                        .await?
                    {
                        Some(encoded) => encoded,
                        None => encoded_answer::for_modern(
                            self.served,
                            self.message,
                            &answer,
                            &self.profile,
                            || self.ticket(leads_to),
                        )?,
                    };
                let EncodedAnswer { status, message, rpc_error, proven } = encoded;
                out.record.note_proof(proven);
                out.record.note_answer(rpc_error);
                Ok(Next::Over(out.last_large(status, message, room).await))
            }
            CallEvent::Failed(failure) => {
                out.record.note_cause(&failure.cause);
                Err(failure.denial)
            }
        }
    }
}

/// What happens next; `None` once questions are open and all that was said before is told.
async fn next_event(upstream_call: &mut UpstreamCall, goes_on: bool) -> Option<CallEvent> {
    match goes_on {
        true => Some(upstream_call.next().await),
        false => upstream_call.next_buffered().await,
    }
}

/// A client that has left in the middle wants nothing more of the server either.
fn over(upstream_call: UpstreamCall, end: End) -> End {
    if matches!(end, End::Broken) {
        upstream_call.cancel();
    }
    end
}

enum Next {
    More,
    Ask(Vec<ReleasedQuestion>),
    Over(End),
}
