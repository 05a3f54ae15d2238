//! Files that a document names, read once more at each load so that the watcher knows them.

use std::cell::{OnceCell, RefCell};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;

use crate::diagnostic::{Findings, Located, Place};
use crate::digest::sha256;
use crate::reads::Reads;
use crate::reference::Reference;
use crate::tls::{Problem, system_authorities};

/// Files in which systems keep the authorities they trust, most common first.
const SYSTEM_TRUST: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that one half of a configuration may name.
pub(crate) struct Files<'a> {
    /// Where relative paths begin.
    folder: PathBuf,
    /// The folder of the document that was named to us.
    document: PathBuf,
    /// A bundle names files of its own folder only.
    bundle: bool,
    pub(crate) reads: &'a Reads<'a>,
    findings: &'a Findings,
    digests: RefCell<Vec<[u8; 32]>>,
    /// Read once, where an upstream needs it.
    system_trust: OnceCell<Option<Arc<RootCertStore>>>,
}

impl<'a> Files<'a> {
    /// The files of a document, or of the bundle that it names.
    pub(crate) fn beside(
        document: &Path,
        bundle: Option<&Path>,
        reads: &'a Reads<'a>,
        findings: &'a Findings,
    ) -> Files<'a> {
        let folder = |file: &Path| file.parent().unwrap_or(Path::new("")).to_owned();
        Files {
            folder: folder(bundle.unwrap_or(document)),
            document: folder(document),
            bundle: bundle.is_some(),
            reads,
            findings,
            digests: RefCell::default(),
            system_trust: OnceCell::new(),
        }
    }

    /// A path as the document would have to write it.
    pub(crate) fn seen_from_document(&self, path: &Path) -> PathBuf {
        let file = self.folder.join(path);
        file.strip_prefix(&self.document).map(Path::to_owned).unwrap_or(file)
    }

    /// What `parse` makes of a file that is no secret; what is wrong with it is reported.
    pub(crate) fn parsed<T>(
        &self,
        path: &Located<PathBuf>,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let file = self.named(path)?;
        let text = self.text(&file, &path.place)?;
        self.digests.borrow_mut().push(sha256(text.as_bytes()));
        parse(&text).map_err(|problem| self.error(&path.place, &file, problem)).ok()
    }

    /// Where a path of the document leads; a path that leaves a bundle is reported.
    pub(crate) fn named(&self, path: &Located<PathBuf>) -> Option<PathBuf> {
        let leaves = |part| !matches!(part, Component::Normal(_) | Component::CurDir);
        if self.bundle && path.value.components().any(leaves) {
            let hint = "put the file into the bundle's folder, and write its path from there";
            self.findings.error(&path.place, "a bundle names files of its own folder only", hint);
            return None;
        }
        Some(self.folder.join(&path.value))
    }

    /// Makes content part of the revision, with the name it has for the configuration.
    pub(crate) fn count(&self, name: &str, text: &str) {
        let digest = sha256(&[&sha256(name.as_bytes())[..], text.as_bytes()].concat());
        self.digests.borrow_mut().push(digest);
    }

    /// Where a path of the document leads.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Time since the Unix epoch.
    pub(crate) fn now(&self) -> std::time::Duration {
        self.reads.now()
    }

    /// The value of a reference that stands by itself; others give nothing.
    pub(crate) fn secret(&self, reference: &Reference, place: &Place) -> Option<String> {
        match reference {
            Reference::Variable(name) => self.variable(name, place),
            Reference::File(path) => self.secret_file(&self.folder.join(path), place),
            Reference::Named(_) | Reference::Vault => None,
        }
    }

    /// Reports what is wrong with a file, named as it was looked for.
    pub(crate) fn error(&self, place: &Place, file: &Path, problem: Problem) {
        self.findings.error(place, format!("`{}` {}", file.display(), problem.problem), problem.hint);
    }

    /// Reports what someone should know about a file, named as the document does.
    pub(crate) fn warn(&self, path: &Located<PathBuf>, problem: Problem) {
        let file = self.folder.join(&path.value);
        self.findings.warn(&path.place, format!("`{}` {}", file.display(), problem.problem), problem.hint);
    }

    /// The authorities that this system trusts, for an upstream at `place`.
    pub(crate) fn system_trust(&self, place: &Place) -> Option<Arc<RootCertStore>> {
        self.system_trust.get_or_init(|| self.read_system_trust(place).map(Arc::new)).clone()
    }

    /// Digests of the files that are no secrets, in the order of their use.
    pub(crate) fn digests(&self) -> Vec<[u8; 32]> {
        self.digests.borrow().clone()
    }

    pub(crate) fn findings(&self) -> &'a Findings {
        self.findings
    }

    fn read_system_trust(&self, place: &Place) -> Option<RootCertStore> {
        let named = self.reads.variable("SSL_CERT_FILE").map(PathBuf::from);
        let candidates = match &named {
            Some(named) => vec![named.as_path()],
            None => SYSTEM_TRUST.map(Path::new).to_vec(),
        };
        for file in candidates {
            let Ok(text) = self.reads.file(file) else { continue };
            return system_authorities(&text).map_err(|problem| self.error(place, file, problem)).ok();
        }
        let problem = match named {
            Some(named) => format!("`{}`, named by `SSL_CERT_FILE`, cannot be read", named.display()),
            None => "this system has no authorities to verify the server with".to_owned(),
        };
        let hint = "install the system's `ca-certificates`, or name a file: `tls: {ca: tls/ca.pem}`";
        self.findings.error(place, problem, hint);
        None
    }

    pub(crate) fn text(&self, file: &Path, place: &Place) -> Option<String> {
        let content = self.reads.file(file);
        if let Err(error) = &content {
            let problem = format!("`{}` cannot be read: {error}", file.display());
            let hint = match error.kind() {
                // It was read.
                std::io::ErrorKind::InvalidData => {
                    "a file has at most 8 MiB, and is text in UTF-8; keys of callers can be in several: \
                     `keys: {files: [a.yaml, b.yaml]}`"
                }
                _ => "check the path, and that this user may read it",
            };
            self.findings.error(place, problem, hint);
        }
        content.ok()
    }

    fn variable(&self, name: &str, place: &Place) -> Option<String> {
        let value = self.reads.variable(name);
        if value.is_none() {
            let problem = format!("the environment variable `{name}` is not set");
            self.findings.error(place, problem, format!("set it: `export {name}=…`"));
        }
        value
    }

    fn secret_file(&self, file: &Path, place: &Place) -> Option<String> {
        let text = self.text(file, place)?;
        if self.reads.world_readable(file) {
            let problem = format!("every user of this machine can read `{}`", file.display());
            self.findings.warn(place, problem, format!("chmod 600 {}", file.display()));
        }
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Some(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}
