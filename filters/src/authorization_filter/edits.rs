//! What the gateway changes in a call: arguments that it sets whatever the caller sent, and keys
//! that are for the gateway alone.

use super::about::{JUSTIFICATION, RUN, wrong};
use crate::authorize::Place;
use crate::call::Edit;
use crate::mcp::Fault;
use crate::mcp::object::{Object, StrictObject, elements};
use crate::message::Message;
use bytes::Bytes;
use portunus_base::Denial;

/// The edit that leaves `params` as its server may have them; `None` if that is as they are.
///
/// # Errors
/// A [`Denial`] where servers may read another argument than the injected one, or another on the way.
pub(super) fn edit(
    message: &Message,
    params: &Object<'_>,
    strips: bool,
    inject: &[(Place, String)],
) -> Result<Option<Edit>, Denial> {
    let Some(span) = message.params.filter(|_| strips || !inject.is_empty()) else { return Ok(None) };
    let mut changed = params.rewrite();
    if strips && let Some(meta) = params.object("_meta").map_err(|fault| wrong(&fault))? {
        let meta = meta.rewrite().remove(JUSTIFICATION).remove(RUN);
        changed = if meta.is_empty() { changed.remove("_meta") } else { changed.set("_meta", meta.text()) };
    }
    if !inject.is_empty() {
        let mut arguments = params.get("arguments").unwrap_or("{}").to_owned();
        for (place, json) in inject {
            arguments = with(&arguments, &place.0, json).map_err(|fault| wrong(&fault))?;
        }
        changed = changed.set("arguments", arguments);
    }
    Ok(Some(Edit { owner: "authorize", span, with: Bytes::from(changed.text()) }))
}

/// `text` with `json` at a place; what is no object on the way becomes one.
fn with(text: &str, steps: &[String], json: &str) -> Result<String, Fault> {
    let Some((step, rest)) = steps.split_first() else { return Ok(json.to_owned()) };
    let object = if text.starts_with('{') { StrictObject::read(text)? } else { StrictObject::default() };
    let inner = with(object.get(step)?.unwrap_or("{}"), rest, json)?;
    Ok(object.as_object().rewrite().set(step.as_str(), inner).text())
}

/// The definition of a tool without the arguments that callers need not know of; `None` if it has
/// none of them.
pub(super) fn without_injected(definition: &str, inject: &[(Place, String)]) -> Option<String> {
    let tool = Object::read(definition).ok()?;
    let schema = tool.get("inputSchema")?;
    let mut changed = schema.to_owned();
    for (place, _) in inject {
        changed = without(&changed, &place.0)?;
    }
    (changed != schema).then(|| tool.rewrite().set("inputSchema", changed).text())
}

/// A schema without the property at a place.
fn without(schema: &str, steps: &[String]) -> Option<String> {
    let (step, rest) = steps.split_first()?;
    let object = Object::read(schema).ok()?;
    let Some(properties) = object.object("properties").ok()? else { return Some(schema.to_owned()) };
    let Some(property) = properties.get(step) else { return Some(schema.to_owned()) };
    if !rest.is_empty() {
        let inner = without(property, rest)?;
        let properties = properties.rewrite().set(step.as_str(), inner).text();
        return Some(object.rewrite().set("properties", properties).text());
    }
    let properties = properties.rewrite().remove(step.as_str()).text();
    let mut changed = object.rewrite().set("properties", properties);
    if let Some(required) = object.get("required") {
        changed = changed.set("required", without_name(required, step)?);
    }
    Some(changed.text())
}

/// An array of names without one of them.
fn without_name(names: &str, name: &str) -> Option<String> {
    let is_other = |text: &&str| serde_json::from_str::<String>(text).ok().as_deref() != Some(name);
    let kept: Vec<&str> = elements(names).ok()?.into_iter().filter(is_other).collect();
    Some(format!("[{}]", kept.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Bounds, Revision, headers::Mirror};
    use crate::message::{Reading, read};

    fn message(params: &str) -> Message {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let body = Bytes::from(body);
        match read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap() {
            Reading::One(message) => message,
            Reading::Batch(_) => panic!("a batch"),
        }
    }

    fn edited(params: &str, strips: bool, inject: &[(&str, &str)]) -> Option<String> {
        let message = message(params);
        let inject: Vec<_> =
            inject.iter().map(|(place, json)| (Place::parse(place).unwrap(), (*json).to_owned())).collect();
        let read = super::super::about::params(&message).unwrap();
        let edit = edit(&message, &read, strips, &inject).unwrap();
        edit.map(|edit| String::from_utf8(edit.with.to_vec()).unwrap())
    }

    #[test]
    fn injected_arguments_take_the_place_of_what_was_sent() {
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);
        let table: [Case<'_>; 6] = [
            (
                "absent",
                r#"{"name":"a"}"#,
                &[("region", "\"eu\"")],
                r#"{"name":"a","arguments":{"region":"eu"}}"#,
            ),
            (
                "sent otherwise",
                r#"{"name":"a","arguments":{"region":"us","n":1.0}}"#,
                &[("region", "\"eu\"")],
                r#"{"name":"a","arguments":{"region":"eu","n":1.0}}"#,
            ),
            (
                "under an escaped name",
                r#"{"arguments":{"regio\u006e":"us"}}"#,
                &[("region", "\"eu\"")],
                r#"{"arguments":{"region":"eu"}}"#,
            ),
            (
                "deeper",
                r#"{"arguments":{"filter":{"max":9,"x":1}}}"#,
                &[("/filter/max", "5")],
                r#"{"arguments":{"filter":{"max":5,"x":1}}}"#,
            ),
            (
                "below what is no object",
                r#"{"arguments":{"filter":7}}"#,
                &[("/filter/max", "5")],
                r#"{"arguments":{"filter":{"max":5}}}"#,
            ),
            ("two", r#"{"arguments":{}}"#, &[("a", "1"), ("b", "2")], r#"{"arguments":{"a":1,"b":2}}"#),
        ];
        for (name, params, inject, expected) in table {
            assert_eq!(edited(params, false, inject).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn arguments_that_servers_may_read_in_place_of_injected_ones_are_refused() {
        let table = [
            ("in another case", r#"{"arguments":{"Region":"us"}}"#, "region"),
            ("with a long s", r#"{"arguments":{"\u017fize":9}}"#, "size"),
            ("on the way", r#"{"arguments":{"Filter":{"max":9}}}"#, "/filter/max"),
            ("below", r#"{"arguments":{"filter":{"MAX":9}}}"#, "/filter/max"),
            ("two others", r#"{"arguments":{"a":1,"A":2}}"#, "region"),
            ("twice", r#"{"arguments":{"region":1,"region":2}}"#, "region"),
        ];
        for (name, params, place) in table {
            let message = message(params);
            let read = super::super::about::params(&message).unwrap();
            let inject = [(Place::parse(place).unwrap(), "1".to_owned())];
            let reason = edit(&message, &read, false, &inject).map_err(|denial| denial.reason);
            assert_eq!(reason, Err(portunus_base::Reason::InvalidParams), "{name}");
        }
    }

    #[test]
    fn what_is_for_the_gateway_alone_is_taken_away() {
        let why = r#"{"_meta":{"io.portunus/justification":"x"},"name":"a"}"#;
        assert_eq!(edited(why, true, &[]).as_deref(), Some(r#"{"name":"a"}"#));
        let both =
            r#"{"_meta":{"io.portunus/run":"r","progressToken":1,"io.portunus\u002fjustification":""}}"#;
        assert_eq!(edited(both, true, &[]).as_deref(), Some(r#"{"_meta":{"progressToken":1}}"#));
        assert_eq!(edited(why, false, &[]), None);
    }

    #[test]
    fn callers_are_not_told_of_arguments_that_are_set_for_them() {
        let inject = |places: &[&str]| -> Vec<(Place, String)> {
            places.iter().map(|place| (Place::parse(place).unwrap(), "1".to_owned())).collect()
        };
        let tool = r#"{"name":"a","inputSchema":{"type":"object","properties":{"region":{},"n":{"properties":{"m":{}},"required":["m"]}},"required":["n","region"]}}"#;
        assert_eq!(
            without_injected(tool, &inject(&["region"])).as_deref(),
            Some(
                r#"{"name":"a","inputSchema":{"type":"object","properties":{"n":{"properties":{"m":{}},"required":["m"]}},"required":["n"]}}"#
            )
        );
        assert_eq!(
            without_injected(tool, &inject(&["/n/m"])).as_deref(),
            Some(
                r#"{"name":"a","inputSchema":{"type":"object","properties":{"region":{},"n":{"properties":{},"required":[]}},"required":["n","region"]}}"#
            )
        );
        assert_eq!(without_injected(tool, &inject(&["other"])), None);
    }
}
