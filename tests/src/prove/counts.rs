//! Who asks the servers for their lists, and how often: not the calls.

use super::load::assert_files;
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const CLIENTS: usize = 100;
const CALLS: usize = 10_000;
const STAMPEDE: usize = 1_000;
const TOOLS: usize = 50;

/// A server of each era behind one path.
struct World {
    servers: [(&'static str, Mcp); 2],
    gateway: Gateway,
}

impl World {
    async fn start() -> World {
        let names = |prefix: &str| (0..TOOLS).map(|number| format!("{prefix}_{number}")).collect::<Vec<_>>();
        let paged = |era| Nature { page: 20, ..Nature::of(era) };
        let servers = [
            ("legacy", Mcp::naming(paged(Era::Legacy), &names("legacy")).await),
            ("modern", Mcp::naming(paged(Era::Modern), &names("modern")).await),
        ];
        let upstreams: String =
            servers.iter().map(|(name, server)| format!("  {name}: {}\n", server.url())).collect();
        let document = format!(
            "level: info\nupstreams:\n{upstreams}servers:\n  /mcp: {{ upstreams: [legacy, modern] }}\n"
        );
        World { servers, gateway: Gateway::start(&document).await }
    }

    fn client(&self, number: usize) -> Caller {
        let era = if number.is_multiple_of(2) { Era::Legacy } else { Era::Modern };
        Caller::new(era, self.gateway.address)
    }

    fn counts(&self) -> Vec<(&'static str, BTreeMap<String, usize>)> {
        self.servers.iter().map(|(name, server)| (*name, server.counts())).collect()
    }

    /// Demands one walk over the pages of each list, and no more than `looks` greetings of a kind: a
    /// legacy client, and a modern one whose call may be asked something, has a session of its own.
    fn assert_lists(&self, looks: usize) {
        let pages = TOOLS.div_ceil(20);
        for (name, server) in &self.servers {
            assert_eq!(server.counted("tools/list"), pages, "lists of {name}: {:?}", server.counts());
            for method in ["server/discover", "initialize"] {
                let count = server.counted(method);
                assert!(count <= looks, "{count} times {method} at {name}: {:?}", server.counts());
            }
        }
    }
}

/// Calls of a hundred clients in turn to tools of both servers.
async fn calls() {
    let world = Arc::new(World::start().await);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let world = Arc::clone(&world);
        clients.spawn(async move {
            let mut caller = world.client(number).ready().await;
            let listed = caller.request("tools/list", json!({})).await.unwrap();
            let tools = listed.message["result"]["tools"].as_array().map_or(0, Vec::len);
            assert_eq!(tools, 2 * TOOLS, "{}", listed.all());
            for turn in 0..CALLS / CLIENTS {
                let name = format!("{}_{}", ["legacy", "modern"][turn % 2], (number + turn) % TOOLS);
                let said = caller.call(&name, json!({})).await.unwrap();
                assert_eq!(said.text(), name, "{}", said.all());
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!(
        "{CALLS} calls and a list each of {CLIENTS} clients in {:.1?}: {:?}",
        start.elapsed(),
        world.counts()
    );
    let called: usize = world.servers.iter().map(|(_, server)| server.counted("tools/call")).sum();
    assert_eq!(called, CALLS, "calls that came to the servers");
    world.assert_lists(CLIENTS + 2);
}

/// A thousand clients that all want the same list from a gateway that has none.
async fn stampede() {
    let world = Arc::new(World::start().await);
    let ready = Arc::new(Barrier::new(STAMPEDE));
    let mut clients = JoinSet::new();
    for number in 0..STAMPEDE {
        let (world, ready) = (Arc::clone(&world), Arc::clone(&ready));
        clients.spawn(async move {
            let mut caller = Caller::new(Era::Modern, world.gateway.address);
            ready.wait().await;
            let start = Instant::now();
            let (method, params) = match number % 4 {
                0 => ("server/discover", json!({})),
                _ => ("tools/list", json!({})),
            };
            let said = caller.request(method, params).await.unwrap();
            assert!(said.message["result"].is_object(), "{}", said.all());
            start.elapsed()
        });
    }
    let mut worst = std::time::Duration::ZERO;
    while let Some(took) = clients.join_next().await {
        worst = worst.max(took.unwrap());
    }
    println!("a stampede of {STAMPEDE}, the last served after {worst:.1?}: {:?}", world.counts());
    world.assert_lists(2);
}

pub(super) async fn run() {
    assert_files();
    calls().await;
    stampede().await;
}
