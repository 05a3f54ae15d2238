//! 300 seconds of swaps, ten a second, between revisions of which one refuses what the other allows,
//! and of which neither allows a call although their halves together would.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

const LENGTH: Duration = Duration::from_secs(300);
const PERIOD: Duration = Duration::from_millis(100);
/// Callers of each endpoint, for each pair of eras.
const CALLERS: usize = 12;
/// Pause of a caller between two calls: the records of all calls are kept.
const PAUSE: Duration = Duration::from_millis(20);

const ERAS: [(Era, &str); 2] = [(Era::Legacy, "old"), (Era::Modern, "new")];
const SIDES: [&str; 2] = ["left", "right"];

/// Both sides serve one tool under the name `run`, the left one `pay`, the right one `safe`, and each
/// refuses what it serves so. At the other endpoints the left side allows everything, the right nothing.
fn policy(side: &str) -> String {
    let (refused, open) = if side == "left" { ("pay", "decision if gated\n") } else { ("safe", "") };
    format!(
        "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
         decision if input.mcp.kind in {{\"server\", \"stream\"}}\n\n\
         gated if contains(input.mcp.server, \"gated\")\n\n{open}\n\
         decision if {{\n\tcontains(input.mcp.server, \"neither\")\n\tinput.tool.original != \"{refused}\"\n}}\n"
    )
}

fn document(servers: &[Mcp], side: &str, number: u32) -> String {
    let upstreams: String =
        ERAS.iter().zip(servers).map(|((_, name), server)| format!("  {name}: {}\n", server.url())).collect();
    let served = if side == "left" { "pay" } else { "safe" };
    let endpoints: String = ERAS
        .iter()
        .flat_map(|(_, name)| ["neither", "gated"].map(|way| (way, name)))
        .map(|(way, name)| {
            let rename = format!("rename: {{ {name}.{served}: run }}");
            format!("  /{way}-{name}: {{ upstreams: {name}, {rename} }}\n")
        })
        .collect();
    format!(
        "revision: {side}-{number}\nupstreams:\n{upstreams}servers:\n{endpoints}\
         policy: {{ path: {side}.rego, time_limit: 10ms, lists: show }}\n"
    )
}

/// What was called where, by the id of the request; and what ran, by what the caller called it.
#[derive(Default)]
struct Book {
    /// Endpoint and pair of eras, by the caller's name for the call; with the id of the request.
    sent: Mutex<HashMap<u64, (String, String)>>,
    ran: Mutex<HashMap<u64, String>>,
    next: AtomicU64,
}

async fn server(era: Era, book: &Arc<Book>) -> Mcp {
    let book = Arc::clone(book);
    Mcp::start(Nature::of(era), vec![tool("pay"), tool("safe")], move |call: Call| {
        let book = Arc::clone(&book);
        async move {
            let number = call.params["arguments"]["number"].as_u64().unwrap_or_default();
            book.ran.lock().unwrap().insert(number, call.tool().to_owned());
            Ok(text("done"))
        }
    })
    .await
}

/// Calls until told to stop; a session that ends is begun anew.
async fn call(
    gateway: Arc<Gateway>,
    book: Arc<Book>,
    (client, path): (Era, String),
    stop: watch::Receiver<bool>,
) {
    let pair = format!("{path} {client:?}");
    let mut caller = Caller::new(client, gateway.address).at(&path).ready().await;
    while !*stop.borrow() {
        let number = book.next.fetch_add(1, Ordering::Relaxed);
        match caller.call("run", json!({"number": number})).await {
            Ok(said) => {
                let request = said.head.header("portunus-request-id").unwrap_or_default().to_owned();
                book.sent.lock().unwrap().insert(number, (pair.clone(), request));
                if said.head.status == 404 {
                    caller = Caller::new(client, gateway.address).at(&path).ready().await;
                }
            }
            Err(lost) => panic!("{pair}: {lost:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn run() {
    let book = Arc::new(Book::default());
    let mut servers = Vec::new();
    for (era, _) in ERAS {
        servers.push(server(era, &book).await);
    }
    let policies = SIDES.map(policy);
    let files = [("left.rego", &*policies[0]), ("right.rego", &*policies[1])];
    let gateway = Arc::new(Gateway::start_beside(&files, &document(&servers, "left", 0)).await);
    let stop = watch::Sender::new(false);
    let mut callers = JoinSet::new();
    for (client, _) in ERAS {
        for path in ["/neither-old", "/neither-new", "/gated-old", "/gated-new"] {
            for _ in 0..CALLERS {
                let way = (client, path.to_owned());
                callers.spawn(call(Arc::clone(&gateway), Arc::clone(&book), way, stop.subscribe()));
            }
        }
    }
    let mut tick = tokio::time::interval(PERIOD);
    let swaps = u32::try_from(LENGTH.as_millis() / PERIOD.as_millis()).unwrap();
    for number in 1..=swaps {
        tick.tick().await;
        gateway.configure(&document(&servers, SIDES[number as usize % 2], number));
    }
    stop.send_replace(true);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let last = Caller::new(Era::Modern, gateway.address)
        .at("/gated-new")
        .with_field("x-request-id", "last")
        .call("run", json!({"number": u64::MAX}))
        .await;
    assert!(last.is_ok(), "{last:?}");
    gateway.recorded("the last record", |record| record["request_id"] == "last").await;
    let serial = gateway.status().await["serial"].as_u64().unwrap_or_default();
    judge(&gateway, &book, serial - 1);
}

/// Holds what ran to the revision that its record names.
fn judge(gateway: &Gateway, book: &Book, swaps: u64) {
    let records = gateway.records();
    let of_calls = records.iter().filter(|record| record["action"] == "tools/call");
    let revisions: HashMap<&str, &str> = of_calls
        .map(|record| {
            let revision = record["bundle_revision"].as_str().unwrap_or_default();
            (
                record["request_id"].as_str().unwrap_or_default(),
                revision.split('-').next().unwrap_or_default(),
            )
        })
        .collect();
    let (sent, ran) = (book.sent.lock().unwrap(), book.ran.lock().unwrap());
    let mut table: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (number, (pair, request)) in sent.iter() {
        let revision = revisions.get(request.as_str()).copied().unwrap_or("no record");
        let what = ran.get(number).map_or("refused", |_| "ran");
        *table.entry(pair).or_default().entry(format!("{revision}: {what}")).or_default() += 1;
        let may_run = pair.starts_with("/gated") && revision == "left";
        if ran.contains_key(number) != may_run {
            wrong.push((pair, revision, what));
        }
    }
    for (pair, counts) in &table {
        println!("{pair:<24} {counts:?}");
    }
    println!(
        "{} calls under {} swaps; {} against the revision of their record",
        sent.len(),
        swaps,
        wrong.len()
    );
    assert!(wrong.is_empty(), "{:?}", &wrong[..wrong.len().min(5)]);
    let both = |counts: &BTreeMap<String, usize>| {
        SIDES.iter().all(|side| counts.keys().any(|key| key.starts_with(side)))
    };
    assert!(table.len() == 8 && table.values().all(both), "the calls did not meet the swaps");
}
