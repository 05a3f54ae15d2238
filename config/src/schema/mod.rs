//! The format of a document as JSON Schema (draft 2020-12), for editors and for other tools.
//!
//! It describes what this build enforces, short and long forms alike: a section that `check` refuses
//! is not in it. What concerns several values, such as the name of an upstream that exists, is not
//! in it either; `check` has the last word. A test holds its keys equal to those of the reader.

mod api_keys;
mod caller;
#[cfg(test)]
mod checker;
mod identity;
mod peers;
mod policy;
mod process;
mod rules;
mod servers;
mod serving;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod tools;
mod values;

use serde_json::{Value, json};

use crate::document::RulesDocument;
use values::{Object, label};

/// The schema of every document: one file, bootstrap, and `gateway.yaml` of a bundle.
pub fn schema() -> Value {
    let version = json!({ "const": 1, "description": "Version of the format." });
    let revision = label("A name for people, shown before the digest of what is in force.");
    let document = Object::new("Configuration of a Portunus gateway.")
        .required("version", version)
        .optional("revision", revision)
        .all(process::keys())
        .all(peers::keys())
        .all(rules::keys())
        .exclusive("listen", "listeners")
        .build();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Portunus gateway",
        "if": { "required": ["bundle"] },
        "then": { "not": { "anyOf": written(&RulesDocument::KEYS) } },
        "else": { "required": ["upstreams", "servers"] },
        "$defs": values::definitions(),
    });
    if let (Some(schema), Value::Object(document)) = (schema.as_object_mut(), document) {
        schema.extend(document);
    }
    schema
}

/// The schema as it stands in a file.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

fn written(keys: &[&str]) -> Vec<Value> {
    keys.iter().map(|key| json!({ "required": [key] })).collect()
}
