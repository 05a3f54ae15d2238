//! The binary `portunus-load`: calls at a fixed rate, whatever the answers take.
//!
//! Open loop: each call has an intended start, and its latency counts from there, so a server that
//! stalls cannot hide it by slowing the generator down. It shares no code with the proxy, so that
//! a mistake in one cannot hide a mistake in the other. Every answer is checked for its own id.

mod connection;
mod report;

use clap::Parser;
use connection::{Connection, Target};
use report::{Cpu, Report};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Calls an MCP endpoint at a fixed rate and reports what it took.
#[derive(Debug, Parser)]
#[command(name = "portunus-load", version, about)]
struct Arguments {
    /// Endpoint on this machine, such as http://127.0.0.1:8080/mcp.
    url: String,
    /// Calls a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds to run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Connections to share the calls.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Bytes of padding in each call's arguments.
    #[arg(long, default_value_t = 256)]
    padding: usize,
    /// Tool to call, with one string argument `text`.
    #[arg(long, default_value = "echo")]
    tool: String,
    /// Processes whose CPU time and memory are reported.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(report) => report.print(),
        Err(problem) => report::fail(&problem),
    }
}

/// What the workers share.
struct Plan {
    target: Target,
    start: Instant,
    interval: Duration,
    calls: u64,
    next: AtomicU64,
    report: Mutex<Report>,
}

async fn run(arguments: &Arguments) -> Result<Report, String> {
    let target = Target::parse(&arguments.url, &arguments.tool, arguments.padding)?;
    if arguments.rate == 0 || arguments.connections == 0 {
        return Err("--rate and --connections must be at least 1".to_owned());
    }
    let before = Cpu::read(&arguments.pids)?;
    let calls = u64::from(arguments.rate) * u64::from(arguments.seconds);
    let plan = Arc::new(Plan {
        target,
        start: Instant::now(),
        interval: Duration::from_secs(1) / arguments.rate,
        calls,
        next: AtomicU64::new(0),
        report: Mutex::new(Report::default()),
    });
    let workers: Vec<_> = (0..arguments.connections).map(|_| tokio::spawn(work(Arc::clone(&plan)))).collect();
    for worker in workers {
        worker.await.map_err(|error| error.to_string())?;
    }
    let mut report = std::mem::take(&mut *plan.report.lock().await);
    report.elapsed = plan.start.elapsed();
    report.cpu = Cpu::read(&arguments.pids)?.since(&before);
    Ok(report)
}

/// Takes the next call that is due until none is left.
async fn work(plan: Arc<Plan>) {
    let mut connection: Option<Connection> = None;
    loop {
        let number = plan.next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.calls {
            return;
        }
        let due = plan.start + plan.interval * u32::try_from(number).unwrap_or(u32::MAX);
        tokio::time::sleep_until(due).await;
        let outcome = call(&mut connection, &plan.target, number).await;
        if outcome.is_err() {
            connection = None;
        }
        plan.report.lock().await.note(outcome, due.elapsed());
    }
}

async fn call(slot: &mut Option<Connection>, target: &Target, number: u64) -> Result<(), String> {
    if slot.is_none() {
        *slot = Some(Connection::open(target).await?);
    }
    match slot {
        Some(connection) => connection.call(target, number).await,
        None => Err("no connection".to_owned()),
    }
}
