//! 150 swaps in 30 seconds under load, with 1,000 streams open.

use super::load::{Followers, Load, Tally, assert_files};
use crate::harness::{Feed, Gateway, rpc, within};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const STREAMS: u32 = 1_000;
const CALLERS: usize = 32;
const SWAPS: u32 = 150;
const PERIOD: Duration = Duration::from_millis(200);

/// The document of one revision: its label goes to the upstream as a header too, so that each answer
/// names the revision that forwarded its call.
fn document(feed: &Feed, number: u32, paths: &[&str]) -> String {
    let servers: String = paths.iter().map(|path| format!("  {path}: up\n")).collect();
    format!(
        "level: info\nrevision: r-{number}\nupstreams:\n  up:\n    url: http://{}/mcp\n    \
         pool: {{ max_connections: 4096 }}\n    headers: {{ set: {{ X-Rev: r-{number} }} }}\nservers:\n{servers}",
        feed.address()
    )
}

/// Samples how many snapshots are alive until told to stop; how often which number was seen.
async fn sample(gateway: Arc<Gateway>, stop: watch::Receiver<bool>) -> BTreeMap<u64, usize> {
    let mut seen = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while !*stop.borrow() {
        tick.tick().await;
        let alive = gateway.metric("portunus_snapshots_alive").await.unwrap();
        *seen.entry(format!("{alive}").parse().unwrap()).or_default() += 1;
    }
    seen
}

pub(super) async fn run() {
    assert_files();
    let feed = Feed::answering().await;
    let both = ["/mcp", "/gone"];
    let gateway = Arc::new(Gateway::start(&document(&feed, 0, &both)).await);
    let start = Instant::now();
    let mut followers = Followers::open(&gateway, &both, STREAMS).await;
    let all = followers.streams.len();
    followers.hear(&feed, all).await;
    println!("{all} streams opened in {:.1?}", start.elapsed());

    let stop = watch::Sender::new(false);
    let sampler = tokio::spawn(sample(Arc::clone(&gateway), stop.subscribe()));
    let load = Load::start(&gateway, CALLERS);
    let start = Instant::now();
    let mut tick = tokio::time::interval(PERIOD);
    tick.tick().await;
    for number in 1..=SWAPS {
        gateway.configure(&document(&feed, number, &both));
        if number % 5 == 0 {
            followers.hear(&feed, all).await;
        }
        tick.tick().await;
    }
    let took = start.elapsed();
    let tally = load.stop().await;
    stop.send_replace(true);
    let alive = sampler.await.unwrap();

    let status = settled(&gateway).await;
    let calls = tally.answers.len();
    let rate = calls as f64 / took.as_secs_f64();
    println!(
        "{calls} calls in {took:.1?} ({rate:.0} a second) on {CALLERS} connections; {} failed",
        tally.unanswered.len() + tally.wrong.len()
    );
    println!("{SWAPS} documents written, {} of them activated", status["serial"].as_u64().unwrap() - 1);
    println!("snapshots alive, and in how many samples: {alive:?}");
    assert_eq!(followers.ended(), 0, "streams live on");
    assert_nothing_failed(&tally);
    assert!(alive.keys().all(|count| *count <= 2), "{alive:?}");
    assert!(status["serial"].as_u64().unwrap() > u64::from(SWAPS) * 9 / 10, "{status}");
    one_revision_each(&gateway, &tally).await;
    remove_route(&gateway, &feed, &mut followers).await;
}

/// Waits until the last document is in force, and of those before it the last alone is left.
async fn settled(gateway: &Gateway) -> serde_json::Value {
    let last = format!("r-{SWAPS} ");
    gateway
        .reaches("the last two revisions", |status| {
            status["revision"].as_str().unwrap().starts_with(&last) && status["snapshots_alive"] == 2
        })
        .await
}

fn assert_nothing_failed(tally: &Tally) {
    assert!(tally.unanswered.is_empty(), "{:?}", &tally.unanswered[..tally.unanswered.len().min(5)]);
    assert!(tally.wrong.is_empty(), "{:?}", &tally.wrong[..tally.wrong.len().min(5)]);
    assert_eq!((tally.closed, tally.refused), (0, 0), "connections closed or refused");
}

/// Each call's record names the revision whose header its upstream got.
async fn one_revision_each(gateway: &Gateway, tally: &Tally) {
    // Records are written in their order: after this one all are there.
    let last = [("x-request-id", "last".to_owned())];
    assert_eq!(gateway.post("/mcp", &last, &rpc(1, "tools/list", "{}")).await.status, 200);
    gateway.recorded("the last record", |record| record["request_id"] == "last").await;
    let records = gateway.records();
    let of_calls = records.iter().filter(|record| record["action"] == "tools/call");
    let judged: HashMap<&str, &str> = of_calls
        .map(|record| {
            let revision = record["bundle_revision"].as_str().unwrap_or_default();
            (record["request_id"].as_str().unwrap(), revision.split(' ').next().unwrap())
        })
        .collect();
    let dropped = gateway.metric("portunus_records_dropped_total").await.unwrap_or_default();
    let torn: Vec<_> = tally
        .answers
        .iter()
        .filter(|(request, forwarded)| judged.get(request.as_str()).is_some_and(|judged| judged != forwarded))
        .take(5)
        .collect();
    let named = tally.answers.keys().filter(|request| judged.contains_key(request.as_str())).count();
    let revisions: HashSet<&String> = tally.answers.values().collect();
    println!(
        "{named} of {} calls have a record that names the revision that forwarded them, one of {}; {dropped} records were dropped",
        tally.answers.len(),
        revisions.len()
    );
    assert!(revisions.len() > SWAPS as usize / 2, "the load did not meet the swaps");
    assert!(torn.is_empty(), "judged by one revision and forwarded by another: {torn:?}");
    assert!(named == tally.answers.len() && dropped < 1.0, "records are missing");
}

/// A route that goes ends its streams within a second; the others carry on.
async fn remove_route(gateway: &Gateway, feed: &Feed, followers: &mut Followers) {
    let all = followers.streams.len();
    let start = Instant::now();
    gateway.configure(&document(feed, SWAPS + 1, &["/mcp"]));
    let last = within(10, "the removed route's streams to end", followers.end("/gone")).await.unwrap();
    let took = last.duration_since(start);
    let left = followers.streams.len();
    println!("{} streams of a removed route ended in order after {took:.0?}; {left} carry on", all - left);
    assert!(took <= Duration::from_secs(1), "{took:?}");
    followers.hear(feed, left).await;
}
