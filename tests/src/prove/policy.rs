//! The same policies and questions through OPA itself and through the gateway's engine.
//!
//! OPA runs in a Python of its own (`tests/sdk/opa.py`), with strict errors of builtins. What counts is
//! the ruling: where OPA fails or has no answer, the engine here has to deny.

use portunus_filters::authorize::{Document, Entry, Fault, Module, Policy, Ruling, Settings};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QUESTIONS: usize = 150;

pub(super) fn run() {
    let python = std::env::var("PORTUNUS_OPA").expect("set by `cargo xtask prove policy`");
    let mut counts = Counts::default();
    let mut differences = Vec::new();
    for policy in policies() {
        let inputs = Dice(u64::try_from(counts.questions).unwrap() + 1).inputs(QUESTIONS);
        let theirs = policy.ask_opa(&python, &inputs);
        let ours = policy.ask_ourselves(&inputs);
        for ((input, theirs), ours) in inputs.iter().zip(theirs).zip(ours) {
            if !counts.alike(&ours, &theirs) {
                differences.push(format!("{}: {input}\n  OPA  {theirs}\n  ours {ours:?}", policy.name));
            }
        }
    }
    println!("{counts:?}");
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
    assert!(counts.questions >= 2_000 && counts.allowed >= 500 && counts.refused >= 500, "{counts:?}");
    assert!(counts.stricter * 10 < counts.questions, "{counts:?}");
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
    /// OPA has an answer, and here a type error denies that OPA's order of evaluation does not meet.
    stricter: usize,
}

impl Counts {
    /// Whether the ruling is what the gateway makes of OPA's answer, or refuses for an error.
    fn alike(&mut self, ours: &Ruling, theirs: &Value) -> bool {
        self.questions += 1;
        let theirs = match theirs.get("value") {
            Some(value) => Ruling::parse(&value.to_string()),
            None => Ruling::parse("null"),
        };
        match (&ours.fault, &theirs.fault) {
            (Some(_), Some(_)) => self.faulty += 1,
            (Some(Fault::Failed(_) | Fault::Conflict(_)), None) => self.stricter += 1,
            (None, None) if theirs.allow => self.allowed += 1,
            (None, None) => self.refused += 1,
            _ => return false,
        }
        ours == &theirs || ours.fault.is_some()
    }
}

struct Case {
    name: String,
    modules: Vec<Module>,
    data: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policy")
}

/// Each file is a policy; what their names end in `_module` is part of all.
fn policies() -> Vec<Case> {
    let data = fs::read_to_string(folder().join("data.json")).unwrap();
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rego"));
    files.sort();
    let module = |path: &PathBuf| Module {
        path: path.file_name().unwrap().to_string_lossy().into_owned(),
        text: fs::read_to_string(path).unwrap(),
    };
    let (shared, own): (Vec<Module>, Vec<Module>) =
        files.iter().map(module).partition(|module| module.path.ends_with("_module.rego"));
    let case = |module: Module| Case {
        name: module.path.clone(),
        modules: shared.iter().cloned().chain([module]).collect(),
        data: data.clone(),
    };
    own.into_iter().map(case).collect()
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
        let policy = json!({"modules": modules, "data": data, "rule": "mcp.authz.decision"});
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

    fn ask_ourselves(&self, inputs: &[Value]) -> Vec<Ruling> {
        let data = Document { path: "data.json".into(), mount: String::new(), text: self.data.clone() };
        let policy = match Policy::compile(&self.modules, &[data], &Settings::default()) {
            Ok(policy) => policy,
            Err(problems) => panic!("{}: {problems:?}", self.name),
        };
        let texts: Vec<String> = inputs.iter().map(Value::to_string).collect();
        let samples: Vec<(&str, &str)> =
            texts.iter().map(|text| (self.name.as_str(), text.as_str())).collect();
        assert_eq!(policy.self_test(samples), Ok(()), "{}", self.name);
        texts.iter().map(|text| policy.ask(Entry::Decision, text).unwrap()).collect()
    }
}

/// Random questions, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % 1_000_003).unwrap() % sides
    }

    fn of(&mut self, choices: &[Value]) -> Value {
        choices[self.roll(choices.len())].clone()
    }

    /// Up to three of them.
    fn some(&mut self, choices: &[Value]) -> Value {
        (0..self.roll(4)).map(|_| self.of(choices)).collect()
    }

    /// An object with some of the members.
    fn object(&mut self, members: &[(&str, &[Value])]) -> Value {
        let mut object = serde_json::Map::new();
        for (name, choices) in members {
            if self.roll(4) > 0 {
                object.insert((*name).to_owned(), self.of(choices));
            }
        }
        Value::Object(object)
    }

    fn inputs(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.input()).collect()
    }

    fn input(&mut self) -> Value {
        let roles = [json!("reader"), json!("writer"), json!("admin"), json!("guest")];
        let scopes = [json!("base"), json!("tools:read"), json!("risk:high"), json!("risk:medium")];
        let mut principal = self.object(&[
            ("subject", &[json!("anna"), json!("a.b.bot"), json!("Bert7")]),
            ("mfa", &[json!(true), json!(false)]),
        ]);
        principal["roles"] = self.some(&roles);
        principal["scopes"] = self.some(&scopes);
        principal["claims"] = self.object(&[
            ("suspended", &[json!(true), json!(false), json!("no")]),
            ("level", &[json!(1), json!(2), json!("2")]),
            ("region", &[json!("eu"), json!("us")]),
            ("version", &[json!("1.2.3"), json!("1.1.9"), json!("x")]),
        ]);
        let mut input = json!({
            "principal": principal,
            "mcp": {"name": self.of(&[json!("search"), json!("search.all"), json!("update_all"), json!("list"), json!("drop")])},
            "context": {"source_ip": self.of(&[json!("10.1.2.3"), json!("172.16.9.9"), json!("8.8.8.8"), json!("::1")])},
            "time": {"hour": self.roll(24), "weekday": self.of(&[json!("Monday"), json!("Sunday")]), "date": self.of(&[json!("2026-12-25"), json!("2026-07-28")])},
        });
        if self.roll(8) > 0 {
            input["tool"] = self.tool();
        }
        if self.roll(8) > 0 {
            input["mcp"]["arguments"] = self.arguments();
        }
        input
    }

    fn tool(&mut self) -> Value {
        let risks = [json!("low"), json!("medium"), json!("high"), json!("critical"), json!("unrated")];
        json!({"risk": self.of(&risks), "scopes": self.some(&[json!("tools:read"), json!("tools:write")])})
    }

    fn arguments(&mut self) -> Value {
        let item = [
            json!({"qty": 3}),
            json!({"qty": 2, "price": 4}),
            json!({"qty": 12, "price": 2}),
            json!({"qty": "many"}),
            json!({"price": 2}),
            json!(7),
        ];
        let items = [json!([]), self.some(&item), self.some(&item), json!("none"), json!({"a": {"qty": 9}})];
        self.object(&[
            ("region", &[json!("eu"), json!("EU"), json!("us"), json!("7"), json!(7), Value::Null]),
            (
                "n",
                &[
                    json!(0),
                    json!(1),
                    json!(2),
                    json!(4),
                    json!(5),
                    json!(7),
                    json!(3.5),
                    json!("4"),
                    json!(-1),
                ],
            ),
            ("amount", &[json!(5), json!(10), json!(15), json!(51), json!(1e3), json!("60"), json!([60])]),
            ("items", &items),
            (
                "text",
                &[
                    json!("OK then"),
                    json!("ok zz"),
                    json!("{\"a\":1}"),
                    json!("sk-1"),
                    json!(1),
                    json!("éok"),
                ],
            ),
            ("flag", &[json!(true), json!(false), Value::Null]),
            ("nothing", &[Value::Null, json!(0)]),
            (
                "token",
                &[
                    json!("eyJvayI6dHJ1ZX0="),
                    json!("!!"),
                    json!("eyJvayI6ZmFsc2V9"),
                    json!({"deep": ["sk-2"]}),
                ],
            ),
            ("size", &[json!("1MB"), json!("huge"), json!("2KiB")]),
        ])
    }
}
