//! `cargo xtask test`: all tests, with what they need.

use crate::machine;
use crate::sdk::Kit;
use crate::step::{Failure, Step};

/// What to do about a red test.
const MEND: &str =
    "the names of the failing tests stand above; `cargo test --package CRATE NAME` runs one again";

/// Everything: sets up the SDK clients, builds the binaries they talk to, runs all tests.
pub(crate) fn full() -> Result<(), Failure> {
    let kit = prepare()?;
    Step::new("Test", "cargo test --workspace").with(|command| kit.export(command)).mend(MEND).run()
}

/// Only what needs neither Node nor Python: the tests beside the code and the repository's rules.
pub(crate) fn quick() -> Result<(), Failure> {
    machine::ensure(&[machine::BUILD])?;
    Step::new("Test the crates", "cargo test --workspace --exclude portunus-tests").mend(MEND).run()?;
    Step::new("Test the rules of the repository", "cargo test --package portunus-tests --lib -- tidy::")
        .mend(MEND)
        .run()
}

/// What tests and shows against the real binary need.
pub(crate) fn prepare() -> Result<Kit, Failure> {
    machine::ensure(&[machine::BUILD, machine::SDK])?;
    let kit = Kit::set_up()?;
    Step::new("Build the gateway", "cargo build --package portunus-cli --bins").run()?;
    // Here rather than in the midst of the tests that need it, beside others that measure time.
    let marking = "cargo build --package portunus-cli --features text-marker --bin portunus-text-marker";
    Step::new("Build the gateway that marks texts", marking).run()?;
    Ok(kit)
}
