//! Loads documents for the tests of this crate.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::diagnostic::Findings;
use crate::environment::{Environment, MapEnvironment, ProcessEnvironment};
use crate::schema::tests::assert_valid;
use crate::yaml;
use crate::{Diagnostic, Loaded, Report, Severity, load_text};

/// A document that is accepted, with an empty environment.
pub(crate) fn loaded(text: &str) -> Loaded {
    loaded_with(text, &[])
}

/// A document that is accepted, with these environment variables.
pub(crate) fn loaded_with(text: &str, variables: &[(&str, &str)]) -> Loaded {
    let loaded = load_text(text, Path::new("gateway.yaml"), &environment(variables))
        .unwrap_or_else(|report| panic!("{report}"));
    assert_valid(text);
    loaded
}

/// The errors of a document that is refused, as `path: problem`.
pub(crate) fn problems(text: &str) -> Vec<String> {
    problems_with(text, &[])
}

/// The errors of a document that is refused, with these environment variables.
pub(crate) fn problems_with(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    refused(text, &environment(variables))
        .0
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .map(brief)
        .collect()
}

/// The report on a document that is refused.
pub(crate) fn refused(text: &str, environment: &MapEnvironment) -> Report {
    match load_text(text, Path::new("gateway.yaml"), environment) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(report) => report,
    }
}

pub(crate) fn brief(diagnostic: &Diagnostic) -> String {
    match diagnostic.path.as_str() {
        "" => diagnostic.problem.clone(),
        path => format!("{path}: {}", diagnostic.problem),
    }
}

pub(crate) fn environment(variables: &[(&str, &str)]) -> MapEnvironment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    MapEnvironment { variables: variables.iter().map(owned).collect(), ..MapEnvironment::default() }
}

/// What the examples in `folder` name: variables, and certificates that nobody has checked in.
pub(crate) fn example_environment(folder: &Path) -> MapEnvironment {
    use crate::tls::testing::{Authority, files};
    let authority = Authority::new("example");
    let [gateway, partner, me] =
        ["gw.example.com", "partner.example.com", "me"].map(|n| authority.issue(&[n]));
    let (ca, list) = (authority.pem(), authority.revoke(&[], 4000));
    let pems = [
        ("gateway.pem", &gateway.chain),
        ("gateway.key", &gateway.key),
        ("partner.pem", &partner.chain),
        ("clients-ca.pem", &ca),
        ("clients.crl", &list),
        ("ca.pem", &ca),
        ("ca.crl", &list),
        ("me.pem", &me.chain),
        ("me.key", &me.key),
        ("assertion.key", &me.key),
    ];
    let mut env = files(&[("/etc/ssl/certs/ca-certificates.crt", &ca)]);
    env.files.extend(pems.map(|(name, text)| (folder.join("tls").join(name), text.clone())));
    policies(&folder.join("policy"), &mut env);
    let keys =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    env.files.insert(folder.join("keys/partner.json"), keys.to_owned());
    env.files.insert(folder.join("keys/callers.yaml"), "version: 1\nkeys: {}\n".to_owned());
    let variables = [
        ("INTROSPECTION_SECRET", "t4"),
        ("API_KEYS", "what API keys are stored under, 32 or more"),
        ("SEARCH_TOKEN", "t1"),
        ("CRM_KEY", "t2"),
        ("TEAM_TOKEN", "t3"),
        ("PARTNER_KEY", partner.key.as_str()),
        ("REPLICA", "a"),
        ("SEALING_KEY", "first key, of at least 32 characters"),
        ("OLD_SEALING_KEY", "another one, of 32 characters as well"),
    ];
    env.variables.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env
}

/// Every file below a folder, in memory.
fn policies(folder: &Path, env: &mut MapEnvironment) {
    for name in ProcessEnvironment.folder(folder).unwrap_or_default() {
        let path = folder.join(name);
        match ProcessEnvironment.file(&path) {
            Ok(text) => drop(env.files.insert(path, text)),
            Err(_) => policies(&path, env),
        }
    }
}

/// Keys that the reader asked for, by the path of their section.
pub(crate) type Sections = BTreeMap<String, BTreeSet<&'static str>>;

thread_local! {
    static SECTIONS: RefCell<Sections> = RefCell::default();
    static UNENFORCED: RefCell<BTreeSet<(String, &'static str)>> = RefCell::default();
}

/// The sections that are read on this thread while `read` runs, without keys that are not enforced.
pub(crate) fn recorded(read: impl FnOnce()) -> Sections {
    SECTIONS.take();
    UNENFORCED.take();
    read();
    let mut sections = SECTIONS.take();
    for (path, key) in UNENFORCED.take() {
        if let Some(keys) = sections.get_mut(&path) {
            keys.remove(key);
        }
    }
    sections
}

pub(crate) fn record_section(path: &str, known: &[&'static str]) {
    SECTIONS.with_borrow_mut(|sections| sections.entry(path.to_owned()).or_default().extend(known));
}

pub(crate) fn record_unenforced(path: &str, key: &'static str) {
    UNENFORCED.with_borrow_mut(|unenforced| unenforced.insert((path.to_owned(), key)));
}

/// A document as other tools see it.
pub(crate) fn as_json(text: &str) -> Option<Value> {
    yaml::parse(text, Path::new("gateway.yaml"), &Findings::default()).map(|node| node.json())
}
