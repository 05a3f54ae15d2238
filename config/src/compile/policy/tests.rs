//! Policies of documents: found, compiled, held against what the document says.

use std::path::{Path, PathBuf};

use portunus_filters::authorize::Entry;

use crate::testing::{brief, example_environment};
use crate::{
    Attempt, Environment as _, ListRule, Loaded, MapEnvironment, ProcessEnvironment, Report, Severity,
    load_policy, load_untested,
};

const HEAD: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

/// A policy that asks for a role and reads no arguments.
const PLAIN: &str = "package mcp.authz\nimport rego.v1\n\ndefault decision := false\n\n\
                     decision if \"staff\" in input.principal.roles\n";

const WITH_ARGUMENTS: &str = "package mcp.authz\nimport rego.v1\n\ndefault decision := false\n\n\
                              decision if input.mcp.arguments.region == \"eu\"\n";

fn attempt(section: &str, files: &[(&str, &str)]) -> Attempt {
    Attempt::new(Path::new("c/gateway.yaml"), &environment(section, files))
}

fn environment(section: &str, files: &[(&str, &str)]) -> MapEnvironment {
    let mut env = MapEnvironment::default();
    env.files.insert("c/gateway.yaml".into(), format!("{HEAD}{section}\n"));
    env.files.extend(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())));
    env
}

fn loaded(section: &str, files: &[(&str, &str)]) -> Loaded {
    attempt(section, files).outcome.unwrap_or_else(|report| panic!("{report}"))
}

fn problems(section: &str, files: &[(&str, &str)]) -> Vec<String> {
    let Err(Report(found)) = attempt(section, files).outcome else { panic!("accepted: {section}") };
    let errors = found.iter().filter(|found| found.severity == Severity::Error);
    let at = |found: &crate::Diagnostic| {
        let at = found.at.as_ref().filter(|at| !at.file.ends_with("gateway.yaml"));
        at.map(|at| format!("{}:{}: ", at.file.display(), at.line)).unwrap_or_default()
    };
    errors.map(|found| format!("{}{}", at(found), brief(found))).collect()
}

#[test]
fn rules_and_data_are_found_where_opa_finds_them() {
    let loaded = loaded(
        "policy: rules",
        &[
            ("c/rules/a.rego", PLAIN),
            ("c/rules/deep/b_test.rego", "package mcp.authz_test\n"),
            ("c/rules/limits/any.json", "{\"daily\": 5}"),
            ("c/rules/README.md", "no policy"),
            ("c/rules/.hidden.rego", "no policy"),
            ("c/data/zones.yaml", "zones: {office: [10.0.0.0/8]}"),
        ],
    );
    let policy = loaded.snapshot.policy.unwrap();
    let modules: Vec<&str> = policy.source.modules.iter().map(|module| module.path.as_str()).collect();
    assert_eq!(modules, ["c/rules/a.rego", "c/rules/deep/b_test.rego"]);
    assert_eq!(policy.source.data["limits"], serde_json::json!({"daily": 5}));
    assert_eq!(policy.zones.of("10.1.1.1".parse().unwrap()), Some("office"));
    assert_eq!(policy.source.data["portunus"]["upstreams"]["a"]["url"], "http://localhost:1/");
    assert_eq!(policy.lists, ListRule::Decision);
    assert!(loaded.sources.contains(&PathBuf::from("c/data/zones.yaml")));
    assert!(loaded.warnings.iter().all(|warning| !warning.problem.contains("without `policy`")));
}

#[test]
fn no_secret_is_among_the_data() {
    let section = "policy: rules\nsecrets: {s: {from: 'env:T', hosts: [h.example.com]}}";
    let text = format!("{HEAD}{section}\n").replace(
        "'http://localhost:1/'",
        "{url: 'https://h.example.com/?key=hunter2', credentials: {bearer: 'env:T'}, \
         headers: {set: {X-Key: hunter2}}}",
    );
    let mut env = environment("", &[("c/rules/a.rego", PLAIN)]);
    env.files.insert("c/gateway.yaml".into(), text.replace("https:", "http:"));
    env.variables.insert("T".to_owned(), "hunter2".to_owned());
    let loaded = Attempt::new(Path::new("c/gateway.yaml"), &env).outcome.unwrap();
    let data = serde_json::to_string(&loaded.snapshot.policy.unwrap().source.data).unwrap();
    assert!(!data.contains("hunter2") && data.contains("h.example.com"), "{data}");
}

#[test]
fn what_is_wrong_with_rules_is_reported_with_everything_else() {
    let impure = "package mcp.authz\nimport rego.v1\n\ndecision := http.send({})\n";
    let table: [(&str, &[(&str, &str)], &[&str]); 11] = [
        ("policy: rules", &[], &["policy: `c/rules` cannot be read: entity not found"]),
        ("policy: rules", &[("c/rules/a.json", "{}")], &["policy: `rules` has no rules"]),
        ("policy: rules", &[("c/rules/a_test.rego", PLAIN)], &["policy: `rules` has no rules"]),
        (
            "policy: rules\negress: {}",
            &[("c/rules/a.rego", impure)],
            &[
                "egress: this build cannot enforce `egress`",
                "c/rules/a.rego:4: `http.send` is not for policy that decides on messages",
            ],
        ),
        (
            "policy: rules",
            &[("c/rules/a.rego", PLAIN), ("c/rules/b.json", "{\"x\": 1}"), ("c/rules/c.yaml", "x: 2")],
            &["c/rules/c.yaml:1: another file has `data.x` as well"],
        ),
        (
            "policy: rules",
            &[("c/rules/a.rego", PLAIN), ("c/rules/b.json", "{\"x\": 1,\n\"x\": 2}")],
            &["c/rules/b.json:2: this is not valid JSON: the key `x` is written twice at line 2 column 7"],
        ),
        (
            "policy: rules",
            &[("c/rules/a.rego", PLAIN), ("c/rules/b.yaml", "[1]")],
            &["c/rules/b.yaml:1: this file of data is no mapping"],
        ),
        ("policy: rules", &[("c/rules/a.rego", PLAIN), ("c/rules/b.yaml", "portunus: {}")], &[]),
        (
            "policy: rules",
            &[("c/rules/a.rego", PLAIN), ("c/rules/b.yaml", "portunus: {upstreams: 1}")],
            &["data.portunus:1: another file has `data.portunus.upstreams` as well"],
        ),
        (
            "policy: rules",
            &[("c/rules/a.rego", WITH_ARGUMENTS)],
            &["policy: the rule that decides reads arguments, so it cannot say what lists show"],
        ),
        (
            "policy: {path: rules, lists: by_visible}",
            &[("c/rules/a.rego", PLAIN)],
            &["policy.lists: the rules have no `visible`"],
        ),
    ];
    for (section, files, expected) in table {
        match expected {
            [] => drop(loaded(section, files)),
            expected => assert_eq!(problems(section, files), expected, "{section} {files:?}"),
        }
    }
}

#[test]
fn wrong_sections_are_named() {
    let rules = [("c/rules/a.rego", PLAIN)];
    let table = [
        ("policy: 5", "policy: no policy stands here"),
        ("policy: {}", "policy: `path` is missing"),
        ("policy: {path: rules, builtin: rbac}", "policy.builtin: both `path` and `builtin` are written"),
        ("policy: {builtin: abac, data: x}", "policy.builtin: `abac` is not known here"),
        ("policy: {builtin: rbac}", "policy: `data` is missing"),
        ("policy: {path: rules, entrypoint: x}", "policy.entrypoint: `x`: is no path of a rule"),
        ("policy: {path: rules, entrypoint: mcp/authz/x}", "policy: the policy has no rule data.mcp.authz.x"),
        ("policy: {path: rules, cache_ttl: 0s}", "policy.cache_ttl: `0s` is out of range"),
        ("policy: {path: rules, lists: all}", "policy.lists: `all` is not known here"),
        ("policy: {path: rules, time_zone: Mars/Olympus}", "policy: `Mars/Olympus` is no time zone"),
        ("policy: {path: rules, time_limit: 11s}", "policy.time_limit: `11s` is out of range"),
        ("policy: {path: rules, shadow: {}}", "policy.shadow: `path` is missing"),
        (
            "policy: {path: rules, shadow: {path: no}}",
            "policy.shadow.path: `c/no` cannot be read: entity not found",
        ),
    ];
    for (section, problem) in table {
        assert_eq!(problems(section, &rules), [problem], "{section}");
    }
}

#[test]
fn lists_follow_from_the_rules_unless_the_document_says_otherwise() {
    let visible = format!("{WITH_ARGUMENTS}\ndefault visible := true\n");
    let table = [
        ("policy: rules", PLAIN, ListRule::Decision),
        ("policy: rules", &visible, ListRule::Visible),
        ("policy: {path: rules, lists: show}", &visible, ListRule::Show),
        ("policy: {path: rules, lists: hide}", WITH_ARGUMENTS, ListRule::WithoutArguments),
        ("policy: {path: rules, lists: show}", WITH_ARGUMENTS, ListRule::Show),
    ];
    for (section, rules, expected) in table {
        let policy = loaded(section, &[("c/rules/a.rego", rules)]).snapshot.policy.unwrap();
        assert_eq!(policy.lists, expected, "{section}");
    }
}

#[test]
fn a_policy_is_watched_and_part_of_the_revision() {
    let files = [("c/rules/a.rego", PLAIN), ("c/rules/d/x.json", "{\"v\": 1}")];
    let digest = |files: &[(&str, &str)]| loaded("policy: rules", files).snapshot.revision.digest;
    let first = digest(&files);
    assert_ne!(first, digest(&[files[0], ("c/rules/d/x.json", "{\"v\": 2}")]), "data counts");
    assert_ne!(first, digest(&[files[0], ("c/rules/e/x.json", "{\"v\": 1}")]), "where data lies counts");
    assert_ne!(first, digest(&files[..1]));
    let mut env = environment("policy: rules", &files);
    let fingerprint = Attempt::new(Path::new("c/gateway.yaml"), &env).fingerprint;
    assert!(!fingerprint.changed(&env));
    for added in ["c/rules/new.rego", "c/rules/d/new.json", "c/data/new.json"] {
        let mut env = env.clone();
        env.files.insert(added.into(), "{}".to_owned());
        assert!(fingerprint.changed(&env), "{added}");
    }
    env.files.insert("c/rules/a.rego".into(), WITH_ARGUMENTS.to_owned());
    assert!(fingerprint.changed(&env));
}

#[test]
fn a_bundle_takes_rules_from_its_own_folder_only() {
    let mut env = MapEnvironment::default();
    let bootstrap = "version: 1\nlisten: 127.0.0.1:1\nbundle: b\negress_ceiling: {addresses: [loopback]}\n";
    env.files.insert("c/gateway.yaml".into(), bootstrap.to_owned());
    env.files.insert("c/b/rules/a.rego".into(), PLAIN.to_owned());
    env.files.insert("c/rules/a.rego".into(), PLAIN.to_owned());
    for (path, accepted) in [("rules", true), ("../rules", false), ("/c/rules", false)] {
        env.files.insert("c/b/gateway.yaml".into(), format!("{HEAD}policy: {path}\n"));
        let outcome = Attempt::new(Path::new("c/gateway.yaml"), &env).outcome;
        assert_eq!(outcome.is_ok(), accepted, "{path}: {:?}", outcome.err());
    }
}

const FAILING: &str = "package mcp.authz_test\nimport rego.v1\nimport data.mcp.authz\n\n\
                       test_staff if not authz.decision with input as {\"principal\": {\"roles\": [\"staff\"]}}\n\n\
                       test_others if not authz.decision with input as {\"principal\": {\"roles\": []}}\n";

#[test]
fn a_policy_whose_own_tests_fail_is_refused() {
    let files = [("c/rules/a.rego", PLAIN), ("c/rules/a_test.rego", FAILING)];
    let problem = "c/rules/a_test.rego:5: the test `data.mcp.authz_test.test_staff` fails";
    assert_eq!(problems("policy: rules", &files), [problem]);
    let other = [("c/other.rego", PLAIN), files[0], files[1]];
    assert_eq!(problems("policy: {path: other.rego, shadow: {path: rules}}", &other), [problem]);
    let env = environment("policy: rules", &files);
    let untested =
        load_untested(Path::new("c/gateway.yaml"), &env).unwrap_or_else(|report| panic!("{report}"));
    let trial = untested.snapshot.policy.unwrap().trial().unwrap();
    assert_eq!((trial.tests.len(), trial.passed()), (2, false));
}

#[test]
fn a_folder_of_rules_is_a_policy_by_itself() {
    let env = environment("", &[("c/rules/a.rego", WITH_ARGUMENTS), ("c/rules/data.json", "{\"x\": 1}")]);
    let alone = load_policy(Path::new("c/rules/a.rego"), &env).unwrap();
    assert!(alone.source.data.is_empty() && alone.policy.reads_arguments(Entry::Decision));
    let none = load_policy(Path::new("c/gateway.yaml"), &env).unwrap_err();
    assert_eq!(none.0.iter().map(brief).collect::<Vec<_>>(), ["it has no `policy`"]);
    let missing = load_policy(Path::new("c/no.rego"), &env).unwrap_err();
    assert_eq!(
        missing.0.iter().map(brief).collect::<Vec<_>>(),
        ["`c/no.rego` cannot be read: entity not found"]
    );
}

#[test]
fn every_sample_compiles_and_says_what_lists_show() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policy");
    let samples = [
        ("roles_tools", ListRule::Decision),
        ("risk_tiers", ListRule::Visible),
        ("business_hours", ListRule::Visible),
        ("region", ListRule::Visible),
        ("hr_finance", ListRule::Decision),
        ("marketing", ListRule::Visible),
        ("five_dimensions", ListRule::Visible),
    ];
    let folders = ProcessEnvironment.folder(&folder).unwrap();
    assert_eq!(folders.iter().filter(|name| !name.contains('.')).count(), samples.len());
    for (name, lists) in samples {
        let mut env = example_environment(folder.parent().unwrap());
        let document = folder.join("gateway.yaml");
        env.files.insert(document.clone(), format!("{HEAD}policy: {name}\n"));
        let outcome = Attempt::new(&document, &env).outcome;
        let policy = outcome.unwrap_or_else(|report| panic!("{report}")).snapshot.policy.unwrap();
        assert_eq!(policy.lists, lists, "{name}");
        assert!(policy.policy.reads(Entry::Decision).iter().all(|path| path != "input"), "{name}");
        let trial = policy.trial().unwrap();
        assert!(trial.passed() && trial.tests.len() > 3 && trial.replayed > 5, "{name}");
        assert!(trial.share() > 0.99, "{name}: {:?}", trial.coverage);
    }
}
