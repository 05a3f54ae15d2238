//! A resolved message, and what the filters say of it.

use crate::authorize::{self, Obligations, Place};
use crate::decision_record::DecisionRecord;
use crate::facts::ToolFacts;
use crate::inspect::Inspector;
use crate::mcp::Span;
use crate::message::{Arrival, Message};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Where a message goes, and what is known of it beside its text.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Label of the virtual server.
    pub server: Arc<str>,
    /// Name of the upstream; empty for what is answered here.
    pub upstream: Arc<str>,
    /// What it is about, as the upstream knows it; `None` if that is no item of its lists.
    pub subject: Option<Subject>,
    /// Name of the narrowest network that the client's address is in.
    pub zone: Option<Arc<str>>,
    /// What the client's software calls itself.
    pub client: Option<Arc<str>>,
}

impl Target {
    /// One of which no more is known.
    pub fn new(server: &Arc<str>, upstream: &Arc<str>) -> Target {
        Target { server: Arc::clone(server), upstream: Arc::clone(upstream), ..Target::default() }
    }

    /// The tool that it is about.
    pub fn tool(&self) -> Option<&Arc<KnownTool>> {
        match &self.subject {
            Some(Subject::Tool(tool)) => Some(tool),
            _ => None,
        }
    }
}

/// An item of a member's lists as rules are asked of it: by the name that its upstream gives it, or the
/// normal form of the URI that its upstream receives, and never by the name that clients know.
///
/// It is made where a served name is looked up, from [`Entry::subject`](crate::catalog::Entry) and
/// [`Located::subject`](crate::catalog::Located), so what is judged and what is sent do not differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A tool.
    Tool(Arc<KnownTool>),
    /// A prompt, by its name.
    Prompt(Arc<str>),
    /// A resource, by its URI.
    Resource(Arc<str>),
    /// A template of URIs.
    Template(Arc<str>),
}

impl Subject {
    /// `input.mcp.kind`.
    pub(crate) fn kind(&self) -> authorize::Kind {
        match self {
            Subject::Tool(_) => authorize::Kind::Tool,
            Subject::Prompt(_) => authorize::Kind::Prompt,
            Subject::Resource(_) => authorize::Kind::Resource,
            Subject::Template(_) => authorize::Kind::Template,
        }
    }

    /// Name and URI of `input.mcp`.
    pub(crate) fn name_and_uri(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Subject::Tool(tool) => (Some(&tool.original), None),
            Subject::Prompt(name) => (Some(name), None),
            Subject::Resource(uri) | Subject::Template(uri) => (None, Some(uri)),
        }
    }
}

/// A tool as its catalogue and the configuration know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTool {
    /// Its name at its server.
    pub original: Arc<str>,
    /// What the configuration says of it.
    pub facts: Arc<ToolFacts>,
    /// What its server says of it, as the text of a JSON object: a claim, never a fact.
    pub claimed: Option<Arc<str>>,
    /// The call that made the task which a message is about: it is judged as that call.
    pub task: Option<Arc<TaskCall>>,
}

impl KnownTool {
    /// A tool of which nothing but its name is known.
    pub fn unrated(original: Arc<str>) -> KnownTool {
        KnownTool { original, facts: Arc::default(), claimed: None, task: None }
    }
}

/// The call that made a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskCall {
    /// Its arguments as the text of a JSON object, where policy reads them.
    pub arguments: Option<Arc<str>>,
    /// Places that are blanked in everything that the task brings.
    pub redact: Vec<Place>,
    /// Bytes that everything that it brings may have.
    pub max_result_bytes: Option<u64>,
}

impl TaskCall {
    /// Rules for everything that the task brings.
    pub fn answer_rules(&self) -> AnswerRules {
        AnswerRules::new(self.redact.clone(), self.max_result_bytes)
    }
}

/// What filters read.
#[derive(Debug)]
pub struct Call<'a> {
    /// The request it came with.
    pub arrival: &'a Arrival,
    /// The message itself.
    pub message: &'a Message,
    /// Where it goes.
    pub target: &'a Target,
    /// What was decided of it, where filters are asked to admit it.
    pub decision_record: Option<&'a DecisionRecord>,
}

impl<'a> Call<'a> {
    /// A message of which nothing was decided yet.
    pub fn new(arrival: &'a Arrival, message: &'a Message, target: &'a Target) -> Call<'a> {
        Call { arrival, message, target, decision_record: None }
    }

    /// The price of the call, in millionths of the author's currency: what the policy says, else the price of the tool.
    pub fn cost_micros(&self) -> u64 {
        let decided = self.decision_record.and_then(|decision_record| decision_record.cost_micros);
        decided.or_else(|| self.target.tool()?.facts.cost_micros).unwrap_or_default()
    }
}

/// What filters write. Empty means: as it is.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Changes to the body, applied before the next filter judges.
    pub edits: Vec<Edit>,
    /// What was decided of the message.
    pub decision_record: Option<Arc<DecisionRecord>>,
    /// Inspectors of what servers say to it.
    pub inspectors: Vec<Arc<dyn Inspector>>,
}

/// What is done with the answer to a message before its sender gets it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerRules {
    obligations: Option<Arc<Obligations>>,
}

impl AnswerRules {
    /// The rules that follow from what a policy asks for.
    pub fn of(obligations: &Arc<Obligations>) -> AnswerRules {
        let reads = !obligations.redact.is_empty() || obligations.max_result_bytes.is_some();
        AnswerRules { obligations: reads.then(|| Arc::clone(obligations)) }
    }

    /// The rules that blank these places and allow so many bytes.
    pub fn new(redact: Vec<Place>, max_result_bytes: Option<u64>) -> AnswerRules {
        AnswerRules::of(&Arc::new(Obligations { redact, max_result_bytes, ..Obligations::default() }))
    }

    /// The rules that ask for what both ask for.
    #[must_use]
    pub fn and(self, other: &AnswerRules) -> AnswerRules {
        if other.is_empty() || self == *other {
            return self;
        }
        if self.is_empty() {
            return other.clone();
        }
        let mut redact = self.redact().to_vec();
        redact.extend(other.redact().iter().filter(|place| !self.redact().contains(place)).cloned());
        let most = [self.max_result_bytes(), other.max_result_bytes()];
        AnswerRules::new(redact, most.into_iter().flatten().min())
    }

    /// The inspector that holds texts to them; `None` if there are none.
    pub(crate) fn into_inspector(self) -> Option<Arc<dyn Inspector>> {
        (!self.is_empty()).then(|| Arc::new(self) as Arc<dyn Inspector>)
    }

    /// Whether the answer passes as it is, unread.
    pub fn is_empty(&self) -> bool {
        self.obligations.is_none()
    }

    /// Places of the result that are blanked.
    pub fn redact(&self) -> &[Place] {
        self.obligations.as_ref().map_or(&[], |obligations| &obligations.redact)
    }

    /// Bytes that the result may have.
    pub fn max_result_bytes(&self) -> Option<u64> {
        self.obligations.as_ref()?.max_result_bytes
    }
}

/// A replacement of one span of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The filter that wants it, for the log.
    pub owner: &'static str,
    /// What is replaced.
    pub span: Span,
    /// What stands there afterwards.
    pub with: Bytes,
}

/// Two edits overlap, or one lies outside of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The filters.
    pub owners: [&'static str; 2],
}

/// Splices `edits` into `body`; everything between them keeps its bytes.
///
/// # Errors
/// [`Conflict`] if two edits overlap or one lies outside of the body: nothing is guessed.
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Result<Bytes, Conflict> {
    if edits.is_empty() {
        return Ok(body.clone());
    }
    edits.sort_by_key(|edit| edit.span.start);
    let mut out = BytesMut::with_capacity(body.len());
    let mut at = 0usize;
    let mut last = "body";
    for edit in &edits {
        let (start, end) = (edit.span.start as usize, edit.span.end as usize);
        if start < at || end < start || end > body.len() {
            return Err(Conflict { owners: [last, edit.owner] });
        }
        out.extend_from_slice(&body[at..start]);
        out.extend_from_slice(&edit.with);
        at = end;
        last = edit.owner;
    }
    out.extend_from_slice(&body[at..]);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(start: u32, end: u32, with: &'static str) -> Edit {
        Edit { owner: "test", span: Span { start, end }, with: Bytes::from_static(with.as_bytes()) }
    }

    #[test]
    fn edits_change_their_spans_and_nothing_else() {
        let body = Bytes::from_static(b"0123456789");
        let conflict = Err(Conflict { owners: ["test", "test"] });
        let cases: &[(&str, Vec<Edit>, Result<&str, Conflict>)] = &[
            ("none", vec![], Ok("0123456789")),
            ("out of order", vec![edit(8, 9, "x"), edit(0, 2, "ab")], Ok("ab234567x9")),
            ("insertion", vec![edit(5, 5, "-")], Ok("01234-56789")),
            ("touching", vec![edit(0, 5, "a"), edit(5, 10, "b")], Ok("ab")),
            ("overlapping", vec![edit(0, 5, "a"), edit(4, 6, "b")], conflict),
            ("outside", vec![edit(9, 11, "a")], Err(Conflict { owners: ["body", "test"] })),
        ];
        for (name, edits, expected) in cases {
            let expected = expected.clone().map(|text| Bytes::from_static(text.as_bytes()));
            assert_eq!(splice(&body, edits.clone()), expected, "{name}");
        }
    }
}
