//! From disk to a compiled configuration.
//!
//! A load remembers what it read, so that a watcher asks one question, whether any of it has
//! changed, and cannot miss a change that came while the load was running.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bootstrap::Bootstrap;
use crate::compile::{Confinement, Keyring, Terms, compile_alone, compile_bootstrap, compile_snapshot};
use crate::diagnostic::{Diagnostic, Findings, Located, Place, Report};
use crate::digest::sha256;
use crate::document::{BundleSource, Document, Part, PolicyDocument, ProcessDocument, RulesDocument};
use crate::environment::Environment;
use crate::files::Files;
use crate::policy::PolicyRules;
use crate::reads::{Fingerprint, Reads};
use crate::snapshot::Snapshot;

/// A configuration that can run.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the process is.
    pub bootstrap: Bootstrap,
    /// What it enforces.
    pub snapshot: Snapshot,
    /// What someone should know, though it is accepted.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read, those of secrets too.
    pub sources: Vec<PathBuf>,
}

/// Loads a configuration.
///
/// `path` is a file with both halves, a file with the process half and a `bundle`, or a folder with
/// such a file named `gateway.yaml`. Relative paths of what is read (`bundle`, `file:`) begin at the
/// document, those of what is written (`state`, `control`, `access_log`) in the working folder.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, env: &dyn Environment) -> Result<Loaded, Report> {
    Attempt::new(path, env).outcome
}

/// Loads a configuration from text; `origin` names the file in diagnostics and is where relative
/// paths begin.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(text: &str, origin: &Path, env: &dyn Environment) -> Result<Loaded, Report> {
    Loader::new(env).run(|loader| loader.compile(text, origin)).outcome
}

/// One load, successful or not, and what it depended on.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The configuration, or what is wrong with it.
    pub outcome: Result<Loaded, Report>,
    /// The files it read or missed, as it found them.
    pub fingerprint: Fingerprint,
}

impl Attempt {
    /// Loads like [`load`].
    pub fn new(path: &Path, env: &dyn Environment) -> Attempt {
        Loader::new(env).attempt(path)
    }
}

/// Loads a configuration as [`load`] does, without running the tests of its policy: for commands that
/// look at a policy as it is.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_untested(path: &Path, env: &dyn Environment) -> Result<Loaded, Report> {
    Loader { tested: false, ..Loader::new(env) }.attempt(path).outcome
}

/// Loads a policy without running its tests: that of a configuration, or a folder of rules or one
/// `.rego` file by itself, with every default.
///
/// # Errors
/// Everything that is wrong with it; that a configuration has no policy.
pub fn load_policy(path: &Path, env: &dyn Environment) -> Result<Arc<PolicyRules>, Report> {
    let rego = path.extension().is_some_and(|name| name == "rego");
    if rego || path.is_dir() && !path.join(GATEWAY_FILE).is_file() {
        return load_alone(path, env).map(Arc::new);
    }
    load_untested(path, env)?.snapshot.policy.ok_or_else(|| {
        let findings = Findings::default();
        findings.error(&Place::default(), "it has no `policy`", "write `policy: policy/`");
        Report(findings.into_sorted())
    })
}

fn load_alone(path: &Path, env: &dyn Environment) -> Result<PolicyRules, Report> {
    let (reads, findings) = (Reads::new(env), Findings::default());
    let files = Files::beside(Path::new(""), None, &reads, &findings);
    let terms = Terms { workers: 1, tested: false };
    match compile_alone(&PolicyDocument::of_path(path), &files, terms) {
        Some(rules) if !findings.has_errors() => Ok(rules),
        _ => Err(Report(findings.into_sorted())),
    }
}

const GATEWAY_FILE: &str = "gateway.yaml";

struct Loader<'a> {
    reads: Reads<'a>,
    findings: Findings,
    /// Digests of the documents, in the order in which they were read.
    documents: RefCell<Vec<[u8; 32]>>,
    /// Whether tests of policies have to pass.
    tested: bool,
}

impl<'a> Loader<'a> {
    fn new(env: &'a dyn Environment) -> Loader<'a> {
        Loader {
            reads: Reads::new(env),
            findings: Findings::default(),
            documents: RefCell::default(),
            tested: true,
        }
    }

    fn attempt(self, path: &Path) -> Attempt {
        let file = if path.is_dir() { path.join(GATEWAY_FILE) } else { path.to_owned() };
        self.run(|loader| {
            let text = loader.document(&file, &Place::default())?;
            loader.compile(&text, &file)
        })
    }

    fn run(self, load: impl FnOnce(&Self) -> Option<(Bootstrap, Snapshot)>) -> Attempt {
        let compiled = load(&self);
        let fingerprint = self.reads.into_fingerprint();
        let sources = fingerprint.files().map(Path::to_owned).collect();
        let failed = self.findings.has_errors();
        let diagnostics = self.findings.into_sorted();
        let outcome = match compiled {
            Some((bootstrap, snapshot)) if !failed => {
                Ok(Loaded { bootstrap, snapshot, warnings: diagnostics, sources })
            }
            _ => Err(Report(diagnostics)),
        };
        Attempt { outcome, fingerprint }
    }

    /// The text of a document; a document that is missing is reported at `named_at`.
    fn document(&self, file: &Path, named_at: &Place) -> Option<String> {
        let content = self.reads.file(file);
        if let Err(error) = &content {
            let problem = format!("`{}` cannot be read: {error}", file.display());
            self.findings.error(named_at, problem, "check the path, and that this user may read it");
        }
        content.ok()
    }

    fn compile(&self, text: &str, file: &Path) -> Option<(Bootstrap, Snapshot)> {
        let document = self.read(text, file, Part::Whole)?;
        let process = document.process?;
        let Some(rules) = document.rules else { return self.compile_with_bundle(&process, file) };
        Some(self.compile_both(&process, &rules, file, None))
    }

    fn compile_with_bundle(&self, process: &ProcessDocument, file: &Path) -> Option<(Bootstrap, Snapshot)> {
        let rules = match &process.bundle {
            Some(BundleSource::Folder(folder)) => self.bundle(folder, file),
            Some(BundleSource::Pull(_)) | None => None,
        };
        match rules {
            Some((rules, bundle)) => Some(self.compile_both(process, &rules, file, Some(&bundle))),
            None => {
                compile_bootstrap(process, None, &self.files(file, None));
                None
            }
        }
    }

    /// The rules of a bundle, and the file they stand in.
    fn bundle(&self, folder: &Located<PathBuf>, file: &Path) -> Option<(RulesDocument, PathBuf)> {
        let beside = file.parent().unwrap_or(Path::new(""));
        let bundle_file = beside.join(&folder.value).join(GATEWAY_FILE);
        let text = self.document(&bundle_file, &folder.place)?;
        let rules = self.read(&text, &bundle_file, Part::Bundle)?.rules?;
        Some((rules, bundle_file))
    }

    fn read(&self, text: &str, file: &Path, part: Part) -> Option<Document> {
        self.documents.borrow_mut().push(sha256(text.as_bytes()));
        Document::read(text, file, part, &self.findings)
    }

    fn compile_both(
        &self,
        process: &ProcessDocument,
        rules: &RulesDocument,
        file: &Path,
        bundle: Option<&Path>,
    ) -> (Bootstrap, Snapshot) {
        let process_files = self.files(file, None);
        let bootstrap = compile_bootstrap(process, Some(rules), &process_files);
        let rules_files = self.files(file, bundle);
        let keyring = Keyring::new(&process.secrets, bundle.is_some(), &process_files);
        let confinement = Confinement { ceiling: process.egress_ceiling.as_ref(), bundle: bundle.is_some() };
        let terms = Terms { workers: bootstrap.threads, tested: self.tested };
        let mut snapshot = compile_snapshot(rules, confinement, &rules_files, &keyring, terms);
        keyring.refuse_unreadable();
        keyring.warn_about_unused();
        let contents = [keyring.digests(), rules_files.digests()].concat();
        snapshot.revision.digest = revision_digest(&self.documents.borrow(), &contents);
        (bootstrap, snapshot)
    }

    fn files(&self, document: &Path, bundle: Option<&Path>) -> Files<'_> {
        Files::beside(document, bundle, &self.reads, &self.findings)
    }
}

/// Names no file: replicas with different folders and equal contents run the same revision.
fn revision_digest(documents: &[[u8; 32]], contents: &[[u8; 32]]) -> String {
    sha256(&[documents, contents].concat().concat())
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::environment::{MapEnvironment, ProcessEnvironment};
    use crate::testing::{brief, loaded_with};

    const RULES: &str = "version: 1\n\
        upstreams: {a: {url: 'http://api.example.com/', credentials: {bearer: 'secret:s'}}}\n\
                         servers: {/mcp: a}\n";
    const BOOTSTRAP: &str = "version: 1\nlisten: 127.0.0.1:1\nbundle: rules\n\
                             secrets: {s: {from: 'file:token', hosts: ['http://api.example.com']},\n  \
                             other: {from: 'env:OTHER', hosts: [a.org]}}\n";

    fn files(files: &[(&str, &str)]) -> MapEnvironment {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        MapEnvironment { files, ..MapEnvironment::default() }
    }

    fn errors(outcome: Result<Loaded, Report>) -> Vec<String> {
        outcome.err().map(|report| report.0.iter().map(brief).collect()).unwrap_or_default()
    }

    #[test]
    fn a_bootstrap_names_its_bundle() {
        let env =
            files(&[("/c/gateway.yaml", BOOTSTRAP), ("/c/rules/gateway.yaml", RULES), ("/c/token", "t0k\n")]);
        let loaded = load(Path::new("/c/gateway.yaml"), &env).unwrap();
        assert_eq!(loaded.bootstrap.listeners[0].bind.port(), 1);
        assert_eq!(&*loaded.snapshot.upstreams[0].name, "a");
        assert!(loaded.warnings.iter().all(|warning| !warning.path.starts_with("secrets")));
        let sources: Vec<_> = loaded.sources.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(sources, ["/c/gateway.yaml", "/c/rules/gateway.yaml", "/c/token"]);
    }

    #[test]
    fn a_bundle_holds_rules_and_reaches_for_nothing_by_itself() {
        let table = [
            ("a listener", "listen: 127.0.0.1:2\n", "listen: `listen` does not belong in this file"),
            ("its own secrets", "secrets: {}\n", "secrets: `secrets` does not belong in this file"),
            (
                "its own ceiling",
                "egress_ceiling: {}\n",
                "egress_ceiling: `egress_ceiling` does not belong in this file",
            ),
            ("another bundle", "bundle: x\n", "bundle: `bundle` does not belong in this file"),
        ];
        for (name, text, problem) in table {
            let rules = format!("{RULES}{text}");
            let env = files(&[("g.yaml", BOOTSTRAP), ("rules/gateway.yaml", &rules), ("token", "t")]);
            let found = errors(load(Path::new("g.yaml"), &env));
            assert!(found.iter().any(|shown| shown == problem), "{name}: {found:?}");
        }
        for reference in ["env:HOME", "file:/etc/passwd"] {
            let rules = RULES.replace("secret:s", reference);
            let env = files(&[("g.yaml", BOOTSTRAP), ("rules/gateway.yaml", &rules), ("token", "t")]);
            let attempt = Attempt::new(Path::new("g.yaml"), &env);
            let found = errors(attempt.outcome);
            let problem = "upstreams.a.credentials.bearer: a bundle cannot reach for a secret by itself";
            assert!(found.iter().any(|shown| shown == problem), "{reference}: {found:?}");
            assert!(attempt.fingerprint.paths().all(|path| path != Path::new("/etc/passwd")));
        }
    }

    #[test]
    fn mistakes_in_both_files_are_reported_together() {
        let bootstrap = BOOTSTRAP.replace("127.0.0.1:1", "nowhere");
        let rules = RULES.replace("servers", "severs");
        let env = files(&[("g.yaml", &bootstrap), ("rules/gateway.yaml", &rules), ("token", "t")]);
        let report = load(Path::new("g.yaml"), &env).unwrap_err().to_string();
        assert!(report.contains("g.yaml:2:9: listen: `nowhere`"), "{report}");
        assert!(
            report.contains(
                "rules/gateway.yaml:3:1: severs: unknown key `severs`\n  hint: did you mean `servers`?"
            ),
            "{report}"
        );
        assert!(report.contains("`servers` is missing"), "{report}");
    }

    #[test]
    fn missing_files_are_named_where_they_are_asked_for() {
        let env = files(&[("g.yaml", BOOTSTRAP)]);
        assert_eq!(
            errors(load(Path::new("nope.yaml"), &env)),
            ["`nope.yaml` cannot be read: entity not found"]
        );
        let report = load(Path::new("g.yaml"), &env).unwrap_err();
        assert_eq!(
            report.0.iter().map(brief).collect::<Vec<_>>(),
            ["bundle: `rules/gateway.yaml` cannot be read: entity not found"]
        );
        assert_eq!(report.0[0].at.as_ref().map(|at| at.line), Some(3));
    }

    #[test]
    fn a_revision_follows_documents_and_secrets_and_nothing_else() {
        let digest = |folder: &str, bootstrap: &str, rules: &str, token: &str| {
            let path = |file: &str| format!("/{folder}/{file}");
            let (main, bundle, secret) = (path("g.yaml"), path("rules/gateway.yaml"), path("token"));
            let env = files(&[(&main, bootstrap), (&bundle, rules), (&secret, token)]);
            load(Path::new(&main), &env).unwrap().snapshot.revision.digest
        };
        let first = digest("c", BOOTSTRAP, RULES, "t0k");
        assert_eq!(first.len(), 12);
        assert_eq!(first, digest("d", BOOTSTRAP, RULES, "t0k"), "the folder does not count");
        assert_ne!(first, digest("c", &format!("{BOOTSTRAP}#"), RULES, "t0k"), "the bootstrap counts");
        assert_ne!(first, digest("c", BOOTSTRAP, &format!("{RULES}#"), "t0k"), "the bundle counts");
        assert_ne!(first, digest("c", BOOTSTRAP, RULES, "other"), "the secret counts");
    }

    #[test]
    fn a_variable_is_part_of_the_revision() {
        let text = RULES.replace("secret:s", "env:T");
        let [one, two] = ["1", "2"].map(|value| loaded_with(&text, &[("T", value)]).snapshot);
        assert_ne!(one.revision, two.revision);
        assert_ne!(one.upstreams[0].key, two.upstreams[0].key);
    }

    #[test]
    fn a_change_to_anything_that_was_read_or_missed_is_seen() {
        let mut env = files(&[("g.yaml", BOOTSTRAP), ("rules/gateway.yaml", RULES)]);
        let failed = Attempt::new(Path::new("g.yaml"), &env);
        assert!(failed.outcome.is_err() && !failed.fingerprint.changed(&env));
        env.files.insert("token".into(), "t".into());
        assert!(failed.fingerprint.changed(&env), "the missing file came");
        let loaded = Attempt::new(Path::new("g.yaml"), &env);
        assert!(loaded.outcome.is_ok() && !loaded.fingerprint.changed(&env));
        for path in ["g.yaml", "rules/gateway.yaml", "token"] {
            let mut other = env.clone();
            other.files.insert(path.into(), "changed".into());
            assert!(loaded.fingerprint.changed(&other), "{path}");
        }
        env.files.remove(Path::new("token"));
        assert!(loaded.fingerprint.changed(&env), "a file went");
        env.files.insert("unrelated".into(), "x".into());
        env.files.insert("token".into(), "t".into());
        assert!(!loaded.fingerprint.changed(&env), "an unrelated file came");
    }

    #[test]
    fn every_example_loads() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let env = Overlay(crate::testing::example_environment(&examples));
        let mut count = 0;
        for entry in std::fs::read_dir(&examples).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let outcome = load(&path, &env);
                assert!(outcome.is_ok(), "{}:\n{}", path.display(), outcome.unwrap_err());
                count += 1;
            }
        }
        assert_eq!(count, 8);
    }

    #[test]
    fn the_example_of_the_design_is_refused_for_what_is_not_built_and_nothing_else() {
        let text = r#"
version: 1
listen: 127.0.0.1:8080
telemetry: 127.0.0.1:9900
admin: 127.0.0.1:9901
upstreams:
  crm:    { url: "http://127.0.0.1:9101/mcp" }
  search:
    { url: "https://search.internal/mcp", era: auto, timeout: 30s, credentials: { bearer: "env:SEARCH_TOKEN" } }
servers:
  /mcp: { upstreams: [crm, search], names: prefix_on_conflict }
tools:
  "crm.delete_*":
    { risk: critical, class: confidential, labels: [external_write], cost: 0.05, timeout: 10s, owner: crm-team }
identity:
  jwt: [{ issuer: "https://idp.example.com", audience: "https://gw.example.com/mcp" }]
policy: { path: policy/, entrypoint: mcp/authz/decision, cache_ttl: 5m }
limits: { per_principal: 1000/hour, per_tool: 100/hour, adaptive_surge: true }
egress: { url_allowlist: ["api.company.com", "data.warehouse.internal"] }
dlp: { profile: balanced }
"#;
        let found = crate::testing::problems_with(text, &[("SEARCH_TOKEN", "x")]);
        let expected = [
            "upstreams.search.url: this system has no authorities to verify the server with",
            "policy.path: `policy/` cannot be read: entity not found",
            "limits.adaptive_surge: this build cannot enforce `adaptive_surge`",
            "egress: this build cannot enforce `egress`",
            "dlp: this build cannot enforce `dlp`",
        ];
        assert_eq!(found, expected);
    }

    /// The real files, with made-up variables and certificates.
    struct Overlay(MapEnvironment);

    impl Environment for Overlay {
        fn variable(&self, name: &str) -> Option<String> {
            self.0.variable(name)
        }

        fn file(&self, path: &Path) -> io::Result<String> {
            self.0.file(path).or_else(|_| ProcessEnvironment.file(path))
        }

        fn folder(&self, path: &Path) -> io::Result<Vec<String>> {
            ProcessEnvironment.folder(path)
        }

        fn now(&self) -> Duration {
            self.0.now()
        }
    }
}
