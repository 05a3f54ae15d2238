//! Prompts, resources, templates and questions of servers: the same policy as for tools, on live traffic.

use crate::harness::mcp::{Call, question, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, Request, Said, Upstream, Wire, within};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// Nobody sees what is called a secret, and tools have to claim that they only read.
const RULES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\n\
    decision if {\n\tinput.mcp.kind == \"prompt\"\n\tinput.mcp.name != \"secret\"\n}\n\n\
    decision if {\n\tinput.mcp.kind in {\"resource\", \"template\"}\n\tnot contains(input.mcp.uri, \"secret\")\n}\n\n\
    decision if {\n\tinput.mcp.kind == \"tool\"\n\tinput.tool.claimed.readOnlyHint\n}\n";

/// A modern server with an open and a secret one of everything; it tells of what gets to it.
async fn server() -> (Upstream, UnboundedReceiver<Value>) {
    let (told, heard) = unbounded_channel();
    let server = Upstream::start(move |request: Request, mut wire: Wire| {
        let told = told.clone();
        async move {
            let message: Value = serde_json::from_slice(&request.body).unwrap();
            told.send(message.clone()).unwrap();
            if message["method"] == "initialize" {
                let error = json!({"code": -32022, "message": "Unsupported protocol version",
                    "data": {"supported": ["2026-07-28"], "requested": message["params"]["protocolVersion"]}});
                let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string();
                let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length";
                wire.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
                return Some(wire);
            }
            if message["method"] == "subscriptions/listen" {
                wire.begin_events().await;
                wire.chunk(&format!("data: {}\n\n", acknowledged(&message))).await;
                wire.closed().await;
                return None;
            }
            let mut result = offered(&message);
            result["resultType"] = json!("complete");
            (result["ttlMs"], result["cacheScope"]) = (json!(60_000), json!("public"));
            wire.json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()).await;
            Some(wire)
        }
    })
    .await;
    (server, heard)
}

fn acknowledged(message: &Value) -> Value {
    let tag = json!({"io.modelcontextprotocol/subscriptionId": message["id"]});
    let params = json!({"notifications": message["params"]["notifications"], "_meta": tag});
    json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params})
}

fn offered(message: &Value) -> Value {
    let hinted = |name: &str, hint: bool| {
        let mut tool = tool(name);
        tool["annotations"] = json!({"readOnlyHint": hint});
        tool
    };
    match message["method"].as_str().unwrap() {
        "server/discover" => json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}, "prompts": {}, "resources": {"subscribe": true}},
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1"}},
        }),
        "tools/list" => json!({"tools": [hinted("open", true), hinted("secret", false)]}),
        "prompts/list" => json!({"prompts": [{"name": "open"}, {"name": "secret"}]}),
        "resources/list" => json!({"resources": [
            {"uri": "doc:open", "name": "open"}, {"uri": "doc:secret", "name": "secret"}]}),
        "resources/templates/list" => json!({"resourceTemplates": [
            {"uriTemplate": "doc:open/{a}", "name": "open"}, {"uriTemplate": "doc:secret/{a}", "name": "secret"}]}),
        "prompts/get" => json!({"messages": []}),
        "resources/read" => json!({"contents": [{"uri": message["params"]["uri"], "text": "read"}]}),
        "tools/call" => text("called"),
        method => panic!("{method}"),
    }
}

async fn gateway(server: &Upstream) -> Gateway {
    let document = format!(
        "upstreams:\n  up: {{ url: 'http://{}/mcp', trust_cache_scope: true }}\nservers:\n  /mcp: up\n\
         policy: policy.rego\n",
        server.address
    );
    Gateway::start_beside(&[("policy.rego", RULES)], &document).await
}

/// What a refusal says, with the name of what was asked for taken out.
fn refusal(said: &Said, name: &str) -> (u16, String) {
    let error = &said.message["error"];
    assert!(error.is_object(), "{}", said.all());
    let told = json!({"code": error["code"], "message": error["message"], "reason": error["data"]["reason"]});
    (said.head.status, told.to_string().replace(name, "NAME"))
}

#[tokio::test]
async fn what_a_caller_may_not_use_is_in_no_list_and_reads_as_unknown() {
    let kinds = [
        ("tools/list", "tools", "name", "tools/call", ["open", "secret", "gone"]),
        ("prompts/list", "prompts", "name", "prompts/get", ["open", "secret", "gone"]),
        (
            "resources/list",
            "resources",
            "uri",
            "resources/read",
            ["doc:open", "doc:secret", "doc:secret-gone"],
        ),
    ];
    for era in ERAS {
        let (server, mut heard) = server().await;
        let gateway = gateway(&server).await;
        let mut caller = Caller::new(era, gateway.address).ready().await;
        for (list, member, key, used, [open, secret, gone]) in kinds {
            let said = caller.request(list, json!({})).await.unwrap();
            let shown = said.message["result"][member].as_array().unwrap_or_else(|| panic!("{}", said.all()));
            let names: Vec<&Value> = shown.iter().map(|item| &item[key]).collect();
            assert_eq!(names, [open], "{era:?} {list}");
            if era == Era::Modern {
                assert_eq!(said.message["result"]["cacheScope"], "private", "{list}");
            }
            let use_of = |name: &str| if key == "uri" { json!({"uri": name}) } else { json!({"name": name}) };
            let allowed = caller.request(used, use_of(open)).await.unwrap();
            assert!(allowed.message["result"].is_object(), "{era:?} {}", allowed.all());
            let hidden = refusal(&caller.request(used, use_of(secret)).await.unwrap(), secret);
            let unknown = refusal(&caller.request(used, use_of(gone)).await.unwrap(), gone);
            assert_eq!(hidden, unknown, "{era:?} {used}");
            assert!(!hidden.1.contains("forbidden"), "{era:?} {hidden:?}");
        }
        // All lists are known now, of one catalogue: each is still its own.
        for (list, member, key, _, [open, ..]) in kinds {
            let said = caller.request(list, json!({})).await.unwrap();
            assert_eq!(said.message["result"][member][0][key], open, "{era:?} {}", said.all());
        }
        let said = caller.request("resources/templates/list", json!({})).await.unwrap();
        let templates = said.message["result"]["resourceTemplates"].as_array().unwrap();
        assert_eq!((templates.len(), &templates[0]["uriTemplate"]), (1, &json!("doc:open/{a}")));
        let below = caller.request("resources/read", json!({"uri": "doc:secret/1"})).await.unwrap();
        assert!(below.message["error"].is_object(), "{}", below.all());
        while let Ok(message) = heard.try_recv() {
            let asked = &message["params"];
            assert!(!asked["uri"].to_string().contains("secret") && asked["name"] != "secret", "{message}");
        }
    }
}

#[tokio::test]
async fn nobody_hears_of_a_resource_that_is_hidden() {
    let (server, mut heard) = server().await;
    let gateway = gateway(&server).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let stream = caller.listening_to(json!({"resourceSubscriptions": ["doc:open", "doc:secret"]})).await;
    let listened = async {
        loop {
            let message = heard.recv().await.unwrap();
            if message["method"] == "subscriptions/listen" {
                return message;
            }
        }
    };
    let message = within(10, "the subscription", listened).await;
    let wanted = &message["params"]["notifications"]["resourceSubscriptions"];
    assert_eq!(wanted, &json!(["doc:open"]), "{message}");
    drop(stream);
}

#[tokio::test]
async fn a_question_in_place_of_an_answer_is_let_through_or_refused() {
    let closed = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := {\"allow\": false, \"reason\": \"ask nobody\"} if input.mcp.direction == \"to_client\"\n";
    let open = "package mcp.authz\ndecision := true\n";
    let server = Mcp::start(Nature::of(Era::Modern), vec![tool("ask")], |call: Call| async move {
        if call.params["inputResponses"].is_object() {
            call.count("answered");
            return Ok(text("answered"));
        }
        let asked = json!({"method": "elicitation/create", "params": question("Your name?")});
        Ok(json!({"resultType": "input_required", "inputRequests": {"name": asked}}))
    })
    .await;
    let document = format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: policy.rego\n", server.url());
    for era in ERAS {
        let before = server.counted("answered");
        let gateway = Gateway::start_beside(&[("policy.rego", open)], &document).await;
        let said = Caller::new(era, gateway.address).ready().await.call("ask", json!({})).await.unwrap();
        assert_eq!(
            (said.text(), server.counted("answered")),
            ("answered", before + 1),
            "{era:?} {}",
            said.all()
        );
        let gateway = Gateway::start_beside(&[("policy.rego", closed)], &document).await;
        let said = Caller::new(era, gateway.address).ready().await.call("ask", json!({})).await.unwrap();
        assert!(said.before.iter().all(|message| message.get("method").is_none()), "{era:?} {}", said.all());
        assert!(said.message["result"]["inputRequests"].is_null(), "{era:?} {}", said.all());
        assert_eq!(server.counted("answered"), before + 1, "{era:?} somebody answered");
        if era == Era::Modern {
            assert_eq!(said.message["error"]["message"], "ask nobody", "{}", said.all());
        }
    }
}
