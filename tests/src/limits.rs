//! Limits through the gateway itself: what callers get beyond them, what is counted, and what gives back.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Front, Gateway, Issuer, Key, Mcp, Mood, Nature, Said, within};
use serde_json::{Value, json};

const RESOURCE: &str = "https://gw.example/mcp";
const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// A gateway with limits before one server, and who vouches for its callers.
struct Bed {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
    /// Stands before the server.
    front: Front,
}

impl Bed {
    /// `limits` is the section, in flow style.
    async fn start(era: Era, limits: &str) -> Bed {
        let names = ["find", "read"].map(str::to_owned);
        let server = Mcp::naming(Nature::of(era), &names).await;
        let front = Front::before(server.address()).await;
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let gateway = Gateway::start(&document(&front, &issuer, limits)).await;
        Bed { gateway, issuer, key, server, front }
    }

    async fn caller(&self, era: Era, subject: &str) -> Caller {
        let claims = json!({"sub": subject, "tenant": "acme"});
        let token = self.issuer.token_with(&self.key, RESOURCE, claims);
        Caller::new(era, self.gateway.address).presenting(&token).ready().await
    }

    async fn configure(&self, limits: &str) {
        let before = self.gateway.status().await["serial"].as_u64().unwrap();
        self.gateway.configure(&document(&self.front, &self.issuer, limits));
        self.gateway.reaches("the new limits", |status| status["serial"] == before + 1).await;
    }
}

fn document(front: &Front, issuer: &Issuer, limits: &str) -> String {
    format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, timeouts: {{ first_byte: 20s }} }}\nservers:\n  /mcp: up\nidentity:\n  \
         url: https://gw.example\n  jwt: {{issuer: '{}', audience: '{RESOURCE}'}}\n{limits}\n",
        front.address,
        issuer.url()
    )
}

/// The reason of a refused tool call, as its model reads it.
fn reason(said: &Said) -> &str {
    let result = &said.message["result"];
    if result["isError"] != true {
        return "";
    }
    result["_meta"]["io.portunus/denial"]["reason"].as_str().unwrap_or_default()
}

async fn find(caller: &mut Caller, arguments: Value) -> Said {
    caller.call("find", arguments).await.unwrap()
}

#[tokio::test]
async fn call_beyond_a_limit_is_answered_for_its_model_and_told_to_operators() {
    for (client, server) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let bed = Bed::start(server, "limits: {per_principal: 3/hour}").await;
        let mut ann = bed.caller(client, "ann").await;
        for number in 0..3 {
            let said = find(&mut ann, json!({"n": number})).await;
            assert_eq!(said.text(), "find", "{client:?} {server:?}: {}", said.all());
        }
        let said = find(&mut ann, json!({})).await;
        assert_eq!((said.head.status, reason(&said)), (200, "rate_limited"), "{}", said.all());
        assert!(
            said.text().contains("limit `per_principal` of 3/hour is reached: try again in"),
            "{}",
            said.text()
        );
        let told = &said.message["result"]["_meta"]["io.portunus/denial"];
        let wait_ms = told["retryAfterMs"].as_u64().unwrap();
        assert!((1_000_000..=1_200_000).contains(&wait_ms), "{told}");
        let shown = (&told["code"], &told["limit"], &told["rule"], &told["remaining"]);
        assert_eq!(shown, (&json!(-31429), &json!("3/hour"), &json!("per_principal"), &json!(0)));
        assert_eq!(said.head.header("portunus-outcome"), Some("rate_limited"));
        assert_eq!(said.message["result"]["resultType"] == "complete", client == Era::Modern);
        assert_eq!(bed.server.counted("tools/call"), 3, "it did not reach the server");
        let mut bob = bed.caller(client, "bob").await;
        assert_eq!(find(&mut bob, json!({})).await.text(), "find", "another caller has a count of its own");

        let record = bed.gateway.recorded("the refusal", |record| record["status"] == "limited").await;
        let fields = ["reason", "limit", "decision"].map(|field| record[field].as_str().unwrap_or_default());
        assert_eq!(fields, ["rate_limited", "per_principal", "deny"], "{record}");
        for (outcome, calls) in [("allowed", 4.0), ("refused", 1.0), ("observed", 0.0)] {
            let label = format!("outcome=\"{outcome}\"");
            bed.gateway.counts("portunus_limit_calls_total", &label, calls).await;
        }
        bed.gateway.counts("mcp_denials_total", "reason=\"rate_limited\"", 1.0).await;
        let rule = &bed.gateway.status().await["limits"][0];
        let shown = (&rule["rule"], &rule["keys"], &rule["allowed"], &rule["refused"]);
        assert_eq!(shown, (&json!("per_principal"), &json!(2), &json!(4), &json!(1)), "{rule}");
        let id = said.head.header("portunus-request-id").unwrap();
        let explained =
            bed.gateway.command(&["explain", id, "--admin", &bed.gateway.admin.to_string()]).await;
        let explained = String::from_utf8(explained.stdout).unwrap();
        for part in ["stage       limits", "per_principal at", "principal ann", "3 of 3/hour"] {
            assert!(explained.contains(part), "{part}:\n{explained}");
        }
    }
}

#[tokio::test]
async fn lists_are_not_counted() {
    for era in ERAS {
        let bed = Bed::start(era, "limits: {per_principal: 1/hour}").await;
        let mut ann = bed.caller(era, "ann").await;
        for _ in 0..2 {
            for _ in 0..5 {
                let said = ann.request("tools/list", json!({})).await.unwrap();
                assert!(said.message["result"]["tools"].is_array(), "{}", said.all());
            }
            find(&mut ann, json!({})).await;
        }
        assert_eq!(bed.server.counted("tools/call"), 1);
    }
}

#[tokio::test]
async fn quotas_and_budgets_survive_a_restart() {
    let limits = "tools: {'up.find': {cost: 0.4}}\nlimits: {per_principal: {quota: 3/month}, per_tenant: {budget: $1/month}}";
    let mut bed = Bed::start(Era::Modern, limits).await;
    let mut ann = bed.caller(Era::Modern, "ann").await;
    for _ in 0..2 {
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
    }
    assert_eq!(reason(&find(&mut ann, json!({})).await), "budget_spent");
    let told = |entry: &Value| {
        entry["message"] == "a budget is spent by four fifths" && entry["rule"] == "per_tenant"
    };
    bed.gateway.logged("that the budget is nearly spent", told).await;
    bed.gateway.signal("TERM");
    bed.gateway.exited().await;
    bed.gateway = bed.gateway.again().await;
    let mut ann = bed.caller(Era::Modern, "ann").await;
    assert_eq!(reason(&find(&mut ann, json!({})).await), "budget_spent");
    assert_eq!(ann.call("read", json!({})).await.unwrap().text(), "read", "it costs nothing");
    let said = ann.call("read", json!({})).await.unwrap();
    assert_eq!(reason(&said), "quota_spent", "{}", said.all());
}

#[tokio::test]
async fn each_message_of_a_batch_is_counted() {
    let bed = Bed::start(Era::Legacy, "limits: {per_principal: 3/hour}").await;
    let token = bed.issuer.token_with(&bed.key, RESOURCE, json!({"sub": "ann", "tenant": "acme"}));
    let authorization = ("authorization", format!("Bearer {token}"));
    let opening = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let opened = bed.gateway.post("/mcp", std::slice::from_ref(&authorization), &opening.to_string()).await;
    let session = opened.header("mcp-session-id").unwrap().to_owned();
    let call = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "find", "arguments": {}}});
    let batch: Vec<Value> = (1..=5).map(call).collect();
    let fields = [authorization, ("mcp-session-id", session)];
    let answered = bed.gateway.post("/mcp", &fields, &json!(batch).to_string()).await;
    let text = String::from_utf8_lossy(&answered.body).into_owned();
    assert_eq!(text.matches("rate_limited").count(), 2, "{text}");
    assert_eq!(bed.server.counted("tools/call"), 3);
}

#[tokio::test]
async fn calls_at_once_are_bounded_and_a_client_that_leaves_frees_its_permit() {
    for era in ERAS {
        let mut bed = Bed::start(era, "limits: {concurrent: 2}").await;
        let mut callers =
            [bed.caller(era, "ann").await, bed.caller(era, "ann").await, bed.caller(era, "ann").await];
        assert_eq!(find(&mut callers[0], json!({})).await.text(), "find");
        bed.front.turn(Mood::Hangs).await;
        let [one, two, mut third] = callers;
        let call = |mut caller: Caller| tokio::spawn(async move { caller.call("find", json!({})).await });
        let waiting = [call(one), call(two)];
        within(10, "two calls to be under way", async {
            while bed.gateway.counted("portunus_limit_calls_total", "outcome=\"allowed\"").await < 3.0 {}
        })
        .await;
        let refused = find(&mut third, json!({})).await;
        assert_eq!(reason(&refused), "concurrency_reached", "{}", refused.all());
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        bed.front.turn(Mood::Passes).await;
        within(10, "permits to be free again", async {
            while find(&mut third, json!({})).await.text() != "find" {}
        })
        .await;
        within(10, "all permits to be given back", async {
            while bed.gateway.metric("portunus_limit_keys{rule=\"concurrent\"}").await != Some(0.0) {}
        })
        .await;
    }
}

#[tokio::test]
async fn calls_that_reached_no_server_are_given_back() {
    for era in ERAS {
        let mut bed = Bed::start(era, "limits: {per_principal: 3/hour}").await;
        let mut ann = bed.caller(era, "ann").await;
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        bed.front.turn(Mood::Refuses).await;
        for _ in 0..5 {
            let said = find(&mut ann, json!({})).await;
            assert_eq!(said.code(), Some(-31503), "{}", said.all());
        }
        bed.front.turn(Mood::Passes).await;
        let mut answered = 1;
        within(10, "the rate to be used up", async {
            loop {
                let said = find(&mut ann, json!({})).await;
                match (said.text(), reason(&said)) {
                    ("find", _) => answered += 1,
                    (_, "rate_limited") => return,
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(answered, 3, "{era:?}");
    }
}

#[tokio::test]
async fn counts_survive_a_swap_and_sessions_go_on_when_limits_come_and_go() {
    for era in ERAS {
        let bed = Bed::start(era, "").await;
        assert_eq!(bed.gateway.status().await["servers"][0]["mode"], "passes");
        let mut ann = bed.caller(era, "ann").await;
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        bed.configure("limits: {per_principal: 3/hour}").await;
        assert_eq!(bed.gateway.status().await["servers"][0]["mode"], "serves");
        for _ in 0..2 {
            assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        }
        bed.configure("limits: {per_principal: 3/hour, per_tool: 100/s}").await;
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        assert_eq!(reason(&find(&mut ann, json!({})).await), "rate_limited");
        bed.configure("limits: {per_principal: 5/hour}").await;
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
        assert_eq!(reason(&find(&mut ann, json!({})).await), "rate_limited", "three of five were spent");
        bed.configure("").await;
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
    }
}

#[tokio::test]
async fn observed_rule_refuses_nothing_and_stands_in_the_record() {
    let bed = Bed::start(Era::Modern, "limits: {per_tool: {rate: 1/hour, mode: observe}}").await;
    let mut ann = bed.caller(Era::Modern, "ann").await;
    for _ in 0..3 {
        assert_eq!(find(&mut ann, json!({})).await.text(), "find");
    }
    let record = bed.gateway.recorded("an observed call", |record| !record["observed"].is_null()).await;
    assert_eq!((&record["observed"], &record["status"]), (&json!(["per_tool"]), &json!("ok")), "{record}");
    bed.gateway.counts("portunus_limit_calls_total", "outcome=\"observed\"", 2.0).await;
}

#[tokio::test]
async fn the_same_call_again_and_again_is_stopped_and_another_is_not() {
    for era in ERAS {
        let bed = Bed::start(era, "limits: {loop: 3/m}").await;
        let mut ann = bed.caller(era, "ann").await;
        for _ in 0..3 {
            assert_eq!(find(&mut ann, json!({"q": "x", "n": 1})).await.text(), "find");
        }
        let said = find(&mut ann, json!({"n": 1, "q": "x"})).await;
        assert_eq!(reason(&said), "loop_detected", "{}", said.all());
        assert!(said.text().contains("change the arguments"), "{}", said.text());
        assert_eq!(find(&mut ann, json!({"q": "y", "n": 1})).await.text(), "find");
        assert_eq!(ann.call("read", json!({"q": "x", "n": 1})).await.unwrap().text(), "read");
    }
}

#[tokio::test]
async fn call_that_waits_for_its_client_holds_no_permit() {
    let server =
        Mcp::start(Nature::of(Era::Legacy), vec![tool("ask"), tool("find")], |call: Call| async move {
            if call.tool() == "ask" {
                let said = call.elicit("Your name?").await;
                return Ok(text(said["result"]["content"]["name"].as_str().unwrap_or("nobody")));
            }
            Ok(text("find"))
        })
        .await;
    let document =
        format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\nlimits: {{concurrent: 1}}\n", server.url());
    let gateway = Gateway::start(&document).await;
    let mut caller = Caller::new(Era::Modern, gateway.address).ready().await;
    let call = json!({"name": "ask", "arguments": {}});
    let asked = caller.request("tools/call", call.clone()).await.unwrap();
    let result = &asked.message["result"];
    assert_eq!(result["resultType"], "input_required", "{}", asked.all());
    assert_eq!(find(&mut caller, json!({})).await.text(), "find", "the permit is free");
    let (key, _) = result["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let mut retry = call;
    retry["requestState"] = result["requestState"].clone();
    retry["inputResponses"] = json!({ key: {"action": "accept", "content": {"name": "Ada"}} });
    let said = caller.request("tools/call", retry).await.unwrap();
    assert_eq!(said.text(), "Ada", "{}", said.all());
    assert_eq!(find(&mut caller, json!({})).await.text(), "find");
    within(10, "all permits to be given back", async {
        while gateway.metric("portunus_limit_keys{rule=\"concurrent\"}").await != Some(0.0) {}
    })
    .await;
}
