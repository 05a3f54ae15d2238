//! TLS towards clients: who gets in, with what, and how certificates change while they call.

use crate::harness::h2::H2Client;
use crate::harness::{Authority, Client, Gateway, Pair, Upstream, VERSIONS, dial, dial_tls, rpc, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, ProtocolVersion};

const COUNTER: &str = "portunus_tls_handshakes_total";

/// The first bytes of a handshake.
fn hello(config: &ClientConfig) -> Vec<u8> {
    let name = "gw.test".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn call() -> String {
    rpc(1, "tools/call", r#"{"name":"echo","arguments":{}}"#)
}

/// A gateway under TLS with one certificate, and who signed it.
struct Secure {
    gateway: Gateway,
    authority: Authority,
    pair: Pair,
    _upstream: Upstream,
}

impl Secure {
    /// `tls` goes into the listener's `tls`, `more` beside it.
    async fn start(tls: &str, more: &str, files: &[(&str, &str)]) -> Secure {
        let upstream = Upstream::answering().await;
        let authority = Authority::new("of the gateway");
        let pair = authority.issue(&["gw.test", "127.0.0.1"]);
        let own = [("gw.pem", pair.chain.as_str()), ("gw.key", pair.key.as_str())];
        let document = format!(
            "listeners:\n  - bind: 127.0.0.1:0\n    tls: {{ certificates: [{{ certificate: gw.pem, key: gw.key }}]{tls} }}\n{more}\
             upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
            upstream.address
        );
        let gateway = Gateway::start_beside(&[&own[..], files].concat(), &document).await;
        Secure { gateway, authority, pair, _upstream: upstream }
    }

    fn client(&self) -> ClientConfig {
        self.authority.client(&["http/1.1"], None)
    }

    /// A connection that has answered a call.
    async fn connect(&self, config: &ClientConfig) -> Option<Client> {
        connect(&self.gateway, config).await
    }

    async fn counts(&self, result: &str, sum: f64) {
        self.gateway.counts(COUNTER, &format!("result=\"{result}\""), sum).await;
    }

    /// Waits until a fresh connection shows this certificate.
    async fn shows(&self, pair: &Pair) {
        within(5, "the new certificate", async {
            while !pair.is(&shown(&self.gateway, &self.client(), "gw.test").await.unwrap()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn connect(gateway: &Gateway, config: &ClientConfig) -> Option<Client> {
    let stream = dial_tls(gateway.address, config, "gw.test").await.ok()?;
    let mut client = Client::over(stream, gateway.address);
    answers(&mut client).await.then_some(client)
}

async fn answers(client: &mut Client) -> bool {
    let sent = client.try_post("/mcp", &[], call().as_bytes()).await;
    sent.is_ok() && client.try_response().await.is_some_and(|response| response.status == 200)
}

/// The certificate that a gateway shows.
async fn shown(
    gateway: &Gateway,
    config: &ClientConfig,
    name: &str,
) -> std::io::Result<tokio_rustls::rustls::pki_types::CertificateDer<'static>> {
    let stream = dial_tls(gateway.address, config, name).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

#[tokio::test]
async fn versions_and_protocols_are_what_both_sides_have() {
    let (new, old) = (ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2);
    let any = Secure::start("", "", &[]).await;
    let strict = Secure::start(", min: \"1.3\"", "    http2: false\n", &[]).await;
    let (both, only_old) = (&VERSIONS[..], &VERSIONS[1..]);
    let cases = [
        ("the newest", &any, both, &["h2", "http/1.1"][..], Some((new, Some("h2")))),
        ("the older", &any, only_old, &["h2"], Some((old, Some("h2")))),
        ("HTTP/1.1", &any, both, &["http/1.1"], Some((new, Some("http/1.1")))),
        ("no ALPN", &any, only_old, &[], Some((old, None))),
        ("no such protocol", &any, both, &["spdy"], None),
        ("too old", &strict, only_old, &["http/1.1"], None),
        ("without HTTP/2", &strict, both, &["h2", "http/1.1"], Some((new, Some("http/1.1")))),
        ("only HTTP/2", &strict, both, &["h2"], None),
    ];
    for (name, secure, versions, alpn, expected) in cases {
        let config = secure.authority.client_of(versions, alpn, None);
        let address = secure.gateway.address;
        let stream = dial_tls(address, &config, "gw.test").await.ok();
        let Some(stream) = stream else {
            assert_eq!(expected, None, "{name}");
            continue;
        };
        let session = stream.get_ref().1;
        let chosen = session.alpn_protocol().map(|alpn| String::from_utf8(alpn.to_vec()).unwrap());
        let version = session.protocol_version().unwrap();
        assert_eq!(Some((version, chosen.as_deref())), expected, "{name}");
        if chosen.as_deref() == Some("h2") {
            let answer = H2Client::over(stream, address).await.post("/mcp", &[], call().as_bytes()).await;
            assert_eq!(answer.status, 200, "{name}");
        } else {
            assert!(answers(&mut Client::over(stream, address)).await, "{name}");
        }
    }
    any.counts("nothing_in_common", 1.0).await;
    strict.counts("nothing_in_common", 2.0).await;
    any.counts("ok", 4.0).await;
}

#[tokio::test]
async fn a_name_chooses_its_certificate_and_an_unknown_one_is_answered_or_refused() {
    let authority = Authority::new("of both");
    let (first, second) =
        (authority.issue(&["a.test", "127.0.0.1"]), authority.issue(&["b.test", "*.b.test"]));
    let files = [
        ("a.pem", first.chain.as_str()),
        ("a.key", &first.key),
        ("b.pem", &second.chain),
        ("b.key", &second.key),
    ];
    let upstream = Upstream::answering().await;
    let config = authority.client(&[], None);
    for (unknown, refused) in [("default", false), ("refuse", true)] {
        let document = format!(
            "listeners:\n  - bind: 127.0.0.1:0\n    tls:\n      unknown_sni: {unknown}\n      certificates: \
             [{{ certificate: a.pem, key: a.key }}, {{ certificate: b.pem, key: b.key }}]\n\
             upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
            upstream.address
        );
        let gateway = Gateway::start_beside(&files, &document).await;
        for (name, pair) in [("a.test", &first), ("b.test", &second), ("x.b.test", &second)] {
            assert!(pair.is(&shown(&gateway, &config, name).await.unwrap()), "{name}");
        }
        // An address is no name: the client sends none.
        let nameless = shown(&gateway, &config, "127.0.0.1").await;
        assert_eq!(nameless.is_err(), refused, "no name, {unknown}");
        assert!(nameless.is_ok_and(|shown| first.is(&shown)) || refused, "no name, {unknown}");
        let strange = shown(&gateway, &config, "c.test").await.unwrap_err().to_string();
        assert_eq!(strange.contains("certificate not valid for name"), !refused, "{unknown}: {strange}");
        // Who is shown the wrong certificate says so; who is refused is told.
        let (result, sum) = if refused { ("nothing_in_common", 2.0) } else { ("alert", 1.0) };
        gateway.counts(COUNTER, &format!("result=\"{result}\""), sum).await;
    }
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let secure = Secure::start("", "", &[]).await;
    let mut plain = secure.gateway.connect().await;
    plain.post("/mcp", &[], call().as_bytes()).await;
    let response = plain.response().await;
    assert_eq!((response.status, response.header("portunus-outcome")), (400, Some("malformed_http")));
    assert!(String::from_utf8_lossy(&response.body).contains("https://"), "{response:?}");
    assert_eq!(plain.until_closed().await, "");
    secure.counts("not_tls", 1.0).await;
    let mut noise = secure.gateway.connect().await;
    noise.send(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9]).await;
    noise.until_closed().await;
    secure.gateway.counts(COUNTER, "", 2.0).await;
}

#[tokio::test]
async fn client_certificates_are_verified_and_each_refusal_is_counted_by_its_cause() {
    let (clients, strangers) = (Authority::new("of clients"), Authority::new("of strangers"));
    let (good, revoked) = (clients.issue(&["good"]), clients.issue(&["revoked"]));
    let (expired, wrong) = (clients.issue_until(&["expired"], 2020), strangers.issue(&["wrong"]));
    let files = [("clients.pem", clients.pem()), ("clients.crl", clients.revoke(&[&revoked]))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    for mode in ["required", "optional"] {
        let tls =
            format!(", client_certificates: {{ trust: clients.pem, crls: [clients.crl], mode: {mode} }}");
        let secure = Secure::start(&tls, "", &files).await;
        let none = if mode == "required" { "no_certificate" } else { "ok" };
        let cases = [
            (None, none),
            (Some(&good), "ok"),
            (Some(&wrong), "unknown_issuer"),
            (Some(&expired), "expired"),
            (Some(&revoked), "revoked"),
        ];
        let mut sums = std::collections::BTreeMap::new();
        for version in VERSIONS {
            for (pair, expected) in cases {
                let config = secure.authority.client_of(&[version], &["http/1.1"], pair);
                let answered = secure.connect(&config).await.is_some();
                assert_eq!(answered, expected == "ok", "{mode}, {expected}, {version:?}");
                let sum = sums.entry(expected).or_insert(0.0);
                *sum += 1.0;
                secure.counts(expected, *sum).await;
            }
        }
    }
}

#[tokio::test]
async fn a_client_learns_why_it_is_refused_though_it_goes_on_sending() {
    let (clients, strangers) = (Authority::new("of clients"), Authority::new("of strangers"));
    let trust = clients.pem();
    let tls = ", client_certificates: clients.pem";
    let secure = Secure::start(tls, "", &[("clients.pem", &trust)]).await;
    let wrong = strangers.issue(&["wrong"]);
    let config = secure.authority.client_of(&VERSIONS[..1], &["http/1.1"], Some(&wrong));
    for _ in 0..5 {
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        let mut stream = dial_tls(secure.gateway.address, &config, "gw.test").await.unwrap();
        for _ in 0..100 {
            stream.write_all(&[b'x'; 1024]).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let told = within(5, "the reason", stream.read(&mut [0; 16])).await.unwrap_err().to_string();
        assert!(told.contains("UnknownCA"), "{told}");
    }
    secure.counts("unknown_issuer", 5.0).await;
}

/// Connects and calls again and again until told to stop; calls that were answered, and that were not.
struct Callers {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    calling: tokio::task::JoinHandle<usize>,
}

impl Callers {
    fn start(address: std::net::SocketAddr, config: ClientConfig) -> Callers {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, missed) = (Arc::clone(&stop), Arc::clone(&failed));
        let calling = tokio::spawn(async move {
            let mut answered = 0;
            while !told.load(Ordering::SeqCst) {
                let stream = dial_tls(address, &config, "gw.test").await;
                let answers = match stream {
                    Ok(stream) => answers(&mut Client::over(stream, address)).await,
                    Err(_) => false,
                };
                answered += usize::from(answers);
                missed.fetch_add(usize::from(!answers), Ordering::SeqCst);
            }
            answered
        });
        Callers { stop, failed, calling }
    }

    async fn none_failed(self) {
        self.stop.store(true, Ordering::SeqCst);
        let answered = within(20, "the callers", self.calling).await.unwrap();
        assert!(answered > 0);
        assert_eq!(self.failed.load(Ordering::SeqCst), 0, "of {answered}");
    }
}

#[tokio::test]
async fn a_certificate_rotates_under_callers_and_a_half_rotated_pair_changes_nothing() {
    let secure = Secure::start("", "", &[]).await;
    let mut kept = secure.connect(&secure.client()).await.unwrap();
    let callers = Callers::start(secure.gateway.address, secure.client());
    let next = secure.authority.issue(&["gw.test"]);
    secure.gateway.place("gw.pem", &next.chain);
    let refused = |status: &serde_json::Value| !status["refused"].as_array().unwrap().is_empty();
    let status = secure.gateway.reaches("the half-rotated pair", refused).await;
    assert!(status["refused"].to_string().contains("is not the key of its certificate"), "{status}");
    assert!(secure.pair.is(&shown(&secure.gateway, &secure.client(), "gw.test").await.unwrap()));
    secure.gateway.place("gw.key", &next.key);
    secure.shows(&next).await;
    secure.gateway.reaches("the end of the refusal", |status| !refused(status)).await;
    assert!(answers(&mut kept).await, "a kept connection goes on");
    callers.none_failed().await;
}

#[tokio::test]
async fn trust_and_revocation_rotate_for_kept_connections_too() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (of_old, of_new) = (old.issue(&["old"]), new.issue(&["new"]));
    let files = [("trust.pem", old.pem()), ("list.crl", old.revoke(&[]))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let tls = ", client_certificates: { trust: trust.pem, crls: [list.crl] }";
    let secure = Secure::start(tls, "", &files).await;
    let [old_client, new_client] =
        [&of_old, &of_new].map(|pair| secure.authority.client(&["http/1.1"], Some(pair)));
    let mut kept = secure.connect(&old_client).await.unwrap();
    assert!(secure.connect(&new_client).await.is_none());
    let becomes = async |config: &ClientConfig, good: bool, what: &str| {
        within(5, what, async {
            while secure.connect(config).await.is_some() != good {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };

    let callers = Callers::start(secure.gateway.address, old_client.clone());
    secure.gateway.place("trust.pem", &format!("{}{}", old.pem(), new.pem()));
    becomes(&new_client, true, "the new authority").await;
    callers.none_failed().await;
    let mut kept_new = secure.connect(&new_client).await.unwrap();
    assert!(answers(&mut kept).await && answers(&mut kept_new).await, "both are trusted");
    secure.gateway.place("trust.pem", &new.pem());
    becomes(&old_client, false, "the end of the old authority").await;
    assert!(!answers(&mut kept).await, "what was trusted when the connection began");
    assert!(answers(&mut kept_new).await, "a kept connection goes on");
    secure.gateway.place("list.crl", &new.revoke(&[&of_new]));
    becomes(&new_client, false, "the revocation").await;
    assert!(!answers(&mut kept_new).await, "what was not revoked when the connection began");
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_too_many_handshakes_are_shed() {
    let secure = Secure::start(", handshake_timeout: 200ms", "", &[]).await;
    let mut silent = secure.gateway.connect().await;
    assert_eq!(within(5, "the deadline", silent.until_closed()).await, "");
    secure.counts("timeout", 1.0).await;

    let secure = Secure::start(", max_handshakes: 1", "", &[]).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(dial(secure.gateway.address).await.unwrap());
    }
    assert!(secure.connect(&secure.client()).await.is_some(), "who says nothing keeps nobody out");
    let mut silent = Vec::new();
    within(5, "one that stops halfway to hold the only turn", async {
        loop {
            // Each may itself have come while a caller's handshake was under way.
            let mut halfway = dial(secure.gateway.address).await.unwrap();
            halfway.write_all(&hello(&secure.client())).await.unwrap();
            silent.push(halfway);
            if secure.connect(&secure.client()).await.is_none() {
                return;
            }
        }
    })
    .await;
    within(5, "it to be counted, which is after its connection was closed", async {
        while secure.gateway.counted(COUNTER, "result=\"shed\"").await < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(silent);
    within(5, "the turn to come back", async { while secure.connect(&secure.client()).await.is_none() {} })
        .await;
    secure.counts("closed", 1.0).await;
}
