//! The commands about policy: what they print, and their exit codes.

use crate::harness::binary;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn of(files: &[(&str, &str)]) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portunus-policy-{}-{number}", std::process::id()));
        let folder = Folder(path);
        for (name, text) in files {
            let file = folder.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(binary()).args(arguments).current_dir(&self.0).output().unwrap()
    }

    /// What is printed by a command that ends with this code.
    fn told(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/policy").join(name);
    path.to_str().unwrap().to_owned()
}

const PLAIN: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
                     decision if \"staff\" in input.principal.roles\n\n\
                     decision if \"boss\" in input.principal.roles\n";

const TEST: &str = "package mcp.authz_test\n\nimport data.mcp.authz\nimport rego.v1\n\n\
                    test_staff if authz.decision with input as {\"principal\": {\"roles\": [\"staff\"]}}\n";

const GATEWAY: &str = "version: 1\nupstreams: { crm: 'http://127.0.0.1:9101/mcp' }\n\
                       servers: { /mcp: { upstreams: crm, name: main, rename: { crm.find: seek } } }\n\
                       tools: { crm.pay: { risk: critical, scopes: [pay] } }\n";

#[test]
fn tests_of_samples_pass_and_reach_every_line() {
    let folder = Folder::of(&[("x", "")]);
    let samples = ["roles_tools", "risk_tiers", "business_hours", "region", "hr_finance", "marketing"];
    for name in samples.into_iter().chain(["five_dimensions"]) {
        let told = folder.told(0, &["test", &sample(name), "--coverage", "100"]);
        assert!(told.contains("0 failed") && told.contains("100.0 %"), "{told}");
    }
}

#[test]
fn a_failing_test_and_a_missed_line_are_named() {
    let failing = TEST.replace("if authz", "if not authz");
    let longer =
        format!("{PLAIN}\ndecision if {{\n\t\"owner\" in input.principal.roles\n\tinput.principal.mfa\n}}\n");
    let folder = Folder::of(&[
        ("good/a.rego", &longer),
        ("good/a_test.rego", TEST),
        ("bad/a.rego", PLAIN),
        ("bad/a_test.rego", &failing),
        ("none/a.rego", PLAIN),
        ("broken/a.rego", "package mcp.authz\n\ndecision := http.send({})\n"),
        ("gateway.yaml", &format!("{GATEWAY}policy: bad\n")),
    ]);
    let told = folder.told(0, &["test", "good", "--verbose"]);
    assert!(told.contains("pass good/a_test.rego:6: data.mcp.authz_test.test_staff"), "{told}");
    assert!(told.contains("good/a.rego: not line 13"), "{told}");
    assert!(folder.told(1, &["test", "good", "--coverage", "100"]).contains("too little"));
    assert!(folder.told(1, &["test", "bad"]).contains("FAIL bad/a_test.rego:6"));
    assert!(folder.told(1, &["test", "none"]).contains("_test.rego"));
    assert!(folder.told(78, &["test", "broken"]).contains("broken/a.rego:3"));
    assert!(folder.told(78, &["test", "gone"]).contains("gone"));
    let refused = folder.told(78, &["check", "gateway.yaml"]);
    assert!(
        refused.contains("bad/a_test.rego:6:1: the test `data.mcp.authz_test.test_staff` fails"),
        "{refused}"
    );
    assert!(folder.told(1, &["test", "gateway.yaml"]).contains("1 failed"));
}

#[test]
fn a_decision_is_explained_by_what_it_depends_on() {
    let input = r#"{"principal": {"claims": {"region": "us"}, "roles": []}, "tool": {"labels": ["regional"]},
        "mcp": {"kind": "tool", "arguments": {"region": "eu"}}}"#;
    let folder = Folder::of(&[("in.json", input), ("twice.json", "{\"mcp\": {}, \"mcp\": {}}")]);
    let told = folder.told(0, &["decide", &sample("region"), "--input", "in.json"]);
    for line in [
        "decision: refuse",
        "reason: the region is not the caller's",
        "depends on: pure",
        "  input.mcp.arguments.region = \"eu\"",
        "  input.principal.claims.region = \"us\"",
        "data.mcp.authz.regional",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let json =
        folder.told(0, &["decide", &sample("region"), "--input", "in.json", "--entry", "visible", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["decision"]["allow"], &json["agrees_in_full"]), (&true.into(), &true.into()));
    let none = folder.told(1, &["decide", &sample("region"), "--input", "in.json", "--entry", "content"]);
    assert!(none.contains("no rule `content`"), "{none}");
    folder.told(1, &["decide", &sample("region"), "--input", "twice.json"]);
    folder.told(1, &["decide", &sample("region"), "--input", "gone.json"]);
}

#[test]
fn another_policy_is_compared_on_recorded_questions() {
    let question =
        |role: &str| format!("{{\"principal\": {{\"subject\": \"ada\", \"roles\": [\"{role}\"]}}}}");
    let recorded = [
        question("staff"),
        String::new(),
        format!("{{\"entry\": \"decision\", \"input\": {}}}", question("boss")),
        question("guest"),
    ];
    let stricter = PLAIN.replace("\"boss\" in input.principal.roles", "input.principal.mfa");
    let folder = Folder::of(&[
        ("old/a.rego", PLAIN),
        ("new/a.rego", &stricter),
        ("replay.jsonl", &recorded.join("\n")),
        ("bad.jsonl", "{\"entry\": \"x\", \"input\": {}}"),
    ]);
    let told = folder.told(1, &["diff", "old", "new", "--replay", "replay.jsonl"]);
    assert!(told.contains("3: ada: allow -> refuse") && told.contains("1 of 3 decisions change"), "{told}");
    assert!(told.contains("input.principal.mfa"), "{told}");
    let same = folder.told(0, &["diff", "old", "old", "--replay", "replay.jsonl"]);
    assert_eq!(same, "0 of 3 decisions change\n");
    assert!(folder.told(1, &["diff", "old", "new", "--replay", "bad.jsonl"]).contains("bad.jsonl:1"));
}

#[test]
fn who_may_call_what_is_a_table() {
    let roles = "roles:\n  reader: { allow: 'crm.find' }\n  \
                 payer: { allow: [{ tools: 'crm.pay', when: { arguments: { region: eu } } }] }\n";
    let callers = "- { name: '=boss', principal: { roles: [payer], claims: {} } }\n";
    let folder = Folder::of(&[
        ("gateway.yaml", &format!("{GATEWAY}policy: {{ builtin: rbac, data: roles.yaml }}\n")),
        ("roles.yaml", roles),
        ("tools.yaml", "[crm.find, crm.pay]"),
        ("unknown.yaml", "[wiki.find]"),
        ("callers.yaml", callers),
    ]);
    let told = folder.told(0, &["matrix", "gateway.yaml", "--tools", "tools.yaml"]);
    let rows: Vec<&str> = told.lines().map(|line| line.split_once(',').unwrap().1).collect();
    assert_eq!(
        rows,
        [
            "principal,server,upstream,tool,risk,class,shown,call,remarks",
            "payer,main,crm,seek,unrated,internal,no,no,no role of the caller allows this",
            "payer,main,crm,pay,critical,internal,yes,by_arguments,scopes pay",
            "reader,main,crm,seek,unrated,internal,yes,yes,",
            "reader,main,crm,pay,critical,internal,no,no,no role of the caller allows this; scopes pay",
        ]
    );
    let named =
        folder.told(0, &["matrix", "gateway.yaml", "--tools", "tools.yaml", "--principals", "callers.yaml"]);
    assert!(named.contains(",'=boss,main,crm,pay,"), "{named}");
    assert!(folder.told(1, &["matrix", "gateway.yaml", "--tools", "unknown.yaml"]).contains("wiki.find"));
}

#[test]
fn an_ejected_policy_decides_as_the_one_it_came_from() {
    let roles = "roles: { reader: { allow: [{ tools: 'crm.*', when: { weekdays: Monday } }] } }\n";
    let rbac = format!("{GATEWAY}policy: {{ builtin: rbac, data: roles.yaml }}\n");
    let folder = Folder::of(&[
        ("gateway.yaml", &rbac),
        ("roles.yaml", roles),
        ("own.yaml", &format!("{GATEWAY}policy: own\n")),
        (
            "callers.yaml",
            "- { principal: { subject: a, roles: [reader] }, time: { weekday: Monday } }\n\
                          - { principal: { subject: b, roles: [reader] }, time: { weekday: Sunday } }\n",
        ),
        ("tools.yaml", "[crm.find, crm.pay]"),
    ]);
    folder.told(0, &["policy", "eject", "gateway.yaml", "--to", "own"]);
    let matrix = |file: &str| {
        let told = folder.told(0, &["matrix", file, "--tools", "tools.yaml", "--principals", "callers.yaml"]);
        told.lines().map(|line| line.split_once(',').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let rows = matrix("gateway.yaml");
    assert!(
        rows.iter().any(|row| row.contains(",yes,yes,")) && rows.iter().any(|row| row.contains(",yes,no,"))
    );
    assert_eq!(matrix("own.yaml"), rows);
    let again = folder.told(1, &["policy", "eject", "gateway.yaml", "--to", "own"]);
    assert!(again.contains("name one that does not exist"), "{again}");
}

#[test]
fn check_says_what_each_rule_depends_on() {
    let folder =
        Folder::of(&[("gateway.yaml", &format!("{GATEWAY}policy: rules\n")), ("rules/a.rego", PLAIN)]);
    let told = folder.told(0, &["check", "gateway.yaml"]);
    assert!(told.contains("policy: decision is pure and reads input.principal.roles\n"), "{told}");
    assert!(!told.contains("without `policy`"), "{told}");
}
