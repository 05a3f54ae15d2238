//! API keys as a configuration holds them.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderName;
use portunus_filters::identity::api_key::{KeyTable, KnownKey};
use serde_json::{Value, json};

use crate::dates::show_end;
use crate::identity::TrustId;
use crate::reference::Reference;

/// One key of a document or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// The key.
    pub known: KnownKey,
    /// What people remember it by.
    pub note: Option<String>,
}

/// Where a client shows its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// A field of its own, `X-API-Key: KEY`. It never goes to an upstream.
    Header(HeaderName),
}

/// `identity.keys`, compiled.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// Equal for equal keys, across revisions: what verified under it holds no longer than it.
    pub id: TrustId,
    /// The keys, of all files and of the document itself.
    pub table: Arc<KeyTable>,
    /// Where clients show them.
    pub shown_in: Vec<Shown>,
    /// The files that they were read from, for people.
    pub files: Vec<PathBuf>,
    /// The server keys that were read, for people.
    pub server_keys: Vec<Reference>,
    /// Those that stand in the document itself.
    pub entries: Vec<KeyEntry>,
}

/// Tenant and subject of `TENANT/SUBJECT`; a subject may hold further slashes, a tenant none.
pub fn holder_name(text: &str) -> Option<(Arc<str>, Arc<str>)> {
    let (tenant, subject) = text.split_once('/')?;
    let plain = |part: &str| {
        (1..=256).contains(&part.len()) && part == part.trim() && !part.chars().any(char::is_control)
    };
    (plain(tenant) && plain(subject)).then(|| (tenant.into(), subject.into()))
}

/// A key as a document would write it.
pub(crate) fn as_document(key: &KeyEntry) -> Value {
    let KnownKey { holder, stored, created, revoked, .. } = &key.known;
    let texts = |names: &[Arc<str>]| names.iter().map(|name| json!(**name)).collect::<Vec<_>>();
    // Each is a text that was turned into JSON here.
    let text = |value: &str| serde_json::from_str(value).unwrap_or(Value::Null);
    let attributes: Value =
        holder.claims.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let mut written = json!({
        "for": format!("{}/{}", holder.tenant, holder.subject),
        "agent": holder.agent.as_deref(),
        "roles": texts(&holder.roles),
        "groups": texts(&holder.groups),
        "scopes": texts(&holder.scopes),
        "attributes": attributes,
        "hash": stored.to_string(),
        "created": created.map(show_end),
        "expires": key.known.expires().map(show_end),
        "revoked": revoked.map(show_end),
        "note": key.note,
    });
    if let Some(keys) = written.as_object_mut() {
        let empty = |value: &Value| {
            value.is_null()
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty)
        };
        keys.retain(|_, value| !empty(value));
    }
    written
}
