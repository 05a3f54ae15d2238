//! Records and stages: how long an upstream was waited for, and one record for each call.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, within};
use crate::peers::Pair;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A server with two tools that answer when the test lets them: one is silent before, one begins its answer.
struct Slow {
    server: Mcp,
    held: Arc<Held>,
}

struct Held {
    arrived: Semaphore,
    released: Semaphore,
    took: Mutex<Duration>,
}

impl Slow {
    async fn start(era: Era) -> Slow {
        let held = Arc::new(Held {
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
            took: Mutex::default(),
        });
        let own = Arc::clone(&held);
        let tools = vec![tool("silent"), tool("begins"), tool("quick")];
        let server = Mcp::start(Nature::of(era), tools, move |call: Call| {
            let held = Arc::clone(&own);
            async move {
                let began = Instant::now();
                match call.tool() {
                    "quick" => return Ok(text("done")),
                    "begins" => call.progress(1).await,
                    _ => {}
                }
                held.arrived.add_permits(1);
                held.released.acquire().await.unwrap().forget();
                *held.took.lock().unwrap() = began.elapsed();
                Ok(text("done"))
            }
        })
        .await;
        Slow { server, held }
    }

    /// Calls a slow tool, and others until it is released; gives how long it took at the server.
    async fn call(&self, caller: &mut Caller, tool: &str, other: &mut Caller, quick: &str) -> Duration {
        let slow = async { caller.call(tool, json!({})).await.unwrap().text().to_owned() };
        let meanwhile = async {
            self.held.arrived.acquire().await.unwrap().forget();
            for _ in 0..20 {
                other.call(quick, json!({})).await.unwrap();
            }
            self.held.released.add_permits(1);
        };
        let (said, ()) = within(10, "the slow call", async { tokio::join!(slow, meanwhile) }).await;
        assert_eq!(said, "done");
        *self.held.took.lock().unwrap()
    }
}

/// Sums of all stages, in milliseconds.
async fn stages(gateway: &Gateway) -> HashMap<&'static str, f64> {
    let mut sums = HashMap::new();
    for stage in ["intake", "resolve", "filters", "forward", "respond"] {
        let name = format!("mcp_stage_duration_seconds_sum{{stage=\"{stage}\"}}");
        sums.insert(stage, gateway.metric(&name).await.unwrap_or_default() * 1e3);
    }
    sums
}

#[tokio::test]
async fn upstream_time_is_what_its_server_took_in_each_mode() {
    for (nature, era) in
        [Era::Modern, Era::Legacy].into_iter().flat_map(|one| [(one, Era::Modern), (one, Era::Legacy)])
    {
        let slow = Slow::start(nature).await;
        let document = format!(
            "upstreams:\n  up: {}\nservers:\n  /one: up\n  /merged: {{ upstreams: [up], names: prefix }}\n",
            slow.server.url()
        );
        for (path, prefix) in [("/one", ""), ("/merged", "up_")] {
            for tool in ["silent", "begins"] {
                let what = format!("{era:?} at {nature:?}, {path}, {tool}");
                let gateway = Gateway::start(&document).await;
                let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
                let mut other = Caller::new(era, gateway.address).at(path).ready().await;
                let (name, quick) = (format!("{prefix}{tool}"), format!("{prefix}quick"));
                let took = slow.call(&mut caller, &name, &mut other, &quick).await.as_secs_f64() * 1e3;
                let record = gateway.recorded(&what, |record| record["resource"] == *name).await;
                let ms = |name: &str| record[name].as_f64().unwrap_or_default();
                let (waited, lasted) = (ms("upstream_ms"), ms("duration_ms"));
                // While the gateway writes what came first, it does not wait.
                let least = if tool == "silent" { took } else { took / 2.0 };
                assert!(least <= waited && waited <= lasted, "{what}: {least} <= {waited} <= {lasted}");
                let sums = stages(&gateway).await;
                let all: f64 = sums.values().sum();
                let whole: f64 =
                    gateway.records().iter().filter_map(|record| record["duration_ms"].as_f64()).sum();
                assert!(all <= whole, "{what}: {sums:?} of {whole}");
                if tool == "silent" {
                    assert!(took <= sums["forward"], "{what}: {took} of {sums:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn relayed_call_has_one_record_and_its_owner_writes_it() {
    let quick = |name| Mcp::start(Nature::of(Era::Legacy), vec![tool(name)], |_| async { Ok(text("done")) });
    let (one, two) = (quick("quick").await, quick("other").await);
    let pair = Pair::telling("", &[("one", &one), ("two", &two)], "").await;
    let mut caller = pair.caller(Era::Legacy).ready().await;
    for _ in 0..10 {
        assert_eq!(caller.call("quick", json!({})).await.unwrap().text(), "done");
    }
    for gateway in [&pair.a, &pair.b] {
        gateway.post("/mcp", &[], "{").await;
        gateway.recorded("what comes last", |record| record["reason"] == "parse_error").await;
    }
    let called = |record: &Value| record["action"] == "tools/call";
    let counts = [&pair.a, &pair.b].map(|gateway| gateway.records().into_iter().filter(called).count());
    // Every second connection goes to the replica that does not keep the session.
    assert!(counts == [10, 0] || counts == [0, 10], "{counts:?}");
    let owner = if counts[0] == 10 { &pair.a } else { &pair.b };
    let status = r#"mcp_requests_total{server_name="mcp",status="ok",tool_name="quick"}"#;
    assert_eq!(owner.metric(status).await, Some(10.0));
}
