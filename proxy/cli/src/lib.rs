//! The command line: what starts the gateway, and commands that look at a server, write a configuration, connect a
//! client or try a policy.
//!
//! Commands other than `run`, `upgrade` and `demo` are not on the data path. What reaches a server goes through the same configuration, resolver, dialler and
//! reader as a gateway's calls, so that what they find holds for a gateway.

mod connect;
#[cfg(feature = "demo")]
mod demo;
mod explain;
mod init;
mod json;
mod key;
mod link;
mod policy;
mod probe;
mod screen;
mod target;
mod upgrade;

use self::policy::Trouble;
use clap::{Parser, Subcommand};
use portunus::clock::SystemClock;
use portunus::descriptors;
use portunus::handover::take::Inheritance;
use portunus::run::{Origin, Process, run};
use portunus_config::{Attempt, ProcessEnvironment, Report, as_yaml, effective, load, schema_text};
use std::future::Future;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// `EX_CONFIG` of sysexits(3): the configuration is at fault, a restart will not help.
const BAD_CONFIGURATION: u8 = 78;

/// A gateway in front of every MCP server.
#[derive(Debug, Parser)]
#[command(name = "portunus", version, about, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Order,
}

const LONG_ABOUT: &str = "A gateway in front of every MCP server: it reads each JSON-RPC message, holds it to the \
protocol and to your rules, and passes it on byte for byte.";

const AFTER_HELP: &str = "Exit codes: 0 ended in order, 1 could not start or run, 78 the configuration is at fault.\n\
Signals: TERM, INT and QUIT end in order (a second INT at once), HUP reads the configuration again, USR1 opens the log files again.";

#[derive(Debug, Subcommand)]
enum Order {
    /// Run the gateway.
    Run {
        /// One-file configuration, bootstrap file, or bundle folder.
        #[arg(long, short, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
        /// Take over from the process that runs with the same `state`, without a lost call.
        #[arg(long)]
        upgrade: bool,
        /// Tell the process at the other end of standard input when this one serves.
        #[arg(long, hide = true, requires = "upgrade")]
        report: bool,
    },
    /// Start a successor of the running gateway, and return when it serves in its place.
    Upgrade {
        /// Its configuration, as for `run`.
        #[arg(long, short, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a gateway with demo servers behind it, and say what to try.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
    /// Look at an MCP server, step by step: can it be served, and if not, what to do.
    Probe(probe::ProbeArguments),
    /// Look at MCP servers and write a configuration in front of them.
    Init(init::InitArguments),
    /// Print the text that connects an MCP client to the gateway.
    Connect(connect::ConnectArguments),
    /// Make, list and take back API keys in the file that `identity: {keys: FILE}` names.
    Key(key::KeyArguments),
    /// Check a configuration file or bundle folder and print everything that is wrong with it.
    Check {
        /// File or folder.
        path: PathBuf,
    },
    /// Print the effective configuration: every default filled in, every secret hidden.
    Print {
        /// File or folder.
        path: PathBuf,
        /// As YAML, which `check` accepts again, or as JSON.
        #[arg(long, value_name = "yaml|json", default_value = "yaml", value_parser = ["yaml", "json"])]
        format: String,
    },
    /// Print the JSON Schema of configurations, for editors.
    Schema,
    /// Say why a message was refused: which rule decided, what it read, what would allow it.
    Explain(explain::ExplainArguments),
    /// Run the tests of a policy, and say which lines of its rules they reach.
    Test(policy::test::TestArguments),
    /// Ask a policy one question, and say what the answer depends on.
    Decide(policy::decide::DecideArguments),
    /// Print which recorded decisions another policy would change; the exit code is 1 if there are any.
    Diff(policy::diff::DiffArguments),
    /// Print who may call what, as CSV.
    Matrix(policy::matrix::MatrixArguments),
    /// Do something with a policy as a whole.
    #[command(subcommand)]
    Policy(PolicyOrder),
}

/// What is done with a policy as a whole.
#[derive(Debug, Subcommand)]
enum PolicyOrder {
    /// Write its rules and data to a folder of their own.
    Eject(policy::eject::EjectArguments),
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else is a mistake.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            drop(error.print());
            return code;
        }
    };
    match arguments.command {
        Order::Run { config, upgrade, report } => run_configured(&config, upgrade, report),
        Order::Upgrade { config } => match upgrade::start(&config) {
            Ok(code) => code,
            Err(problem) => fail(&problem.to_string()),
        },
        #[cfg(feature = "demo")]
        Order::Demo(arguments) => match demo::process(&arguments) {
            Ok(process) => finish(run(process)),
            Err(problem) => fail(&problem),
        },
        Order::Probe(arguments) => probe::run(&arguments).unwrap_or_else(|problem| fail(&problem)),
        Order::Init(arguments) => init::run(&arguments).unwrap_or_else(|problem| fail(&problem)),
        Order::Connect(arguments) => connect::run(&arguments).unwrap_or_else(|problem| fail(&problem)),
        Order::Key(arguments) => key::run(&arguments).unwrap_or_else(|problem| fail(&problem)),
        Order::Check { path } => check(&path),
        Order::Print { path, format } => print(&path, format == "json"),
        Order::Schema => answer(&schema_text()),
        Order::Explain(arguments) => match explain::run(&arguments) {
            Ok(text) => answer(&text),
            Err(problem) => fail(&problem),
        },
        Order::Test(arguments) => told(policy::test::run(&arguments)),
        Order::Decide(arguments) => told(policy::decide::run(&arguments).map(in_order)),
        Order::Diff(arguments) => told(policy::diff::run(&arguments)),
        Order::Matrix(arguments) => told(policy::matrix::run(&arguments).map(in_order)),
        Order::Policy(PolicyOrder::Eject(arguments)) => told(policy::eject::run(&arguments).map(in_order)),
    }
}

fn run_configured(config: &Path, upgrade: bool, report: bool) -> ExitCode {
    let attempt = Attempt::new(config, &ProcessEnvironment);
    let loaded = match attempt.outcome {
        Ok(loaded) => loaded,
        Err(report) => return bad_configuration(config, &report),
    };
    let origin = match upgrade {
        true => Ok(Origin::Upgrade { takes_output: report }),
        false => Inheritance::of_systemd().map(Origin::Start),
    };
    let process = |origin| Process {
        loaded,
        watched: Some((config.to_owned(), attempt.fingerprint)),
        origin,
        clock: Arc::new(SystemClock::new()),
        extra: Vec::new(),
        scratch: None,
        ready: if report { Box::new(|_| upgrade::report()) } else { Box::new(|_| {}) },
    };
    finish(origin.and_then(|origin| run(process(origin))))
}

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn check(path: &Path) -> ExitCode {
    match load(path, &ProcessEnvironment) {
        Ok(loaded) => {
            for warning in loaded.warnings.iter().chain(&descriptors::doubt(&loaded.bootstrap)) {
                println!("{warning}");
            }
            if let Some(rules) = &loaded.snapshot.policy {
                print!("{}", policy::summary(rules));
            }
            let servers = loaded.snapshot.routes.iter().count();
            println!("{}: good, revision {}, {servers} server(s)", path.display(), loaded.snapshot.revision);
            ExitCode::SUCCESS
        }
        Err(report) => bad_configuration(path, &report),
    }
}

#[expect(clippy::print_stderr, reason = "doubts stand beside the answer, not in it")]
fn print(path: &Path, json: bool) -> ExitCode {
    let loaded = match load(path, &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(report) => return bad_configuration(path, &report),
    };
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    let effective = effective(&loaded.bootstrap, &loaded.snapshot);
    match json {
        true => answer(&format!("{effective:#}\n")),
        false => answer(&format!(
            "# Revision {}. Relative paths begin in the folder of the file\n\
             # that was printed; `[secret]` stands for a value that is written in it.\n{}",
            loaded.snapshot.revision,
            as_yaml(&effective)
        )),
    }
}

fn in_order(text: String) -> (String, ExitCode) {
    (text, ExitCode::SUCCESS)
}

/// Writes what a command about policy found, and ends with its code.
fn told(found: Result<(String, ExitCode), Trouble>) -> ExitCode {
    match found {
        Ok((text, code)) => match answer(&text) {
            written if written == ExitCode::SUCCESS => code,
            failed => failed,
        },
        Err(Trouble::Configuration(path, report)) => bad_configuration(&path, &report),
        Err(Trouble::Other(problem)) => fail(&problem),
    }
}

/// Writes the answer of a command. A reader that has seen enough is no failure.
fn answer(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(&error.to_string()),
        _ => ExitCode::SUCCESS,
    }
}

#[expect(clippy::print_stderr, reason = "there is no log before there is a configuration")]
fn bad_configuration(path: &Path, report: &Report) -> ExitCode {
    eprintln!("{report}\n{}: {} problem(s); nothing was changed", path.display(), report.0.len());
    ExitCode::from(BAD_CONFIGURATION)
}

fn finish(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "the log may not have started")]
fn fail(problem: &str) -> ExitCode {
    eprintln!("portunus: {problem}");
    ExitCode::FAILURE
}

/// Runs one command to its end on this thread.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    // A lookup that the system's resolver still works on must not hold up the end of the command.
    runtime.shutdown_background();
    Ok(output)
}
