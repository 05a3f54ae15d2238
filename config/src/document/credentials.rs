//! `headers` and `credentials` of an upstream: what it receives beside the message.

use http::{HeaderName, HeaderValue};

use super::secrets::reference;
use crate::diagnostic::{Located, Place};
use crate::headers;
use crate::reader::Unenforced;
use crate::reader::{Section, Value};
use crate::reference::Reference;

/// Changes to the headers that an upstream receives.
#[derive(Clone, Debug, Default)]
pub struct HeadersDocument {
    /// `set`.
    pub set: Vec<(HeaderName, HeaderSource)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
}

/// Where the value of a header field comes from.
#[derive(Clone, Debug)]
pub enum HeaderSource {
    /// It is written in the document.
    Literal(HeaderValue),
    /// It is a secret.
    Reference(Located<Reference>),
}

/// `credentials`.
#[derive(Clone, Debug, Default)]
pub enum CredentialsDocument {
    /// `none`.
    #[default]
    None,
    /// `passthrough`.
    Passthrough(Place),
    /// `{bearer: REFERENCE}`.
    Bearer(Located<Reference>),
    /// `{header: {name, value: REFERENCE}}`.
    Header {
        /// `name`.
        name: HeaderName,
        /// `value`.
        value: Located<Reference>,
    },
    /// `{exchange: …}`, RFC 8693.
    Exchange(Unenforced),
}

pub(super) fn header_rules(value: &Value<'_>) -> Option<HeadersDocument> {
    value.section(|section| {
        let set = section.value("set").map(|value| value.entries()).unwrap_or_default();
        let remove = section.value("remove").map(|value| value.items_or_one()).unwrap_or_default();
        let mut rules = HeadersDocument::default();
        for (name, value) in set {
            let Some(header) = checked(headers::settable(&name.value), &name, section) else { continue };
            if rules.set.iter().any(|(earlier, _)| *earlier == header) {
                section.error(&name.place, "this field is set twice", "header names have no case; keep one");
            }
            let Some(source) = header_source(&header, &value, section) else { continue };
            rules.set.push((header, source));
        }
        let names = remove.iter().filter_map(Value::text);
        rules.remove =
            names.filter_map(|name| checked(headers::removable(&name.value), &name, section)).collect();
        rules
    })
}

fn checked(
    header: Result<HeaderName, headers::Refusal>,
    name: &Located<String>,
    section: &Section<'_>,
) -> Option<HeaderName> {
    header.map_err(|refusal| section.error(&name.place, refusal.problem, refusal.hint)).ok()
}

fn header_source(header: &HeaderName, value: &Value<'_>, section: &Section<'_>) -> Option<HeaderSource> {
    let text = value.text()?.value;
    if Reference::parse(&text).is_some() {
        return reference(value).map(HeaderSource::Reference);
    }
    let Ok(mut literal) = HeaderValue::from_str(&text) else {
        value.error("the value cannot stand in a header field", "use one line of printable ASCII");
        return None;
    };
    if headers::carries_credential(header) {
        let problem = "a field that carries a credential is set to a text in the document";
        section.warn(&value.place(), problem, Reference::FORMS);
        literal.set_sensitive(true);
    }
    Some(HeaderSource::Literal(literal))
}

/// `credentials`. What stands there is never shown: it may be the credential.
pub(super) fn credentials(value: &Value<'_>) -> Option<CredentialsDocument> {
    const FORMS: &str = "write `none`, `passthrough`, `{bearer: REFERENCE}` or `{header: {name: X-Api-Key, \
                         value: REFERENCE}}`, where a reference is `env:NAME`, `file:/path` or `secret:NAME`";
    match value.as_text() {
        Some("none") => return Some(CredentialsDocument::None),
        Some("passthrough") => return Some(CredentialsDocument::Passthrough(value.place())),
        _ if value.is_mapping() => {}
        _ => {
            value.error("this is no kind of credentials", FORMS);
            return None;
        }
    }
    value.section(|section| {
        let bearer = section.value("bearer");
        let header = section.value("header");
        let exchange = section.unenforced("exchange");
        match (bearer, header, exchange) {
            (Some(bearer), None, None) => reference(&bearer).map(CredentialsDocument::Bearer),
            (None, Some(header), None) => credential_header(&header),
            (None, None, Some(exchange)) => Some(CredentialsDocument::Exchange(exchange)),
            _ => {
                section.error(section.place(), "exactly one kind of credentials should stand here", FORMS);
                None
            }
        }
    })?
}

fn credential_header(value: &Value<'_>) -> Option<CredentialsDocument> {
    value.section(|section| {
        let name = section.required("name", "write `name: X-Api-Key`").and_then(|name| name.text());
        let value = section.required("value", Reference::FORMS).and_then(|value| reference(&value));
        let name = name.and_then(|name| checked(headers::credential(&name.value), &name, section));
        Some(CredentialsDocument::Header { name: name?, value: value? })
    })?
}
