//! A value as YAML that a person reads and the reader of documents takes back.

use serde_json::Value;

/// Keys that come before others, wherever they stand; the rest follows in alphabetical order.
const FIRST: [&str; 14] = [
    "version",
    "revision",
    "name",
    "path",
    "bind",
    "url",
    "listeners",
    "telemetry",
    "admin",
    "upstreams",
    "servers",
    "certificates",
    "certificate",
    "key",
];

/// The value as YAML in block style, with a line end.
pub fn as_yaml(value: &Value) -> String {
    let mut out = String::new();
    match is_block(value) {
        true => block(&mut out, value, 0, false),
        false => out = format!("{}\n", scalar(value)),
    }
    out
}

/// Writes the entries of a mapping or list; the first may stand beside the dash that it belongs to.
fn block(out: &mut String, value: &Value, indent: usize, mut beside: bool) {
    for (head, value) in entries(value) {
        if !beside {
            out.push_str(&" ".repeat(indent));
        }
        beside = false;
        out.push_str(&head);
        match is_block(value) {
            true => {
                let below_dash = head == "-";
                out.push(if below_dash { ' ' } else { '\n' });
                block(out, value, indent + 2, below_dash);
            }
            false => {
                out.push(' ');
                out.push_str(&scalar(value));
                out.push('\n');
            }
        }
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(keys) => !keys.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// What stands before each value: its key, or a dash.
fn entries(value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Object(keys) => {
            let mut keys: Vec<_> = keys.iter().collect();
            keys.sort_by_key(|(key, _)| FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()));
            keys.into_iter().map(|(key, value)| (format!("{}:", text(key)), value)).collect()
        }
        Value::Array(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
        _ => vec![],
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        other => other.to_string(),
    }
}

/// A text as a scalar: bare where it cannot be read as anything else, in quotes where it could.
fn text(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
    let word =
        text.bytes().all(plain) && text.starts_with(|first: char| first.is_ascii_lowercase() || first == '/');
    match word && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// In double quotes, with escapes for everything that is not printable ASCII.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            other => out.push_str(&format!("\\U{:08x}", u32::from(other))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::tests::EXAMPLES;
    use crate::testing::{as_json, example_environment};
    use crate::{Attempt, Loaded, MapEnvironment, effective};

    #[test]
    fn blocks_are_indented_and_the_first_keys_come_first() {
        let value = json!({
            "drain": {"delay": "0s"},
            "version": 1,
            "listeners": [{"limits": {}, "bind": "127.0.0.1:1", "hosts": ["a.org", "[::1]"]}, "off"],
            "empty": [],
        });
        let expected = "version: 1\nlisteners:\n  - bind: \"127.0.0.1:1\"\n    hosts:\n      - a.org\n      \
                        - \"[::1]\"\n    limits: {}\n  - \"off\"\ndrain:\n  delay: \"0s\"\nempty: []\n";
        assert_eq!(as_yaml(&value), expected);
    }

    /// Texts that a reader of YAML could take for something else.
    fn awkward() -> impl Strategy<Value = String> {
        let known =
            ["true", "~", "1.2", "- a", "a: b", "#", "'", "\"\\", "\u{202e}", "\n", " a ", "&x", "*y", ""];
        prop_oneof![proptest::sample::select(known.to_vec()).prop_map(str::to_owned), ".{0,12}"]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            keys in proptest::collection::btree_map("[ -~]{1,8}", awkward(), 1..4),
            items in proptest::collection::vec(awkward(), 1..4),
        ) {
            let value = json!({"map": keys, "list": items, "nested": [[items], {"deep": keys}]});
            let text = as_yaml(&value);
            prop_assert!(text.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "{text}");
            prop_assert_eq!(as_json(&text), Some(value));
        }
    }

    /// What a document comes to once it is printed and read again in its folder.
    fn round_trip(path: &Path, env: &MapEnvironment) -> (Loaded, Loaded) {
        let load = |env: &MapEnvironment| {
            Attempt::new(path, env).outcome.unwrap_or_else(|report| panic!("{report}"))
        };
        let first = load(env);
        let mut again = env.clone();
        let text = as_yaml(&effective(&first.bootstrap, &first.snapshot));
        crate::schema::tests::assert_valid(&text);
        again.files.insert(path.to_owned(), text);
        let second = load(&again);
        (first, second)
    }

    /// All that is in virtual servers and their upstreams.
    fn servers(loaded: &Loaded) -> Vec<String> {
        loaded.snapshot.routes.iter().map(|server| format!("{server:?}")).collect()
    }

    #[test]
    fn an_effective_configuration_is_accepted_and_comes_to_the_same() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut env = example_environment(&folder);
        for file in EXAMPLES {
            let path = folder.join(file);
            env.files.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
        }
        for file in EXAMPLES.into_iter().filter(|file| !file.starts_with("bundle/")) {
            let (first, second) = round_trip(&folder.join(file), &env);
            let of = |loaded: &Loaded| effective(&loaded.bootstrap, &loaded.snapshot);
            assert_eq!(of(&first), of(&second), "{file}");
            assert_eq!(first.bootstrap, second.bootstrap, "{file}");
            assert_eq!(servers(&first), servers(&second), "{file}: something is not printed");
            let keys =
                |loaded: &Loaded| loaded.snapshot.upstreams.iter().map(|one| one.key).collect::<Vec<_>>();
            let sorted = |mut keys: Vec<crate::UpstreamKey>| {
                keys.sort_unstable();
                keys
            };
            assert_eq!(sorted(keys(&first)), sorted(keys(&second)), "{file}: another identity");
        }
    }

    #[test]
    fn nothing_is_printed_as_its_default_that_is_not() {
        let text = "version: 1\nreplica: a\nsealing: ['env:NEW', 'env:OLD']\n\
            peers: {listen: '127.0.0.1:1', members: {b: 'http://127.0.0.1:2'}}\nupstreams:\n  \
            x: {replicas: ['http://h/', 'http://i/'], health: {interval: 9s, timeout: 8s, unhealthy_after: 7},\n    \
            ejection: {after: 2, base: 3s}, sessions: shared, stateless_ok: true, trust_cache_scope: true,\n    \
            labels: {region: eu}}\n  y: {url: 'http://j/', transport: sse}\nservers:\n  \
            /mcp: {upstreams: [{name: m, upstream: x}, {name: t, by_tenant: {acme: x}, otherwise: y},\n    \
            {name: u, by_tenant: {acme: x}}, {name: r, selector: where, regions: {a: x, b: y}, default: b}],\n    \
            names: none, separator: '-', allow: 'm.*', deny: ['*.x'], rename: {m.a: b}, describe: {m.a: 'A: b.'},\n    \
            bridge: false, sessions: {idle: 1s, lifetime: 2s, max: 3}, parked: {max: 4, per_caller: 5, within: 6s},\n    \
            cache: {lists: 7s, max_ttl: 8s, stale: 9s, revalidate: 15s, legacy_reads: 16s,\n    \
            coalesce: 10s, reads: false, max_bytes: 11},\n    \
            replay: {events: 12, bytes: 13}, keepalive: 14s, list_timeout: 15s, http_sse: true}\n  \
            /off: {upstreams: y, cache: 'off', names: prefix}\n";
        let key = |character: &str| character.repeat(32);
        let mut env = crate::testing::environment(&[("NEW", &key("n")), ("OLD", &key("o"))]);
        env.files.insert("gateway.yaml".into(), text.to_owned());
        let (first, second) = round_trip(Path::new("gateway.yaml"), &env);
        assert_eq!(first.bootstrap, second.bootstrap);
        assert_eq!(servers(&first), servers(&second));
    }

    #[test]
    fn files_of_a_bundle_are_named_from_its_bootstrap() {
        use crate::tls::testing::{Authority, files};
        let authority = Authority::new("root");
        let pair = authority.issue(&["me"]);
        let rules = "version: 1\nupstreams: {a: {url: 'https://h/', headers: {set: {X-Team: 'secret:me2'}},\n  \
                     tls: {ca: tls/ca, certificate: me, key: 'secret:me'}}}\nservers: {/mcp: a}\n";
        let bootstrap = "version: 1\nlisten: '0.0.0.0:1'\nanonymous: allow\nbundle: b\nsecrets:\n  \
                         me: {from: 'file:keys/me', hosts: h}\n  me2: {from: 'env:T', hosts: h}\n";
        let mut env = files(&[
            ("c/gateway.yaml", bootstrap),
            ("c/b/gateway.yaml", rules),
            ("c/b/tls/ca", &authority.pem()),
            ("c/b/me", &pair.chain),
            ("c/keys/me", &pair.key),
        ]);
        env.variables.insert("T".to_owned(), "t0k".to_owned());
        let (first, second) = round_trip(Path::new("c/gateway.yaml"), &env);
        let shown = effective(&second.bootstrap, &second.snapshot);
        assert_eq!(shown["upstreams"]["a"]["tls"]["ca"], "b/tls/ca");
        assert_eq!(shown["upstreams"]["a"]["tls"]["key"], "file:keys/me");
        assert_eq!(shown["upstreams"]["a"]["headers"]["set"]["x-team"], "env:T");
        assert_eq!(first.snapshot.upstreams[0].key, second.snapshot.upstreams[0].key);
    }
}
