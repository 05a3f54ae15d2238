//! Packages that stand in several files.
//!
//! The engine takes a package for evaluated once the first of its files is, where the package is read
//! as a whole; and an import is read as a whole, whatever is named behind it. Rules of the other files
//! are then undefined to each other, which refuses or, under a `not`, allows what Rego does not. So
//! imports are spelled out before the engine sees them, and reading such a package as a whole is an
//! error.

use super::compile::Module;
use super::problem::Problem;
use super::syntax::{Chain, each_child, each_expression, each_literal};
use regorus::Engine;
use regorus::unstable::{Expr, ExprRef, Import, Literal, Rule, RuleHead};
use std::collections::BTreeMap;

/// The text of a module in which each use of an import of data is the imported path itself. Lines stay
/// where they are. A module that cannot be read so is left as it was.
pub(super) fn spelled_out(module: &Module) -> String {
    let mut engine = Engine::new();
    if engine.add_policy(module.path.clone(), module.text.clone()).is_err() {
        return module.text.clone();
    }
    let mut uses: Vec<(usize, usize, String)> = Vec::new();
    for parsed in engine.get_modules().iter() {
        let mut paths = imports(&parsed.imports);
        for rule in &parsed.policy {
            declared(rule, &mut |name| drop(paths.remove(name)));
        }
        for rule in &parsed.policy {
            each_expression(rule, &mut |expr| find_uses(expr, &paths, &mut uses));
        }
    }
    uses.sort_unstable_by(|a, b| b.cmp(a));
    uses.dedup();
    let mut text = module.text.clone();
    for (start, end, path) in uses {
        if text.is_char_boundary(start) && text.is_char_boundary(end) {
            text.replace_range(start..end, &path);
        }
    }
    let readable = Engine::new().add_policy(module.path.clone(), text.clone()).is_ok();
    if readable { text } else { module.text.clone() }
}

/// Places where a package of several files is read as a whole.
pub(super) fn whole_packages(engine: &mut Engine) -> Vec<Problem> {
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for module in engine.get_modules().iter() {
        if let Some(package) = Chain::of(&module.package.refr) {
            *files.entry(path_of(&package, "data")).or_default() += 1;
        }
    }
    files.retain(|_, count| *count > 1);
    let mut problems = Vec::new();
    if files.is_empty() {
        return problems;
    }
    for module in engine.get_modules().iter() {
        let scope = Scope { paths: imports(&module.imports), files: &files };
        for rule in &module.policy {
            each_expression(rule, &mut |expr| scope.find_wholes(expr, &mut problems));
        }
    }
    problems
}

struct Scope<'s> {
    paths: BTreeMap<String, String>,
    files: &'s BTreeMap<String, usize>,
}

impl Scope<'_> {
    fn find_wholes(&self, expr: &ExprRef, problems: &mut Vec<Problem>) {
        let Some(chain) = Chain::of(expr) else {
            return each_child(expr, &mut |child| self.find_wholes(child, problems));
        };
        let imported = self.paths.get(chain.root);
        let whole = match (imported, chain.root) {
            // What is named behind an import does not matter to the engine.
            (Some(path), _) => Some(path.clone()),
            (None, "data") if !chain.names.is_empty() => Some(path_of(&chain, "data")),
            _ => None,
        };
        let holds = |package: &&String| whole.as_ref().is_some_and(|path| is_within(package, path));
        if let Some(package) = self.files.keys().find(holds) {
            let span = expr.span();
            let text = format!("this reads the whole of {package}, which stands in several files");
            let problem = Problem::error(span.source.get_path(), span.line, text);
            problems.push(problem.hint("name one of its rules, or keep the package in one file"));
        }
        computed(expr, &mut |index| self.find_wholes(index, problems));
    }
}

/// Whether `package` is at `path` or below it.
fn is_within(package: &str, path: &str) -> bool {
    package.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The indexes within a chain.
fn computed(expr: &Expr, seen: &mut dyn FnMut(&ExprRef)) {
    match expr {
        Expr::RefDot { refr, .. } => computed(refr, seen),
        Expr::RefBrack { refr, index, .. } => {
            computed(refr, seen);
            seen(index);
        }
        _ => {}
    }
}

/// Whether a name needs no quotes.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Paths below `data` by the names that they are imported under, where the path needs no quotes.
fn imports(imports: &[Import]) -> BTreeMap<String, String> {
    let path = |import: &Import| {
        let chain = Chain::of(&import.refr).filter(|chain| chain.root == "data" && chain.literal())?;
        let plain = chain.names.iter().all(|name| is_plain(name));
        let last = chain.names.last().filter(|_| plain)?.to_string();
        let name = import.r#as.as_ref().map_or(last, |name| name.text().to_owned());
        Some((name, path_of(&chain, "data")))
    };
    imports.iter().filter_map(path).collect()
}

fn path_of(chain: &Chain<'_>, above: &str) -> String {
    let root = if chain.root == above { above.to_owned() } else { format!("{above}.{}", chain.root) };
    chain.names.iter().fold(root, |path, name| format!("{path}.{name}"))
}

fn find_uses(expr: &ExprRef, paths: &BTreeMap<String, String>, uses: &mut Vec<(usize, usize, String)>) {
    if let Expr::Var { span, .. } = expr.as_ref()
        && let Some(path) = paths.get(span.text())
    {
        uses.push((span.start as usize, span.end as usize, path.clone()));
    }
    each_child(expr, &mut |child| find_uses(child, paths, uses));
}

/// The names that a rule gives to values of its own: within it they are no imports.
fn declared(rule: &Rule, seen: &mut dyn FnMut(&str)) {
    if let Rule::Spec { head: RuleHead::Func { args, .. }, .. } = rule {
        args.iter().for_each(|arg| each_name(arg, seen));
    }
    each_literal(rule, &mut |literal| match literal {
        Literal::SomeVars { vars, .. } => vars.iter().for_each(|var| seen(var.text())),
        Literal::SomeIn { key, value, .. } => {
            key.iter().chain([value]).for_each(|part| each_name(part, seen));
        }
        Literal::Every { key, value, .. } => {
            key.iter().chain([value]).for_each(|var| seen(var.text()));
        }
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => assigned(expr, seen),
    });
}

fn assigned(expr: &ExprRef, seen: &mut dyn FnMut(&str)) {
    if let Expr::AssignExpr { lhs, .. } = expr.as_ref() {
        each_name(lhs, seen);
    }
}

fn each_name(expr: &ExprRef, seen: &mut dyn FnMut(&str)) {
    if let Expr::Var { span, .. } = expr.as_ref() {
        seen(span.text());
    }
    each_child(expr, &mut |child| each_name(child, seen));
}
