//! Which text of servers reaches clients, and of clients servers, without having been seen by a filter.
//!
//! Servers and clients write a token into every place that they can write. A filter that only the binary of this test
//! has changes each token that it sees: one that arrives unchanged went past it. `places.txt` says how each token
//! arrives today, by place and by the way between client and server:
//!
//! - `seen`: as the filter made it;
//! - `PAST`: unchanged;
//! - `gone`: not at all;
//! - `-`: never written on this way.
//!
//! A way is named by the eras of client and server; `!` has a policy, `+` another server beside it.

mod client;
mod server;
mod wire;

use crate::harness::mcp::tool;
use crate::harness::{Era, Gateway, Mcp, Nature, binary, canary_binary, run_binary};
use client::Curious;
use server::Talkative;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

/// Before each token; the filter knows it.
const UNSEEN: &str = "rawCANARY-";
const SEEN: &str = "clrCANARY-";

/// A way between a client and a server.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    client: Era,
    server: Era,
    endpoint: Endpoint,
}

/// What an endpoint has.
#[derive(Clone, Copy)]
enum Endpoint {
    One,
    OneWithPolicy,
    Two,
}

const WAYS: [Plan; 10] = [
    Plan { name: "new-new", client: Era::Modern, server: Era::Modern, endpoint: Endpoint::One },
    Plan { name: "old-old", client: Era::Legacy, server: Era::Legacy, endpoint: Endpoint::One },
    Plan { name: "new-old", client: Era::Modern, server: Era::Legacy, endpoint: Endpoint::One },
    Plan { name: "old-new", client: Era::Legacy, server: Era::Modern, endpoint: Endpoint::One },
    Plan { name: "new-new!", client: Era::Modern, server: Era::Modern, endpoint: Endpoint::OneWithPolicy },
    Plan { name: "old-old!", client: Era::Legacy, server: Era::Legacy, endpoint: Endpoint::OneWithPolicy },
    Plan { name: "new-new+", client: Era::Modern, server: Era::Modern, endpoint: Endpoint::Two },
    Plan { name: "old-old+", client: Era::Legacy, server: Era::Legacy, endpoint: Endpoint::Two },
    Plan { name: "new-old+", client: Era::Modern, server: Era::Legacy, endpoint: Endpoint::Two },
    Plan { name: "old-new+", client: Era::Legacy, server: Era::Modern, endpoint: Endpoint::Two },
];

/// Places that a token was written to.
#[derive(Default)]
struct Tokens(Mutex<BTreeSet<String>>);

impl Tokens {
    /// A token for this place.
    fn write(&self, place: &str) -> String {
        self.0.lock().unwrap().insert(place.to_owned());
        format!("{UNSEEN}{place}.")
    }

    /// How each of them arrived in `text`.
    fn found_in(&self, text: &str) -> BTreeMap<String, &'static str> {
        let arrived = |place: &String| {
            let has = |prefix: &str| text.contains(&format!("{prefix}{place}."));
            match (has(UNSEEN), has(SEEN)) {
                (true, _) => "PAST",
                (false, true) => "seen",
                (false, false) => "gone",
            }
        };
        self.0.lock().unwrap().iter().map(|place| (place.clone(), arrived(place))).collect()
    }
}

/// A gateway between a server that writes everywhere and a client that does.
struct Way {
    talkative: Talkative,
    curious: Curious,
    _others: (Mcp, Gateway),
}

impl Way {
    async fn start(plan: Plan, binary: &Path) -> Way {
        let talkative = Talkative::start(plan.server).await;
        let fails = |_| async { Err((-32603, "no")) };
        let other = Mcp::start(Nature::of(plan.server), vec![tool("other")], fails).await;
        let (endpoint, policy) = match plan.endpoint {
            Endpoint::One => ("up", ""),
            Endpoint::OneWithPolicy => ("up", "policy: policy.rego\n"),
            Endpoint::Two => ("{ upstreams: [up, other], names: prefix }", ""),
        };
        let document = format!(
            "upstreams:\n  up: {}\n  other: {}\nservers:\n  /mcp: {endpoint}\n{policy}",
            talkative.url(),
            other.url()
        );
        let command = |folder: &Path| {
            std::fs::write(folder.join("policy.rego"), "package mcp.authz\n\ndecision := true\n").unwrap();
            run_binary(binary)
        };
        let gateway = Gateway::start_as(&document, command).await;
        let curious = Curious::new(gateway.address, "/mcp", plan.client);
        Way { talkative, curious, _others: (other, gateway) }
    }
}

/// How the tokens of both sides arrive at the other.
async fn travelled(plan: Plan) -> [BTreeMap<String, &'static str>; 2] {
    let mut way = Way::start(plan, &canary_binary()).await;
    way.curious.do_everything().await;
    let (curious, talkative) = (way.curious, way.talkative);
    [talkative.sent().found_in(&curious.received), curious.sent.found_in(&talkative.received().concat())]
}

#[tokio::test]
async fn every_place_of_text_is_as_known() {
    let mut found: [BTreeMap<String, Vec<&str>>; 2] = Default::default();
    for (number, plan) in WAYS.into_iter().enumerate() {
        for (rows, tokens) in found.iter_mut().zip(travelled(plan).await) {
            for (place, arrived) in tokens {
                rows.entry(place).or_insert_with(|| vec!["-"; WAYS.len()])[number] = arrived;
            }
        }
    }
    let mut table = String::new();
    for (title, rows) in ["of servers, at clients", "of clients, at servers"].into_iter().zip(found) {
        table.push_str(&format!("{title:<24}"));
        table.extend(WAYS.map(|way| format!(" {:<8}", way.name)));
        table.push('\n');
        for (place, row) in rows {
            table.push_str(&format!("{place:<24}"));
            table.extend(row.into_iter().map(|arrived| format!(" {arrived:<8}")));
            table.push('\n');
        }
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(table, include_str!("places.txt"), "places.txt has to say:\n{table}");
}

#[test]
fn the_filter_is_in_no_other_binary() {
    let has = |binary: std::path::PathBuf| {
        let bytes = std::fs::read(binary).unwrap();
        bytes.windows(UNSEEN.len()).any(|part| part == UNSEEN.as_bytes())
    };
    assert!(has(canary_binary()), "the filter is in the binary of this test");
    assert!(!has(binary()));
}
