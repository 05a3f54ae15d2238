//! Permits and charges of calls that are abandoned, cancelled, never resumed or broken by a panic: nothing stays held, and
//! a charge stands only if an upstream could have read the request.

use super::admissions::TellingHold;
use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::inspect::Inspector;
use portunus_filters::{Admission, Call, Channel, Denial, Hold, Kind, Verdict};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const ASKS: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// Bytes of an answer that inspectors read aside.
const LARGE: usize = 300 * 1024;
/// Bytes of a body that no server reads: more than the buffers of its connection take.
const UNREAD: usize = 3 << 20;

/// The counts of the calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    admitted: i64,
    /// Permits that are held.
    open: i64,
    charged: i64,
}

/// Counts by what the argument `mode` of a call is.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<String, Count>>);

impl Ledger {
    fn of(&self, mode: &str) -> Count {
        self.0.lock().unwrap().get(mode).copied().unwrap_or_default()
    }

    fn change(&self, mode: &str, change: impl FnOnce(&mut Count)) {
        change(self.0.lock().unwrap().entry(mode.to_owned()).or_default());
    }

    fn hold(self: &Arc<Self>, mode: &str) -> Box<dyn Hold> {
        self.change(mode, |count| {
            count.open += 1;
            count.charged += 1;
        });
        let (ledger, mode) = (Arc::clone(self), mode.to_owned());
        TellingHold::boxed(move |stands| {
            ledger.change(&mode, |count| {
                count.open -= 1;
                count.charged -= i64::from(!stands);
            });
        })
    }
}

fn mode_of(call: &Call<'_>) -> Option<String> {
    let params = call.message.params?.of(&call.message.body);
    let params: Value = serde_json::from_slice(params).ok()?;
    params["arguments"]["mode"].as_str().map(str::to_owned)
}

/// Holds a permit and a charge for each call; a call that is queued waits for ever.
struct Limit(Arc<Ledger>);

impl Filter for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Ok(())
    }
    fn admit(&self, call: &Call<'_>) -> Result<Admission, Denial> {
        let Some(mode) = mode_of(call) else { return Ok(Admission::Free) };
        self.0.change(&mode, |count| count.admitted += 1);
        if mode != "queued" {
            return Ok(Admission::Granted(self.0.hold(&mode)));
        }
        let ledger = Arc::clone(&self.0);
        Ok(Admission::Queued(Box::pin(async move {
            let _hold = ledger.hold(&mode);
            std::future::pending().await
        })))
    }
}

/// Panics where a call asks for it.
#[derive(Debug)]
struct Panics;

/// A panic of which the hook for panics is not told, since there are thousands.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("a filter of a test is broken"))
}

impl Filter for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        if mode_of(call).as_deref() == Some("judge") {
            panic_quietly();
        }
        verdict.inspectors.push(Arc::new(Panics));
        Ok(())
    }
    fn admit(&self, call: &Call<'_>) -> Result<Admission, Denial> {
        if mode_of(call).as_deref() == Some("admit") {
            panic_quietly();
        }
        Ok(Admission::Free)
    }
}

impl Inspector for Panics {
    fn inspect<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        if text.contains("panics here") {
            panic_quietly();
        }
        Ok(Cow::Borrowed(text))
    }
}

/// Servers that leave calls as they are told to, and a gateway before them.
struct World {
    stand: Stand,
    ledger: Arc<Ledger>,
    /// Calls that a server has read.
    arrived: Arc<Mutex<HashSet<u64>>>,
    calls: AtomicU64,
    /// Session of a legacy client at each endpoint.
    sessions: BTreeMap<&'static str, String>,
    /// Nobody takes its connections.
    _deaf: tokio::net::TcpListener,
}

async fn attend(asked: Asked, mut wire: Wire, arrived: Arc<Mutex<HashSet<u64>>>) -> Option<Wire> {
    let is_stuck = asked.head.contains(" /stuck ");
    match asked.method() {
        "initialize" if is_stuck => {
            wire.closed().await;
            return None;
        }
        "initialize" => wire.result(&asked, INITIALIZED).await,
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "tools/call" => return called(asked, wire, &arrived).await,
        "GET" => wire.status("405 No", "", "").await,
        _ => wire.accepted().await,
    }
    Some(wire)
}

async fn called(asked: Asked, mut wire: Wire, arrived: &Mutex<HashSet<u64>>) -> Option<Wire> {
    let arguments = &asked.body["params"]["arguments"];
    arrived.lock().unwrap().insert(arguments["n"].as_u64().unwrap());
    let said = |text: &str| json!({"resultType": "complete", "content": [{"type": "text", "text": text}]});
    match arguments["mode"].as_str().unwrap() {
        "done" => wire.result(&asked, &said("done").to_string()).await,
        "inspect" => wire.result(&asked, &said("panics here").to_string()).await,
        "large" => wire.result(&asked, &said(&format!("panics here{}", " ".repeat(LARGE))).to_string()).await,
        mode => {
            let token = asked.body["params"]["_meta"]["progressToken"].to_string();
            match mode {
                "body" => {
                    wire.begin_events().await;
                    wire.event(&PROGRESS.replace("ID", &token)).await;
                }
                "suspended" => {
                    wire.begin_events().await;
                    wire.event(ASKS).await;
                }
                _ => {}
            }
            wire.closed().await;
            return None;
        }
    }
    Some(wire)
}

impl World {
    async fn start() -> World {
        let ledger = Arc::<Ledger>::default();
        let arrived = Arc::<Mutex<HashSet<u64>>>::default();
        let told = Arc::clone(&arrived);
        let server = Server::start(move |asked, wire| attend(asked, wire, Arc::clone(&told))).await;
        let deaf = tokio::net::TcpSocket::new_v4().unwrap();
        deaf.set_recv_buffer_size(4096).unwrap();
        deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let deaf = deaf.listen(1024).unwrap();
        let (at, unread) = (server.address, deaf.local_addr().unwrap());
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{at}/up\", era: modern }}\n  \
             old: {{ url: \"http://{at}/old\", era: legacy }}\n  stuck: {{ url: \"http://{at}/stuck\", era: legacy, \
             timeouts: {{ first_byte: 20ms }} }}\n  deaf: {{ url: \"http://{unread}/deaf\", era: modern }}\n\
             servers:\n  /up: up\n  /old: {{ upstreams: [old], parked: {{ within: 20ms }}, replay: off }}\n  \
             /stuck: stuck\n  /deaf: deaf\n"
        );
        TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&ledger))), Arc::new(Panics)]);
        let bed = Bed::of(&text);
        let stand = Stand::of(server, Arc::new(Semaphore::new(0)), bed);
        let (calls, sessions) = (AtomicU64::new(0), BTreeMap::new());
        let mut world = World { stand, ledger, arrived, calls, sessions, _deaf: deaf };
        for path in ["/up", "/old"] {
            world.sessions.insert(path, world.session(path).await);
        }
        world
    }

    /// The fields of a session of `ada`.
    async fn session(&self, path: &str) -> String {
        let client = json!({"name": "c", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let (head, _) = answered(self.post(path, "ada", "", &request("initialize", hello)).await).await;
        let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        format!("Mcp-Session-Id: {session}\r\n")
    }

    #[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
    async fn post(&self, path: &str, bearer: &str, fields: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.stand.clients).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\
             Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n{fields}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        stream
    }

    fn number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::SeqCst)
    }

    /// Sends the call of a modern client; its number, and its connection.
    async fn call(&self, path: &str, mode: &str) -> (u64, TcpStream) {
        let n = self.number();
        let padding = if mode == "sending" { "x".repeat(UNREAD) } else { String::new() };
        let mut params = envelope();
        params["name"] = "echo".into();
        params["arguments"] = json!({"mode": mode, "n": n, "padding": padding});
        params["_meta"]["progressToken"] = n.into();
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
        let bearer = format!("b{}", n % 97);
        (n, self.post(path, &bearer, fields, &request("tools/call", params)).await)
    }

    /// The call of a legacy client, and its number.
    fn legacy_call(&self, mode: &str) -> (u64, Value) {
        let n = self.number();
        let params = json!({"name": "echo", "arguments": {"mode": mode, "n": n}});
        (n, json!({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params}))
    }

    async fn post_legacy(&self, path: &str, revision: &str, body: &Value) -> TcpStream {
        let fields = format!("{}MCP-Protocol-Version: {revision}\r\n", self.sessions[path]);
        self.post(path, "ada", &fields, body).await
    }

    async fn arrival(&self, n: u64) {
        let arrived = async {
            while !self.arrived.lock().unwrap().contains(&n) {
                tokio::task::yield_now().await;
            }
        };
        within("a call at its server", arrived).await;
    }

    /// Waits until calls of a mode hold something.
    async fn holding(&self, mode: &str) {
        let held = async {
            while self.ledger.of(mode).open == 0 {
                tokio::task::yield_now().await;
            }
        };
        within(mode, held).await;
    }

    /// Whose client leaves while its call waits for its turn, for a session at its server, or with its body half sent.
    async fn leave_early(&self, is_sending: bool) {
        for (path, mode) in [("/up", "queued"), ("/stuck", "unsent"), ("/deaf", "sending")] {
            if mode != "sending" || is_sending {
                let (_, stream) = self.call(path, mode).await;
                self.holding(mode).await;
                drop(stream);
            }
        }
    }

    /// Whose client leaves while its server has the call.
    async fn leave_late(&self) {
        let (n, stream) = self.call("/up", "head").await;
        self.arrival(n).await;
        drop(stream);
        let (_, mut stream) = self.call("/up", "body").await;
        read_until(&mut stream, "notifications/progress").await;
        drop(stream);
        let (n, call) = self.legacy_call("left");
        let stream = self.post_legacy("/old", "2025-11-25", &call).await;
        self.arrival(n).await;
        drop(stream);
    }

    async fn cancel(&self) {
        let (n, call) = self.legacy_call("cancelled");
        let mut stream = self.post_legacy("/old", "2025-11-25", &call).await;
        self.arrival(n).await;
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": n}});
        answered_anything(self.post_legacy("/old", "2025-11-25", &cancel).await).await;
        answered_anything_of(&mut stream).await;
    }

    /// Calls whose client never answers what it is asked.
    async fn suspend(&self) {
        let (_, stream) = self.call("/old", "suspended").await;
        let (_, asked) = answered(stream).await;
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    }

    async fn panic(&self, is_large: bool) {
        for mode in ["judge", "admit", "inspect", "large"] {
            if mode != "large" || is_large {
                let (_, mut stream) = self.call("/up", mode).await;
                assert_eq!(answered_anything_of(&mut stream).await, "", "{mode}");
            }
        }
    }

    /// Batches that are left, and batches of which one element panics.
    async fn batch(&self) {
        let [(one, first), (two, second)] = [self.legacy_call("head"), self.legacy_call("head")];
        let stream = self.post_legacy("/up", "2025-03-26", &json!([first, second])).await;
        self.arrival(one).await;
        self.arrival(two).await;
        drop(stream);
        let [(_, first), (_, second)] = [self.legacy_call("beside"), self.legacy_call("inspect")];
        let mut stream = self.post_legacy("/up", "2025-03-26", &json!([first, second])).await;
        assert_eq!(answered_anything_of(&mut stream).await, "", "a batch that panics");
    }

    async fn done(&self) {
        let (_, stream) = self.call("/up", "done").await;
        let (_, said) = answered(stream).await;
        assert_eq!(said["result"]["content"][0]["text"], "done", "{said}");
    }

    /// The permits that are held once nothing is under way any more.
    async fn settled(&self) {
        let gateway = &self.stand.bed.gateway;
        let held = || self.ledger.0.lock().unwrap().values().map(|count| count.open).sum::<i64>();
        let active = || {
            let active = gateway.active();
            active
                .snapshot
                .upstreams
                .iter()
                .map(|one| active.pool(one).unwrap().active_count())
                .sum::<usize>()
        };
        let (estate, texts) = (&gateway.estate, &gateway.backend.texts);
        let kept = || [estate.parked.len(), estate.bodies.held(), estate.batches.held(), texts.held()];
        let settled = async {
            while held() != 0 || active() != 0 || kept() != [0; 4] {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), settled).await;
        assert!(waited.is_ok(), "{:?}, {} active, {:?} kept", self.ledger.0, active(), kept());
    }
}

async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut said = String::new();
    let read = async {
        while !said.contains(text) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "{said}");
            said.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    within(text, read).await;
}

/// All that comes until the connection ends, however it ends.
async fn answered_anything_of(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    within("the end of a connection", stream.read_to_end(&mut said)).await.ok();
    String::from_utf8(said).unwrap()
}

async fn answered_anything(mut stream: TcpStream) {
    answered_anything_of(&mut stream).await;
}

/// Breaks off calls in all ways, so often, and proves that nothing is held; gives how many calls these were.
async fn break_off(rounds: u64) -> u64 {
    let world = World::start().await;
    for round in 0..rounds {
        // Few at once are as large.
        let is_large = round % 25 == 0;
        tokio::join!(
            world.leave_early(is_large),
            world.leave_late(),
            world.cancel(),
            world.suspend(),
            world.panic(is_large),
            world.batch(),
            world.done(),
        );
    }
    world.settled().await;
    let rounds = i64::try_from(rounds).unwrap();
    let few = (rounds + 24) / 25;
    let expected = [
        // Mode, admitted, and how many charges stand.
        ("admit", rounds, 0..=0),
        ("beside", rounds, 0..=rounds),
        ("body", rounds, rounds..=rounds),
        ("cancelled", rounds, rounds..=rounds),
        ("done", rounds, rounds..=rounds),
        ("head", 3 * rounds, 3 * rounds..=3 * rounds),
        ("inspect", 2 * rounds, 2 * rounds..=2 * rounds),
        ("judge", 0, 0..=0),
        ("large", few, few..=few),
        ("left", rounds, rounds..=rounds),
        ("queued", rounds, 0..=0),
        ("sending", few, 0..=few),
        ("suspended", rounds, rounds..=rounds),
        ("unsent", rounds, 0..=0),
    ];
    for (mode, admitted, charges) in expected {
        let count = world.ledger.of(mode);
        assert_eq!((count.admitted, count.open), (admitted, 0), "{mode}");
        assert!(charges.contains(&count.charged), "{mode}: {} charges stand, of {charges:?}", count.charged);
    }
    let calls = world.calls.load(Ordering::SeqCst);
    println!("{calls} calls: {:?}", world.ledger.0.lock().unwrap());
    calls
}

#[tokio::test]
async fn broken_off_calls_hold_nothing() {
    assert!(break_off(25).await > 300);
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove holds"]
async fn broken_off_calls_hold_nothing_at_full_length() {
    assert!(break_off(800).await > 10_000);
}
