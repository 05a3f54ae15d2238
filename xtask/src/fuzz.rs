//! `cargo xtask fuzz`: the fuzz targets in `fuzz/`, each from its seeds and what earlier runs found.

use crate::step::{Failure, Step, say, succeeds};
use crate::{machine, root};
use std::fs;

/// Runs one target, or all in turn.
///
/// # Errors
/// If a target finds something, or does not build.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<(), Failure> {
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| target.is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        return Err(Failure {
            problem: format!("no fuzz target is named `{}`", target.unwrap_or_default()),
            mend: format!("one of: {}", targets.join(", ")),
        });
    }
    machine::ensure(&[machine::FUZZ])?;
    if !succeeds("cargo", &["fuzz", "--version"]) {
        say("cargo-fuzz is not on this machine, so it is installed now.");
        Step::new("Install cargo-fuzz", "cargo install cargo-fuzz --locked").run()?;
    }
    chosen.into_iter().try_for_each(|name| run_one(name, seconds))
}

/// The targets are the files in their folder.
fn targets() -> Result<Vec<String>, Failure> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|error| Failure {
        problem: format!("{}: {error}", folder.display()),
        mend: "look whether the checkout is complete".to_owned(),
    })?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn run_one(name: &str, seconds: u32) -> Result<(), Failure> {
    let corpus = root().join("fuzz/corpus").join(name);
    fs::create_dir_all(&corpus).map_err(|error| Failure {
        problem: format!("{}: {error}", corpus.display()),
        mend: "look at the owner of the checkout and the space on its disk".to_owned(),
    })?;
    Step::new("Fuzz", "cargo fuzz run")
        // A sanitizer would need the nightly compiler and cost four fifths of the speed, to watch
        // for memory errors that safe code does not make. Overflows and debug assertions are on.
        .with(|command| {
            command.args(["--sanitizer", "none", name]);
            command.arg(corpus).arg(root().join("fuzz/seeds").join(name));
            command.args(["--", &format!("-max_total_time={seconds}"), "-max_len=65536", "-timeout=10"]);
        })
        .mend("the input that broke it lies in fuzz/artifacts; make it a test beside the code, then mend the code")
        .run()
}
