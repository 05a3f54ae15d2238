//! What a policy reads, told from its syntax.
//!
//! This is the first of two accounts of the same thing; the other is told from the compiled program
//! ([`super::program`]), and the two have to agree. Both are precise where people write precisely:
//! `input.a.b`, `input["a"].b`, imports of these, local names for these, and `object.get` with a
//! literal key. Whatever else is done with a part of the input reads that part as a whole.

use super::lint::Cut;
use super::paths::{InputPath, Reads};
use regorus::CompiledPolicy;
use regorus::unstable::{AssignOp, Expr, ExprRef, Literal, Module, Query, Rule, RuleAssign, RuleHead};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What the rules named `reached` read of the input.
pub(super) fn reads<'p>(policy: &CompiledPolicy, reached: impl Iterator<Item = &'p str>) -> Told {
    let modules = modules_by_rule(policy);
    let mut told = Told::default();
    for rule in reached.filter_map(|path| policy.get_rules().get(path)).flatten() {
        let imports = modules.get(&address(rule)).map(|module| imports(module)).unwrap_or_default();
        RuleReader::new(imports, &mut told).rule(rule);
    }
    told
}

/// What the syntax tells.
#[derive(Default)]
pub(super) struct Told {
    pub(super) reads: Reads,
    /// Where more is read than what decides.
    pub(super) cuts: BTreeSet<Cut>,
}

/// A rule's address is its identity: the policy holds each rule once.
fn address(rule: &Rule) -> *const Rule {
    rule
}

fn modules_by_rule(policy: &CompiledPolicy) -> HashMap<*const Rule, &Module> {
    let modules = policy.get_modules().iter();
    modules.flat_map(|module| module.policy.iter().map(|rule| (address(rule), &**module))).collect()
}

/// Names that a module's imports give to parts of the input.
fn imports(module: &Module) -> BTreeMap<String, InputPath> {
    let mut names = BTreeMap::new();
    for import in &module.imports {
        let Some(chain) = Chain::of(&import.refr).filter(|chain| chain.root == "input" && chain.literal())
        else {
            continue;
        };
        let name = import.r#as.as_ref().map(|span| span.text().to_owned());
        let last = chain.names.last().map(|name| name.to_string());
        if let Some(name) = name.or(last) {
            names.insert(name, InputPath(chain.names));
        }
    }
    names
}

/// A reference: a variable and the literal members that are followed from it.
pub(super) struct Chain<'e> {
    pub(super) root: &'e str,
    /// As far as they are literal.
    pub(super) names: Vec<Arc<str>>,
    /// Indexes that are computed.
    computed: Vec<&'e ExprRef>,
}

impl<'e> Chain<'e> {
    /// `None` if it does not start at a variable.
    pub(super) fn of(expr: &'e Expr) -> Option<Chain<'e>> {
        let mut steps: Vec<Result<Arc<str>, &ExprRef>> = Vec::new();
        let mut at = expr;
        let root = loop {
            match at {
                Expr::Var { span, .. } => break span.text(),
                Expr::RefDot { refr, field, .. } => {
                    steps.push(Ok(field.0.text().into()));
                    at = refr;
                }
                Expr::RefBrack { refr, index, .. } => {
                    steps.push(literal(index).ok_or(index));
                    at = refr;
                }
                _ => return None,
            }
        };
        steps.reverse();
        let names = steps.iter().map_while(|step| step.clone().ok()).collect();
        Some(Chain { root, names, computed: steps.into_iter().filter_map(Result::err).collect() })
    }

    pub(super) fn literal(&self) -> bool {
        self.computed.is_empty()
    }
}

/// The key that an index writes out. Raw strings are none: the compiler takes them for computed.
fn literal(index: &Expr) -> Option<Arc<str>> {
    match index {
        Expr::String { value, .. } => value.as_string().ok().cloned(),
        _ => None,
    }
}

/// Reads one rule.
struct RuleReader<'r> {
    imports: BTreeMap<String, InputPath>,
    /// Local names that stand for parts of the input everywhere in the rule.
    locals: BTreeMap<String, InputPath>,
    used: BTreeSet<String>,
    told: &'r mut Told,
}

impl<'r> RuleReader<'r> {
    fn new(imports: BTreeMap<String, InputPath>, told: &'r mut Told) -> RuleReader<'r> {
        RuleReader { imports, locals: BTreeMap::new(), used: BTreeSet::new(), told }
    }

    fn rule(&mut self, rule: &Rule) {
        let mut bindings = Bindings::default();
        bindings.rule(rule);
        self.name_locals(&bindings);
        let mut expressions = Vec::new();
        each_expression(rule, &mut |expr| expressions.push(expr.clone()));
        expressions.iter().for_each(|expr| self.expression(expr));
        for (name, path) in &self.locals {
            if !self.used.contains(name) {
                self.told.reads.value(path.clone());
            }
        }
    }

    /// A name that is bound once, to a part of the input, is another way to write that part. Such
    /// names may build on each other in any order.
    fn name_locals(&mut self, bindings: &Bindings) {
        loop {
            let before = self.locals.len();
            for (name, value) in &bindings.assigned {
                let once = bindings.times.get(name) == Some(&1);
                if once
                    && !self.locals.contains_key(name)
                    && let Some(path) = self.part(value)
                {
                    self.locals.insert(name.clone(), path);
                }
            }
            if self.locals.len() == before {
                return;
            }
        }
    }

    /// The part of the input that an expression stands for, if all of the way there is literal.
    fn part(&self, expr: &Expr) -> Option<InputPath> {
        let chain = Chain::of(expr).filter(Chain::literal)?;
        Some(self.base(chain.root)?.along(&chain.names))
    }

    fn base(&self, root: &str) -> Option<InputPath> {
        match root {
            "input" => Some(InputPath::default()),
            name => self.locals.get(name).or_else(|| self.imports.get(name)).cloned(),
        }
    }

    fn expression(&mut self, expr: &ExprRef) {
        match expr.as_ref() {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Call { fcn, params, .. } => self.call(fcn, params),
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } if self.names(lhs, rhs) => {}
            other => each_child(other, &mut |child| self.expression(child)),
        }
    }

    /// Whether this gives a name to a part of the input, which its uses then read.
    fn names(&mut self, lhs: &Expr, rhs: &Expr) -> bool {
        let (Expr::Var { span, .. }, Some(chain)) = (lhs, Chain::of(rhs)) else { return false };
        let names = self.locals.contains_key(span.text()) && self.part(rhs).is_some();
        if names {
            self.used.insert(chain.root.to_owned());
        }
        names
    }

    fn reference(&mut self, expr: &ExprRef) {
        let Some(chain) = Chain::of(expr) else {
            each_child(expr, &mut |child| self.expression(child));
            return;
        };
        chain.computed.iter().for_each(|index| self.expression(index));
        if let Some(base) = self.base(chain.root) {
            self.used.insert(chain.root.to_owned());
            let read = base.along(&chain.names);
            if !chain.literal() {
                let span = expr.span();
                let file = span.source.get_path().clone();
                self.told.cuts.insert(Cut { file, line: span.line, read: read.clone() });
            }
            self.told.reads.value(read);
        }
    }

    fn call(&mut self, function: &ExprRef, params: &[ExprRef]) {
        if let [object, key, rest @ ..] = params
            && is_object_get(function)
            && let (Some(part), Some(key)) = (self.part(object), literal(key))
        {
            if let Some(chain) = Chain::of(object) {
                self.used.insert(chain.root.to_owned());
            }
            self.told.reads.value(part.below(&key));
            rest.iter().for_each(|param| self.expression(param));
            return;
        }
        params.iter().for_each(|param| self.expression(param));
    }
}

fn is_object_get(function: &Expr) -> bool {
    Chain::of(function).is_some_and(|chain| {
        chain.root == "object" && chain.names.len() == 1 && &*chain.names[0] == "get" && chain.literal()
    })
}

/// How often each local name of a rule is bound, and to what by `:=`.
#[derive(Default)]
struct Bindings {
    times: BTreeMap<String, usize>,
    assigned: Vec<(String, ExprRef)>,
}

impl Bindings {
    fn rule(&mut self, rule: &Rule) {
        if let Rule::Spec { head: RuleHead::Func { args, .. }, .. } = rule {
            args.iter().for_each(|arg| self.pattern(arg));
        }
        each_literal(rule, &mut |literal| self.literal(literal));
        let mut expressions = Vec::new();
        each_expression(rule, &mut |expr| expressions.push(expr.clone()));
        expressions.iter().for_each(|expr| self.expression(expr));
    }

    fn literal(&mut self, literal: &Literal) {
        match literal {
            Literal::SomeVars { vars, .. } => vars.iter().for_each(|span| self.bind(span.text())),
            Literal::SomeIn { key, value, .. } => {
                key.iter().chain([value]).for_each(|pattern| self.pattern(pattern));
            }
            Literal::Every { key, value, .. } => {
                key.iter().chain([value]).for_each(|span| self.bind(span.text()));
            }
            Literal::Expr { .. } | Literal::NotExpr { .. } => {}
        }
    }

    /// `:=` binds a name; `=` may bind whatever variables are in it, so they count as bound twice.
    fn expression(&mut self, expr: &ExprRef) {
        if let Expr::AssignExpr { op, lhs, rhs, .. } = expr.as_ref() {
            match (op, lhs.as_ref()) {
                (AssignOp::ColEq, Expr::Var { span, .. }) => {
                    self.bind(span.text());
                    self.assigned.push((span.text().to_owned(), rhs.clone()));
                }
                (AssignOp::ColEq, _) => self.pattern(lhs),
                (AssignOp::Eq, _) => [lhs, rhs, lhs, rhs].into_iter().for_each(|side| self.pattern(side)),
            }
        }
        each_child(expr, &mut |child| self.expression(child));
    }

    fn pattern(&mut self, expr: &Expr) {
        if let Expr::Var { span, .. } = expr {
            self.bind(span.text());
        }
        each_child(expr, &mut |child| self.pattern(child));
    }

    fn bind(&mut self, name: &str) {
        *self.times.entry(name.to_owned()).or_default() += 1;
    }
}

/// Every literal of a rule's bodies, those of inner queries too.
pub(super) fn each_literal(rule: &Rule, seen: &mut dyn FnMut(&Literal)) {
    let Rule::Spec { bodies, .. } = rule else { return };
    let mut queries: Vec<&Query> = bodies.iter().map(|body| &*body.query).collect();
    let mut expressions: Vec<ExprRef> = Vec::new();
    each_expression(rule, &mut |expr| expressions.push(expr.clone()));
    let mut inner: Vec<regorus::unstable::Ref<Query>> = Vec::new();
    expressions.iter().for_each(|expr| inner_queries(expr, &mut inner));
    queries.extend(inner.iter().map(|query| &**query));
    for query in queries {
        each_literal_of(query, seen);
    }
}

fn each_literal_of(query: &Query, seen: &mut dyn FnMut(&Literal)) {
    for statement in &query.stmts {
        seen(&statement.literal);
        if let Literal::Every { query, .. } = &statement.literal {
            each_literal_of(query, seen);
        }
    }
}

fn inner_queries(expr: &Expr, found: &mut Vec<regorus::unstable::Ref<Query>>) {
    match expr {
        Expr::ArrayCompr { query, .. } | Expr::SetCompr { query, .. } | Expr::ObjectCompr { query, .. } => {
            found.push(query.clone());
        }
        _ => {}
    }
    each_child(expr, &mut |child| inner_queries(child, found));
}

/// The outermost expressions of a rule: its head's and those of its bodies' statements.
pub(super) fn each_expression(rule: &Rule, seen: &mut dyn FnMut(&ExprRef)) {
    match rule {
        Rule::Default { value, .. } => seen(value),
        Rule::Spec { head, bodies, .. } => {
            each_of_head(head, seen);
            for body in bodies {
                body.assign.iter().for_each(|RuleAssign { value, .. }| seen(value));
                each_of_query(&body.query, seen);
            }
        }
    }
}

fn each_of_head(head: &RuleHead, seen: &mut dyn FnMut(&ExprRef)) {
    match head {
        RuleHead::Compr { refr, assign, .. } => {
            if let Expr::RefBrack { index, .. } = refr.as_ref() {
                seen(index);
            }
            assign.iter().for_each(|RuleAssign { value, .. }| seen(value));
        }
        RuleHead::Set { key, .. } => key.iter().for_each(seen),
        RuleHead::Func { args, assign, .. } => {
            args.iter().for_each(&mut *seen);
            assign.iter().for_each(|RuleAssign { value, .. }| seen(value));
        }
    }
}

fn each_of_query(query: &Query, seen: &mut dyn FnMut(&ExprRef)) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().chain([value, collection]).for_each(&mut *seen);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => seen(expr),
            Literal::Every { domain, query, .. } => {
                seen(domain);
                each_of_query(query, seen);
            }
        }
        for with in &statement.with_mods {
            seen(&with.refr);
            seen(&with.r#as);
        }
    }
}

/// The expressions directly inside one.
pub(super) fn each_child(expr: &Expr, seen: &mut dyn FnMut(&ExprRef)) {
    match expr {
        Expr::String { .. }
        | Expr::RawString { .. }
        | Expr::Number { .. }
        | Expr::Bool { .. }
        | Expr::Null { .. }
        | Expr::Var { .. } => {}
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(seen),
        Expr::Object { fields, .. } => {
            fields.iter().for_each(|(_, key, value)| [key, value].into_iter().for_each(&mut *seen));
        }
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            seen(term);
            each_of_query(query, seen);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            [key, value].into_iter().for_each(&mut *seen);
            each_of_query(query, seen);
        }
        Expr::Call { fcn, params, .. } => {
            seen(fcn);
            params.iter().for_each(seen);
        }
        Expr::UnaryExpr { expr, .. } => seen(expr),
        Expr::RefDot { refr, .. } => seen(refr),
        Expr::RefBrack { refr, index, .. } => [refr, index].into_iter().for_each(seen),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => [lhs, rhs].into_iter().for_each(seen),
        Expr::Membership { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(seen);
        }
    }
}
