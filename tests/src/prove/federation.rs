//! Ten servers behind one URL, not all of them well: the list comes in time and says what is missing.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, free_address};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What the gateway waits for one list.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long the slow server takes.
const SLOW: Duration = Duration::from_secs(30);

/// What a list may take beside the deadline on a busy machine.
const ROOM: Duration = Duration::from_millis(1_500);

const CALLS: usize = 500;

/// The servers, and the names that a whole list has.
struct World {
    servers: Vec<(String, Mcp)>,
    dead: String,
    names: BTreeSet<String>,
}

impl World {
    async fn start() -> World {
        let mut world = World {
            servers: Vec::new(),
            dead: format!("http://{}/mcp", free_address()),
            names: BTreeSet::new(),
        };
        for number in 0..6 {
            let era = if number % 2 == 0 { Era::Legacy } else { Era::Modern };
            world.add(&format!("well{number}"), Nature::of(era), 100).await;
        }
        world.add("paged", Nature { page: 7, ..Nature::of(Era::Modern) }, 50).await;
        world.add_broken().await;
        let slow = Nature { delay: SLOW, ..Nature::of(Era::Legacy) };
        world.servers.push(("slow".to_owned(), Mcp::naming(slow, &["slow_0".to_owned()]).await));
        world
    }

    async fn add(&mut self, name: &str, nature: Nature, tools: usize) {
        let names: Vec<String> = (0..tools).map(|number| format!("{name}_{number}")).collect();
        self.servers.push((name.to_owned(), Mcp::naming(nature, &names).await));
        self.names.extend(names);
    }

    /// A server that has tools nobody can call besides one that is fine.
    async fn add_broken(&mut self) {
        let tools = vec![
            json!({"name": "broken_0"}),
            json!({"name": "broken_1", "inputSchema": "object"}),
            tool("broken_2"),
            json!({"name": 3, "inputSchema": {"type": "object"}}),
        ];
        let answer = |call: Call| async move { Ok(text(call.tool())) };
        self.servers.push(("broken".to_owned(), Mcp::start(Nature::of(Era::Modern), tools, answer).await));
        self.names.insert("broken_2".to_owned());
    }

    /// The slow and the dead one come first, so that nothing depends on who is asked first.
    fn document(&self) -> String {
        let mut urls: Vec<(&str, String)> =
            self.servers.iter().map(|(name, server)| (name.as_str(), server.url())).collect();
        urls.push(("dead", self.dead.clone()));
        urls.reverse();
        let upstreams: String = urls.iter().map(|(name, url)| format!("  {name}: {url}\n")).collect();
        let members: Vec<&str> = urls.iter().map(|(name, _)| *name).collect();
        format!(
            "level: info\nupstreams:\n{upstreams}servers:\n  /mcp: {{ upstreams: [{}], list_timeout: {}s }}\n  /one: well0\n",
            members.join(", "),
            DEADLINE.as_secs()
        )
    }
}

/// All pages of the list of tools.
struct Listed {
    names: BTreeSet<String>,
    incomplete: Value,
    took: Duration,
}

async fn list(caller: &mut Caller) -> Listed {
    let start = Instant::now();
    let mut listed = Listed { names: BTreeSet::new(), incomplete: Value::Null, took: Duration::ZERO };
    let mut params = json!({});
    loop {
        let said = caller.request("tools/list", params).await.unwrap();
        let result = &said.message["result"];
        let tools = result["tools"].as_array().unwrap_or_else(|| panic!("no list: {}", said.all()));
        for tool in tools {
            let fresh = listed.names.insert(tool["name"].as_str().unwrap().to_owned());
            assert!(fresh, "{tool} is listed twice");
        }
        listed.incomplete = result["_meta"]["io.portunus/incomplete"].clone();
        let Some(cursor) = result["nextCursor"].as_str() else { break };
        params = json!({"cursor": cursor});
    }
    listed.took = start.elapsed();
    listed
}

/// Demands that a list is whole for the healthy, in time, and names exactly the two others.
fn assert_honest(world: &World, listed: &Listed, what: &str) {
    let missing: Vec<_> = world.names.difference(&listed.names).take(5).collect();
    let surplus: Vec<_> = listed.names.difference(&world.names).take(5).collect();
    println!(
        "{what}: {} tools in {:.0?}, incomplete: {}",
        listed.names.len(),
        listed.took,
        listed.incomplete
    );
    assert!(missing.is_empty() && surplus.is_empty(), "{what}: missing {missing:?}, surplus {surplus:?}");
    let told = listed.incomplete.to_string();
    for (name, _) in &world.servers {
        assert_eq!(told.contains(&format!("\"{name}\"")), name == "slow", "{what} says {told} about {name}");
    }
    assert!(told.contains("\"dead\""), "{what} says {told}");
    assert!(listed.took < DEADLINE + ROOM, "{what} took {:?}", listed.took);
}

/// Median and worst of calls to one tool.
async fn calls(caller: &mut Caller, name: &str) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        let said = caller.call(name, json!({})).await.unwrap();
        assert_eq!(said.text(), name, "{}", said.all());
        took.push(start.elapsed());
    }
    took.sort();
    (took[CALLS / 2], took[CALLS - 1])
}

pub(super) async fn run() {
    let world = World::start().await;
    for era in [Era::Modern, Era::Legacy] {
        let gateway = Gateway::start(&world.document()).await;
        let start = Instant::now();
        let mut caller = Caller::new(era, gateway.address).ready().await;
        let cold = caller.call("well1_7", json!({})).await.unwrap();
        assert_eq!(cold.text(), "well1_7", "{}", cold.all());
        println!("{era:?}: the first call of all took {:.0?}", start.elapsed());
        // A session is founded on what all members say of themselves, and then a name on their lists.
        assert!(start.elapsed() < 2 * DEADLINE + ROOM, "{:?}", start.elapsed());
        assert_honest(&world, &list(&mut caller).await, "the first list");
        let again = list(&mut caller).await;
        assert_honest(&world, &again, "the second list");
        assert!(again.took < ROOM, "a list from the cache took {:?}", again.took);
        let start = Instant::now();
        let other = Caller::new(era, gateway.address).ready().await.call("well2_1", json!({})).await.unwrap();
        assert_eq!(other.text(), "well2_1", "{}", other.all());
        println!("{era:?}: the first call of another client took {:.0?}", start.elapsed());
        assert!(start.elapsed() < ROOM, "every client waits for who is slow: {:?}", start.elapsed());
        let (median, worst) = calls(&mut caller, "well0_3").await;
        let mut alone = Caller::new(era, gateway.address).at("/one").ready().await;
        let (median_alone, worst_alone) = calls(&mut alone, "well0_3").await;
        println!(
            "{era:?}: {CALLS} calls beside the slow and the dead: median {median:.1?}, worst {worst:.1?}; \
             to that server alone: {median_alone:.1?}, {worst_alone:.1?}"
        );
        assert!(worst < DEADLINE / 2, "a call to a healthy server waited {worst:?}");
        assert!(median < median_alone * 4 + Duration::from_millis(5), "calls are slowed");
        let status = gateway.status().await.to_string();
        for told in ["dead", "slow", "broken_0", "broken_1"] {
            assert!(status.contains(told), "/status does not tell of {told}: {status}");
        }
    }
    let lists: Vec<_> =
        world.servers.iter().map(|(name, server)| (name.as_str(), server.counted("tools/list"))).collect();
    println!("lists asked for by two gateways: {lists:?}");
}
