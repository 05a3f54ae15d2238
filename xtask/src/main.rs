//! Tasks for people who work on Portunus: `cargo xtask TASK`.
//!
//! Here is only what the command line means; each task has a file of its own, `step` runs the
//! commands they are made of, `machine` and `sdk` bring what a fresh checkout lacks. There are no
//! dependencies, so that the first build of a newcomer answers at once.

mod ci;
mod compare;
mod demo;
mod fuzz;
mod machine;
mod prove;
mod sdk;
mod step;
mod test;

use prove::Show;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use step::{Failure, say};

const HELP: &str = "\
Tasks for people who work on Portunus.

USAGE
    cargo xtask TASK

TASKS
    demo [ARGS]                    Build the gateway and run `portunus demo ARGS`: demo MCP servers
                                   behind a gateway, with calls to try. Ctrl-C ends it.
    test [--quick]                 Set up Node and Python clients, build, and run all tests.
                                   --quick: only the tests that need neither Node nor Python.
    prove [NAME | --list]          Run the long shows, or the one named NAME. Minutes each.
    fuzz [TARGET] [--seconds N]    Fuzz one target, or all in turn, for N seconds each (600).
    compare [OPTIONS]              What a call costs, beside nginx, HAProxy and Envoy. About half an hour.
                                   --rounds N (7), --seconds N a measurement (3), --only NAME,…,
                                   --rate CALLS a second (found by itself), --write benches/RESULTS.md
    ci                             What a change has to pass: format, lints, docs, licences, tests.
    help                           This text.

What a task needs and does not find it installs, and says so: as root on Debian from its packages,
otherwise it prints the line to run. Node and Python packages go to `.cache/sdk`; to set them up
anew, remove that folder.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Help,
    Demo(Vec<OsString>),
    Test { quick: bool },
    Prove(Vec<Show>),
    ListShows,
    Fuzz { target: Option<String>, seconds: u32 },
    Compare(compare::Options),
    Ci,
}

fn main() -> ExitCode {
    let task = match parse(std::env::args_os().skip(1).collect()) {
        Ok(task) => task,
        Err(problem) => {
            say(&format!("xtask: {problem}\n  `cargo xtask help` names the tasks and what they take"));
            return ExitCode::from(2);
        }
    };
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("\nxtask: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Failure> {
    match task {
        Task::Help => {
            say(HELP);
            Ok(())
        }
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test { quick: true } => test::quick(),
        Task::Test { quick: false } => test::full(),
        Task::Prove(shows) => prove::run(&shows),
        Task::ListShows => {
            prove::list();
            Ok(())
        }
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Compare(options) => compare::run(&options),
        Task::Ci => ci::run(),
    }
}

/// Where the workspace lies; every command runs here.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn parse(arguments: Vec<OsString>) -> Result<Task, String> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_else(|| "help".into());
    let rest: Vec<OsString> = arguments.collect();
    if name == "demo" {
        return Ok(Task::Demo(rest));
    }
    let words: Vec<String> = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match (name.to_string_lossy().as_ref(), words.as_slice()) {
        ("help" | "--help" | "-h", _) | (_, ["--help" | "-h"]) => Ok(Task::Help),
        ("test", []) => Ok(Task::Test { quick: false }),
        ("test", ["--quick"]) => Ok(Task::Test { quick: true }),
        ("prove", []) => Ok(Task::Prove(Show::ALL.to_vec())),
        ("prove", ["--list"]) => Ok(Task::ListShows),
        ("prove", [name]) => match Show::named(name) {
            Some(show) => Ok(Task::Prove(vec![show])),
            None => Err(format!("no show is named `{name}`; `cargo xtask prove --list` names them")),
        },
        ("fuzz", words) => parse_fuzz(words),
        ("compare", words) => Ok(Task::Compare(compare::Options::parse(words)?)),
        ("ci", []) => Ok(Task::Ci),
        (name @ ("test" | "prove" | "ci"), words) => {
            Err(format!("`{name}` does not take `{}`", words.join(" ")))
        }
        (name, _) => Err(format!("no task is named `{name}`")),
    }
}

fn parse_fuzz(words: &[&str]) -> Result<Task, String> {
    /// The length that a change to a parser has to stand.
    const SECONDS: u32 = 600;
    let (target, options) = match words {
        [target, options @ ..] if !target.starts_with('-') => (Some((*target).to_owned()), options),
        options => (None, options),
    };
    let seconds = match options {
        [] => Some(SECONDS),
        ["--seconds", number] => number.parse().ok().filter(|seconds| *seconds > 0),
        _ => return Err(format!("`fuzz` does not take `{}`", options.join(" "))),
    };
    match seconds {
        Some(seconds) => Ok(Task::Fuzz { target, seconds }),
        None => Err("`--seconds` wants a whole number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn a_command_line_means_one_task() {
        let fuzz = |target: Option<&str>, seconds| Task::Fuzz { target: target.map(str::to_owned), seconds };
        let cases = [
            ("nothing", "", Task::Help),
            ("help", "help", Task::Help),
            ("help of a task", "fuzz --help", Task::Help),
            ("demo", "demo", Task::Demo(vec![])),
            (
                "demo passes on",
                "demo --port 1 -h",
                Task::Demo(vec!["--port".into(), "1".into(), "-h".into()]),
            ),
            ("test", "test", Task::Test { quick: false }),
            ("quick test", "test --quick", Task::Test { quick: true }),
            ("all shows", "prove", Task::Prove(Show::ALL.to_vec())),
            ("one show", "prove first-hour", Task::Prove(vec![Show::ALL[0]])),
            ("names of shows", "prove --list", Task::ListShows),
            ("all targets", "fuzz", fuzz(None, 600)),
            ("all targets, short", "fuzz --seconds 5", fuzz(None, 5)),
            ("one target", "fuzz sse", fuzz(Some("sse"), 600)),
            ("one target, short", "fuzz sse --seconds 60", fuzz(Some("sse"), 60)),
            ("compare", "compare", Task::Compare(compare::Options::default())),
            ("ci", "ci", Task::Ci),
        ];
        for (name, line, expected) in cases {
            assert_eq!(parsed(line), Ok(expected), "{name}");
        }
    }

    #[test]
    fn a_wrong_command_line_names_what_is_wrong() {
        let cases = [
            ("unknown task", "tset", "`tset`"),
            ("unknown option", "test --fast", "`--fast`"),
            ("too much", "ci now", "`now`"),
            ("unknown show", "prove swop", "`swop`"),
            ("no number", "fuzz sse --seconds", "`--seconds`"),
            ("not a number", "fuzz --seconds ten", "`--seconds`"),
            ("no time", "fuzz --seconds 0", "`--seconds`"),
            ("unknown option of the comparison", "compare --fast", "`--fast`"),
        ];
        for (name, line, expected) in cases {
            let problem = parsed(line).unwrap_err();
            assert!(problem.contains(expected), "{name}: {problem}");
        }
    }
}
