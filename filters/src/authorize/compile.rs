//! From Rego text to a [`Policy`].
//!
//! Everything that is wrong is found in one go, each with its file and line, and what can be known of
//! a policy before it is asked is known here: nothing is left for the first message to find out.

use super::budget::Rates;
use super::calendar::Calendar;
use super::interpreter::{Interpreter, Terms};
use super::lint::{self, Cut};
use super::paths::{InputPath, Reads};
use super::problem::{Problem, Severity};
use super::projection::Projection;
use super::question::Entry;
use super::source::{load, positioned, rule_names};
use super::{Point, Policy, json, program, syntax};
use chrono_tz::Tz;
use regorus::languages::rego::compiler::Compiler;
use regorus::{CompiledPolicy, Engine, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A Rego file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name in problems and in coverage.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl Module {
    /// Whether it holds tests, by its name.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("_test.rego")
    }
}

/// A JSON file of data.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its name in problems.
    pub path: String,
    /// Where it lies below `data`: member names with `/` between them, or nothing.
    pub mount: String,
    /// JSON text.
    pub text: String,
}

/// How a policy is compiled and asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Path of the decision rule: names with `/` between them. `visible` and `content` are looked for
    /// beside it.
    pub entrypoint: String,
    /// Of `input.time`: a name of the IANA time zone database.
    pub time_zone: String,
    /// A decision is remembered no longer than this.
    pub ttl: Duration,
    /// An evaluation that takes more CPU time denies.
    pub time_limit: Duration,
    /// Whether what a builtin cannot take, such as a number where it wants a string, denies, as with
    /// OPA's `--strict-builtin-errors`. Else it is undefined: a rule that forbids and runs into it
    /// does not forbid.
    pub strict: bool,
    /// Threads that ask, about.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            entrypoint: "mcp/authz/decision".to_owned(),
            time_zone: "UTC".to_owned(),
            ttl: Duration::from_secs(300),
            time_limit: Duration::from_millis(10),
            strict: true,
            workers: 4,
        }
    }
}

impl Settings {
    fn terms(&self) -> Terms {
        Terms { limit: self.time_limit, strict: self.strict, slots: self.workers }
    }
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

impl Policy {
    /// Compiles `modules` over `data`. Files whose names end in `_test.rego` are for
    /// [`super::trial`] and are left out.
    ///
    /// # Errors
    /// All problems that were found, warnings among them.
    pub fn compile(
        modules: &[Module],
        data: &[Document],
        settings: &Settings,
    ) -> Result<Policy, Vec<Problem>> {
        compile(modules, data, settings, &Analysis::default())
    }
}

/// What is done with the account of what a policy reads. Tests of the nets under it do less.
pub(super) struct Analysis {
    /// What is made of the account that is told from the syntax.
    pub(super) told: fn(Reads) -> Reads,
    /// Whether it is compared with the one that is told from the program.
    pub(super) compared: bool,
}

impl Default for Analysis {
    fn default() -> Analysis {
        Analysis { told: |reads| reads, compared: true }
    }
}

pub(super) fn compile(
    modules: &[Module],
    data: &[Document],
    settings: &Settings,
    analysis: &Analysis,
) -> Result<Policy, Vec<Problem>> {
    let mut problems = Vec::new();
    let zone = zone(&settings.time_zone, &mut problems);
    let mut engine = Engine::new();
    let data = merge(data, &mut problems);
    load(&mut engine, modules.iter().filter(|module| !module.is_test()), &mut problems);
    let points = match sound(problems) {
        Ok(mut warnings) => {
            let points = points(&mut engine, &data, (settings, analysis), &mut warnings);
            problems = warnings;
            points
        }
        Err(problems) => return Err(problems),
    };
    Ok(Policy {
        warnings: sound(problems)?,
        points,
        roles: None,
        rates: Rates { limit: settings.time_limit },
        calendar: Calendar::new(zone),
        generation: GENERATION.fetch_add(1, Ordering::Relaxed),
        ttl: settings.ttl,
    })
}

/// The problems, if none of them refuses the policy.
fn sound(problems: Vec<Problem>) -> Result<Vec<Problem>, Vec<Problem>> {
    let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
    if refused { Err(problems) } else { Ok(problems) }
}

fn zone(name: &str, problems: &mut Vec<Problem>) -> Tz {
    name.parse().unwrap_or_else(|_| {
        problems.push(
            Problem::error("", 0, format!("`{name}` is no time zone"))
                .hint("use a name such as Europe/Berlin or UTC"),
        );
        Tz::UTC
    })
}

/// One document of all the data.
pub(super) fn merge(documents: &[Document], problems: &mut Vec<Problem>) -> Value {
    let mut engine = Engine::new();
    for document in documents {
        let value = match json::document(&document.text) {
            Ok(value) => value,
            Err(fault) => {
                problems.push(Problem::error(&document.path, 0, fault.to_string()));
                continue;
            }
        };
        let mounts: Vec<&str> = document.mount.split('/').filter(|name| !name.is_empty()).collect();
        let value = mounts
            .iter()
            .rev()
            .fold(value, |inner, name| Value::from(BTreeMap::from([(Value::from(*name), inner)])));
        if let Err(error) = engine.add_data(value) {
            problems.push(
                Problem::error(&document.path, 0, format!("it cannot be merged into data: {error}")).hint(
                    "two files may not give the same member, and a file at the root has to be an object",
                ),
            );
        }
    }
    engine.get_data()
}

fn points(
    engine: &mut Engine,
    data: &Value,
    (settings, analysis): (&Settings, &Analysis),
    problems: &mut Vec<Problem>,
) -> Vec<Point> {
    if let Err(error) = engine.add_data(data.clone()) {
        problems.push(positioned(&error.to_string()));
        return Vec::new();
    }
    problems.extend(crowded(data));
    let rules = rule_names(engine);
    let decision = rule_path(Entry::Decision, &settings.entrypoint);
    if !rules.contains(&decision) {
        problems.push(
            Problem::error("", 0, format!("the policy has no rule {decision}"))
                .hint("write that rule, or name another one as entrypoint"),
        );
        return Vec::new();
    }
    let policy = match engine.compile_with_entrypoint(&decision.as_str().into()) {
        Ok(policy) => policy,
        Err(error) => {
            problems.push(positioned(&error.to_string()));
            return Vec::new();
        }
    };
    let mut points = Vec::new();
    let mut reached = Some(BTreeSet::new());
    for entry in Entry::ALL {
        let rule = rule_path(entry, &settings.entrypoint);
        if rules.contains(&rule) {
            let told = told(&rule, &policy, analysis);
            reached = reached.zip(told.reached).map(|(one, other)| &one | &other);
            let projection = told.reads.map_or_else(Projection::whole, |reads| Projection::of(&reads));
            problems.extend(told.problems);
            problems.extend(lint::entry_point(&rule, &policy));
            problems.extend(projection.unknown.iter().map(unknown));
            points.push(Point::new(entry, Interpreter::new(engine, &rule, settings.terms()), projection));
        }
    }
    problems.extend(reached.into_iter().flat_map(|reached| lint::unreached(&policy, &reached)));
    points
}

/// What is told of an entry point before it is asked.
#[derive(Default)]
struct Told {
    /// What it reads of the input, if both accounts of it agree.
    reads: Option<Reads>,
    /// The rules that it asks, if that can be told.
    reached: Option<BTreeSet<String>>,
    problems: Vec<Problem>,
}

fn told(rule: &str, policy: &CompiledPolicy, analysis: &Analysis) -> Told {
    let program = match Compiler::compile_from_policy(policy, &[rule]) {
        Ok(program) => program,
        Err(error) => {
            return Told { problems: vec![untold(positioned(&error.to_string()))], ..Told::default() };
        }
    };
    let reached: BTreeSet<String> = program.rule_infos.iter().map(|info| info.name.clone()).collect();
    let syntax::Told { reads, cuts } = syntax::reads(policy, reached.iter().map(String::as_str));
    let reads = (analysis.told)(reads);
    let agreed = !analysis.compared || reads.covers(&program::reads(&program));
    let problems = cuts.iter().map(Cut::problem).collect();
    Told { reads: agreed.then_some(reads), reached: Some(reached), problems }
}

/// What the program's compiler cannot do only means that the program tells nothing; what it says is
/// wrong is wrong.
fn untold(problem: Problem) -> Problem {
    if !problem.text.contains("supported") && !problem.text.contains("register") {
        return problem;
    }
    let text = format!("what is read cannot be told: {}", problem.text);
    Problem { severity: Severity::Warning, text, ..problem }
        .hint("a decision is remembered for questions alone that are equal in everything")
}

/// Each evaluation copies the outermost members of the data.
const MAX_ROOTS: usize = 256;

fn crowded(data: &Value) -> Option<Problem> {
    let roots = data.as_object().map(|members| members.len()).unwrap_or_default();
    let text = format!("data has {roots} members at its root, which each evaluation copies");
    (roots > MAX_ROOTS).then(|| Problem::warning("", 0, text).hint("put them below one member"))
}

fn unknown(path: &InputPath) -> Problem {
    Problem::warning("", 0, format!("{path} is read, and the input document has no such member")).hint(
        "see docs/policy.md for its members; what the bundle selects of a token is in input.principal.claims",
    )
}

fn rule_path(entry: Entry, entrypoint: &str) -> String {
    let decision = entrypoint.replace('/', ".");
    let beside = |name: &str| match decision.rsplit_once('.') {
        Some((package, _)) => format!("data.{package}.{name}"),
        None => format!("data.{name}"),
    };
    match entry {
        Entry::Decision => format!("data.{decision}"),
        Entry::Visible => beside("visible"),
        Entry::Content => beside("content"),
    }
}
