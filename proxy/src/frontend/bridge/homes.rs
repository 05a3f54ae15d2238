//! Where the state behind a message is kept, by what the message carries.

use super::request_state::AGAIN;
use super::served_call::params;
use crate::backend::headers::MCP_SESSION_ID;
use crate::frontend::estate::Estate;
use crate::sealing::{Binding, Home, SessionName, StateToken, Token};
use http::HeaderMap;
use memchr::memmem::find;
use portunus_filters::message::Reading;
use portunus_filters::{Era, Message};

/// The replica that began the session of a message, or parked the call that it goes on with; `None` if
/// there is neither, or it is not for this server and caller. Of a message that `passes` no replica keeps a session that
/// passed when it began.
pub fn home(
    estate: &Estate,
    binding: &Binding<'_>,
    passes: bool,
    headers: &HeaderMap,
    reading: &Reading,
) -> Option<Home> {
    let first = reading.messages().first()?;
    match first.era {
        Era::Legacy => {
            let id = headers.get(MCP_SESSION_ID)?.to_str().ok()?;
            let name = SessionName::open(&estate.seals, binding, id)?;
            (name.passed.is_none() || !passes).then_some(name.home)
        }
        Era::Modern => home_of_state(estate, binding, first),
    }
}

fn home_of_state(estate: &Estate, binding: &Binding<'_>, message: &Message) -> Option<Home> {
    // Of most calls it is known without reading their parameters.
    find(&message.body, b"requestState")?;
    let state = params(message).ok()?.text("requestState")?;
    let token = StateToken::open(&estate.seals, binding, &state)?;
    let waits = token.inner.is_none() && token.serial != AGAIN;
    waits.then_some(token.home)
}
