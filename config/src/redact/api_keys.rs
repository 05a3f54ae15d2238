//! API keys, as a document would write them.

use serde_json::{Value, json};

use super::{texts, unless_empty};
use crate::keys::{ApiKeys, Shown, as_document};

pub(super) fn api_keys(keys: &ApiKeys) -> Value {
    let entries = keys.entries.iter().map(|key| (key.known.id.to_string(), as_document(key)));
    let entries: serde_json::Map<String, Value> = entries.collect();
    let shown = keys.shown_in.iter().map(|shown| match shown {
        Shown::Bearer => "bearer",
        Shown::Header(name) => name.as_str(),
    });
    let files: Vec<String> = keys.files.iter().map(|file| file.display().to_string()).collect();
    json!({
        "files": unless_empty(files),
        "entries": (!entries.is_empty()).then_some(entries),
        "server_key": unless_empty(texts(&keys.server_keys)),
        "shown_in": shown.collect::<Vec<_>>(),
    })
}
