//! What was good and is so no longer: refused on the next call, and whatever it had open ends.

use super::hall::Hall;
use super::{Guarded, RESOURCE, call, document};
use crate::harness::{Authority, Client, Era, Gateway, Issuer, Key, Long, Mcp, Nature, rpc, run, within};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// How long a stream may take to end here, where other tests run beside; in the show it is a second.
const SECONDS: u64 = 10;

/// What a caller has open: `subscriptions/listen` of a modern client, and the GET stream of a legacy
/// one's session.
struct Open(Client, Client);

impl Open {
    /// Each on a connection that `connect` makes.
    async fn with(connect: impl AsyncFn() -> Client, token: Option<&str>) -> Open {
        let shown = token.map(|token| ("authorization", format!("Bearer {token}")));
        let with = |fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
            fields.chain(shown.clone()).collect::<Vec<_>>()
        };
        let mut modern = connect().await;
        let headers = with(&[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")]);
        modern.post("/mcp", &headers, Long::listening(7).as_bytes()).await;
        assert_eq!(modern.response_head().await.status, 200);

        let mut legacy = connect().await;
        let client =
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
        legacy.post("/mcp", &with(&[]), rpc(1, "initialize", client).as_bytes()).await;
        let begun = legacy.response().await;
        let session = begun.header("mcp-session-id").expect("no session");
        let headers = with(&[("mcp-session-id", session), ("mcp-protocol-version", "2025-11-25")]);
        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        legacy.post("/mcp", &headers, ready.as_bytes()).await;
        assert_eq!(legacy.response().await.status, 202);
        legacy.open_stream("/mcp", &headers).await;
        assert_eq!(legacy.response_head().await.status, 200);
        Open(modern, legacy)
    }

    /// Both end within `seconds`, in order.
    async fn ends(self, seconds: u64, why: &str) {
        let Open(mut modern, mut legacy) = self;
        let both = async { (modern.rest().await, legacy.rest().await) };
        let (last, _) = within(seconds, &format!("the end of the streams: {why}"), both).await;
        assert!(last.contains("\"resultType\":\"complete\""), "{why}: {last}");
    }
}

/// Show: what is taken back is refused on the next call, and its streams end within a second.
pub(crate) async fn show() {
    for era in ERAS {
        println!("before a server of the {era:?} era, streams end within a second when");
        println!("  the issuer publishes their key no more");
        key_is_gone(era, 1).await;
        println!("  their subject is denied");
        subject_is_denied(era, 1).await;
        println!("  their certificate is denied; with another, their bound token was never taken");
        certificate_is_denied(era, 1).await;
        println!("  their API key is denied");
        api_key_is_denied(era, 1).await;
    }
}

/// A gateway in front of a server of this era that takes tokens.
async fn guarded(era: Era) -> Guarded {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(era), &["echo".to_owned()]).await;
    let gateway = Gateway::start(&document(&issuer, &server, "", "")).await;
    Guarded { gateway, issuer, key, server }
}

#[tokio::test]
async fn a_key_that_its_issuer_publishes_no_more_ends_all_that_it_opened() {
    for era in ERAS {
        key_is_gone(era, SECONDS).await;
    }
}

async fn key_is_gone(era: Era, seconds: u64) {
    let guarded = guarded(era).await;
    let token = guarded.token();
    assert_eq!(guarded.call(&token).await.status, 200);
    let open = Open::with(async || guarded.gateway.connect().await, Some(&token)).await;
    let fresh = Key::new("k2");
    guarded.issuer.publish(&[&fresh]);
    // A token of a key that is not known has them fetched.
    assert_eq!(guarded.call(&guarded.issuer.token(&fresh, RESOURCE)).await.status, 200);
    let refused = guarded.call(&token).await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{era:?}");
    open.ends(seconds, "a key that is gone").await;
}

#[tokio::test]
async fn whoever_is_denied_is_out_with_all_that_it_opened() {
    for era in ERAS {
        subject_is_denied(era, SECONDS).await;
    }
}

async fn subject_is_denied(era: Era, seconds: u64) {
    let guarded = guarded(era).await;
    let token = guarded.token();
    let mut client = guarded.gateway.connect().await;
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
    let open = Open::with(async || guarded.gateway.connect().await, Some(&token)).await;
    guarded.configure("", "  revoked: {subjects: anna}\n");
    guarded.gateway.reaches("the swap", |status| status["serial"] == 2).await;
    let refused = call(&mut client, "/mcp", Some(&token)).await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{era:?}");
    open.ends(seconds, "a subject that is denied").await;
}

#[tokio::test]
async fn a_bound_token_goes_with_its_certificate_and_ends_with_it() {
    for era in ERAS {
        certificate_is_denied(era, SECONDS).await;
    }
}

async fn certificate_is_denied(era: Era, seconds: u64) {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(era), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let jwt = format!("  jwt: {{issuer: '{}'}}\n", issuer.url());
    let hall = Hall::start((&clients, &own), &jwt, &server).await;
    let (mine, other) = (clients.issue(&["a.agents.internal"]), clients.issue(&["b.agents.internal"]));
    let bound = issuer.token_with(&key, RESOURCE, json!({"cnf": {"x5t#S256": mine.thumbprint()}}));
    assert_eq!(hall.call(Some(&mine), Some(&bound)).await.0, 200);
    let open = Open::with(async || hall.connect(Some(&mine)).await, Some(&bound)).await;
    for shows in [Some(&other), None] {
        let refused = hall.call(shows, Some(&bound)).await;
        assert_eq!(refused, (401, "invalid_token".to_owned()), "{era:?}: after a hit");
    }
    assert_eq!(hall.call(Some(&mine), Some(&bound)).await.0, 200);

    let fingerprint: String =
        digest(&SHA256, &mine.der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let revoked = format!("{jwt}  revoked: {{certificates: '{fingerprint}'}}\n");
    hall.swap(&revoked, &server).await;
    assert_eq!(hall.call(Some(&mine), Some(&bound)).await, (401, "invalid_token".to_owned()), "{era:?}");
    open.ends(seconds, "a certificate that was taken back").await;
}

#[tokio::test]
async fn a_certificate_that_is_asked_for_beside_a_token_can_be_denied_by_its_name() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let identity = format!(
        "  jwt: {{issuer: '{}'}}\n  mtls: {{dns: ['*.agents.internal'], token_caller: any}}\n  require: [mtls, jwt]\n",
        issuer.url()
    );
    let hall = Hall::start((&clients, &own), &identity, &server).await;
    let mine = clients.issue(&["a.agents.internal"]);
    // The token names the agent itself, so that the certificate's name is nowhere in who calls.
    let token = issuer.token_with(&key, RESOURCE, json!({"azp": "desk"}));
    assert_eq!(hall.call(Some(&mine), Some(&token)).await.0, 200);
    let open = Open::with(async || hall.connect(Some(&mine)).await, Some(&token)).await;
    let revoked = format!("{identity}  revoked: {{subjects: a.agents.internal}}\n");
    hall.swap(&revoked, &server).await;
    assert_eq!(hall.call(Some(&mine), Some(&token)).await, (401, "invalid_token".to_owned()));
    open.ends(SECONDS, "a certificate whose name is denied").await;
}

#[tokio::test]
async fn who_a_certificate_names_is_asked_again_when_the_rules_change() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let rules = |names: &str| format!("  mtls: {{dns: ['{names}']}}\n");
    let hall = Hall::start((&clients, &own), &rules("*.agents.internal"), &server).await;
    let mut client = hall.connect(Some(&clients.issue(&["a.agents.internal"]))).await;
    assert_eq!(call(&mut client, "/mcp", None).await.status, 200);
    hall.swap(&rules("*.robots.internal"), &server).await;
    assert_eq!(call(&mut client, "/mcp", None).await.status, 401);
}

#[tokio::test]
async fn a_certificate_that_ends_ends_what_was_let_in_by_it_on_a_connection_that_lasts() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let token = issuer.token(&key, RESOURCE);
    for (require, shown) in [("[mtls, jwt]", Some(token.as_str())), ("mtls", None)] {
        let identity = format!(
            "  jwt: {{issuer: '{}'}}\n  mtls: {{dns: ['*.agents.internal'], token_caller: any}}\n  require: {require}\n",
            issuer.url()
        );
        let hall = Hall::start((&clients, &own), &identity, &server).await;
        let brief = clients.issue_for(&["a.agents.internal"], Duration::from_secs(10));
        let mut client = hall.connect(Some(&brief)).await;
        assert_eq!(call(&mut client, "/mcp", shown).await.status, 200, "{require}");
        let open = Open::with(async || hall.connect(Some(&brief)).await, shown).await;
        open.ends(SECONDS, require).await;
        let refused = call(&mut client, "/mcp", shown).await;
        assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{require}");
    }
}

/// Runs `portunus key new` in a folder: the key.
fn key_for(folder: &std::path::Path, holder: &str) -> String {
    let made = Command::new(crate::harness::binary())
        .args(["key", "new", "--for", holder])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn an_api_key_on_the_denylist_is_out_with_all_that_it_opened() {
    for era in ERAS {
        api_key_is_denied(era, SECONDS).await;
    }
}

async fn api_key_is_denied(era: Era, seconds: u64) {
    let server = Mcp::naming(Nature::of(era), &["echo".to_owned()]).await;
    let document = |rest: &str| {
        format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  keys: keys.yaml\n{rest}",
            server.url()
        )
    };
    let mut keys = vec![];
    let gateway = Gateway::start_as(&document(""), |folder| {
        keys.extend([key_for(folder, "acme/alice"), key_for(folder, "acme/alice")]);
        run()
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(call(&mut client, "/mcp", Some(&keys[0])).await.status, 200);
    let open = Open::with(async || gateway.connect().await, Some(&keys[0])).await;
    gateway.configure(&document(&format!("  revoked: {{keys: {}}}\n", &keys[0][4..20])));
    gateway.reaches("the swap", |status| status["serial"] == 2).await;
    let refused = call(&mut client, "/mcp", Some(&keys[0])).await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{era:?}");
    open.ends(seconds, "a key on the denylist").await;
    assert_eq!(call(&mut client, "/mcp", Some(&keys[1])).await.status, 200, "the other key of its holder");
}

#[tokio::test]
async fn a_certificate_and_a_key_are_needed_where_both_are_required() {
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let (clients, own) = (Authority::new("of clients"), Authority::new("of the gateway"));
    let issuer = Issuer::start(&[]).await;
    let identity = format!(
        "  jwt: {{issuer: '{}'}}\n  keys: keys.yaml\n  mtls: {{dns: ['*.agents.internal'], token_caller: any}}\n  require: [mtls, key]\n",
        issuer.url()
    );
    let mut key = String::new();
    let hall = Hall::start_after((&clients, &own), &identity, &server, |folder| {
        key = key_for(folder, "acme/alice");
    })
    .await;
    let (mine, other) = (clients.issue(&["a.agents.internal"]), clients.issue(&["b.elsewhere.internal"]));
    let signed = Key::new("k1");
    issuer.publish(&[&signed]);
    let token = issuer.token(&signed, RESOURCE);
    let cases = [
        ("both", Some(&mine), Some(&key), (200, "")),
        ("the certificate alone", Some(&mine), None, (401, "unauthenticated")),
        ("the key alone", None, Some(&key), (401, "unauthenticated")),
        ("nothing", None, None, (401, "unauthenticated")),
        ("a key and a certificate that names nobody", Some(&other), Some(&key), (401, "invalid_token")),
        ("a token in place of the key", Some(&mine), Some(&token), (401, "unauthenticated")),
    ];
    for (name, shows, shown, expected) in cases {
        let (status, reason) = hall.call(shows, shown.map(String::as_str)).await;
        assert_eq!((status, reason.as_str()), expected, "{name}");
    }
    let passed = |record: &Value| record["status"] == "ok";
    let record = hall.gateway.recorded("the caller", passed).await;
    let expected = (&json!("alice"), &json!("api_key"), &json!("a.agents.internal"));
    assert_eq!((&record["user_id"], &record["auth"], &record["agent_id"]), expected);
}
