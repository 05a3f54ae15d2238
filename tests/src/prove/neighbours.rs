//! Ten minutes of hostile callers and servers beside clients that behave, who notice nothing of them;
//! then thirty minutes of usual traffic under swaps, in which memory does not grow.

mod callers;
mod direct;
mod servers;

use super::spare_threads::SpareThreads;
use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Client, Era, Gateway, Issuer, Mcp, Nature};
use callers::Hostile;
use direct::Direct;
use serde_json::json;
use servers::Unwell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Minutes of both parts, unless `PORTUNUS_NEIGHBOURS_MINUTES` says otherwise: `10,30`; 0 leaves one out.
const MINUTES: [u64; 2] = [10, 30];
/// Clients that behave, of each era.
const CLIENTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);
/// Longest that such a client waits for the gateway: its servers answer at once. Time in which calls that go to a server
/// without the gateway are delayed as well is not the gateway's.
const PATIENCE: Duration = Duration::from_millis(250);
const MOST_KIB: u64 = 300 * 1024;
const SWAP: Duration = Duration::from_secs(5);

/// Two arguments are read for each call.
const RULES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind in {\"server\", \"stream\", \"resource\"}\n\n\
    decision if {\n\tinput.mcp.kind == \"tool\"\n\tinput.mcp.arguments.amount < 100\n\tinput.mcp.arguments.region == \"eu\"\n}\n\n\
    visible := true\n";

/// What happened to the clients that behave.
#[derive(Default)]
struct Notice {
    calls: AtomicU64,
    /// Calls that took longer than [`PATIENCE`]: when they began, and how long.
    slow: Mutex<Vec<(Instant, Duration)>>,
    failed: AtomicU64,
    ended: AtomicU64,
    longest_us: AtomicU64,
}

impl Notice {
    fn took(&self, start: Instant, waited: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.longest_us.fetch_max(u64::try_from(waited.as_micros()).unwrap(), Ordering::Relaxed);
        if waited > PATIENCE {
            self.slow.lock().unwrap().push((start, waited));
        }
    }

    /// Calls that waited too long for the gateway.
    fn late(&self, direct: &Direct) -> usize {
        let slow = self.slow.lock().unwrap();
        slow.iter().filter(|(start, took)| *took > PATIENCE + direct.delay(*start, *took)).count()
    }

    fn read(&self) -> [u64; 4] {
        [&self.calls, &self.failed, &self.ended, &self.longest_us].map(|count| count.load(Ordering::Relaxed))
    }
}

pub(super) async fn run() {
    let named = std::env::var("PORTUNUS_NEIGHBOURS_MINUTES").ok();
    let minutes: Vec<u64> = named
        .map_or(MINUTES.to_vec(), |text| text.split(',').map(|part| part.trim().parse().unwrap()).collect());
    let [hostile, usual] = minutes[..] else { panic!("two numbers of minutes: `10,30`") };
    if hostile > 0 {
        beside_hostile_ones(Duration::from_secs(60 * hostile)).await;
    }
    if usual > 0 {
        under_swaps(Duration::from_secs(60 * usual)).await;
    }
}

/// Two servers that answer at once.
async fn good() -> [Mcp; 2] {
    let start =
        |era| {
            Mcp::start(Nature::of(era), vec![tool("work")], |call: Call| async move {
                Ok(text(call.text("word")))
            })
        };
    [start(Era::Legacy).await, start(Era::Modern).await]
}

fn document(good: &[Mcp; 2], (unwell, identity): (&[Unwell], &str), revision: u32) -> String {
    let upstreams: String =
        unwell.iter().map(|server| format!("  {}: {}\n", server.name, server.url())).collect();
    let endpoints: String = unwell
        .iter()
        .map(|server| format!("  /{}: {{ upstreams: [{}], names: prefix }}\n", server.name, server.name))
        .collect();
    format!(
        "level: info\nrevision: r{revision}\nupstreams:\n  old: {}\n  new: {}\n{upstreams}servers:\n  \
         /mcp: {{ upstreams: [old, new], names: prefix }}\n{endpoints}{identity}policy: {{ path: policy.rego, time_limit: 10ms, lists: by_visible }}\n",
        good[0].url(),
        good[1].url()
    )
}

/// Calls until it is told to stop, over one session that must not end.
async fn behave(gateway: Arc<Gateway>, era: Era, notice: Arc<Notice>, mut stop: watch::Receiver<bool>) {
    let mut caller = Caller::new(era, gateway.address).ready().await;
    let stream = if era == Era::Legacy { Some(caller.stream(None).await.unwrap().0) } else { None };
    let watched = stream.map(|stream| tokio::spawn(hear(stream, Arc::clone(&notice), stop.clone())));
    for round in 0.. {
        if *stop.borrow() {
            break;
        }
        let name = if round % 2 == 0 { "old_work" } else { "new_work" };
        let word = format!("w{round}");
        let start = Instant::now();
        let said = match round % 20 {
            19 => caller.request("tools/list", json!({})).await,
            _ => caller.call(name, json!({"word": word, "amount": 5, "region": "eu"})).await,
        };
        let took = start.elapsed();
        notice.took(start, took);
        if took > PATIENCE {
            println!("{era:?}, round {round}, {}: {took:.1?}", if round % 20 == 19 { "list" } else { name });
        }
        match said {
            Ok(said) if round % 20 == 19 && said.message["result"]["tools"].as_array().is_some() => {}
            Ok(said) if said.text() == word => {}
            failure => {
                notice.failed.fetch_add(1, Ordering::Relaxed);
                match failure {
                    Ok(said) => {
                        println!("{era:?}, round {round}: {}", said.all());
                        if said.head.status == 404 {
                            notice.ended.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    }
                    Err(lost) => println!("{era:?}, round {round}: {lost:?}"),
                }
            }
        }
        tokio::select! {
            _ = stop.changed() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    if let Some(watched) = watched {
        watched.await.unwrap();
    }
}

/// Reads a stream that may only end with the show.
async fn hear(mut stream: Client, notice: Arc<Notice>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            chunk = stream.chunk() => if chunk.is_none() {
                notice.ended.fetch_add(1, Ordering::Relaxed);
                return;
            },
        }
    }
}

/// Clients that behave, until the sender says stop.
fn clients(gateway: &Arc<Gateway>, notice: &Arc<Notice>, stop: &watch::Sender<bool>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for era in [Era::Legacy, Era::Modern] {
        for _ in 0..CLIENTS {
            clients.spawn(behave(Arc::clone(gateway), era, Arc::clone(notice), stop.subscribe()));
        }
    }
    clients
}

async fn beside_hostile_ones(length: Duration) {
    // What it costs here to make and read the texts of the hostile is none of the gateway's doing.
    let aside = SpareThreads::start(2, 10);
    let (good, unwell) = (good().await, aside.runtime().spawn(servers::start()).await.unwrap());
    // It is asked about tokens, and never answers.
    let issuer = Issuer::start(&[]).await;
    issuer.hold(true);
    let identity = format!(
        "identity:\n  url: https://gw.example\n  anonymous: allow\n  introspection: {{issuer: idp, url: \
         '{}/introspect', client: {{id: gw, secret: 'file:secret'}}}}\n",
        issuer.url()
    );
    let files = [("policy.rego", RULES), ("secret", "s3cret")];
    let document = document(&good, (&unwell, &identity), 0);
    let gateway = Arc::new(Gateway::start_beside(&files, &document).await);
    let (stop, notice) = (watch::Sender::new(false), Arc::new(Notice::default()));
    let mut clients = clients(&gateway, &notice, &stop);
    let direct = Direct::start(good[1].address());
    let hostile = Arc::new(Hostile::new(gateway.address, gateway.telemetry));
    let mut attackers = {
        let _aside = aside.runtime().enter();
        callers::start(&hostile, &stop)
    };
    let end = Instant::now() + length;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut seconds = 0_u64;
    while Instant::now() < end {
        tick.tick().await;
        seconds += 1;
        if seconds.is_multiple_of(5) {
            servers::shout(&unwell);
        }
        if seconds.is_multiple_of(30) {
            let ([calls, failed, ended, longest], late) = (notice.read(), notice.late(&direct));
            println!(
                "{seconds} s: {calls} calls, {late} late, {failed} failed, {ended} ended, longest {longest} us; \
                 {} KiB; hostile: {}",
                gateway.resident_kib(),
                hostile.told()
            );
        }
    }
    let most = gateway.peak_resident_kib();
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    attackers.abort_all();
    let ([calls, failed, ended, longest], late) = (notice.read(), notice.late(&direct));
    let slow = notice.slow.lock().unwrap().len();
    println!(
        "{calls} calls beside hostile ones: {slow} over {PATIENCE:?}, {late} of them by more than direct calls took, \
         {failed} failed, {ended} sessions or streams ended, longest {longest} us"
    );
    direct.assert_few_delayed();
    println!("hostile: {}", hostile.told());
    println!("resident memory: {most} KiB at most");
    assert!(hostile.all_came(), "a kind of attack never reached the gateway: {}", hostile.told());
    assert_eq!((late, failed, ended), (0, 0, 0), "late, failed, ended");
    assert!(most <= MOST_KIB, "{most} KiB");
}

async fn under_swaps(length: Duration) {
    let good = good().await;
    let files = [("policy.rego", RULES)];
    let gateway = Arc::new(Gateway::start_beside(&files, &document(&good, (&[], ""), 0)).await);
    let (stop, notice) = (watch::Sender::new(false), Arc::new(Notice::default()));
    let mut clients = clients(&gateway, &notice, &stop);
    let mut samples = Vec::new();
    let end = Instant::now() + length;
    let mut tick = tokio::time::interval(SWAP);
    let mut revision = 0;
    while Instant::now() < end {
        tick.tick().await;
        revision += 1;
        gateway.configure(&document(&good, (&[], ""), revision));
        samples.push(gateway.resident_kib());
    }
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let [calls, failed, ended, longest] = notice.read();
    println!(
        "{calls} calls under {revision} swaps: {failed} failed, {ended} sessions or streams ended, longest {longest} us"
    );
    assert_eq!([failed, ended], [0; 2], "failed, ended");
    let third = samples.len() / 3;
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len().max(1) as u64;
    let (before, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    println!("resident memory: {before} KiB in the second third, {last} KiB in the last");
    assert!(last.abs_diff(before) * 20 <= before, "more than 5 %");
}
