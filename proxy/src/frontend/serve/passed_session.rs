//! Sessions of clients whose messages pass: their server's own, under an id of the gateway's.

use super::{Brokered, IncomingRequest};
use crate::backend::headers::MCP_SESSION_ID;
use crate::frontend::bridge;
use crate::frontend::expected::Expect;
use crate::frontend::session_field::{NewSession, SessionField};
use crate::sealing::{CallerKey, PassedSession, SessionToken};
use http::HeaderValue;
use portunus_config::VirtualServer;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::{Denial, Era, Message, Reason};
use std::sync::Arc;

impl IncomingRequest<'_> {
    /// Puts the server's own id into a message that passes in the place of ours, and says what the client is told in the
    /// answer. An id that is none of ours stays: its server knows whether it is one of its own.
    ///
    /// # Errors
    /// [`Reason::UnknownSession`] if the session is one of a server that stood behind this endpoint before;
    /// [`Reason::Overloaded`] if the system has no randomness.
    pub(super) fn replace_session_id(
        &mut self,
        brokered: &Brokered,
        expect: &Expect,
    ) -> Result<SessionField, Denial> {
        if expect.era == Era::Modern {
            return Ok(SessionField::AsItCame);
        }
        let passed = self.session_name(&brokered.server).and_then(|name| name.passed.clone());
        let is_its = |passed: &PassedSession| {
            let upstream = brokered.server.upstreams.first();
            upstream.is_some_and(|upstream| passed.upstream == upstream.mark)
        };
        if passed.as_ref().is_some_and(|passed| !is_its(passed)) {
            // It may be somebody else's there.
            return Err(Denial::new(Reason::UnknownSession, "Session not found"));
        }
        let headers = &mut Arc::make_mut(&mut self.parts).headers;
        let replaced = passed.map(|passed| match HeaderValue::from_str(&passed.own_id) {
            Ok(own) if !own.is_empty() => headers.insert(MCP_SESSION_ID, own),
            // Its server has no sessions.
            _ => headers.remove(MCP_SESSION_ID),
        });
        match replaced.flatten() {
            _ if expect.founds_session => self.new_session(&brokered.server, brokered.reading.messages()),
            Some(sent) => Ok(SessionField::Named(sent)),
            None => Ok(SessionField::AsItCame),
        }
    }

    fn new_session(&self, server: &VirtualServer, messages: &[Message]) -> Result<SessionField, Denial> {
        let profile = messages.first().and_then(profile);
        let token = SessionToken {
            issued: self.origin.arrival.at.wall.as_secs(),
            // Who goes on with it asks the client: the server may agree to another.
            version: Revision::V2025_11_25,
            number: bridge::session_number()?,
            home: self.connection.gateway.estate.home.clone(),
            passes: true,
            abilities: profile.as_ref().map_or(0, Profile::bits),
            client: profile.and_then(|profile| profile.client_info).as_deref().unwrap_or_default().into(),
            upstream_sessions: Vec::new(),
        };
        let caller = CallerKey::for_passed(&self.origin.arrival.identity);
        Ok(SessionField::New(Box::new(NewSession { token, server: server.id.clone(), caller })))
    }
}

/// What the client says of itself, as far as it can be read.
fn profile(message: &Message) -> Option<Profile> {
    let text = std::str::from_utf8(&message.body).ok()?;
    Profile::of_initialize(&message.message_index.as_ref()?.params(text)).ok()
}
