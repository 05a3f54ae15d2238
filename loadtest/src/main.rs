//! The binary `portunus-load`: MCP calls at a fixed rate, and what they cost those who serve them.
//!
//! Open loop: each call has an intended start, and its latency counts from there, so a server that
//! stalls cannot hide it by slowing the generator down. Every call carries a nonce that its answer
//! must bring back. The generator shares no code with the proxy, so that a mistake in one cannot
//! hide a mistake in the other; and it is one thread around one `epoll`, so that it stays far
//! cheaper than what it measures.

mod calls;
mod drive;
mod hold;
mod lane;
mod poll;
mod process;
mod report;
mod target;
mod upstream;
mod window;
mod wire;

use calls::{Calls, Era};
use clap::{Args, Parser, Subcommand};
use process::Watched;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use target::Target;
use window::{Pace, Window};

/// Load for MCP endpoints of this machine.
#[derive(Debug, Parser)]
#[command(name = "portunus-load", version, about)]
struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Call a tool at a fixed rate and report latencies, errors, and what the calls cost.
    ///
    /// The exit code is 1 if one answer was missing, wrong, or another call's.
    Run(Run),
    /// Hold idle connections that each made one call, until standard input ends.
    Hold {
        #[command(flatten)]
        what: What,
        /// Connections to hold.
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
    },
    /// Serve a tool that echoes its argument `text`, as cheaply as can be.
    Upstream {
        /// Address to listen on; with port 0 the system picks one, which is printed.
        #[arg(long, default_value = "127.0.0.1:0")]
        bind: SocketAddr,
    },
}

/// What is called.
#[derive(Debug, Args)]
struct What {
    /// Endpoint on this machine, such as http://127.0.0.1:8080/mcp.
    url: String,
    /// Tool to call: it has one string argument `text` and answers with it.
    #[arg(long, default_value = "echo")]
    tool: String,
    /// Bytes of a call's JSON.
    #[arg(long, default_value_t = 400)]
    size: usize,
    /// Form of the calls: `modern` (2026-07-28), or `legacy` (2025-11-25, in one session).
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    era: Era,
    /// Header field of every call, such as `Authorization: Bearer TOKEN`.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<String>,
    /// Seconds to wait for the endpoint to listen.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    wait: f64,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    what: What,
    /// Calls a second, whatever the answers take.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Instead of a rate: each connection calls again when its answer is there.
    #[arg(long, conflicts_with = "rate")]
    closed: bool,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds of the same load before, which are not measured.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warm_up: f64,
    /// Connections that share the calls, in turn.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Process whose CPU time a call and memory are reported, with its children: PID or NAME=PID.
    #[arg(long = "pid", value_name = "[NAME=]PID", value_parser = Watched::parse)]
    pids: Vec<Watched>,
    /// Report as one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().order {
        Order::Run(order) => run(&order),
        Order::Hold { what, connections } => calls(&what).and_then(|calls| hold::run(&calls, connections)),
        Order::Upstream { bind } => upstream::run(bind),
    };
    result.unwrap_or_else(|problem| report::fail(&problem))
}

fn run(order: &Run) -> Result<ExitCode, String> {
    let calls = calls(&order.what)?;
    let pace = if order.closed { Pace::Closed } else { Pace::Open { rate: order.rate } };
    let window = Window {
        warm_up: Duration::from_secs_f64(order.warm_up),
        length: Duration::from_secs_f64(order.seconds),
    };
    let report = drive::run(&calls, pace, window, (order.connections, &order.pids))?;
    Ok(report.print(order.json))
}

fn calls(what: &What) -> Result<Calls, String> {
    let target = Target::parse(&what.url)?;
    target.wait(Duration::from_secs_f64(what.wait))?;
    Calls::new(target, what.era, &what.headers.concat(), (&what.tool, what.size))
}

/// A header field with its line end.
fn field(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((name, _)) if !name.is_empty() && !text.contains(['\r', '\n']) => Ok(format!("{text}\r\n")),
        _ => Err("wants NAME: VALUE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("wants seconds from 0 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let line = |words: &str| Arguments::try_parse_from(words.split(' ')).is_ok();
        assert!(line("load run http://127.0.0.1:1/mcp --rate 5 --pid a=1 --pid 2"));
        assert!(line("load run http://127.0.0.1:1/mcp --closed --era legacy --seconds 0.5"));
        assert!(!line("load run http://127.0.0.1:1/mcp --closed --rate 5"));
        assert!(line("load run http://127.0.0.1:1/mcp --header a:b --header c:d"));
        assert!(!line("load run http://127.0.0.1:1/mcp --header a"));
        assert!(!line("load run http://127.0.0.1:1/mcp --rate 0"));
        assert!(!line("load run http://127.0.0.1:1/mcp --seconds -1"));
    }
}
