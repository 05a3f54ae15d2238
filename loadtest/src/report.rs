//! What a run took, in numbers.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Latencies and errors of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    latencies: Vec<Duration>,
    errors: BTreeMap<String, u64>,
    /// Length of the run.
    pub(crate) elapsed: Duration,
    /// What the watched processes used.
    pub(crate) cpu: Vec<Used>,
}

impl Report {
    /// Notes one call; latency counts from its intended start.
    pub(crate) fn note(&mut self, outcome: Result<(), String>, latency: Duration) {
        match outcome {
            Ok(()) => self.latencies.push(latency),
            Err(problem) => *self.errors.entry(problem).or_default() += 1,
        }
    }

    /// Prints the figures; fails if a call did.
    #[expect(clippy::print_stdout, reason = "the report is the answer")]
    pub(crate) fn print(mut self) -> ExitCode {
        self.latencies.sort_unstable();
        let calls = self.latencies.len();
        let failed: u64 = self.errors.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let rate = calls as f64 / self.elapsed.as_secs_f64();
        println!(
            "{calls} calls answered, {failed} failed, {rate:.0} a second over {:.1} s",
            self.elapsed.as_secs_f64()
        );
        for permille in [500, 900, 990, 999] {
            if let Some(latency) = percentile(&self.latencies, permille) {
                println!("p{:<5} {:>9.3} ms", f64::from(permille) / 10.0, latency.as_secs_f64() * 1e3);
            }
        }
        for used in &self.cpu {
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            let per_call = used.cpu.as_secs_f64() * 1e6 / calls.max(1) as f64;
            println!("pid {:<8} {per_call:>8.1} us CPU a call, {} KiB resident", used.pid, used.resident_kib);
        }
        for (problem, count) in &self.errors {
            println!("{count} x {problem}");
        }
        if failed == 0 && calls > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The latency that this many in a thousand do not exceed.
fn percentile(sorted: &[Duration], permille: u32) -> Option<Duration> {
    let rank = (sorted.len() * permille as usize).div_ceil(1000).max(1) - 1;
    sorted.get(rank).copied()
}

/// CPU time and memory of one process over a run.
#[derive(Debug)]
pub(crate) struct Used {
    pid: u32,
    cpu: Duration,
    resident_kib: u64,
}

/// A reading of `/proc` for some processes.
#[derive(Debug)]
pub(crate) struct Cpu(Vec<Used>);

impl Cpu {
    /// Reads `/proc/PID/stat` and `status` (proc(5)); a tick is a hundredth of a second on Linux.
    ///
    /// # Errors
    /// If a process is not there.
    pub(crate) fn read(pids: &[u32]) -> Result<Cpu, String> {
        pids.iter()
            .map(|pid| read_one(*pid).ok_or_else(|| format!("no process {pid}")))
            .collect::<Result<_, _>>()
            .map(Cpu)
    }

    /// The difference to an earlier reading of the same processes.
    pub(crate) fn since(self, before: &Cpu) -> Vec<Used> {
        let pairs = self.0.into_iter().zip(&before.0);
        pairs.map(|(now, then)| Used { cpu: now.cpu.saturating_sub(then.cpu), ..now }).collect()
    }
}

fn read_one(pid: u32) -> Option<Used> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields after the name in parentheses: state is the first, utime and stime the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Used {
        pid,
        cpu: Duration::from_millis(ticks * 10),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().ok()?,
    })
}

/// Says why there is no report.
#[expect(clippy::print_stderr, reason = "the answer of the command")]
pub(crate) fn fail(problem: &str) -> ExitCode {
    eprintln!("portunus-load: {problem}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let sorted: Vec<Duration> = (1..=1000).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 500), Some(Duration::from_millis(500)));
        assert_eq!(percentile(&sorted, 999), Some(Duration::from_millis(999)));
        assert_eq!(percentile(&sorted[..1], 990), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 990), None);
    }

    #[test]
    fn the_own_process_can_be_read() {
        assert!(Cpu::read(&[std::process::id()]).is_ok());
        assert!(Cpu::read(&[u32::MAX]).is_err());
    }
}
