//! Making calls with `portunus-load`, and reading its report.

use super::peer::{Caller, Running};
use super::site::{LOAD_CORE, Site};
use crate::step::Failure;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Connections that share the calls.
pub(super) const CONNECTIONS: u32 = 32;

/// When calls are made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many a second.
    Open(u32),
    /// On each connection when the answer before is there.
    Closed,
}

/// What one measurement said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// CPU time of the peer a call, in microseconds.
    pub(super) cpu_us: f64,
    /// Calls answered a second.
    pub(super) rate: f64,
    /// Latency from the intended start, in microseconds.
    pub(super) p50_us: f64,
    /// The same that one call in a hundred exceeds.
    pub(super) p99_us: f64,
    /// Resident memory of the peer at the end.
    pub(super) resident_kib: u64,
    /// Calls without their proper answer.
    pub(super) failed: u64,
}

/// Load on one peer.
pub(super) struct Load<'a> {
    site: &'a Site,
    running: &'a Running,
    size: u32,
    /// How long it is measured, and how long it lasts before that.
    seconds: (f64, f64),
}

impl<'a> Load<'a> {
    /// Calls of so many bytes.
    pub(super) fn on(site: &'a Site, running: &'a Running, size: u32) -> Load<'a> {
        Load { site, running, size, seconds: (1.0, 1.0) }
    }

    /// For so long, after some time that is not measured.
    pub(super) fn seconds(self, measured: f64, before: f64) -> Load<'a> {
        Load { seconds: (measured, before), ..self }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If there is no report.
    pub(super) fn run(&self, pace: Pace) -> Result<Report, Failure> {
        let mut command = self.command("run");
        let (measured, before) = self.seconds;
        command.args(["--json", "--seconds", &measured.to_string(), "--warm-up", &before.to_string()]);
        command.args(["--connections", &CONNECTIONS.to_string()]);
        match pace {
            Pace::Open(rate) => command.args(["--rate", &rate.to_string()]),
            Pace::Closed => command.arg("--closed"),
        };
        if let Some(pid) = self.running.pid() {
            command.args(["--pid", &format!("peer={pid}")]);
        }
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| self.failed(&error.to_string()))?;
        Report::read(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| self.failed(String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Holds idle connections until the returned process is dropped.
    ///
    /// # Errors
    /// If they cannot all be opened.
    pub(super) fn hold(&self, connections: u32) -> Result<Held, Failure> {
        let mut command = self.command("hold");
        command.args(["--connections", &connections.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.failed(&error.to_string()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).ok();
        }
        let held = Held(child);
        if line.starts_with("holding") {
            return Ok(held);
        }
        Err(self.failed("its idle connections could not be held"))
    }

    fn command(&self, order: &str) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", LOAD_CORE]).arg(&self.site.load).arg(order);
        command.arg(format!("http://{}/mcp", self.running.listen));
        command.args(["--wait", "20", "--size", &self.size.to_string()]);
        if self.running.caller != Caller::Bare {
            command.args(["--header", &format!("authorization: Bearer {}", self.site.token)]);
        }
        if self.running.caller == Caller::LegacyToken {
            command.args(["--era", "legacy"]);
        }
        command
    }

    fn failed(&self, why: &str) -> Failure {
        self.running.failure(why)
    }
}

/// Idle connections; dropping it closes them.
pub(super) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // The end of its standard input is what it waits for.
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

impl Report {
    /// Reads the JSON of `portunus-load run --json`.
    fn read(json: &str) -> Option<Report> {
        Some(Report {
            cpu_us: number(json, "processes", "cpu_us_per_call").unwrap_or(0.0),
            rate: number(json, "", "answered_per_second")?,
            p50_us: number(json, "latency", "p50_us")?,
            p99_us: number(json, "latency", "p99_us")?,
            resident_kib: count(number(json, "processes", "resident_kib").unwrap_or(0.0)),
            failed: count(number(json, "", "failed")?),
        })
    }
}

/// The number of a key after the first place where `section` is a key; the report has no strings
/// between them that could look like one.
fn number(json: &str, section: &str, key: &str) -> Option<f64> {
    let after = match section {
        "" => json,
        section => json.split_once(&format!("\"{section}\":"))?.1,
    };
    let value = after.split_once(&format!("\"{key}\":"))?.1;
    value.split([',', '}']).next()?.parse().ok()
}

/// A number that is written as an integer.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts far below 2^52")]
fn count(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let json = r#"{"url":"http://127.0.0.1:1/mcp","answered_per_second":99.5,"calls":100,"failed":2,"errors":{"status 502":2},"latency":{"p50_us":10.5,"p99_us":20.0},"lag":{"p50_us":1.0,"p99_us":2.0},"load":{"name":"load","cpu_us_per_call":5.0,"resident_kib":0},"processes":[{"name":"peer","cpu_seconds":1.0,"cpu_us_per_call":14.25,"resident_kib":2048}]}"#;
        let report =
            Report { cpu_us: 14.25, rate: 99.5, p50_us: 10.5, p99_us: 20.0, resident_kib: 2_048, failed: 2 };
        assert_eq!(Report::read(json), Some(report));
        assert_eq!(Report::read("portunus-load: no process 1"), None);
    }
}
