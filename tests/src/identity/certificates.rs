//! Client certificates name callers for as long as they are accepted.

use super::hall::Hall;
use super::{RESOURCE, call};
use crate::harness::{
    Authority, Client, Era, Gateway, Issuer, Key, Mcp, Nature, Pair, dial_tls, modern_headers, within,
};
use serde_json::json;

async fn server() -> Mcp {
    Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await
}

const GOOD: (u16, &str) = (200, "");
const BAD: (u16, &str) = (401, "invalid_token");

async fn answers(
    hall: &Hall<'_>,
    shows: Option<&Pair>,
    token: Option<&str>,
    expected: (u16, &str),
    why: &str,
) {
    let (status, reason) = hall.call(shows, token).await;
    assert_eq!((status, reason.as_str()), expected, "{why}");
}

#[tokio::test]
async fn a_spiffe_id_is_taken_from_the_authorities_of_its_trust_domain_alone() {
    let (corp, partner, own) = (Authority::new("corp"), Authority::new("partner"), Authority::new("own"));
    let server = server().await;
    let identity = "  mtls:\n    trust_domains: {corp.example: corp.pem, partner.example: partner.pem}\n    \
                    dns: ['*.agents.internal']\n";
    let hall = Hall::start_after((&corp, &own), identity, &server, |folder| {
        let files = [("corp.pem", corp.pem()), ("partner.pem", partner.pem())];
        let both = files.clone().map(|(_, text)| text).concat();
        for (name, text) in files.into_iter().chain([("clients.pem", both)]) {
            std::fs::write(folder.join(name), text).unwrap();
        }
    })
    .await;
    let cases = [
        (&corp, "spiffe://corp.example/admin", GOOD),
        (&partner, "spiffe://partner.example/admin", GOOD),
        (&partner, "spiffe://corp.example/admin", BAD),
        (&corp, "spiffe://partner.example/admin", BAD),
        (&corp, "spiffe://other.example/admin", BAD),
    ];
    for (number, (authority, id, expected)) in cases.into_iter().enumerate() {
        answers(&hall, Some(&authority.issue_id(id)), None, expected, &format!("{number}: {id}")).await;
    }
    answers(&hall, Some(&partner.issue(&["a.agents.internal"])), None, GOOD, "a DNS name is of no domain")
        .await;
}

#[tokio::test]
async fn a_token_beside_a_certificate_is_of_the_same_caller_unless_the_document_says_otherwise() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let (clients, own) = (Authority::new("clients"), Authority::new("own"));
    let server = server().await;
    let mine = clients.issue(&["a.agents.internal"]);
    let name = "a.agents.internal";
    let cases = [
        ("its subject", json!({"sub": name}), GOOD, GOOD),
        ("its agent", json!({"sub": "anna", "azp": name}), GOOD, GOOD),
        ("bound to it", json!({"sub": "anna", "cnf": {"x5t#S256": mine.thumbprint()}}), GOOD, GOOD),
        ("of another", json!({"sub": "anna"}), BAD, GOOD),
        ("of another agent", json!({"sub": "anna", "azp": "b.agents.internal"}), BAD, GOOD),
    ];
    for any in [false, true] {
        let more = if any { ", token_caller: any" } else { "" };
        let identity = format!(
            "  jwt: {{issuer: '{}'}}\n  mtls: {{dns: ['*.agents.internal']{more}}}\n  require: [mtls, jwt]\n",
            issuer.url()
        );
        let hall = Hall::start((&clients, &own), &identity, &server).await;
        for (why, claims, same, other) in &cases {
            let token = issuer.token_with(&key, RESOURCE, claims.clone());
            let expected = if any { *other } else { *same };
            answers(&hall, Some(&mine), Some(&token), expected, &format!("{why}{more}")).await;
        }
    }
}

#[tokio::test]
async fn who_shows_a_certificate_that_names_nobody_is_no_stranger() {
    let (clients, own) = (Authority::new("clients"), Authority::new("own"));
    let server = server().await;
    let identity = "  mtls: {dns: ['*.agents.internal'], trust_domains: corp.example}\n  anonymous: allow\n";
    let hall = Hall::start((&clients, &own), identity, &server).await;
    let cases = [
        ("one that is taken", Some(clients.issue(&["a.agents.internal"])), GOOD),
        ("none", None, GOOD),
        ("another name", Some(clients.issue(&["a.elsewhere.internal"])), BAD),
        ("a wildcard", Some(clients.issue(&["*.agents.internal"])), BAD),
        ("two names", Some(clients.issue(&["a.agents.internal", "b.agents.internal"])), BAD),
        ("another trust domain", Some(clients.issue_id("spiffe://evil.example/x")), BAD),
    ];
    for (why, shows, expected) in &cases {
        answers(&hall, shows.as_ref(), None, *expected, why).await;
    }
}

/// A gateway that takes certificates of an authority but for those that it has revoked.
struct Revoking {
    gateway: Gateway,
    clients: Authority,
    own: Authority,
    _server: Mcp,
}

impl Revoking {
    async fn start(identity: &str) -> Revoking {
        let (clients, own) = (Authority::new("clients"), Authority::new("own"));
        let server = server().await;
        let pair = own.issue(&["gw.test"]);
        let (trust, list) = (clients.pem(), clients.revoke(&[]));
        let files = [
            ("gw.pem", pair.chain.as_str()),
            ("gw.key", &pair.key),
            ("clients.pem", &trust),
            ("clients.crl", &list),
        ];
        let document = format!(
            "listeners:\n  - bind: 127.0.0.1:0\n    tls:\n      certificates: {{certificate: gw.pem, key: gw.key}}\n      \
             client_certificates: {{trust: clients.pem, crls: clients.crl}}\n\
             upstreams:\n  up: {}\nservers:\n  /mcp: up\n{identity}",
            server.url()
        );
        let gateway = Gateway::start_beside(&files, &document).await;
        Revoking { gateway, clients, own, _server: server }
    }

    async fn connect(&self, shows: &Pair) -> Client {
        let config = self.own.client(&["http/1.1"], Some(shows));
        Client::over(dial_tls(self.gateway.address, &config, "gw.test").await.unwrap(), self.gateway.address)
    }
}

#[tokio::test]
async fn a_certificate_that_its_authority_revokes_is_refused_on_connections_that_last() {
    for identity in ["", "identity:\n  mtls: {dns: ['*.agents.internal']}\n"] {
        let house = Revoking::start(identity).await;
        let (mine, other) =
            (house.clients.issue(&["a.agents.internal"]), house.clients.issue(&["b.agents.internal"]));
        let (mut revoked, mut kept) = (house.connect(&mine).await, house.connect(&other).await);
        for client in [&mut revoked, &mut kept] {
            assert_eq!(call(client, "/mcp", None).await.status, 200, "{identity}");
        }
        let mut stream = house.connect(&mine).await;
        let mut fields = modern_headers("");
        fields.retain(|(name, _)| *name == "mcp-protocol-version");
        fields.push(("mcp-method", "subscriptions/listen".to_owned()));
        stream.post("/mcp", &fields, crate::harness::Long::listening(7).as_bytes()).await;
        assert_eq!(stream.response_head().await.status, 200, "{identity}");

        house.gateway.place("clients.crl", &house.clients.revoke(&[&mine]));
        house.gateway.reaches("the swap", |status| status["serial"] == 2).await;
        let refused = call(&mut revoked, "/mcp", None).await;
        assert_eq!((refused.status, refused.reason().as_str()), (401, "invalid_token"), "{identity}");
        assert_eq!(call(&mut kept, "/mcp", None).await.status, 200, "{identity}");
        if !identity.is_empty() {
            within(10, "the end of the stream", stream.rest()).await;
        }
    }
}
