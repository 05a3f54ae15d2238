//! Every client before a server of each kind, and before one virtual server of all three.
//!
//! Every step has to pass, also where client and server share no era; what no gateway can make pass
//! stands in [`CANNOT`] with the rule.

use crate::harness::{Gateway, Runtime, Server};
use serde_json::Value;
use std::collections::BTreeSet;

/// All clients of `clients.py`.
const CLIENTS: [&str; 8] =
    ["py1", "py2-legacy", "py2-auto", "py2-modern", "ts1", "ts2-legacy", "ts2-auto", "ts2-modern"];

/// Where clients meet a server: alone behind a path, or as one of three behind one.
struct Place {
    name: &'static str,
    path: &'static str,
    member: &'static str,
    prefix: &'static str,
}

/// The first member of `/mcp` owns the bare names, the conflicting ones of the others have a prefix.
const PLACES: [Place; 6] = [
    Place { name: "legacy", path: "/legacy", member: "legacy", prefix: "" },
    Place { name: "modern", path: "/modern", member: "modern", prefix: "" },
    Place { name: "dual", path: "/dual", member: "dual", prefix: "" },
    Place { name: "all:legacy", path: "/mcp", member: "legacy", prefix: "" },
    Place { name: "all:modern", path: "/mcp", member: "modern", prefix: "modern_" },
    Place { name: "all:dual", path: "/mcp", member: "dual", prefix: "dual_" },
];

/// A step that no gateway can make pass.
struct Cannot {
    clients: &'static [&'static str],
    places: &'static [&'static str],
    step: &'static str,
    rule: &'static str,
}

const CANNOT: [Cannot; 2] = [
    Cannot {
        clients: &["py1"],
        places: &["legacy", "modern", "dual", "all:legacy", "all:modern", "all:dual"],
        step: "unknown-method",
        rule: "the client's SDK can send no such request",
    },
    Cannot {
        clients: &["py2-legacy", "ts1", "ts2-legacy"],
        places: &["legacy"],
        step: "unknown-method",
        rule: "JSON-RPC 2.0 §5.1 wants -32601, but the server says -32602, and what needs no translation \
               passes as it came",
    },
];

impl Cannot {
    fn covers(&self, client: &str, place: &Place, step: &str) -> bool {
        self.clients.contains(&client) && self.places.contains(&place.name) && self.step == step
    }
}

/// The servers, and the gateway before them.
struct World {
    _servers: Vec<Server>,
    gateway: Gateway,
}

/// The servers by the names of their members.
const SERVERS: [(&str, Runtime, &str); 3] = [
    ("legacy", Runtime::Python1, "upstream_legacy.py"),
    ("modern", Runtime::Node, "upstream_modern.mjs"),
    ("dual", Runtime::Python2, "upstream.py"),
];

impl World {
    /// A gateway before these servers, each behind a path of its own, and all behind `/mcp`.
    async fn start(programs: &[(&str, Runtime, &str)]) -> World {
        let (mut servers, mut upstreams, mut paths) = (Vec::new(), String::new(), String::new());
        for (name, runtime, program) in programs {
            let (name, runtime, program) = (*name, *runtime, *program);
            let server = Server::start_with(runtime, program, &["--scheme", name]).await;
            upstreams += &format!("  {name}: {}\n", server.url());
            paths += &format!("  /{name}: {name}\n");
            servers.push(server);
        }
        let document = format!(
            "level: info\nupstreams:\n{upstreams}servers:\n{paths}  /mcp: {{ upstreams: [{}] }}\n",
            programs.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
        );
        World { _servers: servers, gateway: Gateway::start(&document).await }
    }

    /// Runs clients at one place and gives what `clients.py` saw.
    async fn visit(&self, place: &Place, clients: &[&str]) -> Value {
        let url = format!("http://localhost:{}{}", self.gateway.address.port(), place.path);
        let report = self.gateway.folder().join(format!("clients-{}.json", place.name));
        let report = report.to_str().unwrap();
        let mut arguments = vec![url.as_str(), "--json", report];
        arguments.extend(["--scheme", place.member, "--prefix", place.prefix]);
        arguments.extend(clients.iter().flat_map(|client| ["--client", client]));
        let output = Runtime::Python2.attempt(&[], 1800, "clients.py", &arguments).await;
        println!("{}:\n{}", place.name, String::from_utf8_lossy(&output.stdout));
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = std::fs::read(report).unwrap_or_else(|_| panic!("clients.py left no report:\n{errors}"));
        std::fs::remove_file(report).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// What was seen at all places.
#[derive(Default)]
struct Sum {
    rows: Vec<String>,
    passed: usize,
    failures: Vec<String>,
    /// By rule: where it was needed.
    listed: BTreeSet<(&'static str, String)>,
}

impl Sum {
    fn add(&mut self, place: &Place, clients: &[&str], report: &Value) {
        let steps = report["steps"].as_array().unwrap();
        let mut row = format!("{:<12}", place.name);
        for client in clients {
            let before = self.passed;
            for step in steps.iter().map(|step| step.as_str().unwrap()) {
                self.judge(place, client, step, &report["through"][client][step]);
            }
            row += &format!("{:>12}", format!("{}/{}", self.passed - before, steps.len()));
        }
        self.rows.push(row);
    }

    fn judge(&mut self, place: &Place, client: &str, step: &str, told: &Value) {
        if told["ok"] == true {
            self.passed += 1;
        } else if let Some(cannot) =
            CANNOT.iter().find(|cannot| told.is_object() && cannot.covers(client, place, step))
        {
            self.listed.insert((cannot.rule, format!("{step} of {client} at {}", place.name)));
        } else {
            let note = told["note"].as_str().unwrap_or("did not run");
            self.failures.push(format!("{} {client} {step}: {note}", place.name));
        }
    }

    /// Prints the table and demands that nothing failed, and that `rules` were all needed.
    fn conclude(self, clients: &[&str], rules: usize) {
        let head: String = clients.iter().map(|client| format!("{client:>12}")).collect();
        println!("{:<12}{head}\n{}", "steps passed", self.rows.join("\n"));
        for (rule, what) in &self.listed {
            println!("cannot pass: {what} ({rule})");
        }
        let needed: BTreeSet<_> = self.listed.iter().map(|(rule, _)| rule).collect();
        println!("{} passed, {} failed, {} listed", self.passed, self.failures.len(), self.listed.len());
        assert!(self.failures.is_empty(), "failed:\n{}", self.failures.join("\n"));
        assert_eq!(needed.len(), rules, "a rule of the list was not needed: {needed:?}");
    }
}

/// Clients of each era at a server of the other.
pub(crate) async fn quick() {
    let world = World::start(&SERVERS[..2]).await;
    let (modern, legacy) = (["py2-modern", "ts2-auto"], ["py2-legacy", "ts1"]);
    let reports = tokio::join!(world.visit(&PLACES[0], &modern), world.visit(&PLACES[1], &legacy));
    for (place, clients, report) in [(&PLACES[0], modern, reports.0), (&PLACES[1], legacy, reports.1)] {
        let mut sum = Sum::default();
        sum.add(place, &clients, &report);
        sum.conclude(&clients, 0);
    }
}

/// The whole matrix.
pub(super) async fn run() {
    let world = World::start(&SERVERS).await;
    let mut sum = Sum::default();
    for place in &PLACES {
        let report = world.visit(place, &CLIENTS).await;
        sum.add(place, &CLIENTS, &report);
    }
    sum.conclude(&CLIENTS, CANNOT.len());
}
