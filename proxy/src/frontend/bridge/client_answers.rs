//! Brings the answers of legacy clients to the servers that asked.

use super::ServedCall;
use super::sessions::{Session, Waiting};
use crate::backend::upstream_call::Reply;
use portunus_config::Upstream;
use portunus_filters::mcp::{Envelope, Id, bridge};
use portunus_filters::{Denial, Message, Reason};
use std::sync::Arc;

/// An answer that a client sent.
pub(super) struct ClientAnswer<'m> {
    text: &'m str,
    id: Option<Id>,
}

impl<'m> ClientAnswer<'m> {
    /// Reads the answer in a message.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn read(message: &'m Message) -> Result<ClientAnswer<'m>, Denial> {
        let text = std::str::from_utf8(&message.body)
            .map_err(|_| Denial::new(Reason::ParseError, "the body is not UTF-8"))?;
        let id = Envelope::read(text).map_err(|_| unreadable())?.id;
        Ok(ClientAnswer { text, id })
    }

    /// The upstream that it goes to; `None` if nobody waits for it.
    pub(super) fn upstream(&self, session: &Session) -> Option<Arc<Upstream>> {
        let passed = || Some(Arc::clone(&session.passed_upstream_session()?.place().upstream));
        session.asked_by(self.id.as_ref()?).or_else(passed)
    }

    /// Gives it to the one who waits for it at the upstream that it was `judged_for`, or `instead` in its place.
    ///
    /// # Errors
    /// If it is no answer to a question.
    pub(super) fn give(
        &self,
        served: &ServedCall<'_>,
        session: &Session,
        judged_for: Option<&Arc<Upstream>>,
        instead: Option<Reply>,
    ) -> Result<(), Denial> {
        let Some(id) = self.id.as_ref() else { return Ok(()) };
        let waiting = match (session.answered(id), session.passed_upstream_session()) {
            (Some(waiting), _) => waiting,
            // It was asked by the server itself, while messages passed.
            (None, Some(upstream_session)) => Waiting::UpstreamSession { upstream_session, id: id.clone() },
            // One that comes too late, or twice, is of no use to anybody.
            (None, None) => return Ok(()),
        };
        // Another answer to the same question may have come between.
        if judged_for.is_none_or(|upstream| !Arc::ptr_eq(upstream, waiting.upstream())) {
            return Ok(());
        }
        let reply = match instead {
            Some(reply) => reply,
            None => bridge::legacy_reply(self.text).map_err(|_| unreadable())?,
        };
        match waiting {
            // A call that is over has dropped its end; more answers than it asked for cannot be.
            Waiting::Call { key, answers, .. } => {
                drop(answers.try_send((id.meaning().to_owned(), key, reply)));
            }
            Waiting::UpstreamSession { upstream_session, id } => {
                upstream_session.answer(&served.gateway.backend, id, reply);
            }
        }
        Ok(())
    }
}

fn unreadable() -> Denial {
    Denial::new(Reason::InvalidRequest, "the answer cannot be read")
}
