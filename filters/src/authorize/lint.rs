//! What is likely not meant: told by `check`, and no reason to refuse a policy.

use super::paths::InputPath;
use super::problem::Problem;
use super::source::rule_path_of;
use regorus::CompiledPolicy;
use regorus::unstable::{Expr, Module, Rule, RuleAssign, RuleHead};
use std::collections::BTreeSet;

/// More rules that nothing asks are not told one by one.
const MAX_UNREACHED: usize = 20;

/// A part of the input that is read in a way which reads all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut {
    pub(super) file: String,
    pub(super) line: u32,
    /// What is read instead.
    pub(super) read: InputPath,
}

impl Cut {
    pub(super) fn problem(&self) -> Problem {
        let all = if self.read.0.is_empty() { "the whole input" } else { "all of it" };
        Problem::warning(&self.file, self.line, format!("{} is read with a computed key", self.read))
            .hint(format!("a decision then depends on {all}; write the keys out where they are known"))
    }
}

/// What is likely not meant in an entry point.
pub(super) fn entry_point(rule: &str, policy: &CompiledPolicy) -> Vec<Problem> {
    let mut problems = Vec::new();
    let definitions: Vec<&Rule> =
        rules(policy).filter(|(_, name, _)| name == rule).map(|(.., rule)| rule).collect();
    let defaults = definitions.iter().any(|definition| match definition {
        Rule::Default { .. } => true,
        Rule::Spec { bodies, .. } => bodies.is_empty(),
    });
    if let (Some(first), false) = (definitions.first(), defaults) {
        let text = format!("{rule} has no default: where no body holds there is no answer, which denies");
        problems.push(
            Problem::warning(first.span().source.get_path(), first.span().line, text)
                .hint("say `default decision := false`, or a document with a reason"),
        );
    }
    problems.extend(definitions.into_iter().flat_map(answers).filter_map(misshapen));
    problems
}

/// Rules that no entry point asks, among those of files that some entry point asks a rule of.
pub(super) fn unreached(policy: &CompiledPolicy, reached: &BTreeSet<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut told = BTreeSet::new();
    for (module, name, rule) in rules(policy) {
        let asked = reached.iter().any(|path| *path == name || path.starts_with(&format!("{name}.")));
        let used = module.policy.iter().any(|other| {
            rule_path_of(&module.package.refr, other).is_some_and(|name| reached.contains(&name))
        });
        if !asked && used && told.insert(name.clone()) && problems.len() < MAX_UNREACHED {
            let span = rule.span();
            problems.push(
                Problem::warning(span.source.get_path(), span.line, format!("nothing asks {name}"))
                    .hint("remove it, or use it"),
            );
        }
    }
    problems
}

fn rules(policy: &CompiledPolicy) -> impl Iterator<Item = (&Module, String, &Rule)> {
    policy.get_modules().iter().flat_map(|module| {
        module
            .policy
            .iter()
            .filter_map(|rule| Some((&**module, rule_path_of(&module.package.refr, rule)?, &**rule)))
    })
}

/// The expressions that a definition answers with.
fn answers(rule: &Rule) -> Vec<&Expr> {
    match rule {
        Rule::Default { value, .. } => vec![value],
        Rule::Spec { head, bodies, .. } => {
            let head = match head {
                RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => assign.as_ref(),
                RuleHead::Set { .. } => None,
            };
            let assigns = head.into_iter().chain(bodies.iter().filter_map(|body| body.assign.as_ref()));
            assigns.map(|RuleAssign { value, .. }| &**value).collect()
        }
    }
}

/// What is wrong with an answer, as far as it is written out.
fn misshapen(answer: &Expr) -> Option<Problem> {
    let what = match answer {
        Expr::String { .. } | Expr::RawString { .. } => "a string",
        Expr::Number { .. } => "a number",
        Expr::Null { .. } => "null",
        Expr::Array { .. } | Expr::ArrayCompr { .. } => "an array",
        Expr::Set { .. } | Expr::SetCompr { .. } => "a set",
        Expr::Object { fields, .. } => {
            return fields.iter().find_map(|(span, key, _)| unknown_member(span.line, key));
        }
        _ => return None,
    };
    let span = answer.span();
    let text = format!("a decision is true, false or an object with `allow`; {what} denies");
    Some(Problem::warning(span.source.get_path(), span.line, text))
}

fn unknown_member(line: u32, key: &Expr) -> Option<Problem> {
    let Expr::String { value, span, .. } = key else { return None };
    let name = value.as_string().ok()?;
    if matches!(&**name, "allow" | "reason" | "obligations") {
        return None;
    }
    let text = format!("a decision has no member `{name}`, and one with it denies");
    Some(Problem::warning(span.source.get_path(), line, text).hint("there are allow, reason and obligations"))
}
