//! Names are the same in every process of one configuration.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Request, Upstream, Wire};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A modern server that answers nothing but 503 until it is there.
struct Late {
    upstream: Upstream,
    there: Arc<AtomicBool>,
}

impl Late {
    /// One with these tools and prompts, which say whose they are.
    async fn start(name: &'static str, names: &'static [&'static str], is_there: bool) -> Late {
        let there = Arc::new(AtomicBool::new(is_there));
        let is_there = Arc::clone(&there);
        let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
            let is_there = is_there.load(Ordering::SeqCst);
            async move {
                if !is_there {
                    wire.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
                    return Some(wire);
                }
                let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let mut result = said(&message, name, names);
                result["resultType"] = json!("complete");
                wire.json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
                    .await;
                Some(wire)
            }
        })
        .await;
        Late { upstream, there }
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.upstream.address)
    }
}

fn said(message: &Value, name: &str, names: &[&str]) -> Value {
    let told = format!("{} of {name}", message["params"]["name"].as_str().unwrap_or_default());
    match message["method"].as_str().unwrap_or_default() {
        "server/discover" => json!({"supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}, "prompts": {}}}),
        "tools/list" => json!({"tools": names.iter().map(|name| tool(name)).collect::<Vec<_>>()}),
        "prompts/list" => {
            json!({"prompts": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
        }
        "tools/call" => text(told),
        "prompts/get" => json!({"messages": [{"role": "user", "content": {"type": "text", "text": told}}]}),
        _ => json!({}),
    }
}

const KINDS: [(&str, &str, &str); 2] =
    [("tools/list", "tools", "tools/call"), ("prompts/list", "prompts", "prompts/get")];

async fn listed(caller: &mut Caller, method: &str, key: &str) -> Vec<String> {
    let said = caller.request(method, json!({})).await.unwrap();
    let listed = said.message["result"][key].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    listed.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// Who answers to a name.
async fn answers(caller: &mut Caller, method: &str, name: &str) -> String {
    let said = caller.request(method, json!({"name": name})).await.unwrap();
    let result = &said.message["result"];
    let text = result["content"][0]["text"].as_str().or(result["messages"][0]["content"]["text"].as_str());
    text.map_or_else(|| format!("code {}", said.code().unwrap()), str::to_owned)
}

#[tokio::test]
async fn replicas_agree_on_names_whoever_was_there_first() {
    for policy in ["prefix_on_conflict", "prefix", "none"] {
        let first = Late::start("first", &["pay"], false).await;
        let second = Late::start("second", &["pay", "find"], true).await;
        let document = format!(
            "upstreams:\n  one: {}\n  two: {}\nservers:\n  /mcp: {{ upstreams: [one, two], names: {policy}, \
             cache: {{lists: 0s}} }}\n",
            first.url(),
            second.url()
        );
        let early = Gateway::start(&document).await;
        let mut anna = Caller::new(Era::Modern, early.address);
        for (list, key, call) in KINDS {
            let waiting: &[&str] = if policy == "none" { &[] } else { &["two_pay", "two_find"] };
            assert_eq!(listed(&mut anna, list, key).await, waiting, "{policy} {list}");
            assert!(answers(&mut anna, call, "pay").await.starts_with("code"), "{policy} {call}");
            for name in waiting {
                assert!(answers(&mut anna, call, name).await.ends_with("of second"), "{policy} {name}");
            }
        }
        if policy == "prefix_on_conflict" {
            let status = early.status().await.to_string();
            assert!(status.contains("\"reason\":\"not_read\""), "{status}");
        }
        first.there.store(true, Ordering::SeqCst);
        let late = Gateway::start(&document).await;
        let mut bert = Caller::new(Era::Modern, late.address);
        for (list, key, call) in KINDS {
            let expected = listed(&mut bert, list, key).await;
            let agreed = async {
                while listed(&mut anna, list, key).await != expected {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            crate::harness::within(20, "both to agree", agreed).await;
            for caller in [&mut anna, &mut bert] {
                for name in &expected {
                    let of =
                        if name.ends_with("pay") && !name.starts_with("two") { "first" } else { "second" };
                    let told = answers(caller, call, name).await;
                    assert!(told.ends_with(&format!("of {of}")), "{policy} {name}: {told}");
                }
                if policy == "prefix_on_conflict" {
                    assert_eq!(expected, ["pay", "two_pay", "find"]);
                    let told = answers(caller, call, "two_find").await;
                    assert_eq!(told, "find of second", "an earlier name leads where it did");
                }
            }
        }
    }
}

#[tokio::test]
async fn name_with_a_prefix_is_never_anothers() {
    let first = Late::start("first", &["find"], true).await;
    let second = Late::start("second", &["find"], true).await;
    let wiki = Late::start("wiki", &["crm_find", "wiki_read", "plain"], true).await;
    let document = format!(
        "upstreams:\n  cms: {}\n  crm: {}\n  wiki: {}\nservers:\n  /mcp: {{ upstreams: [wiki, cms, crm] }}\n",
        first.url(),
        second.url(),
        wiki.url()
    );
    let mut gateway = Gateway::start(&document).await;
    for round in ["at first", "after a restart"] {
        let mut caller = Caller::new(Era::Modern, gateway.address);
        for (list, key, call) in KINDS {
            let names = listed(&mut caller, list, key).await;
            assert_eq!(names, ["wiki_crm_find", "wiki_read", "plain", "find", "crm_find"], "{round}");
            assert_eq!(answers(&mut caller, call, "crm_find").await, "find of second", "{round}");
            assert_eq!(answers(&mut caller, call, "wiki_crm_find").await, "crm_find of wiki", "{round}");
            assert_eq!(answers(&mut caller, call, "wiki_read").await, "wiki_read of wiki", "{round}");
        }
        let status = gateway.status().await.to_string();
        assert!(status.contains("\"reason\":\"prefix\""), "{status}");
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        gateway = gateway.again().await;
    }
}

#[tokio::test]
async fn list_of_one_tenant_is_not_shown_to_another() {
    let rules = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if input.mcp.kind in {\"server\", \"stream\"}\n\
        decision if {\n\tinput.mcp.upstream == \"acme\"\n\tinput.tool.original == \"find\"\n}\n\
        decision if {\n\tinput.mcp.upstream == \"other\"\n\tinput.tool.original == \"pay\"\n}\n";
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let start = || {
        let tools = vec![tool("find"), tool("pay")];
        Mcp::start(Nature::of(Era::Modern), tools, |call: Call| async move { Ok(text(call.tool())) })
    };
    let (acme, other) = (start().await, start().await);
    let document = format!(
        "upstreams:\n  acme: {}\n  other: {}\nservers:\n  /mcp: {{upstreams: [{{name: crm, by_tenant: {{acme: \
         acme}}, otherwise: other}}]}}\nidentity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', tenant: {{claim: \
         tenant}}}}\npolicy: policy.rego\n",
        acme.url(),
        other.url(),
        issuer.url()
    );
    let gateway = Gateway::start_beside(&[("policy.rego", rules)], &document).await;
    for era in [Era::Legacy, Era::Modern] {
        for (tenant, tool) in [("acme", "find"), ("beta", "pay"), ("acme", "find")] {
            let claims = json!({"tenant": tenant, "sub": tenant});
            let token = issuer.token_with(&key, "https://gw.example/mcp", claims);
            let mut caller = Caller::new(era, gateway.address).presenting(&token).ready().await;
            assert_eq!(listed(&mut caller, "tools/list", "tools").await, [tool], "{era:?} {tenant}");
            assert_eq!(caller.call(tool, json!({})).await.unwrap().text(), tool, "{era:?} {tenant}");
        }
    }
}
