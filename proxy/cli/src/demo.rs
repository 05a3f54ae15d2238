//! `portunus demo`: a gateway with demo servers behind it, and what to try on it.

use clap::Args;
use portunus::clock::SystemClock;
use portunus::handover::take::Inheritance;
use portunus::listeners::{SocketService, listen};
use portunus::run::{Addresses, Origin, Process};
use portunus_config::{ProcessEnvironment, load_text};
use portunus_demo::Demo;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the demo listens.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Address for MCP clients; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address for metrics; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:9900", value_name = "ADDRESS")]
    telemetry: SocketAddr,
    /// Address for status; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Where the access log goes: `off`, `stdout` or a file.
    #[arg(long, default_value = "off", value_name = "WHERE")]
    access_log: String,
}

/// The demo as a process that is about to start.
///
/// # Errors
/// If an address or the state folder cannot be had; in words for the terminal.
pub(crate) fn process(arguments: &DemoArguments) -> Result<Process, String> {
    let free = |address: SocketAddr| -> SocketAddr {
        if listen(address).is_ok() { address } else { SocketAddr::new(address.ip(), 0) }
    };
    let servers = listen(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(|error| error.to_string())?;
    let state = std::env::temp_dir().join(format!("portunus-demo-{}", std::process::id()));
    let text = document(arguments, &free, servers.address.port(), &state);
    let loaded =
        load_text(&text, Path::new("demo.yaml"), &ProcessEnvironment).map_err(|report| report.to_string())?;
    let service =
        SocketService::new("demo", Demo::new(), &[&servers], Some(1)).map_err(|error| error.to_string())?;
    let ready = Box::new(print);
    let origin = Origin::Start(Inheritance::default());
    Ok(Process {
        loaded,
        watched: None,
        origin,
        clock: Arc::new(SystemClock::new()),
        extra: vec![Box::new(service)],
        scratch: Some(state),
        ready,
    })
}

fn document(
    arguments: &DemoArguments,
    free: &dyn Fn(SocketAddr) -> SocketAddr,
    port: u16,
    state: &PathBuf,
) -> String {
    format!(
        "version: 1\nlisten: {listen}\ntelemetry: {telemetry}\nadmin: {admin}\nstate: {state:?}\naccess_log: {log:?}\n\
         log: {{ level: warn }}\n\
         upstreams:\n  dual: http://127.0.0.1:{port}/dual/mcp\n  legacy: http://127.0.0.1:{port}/legacy/mcp\n  \
         modern: http://127.0.0.1:{port}/modern/mcp\n\
         servers:\n  /mcp: dual\n  /legacy/mcp: legacy\n  /modern/mcp: modern\n",
        listen = free(arguments.listen),
        telemetry = free(arguments.telemetry),
        admin = free(arguments.admin),
        log = arguments.access_log,
    )
}

/// Says what runs and what to try.
#[expect(clippy::print_stdout, reason = "the demo talks to the person who started it")]
fn print(addresses: &Addresses) {
    let Some(listen) = addresses.listeners.first() else { return };
    let url = format!("http://{listen}");
    println!("{}", TEXT.replace("{url}", &url));
    for (name, path, address) in
        [("metrics", "/metrics", addresses.telemetry), ("status", "/status", addresses.admin)]
    {
        if let Some(address) = address {
            println!("{name:<9}http://{address}{path}");
        }
    }
    println!(
        "control  {} (curl --unix-socket … -X POST http://x/drain)\n\nCtrl-C ends it.",
        addresses.control.display()
    );
}

const TEXT: &str = r#"Portunus is running with demo MCP servers behind it:

  {url}/mcp          both eras
  {url}/legacy/mcp   2025-11-25 and before (initialize, sessions)
  {url}/modern/mcp   2026-07-28 (stateless)

Try it, modern:

  curl -s {url}/mcp -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
    -H 'mcp-protocol-version: 2026-07-28' -H 'mcp-method: tools/call' -H 'mcp-name: echo' \
    -d '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"curl","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}'

Try it, legacy:

  curl -si {url}/mcp -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
    -d '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'

A call that is refused (400, -32020), because its header names another tool than its body:

  curl -s {url}/mcp -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
    -H 'mcp-protocol-version: 2026-07-28' -H 'mcp-method: tools/call' -H 'mcp-name: add' \
    -d '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}'

Connect a client:

  Claude Code         claude mcp add --transport http portunus {url}/mcp
  VS Code             .vscode/mcp.json       {"servers": {"portunus": {"type": "http", "url": "{url}/mcp"}}}
  Cursor              ~/.cursor/mcp.json     {"mcpServers": {"portunus": {"url": "{url}/mcp"}}}
"#;
