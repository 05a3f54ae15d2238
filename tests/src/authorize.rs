//! Who may do what: policy on live traffic, on every way that a message can take.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{
    Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Said, modern_call, modern_headers, within,
};
use serde_json::{Value, json};

const RESOURCE: &str = "https://gw.example/mcp";

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// What concerns no tool is open, tools are those of the caller's roles.
const ROLES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\n\
    decision if {\n\tsome role in input.principal.roles\n\tinput.tool.original in may[role]\n}\n\n\
    may := {\"reader\": {\"find\", \"ask\"}, \"writer\": {\"find\", \"ask\", \"delete\"}}\n";

/// A gateway with a policy, an issuer of tokens, and an MCP server.
struct House {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl House {
    /// `rego` is the policy; `rest` goes beside it in the document.
    async fn start(era: Era, rego: &str, rest: &str) -> House {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let server = server(era).await;
        let document = document(&issuer, &server, rest);
        let gateway = Gateway::start_beside(&[("policy.rego", rego)], &document).await;
        House { gateway, issuer, key, server }
    }

    /// A client whose caller holds these roles.
    async fn caller(&self, era: Era, roles: &[&str]) -> Caller {
        self.caller_with(era, json!({"roles": roles, "sub": roles.join("-")})).await
    }

    async fn caller_with(&self, era: Era, claims: Value) -> Caller {
        let token = self.issuer.token_with(&self.key, RESOURCE, claims);
        Caller::new(era, self.gateway.address).presenting(&token).ready().await
    }

    /// Waits until the server's list is known, so that no later answer waits for it.
    async fn warmed(&self, caller: &mut Caller) {
        names(&caller.request("tools/list", json!({})).await.unwrap());
    }
}

fn document(issuer: &Issuer, server: &Mcp, rest: &str) -> String {
    let policy = if rest.contains("policy:") { "" } else { "policy: policy.rego\n" };
    format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
         jwt: {{issuer: '{}', roles: roles, claims: [region]}}\n{policy}{rest}",
        server.url(),
        issuer.url()
    )
}

/// A server that tells what it got: `find` as data, `ask` after a question.
async fn server(era: Era) -> Mcp {
    let find = json!({"name": "find", "description": "find", "inputSchema": {
        "type": "object", "properties": {"region": {"type": "string"}, "q": {}}, "required": ["region", "q"]}});
    let tools = vec![find, tool("delete"), tool("ask")];
    Mcp::start(Nature::of(era), tools, |call: Call| async move {
        call.count(&format!("called {}", call.tool()));
        if call.tool() == "ask" && call.session.is_some() {
            let answer = call.elicit("Your name?").await;
            return Ok(text(answer.to_string()));
        }
        let told = json!({"got": call.params["arguments"], "meta": call.params["_meta"], "salary": 7});
        Ok(json!({"content": [{"type": "text", "text": told.to_string()}], "structuredContent": told}))
    })
    .await
}

fn names(said: &Said) -> Vec<String> {
    let tools = said.message["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn reason(said: &Said) -> &str {
    said.message["error"]["data"]["reason"].as_str().unwrap_or_default()
}

fn data(said: &Said) -> &Value {
    &said.message["result"]["structuredContent"]
}

#[tokio::test]
async fn calls_and_lists_go_by_the_same_rules_on_every_way() {
    for (client, server) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let house = House::start(server, ROLES, "").await;
        let mut reader = house.caller(client, &["reader"]).await;
        let mut writer = house.caller(client, &["writer"]).await;
        let mut nobody = house.caller(client, &["other"]).await;
        let listed =
            async |caller: &mut Caller| names(&caller.request("tools/list", json!({})).await.unwrap());
        assert_eq!(listed(&mut reader).await, ["find", "ask"], "{client:?} {server:?}");
        assert_eq!(listed(&mut writer).await, ["find", "delete", "ask"], "{client:?} {server:?}");
        assert_eq!(listed(&mut nobody).await, [""; 0], "{client:?} {server:?}");
        assert!(writer.call("delete", json!({})).await.unwrap().code().is_none(), "{client:?} {server:?}");
        let refused = reader.call("delete", json!({})).await.unwrap();
        assert_eq!((refused.head.status, refused.code()), (200, Some(-32602)), "{}", refused.all());
        assert_eq!(nobody.call("find", json!({})).await.unwrap().code(), Some(-32602));
        assert_eq!(house.server.counted("called delete"), 1, "a refused call went on");
        assert_eq!(house.server.counted("called find"), 0, "a refused call went on");
        let shown = reader.request("tools/list", json!({})).await.unwrap();
        if client == Era::Modern {
            assert_eq!(shown.message["result"]["cacheScope"], "private");
        }
    }
}

#[tokio::test]
async fn an_invisible_tool_reads_as_an_unknown_one() {
    for era in ERAS {
        let house = House::start(era, ROLES, "").await;
        let mut reader = house.caller(era, &["reader"]).await;
        house.warmed(&mut reader).await;
        let asked = house.server.counted("tools/list");
        let mut read = async |tool: &str| {
            let said = reader.call(tool, json!({"region": "eu"})).await.unwrap();
            let mut answer = said.message.clone();
            for (place, mark) in [("/id", json!(0)), ("/error/data/requestId", json!("r"))] {
                *answer.pointer_mut(place).unwrap() = mark;
            }
            // With its request's id, the length of an answer varies.
            let varying = ["portunus-request-id", "date", "content-length"];
            let headers: Vec<_> = said
                .head
                .headers
                .iter()
                .filter(|(name, _)| !varying.contains(&name.as_str()))
                .cloned()
                .collect();
            (said.head.status, headers, answer.to_string().replace(tool, "TOOL"))
        };
        let (hidden, unknown) = (read("delete").await, read("delets").await);
        assert_eq!(hidden, unknown, "{era:?}");
        assert_eq!(house.server.counted("tools/list"), asked, "one of the two was looked for elsewhere");
    }
}

#[tokio::test]
async fn a_visible_tool_that_is_refused_says_why() {
    let rego = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": false, \"reason\": \"not your region\"}\n\
        decision := {\"allow\": true} if input.mcp.kind in {\"server\", \"stream\"}\n\
        decision := {\"allow\": true} if input.mcp.arguments.region == input.principal.claims.region\n\
        visible := true\n";
    for era in ERAS {
        let house = House::start(era, rego, "").await;
        let mut caller = house.caller_with(era, json!({"region": "eu"})).await;
        let allowed = caller.call("find", json!({"region": "eu", "q": 1.50})).await.unwrap();
        assert_eq!(data(&allowed)["got"], json!({"region": "eu", "q": 1.5}), "{}", allowed.all());
        let refused = caller.call("find", json!({"region": "us"})).await.unwrap();
        assert_eq!((refused.head.status, refused.code(), reason(&refused)), (200, Some(-31403), "forbidden"));
        assert_eq!(refused.message["error"]["message"], "not your region");
        assert_eq!(refused.head.header("portunus-outcome"), Some("forbidden"));
        let missing = caller.call("find", json!({})).await.unwrap();
        assert_eq!(reason(&missing), "forbidden", "{}", missing.all());
        // Readers differ in which of two equal names counts.
        let twice = caller.call("find", json!({"region": ["eu"]})).await.unwrap();
        assert_eq!(reason(&twice), "forbidden", "{}", twice.all());
        assert_eq!(house.server.counted("called find"), 1);
        let record = house.gateway.recorded("the refusal", |record| record["reason"] == "forbidden").await;
        assert_eq!(
            (&record["rule"], &record["policy_reason"]),
            (&json!("decision"), &json!("not your region"))
        );
    }
}

/// A policy that allows everything with these obligations for tools.
fn obliging(obligations: &str) -> String {
    format!(
        "package mcp.authz\nimport rego.v1\ndefault decision := {{\"allow\": true}}\n\
         decision := {{\"allow\": true, \"obligations\": {obligations}}} if input.mcp.kind == \"tool\"\n"
    )
}

#[tokio::test]
async fn arguments_that_the_policy_sets_cannot_be_sent_otherwise_and_are_not_advertised() {
    for (client, server) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let house = House::start(server, &obliging("{\"inject\": {\"region\": \"eu\"}}"), "").await;
        let mut caller = house.caller(client, &["reader"]).await;
        let list = caller.request("tools/list", json!({})).await.unwrap();
        let schema = &list.message["result"]["tools"][0]["inputSchema"];
        assert_eq!(
            (&schema["required"], schema["properties"].get("region")),
            (&json!(["q"]), None),
            "{schema}"
        );
        for sent in [json!({"q": 1}), json!({"q": 1, "region": "us"})] {
            let said = caller.call("find", sent).await.unwrap();
            assert_eq!(
                data(&said)["got"],
                json!({"q": 1, "region": "eu"}),
                "{client:?} {server:?} {}",
                said.all()
            );
        }
    }
}

#[tokio::test]
async fn answers_are_blanked_and_bounded() {
    for (client, server) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let house = House::start(server, &obliging("{\"redact\": [\"salary\"]}"), "").await;
        let mut caller = house.caller(client, &["reader"]).await;
        let said = caller.call("find", json!({})).await.unwrap();
        assert_eq!(data(&said)["salary"], 0, "{client:?} {server:?} {}", said.all());
        let twin: Value = serde_json::from_str(said.text()).unwrap();
        assert_eq!(&twin, data(&said), "the text and the data tell different things");
        let house = House::start(server, &obliging("{\"max_result_bytes\": 20}"), "").await;
        let said = house.caller(client, &["reader"]).await.call("find", json!({})).await.unwrap();
        assert_eq!((said.head.status, reason(&said)), (200, "result_too_large"), "{}", said.all());
    }
}

#[tokio::test]
async fn a_weak_caller_is_asked_to_step_up_and_approvals_are_waited_for() {
    let step = "{\"step_up\": {\"acr\": \"gold\", \"max_age\": \"5m\"}}";
    for era in ERAS {
        let house = House::start(era, &obliging(step), "").await;
        let mut weak = house.caller(era, &["reader"]).await;
        let said = weak.call("find", json!({})).await.unwrap();
        assert_eq!((said.head.status, reason(&said)), (401, "step_up_required"), "{}", said.all());
        let challenge = said.head.header("www-authenticate").unwrap_or_default();
        for part in [
            "error=\"insufficient_user_authentication\"",
            "acr_values=\"gold\"",
            "max_age=\"300\"",
            "resource_metadata=",
        ] {
            assert!(challenge.contains(part), "{part}: {challenge}");
        }
        let now = house.issuer.claims(RESOURCE, json!({}))["iat"].clone();
        let mut strong = house.caller_with(era, json!({"acr": "gold", "auth_time": now})).await;
        let said = strong.call("find", json!({})).await.unwrap();
        assert!(said.code().is_none(), "{}", said.all());
        assert_eq!(house.server.counted("called find"), 1);
        let house = House::start(era, &obliging("{\"approve\": {\"count\": 2}}"), "").await;
        let said = house.caller(era, &["reader"]).await.call("find", json!({})).await.unwrap();
        assert_eq!((said.head.status, reason(&said)), (200, "approval_required"), "{}", said.all());
        assert_eq!(house.server.counted("called find"), 0);
    }
}

#[tokio::test]
async fn a_reason_is_read_by_policy_and_goes_no_further() {
    let rego = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if input.mcp.kind != \"tool\"\ndecision if count(input.context.justification) > 5\nvisible := true\n";
    for era in ERAS {
        let house = House::start(era, rego, "").await;
        let mut caller = house.caller(era, &["reader"]).await;
        let call = |why: Value| json!({"name": "find", "arguments": {}, "_meta": why});
        let refused = caller.request("tools/call", call(json!({}))).await.unwrap();
        assert_eq!(reason(&refused), "forbidden", "{}", refused.all());
        let why = json!({"io.portunus/justification": "a good reason", "io.portunus/run": "r1", "own": 1});
        let said = caller.request("tools/call", call(why)).await.unwrap();
        let meta = &data(&said)["meta"];
        assert_eq!(meta["own"], 1, "{}", said.all());
        let ours = meta.as_object().unwrap().keys().any(|key| key.starts_with("io.portunus"));
        assert!(!ours, "the server was told: {meta}");
        let long = json!({"io.portunus/justification": "x".repeat(501)});
        assert_eq!(reason(&caller.request("tools/call", call(long)).await.unwrap()), "invalid_params");
    }
}

#[tokio::test]
async fn clients_are_not_asked_what_policy_does_not_let_through() {
    let rego = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if input.mcp.direction == \"to_client\"\n";
    for era in ERAS {
        let house = House::start(Era::Legacy, rego, "").await;
        let mut caller = house.caller(era, &["reader"]).await;
        let said = caller.call("ask", json!({})).await.unwrap();
        assert!(said.text().contains("-31403"), "{era:?} {}", said.all());
        assert!(said.before.iter().all(|message| message.get("method").is_none()), "{:?}", said.before);
        let house = House::start(Era::Legacy, ROLES, "").await;
        let said = house.caller(era, &["reader"]).await.call("ask", json!({})).await.unwrap();
        assert!(said.text().contains("accept"), "{era:?} {}", said.all());
    }
}

#[tokio::test]
async fn a_denied_notification_is_dropped_and_taken_all_the_same() {
    let rego = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if startswith(input.mcp.method, \"notifications/progress\")\n";
    for era in ERAS {
        let house = House::start(era, rego, "").await;
        let mut caller = house.caller(era, &["reader"]).await;
        assert_eq!(caller.notify("notifications/progress", json!({})).await.unwrap(), 202, "{era:?}");
        house.gateway.recorded("the refusal", |record| record["reason"] == "forbidden").await;
        assert_eq!(house.server.counted("notifications/progress"), 0);
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_swap_that_forbids_it() {
    let closed = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if input.mcp.kind == \"stream\"\n";
    for era in ERAS {
        let house = House::start(era, ROLES, "").await;
        let mut caller = house.caller(era, &["reader"]).await;
        house.warmed(&mut caller).await;
        let mut stream = match era {
            Era::Legacy => caller.stream(None).await.unwrap().0,
            Era::Modern => caller.listening().await,
        };
        house.gateway.place("policy.rego", closed);
        let rest = within(10, "the end of the stream", stream.rest()).await;
        if era == Era::Modern {
            assert!(rest.contains("\"complete\""), "{rest}");
        }
        house.gateway.reaches("the new policy", |status| status["serial"] == 2).await;
        let listed = caller.request("tools/list", json!({})).await.unwrap();
        assert_eq!(names(&listed).len(), 3, "what is not a stream goes on");
    }
}

#[tokio::test]
async fn a_policy_that_gives_no_decision_denies() {
    let table = [
        (
            "two values",
            "decision := true if input.mcp.name == \"find\"\ndecision := false if input.principal.roles\n",
        ),
        ("a text", "decision := \"yes\"\n"),
        ("nothing", "decision if input.mcp.name == \"nothing\"\n"),
    ];
    for (name, rules) in table {
        let rego = format!("package mcp.authz\nimport rego.v1\n{rules}visible := true\n");
        let house = House::start(Era::Modern, &rego, "").await;
        let said = house.caller(Era::Modern, &["reader"]).await.call("find", json!({})).await.unwrap();
        assert_eq!((said.head.status, reason(&said)), (200, "policy_error"), "{name} {}", said.all());
        house.gateway.logged("the fault", |entry| entry["message"] == "the policy gave no decision").await;
        assert_eq!(house.server.counted("called find"), 0, "{name}");
    }
}

#[tokio::test]
async fn tools_are_held_to_their_facts() {
    let rest = "tools:\n  'up.find': {scopes: [crm.read]}\n  'up.delete': {not_after: '2020-01-01'}\n";
    for era in ERAS {
        let house = House::start(era, "package mcp.authz\nimport rego.v1\ndecision := true\n", rest).await;
        let mut caller = house.caller(era, &["reader"]).await;
        assert_eq!(names(&caller.request("tools/list", json!({})).await.unwrap()), ["find", "ask"]);
        let said = caller.call("find", json!({})).await.unwrap();
        assert_eq!((said.head.status, reason(&said)), (403, "insufficient_scope"), "{}", said.all());
        let challenge = said.head.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("scope=\"crm.read\""), "{challenge}");
        assert_eq!(caller.call("delete", json!({})).await.unwrap().code(), Some(-32602));
        let mut scoped = house.caller_with(era, json!({"scope": "crm.read"})).await;
        let said = scoped.call("find", json!({})).await.unwrap();
        assert!(said.code().is_none(), "{}", said.all());
    }
}

#[tokio::test]
async fn what_a_plain_server_may_be_told_goes_to_it_as_it_is() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = server(Era::Modern).await;
    let document = format!(
        "upstreams:\n  up: {{url: '{}', credentials: passthrough}}\nservers:\n  /mcp: up\nidentity:\n  \
         url: https://gw.example\n  jwt: {{issuer: '{}', roles: roles}}\npolicy: policy.rego\n",
        server.url(),
        issuer.url()
    );
    let gateway = Gateway::start_beside(&[("policy.rego", ROLES)], &document).await;
    let token = issuer.token_with(&key, RESOURCE, json!({"roles": ["reader"]}));
    let call = async |tool: &str| {
        let mut headers = modern_headers(tool);
        headers.push(("authorization", format!("Bearer {token}")));
        gateway.post("/mcp", &headers, &modern_call(1, tool)).await
    };
    let allowed = call("find").await;
    assert!(allowed.json()["result"].is_object(), "{:?}", allowed.json());
    for (tool, name) in [("delete", "invisible"), ("nothing", "unknown")] {
        let refused = call(tool).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (200, &json!(-32602)), "{name}");
        assert_eq!(refused.json()["error"]["message"], format!("Unknown tool: {tool}"), "{name}");
    }
    assert_eq!((server.counted("called find"), server.counted("called delete")), (1, 0));
    let record = gateway.recorded("the call", |record| record["tool_name"] == "find").await;
    assert_eq!((&record["rule"], &record["upstream"]), (&json!("decision"), &json!("up")));
}

#[tokio::test]
async fn a_refusal_is_explained_without_what_was_in_the_call() {
    let rego = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": false, \"reason\": \"elsewhere\"}\n\
        decision := {\"allow\": true} if input.mcp.kind != \"tool\"\n\
        decision := {\"allow\": true} if {\n\tinput.principal.claims.region == \"eu\"\n\tinput.mcp.arguments.region == \"eu\"\n}\n\
        visible := true\n";
    let house = House::start(Era::Modern, rego, "").await;
    let mut caller = house.caller_with(Era::Modern, json!({"region": "eu"})).await;
    let said = caller.call("find", json!({"region": "s3cret"})).await.unwrap();
    let id = said.message["error"]["data"]["requestId"].as_str().unwrap().to_owned();
    let admin = house.gateway.admin.to_string();
    let path = format!("/refusals?id={id}");
    let explained = async {
        loop {
            let told = house.gateway.get(house.gateway.admin, &path).await.json();
            if told[0]["rules"].is_array() {
                return told[0].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let told = within(10, "the account of a refusal", explained).await;
    assert_eq!((&told["stage"], &told["rule"]), (&json!("authorize"), &json!("decision")));
    let output = house.gateway.command(&["explain", &id, "--admin", &admin]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "forbidden",
        "elsewhere",
        "input.principal.claims.region = \"eu\"",
        "data.mcp.authz.decision",
        "policy.rego:",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains("s3cret") && !told.to_string().contains("s3cret"), "{text}");
    let house = House::start(Era::Modern, ROLES, "").await;
    let said = house.caller(Era::Modern, &["reader"]).await.call("delete", json!({})).await.unwrap();
    let id = said.message["error"]["data"]["requestId"].as_str().unwrap().to_owned();
    let admin = house.gateway.admin.to_string();
    let output = house.gateway.command(&["explain", &id, "--admin", &admin]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("unknown_tool") && text.contains("by decision"),
        "the operator cannot tell: {text}"
    );
    let none = house.gateway.command(&["explain", "no-such-id", "--admin", &admin]).await;
    assert!(!none.status.success());
}

#[tokio::test]
async fn a_policy_that_is_tried_is_counted_and_decides_nothing() {
    let strict = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": false, \"reason\": \"stricter\"}\n\
        decision := {\"allow\": true} if input.mcp.kind != \"tool\"\n";
    let open = "package mcp.authz\nimport rego.v1\ndecision := true\n";
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = server(Era::Modern).await;
    let rest = "policy: {path: policy.rego, shadow: {path: next.rego}}\n";
    let files = [("policy.rego", open), ("next.rego", strict)];
    let gateway = Gateway::start_beside(&files, &document(&issuer, &server, rest)).await;
    let token = issuer.token_with(&key, RESOURCE, json!({"roles": ["reader"]}));
    let mut caller = Caller::new(Era::Modern, gateway.address).presenting(&token).ready().await;
    assert!(caller.call("find", json!({})).await.unwrap().code().is_none());
    let told = gateway.logged("the difference", |entry| entry["difference"] == "would_deny").await;
    assert_eq!((&told["tried_reason"], &told["count"]), (&json!("stricter"), &json!(1)));
    let metric = "portunus_policy_shadow_total{entry=\"decision\",result=\"would_deny\"}";
    assert_eq!(gateway.metric(metric).await, Some(1.0));
}

#[tokio::test]
async fn a_recording_can_be_replayed() {
    let house = House::start(Era::Modern, ROLES, "").await;
    let mut caller = house.caller(Era::Modern, &["reader"]).await;
    caller.call("find", json!({"q": "before"})).await.unwrap();
    house.gateway.control("/record?every=1&seconds=600").await;
    house
        .gateway
        .logged("the recording", |entry| entry["message"] == "questions to policy are recorded")
        .await;
    for tool in ["find", "delete", "ask"] {
        caller.call(tool, json!({"q": "payload"})).await.unwrap();
    }
    house.gateway.control("/record?seconds=0").await;
    let ended = house.gateway.logged("its end", |entry| entry["message"] == "the recording has ended").await;
    assert_eq!(ended["lines"], 2, "what is hidden is not asked about as a call");
    let path = ended["path"].as_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("payload"), "more is recorded than the policy reads: {text}");
    house
        .gateway
        .place("next.rego", &ROLES.replace("{\"find\", \"ask\"}, \"writer\"", "{\"find\"}, \"writer\""));
    let output = house.gateway.command(&["diff", "policy.rego", "next.rego", "--replay", path]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("1 of 2 decisions change"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
