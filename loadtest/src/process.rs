//! What processes use, from `/proc` (proc(5)).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::time::{Duration, Instant};

/// A process to watch, with its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    name: String,
    pid: u32,
}

impl Watched {
    /// Reads `PID` or `NAME=PID`.
    ///
    /// # Errors
    /// If there is no number.
    pub(crate) fn parse(text: &str) -> Result<Watched, String> {
        let (name, pid) = text.split_once('=').unwrap_or((text, text));
        let pid = pid.parse().map_err(|_| "wants PID or NAME=PID".to_owned())?;
        Ok(Watched { name: name.to_owned(), pid })
    }
}

/// What one process and its children used over a run.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Used {
    /// As it was given.
    pub(crate) name: String,
    /// CPU time, user and system.
    pub(crate) cpu_seconds: f64,
    /// The same divided by the calls that were answered meanwhile.
    pub(crate) cpu_us_per_call: f64,
    /// Resident memory at the end, summed over the processes: what they share counts for each.
    pub(crate) resident_kib: u64,
}

/// A moment of a run.
#[derive(Debug)]
pub(crate) struct Reading {
    at: Instant,
    answered: u64,
    own: Duration,
    watched: Vec<(Duration, u64)>,
}

/// The part of a run between two readings.
#[derive(Debug)]
pub(crate) struct Spent {
    /// How long it was.
    pub(crate) elapsed: Duration,
    /// Calls that were answered.
    pub(crate) answered: u64,
    /// The generator itself.
    pub(crate) own: Used,
    /// The watched processes.
    pub(crate) watched: Vec<Used>,
}

impl Reading {
    /// Reads the processes now; so many calls were answered before.
    ///
    /// # Errors
    /// If a process is not there.
    pub(crate) fn take(pids: &[Watched], answered: u64) -> Result<Reading, String> {
        let read = |watched: &Watched| {
            tree(watched.pid).ok_or_else(|| format!("no process {}: look whether it still runs", watched.pid))
        };
        let (own, _) = tree(std::process::id()).ok_or("cannot read /proc/self")?;
        let watched = pids.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Reading { at: Instant::now(), answered, own, watched })
    }

    /// The difference to an earlier reading of the same processes.
    pub(crate) fn since(&self, before: &Reading, pids: &[Watched]) -> Spent {
        let answered = self.answered - before.answered;
        let used = |name: &str, now: Duration, then: Duration, resident_kib| {
            let cpu_seconds = now.saturating_sub(then).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            let cpu_us_per_call = cpu_seconds * 1e6 / answered.max(1) as f64;
            Used { name: name.to_owned(), cpu_seconds, cpu_us_per_call, resident_kib }
        };
        let both = self.watched.iter().zip(&before.watched).zip(pids);
        Spent {
            elapsed: self.at - before.at,
            answered,
            own: used("load", self.own, before.own, 0),
            watched: both
                .map(|(((now, resident), (then, _)), watched)| used(&watched.name, *now, *then, *resident))
                .collect(),
        }
    }
}

/// CPU time of a process and of all below it, and their resident KiB.
fn tree(pid: u32) -> Option<(Duration, u64)> {
    let (mut cpu, mut resident) = one(pid)?;
    for child in children(pid) {
        // A child that ends meanwhile counts with its parent, which waits for it.
        let (child_cpu, child_resident) = tree(child).unwrap_or_default();
        cpu += child_cpu;
        resident += child_resident;
    }
    Some((cpu, resident))
}

/// CPU time of all threads of a process and of children that have ended, and its resident KiB.
fn one(pid: u32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses, the state is the first field; utime, stime, cutime and cstime
    // are the 12th to 15th.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(4).map(|ticks| ticks.parse().unwrap_or(0)).collect();
    let of_ticks =
        |ticks: &[u64]| ticks.iter().sum::<u64>() * 1_000_000_000 / rustix::param::clock_ticks_per_second();
    let (own, ended) = ticks.split_at_checked(2)?;
    // A tick is 10 ms, more than what many calls cost; the scheduler counts nanoseconds.
    let nanos = scheduled(pid).unwrap_or_else(|| of_ticks(own)) + of_ticks(ended);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
    Some((Duration::from_nanos(nanos), resident.unwrap_or(0)))
}

/// Nanoseconds that the threads of a process ran, where the kernel keeps that.
fn scheduled(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        sum += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    (sum > 0).then_some(sum)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    lists
        .flatten()
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Lets this process open so many sockets, and some files beside.
///
/// # Errors
/// If the hard limit is lower.
pub(crate) fn allow_files(sockets: usize) -> Result<(), String> {
    let needed = sockets as u64 + 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .map_err(|_| format!("{sockets} connections need {needed} open files: raise `ulimit -Hn`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_or_bare() {
        assert_eq!(Watched::parse("gw=7"), Ok(Watched { name: "gw".to_owned(), pid: 7 }));
        assert_eq!(Watched::parse("7"), Ok(Watched { name: "7".to_owned(), pid: 7 }));
        assert!(Watched::parse("gw").is_err());
    }

    #[test]
    fn the_work_of_a_child_counts() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pids = [Watched { name: "all".to_owned(), pid: std::process::id() }];
        let before = Reading::take(&pids, 0).unwrap();
        // As long as it takes the child to be seen: a fixed time would be too short somewhere.
        let spent = loop {
            let spent = Reading::take(&pids, 10).unwrap().since(&before, &pids);
            if one(child.id()).is_some_and(|(cpu, _)| cpu >= Duration::from_millis(30)) {
                break spent;
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(spent.answered, 10);
        assert!(spent.watched[0].cpu_us_per_call > 0.0 && spent.watched[0].resident_kib > 0, "{spent:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let pids = [Watched { name: "gone".to_owned(), pid: u32::MAX }];
        assert!(Reading::take(&pids, 0).unwrap_err().contains("no process"));
    }
}
