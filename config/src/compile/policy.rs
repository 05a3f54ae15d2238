//! Policy: rules and data gathered, compiled by the engine, and held against what the document says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portunus_filters::authorize::trial::{Outcome, run_tests};
use portunus_filters::authorize::{Entry, Module, Policy, Problem, Settings, Severity};
use serde_json::{Map, Value};

use super::Terms;
use crate::diagnostic::{Findings, Located, Location, Place};
use crate::document::{PolicyDocument, PolicySourceDocument, RulesDocument, ShadowDocument};
use crate::files::Files;
use crate::policy::{Known, ListRule, Lists, PolicyRules, PolicySource, Shadow, Written, Zones, read_roles};
use crate::redact::enforced;
use crate::snapshot::Snapshot;

/// The policy of a document; what is wrong with it is reported.
pub(super) fn compile(
    rules: &RulesDocument,
    snapshot: &Snapshot,
    files: &Files<'_>,
    terms: Terms,
) -> Option<PolicyRules> {
    let document = rules.policy.as_ref()?;
    let compiler = Compiler { document, gateway: Some(enforced(snapshot)), files, terms };
    let source = match &document.rules {
        PolicySourceDocument::Path { path, data } => compiler.gather(path, data.as_ref()),
        PolicySourceDocument::Rbac(roles) => compiler.roles(roles, snapshot),
    };
    let shadow = document.shadow.as_ref().and_then(|shadow| compiler.shadow(shadow));
    let rules = compiler.rules(source?)?;
    let lists = lists(document, &rules.policy, files.findings());
    Some(PolicyRules { lists, shadow, ..rules })
}

/// A policy by itself, with defaults and without a gateway. What is wrong with it is reported.
pub(crate) fn compile_alone(
    document: &PolicyDocument,
    files: &Files<'_>,
    terms: Terms,
) -> Option<PolicyRules> {
    let compiler = Compiler { document, gateway: None, files, terms };
    match &document.rules {
        PolicySourceDocument::Path { path, data } => compiler.rules(compiler.gather(path, data.as_ref())?),
        PolicySourceDocument::Rbac(_) => None,
    }
}

struct Compiler<'a> {
    document: &'a PolicyDocument,
    /// `data.portunus`; `None` where there is no gateway.
    gateway: Option<Value>,
    files: &'a Files<'a>,
    terms: Terms,
}

impl Compiler<'_> {
    /// What is in a folder of rules and in that of its data, `data` beside the document if there is
    /// one.
    fn gather(&self, path: &Located<PathBuf>, data: Option<&Located<PathBuf>>) -> Option<PolicySource> {
        let mut source = PolicySource::default();
        source.add(path, self.files)?;
        if source.modules.iter().all(Module::is_test) {
            let problem = format!("`{}` has no rules", path.value.display());
            let hint = "put a `.rego` file there whose name does not end in `_test.rego`";
            self.files.findings().error(&path.place, problem, hint);
            return None;
        }
        let beside = Located { value: PathBuf::from("data"), place: path.place.clone() };
        match data {
            Some(data) => source.add(data, self.files)?,
            None if self.files.named(&beside).is_some_and(|data| self.files.reads.folder(&data).is_ok()) => {
                source.add(&beside, self.files)?;
            }
            None => {}
        }
        Some(self.with_gateway(source))
    }

    fn roles(&self, path: &Located<PathBuf>, snapshot: &Snapshot) -> Option<PolicySource> {
        let file = self.files.named(path)?;
        let text = self.files.text(&file, &path.place)?;
        self.files.count("roles", &text);
        let upstreams: Vec<&str> = snapshot.upstreams.iter().map(|upstream| &*upstream.name).collect();
        let servers: Vec<&str> = snapshot.routes.iter().map(|server| &*server.name).collect();
        let known = Known { upstreams: &upstreams, servers: &servers };
        read_roles(&text, &file, known, self.files.findings()).map(|source| self.with_gateway(source))
    }

    /// The gateway document is part of the data, so that rules can speak of servers and upstreams.
    fn with_gateway(&self, mut source: PolicySource) -> PolicySource {
        let gateway = self.gateway.clone().map(|gateway| ("portunus".to_owned(), gateway));
        source.add_data(Map::from_iter(gateway), Path::new("data.portunus"), self.files.findings());
        source
    }

    fn rules(&self, source: PolicySource) -> Option<PolicyRules> {
        let zones = self.zones(&source);
        let policy = self.policy(&source)?;
        let policy = Arc::new(match &self.document.rules {
            PolicySourceDocument::Path { .. } => policy,
            PolicySourceDocument::Rbac(roles) => self.indexed(policy, &source, &roles.place)?,
        });
        Some(PolicyRules {
            lists: if policy.has(Entry::Visible) { ListRule::Visible } else { ListRule::Decision },
            policy,
            zones,
            cache_entries: self.document.cache_entries.unwrap_or(PolicyRules::DEFAULT_CACHE_ENTRIES),
            reasons_to_client: self.document.reasons_to_client,
            shadow: None,
            source: Arc::new(source),
            settings: self.settings(),
            written: self.written(),
        })
    }

    /// A policy of roles, answered from an index of them.
    fn indexed(&self, policy: Policy, source: &PolicySource, place: &Place) -> Option<Policy> {
        let report = |problem| {
            let hint =
                "report this file of roles; as Rego, by `portunus policy eject`, it can be used meanwhile";
            self.files.findings().error(place, format!("the roles cannot be indexed: {problem}"), hint);
        };
        policy.with_roles(source.data.get("rbac").unwrap_or(&Value::Null)).map_err(report).ok()
    }

    fn zones(&self, source: &PolicySource) -> Zones {
        let report = |problem: String| {
            let hint = "write networks by name: `zones: {office: [\"10.0.0.0/8\"]}`";
            self.files.findings().error(&self.document.place, problem, hint);
        };
        Zones::read(&source.data)
            .map_err(|problems| problems.into_iter().for_each(report))
            .unwrap_or_default()
    }

    fn shadow(&self, shadow: &ShadowDocument) -> Option<Shadow> {
        let source = self.gather(&shadow.path, shadow.data.as_ref())?;
        Some(Shadow { policy: Arc::new(self.policy(&source)?), sample: shadow.sample })
    }

    fn policy(&self, source: &PolicySource) -> Option<Policy> {
        match Policy::compile(&source.modules, &source.documents(), &self.settings()) {
            Ok(policy) => {
                self.report(policy.warnings());
                if self.terms.tested && source.modules.iter().any(Module::is_test) {
                    self.test(source);
                }
                Some(policy)
            }
            Err(problems) => {
                self.report(&problems);
                None
            }
        }
    }

    /// Runs the policy's own tests; those that fail refuse it.
    fn test(&self, source: &PolicySource) {
        let trial = match run_tests(&source.modules, &source.documents(), &self.settings()) {
            Ok(trial) => trial,
            Err(problems) => return self.report(&problems),
        };
        for test in trial.tests {
            let problem = match test.outcome {
                Outcome::Passed | Outcome::Skipped => continue,
                Outcome::Failed => format!("the test `{}` fails", test.name),
                Outcome::Errored(problem) => format!("the test `{}` cannot be run: {problem}", test.name),
                Outcome::Diverged(entries) => {
                    format!("in the test `{}`, {entries} is decided in two ways", test.name)
                }
            };
            let hint = "`portunus test` runs the tests alone; mend the rules or the test";
            self.files.findings().error(&in_module(&test.path, test.line), problem, hint);
        }
    }

    fn settings(&self) -> Settings {
        let default = Settings::default();
        let PolicyDocument { entrypoint, time_zone, cache_ttl, time_limit, strict, .. } = self.document;
        let text = |written: &Option<Located<String>>| written.as_ref().map(|text| text.value.clone());
        Settings {
            entrypoint: text(entrypoint).unwrap_or(default.entrypoint),
            time_zone: text(time_zone).unwrap_or(default.time_zone),
            ttl: cache_ttl.unwrap_or(default.ttl),
            time_limit: time_limit.unwrap_or(default.time_limit),
            strict: strict.unwrap_or(default.strict),
            workers: self.terms.workers,
        }
    }

    fn report(&self, problems: &[Problem]) {
        for problem in problems {
            let place = match problem.path.as_str() {
                "" => self.document.place.clone(),
                path => in_module(path, problem.line),
            };
            let findings = self.files.findings();
            match problem.severity {
                Severity::Error => findings.error(&place, problem.text.clone(), problem.hint.clone()),
                Severity::Warning => findings.warn(&place, problem.text.clone(), problem.hint.clone()),
            }
        }
    }

    fn written(&self) -> Written {
        let Settings { entrypoint, time_zone, ttl, time_limit, strict, .. } = self.settings();
        let seen = |path: &Located<PathBuf>| self.files.seen_from_document(&path.value);
        let (path, data) = match &self.document.rules {
            PolicySourceDocument::Path { path, data } => (Some(seen(path)), data.as_ref().map(seen)),
            PolicySourceDocument::Rbac(roles) => (None, Some(seen(roles))),
        };
        let shadow = self.document.shadow.as_ref();
        let shadow = shadow.map(|tried| (seen(&tried.path), tried.data.as_ref().map(seen), tried.sample));
        Written {
            path,
            data,
            entrypoint,
            cache_ttl: ttl,
            lists: self.document.lists.as_ref().map(|lists| lists.value),
            time_zone,
            time_limit,
            strict,
            shadow,
        }
    }
}

fn in_module(path: &str, line: u32) -> Place {
    let line = usize::try_from(line).unwrap_or(usize::MAX).max(1);
    Place { path: String::new(), at: Some(Location { file: path.into(), line, column: 1 }) }
}

/// What lists show. Where neither the rules nor the document say it, that is reported.
fn lists(document: &PolicyDocument, policy: &Policy, findings: &Findings) -> ListRule {
    let exact = !policy.reads_arguments(Entry::Decision);
    match (document.lists.as_ref().map(|lists| lists.value), policy.has(Entry::Visible)) {
        (Some(Lists::Show), _) => ListRule::Show,
        (Some(Lists::Hide), _) => ListRule::WithoutArguments,
        (_, true) => ListRule::Visible,
        (None, false) if exact => ListRule::Decision,
        (None, false) => {
            let problem = "the rule that decides reads arguments, so it cannot say what lists show";
            let hint = "write a rule `visible` beside it, or `lists: show`, or `lists: hide` for what it \
                        refuses without arguments";
            findings.error(&document.place, problem, hint);
            ListRule::Visible
        }
        (Some(Lists::ByVisible), false) => {
            let place = document.lists.as_ref().map_or(&document.place, |lists| &lists.place);
            findings.error(place, "the rules have no `visible`", "write it beside the rule that decides");
            ListRule::Visible
        }
    }
}

#[cfg(test)]
mod tests;
