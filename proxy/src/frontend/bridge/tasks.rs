//! Tasks of modern servers: a call may be answered by the id of a task that is asked about later
//! (extension `io.modelcontextprotocol/tasks`, 2026-07-28).
//!
//! An id reaches its client sealed: it leads back to the place of the server that minted it, and only
//! for the caller that it was minted for. With it are sealed the tool that was called and the rules for
//! its answer, so that whichever replica is asked judges the message as the call that made the task,
//! and holds what comes to the same rules. The server knows nothing of that.

use super::call::{self, RoutedCall, method_name};
use super::served_call::{ServedCall, params};
use crate::backend::upstream_call::{Answer, Outcome, UpstreamCall, UpstreamTarget};
use crate::sealing::{Binding, HandleToken, Token};
use bytes::Bytes;
use portunus_config::{Choice, Upstream, UpstreamMark};
use portunus_filters::call::{AnswerRules, KnownTool, Subject, TaskCall};
use portunus_filters::catalog::{Catalog, ListKind};
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::mcp::object::{Object, Word};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Denial, Era, Kind, Message, Reason, Released};
use std::sync::Arc;

static TASK_ID: Word = Word::new("taskId");

/// Whether a request of this method is about tasks.
pub(super) fn is_method(method: &str) -> bool {
    method.starts_with("tasks/")
}

/// Whether a message is about a task that a server may have answered a call with.
fn is_about_one(message: &Message) -> bool {
    message.era == Era::Modern
        && message.kind == Kind::Request
        && is_method(method_name(message))
        && method_name(message) != "tasks/list"
}

/// Where a message about a task leads. A list of tasks would be that of all who share a credential, and
/// legacy clients are given none.
///
/// # Errors
/// [`Reason::MissingCapability`] of a client that cannot have been given one; [`Reason::InvalidParams`] if
/// it names no task that this caller was given by a server of this
/// endpoint: one of somebody else reads as one that never was, and so does one of a tool that the
/// caller does not find any more.
pub(super) async fn routed(
    served: &ServedCall<'_>,
    message: &Message,
    fields: &Object<'_>,
    profile: &Arc<Profile>,
) -> Result<RoutedCall, Denial> {
    if !is_about_one(message) {
        let detail = "no server behind this endpoint has this method";
        return Err(Denial::new(Reason::UnknownMethod, detail));
    }
    if !profile.takes_tasks() {
        let required = "{\"extensions\":{\"io.modelcontextprotocol/tasks\":{}}}".to_owned();
        let detail = "the client did not declare the extension `io.modelcontextprotocol/tasks`";
        return Err(Denial::new(Reason::MissingCapability, detail).with("requiredCapabilities", required));
    }
    let shown = fields.text("taskId").ok_or_else(unknown)?;
    let token =
        HandleToken::open(&served.gateway.estate.seals, &binding(served), &shown).ok_or_else(unknown)?;
    let minted = |upstream: &&Arc<Upstream>| {
        upstream.urls().any(|url| UpstreamMark::of(&upstream.name, url) == token.upstream)
    };
    let upstream = served.upstreams().into_iter().find(minted).cloned().ok_or_else(unknown)?;
    let subject = subject(served, message, profile, (&token, &upstream)).await?;
    Ok(RoutedCall {
        target: Some(Arc::from(&*token.text)),
        params: Arc::new([]),
        body: None,
        at: Some(token.upstream),
        subject: Some(subject),
        upstream,
    })
}

fn unknown() -> Denial {
    Denial::new(Reason::InvalidParams, "Task not found")
}

/// The tool that a task is of, with the call that made the task, if its caller finds the tool now.
async fn subject(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    (token, upstream): (&HandleToken, &Arc<Upstream>),
) -> Result<Subject, Denial> {
    // Rules about arguments cannot be asked of a call whose arguments nobody kept.
    if token.call.arguments.is_none() && served.active().policy_runtime.filter.reads_arguments() {
        return Err(unknown());
    }
    let original: Arc<str> = Arc::from(&*token.tool);
    let call = Arc::new(token.call.clone());
    let of_task = |tool: &KnownTool| {
        Subject::Tool(Arc::new(KnownTool { task: Some(Arc::clone(&call)), ..KnownTool::clone(tool) }))
    };
    let Some(rated) = served.rated(&upstream.name, &original) else {
        return Ok(of_task(&KnownTool::unrated(original)));
    };
    let member = served.context.server.member_of(&upstream.name).ok_or_else(unknown)?;
    let look = |catalog: &Catalog| {
        let entry = catalog.of_member(ListKind::Tools, member, &original);
        served.finds_task(message, (&*original, entry), &call)
    };
    let missing = |catalog: Arc<Catalog>| {
        call::unknown(
            served,
            &catalog,
            ListKind::Tools,
            (Reason::InvalidParams, unknown().detail.to_string()),
        )
    };
    let found = call::found(served, profile, &[ListKind::Tools], look).await?.map_err(missing)?;
    // Equal servers may be rated apart.
    let is_twin = matches!(served.context.server.members[member].choice, Choice::Twins { .. });
    Ok(if is_twin { of_task(&rated) } else { found })
}

/// The place of a server that a task is kept at, if it has several.
pub(super) fn at_instance(
    served: &ServedCall<'_>,
    place: UpstreamTarget,
    at: UpstreamMark,
) -> UpstreamTarget {
    let is_there = |place: &UpstreamTarget| place.upstream.mark == at;
    let now = served.gateway.clock.now().monotonic;
    served.gateway.backend.instances.settle(place, now, is_there).0
}

/// An answer in which the id of a task is the one that its client knows.
///
/// # Errors
/// [`Reason::Untranslatable`] if the server's id, and what has to be known of the call, are too long to
/// be sealed, and for a task of anything but a call of a tool.
pub(super) fn outward(
    served: &ServedCall<'_>,
    message: &Message,
    upstream_call: &UpstreamCall,
    answer: Answer<Released>,
) -> Result<Answer<Released>, Denial> {
    if answer.received.as_ref().is_some_and(|received| !received.summary.task) {
        return Ok(answer);
    }
    match (&answer.outcome, answer.era) {
        (Outcome::Result(text), Era::Modern) if TASK_ID.may_be_in(text.bytes()) => {
            match renamed(served, message, upstream_call, text.bytes())? {
                Some(renamed) => {
                    let renamed = text.translated(renamed);
                    Ok(answer.with(Outcome::Result(renamed)))
                }
                None => Ok(answer),
            }
        }
        _ => Ok(answer),
    }
}

fn renamed(
    served: &ServedCall<'_>,
    message: &Message,
    upstream_call: &UpstreamCall,
    text: &Bytes,
) -> Result<Option<String>, Denial> {
    let readable = std::str::from_utf8(text).ok().and_then(|text| Object::read(text).ok());
    let Some(result) = readable else { return Ok(None) };
    let Some(own) = result.text("taskId") else { return Ok(None) };
    let known = match method_name(message) {
        _ if is_about_one(message) => match params(message)?.get("taskId") {
            Some(known) => known.to_owned(),
            None => return Ok(None),
        },
        _ if result.text("resultType").as_deref() != Some("task") => return Ok(None),
        "tools/call" => string(&sealed(served, message, upstream_call, &own)?),
        _ => {
            let detail = "the server made a task of a request that is no call of a tool";
            return Err(Denial::new(Reason::Untranslatable, detail));
        }
    };
    Ok(Some(result.rewrite().set("taskId", known).text()))
}

/// The id of a task as its client gets it.
fn sealed(
    served: &ServedCall<'_>,
    message: &Message,
    upstream_call: &UpstreamCall,
    own: &str,
) -> Result<String, Denial> {
    let rules = upstream_call.responses().inspectors().find::<AnswerRules>().cloned().unwrap_or_default();
    let token = HandleToken {
        upstream: upstream_call.upstream().mark,
        text: own.into(),
        tool: upstream_call.target().map_or_else(Box::default, |tool| Box::from(&**tool)),
        call: TaskCall {
            arguments: match upstream_call.responses().reads_arguments() {
                true => Some(arguments(served, message, upstream_call.upstream())?),
                false => None,
            },
            redact: rules.redact().to_vec(),
            max_result_bytes: rules.max_result_bytes(),
        },
    };
    let oversize = |_| {
        let detail = "the id of the server's task, and what its call is judged by, are too long to be sealed";
        Denial::new(Reason::Untranslatable, detail)
    };
    token.seal(&served.gateway.estate.seals, &binding(served)).map_err(oversize)
}

/// The arguments that the call was judged by.
fn arguments(served: &ServedCall<'_>, message: &Message, upstream: &Upstream) -> Result<Arc<str>, Denial> {
    let fields = params(message)?;
    let member =
        served.context.server.member_of(&upstream.name).map(|member| &served.context.server.members[member]);
    let selector = member.and_then(|member| match &member.choice {
        Choice::Twins { selector, .. } => Some(selector),
        Choice::Fixed(_) | Choice::ByTenant { .. } => None,
    });
    let arguments = fields.get("arguments").filter(|text| text.starts_with('{')).unwrap_or("{}");
    let Some(selector) = selector else { return Ok(arguments.into()) };
    let object = Object::read(arguments).map_err(|_| unknown())?;
    Ok(object.rewrite().remove(&**selector).text().into())
}

fn binding<'a>(served: &'a ServedCall<'_>) -> Binding<'a> {
    Binding { server: &served.context.server.id, caller: served.context.bearer }
}

#[cfg(test)]
mod tests;
