//! Who, what, where, when and why: the sample of all five on live traffic, under a clock that is moved.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Said, clock, root};
use crate::proxy_protocol;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;

const RESOURCE: &str = "https://gw.example/mcp";

/// A Friday, in the last minutes of business hours: 2026-11-27, 17:58 UTC.
const LATE: u64 = 1_795_802_280;
/// Two minutes later they are over.
const CLOSED: u64 = LATE + 120;
/// Monday, 8:00.
const OPEN: u64 = 1_796_025_600;

const OFFICE: [u8; 4] = [10, 1, 2, 3];
const VPN: [u8; 4] = [10, 9, 9, 9];

const REASON: &str = "invoice 4711 of acme";
const CLOSED_NOW: &str = "critical tools are used Monday to Friday, 8 to 18";

struct House {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl House {
    async fn start(era: Era) -> House {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let tools = vec![tool("transfer"), tool("find")];
        let server = Mcp::start(Nature::of(era), tools, |call: Call| async move {
            call.count(&format!("called {}", call.tool()));
            Ok(text(call.tool()))
        })
        .await;
        let document = format!(
            "listeners:\n  - {{ name: near, bind: 127.0.0.1:0, trusted_proxies: [127.0.0.1] }}\n  \
             - {{ name: direct, bind: 127.0.0.1:0 }}\n  \
             - {{ name: spoken, bind: 127.0.0.1:0, proxy_protocol: v2, trusted_proxies: [127.0.0.1] }}\n\
             upstreams:\n  up: {}\nservers:\n  /mcp: up\ntools:\n  up.transfer: {{ risk: critical }}\n\
             identity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', roles: roles, claims: [grade]}}\n\
             policy: {}\n",
            server.url(),
            issuer.url(),
            root().join("config/examples/policy/five_dimensions").display(),
        );
        let gateway = Gateway::start_as(&document, |folder| clock::run_at(folder, LATE)).await;
        House { gateway, issuer, key, server }
    }

    /// A caller of this role whose requests are forwarded from `address`.
    async fn caller(&self, era: Era, (role, grade): (&str, &str), address: [u8; 4]) -> Caller {
        let caller = Caller::new(era, self.gateway.listener("near"));
        caller
            .with_field("x-forwarded-for", &dotted(address))
            .presenting(&self.token(role, grade))
            .ready()
            .await
    }

    fn token(&self, role: &str, grade: &str) -> String {
        token(&self.issuer, &self.key, (role, grade))
    }

    /// Evaluations of the policy for messages so far, none of them from memory.
    async fn evaluated(&self) -> f64 {
        self.gateway.counted("portunus_policy_decisions_total", "cache=\"miss\"").await
    }
}

/// A token for the week that begins at [`LATE`].
fn token(issuer: &Issuer, key: &Key, (role, grade): (&str, &str)) -> String {
    let (from, to) = (LATE - 60, LATE + 7 * 86_400);
    let who = format!("{role} {grade}");
    let claims = json!({"sub": who, "roles": [role], "grade": grade, "iat": from, "exp": to});
    issuer.token_with(key, RESOURCE, claims)
}

fn dotted([a, b, c, d]: [u8; 4]) -> String {
    format!("{a}.{b}.{c}.{d}")
}

async fn transfer(caller: &mut Caller, amount: Value, why: &str) -> Said {
    let meta = json!({"io.portunus/justification": why});
    let params = json!({"name": "transfer", "arguments": {"amount": amount}, "_meta": meta});
    caller.request("tools/call", params).await.unwrap()
}

/// Why a visible tool is refused.
fn refusal(said: &Said) -> &str {
    assert_eq!(said.message["error"]["data"]["reason"], "forbidden", "{}", said.all());
    said.message["error"]["message"].as_str().unwrap()
}

fn is_done(said: &Said) -> bool {
    said.text() == "transfer"
}

async fn shown(caller: &mut Caller) -> Vec<String> {
    let said = caller.request("tools/list", json!({})).await.unwrap();
    let tools = said.message["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

const ERAS: [(Era, Era); 4] = [
    (Era::Legacy, Era::Legacy),
    (Era::Legacy, Era::Modern),
    (Era::Modern, Era::Legacy),
    (Era::Modern, Era::Modern),
];

#[tokio::test]
async fn who_what_where_and_why_each_decide() {
    for (client, server) in ERAS {
        let house = House::start(server).await;
        let mut junior = house.caller(client, ("treasurer", "junior"), OFFICE).await;
        let mut senior = house.caller(client, ("treasurer", "senior"), OFFICE).await;
        let mut member = house.caller(client, ("member", "junior"), OFFICE).await;
        assert!(is_done(&transfer(&mut junior, json!(1000), REASON).await), "{client:?} {server:?}");

        assert_eq!(
            (shown(&mut junior).await, shown(&mut member).await),
            (vec!["transfer".into()], vec!["find".into()])
        );
        let hidden = transfer(&mut member, json!(1), REASON).await;
        assert_eq!(hidden.code(), Some(-32602), "{}", hidden.all());
        assert_eq!(member.call("find", json!({})).await.unwrap().text(), "find");

        let above = "the amount is above the caller's limit";
        for amount in [json!(1001), json!("1"), Value::Null, json!(false), json!(-1)] {
            assert_eq!(refusal(&transfer(&mut junior, amount.clone(), REASON).await), above, "{amount}");
        }
        assert!(is_done(&transfer(&mut senior, json!(1001), REASON).await));

        let mut away = house.caller(client, ("treasurer", "senior"), VPN).await;
        let office = "critical tools are used from the office";
        assert_eq!(refusal(&transfer(&mut away, json!(1), REASON).await), office);

        for why in ["", "because", "          "] {
            assert_eq!(
                refusal(&transfer(&mut senior, json!(1), why).await),
                "say why, in `_meta`",
                "{why:?}"
            );
        }
        assert_eq!(house.server.counted("called transfer"), 2, "a refused call went on");
    }
}

#[tokio::test]
async fn where_is_what_a_trusted_proxy_says_and_nobody_else() {
    let house = House::start(Era::Modern).await;
    let token = house.token("treasurer", "junior");
    let table = [(OFFICE, true), (VPN, false), ([203, 0, 113, 5], false)];
    for (address, is_near) in table {
        for era in [Era::Legacy, Era::Modern] {
            let header = proxy_protocol::spoken_for(address);
            let caller = Caller::new(era, house.gateway.listener("spoken")).fresh().behind(&header);
            let mut caller = caller.presenting(&token).ready().await;
            let said = transfer(&mut caller, json!(1), REASON).await;
            assert_eq!(is_done(&said), is_near, "{address:?} {era:?} {}", said.all());
        }
    }
    // This machine is of the office, and nobody may speak for another there.
    let caller = Caller::new(Era::Modern, house.gateway.listener("direct")).presenting(&token);
    let mut caller = caller.with_field("x-forwarded-for", &dotted(VPN));
    let said = transfer(&mut caller, json!(1), REASON).await;
    assert!(is_done(&said), "{}", said.all());
}

#[tokio::test]
async fn an_allowed_call_is_refused_from_the_minute_that_business_hours_end() {
    for (client, server) in ERAS {
        let house = House::start(server).await;
        let mut caller = house.caller(client, ("treasurer", "junior"), OFFICE).await;
        // An answer about arguments is remembered once they come again.
        for _ in 0..2 {
            assert!(is_done(&transfer(&mut caller, json!(900), REASON).await), "{client:?} {server:?}");
        }
        let before = house.evaluated().await;
        for wall in [LATE, CLOSED - 1] {
            clock::set(&house.gateway, wall);
            assert!(
                is_done(&transfer(&mut caller, json!(900), REASON).await),
                "{client:?} {server:?} {wall}"
            );
        }
        assert!((house.evaluated().await - before).abs() < 0.5, "the answer was not remembered");
        clock::set(&house.gateway, CLOSED);
        assert_eq!(refusal(&transfer(&mut caller, json!(900), REASON).await), CLOSED_NOW);
        assert_eq!(shown(&mut caller).await, ["transfer"], "tools do not come and go with the hour");
        let record = house.gateway.recorded("the refusal", |record| record["reason"] == "forbidden").await;
        assert_eq!((&record["rule"], &record["policy_reason"]), (&json!("decision"), &json!(CLOSED_NOW)));

        for (wall, is_open) in [(OPEN - 1, false), (OPEN, true)] {
            clock::set(&house.gateway, wall);
            let mut caller = house.caller(client, ("treasurer", "junior"), OFFICE).await;
            let said = transfer(&mut caller, json!(900), REASON).await;
            assert_eq!(is_done(&said), is_open, "{wall} {}", said.all());
        }
        assert_eq!(house.gateway.status().await["serial"], 1, "no configuration was swapped");
        assert_eq!(house.server.counted("called transfer"), 5, "a refused call went on");
    }
}

/// A gateway at [`LATE`] in front of a server.
async fn late(server: &Mcp, rules: &str, rest: &str) -> Gateway {
    let document = format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\n{rest}", server.url());
    let begin = |folder: &std::path::Path| {
        std::fs::write(folder.join("policy.rego"), rules).unwrap();
        clock::run_at(folder, LATE)
    };
    Gateway::start_as(&document, begin).await
}

#[tokio::test]
async fn lists_end_with_the_hour_that_rules_read_and_with_what_is_withdrawn() {
    let by_hour = "package mcp.authz\nimport rego.v1\ndecision := true\ndefault visible := false\n\
        visible if input.tool.original == \"find\"\nvisible if input.time.hour < 18\n";
    let withdrawn = "tools:\n  up.transfer: { not_after: '2026-11-27T18:00:00Z' }\n";
    for (rules, rest, until) in [(by_hour, "policy: policy.rego\n", 5_000), ("", withdrawn, 60_000)] {
        let server = Mcp::naming(Nature::of(Era::Modern), &["transfer".to_owned(), "find".to_owned()]).await;
        let gateway = late(&server, rules, rest).await;
        clock::set(&gateway, CLOSED - 5);
        let mut caller = Caller::new(Era::Modern, gateway.address);
        let said = caller.request("tools/list", json!({})).await.unwrap();
        assert_eq!(said.message["result"]["tools"].as_array().unwrap().len(), 2, "{}", said.all());
        let ttl = said.message["result"]["ttlMs"].as_u64().unwrap();
        assert!((1..=until).contains(&ttl), "{}", said.all());
        assert_eq!(caller.call("transfer", json!({})).await.unwrap().text(), "transfer");
        clock::set(&gateway, CLOSED + until / 1000);
        assert_eq!(shown(&mut caller).await, ["find"], "{rest}");
        assert_eq!(caller.call("transfer", json!({})).await.unwrap().code(), Some(-32602), "{rest}");
        assert_eq!(server.counted("tools/call"), 1, "{rest}");
    }
}

#[tokio::test]
async fn a_question_is_judged_when_it_is_asked() {
    let rules = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if {\n\tinput.mcp.direction == \"to_client\"\n\tinput.time.hour >= 18\n}\n";
    for (era, end) in [Era::Legacy, Era::Modern].into_iter().flat_map(|era| [(era, LATE), (era, CLOSED)]) {
        let go = Arc::new(Notify::new());
        let told = Arc::clone(&go);
        let server = Mcp::start(Nature::of(Era::Legacy), vec![tool("ask")], move |call: Call| {
            let go = Arc::clone(&told);
            async move {
                call.count("thinks");
                go.notified().await;
                Ok(text(call.elicit("Your name?").await.to_string()))
            }
        })
        .await;
        let (key, rest) = (Key::new("k1"), "policy: policy.rego\nidentity:\n  url: https://gw.example\n");
        let issuer = Issuer::start(&[&key]).await;
        let rest = format!("{rest}  jwt: {{issuer: '{}', roles: roles}}\n", issuer.url());
        let gateway = late(&server, rules, &rest).await;
        let token = token(&issuer, &key, ("member", "junior"));
        let mut caller = Caller::new(era, gateway.address).presenting(&token).ready().await;
        let asked = async {
            server.reaches("thinks", 1).await;
            clock::set(&gateway, end);
            go.notify_one();
        };
        let (said, ()) = tokio::join!(caller.call("ask", json!({})), asked);
        let said = said.unwrap();
        let expected = if end == LATE { "accept" } else { "-31403" };
        assert!(said.text().contains(expected), "{era:?} {end} {}", said.all());
    }
}
