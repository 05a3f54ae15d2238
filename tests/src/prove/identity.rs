//! Show: tokens of a real authorization server. Good ones pass, all others are refused with the right
//! status and challenge, and what was good stops being so when it should.

use crate::harness::{
    Authority, Client, Era, Gateway, Long, Mcp, Nature, Pair, Provider, Response, Runtime, Server, dial_tls,
    free_address, modern_call, modern_headers, url, within,
};
use serde_json::json;
use std::time::Instant;
use tokio_rustls::rustls::ClientConfig;

const RESOURCE: &str = "https://gw.test/mcp";
const OTHER: &str = "https://gw.test/hr/mcp";

/// A gateway that believes a provider, and callers with and without certificates.
struct Site {
    provider: Provider,
    gateway: Gateway,
    clients: Clients,
}

/// Who connects under TLS.
struct Clients {
    authority: Authority,
    agent: Pair,
    other: Pair,
}

/// What a client shows beside its token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    Agent,
    Other,
}

impl Clients {
    fn new() -> Clients {
        let authority = Authority::new("of everyone");
        let [agent, other] = ["agent.test", "other.test"].map(|name| authority.issue(&[name]));
        Clients { authority, agent, other }
    }

    fn config(&self, shows: Shows) -> ClientConfig {
        let pair = match shows {
            Shows::Nothing => None,
            Shows::Agent => Some(&self.agent),
            Shows::Other => Some(&self.other),
        };
        self.authority.client(&["http/1.1"], pair)
    }
}

/// `more` goes into `identity`.
fn document(issuer: &str, upstream: std::net::SocketAddr, more: &str) -> String {
    format!(
        "listeners:\n\
         - name: tls\n  bind: 127.0.0.1:0\n  \
           tls: {{ certificates: [{{ certificate: gw.pem, key: gw.key }}], client_certificates: {{ trust: ca.pem, mode: optional }} }}\n\
         identity:\n  url: https://gw.test\n  jwt:\n  - issuer: {issuer}\n    tenant: {{ claim: tenant }}\n    roles: roles\n    \
           algorithms: [RS256, ES256, EdDSA]\n{more}\
         upstreams:\n  up: http://{upstream}/mcp\nservers:\n  /mcp: up\n  /hr/mcp: up\n"
    )
}

impl Site {
    async fn start(upstream: std::net::SocketAddr) -> Site {
        let provider = Provider::start().await;
        let clients = Clients::new();
        let own = clients.authority.issue(&["gw.test"]);
        let ca = clients.authority.pem();
        let files = [("gw.pem", own.chain.as_str()), ("gw.key", &own.key), ("ca.pem", &ca)];
        let document = document(&provider.issuer(), upstream, "");
        let gateway = Gateway::start_beside(&files, &document).await;
        Site { provider, gateway, clients }
    }

    async fn connect(&self, shows: Shows) -> Client {
        let stream = dial_tls(self.gateway.address, &self.clients.config(shows), "gw.test").await.unwrap();
        Client::over(stream, self.gateway.address)
    }

    async fn call(&self, path: &str, token: &str, shows: Shows) -> Response {
        let mut client = self.connect(shows).await;
        let shown =
            if token.is_empty() { vec![] } else { vec![("authorization", format!("Bearer {token}"))] };
        let headers = [modern_headers("echo"), shown].concat();
        client.post(path, &headers, modern_call(1, "echo").as_bytes()).await;
        client.response().await
    }

    /// Calls with a token that should pass.
    async fn passes(&self, name: &str, token: &str, shows: Shows) {
        let response = self.call("/mcp", token, shows).await;
        println!("{name:<44} {}", response.status);
        assert!(response.status == 200 && response.json()["error"].is_null(), "{name}: {response:?}");
    }

    /// Calls with a token that should not pass.
    async fn refuses(&self, name: &str, token: &str, shows: Shows) {
        let response = self.call("/mcp", token, shows).await;
        challenged(name, &response, "mcp", !token.is_empty());
    }
}

/// Holds an answer to what a client has to be told (RFC 6750 §3, RFC 9728 §5.1).
fn challenged(name: &str, response: &Response, path: &str, invalid: bool) {
    let challenge = response.header("www-authenticate").unwrap_or_default();
    println!("{name:<44} {} {challenge}", response.status);
    assert_eq!(response.status, 401, "{name}: {response:?}");
    let metadata =
        format!("resource_metadata=\"https://gw.test/.well-known/oauth-protected-resource/{path}\"");
    assert!(challenge.starts_with("Bearer ") && challenge.contains(&metadata), "{name}: {challenge}");
    assert_eq!(challenge.contains("error=\"invalid_token\""), invalid, "{name}: {challenge}");
    assert_eq!(
        response.header("portunus-outcome"),
        Some(if invalid { "invalid_token" } else { "unauthenticated" })
    );
}

pub(super) async fn run() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let site = Site::start(server.address()).await;
    good_tokens_pass(&site).await;
    let reached = server.counts();
    wrong_tokens_are_refused(&site).await;
    assert_eq!(server.counts(), reached, "something that was refused reached the server");
    tokens_of_others_are_refused(&site).await;
    keys_come_and_go(site).await;
    what_was_good_ends().await;
    crate::identity::taken_back::show().await;
    sdk_clients_find_the_provider().await;
}

async fn good_tokens_pass(site: &Site) {
    let mut kinds = vec![];
    for client in ["rs", "es", "ed", "ed25519"] {
        let token = site.provider.token(client, RESOURCE).await;
        site.passes(&format!("a token of {client}"), &token, Shows::Nothing).await;
        kinds.push(token);
    }
    let bound = site.provider.grant("bound", RESOURCE, "tools:read", Some(&site.clients.agent)).await;
    site.passes("a token bound to the certificate", &bound, Shows::Agent).await;
    assert_eq!(site.provider.key_fetches().await, 1, "all of them with the keys of one fetch");
}

async fn wrong_tokens_are_refused(site: &Site) {
    let Site { provider, .. } = site;
    site.refuses("no token", "", Shows::Nothing).await;
    let cases = [
        ("another issuer", json!({ "claims": { "iss": "https://other.test" } })),
        ("another audience", json!({ "claims": { "aud": "https://other.test/mcp" } })),
        ("no audience", json!({ "claims": { "aud": null } })),
        ("an algorithm that is not the issuer's", json!({ "header": { "alg": "PS256" } })),
        ("`none`", json!({ "as": "none" })),
        ("HMAC with the public key", json!({ "as": "hmac" })),
        ("expired", json!({ "age": 600 })),
        ("without an end", json!({ "claims": { "exp": null } })),
        ("not yet valid", json!({ "claims": { "nbf": 4_102_444_800_u64 } })),
        ("issued in the future", json!({ "age": -3600 })),
        ("a key that was never published", json!({ "as": "stranger" })),
        ("an unknown key", json!({ "header": { "kid": "never-seen" } })),
        ("another kind of token", json!({ "header": { "typ": "dpop+jwt" } })),
        ("a critical extension", json!({ "header": { "crit": ["b64"], "b64": true } })),
        ("without a subject", json!({ "claims": { "sub": null } })),
    ];
    for (name, changed) in cases {
        let token = provider.sign_for(RESOURCE, changed).await;
        site.refuses(name, &token, Shows::Nothing).await;
    }
    let good = provider.token("rs", RESOURCE).await;
    site.refuses("truncated", &good[..good.len() - 2], Shows::Nothing).await;
    let (signed, signature) = good.rsplit_once('.').unwrap();
    site.refuses("without its signature", &format!("{signed}."), Shows::Nothing).await;
    let other = provider.token("rs", OTHER).await;
    let (claims, _) = other.rsplit_once('.').unwrap();
    site.refuses("another's signature", &format!("{claims}.{signature}"), Shows::Nothing).await;
    site.refuses("no token at all", "x", Shows::Nothing).await;
}

async fn tokens_of_others_are_refused(site: &Site) {
    let Site { provider, clients, .. } = site;
    let bound = provider.grant("bound", RESOURCE, "tools:read", Some(&clients.agent)).await;
    site.passes("bound, with its certificate", &bound, Shows::Agent).await;
    site.refuses("bound to another certificate, after a hit", &bound, Shows::Other).await;
    site.refuses("bound, without a certificate, after a hit", &bound, Shows::Nothing).await;

    let token = provider.token("es", RESOURCE).await;
    site.passes("for this server", &token, Shows::Nothing).await;
    let elsewhere = site.call("/hr/mcp", &token, Shows::Nothing).await;
    challenged("the same at another server, after a hit", &elsewhere, "hr/mcp", true);
    let there = provider.token("es", OTHER).await;
    assert_eq!(site.call("/hr/mcp", &there, Shows::Nothing).await.status, 200);
}

/// A rotation is followed, a provider that is down changes nothing for known keys.
async fn keys_come_and_go(site: Site) {
    let old = site.provider.token("es", RESOURCE).await;
    site.passes("before the keys change", &old, Shows::Nothing).await;
    site.provider.rotate().await;
    let new = site.provider.token("es", RESOURCE).await;
    within(30, "the new keys", async {
        while site.call("/mcp", &new, Shows::Nothing).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    site.passes("signed with a key that is new", &new, Shows::Nothing).await;
    site.refuses("signed with a key that was rotated away", &old, Shows::Nothing).await;

    let unseen = site.provider.token("ed", RESOURCE).await;
    let strange = site.provider.sign_for(RESOURCE, json!({ "header": { "kid": "later" } })).await;
    let Site { provider, gateway, clients } = site;
    let issuer = provider.issuer();
    drop(provider);
    let site = Site { provider: Provider::start().await, gateway, clients };
    assert_ne!(site.provider.issuer(), issuer);
    site.passes("the provider is down: a token seen before", &new, Shows::Nothing).await;
    site.passes("the provider is down: a new one of a known key", &unseen, Shows::Nothing).await;
    site.refuses("the provider is down: an unknown key", &strange, Shows::Nothing).await;
    site.passes("the provider is still down", &new, Shows::Nothing).await;
}

/// A subject that is denied is refused at its next call, and its stream ends.
async fn what_was_good_ends() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let site = Site::start(server.address()).await;
    let token = site.provider.token("rs", RESOURCE).await;
    site.passes("before the subject is denied", &token, Shows::Nothing).await;
    let mut stream = open(&site, &token).await;
    let denied = document(&site.provider.issuer(), server.address(), "  revoked: { subjects: [rs] }\n");
    site.gateway.configure(&format!("revision: denied\n{denied}"));
    let live =
        |status: &serde_json::Value| status["revision"].as_str().is_some_and(|r| r.starts_with("denied"));
    site.gateway.reaches("the denial", live).await;
    let since = Instant::now();
    site.refuses("after the subject is denied", &token, Shows::Nothing).await;
    within(1, "the end of the stream", async {
        while stream.try_chunk().await.is_ok_and(|c| c.is_some()) {}
    })
    .await;
    println!("{:<44} {:?}", "its stream ended after", since.elapsed());
    let other = site.provider.token("es", RESOURCE).await;
    site.passes("another subject", &other, Shows::Nothing).await;
}

/// Clients that know nothing but the URL of the gateway find the provider by the challenge and the
/// metadata, and get in.
async fn sdk_clients_find_the_provider() {
    let provider = Provider::start().await;
    let server = Server::start(Runtime::Python2, "upstream.py").await;
    let address = free_address();
    let url = url(address);
    let _gateway = Gateway::start(&format!(
        "listen: {address}\nidentity:\n  url: {}\n  scopes: [\"tools:read\"]\n  jwt:\n  - issuer: {}\n    tenant: acme\n\
         upstreams:\n  up: {}\nservers:\n  /mcp: up\n",
        url.strip_suffix("/mcp").unwrap(),
        provider.issuer(),
        server.url()
    ))
    .await;
    let clients = [
        (Runtime::Node, "oauth_ts.mjs", vec![url.as_str(), "credentials"]),
        (Runtime::Node, "oauth_ts.mjs", vec![&url, "code"]),
        (Runtime::Python2, "oauth_py.py", vec![&url]),
    ];
    for (runtime, program, arguments) in clients {
        let told = runtime.run(60, program, &arguments).await;
        println!("{program} {}\n{told}", arguments[1..].join(" "));
        assert!(told.ends_with(" tools, echo answered\n"), "{program}: {told}");
        let first = format!("POST {url} 401");
        assert!(told.starts_with(&first) && told.contains("oauth-protected-resource"), "{program}: {told}");
    }
}

async fn open(site: &Site, token: &str) -> Client {
    let mut client = site.connect(Shows::Nothing).await;
    let shown = [
        ("authorization", format!("Bearer {token}")),
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", "subscriptions/listen".to_owned()),
    ];
    client.post("/mcp", &shown, Long::listening(7).as_bytes()).await;
    let head = client.response_head().await;
    assert_eq!(head.status, 200, "{head:?}");
    client
}
