//! Checks which text crosses the gateway without passing a filter.
//!
//! Servers and clients write a marker into many places. A filter that only the binary of these tests has changes each
//! marker that it sees: one that arrives unchanged went past it. `coverage.txt` says how each of them arrives today, by
//! place and by the setup between client and server:
//!
//! - `seen`: as the filter made it, wherever it arrived;
//! - `PAST`: unchanged, at least once;
//! - `gone`: not at all;
//! - `-`: never written in this setup.
//!
//! A setup is named by the eras of client and server; `!` has a policy, `+` another server beside it. The filter is on in
//! all of them, so none passes messages as they came.

mod client;
mod recorded_call;
mod server;

use crate::harness::mcp::tool;
use crate::harness::{Era, Gateway, Mcp, Nature, binary, marking_binary, run_binary};
use client::MarkingClient;
use server::MarkingServer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

/// Before each marker, as the filter knows it, and after the filter.
const BEFORE: &str = "rawMARKER-";
const AFTER: &str = "clrMARKER-";

/// A client, a server, and the endpoint between them.
#[derive(Clone, Copy)]
struct SetupSpec {
    name: &'static str,
    client: Era,
    server: Era,
    endpoint: EndpointKind,
}

/// Servers behind an endpoint, and its rules.
#[derive(Clone, Copy)]
enum EndpointKind {
    One,
    OneWithPolicy,
    Two,
}

const SETUPS: [SetupSpec; 10] = [
    SetupSpec { name: "mod-mod", client: Era::Modern, server: Era::Modern, endpoint: EndpointKind::One },
    SetupSpec { name: "leg-leg", client: Era::Legacy, server: Era::Legacy, endpoint: EndpointKind::One },
    SetupSpec { name: "mod-leg", client: Era::Modern, server: Era::Legacy, endpoint: EndpointKind::One },
    SetupSpec { name: "leg-mod", client: Era::Legacy, server: Era::Modern, endpoint: EndpointKind::One },
    SetupSpec {
        name: "mod-mod!",
        client: Era::Modern,
        server: Era::Modern,
        endpoint: EndpointKind::OneWithPolicy,
    },
    SetupSpec {
        name: "leg-leg!",
        client: Era::Legacy,
        server: Era::Legacy,
        endpoint: EndpointKind::OneWithPolicy,
    },
    SetupSpec { name: "mod-mod+", client: Era::Modern, server: Era::Modern, endpoint: EndpointKind::Two },
    SetupSpec { name: "leg-leg+", client: Era::Legacy, server: Era::Legacy, endpoint: EndpointKind::Two },
    SetupSpec { name: "mod-leg+", client: Era::Modern, server: Era::Legacy, endpoint: EndpointKind::Two },
    SetupSpec { name: "leg-mod+", client: Era::Legacy, server: Era::Modern, endpoint: EndpointKind::Two },
];

/// Places that a marker was written to.
#[derive(Default)]
struct Markers(Mutex<BTreeSet<String>>);

impl Markers {
    /// A marker for this place.
    fn write(&self, place: &str) -> String {
        self.0.lock().unwrap().insert(place.to_owned());
        format!("{BEFORE}{place}.")
    }

    /// The way in which each of them arrived in `text`.
    fn found_in(&self, text: &str) -> BTreeMap<String, &'static str> {
        let arrived = |place: &String| {
            let has = |prefix: &str| text.contains(&format!("{prefix}{place}."));
            match (has(BEFORE), has(AFTER)) {
                (true, _) => "PAST",
                (false, true) => "seen",
                (false, false) => "gone",
            }
        };
        self.0.lock().unwrap().iter().map(|place| (place.clone(), arrived(place))).collect()
    }
}

/// A gateway between a server that writes everywhere and a client that does.
struct Setup {
    server: MarkingServer,
    client: MarkingClient,
    _others: (Mcp, Gateway),
}

impl Setup {
    async fn start(spec: SetupSpec, binary: &Path) -> Setup {
        let server = MarkingServer::start(spec.server).await;
        let fails = |_| async { Err((-32603, "no").into()) };
        let other = Mcp::start(Nature::of(spec.server), vec![tool("other")], fails).await;
        let (endpoint, policy) = match spec.endpoint {
            EndpointKind::One => ("up", ""),
            EndpointKind::OneWithPolicy => ("up", "policy: policy.rego\n"),
            EndpointKind::Two => ("{ upstreams: [up, other], names: prefix }", ""),
        };
        let document = format!(
            "upstreams:\n  up: {}\n  other: {}\nservers:\n  /mcp: {endpoint}\n{policy}",
            server.url(),
            other.url()
        );
        let command = |folder: &Path| {
            std::fs::write(folder.join("policy.rego"), "package mcp.authz\n\ndecision := true\n").unwrap();
            run_binary(binary)
        };
        let gateway = Gateway::start_as(&document, command).await;
        let client = MarkingClient::new(gateway.address, "/mcp", spec.client);
        Setup { server, client, _others: (other, gateway) }
    }
}

/// The ways in which the markers of both sides arrive at the other.
async fn trace_markers(spec: SetupSpec) -> [BTreeMap<String, &'static str>; 2] {
    let mut setup = Setup::start(spec, &marking_binary()).await;
    setup.client.do_everything().await;
    let (client, server) = (setup.client, setup.server);
    [server.sent().found_in(&client.received), client.sent.found_in(&server.received().concat())]
}

#[tokio::test]
async fn text_places_arrive_as_listed() {
    let mut found: [BTreeMap<String, Vec<&str>>; 2] = Default::default();
    for (number, spec) in SETUPS.into_iter().enumerate() {
        for (rows, markers) in found.iter_mut().zip(trace_markers(spec).await) {
            for (place, arrived) in markers {
                rows.entry(place).or_insert_with(|| vec!["-"; SETUPS.len()])[number] = arrived;
            }
        }
    }
    let mut table = String::new();
    for (title, rows) in ["of servers, at clients", "of clients, at servers"].into_iter().zip(found) {
        table.push_str(&format!("{title:<24}"));
        table.extend(SETUPS.map(|setup| format!(" {:<8}", setup.name)));
        table.push('\n');
        for (place, row) in rows {
            table.push_str(&format!("{place:<24}"));
            table.extend(row.into_iter().map(|arrived| format!(" {arrived:<8}")));
            table.push('\n');
        }
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(table, include_str!("coverage.txt"), "coverage.txt has to say:\n{table}");
}

#[test]
fn marking_filter_is_absent_from_the_default_binary() {
    let has = |binary: std::path::PathBuf| {
        let bytes = std::fs::read(binary).unwrap();
        memchr::memmem::find(&bytes, BEFORE.as_bytes()).is_some()
    };
    assert!(has(marking_binary()), "the filter is in the binary of this test");
    assert!(!has(binary()));
}
