//! The `requestState` of a call that is answered by a question: sealed, and opened again with its retry.

use super::call::LeadsTo;
use super::parked::Ticket;
use super::served_call::ServedCall;
use crate::backend::upstream_call::Retry;
use crate::sealing::{Binding, StateToken, Token};
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Denial, Message, Reason};
use ring::digest::{Context, SHA256};
use std::sync::Arc;

/// Stands for no parked call: the same call is to be made again.
pub(super) const AGAIN: u64 = u64::MAX;

/// What a `requestState` stands for.
pub(super) enum State {
    /// A call that its server wants once more, as it was.
    Again,
    /// A call that is parked here.
    Parked(u64),
    /// A modern server's own state.
    Upstream(String),
}

/// What a retry must have in common with the call it takes up: the upstream and its name for the target, which the retry
/// is judged for and its answers go to; the method, and every parameter but what changes from round to round.
pub(super) fn digest(message: &Message, fields: &Object<'_>, leads_to: &LeadsTo) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    let mut part = |text: &str| {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    };
    part(&leads_to.upstream);
    part(leads_to.target.as_deref().unwrap_or_default());
    part(message.method.as_ref().map_or("", |method| method.name()));
    let mut members: Vec<_> = fields
        .members()
        .filter(|(key, _)| !matches!(*key, "_meta" | "inputResponses" | "requestState"))
        .collect();
    members.sort_unstable();
    for (key, text) in members {
        part(key);
        part(text);
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&context.finish().as_ref()[..16]);
    digest
}

/// Opens the `requestState` of a retry.
///
/// # Errors
/// [`Reason::UnknownState`] if it is not from here, or not for this caller and call, or too old;
/// [`Reason::ReplicaLost`] if the call was parked at a replica that is gone.
pub(super) fn open_state(served: &ServedCall<'_>, ticket: &Ticket, state: &str) -> Result<State, Denial> {
    let unknown = || Denial::new(Reason::UnknownState, "`requestState` is unknown, used or expired");
    let token =
        StateToken::open(&served.gateway.estate.seals, &binding(served), state).ok_or_else(unknown)?;
    if token.is_over(served.gateway.clock.now().wall) || token.digest != ticket.digest {
        return Err(unknown());
    }
    if let Some(inner) = token.inner {
        return Ok(State::Upstream(inner.into_string()));
    }
    if token.serial == AGAIN {
        return Ok(State::Again);
    }
    if token.home != served.gateway.estate.home {
        return Err(Denial::new(Reason::ReplicaLost, "the call waited at a replica that is gone"));
    }
    Ok(State::Parked(token.serial))
}

/// The `requestState` of a call that is parked here, as text.
pub(super) fn seal_parked(served: &ServedCall<'_>, ticket: &Ticket, serial: u64) -> Result<String, Denial> {
    seal_state(served, ticket, serial, None)
}

pub(super) fn seal_state(
    served: &ServedCall<'_>,
    ticket: &Ticket,
    serial: u64,
    inner: Option<&str>,
) -> Result<String, Denial> {
    let within = served.context.server.parked.within;
    let token = StateToken {
        home: served.gateway.estate.home.clone(),
        serial,
        digest: ticket.digest,
        expires: (served.gateway.clock.now().wall + within).as_secs(),
        inner: inner.map(Into::into),
    };
    let oversize =
        |_| Denial::new(Reason::Untranslatable, "the server's `requestState` is too long to be sealed");
    token.seal(&served.gateway.estate.seals, &binding(served)).map_err(oversize)
}

fn binding<'a>(served: &'a ServedCall<'_>) -> Binding<'a> {
    Binding { server: &served.context.server.id, caller: served.context.bearer }
}

/// What a modern server is told of a client's answers.
pub(super) fn retry_of(replies: &[(Arc<str>, String)], state: Option<String>) -> Retry {
    let mut responses = String::from("{");
    for (index, (key, reply)) in replies.iter().enumerate() {
        if index > 0 {
            responses.push(',');
        }
        responses.push_str(&string(key));
        responses.push(':');
        responses.push_str(reply);
    }
    responses.push('}');
    let input_responses = (!replies.is_empty()).then_some(responses);
    Retry { input_responses, request_state: state.map(|state| string(&state)) }
}
