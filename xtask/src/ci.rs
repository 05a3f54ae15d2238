//! `cargo xtask ci`: what a change has to pass, cheapest first.

use crate::step::{Failure, Step, say, succeeds};
use crate::{machine, test};

/// All checks, then all tests; stops at the first that fails.
pub(crate) fn run() -> Result<(), Failure> {
    const LINTS: &str = "follow the lints above; if there is no such command: rustup component add clippy";
    Step::new("Format", "cargo fmt --all --check")
        .mend("cargo fmt --all; if there is no such command: rustup component add rustfmt")
        .run()?;
    Step::new("Format of the fuzz targets", "cargo fmt --manifest-path fuzz/Cargo.toml --check")
        .mend("cargo fmt --manifest-path fuzz/Cargo.toml")
        .run()?;
    machine::ensure(&[machine::BUILD, machine::FUZZ, machine::SDK])?;
    Step::new("Lints", "cargo clippy --workspace --all-targets -- --deny warnings").mend(LINTS).run()?;
    let marking =
        "cargo clippy --package portunus-cli --features text-marker --all-targets -- --deny warnings";
    Step::new("Lints of what only tests build", marking).mend(LINTS).run()?;
    let bare = "cargo clippy --package portunus-cli --no-default-features -- --deny warnings";
    Step::new("Lints without the demo", bare).mend(LINTS).run()?;
    Step::new("Lints of the fuzz targets", "cargo clippy --manifest-path fuzz/Cargo.toml -- --deny warnings")
        .mend(LINTS)
        .run()?;
    Step::new("Docs", "cargo doc --workspace --no-deps")
        .with(|command| {
            command.env("RUSTDOCFLAGS", "-Dwarnings");
        })
        .mend("mend the link or the markup that is named above")
        .run()?;
    deny()?;
    test::full()
}

/// Licences, sources and bans of the dependencies; building the checker takes longer than all other
/// checks together, so it is used where it is installed.
fn deny() -> Result<(), Failure> {
    if !succeeds("cargo", &["deny", "--version"]) {
        say("==> Dependencies\n    skipped: `cargo install cargo-deny --locked` brings this check");
        return Ok(());
    }
    Step::new("Dependencies", "cargo deny --workspace check bans licenses sources")
        .mend("`deny.toml` says what is allowed; a new licence there needs a reason in the commit")
        .run()
}
