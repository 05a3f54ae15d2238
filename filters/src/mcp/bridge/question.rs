//! What servers ask of clients: requests on a stream before 2026-07-28, `input_required` since.

use super::answer::{ResultType, result_type};
use super::meta::{Members, is_reserved};
use super::profile::Ability;
use super::request::message;
use crate::mcp::Fault;
use crate::mcp::object::{Object, unquoted};
use crate::mcp::rewrite::string;
use std::borrow::Cow;
use std::sync::Arc;

/// Questions of one round, and answers of one retry.
pub(super) const MAX_QUESTIONS: usize = 64;

/// Bytes of an id by which a server tells that its URL was visited; a question with a longer one is given another.
const MAX_ELICITATION_ID_BYTES: usize = 4 << 10;

/// Bytes of an upstream's state, which is kept or sealed while the client thinks.
const MAX_STATE_BYTES: usize = 256 * 1024;

/// A server's question to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What its answer is found by: the server's key since 2026-07-28, one of the asker's before.
    pub key: Arc<str>,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: Arc<str>,
    /// Its parameters as 2026-07-28 writes them, a JSON object.
    pub params: Arc<str>,
    /// The id by which a legacy server will tell that its URL was visited, a JSON string.
    pub elicitation_id: Option<Arc<str>>,
}

impl Question {
    /// A question in the parameters of a legacy server; what only its own revision knows is left out.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub(super) fn of_legacy(key: &str, method: &str, params: &str) -> Result<Question, Fault> {
        let params = Object::read(params)?;
        let elicitation_id = elicitation_id(&params);
        let kept = Members::of(Some(&params), |key| !matches!(key, "elicitationId" | "task" | "_meta"));
        let kept = kept.with_some("_meta", foreign_meta(&params)?.as_deref());
        Ok(Question { key: key.into(), method: method.into(), params: kept.text().into(), elicitation_id })
    }

    /// Its parameters with the id by which its server will tell that its URL was visited, as inspectors read them.
    pub fn params_with_id(&self) -> Cow<'_, str> {
        match (&self.elicitation_id, Object::read(&self.params)) {
            (Some(id), Ok(params)) => {
                Cow::Owned(params.rewrite().set_some("elicitationId", Some(&**id)).text())
            }
            _ => Cow::Borrowed(&self.params),
        }
    }

    /// The same question with what inspectors made of [`Question::params_with_id`].
    ///
    /// # Errors
    /// As [`Object::read`].
    pub fn with_inspected(self, params: &str) -> Result<Question, Fault> {
        if self.elicitation_id.is_none() {
            return Ok(Question { params: params.into(), ..self });
        }
        let read = Object::read(params)?;
        let elicitation_id = elicitation_id(&read);
        Ok(Question { params: read.rewrite().remove("elicitationId").text().into(), elicitation_id, ..self })
    }

    /// What a client must be able to do to answer it.
    pub fn ability(&self) -> Ability {
        match &*self.method {
            "roots/list" => Ability::Roots,
            "sampling/createMessage" if self.says(uses_tools) => Ability::SampleTools,
            "sampling/createMessage" => Ability::Sample,
            _ if self.visits_a_url() => Ability::ElicitUrl,
            _ => Ability::Elicit,
        }
    }

    fn visits_a_url(&self) -> bool {
        &*self.method == "elicitation/create"
            && self.says(|params| params.text("mode").as_deref() == Some("url"))
    }

    fn says(&self, something: impl Fn(&Object<'_>) -> bool) -> bool {
        Object::read(&self.params).is_ok_and(|params| something(&params))
    }
}

fn elicitation_id(params: &Object<'_>) -> Option<Arc<str>> {
    let id = params.get("elicitationId")?;
    (id.starts_with('"') && id.len() <= MAX_ELICITATION_ID_BYTES).then(|| id.into())
}

/// What of a question's `_meta` belongs to no era. Progress of an answer cannot be told in both.
fn foreign_meta(params: &Object<'_>) -> Result<Option<String>, Fault> {
    let meta = params.object("_meta")?;
    let kept = Members::of(meta.as_ref(), |key| !is_reserved(key) && key != "progressToken");
    Ok((!kept.is_empty()).then(|| kept.text()))
}

fn uses_tools(params: &Object<'_>) -> bool {
    ["tools", "toolChoice"].iter().any(|key| params.get(key).is_some_and(|text| text != "null"))
}

fn is_question(method: &str) -> bool {
    matches!(method, "elicitation/create" | "sampling/createMessage" | "roots/list")
}

/// The questions of a modern server's `input_required` result, and its state, a JSON string that
/// goes back as it is.
///
/// # Errors
/// [`Fault::Shape`] if it asks nothing, or something that 2026-07-28 does not know
/// (patterns/mrtr); [`Fault::Bound`] above 64 questions or 256 KiB of state; else as
/// [`Object::read`].
pub fn questions_of(result: &str) -> Result<(Vec<Question>, Option<String>), Fault> {
    let result = Object::read(result)?;
    if result_type(&result)? != ResultType::InputRequired {
        return Err(Fault::Shape("the result asks for no input"));
    }
    let questions = match result.get("inputRequests") {
        None | Some("null") => Vec::new(),
        Some(_) => {
            let asked =
                result.object("inputRequests")?.ok_or(Fault::Shape("`inputRequests` must be an object"))?;
            bounded(asked.members().len())?;
            asked.members().map(|(key, text)| question(key, text)).collect::<Result<_, _>>()?
        }
    };
    let state = state_text(&result)?;
    if questions.is_empty() && state.is_none() {
        return Err(Fault::Shape("a result that asks for input must have `inputRequests` or `requestState`"));
    }
    Ok((questions, state.map(str::to_owned)))
}

fn question(key: &str, text: &str) -> Result<Question, Fault> {
    const UNKNOWN: Fault = Fault::Shape("a question must be an elicitation, a sampling, or ask for roots");
    let request = Object::read(text)?;
    let method = request.text("method").filter(|method| is_question(method)).ok_or(UNKNOWN)?;
    let params = match request.get("params") {
        None | Some("null") if method == "roots/list" => "{}",
        Some(params) if params.starts_with('{') => params,
        _ => return Err(Fault::Shape("the parameters of a question must be an object")),
    };
    // A gateway reads them to judge what is asked.
    Object::read(params)?;
    Ok(Question {
        key: key.into(),
        method: method.as_ref().into(),
        params: params.into(),
        elicitation_id: None,
    })
}

/// Refuses more questions at once than are answered.
///
/// # Errors
/// [`Fault::Bound`] above 64.
pub fn bounded(count: usize) -> Result<(), Fault> {
    if count > MAX_QUESTIONS {
        return Err(Fault::Bound { what: "the number of questions at once", limit: MAX_QUESTIONS });
    }
    Ok(())
}

fn state_text<'a>(object: &Object<'a>) -> Result<Option<&'a str>, Fault> {
    match object.get("requestState") {
        None | Some("null") => Ok(None),
        Some(state) if state.len() > MAX_STATE_BYTES => {
            Err(Fault::Bound { what: "the length of `requestState` in bytes", limit: MAX_STATE_BYTES })
        }
        Some(state) if state.starts_with('"') => Ok(Some(state)),
        Some(_) => Err(Fault::Shape("`requestState` must be a string")),
    }
}

/// The result by which questions go to a modern client; `request_state` is the text to get back.
pub fn input_required<'q>(questions: impl IntoIterator<Item = &'q Question>, request_state: &str) -> String {
    let asked = questions.into_iter().fold(Members::new(), |asked, question| {
        let request =
            Members::new().with_string("method", &question.method).with("params", &question.params).text();
        asked.with(&question.key, &request)
    });
    Members::new()
        .with("resultType", "\"input_required\"")
        .with("inputRequests", &asked.text())
        .with_string("requestState", request_state)
        .text()
}

/// What a modern client's retry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputResponses {
    /// Answers by the keys of their questions, JSON objects.
    pub responses: Vec<(Arc<str>, String)>,
    /// The state that came with the questions, without its quotes.
    pub request_state: Option<String>,
}

/// Reads what the parameters of a modern request carry if it is a retry; `None` if it is none.
///
/// # Errors
/// [`Fault::Shape`] if answers or state are not what 2026-07-28 says (patterns/mrtr);
/// [`Fault::Bound`] above 64 answers or 256 KiB of state; else as [`Object::read`].
pub fn input_responses(params: &Object<'_>) -> Result<Option<InputResponses>, Fault> {
    let responses = match params.get("inputResponses") {
        None | Some("null") => None,
        Some(_) => {
            Some(params.object("inputResponses")?.ok_or(Fault::Shape("`inputResponses` must be an object"))?)
        }
    };
    let state = state_text(params)?;
    if responses.is_none() && state.is_none() {
        return Ok(None);
    }
    let responses = responses.unwrap_or_default();
    bounded(responses.members().len())?;
    let responses = responses.members().map(|(key, text)| {
        // Filters read the answers of a person; each must have one reading.
        Object::read(text).map_err(|fault| match fault {
            Fault::Syntax(_) => Fault::Shape("each of `inputResponses` must be an object"),
            fault => fault,
        })?;
        Ok((Arc::from(key), text.to_owned()))
    });
    let state = state.map(|state| unquoted(state).ok_or(Fault::Shape("`requestState` must be a string")));
    Ok(Some(InputResponses {
        responses: responses.collect::<Result<_, Fault>>()?,
        request_state: state.transpose()?.map(|state| state.into_owned()),
    }))
}

/// The request by which a question goes to a legacy client; `id` is JSON text. `elicitation_id` is
/// the plain text that a question with a URL is given for an id, if its server gave it none.
pub fn legacy_question(question: &Question, id: &str, elicitation_id: &str) -> String {
    let Ok(params) = Object::read(&question.params) else {
        return message(&question.method, Some(id), &question.params);
    };
    let meta = foreign_meta(&params).ok().flatten();
    let said = params.rewrite().remove("_meta").set_some("_meta", meta);
    let given = question.elicitation_id.as_deref().map(str::to_owned);
    let elicitation_id = question.visits_a_url().then(|| given.unwrap_or_else(|| string(elicitation_id)));
    message(&question.method, Some(id), &said.set_some("elicitationId", elicitation_id).text())
}

/// What a legacy client answered to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The result, a JSON object: a modern server takes it as one of `inputResponses`.
    Result(String),
    /// The error, a JSON object: a modern server cannot be told of it.
    Error(String),
}

/// Reads a legacy client's answer to a question.
///
/// # Errors
/// As [`super::answer()`].
pub fn legacy_reply(message: &str) -> Result<Reply, Fault> {
    Ok(match super::answer(message)? {
        super::Answer::Result(result) => Reply::Result(result.to_owned()),
        super::Answer::Error(error) => Reply::Error(error.whole.to_owned()),
    })
}

/// The question in a legacy server's request; `None` for one that is no question, such as `ping`.
///
/// # Errors
/// [`Fault::Shape`] if its parameters are no object; else as [`Object::read`].
pub fn question_of_server_request(message: &str, key: &str) -> Result<Option<Question>, Fault> {
    let message = Object::message(message)?;
    let Some(method) = message.text("method").filter(|method| is_question(method)) else { return Ok(None) };
    match message.get("params") {
        None | Some("null") if method == "roots/list" => Question::of_legacy(key, &method, "{}").map(Some),
        Some(params) if params.starts_with('{') => Question::of_legacy(key, &method, params).map(Some),
        _ => Err(Fault::Shape("the parameters of a question must be an object")),
    }
}

#[cfg(test)]
mod tests;
