//! `cargo xtask demo`: from a checkout to a gateway that answers, in one command.

use crate::step::{Failure, Step, say};
use crate::{machine, root};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Builds the gateway and becomes it; returns only if that fails.
///
/// The build is the dev one: it takes a fraction of the release build with its whole-program
/// optimisation, and a demo is waited for, not measured.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    machine::ensure(&[machine::BUILD])?;
    say("The first build compiles Pingora too and takes some minutes; later ones take seconds.");
    Step::new("Build the gateway", "cargo build --package portunus-cli").run()?;
    // Both programs are dev builds, so they lie in the same folder wherever cargo builds to.
    let gateway = std::env::current_exe()
        .map(|itself| itself.with_file_name("portunus"))
        .unwrap_or_else(|_| root().join("target/debug/portunus"));
    let error = Command::new(&gateway).current_dir(root()).arg("demo").args(arguments).exec();
    Err(Failure {
        problem: format!("cannot run {}: {error}", gateway.display()),
        mend: "cargo run --package portunus-cli -- demo".to_owned(),
    })
}
