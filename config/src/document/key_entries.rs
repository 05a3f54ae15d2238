//! API keys one by one, in a document or in the file that `portunus key` writes.

use std::sync::Arc;
use std::time::Duration;

use portunus_filters::identity::api_key::{KeyId, KeyTable, KnownKey, StoredKey};
use portunus_filters::identity::{Claims, Principal, names};
use serde_json::json;

use crate::dates::{parse_end, parse_start};
use crate::diagnostic::Located;
use crate::keys::{KeyEntry, holder_name};
use crate::reader::{Section, Value};

/// `{ID: {for, hash, …}}`, in a document or in a file of keys.
pub(crate) fn entries(value: &Value<'_>) -> Vec<Located<KeyEntry>> {
    let entries = value.entries();
    if entries.len() > KeyTable::MAX_KEYS {
        let hint = format!(
            "at most {} are kept in all files together; take out those that have expired, or let an issuer of \
             tokens know so many callers: `identity.jwt`",
            KeyTable::MAX_KEYS
        );
        value.error(format!("{} keys are named", entries.len()), hint);
        return vec![];
    }
    entries.into_iter().filter_map(|(name, value)| entry(name, &value)).collect()
}

fn entry(name: Located<String>, value: &Value<'_>) -> Option<Located<KeyEntry>> {
    let id = KeyId::parse(&name.value);
    let entry = value.section(|section| {
        if id.is_none() {
            let hint = "it is what stands between `ptk_` and `.` in the key";
            section.error(&name.place, format!("`{}` is no id of a key", name.value), hint);
        }
        let holder = holder(section);
        let stored =
            section.required("hash", "`portunus key new` writes it").and_then(|value| stored(&value));
        let mut time = |key, parse: Parse| section.value(key).and_then(|value| time(&value, parse));
        let (created, revoked) = (time("created", parse_start), time("revoked", parse_start));
        let expires = time("expires", parse_end);
        let note = section.value("note").and_then(|value| value.text()).map(|note| note.value);
        let known = KnownKey { created, revoked, ..KnownKey::new(id?, holder?, stored?, expires) };
        Some(KeyEntry { known, note })
    })??;
    Some(Located { value: entry, place: name.place })
}

fn holder(section: &mut Section<'_>) -> Option<Principal> {
    let named = section.required("for", "say whose key it is: `for: TENANT/SUBJECT`");
    let named = named.and_then(|value| {
        value.parsed("write `TENANT/SUBJECT`, such as `acme/alice`", |text| {
            holder_name(text).ok_or("is no tenant and subject")
        })
    });
    let agent = section.value("agent").and_then(|value| value.text()).map(|agent| agent.value.into());
    let mut list = |key| section.value(key).map(|value| list(&value)).unwrap_or_default();
    let (roles, groups, scopes) = (list("roles"), list("groups"), list("scopes"));
    let claims = section.value("attributes").map(|value| attributes(&value)).unwrap_or_default();
    let (tenant, subject) = named?.value;
    Some(Principal { agent, roles, groups, scopes, claims, ..Principal::named(tenant, subject) })
}

fn list(value: &Value<'_>) -> Arc<[Arc<str>]> {
    names(value.items_or_one().iter().filter_map(Value::text).map(|name| name.value))
}

/// Texts, as the JSON that claims are.
fn attributes(value: &Value<'_>) -> Claims {
    let entries = value.entries().into_iter();
    let claim = |(name, value): (Located<String>, Value<'_>)| {
        Some((name.value.into(), json!(value.text()?.value).to_string().into()))
    };
    Claims::new(entries.filter_map(claim).collect())
}

fn stored(value: &Value<'_>) -> Option<StoredKey> {
    let stored = value.as_text().and_then(StoredKey::parse);
    if stored.is_none() {
        // What stands here may be the key itself.
        let hint = "it reads `hmac-sha256:…`, as `portunus key new` writes it; never write the key itself";
        value.error("this is nothing that is stored of a key", hint);
    }
    stored
}

/// How a time is read.
type Parse = fn(&str) -> Result<Duration, &'static str>;

fn time(value: &Value<'_>, parse: Parse) -> Option<Duration> {
    value.parsed("write `2026-11-21` or `2026-11-21T19:30:00Z`", parse).map(|time| time.value)
}
