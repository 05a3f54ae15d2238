use std::path::Path;
use std::time::Duration;

use portunus_filters::identity::api_key::{KnownKey, ServerKey, mint};
use portunus_filters::identity::{AuthMethod, Principal};

use crate::keys::{ApiKeys, KeyEntry, Shown};
use crate::keys_file::KeysFile;
use crate::testing::brief;
use crate::{Loaded, MapEnvironment, Report, as_yaml, effective, load, load_text};

const DAY: Duration = Duration::from_secs(86_400);
const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECRET: &str = "server key of 32 characters or so";

/// A key and what was made of it.
fn key(seed: u8, subject: &str, age_days: u32, server_key: &ServerKey) -> (KeyEntry, String) {
    let (id, whole) = mint(&[seed; 42]);
    let known = KnownKey::new(id, Principal::named("acme", subject), server_key.store(&whole), None);
    (KeyEntry { known: KnownKey { created: Some(NOW - age_days * DAY), ..known }, note: None }, whole)
}

fn file(keys: &[&KeyEntry]) -> String {
    KeysFile { keys: keys.iter().map(|key| (*key).clone()).collect() }.to_string()
}

fn document(keys: &str) -> String {
    format!(
        "version: 1\nupstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\n\
         identity:\n  url: 'https://gw.test'\n  keys: {keys}\n"
    )
}

fn attempt(keys: &str, files: &[(&str, String)]) -> Result<Loaded, Report> {
    let files = files.iter().map(|(path, text)| (path.into(), text.clone())).collect();
    let variables = [("SERVER_KEY".to_owned(), SECRET.to_owned()), ("SHORT".to_owned(), "x".to_owned())];
    let environment = MapEnvironment { files, variables: variables.into(), now: NOW };
    load_text(&document(keys), Path::new("g.yaml"), &environment)
}

fn compiled(keys: &str, files: &[(&str, String)]) -> ApiKeys {
    let loaded = attempt(keys, files).unwrap_or_else(|report| panic!("{report}"));
    let keys = loaded.snapshot.identities.unwrap().keys.clone().unwrap();
    ApiKeys::clone(&keys)
}

#[test]
fn keys_come_from_files_and_from_the_document() {
    let none = ServerKey::none();
    let [(one, first), (two, second), (three, third)] =
        [(1, "anna"), (2, "bert"), (3, "cleo")].map(|(seed, subject)| key(seed, subject, 0, &none));
    let files = [("a.yaml", file(&[&one])), ("b.yaml", file(&[&two]))];
    let entry = format!("{{for: acme/cleo, hash: '{}', roles: [b, a, b]}}", three.known.stored);
    let keys = compiled(
        &format!(
            "{{files: [a.yaml, b.yaml], entries: {{{}: {entry}}}, shown_in: [bearer, X-API-Key]}}",
            three.known.id
        ),
        &files,
    );
    for (whole, subject) in [(&first, "anna"), (&second, "bert"), (&third, "cleo")] {
        let known = keys.table.verify(whole, NOW).unwrap();
        assert_eq!((&*known.holder.subject, known.holder.auth), (subject, AuthMethod::ApiKey));
    }
    let roles = &keys.table.verify(&third, NOW).unwrap().holder.roles;
    assert_eq!(roles.iter().map(|role| &**role).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(keys.shown_in, [Shown::Bearer, Shown::Header("x-api-key".parse().unwrap())]);
    assert_eq!(compiled("a.yaml", &files).shown_in, [Shown::Bearer]);
}

#[test]
fn what_verified_holds_until_something_about_the_keys_changes() {
    let none = ServerKey::none();
    let ((one, _), (two, _)) = (key(1, "anna", 0, &none), key(2, "bert", 0, &none));
    let id = |keys: &[&KeyEntry]| compiled("a.yaml", &[("a.yaml", file(keys))]).id;
    assert_eq!(id(&[&one, &two]), id(&[&two, &one]));
    let mut revoked = two.clone();
    revoked.known.revoked = Some(NOW);
    let (_, other) = mint(&[9; 42]);
    let mut changed = two.clone();
    changed.known.stored = none.store(&other);
    let mut promoted = two.clone();
    let holder = Principal { roles: [("admin").into()].into(), ..Principal::clone(&two.known.holder) };
    promoted.known = KnownKey {
        created: two.known.created,
        ..KnownKey::new(two.known.id.clone(), holder, two.known.stored, None)
    };
    for (name, next) in [("revoked", revoked), ("changed", changed), ("promoted", promoted)] {
        assert_ne!(id(&[&one, &two]), id(&[&one, &next]), "{name}");
    }
}

#[test]
fn a_server_key_is_what_its_keys_need() {
    let (ours, whole) = key(1, "anna", 0, &ServerKey::new(SECRET.as_bytes()));
    let files = [("a.yaml", file(&[&ours]))];
    let keys = compiled("{files: a.yaml, server_key: 'env:SERVER_KEY'}", &files);
    assert!(keys.table.verify(&whole, NOW).is_ok());
    let problems: Vec<_> = attempt("a.yaml", &files).unwrap_err().0.iter().map(brief).collect();
    let expected = format!("keys.{}: this key was made under the server key `", ours.known.id);
    assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{problems:?}");
}

#[test]
fn old_keys_are_warned_about_with_what_to_do() {
    let none = ServerKey::none();
    let make = |seed, subject, age| key(seed, subject, age, &none).0;
    let (fresh, due, replaced, newer) =
        (make(1, "anna", 74), make(2, "bert", 75), make(3, "cleo", 90), make(4, "cleo", 1));
    let mut gone = make(5, "dora", 400);
    gone.known.revoked = Some(NOW);
    let text = file(&[&fresh, &due, &replaced, &newer, &gone]);
    let warnings = attempt("a.yaml", &[("a.yaml", text)]).unwrap().warnings;
    let old: Vec<_> = warnings.iter().filter(|warning| warning.problem.ends_with("days old")).collect();
    let told = |key: &KeyEntry| {
        let path = format!("keys.{}", key.known.id);
        old.iter().find(|warning| warning.path == path).map(|warning| warning.hint.as_str())
    };
    assert_eq!(old.len(), 2, "{old:?}");
    assert!(told(&due).unwrap().starts_with("make a new one"), "{old:?}");
    assert_eq!(
        told(&replaced),
        Some(&*format!("its holder has a newer one: `portunus key revoke {}`", replaced.known.id))
    );
}

#[test]
fn a_thousand_old_keys_are_not_a_thousand_lines() {
    let none = ServerKey::none();
    let keys: Vec<_> = (0..30).map(|seed| key(seed, &format!("s{seed}"), 100, &none).0).collect();
    let text = file(&keys.iter().collect::<Vec<_>>());
    let warnings = attempt("a.yaml", &[("a.yaml", text)]).unwrap().warnings;
    assert_eq!(warnings.iter().filter(|warning| warning.problem.ends_with("days old")).count(), 10);
    assert!(warnings.iter().any(|warning| warning.problem == "20 further keys are as old"));
}

#[test]
fn what_is_printed_is_read_again() {
    let (one, _) = key(1, "anna", 0, &ServerKey::none());
    let text = format!(
        "{{files: a.yaml, server_key: 'env:SERVER_KEY', shown_in: X-API-Key, entries: {{{}: {{for: acme/anna, hash: '{}', created: '2026-11-21', note: laptop}}}}}}",
        one.known.id, one.known.stored
    );
    let files = [("a.yaml", file(&[]))];
    let loaded = attempt(&text, &files).unwrap();
    let printed = as_yaml(&effective(&loaded.bootstrap, &loaded.snapshot));
    assert!(!printed.contains(SECRET), "{printed}");
    let files = [("a.yaml".into(), file(&[])), ("g.yaml".into(), printed.clone())];
    let variables = [("SERVER_KEY".to_owned(), SECRET.to_owned())];
    let environment = MapEnvironment { files: files.into(), variables: variables.into(), now: NOW };
    let again =
        load(Path::new("g.yaml"), &environment).unwrap_or_else(|report| panic!("{report}\n{printed}"));
    assert_eq!(as_yaml(&effective(&again.bootstrap, &again.snapshot)), printed);
}

#[test]
fn wrong_keys_are_named() {
    let (one, _) = key(1, "anna", 0, &ServerKey::none());
    let both = [("a.yaml", file(&[&one])), ("b.yaml", file(&[&one]))];
    let table = [
        ("{}", "identity.keys: no key is named"),
        ("{files: []}", "identity.keys.files: the list is empty"),
        ("nowhere.yaml", "identity.keys: `nowhere.yaml` cannot be read: entity not found"),
        (
            "{files: a.yaml, server_key: 'env:SHORT'}",
            "identity.keys.server_key: `env:SHORT` has fewer than 32",
        ),
        ("{files: a.yaml, server_key: hunter2}", "identity.keys.server_key: a reference to a secret should"),
        ("{files: a.yaml, shown_in: []}", "identity.keys.shown_in: the list is empty"),
        ("{files: a.yaml, shown_in: Cookie}", "identity.keys.shown_in: a page of any origin can make a"),
        ("{files: a.yaml, shown_in: Authorization}", "identity.keys.shown_in: `Authorization` is not set as"),
        ("{files: a.yaml, shown_in: [bearer, bearer]}", "identity.keys.shown_in: a place is named twice"),
        ("[a.yaml, b.yaml]", "keys.aeaqcaibaeaqcaib: a key of this id is written twice"),
    ];
    for (keys, expected) in table {
        let found: Vec<_> = attempt(keys, &both).unwrap_err().0.iter().map(brief).collect();
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{keys}: {found:?}");
        assert!(!found.join(" ").contains("hunter2"));
    }
}
