//! What stands over a call under way: what its client may be asked, and what it gets of the answer.

use super::judge;
use crate::context::Gateway;
use crate::talk::{Answer, Outcome, Question, Reply};
use bytes::Bytes;
use portunus_filters::call::{AnswerRules, Target};
use portunus_filters::gate;
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Envelope, Method, Span};
use portunus_filters::{Arrival, Cleared, Denial, Direction, Era, Kind, Message, Reason};
use std::borrow::Cow;
use std::sync::Arc;

/// Who called, and what was decided of the call.
#[derive(Clone)]
pub struct Overseer {
    arrival: Arrival,
    target: Target,
    era: Era,
    answer: AnswerRules,
}

impl Overseer {
    /// Of a call that was cleared.
    pub fn of(arrival: &Arrival, target: Target, era: Era, cleared: &Cleared) -> Overseer {
        Overseer { answer: cleared.answer_rules().clone(), ..Overseer::of_client(arrival, target, era) }
    }

    /// Of what a client is asked outside of any call.
    pub fn of_client(arrival: &Arrival, target: Target, era: Era) -> Overseer {
        Overseer { arrival: arrival.clone(), target, era, answer: AnswerRules::default() }
    }

    /// The same over what a certain upstream asks.
    pub fn at(&self, upstream: &Arc<str>) -> Overseer {
        let target = Target { upstream: Arc::clone(upstream), ..self.target.clone() };
        Overseer { target, ..self.clone() }
    }

    /// The questions that the client may be asked, and what the server is told of the others.
    pub fn sorted(
        &self,
        gateway: &Gateway,
        questions: Vec<Question>,
    ) -> (Vec<Question>, Vec<(Arc<str>, Reply)>) {
        let (mut open, mut refused) = (Vec::new(), Vec::new());
        for question in questions {
            match self.may_be_asked(gateway, &question.method, &question.params) {
                Ok(()) => open.push(question),
                Err(denial) => refused.push((question.key, Reply::Error(error(&denial)))),
            }
        }
        (open, refused)
    }

    /// Whether the client may be asked this.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn may_be_asked(&self, gateway: &Gateway, method: &str, params: &str) -> Result<(), Denial> {
        let active = gateway.active();
        if !active.authority.governs() {
            return Ok(());
        }
        let message = question(method, params, self.era)?;
        let arrival = Arrival { at: gateway.clock.now(), ..self.arrival.clone() };
        judge(gateway, &active, &arrival, std::slice::from_ref(&message), &self.target).map(drop)
    }

    /// The answer as the client may have it.
    ///
    /// # Errors
    /// What the filters refuse of it.
    pub fn passed(&self, gateway: &Gateway, answer: Answer) -> Result<Answer, Denial> {
        let Outcome::Result(result) = &answer.outcome else { return Ok(answer) };
        let governs = gateway.active().authority.governs();
        if self.answer.is_empty() && !governs {
            return Ok(answer);
        }
        let unreadable = |_| Denial::new(Reason::UpstreamMalformed, "the server's answer cannot be read");
        let text = std::str::from_utf8(result).map_err(|_| unreadable(()))?;
        if governs && memchr::memmem::find(result, b"inputRequests").is_some() {
            let object = Object::read(text).map_err(|_| unreadable(()))?;
            let asked = object.object("inputRequests").map_err(|_| unreadable(()))?;
            for (_, asked) in asked.iter().flat_map(Object::members) {
                let asked = Object::read(asked).map_err(|_| unreadable(()))?;
                let params = asked.get("params").unwrap_or("{}");
                self.may_be_asked(gateway, &asked.text("method").unwrap_or_default(), params)?;
            }
        }
        let permitted = match gate::permitted(text, &self.answer)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(Bytes::from(text)),
        };
        Ok(match permitted {
            Some(text) => Answer { outcome: Outcome::Result(text), ..answer },
            None => answer,
        })
    }
}

/// What a server is told whose question was not let through.
pub fn error(denial: &Denial) -> String {
    format!(
        "{{\"code\":-31403,\"message\":{},\"data\":{{\"reason\":\"{}\",\"origin\":\"gateway\"}}}}",
        string(&denial.detail),
        denial.reason
    )
}

/// A question of a server as a message.
fn question(method: &str, params: &str, era: Era) -> Result<Message, Denial> {
    let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":{},\"params\":{params}}}", string(method));
    let body = Bytes::from(text);
    let unreadable = || Denial::new(Reason::UpstreamMalformed, "the server's question cannot be read");
    let text = std::str::from_utf8(&body).map_err(|_| unreadable())?;
    let envelope = Envelope::read(text).map_err(|_| unreadable())?;
    let params = envelope.params_text.and_then(|text| Span::locate(&body, text.as_bytes()));
    let id = envelope.id;
    Ok(Message {
        kind: Kind::ServerRequest,
        direction: Direction::Down,
        era,
        revision: None,
        method: Some(Method::of(method)),
        id,
        target: None,
        params,
        outline: None,
        body: body.clone(),
    })
}
