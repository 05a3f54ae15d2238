//! Callers of every hostile kind, from addresses of their own.

use crate::harness::{Caller, Client, Era, dial_from, modern_headers, rpc};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections that are open at the same time, of all kinds together.
const CONNECTIONS: usize = 2_000;
/// Callers of each kind.
const EACH: u8 = 8;
/// The same of kinds whose texts are so long that to make and read them here takes the processors from the gateway.
const EACH_OF_LARGE: u8 = 2;
const PAUSE: Duration = Duration::from_secs(1);
/// How long they wait for an answer, or hold what they have.
const HELD: Duration = Duration::from_secs(5);
/// Longest that one of them takes for what it does.
const LONGEST: Duration = Duration::from_secs(30);
const MEGABYTE: usize = 1 << 20;

/// What a caller does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LongNames,
    LongGreetings,
    ManySessions,
    LongSubscriptions,
    ManyHeaders,
    IdleStreams,
    SlowCalls,
    Batches,
    Templates,
    LongLists,
    ManyKeys,
    LargeResults,
    Html,
    Limited,
    Endless,
    Listening,
    HalfHeads,
    Surfaces,
    DeepArguments,
    HalfBodies,
    MadeUpTokens,
    ParkedCalls,
}

const KINDS: [Kind; 22] = [
    Kind::LongNames,
    Kind::LongGreetings,
    Kind::ManySessions,
    Kind::LongSubscriptions,
    Kind::ManyHeaders,
    Kind::IdleStreams,
    Kind::SlowCalls,
    Kind::Batches,
    Kind::Templates,
    Kind::LongLists,
    Kind::ManyKeys,
    Kind::LargeResults,
    Kind::Html,
    Kind::Limited,
    Kind::Endless,
    Kind::Listening,
    Kind::HalfHeads,
    Kind::Surfaces,
    Kind::DeepArguments,
    Kind::HalfBodies,
    Kind::MadeUpTokens,
    Kind::ParkedCalls,
];

impl Kind {
    fn callers(self) -> u8 {
        match self {
            Kind::LongLists | Kind::ManyKeys | Kind::LargeResults | Kind::Endless | Kind::Templates => {
                EACH_OF_LARGE
            }
            _ => EACH,
        }
    }
}

/// Where they go, and what they did.
pub(super) struct Hostile {
    gateway: SocketAddr,
    telemetry: SocketAddr,
    permits: Semaphore,
    done: [AtomicU64; KINDS.len()],
}

impl Hostile {
    pub(super) fn new(gateway: SocketAddr, telemetry: SocketAddr) -> Hostile {
        let done = std::array::from_fn(|_| AtomicU64::new(0));
        Hostile { gateway, telemetry, permits: Semaphore::new(CONNECTIONS), done }
    }

    /// How often each kind came.
    pub(super) fn told(&self) -> String {
        let counts = self.done.iter().map(|count| count.load(Ordering::Relaxed));
        let told = KINDS.iter().zip(counts).map(|(kind, count)| format!("{kind:?} {count}"));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Whether each kind had an answer at least once, or held what it was to hold.
    pub(super) fn all_came(&self) -> bool {
        self.done.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// Starts them; they end with the set, or when they are told to.
pub(super) fn start(hostile: &Arc<Hostile>, stop: &watch::Sender<bool>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for (place, kind) in KINDS.into_iter().enumerate() {
        for number in 0..kind.callers() {
            let source = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(place).unwrap() * EACH + number);
            let (hostile, stop) = (Arc::clone(hostile), stop.subscribe());
            callers.spawn(async move {
                for round in 0_u64.. {
                    if *stop.borrow() {
                        return;
                    }
                    let permit = hostile.permits.acquire().await.unwrap();
                    // Whatever becomes of it: refused, reset or served.
                    let tried = act(kind, &hostile, source, round);
                    if tokio::time::timeout(LONGEST, tried).await.is_ok_and(|came| came.is_some()) {
                        hostile.done[place].fetch_add(1, Ordering::Relaxed);
                    }
                    drop(permit);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }
    callers
}

fn caller(era: Era, hostile: &Hostile, source: Ipv4Addr) -> Caller {
    Caller::new(era, hostile.gateway).from(source).patient_for(HELD)
}

/// A request of a modern client; its answer is read, and not looked into.
async fn post(
    hostile: &Hostile,
    source: Ipv4Addr,
    (path, method, name): (&str, &str, &str),
    params: Value,
) -> Option<()> {
    let stream = dial_from(source, hostile.gateway).await.ok()?;
    let mut client = Client::over(stream, hostile.gateway);
    let mut headers = modern_headers(name);
    headers[1].1 = method.to_owned();
    headers.retain(|(field, value)| *field != "mcp-name" || !value.is_empty());
    let mut params = params;
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    });
    client.try_post(path, &headers, rpc(1, method, &params.to_string()).as_bytes()).await.ok()?;
    let mut head = client.try_head().await?;
    while let Ok(Some(_)) = client.piece(&mut head).await {}
    Some(())
}

/// A call of the only tool at an endpoint.
async fn call(hostile: &Hostile, source: Ipv4Addr, name: &str) -> Option<()> {
    let (path, tool) = (format!("/{name}"), format!("{name}_t"));
    let params = json!({"name": tool, "arguments": {"amount": 5, "region": "eu"}});
    post(hostile, source, (&path, "tools/call", &tool), params).await
}

async fn act(kind: Kind, hostile: &Hostile, source: Ipv4Addr, round: u64) -> Option<()> {
    let long = || format!("{round}{}", "n".repeat(MEGABYTE));
    let mut legacy = caller(Era::Legacy, hostile, source);
    match kind {
        Kind::LongNames => {
            // Legacy: no header has to repeat the name.
            legacy.open().await.ok()?;
            legacy.request("tools/call", json!({"name": long(), "arguments": {}})).await.ok()?;
        }
        Kind::LongGreetings => greet(&mut legacy, &"i".repeat(120 << 10)).await?,
        Kind::ManySessions => {
            for number in 0..20 {
                greet(&mut legacy, &format!("{round}-{number}")).await?;
            }
        }
        Kind::LongSubscriptions => {
            legacy.open().await.ok()?;
            legacy.request("resources/subscribe", json!({"uri": format!("x://{}", long())})).await.ok()?;
        }
        Kind::ManyHeaders => {
            let mut varied = legacy.with_field("x-api-key", &format!("{source}-{round}"));
            varied.open().await.ok()?;
            varied.call("old_work", json!({"amount": 5, "region": "eu"})).await.ok()?;
        }
        Kind::IdleStreams => {
            legacy.open().await.ok()?;
            let stream = legacy.stream(None).await.ok()?;
            tokio::time::sleep(HELD).await;
            drop(stream);
        }
        Kind::Batches => batch(hostile, source).await?,
        Kind::Templates => {
            let uri = format!("x{}://{round}-q/{}", "a".repeat(500), "b-".repeat(500));
            let aim = ("/patterns", "resources/read", &*uri);
            post(hostile, source, aim, json!({"uri": uri})).await?;
        }
        Kind::LongLists => post(hostile, source, ("/long", "tools/list", ""), json!({})).await?,
        Kind::Listening => {
            let mut legacy = legacy.at("/shouting");
            legacy.open().await.ok()?;
            let stream = legacy.stream(None).await.ok()?;
            tokio::time::sleep(HELD).await;
            drop(stream);
        }
        Kind::HalfHeads => half(hostile.gateway, source).await?,
        Kind::Surfaces => half(hostile.telemetry, source).await?,
        Kind::DeepArguments => deep(hostile, source).await?,
        Kind::HalfBodies => half_body(hostile, source).await?,
        Kind::MadeUpTokens => {
            // The issuer does not answer.
            drop(legacy.presenting(&format!("made-up-{source}-{round}")).open().await);
        }
        Kind::SlowCalls => call(hostile, source, "mute").await?,
        Kind::ManyKeys => call(hostile, source, "bloat").await?,
        Kind::LargeResults => call(hostile, source, "large").await?,
        Kind::Html => call(hostile, source, "html").await?,
        Kind::Limited => call(hostile, source, "limited").await?,
        Kind::Endless => call(hostile, source, "endless").await?,
        Kind::ParkedCalls => call(hostile, source, "asking").await?,
    }
    Some(())
}

/// A greeting whose client says this of itself.
async fn greet(caller: &mut Caller, title: &str) -> Option<()> {
    let info = json!({"name": "x", "version": "1", "title": title});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    caller.request("initialize", params).await.ok().map(drop)
}

/// As many messages as a body holds.
async fn batch(hostile: &Hostile, source: Ipv4Addr) -> Option<()> {
    let stream = dial_from(source, hostile.gateway).await.ok()?;
    let mut client = Client::over(stream, hostile.gateway);
    let message = r#"{"jsonrpc":"2.0","method":"a"}"#;
    let body = format!("[{}]", vec![message; 100_000].join(","));
    let version = [("mcp-protocol-version", "2025-03-26".to_owned())];
    client.try_post("/mcp", &version, body.as_bytes()).await.ok();
    client.try_head().await.map(drop)
}

/// A request that never ends.
async fn half(address: SocketAddr, source: Ipv4Addr) -> Option<()> {
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = Client::over(dial_from(source, address).await.ok()?, address);
        let head = client.head("GET", "/mcp", &modern_headers("x"));
        client.try_send(head.as_bytes()).await.ok()?;
        held.push(client);
    }
    tokio::time::sleep(HELD).await;
    Some(())
}

/// Arguments that take a policy long.
async fn deep(hostile: &Hostile, source: Ipv4Addr) -> Option<()> {
    let items: Vec<Value> = (0..13_000).map(|number| json!(number % 10)).collect();
    let params = json!({"name": "new_work", "arguments": {"amount": items, "region": "eu"}});
    post(hostile, source, ("/mcp", "tools/call", "new_work"), params).await
}

/// A large body whose end never comes.
async fn half_body(hostile: &Hostile, source: Ipv4Addr) -> Option<()> {
    let stream = dial_from(source, hostile.gateway).await.ok()?;
    let mut client = Client::over(stream, hostile.gateway);
    let head = client.head("POST", "/mcp", &[]);
    let head = format!("{head}content-type: application/json\r\ncontent-length: 4000000\r\n\r\n");
    client.try_send(head.as_bytes()).await.ok()?;
    client.try_send(&vec![b' '; 3 << 20]).await.ok()?;
    tokio::time::sleep(HELD).await;
    Some(())
}
