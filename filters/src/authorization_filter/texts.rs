//! Blanks places in errors, notifications and questions of servers.
//!
//! They may tell the same as the result of their call, so the same places are blanked in them. A place is one of the
//! object that a text is about, or of its `data`; where words stand (`message`, `systemPrompt`, `statusMessage`, or `data`
//! that is a string) they are read as the texts of a result are: JSON in them is blanked at the same places, anything
//! else as a whole.

use super::answer::{all, below_structured, each_member, is_own, redacted, told};
use crate::authorize::Place;
use crate::mcp::Fault;
use crate::mcp::object::{StrictObject, elements};
use crate::released::Channel;

/// Members that may tell in words what data tells.
const WORDS: [&str; 4] = ["message", "systemPrompt", "statusMessage", "data"];

/// Members of an error, of parameters of a notification or of a question that the protocol needs as they are.
const KEPT: [&str; 8] =
    ["code", "elicitationId", "level", "mode", "progress", "progressToken", "total", "url"];

/// A text with these places blanked; `None` on a channel that has a reading of its own, as results have.
pub(super) fn blanked(channel: Channel, text: &str, places: &[Place]) -> Result<Option<String>, Fault> {
    Ok(match channel {
        Channel::Error => Some(error(text, places)?),
        Channel::Question => Some(object(text, places)?),
        Channel::CallNotification | Channel::StreamNotification => Some(with_params_blanked(text, places)?),
        Channel::Result
        | Channel::List
        | Channel::ServerInfo
        | Channel::Challenge
        | Channel::AuthorizationMetadata
        | Channel::Raw
        | Channel::Own => None,
    })
}

/// A result in which what it asks of the client is blanked; `None` if it asks nothing.
pub(super) fn asking(result: &str, places: &[Place]) -> Result<Option<String>, Fault> {
    let result = StrictObject::read(result)?;
    let Some(requests) = result.get("inputRequests")?.filter(|requests| requests.starts_with('{')) else {
        return Ok(None);
    };
    let requests = StrictObject::read(requests)?.into_object();
    let blanked = each_member(&requests, |request| match request.starts_with('{') {
        true => with_params_blanked(request, places),
        false => Ok(request.to_owned()),
    })?;
    Ok(Some(result.as_object().rewrite().set("inputRequests", blanked).text()))
}

/// An error in which what it asks of the client (2025-11-25 client/elicitation) is blanked as a question.
fn error(text: &str, places: &[Place]) -> Result<String, Fault> {
    let text = object(text, places)?;
    let error = StrictObject::read(&text)?;
    let Some(data) = error.get("data")?.filter(|data| data.starts_with('{')) else { return Ok(text) };
    let data = StrictObject::read(data)?;
    let Some(asked) = data.get("elicitations")?.filter(|asked| asked.starts_with('[')) else {
        return Ok(text);
    };
    let blanked = elements(asked)?.into_iter().map(|params| match params.starts_with('{') {
        true => object(params, places),
        false => Ok(params.to_owned()),
    });
    let blanked: Vec<String> = blanked.collect::<Result<_, Fault>>()?;
    let data = data.as_object().rewrite().set("elicitations", format!("[{}]", blanked.join(","))).text();
    Ok(error.as_object().rewrite().set("data", data).text())
}

/// A message with the places of its parameters blanked.
fn with_params_blanked(message: &str, places: &[Place]) -> Result<String, Fault> {
    let message = StrictObject::read(message)?;
    let params = message.get("params")?.filter(|params| params.starts_with('{'));
    let params = params.map(|params| object(params, places)).transpose()?;
    Ok(message.as_object().rewrite().set_some("params", params).text())
}

fn object(text: &str, places: &[Place]) -> Result<String, Fault> {
    let steps: Vec<&[String]> = places.iter().map(|place| place.0.as_slice()).collect();
    let data = steps.iter().copied().filter(|steps| !is_own(steps)).map(below_structured);
    let data: Vec<&[String]> = data.collect();
    // Messages and content in it are read as those of a result.
    let blanked = redacted(&all(&all(text, &steps)?, &data)?, places)?;
    let before = StrictObject::read(text)?.into_object();
    let kept = StrictObject::read(&blanked)?.into_object();
    let kept = KEPT.iter().fold(kept.rewrite(), |kept, key| kept.set_some(*key, before.get(key)));
    let text = kept.text();
    if data.is_empty() {
        return Ok(text);
    }
    let object = StrictObject::read(&text)?;
    let mut changed = object.as_object().rewrite();
    for key in WORDS {
        if let Some(value) = object.get(key)? {
            let value = match value.as_bytes().first() {
                Some(b'"') => told(object.as_object().text(key).as_deref(), value, &data)?,
                _ => all(value, &data)?,
            };
            changed = changed.set(key, value);
        }
    }
    Ok(changed.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(channel: Channel, text: &str, places: &[&str]) -> Result<String, Fault> {
        let places: Vec<Place> = places.iter().map(|place| Place::parse(place).unwrap()).collect();
        blanked(channel, text, &places).map(Option::unwrap)
    }

    #[test]
    fn data_and_words_are_blanked_on_every_channel() {
        let error = Channel::Error;
        let (note, question) = (Channel::CallNotification, Channel::Question);
        let table = [
            (error, r#"{"code":-1,"message":"salary: 7"}"#, r#"{"code":-1,"message":"[redacted]"}"#),
            (
                error,
                r#"{"code":-1,"message":"{\"salary\":7}","data":{"salary":7,"a":1}}"#,
                r#"{"code":-1,"message":"{\"salary\":0}","data":{"salary":0,"a":1}}"#,
            ),
            (error, r#"{"code":-1,"data":"salary: 7"}"#, r#"{"code":-1,"data":"[redacted]"}"#),
            (error, r#"{"code":-1,"data":[{"salary":7}]}"#, r#"{"code":-1,"data":[{"salary":0}]}"#),
            (
                error,
                r#"{"code":-32042,"data":{"elicitations":[{"elicitationId":"7","url":"u","message":"7"},7]}}"#,
                r#"{"code":-32042,"data":{"elicitations":[{"elicitationId":"7","url":"u","message":"[redacted]"},7]}}"#,
            ),
            (
                note,
                r#"{"method":"notifications/message","params":{"level":"info","data":{"salary":7}}}"#,
                r#"{"method":"notifications/message","params":{"level":"info","data":{"salary":0}}}"#,
            ),
            (
                note,
                r#"{"method":"notifications/progress","params":{"progress":1,"message":"7 it is"}}"#,
                r#"{"method":"notifications/progress","params":{"progress":1,"message":"[redacted]"}}"#,
            ),
            (
                note,
                r#"{"method":"x/y","params":{"salary":7,"b":1}}"#,
                r#"{"method":"x/y","params":{"salary":0,"b":1}}"#,
            ),
            (note, r#"{"method":"x/y"}"#, r#"{"method":"x/y"}"#),
            (
                Channel::StreamNotification,
                r#"{"method":"notifications/message","params":{"data":"salary: 7"}}"#,
                r#"{"method":"notifications/message","params":{"data":"[redacted]"}}"#,
            ),
            (question, r#"{"mode":"form","message":"7?"}"#, r#"{"mode":"form","message":"[redacted]"}"#),
            (
                question,
                r#"{"messages":[{"role":"user","content":{"type":"text","text":"7"}}],"systemPrompt":"7"}"#,
                r#"{"messages":[{"role":"user","content":{"type":"text","text":"[redacted]"}}],"systemPrompt":"[redacted]"}"#,
            ),
        ];
        for (channel, text, expected) in table {
            let places = ["/salary", "/*/salary"];
            assert_eq!(blank(channel, text, &places).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn places_of_structured_content_are_blanked_in_data_and_words() {
        let table = [
            (
                Channel::Error,
                r#"{"code":-1,"message":"{\"salary\":7}","data":{"salary":7}}"#,
                r#"{"code":-1,"message":"{\"salary\":0}","data":{"salary":0}}"#,
            ),
            (
                Channel::CallNotification,
                r#"{"method":"notifications/message","params":{"data":{"salary":7}}}"#,
                r#"{"method":"notifications/message","params":{"data":{"salary":0}}}"#,
            ),
            (
                Channel::Question,
                r#"{"message":"{\"salary\":7}","salary":7}"#,
                r#"{"message":"{\"salary\":0}","salary":0}"#,
            ),
        ];
        for (channel, text, expected) in table {
            assert_eq!(blank(channel, text, &["/structuredContent/salary"]).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn members_that_the_protocol_needs_are_kept() {
        let note =
            r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":2,"salary":7}}"#;
        let expected =
            r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":2,"salary":0}}"#;
        assert_eq!(blank(Channel::CallNotification, note, &["/*"]).unwrap(), expected);
        let error = r#"{"code":-1,"message":"{}"}"#;
        assert_eq!(blank(Channel::Error, error, &["code"]).unwrap(), error);
    }

    #[test]
    fn many_members_are_blanked_in_one_pass() {
        let members: Vec<String> = (0..90_000).map(|key| format!("\"{key}\":{{\"salary\":7}}")).collect();
        let text = format!("{{{}}}", members.join(","));
        let blank = blank(Channel::Question, &text, &["/*/salary"]).unwrap();
        assert_eq!(blank.matches("{\"salary\":0}").count(), 90_000);
    }

    #[test]
    fn places_of_the_message_itself_are_blanked_and_leave_the_words() {
        let error = r#"{"code":-1,"message":"a","_meta":{"k":"secret"}}"#;
        let expected = r#"{"code":-1,"message":"a","_meta":{"k":"[redacted]"}}"#;
        assert_eq!(blank(Channel::Error, error, &["/_meta/k"]).unwrap(), expected);
    }

    #[test]
    fn what_readers_could_take_in_two_ways_is_refused() {
        for text in [
            r#"{"code":-1,"message":"a","message":"salary"}"#,
            r#"{"code":-1,"Message":"salary"}"#,
            r#"{"code":-1,"data":{"Salary":7}}"#,
            r#"{"code":-1,"salary":7,"SALARY":7}"#,
        ] {
            assert!(blank(Channel::Error, text, &["salary"]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_result_asks_is_blanked_as_a_question_is() {
        let asks = r#"{"inputRequests":{"q":{"method":"elicitation/create","params":{"message":"7?"}},"r":{"method":"roots/list"}}}"#;
        let blank = r#"{"inputRequests":{"q":{"method":"elicitation/create","params":{"message":"[redacted]"}},"r":{"method":"roots/list"}}}"#;
        let places = [Place::parse("salary").unwrap()];
        assert_eq!(asking(asks, &places).unwrap().unwrap(), blank);
        assert_eq!(asking(r#"{"content":[]}"#, &places), Ok(None));
    }

    #[test]
    fn results_are_read_elsewhere() {
        assert_eq!(blanked(Channel::Result, "{}", &[]), Ok(None));
    }
}
