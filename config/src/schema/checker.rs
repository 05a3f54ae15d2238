//! As much of a JSON Schema validator as our schema needs: a keyword it does not know is a panic, so
//! that nothing in the schema goes unchecked.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use regex::Regex;
use serde_json::{Map, Value};

/// Why an instance is not valid, the first reason found; `None` if it is.
pub(super) fn fault(schema: &Value, instance: &Value) -> Option<String> {
    Checker { root: schema }.fault(schema, instance, "")
}

/// Keywords that say nothing about an instance.
const ANNOTATIONS: [&str; 6] = ["$schema", "$defs", "title", "description", "default", "examples"];

static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn fault(&self, schema: &Value, instance: &Value, at: &str) -> Option<String> {
        let schema = schema.as_object().unwrap_or_else(|| panic!("no schema at {at}: {schema}"));
        schema.iter().find_map(|(keyword, value)| {
            self.keyword((keyword, value), schema, instance, at)
                .map(|fault| if fault.contains(": ") { fault } else { format!("{at}: {fault}") })
        })
    }

    fn keyword(
        &self,
        (keyword, value): (&str, &Value),
        schema: &Map<String, Value>,
        instance: &Value,
        at: &str,
    ) -> Option<String> {
        let holds = |schema: &Value| self.fault(schema, instance, at).is_none();
        let unless = |good: bool| (!good).then(|| format!("{keyword} {value} does not hold for {instance}"));
        match keyword {
            _ if ANNOTATIONS.contains(&keyword) => None,
            "$ref" => self.fault(self.definition(value), instance, at),
            "type" => unless(has_type(instance, value.as_str().unwrap())),
            "const" => unless(instance == value),
            "enum" => unless(value.as_array().unwrap().contains(instance)),
            "pattern" => unless(instance.as_str().is_none_or(|text| matches(value, text))),
            "minLength" | "minimum" | "maximum" | "minItems" | "minProperties" => {
                unless(is_within(keyword, value.as_f64().unwrap(), instance))
            }
            "required" => unless(instance.as_object().is_none_or(|keys| {
                value.as_array().unwrap().iter().all(|key| keys.contains_key(key.as_str().unwrap()))
            })),
            "dependentRequired" => unless(instance.as_object().is_none_or(|keys| {
                let complete = |needed: &Value| {
                    needed.as_array().unwrap().iter().all(|key| keys.contains_key(key.as_str().unwrap()))
                };
                value
                    .as_object()
                    .unwrap()
                    .iter()
                    .all(|(key, needed)| !keys.contains_key(key) || complete(needed))
            })),
            "anyOf" => unless(value.as_array().unwrap().iter().any(holds)),
            "allOf" => unless(value.as_array().unwrap().iter().all(holds)),
            "not" => unless(!holds(value)),
            "if" if holds(value) => self.fault(&schema["then"], instance, at),
            "if" => self.fault(&schema["else"], instance, at),
            "then" | "else" => None,
            "items" => {
                let items = instance.as_array()?.iter().enumerate();
                items.into_iter().find_map(|(index, item)| self.fault(value, item, &format!("{at}[{index}]")))
            }
            "propertyNames" => {
                let mut names = instance.as_object()?.keys();
                names.find_map(|name| self.fault(value, &Value::from(name.as_str()), at))
            }
            "properties" => {
                let mut keys = instance.as_object()?.iter();
                keys.find_map(|(key, item)| self.fault(value.get(key)?, item, &format!("{at}.{key}")))
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let mut others = instance
                    .as_object()?
                    .iter()
                    .filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                match value {
                    Value::Bool(false) => others.next().map(|(key, _)| format!("unknown key `{key}`")),
                    value => others.find_map(|(key, item)| self.fault(value, item, &format!("{at}.{key}"))),
                }
            }
            other => panic!("the keyword `{other}` is not checked"),
        }
    }

    fn definition(&self, reference: &Value) -> &Value {
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).unwrap();
        self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }
}

/// A bound says nothing about an instance of another type.
fn is_within(keyword: &str, bound: f64, instance: &Value) -> bool {
    let length = |length: usize| u32::try_from(length).map(f64::from).unwrap();
    let measured = match keyword {
        "minLength" => instance.as_str().map(|text| length(text.chars().count())),
        "minItems" => instance.as_array().map(|items| length(items.len())),
        "minProperties" => instance.as_object().map(|keys| length(keys.len())),
        _ => instance.as_f64(),
    };
    measured.is_none_or(|measured| if keyword == "maximum" { measured <= bound } else { measured >= bound })
}

fn has_type(instance: &Value, name: &str) -> bool {
    match name {
        "object" => instance.is_object(),
        "array" => instance.is_array(),
        "string" => instance.is_string(),
        "boolean" => instance.is_boolean(),
        "integer" => instance.is_i64() || instance.is_u64(),
        "number" => instance.is_number(),
        other => panic!("the type `{other}` is not checked"),
    }
}

fn matches(pattern: &Value, text: &str) -> bool {
    let pattern = pattern.as_str().unwrap();
    let mut patterns = PATTERNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).is_match(text)
}
