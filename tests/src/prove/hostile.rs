//! Hostile input, a flood beyond the cap, and ten minutes of fuzzing for each target.

use super::load::assert_files;
use crate::harness::{Client, Gateway, Upstream, dial_from, root, rpc, within};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::Command;
use tokio::task::JoinSet;

const HELD: usize = 200;
const FLOOD: usize = 10_000;
/// Connections of the flood that are open at the same time.
const AT_ONCE: usize = 100;
const GROWTH_KIB: u64 = 20 * 1024;
/// Ten minutes for each target, unless `PORTUNUS_FUZZ_SECONDS` says otherwise.
const FUZZ_SECONDS: u64 = 600;

fn call() -> String {
    rpc(1, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

pub(super) async fn run() {
    assert_files();
    short_tests().await;
    flood().await;
    fuzz().await;
}

/// The tests of `hostile.rs` once more, in a process of their own.
async fn short_tests() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("hostile::").stdin(Stdio::null()).kill_on_drop(true);
    let output = within(300, "the short tests", command.output()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    // Set in, so that nobody takes them for tests of this process.
    for line in told.lines().filter(|line| line.starts_with("test ")) {
        println!("  {line}");
    }
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("result: ok. 0 passed"), "no short test was found: {told}");
}

/// How one connection beyond the cap ended.
#[derive(Debug, PartialEq, Eq)]
enum Shed {
    /// With 503.
    Told,
    /// By a reset: what it had sent was never read.
    Reset,
}

/// A connection beyond the cap; every second one talks first.
async fn knock(address: SocketAddr, talks: bool) -> Shed {
    let mut client = Client::connect(address).await;
    if talks {
        client.try_post("/mcp", &[], call().as_bytes()).await.ok();
    }
    let told = client.until_closed().await;
    if told.is_empty() && talks {
        return Shed::Reset;
    }
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("Portunus-Outcome: overloaded"), "{told:?}");
    Shed::Told
}

async fn flood() {
    let upstream = Upstream::answering().await;
    let document = format!(
        "level: info\nlisteners:\n  - {{ bind: 127.0.0.1:0, limits: {{ max_connections: {HELD}, idle_timeout: 10m }} }}\n\
         upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let mut held = Vec::new();
    for number in 0..HELD {
        // Each from an address of its own: none may hold all.
        let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
        let stream = dial_from([127, 1, high, low].into(), gateway.address).await.unwrap();
        held.push(Client::over(stream, gateway.address));
    }
    all_answer(&mut held).await;
    let before = gateway.resident_kib();
    let (mut told, mut reset, mut peak) = (0, 0, before);
    let mut knocking = JoinSet::new();
    for number in 0..FLOOD {
        knocking.spawn(knock(gateway.address, number % 2 == 1));
        while knocking.len() >= AT_ONCE || (number + 1 == FLOOD && !knocking.is_empty()) {
            match knocking.join_next().await.unwrap().unwrap() {
                Shed::Told => told += 1,
                Shed::Reset => reset += 1,
            }
        }
        if number % 500 == 0 {
            peak = peak.max(gateway.resident_kib());
        }
    }
    let after = gateway.resident_kib();
    peak = peak.max(after);
    println!(
        "{FLOOD} connections beyond the cap of {HELD}: {told} told 503, {reset} reset after talking first"
    );
    println!("resident memory: {before} KiB before, {peak} KiB at most, {after} KiB after");
    assert_eq!(gateway.metric("portunus_connections_refused_total").await, Some(FLOOD as f64));
    assert!(peak - before <= GROWTH_KIB, "grew by {} KiB", peak - before);
    all_answer(&mut held).await;
    println!("the {HELD} connections within the cap still answer");
}

async fn all_answer(held: &mut [Client]) {
    for client in held {
        client.post("/mcp", &[], call().as_bytes()).await;
        assert_eq!(client.response().await.status, 200);
    }
}

/// Every fuzz target for its time.
async fn fuzz() {
    let named = std::env::var("PORTUNUS_FUZZ_SECONDS").ok();
    let seconds = named.map_or(FUZZ_SECONDS, |seconds| seconds.parse().unwrap());
    let targets = std::fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap().count() as u64;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["xtask", "fuzz", "--seconds", &seconds.to_string()]).current_dir(root());
    command.stdin(Stdio::null()).kill_on_drop(true);
    // Beside the time of the targets: building them.
    let output = within(targets * seconds + 1_800, "the fuzz targets", command.output()).await.unwrap();
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let done: Vec<&str> = told.lines().filter(|line| line.starts_with("Done ")).collect();
    let tail: Vec<&str> = told.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    assert!(output.status.success(), "{}", tail.join("\n"));
    println!("{targets} fuzz targets, {seconds} s each, found nothing:\n{}", done.join("\n"));
    assert_eq!(done.len() as u64, targets, "{}", tail.join("\n"));
}
