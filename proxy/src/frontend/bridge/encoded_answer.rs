//! Encodes answers in the client's words, with the URIs of resources as clients can use them.

use super::call::{URIS, id_text, method_name};
use super::parked::Ticket;
use super::request_state::{AGAIN, seal_state};
use super::served_call::ServedCall;
use crate::backend::upstream_call::{Answer, MAX_ASKING_BYTES, Outcome};
use crate::offload::{INLINE_BYTES, OffloadQueue};
use bytes::Bytes;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::catalog::names_resources;
use portunus_filters::mcp::bridge::{self, ForModern, Profile, RpcError};
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Denial, Era, Message, Reason, Released};
use std::borrow::Cow;
use std::sync::Arc;

/// An answer in the client's words.
pub(super) struct EncodedAnswer {
    /// HTTP status, if nothing was sent before.
    pub status: StatusCode,
    /// The message.
    pub message: Released,
    /// Code of its error.
    pub rpc_error: Option<i64>,
    /// It is a result that is no tool error.
    pub proven: bool,
}

/// An answer in the words of a client of `era`, if it is a large one that has to be read for that: that
/// is done where it stops no other call. `None` for all others.
///
/// # Errors
/// [`Reason::Untranslatable`]; [`Reason::UpstreamMalformed`] if it asks for input at too great a length.
pub(super) async fn large(
    queue: &OffloadQueue,
    era: Era,
    message: &Message,
    answer: &Answer<Released>,
) -> Result<Option<EncodedAnswer>, Denial> {
    let bytes = answer.text().len();
    if bytes <= INLINE_BYTES || !matches!(answer.outcome, Outcome::Result(_)) {
        return Ok(None);
    }
    let written_here = match era {
        Era::Modern => added_to(message, answer),
        Era::Legacy => taken_from(message, answer),
    };
    if written_here.is_some() {
        return Ok(written_here);
    }
    let (id, method) = (id_text(message).to_owned(), method_name(message).to_owned());
    let answer = answer.clone();
    queue.run(bytes, move || translated(era, (&id, &method), &answer)).await
}

/// A result in the words of a client of `era`; `None` if it asks that client something.
fn translated(
    era: Era,
    (id, method): (&str, &str),
    answer: &Answer<Released>,
) -> Result<Option<EncodedAnswer>, Denial> {
    let text = utf8(answer.text())?;
    let result = match (answer.era, era) {
        (Era::Legacy, Era::Modern) => {
            let facts = answer.facts.as_deref().ok_or(()).map_err(untranslatable)?;
            Cow::Owned(bridge::result_for_modern(text, method, facts, None).map_err(untranslatable)?)
        }
        (Era::Modern, Era::Legacy) => {
            Cow::Owned(bridge::result_for_legacy(text, method).map_err(untranslatable)?)
        }
        (Era::Modern, Era::Modern) if bridge::asks(text.as_bytes()) => {
            return match text.len() <= MAX_ASKING_BYTES {
                true => Ok(None),
                false => Err(asks_too_long()),
            };
        }
        _ => Cow::Borrowed(text),
    };
    let proven = !bridge::is_tool_error(result.as_bytes());
    Ok(Some(succeeded_by(answer, bridge::wrap_result(id, &result).into(), proven)))
}

fn asks_too_long() -> Denial {
    Denial::new(Reason::UpstreamMalformed, "the server asks for input at too great a length")
}

/// An answer in the words of a modern client.
///
/// # Errors
/// [`Reason::Untranslatable`].
pub(super) fn for_modern(
    served: &ServedCall<'_>,
    message: &Message,
    answer: &Answer<Released>,
    profile: &Profile,
    ticket: impl FnOnce() -> Ticket,
) -> Result<EncodedAnswer, Denial> {
    if let Some(said) = added_to(message, answer) {
        return Ok(said);
    }
    let text = utf8(answer.text())?;
    match (&answer.outcome, answer.era) {
        (Outcome::Result(_), Era::Legacy) => {
            let facts = answer.facts.as_deref().ok_or(()).map_err(untranslatable)?;
            let result = bridge::result_for_modern(text, method_name(message), facts, None);
            Ok(succeeded(message, answer, &result.map_err(untranslatable)?))
        }
        (Outcome::Result(_), Era::Modern) => {
            let result = with_own_state(served, text, ticket)?;
            Ok(succeeded(message, answer, &result))
        }
        (Outcome::Error { .. }, era) => {
            let error = Object::read(text).map_err(untranslatable)?;
            let error = RpcError::of(text, &error).map_err(untranslatable)?;
            if era == Era::Modern {
                let (code, status) = (error.code, bridge::status_for_modern(error.code));
                return Ok(failed(message, answer, bridge::ErrorAnswer { code, status, error: text.into() }));
            }
            match bridge::error_for_modern(&error, profile).map_err(untranslatable)? {
                ForModern::Error(said) => Ok(failed(message, answer, said)),
                ForModern::Ask(questions) => {
                    let state = seal_state(served, &ticket(), AGAIN, None)?;
                    Ok(succeeded(message, answer, &bridge::input_required(&questions, &state)))
                }
            }
        }
    }
}

/// An answer of which nothing changes but what is added to it: it is not read once more.
fn added_to(message: &Message, answer: &Answer<Released>) -> Option<EncodedAnswer> {
    let received = answer.received.as_ref()?;
    let whole = match answer.era {
        Era::Modern if received.under_own_id && received.summary.is_final() => received.message.clone(),
        Era::Legacy if received.summary.is_bare() && !bridge::is_cacheable(method_name(message)) => {
            bridge::answer_for_modern(id_text(message), answer.text().bytes(), answer.facts.as_deref()?)?
                .into()
        }
        Era::Modern | Era::Legacy => return None,
    };
    Some(succeeded_by(answer, whole, !received.summary.failed))
}

/// An answer in the words of a legacy client.
///
/// # Errors
/// [`Reason::Untranslatable`].
pub(super) fn for_legacy(message: &Message, answer: &Answer<Released>) -> Result<EncodedAnswer, Denial> {
    if let Some(said) = taken_from(message, answer) {
        return Ok(said);
    }
    let method = method_name(message);
    let text = utf8(answer.text())?;
    match (&answer.outcome, answer.era) {
        (Outcome::Result(_), Era::Legacy) => Ok(succeeded(message, answer, text)),
        (Outcome::Result(_), Era::Modern) => {
            let result = bridge::result_for_legacy(text, method).map_err(untranslatable)?;
            Ok(succeeded(message, answer, &result))
        }
        (Outcome::Error { .. }, era) => {
            let error = Object::read(text).map_err(untranslatable)?;
            let error = RpcError::of(text, &error).map_err(untranslatable)?;
            match era {
                Era::Legacy => {
                    let said = bridge::ErrorAnswer { code: error.code, status: 200, error: text.into() };
                    Ok(failed(message, answer, said))
                }
                Era::Modern => {
                    let said = bridge::error_for_legacy(&error, method).map_err(untranslatable)?;
                    Ok(failed(message, answer, said))
                }
            }
        }
    }
}

/// An answer of which nothing changes but what is taken away: it is not read once more.
fn taken_from(message: &Message, answer: &Answer<Released>) -> Option<EncodedAnswer> {
    let (Outcome::Result(result), Some(received)) = (&answer.outcome, &answer.received) else { return None };
    let (id, method) = (id_text(message), method_name(message));
    let said = match answer.era {
        Era::Legacy => bridge::answer_between_legacy(id, result.bytes()),
        Era::Modern if bridge::is_cacheable(method) => return None,
        Era::Modern => bridge::answer_for_legacy(id, result.bytes(), received.summary)?,
    };
    Some(succeeded_by(answer, said.into(), !received.summary.failed))
}

/// A modern server's own `requestState` is sealed: only this caller may go on with this call.
fn with_own_state<'r>(
    served: &ServedCall<'_>,
    result: &'r str,
    ticket: impl FnOnce() -> Ticket,
) -> Result<Cow<'r, str>, Denial> {
    if !bridge::asks(result.as_bytes()) {
        return Ok(Cow::Borrowed(result));
    }
    let object = Object::read(result).map_err(untranslatable)?;
    match object.text("requestState") {
        Some(inner) => {
            let sealed = seal_state(served, &ticket(), 0, Some(&inner))?;
            Ok(Cow::Owned(object.rewrite().set("requestState", string(&sealed)).text()))
        }
        None => Ok(Cow::Borrowed(result)),
    }
}

fn succeeded(message: &Message, answer: &Answer<Released>, result: &str) -> EncodedAnswer {
    let message = bridge::wrap_result(id_text(message), result).into();
    succeeded_by(answer, message, !bridge::is_tool_error(result.as_bytes()))
}

/// An answer that succeeded, in a message that says so.
fn succeeded_by(answer: &Answer<Released>, message: Bytes, proven: bool) -> EncodedAnswer {
    let message = answer.text().translated(message);
    EncodedAnswer { status: StatusCode::OK, message, rpc_error: None, proven }
}

/// An answer that failed, in a message that says so.
fn failed(message: &Message, answer: &Answer<Released>, said: bridge::ErrorAnswer<'_>) -> EncodedAnswer {
    EncodedAnswer {
        status: StatusCode::from_u16(said.status).unwrap_or(StatusCode::OK),
        message: answer.text().translated(bridge::wrap_error_text(id_text(message), &said.error)),
        rpc_error: Some(said.code),
        proven: false,
    }
}

/// An answer in which each resource has the URI that leads back to its server. Costs nothing where one
/// server stands alone, and a look at the text where none is named.
pub(super) async fn uris_outward(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    upstream: &Upstream,
    answer: Answer<Released>,
) -> Answer<Released> {
    if served.context.server.members.len() < 2 {
        return answer;
    }
    let method = method_name(message);
    let renamed = match &answer.outcome {
        Outcome::Result(result) if names_resources(method, result.bytes()) => {
            let renamed = renamed(served, profile, (method, upstream), result.bytes()).await;
            renamed.map(|text| result.translated(text))
        }
        _ => None,
    };
    match renamed {
        Some(result) => answer.with(Outcome::Result(result)),
        None => answer,
    }
}

async fn renamed(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    (method, upstream): (&str, &Upstream),
    result: &Bytes,
) -> Option<String> {
    let member = served.context.server.member_of(&upstream.name)?;
    // Without any list nothing leads anywhere, and the server's own words are as good as others.
    let catalog = served.catalog(profile, URIS, served.gateway.clock.now()).await.ok()?;
    let queue = served.active().pool(upstream).map(|pool| pool.offload.clone()).unwrap_or_default();
    let (bytes, method, result) = (result.len(), method.to_owned(), result.clone());
    let written = move || catalog.with_served_uris(member, &method, std::str::from_utf8(&result).ok()?);
    queue.run(bytes, written).await
}

fn untranslatable<E>(_: E) -> Denial {
    Denial::new(Reason::Untranslatable, "the server's answer has no form in this revision")
}

fn utf8(text: &Released) -> Result<&str, Denial> {
    std::str::from_utf8(text.bytes()).map_err(untranslatable)
}
