//! From Rego text to a [`Policy`].
//!
//! Everything that is wrong is found in one go, each with its file and line, and what can be known of
//! a policy before it is asked is known here: nothing is left for the first message to find out.

use super::calendar::Calendar;
use super::machine::{Build, Machine};
use super::mend::mend;
use super::paths::{InputPath, Reads};
use super::problem::{Problem, Severity};
use super::projection::Projection;
use super::question::Entry;
use super::source::{load, positioned, rule_names};
use super::{Point, Policy, json, program, syntax};
use chrono_tz::Tz;
use regorus::languages::rego::compiler::Compiler;
use regorus::{CompiledPolicy, Engine, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A Rego file.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Settings {
    /// Path of the decision rule: names with `/` between them. `visible` and `content` are looked for
    /// beside it.
    pub entrypoint: String,
    /// Of `input.time`: a name of the IANA time zone database.
    pub time_zone: String,
    /// A decision is remembered no longer than this.
    pub ttl: Duration,
    /// Instructions that one evaluation may take.
    pub instruction_cap: usize,
    /// Threads that ask, about.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            entrypoint: "mcp/authz/decision".to_owned(),
            time_zone: "UTC".to_owned(),
            ttl: Duration::from_secs(300),
            instruction_cap: 100_000,
            workers: 4,
        }
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
fn merge(documents: &[Document], problems: &mut Vec<Problem>) -> Value {
    let mut engine = Engine::new();
    for document in documents {
        let value = match json::value(&document.text) {
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
    for entry in Entry::ALL {
        let rule = rule_path(entry, &settings.entrypoint);
        if rules.contains(&rule) {
            match point(entry, &rule, &policy, (data, settings, analysis)) {
                Ok(point) => {
                    problems.extend(point.projection.unknown.iter().map(unknown));
                    points.push(point);
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    points
}

fn unknown(path: &InputPath) -> Problem {
    Problem::warning("", 0, format!("{path} is read, and the input document has no such member")).hint(
        "see docs/policy.md for its members; what the bundle selects of a token is in input.principal.claims",
    )
}

type Ground<'g> = (&'g Value, &'g Settings, &'g Analysis);

fn point(
    entry: Entry,
    rule: &str,
    policy: &CompiledPolicy,
    (data, settings, analysis): Ground<'_>,
) -> Result<Point, Problem> {
    let program =
        Compiler::compile_from_policy(policy, &[rule]).map_err(|error| positioned(&error.to_string()))?;
    let reached = program.rule_infos.iter().map(|info| info.name.as_str());
    let syntax = (analysis.told)(syntax::reads(policy, reached));
    let projection = if !analysis.compared || syntax.covers(&program::reads(&program)) {
        Projection::of(&syntax)
    } else {
        Projection::whole()
    };
    let mended = mend(&program).map_err(|error| Problem::error("", 0, error))?;
    let build = Build {
        program: Arc::new(mended.program),
        data: data.clone(),
        instruction_cap: settings.instruction_cap,
        slots: settings.workers,
        traps: mended.traps,
    };
    Ok(Point {
        entry,
        machine: Machine::new(build).map_err(|error| Problem::error("", 0, error))?,
        projection,
        full: Projection::whole(),
        distrusted: AtomicBool::new(false),
        misses: AtomicU32::new(0),
    })
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
