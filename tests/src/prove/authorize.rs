//! What a caller sees is what it may do: every pair of 1,000 tools and 200 roles, and policies that
//! read arguments.

use crate::harness::{Client, Era, Gateway, Issuer, Key, Mcp, Nature, modern_headers, rpc};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const TOOLS: usize = 1_000;
const ROLES: usize = 200;
const LANES: usize = 8;
const RESOURCE: &str = "https://gw.example/mcp";

const BY_ROLE: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\
    decision if {\n\tsome role in input.principal.roles\n\tdata.may[role][input.tool.original]\n}\n";

const BY_REGION: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\
    decision if {\n\tsome role in input.principal.roles\n\tinput.mcp.arguments.region in data.regions[role][input.tool.original]\n}\n\
    default visible := false\n\
    visible if {\n\tsome role in input.principal.roles\n\tcount(data.regions[role][input.tool.original]) > 0\n}\n";

/// Whether a role may call a tool.
fn may(role: usize, tool: usize) -> bool {
    (tool * 7 + role * 3).is_multiple_of(5)
}

/// Where a role may use a tool.
fn regions(role: usize, tool: usize) -> Vec<&'static str> {
    let all = [("eu", 2), ("us", 3)];
    all.into_iter().filter(|(_, by)| (tool + role).is_multiple_of(*by)).map(|(region, _)| region).collect()
}

struct House {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl House {
    async fn start(rego: &str, data: &Value, tools: usize) -> House {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let names: Vec<String> = (0..tools).map(|tool| format!("tool_{tool}")).collect();
        let server = Mcp::naming(Nature::of(Era::Modern), &names).await;
        let document = format!(
            "level: info\nupstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             jwt: {{issuer: '{}', roles: roles}}\npolicy: {{path: policy.rego, time_limit: 10ms, data: may.json, cache_entries: 300000}}\n",
            server.url(),
            issuer.url()
        );
        let data = data.to_string();
        let files = [("policy.rego", rego), ("may.json", data.as_str())];
        let gateway = Gateway::start_beside(&files, &document).await;
        House { gateway, issuer, key, server }
    }

    fn token(&self, role: usize) -> String {
        let claims = json!({"roles": [format!("role_{role}")], "sub": format!("user_{role}")});
        self.issuer.token_with(&self.key, RESOURCE, claims)
    }
}

/// One connection of one caller.
struct Lane {
    client: Client,
    token: String,
}

impl Lane {
    async fn ask(&mut self, method: &'static str, target: Option<&str>, params: Value) -> Value {
        let mut params = params;
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut headers = modern_headers(target.unwrap_or_default());
        headers.retain(|(name, _)| target.is_some() || *name != "mcp-name");
        headers[1].1 = method.to_owned();
        headers.push(("authorization", format!("Bearer {}", self.token)));
        self.client.post("/mcp", &headers, rpc(1, method, &params.to_string()).as_bytes()).await;
        self.client.response().await.json()
    }

    async fn list(&mut self) -> BTreeSet<String> {
        let answer = self.ask("tools/list", None, json!({})).await;
        let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether a call gets through.
    async fn call(&mut self, tool: &str, arguments: Value) -> bool {
        let answer = self.ask("tools/call", Some(tool), json!({"name": tool, "arguments": arguments})).await;
        match answer["error"]["code"].as_i64() {
            None => true,
            Some(-32602 | -31403) => false,
            Some(_) => panic!("{answer}"),
        }
    }
}

pub(super) async fn run() {
    every_pair().await;
    by_arguments().await;
    super::endless::run().await;
}

async fn every_pair() {
    let of_role = |role: usize| -> Value {
        (0..TOOLS).filter(|tool| may(role, *tool)).map(|tool| (format!("tool_{tool}"), json!(true))).collect()
    };
    let table: Value = (0..ROLES).map(|role| (format!("role_{role}"), of_role(role))).collect();
    let house = Arc::new(House::start(BY_ROLE, &json!({"may": table}), TOOLS).await);
    let began = Instant::now();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let house = Arc::clone(&house);
        lanes.spawn(async move {
            let mut calls = 0;
            for role in (lane..ROLES).step_by(LANES) {
                let client = house.gateway.connect().await;
                let mut caller = Lane { client, token: house.token(role) };
                let listed = caller.list().await;
                for tool in 0..TOOLS {
                    let name = format!("tool_{tool}");
                    let allowed = caller.call(&name, json!({})).await;
                    assert_eq!(
                        (allowed, listed.contains(&name)),
                        (may(role, tool), may(role, tool)),
                        "{role} {tool}"
                    );
                    calls += 1;
                }
            }
            calls
        });
    }
    let calls: usize = lanes.join_all().await.into_iter().sum();
    let reached = house.server.counted("tools/call");
    let expected = (0..ROLES).flat_map(|role| (0..TOOLS).map(move |tool| (role, tool)));
    assert_eq!(reached, expected.filter(|(role, tool)| may(*role, *tool)).count());
    println!("{calls} calls of {ROLES} roles agree with their lists, in {:.0?}", began.elapsed());
    timing(&house).await;
}

/// What is hidden takes as long to refuse as what is not there.
async fn timing(house: &House) {
    let mut caller = Lane { client: house.gateway.connect().await, token: house.token(1) };
    let hidden = (0..TOOLS).find(|tool| !may(1, *tool)).unwrap();
    let (hidden, unknown) = (format!("tool_{hidden}"), "tool_x".to_owned());
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..1_000 {
        for (times, name) in times.iter_mut().zip([&hidden, &unknown]) {
            let began = Instant::now();
            assert!(!caller.call(name, json!({})).await);
            times.push(began.elapsed());
        }
    }
    let [hidden, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("median refusal of a hidden tool {hidden:?}, of an unknown one {unknown:?}");
    let ratio = hidden.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "{ratio:.2}");
}

async fn by_arguments() {
    let (tools, roles) = (100, 20);
    let of_role = |role: usize| -> Value {
        (0..tools).map(|tool| (format!("tool_{tool}"), json!(regions(role, tool)))).collect()
    };
    let table: Value = (0..roles).map(|role| (format!("role_{role}"), of_role(role))).collect();
    let house = House::start(BY_REGION, &json!({"regions": table}), tools).await;
    let tried = [json!({}), json!({"region": "eu"}), json!({"region": "us"}), json!({"region": "mars"})];
    for role in 0..roles {
        let mut caller = Lane { client: house.gateway.connect().await, token: house.token(role) };
        let listed = caller.list().await;
        for tool in 0..tools {
            let name = format!("tool_{tool}");
            let mut some = false;
            for arguments in &tried {
                let allowed = caller.call(&name, arguments.clone()).await;
                let region = arguments["region"].as_str().unwrap_or_default();
                assert_eq!(allowed, regions(role, tool).contains(&region), "{role} {tool} {arguments}");
                some |= allowed;
            }
            assert_eq!(listed.contains(&name), some, "{role} {tool}");
        }
    }
    println!("{} calls with arguments agree with {roles} lists", roles * tools * tried.len());
}
