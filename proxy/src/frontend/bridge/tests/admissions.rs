//! Limits: each request that is opened at a server is admitted once, and holds nothing once it is over.

use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::{Admission, Call, Denial, Hold, Kind, Reason, Verdict};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

/// What a limit has done.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) admitted: AtomicI64,
    /// Permits that are held.
    pub(super) open: AtomicI64,
    pub(super) charged: AtomicI64,
    /// Requests wait until this is told.
    pub(super) turn: Option<Notify>,
    pub(super) refuses: bool,
}

impl Counts {
    fn read(&self) -> [i64; 3] {
        [&self.admitted, &self.open, &self.charged].map(|count| count.load(Ordering::SeqCst))
    }

    fn hold(self: &Arc<Self>) -> Box<dyn Hold> {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.charged.fetch_add(1, Ordering::SeqCst);
        let counts = Arc::clone(self);
        TellingHold::boxed(move |stands| {
            counts.open.fetch_sub(1, Ordering::SeqCst);
            if !stands {
                counts.charged.fetch_sub(1, Ordering::SeqCst);
            }
        })
    }
}

/// A hold that tells when it is dropped, and if its charges stand.
pub(super) struct TellingHold<F: Fn(bool)> {
    stands: AtomicBool,
    dropped: F,
}

impl<F: Fn(bool) + Send + Sync + 'static> TellingHold<F> {
    pub(super) fn boxed(dropped: F) -> Box<dyn Hold> {
        Box::new(TellingHold { stands: AtomicBool::new(false), dropped })
    }
}

impl<F: Fn(bool) + Send + Sync> Hold for TellingHold<F> {
    fn commit(&self) {
        self.stands.store(true, Ordering::SeqCst);
    }
}

impl<F: Fn(bool)> Drop for TellingHold<F> {
    fn drop(&mut self) {
        (self.dropped)(self.stands.load(Ordering::SeqCst));
    }
}

pub(super) struct Limit(pub(super) Arc<Counts>);

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
    fn admit(&self, _: &Call<'_>) -> Result<Admission, Denial> {
        if self.0.refuses {
            return Err(Denial::new(Reason::Overloaded, "too many"));
        }
        self.0.admitted.fetch_add(1, Ordering::SeqCst);
        if self.0.turn.is_none() {
            return Ok(Admission::Granted(self.0.hold()));
        }
        let counts = Arc::clone(&self.0);
        Ok(Admission::Queued(Box::pin(async move {
            let hold = counts.hold();
            if let Some(turn) = &counts.turn {
                turn.notified().await;
            }
            Ok(hold)
        })))
    }
}

pub(super) fn limited(counts: Counts) -> Arc<Counts> {
    let counts = Arc::new(counts);
    TEST_FILTERS.set(vec![Arc::new(Limit(Arc::clone(&counts)))]);
    counts
}

pub(super) fn stand_before(server: Server, upstream: &str) -> Stand {
    Stand::before(server, Arc::new(Semaphore::new(0)), upstream)
}

pub(super) async fn reaches(counts: &Counts, expected: [i64; 3]) {
    let reached = async {
        while counts.read() != expected {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), reached).await;
    assert!(waited.is_ok(), "admitted, open, charged: {:?}, expected {expected:?}", counts.read());
}

pub(super) const CALL_FIELDS: &str =
    "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";

pub(super) fn call(more: &Value) -> Value {
    let mut params = envelope();
    params["name"] = "echo".into();
    params["arguments"] = json!({});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request("tools/call", params)
}

#[tokio::test]
async fn request_is_admitted_once_and_what_is_answered_here_is_given_back() {
    let counts = limited(Counts::default());
    let stand = Stand::start().await;
    let active = stand.bed.gateway.active();
    assert!(
        !active.may_pass(active.snapshot.routes.iter().next().unwrap()),
        "an endpoint with a limit serves"
    );
    drop(active);
    stand.read("ada", "a:1", &json!({})).await;
    reaches(&counts, [1, 0, 1]).await;
    stand.read("ada", "a:1", &json!({})).await;
    assert_eq!(stand.reads(), 1, "the second is answered from the first");
    reaches(&counts, [2, 0, 1]).await;
    let list = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: server/discover\r\n";
    stand.ask("ada", list, &request("server/discover", envelope())).await;
    reaches(&counts, [2, 0, 1]).await;
}

#[tokio::test]
async fn refused_request_never_reaches_its_server() {
    limited(Counts { refuses: true, ..Counts::default() });
    let stand = Stand::start().await;
    let said = stand.read("ada", "a:1", &json!({})).await;
    assert_eq!(said["error"]["data"]["reason"], "overloaded", "{said}");
    assert_eq!(stand.reads(), 0);
}

#[tokio::test]
async fn charge_of_a_request_that_reaches_no_server_is_given_back() {
    let counts = limited(Counts::default());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(|_, mut wire| async move {
        wire.accepted().await;
        Some(wire)
    });
    let bed = Bed::before(closed, ", era: modern");
    let stand = Stand::of(server.await, Arc::new(Semaphore::new(0)), bed);
    let (_, said) = stand.ask("ada", CALL_FIELDS, &call(&json!({}))).await;
    assert!(said["error"].is_object(), "{said}");
    reaches(&counts, [1, 0, 0]).await;
}

#[tokio::test]
async fn abandoned_requests_hold_nothing() {
    let counts = limited(Counts::default());
    let server = Server::start(|asked, mut wire| async move {
        if asked.method() == "tools/call" {
            // Its client leaves before it answers.
            std::future::pending::<()>().await;
        }
        wire.result(&asked, DISCOVERED).await;
        Some(wire)
    });
    let stand = stand_before(server.await, ", era: modern");
    for round in 1..=20 {
        let clients: Vec<TcpStream> = {
            let mut clients = Vec::new();
            for _ in 0..10 {
                clients.push(stand.send("ada", CALL_FIELDS, &call(&json!({}))).await);
            }
            clients
        };
        reaches(&counts, [10 * round, 10, 10 * round]).await;
        drop(clients);
        reaches(&counts, [10 * round, 0, 10 * round]).await;
    }
}

#[tokio::test]
async fn retry_that_takes_up_a_suspended_call_is_the_same_request() {
    const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"1"}}"#;
    const ASKS: &str = r#"{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#;
    let counts = limited(Counts::default());
    let answered = Arc::new(Notify::new());
    let told = Arc::clone(&answered);
    let server = Server::start(move |asked, mut wire| {
        let told = Arc::clone(&told);
        async move {
            match asked.method() {
                "initialize" => wire.result(&asked, INITIALIZED).await,
                "tools/call" => {
                    let id = asked.id();
                    wire.begin_events().await;
                    wire.event(ASKS).await;
                    told.notified().await;
                    wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)).await;
                    wire.end().await;
                }
                _ => {
                    if asked.body["id"] == "q1" {
                        told.notify_one();
                    }
                    wire.accepted().await;
                }
            }
            Some(wire)
        }
    });
    let stand = stand_before(server.await, ", era: legacy");
    let mut able = json!({});
    able["_meta"] = envelope()["_meta"].clone();
    able["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let (_, asked) = stand.ask("ada", CALL_FIELDS, &call(&able)).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    assert_eq!(counts.read()[0], 1);
    let key = result["inputRequests"].as_object().unwrap().keys().next().unwrap();
    able["requestState"] = result["requestState"].clone();
    able["inputResponses"] = json!({key: {"action": "accept", "content": {}}});
    let (_, done) = stand.ask("ada", CALL_FIELDS, &call(&able)).await;
    assert_eq!(done["result"]["content"], json!([]), "{done}");
    reaches(&counts, [1, 0, 1]).await;
}

#[tokio::test]
async fn request_waits_for_its_turn_and_leaves_the_queue_with_its_client() {
    let counts = limited(Counts { turn: Some(Notify::new()), ..Counts::default() });
    let server = Server::start(|asked, mut wire| async move {
        let result = if asked.method() == "tools/call" {
            r#"{"resultType":"complete","content":[]}"#
        } else {
            DISCOVERED
        };
        wire.result(&asked, result).await;
        Some(wire)
    });
    let stand = stand_before(server.await, ", era: modern");
    let waits = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
    let leaves = stand.send("ada", CALL_FIELDS, &call(&json!({}))).await;
    reaches(&counts, [2, 2, 2]).await;
    drop(leaves);
    reaches(&counts, [2, 1, 1]).await;
    assert_eq!(stand.server.heard("tools/call").len(), 0);
    let active = stand.bed.gateway.active();
    assert_eq!(Arc::strong_count(&active), 2, "who waits holds no snapshot");
    drop(active);
    counts.turn.as_ref().unwrap().notify_waiters();
    let (_, said) = answered(waits).await;
    assert_eq!(said["result"]["content"], json!([]), "{said}");
    reaches(&counts, [2, 0, 1]).await;
}

#[tokio::test]
async fn each_call_is_admitted_once_in_every_pair_of_eras_and_in_batches() {
    const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
    for era in ["modern", "legacy"] {
        let counts = limited(Counts::default());
        let server = Server::start(|asked, mut wire| async move {
            match asked.method() {
                "server/discover" => wire.result(&asked, DISCOVERED).await,
                "initialize" => wire.result(&asked, INITIALIZED).await,
                "tools/call" => wire.result(&asked, r#"{"resultType":"complete","content":[]}"#).await,
                _ => wire.accepted().await,
            }
            Some(wire)
        });
        let stand = stand_before(server.await, &format!(", era: {era}"));
        let expect = async |requests: usize| {
            let count = i64::try_from(requests).unwrap();
            reaches(&counts, [count, 0, count]).await;
            assert_eq!(stand.server.heard("tools/call").len(), requests, "{era}");
        };
        for round in 1..=3 {
            let (_, said) = stand.ask("ada", CALL_FIELDS, &call(&json!({}))).await;
            assert_eq!(said["result"]["content"], json!([]), "{said}");
            expect(round).await;
        }
        let session = stand.session().await;
        let legacy = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
        let (_, said) = stand.ask("ada", &session, &legacy(1)).await;
        assert_eq!(said["result"]["content"], json!([]), "{said}");
        expect(4).await;
        let of_batches = session.replace("2025-11-25", "2025-03-26");
        let batch = json!([legacy(2), legacy(3), {"jsonrpc": "2.0", "method": "notifications/x"}]);
        let (_, said) = stand.ask("ada", &of_batches, &batch).await;
        assert_eq!(said.as_array().map(Vec::len), Some(2), "{said}");
        expect(6).await;
    }
}
