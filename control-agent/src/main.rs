//! The binary `portunus-agent`.
//!
//! It compiles a bundle by the code that a proxy activates it with, so what passes here is what is
//! accepted there. Signing, serving and rolling out bundles are not part of this build.

use clap::{Parser, Subcommand};
use portunus_config::{ProcessEnvironment, load};
use std::path::PathBuf;
use std::process::ExitCode;

/// `EX_CONFIG` of sysexits(3), as the proxy's own `check` exits.
const BAD_CONFIGURATION: u8 = 78;

/// Builds and judges what proxies enforce.
#[derive(Debug, Parser)]
#[command(name = "portunus-agent", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Compile a configuration as a proxy would, and print its revision and what it serves.
    Compile {
        /// File or bundle folder.
        path: PathBuf,
    },
}

fn main() -> ExitCode {
    let Order::Compile { path } = Arguments::parse().command;
    compile(&path)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the answer of the command")]
fn compile(path: &std::path::Path) -> ExitCode {
    match load(path, &ProcessEnvironment) {
        Ok(loaded) => {
            println!("revision {}", loaded.snapshot.revision);
            for server in loaded.snapshot.routes.iter() {
                let upstreams: Vec<&str> = server.upstreams.iter().map(|upstream| &*upstream.name).collect();
                println!("{} -> {}", server.id, upstreams.join(", "));
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            eprintln!("{report}");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}
