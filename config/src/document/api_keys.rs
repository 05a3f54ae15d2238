//! `identity.keys`: API keys, and where clients show them.

use std::path::PathBuf;

use portunus_filters::identity::api_key::KeyTable;

use super::key_entries::entries;
use super::secrets::reference;
use crate::diagnostic::{Located, Place};
use crate::headers;
use crate::keys::{KeyEntry, Shown};
use crate::reader::Value;
use crate::reference::Reference;

/// `identity.keys`.
#[derive(Clone, Debug)]
pub struct ApiKeysDocument {
    /// Where it is written.
    pub place: Place,
    /// `files`, as `portunus key` writes them.
    pub files: Vec<Located<PathBuf>>,
    /// `entries`, in place.
    pub entries: Vec<Located<KeyEntry>>,
    /// `server_key`, one or several.
    pub server_keys: Vec<Located<Reference>>,
    /// `shown_in`.
    pub shown_in: Vec<Shown>,
}

const FILE_HINT: &str = "name a file that `portunus key new` has written: `keys: keys.yaml`";

/// `keys: keys.yaml`, or `{files, entries, server_key, shown_in}`.
pub(super) fn keys(value: &Value<'_>) -> Option<ApiKeysDocument> {
    if !value.is_mapping() {
        let files = files(value);
        return Some(ApiKeysDocument {
            place: value.place(),
            files,
            entries: vec![],
            server_keys: vec![],
            shown_in: vec![Shown::Bearer],
        });
    }
    value.section(|section| {
        let written = section.value("files");
        let written_here = section.value("entries");
        if written.is_none() && written_here.is_none() {
            section.error(section.place(), "no key is named", FILE_HINT);
        }
        ApiKeysDocument {
            place: section.place().clone(),
            files: written.map(|value| files(&value)).unwrap_or_default(),
            entries: written_here.map(|value| entries(&value)).unwrap_or_default(),
            server_keys: section.value("server_key").map(|value| server_keys(&value)).unwrap_or_default(),
            shown_in: section.value("shown_in").map_or(vec![Shown::Bearer], |value| shown_in(&value)),
        }
    })
}

fn files(value: &Value<'_>) -> Vec<Located<PathBuf>> {
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("the list is empty", FILE_HINT);
    }
    let path = |text: Located<String>| Located { value: PathBuf::from(text.value), place: text.place };
    items.iter().filter_map(Value::text).map(path).collect()
}

fn server_keys(value: &Value<'_>) -> Vec<Located<Reference>> {
    let items = value.items_or_one();
    if !(1..=KeyTable::MAX_SERVER_KEYS).contains(&items.len()) {
        let hint = format!("write 1 to {}", KeyTable::MAX_SERVER_KEYS);
        value.error(format!("{} server keys are named", items.len()), hint);
    }
    items.iter().filter_map(reference).collect()
}

fn shown_in(value: &Value<'_>) -> Vec<Shown> {
    let hint = "write `bearer`, a header such as `X-API-Key`, or a list of them";
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("the list is empty", hint);
    }
    let mut shown = vec![];
    for text in items.iter().filter_map(Value::text) {
        let place = match text.value.as_str() {
            "bearer" => Some(Shown::Bearer),
            name => header(name).map_err(|refusal| value.error(refusal.problem, refusal.hint)).ok(),
        };
        match place {
            Some(place) if shown.contains(&place) => {
                value.error("a place is named twice", "keep one of them")
            }
            Some(place) => shown.push(place),
            None => {}
        }
    }
    shown
}

fn header(name: &str) -> Result<Shown, headers::Refusal> {
    let name = headers::settable(name)?;
    if name == http::header::COOKIE {
        return Err(headers::Refusal {
            problem: "a page of any origin can make a browser send a cookie",
            hint: "name a header of its own, such as `X-API-Key`",
        });
    }
    Ok(Shown::Header(name))
}
