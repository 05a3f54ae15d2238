//! `caller` of an upstream: what it is told of who is calling.

use std::time::Duration;

use http::HeaderName;

use super::secrets::reference;
use crate::caller::{AssertionRules, CallerFact};
use crate::diagnostic::{Located, Place};
use crate::headers;
use crate::reader::{Section, Value};
use crate::reference::Reference;

/// `caller`.
#[derive(Clone, Debug, Default)]
pub struct CallerDocument {
    /// `headers`.
    pub headers: Vec<CallerFact>,
    /// `assertion`.
    pub assertion: Option<AssertionDocument>,
}

/// `caller.assertion`.
#[derive(Clone, Debug)]
pub struct AssertionDocument {
    /// Where it is written.
    pub place: Place,
    /// `key`, one or several.
    pub keys: Vec<Located<Reference>>,
    /// `issuer`; `None` if it could not be read.
    pub issuer: Option<String>,
    /// `audience`; `None` for the URL of the upstream.
    pub audience: Option<String>,
    /// `lifetime`.
    pub lifetime: Duration,
    /// `header`.
    pub header: HeaderName,
}

const ISSUER_HINT: &str =
    "write the URL by which the upstream knows the gateway: `issuer: \"https://gw.example.com\"`";

/// `caller: headers`, or `{headers, assertion}`.
pub(super) fn caller(value: &Value<'_>) -> Option<CallerDocument> {
    if !value.is_mapping() {
        return match value.as_text() {
            Some("headers") => Some(CallerDocument { headers: all(), assertion: None }),
            _ => value.expected("`headers`, or a mapping with `headers` or `assertion`"),
        };
    }
    value.section(|section| {
        let headers = section.value("headers").map(|value| facts(&value));
        let assertion = section.value("assertion");
        if headers.is_none() && assertion.is_none() {
            section.error(
                section.place(),
                "the upstream is told nothing",
                "write `headers: all`, or remove `caller`",
            );
        }
        CallerDocument {
            headers: headers.unwrap_or_default(),
            assertion: assertion.and_then(|value| self::assertion(&value)),
        }
    })
}

fn all() -> Vec<CallerFact> {
    CallerFact::NAMES.map(|(_, fact)| fact).to_vec()
}

/// In the order of the list of facts, each once.
fn facts(value: &Value<'_>) -> Vec<CallerFact> {
    if value.as_text() == Some("all") {
        return all();
    }
    let named: Vec<CallerFact> =
        value.items_or_one().iter().filter_map(|item| item.one_of(&CallerFact::NAMES)).collect();
    all().into_iter().filter(|fact| named.contains(fact)).collect()
}

fn assertion(value: &Value<'_>) -> Option<AssertionDocument> {
    value.section(|section| {
        let issuer = section.required("issuer", ISSUER_HINT).and_then(|value| value.text());
        let lifetime = Duration::from_secs(10)..=Duration::from_secs(3_600);
        AssertionDocument {
            place: section.place().clone(),
            keys: section.required("key", KEY_HINT).map(|value| keys(&value)).unwrap_or_default(),
            issuer: issuer.map(|issuer| issuer.value),
            audience: section.value("audience").and_then(|value| value.text()).map(|text| text.value),
            lifetime: section
                .value("lifetime")
                .and_then(|value| value.duration(lifetime))
                .unwrap_or(AssertionRules::LIFETIME),
            header: header(section).unwrap_or(AssertionRules::HEADER),
        }
    })
}

pub(crate) const KEY_HINT: &str = "make one with `openssl genpkey -algorithm ed25519 -out assertion.key`, and write `key: \"file:assertion.key\"`";

fn keys(value: &Value<'_>) -> Vec<Located<Reference>> {
    let items = value.items_or_one();
    if !(1..=AssertionRules::MAX_KEYS).contains(&items.len()) {
        let hint = format!("write 1 to {}: the first signs, all are published", AssertionRules::MAX_KEYS);
        value.error(format!("{} keys are named", items.len()), hint);
    }
    items.iter().filter_map(reference).collect()
}

fn header(section: &mut Section<'_>) -> Option<HeaderName> {
    let name = section.value("header")?.text()?;
    // It begins as the fields of callers do, and none of those is one of a document's choosing.
    if name.value.eq_ignore_ascii_case(AssertionRules::HEADER.as_str()) {
        return None;
    }
    headers::credential(&name.value)
        .map_err(|refusal| section.error(&name.place, refusal.problem, refusal.hint))
        .ok()
}
