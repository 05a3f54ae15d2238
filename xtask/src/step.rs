//! Running the commands that a task is made of: each is announced, timed, and on failure named
//! together with what mends it.

use crate::root;
use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a task stopped.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) problem: String,
    /// What the reader can do about it.
    pub(crate) mend: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  to mend it: {}", self.problem, self.mend)
    }
}

/// What `cargo run` tells this program of its own package.
///
/// Handed on to another cargo, it would look like a change to build scripts that watch these
/// variables, and rebuild half of the gateway each time a task follows a plain `cargo build`.
const OF_THIS_PACKAGE: [&str; 7] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// One command of a task.
pub(crate) struct Step {
    title: &'static str,
    mend: &'static str,
    command: Command,
}

impl Step {
    /// A step that runs `line` (words without quoting) in the root of the workspace.
    ///
    /// `cargo` is the one that runs this program.
    pub(crate) fn new(title: &'static str, line: &str) -> Step {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        let mut command = match (program, std::env::var_os("CARGO")) {
            ("cargo", Some(cargo)) => Command::new(cargo),
            _ => Command::new(program),
        };
        command.current_dir(root()).args(words);
        for variable in OF_THIS_PACKAGE {
            command.env_remove(variable);
        }
        Step { title, mend: "read the output above; the command can be run again by itself", command }
    }

    /// What to do when it fails.
    pub(crate) fn mend(mut self, mend: &'static str) -> Step {
        self.mend = mend;
        self
    }

    /// Further changes to the command: environment, arguments, folder.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Command)) -> Step {
        change(&mut self.command);
        self
    }

    /// Runs it to its end; its output goes where ours goes.
    ///
    /// # Errors
    /// If it cannot be started or does not succeed.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let line = self.announce();
        let start = Instant::now();
        let status = self.command.status().map_err(|error| self.unstarted(&line, &error))?;
        self.ended(&line, status.success(), &status.to_string(), start.elapsed())
    }

    /// Runs it to its end and shows each line it prints to `watch` too.
    ///
    /// # Errors
    /// If it cannot be started or does not succeed.
    pub(crate) fn run_watched(mut self, mut watch: impl FnMut(&str)) -> Result<(), Failure> {
        let line = self.announce();
        let start = Instant::now();
        let mut child =
            self.command.stdout(Stdio::piped()).spawn().map_err(|error| self.unstarted(&line, &error))?;
        if let Some(stdout) = child.stdout.take() {
            for printed in io::BufRead::lines(io::BufReader::new(stdout)).map_while(Result::ok) {
                say(&printed);
                watch(&printed);
            }
        }
        let status = child.wait().map_err(|error| self.unstarted(&line, &error))?;
        self.ended(&line, status.success(), &status.to_string(), start.elapsed())
    }

    fn announce(&self) -> String {
        let line = shown(&self.command);
        say(&format!("==> {}\n    {line}", self.title));
        line
    }

    fn unstarted(&self, line: &str, error: &io::Error) -> Failure {
        Failure { problem: format!("cannot run `{line}`: {error}"), mend: self.mend.to_owned() }
    }

    fn ended(&self, line: &str, success: bool, status: &str, took: Duration) -> Result<(), Failure> {
        if success {
            say(&format!("    done in {}", seconds(took)));
            return Ok(());
        }
        Err(Failure {
            problem: format!("`{line}` failed after {} ({status})", seconds(took)),
            mend: self.mend.to_owned(),
        })
    }
}

/// Whether a program runs and succeeds; what it prints is dropped.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What a program prints, if it runs and succeeds.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes one line, or several, for the reader.
///
/// A reader who is gone (a closed pipe) does not end the task.
pub(crate) fn say(text: &str) {
    // The steps of unit tests would read like those of the task that runs the tests.
    if cfg!(test) {
        return;
    }
    let mut stdout = io::stdout().lock();
    if writeln!(stdout, "{}", text.trim_end()).is_ok() {
        stdout.flush().ok();
    }
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..100 => format!("{:.1} s", took.as_secs_f64()),
        whole => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

/// The command as it can be typed, with the variables that are set for it.
fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = if program.ends_with("/cargo") { "cargo".into() } else { program };
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())));
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let words: Vec<String> = variables.chain([program.into_owned()]).chain(arguments).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_names_its_command_and_what_mends_it() {
        let failure = Step::new("Fail", "false --really").mend("do not").run().unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("`false --really` failed"), "{text}");
        assert!(text.contains("to mend it: do not"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_a_failure() {
        let failure = Step::new("Miss", "no-such-program-here").run().unwrap_err();
        assert!(failure.problem.contains("cannot run `no-such-program-here`"), "{failure}");
    }

    #[test]
    fn a_watched_step_hands_over_each_line() {
        let mut lines = Vec::new();
        let step = Step::new("Print", "printf").with(|command| {
            command.arg("a\nb\n");
        });
        step.run_watched(|line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn a_command_is_shown_as_it_can_be_typed() {
        let step = Step::new("Show", "cargo doc --no-deps").with(|command| {
            command.env("RUSTDOCFLAGS", "-Dwarnings");
        });
        assert_eq!(shown(&step.command), "RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps");
    }

    #[test]
    fn a_command_is_not_told_of_this_package() {
        let step = Step::new("Ask", "sh").with(|command| {
            command.args(["-c", "test -z \"$CARGO_PKG_NAME$CARGO_MANIFEST_DIR\""]);
        });
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo sets it for tests too");
        step.run().unwrap();
    }

    #[test]
    fn durations_are_readable() {
        let cases =
            [(1_234, "1.2 s"), (99_900, "99.9 s"), (100_000, "1 min 40 s"), (3_605_000, "60 min 05 s")];
        for (millis, expected) in cases {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }
}
