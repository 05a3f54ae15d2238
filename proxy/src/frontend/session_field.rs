//! The session id in the head of an answer that passes.
//!
//! The session is the server's, and its id the gateway's: where the endpoint begins to serve, the session goes on.

use crate::backend::headers::MCP_SESSION_ID;
use crate::sealing::{Binding, CallerKey, SealedUpstreamSession, Seals, SessionToken};
use http::{HeaderMap, HeaderValue, StatusCode};
use portunus_config::{ServerId, Upstream};

/// The session id that the head of an answer has for its client.
pub enum SessionField {
    /// It goes on as it came: another replica wrote it, or the client has no session.
    AsItCame,
    /// It is what the client calls the session.
    Named(HeaderValue),
    /// It is the id of a new session.
    New(Box<NewSession>),
}

/// A session that the answer to an `initialize` begins, as far as it is known before.
pub struct NewSession {
    /// All of its id but the session at the server.
    pub token: SessionToken,
    /// Where it is valid.
    pub server: ServerId,
    /// For whom.
    pub caller: CallerKey,
}

impl SessionField {
    /// Puts the id into the head of an answer in the place of the server's own. An answer that `fails` begins no session.
    pub(crate) fn replace(
        &self,
        headers: &mut HeaderMap,
        (status, fails): (StatusCode, bool),
        (seals, upstream): (&Seals, &Upstream),
    ) {
        let own = headers.get(MCP_SESSION_ID);
        let id = match self {
            SessionField::AsItCame => return,
            SessionField::Named(id) => own.map(|_| id.clone()),
            SessionField::New(_) if own.is_none() && (fails || !status.is_success()) => None,
            SessionField::New(new) => new.seal(own, seals, upstream),
        };
        if let Some(id) = id {
            headers.insert(MCP_SESSION_ID, id);
        }
    }
}

impl NewSession {
    /// The id of the session; `None` if the server's own does not fit into it, and has to do.
    fn seal(&self, own: Option<&HeaderValue>, seals: &Seals, upstream: &Upstream) -> Option<HeaderValue> {
        let upstream_session = SealedUpstreamSession {
            upstream: upstream.mark,
            id: own.map_or(Some(""), |own| own.to_str().ok())?.into(),
            version: self.token.version,
        };
        let token = SessionToken { upstream_sessions: vec![upstream_session], ..self.token.clone() };
        let sealed = token.seal(seals, &Binding { server: &self.server, caller: self.caller });
        HeaderValue::from_str(&sealed.text).ok().filter(|_| sealed.left_out.is_empty())
    }
}
