//! A policy's own tests: the rules named `test_…` of the modules whose files end in `_test.rego`.
//!
//! Each input that a test puts in place with `with input as …` is seen by a function that is written in
//! front of the statement, and is then decided with all of it and with what the analysis says is read.
//! A difference fails the test: the analysis missed something.

use super::compile::{Document, Module, Settings, merge};
use super::imports::{spelled_out, whole_packages};
use super::problem::Problem;
use super::source::{positioned, rule_path_of};
use super::{Policy, Severity};
use regorus::unstable::{Literal, LiteralStmt, Query, Rule};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// The function that sees inputs.
const WITNESS: &str = "portunus_witness";
/// More inputs of one test are not looked at.
const MAX_INPUTS: usize = 10_000;

/// What came out of all tests.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// In the order of the files.
    pub tests: Vec<Test>,
    /// By file, tests left out.
    pub coverage: Vec<Coverage>,
    /// Inputs that were decided in two ways.
    pub replayed: usize,
    /// Inputs that were not, since their tests put other data or functions in place too.
    pub mocked: usize,
}

/// What came out of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// File.
    pub path: String,
    /// Where it begins.
    pub line: u32,
    /// Path of the rule.
    pub name: String,
    /// What came out.
    pub outcome: Outcome,
}

/// How a test ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is true.
    Passed,
    /// It is anything else.
    Failed,
    /// It could not be evaluated. Carries why.
    Errored(String),
    /// An input is decided otherwise by the part of it that is said to be read. Carries which entry
    /// points.
    Diverged(String),
    /// Its name begins with `todo_`.
    Skipped,
}

/// Lines of a file, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// File.
    pub path: String,
    /// Lines that some test evaluated.
    pub covered: BTreeSet<u32>,
    /// Lines that none did.
    pub missed: BTreeSet<u32>,
}

impl Trial {
    /// Whether no test ended badly.
    pub fn passed(&self) -> bool {
        self.tests.iter().all(|test| matches!(test.outcome, Outcome::Passed | Outcome::Skipped))
    }

    /// The part of all lines that was evaluated, from 0 to 1; 1 if there are none.
    pub fn share(&self) -> f64 {
        let lines = |pick: fn(&Coverage) -> usize| self.coverage.iter().map(pick).sum::<usize>();
        let (covered, missed) = (lines(|file| file.covered.len()), lines(|file| file.missed.len()));
        if covered + missed == 0 { 1.0 } else { covered as f64 / (covered + missed) as f64 }
    }
}

/// Runs the tests among `modules`.
///
/// # Errors
/// The problems of a policy that cannot be compiled, or of tests that cannot be read.
pub fn run_tests(modules: &[Module], data: &[Document], settings: &Settings) -> Result<Trial, Vec<Problem>> {
    let policy = Policy::compile(modules, data, settings)?;
    let mut bench = Bench::new(policy, modules, data, settings)?;
    let mut trial = Trial::default();
    for case in bench.cases() {
        let outcome = bench.run(&case.name, &mut trial);
        trial.tests.push(Test { outcome, ..case });
    }
    trial.coverage = bench.coverage();
    Ok(trial)
}

/// An input that a test asked about.
struct Seen {
    input: Value,
    /// Whether nothing else was put in place.
    alone: bool,
}

struct Bench {
    policy: Policy,
    engine: Engine,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Rules of the policy, by file, with the lines on which they stand.
    rules: Vec<(String, BTreeSet<u32>)>,
}

impl Bench {
    fn new(
        policy: Policy,
        modules: &[Module],
        data: &[Document],
        settings: &Settings,
    ) -> Result<Bench, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut engine = Engine::new();
        for module in modules {
            let module = &Module { text: spelled_out(module), ..module.clone() };
            let text = if module.is_test() { witnessed(module) } else { module.text.clone() };
            if let Err(error) = engine.add_policy(module.path.clone(), text) {
                problems.push(positioned(&error.to_string()));
            }
        }
        if let Err(error) = engine.add_data(merge(data, &mut problems)) {
            problems.push(positioned(&error.to_string()));
        }
        problems.extend(whole_packages(&mut engine));
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(problems);
        }
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let witness = seen.clone();
        let see = move |mut arguments: Vec<Value>| {
            let mut seen = witness.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(alone), Some(input)) = (arguments.pop(), arguments.pop())
                && seen.len() < MAX_INPUTS
            {
                seen.push(Seen { input, alone: alone == Value::Bool(true) });
            }
            Ok(Value::Bool(true))
        };
        engine
            .add_extension(WITNESS.to_owned(), 2, Box::new(see))
            .map_err(|error| vec![Problem::error("", 0, error.to_string())])?;
        engine.set_strict_builtin_errors(settings.strict);
        engine.set_gather_prints(true);
        engine.set_enable_coverage(true);
        let (limit, check_interval) = (settings.time_limit * 10, NonZeroU32::MIN.saturating_add(255));
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval });
        let rules = lines_of_rules(&mut engine);
        Ok(Bench { policy, engine, seen, rules })
    }

    /// The tests, none run yet.
    fn cases(&mut self) -> Vec<Test> {
        let mut cases: Vec<Test> = Vec::new();
        for module in self.engine.get_modules().iter() {
            let path = module.package.refr.span().source.get_path();
            for rule in module.policy.iter().filter(|_| is_test(path)) {
                let Some(name) = rule_path_of(&module.package.refr, rule) else { continue };
                let last = name.rsplit('.').next().unwrap_or_default();
                let named = last.starts_with("test_") || last.starts_with("todo_test_");
                if named && !cases.iter().any(|case| case.name == name) {
                    let line = rule.span().line;
                    cases.push(Test { path: path.clone(), line, name, outcome: Outcome::Skipped });
                }
            }
        }
        cases
    }

    fn run(&mut self, name: &str, trial: &mut Trial) -> Outcome {
        if name.rsplit('.').next().is_some_and(|last| last.starts_with("todo_")) {
            return Outcome::Skipped;
        }
        self.take_seen();
        let value = self.engine.eval_rule(name.to_owned());
        let seen = self.take_seen();
        let mut diverged = BTreeSet::new();
        for Seen { input, alone } in seen {
            if alone {
                trial.replayed += 1;
                let disagreements = self.policy.disagreements(name, &input);
                diverged.extend(disagreements.into_iter().map(|problem| problem.text));
            } else {
                trial.mocked += 1;
            }
        }
        match value {
            _ if !diverged.is_empty() => {
                Outcome::Diverged(diverged.into_iter().collect::<Vec<_>>().join("; "))
            }
            Ok(Value::Bool(true)) => Outcome::Passed,
            Ok(_) => Outcome::Failed,
            Err(error) => Outcome::Errored(positioned(&error.to_string()).to_string()),
        }
    }

    fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A file that nothing was evaluated of is missed as a whole.
    fn coverage(&self) -> Vec<Coverage> {
        let files = self.engine.get_coverage_report().map(|report| report.files).unwrap_or_default();
        let coverage = |(path, lines): &(String, BTreeSet<u32>)| {
            let file = files.iter().find(|file| file.path == *path);
            let covered = file.map(|file| file.covered.clone()).unwrap_or_default();
            let missed = file.map_or_else(|| lines.clone(), |file| &file.not_covered - &covered);
            Coverage { path: path.clone(), covered, missed }
        };
        self.rules.iter().map(coverage).collect()
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("_test.rego")
}

fn lines_of_rules(engine: &mut Engine) -> Vec<(String, BTreeSet<u32>)> {
    let modules = engine.get_modules().iter();
    let lines = modules.map(|module| {
        let lines = module.policy.iter().map(|rule| rule.span().line).collect();
        (module.package.refr.span().source.get_path().clone(), lines)
    });
    lines.filter(|(path, _)| !is_test(path)).collect()
}

/// The text of a module with the witness in front of each statement that puts an input in place.
///
/// Lines stay where they are. A module that cannot be read with it is left as it was.
fn witnessed(module: &Module) -> String {
    let mut engine = Engine::new();
    if engine.add_policy(module.path.clone(), module.text.clone()).is_err() {
        return module.text.clone();
    }
    let mut insertions: Vec<(usize, String)> = Vec::new();
    for parsed in engine.get_modules().iter() {
        for rule in &parsed.policy {
            let Rule::Spec { bodies, .. } = rule.as_ref() else { continue };
            bodies.iter().for_each(|body| witness_query(&module.text, &body.query, &mut insertions));
        }
    }
    insertions.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    let mut text = module.text.clone();
    for (place, insertion) in insertions {
        text.insert_str(place, &insertion);
    }
    let readable = Engine::new().add_policy(module.path.clone(), text.clone()).is_ok();
    if readable { text } else { module.text.clone() }
}

fn witness_query(text: &str, query: &Query, insertions: &mut Vec<(usize, String)>) {
    for statement in &query.stmts {
        witness_statement(text, statement, insertions);
        if let Literal::Every { query, .. } = &statement.literal {
            witness_query(text, query, insertions);
        }
    }
}

fn witness_statement(text: &str, statement: &LiteralStmt, insertions: &mut Vec<(usize, String)>) {
    let roots: Vec<&str> = statement.with_mods.iter().map(|with| root(with.refr.span().text())).collect();
    let (Some(first), true) = (statement.with_mods.first(), roots.contains(&"input")) else { return };
    let start = statement.span.start as usize;
    let (from, mut end) = (first.span.start as usize, statement.span.end as usize);
    // The span of a string ends in front of its closing quote.
    end += usize::from(text.get(end..).is_some_and(|rest| rest.starts_with(['"', '`'])));
    let (Some(before), Some(with)) = (text.get(..start), text.get(from..end)) else { return };
    let alone = roots.iter().all(|root| *root == "input");
    let seen = format!("{WITNESS}(input, {alone}) {}; ", on_one_line(with));
    if before.trim_end().ends_with("if") {
        insertions.push((start, format!("{{ {seen}")));
        insertions.push((end, " }".to_owned()));
    } else {
        insertions.push((start, seen));
    }
}

fn root(reference: &str) -> &str {
    reference.split(['.', '[']).next().unwrap_or_default().trim()
}

/// The same text without its line breaks and comments, so that no line moves.
fn on_one_line(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find('#') {
        Some(at) if line[..at].matches('"').count().is_multiple_of(2) => &line[..at],
        _ => line,
    });
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::compile::{self, Analysis};
    use crate::authorize::tests::kit::lenient_settings;

    const POLICY: &str = r#"package mcp.authz
default decision := false
decision if {
    "reader" in input.principal.roles
    not input.principal.claims.suspended
}
decision if data.open == input.mcp.name
unused if {
    1 == 2
    input.mcp.name
}
"#;
    const TESTS: &str = r#"package mcp.authz_test
import data.mcp.authz

reader := {"principal": {"roles": ["reader"], "claims": {}}}

test_reader if authz.decision with input as reader

test_suspended if {
    not authz.decision with input as {"principal": {
        "roles": ["reader"], # but
        "claims": {"suspended": true},
    }}
}

test_table if {
    every case in [{"roles": [], "allow": false}, {"roles": ["reader"], "allow": true}] {
        authz.decision == case.allow with input.principal.roles as case.roles
    }
}

test_open if authz.decision with input as {"mcp": {"name": "hello"}} with data.open as "hello"

test_wrong if not authz.decision with input as reader

test_broken if startswith(1, "a")

todo_test_later if false
"#;

    fn modules() -> Vec<Module> {
        let module = |path: &str, text: &str| Module { path: path.into(), text: text.into() };
        vec![module("authz.rego", POLICY), module("authz_test.rego", TESTS)]
    }

    #[test]
    fn tests_run_with_their_inputs_replayed_and_their_coverage_told() {
        let trial = run_tests(&modules(), &[], &lenient_settings()).unwrap();
        let outcomes: Vec<(&str, u32, &Outcome)> = trial
            .tests
            .iter()
            .map(|test| (test.name.trim_start_matches("data.mcp.authz_test."), test.line, &test.outcome))
            .collect();
        let broken = Outcome::Errored(
            "authz_test.rego:25: `startswith` expects string argument. Got `1` instead".to_owned(),
        );
        let expected = [
            ("test_reader", 6, &Outcome::Passed),
            ("test_suspended", 8, &Outcome::Passed),
            ("test_table", 15, &Outcome::Passed),
            ("test_open", 21, &Outcome::Passed),
            ("test_wrong", 23, &Outcome::Failed),
            ("test_broken", 25, &broken),
            ("todo_test_later", 27, &Outcome::Skipped),
        ];
        assert_eq!(outcomes, expected);
        assert_eq!((trial.replayed, trial.mocked, trial.passed()), (5, 1, false));
        let [file] = trial.coverage.as_slice() else { panic!("{:?}", trial.coverage) };
        assert!(file.covered.contains(&5) && file.missed.contains(&10), "{file:?}");
        assert!(trial.share() > 0.5 && trial.share() < 1.0);
    }

    /// A package of two files, whose rules need each other.
    fn in_two_files(test: &str) -> [Module; 3] {
        let module = |path: &str, text: &str| Module { path: path.into(), text: text.into() };
        let helper = "package mcp.authz\nfits(wanted) if every one in wanted { one == input.t }\n";
        let rules = "package mcp.authz\ndefault decision := false\ndecision if {\n    some name in held\n\
                         name == \"x\"\n}\nheld contains name if some name, role in data.roles\n";
        let tests = format!(
            "package mcp.authz_test\nimport data.mcp.authz\nimport data.mcp.authz as other\n\n{test}\n"
        );
        [module("a.rego", helper), module("p.rego", rules), module("p_test.rego", &tests)]
    }

    fn outcome(modules: &[Module]) -> Result<bool, Vec<String>> {
        let data = Document { path: "d".into(), mount: String::new(), text: r#"{"roles": {"x": 1}}"#.into() };
        match run_tests(modules, &[data], &lenient_settings()) {
            Ok(trial) => Ok(trial.passed()),
            Err(problems) => Err(problems.iter().map(Problem::to_string).collect()),
        }
    }

    #[test]
    fn a_package_in_several_files_is_one_package() {
        for test in [
            "test_a if authz.decision with input as {\"t\": \"a\"}",
            "test_a if other.decision with input as {\"t\": \"a\"}",
            "test_a if data.mcp.authz.decision with input as {\"t\": \"a\"}",
            "test_a if { authz.fits([\"a\"]) with input as {\"t\": \"a\"}; authz.decision with input as {} }",
            "test_a if not authz.decision with input as {} with data.roles as {}",
        ] {
            let mut modules = in_two_files(test);
            assert_eq!(outcome(&modules), Ok(true), "{test}");
            modules.swap(0, 1);
            assert_eq!(outcome(&modules), Ok(true), "{test}");
        }
    }

    #[test]
    fn a_package_in_several_files_is_not_read_as_a_whole() {
        for test in [
            "test_a if count(authz) > 0",
            "test_a if data.mcp[_].decision",
            "test_a if { name := \"decision\"; authz[name] with input as {} }",
            "test_a if { f := 1; f == 1; data.mcp.authz != {} }",
            "f(authz) := authz\ntest_a if { f(1); authz.decision with input as {} }",
        ] {
            let found = outcome(&in_two_files(test)).unwrap_err();
            assert!(found[0].contains("this reads the whole of data.mcp.authz"), "{test}: {found:?}");
            let [_, rules, tests] = in_two_files(test);
            assert!(outcome(&[rules, tests]).is_ok(), "{test}");
        }
    }

    #[test]
    fn a_test_tells_on_an_analysis_that_misses_something() {
        let analysis =
            Analysis { told: |reads| reads.without("input.principal.claims.suspended"), compared: false };
        let policy = compile::compile(&modules(), &[], &lenient_settings(), &analysis).unwrap();
        let mut bench = Bench::new(policy, &modules(), &[], &lenient_settings()).unwrap();
        let outcome = bench.run("data.mcp.authz_test.test_suspended", &mut Trial::default());
        assert!(matches!(outcome, Outcome::Diverged(_)), "{outcome:?}");
        let outcome = bench.run("data.mcp.authz_test.test_reader", &mut Trial::default());
        assert_eq!(outcome, Outcome::Passed);
    }
}
