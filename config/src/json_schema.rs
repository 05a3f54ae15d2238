//! Pieces of a JSON Schema: mappings with known keys, and lists.

use serde_json::{Map, Value, json};

/// A mapping with known keys and no others.
pub(crate) struct Object {
    description: String,
    properties: Map<String, Value>,
    required: Vec<&'static str>,
    exclusive: Vec<Value>,
}

impl Object {
    pub(crate) fn new(description: &str) -> Object {
        Object {
            description: description.to_owned(),
            properties: Map::new(),
            required: vec![],
            exclusive: vec![],
        }
    }

    pub(crate) fn optional(mut self, key: &'static str, schema: Value) -> Object {
        self.properties.insert(key.to_owned(), schema);
        self
    }

    pub(crate) fn required(mut self, key: &'static str, schema: Value) -> Object {
        self.required.push(key);
        self.optional(key, schema)
    }

    pub(crate) fn all(self, keys: Vec<(&'static str, Value)>) -> Object {
        keys.into_iter().fold(self, |object, (key, schema)| object.optional(key, schema))
    }

    /// At most one of the two is written.
    pub(crate) fn exclusive(mut self, first: &str, second: &str) -> Object {
        self.exclusive.push(json!({ "not": { "required": [first, second] } }));
        self
    }

    pub(crate) fn build(self) -> Value {
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

/// One value, or a list of them.
pub(crate) fn one_or_list(item: Value, least: usize, description: &str) -> Value {
    json!({
        "description": description,
        "anyOf": [item, { "type": "array", "items": item, "minItems": least }],
    })
}
