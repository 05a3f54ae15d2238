//! Records tell in each mode how long an upstream took, and of 10,000 calls there is one record each, whichever replica
//! served them.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, within};
use crate::peers::Pair;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long the slow server takes for a call.
const DELAY: Duration = Duration::from_millis(40);
/// Calls in each mode, of which the median counts.
const ROUNDS: usize = 21;
/// How far a time may be from that of the server, in milliseconds.
const TOLERANCE: f64 = 5.0;

const CALLERS: usize = 20;
const CALLS: usize = 500;

pub(super) async fn run() {
    for nature in [Era::Modern, Era::Legacy] {
        for era in [Era::Modern, Era::Legacy] {
            times(nature, era).await;
        }
    }
    one_each().await;
}

/// A server that takes its time, and says how long that was.
async fn slow(era: Era, took: &Arc<Mutex<Duration>>) -> Mcp {
    let took = Arc::clone(took);
    Mcp::start(Nature::of(era), vec![tool("slow")], move |_: Call| {
        let took = Arc::clone(&took);
        async move {
            let began = Instant::now();
            tokio::time::sleep(DELAY).await;
            *took.lock().unwrap() = began.elapsed();
            Ok(text("done"))
        }
    })
    .await
}

/// Sums of all stages so far, in milliseconds.
async fn stages(gateway: &Gateway) -> HashMap<&'static str, f64> {
    let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
    let sum_of = |stage| {
        let name = format!("mcp_stage_duration_seconds_sum{{stage=\"{stage}\"}} ");
        let sum = text.lines().find_map(|line| line.strip_prefix(&*name)?.parse::<f64>().ok());
        (stage, sum.unwrap_or_default() * 1e3)
    };
    ["resolve", "intake", "authorize", "filters", "forward", "respond"].map(sum_of).into()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Compares what a server took with what is told of it, where messages pass and where they are served.
async fn times(nature: Era, era: Era) {
    let took = Arc::<Mutex<Duration>>::default();
    let server = slow(nature, &took).await;
    let other = Mcp::naming(Nature::of(nature), &["quick".to_owned()]).await;
    let document = format!(
        "level: info\nupstreams:\n  up: {}\n  other: {}\nservers:\n  /passed: up\n  \
         /served: {{ upstreams: [up], names: prefix }}\n  /merged: {{ upstreams: [up, other], names: prefix }}\n",
        server.url(),
        other.url()
    );
    let gateway = Gateway::start(&document).await;
    for (path, name) in [("/passed", "slow"), ("/served", "up_slow"), ("/merged", "up_slow")] {
        let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
        assert_eq!(caller.call(name, json!({})).await.unwrap().text(), "done", "a call that founds sessions");
        let [mut waited, mut forwarded, mut all] = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let before = stages(&gateway).await;
            let said = caller.call(name, json!({})).await.unwrap();
            assert_eq!(said.text(), "done");
            let id = said.head.header("portunus-request-id").unwrap().to_owned();
            let record = gateway.recorded("the record", |record| record["request_id"] == *id).await;
            let after = stages(&gateway).await;
            let server_ms = took.lock().unwrap().as_secs_f64() * 1e3;
            let spent = |stage: &str| after[stage] - before[stage];
            waited.push(record["upstream_ms"].as_f64().unwrap() - server_ms);
            forwarded.push(spent("forward") - server_ms);
            // Authorization is a part of the filters.
            let sum: f64 =
                after.keys().filter(|stage| **stage != "authorize").map(|stage| spent(stage)).sum();
            all.push(sum - server_ms);
            let (waited_ms, lasted_ms) = (record["upstream_ms"].as_f64(), record["duration_ms"].as_f64());
            assert!(waited_ms <= lasted_ms, "{record}");
        }
        let [waited, forwarded, all] = [waited, forwarded, all].map(median);
        println!(
            "{era:?} at {nature:?}, {path}: beyond the server's {DELAY:?} upstream_ms has {waited:.2} ms, the stage of \
             forwarding {forwarded:.2} ms, and all stages {all:.2} ms"
        );
        for (what, beyond) in [("upstream_ms", waited), ("forward", forwarded), ("all stages", all)] {
            assert!(beyond.abs() <= TOLERANCE, "{era:?} at {nature:?}, {path}, {what}: {beyond:.2} ms");
        }
    }
}

/// Calls as often as it is to, every tenth time what nobody has; ids of the requests.
async fn work(mut caller: Caller) -> Vec<String> {
    let mut ids = Vec::new();
    for round in 0..CALLS {
        let (name, expected) = match round % 10 {
            9 => ("nothing", None),
            5 => ("broken", Some(-32000)),
            _ => ("quick", None),
        };
        let said = caller.call(name, json!({"round": round})).await.unwrap();
        match name {
            "quick" => assert_eq!(said.text(), "done", "{}", said.all()),
            "broken" => assert_eq!(said.code(), expected, "{}", said.all()),
            _ => assert_eq!(said.code(), Some(-32602), "{}", said.all()),
        }
        ids.push(said.head.header("portunus-request-id").unwrap().to_owned());
    }
    ids
}

/// Has two replicas serve calls, half of which the other one relays; each call has one record.
async fn one_each() {
    let quick = |name| {
        Mcp::start(Nature::of(Era::Legacy), vec![tool(name), tool("broken")], |call: Call| async move {
            if call.tool() == "broken" { Err((-32000, "broken").into()) } else { Ok(text("done")) }
        })
    };
    let (one, two) =
        (quick("quick").await, Mcp::naming(Nature::of(Era::Modern), &["other".to_owned()]).await);
    let pair = Pair::telling("", &[("one", &one), ("two", &two)], "").await;
    let start = Instant::now();
    let mut working = JoinSet::new();
    for number in 0..CALLERS {
        let era = if number % 4 == 3 { Era::Modern } else { Era::Legacy };
        working.spawn(work(pair.caller(era).ready().await));
    }
    let ids: Vec<String> = working.join_all().await.into_iter().flatten().collect();
    let took = start.elapsed();
    for gateway in [&pair.a, &pair.b] {
        gateway.post("/mcp", &[], "{").await;
        let last = async {
            // Records are written in their order.
            while !gateway.records().iter().any(|record| record["reason"] == "parse_error") {
                tokio::task::yield_now().await;
            }
        };
        within(60, "what comes last", last).await;
        assert_eq!(gateway.metric("portunus_records_dropped_total").await.unwrap_or_default(), 0.0);
    }
    let called = |record: &Value| record["action"] == "tools/call";
    let [at_a, at_b] = [&pair.a, &pair.b].map(|gateway| {
        let records = gateway.records().into_iter().filter(called);
        records.map(|record| record["request_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    println!(
        "{} calls in {took:.1?}: {} records of replica a, {} of replica b, {} of their servers' answers",
        ids.len(),
        at_a.len(),
        at_b.len(),
        one.counted("tools/call")
    );
    let distinct: HashSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (CALLERS * CALLS, CALLERS * CALLS));
    let recorded: HashSet<&String> = at_a.iter().chain(&at_b).collect();
    assert_eq!(recorded.len(), at_a.len() + at_b.len(), "a call has two records");
    assert_eq!(recorded, distinct, "a record is missing, or is of no call");
}
