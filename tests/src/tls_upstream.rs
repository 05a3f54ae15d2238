//! TLS towards upstreams: who is trusted with a request, and what is said when nobody is.

use crate::harness::h2::H2Upstream;
use crate::harness::{Authority, Gateway, Upstream, VERSIONS, rpc, within};

fn call() -> String {
    rpc(5, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

fn document(url: &str, settings: &str) -> String {
    format!("upstreams:\n  up: {{ url: {url}{settings} }}\nservers:\n  /mcp: up\n")
}

fn localhost(upstream: &Upstream) -> String {
    format!("https://localhost:{}/mcp", upstream.address.port())
}

/// `openssl`'s way to a pin, in base64.
fn pin(public_key: &[u8]) -> String {
    let digest = tokio_rustls::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let tokio_rustls::rustls::SupportedCipherSuite::Tls13(suite) = digest else { panic!("not of TLS 1.3") };
    base64(suite.common.hash_provider.hash(public_key).as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of named cases")]
async fn an_upstream_that_does_not_prove_itself_gets_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.issue(&["localhost"]);
    let revoked = ours.issue(&["localhost"]);
    let plain = |pair: &crate::harness::Pair| pair.server(&["http/1.1"]);
    let files = [("ca.pem", ours.pem()), ("ca.crl", ours.revoke(&[&revoked]))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let other_pin = pin(&theirs.issue(&["x"]).public_key);
    let with_ca = ", tls: { ca: ca.pem }";
    let cases = [
        (
            "another authority",
            Some(plain(&theirs.issue(&["localhost"]))),
            with_ca.to_owned(),
            "upstream_untrusted",
            "issued by nobody who is trusted here (`tls.ca`)",
        ),
        (
            "another name",
            Some(plain(&ours.issue(&["other.test"]))),
            with_ca.to_owned(),
            "upstream_untrusted",
            "it is for another name (`tls.server_name`)",
        ),
        (
            "expired",
            Some(plain(&ours.issue_until(&["localhost"], 2020))),
            with_ca.to_owned(),
            "upstream_untrusted",
            "it has expired",
        ),
        (
            "revoked",
            Some(plain(&revoked)),
            ", tls: { ca: ca.pem, crls: [ca.crl] }".to_owned(),
            "upstream_untrusted",
            "it was revoked",
        ),
        (
            "another key than the pinned",
            Some(plain(&good)),
            format!(", tls: {{ ca: ca.pem, pins: [\"sha256/{other_pin}\"] }}"),
            "upstream_untrusted",
            "(`tls.pins`)",
        ),
        ("no TLS", None, with_ca.to_owned(), "upstream_unavailable", "does not speak TLS"),
        (
            "an upstream that wants a certificate",
            Some(theirs.server_for_clients(&good, &["http/1.1"])),
            with_ca.to_owned(),
            "upstream_unavailable",
            "ertificate",
        ),
        (
            "no HTTP version in common",
            Some(good.server(&["h2"])),
            with_ca.to_owned(),
            "upstream_unavailable",
            "no HTTP version in common (`http`)",
        ),
    ];
    for (name, tls, settings, reason, cause) in cases {
        let upstream = match tls {
            Some(tls) => Upstream::answering_secured(tls).await,
            None => {
                Upstream::raw(|mut wire| async move {
                    wire.read_some().await;
                    wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                })
                .await
            }
        };
        let gateway = Gateway::start_beside(&files, &document(&localhost(&upstream), &settings)).await;
        let response = gateway.post("/mcp", &[], &call()).await;
        assert_eq!((response.status, response.reason().as_str()), (200, reason), "{name}");
        let code = if reason == "upstream_untrusted" { -31502 } else { -31503 };
        assert_eq!(response.json()["error"]["code"], code, "{name}");
        gateway.tells(cause).await;
        assert!(!String::from_utf8_lossy(&response.body).contains(cause), "{name}: causes stay inside");
        assert_eq!(upstream.requests(), 0, "{name}");
    }
}

#[tokio::test]
async fn an_upstream_that_proves_itself_is_used_over_either_version_of_http() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("of clients"));
    let (server, by_address) = (ours.issue(&["localhost", "crm.test"]), ours.issue(&["127.0.0.1"]));
    let client = clients.issue(&["gateway"]);
    let files =
        [("ca.pem", ours.pem()), ("client.pem", client.chain.clone()), ("client.key", client.key.clone())];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let pinned = pin(&server.public_key);
    let mutual = format!(
        "tls: {{ ca: ca.pem, certificate: client.pem, key: client.key, pins: [\"sha256/{pinned}\"] }}"
    );
    let cases = [
        ("own authority, certificate and pin", "localhost", &server, mutual.as_str(), true),
        ("an address", "127.0.0.1", &by_address, "tls: { ca: ca.pem }", false),
        ("a name of its own", "127.0.0.1", &server, "tls: { ca: ca.pem, server_name: crm.test }", false),
        ("the newer version only", "localhost", &server, "tls: { ca: ca.pem, min: \"1.3\" }", false),
    ];
    for (name, host, pair, settings, wants_certificate) in cases {
        for (http, alpn) in [("1", &["http/1.1"][..]), ("2", &["h2"]), ("auto", &["h2", "http/1.1"])] {
            let tls = match wants_certificate {
                true => clients.server_for_clients(pair, alpn),
                false => pair.server(alpn),
            };
            let (one, two);
            let port = match alpn[0] {
                "h2" => {
                    two = H2Upstream::answering(Some(tls)).await;
                    two.address.port()
                }
                _ => {
                    one = Upstream::answering_secured(tls).await;
                    one.address.port()
                }
            };
            let url = format!("https://{host}:{port}/mcp");
            let settings = format!(", http: {http}, {settings}");
            let gateway = Gateway::start_beside(&files, &document(&url, &settings)).await;
            let response = gateway.post("/mcp", &[], &call()).await;
            assert_eq!(response.json()["result"], serde_json::json!({}), "{name}, HTTP {http}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_for_a_name_does_not_prove_an_address() {
    let ours = Authority::new("ours");
    let upstream = Upstream::answering_secured(ours.issue(&["localhost"]).server(&[])).await;
    let url = format!("https://{}/mcp", upstream.address);
    let ca = ours.pem();
    let gateway = Gateway::start_beside(&[("ca.pem", &ca)], &document(&url, ", tls: { ca: ca.pem }")).await;
    assert_eq!(gateway.post("/mcp", &[], &call()).await.reason(), "upstream_untrusted");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn versions_below_the_oldest_are_refused() {
    let ours = Authority::new("ours");
    let pair = ours.issue(&["localhost"]);
    let upstream = Upstream::answering_secured(pair.server_of(&VERSIONS[1..], &[])).await;
    let ca = ours.pem();
    let settings = ", tls: { ca: ca.pem, min: \"1.3\" }";
    let gateway = Gateway::start_beside(&[("ca.pem", &ca)], &document(&localhost(&upstream), settings)).await;
    assert_eq!(gateway.post("/mcp", &[], &call()).await.reason(), "upstream_unavailable");
    gateway.tells("no TLS version in common (`tls.min`)").await;
}

#[tokio::test]
async fn a_changed_authority_is_asked_again_before_the_next_call() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let upstream = Upstream::answering_secured(old.issue(&["localhost"]).server(&[])).await;
    let (before, after) = (old.pem(), new.pem());
    let settings = ", tls: { ca: ca.pem }";
    let gateway =
        Gateway::start_beside(&[("ca.pem", &before)], &document(&localhost(&upstream), settings)).await;
    let mut kept = gateway.connect().await;
    for (ca, reason) in [(&before, ""), (&after, "upstream_untrusted"), (&before, "")] {
        gateway.place("ca.pem", ca);
        within(5, "the change", async {
            loop {
                kept.post("/mcp", &[], call().as_bytes()).await;
                if kept.response().await.reason() == reason {
                    return;
                }
            }
        })
        .await;
    }
}
