//! Runs the gateway under callgrind while a client makes calls.

use crate::callgrind::Profile;
use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

/// Rules that read arguments.
const RULES: &str = r#"package mcp.authz
import rego.v1
default decision := false
decision := true if {
    input.mcp.arguments.n < 10
    input.mcp.arguments.text != "no"
}
decision := true if input.mcp.kind != "tool"
visible := true
"#;

/// A client, a server and the rules between them.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    /// The era of the client.
    pub(super) client: Era,
    /// The era of the server.
    pub(super) server: Era,
    /// The endpoint gives the tools names of its own.
    pub(super) is_served: bool,
    /// A policy reads the arguments of each call.
    pub(super) is_judged: bool,
    /// Four limits count each call.
    pub(super) is_limited: bool,
}

const LIMITS: &str =
    "limits: {per_principal: 1000000/s, per_tool: 1000000/s, per_tenant: 1000000/s, concurrent: 1000}\n";

impl Setup {
    /// Makes so many calls, one after the other on one connection, and gives what the worker executed for them and for
    /// the start of the gateway.
    ///
    /// Other threads look at files and clean up by the clock, so they would count the time that a run takes.
    pub(super) async fn profile(self, binary: &Path, calls: u64, options: &[&str]) -> Profile {
        // The list stays fresh for longer than any run takes: no run fetches it again.
        let nature = Nature { ttl_ms: 24 * 3_600_000, ..Nature::of(self.server) };
        let server =
            Mcp::start(nature, vec![tool("echo")], |_: Call| async { Ok(text("x".repeat(200))) }).await;
        let document = self.document(&server);
        let mut gateway = Gateway::as_written_by(&document, |folder| {
            std::fs::write(folder.join("rules.rego"), RULES).unwrap();
            under_callgrind(binary, options, folder)
        })
        .await;
        let name = if self.is_served { "up_echo" } else { "echo" };
        let mut caller = Caller::new(self.client, gateway.address).ready().await;
        for number in 0..calls {
            let arguments = json!({"text": "a".repeat(60), "n": number % 10});
            let said = caller.call(name, arguments).await.expect("an answer");
            assert_eq!(said.text().len(), 200, "{}", said.all());
        }
        drop(caller);
        gateway.signal("TERM");
        let status = gateway.ended().await;
        assert!(status.success(), "{status}");
        busiest(gateway.folder())
    }

    fn document(self, server: &Mcp) -> String {
        let era = match self.server {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        };
        let endpoint = if self.is_served { "{ upstreams: [up], names: prefix }" } else { "up" };
        let policy = if self.is_judged { "policy: { path: rules.rego, time_limit: 10s }\n" } else { "" };
        let limits = if self.is_limited { LIMITS } else { "" };
        format!(
            "version: 1\nlisten: 127.0.0.1:0\ntelemetry: 127.0.0.1:0\nadmin: 127.0.0.1:0\nstate: state\n\
             threads: 1\naccess_log: off\n\
             upstreams:\n  up: {{ url: \"{}\", era: {era} }}\nservers:\n  /mcp: {endpoint}\n{policy}{limits}",
            server.url()
        )
    }
}

fn under_callgrind(binary: &Path, options: &[&str], folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes", "--demangle=no"]);
    command.arg(format!("--callgrind-out-file={}/profile", folder.display()));
    command.args(options).arg(binary).args(["run", "--config", "gateway.yaml"]);
    // The gateway would set this and take its own place by a process that is not under callgrind.
    command.env("MIMALLOC_PURGE_DELAY", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The profile of the thread that executed most, which with one worker is the one that calls run on.
fn busiest(folder: &Path) -> Profile {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let profiles = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("profile-"));
    let read = profiles.map(|path| std::fs::read_to_string(path).unwrap());
    let busiest = read.max_by_key(|text| Profile::instructions_in(text)).expect("callgrind writes profiles");
    Profile::read(&busiest)
}
