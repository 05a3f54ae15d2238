//! 50,000 sessions that nobody ends: what they took comes back when they have idled away.

use super::load::assert_files;
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, within};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Sessions of one half of the day.
const HALF: usize = 25_000;

/// Clients at once.
const AT_ONCE: usize = 64;

/// One session in so many calls the server that needs a session itself.
const LEGACY_CALLS: usize = 50;

/// After so long without a word a session is gone.
const IDLE: Duration = Duration::from_secs(20);

/// Most sessions at once: fewer than would idle, so that the cap is met too.
const MOST: usize = 2_000;

/// Tables that connections come and go in, at their own pace.
const OF_CONNECTIONS: &str = "upstream_connections";

/// Entries of all tables, by name.
async fn tables(gateway: &Gateway) -> BTreeMap<String, u64> {
    let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("portunus_table_"));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    values
        .filter(|(name, _)| !name.contains(OF_CONNECTIONS))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The one table of client sessions.
fn sessions(tables: &BTreeMap<String, u64>) -> u64 {
    let found: Vec<_> =
        tables.iter().filter(|(name, _)| name.contains("entries") && name.contains("\"sessions\"")).collect();
    assert_eq!(found.len(), 1, "no gauge of the sessions: {tables:?}");
    *found[0].1
}

/// Founds sessions, calls once in each, and leaves them. Gives the most that were there at once.
async fn half(gateway: &Arc<Gateway>) -> u64 {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (gateway, next) = (Arc::clone(gateway), Arc::clone(&next));
        clients.spawn(async move {
            let mut caller = Caller::new(Era::Legacy, gateway.address);
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= HALF {
                    return;
                }
                caller = caller.ready().await;
                let tool = if number.is_multiple_of(LEGACY_CALLS) { "legacy" } else { "modern" };
                let said = caller.call(tool, json!({})).await.unwrap();
                assert_eq!(said.text(), tool, "{}", said.all());
            }
        });
    }
    let mut most = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(ended) => ended.unwrap(),
                None => return most.max(sessions(&tables(gateway).await)),
            },
            _ = tick.tick() => most = most.max(sessions(&tables(gateway).await)),
        }
    }
}

/// Waits until the tables are as they were.
async fn returned(gateway: &Gateway, before: &BTreeMap<String, u64>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let seconds = IDLE.as_secs() * 3 + 30;
    let mut last = BTreeMap::new();
    let settled = tokio::time::timeout(Duration::from_secs(seconds), async {
        while &last != before {
            tick.tick().await;
            last = tables(gateway).await;
        }
    });
    if settled.await.is_err() {
        let differ: Vec<_> = last.iter().filter(|(name, value)| before.get(*name) != Some(value)).collect();
        panic!("{seconds} s after the last call these are not back: {differ:?}; before: {before:?}");
    }
}

pub(super) async fn run() {
    assert_files();
    let legacy = Mcp::naming(Nature::of(Era::Legacy), &["legacy".to_owned()]).await;
    let modern = Mcp::naming(Nature::of(Era::Modern), &["modern".to_owned()]).await;
    let gateway = Arc::new(
        Gateway::start(&format!(
            "level: info\nupstreams:\n  legacy: {}\n  modern: {}\nservers:\n  /mcp: {{ upstreams: [legacy, modern], \
             sessions: {{ idle: {}s, max: {MOST} }}, cache: {{ lists: 1s, max_ttl: 1s, stale: 1s }} }}\n",
            legacy.url(),
            modern.url(),
            IDLE.as_secs()
        ))
        .await,
    );
    // What the first session founds for all that follow is no leak.
    let mut first = Caller::new(Era::Legacy, gateway.address).ready().await;
    for tool in ["legacy", "modern"] {
        assert_eq!(first.call(tool, json!({})).await.unwrap().text(), tool);
    }
    assert_eq!(first.end().await, Ok(200));
    let idle = within(60, "the tables at rest", rest(&gateway)).await;
    println!("at rest: {idle:?}, {} MiB", gateway.resident_kib() / 1024);
    let mut resident = Vec::new();
    for part in ["morning", "afternoon"] {
        let start = Instant::now();
        let most = half(&gateway).await;
        let peak = tables(&gateway).await;
        println!(
            "{part}: {HALF} sessions in {:.1?}, at most {most} at once, {} MiB; tables then: {peak:?}",
            start.elapsed(),
            gateway.resident_kib() / 1024
        );
        let full = MOST as u64;
        // One that is being founded counts before the idlest has made room for it.
        assert!(most <= full + AT_ONCE as u64, "{most} sessions at once");
        assert!(most >= full * 9 / 10, "only {most} sessions were there at once: the cap was not met");
        returned(&gateway, &idle).await;
        resident.push(gateway.resident_kib());
        println!(
            "{part}: the tables are as they were after {:.1?}, {} MiB",
            start.elapsed(),
            resident.last().unwrap() / 1024
        );
    }
    assert!(resident[1] <= resident[0] + resident[0] / 10, "memory grows: {resident:?} KiB");
    println!("sessions that the servers still hold: {}", legacy.sessions());
    assert!(legacy.sessions() <= 8, "the gateway left {} sessions at the server", legacy.sessions());
}

/// Waits until two readings in a row are the same, with no session in them.
async fn rest(gateway: &Gateway) -> BTreeMap<String, u64> {
    let mut tick = tokio::time::interval(Duration::from_secs(3));
    let mut last = BTreeMap::new();
    loop {
        tick.tick().await;
        let now = tables(gateway).await;
        if now == last && sessions(&now) == 0 {
            return now;
        }
        last = now;
    }
}
