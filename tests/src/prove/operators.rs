//! What an operator learns from metrics and log alone: four faults of real servers, a log that is rotated
//! under load, and a process that may open few files.

use crate::descriptors::limited;
use crate::harness;
use crate::harness::{Caller, Client, Era, Front, Gateway, Mood, Server, Upstream, binary, rpc, within};
use crate::signals::rotate_under_load;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

const HTML: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
/// Calls while a server fails.
const CALLS: u32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Stopped,
    Frozen,
    Page,
    TooMany,
}

impl Fault {
    /// What the log has to name.
    fn words(self) -> &'static [&'static str] {
        match self {
            Fault::Stopped => &["refused"],
            Fault::Frozen => &["timeout"],
            Fault::Page => &["malformed"],
            Fault::TooMany => &["limited", "429"],
        }
    }
}

/// What somebody who knows nothing but metrics and log says of the failure.
#[derive(Debug)]
struct Finding {
    upstream: String,
    since: String,
    problem: String,
    calls: f64,
}

impl Finding {
    /// Reads `/metrics` and the log, and nothing else.
    async fn of(gateway: &Gateway) -> Finding {
        let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
        let down: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("portunus_upstream_up{") && line.ends_with(" 0"))
            .collect();
        let [down] = down[..] else { panic!("these are down: {down:?}") };
        let upstream =
            down.split("upstream=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
        let is_answered = |line: &str| {
            ["ok", "error", "cancelled"].iter().any(|status| line.contains(&format!("\"{status}\"")))
        };
        let failed = text.lines().filter(|line| {
            line.starts_with("portunus_upstream_requests_total{")
                && line.contains(&format!("upstream=\"{upstream}\""))
                && !is_answered(line)
        });
        let calls = failed.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
        let line = gateway
            .logged("the outage", |entry| {
                entry["message"] == "upstream is failing" && entry["upstream"] == *upstream
            })
            .await;
        let since = line["timestamp"].as_str().unwrap().to_owned();
        let problem = format!("{}: {}", line["problem"].as_str().unwrap(), line["cause"].as_str().unwrap());
        Finding { upstream, since, problem, calls }
    }
}

/// A gateway with an API key, two real servers behind one URL, and one of them failing.
async fn suffer(fault: Fault, client: Era) {
    let (mut shaky, steady) = (Server::everything().await, Server::everything().await);
    let mut front = Front::before(shaky.address).await;
    let is_fronted = matches!(fault, Fault::Page | Fault::TooMany);
    let at = if is_fronted { front.address } else { shaky.address };
    let document = format!(
        "level: info\nidentity: {{ keys: keys.yaml }}\nupstreams:\n  crm: {{ url: 'http://{at}/mcp', timeouts: {{ first_byte: 500ms }} }}\n  \
         search: {}\nservers:\n  /mcp: {{ upstreams: [crm, search] }}\n",
        steady.url()
    );
    let mut key = String::new();
    let gateway = Gateway::start_as(&document, |folder| {
        let arguments = ["key", "new", "--for", "acme/alice", "--file", "keys.yaml"];
        let output = Command::new(binary()).args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        harness::run()
    })
    .await;
    let mut caller = Caller::new(client, gateway.address).presenting(&key).ready().await;
    let echo = json!({"message": "hello"});
    let said = caller.call("echo", echo.clone()).await.unwrap();
    assert!(said.text().contains("hello"), "{}", said.all());

    let start = last_logged(&gateway).await;
    match fault {
        Fault::Stopped => shaky.stop().await,
        Fault::Frozen => shaky.signal("STOP"),
        Fault::Page => front.turn(Mood::Says(HTML)).await,
        Fault::TooMany => front.turn(Mood::Says(LIMITED)).await,
    }
    for _ in 0..CALLS {
        let said = caller.call("echo", echo.clone()).await.unwrap();
        assert!(!said.text().contains("hello"), "{}", said.all());
    }
    gateway.recorded("the calls", |_| failed(&gateway).len() >= CALLS as usize).await;
    let found = Finding::of(&gateway).await;
    println!("{fault:?}, {client:?} client: {found:?}");
    assert_eq!(found.upstream, "crm");
    assert!(found.since >= start, "{found:?} began before {start}");
    assert!((found.calls - f64::from(CALLS)).abs() < 0.5, "{found:?}, and {CALLS} calls failed");
    assert!(fault.words().iter().any(|word| found.problem.contains(word)), "{found:?}");
    for record in failed(&gateway) {
        assert_eq!(record["decision"], "allow", "{record}");
    }

    match fault {
        Fault::Stopped => shaky = Server::everything_at(shaky.address).await,
        Fault::Frozen => shaky.signal("CONT"),
        Fault::Page | Fault::TooMany => front.turn(Mood::Passes).await,
    }
    within(60, "the server to be found again", found_again(&gateway, client, &key)).await;
    let again = gateway.logged("the recovery", |entry| entry["message"] == "upstream answers again");
    let again = again.await;
    println!("{fault:?}: again after {} s, {} failed calls", again["after_s"], again["failed_calls"]);
    assert!(again["failed_calls"].as_u64() >= Some(u64::from(CALLS)), "{again}");
    drop(shaky);
}

async fn found_again(gateway: &Gateway, client: Era, key: &str) {
    loop {
        // A session at a server that started anew is another one.
        let mut caller = Caller::new(client, gateway.address).presenting(key).ready().await;
        if caller.call("echo", json!({"message": "hello"})).await.unwrap().text().contains("hello") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The time of the last line of the log, as the log writes it.
async fn last_logged(gateway: &Gateway) -> String {
    let last = gateway.logged_so_far(|entry| entry["timestamp"].is_string()).pop().unwrap();
    last["timestamp"].as_str().unwrap().to_owned()
}

fn failed(gateway: &Gateway) -> Vec<Value> {
    let is_failed = |record: &Value| {
        record["action"] == "tools/call" && record["status"] != "ok" && record["status"] != "error"
    };
    gateway.records().into_iter().filter(is_failed).collect()
}

/// Far more callers than files, for a while.
async fn few_files() {
    const CALLERS: usize = 400;
    const WITHIN: Duration = Duration::from_secs(10);
    let upstream = Upstream::answering().await;
    let document =
        format!("level: info\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n", upstream.address);
    let gateway = Gateway::start_as(&document, |_| limited(256, 256)).await;
    let (address, until) = (gateway.address, Instant::now() + WITHIN);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            tokio::spawn(async move {
                let (mut served, mut shed) = (0_u64, 0_u64);
                while Instant::now() < until {
                    let Ok(mut client) = Client::try_connect(address).await else { continue };
                    for _ in 0..10 {
                        let body = rpc(1, "tools/call", r#"{"name":"echo"}"#);
                        client.try_post("/mcp", &[], body.as_bytes()).await.ok();
                        match client.try_response().await.map(|response| response.status) {
                            Some(200) => served += 1,
                            _ => {
                                shed += 1;
                                break;
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                (served, shed)
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while Instant::now() < until {
        let start = Instant::now();
        assert_eq!(gateway.get(gateway.telemetry, "/metrics").await.status, 200);
        assert_eq!(gateway.status().await["phase"], "serving");
        slowest = slowest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (mut served, mut shed) = (0, 0);
    for caller in callers {
        let (more, less) = caller.await.unwrap();
        (served, shed) = (served + more, shed + less);
    }
    let told = gateway.logged("the complaint", |entry| {
        entry["message"].as_str().is_some_and(|message| message.starts_with("file descriptors run out"))
    });
    println!(
        "256 files, {CALLERS} callers: {served} calls served, {shed} shed, surfaces within {slowest:?}; {}",
        told.await
    );
    assert!(served > 1_000, "{served} calls were served");
    assert!(slowest < Duration::from_secs(5), "the surfaces took {slowest:?}");
}

pub(super) async fn run() {
    for client in [Era::Legacy, Era::Modern] {
        for fault in [Fault::Stopped, Fault::Frozen, Fault::Page, Fault::TooMany] {
            suffer(fault, client).await;
        }
    }
    let start = Instant::now();
    let calls = rotate_under_load(16, 20, 2_000).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = calls as f64 / start.elapsed().as_secs_f64();
    println!("20 rotations in {calls} calls, {rate:.0} a second: no line lost or torn");
    few_files().await;
}
