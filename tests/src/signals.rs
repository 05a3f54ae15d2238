//! Signals: which end the process, which ask something of it, and that the others do nothing.

use crate::harness::{Gateway, Upstream, rpc, within};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

async fn assert_serves(gateway: &Gateway) {
    let response = gateway.post("/mcp", &[], &rpc(1, "tools/call", r#"{"name":"echo"}"#)).await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn a_signal_that_asks_for_nothing_does_nothing_and_is_told() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    for signal in ["USR2", "ALRM", "IO"] {
        gateway.signal(signal);
        let name = format!("SIG{signal}");
        gateway.logged(&name, |entry| entry["signal"] == *name).await;
        assert_serves(&gateway).await;
    }
    // Both ask for something, and neither ends the process.
    gateway.signal("HUP");
    gateway.signal("USR1");
    gateway.logged("the opened log", |entry| entry["message"] == "the access log was opened again").await;
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn quit_terminate_and_interrupt_end_in_order() {
    let upstream = Upstream::answering().await;
    for signal in ["QUIT", "TERM", "INT"] {
        let mut gateway = Gateway::before(upstream.address).await;
        gateway.signal(signal);
        gateway.logged("the drain", |entry| entry["message"] == "drained").await;
        assert_eq!(gateway.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_reader_of_the_log_that_stalls_stops_no_call_and_no_end() {
    const CALLS: usize = 500;
    // Lines leave a part of each page of a pipe of 64 KiB unused.
    const PIPE_BYTES: usize = 32 << 10;
    let upstream = Upstream::answering().await;
    let mut gateway = Gateway::before(upstream.address).await;
    let unread = gateway.unread();
    for _ in 0..CALLS {
        within(20, "a call", assert_serves(&gateway)).await;
    }
    gateway.signal("TERM");
    assert_eq!(gateway.exited().await.code(), Some(0));
    drop(unread);
    gateway.ended().await;
    assert!(gateway.log_text().len() >= PIPE_BYTES, "the pipe was never full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_rotated_under_load_loses_and_tears_no_line() {
    rotate_under_load(4, 5, 50).await;
}

/// Rotates the access log so often, each time after so many calls, and finds a whole line of each call;
/// gives their number.
pub(crate) async fn rotate_under_load(callers: usize, rotations: u64, between: u64) -> usize {
    let upstream = Upstream::answering().await;
    let document =
        format!("level: info\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n", upstream.address);
    let gateway = Arc::new(Gateway::start(&document).await);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = (0..callers).map(|caller| {
        let (gateway, stop, sent) = (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&sent));
        tokio::spawn(async move {
            let mut client = gateway.connect().await;
            for turn in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return turn;
                }
                let id = ("x-request-id", format!("{caller}-{turn}"));
                client.post("/mcp", &[id], rpc(1, "tools/call", r#"{"name":"echo"}"#).as_bytes()).await;
                assert_eq!(client.response().await.status, 200);
                sent.fetch_add(1, Ordering::SeqCst);
            }
            0
        })
    });
    let callers: Vec<_> = callers.collect();
    let log = gateway.folder().join("access.log");
    let rotated = |number| gateway.folder().join(format!("access.log.{number}"));
    for number in 1..=rotations {
        let until = sent.load(Ordering::SeqCst) + between;
        poll("calls", || sent.load(Ordering::SeqCst) >= until).await;
        std::fs::rename(&log, rotated(number)).unwrap();
        gateway.signal("USR1");
        poll("the new file", || log.exists()).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut expected = HashSet::new();
    for (caller, task) in callers.into_iter().enumerate() {
        let turns = task.await.unwrap();
        expected.extend((0..turns).map(|turn| format!("{caller}-{turn}")));
    }
    let text = || {
        let paths = (1..=rotations).map(rotated).chain([log.clone()]);
        paths.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    poll("all lines", || text().lines().count() >= expected.len()).await;
    let mut found = HashSet::new();
    for line in text().lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(found.insert(record["request_id"].as_str().unwrap().to_owned()), "twice: {line}");
    }
    assert_eq!(found, expected);
    assert_eq!(gateway.metric("portunus_records_dropped_total").await, Some(0.0));
    found.len()
}

async fn poll(what: &str, is_so: impl Fn() -> bool) {
    within(60, what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
