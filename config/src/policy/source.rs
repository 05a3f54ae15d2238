//! Rego and data on their way from a folder.
//!
//! As OPA reads a folder: every `.rego` file is a module, every JSON or YAML file is data at the
//! place that its folder has, whatever its own name is.

use std::path::{Path, PathBuf};

use portunus_filters::authorize::{Document, Module};
use serde_json::{Map, Value};

use super::json;
use crate::diagnostic::{Findings, Located, Location, Place};
use crate::files::Files;
use crate::yaml;

/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 16;

/// Most files of one policy.
const MAX_FILES: usize = 2000;

/// What a policy is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySource {
    /// Rego files, those with tests too, in the order of their names.
    pub modules: Vec<Module>,
    /// The document `data`, without what rules define.
    pub data: Map<String, Value>,
}

impl PolicySource {
    /// The data as the engine takes it.
    pub(crate) fn documents(&self) -> [Document; 1] {
        let text = Value::Object(self.data.clone()).to_string();
        [Document { path: "data".to_owned(), mount: String::new(), text }]
    }

    /// Adds what is in a folder, or in one file. What is wrong is reported; `None` if nothing can be
    /// read there.
    pub(crate) fn add(&mut self, path: &Located<PathBuf>, files: &Files<'_>) -> Option<()> {
        let root = files.named(path)?;
        let mut gather = Gather { source: self, files, place: &path.place, count: 0 };
        match path.value.extension().and_then(|name| name.to_str()) {
            Some("rego" | "json" | "yaml" | "yml") => gather.file(&root, &[])?,
            _ => match files.reads.folder(&root) {
                Ok(names) => gather.folder(&root, &names, &[]),
                Err(error) => {
                    let problem = format!("`{}` cannot be read: {error}", root.display());
                    let hint = "write the folder that has the `.rego` files, or one such file";
                    files.findings().error(&path.place, problem, hint);
                    return None;
                }
            },
        }
        Some(())
    }

    /// Adds data at the top; a key that is there is reported.
    pub(crate) fn add_data(&mut self, data: Map<String, Value>, file: &Path, findings: &Findings) {
        let taken = merge(&mut self.data, data, "data");
        report_taken(taken, file, findings);
    }
}

struct Gather<'a, 'f> {
    source: &'a mut PolicySource,
    files: &'a Files<'f>,
    place: &'a Place,
    count: usize,
}

impl Gather<'_, '_> {
    /// `below` are the names of the folders that led here.
    fn folder(&mut self, folder: &Path, names: &[String], below: &[&str]) {
        if below.len() > MAX_DEPTH {
            let problem = format!("`{}` is deeper than {MAX_DEPTH} folders", folder.display());
            self.files.findings().error(self.place, problem, "nest less; a link may lead in a circle");
            return;
        }
        for name in names {
            let path = folder.join(name);
            match Path::new(name).extension().and_then(|name| name.to_str()) {
                Some("rego" | "json" | "yaml" | "yml") => {
                    self.file(&path, below);
                }
                // What is neither one of these nor a folder is not for us: a README, say.
                _ => {
                    if let Ok(names) = self.files.reads.folder(&path) {
                        self.folder(&path, &names, &[below, &[name]].concat());
                    }
                }
            }
        }
    }

    /// `None` if the file cannot be read.
    fn file(&mut self, file: &Path, below: &[&str]) -> Option<()> {
        self.count += 1;
        if self.count > MAX_FILES {
            if self.count == MAX_FILES + 1 {
                let problem = format!("the policy has more than {MAX_FILES} files");
                self.files.findings().error(self.place, problem, "write fewer, larger ones");
            }
            return None;
        }
        let text = match self.files.reads.file(file) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("`{}` cannot be read: {error}", file.display());
                self.files.findings().error(self.place, problem, "check that this user may read it");
                return None;
            }
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.files.count(&format!("{}/{name}", below.join("/")), &text);
        if name.ends_with(".rego") {
            self.source.modules.push(Module { path: file.display().to_string(), text });
        } else if let Some(data) = data(&text, file, self.files.findings()) {
            let nest = |data, name: &&str| Map::from_iter([((*name).to_owned(), Value::Object(data))]);
            let data = below.iter().rev().fold(data, nest);
            self.source.add_data(data, file, self.files.findings());
        }
        Some(())
    }
}

/// The content of a file of data: a mapping.
fn data(text: &str, file: &Path, findings: &Findings) -> Option<Map<String, Value>> {
    let value = match file.extension().and_then(|name| name.to_str()) {
        Some("json") => match json::parse(text) {
            Ok(value) => value,
            Err(error) => {
                let at = Location { file: file.to_owned(), line: error.line(), column: error.column() };
                let place = Place { path: String::new(), at: Some(at) };
                let problem = format!("this is not valid JSON: {error}");
                findings.error(&place, problem, "each key is written once, and nothing follows the value");
                return None;
            }
        },
        _ => yaml::parse(text, file, findings)?.json(),
    };
    match value {
        Value::Object(data) => Some(data),
        _ => {
            let hint = "write a mapping: its keys stand below `data`";
            findings.error(&top(file), "this file of data is no mapping", hint);
            None
        }
    }
}

/// Puts `data` into `into`; the paths that both have, other than as mappings.
fn merge(into: &mut Map<String, Value>, data: Map<String, Value>, path: &str) -> Vec<String> {
    let mut taken = Vec::new();
    for (key, value) in data {
        let path = format!("{path}.{key}");
        match (into.get_mut(&key), value) {
            (None, value) => drop(into.insert(key, value)),
            (Some(Value::Object(into)), Value::Object(value)) => taken.extend(merge(into, value, &path)),
            _ => taken.push(path),
        }
    }
    taken
}

fn report_taken(taken: Vec<String>, file: &Path, findings: &Findings) {
    for path in taken {
        let hint = "write each part of `data` in one file";
        findings.error(&top(file), format!("another file has `{path}` as well"), hint);
    }
}

fn top(file: &Path) -> Place {
    Place { path: String::new(), at: Some(Location { file: file.to_owned(), line: 1, column: 1 }) }
}
