//! Every server reads what was judged: servers that ignore the case of keys, that take the last of two
//! equal keys or the first, and whose numbers are all floating-point.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, Said};
use serde_json::{Value, json};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// `pay` may be called for small amounts and one account; the region is set for everybody.
const RULES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\n\
    decision := {\"allow\": true, \"obligations\": {\"inject\": {\"region\": \"eu\", \"/deep/limit\": 1}}} if {\n\
    \tinput.mcp.name == \"pay\"\n\tsmall\n\tinput.mcp.arguments.account.id == \"a\"\n\
    \tnot input.mcp.responses\n}\n\n\
    decision if {\n\tinput.mcp.name == \"pay\"\n\tinput.mcp.responses.q.action == \"accept\"\n}\n\n\
    small if input.mcp.arguments.amount < 10\n\n\
    small if input.mcp.arguments.amount == 9007199254740992\n\nvisible := true\n";

/// The arguments of an honest call.
fn honest() -> Value {
    json!({"amount": 1, "account": {"id": "a"}, "region": "us", "deep": {"limit": 5}, "items": ["x"]})
}

async fn server(era: Era) -> Mcp {
    let tools = vec![tool("pay"), tool("wipe")];
    Mcp::start(Nature::of(era), tools, |call: Call| async move {
        call.count(&format!("called {}", call.tool()));
        Ok(text(call.params["arguments"].to_string()))
    })
    .await
}

/// A gateway before a server of an era, with a policy or without one.
async fn house(era: Era, rules: Option<&str>) -> (Gateway, Mcp) {
    let server = server(era).await;
    let document = format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\n", server.url());
    let gateway = match rules {
        Some(rules) => {
            let document = format!("{document}policy: {{path: policy.rego, lists: by_visible}}\n");
            Gateway::start_beside(&[("policy.rego", rules)], &document).await
        }
        None => Gateway::start(&document).await,
    };
    (gateway, server)
}

/// A place in a message, and what else stands there: `from` in the honest text becomes `to`.
struct Row {
    name: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn row(name: &'static str, from: &'static str, to: &'static str) -> Row {
    Row { name, from, to }
}

/// Keys that the protocol knows: refused whether or not anything is judged.
const ENVELOPE: &[Row] = &[
    row("another tool", r#""name":"pay""#, r#""name":"pay","Name":"wipe""#),
    row("another tool, first", r#""name":"pay""#, r#""NAME":"wipe","name":"pay""#),
    row("the tool in another case", r#""name":"pay""#, r#""nAme":"pay""#),
    row("another tool by an escape", r#""name":"pay""#, r#""name":"pay","\u004eame":"wipe""#),
    row("the same key twice", r#""name":"pay""#, r#""name":"pay","name":"wipe""#),
    row("another tool to a reader in C", r#""name":"pay""#, r#""name":"pay","name\u0000":"wipe""#),
    row("the same key by an escape", r#""name":"pay""#, r#""name":"pay","\u006eame":"wipe""#),
    row("other parameters", r#""params":{"#, r#""Params":{"name":"wipe","arguments":{}},"params":{"#),
    row("another method", r#""method":"tools/call""#, r#""method":"tools/call","Method":"tools/list""#),
    row("another version", r#""jsonrpc":"2.0""#, r#""jsonrpc":"2.0","jsonRPC":"1.0""#),
    row("another id", r#""jsonrpc":"2.0""#, r#""jsonrpc":"2.0","ID":7"#),
    row("other arguments", r#""arguments":{"#, r#""Arguments":{"amount":99},"arguments":{"#),
    row("arguments with a long s", r#""arguments":{"#, r#""argument\u017f":{"amount":99},"arguments":{"#),
    row("a task with a Kelvin sign", r#""name":"pay""#, r#""name":"pay","tas\u212a":{}"#),
    row("other metadata", r#""name":"pay""#, r#""name":"pay","_META":{"progressToken":1}"#),
    row("a reason in another case", r#""name":"pay""#, r#""name":"pay","REF":{}"#),
    row("answers in another case", r#""name":"pay""#, r#""name":"pay","InputResponses":{}"#),
    row("a URI in another case", r#""name":"pay""#, r#""name":"pay","Uri":"x:y""#),
    row("a task id in another case", r#""name":"pay""#, r#""name":"pay","taskID":"t""#),
    row("a state in another case", r#""name":"pay""#, r#""name":"pay","requeststate":"t""#),
];

/// Arguments that a rule reads, or that are set.
const ARGUMENTS: &[Row] = &[
    row("another amount", r#""amount":1"#, r#""amount":1,"Amount":1000000"#),
    row("the amount in another case", r#""amount":1"#, r#""AMOUNT":1"#),
    row("another amount to a reader in C", r#""amount":1"#, r#""amount":1,"amount\u0000":1000000"#),
    row("a text that ends early in C", r#""id":"a""#, r#""id":"a\u0000""#),
    row("a region to a reader in C", r#""region":"us""#, r#""region":"us","region\u0000":"us""#),
    row("the amount twice", r#""amount":1"#, r#""amount":1,"amount":1000000"#),
    row("another amount by an escape", r#""amount":1"#, r#""amount":1,"\u0041mount":1000000"#),
    row("a number that JavaScript rounds", r#""amount":1"#, r#""amount":9007199254740993"#),
    row("the same below zero", r#""amount":1"#, r#""amount":-9007199254740993"#),
    row("a number of too many digits", r#""amount":1"#, r#""amount":0.10000000000000000001"#),
    row("another account", r#""account":{"id":"a"}"#, r#""account":{"id":"a"},"Account":{"id":"b"}"#),
    row("another id in the account", r#""id":"a""#, r#""id":"a","ID":"b""#),
    row("the id of the account in another case", r#""id":"a""#, r#""Id":"a""#),
    row("an unread key beside those read", r#""amount":1"#, r#""amount":1,"x":1,"X":2"#),
    row("a region beside the one that is set", r#""region":"us""#, r#""region":"us","Region":"us""#),
    row("a region in another case", r#""region":"us""#, r#""REGION":"us""#),
    row("a limit on the way to one that is set", r#""deep":{"limit":5}"#, r#""Deep":{"limit":5}"#),
    row("a limit beside the one that is set", r#""limit":5"#, r#""Limit":5,"limit":5"#),
];

/// What any server may read in its own way: nothing decides on it.
const HARMLESS: &[Row] = &[
    row("keys that no rule reads", r#""items":["x"]"#, r#""items":[{"a":1,"A":2}]"#),
    row("a number that no rule reads", r#""items":["x"]"#, r#""items":[9007199254740993]"#),
    row(
        "texts and keys that no rule reads",
        r#""items":["x"]"#,
        r#""items":["x\u0000",{"a":1,"a\u0000":2}]"#,
    ),
    row("a parameter of nobody", r#""name":"pay""#, r#""name":"pay","own":1,"OWN":2"#),
    row("a large number that every reader keeps", r#""amount":1"#, r#""amount":9007199254740992"#),
    row("an escaped key", r#""amount":1"#, r#""\u0061mount":1"#),
];

async fn sent(caller: &mut Caller, row: &Row) -> Said {
    let params = json!({"name": "pay", "arguments": honest()});
    let edit = |text: &str| {
        assert!(text.contains(row.from), "{}: {text}", row.name);
        text.replacen(row.from, row.to, 1)
    };
    caller.edited("tools/call", params, edit).await.unwrap()
}

#[tokio::test]
async fn keys_of_the_protocol_are_read_in_one_way_by_every_server() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        for rules in [None, Some(RULES)] {
            let (gateway, server) = house(era, rules).await;
            let mut caller = Caller::new(client, gateway.address).ready().await;
            for (index, row) in ENVELOPE.iter().enumerate() {
                let good = caller.call("pay", honest()).await.unwrap();
                assert!(good.code().is_none(), "{client:?} {era:?} {}: {}", row.name, good.all());
                let bad = sent(&mut caller, row).await;
                assert!(bad.code().is_some(), "{client:?} {era:?} {}: {}", row.name, bad.all());
                let calls = (server.counted("called pay"), server.counted("called wipe"));
                assert_eq!(calls, (index + 1, 0), "{client:?} {era:?} {}", row.name);
            }
        }
    }
}

#[tokio::test]
async fn arguments_that_rules_read_are_read_in_one_way_by_every_server() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let (gateway, server) = house(era, Some(RULES)).await;
        let mut caller = Caller::new(client, gateway.address).ready().await;
        let set = json!({"amount": 1, "account": {"id": "a"}, "region": "eu", "deep": {"limit": 1}, "items": ["x"]});
        for (index, row) in ARGUMENTS.iter().enumerate() {
            let good = caller.call("pay", honest()).await.unwrap();
            let got: Value = serde_json::from_str(good.text()).unwrap_or_default();
            assert_eq!(got, set, "{client:?} {era:?} {}: {}", row.name, good.all());
            let bad = sent(&mut caller, row).await;
            assert_eq!(bad.code(), Some(-32602), "{client:?} {era:?} {}: {}", row.name, bad.all());
            assert_eq!(server.counted("called pay"), index + 1, "{client:?} {era:?} {}", row.name);
        }
        for row in HARMLESS {
            let said = sent(&mut caller, row).await;
            assert!(said.code().is_none(), "{client:?} {era:?} {}: {}", row.name, said.all());
        }
    }
}

/// Answers to questions, as retries of 2026-07-28 carry them.
#[tokio::test]
async fn answers_to_questions_are_read_as_arguments_are() {
    const ANSWERS: &[(&str, &str, bool)] = &[
        ("accepted", r#"{"q":{"action":"accept"}}"#, true),
        ("declined", r#"{"q":{"action":"decline"}}"#, false),
        ("in another case", r#"{"q":{"Action":"accept"}}"#, false),
        ("in two cases", r#"{"q":{"action":"accept","ACTION":"decline"}}"#, false),
        ("under two keys", r#"{"q":{"action":"accept"},"Q":{"action":"decline"}}"#, false),
        ("no object", r#"["accept"]"#, false),
    ];
    for era in ERAS {
        let (gateway, server) = house(era, Some(RULES)).await;
        let mut caller = Caller::new(Era::Modern, gateway.address).ready().await;
        for (name, answers, allowed) in ANSWERS {
            let before = server.counted("called pay");
            let params = json!({"name": "pay", "arguments": {"amount": 50}, "inputResponses": 0});
            let edit = |text: &str| {
                text.replacen(r#""inputResponses":0"#, &format!(r#""inputResponses":{answers}"#), 1)
            };
            let said = caller.edited("tools/call", params, edit).await.unwrap();
            let called = server.counted("called pay") - before;
            assert_eq!(
                (said.code().is_none(), called),
                (*allowed, usize::from(*allowed)),
                "{era:?} {name}: {}",
                said.all()
            );
        }
    }
}

/// Before 2026-07-28 an answer is a message of its own.
#[tokio::test]
async fn an_answer_of_an_earlier_client_is_read_under_its_id() {
    let rules = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := true\n\n\
        decision := false if {\n\tsome answer in input.mcp.responses\n\tanswer.content.name == \"Eve\"\n}\n";
    let server = Mcp::start(Nature::of(Era::Legacy), vec![tool("ask")], |call: Call| async move {
        Ok(text(call.elicit("Your name?").await.to_string()))
    })
    .await;
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: {{path: p.rego, lists: show}}\n",
        server.url()
    );
    let gateway = Gateway::start_beside(&[("p.rego", rules)], &document).await;
    for client in ERAS {
        let mut ada = Caller::new(client, gateway.address).ready().await;
        let said = ada.call("ask", json!({})).await.unwrap();
        assert!(said.text().contains("Ada"), "{client:?} {}", said.all());
        let mut eve = Caller::new(client, gateway.address).named("Eve").ready().await;
        let said = eve.call("ask", json!({})).await.unwrap();
        assert!(!said.all().contains("Eve"), "{client:?} {}", said.all());
    }
}

/// A selector of regions is judged and routed by the same argument.
#[tokio::test]
async fn a_selector_is_read_in_one_way() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let (eu, us) = (server(era).await, server(era).await);
        let gateway = Gateway::start(&format!(
            "upstreams:\n  eu: {}\n  us: {}\nservers:\n  /mcp:\n    upstreams:\n      \
             - {{ name: db, selector: region, regions: {{ eu: eu, us: us }}, default: eu }}\n",
            eu.url(),
            us.url()
        ))
        .await;
        let mut caller = Caller::new(client, gateway.address).ready().await;
        let good = caller.call("pay", honest()).await.unwrap();
        assert!(good.code().is_none(), "{client:?} {era:?} {}", good.all());
        for row in ARGUMENTS.iter().filter(|row| row.name.starts_with("a region")) {
            let bad = sent(&mut caller, row).await;
            assert!(bad.code().is_some(), "{client:?} {era:?} {}: {}", row.name, bad.all());
        }
        assert_eq!((eu.counted("called pay"), us.counted("called pay")), (0, 1), "{client:?} {era:?}");
    }
}

/// Policy is asked about what a client says in a retry, and what follows from it holds for the answer.
#[tokio::test]
async fn an_answer_is_held_to_the_rules_of_the_retry_that_brings_it() {
    let rules = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": true}\n\
        decision := {\"allow\": true, \"obligations\": {\"redact\": [\"salary\"]}} if input.mcp.responses\n";
    let server =
        Mcp::start(Nature::of(Era::Legacy), vec![tool("ask"), tool("plain")], |call: Call| async move {
            if call.tool() == "ask" {
                call.elicit("Your name?").await;
            }
            Ok(json!({"content": [], "structuredContent": {"salary": 7}}))
        })
        .await;
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: {{path: p.rego, lists: show}}\n",
        server.url()
    );
    let gateway = Gateway::start_beside(&[("p.rego", rules)], &document).await;
    let mut caller = Caller::new(Era::Modern, gateway.address).ready().await;
    for (name, salary) in [("plain", 7), ("ask", 0)] {
        let said = caller.call(name, json!({})).await.unwrap();
        assert_eq!(said.message["result"]["structuredContent"]["salary"], salary, "{}", said.all());
    }
}

/// A server is asked in the words of its client's era, which rules know.
#[tokio::test]
async fn a_method_of_another_era_goes_round_no_rule() {
    let rules = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if input.mcp.uri == \"file:///etc/secret\"\n";
    for era in ERAS {
        let server = server(era).await;
        let document = format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: {{path: p.rego, lists: show}}\n",
            server.url()
        );
        let gateway = Gateway::start_beside(&[("p.rego", rules)], &document).await;
        let mut caller = Caller::new(Era::Legacy, gateway.address).ready().await;
        assert!(caller.call("pay", json!({})).await.unwrap().code().is_none());
        let wanted = json!({"notifications": {"resourceSubscriptions": ["file:///etc/secret"]}});
        let listened = server.counted("subscriptions/listen");
        let said = caller.request("subscriptions/listen", wanted).await.unwrap();
        assert_eq!(said.code(), Some(-32601), "{era:?} {}", said.all());
        assert_eq!(server.counted("subscriptions/listen"), listened, "{era:?}");
    }
}

/// Parameters of methods that MCP does not know are their own, and so are those of servers.
#[tokio::test]
async fn what_no_rule_reads_may_be_called_anything() {
    let (gateway, server) = house(Era::Modern, None).await;
    let mut caller = Caller::new(Era::Modern, gateway.address).ready().await;
    let said = caller.request("acme/report", json!({"Name": "x", "Data": 1, "Level": 2})).await.unwrap();
    assert_eq!(server.counted("acme/report"), 1, "{}", said.all());
    let said = caller.request("acme/report", json!({"Arguments": {}})).await.unwrap();
    assert_eq!((said.code(), server.counted("acme/report")), (Some(-32600), 1), "{}", said.all());
}

/// Clients that ignore case read an answer as well.
#[tokio::test]
async fn answers_that_clients_may_read_otherwise_are_refused() {
    let rules = "package mcp.authz\nimport rego.v1\ndefault decision := {\"allow\": true}\n\
        decision := {\"allow\": true, \"obligations\": {\"redact\": [\"salary\"]}} if input.mcp.name == \"blanked\"\n\
        decision := {\"allow\": false} if input.mcp.direction == \"to_client\"\n";
    let answers: &[(&str, Value)] = &[
        ("data in another case", json!({"content": [], "structuredContent": {"Salary": 7}})),
        ("data in two cases", json!({"content": [], "structuredContent": {"salary": 7, "SALARY": 7}})),
        ("all data in another case", json!({"content": [], "StructuredContent": {"salary": 7}})),
        ("words in another case", json!({"Content": [{"type": "text", "text": "7"}]})),
        ("a text in another case", json!({"content": [{"type": "text", "Text": "7"}]})),
        (
            "a question in another case",
            json!({"content": [], "InputRequests": {"q": {"method": "roots/list"}}}),
        ),
    ];
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        for (name, answer) in answers {
            let result = answer.clone();
            let server =
                Mcp::start(Nature::of(era), vec![tool("blanked"), tool("plain")], move |call: Call| {
                    let plain = json!({"content": [], "structuredContent": {"salary": 7}});
                    let result = if call.tool() == "plain" { plain } else { result.clone() };
                    async move { Ok(result) }
                })
                .await;
            let document = format!(
                "upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: {{path: p.rego, lists: show}}\n",
                server.url()
            );
            let gateway = Gateway::start_beside(&[("p.rego", rules)], &document).await;
            let mut caller = Caller::new(client, gateway.address).ready().await;
            let good = caller.call("plain", json!({})).await.unwrap();
            assert_eq!(good.message["result"]["structuredContent"]["salary"], 7, "{}", good.all());
            let bad = caller.call("blanked", json!({})).await.unwrap();
            let told = bad.message["error"]["data"]["reason"].as_str().unwrap_or_default();
            assert_eq!(told, "upstream_malformed", "{client:?} {era:?} {name}: {}", bad.all());
        }
    }
}
