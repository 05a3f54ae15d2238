//! Rego text: taken in, and refused where it does what no policy may.

use super::compile::Module;
use super::imports::{spelled_out, whole_packages};
use super::problem::Problem;
use super::syntax::{Chain, each_child, each_expression};
use regorus::Engine;
use regorus::unstable::{BUILTINS, Expr, ExprRef, Rule, RuleHead};
use std::collections::{BTreeMap, BTreeSet};

/// Builtins whose answers come from outside the input and the data.
const IMPURE: &[(&str, &str)] = &[
    ("http.send", "policy reads no network; put what it needs into data/"),
    ("net.lookup_ip_addr", "policy reads no network; put what it needs into data/"),
    ("opa.runtime", "policy reads no environment; put what it needs into data/"),
    ("rand.intn", "the same question must have the same answer"),
    ("time.now_ns", "read input.time, which the gateway supplies in the policy's time zone"),
    ("uuid.rfc4122", "the same question must have the same answer"),
    ("print", "nothing reads it on the data path; use `portunus decide` to see what a rule does"),
    ("trace", "nothing reads it on the data path; use `portunus decide` to see what a rule does"),
];
/// Builtins that make as much as their arguments say, in one step that nothing ends.
const UNBOUNDED: [&str; 4] = ["bits.lsh", "net.cidr_expand", "numbers.range", "numbers.range_step"];
/// The engine passes on no more arguments than this.
const MAX_ARGUMENTS: usize = 8;

/// Adds modules to an engine.
pub(super) fn load<'m>(
    engine: &mut Engine,
    modules: impl Iterator<Item = &'m Module>,
    problems: &mut Vec<Problem>,
) {
    let mut paths = BTreeSet::new();
    for module in modules {
        if !paths.insert(&module.path) {
            problems.push(Problem::error(&module.path, 0, "the file is given twice"));
        } else if let Err(error) = engine.add_policy(module.path.clone(), spelled_out(module)) {
            problems.push(positioned(&error.to_string()));
        }
    }
    problems.extend(whole_packages(engine));
    problems.extend(mixed_objects(engine));
    let functions = functions(engine);
    for module in engine.get_modules() {
        let package = Chain::of(&module.package.refr).map(|chain| dotted(&chain)).unwrap_or_default();
        let imported: BTreeMap<String, String> = module
            .imports
            .iter()
            .filter_map(|import| {
                let chain = Chain::of(&import.refr)?;
                let last = chain.names.last()?.to_string();
                let name = import.r#as.as_ref().map_or(last, |span| span.text().to_owned());
                Some((name, dotted(&chain)))
            })
            .collect();
        let scope = Scope { package: format!("data.{package}"), imported, functions: &functions };
        for rule in &module.policy {
            each_expression(rule, &mut |expr| scope.calls(expr, problems));
        }
    }
}

/// Objects whose keys are written out in one rule and computed in another: the engine does not compare
/// the two, and where they give one key two values Rego has none.
fn mixed_objects(engine: &mut Engine) -> Vec<Problem> {
    let mut written: BTreeSet<String> = BTreeSet::new();
    let mut computed: BTreeMap<String, (String, u32)> = BTreeMap::new();
    for module in engine.get_modules().iter() {
        let package = Chain::of(&module.package.refr).map(|chain| dotted(&chain)).unwrap_or_default();
        for rule in &module.policy {
            let Rule::Spec { head: RuleHead::Compr { refr, .. }, span, .. } = rule.as_ref() else { continue };
            let Some(chain) = Chain::of(refr) else { continue };
            let object = format!("data.{package}.{}", chain.root);
            if !chain.literal() {
                computed.insert(object, (span.source.get_path().clone(), span.line));
            } else if !chain.names.is_empty() {
                written.insert(object);
            }
        }
    }
    let mixed = computed.into_iter().filter(|(object, _)| written.contains(object));
    let problem = |(object, (path, line)): (String, (String, u32))| {
        Problem::error(
            &path,
            line,
            format!("{object} has keys that are written out and keys that are computed"),
        )
        .hint("make two objects of them, or one comprehension")
    };
    mixed.map(problem).collect()
}

/// What an error of the engine says, with the place that it names.
pub(super) fn positioned(error: &str) -> Problem {
    let place = || {
        let (_, rest) = error.split_once("--> ")?;
        let (place, rest) = rest.split_once('\n')?;
        let mut parts = place.rsplitn(3, ':');
        let (_, line, path) = (parts.next()?, parts.next()?, parts.next()?);
        let text = rest.split_once("error: ").map_or(rest, |(_, text)| text);
        Some(Problem::error(path, line.parse().ok()?, text.trim()))
    };
    place().unwrap_or_else(|| Problem::error("", 0, error.trim()))
}

/// The paths of all rules.
pub(super) fn rule_names(engine: &mut Engine) -> BTreeSet<String> {
    let modules = engine.get_modules().iter();
    modules
        .flat_map(|module| module.policy.iter().filter_map(|rule| rule_path_of(&module.package.refr, rule)))
        .collect()
}

/// The paths of all functions.
fn functions(engine: &mut Engine) -> BTreeSet<String> {
    let function = |rule: &Rule| matches!(rule, Rule::Spec { head: RuleHead::Func { .. }, .. });
    let modules = engine.get_modules().iter();
    let rules = modules.flat_map(|module| module.policy.iter().map(move |rule| (module, rule)));
    rules
        .filter(|(_, rule)| function(rule))
        .filter_map(|(module, rule)| rule_path_of(&module.package.refr, rule))
        .collect()
}

/// The path of a rule, as `data.…`.
pub(super) fn rule_path_of(package: &Expr, rule: &Rule) -> Option<String> {
    let name = match rule {
        Rule::Default { refr, .. } => refr,
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
    };
    Some(format!("data.{}.{}", dotted(&Chain::of(package)?), dotted(&Chain::of(name)?)))
}

fn dotted(chain: &Chain<'_>) -> String {
    chain.names.iter().fold(chain.root.to_owned(), |path, name| format!("{path}.{name}"))
}

/// What names mean in a module.
struct Scope<'s> {
    package: String,
    imported: BTreeMap<String, String>,
    functions: &'s BTreeSet<String>,
}

impl Scope<'_> {
    fn calls(&self, expr: &ExprRef, problems: &mut Vec<Problem>) {
        if let Expr::Call { span, fcn, params, .. } = expr.as_ref()
            && let Some(chain) = Chain::of(fcn)
        {
            let path = &span.source.get_path().clone();
            let name = dotted(&chain);
            if !follows_at_once(fcn) {
                problems.push(
                    Problem::error(
                        path,
                        span.line,
                        format!("`{name}` is followed by a parenthesis on its own"),
                    )
                    .hint(
                        "Rego reads two statements here, and the engine a call; give the second one a name",
                    ),
                );
            }
            if params.len() > MAX_ARGUMENTS {
                let text = format!("`{name}` is called with more than {MAX_ARGUMENTS} arguments");
                problems.push(Problem::error(path, span.line, text).hint("pass an object"));
            }
            if UNBOUNDED.contains(&name.as_str()) && !params.iter().all(|param| is_written_out(param)) {
                problems.push(
                    Problem::error(path, span.line, format!("`{name}` is called with what is computed"))
                        .hint("write its arguments out: a caller could choose how much it makes"),
                );
            }
            if !self.is_function(&chain, &name) {
                problems.extend(
                    foreign(&name).map(|(text, hint)| Problem::error(path, span.line, text).hint(hint)),
                );
            }
        }
        each_child(expr, &mut |child| self.calls(child, problems));
    }

    /// Whether it is a function of the policy.
    fn is_function(&self, chain: &Chain<'_>, name: &str) -> bool {
        let imported = self.imported.get(chain.root).map(|path| name.replacen(chain.root, path, 1));
        let local = format!("{}.{name}", self.package);
        [Some(name.to_owned()), Some(local), imported]
            .into_iter()
            .flatten()
            .any(|path| self.functions.contains(&path))
    }
}

fn is_written_out(argument: &Expr) -> bool {
    match argument {
        Expr::UnaryExpr { expr, .. } => is_written_out(expr),
        other => matches!(other, Expr::Number { .. } | Expr::String { .. } | Expr::RawString { .. }),
    }
}

/// Whether the parenthesis of a call stands directly behind the name of the function.
fn follows_at_once(function: &Expr) -> bool {
    let span = function.span();
    let end = usize::try_from(span.end).unwrap_or(usize::MAX);
    span.source.get_contents().get(end..).is_some_and(|rest| rest.starts_with('('))
}

/// What is wrong with a builtin, and what to do instead.
fn foreign(name: &str) -> Option<(String, &'static str)> {
    if let Some((_, hint)) = IMPURE.iter().find(|(impure, _)| *impure == name) {
        return Some((format!("`{name}` is not for policy that decides on messages"), hint));
    }
    if name.starts_with("__") {
        return Some((format!("`{name}` is the engine's own"), "call a function of Rego"));
    }
    if BUILTINS.contains_key(name) {
        return None;
    }
    Some((
        format!("there is no function `{name}`"),
        "see docs/policy.md for the functions of Rego that are here",
    ))
}
