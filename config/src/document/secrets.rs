//! `secrets`, references to credentials, and lists of hosts.

use crate::diagnostic::Located;
use crate::hosts::HostPattern;
use crate::reader::{Section, Value};
use crate::secret::Reference;

/// A named secret and the hosts it may go to.
#[derive(Clone, Debug)]
pub struct SecretDocument {
    /// Its key.
    pub name: Located<String>,
    /// `from`; `None` if it could not be read.
    pub from: Option<Located<Reference>>,
    /// `hosts`.
    pub hosts: Vec<HostPattern>,
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<SecretDocument> {
    let Some(value) = section.value("secrets") else { return vec![] };
    let secret = |(name, value): (Located<String>, Value<'_>)| {
        let (from, hosts) = value.section(|section| {
            let from = section.required("from", Reference::FORMS).and_then(|value| source(&value));
            let hint = "name the hosts that this secret may be sent to";
            (from, section.required("hosts", hint).map(|value| hosts(&value)).unwrap_or_default())
        })?;
        Some(SecretDocument { name, from, hosts })
    };
    value.entries().into_iter().filter_map(secret).collect()
}

/// A reference to a credential. Anything else may be the credential itself and is not shown.
pub(super) fn reference(value: &Value<'_>) -> Option<Located<Reference>> {
    let reference = value.as_text().and_then(Reference::parse);
    if reference.is_none() {
        value.error("a reference to a secret should stand here, and what does is none", Reference::FORMS);
    }
    reference.map(|reference| Located { value: reference, place: value.place() })
}

/// One or more host patterns.
pub(super) fn hosts(value: &Value<'_>) -> Vec<HostPattern> {
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("the list is empty", "name a host, or remove the key");
    }
    let hint = "write `api.example.com`, `*.example.com`, `10.0.0.1` or `[::1]`, with `:port` if it matters";
    let pattern = |item: &Value<'_>| item.parsed(hint, HostPattern::parse).map(|host| host.value);
    items.iter().filter_map(pattern).collect()
}

/// What a named secret is read from; a name of another secret is none.
fn source(value: &Value<'_>) -> Option<Located<Reference>> {
    let reference = reference(value)?;
    if matches!(reference.value, Reference::Named(_)) {
        value.error("a secret cannot refer to another", "write `env:NAME` or `file:/path`");
        return None;
    }
    Some(reference)
}
