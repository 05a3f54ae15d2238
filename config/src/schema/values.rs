//! Pieces that schemas are made of.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use crate::json_schema::{Object, one_or_list};

use crate::document::{CallLimit, LimitExceptionDocument, LimitMatchDocument};
use crate::units::show_duration;

/// What `$ref` names.
pub(crate) fn definitions() -> Value {
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
        "call_limit": CallLimit::object(),
        "limit_match": LimitMatchDocument::object(),
        "limit_exception": LimitExceptionDocument::object(),
        "key_file": {
            "type": "string",
            "minLength": 1,
            "pattern": "^[^\\n]+$",
            "examples": ["tls/gateway.key", "env:KEY", "secret:NAME"],
        },
    })
}

/// One of the definitions, with what it is for.
pub(crate) fn defined(name: &str, description: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}"), "description": description })
}

pub(crate) fn label(description: &str) -> Value {
    defined("label", description)
}

pub(crate) fn path(description: &str) -> Value {
    defined("path", description)
}

/// A duration with its default.
pub(crate) fn duration(default: Duration, description: &str) -> Value {
    with_default(defined("duration", description), json!(show_duration(default)))
}

/// A size with its default in bytes.
pub(crate) fn size(default: Option<usize>, description: &str) -> Value {
    match default {
        Some(bytes) => with_default(defined("size", description), json!(bytes)),
        None => defined("size", description),
    }
}

/// A whole number with its range and default.
pub(crate) fn count(range: RangeInclusive<usize>, default: Option<usize>, description: &str) -> Value {
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
pub(crate) fn words(words: &[&str], description: &str) -> Value {
    json!({ "description": description, "enum": words, "default": words.first() })
}

/// `true` or `false`.
pub(crate) fn flag(default: bool, description: &str) -> Value {
    json!({ "description": description, "type": "boolean", "default": default })
}

/// Any of several forms.
pub(crate) fn forms(description: &str, forms: Vec<Value>) -> Value {
    json!({ "description": description, "anyOf": forms })
}

/// A mapping with keys of the document's own choosing.
pub(crate) fn mapping(keys: Value, values: Value, least: usize, description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "propertyNames": keys,
        "additionalProperties": values,
        "minProperties": least,
    })
}

pub(crate) fn with_default(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}
