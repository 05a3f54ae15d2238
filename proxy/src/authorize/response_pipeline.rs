//! What stands over a call under way, or a stream: what its client may be asked, and what it gets of what servers say.

use super::judge;
use crate::backend::forward::RequestOrigin;
use crate::backend::upstream_call::ResponseRules;
use crate::backend::upstream_call::{Answer, Outcome, Question, Reply};
use crate::frontend::context::{Active, AnswerSnapshot, Gateway};
use bytes::Bytes;
use portunus_filters::call::Target;
use portunus_filters::mcp::bridge::{Facts, bounded, elicitations_of};
use portunus_filters::mcp::object::StrictObject;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Envelope, Fault, Method, ResultSummary, Span};
use portunus_filters::{
    Channel, Cleared, Denial, Direction, Era, Inspectors, Kind, Message, Reason, Released, ReleasedQuestion,
};
use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

/// Who called, and what was decided of the call.
#[derive(Clone)]
pub struct ResponsePipeline {
    pub(super) origin: Arc<RequestOrigin>,
    pub(super) target: Target,
    pub(super) era: Era,
    inspectors: Inspectors,
    /// The policy that let the call through reads arguments.
    reads_arguments: bool,
    snapshot: AnswerSnapshot,
}

impl ResponsePipeline {
    /// Of a call that was cleared.
    pub fn of(origin: &Arc<RequestOrigin>, target: Target, era: Era, cleared: &Cleared) -> ResponsePipeline {
        ResponsePipeline {
            inspectors: cleared.inspectors().clone(),
            ..ResponsePipeline::of_client(origin, target, era)
        }
    }

    /// Of a client that nothing was decided of yet.
    pub(crate) fn of_client(origin: &Arc<RequestOrigin>, target: Target, era: Era) -> ResponsePipeline {
        ResponsePipeline {
            origin: Arc::clone(origin),
            target,
            era,
            inspectors: Inspectors::default(),
            reads_arguments: false,
            snapshot: AnswerSnapshot::default(),
        }
    }

    /// The inspectors of texts of servers that are for the client.
    pub fn inspectors(&self) -> &Inspectors {
        &self.inspectors
    }

    /// The same of a call that was judged by a policy which reads arguments, or by one that does not.
    #[must_use]
    pub(super) fn reading(self, reads_arguments: bool) -> ResponsePipeline {
        ResponsePipeline { reads_arguments, ..self }
    }

    /// The same of a call whose answers `snapshot` judges; without this it is the one in force.
    #[must_use]
    pub(super) fn answered_under(self, snapshot: AnswerSnapshot) -> ResponsePipeline {
        ResponsePipeline { snapshot, ..self }
    }

    /// Adds the inspectors of a message that takes the call up again, and has its snapshot judge what is answered to it.
    pub fn add(&mut self, later: &Inspectors, snapshot: AnswerSnapshot) {
        self.inspectors.add(later);
        self.snapshot = snapshot;
    }

    /// The snapshot that judges what is answered now.
    pub fn active(&self, gateway: &Gateway) -> Arc<Active> {
        self.snapshot.active(gateway)
    }

    /// Whether the policy that let the call through reads arguments.
    pub fn reads_arguments(&self) -> bool {
        self.reads_arguments
    }

    /// The same over what a certain upstream asks.
    pub fn at(&self, upstream: &Arc<str>) -> ResponsePipeline {
        let target = Target { upstream: Arc::clone(upstream), ..self.target.clone() };
        ResponsePipeline { target, ..self.clone() }
    }

    /// The questions that the client may be asked, and what the server is told of the others.
    pub fn sorted(
        &self,
        gateway: &Gateway,
        questions: Vec<Question>,
    ) -> (Vec<ReleasedQuestion>, Vec<(Arc<str>, Reply)>) {
        let (mut open, mut refused) = (Vec::new(), Vec::new());
        for question in questions {
            let key = Arc::clone(&question.key);
            match self.released(gateway, question) {
                Ok(question) => open.push(question),
                Err(denial) => refused.push((key, Reply::Error(error(&denial)))),
            }
        }
        (open, refused)
    }

    /// A question as the client may have it.
    ///
    /// # Errors
    /// The [`Denial`] of the filters.
    pub fn released(&self, gateway: &Gateway, question: Question) -> Result<ReleasedQuestion, Denial> {
        let active = self.active(gateway);
        match self.may_be_asked((gateway, &active), &question.method, &question.params)? {
            Some(asked) => self.and(&asked).release_question(question),
            None => self.inspectors.release_question(question),
        }
    }

    /// A notification as the client may have it; `None` if it may not.
    pub fn note(&self, channel: Channel, message: &Bytes) -> Option<Released> {
        let released = self.inspectors.release(channel, message);
        let refused = |denial: &Denial| {
            let (upstream, reason) = (&*self.target.upstream, denial.reason.as_str());
            tracing::debug!(upstream, reason, "a notification was kept from its client");
        };
        released.inspect_err(refused).ok()
    }

    /// The inspectors of the call, and those of what its server asks.
    fn and(&self, asked: &Cleared) -> Inspectors {
        let mut inspectors = self.inspectors.clone();
        inspectors.add(asked.inspectors());
        inspectors
    }

    /// Refuses what the client may not be asked; gives what was decided, where policy decides.
    ///
    /// # Errors
    /// What the filters refuse.
    fn may_be_asked(
        &self,
        (gateway, active): (&Gateway, &Active),
        method: &str,
        params: &str,
    ) -> Result<Option<Cleared>, Denial> {
        if !active.pipeline.is_on() {
            return Ok(None);
        }
        let message = question(method, params, self.era)?;
        let arrival = self.origin.arrival.coming_at(gateway.clock.now());
        judge(gateway, active, &arrival, std::slice::from_ref(&message), &self.target).map(Some)
    }

    /// True if answers have to be read for [`ResponsePipeline::passed`].
    pub fn looks_at_answers(&self, gateway: &Gateway) -> bool {
        !self.inspectors.is_empty() || self.active(gateway).pipeline.is_on()
    }

    /// The answer as the client may have it, judged by `active`.
    ///
    /// # Errors
    /// What the filters refuse of it.
    pub fn passed(
        &self,
        (gateway, active): (&Gateway, &Active),
        answer: Answer<Bytes>,
    ) -> Result<Answer<Released>, Denial> {
        let asking = match !self.inspectors.is_empty() || active.pipeline.is_on() {
            true => self.asking((gateway, active), &answer)?,
            false => None,
        };
        let inspectors = asking.as_ref().unwrap_or(&self.inspectors);
        let outcome = match &answer.outcome {
            Outcome::Result(result) => Outcome::Result(inspectors.release(Channel::Result, result)?),
            Outcome::Error { code, error } => {
                Outcome::Error { code: *code, error: inspectors.release(Channel::Error, error)? }
            }
        };
        let facts = answer.facts.as_ref().map(|facts| self.described(facts)).transpose()?;
        Ok(Answer { facts, ..answer.with(outcome) })
    }

    /// A legacy server's description of itself: its `serverInfo` goes into each answer to a modern client.
    fn described(&self, facts: &Arc<Facts>) -> Result<Arc<Facts>, Denial> {
        match &facts.server_info {
            Some(info) if self.inspectors.reads(Channel::ServerInfo) => {
                let info = Bytes::copy_from_slice(info.as_bytes());
                let info = self.inspectors.release(Channel::ServerInfo, &info)?;
                Ok(Arc::new(Facts { server_info: Some(info.text().into()), ..Facts::clone(facts) }))
            }
            _ => Ok(Arc::clone(facts)),
        }
    }

    /// Refuses an answer that asks what the client may not be asked; gives the inspectors of one that asks, among them
    /// those of its questions.
    ///
    /// # Errors
    /// What the filters refuse; [`Reason::UpstreamMalformed`] if it could be read in two ways.
    fn asking(
        &self,
        (gateway, active): (&Gateway, &Active),
        answer: &Answer<Bytes>,
    ) -> Result<Option<Inspectors>, Denial> {
        let governs = active.pipeline.is_on();
        let mut all: Option<Inspectors> = None;
        let mut judge = |method: &str, params: &str| {
            if let Some(asked) = self.may_be_asked((gateway, active), method, params)? {
                all.get_or_insert_with(|| self.inspectors.clone()).add(asked.inspectors());
            }
            Ok(())
        };
        match &answer.outcome {
            Outcome::Error { error, .. } if governs => {
                let error = std::str::from_utf8(error).map_err(|_| unreadable())?;
                let visits = elicitations_of(error).map_err(|_| unreadable())?;
                visits.iter().try_for_each(|params| judge("elicitation/create", params))?;
            }
            Outcome::Error { .. } => {}
            Outcome::Result(result) => {
                let text = std::str::from_utf8(result).map_err(|_| unreadable())?;
                let summary = match &answer.received {
                    Some(received) => received.summary,
                    None => ResultSummary::read(text).map_err(|_| unreadable())?,
                };
                if summary.folded {
                    return Err(folded());
                }
                if governs && summary.asks {
                    asked(text)?.iter().try_for_each(|(method, params)| judge(method, params))?;
                }
            }
        }
        Ok(all)
    }
}

/// The rules for the answers of a call under way at an upstream.
pub struct CallRules {
    /// The process.
    pub gateway: Arc<Gateway>,
    /// The caller, and the decision on the call.
    pub responses: ResponsePipeline,
}

impl CallRules {
    /// The rules of a call that a later message takes up again: beside its own those of `later`, which `snapshot` judged and
    /// which judges what is answered from now on.
    ///
    /// # Errors
    /// [`Reason::PolicyError`] if these are not the rules of a call.
    pub fn taken_up(
        rules: &dyn ResponseRules,
        later: &Inspectors,
        snapshot: AnswerSnapshot,
    ) -> Result<Arc<dyn ResponseRules>, Denial> {
        let rules: Option<&CallRules> = (rules as &dyn Any).downcast_ref();
        // No other rules are made; but a call whose rules are not known does not go on.
        let rules =
            rules.ok_or_else(|| Denial::new(Reason::PolicyError, "the rules of the call are not known"))?;
        let mut responses = rules.responses.clone();
        responses.add(later, snapshot);
        Ok(Arc::new(CallRules { gateway: Arc::clone(&rules.gateway), responses }))
    }
}

impl ResponseRules for CallRules {
    fn looks_at_answers(&self) -> bool {
        self.responses.looks_at_answers(&self.gateway)
    }

    fn note(&self, channel: Channel, message: &Bytes) -> Option<Released> {
        self.responses.note(channel, message)
    }

    fn sorted(&self, questions: Vec<Question>) -> (Vec<ReleasedQuestion>, Vec<(Arc<str>, Reply)>) {
        self.responses.sorted(&self.gateway, questions)
    }

    fn passed(&self, answer: Answer<Bytes>) -> (Result<Answer<Released>, Denial>, Arc<str>) {
        let active = self.responses.active(&self.gateway);
        let passed = self.responses.passed((&self.gateway, &active), answer);
        (passed, Arc::clone(&active.revision))
    }

    fn inspectors(&self) -> &Inspectors {
        self.responses.inspectors()
    }

    fn reads_arguments(&self) -> bool {
        self.responses.reads_arguments()
    }
}

/// What a result asks of the client: methods, and their parameters as JSON text.
fn asked(result: &str) -> Result<Vec<(Cow<'_, str>, &str)>, Denial> {
    let read = || -> Result<_, Fault> {
        let Some(requests) = StrictObject::read(result)?.get("inputRequests")? else { return Ok(Vec::new()) };
        let requests = StrictObject::read(requests)?.into_object();
        bounded(requests.members().len())?;
        let asked = requests.members().map(|(_, request)| {
            let request = StrictObject::read(request)?;
            let params = request.get("params")?.unwrap_or("{}");
            request.get("method")?;
            Ok((request.as_object().text("method").unwrap_or_default(), params))
        });
        asked.collect()
    };
    read().map_err(|_| unreadable())
}

fn unreadable() -> Denial {
    Denial::new(Reason::UpstreamMalformed, "the server's answer cannot be read")
}

fn folded() -> Denial {
    let detail = "the server's answer has a key that differs from a known one only in case";
    Denial::new(Reason::UpstreamMalformed, detail)
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
        message_index: None,
        body: body.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_found_however_their_keys_are_written() {
        let plain = r#"{"inputRequests":{"q":{"method":"roots/list"}}}"#;
        let escaped = r#"{"input\u0052equests":{"q":{"meth\u006fd":"roots/list","params":{"a":1}}}}"#;
        for (result, params) in [(plain, "{}"), (escaped, r#"{"a":1}"#)] {
            assert_eq!(asked(result).unwrap(), [("roots/list".into(), params)], "{result}");
        }
        assert_eq!(asked(r#"{"content":[]}"#), Ok(vec![]));
        let many: Vec<String> = (0..65).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
        for unclear in [
            format!(r#"{{"inputRequests":{{{}}}}}"#, many.join(",")).as_str(),
            r#"{"inputRequests":{"q":7}}"#,
            r#"{"InputRequests":{}}"#,
            r#"{"inputRequests":{"q":{"method":"roots/list"},"Q":{"method":"roots/list"}}}"#,
            r#"{"inputRequests":{"q":{"method":"roots/list","Method":"sampling/createMessage"}}}"#,
            r#"{"inputRequests":{"q":{"method":"roots/list","Params":{"a":1}}}}"#,
        ] {
            assert!(asked(unclear).is_err(), "{unclear}");
        }
    }
}
