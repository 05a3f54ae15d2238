//! Things that a caller may not see are answered as things that do not exist: the same bytes, and the same requests to servers.

use crate::harness::{Caller, Era, Gateway, Issuer, Key, Request, Said, Upstream, Wire, free_address};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::Mutex;

pub(crate) const ERAS: [Era; 2] = [Era::Modern, Era::Legacy];
/// One server alone, two merged, and one merged with another that is down.
pub(crate) const ENDPOINTS: [&str; 3] = ["/alone", "/merged", "/down"];

const RULES: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\
    decision if {\n\tinput.mcp.kind in {\"tool\", \"prompt\"}\n\tnot contains(input.mcp.name, \"hidden\")\n}\n\
    decision if {\n\tinput.mcp.kind in {\"resource\", \"template\"}\n\tnot contains(input.mcp.uri, \"hidden\")\n}\n";

/// A request that names one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    method: &'static str,
    params: fn(&str) -> Value,
    /// A thing that the caller sees.
    seen: &'static str,
    /// A thing that it may not see, and one that does not exist. Policy is asked of URIs whether they exist or not, so the
    /// second is as forbidden as the first: of any other the server decides.
    pub(crate) pair: [&'static str; 2],
}

const NAMES: (&str, [&str; 2]) = ("seen", ["hidden", "absent"]);

/// All ways to name a thing.
pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        name: "tool",
        method: "tools/call",
        params: |name| json!({"name": name, "arguments": {}}),
        seen: NAMES.0,
        pair: NAMES.1,
    },
    Kind {
        name: "prompt",
        method: "prompts/get",
        params: |name| json!({"name": name}),
        seen: NAMES.0,
        pair: NAMES.1,
    },
    Kind {
        name: "resource",
        method: "resources/read",
        params: |uri| json!({"uri": uri}),
        seen: "doc://seen/all",
        pair: ["doc://hidden/all", "doc://hidden/nil"],
    },
    Kind {
        name: "resource of a template",
        method: "resources/read",
        params: |uri| json!({"uri": uri}),
        seen: "item://seen/1",
        pair: ["item://hidden/1", "none://hidden/1"],
    },
    Kind {
        name: "completion for a prompt",
        method: "completion/complete",
        params: |name| json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "a", "value": ""}}),
        seen: NAMES.0,
        pair: NAMES.1,
    },
    Kind {
        name: "completion for a template",
        method: "completion/complete",
        params: |uri| json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "id", "value": ""}}),
        seen: "item://seen/{id}",
        pair: ["item://hidden/{id}", "none://hidden/{id}"],
    },
];

/// A gateway before two servers, of which one has things that nobody may see, and one that is down.
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    /// Methods that servers were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    issuer: Issuer,
    key: Key,
    _servers: [Upstream; 2],
}

fn offered(message: &Value, names: &[&str]) -> Value {
    let items = |item: fn(&str) -> Value| names.iter().map(|name| item(name)).collect::<Value>();
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({"protocolVersion": "2025-11-25", "serverInfo": {"name": "s", "version": "1"},
            "capabilities": {"tools": {}, "prompts": {}, "resources": {}, "completions": {}}}),
        "server/discover" => {
            json!({"supportedVersions": ["2026-07-28"], "ttlMs": 600_000, "cacheScope": "private",
            "capabilities": {"tools": {}, "prompts": {}, "resources": {}, "completions": {}}})
        }
        "tools/list" => {
            json!({"tools": items(|name| json!({"name": name, "inputSchema": {"type": "object"}}))})
        }
        "prompts/list" => json!({"prompts": items(|name| json!({"name": name}))}),
        "resources/list" => {
            json!({"resources": items(|name| json!({"name": name, "uri": format!("doc://{name}/all")}))})
        }
        "resources/templates/list" => {
            let template = |name: &str| json!({"name": name, "uriTemplate": format!("item://{name}/{{id}}")});
            json!({"resourceTemplates": items(template)})
        }
        "tools/call" => json!({"content": [{"type": "text", "text": "found"}]}),
        "prompts/get" => {
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": "found"}}]})
        }
        "resources/read" => json!({"contents": [{"uri": message["params"]["uri"], "text": "found"}]}),
        _ => json!({"completion": {"values": ["found"]}}),
    }
}

async fn server(era: Era, names: &'static [&'static str], asked: &Arc<Mutex<Vec<String>>>) -> Upstream {
    let asked = Arc::clone(asked);
    let script = move |request: Request, mut wire: Wire| {
        let asked = Arc::clone(&asked);
        async move {
            let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            if message.get("id").is_none() {
                let status = if request.head.starts_with("POST") { "202 Accepted" } else { "405 No" };
                wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
                return Some(wire);
            }
            asked.lock().unwrap().push(message["method"].as_str().unwrap_or_default().to_owned());
            let mut result = offered(&message, names);
            if era == Era::Modern {
                result["resultType"] = "complete".into();
                result["ttlMs"] = 600_000.into();
                result["cacheScope"] = "private".into();
            }
            wire.json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()).await;
            Some(wire)
        }
    };
    Upstream::of_an_era(script).await
}

impl House {
    pub(crate) async fn start(era: Era) -> House {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let servers = [
            server(era, &["seen", "hidden"], &asked).await,
            server(era, &["other", "hidden_other"], &asked).await,
        ];
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let era = if era == Era::Modern { "modern" } else { "legacy" };
        let [one, two] = servers.each_ref().map(|server| server.address);
        let gone = free_address();
        let document = format!(
            "upstreams:\n  one: {{ url: 'http://{one}/mcp', era: {era} }}\n  two: {{ url: 'http://{two}/mcp', era: {era} }}\n  \
             gone: {{ url: 'http://{gone}/mcp', era: {era} }}\nservers:\n  /alone: one\n  \
             /merged: {{ upstreams: [one, two] }}\n  /down: {{ upstreams: [one, gone] }}\nidentity:\n  \
             url: https://gw.example\n  jwt: {{ issuer: '{}' }}\npolicy: policy.rego\n",
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("policy.rego", RULES)], &document).await;
        House { gateway, asked, issuer, key, _servers: servers }
    }

    pub(crate) async fn caller(&self, era: Era, path: &str) -> Caller {
        let resource = format!("https://gw.example{path}");
        let token = self.issuer.token_with(&self.key, &resource, json!({"sub": "ada"}));
        Caller::new(era, self.gateway.address).at(path).presenting(&token).ready().await
    }

    /// The requests to servers since this was called last, in the order of its name: requests run side by side.
    fn take_asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }
}

/// An answer without what belongs to its request alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    status: u16,
    headers: Vec<(String, String)>,
    message: String,
    asked: Vec<String>,
}

impl Told {
    fn of(said: &Said, name: &str, asked: Vec<String>) -> Told {
        let mut message = said.message.clone();
        for (place, mark) in [("/id", json!(0)), ("/error/data/requestId", json!("r"))] {
            *message.pointer_mut(place).unwrap_or_else(|| panic!("{}", said.all())) = mark;
        }
        // With its request's id, the length of an answer varies.
        let varying = ["portunus-request-id", "date", "content-length"];
        let headers = said.head.headers.iter().filter(|(name, _)| !varying.contains(&name.as_str())).cloned();
        let message = message.to_string().replace(name, "NAME");
        Told { status: said.head.status, headers: headers.collect(), message, asked }
    }
}

/// Asks for a thing.
pub(crate) async fn ask(caller: &mut Caller, kind: Kind, name: &str) -> Said {
    caller.request(kind.method, (kind.params)(name)).await.unwrap()
}

/// The answer about a thing, and the requests to servers meanwhile.
async fn told(house: &House, caller: &mut Caller, kind: Kind, name: &str) -> Told {
    house.take_asked();
    let said = ask(caller, kind, name).await;
    Told::of(&said, name, house.take_asked())
}

/// Compares what is told of a thing that is hidden with what is told of one that is not there, by gateways that were asked
/// nothing before.
pub(crate) async fn compare_at_first(server: Era, client: Era, path: &str, kind: Kind) {
    let mut answers = Vec::new();
    for name in kind.pair {
        let house = House::start(server).await;
        let mut caller = house.caller(client, path).await;
        answers.push(told(&house, &mut caller, kind, name).await);
    }
    assert_eq!(answers[0], answers[1], "{client:?} at {server:?}, {path}, {}", kind.name);
    assert!(!answers[0].asked.is_empty(), "a gateway that knows nothing asks its servers");
}

/// The same by one gateway that knows what there is.
async fn compare_later(house: &House, caller: &mut Caller, kind: Kind, what: &str) {
    let seen = ask(caller, kind, kind.seen).await;
    assert!(seen.message.to_string().contains("found"), "{what}: {}", seen.all());
    ask(caller, kind, kind.pair[1]).await;
    let hidden = told(house, caller, kind, kind.pair[0]).await;
    let absent = told(house, caller, kind, kind.pair[1]).await;
    assert_eq!(hidden, absent, "{what}");
}

#[tokio::test]
async fn hidden_thing_reads_as_an_absent_one_of_every_kind() {
    for (server, client) in ERAS.into_iter().flat_map(|server| ERAS.map(|client| (server, client))) {
        let house = House::start(server).await;
        for path in ENDPOINTS {
            let mut caller = house.caller(client, path).await;
            for kind in KINDS {
                let what = format!("{client:?} at {server:?}, {path}, {}", kind.name);
                compare_later(&house, &mut caller, kind, &what).await;
            }
        }
    }
}
