//! The schema and the reader know the same keys, and what loads is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use super::checker::fault;
use super::{schema, schema_text};
use crate::load_text;
use crate::testing::{as_json, recorded};

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

/// Panics unless a document that was accepted is valid.
pub(crate) fn assert_valid(text: &str) {
    let Some(instance) = as_json(text) else { panic!("not readable:\n{text}") };
    if let Some(fault) = fault(&SCHEMA, &instance) {
        panic!("accepted, though the schema refuses it: {fault}\n{text}");
    }
}

/// Documents that open every section of the format, in each of its forms. `NAME` and `/PATH` stand
/// for what a document chooses.
const SECTIONS: [&str; 4] = [
    "version: 1\n\
     listeners:\n\
     - bind: 127.0.0.1:1\n  \
       limits: {}\n  \
       tls: {certificates: [{}], client_certificates: {}}\n\
     drain: {}\n\
     log: {}\n\
     access_log: {}\n\
     secrets: {NAME: {}}\n\
     egress_ceiling: {}\n\
     upstreams:\n  \
       NAME: {timeouts: {}, pool: {}, headers: {}, credentials: {header: {}}, tls: {}, health: {}, ejection: {}, caller: {assertion: {}}}\n\
     sealing: {}\n\
     peers: {tls: {}}\n\
     sessions: {}\n\
     cache: {}\n\
     tools: {NAME: {}}\n\
     controls: {}\n\
     policy: {shadow: {}}\n\
     limits:\n  \
       per_principal: {match: {}, except: {match: {}}}\n  per_tool: {match: {}, except: {match: {}}}\n  \
       per_tenant: {match: {}, except: {match: {}}}\n  per_project: {match: {}, except: {match: {}}}\n  \
       polls: {match: {}, except: {match: {}}}\n  concurrent: {match: {}, except: {match: {}}}\n  \
       loop: {match: {}, except: {match: {}}}\n  rules: [{match: {}, except: {match: {}}}]\n\
     servers: {/PATH: {bounds: {}, upstreams: {}, sessions: {}, cache: {}, parked: {}, replay: {}, answers: {}}}\n",
    "version: 1\nupstreams: {NAME: {credentials: {}}}\n\
     servers: [{bounds: {}, upstreams: [{}], sessions: {}, cache: {}, parked: {}, replay: {}, answers: {}, identity: {anonymous: {}}}]\n",
    "version: 1\nbundle: {}\n",
    "version: 1\nidentity:\n  \
       jwt: [{jwks: {}, tenant: {}, claims: {}, tls: {}}]\n  \
       introspection: [{client: {}, credentials: {header: {}}, tenant: {}, claims: {}, tls: {}}]\n  \
       mtls: {}\n  keys: {entries: {NAME: {attributes: {}}}}\n  revoked: {subjects: [{}]}\n  metadata: {}\n  anonymous: {}\n\
     servers: {/PATH: {identity: {anonymous: {}}}}\n",
];

/// Every example.
pub(crate) const EXAMPLES: [&str; 9] = [
    "minimal.yaml",
    "full.yaml",
    "edge.yaml",
    "merged.yaml",
    "policy.yaml",
    "limits.yaml",
    "identity.yaml",
    "bootstrap.yaml",
    "bundle/gateway.yaml",
];

/// Keys by section. Lists are transparent: an item is where its list is.
type Keys = BTreeMap<String, BTreeSet<String>>;

fn keys_of_the_reader() -> Keys {
    let env = crate::MapEnvironment::default();
    let sections = recorded(|| {
        SECTIONS.iter().for_each(|text| drop(load_text(text, Path::new("gateway.yaml"), &env)));
    });
    let mut keys = Keys::new();
    for (path, known) in sections {
        let shape: String = path.split(['[', ']']).step_by(2).collect();
        let shape = shape.replace(".NAME", ".*").replace("./PATH", ".*");
        keys.entry(shape).or_default().extend(known.into_iter().map(str::to_owned));
    }
    keys
}

fn keys_of_the_schema(part: &Value, path: &str, keys: &mut Keys) {
    let Some(part) = part.as_object() else { return };
    if let Some(name) = part.get("$ref").and_then(Value::as_str) {
        let definition = SCHEMA.pointer(name.trim_start_matches('#')).unwrap();
        keys_of_the_schema(definition, path, keys);
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    if let Some(properties) = part.get("properties").and_then(Value::as_object) {
        keys.entry(path.to_owned()).or_default().extend(properties.keys().cloned());
        properties.iter().for_each(|(key, property)| keys_of_the_schema(property, &below(key), keys));
    }
    if let Some(values) = part.get("additionalProperties") {
        keys_of_the_schema(values, &below("*"), keys);
    }
    if let Some(items) = part.get("items") {
        keys_of_the_schema(items, path, keys);
    }
    for form in part.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        keys_of_the_schema(form, path, keys);
    }
}

#[test]
fn the_reader_and_the_schema_know_the_same_keys() {
    let mut written = Keys::new();
    keys_of_the_schema(&SCHEMA, "", &mut written);
    assert_eq!(keys_of_the_reader(), written);
}

#[test]
fn every_example_is_valid_and_no_key_of_it_can_be_misspelt() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut written = BTreeSet::new();
    for file in EXAMPLES {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let instance = as_json(&text).unwrap();
        assert_eq!(fault(&SCHEMA, &instance), None, "{file}");
        for pointer in objects(&instance) {
            let mut misspelt = instance.clone();
            misspelt.pointer_mut(&pointer).unwrap()["xyzzy"] = Value::Null;
            assert!(fault(&SCHEMA, &misspelt).is_some(), "{file}: {pointer}");
        }
        let pointers = objects(&instance);
        written.extend(pointers.iter().flat_map(|pointer| {
            let keys = instance.pointer(pointer).and_then(Value::as_object).unwrap().keys();
            keys.cloned().collect::<Vec<_>>()
        }));
        let steps = "/".repeat(file.matches('/').count() + 1).replace('/', "../");
        let line = format!("# yaml-language-server: $schema={steps}gateway.schema.json\n");
        assert!(text.starts_with(&line), "{file} begins with {line}");
    }
    let mut known = Keys::new();
    keys_of_the_schema(&SCHEMA, "", &mut known);
    let absent: BTreeSet<_> = known.into_values().flatten().filter(|key| !written.contains(key)).collect();
    // The comments of the examples show these: other forms of what is there.
    assert_eq!(absent, ["builtin", "file"].map(str::to_owned).into());
}

/// Where the objects of a document are, as JSON pointers.
fn objects(instance: &Value) -> Vec<String> {
    let nested = |(key, value): (String, &Value)| -> Vec<String> {
        let key = key.replace('~', "~0").replace('/', "~1");
        objects(value).into_iter().map(|rest| format!("/{key}{rest}")).collect()
    };
    match instance {
        Value::Object(keys) => {
            let below = keys.iter().flat_map(|(key, value)| nested((key.clone(), value)));
            std::iter::once(String::new()).chain(below).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| nested((index.to_string(), item))).collect()
        }
        _ => vec![],
    }
}

#[test]
fn what_an_editor_should_mark_is_not_valid() {
    let rules = "upstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";
    let table = [
        ("no version", rules.to_owned()),
        ("no rules", "version: 1\n".to_owned()),
        ("rules beside a bundle", format!("version: 1\nbundle: b\n{rules}")),
        ("two forms", format!("version: 1\nlisten: 127.0.0.1:1\nlisteners: ['127.0.0.1:2']\n{rules}")),
        ("a bare number", format!("version: 1\ndrain: 5\n{rules}")),
        ("a word", format!("version: 1\nlog: loud\n{rules}")),
        ("no port", format!("version: 1\nlisten: 127.0.0.1\n{rules}")),
        ("a section that is not built", format!("version: 1\negress: {{}}\n{rules}")),
        (
            "a value for a secret",
            format!(
                "version: 1\n{}",
                rules.replace("'http://localhost:1/'", "{url: 'http://h/', credentials: {bearer: hunter2}}")
            ),
        ),
        (
            "a key without certificate",
            format!(
                "version: 1\n{}",
                rules.replace("'http://localhost:1/'", "{url: 'https://h/', tls: {key: k}}")
            ),
        ),
    ];
    for (name, text) in table {
        assert!(fault(&SCHEMA, &as_json(&text).unwrap()).is_some(), "{name}");
    }
    assert_eq!(fault(&SCHEMA, &as_json(&format!("version: 1\n{rules}")).unwrap()), None);
}

#[test]
fn the_file_is_what_the_command_prints() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.schema.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == schema_text(), "write it again: `portunus schema > config/gateway.schema.json`");
}

#[test]
fn defaults_of_the_schema_are_valid_themselves() {
    fn check(part: &Value, path: &str) {
        let Some(keys) = part.as_object() else { return };
        for value in keys
            .get("default")
            .into_iter()
            .chain(keys.get("examples").and_then(Value::as_array).into_iter().flatten())
        {
            let mut own = part.clone();
            own["$defs"] = SCHEMA["$defs"].clone();
            assert_eq!(fault(&own, value), None, "{path}");
        }
        for (key, below) in keys {
            match below {
                // Keys in here are the document's: one of them may be called `default`.
                Value::Object(properties) if key == "properties" => {
                    properties.iter().for_each(|(key, below)| check(below, &format!("{path}/{key}")));
                }
                Value::Array(items) => items.iter().for_each(|item| check(item, &format!("{path}/{key}"))),
                below => check(below, &format!("{path}/{key}")),
            }
        }
    }
    check(&SCHEMA, "");
}
