//! Tasks: what was decided of a call holds for everything that its task brings.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Said, Upstream};
use serde_json::{Value, json};

const RESOURCE: &str = "https://gw.example/mcp";

/// Methods about a task that its client knows.
const METHODS: [&str; 4] = ["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"];

/// Readers may call both tools; what `work` tells of salaries is blanked.
const RULES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := {\"allow\": false}\n\n\
    decision := {\"allow\": true} if input.mcp.kind in {\"server\", \"stream\"}\n\n\
    decision := {\"allow\": true, \"obligations\": {\"redact\": [\"salary\"], \"max_result_bytes\": 600}} if {\n\t\
    input.mcp.method == \"tools/call\"\n\tinput.tool.original == \"work\"\n\t\"reader\" in input.principal.roles\n}\n\n\
    decision := {\"allow\": true} if {\n\tinput.mcp.method != \"tools/call\"\n\tinput.mcp.kind == \"tool\"\n}\n\n\
    decision := {\"allow\": true} if input.tool.original == \"plain\"\n";

/// The same without obligations, and with `work` for nobody.
const FREE: &str = "package mcp.authz\n\nimport rego.v1\n\ndecision := true\n";
const CLOSED: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\n\
    decision if input.tool.original == \"plain\"\n\ndecision if input.mcp.method != \"tools/call\"\n";

/// A server whose tools make tasks that are done at once, and tell what they have found in all places.
async fn server() -> Mcp {
    let tools = vec![tool("work"), tool("plain")];
    Mcp::start(Nature::of(Era::Modern), tools, |call: Call| async move {
        if call.method == "tools/call" {
            let own = format!("own-{}", call.tool());
            return Ok(json!({"resultType": "task", "taskId": own, "status": "working",
                "statusMessage": "salary: 7", "ttlMs": 60_000}));
        }
        call.count(&format!("{} {}", call.method, call.params["taskId"].as_str().unwrap()));
        let data = json!({"salary": 7, "name": "Ada"});
        let result =
            json!({"content": [{"type": "text", "text": data.to_string()}], "structuredContent": data});
        let padding = call.params["_meta"]["pad"].as_u64().unwrap_or_default();
        Ok(json!({"taskId": call.params["taskId"], "status": "completed", "statusMessage": "salary: 7",
            "result": result, "content": result["content"], "structuredContent": result["structuredContent"],
            "pad": "p".repeat(usize::try_from(padding).unwrap())}))
    })
    .await
}

struct House {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl House {
    async fn start(rego: &str, credentials: &str) -> House {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let server = server().await;
        let document = format!(
            "upstreams:\n  up: {{url: '{}'{credentials}}}\nservers:\n  /mcp: up\nidentity:\n  url: \
             https://gw.example\n  jwt: {{issuer: '{}', roles: roles}}\npolicy: policy.rego\n",
            server.url(),
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("policy.rego", rego)], &document).await;
        House { gateway, issuer, key, server }
    }

    fn caller(&self, era: Era) -> Caller {
        let token = self.issuer.token_with(&self.key, RESOURCE, json!({"roles": ["reader"], "sub": "anna"}));
        Caller::new(era, self.gateway.address).presenting(&token)
    }

    async fn swap(&self, rego: &str) {
        let before = self.gateway.status().await["serial"].clone();
        self.gateway.place("policy.rego", rego);
        self.gateway.reaches("the new policy", |status| status["serial"] != before).await;
    }
}

async fn task(caller: &mut Caller, tool: &str) -> String {
    let made = caller.call(tool, json!({"amount": 1})).await.unwrap();
    assert_eq!(made.message["result"]["resultType"], "task", "{}", made.all());
    let id = made.message["result"]["taskId"].as_str().unwrap().to_owned();
    assert!(!id.contains("own"), "{id}");
    id
}

async fn asked(caller: &mut Caller, method: &str, id: &str) -> Said {
    caller.request(method, json!({"taskId": id})).await.unwrap()
}

/// Whether nothing of a salary is in an answer.
fn is_blank(said: &Said) -> bool {
    let result = &said.message["result"];
    result.is_object()
        && !result["statusMessage"].to_string().contains('7')
        && !result["content"].to_string().contains('7')
        && !result["result"].to_string().contains('7')
        && result["result"]["structuredContent"] == json!({"salary": 0, "name": "Ada"})
        && result["structuredContent"] == json!({"salary": 0, "name": "Ada"})
}

#[tokio::test]
async fn obligations_of_a_call_hold_for_its_task_on_every_way() {
    for credentials in ["", ", credentials: passthrough"] {
        let house = House::start(RULES, credentials).await;
        let mut anna = house.caller(Era::Modern);
        let made = anna.call("work", json!({})).await.unwrap();
        assert_eq!(made.message["result"]["statusMessage"], "[redacted]", "{}", made.all());
        let (work, plain) = (task(&mut anna, "work").await, task(&mut anna, "plain").await);
        for swapped in [false, true] {
            if swapped {
                house.swap(FREE).await;
            }
            for method in METHODS {
                let told = asked(&mut anna, method, &work).await;
                assert!(is_blank(&told), "{credentials} {method} {swapped} {}", told.all());
                assert_eq!(told.message["result"]["taskId"], work, "{method}");
                let open = asked(&mut anna, method, &plain).await;
                assert_eq!(
                    open.message["result"]["result"]["structuredContent"]["salary"],
                    7,
                    "{}",
                    open.all()
                );
            }
            let pad = json!({"taskId": work, "_meta": {"pad": 600}});
            let long = anna.request("tasks/get", pad).await.unwrap();
            assert_eq!(long.message["error"]["data"]["reason"], "result_too_large", "{}", long.all());
            let pad = json!({"taskId": plain, "_meta": {"pad": 600}});
            assert!(anna.request("tasks/get", pad).await.unwrap().message["result"].is_object());
        }
    }
}

#[tokio::test]
async fn denied_tool_denies_its_tasks() {
    for credentials in ["", ", credentials: passthrough"] {
        let house = House::start(RULES, credentials).await;
        let mut anna = house.caller(Era::Modern);
        let (work, plain) = (task(&mut anna, "work").await, task(&mut anna, "plain").await);
        house.swap(CLOSED).await;
        let before = house.server.counts();
        for method in METHODS {
            let refused = asked(&mut anna, method, &work).await;
            assert!(refused.code().is_some(), "{credentials} {method} {}", refused.all());
            assert_eq!(house.server.counted(&format!("{method} own-work")), 0, "{method}");
            let served = asked(&mut anna, method, &plain).await;
            assert!(served.message["result"].is_object(), "{credentials} {method} {}", served.all());
        }
        assert_eq!(before.get("tasks/get own-plain"), None);
    }
}

#[tokio::test]
async fn task_is_judged_by_the_arguments_of_its_call() {
    let small = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if input.mcp.kind in {\"server\", \"stream\"}\ndecision if input.mcp.arguments.amount < 10\n\
        visible := true\n";
    let house = House::start(small, "").await;
    let mut anna = house.caller(Era::Modern);
    let id = task(&mut anna, "work").await;
    let told = asked(&mut anna, "tasks/get", &id).await;
    assert!(told.message["result"].is_object(), "{}", told.all());
    house.swap(&small.replace("< 10", "> 10")).await;
    let refused = asked(&mut anna, "tasks/get", &id).await;
    assert!(refused.code().is_some(), "{}", refused.all());
    let much = house.caller(Era::Modern).call("work", json!({"amount": 11, "pad": "p".repeat(9_000)})).await;
    let much = much.unwrap();
    assert_eq!(much.message["error"]["data"]["reason"], "untranslatable", "{}", much.all());
}

#[tokio::test]
async fn ids_that_were_not_given_are_unknown_in_both_eras() {
    let house = House::start(RULES, ", credentials: passthrough").await;
    let (mut anna, mut old) = (house.caller(Era::Modern), house.caller(Era::Legacy).ready().await);
    let id = task(&mut anna, "work").await;
    for method in METHODS {
        for shown in ["own-work", "own-plain", ""] {
            let refused = asked(&mut anna, method, shown).await;
            assert_eq!(refused.code(), Some(-32602), "{method} {shown} {}", refused.all());
        }
        for shown in ["own-work", &id] {
            let refused = asked(&mut old, method, shown).await;
            assert_eq!(refused.code(), Some(-32601), "{method} {shown} {}", refused.all());
        }
        assert_eq!(house.server.counted(method), 0, "{method}");
    }
    for caller in [&mut anna, &mut old] {
        assert_eq!(caller.request("tasks/list", json!({})).await.unwrap().code(), Some(-32601));
    }
    assert_eq!(house.server.counted("tasks/list"), 0);
    assert!(asked(&mut anna, "tasks/get", &id).await.message["result"].is_object());
}

#[tokio::test]
async fn clients_without_the_extension_are_told_to_declare_it() {
    const EXTENSION: &str = "io.modelcontextprotocol/tasks";
    let house = House::start(RULES, "").await;
    let mut anna = house.caller(Era::Modern);
    let id = task(&mut anna, "work").await;
    for method in METHODS {
        for shown in [&id, "never-given"] {
            let other = |text: &str| text.replace(EXTENSION, "example.org/other");
            let said = anna.edited(method, json!({"taskId": shown}), other).await.unwrap();
            let required = &said.message["error"]["data"]["requiredCapabilities"]["extensions"][EXTENSION];
            assert_eq!((said.head.status, said.code()), (400, Some(-32021)), "{method} {}", said.all());
            assert!(required.is_object(), "{method} {}", said.all());
        }
    }
    assert!(METHODS.iter().all(|method| house.server.counted(method) == 0));
    assert!(asked(&mut anna, "tasks/get", &id).await.message["result"].is_object());
}

#[tokio::test]
async fn notifications_of_tasks_and_resources_do_not_come_with_the_answer_to_a_call() {
    let mut seen = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        let server = Upstream::start(
            move |request: crate::harness::Request, mut wire: crate::harness::Wire| async move {
                let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let answer = |result: Value| {
                    json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()
                };
                match message["method"].as_str().unwrap_or_default() {
                    "server/discover" => {
                        wire.json(&answer(
                            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
                        "capabilities": {"tools": {}}}),
                        ))
                        .await;
                    }
                    "tools/list" => {
                        wire.json(&answer(json!({"resultType": "complete", "tools": [tool("work")]}))).await;
                    }
                    "tools/call" => {
                        wire.begin_events().await;
                        for method in ["tasks/status", "tasks", "resources/updated", "x"] {
                            let (method, params) =
                                (format!("notifications/{method}"), json!({"taskId": "own", "uri": "a:1"}));
                            let note = json!({"jsonrpc": "2.0", "method": method, "params": params});
                            wire.chunk(&format!("data: {note}\n\n")).await;
                        }
                        let mut result = text("done");
                        result["resultType"] = json!("complete");
                        wire.chunk(&format!("data: {}\n\n", answer(result))).await;
                        wire.end_chunks().await;
                    }
                    _ => {
                        let error =
                            json!({"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}});
                        let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string();
                        let head =
                            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length";
                        wire.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
                    }
                }
                Some(wire)
            },
        )
        .await;
        // Anonymous callers of a policy that changes nothing: calls of modern ones are passed.
        let document = format!(
            "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\npolicy: policy.rego\n",
            server.address
        );
        let gateway = Gateway::start_beside(&[("policy.rego", FREE)], &document).await;
        let mut caller = Caller::new(era, gateway.address).ready().await;
        let said = caller.call("work", json!({})).await.unwrap();
        assert_eq!(said.text(), "done", "{}", said.all());
        seen.push(said.before.iter().map(|note| note["method"].clone()).collect::<Vec<_>>());
    }
    assert_eq!(seen, [vec![json!("notifications/x")], vec![json!("notifications/x")]]);
}
