//! Who may call: tokens, certificates, and what happens when they end or are taken back.

mod certificates;
mod hall;
mod issuers;
pub(crate) mod taken_back;

use crate::harness::{
    Authority, Client, Era, Gateway, Issuer, Key, Long, Mcp, Nature, Response, Upstream, modern_call,
    modern_headers, within,
};
use hall::Hall;
use serde_json::{Value, json};

const RESOURCE: &str = "https://gw.example/mcp";
const METADATA: &str = "resource_metadata=\"https://gw.example/.well-known/oauth-protected-resource/mcp\"";

/// A gateway that takes tokens of an issuer, and an MCP server behind it.
struct Guarded {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    server: Mcp,
}

impl Guarded {
    /// `jwt` goes into the issuer, `rest` beside it.
    async fn start(jwt: &str, rest: &str) -> Guarded {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
        let document = document(&issuer, &server, jwt, rest);
        let gateway = Gateway::start(&document).await;
        Guarded { gateway, issuer, key, server }
    }

    async fn call(&self, token: &str) -> Response {
        call(&mut self.gateway.connect().await, "/mcp", Some(token)).await
    }

    fn token(&self) -> String {
        self.issuer.token(&self.key, RESOURCE)
    }

    /// Puts another `rest` in force.
    fn configure(&self, jwt: &str, rest: &str) {
        self.gateway.configure(&document(&self.issuer, &self.server, jwt, rest));
    }
}

fn document(issuer: &Issuer, server: &Mcp, jwt: &str, rest: &str) -> String {
    format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: up\n  /hr/mcp: up\nidentity:\n  url: https://gw.example\n  \
         jwt: {{issuer: '{}'{jwt}}}\n{rest}",
        server.url(),
        issuer.url()
    )
}

async fn call(client: &mut Client, path: &str, token: Option<&str>) -> Response {
    let mut headers = modern_headers("echo");
    headers.extend(token.map(|token| ("authorization", format!("Bearer {token}"))));
    client.post(path, &headers, modern_call(1, "echo").as_bytes()).await;
    client.response().await
}

fn challenge(response: &Response) -> &str {
    response.header("www-authenticate").unwrap_or_default()
}

/// Opens a `subscriptions/listen` stream with a token.
async fn listen(gateway: &Gateway, token: &str) -> Client {
    let mut client = gateway.connect().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", "subscriptions/listen".to_owned()),
        ("authorization", format!("Bearer {token}")),
    ];
    client.post("/mcp", &headers, Long::listening(7).as_bytes()).await;
    assert_eq!(client.response_head().await.status, 200);
    client
}

/// What a stream says until it ends, which it has to within this time.
async fn ends_within(seconds: u64, mut client: Client) -> String {
    within(seconds, "the end of the stream", client.rest()).await
}

#[tokio::test]
async fn a_good_token_passes_and_goes_no_further() {
    let guarded = Guarded::start(", claims: [region]", "").await;
    let token = guarded.token();
    let mut client = guarded.gateway.connect().await;
    for _ in 0..3 {
        let answer = call(&mut client, "/mcp", Some(&token)).await;
        assert_eq!((answer.status, answer.json()["error"].is_null()), (200, true), "{:?}", answer.json());
    }
    assert_eq!(guarded.call(&token).await.status, 200);
    let counted = |result: &'static str| guarded.gateway.metric(result);
    assert_eq!(counted("mcp_token_cache_total{result=\"miss\"}").await, Some(1.0));
    assert_eq!(counted("mcp_token_cache_total{result=\"connection\"}").await, Some(2.0));
    assert_eq!(counted("mcp_token_cache_total{result=\"hit\"}").await, Some(1.0));
    assert_eq!(guarded.server.counted(&format!("Bearer {token}")), 0, "the token went upstream");
    let record = guarded.gateway.recorded("the caller", |record| record["user_id"] == "anna").await;
    assert_eq!((&record["auth"], &record["tenant_id"]), (&json!("jwt"), &json!(guarded.issuer.url())));
    assert!(!guarded.gateway.log_text().contains(&token));
}

#[tokio::test]
async fn what_does_not_hold_is_refused_before_anything_is_asked_of_a_server() {
    let guarded = Guarded::start("", "  scopes: [mcp]\n").await;
    let (issuer, key) = (&guarded.issuer, &guarded.key);
    let now = issuer.claims(RESOURCE, json!({}))["iat"].as_u64().unwrap();
    let with = |more: Value| issuer.token_with(key, RESOURCE, more);
    let header = |header: Value| key.sign(&header, &issuer.claims(RESOURCE, json!({})));
    let stranger = Key::new("k1");
    let truncated = guarded.token();
    let truncated = truncated[..truncated.len() - 8].to_owned();
    let cases = [
        ("another audience", issuer.token(key, "https://gw.example/hr/mcp"), 401, "invalid_token"),
        ("another issuer", with(json!({"iss": "https://evil.example"})), 401, "invalid_token"),
        ("expired", with(json!({"exp": now - 60})), 401, "invalid_token"),
        ("not yet valid", with(json!({"nbf": now + 60})), 401, "invalid_token"),
        ("none", header(json!({"alg": "none", "typ": "at+jwt"})), 401, "invalid_token"),
        ("HMAC", header(json!({"alg": "HS256", "kid": "k1", "typ": "at+jwt"})), 401, "invalid_token"),
        (
            "another algorithm",
            header(json!({"alg": "RS256", "kid": "k1", "typ": "at+jwt"})),
            401,
            "invalid_token",
        ),
        ("another type", header(json!({"alg": "ES256", "kid": "k1", "typ": "id+jwt"})), 401, "invalid_token"),
        ("unknown key", header(json!({"alg": "ES256", "kid": "k9", "typ": "at+jwt"})), 401, "invalid_token"),
        ("another key", issuer.token(&stranger, RESOURCE), 401, "invalid_token"),
        ("truncated", truncated, 401, "invalid_token"),
        ("rubbish", "x".to_owned(), 401, "invalid_token"),
        ("too little scope", with(json!({"scope": "other"})), 403, "insufficient_scope"),
    ];
    for (name, token, status, error) in cases {
        let refused = guarded.call(&token).await;
        assert_eq!((refused.status, refused.reason().as_str()), (status, error), "{name}");
        let challenge = challenge(&refused);
        assert!(
            challenge.starts_with(&format!("Bearer {METADATA}, error=\"{error}\"")),
            "{name}: {challenge}"
        );
        assert!(challenge.ends_with("scope=\"mcp\""), "{name}: {challenge}");
    }
    let mut client = guarded.gateway.connect().await;
    let nothing = call(&mut client, "/mcp", None).await;
    assert_eq!((nothing.status, nothing.reason().as_str()), (401, "unauthenticated"));
    assert_eq!(challenge(&nothing), format!("Bearer {METADATA}, scope=\"mcp\""));
    client.send(client.head("GET", "/mcp", &[]).as_bytes()).await;
    client.send(b"accept: text/event-stream\r\n\r\n").await;
    assert_eq!(client.response().await.status, 401);
    client.send(client.head("DELETE", "/mcp", &[]).as_bytes()).await;
    client.send(b"mcp-session-id: s\r\n\r\n").await;
    assert_eq!(client.response().await.status, 401);
    assert_eq!(guarded.server.counted("tools/call"), 0);
    assert!(guarded.gateway.counted("portunus_identity_faults_total", "fault=\"audience\"").await > 0.5);
}

#[tokio::test]
async fn clients_find_out_by_the_challenge_alone_where_to_go() {
    let guarded = Guarded::start("", "  scopes: [mcp]\n  metadata: {scopes: [more]}\n").await;
    let mut client = guarded.gateway.connect().await;
    for path in ["/mcp", "/hr/mcp"] {
        let ask = format!("/.well-known/oauth-protected-resource{path}");
        client.send(format!("{}\r\n", client.head("GET", &ask, &[])).as_bytes()).await;
        let metadata = client.response().await;
        assert_eq!(metadata.status, 200);
        let expected = json!({
            "resource": format!("https://gw.example{path}"),
            "authorization_servers": [guarded.issuer.url()],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["mcp", "more"],
        });
        assert_eq!(metadata.json(), expected);
    }
    for (path, status) in [("", 404), ("/other", 404), ("s/mcp", 404)] {
        let ask = format!("/.well-known/oauth-protected-resource{path}");
        client.send(format!("{}\r\n", client.head("GET", &ask, &[])).as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{ask}");
    }
}

#[tokio::test]
async fn a_provider_that_registers_nobody_is_presented_with_the_one_client_that_it_has() {
    let guarded = Guarded::start("", "  metadata: {client: fixed}\n").await;
    let mut client = guarded.gateway.connect().await;
    let mut ask = async |path: &str| {
        client.send(format!("{}\r\n", client.head("GET", path, &[])).as_bytes()).await;
        client.response().await
    };
    let resource = ask("/.well-known/oauth-protected-resource/mcp").await.json();
    assert_eq!(resource["authorization_servers"], json!([RESOURCE]));
    let provider = ask("/.well-known/oauth-authorization-server/mcp").await.json();
    let place = "https://gw.example/.well-known/oauth-authorization-server/mcp";
    assert_eq!((&provider["issuer"], &provider["registration_endpoint"]), (&json!(RESOURCE), &json!(place)));
    assert_eq!(provider["jwks_uri"], json!(format!("{}/keys", guarded.issuer.url())));
    let body = br#"{"redirect_uris":["http://127.0.0.1:3000/callback"],"client_name":"desk"}"#;
    client.post("/.well-known/oauth-authorization-server/mcp", &[], body).await;
    let registered = client.response().await;
    assert_eq!((registered.status, &registered.json()["client_id"]), (201, &json!("fixed")));
    client.post("/.well-known/oauth-authorization-server/mcp", &[], b"{}").await;
    assert_eq!(client.response().await.status, 400);
}

#[tokio::test]
async fn what_was_verified_under_other_settings_is_verified_again() {
    let guarded = Guarded::start("", "").await;
    let (token, mut client) = (guarded.token(), guarded.gateway.connect().await);
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
    guarded.configure(", algorithms: [RS256]", "");
    guarded.gateway.reaches("the swap", |status| status["serial"] == 2).await;
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 401, "on the same connection");
    assert_eq!(guarded.call(&token).await.status, 401);
}

#[tokio::test]
async fn a_token_that_is_known_is_none_where_keys_are_shown() {
    let guarded = Guarded::start("", "  keys: {entries: {}, shown_in: [bearer, X-API-Key]}\n").await;
    let (token, mut client) = (guarded.token(), guarded.gateway.connect().await);
    let mut other = guarded.gateway.connect().await;
    for shown in [format!("Bearer {token}"), token.clone()] {
        assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
        for client in [&mut client, &mut other] {
            let headers = [modern_headers("echo"), vec![("x-api-key", shown.clone())]].concat();
            client.post("/mcp", &headers, modern_call(1, "echo").as_bytes()).await;
            assert_eq!(client.response().await.status, 401);
        }
    }
}

#[tokio::test]
async fn a_token_for_one_server_is_refused_at_another_after_it_was_taken() {
    let guarded = Guarded::start("", "").await;
    let (token, mut client) = (guarded.token(), guarded.gateway.connect().await);
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
    let elsewhere = call(&mut client, "/hr/mcp", Some(&token)).await;
    assert_eq!((elsewhere.status, elsewhere.reason().as_str()), (401, "invalid_token"));
    let mut other = guarded.gateway.connect().await;
    assert_eq!(call(&mut other, "/hr/mcp", Some(&token)).await.status, 401);
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_and_the_issuer_may_go_away() {
    let mut guarded = Guarded::start("", "").await;
    assert_eq!(guarded.call(&guarded.token()).await.status, 200);
    assert_eq!(guarded.issuer.fetches(), 1);
    let fresh = Key::new("k2");
    guarded.issuer.publish(&[&guarded.key, &fresh]);
    let rotated = guarded.issuer.token(&fresh, RESOURCE);
    assert_eq!(guarded.call(&rotated).await.status, 200);
    for number in 0..5 {
        let header = json!({"alg": "ES256", "kid": format!("k{number}9"), "typ": "at+jwt"});
        let unknown = fresh.sign(&header, &guarded.issuer.claims(RESOURCE, json!({})));
        assert_eq!(guarded.call(&unknown).await.status, 401);
    }
    assert_eq!(guarded.issuer.fetches(), 2, "strangers have keys fetched again and again");
    let issuer = std::mem::replace(&mut guarded.issuer, Issuer::start(&[]).await);
    let known = issuer.token(&guarded.key, RESOURCE);
    drop(issuer);
    assert_eq!(guarded.call(&known).await.status, 200, "the provider is down");
}

#[tokio::test]
async fn a_key_that_is_published_no_more_verifies_nothing_and_ends_streams() {
    let guarded = Guarded::start(", refresh: 1s", "").await;
    let (token, fresh) = (guarded.token(), Key::new("k2"));
    assert_eq!(guarded.call(&token).await.status, 200);
    let stream = listen(&guarded.gateway, &token).await;
    guarded.issuer.publish(&[&fresh]);
    let last = ends_within(5, stream).await;
    assert!(last.contains("\"resultType\":\"complete\""), "{last}");
    assert_eq!(guarded.call(&token).await.status, 401);
    assert_eq!(guarded.call(&guarded.issuer.token(&fresh, RESOURCE)).await.status, 200);
}

#[tokio::test]
async fn whoever_is_on_the_denylist_is_out_with_the_swap() {
    for list in ["subjects: anna", "tokens: t-1", "keys: k1"] {
        let guarded = Guarded::start("", "").await;
        let token = guarded.issuer.token_with(&guarded.key, RESOURCE, json!({"jti": "t-1"}));
        let mut client = guarded.gateway.connect().await;
        assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
        let stream = listen(&guarded.gateway, &token).await;
        guarded.configure("", &format!("  revoked: {{{list}}}\n"));
        guarded.gateway.reaches("the swap", |status| status["serial"] == 2).await;
        let last = ends_within(10, stream).await;
        assert!(last.contains("\"resultType\":\"complete\""), "{list}: {last}");
        let refused = call(&mut client, "/mcp", Some(&token)).await;
        assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{list}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let guarded = Guarded::start(", clock_skew: 0s", "").await;
    let now = guarded.issuer.claims(RESOURCE, json!({}))["iat"].as_u64().unwrap();
    let short = guarded.issuer.token_with(&guarded.key, RESOURCE, json!({"exp": now + 3}));
    let last = ends_within(5, listen(&guarded.gateway, &short).await).await;
    assert!(last.contains("\"resultType\":\"complete\""), "{last}");
    assert_eq!(guarded.call(&short).await.status, 401);
}

#[tokio::test]
async fn strangers_are_served_only_where_that_is_said_and_a_bad_token_never_is() {
    let guarded = Guarded::start("", "  anonymous: {roles: [reader]}\n").await;
    let mut client = guarded.gateway.connect().await;
    assert_eq!(call(&mut client, "/mcp", None).await.status, 200);
    assert_eq!(call(&mut client, "/mcp", Some("x")).await.status, 401);
    let record = guarded.gateway.recorded("the stranger", |record| record["status"] == "ok").await;
    assert_eq!((&record["auth"], &record["tenant_id"]), (&json!("anonymous"), &json!("anonymous")));
    let cases = [
        ("  anonymous: allow\n  revoked: {subjects: {tenant: anonymous, subject: 127.0.0.1}}\n", 401),
        ("  anonymous: allow\n  scopes: [mcp]\n", 403),
    ];
    for (number, (rest, status)) in cases.into_iter().enumerate() {
        guarded.configure("", rest);
        guarded.gateway.reaches("the swap", |status| status["serial"] == number + 2).await;
        assert_eq!(call(&mut client, "/mcp", None).await.status, status, "{rest}");
    }
}

#[tokio::test]
async fn an_issuer_is_asked_about_tokens_that_say_nothing() {
    let issuer = Issuer::start(&[]).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let document = |cache: &str| {
        format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             introspection: {{issuer: idp, url: '{}/introspect', client: {{id: gw, secret: 'file:secret'}}, cache: {cache}}}\n",
            server.url(),
            issuer.url()
        )
    };
    let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document("30s")).await;
    issuer.says("opaque-1", json!({"active": true, "sub": "anna", "aud": RESOURCE}));
    issuer.says("opaque-2", json!({"active": true, "sub": "anna", "aud": "https://other.example"}));
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(call(&mut client, "/mcp", Some("opaque-1")).await.status, 200);
    }
    assert_eq!(issuer.asked().len(), 1);
    assert!(issuer.asked()[0].contains("authorization: Basic Z3c6czNjcmV0"), "{:?}", issuer.asked());
    assert_eq!(call(&mut client, "/mcp", Some("opaque-2")).await.status, 401);
    assert_eq!(call(&mut client, "/mcp", Some("unknown")).await.status, 401);
    drop(issuer);
    let unavailable = call(&mut client, "/mcp", Some("opaque-3")).await;
    assert_eq!((unavailable.status, unavailable.reason().as_str()), (503, "identity_unavailable"));
    assert_eq!(call(&mut client, "/mcp", Some("opaque-1")).await.status, 200);
    assert!(!gateway.log_text().contains("s3cret"));
}

#[tokio::test]
async fn a_certificate_names_its_caller_and_a_bound_token_goes_with_no_other() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let identity = format!("  jwt: {{issuer: '{}'}}\n  mtls: {{dns: ['*.agents.internal']}}\n", issuer.url());
    let hall = Hall::start((&clients, &own), &identity, &server).await;
    let (mine, other) = (clients.issue(&["a.agents.internal"]), clients.issue(&["b.elsewhere.internal"]));
    let bound = issuer.token_with(&key, RESOURCE, json!({"cnf": {"x5t#S256": mine.thumbprint()}}));
    let free = issuer.token(&key, RESOURCE);
    let cases = [
        ("a certificate alone", Some(&mine), None, 200),
        ("a certificate that names nobody", Some(&other), None, 401),
        ("nothing", None, None, 401),
        ("a token alone", None, Some(&free), 200),
        ("a bound token with its certificate", Some(&mine), Some(&bound), 200),
        ("a bound token with another", Some(&other), Some(&bound), 401),
        ("a bound token with none", None, Some(&bound), 401),
    ];
    for (name, shows, token, status) in cases {
        let (answered, reason) = hall.call(shows, token.map(String::as_str)).await;
        assert_eq!(answered, status, "{name}: {reason}");
    }
    let record = hall.gateway.recorded("the certificate", |record| record["auth"] == "mtls").await;
    assert_eq!(record["user_id"], "a.agents.internal");
}

#[tokio::test]
async fn both_are_needed_where_both_are_required() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let identity = format!(
        "  jwt: {{issuer: '{}'}}\n  mtls: {{dns: ['*.agents.internal'], token_caller: any}}\n  require: [mtls, jwt]\n",
        issuer.url()
    );
    let hall = Hall::start((&clients, &own), &identity, &server).await;
    let (mine, other) = (clients.issue(&["a.agents.internal"]), clients.issue(&["b.elsewhere.internal"]));
    let token = issuer.token(&key, RESOURCE);
    let cases = [
        ("both", Some(&mine), Some(&token), 200),
        ("a certificate alone", Some(&mine), None, 401),
        ("a token alone", None, Some(&token), 401),
        ("a token and a certificate that names nobody", Some(&other), Some(&token), 401),
    ];
    for (name, shows, token, status) in cases {
        let (answered, reason) = hall.call(shows, token.map(String::as_str)).await;
        assert_eq!(answered, status, "{name}: {reason}");
    }
    let record = hall.gateway.recorded("the caller", |record| record["auth"] == "mtls_jwt").await;
    assert_eq!((&record["user_id"], &record["agent_id"]), (&json!("anna"), &json!("a.agents.internal")));
}

#[tokio::test]
async fn tokens_that_come_before_the_first_keys_are_neither_good_nor_bad() {
    let server = Upstream::unreachable().await;
    let (nobody, key) = (Issuer::start(&[]).await, Key::new("k1"));
    let (url, token) = (nobody.url(), nobody.token(&key, RESOURCE));
    drop(nobody);
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
         jwt: {{issuer: '{url}', timeout: 1s}}\n",
        server.address
    );
    let gateway = Gateway::start(&document).await;
    let answer = call(&mut gateway.connect().await, "/mcp", Some(&token)).await;
    assert_eq!((answer.status, answer.reason().as_str()), (503, "identity_unavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let status = gateway.status().await;
    assert_eq!(status["identity"]["issuers"][0]["issuer"], url);
    assert!(status["identity"]["issuers"][0]["failed"].is_string(), "{status}");
}
