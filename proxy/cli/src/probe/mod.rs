//! `portunus probe`: can this server be served, and if not, where does it fail and what to do.

mod eras;
mod report;
mod schemas;
mod talk;
mod tls;
mod visit;

pub(crate) use report::{Progress, Report, Server, Stage, Step, Verdict};
pub(crate) use visit::probe;

use super::screen::{BEAT, Screen};
use super::target::Target;
use clap::Args;
use portunus_base::text;
use portunus_config::units::parse_duration;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::interval;

/// Capabilities that are shown; the JSON report has all.
const SHOWN_CAPABILITIES: usize = 16;

/// Which server to look at.
#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    /// The server's MCP endpoint, such as `http://127.0.0.1:9101/mcp`.
    url: String,
    /// A bearer token for the server: `env:NAME` or `file:PATH`, never the token itself.
    #[arg(long, value_name = "REFERENCE")]
    bearer: Option<String>,
    /// How long to wait for each answer.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Certificates (PEM) to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the report as JSON; the steps then go to standard error.
    #[arg(long)]
    json: bool,
}

/// Probes and tells; fails unless the server can be served.
///
/// # Errors
/// If the arguments name no server, in words for the terminal.
pub(crate) fn run(arguments: &ProbeArguments) -> Result<ExitCode, String> {
    let ProbeArguments { url, bearer, timeout, ca, json } = arguments;
    let target = Target { url: url.clone(), bearer: bearer.clone(), ca: ca.clone(), timeout: *timeout };
    let upstream = target.compile()?;
    let mut screen = if *json { Screen::stderr() } else { Screen::stdout() };
    let report = crate::block_on(async {
        let (told, steps) = unbounded_channel();
        let (report, ()) = tokio::join!(
            probe(upstream, *timeout, Box::new(move |progress| drop(told.send(progress)))),
            show(&mut screen, steps)
        );
        report
    })
    .map_err(|error| format!("no runtime: {error}"))?;
    screen.line(&conclusion(&report));
    if *json {
        Screen::stdout().line(&report.json());
    }
    Ok(if report.served() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows steps as they are made.
async fn show(screen: &mut Screen, mut steps: UnboundedReceiver<Progress>) {
    let mut beat = interval(BEAT);
    let mut under_way: Option<(Stage, Instant)> = None;
    loop {
        tokio::select! {
            progress = steps.recv() => match progress {
                Some(Progress::Begun(stage)) => under_way = Some((stage, Instant::now())),
                Some(Progress::Ended(step)) => {
                    under_way = None;
                    screen.line(&line(&step));
                }
                None => return screen.wipe(),
            },
            _ = beat.tick() => if let Some((stage, since)) = under_way {
                screen.moving(&format!("{:<10} {:.1} s", stage.name(), since.elapsed().as_secs_f32()));
            },
        }
    }
}

/// A step on a line, with its hints below.
fn line(step: &Step) -> String {
    let took = match step.took {
        took if took < Duration::from_micros(50) => String::new(),
        took => format!("  ({:.1} ms)", took.as_secs_f64() * 1e3),
    };
    let mut line = format!("{:<4}  {:<10}  {}{took}", step.verdict.name(), step.stage.name(), step.detail);
    for hint in &step.hints {
        line += &format!("\n                  {hint}");
    }
    line
}

/// What the server says that it can do; nothing if it does not say.
fn declared(server: &Server) -> String {
    let names: Vec<String> =
        server.capabilities.iter().take(SHOWN_CAPABILITIES).map(|name| text::json(name)).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("It declares {}.\n", names.join(", ").replace('"', "`")),
    }
}

fn conclusion(report: &Report) -> String {
    match report.failure() {
        None => format!(
            "\n{} can be served: {}\n{}Next: `portunus init` with the same URL writes a configuration for it.",
            report.url,
            report.summary(),
            declared(&report.server)
        ),
        Some(step) => {
            format!("\n{} cannot be served: the step `{}` failed, see above", report.url, step.stage.name())
        }
    }
}
