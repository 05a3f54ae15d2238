//! What a run took, in numbers.

use crate::calls::Calls;
use crate::lane::Flight;
use crate::process::{Spent, Used};
use crate::window::{Pace, Schedule};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// The longest latency that is told apart: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Different problems that are listed; more become one.
const PROBLEMS: usize = 20;

/// Calls as they end.
#[derive(Debug)]
pub(crate) struct Tally {
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    answered: u64,
    closed: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    /// An empty one.
    ///
    /// # Errors
    /// None that can happen with fixed bounds.
    pub(crate) fn new() -> Result<Tally, String> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NS, 3).map_err(|error| error.to_string());
        Ok(Tally {
            latency: histogram()?,
            lag: histogram()?,
            answered: 0,
            closed: 0,
            errors: BTreeMap::new(),
        })
    }

    /// Calls that were answered properly, also before the measured time.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Notes how late a call was sent.
    pub(crate) fn started(&mut self, flight: &Flight, schedule: &Schedule) {
        if flight.intended >= schedule.measured_from {
            self.lag.saturating_record(nanos(flight.sent.saturating_duration_since(flight.intended)));
        }
    }

    /// Notes the end of a call; its latency counts from its intended start.
    pub(crate) fn over(&mut self, flight: &Flight, verdict: Result<(), String>, schedule: &Schedule) {
        match verdict {
            Ok(()) => {
                self.answered += 1;
                if flight.intended >= schedule.measured_from {
                    self.latency.saturating_record(nanos(flight.intended.elapsed()));
                }
            }
            Err(problem) => self.error(problem, 1),
        }
    }

    /// Notes a connection that closed between calls.
    pub(crate) fn closed(&mut self) {
        self.closed += 1;
    }

    /// Notes calls that were due and could never be sent.
    pub(crate) fn left_over(&mut self, calls: u64) {
        if calls > 0 {
            self.error("never sent: no connection was free".to_owned(), calls);
        }
    }

    fn error(&mut self, problem: String, count: u64) {
        let known = self.errors.contains_key(&problem) || self.errors.len() < PROBLEMS;
        let problem = if known { problem } else { "other problems".to_owned() };
        *self.errors.entry(problem).or_default() += count;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST_NS).max(1)
}

/// Microseconds that so many of the calls did not exceed.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    mean_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a minute are below 2^52")]
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
            mean_us: histogram.mean() / 1e3,
        }
    }
}

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    url: String,
    body_bytes: usize,
    connections: usize,
    /// Asked for; none in a closed loop.
    offered_per_second: Option<u32>,
    /// Answered properly in the measured time.
    answered_per_second: f64,
    /// Length of the measured time.
    seconds: f64,
    /// Calls with their intended start in the measured time, answered properly.
    pub(crate) calls: u64,
    /// Calls that were not answered properly, also before the measured time.
    pub(crate) failed: u64,
    /// Connections that the other side closed between calls.
    closed: u64,
    /// What was wrong, and how often.
    errors: BTreeMap<String, u64>,
    /// From the intended start to the last byte of the answer.
    latency: Latency,
    /// How late calls were sent: large where the generator or its connections were the limit.
    lag: Latency,
    /// The generator itself.
    load: Used,
    /// The watched processes.
    processes: Vec<Used>,
}

impl Report {
    /// Sums a run up.
    pub(crate) fn new(
        calls: &Calls,
        (pace, connections): (Pace, usize),
        tally: Tally,
        spent: Spent,
    ) -> Report {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let answered = spent.answered as f64;
        Report {
            url: format!("http://{}{}", calls.target.authority, calls.target.path),
            body_bytes: calls.size,
            connections,
            offered_per_second: match pace {
                Pace::Open { rate } => Some(rate),
                Pace::Closed => None,
            },
            answered_per_second: answered / spent.elapsed.as_secs_f64(),
            seconds: spent.elapsed.as_secs_f64(),
            calls: tally.latency.len(),
            failed: tally.errors.values().sum(),
            closed: tally.closed,
            latency: Latency::of(&tally.latency),
            lag: Latency::of(&tally.lag),
            errors: tally.errors,
            load: spent.own,
            processes: spent.watched,
        }
    }

    /// Prints the figures; fails if a call did.
    #[expect(clippy::print_stdout, reason = "the report is the answer")]
    pub(crate) fn print(&self, json: bool) -> ExitCode {
        if json {
            println!("{}", serde_json::to_string(self).unwrap_or_default());
        } else {
            print!("{}", self.text());
        }
        if self.failed == 0 && self.calls > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn text(&self) -> String {
        let Latency { p50_us, p90_us, p99_us, p999_us, max_us, mean_us } = &self.latency;
        let mut lines = vec![
            format!(
                "{} calls answered, {} failed, {:.0} a second over {:.1} s",
                self.calls, self.failed, self.answered_per_second, self.seconds
            ),
            format!(
                "latency us   p50 {p50_us:.0}  p90 {p90_us:.0}  p99 {p99_us:.0}  p99.9 {p999_us:.0}  max {max_us:.0}  mean {mean_us:.0}"
            ),
            format!(
                "sent late us p50 {:.0}  p99 {:.0}  max {:.0}",
                self.lag.p50_us, self.lag.p99_us, self.lag.max_us
            ),
        ];
        lines.extend(std::iter::once(&self.load).chain(&self.processes).map(|used| {
            let Used { name, cpu_seconds, cpu_us_per_call, resident_kib } = used;
            format!("{name:<12} {cpu_us_per_call:.2} us CPU a call, {cpu_seconds:.2} s in all, {resident_kib} KiB resident")
        }));
        if self.closed > 0 {
            lines.push(format!("{} connections were closed between calls", self.closed));
        }
        lines.extend(self.errors.iter().map(|(problem, count)| format!("{count} x {problem}")));
        lines.join("\n") + "\n"
    }
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
    use crate::window::Window;
    use std::time::Instant;

    #[test]
    fn latency_counts_from_the_intended_start_and_not_before_the_measured_time() {
        let window = Window { warm_up: Duration::from_secs(1), length: Duration::from_secs(9) };
        let now = Instant::now();
        let start = now.checked_sub(Duration::from_secs(5)).unwrap();
        let schedule = Schedule::new(Pace::Open { rate: 1 }, window, start);
        let mut tally = Tally::new().unwrap();
        for (intended, verdict) in [
            (start, Ok(())),
            (start + Duration::from_secs(2), Ok(())),
            (start + Duration::from_secs(2), Err("wrong".to_owned())),
        ] {
            tally.over(&Flight { number: 0, intended, sent: now }, verdict, &schedule);
        }
        assert_eq!((tally.answered, tally.latency.len(), tally.errors["wrong"]), (2, 1, 1));
        assert!(tally.latency.max() >= 2_990_000_000, "{}", tally.latency.max());
    }

    #[test]
    fn problems_are_listed_up_to_a_bound() {
        let mut tally = Tally::new().unwrap();
        for number in 0..1_000 {
            tally.error(format!("problem {number}"), 1);
        }
        assert_eq!(tally.errors.len(), PROBLEMS + 1);
        assert_eq!(tally.errors.values().sum::<u64>(), 1_000);
    }
}
