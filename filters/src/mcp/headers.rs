//! The era of a message, and the headers that must agree with its body.
//!
//! The body decides and the headers must not contradict it (2026-07-28 streamable HTTP, "Server
//! Validation": an intermediary that reads the body must refuse a mismatch). Which era a request
//! belongs to follows the order that the SDKs use, so a gateway and its upstream never disagree.

use super::object::{Object, place};
use super::{Envelope, Fault, Method, Revision, Shape, sentinel};
use portunus_base::Era;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;

/// Key of the claimed revision in `params._meta`.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// The headers that mirror parts of the body, as the client sent them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mirror<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a str>,
    /// `Mcp-Method`.
    pub method: Option<&'a str>,
    /// `Mcp-Name`.
    pub name: Option<&'a str>,
}

/// What [`judge`] found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The era whose rules apply.
    pub era: Era,
    /// The revision, where the message or its header names one.
    pub revision: Option<Revision>,
}

/// Decides the era of one message and holds the mirrored headers to its body.
///
/// # Errors
/// A [`Denial`] with [`Reason::HeaderMismatch`], [`Reason::UnsupportedVersion`] (listing
/// `offered`), [`Reason::InvalidEnvelope`] or [`Reason::InvalidRequest`].
pub fn judge(envelope: &Envelope<'_>, mirror: &Mirror<'_>, offered: &[Revision]) -> Result<Verdict, Denial> {
    check_keys(envelope).map_err(|fault| Denial::new(Reason::InvalidRequest, fault.to_string()))?;
    let meta = envelope.params.inside("_meta").ok().flatten();
    let verdict = match meta.filter(|meta| meta.get(META_VERSION).is_some()) {
        Some(meta) => claimed(&meta, mirror, offered)?,
        None => unclaimed(envelope, mirror, offered)?,
    };
    mirrored(envelope, mirror, verdict.era)?;
    Ok(verdict)
}

/// Refuses what servers that ignore the case of keys read otherwise, wherever the protocol gives a key its
/// meaning. A method that MCP does not know has parameters of its own.
fn check_keys(envelope: &Envelope<'_>) -> Result<(), Fault> {
    let params = &envelope.params;
    let is_known = |method: &Method| method.rules().is_some() || method.name().starts_with("tasks/");
    match &envelope.method {
        Some(method) if !is_known(method) => params.check_params(&place::PARAMS_OF_ANY),
        _ => params.check_params(&place::PARAMS),
    }
}

/// A body that names its revision is modern; a bad claim is an error and no way back to legacy.
fn claimed(meta: &Object<'_>, mirror: &Mirror<'_>, offered: &[Revision]) -> Result<Verdict, Denial> {
    let Some(claim) = meta.text(META_VERSION) else {
        return Err(Denial::new(
            Reason::InvalidEnvelope,
            format!("`_meta[\"{META_VERSION}\"]` must be a string"),
        ));
    };
    match mirror.version {
        None => return Err(mismatch("the `MCP-Protocol-Version` header is missing")),
        Some(header) if header != claim => {
            return Err(mismatch("`MCP-Protocol-Version` differs from the revision that `_meta` names"));
        }
        Some(_) => {}
    }
    match Revision::parse(&claim)
        .filter(|revision| revision.era() == Era::Modern && offered.contains(revision))
    {
        Some(revision) => Ok(Verdict { era: Era::Modern, revision: Some(revision) }),
        None => Err(unsupported(&claim, Era::Modern, offered)),
    }
}

fn unclaimed(envelope: &Envelope<'_>, mirror: &Mirror<'_>, offered: &[Revision]) -> Result<Verdict, Denial> {
    let initialize = envelope.method.as_ref().is_some_and(|method| method.is("initialize"));
    let Some(header) = mirror.version.filter(|_| !initialize) else {
        if !offered.iter().any(|revision| revision.era() == Era::Legacy) {
            // Only `initialize` names its revision in the body.
            return Err(match envelope.params.text("protocolVersion").filter(|_| initialize) {
                Some(named) => unsupported(&named, Era::Legacy, offered),
                None => missing_claim(),
            });
        }
        return Ok(Verdict { era: Era::Legacy, revision: None });
    };
    let known = Revision::parse(header).filter(|revision| offered.contains(revision));
    match (known, envelope.shape) {
        (Some(revision), _) if revision.era() == Era::Legacy => {
            Ok(Verdict { era: Era::Legacy, revision: Some(revision) })
        }
        (Some(revision), Shape::Notification) => Ok(Verdict { era: Era::Modern, revision: Some(revision) }),
        (Some(_), Shape::Request) => Err(missing_claim()),
        (Some(_), Shape::Result | Shape::Error) => {
            Err(Denial::new(Reason::InvalidRequest, "a modern client sends no answers: use `inputResponses`"))
        }
        (None, _) => Err(unsupported(header, likely_era(header), offered)),
    }
}

/// The era that a version suggests, known or not: revisions are dates, so text order is time order.
pub fn likely_era(version: &str) -> Era {
    if version >= Revision::V2026_07_28.as_str() { Era::Modern } else { Era::Legacy }
}

/// The revision that a request without a body names in its header.
///
/// # Errors
/// [`Reason::UnsupportedVersion`] if it is none of those offered.
pub fn bodiless(version: Option<&str>, offered: &[Revision]) -> Result<Option<Revision>, Denial> {
    let Some(header) = version else { return Ok(None) };
    match Revision::parse(header).filter(|revision| offered.contains(revision)) {
        Some(revision) => Ok(Some(revision)),
        None => Err(unsupported(header, likely_era(header), offered)),
    }
}

/// Refuses mirrored headers beside a body that is no single call: there is nothing they could mirror.
///
/// # Errors
/// [`Reason::HeaderMismatch`].
pub fn unmirrored(mirror: &Mirror<'_>) -> Result<(), Denial> {
    if mirror.method.is_some() || mirror.name.is_some() {
        return Err(mismatch("`Mcp-Method` and `Mcp-Name` only go with one request or notification"));
    }
    Ok(())
}

/// Holds `Mcp-Method` and `Mcp-Name` to the body: always where they are sent, and present where
/// the modern era asks for them.
fn mirrored(envelope: &Envelope<'_>, mirror: &Mirror<'_>, era: Era) -> Result<(), Denial> {
    let required = era == Era::Modern && envelope.shape == Shape::Request;
    let Some(method) = &envelope.method else { return unmirrored(mirror) };
    match mirror.method {
        Some(header) if header != method.name() => {
            return Err(mismatch("`Mcp-Method` differs from the method in the body"));
        }
        None if required => return Err(mismatch("the `Mcp-Method` header is missing")),
        _ => {}
    }
    let target = method.rules().and_then(|rules| rules.target);
    let in_body = target.and_then(|key| envelope.params.text(key));
    match (mirror.name.map(decode).transpose()?, in_body) {
        (Some(header), Some(body)) if header != body => {
            Err(mismatch("`Mcp-Name` differs from the name in the body"))
        }
        (Some(_), None) if target.is_some() => Err(mismatch("`Mcp-Name` names what the body does not")),
        (None, Some(_)) if required => Err(mismatch("the `Mcp-Name` header is missing")),
        _ => Ok(()),
    }
}

/// Undoes the `=?base64?…?=` form of values that a header cannot carry as they are.
fn decode(value: &str) -> Result<Cow<'_, str>, Denial> {
    sentinel::decode(value).ok_or_else(|| mismatch("`Mcp-Name` is not valid base64 of UTF-8 text"))
}

fn missing_claim() -> Denial {
    Denial::new(Reason::InvalidEnvelope, format!("`params._meta[\"{META_VERSION}\"]` is missing"))
}

fn mismatch(detail: &'static str) -> Denial {
    Denial::new(Reason::HeaderMismatch, detail)
}

/// Lists what is served in the form that the client speaks: `server/discover` names the stateless
/// revisions only, and a client compares the two lists.
fn unsupported(requested: &str, era: Era, offered: &[Revision]) -> Denial {
    let of_era = || offered.iter().filter(|revision| revision.era() == era);
    let names: Vec<&str> = match of_era().next() {
        Some(_) => of_era().map(|revision| revision.as_str()).collect(),
        None => offered.iter().map(|revision| revision.as_str()).collect(),
    };
    let list = serde_json::json!(names).to_string();
    Denial::new(Reason::UnsupportedVersion, format!("this server speaks {}", names.join(", ")))
        .with("supported", list)
        .with("requested", serde_json::json!(bounded(requested)).to_string())
}

/// Client text that goes back into an answer, cut to what a version can sensibly be.
fn bounded(text: &str) -> &str {
    text.char_indices().nth(32).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: &str = "2026-07-28";

    fn body(method: &str, id: bool, claim: Option<&str>, more: &str) -> String {
        let id = if id { r#""id":1,"# } else { "" };
        let meta = claim.map(|claim| format!(r#""_meta":{{"{META_VERSION}":{claim}}}"#));
        let params: Vec<&str> =
            [meta.as_deref().unwrap_or(""), more].into_iter().filter(|p| !p.is_empty()).collect();
        format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{{{}}}}}"#, params.join(","))
    }

    fn verdict(
        body: &str,
        version: Option<&str>,
        method: Option<&str>,
        name: Option<&str>,
    ) -> Result<Era, Reason> {
        let envelope = Envelope::read(body).unwrap();
        judge(&envelope, &Mirror { version, method, name }, &Revision::ALL)
            .map(|verdict| verdict.era)
            .map_err(|denial| denial.reason)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of named cases")]
    fn the_body_decides_the_era() {
        let claim = Some(r#""2026-07-28""#);
        type Case<'a> = (&'a str, String, Option<&'a str>, Option<&'a str>, Result<Era, Reason>);
        let cases: Vec<Case<'_>> = vec![
            ("plain legacy", body("tools/list", true, None, ""), None, None, Ok(Era::Legacy)),
            (
                "legacy with header",
                body("tools/list", true, None, ""),
                Some("2025-11-25"),
                None,
                Ok(Era::Legacy),
            ),
            (
                "initialize ignores the header",
                body("initialize", true, None, ""),
                Some(MODERN),
                None,
                Ok(Era::Legacy),
            ),
            (
                "modern",
                body("tools/list", true, claim, ""),
                Some(MODERN),
                Some("tools/list"),
                Ok(Era::Modern),
            ),
            (
                "modern without header",
                body("tools/list", true, claim, ""),
                None,
                Some("tools/list"),
                Err(Reason::HeaderMismatch),
            ),
            (
                "header of another revision",
                body("tools/list", true, claim, ""),
                Some("2025-11-25"),
                Some("tools/list"),
                Err(Reason::HeaderMismatch),
            ),
            (
                "future revision",
                body("tools/list", true, Some(r#""2031-01-01""#), ""),
                Some("2031-01-01"),
                Some("tools/list"),
                Err(Reason::UnsupportedVersion),
            ),
            (
                "claim of a legacy revision",
                body("tools/list", true, Some(r#""2025-06-18""#), ""),
                Some("2025-06-18"),
                None,
                Err(Reason::UnsupportedVersion),
            ),
            (
                "claim that is no string",
                body("tools/list", true, Some("7"), ""),
                Some(MODERN),
                None,
                Err(Reason::InvalidEnvelope),
            ),
            (
                "modern header, no claim",
                body("tools/list", true, None, ""),
                Some(MODERN),
                None,
                Err(Reason::InvalidEnvelope),
            ),
            (
                "modern header, notification",
                body("notifications/cancelled", false, None, ""),
                Some(MODERN),
                None,
                Ok(Era::Modern),
            ),
            (
                "unknown legacy header",
                body("tools/list", true, None, ""),
                Some("1999-01-01"),
                None,
                Err(Reason::UnsupportedVersion),
            ),
            (
                "nonsense header",
                body("tools/list", true, None, ""),
                Some("bogus"),
                None,
                Err(Reason::UnsupportedVersion),
            ),
        ];
        for (name, body, version, method, expected) in cases {
            assert_eq!(verdict(&body, version, method, None), expected, "{name}");
        }
    }

    #[test]
    fn a_modern_client_cannot_answer() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert_eq!(verdict(answer, Some(MODERN), None, None), Err(Reason::InvalidRequest));
        assert_eq!(verdict(answer, Some("2025-11-25"), None, None), Ok(Era::Legacy));
    }

    #[test]
    fn mirrored_headers_must_agree_with_the_body() {
        let call = body("tools/call", true, Some(r#""2026-07-28""#), r#""name":"zażółć""#);
        let plain = body("tools/call", true, Some(r#""2026-07-28""#), r#""name":"echo""#);
        let legacy = body("tools/call", true, None, r#""name":"echo""#);
        let coded = Some("=?base64?emHFvMOzxYLEhw==?=");
        let method = Some("tools/call");
        let bad = Err(Reason::HeaderMismatch);
        let cases = [
            ("plain name", &plain, Some(MODERN), method, Some("echo"), Ok(Era::Modern)),
            ("coded name", &call, Some(MODERN), method, coded, Ok(Era::Modern)),
            ("another name", &plain, Some(MODERN), method, Some("delete_all"), bad),
            ("case counts in values", &plain, Some(MODERN), method, Some("Echo"), bad),
            ("another method", &plain, Some(MODERN), Some("tools/list"), Some("echo"), bad),
            ("missing method", &plain, Some(MODERN), None, Some("echo"), bad),
            ("missing name", &plain, Some(MODERN), method, None, bad),
            ("broken base64", &call, Some(MODERN), method, Some("=?base64?!!?="), bad),
            ("legacy needs none", &legacy, None, None, None, Ok(Era::Legacy)),
            ("legacy must not contradict", &legacy, None, None, Some("delete_all"), bad),
        ];
        for (name, body, version, method, header, expected) in cases {
            assert_eq!(verdict(body, version, method, header), expected, "{name}");
        }
    }

    #[test]
    fn an_unsupported_version_lists_what_is_served() {
        let body = body("tools/list", true, Some(r#""2031-01-01""#), "");
        let envelope = Envelope::read(&body).unwrap();
        let mirror = Mirror { version: Some("2031-01-01"), ..Mirror::default() };
        let denial = judge(&envelope, &mirror, &Revision::ALL).unwrap_err();
        assert_eq!(denial.data[0], ("supported", r#"["2026-07-28"]"#.to_owned()));
        let legacy_only = judge(&envelope, &mirror, &[Revision::V2025_11_25]).unwrap_err();
        assert_eq!(legacy_only.data[0], ("supported", r#"["2025-11-25"]"#.to_owned()));
        assert_eq!(denial.data[1], ("requested", r#""2031-01-01""#.to_owned()));
    }
}
