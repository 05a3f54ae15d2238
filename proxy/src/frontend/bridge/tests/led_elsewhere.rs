//! Configurations under which what goes on with a request would lead to another server than the request.

use super::admissions::{CALL_FIELDS, call, stand_before};
use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::{Call, Denial, Kind, Reason, Verdict};
use std::sync::Mutex;

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"1"}}"#;
const ASKS: &str = r#"{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// Refuses answers of clients to the server of this name.
struct NoAnswers(&'static str);

impl Filter for NoAnswers {
    fn name(&self) -> &'static str {
        "no answers"
    }
    fn applies(&self, kind: Kind) -> bool {
        kind == Kind::Response
    }
    fn judge(&self, call: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        match &*call.target.upstream == self.0 {
            true => Err(Denial::new(Reason::Forbidden, "no answers")),
            false => Ok(()),
        }
    }
}

/// A legacy server that asks in the middle of each call, and the answers that it got.
async fn asking() -> (Server, Arc<Mutex<Vec<Value>>>) {
    let answered = Arc::new(Semaphore::new(0));
    let answers: Arc<Mutex<Vec<Value>>> = Arc::default();
    let got = Arc::clone(&answers);
    let server = Server::start(move |asked, mut wire| {
        let (answered, got) = (Arc::clone(&answered), Arc::clone(&got));
        async move {
            match asked.method() {
                "initialize" => wire.result(&asked, INITIALIZED).await,
                "tools/call" => {
                    let id = asked.id();
                    wire.begin_events().await;
                    wire.event(ASKS).await;
                    answered.acquire().await.unwrap().forget();
                    wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)).await;
                    wire.end().await;
                }
                _ => {
                    if asked.body["id"] == "q1" {
                        got.lock().unwrap().push(asked.body.clone());
                        answered.add_permits(1);
                    }
                    wire.accepted().await;
                }
            }
            Some(wire)
        }
    });
    (server.await, answers)
}

fn document(stand: &Stand, name: &str, path: &str, more: &str) -> String {
    let address = stand.server.address;
    format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  {name}: {{ url: \"http://{address}{path}\"{more} }}\n\
         servers:\n  /mcp: {name}\n"
    )
}

#[tokio::test]
async fn retry_is_refused_where_the_call_leads_to_another_server_than_the_one_that_asked() {
    for (name, path, refused) in [
        ("up", "/mcp", None),
        ("other", "/mcp", Some("unknown_state")),
        ("up", "/elsewhere", Some("route_removed")),
    ] {
        let (server, answers) = asking().await;
        let stand = stand_before(server, ", era: legacy");
        let mut able = json!({});
        able["_meta"] = envelope()["_meta"].clone();
        able["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        let (_, asked) = stand.ask("ada", CALL_FIELDS, &call(&able)).await;
        let result = &asked["result"];
        let key = result["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}")).keys().next();
        able["requestState"] = result["requestState"].clone();
        able["inputResponses"] = json!({key.unwrap(): {"action": "accept", "content": {}}});
        stand.bed.activate(&document(&stand, name, path, ", era: legacy"));
        let (_, said) = stand.ask("ada", CALL_FIELDS, &call(&able)).await;
        assert_eq!(said["error"]["data"]["reason"].as_str(), refused, "{name}{path}: {said}");
        assert_eq!(answers.lock().unwrap().len(), usize::from(refused.is_none()), "{name}{path}");
    }
}

#[tokio::test]
async fn answer_of_a_legacy_client_is_judged_for_the_server_that_asked() {
    for (denied, path, outcome) in
        [("other", "/mcp", "ok"), ("up", "/mcp", "forbidden"), ("other", "/elsewhere", "route_removed")]
    {
        TEST_FILTERS.set(vec![Arc::new(NoAnswers(denied))]);
        let (server, answers) = asking().await;
        let stand = stand_before(server, ", era: legacy");
        let client = json!({"name": "c", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": client});
        let (head, _) = stand.ask("ada", "", &request("initialize", hello)).await;
        let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        let session = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        let echo = request("tools/call", json!({"name": "echo", "arguments": {}}));
        let mut calling = stand.send("ada", &session, &echo).await;
        let mut said = String::new();
        let asked = async {
            loop {
                let mut piece = [0; 4096];
                let read = calling.read(&mut piece).await.unwrap();
                assert!(read > 0, "{said}");
                said.push_str(std::str::from_utf8(&piece[..read]).unwrap());
                let messages = said.lines().filter_map(|line| line.strip_prefix("data: "));
                let mut messages = messages.filter_map(|text| serde_json::from_str::<Value>(text).ok());
                if let Some(question) = messages.find(|message| message["method"] == "elicitation/create") {
                    return question["id"].clone();
                }
            }
        };
        let id = within("a question", asked).await;
        TEST_FILTERS.set(vec![Arc::new(NoAnswers(denied))]);
        stand.bed.activate(&document(&stand, "up", path, ", era: legacy"));
        let result = json!({"action": "accept", "content": {}});
        let (head, _) =
            stand.ask("ada", &session, &json!({"jsonrpc": "2.0", "id": id, "result": result})).await;
        let refused = outcome != "ok";
        assert_eq!(head.contains(&format!("portunus-outcome: {outcome}\r\n")), refused, "{head}");
        within("the end of the call", calling.read_to_string(&mut said)).await.unwrap();
        let got = answers.lock().unwrap().clone();
        let is_accepted = got[0]["result"]["action"] == "accept";
        assert_eq!((got.len(), is_accepted), (1, !refused), "{denied} {path}: {got:?}");
    }
}

/// Settings of an upstream that gets its clients' messages as they came.
const PASSED: &str = ", credentials: passthrough";

#[tokio::test]
async fn initialize_that_its_server_does_not_know_is_served_by_the_configuration_in_force() {
    for (path, reason) in [("/mcp", None), ("/moved", Some("unknown_route"))] {
        let go = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&go);
        let server = Server::start(move |asked, mut wire| {
            let gate = Arc::clone(&gate);
            async move {
                match asked.method() {
                    "initialize" => {
                        gate.acquire().await.unwrap().forget();
                        wire.status("404 Not Found", "", "").await;
                    }
                    "server/discover" => wire.result(&asked, DISCOVERED).await,
                    _ => wire.accepted().await,
                }
                Some(wire)
            }
        });
        let stand = stand_before(server.await, PASSED);
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
        let waits = stand.send("ada", "", &request("initialize", hello)).await;
        stand.server.hears("initialize").await;
        for _ in 0..3 {
            stand.bed.activate(
                &document(&stand, "up", "/mcp", PASSED).replace("/mcp: up", &format!("{path}: up")),
            );
            stand.bed.clock.advance(Duration::from_secs(4));
        }
        let alive = async {
            while stand.bed.gateway.metrics.snapshots_alive.get() > 2 {
                tokio::task::yield_now().await;
            }
        };
        within("the end of other snapshots", alive).await;
        // The gateway may ask by one of its own.
        go.add_permits(8);
        let (head, said) = answered(waits).await;
        assert_eq!(said["error"]["data"]["reason"].as_str(), reason, "{head}{said}");
        assert_eq!(head.contains("mcp-session-id"), reason.is_none(), "{head}");
    }
}
