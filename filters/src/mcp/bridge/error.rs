//! Errors of upstreams in the words of the client's era.
//!
//! Codes from -32020 on mean something only since 2026-07-28, -32002 and -32042 only before; all
//! others are said alike.

use super::meta::Members;
use super::profile::{Ability, Profile};
use super::question::{Question, bounded};
use crate::mcp::Fault;
use crate::mcp::object::{Object, StrictObject, elements};
use std::borrow::Cow;

const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL: i64 = -32603;
/// Before 2026-07-28: no such resource.
const RESOURCE_NOT_FOUND: i64 = -32002;
const HEADER_MISMATCH: i64 = -32020;
const MISSING_CAPABILITY: i64 = -32021;
const UNSUPPORTED_VERSION: i64 = -32022;
/// 2025-11-25: the user has to visit a URL first.
const URL_ELICITATION: i64 = -32042;

/// The error of an answer.
#[derive(Clone, Copy, Debug)]
pub struct RpcError<'a> {
    /// Its code.
    pub code: i64,
    /// Its message, a JSON string; `""` where there is none.
    pub message: &'a str,
    /// Its data, as JSON text.
    pub data: Option<&'a str>,
    /// All of it, a JSON object.
    pub whole: &'a str,
}

/// An error as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorAnswer<'a> {
    /// Its code.
    pub code: i64,
    /// Status of the HTTP answer, if nothing of it was sent before.
    pub status: u16,
    /// All of it, a JSON object, see [`super::wrap_error_text`].
    pub error: Cow<'a, str>,
}

/// What a modern client gets for a legacy server's error.
#[derive(Clone, Debug)]
pub enum ForModern<'a> {
    /// An error.
    Error(ErrorAnswer<'a>),
    /// Questions; once they are answered the same request is sent to the server again.
    Ask(Vec<Question>),
}

impl<'a> RpcError<'a> {
    /// Reads an error that was taken apart.
    ///
    /// # Errors
    /// [`Fault::Shape`] if it has no integer for a code.
    pub fn of(whole: &'a str, error: &Object<'a>) -> Result<RpcError<'a>, Fault> {
        let code = error.get("code").and_then(|code| code.parse().ok());
        Ok(RpcError {
            code: code.ok_or(Fault::Shape("the `code` of an error must be an integer"))?,
            message: error.get("message").filter(|text| text.starts_with('"')).unwrap_or("\"\""),
            data: error.get("data"),
            whole,
        })
    }

    fn with_status(&self, status: u16) -> ErrorAnswer<'a> {
        ErrorAnswer { code: self.code, status, error: Cow::Borrowed(self.whole) }
    }

    /// The same error under another code; all else keeps its bytes.
    fn as_code(&self, code: i64, status: u16) -> Result<ErrorAnswer<'a>, Fault> {
        let error = Object::read(self.whole)?.rewrite().set("code", code.to_string()).text();
        Ok(ErrorAnswer { code, status, error: Cow::Owned(error) })
    }
}

/// The HTTP status that goes with an error to a modern client (2026-07-28 streamable HTTP).
pub fn status_for_modern(code: i64) -> u16 {
    match code {
        METHOD_NOT_FOUND => 404,
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => 400,
        _ => 200,
    }
}

/// A legacy server's error for a modern client.
///
/// # Errors
/// As [`Object::read`].
pub fn error_for_modern<'a>(error: &RpcError<'a>, profile: &Profile) -> Result<ForModern<'a>, Fault> {
    Ok(match error.code {
        RESOURCE_NOT_FOUND => {
            ForModern::Error(error.as_code(INVALID_PARAMS, status_for_modern(INVALID_PARAMS))?)
        }
        URL_ELICITATION => match visits(error)? {
            questions if questions.is_empty() => ForModern::Error(error.as_code(INTERNAL, 200)?),
            questions if profile.can(Ability::ElicitUrl) => ForModern::Ask(questions),
            _ => ForModern::Error(incapable(error, Ability::ElicitUrl)?),
        },
        // What the client would have to declare, a server that speaks both eras may say in either.
        MISSING_CAPABILITY => ForModern::Error(error.with_status(status_for_modern(MISSING_CAPABILITY))),
        // An older server cannot mean what these say, and a modern client would believe it.
        -32099..=HEADER_MISMATCH => ForModern::Error(error.as_code(INTERNAL, 200)?),
        code => ForModern::Error(error.with_status(status_for_modern(code))),
    })
}

/// A modern server's error for a legacy client, which must get HTTP 200 whatever it is.
///
/// # Errors
/// As [`Object::read`].
pub fn error_for_legacy<'a>(error: &RpcError<'a>, method: &str) -> Result<ErrorAnswer<'a>, Fault> {
    match error.code {
        INVALID_PARAMS if method == "resources/read" && names_a_resource(error) => {
            error.as_code(RESOURCE_NOT_FOUND, 200)
        }
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => error.as_code(INTERNAL, 200),
        _ => Ok(error.with_status(200)),
    }
}

fn names_a_resource(error: &RpcError<'_>) -> bool {
    error.data.is_some_and(|data| Object::read(data).is_ok_and(|data| data.text("uri").is_some()))
}

/// Parameters of the elicitations that an error asks for: URLs that the user is to visit (2025-11-25
/// client/elicitation, "URL Elicitation Required Error"). None for an error of any other code. Clients visit each of them,
/// so each has the mode `url`, whatever its server wrote.
///
/// # Errors
/// [`Fault::Shape`] if readers could take it in two ways; [`Fault::Bound`] above 64; else as [`Object::read`].
pub fn elicitations_of(error: &str) -> Result<Vec<String>, Fault> {
    let error = StrictObject::read(error)?;
    if error.get("code")?.and_then(|code| code.parse().ok()) != Some(URL_ELICITATION) {
        return Ok(Vec::new());
    }
    let Some(data) = error.get("data")?.filter(|data| data.starts_with('{')) else { return Ok(Vec::new()) };
    let Some(listed) = StrictObject::read(data)?.get("elicitations")? else { return Ok(Vec::new()) };
    let asked = elements(listed)?;
    bounded(asked.len())?;
    let visit = |params| {
        let params = StrictObject::read(params)?;
        params.get("mode")?;
        params.get("url")?;
        Ok(params.as_object().rewrite().set("mode", "\"url\"").text())
    };
    asked.into_iter().map(visit).collect()
}

/// The questions of a -32042: URLs that the user is to visit.
fn visits(error: &RpcError<'_>) -> Result<Vec<Question>, Fault> {
    let Some(data) = error.data.filter(|data| data.starts_with('{')) else { return Ok(Vec::new()) };
    let Some(listed) = Object::read(data)?.get("elicitations") else { return Ok(Vec::new()) };
    let visits = elements(listed)?;
    bounded(visits.len())?;
    let question = |(index, params)| Question::of_legacy(&format!("e{index}"), "elicitation/create", params);
    visits.into_iter().enumerate().map(question).collect()
}

/// -32021 in place of an error that only an able client can do something about.
fn incapable<'a>(error: &RpcError<'a>, ability: Ability) -> Result<ErrorAnswer<'a>, Fault> {
    let data = Members::new().with("requiredCapabilities", ability.required()).text();
    let text = Object::read(error.whole)?
        .rewrite()
        .set("code", MISSING_CAPABILITY.to_string())
        .set("data", data)
        .text();
    Ok(ErrorAnswer { code: MISSING_CAPABILITY, status: 400, error: Cow::Owned(text) })
}

#[cfg(test)]
mod tests {
    use super::super::question::MAX_QUESTIONS;
    use super::super::{Answer, answer};
    use super::*;

    fn error(text: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"error":{text}}}"#)
    }

    fn profile(capabilities: &str) -> Profile {
        let meta = format!(r#"{{"io.modelcontextprotocol/clientCapabilities":{capabilities}}}"#);
        Profile::of_envelope(&Object::read(&meta).unwrap()).unwrap()
    }

    fn for_modern(text: &str, capabilities: &str) -> Result<(i64, u16, String), Vec<Question>> {
        let message = error(text);
        let Ok(Answer::Error(error)) = answer(&message) else { panic!("{text}") };
        match error_for_modern(&error, &profile(capabilities)).unwrap() {
            ForModern::Error(answer) => Ok((answer.code, answer.status, answer.error.into_owned())),
            ForModern::Ask(questions) => Err(questions),
        }
    }

    #[test]
    fn a_modern_client_gets_codes_that_its_revision_knows() {
        for (text, code, status) in [
            (r#"{"code":-32602,"message":"m"}"#, -32602, 200),
            (r#"{"code":-32601,"message":"m"}"#, -32601, 404),
            (r#"{"code":-32002,"message":"m","data":{"uri" : "a"}}"#, -32602, 200),
            (r#"{"code":-32001,"message":"m"}"#, -32001, 200),
            (r#"{"code":4031,"message":"m","vendor":1.0}"#, 4031, 200),
            (r#"{"code":-32020,"message":"m"}"#, -32603, 200),
            (r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{}}}"#, -32021, 400),
            (r#"{"code":-32022,"message":"m"}"#, -32603, 200),
            (r#"{"code":-32099,"message":"m"}"#, -32603, 200),
            (r#"{"code":-32100,"message":"m"}"#, -32100, 200),
            (r#"{"code":-32042,"message":"m","data":{"elicitations":[]}}"#, -32603, 200),
            (r#"{"code":-32042,"message":"m","data":"x"}"#, -32603, 200),
        ] {
            let (_, rest) = text.split_once(',').unwrap();
            let expected = format!("{{\"code\":{code},{rest}");
            assert_eq!(for_modern(text, "{}"), Ok((code, status, expected)), "{text}");
        }
        for (code, status) in [(-32601, 404), (-32020, 400), (-32021, 400), (-32022, 400), (-32602, 200)] {
            assert_eq!(status_for_modern(code), status, "{code}");
        }
    }

    #[test]
    fn a_url_to_visit_first_becomes_a_question_if_the_client_can_visit() {
        let text = r#"{"code":-32042,"message":"visit","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://a","message" : "?"}]}}"#;
        let questions = for_modern(text, r#"{"elicitation":{"url":{}}}"#).unwrap_err();
        assert_eq!(questions.len(), 1);
        assert_eq!((&*questions[0].key, &*questions[0].method), ("e0", "elicitation/create"));
        assert_eq!(&*questions[0].params, r#"{"mode":"url","url":"https://a","message" : "?"}"#);
        assert_eq!(questions[0].ability(), Ability::ElicitUrl);
        let refused = (
            -32021,
            400,
            r#"{"code":-32021,"message":"visit","data":{"requiredCapabilities":{"elicitation":{"url":{}}}}}"#
                .to_owned(),
        );
        assert_eq!(for_modern(text, r#"{"elicitation":{}}"#), Ok(refused));
        let many = vec!["{}"; MAX_QUESTIONS + 1].join(",");
        let message = error(&format!(r#"{{"code":-32042,"data":{{"elicitations":[{many}]}}}}"#));
        let Ok(Answer::Error(error)) = answer(&message) else { panic!("an error") };
        assert!(matches!(error_for_modern(&error, &profile("{}")), Err(Fault::Bound { .. })));
    }

    #[test]
    fn a_legacy_client_gets_codes_that_its_revision_knows_and_never_a_status() {
        for (method, text, code) in [
            ("resources/read", r#"{"code":-32602,"message":"m","data":{"uri" : "a"}}"#, -32002),
            ("resources/read", r#"{"code":-32602,"message":"m"}"#, -32602),
            ("resources/read", r#"{"code":-32602,"message":"m","data":[1]}"#, -32602),
            ("tools/call", r#"{"code":-32602,"message":"m","data":{"uri":"a"}}"#, -32602),
            ("tools/call", r#"{"code":-32601,"message":"m"}"#, -32601),
            ("tools/call", r#"{"code":-32020,"message":"m"}"#, -32603),
            ("tools/call", r#"{"code":-32021,"message":"m"}"#, -32603),
            ("tools/call", r#"{"code":-32022,"message":"m"}"#, -32603),
            ("tools/call", r#"{"code":4031,"message":"m","vendor":1.0}"#, 4031),
        ] {
            let (_, rest) = text.split_once(',').unwrap();
            let message = error(text);
            let Ok(Answer::Error(error)) = answer(&message) else { panic!("{text}") };
            let answer = error_for_legacy(&error, method).unwrap();
            let expected = format!("{{\"code\":{code},{rest}");
            assert_eq!((answer.code, answer.status, &*answer.error), (code, 200, &*expected), "{text}");
        }
    }

    #[test]
    fn urls_to_visit_are_found_or_the_error_is_refused() {
        let asks = r#"{"code":-32042,"data":{"elicitations":[{"url":"a"},{}]}}"#;
        assert_eq!(elicitations_of(asks).unwrap(), [r#"{"url":"a","mode":"url"}"#, r#"{"mode":"url"}"#]);
        let form = asks.replace("{}", r#"{"mode":"form","url":"b"}"#);
        assert_eq!(elicitations_of(&form).unwrap()[1], r#"{"mode":"url","url":"b"}"#);
        for other in [
            asks.replace("-32042", "-32041"),
            r#"{"code":-32042}"#.to_owned(),
            r#"{"code":-32042,"data":"u"}"#.to_owned(),
            r#"{"code":-32042,"data":{}}"#.to_owned(),
        ] {
            assert_eq!(elicitations_of(&other), Ok(Vec::new()), "{other}");
        }
        let many = vec!["{}"; MAX_QUESTIONS + 1].join(",");
        for unclear in [
            asks.replace("elicitations", "Elicitations"),
            asks.replace("\"data\"", "\"Data\""),
            asks.replace("\"code\"", "\"Code\""),
            asks.replace("\"code\"", "\"code\":1,\"code\""),
            asks.replace("{}", &many),
            asks.replace("{}", "7"),
            asks.replace("{}", r#"{"Mode":"url"}"#),
            asks.replace("{}", r#"{"url":"a","URL":"b"}"#),
            asks.replace("[{\"url\":\"a\"},{}]", "{}"),
        ] {
            assert!(elicitations_of(&unclear).is_err(), "{unclear}");
        }
    }
}
