//! What a load reads from outside, remembered so that a change can be told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::sha256;
use crate::environment::Environment;

/// The state of a set of files and folders: a digest of each one's content, or that it could not be
/// read. The content of a folder is the names in it.
///
/// Contents rather than times: two writes within a clock tick look alike to a file system, and
/// these files are small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    files: BTreeMap<PathBuf, Option<[u8; 32]>>,
    folders: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

impl Fingerprint {
    /// The files and folders, whether they could be read or not.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().chain(self.folders.keys()).map(PathBuf::as_path)
    }

    /// Whether any of them differs from what was found then.
    pub fn changed(&self, env: &dyn Environment) -> bool {
        self.files.iter().any(|(path, digest)| content_digest(&env.file(path)) != *digest)
            || self.folders.iter().any(|(path, digest)| names_digest(&env.folder(path)) != *digest)
    }

    /// The files that could be read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter(|(_, digest)| digest.is_some()).map(|(path, _)| path.as_path())
    }
}

/// The outside world during one load: the same as [`Environment`], with a memory.
///
/// The first reading counts: a later one may already be newer than what was compiled.
pub(crate) struct Reads<'a> {
    env: &'a dyn Environment,
    seen: RefCell<Fingerprint>,
}

impl<'a> Reads<'a> {
    pub(crate) fn new(env: &'a dyn Environment) -> Reads<'a> {
        Reads { env, seen: RefCell::default() }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.env.variable(name)
    }

    pub(crate) fn file(&self, path: &Path) -> io::Result<String> {
        let content = self.env.file(path);
        let files = &mut self.seen.borrow_mut().files;
        files.entry(path.to_owned()).or_insert_with(|| content_digest(&content));
        content
    }

    /// The names in a folder, sorted.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = self.env.folder(path);
        let folders = &mut self.seen.borrow_mut().folders;
        folders.entry(path.to_owned()).or_insert_with(|| names_digest(&names));
        names
    }

    /// Time since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        self.env.now()
    }

    pub(crate) fn world_readable(&self, path: &Path) -> bool {
        self.env.world_readable(path)
    }

    pub(crate) fn into_fingerprint(self) -> Fingerprint {
        self.seen.into_inner()
    }
}

fn content_digest(content: &io::Result<String>) -> Option<[u8; 32]> {
    content.as_ref().ok().map(|text| sha256(text.as_bytes()))
}

fn names_digest(names: &io::Result<Vec<String>>) -> Option<[u8; 32]> {
    names.as_ref().ok().map(|names| sha256(names.join("/").as_bytes()))
}
