//! Notifications of upstreams in the words of the client's era.

use super::level::LogLevel;
use super::meta::{self, META_SUBSCRIPTION_ID, Members, is_reserved};
use crate::mcp::Fault;
use crate::mcp::object::{Object, unquoted};
use crate::message::Era;

/// A progress token on both sides of the gateway, as JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// What the upstream was given.
    pub upstream: &'a str,
    /// What the client gave.
    pub client: &'a str,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// Whose words it understands.
    pub era: Era,
    /// The progress token of the request that this belongs to; without it no progress is told.
    pub token: Option<Token<'a>>,
    /// The severity from which on it wants log messages. Without one a modern client wants none, a
    /// legacy one whatever the server sends.
    pub log_level: Option<LogLevel>,
    /// The id of the `subscriptions/listen` request that this belongs to, as JSON text.
    pub subscription: Option<&'a str>,
}

/// A notification as its listener gets it; `None` if it is none of its business, or nothing that its
/// revision knows.
///
/// # Errors
/// [`Fault::Shape`] if it is no notification with by-name parameters; else as [`Object::read`].
pub fn notification(message: &str, listener: &Listener<'_>) -> Result<Option<String>, Fault> {
    let mut message = Object::message(message)?;
    let method = message.text("method").ok_or(Fault::Shape("`method` must be a string"))?;
    let params = match (message.take("params"), message.get("params")) {
        (Some(params), _) => params?,
        (None, None) => Object::default(),
        (None, Some(_)) => return Err(Fault::Shape("`params` must be an object")),
    };
    let token = match &*method {
        "notifications/progress" => match progress_token(&params, listener) {
            Some(token) => Some(token),
            None => return Ok(None),
        },
        "notifications/message" if !is_wanted(&params, listener) => return Ok(None),
        method if is_foreign(method, listener.era) => return Ok(None),
        _ => None,
    };
    let found = meta::of_params(&params)?;
    let marked = match listener.era {
        Era::Modern => Members::of(found, |key| key != META_SUBSCRIPTION_ID)
            .with_some(META_SUBSCRIPTION_ID, listener.subscription),
        Era::Legacy => Members::of(found, |key| !is_reserved(key)),
    };
    let rewrite = params.rewrite().set_some("progressToken", token);
    let rewrite = match marked.is_empty() {
        true => rewrite.remove("_meta"),
        false => rewrite.set("_meta", marked.text()),
    };
    let untold = message.get("params").is_none() && rewrite.is_empty();
    let told = message.rewrite();
    Ok(Some(if untold { told.text() } else { told.set("params", rewrite.text()).text() }))
}

/// The client's token, if this is progress of its request.
fn progress_token<'a>(params: &Object<'_>, listener: &Listener<'a>) -> Option<&'a str> {
    let token = listener.token?;
    let told = params.get("progressToken")?;
    let same =
        told == token.upstream || unquoted(told).is_some_and(|told| unquoted(token.upstream) == Some(told));
    same.then_some(token.client)
}

fn is_wanted(params: &Object<'_>, listener: &Listener<'_>) -> bool {
    match (listener.log_level, listener.era) {
        (None, Era::Modern) => false,
        (None, Era::Legacy) => true,
        // A level that no revision knows is better told than lost.
        (Some(wanted), _) => {
            params.text("level").and_then(|level| LogLevel::parse(&level)).is_none_or(|level| level >= wanted)
        }
    }
}

/// What only servers of the other era say, or what belongs to a connection of the gateway's own.
fn is_foreign(method: &str, era: Era) -> bool {
    match method {
        "notifications/cancelled" | "notifications/subscriptions/acknowledged" => true,
        "notifications/elicitation/complete" => era == Era::Modern,
        _ => false,
    }
}
