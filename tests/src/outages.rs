//! Upstreams that fail: what an operator learns from metrics, log and records alone.

use crate::harness::{Caller, Era, Front, Gateway, Mcp, Mood, Nature};
use serde_json::{Value, json};

const HTML: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
const UNAUTHORIZED: &str =
    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Calls while a server fails.
const CALLS: u32 = 3;

struct Fault {
    name: &'static str,
    mood: Mood,
    /// As the log names it.
    problem: &'static str,
    /// As metrics count the calls.
    status: &'static str,
    /// As the records count them.
    record: &'static str,
}

const FAULTS: [Fault; 6] = [
    Fault {
        name: "nobody listens",
        mood: Mood::Refuses,
        problem: "refused",
        status: "unavailable",
        record: "upstream_error",
    },
    Fault { name: "no answer", mood: Mood::Hangs, problem: "timeout", status: "timeout", record: "timeout" },
    Fault {
        name: "a page",
        mood: Mood::Says(HTML),
        problem: "malformed",
        status: "malformed",
        record: "upstream_error",
    },
    Fault {
        name: "503",
        mood: Mood::Says(DOWN),
        problem: "unavailable",
        status: "unavailable",
        record: "upstream_error",
    },
    Fault {
        name: "a closed connection",
        mood: Mood::Says(""),
        problem: "unavailable",
        status: "unavailable",
        record: "upstream_error",
    },
    Fault {
        name: "refused credentials",
        mood: Mood::Says(UNAUTHORIZED),
        problem: "unauthorized",
        status: "unauthorized",
        record: "upstream_error",
    },
];

/// Two servers, one of them behind a front, and all ways that lead there.
struct World {
    front: Front,
    _servers: [Mcp; 2],
    gateway: Gateway,
}

impl World {
    /// Only a server that does not answer at all is waited for in vain: elsewhere a machine that is busy with other tests
    /// would make late answers of good ones.
    async fn start(era: Era, mood: Mood) -> World {
        let first_byte = if matches!(mood, Mood::Hangs) { "300ms" } else { "10s" };
        let shaky = Mcp::naming(Nature::of(era), &["shaky".to_owned()]).await;
        let steady = Mcp::naming(Nature::of(era), &["steady".to_owned()]).await;
        let front = Front::before(shaky.address()).await;
        // Each way has an upstream of its own: five outages a minute are told.
        let document = format!(
            "upstreams:\n  alone: {{ url: {shaky}, timeouts: {{ first_byte: {first_byte} }} }}\n  \
             member: {{ url: {shaky}, timeouts: {{ first_byte: {first_byte} }} }}\n  steady: {}\n\
             servers:\n  /alone: alone\n  /merged: {{ upstreams: [member, steady] }}\n",
            steady.url(),
            shaky = format_args!("http://{}/mcp", front.address)
        );
        let gateway = Gateway::start(&document).await;
        World { front, _servers: [shaky, steady], gateway }
    }

    async fn counted(&self, upstream: &str, status: &str) -> f64 {
        self.gateway
            .metric(&format!(
                "portunus_upstream_requests_total{{status=\"{status}\",upstream=\"{upstream}\"}}"
            ))
            .await
            .unwrap_or_else(|| panic!("no {status} of {upstream}"))
    }

    async fn is_up(&self, upstream: &str) -> bool {
        let instance = format!("http://{}/mcp", self.front.address);
        let name = format!("portunus_upstream_up{{instance=\"{instance}\",upstream=\"{upstream}\"}}");
        self.gateway.metric(&name).await == Some(1.0)
    }

    /// Calls through `upstream` while it fails, and once more when it does not.
    async fn suffer(&mut self, era: Era, (path, upstream): (&str, &str), fault: &Fault) {
        let what = format!("{} at {path}, {era:?} client", fault.name);
        let mut caller = Caller::new(era, self.gateway.address).at(path).ready().await;
        let before = caller.call("shaky", json!({})).await.unwrap();
        assert_eq!(before.text(), "shaky", "{what}: {}", before.all());
        self.reach(&what, async || f64::from(self.is_up(upstream).await), 1.0).await;
        let counted = self.counted(upstream, fault.status).await;
        let lines = |message: &'static str| {
            move |entry: &Value| entry["message"] == message && entry["upstream"] == upstream
        };
        let told = self.gateway.logged_so_far(lines("upstream answers again")).len();
        let records = self.gateway.records().len();

        self.front.turn(fault.mood).await;
        for _ in 0..CALLS {
            let said = caller.call("shaky", json!({})).await.unwrap();
            assert!(said.code().is_some() || said.head.status >= 400, "{what}: {}", said.all());
        }
        self.reach(&what, async || f64::from(!self.is_up(upstream).await), 1.0).await;
        self.reach(&what, async || self.counted(upstream, fault.status).await - counted, f64::from(CALLS))
            .await;
        let failing = self.lines(&what, told + 1, lines("upstream is failing")).await;
        assert_eq!(failing.len(), told + 1, "{what}: {failing:?}");
        assert_eq!(failing.last().unwrap()["problem"], fault.problem, "{what}: {failing:?}");

        self.front.turn(Mood::Passes).await;
        let calls = CALLS + self.recover(&what, &mut caller).await;
        self.reach(&what, async || f64::from(self.is_up(upstream).await), 1.0).await;
        let again = self.lines(&what, told + 1, lines("upstream answers again")).await;
        assert_eq!(again.len(), told + 1, "{what}: {again:?}");
        assert_eq!(again.last().unwrap()["failed_calls"], calls, "{what}: {again:?}");
        self.assert_records(&what, upstream, fault, (records, calls)).await;
    }

    /// Calls until the server is found again: how many calls that took in vain.
    async fn recover(&self, what: &str, caller: &mut Caller) -> u32 {
        crate::harness::within(20, what, async {
            for failed in 0.. {
                if caller.call("shaky", json!({})).await.unwrap().text() == "shaky" {
                    return failed;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            0
        })
        .await
    }

    /// The calls that failed behind the first `before` records are allowed ones.
    async fn assert_records(&self, what: &str, upstream: &str, fault: &Fault, (before, calls): (usize, u32)) {
        let failed = || -> Vec<Value> {
            let records = self.gateway.records().split_off(before);
            let of_calls = |record: &Value| record["action"] == "tools/call" && record["status"] != "ok";
            records.into_iter().filter(of_calls).collect()
        };
        crate::harness::within(10, &format!("records, {what}"), async {
            while failed().len() < calls as usize {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        for record in failed().iter().take(CALLS as usize) {
            let found = (&record["decision"], &record["status"], &record["upstream"]);
            assert_eq!(found, (&json!("allow"), &json!(fault.record), &json!(upstream)), "{what}: {record}");
        }
    }

    /// Lines of the log that match, once they are so many.
    async fn lines(&self, what: &str, count: usize, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        crate::harness::within(10, &format!("lines of the log, {what}"), async {
            while self.gateway.logged_so_far(&matches).len() < count {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        self.gateway.logged_so_far(matches)
    }

    async fn reach(&self, what: &str, now: impl AsyncFn() -> f64, expected: f64) {
        crate::harness::within(10, &format!("counters, {what}"), async {
            while now().await < expected {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        let now = now().await;
        assert!((now - expected).abs() < 0.5, "{what}: {now}, not {expected}");
    }
}

async fn each_fault_is_told(server: Era) {
    for fault in &FAULTS {
        let mut world = World::start(server, fault.mood).await;
        for client in [Era::Legacy, Era::Modern] {
            for way in [("/alone", "alone"), ("/merged", "member")] {
                world.suffer(client, way, fault).await;
            }
        }
        let denials = world.gateway.counted("mcp_denials_total", "").await;
        assert!(denials < 0.5, "{}: a failure is no denial", fault.name);
    }
}

#[tokio::test]
async fn faults_of_legacy_servers_are_told_by_metrics_log_and_records() {
    each_fault_is_told(Era::Legacy).await;
}

#[tokio::test]
async fn faults_of_modern_servers_are_told_by_metrics_log_and_records() {
    each_fault_is_told(Era::Modern).await;
}

#[tokio::test]
async fn failures_of_connections_are_counted_by_their_cause() {
    let cases = [
        ("refused", format!("http://{}/mcp", crate::harness::free_address())),
        ("dns", "http://nobody.invalid/mcp".to_owned()),
    ];
    for (cause, url) in cases {
        let gateway = Gateway::start(&format!("upstreams:\n  up: {url}\nservers:\n  /mcp: up\n")).await;
        let mut caller = Caller::new(Era::Modern, gateway.address);
        let said = caller.call("any", json!({})).await.unwrap();
        assert!(said.code().is_some(), "{cause}: {}", said.all());
        let name = format!("portunus_upstream_connect_failures_total{{cause=\"{cause}\",upstream=\"up\"}}");
        assert!(gateway.metric(&name).await.unwrap() >= 1.0, "{cause}");
        gateway.logged("the failure", |entry| entry["problem"] == cause && entry["upstream"] == "up").await;
    }
}

#[tokio::test]
async fn an_instance_that_is_ejected_is_counted_and_named() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["shaky".to_owned()]).await;
    let (mut one, two) = (Front::before(server.address()).await, Front::before(server.address()).await);
    let gateway = Gateway::start(&format!(
        "upstreams:\n  up: {{ replicas: [\"http://{}/mcp\", \"http://{}/mcp\"], era: modern, ejection: {{ after: 2, base: 1s }} }}\n\
         servers:\n  /mcp: up\n",
        one.address, two.address
    ))
    .await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    one.turn(Mood::Refuses).await;
    let bad = format!("http://{}/mcp", one.address);
    let is_bad = |entry: &Value| entry["upstream"] == "up" && entry["instance"] == *bad;
    let is =
        |entry: &Value, text: &str| entry["message"].as_str().is_some_and(|message| message.contains(text));
    for _ in 0..8 {
        let said = caller.call("shaky", json!({})).await.unwrap();
        assert_eq!(said.text(), "shaky", "the other instance answers: {}", said.all());
    }
    gateway.logged("the ejection", |entry| is(entry, "ejected: it failed") && is_bad(entry)).await;
    assert!(gateway.metric("portunus_upstream_ejections_total{upstream=\"up\"}").await >= Some(1.0));
    let up = |address| format!("portunus_upstream_up{{instance=\"http://{address}/mcp\",upstream=\"up\"}}");
    assert_eq!(gateway.metric(&up(one.address)).await, Some(0.0));
    assert_eq!(gateway.metric(&up(two.address)).await, Some(1.0));
    one.turn(Mood::Passes).await;
    crate::harness::within(10, "the instance to get calls again", async {
        while gateway.metric(&up(one.address)).await != Some(1.0) {
            caller.call("shaky", json!({})).await.unwrap();
        }
    })
    .await;
    gateway.logged("its return", |entry| is(entry, "no longer ejected") && is_bad(entry)).await;
}

#[tokio::test]
async fn an_upstream_that_is_removed_leaves_the_metrics() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["a".to_owned()]).await;
    let document = |name: &str| format!("upstreams:\n  {name}: {}\nservers:\n  /mcp: {name}\n", server.url());
    let gateway = Gateway::start(&document("former")).await;
    assert!(gateway.counted("portunus_upstream_up", "upstream=\"former\"").await > 0.5);
    gateway.configure(&document("latter"));
    gateway.reaches("the new configuration", |status| status["serial"] == 2).await;
    assert!(gateway.counted("portunus_upstream_up", "upstream=\"latter\"").await > 0.5);
    let left = async || {
        let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
        text.lines().any(|line| line.contains("upstream=\"former\""))
    };
    crate::harness::within(10, "the former upstream to leave", async { while left().await {} }).await;
}
