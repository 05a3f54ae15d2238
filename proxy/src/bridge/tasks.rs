//! Tasks of modern servers: a call may be answered by the id of a task that is asked about later
//! (extension `io.modelcontextprotocol/tasks`, 2026-07-28).
//!
//! An id reaches its client sealed: it leads back to the place of the server that minted it, and only
//! for the caller that it was minted for. The server knows nothing of that.

use super::call::{Aim, method_name};
use super::desk::{Desk, params};
use crate::sealing::{Binding, HandleToken, Token, UpstreamMark};
use crate::talk::{Answer, Outcome, Place};
use bytes::Bytes;
use portunus_config::Upstream;
use portunus_filters::mcp::object::{Object, Word};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Denial, Era, Message, Reason};
use std::sync::Arc;

static TASK_ID: Word = Word::new("taskId");

/// Whether a message is about a task that a server may have answered a call with.
pub(super) fn is_about_one(message: &Message) -> bool {
    message.era == Era::Modern
        && matches!(method_name(message), "tasks/get" | "tasks/update" | "tasks/cancel")
}

/// Where a message about a task leads.
///
/// # Errors
/// [`Reason::InvalidParams`] if it names no task that this caller was given by a server of this
/// endpoint: one of somebody else reads as one that never was.
pub(super) fn aim(desk: &Desk<'_>, fields: &Object<'_>) -> Result<Aim, Denial> {
    let unknown = || Denial::new(Reason::InvalidParams, "Task not found");
    let shown = fields.text("taskId").ok_or_else(unknown)?;
    let token = HandleToken::open(&desk.gateway.estate.seals, &binding(desk), &shown).ok_or_else(unknown)?;
    let minted = |upstream: &&Arc<Upstream>| {
        upstream.urls().any(|url| UpstreamMark::of(&upstream.name, url) == token.upstream)
    };
    Ok(Aim {
        upstream: desk.upstreams().into_iter().find(minted).cloned().ok_or_else(unknown)?,
        target: Some(Arc::from(&*token.text)),
        params: Arc::new([]),
        body: None,
        at: Some(token.upstream),
        subject: None,
    })
}

/// The place of a server that a task is kept at, if it has several.
pub(super) fn seated(desk: &Desk<'_>, place: Place, at: UpstreamMark) -> Place {
    let is_there = |place: &Place| mark(&place.upstream) == at;
    let now = desk.gateway.clock.now().monotonic;
    desk.gateway.estate.replicas.settle(place, now, is_there).0
}

/// An answer in which the id of a task is the one that its client knows.
///
/// # Errors
/// [`Reason::Untranslatable`] if the server's id is too long to be sealed.
pub(super) fn outward(
    desk: &Desk<'_>,
    message: &Message,
    upstream: &Upstream,
    answer: Answer,
) -> Result<Answer, Denial> {
    if answer.as_it_came().is_some_and(|came| !came.remarks.task) {
        return Ok(answer);
    }
    match (&answer.outcome, answer.era) {
        (Outcome::Result(text), Era::Modern) if TASK_ID.may_be_in(text) => {
            match renamed(desk, message, upstream, text)? {
                Some(text) => Ok(Answer { outcome: Outcome::Result(text.into()), ..answer }),
                None => Ok(answer),
            }
        }
        _ => Ok(answer),
    }
}

fn renamed(
    desk: &Desk<'_>,
    message: &Message,
    upstream: &Upstream,
    text: &Bytes,
) -> Result<Option<String>, Denial> {
    let readable = std::str::from_utf8(text).ok().and_then(|text| Object::read(text).ok());
    let Some(result) = readable else { return Ok(None) };
    let Some(own) = result.text("taskId") else { return Ok(None) };
    let known = match method_name(message) {
        "tools/call" if result.text("resultType").as_deref() == Some("task") => {
            let token = HandleToken { upstream: mark(upstream), text: own.into() };
            let oversize =
                |_| Denial::new(Reason::Untranslatable, "the server's `taskId` is too long to be sealed");
            string(&token.seal(&desk.gateway.estate.seals, &binding(desk)).map_err(oversize)?)
        }
        _ if is_about_one(message) => match params(message)?.get("taskId") {
            Some(known) => known.to_owned(),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(result.rewrite().set("taskId", known).text()))
}

fn mark(upstream: &Upstream) -> UpstreamMark {
    UpstreamMark::of(&upstream.name, &upstream.url)
}

fn binding<'a>(desk: &'a Desk<'_>) -> Binding<'a> {
    Binding { server: &desk.server.id, caller: desk.bearer }
}

#[cfg(test)]
mod tests;
