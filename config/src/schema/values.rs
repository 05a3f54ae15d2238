//! Pieces that schemas are made of.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::units::show_duration;

/// A mapping with known keys and no others.
pub(super) struct Object {
    description: String,
    properties: Map<String, Value>,
    required: Vec<&'static str>,
    exclusive: Vec<Value>,
}

impl Object {
    pub(super) fn new(description: &str) -> Object {
        Object {
            description: description.to_owned(),
            properties: Map::new(),
            required: vec![],
            exclusive: vec![],
        }
    }

    pub(super) fn optional(mut self, key: &'static str, schema: Value) -> Object {
        self.properties.insert(key.to_owned(), schema);
        self
    }

    pub(super) fn required(mut self, key: &'static str, schema: Value) -> Object {
        self.required.push(key);
        self.optional(key, schema)
    }

    pub(super) fn all(self, keys: Vec<(&'static str, Value)>) -> Object {
        keys.into_iter().fold(self, |object, (key, schema)| object.optional(key, schema))
    }

    /// At most one of the two is written.
    pub(super) fn exclusive(mut self, first: &str, second: &str) -> Object {
        self.exclusive.push(json!({ "not": { "required": [first, second] } }));
        self
    }

    pub(super) fn build(self) -> Value {
        let mut schema = json!({
            "description": self.description,
            "type": "object",
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema["required"] = json!(self.required);
        }
        if !self.exclusive.is_empty() {
            schema["allOf"] = json!(self.exclusive);
        }
        schema
    }
}

/// What `$ref` names.
pub(super) fn definitions() -> Value {
    json!({
        "duration": {
            "type": "string",
            "pattern": "^[0-9]+\\s*(ms|s|m|h|d)$",
            "examples": ["250ms", "30s", "5m"],
        },
        "size": {
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+\\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?$" },
            ],
            "examples": ["64KiB", "4MiB", 512],
        },
        "address": {
            "type": "string",
            "pattern": "^([0-9]+(\\.[0-9]+){3}|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$",
            "examples": ["127.0.0.1:8080", "[::1]:8080"],
        },
        "label": { "type": "string", "pattern": "^[A-Za-z0-9._/-]{1,64}$" },
        "path": { "type": "string", "minLength": 1 },
        "host": {
            "type": "string",
            "pattern": "^[^\\s/@]+$",
            "examples": ["api.example.com", "*.example.com", "10.0.0.1", "[::1]:8443"],
        },
        "secret_host": {
            "type": "string",
            "pattern": "^(https?://)?[^\\s/@]+$",
            "examples": ["api.example.com", "*.example.com", "http://mcp.internal:8080"],
        },
        "reference": {
            "type": "string",
            "pattern": "^((env|secret):[A-Za-z0-9_.-]+|file:.+)$",
            "examples": ["env:TOKEN", "file:/run/secrets/token", "secret:NAME"],
        },
        "key_file": {
            "type": "string",
            "minLength": 1,
            "pattern": "^[^\\n]+$",
            "examples": ["tls/gateway.key", "env:KEY", "secret:NAME"],
        },
    })
}

/// One of the definitions, with what it is for.
pub(super) fn defined(name: &str, description: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}"), "description": description })
}

pub(super) fn label(description: &str) -> Value {
    defined("label", description)
}

pub(super) fn path(description: &str) -> Value {
    defined("path", description)
}

/// A duration with its default.
pub(super) fn duration(default: Duration, description: &str) -> Value {
    with_default(defined("duration", description), json!(show_duration(default)))
}

/// A size with its default in bytes.
pub(super) fn size(default: Option<usize>, description: &str) -> Value {
    match default {
        Some(bytes) => with_default(defined("size", description), json!(bytes)),
        None => defined("size", description),
    }
}

/// A whole number with its range and default.
pub(super) fn count(range: RangeInclusive<usize>, default: Option<usize>, description: &str) -> Value {
    let schema = json!({
        "description": description,
        "type": "integer",
        "minimum": range.start(),
        "maximum": range.end(),
    });
    match default {
        Some(default) => with_default(schema, json!(default)),
        None => schema,
    }
}

/// One of a closed list, the first being the default.
pub(super) fn words(words: &[&str], description: &str) -> Value {
    json!({ "description": description, "enum": words, "default": words.first() })
}

/// `true` or `false`.
pub(super) fn flag(default: bool, description: &str) -> Value {
    json!({ "description": description, "type": "boolean", "default": default })
}

/// One value, or a list of them.
pub(super) fn one_or_list(item: Value, least: usize, description: &str) -> Value {
    json!({
        "description": description,
        "anyOf": [item, { "type": "array", "items": item, "minItems": least }],
    })
}

/// Any of several forms.
pub(super) fn forms(description: &str, forms: Vec<Value>) -> Value {
    json!({ "description": description, "anyOf": forms })
}

/// A mapping with keys of the document's own choosing.
pub(super) fn mapping(keys: Value, values: Value, least: usize, description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "propertyNames": keys,
        "additionalProperties": values,
        "minProperties": least,
    })
}

pub(super) fn with_default(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}
