//! Two gateways that are one: same sealing key, peers of each other, behind one balancer.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{
    self, Balancer, Caller, Era, Gateway, Mcp, Nature, Runtime, Server, free_address, within,
};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// How long the SDK clients call.
const STEADY_S: &str = "15";

/// Two replicas and their servers.
pub(super) struct Pair {
    /// A scripted legacy server behind `/scripted`, with a modern one beside it.
    pub(super) vault: Mcp,
    _others: (Mcp, [Server; 3]),
    gateways: Vec<Gateway>,
    balancer: Balancer,
}

impl Pair {
    pub(super) async fn start() -> Pair {
        let tools = ["echo", "confide", "hang"].map(tool).to_vec();
        let vault = Mcp::start(Nature::of(Era::Legacy), tools, answer).await;
        let desk = Mcp::naming(Nature::of(Era::Modern), &["modern".to_owned()]).await;
        let servers = [
            Server::start_with(Runtime::Python1, "upstream_legacy.py", &["--scheme", "legacy"]).await,
            Server::start_with(Runtime::Node, "upstream_modern.mjs", &["--scheme", "modern"]).await,
            Server::start_with(Runtime::Python2, "upstream.py", &["--scheme", "dual"]).await,
        ];
        let names = ["legacy", "modern", "dual"];
        let mut upstreams = format!("  vault: {}\n  desk: {}\n", vault.url(), desk.url());
        upstreams
            .extend(names.iter().zip(&servers).map(|(name, server)| format!("  {name}: {}\n", server.url())));
        let homes = [("a", free_address()), ("b", free_address())];
        let members = homes.map(|(name, address)| format!("{name}: \"http://{address}\"")).join(", ");
        let mut gateways = Vec::new();
        for (name, address) in homes {
            let document = format!(
                "level: info\nlisten: 127.0.0.1:0\nreplica: {name}\nsealing: {{ keys: [\"env:SHOWN_SEAL\"] }}\n\
                 peers: {{ listen: \"{address}\", members: {{ {members} }} }}\nupstreams:\n{upstreams}servers:\n  \
                 /scripted: {{ upstreams: [vault, desk], replay: {{ events: 64 }} }}\n  \
                 /mcp: {{ upstreams: [legacy, modern, dual], replay: {{ events: 64 }} }}\n"
            );
            gateways.push(Gateway::start_as(&document, |_| sealed()).await);
        }
        let balancer = Balancer::before(gateways.iter().map(|gateway| gateway.address).collect()).await;
        Pair { vault, _others: (desk, servers), gateways, balancer }
    }

    /// A client of the scripted servers whose every request goes to the other replica.
    pub(super) fn caller(&self, era: Era) -> Caller {
        Caller::new(era, self.balancer.address).at("/scripted").fresh()
    }

    /// A path at the balancer.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.balancer.address.port())
    }

    /// Kills one replica as a machine dies.
    pub(super) fn kill_one(&mut self) {
        self.gateways[1].signal("KILL");
    }
}

fn sealed() -> std::process::Command {
    let mut command = harness::run();
    command.env("SHOWN_SEAL", "a key that only this show uses, and long enough");
    command
}

async fn answer(call: Call) -> harness::mcp::Reply {
    match call.tool() {
        "confide" => {
            let answer = call.elicit("Your name?").await;
            Ok(text(format!("kept {}", answer["result"]["content"]["name"].as_str().unwrap_or("nothing"))))
        }
        "hang" => {
            call.count("hangs");
            std::future::pending().await
        }
        name => Ok(text(name)),
    }
}

/// SDK clients that call all the time.
pub(super) struct Steady {
    clients: Vec<(String, Child, Lines<BufReader<ChildStdout>>)>,
}

impl Steady {
    /// Starts one of each SDK; all have had an answer.
    pub(super) async fn start(url: &str) -> Steady {
        let kinds = [
            (Runtime::Python1, "steady.py", "1", "legacy"),
            (Runtime::Python2, "steady.py", "2", "auto"),
            (Runtime::Node, "steady.mjs", "1", "legacy"),
            (Runtime::Node, "steady.mjs", "2", "auto"),
        ];
        let mut clients = Vec::new();
        for (runtime, program, generation, mode) in kinds {
            let mut command = runtime.command(program, &[generation, mode, url, STEADY_S]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let name = format!("{runtime:?} {program} {generation} {mode}");
            let first = within(30, &name, lines.next_line()).await.unwrap();
            assert_eq!(first.as_deref(), Some("ready"), "{name}");
            clients.push((name, child, lines));
        }
        Steady { clients }
    }

    /// Waits for their end and demands that each went on, with no call that waited longer.
    pub(super) async fn assert_carried_on(self, longest: Duration) {
        for (name, mut child, mut lines) in self.clients {
            let last = within(60, &name, lines.next_line()).await.unwrap().unwrap();
            println!("{name}: {last}");
            child.wait().await.unwrap();
            let told: Value = serde_json::from_str(&last).unwrap();
            let number = |key: &str| told[key].as_u64().unwrap();
            assert!(number("calls") >= 30, "{name} did not go on: {told}");
            assert!(
                number("failed") <= 3 && number("sessions") <= 3,
                "{name} did not carry on by itself: {told}"
            );
            assert!(u128::from(number("longest_ms")) <= longest.as_millis(), "{name} hung: {told}");
        }
    }
}
