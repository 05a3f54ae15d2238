//! `portunus demo` as a process: a gateway with demo servers behind it.

use super::{binary, within};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The demo, and everything it printed once it was ready.
pub(crate) struct Demo {
    /// Its process, standard error open.
    pub(crate) process: Child,
    /// What it printed.
    pub(crate) text: String,
}

impl Demo {
    /// Starts it on free ports.
    pub(crate) async fn start() -> Demo {
        let surfaces = ["--listen", "--telemetry", "--admin"].map(|surface| [surface, "127.0.0.1:0"]);
        let mut command = Command::new(binary());
        command.arg("demo").args(surfaces.concat()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut text = String::new();
        within(20, "what the demo prints", async {
            while !text.ends_with("Ctrl-C ends it.\n") {
                let line = lines.next_line().await.unwrap();
                text.push_str(&line.unwrap_or_else(|| panic!("the demo ended after:\n{text}")));
                text.push('\n');
            }
        })
        .await;
        Demo { process, text }
    }

    /// The URL that is printed first.
    pub(crate) fn url(&self) -> &str {
        self.text.split_whitespace().find(|word| word.starts_with("http://")).unwrap()
    }

    /// The address behind a label at the start of a line.
    pub(crate) fn labelled(&self, label: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(label));
        line.unwrap_or_else(|| panic!("no {label} in:\n{}", self.text)).trim()
    }
}
