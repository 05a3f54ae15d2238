//! The same policies and questions through OPA itself and through the gateway's engine: policies that
//! are made for it, and the samples.
//!
//! OPA runs in a Python of its own (`tests/sdk/opa.py`), with strict errors of builtins. What counts is
//! the ruling: where OPA fails or has no answer, the engine here has to deny.

mod questions;

use crate::harness::root;
use portunus_config::{ProcessEnvironment, load_policy};
use portunus_filters::authorize::{Document, Entry, Fault, Module, Policy, Ruling, Settings};
pub(crate) use questions::Dice;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Of each policy.
const QUESTIONS: usize = 150;
/// Of each entry point of a sample.
const SAMPLE_QUESTIONS: usize = 400;

pub(super) fn run() {
    let python = std::env::var("PORTUNUS_OPA").expect("set by `cargo xtask prove policy`");
    let mut counts = Counts::default();
    let mut differences = Vec::new();
    for policy in cases() {
        let inputs = policy.inputs(u64::try_from(counts.questions).unwrap() + 1);
        let before = [counts.allowed, counts.refused];
        let theirs = policy.ask_opa(&python, &inputs);
        let ours = policy.ask_ourselves(&inputs);
        for ((input, theirs), ours) in inputs.iter().zip(theirs).zip(ours) {
            if !counts.alike(&policy.name, (&ours, &theirs)) {
                differences.push(format!("{}: {input}\n  OPA  {theirs}\n  ours {ours:?}", policy.name));
            }
        }
        let both = counts.allowed > before[0] && counts.refused > before[1];
        assert!(
            both || !policy.is_decided_by_rules,
            "the questions do not reach the rules of {}",
            policy.name
        );
    }
    println!("{counts:#?}");
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
    assert!(counts.questions >= 2_000 && counts.allowed >= 500 && counts.refused >= 500, "{counts:?}");
    let stricter: usize =
        counts.stricter.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).sum();
    assert!(stricter * 10 < counts.questions, "{counts:?}");
}

/// What came out.
#[derive(Debug, Default)]
struct Counts {
    questions: usize,
    /// Both allow.
    allowed: usize,
    /// Both refuse by a rule.
    refused: usize,
    /// Neither has an answer.
    faulty: usize,
    /// OPA has an answer, and what its order of evaluation does not meet denies here: by whether OPA
    /// allows, by what was met, and by policy.
    stricter: BTreeMap<&'static str, BTreeMap<String, BTreeMap<String, usize>>>,
}

impl Counts {
    /// Whether the ruling is what the gateway makes of OPA's answer, or refuses for an error.
    fn alike(&mut self, policy: &str, (ours, theirs): (&Ruling, &Value)) -> bool {
        self.questions += 1;
        let theirs = match theirs.get("value") {
            Some(value) => Ruling::parse(&value.to_string()),
            None => Ruling::parse("null"),
        };
        match (&ours.fault, &theirs.fault) {
            (Some(_), Some(_)) => self.faulty += 1,
            (Some(fault @ (Fault::Failed(_) | Fault::Conflict(_))), None) => {
                let theirs = if theirs.allow { "OPA allows" } else { "OPA refuses" };
                let causes = self.stricter.entry(theirs).or_default();
                *causes.entry(cause(fault)).or_default().entry(policy.to_owned()).or_default() += 1;
            }
            (None, None) if theirs.allow => self.allowed += 1,
            (None, None) => self.refused += 1,
            _ => return false,
        }
        ours == &theirs || ours.fault.is_some()
    }
}

/// What is wrong, without its place.
fn cause(fault: &Fault) -> String {
    match fault {
        Fault::Failed(told) => told.split_once(": ").map_or(told.as_str(), |(_, what)| what).to_owned(),
        _ => "two values where there may be one".to_owned(),
    }
}

/// A policy, and what it is asked.
pub(crate) struct Case {
    /// For failures.
    pub(crate) name: String,
    /// The rule that is asked.
    pub(crate) entry: Entry,
    modules: Vec<Module>,
    data: String,
    questions: usize,
    question: fn(&mut Dice) -> Value,
    /// Its questions have to be allowed and refused, both.
    is_decided_by_rules: bool,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policy")
}

/// Time enough for decisions of a build that is not optimised, on a machine that has other work.
pub(super) fn lenient_settings() -> Settings {
    Settings { time_limit: Duration::from_secs(1), ..Settings::default() }
}

/// Every policy that is compared.
pub(crate) fn cases() -> Vec<Case> {
    made().into_iter().chain(samples()).collect()
}

/// Each file is a policy, and each folder; what their names end in `_module` is part of all files.
fn made() -> Vec<Case> {
    let data = fs::read_to_string(folder().join("data.json")).unwrap();
    let (shared, own): (Vec<Module>, Vec<Module>) =
        rules(&folder()).into_iter().partition(|module| module.path.ends_with("_module.rego"));
    let case = |name: String, modules: Vec<Module>| Case {
        name,
        modules,
        data: data.clone(),
        entry: Entry::Decision,
        questions: QUESTIONS,
        question: Dice::question,
        is_decided_by_rules: false,
    };
    let file = |module: Module| case(module.path.clone(), shared.iter().cloned().chain([module]).collect());
    let whole = |folder: PathBuf| case(named(&folder), below(&folder));
    own.into_iter().map(file).chain(folders(&folder()).into_iter().map(whole)).collect()
}

/// Each entry point of each sample.
fn samples() -> Vec<Case> {
    let samples = folders(&root().join("config/examples/policy"));
    assert!(samples.len() >= 7, "{samples:?}");
    samples.iter().flat_map(|folder| sample(folder)).collect()
}

fn sample(folder: &Path) -> Vec<Case> {
    let rules = load_policy(folder, &ProcessEnvironment).unwrap_or_else(|report| panic!("{report}"));
    let modules = rules.source.modules.iter().filter(|module| !module.is_test());
    let modules: Vec<Module> = modules.cloned().collect();
    let data = Value::Object(rules.source.data.clone()).to_string();
    let entries = [Entry::Decision, Entry::Visible].into_iter().filter(|entry| rules.policy.has(*entry));
    let case = |entry: Entry| Case {
        name: format!("{} {}", named(folder), entry.as_str()),
        modules: modules.clone(),
        data: data.clone(),
        entry,
        questions: SAMPLE_QUESTIONS,
        question: Dice::sample,
        is_decided_by_rules: entry == Entry::Decision,
    };
    entries.map(case).collect()
}

/// The rules in a folder, by name.
fn rules(folder: &Path) -> Vec<Module> {
    let is_rule = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rego");
    let module = |path: PathBuf| Module { path: named(&path), text: fs::read_to_string(path).unwrap() };
    entries(folder).into_iter().filter(is_rule).map(module).collect()
}

/// The rules in a folder and below it.
fn below(folder: &Path) -> Vec<Module> {
    rules(folder).into_iter().chain(folders(folder).iter().flat_map(|inner| below(inner))).collect()
}

fn named(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

impl Case {
    fn ask_opa(&self, python: &str, inputs: &[Value]) -> Vec<Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/opa.py");
        let mut child =
            Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let modules: Value =
            self.modules.iter().map(|module| (module.path.clone(), json!(module.text))).collect();
        let data: Value = serde_json::from_str(&self.data).unwrap();
        let rule = format!("mcp.authz.{}", self.entry.as_str());
        let policy = json!({"modules": modules, "data": data, "rule": rule});
        writeln!(input, "{policy}").unwrap();
        let mut answer = |question: &Value| {
            writeln!(input, "{question}").unwrap();
            serde_json::from_str(&output.next().expect("OPA answers").unwrap()).unwrap()
        };
        let answers = inputs.iter().map(&mut answer).collect();
        drop(input);
        assert!(child.wait().unwrap().success());
        answers
    }

    /// Its questions, the same for each `seed`, which is not 0.
    pub(crate) fn inputs(&self, seed: u64) -> Vec<Value> {
        let mut dice = Dice(seed);
        (0..self.questions).map(|_| (self.question)(&mut dice)).collect()
    }

    /// The policy as the gateway has it.
    pub(crate) fn compiled(&self) -> Policy {
        let data = Document { path: "data.json".into(), mount: String::new(), text: self.data.clone() };
        match Policy::compile(&self.modules, &[data], &lenient_settings()) {
            Ok(policy) => policy,
            Err(problems) => panic!("{}: {problems:?}", self.name),
        }
    }

    fn ask_ourselves(&self, inputs: &[Value]) -> Vec<Ruling> {
        let policy = self.compiled();
        let texts: Vec<String> = inputs.iter().map(Value::to_string).collect();
        let samples: Vec<(&str, &str)> =
            texts.iter().map(|text| (self.name.as_str(), text.as_str())).collect();
        assert_eq!(policy.self_test(samples), Ok(()), "{}", self.name);
        texts.iter().map(|text| policy.ask(self.entry, text).unwrap()).collect()
    }
}
