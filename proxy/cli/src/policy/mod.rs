//! Commands about policy: run its tests, explain a decision, compare two policies, print who may call
//! what, take it out.
//!
//! They load a policy as a gateway does and ask it as a gateway
//! asks it, so what they print is what a gateway would decide.

pub(crate) mod decide;
pub(crate) mod diff;
pub(crate) mod eject;
pub(crate) mod matrix;
mod shown;
pub(crate) mod test;

use portunus_base::text::tame;
use portunus_config::{PolicyRules, ProcessEnvironment, Report, load_policy};
use portunus_filters::authorize::{Class, Entry};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a command about policy ends without its answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was loaded is at fault.
    Configuration(PathBuf, Report),
    /// Anything else, in words for the terminal.
    Other(String),
}

impl From<String> for Trouble {
    fn from(problem: String) -> Trouble {
        Trouble::Other(problem)
    }
}

/// The policy of a configuration, a folder of rules, or one `.rego` file.
fn policy(path: &Path) -> Result<Arc<PolicyRules>, Trouble> {
    load_policy(path, &ProcessEnvironment).map_err(|report| Trouble::Configuration(path.to_owned(), report))
}

/// What each rule that is asked depends on, a line each: for `check`.
pub(crate) fn summary(rules: &PolicyRules) -> String {
    let line = |(entry, class): (Entry, Class)| {
        let reads = rules.policy.reads(entry);
        let reads = if reads.is_empty() { "nothing".to_owned() } else { reads.join(", ") };
        format!("policy: {} is {class} and reads {}\n", entry.as_str(), tame(&reads))
    };
    rules.policy.classes().into_iter().map(line).collect()
}

/// Largest file that a command takes.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// A file, or standard input for `-`.
fn reader(path: &Path) -> Result<BufReader<Box<dyn Read>>, String> {
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).map_err(|error| unreadable(path, &error))?),
    };
    Ok(BufReader::new(source))
}

/// The text of a file, or of standard input for `-`.
fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let bounded = reader(path)?.take(MAX_INPUT_BYTES).read_to_string(&mut text);
    match bounded {
        Ok(bytes) if u64::try_from(bytes).is_ok_and(|bytes| bytes < MAX_INPUT_BYTES) => Ok(text),
        Ok(_) => Err(format!("{}: larger than 64 MiB", path.display())),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}
