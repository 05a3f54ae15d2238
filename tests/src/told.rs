//! Which servers a caller is told of, beside what it sees in lists.

use crate::harness::mcp::{text, tool};
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Said};
use serde_json::json;

const RESOURCE: &str = "https://gw.example/mcp";

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// Everybody may greet, and call any tool; `hr` and a server that is down are for those who hold a role.
const POLICY: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if {\n\tinput.mcp.kind == \"server\"\n\tnot input.mcp.upstream\n}\n\n\
    decision if {\n\tinput.mcp.kind == \"server\"\n\tinput.mcp.upstream == \"crm\"\n}\n\n\
    decision if {\n\tinput.mcp.kind == \"server\"\n\t\"hr\" in input.principal.roles\n}\n\n\
    decision if input.mcp.kind in {\"tool\", \"resource\", \"stream\"}\n";

/// Two servers that live and one that does not, behind one endpoint.
struct House {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    crm: Mcp,
    hr: Mcp,
}

impl House {
    async fn start(rego: &str, hr: Era) -> House {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let crm = server(Nature { instructions: "Find first.", ..Nature::of(Era::Modern) }, "find").await;
        let hr = server(Nature { instructions: "Ask for pay.", ..Nature::of(hr) }, "pay").await;
        let document = format!(
            "upstreams:\n  hr: {}\n  crm: {}\n  down: http://127.0.0.1:9/mcp\nservers:\n  /mcp: \
             {{upstreams: [hr, crm, down]}}\nidentity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', roles: \
             roles}}\npolicy: policy.rego\n",
            hr.url(),
            crm.url(),
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("policy.rego", rego)], &document).await;
        House { gateway, issuer, key, crm, hr }
    }

    fn caller(&self, era: Era, role: &str) -> Caller {
        let claims = json!({"roles": [role], "sub": role});
        let token = self.issuer.token_with(&self.key, RESOURCE, claims);
        Caller::new(era, self.gateway.address).presenting(&token)
    }
}

async fn server(nature: Nature, name: &str) -> Mcp {
    Mcp::start(nature, vec![tool(name)], |call| async move { Ok(text(call.tool())) }).await
}

async fn greeted(caller: &mut Caller, era: Era) -> Said {
    match era {
        Era::Legacy => caller.open().await.unwrap(),
        Era::Modern => caller.request("server/discover", json!({})).await.unwrap(),
    }
}

fn missing(said: &Said) -> Vec<&str> {
    let named = said.message["result"]["_meta"]["io.portunus/incomplete"].as_array();
    named.into_iter().flatten().map(|server| server["upstream"].as_str().unwrap()).collect()
}

fn names(said: &Said) -> Vec<&str> {
    let tools = said.message["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_caller_learns_of_the_servers_that_it_may_greet() {
    for (era, hr) in ERAS.into_iter().flat_map(|era| ERAS.map(|hr| (era, hr))) {
        let house = House::start(POLICY, hr).await;
        let (mut anna, mut helen) = (house.caller(era, "staff"), house.caller(era, "hr"));
        let (staff, all) = (greeted(&mut anna, era).await, greeted(&mut helen, era).await);
        let instructions = |said: &Said| said.message["result"]["instructions"].clone();
        assert_eq!(instructions(&staff), "Find first.", "{era:?} {hr:?} {}", staff.all());
        assert_eq!(instructions(&all), "# hr\n\nAsk for pay.\n\n# crm\n\nFind first.", "{}", all.all());
        assert_eq!((missing(&staff), missing(&all)), (vec![], vec!["down"]), "{era:?} {hr:?}");
        let can = |said: &Said, what: &str| !said.message["result"]["capabilities"][what].is_null();
        assert_eq!((can(&staff, "tools"), can(&staff, "logging")), (true, false), "{}", staff.all());
        assert_eq!(can(&all, "logging"), hr == Era::Legacy, "{}", all.all());
    }
}

#[tokio::test]
async fn lists_and_refusals_name_no_server_that_the_caller_is_not_told_of() {
    for era in ERAS {
        let house = House::start(POLICY, Era::Legacy).await;
        let (mut anna, mut helen) =
            (house.caller(era, "staff").ready().await, house.caller(era, "hr").ready().await);
        let staff = anna.request("tools/list", json!({})).await.unwrap();
        let all = helen.request("tools/list", json!({})).await.unwrap();
        assert_eq!(
            (names(&staff), missing(&staff)),
            (vec!["pay", "find"], vec![]),
            "what it may call is shown"
        );
        assert_eq!((names(&all), missing(&all)), (vec!["pay", "find"], vec!["down"]));
        assert_eq!(anna.call("pay", json!({})).await.unwrap().text(), "pay", "{era:?}");
        let unknown = anna.call("nothing", json!({})).await.unwrap();
        assert_eq!(
            (unknown.code(), unknown.all().contains("down")),
            (Some(-32602), false),
            "{}",
            unknown.all()
        );
        let perhaps = helen.call("nothing", json!({})).await.unwrap();
        assert_eq!(
            (perhaps.code(), perhaps.all().contains("down")),
            (Some(-31503), true),
            "{}",
            perhaps.all()
        );
    }
}

#[tokio::test]
async fn who_is_told_of_no_server_that_lives_gets_what_there_is_without_them() {
    let only_down = POLICY.replace("== \"crm\"", "== \"down\"");
    let none = POLICY.replace("== \"crm\"", "== \"nothing\"");
    for era in ERAS {
        let house = House::start(&only_down, Era::Legacy).await;
        let refused = greeted(&mut house.caller(era, "staff"), era).await;
        assert_eq!(refused.head.status, 503, "all that it knows of is down: {}", refused.all());
        let house = House::start(&none, Era::Legacy).await;
        let greeted = greeted(&mut house.caller(era, "staff"), era).await;
        let result = &greeted.message["result"];
        assert_eq!((greeted.head.status, &result["capabilities"]), (200, &json!({})), "{}", greeted.all());
        assert_eq!((missing(&greeted), result.get("instructions")), (vec![], None), "{}", greeted.all());
    }
}

#[tokio::test]
async fn a_list_is_not_refused_for_a_server_that_its_reader_is_not_told_of() {
    let document =
        "upstreams:\n  down: http://127.0.0.1:9/mcp\nservers:\n  /mcp: down\npolicy: policy.rego\n";
    let listed = async |rule: &str| {
        let rego = format!("package mcp.authz\nimport rego.v1\ndefault decision := false\n{rule}\n");
        let gateway = Gateway::start_beside(&[("policy.rego", &rego)], document).await;
        Caller::new(Era::Modern, gateway.address).request("tools/list", json!({})).await.unwrap()
    };
    assert_eq!(listed("decision := true").await.code(), Some(-31503));
    let empty = listed("decision if not input.mcp.upstream").await;
    assert_eq!((names(&empty), missing(&empty)), (vec![], vec![]), "{}", empty.all());
}

#[tokio::test]
async fn servers_are_listened_to_for_those_who_are_told_of_them() {
    for era in ERAS {
        let house = House::start(POLICY, Era::Modern).await;
        let stream = listen(house.caller(era, "staff").ready().await, era).await;
        house.crm.reaches("subscriptions/listen", 1).await;
        assert_eq!(house.hr.counted("subscriptions/listen"), 0, "{era:?}");
        drop(stream);
        let helen = house.caller(era, "hr").ready().await;
        let _stream = listen(helen, era).await;
        house.hr.reaches("subscriptions/listen", 1).await;
    }
}

async fn listen(mut caller: Caller, era: Era) -> crate::harness::Client {
    match era {
        Era::Legacy => caller.stream(None).await.unwrap().0,
        Era::Modern => caller.listening().await,
    }
}

#[tokio::test]
async fn what_a_client_keeps_ends_with_what_the_policy_reads() {
    let lasting = server(Nature { ttl_ms: 600_000, ..Nature::of(Era::Modern) }, "find").await;
    let ttl = async |rule: &str| {
        let rego = format!("package mcp.authz\nimport rego.v1\ndefault decision := true\n{rule}\n");
        let document =
            format!("upstreams:\n  up: {}\nservers:\n  /mcp: up\npolicy: policy.rego\n", lasting.url());
        let gateway = Gateway::start_beside(&[("policy.rego", &rego)], &document).await;
        let said = greeted(&mut Caller::new(Era::Modern, gateway.address), Era::Modern).await;
        assert_eq!(said.message["result"]["cacheScope"], "private");
        said.message["result"]["ttlMs"].as_u64().unwrap_or_else(|| panic!("{}", said.all()))
    };
    assert!(ttl("").await > 60_000);
    assert!(ttl("decision := false if input.time.minute == 61").await <= 60_000);
}
