//! Limits at full length: real clients read why a loop was stopped, and an outside count finds what the rates allow.

use super::first_hour::CLIENTS;
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Runtime, Server, url};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const RESOURCE: &str = "https://gw.example/mcp";
const CALLERS: usize = 40;
/// Connections of each caller.
const CONNECTIONS: usize = 2;
const BURST: usize = 20;
const RATE_PER_S: usize = 10;
const LASTS: Duration = Duration::from_secs(30);

pub(super) async fn run() {
    looping_agents().await;
    rates_under_load().await;
}

/// Each SDK repeats one call until it is told to stop, and reads how to go on.
async fn looping_agents() {
    let server = Server::start(Runtime::Python2, "upstream.py").await;
    for (runtime, program, generation, mode) in CLIENTS {
        // They come from one address, so each has a gateway that has counted nothing.
        let document = "upstreams:\n  up: URL\nservers:\n  /mcp: up\nlimits: {loop: 3/m}\n";
        let gateway = Gateway::start(&document.replace("URL", &server.url())).await;
        print!("{}", runtime.run(90, program, &[generation, mode, &url(gateway.address), "loop"]).await);
        let label = "outcome=\"refused\"";
        gateway.counts("portunus_limit_calls_total", label, 1.0).await;
    }
}

/// The times at which a call was sent and answered.
type Admitted = (Instant, Instant);

/// Every caller calls as fast as it can, and gets what its rate says: as its own clock sees it, never more, and hardly less.
async fn rates_under_load() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["find".to_owned()]).await;
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let gateway = Gateway::start(&format!(
        "level: info\nupstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
         jwt: {{issuer: '{}', audience: '{RESOURCE}'}}\n\
         limits: {{per_principal: {{rate: {RATE_PER_S}/s, burst: {BURST}}}}}\n",
        server.url(),
        issuer.url()
    ))
    .await;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..CALLERS {
        let token = issuer.token_with(&key, RESOURCE, json!({ "sub": format!("caller-{caller}") }));
        for connection in 0..CONNECTIONS {
            let era = if connection == 0 { Era::Modern } else { Era::Legacy };
            let one = Caller::new(era, gateway.address).presenting(&token);
            running.spawn(async move { (caller, calls(one.ready().await, begun).await) });
        }
    }
    let mut admitted: Vec<Vec<Admitted>> = vec![Vec::new(); CALLERS];
    let mut refused = 0;
    while let Some(ended) = running.join_next().await {
        let (caller, (own, other)) = ended.unwrap();
        admitted[caller].extend(own);
        refused += other;
    }
    let counts: Vec<usize> = admitted.iter().map(Vec::len).collect();
    for (caller, calls) in admitted.iter_mut().enumerate() {
        calls.sort_unstable();
        assert_within_rate(caller, calls);
    }
    let expected = BURST + RATE_PER_S * usize::try_from(LASTS.as_secs()).unwrap();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    println!(
        "{CALLERS} callers for {LASTS:?} at {RATE_PER_S}/s and a burst of {BURST}: each was admitted {least} to {most} times, \
         where the rate gives {expected}; {refused} calls were refused; no window of any caller has more than its rate"
    );
    assert!(*least * 20 >= expected * 19, "the slowest caller got {least} of {expected}");
    let allowed: usize = counts.iter().sum();
    assert_eq!(server.counted("tools/call"), allowed, "the server got what callers were answered");
}

/// Calls until the end: when those that were admitted were sent and answered, and how many were refused.
async fn calls(mut caller: Caller, begun: Instant) -> (Vec<Admitted>, usize) {
    let (mut admitted, mut refused) = (Vec::new(), 0);
    while begun.elapsed() < LASTS {
        let sent = Instant::now();
        let said = caller.call("find", json!({})).await.unwrap();
        match said.message["result"]["isError"] == true {
            true => refused += 1,
            false => admitted.push((sent, Instant::now())),
        }
        if said.text() != "find" {
            // A client that is refused comes back soon, not at once: the machine is for those that are admitted too.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (admitted, refused)
}

/// Each of the calls from one to another was admitted between the time that the first was sent and the last was answered.
fn assert_within_rate(caller: usize, calls: &[Admitted]) {
    for (from, (start, _)) in calls.iter().enumerate() {
        let mut last = *start;
        for (to, (_, answered)) in calls.iter().enumerate().skip(from) {
            last = last.max(*answered);
            let most = BURST as f64 + last.duration_since(*start).as_secs_f64() * RATE_PER_S as f64;
            assert!(
                (to - from + 1) as f64 <= most,
                "caller {caller}: {} calls where {most} may be",
                to - from + 1
            );
        }
    }
}
