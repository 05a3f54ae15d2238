//! Headers that clients send about themselves do not reach servers.

use crate::harness::h2::{H2Client, H2Upstream, result};
use crate::harness::mcp::{text, tool};
use crate::harness::{
    Caller, Era, Gateway, Issuer, Key, Mcp, Nature, Request, Response, Upstream, Wire, dial, modern_call,
    modern_headers, rpc, within,
};
use crate::peers::Pair;
use crate::proxy_protocol::{header, spoken_for};
use serde_json::json;
use std::net::SocketAddr;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const RESOURCE: &str = "https://gw.example/mcp";

/// Said with each request. None of it may get to a server, nor keep what the gateway says from it.
const FORGED: [(&str, &str); 19] = [
    ("X-Portunus-Subject", "root"),
    ("X_Portunus_Subject", "root"),
    ("X-Portunus_Subject", "root"),
    ("X.Portunus.Subject", "root"),
    ("X-Portunus-Roles", "admin"),
    ("X_Team", "red"),
    ("X_Vouched", "root"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-HTTP-Method", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Original-URL", "/admin"),
    ("X-Rewrite-URL", "/admin"),
    ("X-Original-Method", "DELETE"),
    ("X-Original-Host", "other"),
    ("X-Host", "other"),
    ("X-HTTP-Host-Override", "other"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "other"),
    ("Forwarded", "for=6.6.6.6"),
];

/// Names that the gateway sends itself: who takes them from a request takes the caller's identity.
const TAKEN: (&str, &str) =
    ("Connection", "keep-alive, x-portunus-subject, x-portunus-tenant, X-Portunus-Roles, x-vouched, x-hop");

/// What upstreams are told of callers, and how it is called.
const TELLING: &str = ", caller: { headers: [subject, tenant] }, headers: { set: { X-Team: blue } }";

/// What a server makes of a head whose names it folds as CGI does: each name once, with its value.
fn folded(head: &str) -> Vec<(String, String)> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let fold = |name: &str| -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    };
    fields.map(|(name, value)| (fold(name), value.to_owned())).collect()
}

/// Holds a head that came to a server to what the gateway knows.
fn judge(head: &str, way: &str) {
    let fields = folded(head);
    let values = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(values("X_PORTUNUS_SUBJECT"), ["anna"], "{way}: {head}");
    assert_eq!(values("X_PORTUNUS_TENANT"), ["acme"], "{way}: {head}");
    assert_eq!(values("X_TEAM"), ["blue"], "{way}: {head}");
    assert_eq!(values("X_KEPT"), ["1"], "{way}: the client's own field, {head}");
    assert_eq!(values("FORWARDED").len(), 1, "{way}: {head}");
    assert!(!values("FORWARDED")[0].contains("6.6.6.6"), "{way}: {head}");
    let given = ["X_PORTUNUS_SUBJECT", "X_PORTUNUS_TENANT", "X_TEAM", "FORWARDED"];
    for (name, _) in folded(&FORGED.map(|(name, value)| format!("{name}: {value}\n")).concat()) {
        assert!(given.contains(&&*name) || values(&name).is_empty(), "{way}: `{name}` in {head}");
    }
    assert!(values("X_HOP").is_empty(), "{way}: {head}");
}

/// Who says who calls, and what the document makes of it.
struct Desk {
    issuer: Issuer,
    token: String,
}

impl Desk {
    async fn open() -> Desk {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let token = issuer.token_with(&key, RESOURCE, json!({"sub": "anna"}));
        Desk { issuer, token }
    }

    fn identity(&self) -> String {
        format!(
            "identity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', tenant: acme}}\n",
            self.issuer.url()
        )
    }

    /// A caller that claims all that it should not.
    fn liar(&self, caller: Caller) -> Caller {
        let caller = caller.presenting(&self.token).with_field("x-kept", "1").with_field(TAKEN.0, TAKEN.1);
        FORGED
            .iter()
            .fold(caller.with_field("x-hop", "1"), |caller, (name, value)| caller.with_field(name, value))
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let own = [("x-kept", "1".to_owned()), ("authorization", format!("Bearer {}", self.token))];
        let forged = FORGED.iter().map(|(name, value)| (*name, (*value).to_owned()));
        own.into_iter().chain(forged).collect()
    }
}

async fn server(era: Era) -> Mcp {
    Mcp::start(Nature::of(era), vec![tool("echo")], |call| async move { Ok(text(call.tool())) }).await
}

/// What a caller of each era does in its life, each of which some request to the server carries.
async fn live(mut caller: Caller, era: Era) {
    let listed = caller.request("tools/list", json!({})).await.unwrap();
    assert_eq!(listed.message["result"]["tools"][0]["name"], "echo", "{}", listed.all());
    let said = caller.call("echo", json!({})).await.unwrap();
    assert_eq!(said.text(), "echo", "{}", said.all());
    match era {
        Era::Modern => drop(caller.listening().await),
        Era::Legacy => {
            drop(caller.stream(None).await.unwrap());
            assert!(caller.end().await.unwrap() < 300);
        }
    }
}

#[tokio::test]
async fn no_claim_of_a_client_reaches_a_server_in_place_of_what_the_gateway_knows() {
    let desk = Desk::open().await;
    let both = [Era::Legacy, Era::Modern];
    for (client, behind, bridge) in both
        .into_iter()
        .flat_map(|client| both.map(|behind| (client, behind, true)))
        .chain(both.map(|era| (era, era, false)))
    {
        let way = format!("{client:?} client, {behind:?} server, bridge: {bridge}");
        let server = server(behind).await;
        let document = format!(
            "upstreams:\n  up: {{ url: '{}'{TELLING} }}\nservers:\n  /mcp: {{ upstreams: up, bridge: {bridge} }}\n{}",
            server.url(),
            desk.identity()
        );
        let gateway = Gateway::start(&document).await;
        live(desk.liar(Caller::new(client, gateway.address)).ready().await, client).await;
        server.reaches("tools/call", 1).await;
        if behind == Era::Legacy && client == Era::Legacy {
            server.reaches("GET", 1).await;
            server.reaches("DELETE", 1).await;
        }
        let heads = server.heads();
        assert!(heads.len() > 2, "{way}: {heads:?}");
        heads.iter().for_each(|head| judge(head, &way));
    }
}

#[tokio::test]
async fn nor_by_way_of_another_replica() {
    let desk = Desk::open().await;
    for behind in [Era::Legacy, Era::Modern] {
        let server = server(behind).await;
        let pair = Pair::telling(TELLING, &[("up", &server)], &desk.identity()).await;
        for client in [Era::Legacy, Era::Modern] {
            // Each request goes on a connection of its own, by turns to the two.
            live(desk.liar(pair.caller(client)).ready().await, client).await;
        }
        let heads = server.heads();
        assert!(heads.len() > 2, "{heads:?}");
        heads.iter().for_each(|head| judge(head, &format!("replicas before a {behind:?} server")));
    }
}

#[tokio::test]
async fn nor_over_http_2_on_either_side() {
    let desk = Desk::open().await;
    let (seen, mut heads) = unbounded_channel();
    let server = H2Upstream::serving(None, move |request: http::Request<_>, respond| {
        let fields =
            request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
        let seen = seen.clone();
        seen.send(fields.collect::<String>()).unwrap();
        async move { result(request, respond).await }
    })
    .await;
    let document = format!(
        "listeners: [{{ bind: 127.0.0.1:0, http2: true }}]\nupstreams:\n  up: {{ url: 'http://{}/mcp', http: 2{TELLING} }}\n\
         servers:\n  /mcp: {{ upstreams: up, bridge: false }}\n{}",
        server.address,
        desk.identity()
    );
    let gateway = Gateway::start(&document).await;
    let client = H2Client::over(dial(gateway.address).await.unwrap(), gateway.address).await;
    let answer = client.post("/mcp", &desk.fields(), rpc(5, "ping", "{}").as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    judge(&heads.recv().await.unwrap(), "HTTP/2");
}

/// An upstream that gives away the head of each request.
async fn telling() -> (Upstream, UnboundedReceiver<Request>) {
    let (seen, heads) = unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            wire.result(&request).await;
            seen.send(request).ok();
            Some(wire)
        }
    })
    .await;
    (upstream, heads)
}

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

#[tokio::test]
async fn a_statement_under_a_name_of_the_documents_is_the_gateways_or_is_not_there() {
    let (upstream, mut heads) = telling().await;
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----\n";
    let document = format!(
        "upstreams:\n  up: {{ url: 'http://{}/mcp', caller: {{ assertion: {{ key: 'file:a.key', header: X-Vouched, issuer: 'https://gw.example', audience: up }} }} }}\n\
         servers:\n  /mcp: {{ upstreams: up, bridge: false }}\n",
        upstream.address
    );
    let gateway = Gateway::start_beside(&[("a.key", key)], &document).await;
    // Nobody is asked who it is here, so that there is nobody to vouch for.
    let forged = [("x-vouched", "root".to_owned()), ("x-kept", "1".to_owned())];
    gateway.post("/mcp", &forged, &call()).await;
    let head = heads.recv().await.unwrap();
    assert_eq!((head.header("x-vouched"), head.header("x-kept")), (None, Some("1")), "{}", head.head);
}

#[tokio::test]
async fn a_query_of_the_document_is_the_only_one() {
    const POLICY: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := true\n";
    let (upstream, mut heads) = telling().await;
    let both = [("passed", "bridge: false"), ("served", "names: prefix")];
    let cases = [
        ("", "", "passed", "/mcp?a=1&tenant=evil"),
        ("?tenant=acme", "", "passed", "/mcp?tenant=acme"),
        ("", "policy: policy.rego\n", "passed", "/mcp"),
        ("", "", "served", "/mcp"),
        ("?tenant=acme", "", "served", "/mcp?tenant=acme"),
    ];
    for (query, rest, way, expected) in cases {
        let served = both.iter().find(|(name, _)| *name == way).unwrap().1;
        let document = format!(
            "upstreams:\n  up: {{ url: 'http://{}/mcp{query}', era: modern }}\nservers:\n  /mcp: {{ upstreams: up, {served} }}\n{rest}",
            upstream.address
        );
        let gateway = Gateway::start_beside(&[("policy.rego", POLICY)], &document).await;
        gateway.post("/mcp?a=1&tenant=evil", &modern_headers("echo"), &modern_call(5, "echo")).await;
        let head = within(5, "a request", heads.recv()).await.unwrap().head;
        assert!(head.starts_with(&format!("POST {expected} HTTP/1.1\r\n")), "{way} {query} {rest}: {head}");
        while heads.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn no_server_is_told_of_another_encoding_than_was_read() {
    let (upstream, mut heads) = telling().await;
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: {{ upstreams: up, bridge: false }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    for kind in
        ["application/json", "application/json; charset=utf-8", "application/json;\u{a0}charset=utf-7"]
    {
        let body = call();
        let mut client = gateway.connect().await;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            gateway.address,
            body.len()
        );
        client.send(&[head.as_bytes(), body.as_bytes()].concat()).await;
        assert_eq!(client.response().await.status, 200, "{kind}");
        let head = within(5, "a request", heads.recv()).await.unwrap();
        let told: Vec<&str> =
            head.head.lines().filter(|line| line.to_ascii_lowercase().starts_with("content-type")).collect();
        assert_eq!(told.len(), 1, "{kind}: {}", head.head);
        assert_eq!(head.header("content-type"), Some("application/json"), "{kind}");
    }
}

/// The address that the upstream is told, and the one that is recorded.
async fn source(gateway: &Gateway, heads: &mut UnboundedReceiver<Request>, answered: &Response) -> String {
    assert_eq!(answered.status, 200, "{answered:?}");
    let head = heads.recv().await.unwrap();
    let told = head.header("forwarded").unwrap().to_owned();
    let id = answered.header("portunus-request-id").unwrap();
    let record = gateway.recorded("the request", |record| record["request_id"] == id).await;
    let address = record["ip_address"].as_str().unwrap().to_owned();
    assert!(told.starts_with(&format!("for={address};")), "{told} {address}");
    assert_eq!(head.header("x-forwarded-for"), None);
    address
}

#[tokio::test]
async fn of_two_forwarding_headers_one_is_read() {
    let (upstream, mut heads) = telling().await;
    let from = |fields: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    let xff = ("x-forwarded-for", "6.6.6.6, 198.51.100.9");
    let forwarded = ("forwarded", "for=198.51.100.9");
    let cases = [
        ("", from(&[xff]), "198.51.100.9"),
        ("", from(&[xff, ("forwarded", "x")]), "198.51.100.9"),
        ("", from(&[xff, ("forwarded", "for=10.0.0.1")]), "198.51.100.9"),
        ("", from(&[forwarded]), "127.0.0.1"),
        (", forwarded_by: forwarded", from(&[forwarded]), "198.51.100.9"),
        (", forwarded_by: forwarded", from(&[("x-forwarded-for", "6.6.6.6"), forwarded]), "198.51.100.9"),
        (", forwarded_by: forwarded", from(&[xff]), "127.0.0.1"),
    ];
    for (more, fields, expected) in cases {
        let document = format!(
            "listeners: [{{ bind: 127.0.0.1:0, trusted_proxies: [127.0.0.1]{more} }}]\n\
             upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
            upstream.address
        );
        let gateway = Gateway::start(&document).await;
        let answered = gateway.post("/mcp", &fields, &call()).await;
        assert_eq!(source(&gateway, &mut heads, &answered).await, expected, "{more} {fields:?}");
    }
}

#[tokio::test]
async fn behind_a_proxy_protocol_header_forwarding_fields_are_believed_by_a_list_of_their_own() {
    let (upstream, mut heads) = telling().await;
    let inner = [127, 0, 0, 1];
    let cases = [
        ("a client among the proxies", "", spoken_for(inner), "127.0.0.1"),
        ("LOCAL", "", header(0x20, 0, &[]), "127.0.0.1"),
        ("LOCAL of one that may forward", ", forwarded_from: 127.0.0.1", header(0x20, 0, &[]), "127.0.0.1"),
        ("UNSPEC", ", forwarded_from: 127.0.0.1", header(0x21, 0, &[]), "127.0.0.1"),
        ("a Unix socket", ", forwarded_from: 127.0.0.1", header(0x21, 0x31, &[0; 216]), "127.0.0.1"),
        ("one that may not forward", ", forwarded_from: 10.0.0.0/8", spoken_for(inner), "127.0.0.1"),
        ("one that may", ", forwarded_from: 127.0.0.1", spoken_for(inner), "198.51.100.9"),
    ];
    for (name, more, preface, expected) in cases {
        let document = format!(
            "listeners: [{{ bind: 127.0.0.1:0, proxy_protocol: v2, trusted_proxies: [127.0.0.1]{more} }}]\n\
             upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
            upstream.address
        );
        let gateway = Gateway::start(&document).await;
        let mut client = gateway.connect().await;
        client.send(&preface).await;
        client.post("/mcp", &[("x-forwarded-for", "198.51.100.9".to_owned())], call().as_bytes()).await;
        let answered = client.response().await;
        assert_eq!(source(&gateway, &mut heads, &answered).await, expected, "{name}");
    }
}

async fn aging(upstream: SocketAddr, limits: &str) -> Gateway {
    let document = format!(
        "listeners: [{{ bind: 127.0.0.1:0, http2: true, limits: {{ {limits} }} }}]\n\
         upstreams:\n  up: http://{upstream}/mcp\nservers:\n  /mcp: up\n"
    );
    Gateway::start(&document).await
}

#[tokio::test]
async fn a_connection_that_is_old_closes_after_its_answers() {
    let upstream = Upstream::answering().await;
    let old = aging(upstream.address, "max_connection_age: 50ms").await;
    let mut client = old.connect().await;
    let closed = async {
        loop {
            client.post("/mcp", &[], call().as_bytes()).await;
            let answer = client.response().await;
            assert_eq!(answer.status, 200);
            if answer.header("connection") == Some("close") {
                return client.until_closed().await;
            }
        }
    };
    assert_eq!(within(10, "a connection that is old enough", closed).await, "");

    let client = H2Client::over(dial(old.address).await.unwrap(), old.address).await;
    while let Ok(answer) = client.try_post("/mcp", &[], call().as_bytes()).await {
        assert_eq!(answer.status, 200, "what was begun is answered");
    }
    assert_eq!(client.ended().await, "in order");

    let young = aging(upstream.address, "").await;
    let mut client = young.connect().await;
    for _ in 0..3 {
        client.post("/mcp", &[], call().as_bytes()).await;
        assert_eq!(client.response().await.header("connection"), None);
    }
}

const AMOUNTS: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision if input.mcp.kind != \"tool\"\n\ndecision if input.mcp.arguments.amount <= 1000\n\n\
    default visible := true\n";

/// A tool one of whose arguments is mirrored in `Mcp-Param-Amount`.
fn mirrored() -> serde_json::Value {
    let amount = json!({"type": "integer", "x-mcp-header": "Amount"});
    json!({"name": "pay", "description": "pay", "inputSchema": {"type": "object", "properties": {"amount": amount}}})
}

#[tokio::test]
async fn headers_that_mirror_arguments_are_held_to_what_the_policy_reads() {
    let amount = ("mcp-param-amount", "1");
    let cases: [(&str, &[(&'static str, &str)], bool); 7] = [
        ("the same", &[amount], true),
        ("the same in another form", &[("mcp-param-amount", "1.0")], true),
        ("another", &[("mcp-param-amount", "1000000")], false),
        ("coded", &[("mcp-param-amount", "=?base64?MTAwMDAwMA==?=")], false),
        ("twice", &[amount, ("mcp-param-amount", "1000000")], false),
        ("none", &[], false),
        ("of nothing that is known", &[amount, ("mcp-param-limit", "1000000")], false),
    ];
    for (more, policy) in [("", true), (", bridge: false", true), (", names: prefix", true), ("", false)] {
        let server =
            Mcp::start(
                Nature::of(Era::Modern),
                vec![mirrored()],
                |call| async move { Ok(text(call.tool())) },
            )
            .await;
        let rest = if policy { "policy: policy.rego\n" } else { "" };
        let document = format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: {{ upstreams: up{more} }}\n{rest}",
            server.url()
        );
        let gateway = Gateway::start_beside(&[("policy.rego", AMOUNTS)], &document).await;
        let tool = if more.contains("prefix") { "up_pay" } else { "pay" };
        for (name, fields, fits) in &cases {
            let caller = Caller::new(Era::Modern, gateway.address);
            let mut caller =
                fields.iter().fold(caller, |caller, (name, value)| caller.with_field(name, value));
            let before = server.counted("tools/call");
            let said = caller.call(tool, json!({"amount": 1})).await.unwrap();
            let way = format!("{name}{more} {policy}: {}", said.all());
            // Without a rule the server alone judges: this one takes anything.
            let passes = *fits || !policy;
            assert_eq!(said.text() == "pay", passes, "{way}");
            assert_eq!(server.counted("tools/call") - before, usize::from(passes), "{way}");
            if !passes {
                assert_eq!((said.head.status, said.code()), (400, Some(-32020)), "{way}");
            }
        }
    }
}
