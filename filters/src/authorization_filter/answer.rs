//! Blanks places in results, and refuses texts that are too long.
//!
//! A place is one of the result if it begins with a member that results have (`content`, `contents`,
//! `messages`, `_meta`), else one of the data in it: of `structuredContent`, and of every text in the
//! result that is JSON, which tells the same again. A text that is no JSON may tell it in words, so
//! that it is blanked as a whole.
//!
//! A member that is there only in another case than a place names it, or in two, is one that some clients
//! read in its place: such an answer is refused.

use crate::authorize::Place;
use crate::call::AnswerRules;
use crate::mcp::Fault;
use crate::mcp::bridge::Members;
use crate::mcp::object::{Object, StrictObject, elements};
use crate::mcp::rewrite::string;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;

/// What stands where a text was.
const BLANK: &str = "\"[redacted]\"";

const STRUCTURED: &str = "structuredContent";

/// Members of a result that hold content, and lists of it.
const CONTENT: [&str; 3] = ["content", "contents", "messages"];

/// A text, if it is not too long for its caller.
///
/// # Errors
/// [`Reason::ResultTooLarge`].
pub(super) fn fitting<'t>(text: Cow<'t, str>, rules: &AnswerRules) -> Result<Cow<'t, str>, Denial> {
    check_length(text.len(), rules)?;
    Ok(text)
}

/// Refuses a text of `length` bytes that is longer than its caller may have.
///
/// # Errors
/// [`Reason::ResultTooLarge`].
pub(super) fn check_length(length: usize, rules: &AnswerRules) -> Result<(), Denial> {
    match rules.max_result_bytes() {
        Some(most) if length as u64 > most => Err(too_large(most)),
        _ => Ok(()),
    }
}

pub(super) fn unreadable() -> Denial {
    Denial::new(Reason::UpstreamMalformed, "the server's answer has parts that cannot be told apart")
}

fn too_large(most: u64) -> Denial {
    let detail = format!("the answer is longer than the {most} bytes that this caller may have");
    Denial::new(Reason::ResultTooLarge, detail).with("maxResultBytes", most.to_string())
}

pub(super) fn redacted(result: &str, places: &[Place]) -> Result<String, Fault> {
    let (own, data): (Vec<_>, Vec<_>) = places.iter().map(|place| place.0.as_slice()).partition(is_own);
    let data: Vec<&[String]> = data.into_iter().map(below_structured).collect();
    let mut text = result.to_owned();
    for steps in own {
        text = blanked(&text, steps)?;
    }
    if data.is_empty() {
        return Ok(text);
    }
    let object = StrictObject::read(&text)?;
    let mut changed = object.as_object().rewrite();
    if let Some(structured) = object.get(STRUCTURED)? {
        changed = changed.set(STRUCTURED, all(structured, &data)?);
    }
    for key in CONTENT {
        if let Some(content) = object.get(key)? {
            changed = changed.set(key, retold(content, &data)?);
        }
    }
    Ok(changed.text())
}

pub(super) fn is_own(steps: &&[String]) -> bool {
    steps.first().is_some_and(|first| first == "_meta" || CONTENT.contains(&first.as_str()))
}

pub(super) fn below_structured(steps: &[String]) -> &[String] {
    match steps.split_first() {
        Some((first, rest)) if first == STRUCTURED => rest,
        _ => steps,
    }
}

pub(super) fn all(text: &str, places: &[&[String]]) -> Result<String, Fault> {
    places.iter().try_fold(text.to_owned(), |text, steps| blanked(&text, steps))
}

/// `text` with what is at a place blanked; as it is where there is nothing.
fn blanked(text: &str, steps: &[String]) -> Result<String, Fault> {
    let Some((step, rest)) = steps.split_first() else { return Ok(blank(text).to_owned()) };
    match text.as_bytes().first() {
        Some(b'{') => {
            let object = StrictObject::read(text)?;
            if step == "*" {
                return each_member(object.as_object(), |value| blanked(value, rest));
            }
            let value = object.get(step)?.map(|value| blanked(value, rest)).transpose()?;
            Ok(object.as_object().rewrite().set_some(step.clone(), value).text())
        }
        Some(b'[') => {
            let is_meant = |index: usize| step == "*" || step.parse() == Ok(index);
            let item = |(index, item): (usize, &str)| match is_meant(index) {
                true => blanked(item, rest),
                false => Ok(item.to_owned()),
            };
            let items: Result<Vec<String>, Fault> =
                elements(text)?.into_iter().enumerate().map(item).collect();
            Ok(format!("[{}]", items?.join(",")))
        }
        _ => Ok(text.to_owned()),
    }
}

/// An object with all its members changed, in one pass: a server chooses how many there are.
pub(super) fn each_member(
    object: &Object<'_>,
    change: impl Fn(&str) -> Result<String, Fault>,
) -> Result<String, Fault> {
    let mut members = Members::new();
    for (key, value) in object.members() {
        members = members.with(key, &change(value)?);
    }
    Ok(members.text())
}

/// A value of the same type that tells nothing: what is declared in a schema still fits.
fn blank(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'{') => "{}",
        Some(b'[') => "[]",
        Some(b'"') => BLANK,
        Some(b't' | b'f') => "false",
        Some(b'n') => "null",
        _ => "0",
    }
}

/// Content, or a list of it, with the data in its texts blanked.
fn retold(content: &str, data: &[&[String]]) -> Result<String, Fault> {
    if content.starts_with('[') {
        let items: Result<Vec<String>, Fault> =
            elements(content)?.into_iter().map(|item| retold(item, data)).collect();
        return Ok(format!("[{}]", items?.join(",")));
    }
    if !content.starts_with('{') {
        return Ok(content.to_owned());
    }
    let object = StrictObject::read(content)?;
    let mut changed = object.as_object().rewrite();
    if let Some(text) = object.get("text")? {
        changed = changed.set("text", told(object.as_object().text("text").as_deref(), text, data)?);
    }
    // A message of a prompt, and a resource within content.
    for key in ["content", "resource"] {
        if let Some(inner) = object.get(key)? {
            changed = changed.set(key, retold(inner, data)?);
        }
    }
    Ok(changed.text())
}

pub(super) fn told(said: Option<&str>, text: &str, data: &[&[String]]) -> Result<String, Fault> {
    let Some(said) = said.map(str::trim) else { return Ok(blank(text).to_owned()) };
    let is_json = match said.as_bytes().first() {
        Some(b'{') => StrictObject::read(said).is_ok(),
        Some(b'[') => elements(said).is_ok(),
        _ => false,
    };
    match is_json {
        true => all(said, data).map(|text| string(&text)),
        false => Ok(BLANK.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::Obligations;
    use std::sync::Arc;

    fn permitted<'r>(result: &'r str, rules: &AnswerRules) -> Result<Cow<'r, str>, Denial> {
        crate::authorization_filter::task::permitted(crate::Channel::Result, result, rules)
    }

    fn rules(redact: &[&str], max_result_bytes: Option<u64>) -> AnswerRules {
        let redact = redact.iter().map(|place| Place::parse(place).unwrap()).collect();
        AnswerRules::of(&Arc::new(Obligations { redact, max_result_bytes, ..Obligations::default() }))
    }

    #[test]
    fn data_and_its_twin_text_are_blanked_alike() {
        let result = r#"{"content":[{"type":"text","text":"{\"salary\":7,\"name\":\"x\"}"}],"structuredContent":{"salary":7,"name":"x"},"n":1.50}"#;
        let expected = r#"{"content":[{"type":"text","text":"{\"salary\":0,\"name\":\"x\"}"}],"structuredContent":{"salary":0,"name":"x"},"n":1.50}"#;
        for place in ["salary", "/salary", "/structuredContent/salary"] {
            assert_eq!(permitted(result, &rules(&[place], None)).unwrap(), expected, "{place}");
        }
        assert_eq!(permitted(result, &AnswerRules::default()).unwrap(), result);
    }

    #[test]
    fn every_type_stays_what_it_is() {
        let result =
            r#"{"structuredContent":{"rows":[{"a":"s","b":true,"c":[1],"d":{"x":1},"e":null,"f":-1.5e3}]}}"#;
        let expected =
            r#"{"structuredContent":{"rows":[{"a":"[redacted]","b":false,"c":[],"d":{},"e":null,"f":0}]}}"#;
        assert_eq!(permitted(result, &rules(&["/rows/*/*"], None)).unwrap(), expected);
        assert_eq!(permitted(result, &rules(&["/rows/1/*"], None)).unwrap(), result);
    }

    #[test]
    fn what_tells_it_in_words_is_blanked_as_a_whole() {
        let table = [
            (
                r#"{"content":[{"type":"text","text":"salary: 7"}]}"#,
                r#"{"content":[{"type":"text","text":"[redacted]"}]}"#,
            ),
            (
                r#"{"contents":[{"uri":"a","text":" [{\"salary\":1}] "}]}"#,
                r#"{"contents":[{"uri":"a","text":"[{\"salary\":0}]"}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"text":"x"}}}]}"#,
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"text":"[redacted]"}}}]}"#,
            ),
        ];
        for (result, expected) in table {
            assert_eq!(permitted(result, &rules(&["/salary", "/*/salary"], None)).unwrap(), expected);
        }
        let own = r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#;
        let blanked = permitted(own, &rules(&["/content/1/text"], None)).unwrap().into_owned();
        assert_eq!(
            blanked,
            r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"[redacted]"}]}"#
        );
    }

    #[test]
    fn what_readers_could_take_in_two_ways_is_refused() {
        let table = [
            ("twice", r#"{"structuredContent":{"salary":1,"salary":2}}"#, "salary"),
            ("in another case", r#"{"structuredContent":{"Salary":1}}"#, "salary"),
            ("in two cases", r#"{"structuredContent":{"salary":1,"SALARY":2}}"#, "salary"),
            ("others in two cases", r#"{"structuredContent":{"a":1,"A":2}}"#, "salary"),
            ("on the way", r#"{"structuredContent":{"Pay":{"salary":1}}}"#, "/pay/salary"),
            ("the data itself", r#"{"StructuredContent":{"salary":1}}"#, "salary"),
            ("its words", r#"{"Content":[{"type":"text","text":"salary: 1"}]}"#, "salary"),
            ("the words", r#"{"content":[{"type":"text","Text":"salary: 1"}]}"#, "salary"),
            ("a resource", r#"{"content":[{"Resource":{"text":"salary: 1"}}]}"#, "salary"),
            ("a place of the result", r#"{"content":[{"type":"text","TEXT":"x"}]}"#, "/content/*/text"),
            ("data in a text", r#"{"content":[{"text":"{\"Salary\":1}"}]}"#, "salary"),
        ];
        for (name, result, place) in table {
            let reason = permitted(result, &rules(&[place], None)).map_err(|denial| denial.reason);
            assert_eq!(reason, Err(Reason::UpstreamMalformed), "{name}");
        }
        let elsewhere = r#"{"structuredContent":{"salary":1,"b":{"a":1,"A":2}}}"#;
        assert!(permitted(elsewhere, &rules(&["salary"], None)).is_ok(), "no place leads there");
    }

    #[test]
    fn an_answer_has_at_most_the_bytes_that_it_may() {
        let result = r#"{"content":[]}"#;
        let length = result.len() as u64;
        assert!(permitted(result, &rules(&[], Some(length))).is_ok());
        let denial = permitted(result, &rules(&[], Some(length - 1))).unwrap_err();
        assert_eq!(denial.reason, Reason::ResultTooLarge);
    }
}
