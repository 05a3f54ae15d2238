//! API keys: files read, server keys found, what is old told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::identity::api_key::{KeyId, KeyTable, KnownKey, ServerKey};

use super::Keyring;
use crate::diagnostic::{Findings, Located};
use crate::document::ApiKeysDocument;
use crate::files::Files;
use crate::identity::TrustId;
use crate::keys::{ApiKeys, KeyEntry};
use crate::keys_file::{self, KeysFile};
use crate::tls::Problem;

/// Warnings of one kind, so that a thousand old keys are not a thousand lines.
const MAX_WARNINGS: usize = 10;

/// The keys of all files and of the document itself.
pub(super) fn keys(document: &ApiKeysDocument, files: &Files<'_>, keyring: &Keyring<'_>) -> ApiKeys {
    let findings = files.findings();
    let mut found: Vec<Located<KeyEntry>> = document.entries.clone();
    for path in &document.files {
        let read = |text: &str| Ok(keys_file::read(text, &files.path(&path.value), findings));
        found.extend(files.parsed(path, read).unwrap_or_default());
    }
    let server_keys = server_keys(document, keyring);
    check_ids(&found, findings);
    warn_about_old(&found, files.now(), findings);
    let known = found.iter().map(|key| key.value.known.clone());
    let table = KeyTable::new(server_keys, known);
    check_server_keys(&found, &table, findings);
    ApiKeys {
        id: id(&found, document),
        table: Arc::new(table),
        shown_in: document.shown_in.clone(),
        files: document.files.iter().map(|path| files.seen_from_document(&path.value)).collect(),
        server_keys: document.server_keys.iter().map(|key| keyring.followed(&key.value)).collect(),
        entries: document.entries.iter().map(|key| key.value.clone()).collect(),
    }
}

/// Of all that verifying depends on, in the order of the ids.
fn id(keys: &[Located<KeyEntry>], document: &ApiKeysDocument) -> TrustId {
    let line = |key: &Located<KeyEntry>| {
        let KnownKey { id, holder, stored, revoked, .. } = &key.value.known;
        format!("{id} {stored} {} {:?} {revoked:?}", holder.digest, holder.not_after)
    };
    let mut lines: Vec<String> = keys.iter().map(line).collect();
    lines.sort_unstable();
    TrustId::of(&(lines, &document.shown_in))
}

fn server_keys(document: &ApiKeysDocument, keyring: &Keyring<'_>) -> Vec<ServerKey> {
    let read = |text: &str| match text.len() < ServerKey::MIN_BYTES {
        true => {
            let problem = format!("has fewer than {} characters", ServerKey::MIN_BYTES);
            Err(Problem::new(problem, "make one with `openssl rand -base64 32`, the same on every replica"))
        }
        false => Ok(ServerKey::new(text.as_bytes())),
    };
    document.server_keys.iter().filter_map(|key| keyring.parsed(key, &[], read)).collect()
}

fn check_ids(keys: &[Located<KeyEntry>], findings: &Findings) {
    let mut seen: HashMap<&KeyId, ()> = HashMap::with_capacity(keys.len());
    for key in keys {
        if seen.insert(&key.value.known.id, ()).is_some() {
            findings.error(&key.place, "a key of this id is written twice", "keep one of them");
        }
    }
    if let Some(first) = keys.first().filter(|_| keys.len() > KeyTable::MAX_KEYS) {
        let problem = format!("{} keys are named", keys.len());
        let hint = format!(
            "at most {} are kept in all files together; take out those that have expired, or let an issuer of \
             tokens know so many callers: `identity.jwt`",
            KeyTable::MAX_KEYS
        );
        findings.error(&first.place, problem, hint);
    }
}

/// A key of a server key that is not here verifies nobody, which nobody would understand.
fn check_server_keys(keys: &[Located<KeyEntry>], table: &KeyTable, findings: &Findings) {
    let foreign = |key: &&Located<KeyEntry>| !table.has_server_key(key.value.known.stored.server_key);
    for key in keys.iter().filter(foreign).take(MAX_WARNINGS) {
        let name = key.value.known.stored.server_key;
        let problem = format!("this key was made under the server key `{name}`, which is not named here");
        findings.error(&key.place, problem, "name it in `server_key`, or make the key anew");
    }
}

/// `now` is the time since the Unix epoch.
fn warn_about_old(keys: &[Located<KeyEntry>], now: Duration, findings: &Findings) {
    let age = |known: &KnownKey| known.created.map_or(Duration::ZERO, |made| now.saturating_sub(made));
    let in_use = |known: &KnownKey| known.revoked.is_none() && !known.holder.has_ended(now);
    let old =
        |key: &&Located<KeyEntry>| in_use(&key.value.known) && age(&key.value.known) >= KeysFile::OLD_AFTER;
    let holder = |known: &KnownKey| (Arc::clone(&known.holder.tenant), Arc::clone(&known.holder.subject));
    let mut old: Vec<&Located<KeyEntry>> = keys.iter().filter(old).collect();
    old.sort_by_key(|key| key.value.known.created);
    for key in old.iter().take(MAX_WARNINGS) {
        let known = &key.value.known;
        let days = age(known).as_secs() / 86_400;
        let newer = keys
            .iter()
            .map(|other| &other.value.known)
            .any(|other| holder(other) == holder(known) && in_use(other) && other.created > known.created);
        let hint = match newer {
            true => format!("its holder has a newer one: `portunus key revoke {}`", known.id),
            false => "make a new one with `portunus key new`, hand it over, and revoke this one".to_owned(),
        };
        findings.warn(&key.place, format!("this key is {days} days old"), hint);
    }
    if let Some(first) = old.get(MAX_WARNINGS) {
        let problem = format!("{} further keys are as old", old.len() - MAX_WARNINGS);
        findings.warn(&first.place, problem, "`portunus key list` shows them");
    }
}

#[cfg(test)]
mod tests;
