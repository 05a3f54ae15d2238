//! What a document says about TLS, tried out: handshakes in memory between a listener and an
//! upstream that were both loaded from documents.

use std::sync::Arc;

use rcgen::date_time_ymd;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, Error, HandshakeKind, ProtocolVersion};

use super::pins::pin_of;
use super::testing::{Authority, Handshake, Pair, files, handshake, loaded};
use crate::{ListenerTls, MapEnvironment, UpstreamTls};
use portunus_base::PinMismatch;

const HEAD: &str = "version: 1\n";

const RULES: &str = "upstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

fn listener(tls: &str, contents: &[(&str, &str)]) -> ListenerTls {
    listener_with("", tls, contents)
}

fn listener_with(settings: &str, tls: &str, contents: &[(&str, &str)]) -> ListenerTls {
    let text = format!("{HEAD}{RULES}listeners: [{{bind: '127.0.0.1:1', {settings} tls: {{{tls}}}}}]\n");
    let mut env = files(contents);
    env.files.insert("gateway.yaml".into(), text);
    loaded(&env).bootstrap.listener_tls("main").cloned().unwrap()
}

fn upstream(url: &str, settings: &str, contents: &[(&str, &str)]) -> UpstreamTls {
    let text = format!("{HEAD}upstreams: {{a: {{url: '{url}', {settings}}}}}\nservers: {{/mcp: a}}\n");
    let mut env = files(contents);
    env.files.insert("gateway.yaml".into(), text);
    loaded(&env).snapshot.upstreams[0].tls.clone().unwrap()
}

fn meet(listener: &ListenerTls, upstream: &UpstreamTls) -> Result<Handshake, Error> {
    handshake(&listener.config, &upstream.config, upstream.server_name.clone())
}

/// A listener with the certificate of `pair`.
fn showing(pair: &Pair) -> ListenerTls {
    listener("certificates: {certificate: c, key: k}", &[("c", &pair.chain), ("k", &pair.key)])
}

/// An upstream at `https://gw.example.com/` whose authority is in `ca`.
fn trusting(authority: &Authority, settings: &str) -> UpstreamTls {
    upstream("https://gw.example.com/", &format!("tls: {{ca: ca{settings}}}"), &[("ca", &authority.pem())])
}

#[test]
fn a_certificate_is_verified_by_authority_and_name() {
    let authority = Authority::new("one");
    let pair = authority.issue(&["gw.example.com"]);
    let listener = showing(&pair);
    let met = meet(&listener, &trusting(&authority, "")).unwrap();
    assert_eq!((&met.server, met.version), (&pair.der, ProtocolVersion::TLSv1_3));
    assert_eq!((met.client, met.alpn.as_deref()), (None, Some("http/1.1")));
    assert_eq!(listener.certificates[0].names, ["gw.example.com"]);

    let stranger = meet(&listener, &trusting(&Authority::new("two"), "")).unwrap_err();
    assert_eq!(stranger, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    let other = upstream("https://other.example.com/", "tls: {ca: ca}", &[("ca", &authority.pem())]);
    let wrong_name = meet(&listener, &other).unwrap_err();
    assert!(
        matches!(wrong_name, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })),
        "{wrong_name:?}"
    );
    let renamed = upstream(
        "https://other.example.com/",
        "tls: {ca: ca, server_name: gw.example.com}",
        &[("ca", &authority.pem())],
    );
    assert!(meet(&listener, &renamed).is_ok());
}

#[test]
fn an_address_is_verified_against_addresses_and_never_sent_as_a_name() {
    let authority = Authority::new("one");
    let contents = [("ca", &*authority.pem())];
    let upstream = upstream("https://127.0.0.1/", "tls: {ca: ca}", &contents);
    assert_eq!(upstream.server_name, ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])));
    assert!(meet(&showing(&authority.issue(&["127.0.0.1"])), &upstream).is_ok());
    let named = meet(&showing(&authority.issue(&["gw.example.com"])), &upstream).unwrap_err();
    assert!(matches!(named, Error::InvalidCertificate(_)), "{named:?}");
}

#[test]
fn an_expired_certificate_is_refused_by_the_other_side() {
    let authority = Authority::new("one");
    let pair =
        authority.issue_with(&["gw.example.com"], |params| params.not_after = date_time_ymd(2001, 1, 1));
    let error = meet(&showing(&pair), &trusting(&authority, "")).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");
}

#[test]
fn versions_have_a_floor_on_both_sides() {
    let authority = Authority::new("one");
    let pair = authority.issue(&["gw.example.com"]);
    let contents = [("c", &*pair.chain), ("k", &*pair.key)];
    let certificates = "certificates: {certificate: c, key: k}";
    let old_client = Arc::new(blind_client(&[&rustls::version::TLS12]));
    let name = ServerName::try_from("gw.example.com").unwrap();
    let table = [("", true), (", min: '1.2'", true), (", min: '1.3'", false), (", min: 1.3", false)];
    for (min, accepted) in table {
        let listener = listener(&format!("{certificates}{min}"), &contents);
        let outcome = handshake(&listener.config, &old_client, name.clone());
        assert_eq!(outcome.is_ok(), accepted, "{min}: {outcome:?}");
    }
    let modern = trusting(&authority, ", min: '1.3'");
    assert_eq!(meet(&showing(&pair), &modern).unwrap().version, ProtocolVersion::TLSv1_3);
}

#[test]
fn the_protocol_is_agreed_on() {
    let authority = Authority::new("one");
    let pair = authority.issue(&["gw.example.com"]);
    let contents = [("c", &*pair.chain), ("k", &*pair.key)];
    let table = [
        ("", "", Some("http/1.1")),
        ("", "http: 1,", Some("http/1.1")),
        ("", "http: 2,", Some("h2")),
        ("", "http: auto,", Some("h2")),
        ("http2: false,", "http: auto,", Some("http/1.1")),
        ("http2: false,", "http: 2,", None),
    ];
    for (of_listener, of_upstream, expected) in table {
        let listener = listener_with(of_listener, "certificates: {certificate: c, key: k}", &contents);
        let upstream = upstream(
            "https://gw.example.com/",
            &format!("{of_upstream} tls: {{ca: ca}}"),
            &[("ca", &authority.pem())],
        );
        let agreed = meet(&listener, &upstream);
        match expected {
            Some(name) => assert_eq!(agreed.unwrap().alpn.as_deref(), Some(name), "{of_upstream}"),
            None => assert_eq!(agreed.unwrap_err(), Error::NoApplicationProtocol),
        }
    }
}

#[test]
fn the_certificate_follows_the_name_that_is_asked_for() {
    let authority = Authority::new("one");
    let [first, second, wild] =
        [&["a.example.com"][..], &["b.example.com", "c.org"], &["*.example.com"]].map(|n| authority.issue(n));
    let contents = [
        ("a", &*first.chain),
        ("ak", &*first.key),
        ("b", &second.chain),
        ("bk", &second.key),
        ("c", &wild.chain),
        ("ck", &wild.key),
    ];
    let certificates =
        "certificates: [{certificate: a, key: ak}, {certificate: b, key: bk}, {certificate: c, key: ck}]";
    let shown = |unknown: &str, name: &str| -> Result<CertificateDer<'static>, Error> {
        let listener = listener(&format!("{certificates}{unknown}"), &contents);
        let blind = Arc::new(blind_client(rustls::ALL_VERSIONS));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        handshake(&listener.config, &blind, name).map(|met| met.server)
    };
    let table = [
        ("its own", "a.example.com", &first),
        ("another's", "b.example.com", &second),
        ("second name", "c.org", &second),
        ("any case", "B.Example.com", &second),
        ("wildcard", "x.example.com", &wild),
        ("wildcard, two labels", "x.y.example.com", &first),
        ("unknown", "d.org", &first),
        ("an address", "127.0.0.1", &first),
    ];
    for (case, name, expected) in table {
        assert_eq!(shown("", name).unwrap(), expected.der, "{case}");
    }
    for name in ["d.org", "127.0.0.1"] {
        assert!(shown(", unknown_sni: refuse", name).is_err(), "{name}");
    }
    assert_eq!(shown(", unknown_sni: refuse", "c.org").unwrap(), second.der);
}

/// A client that takes any certificate.
fn blind_client(versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind(provider)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Blind(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A listener that asks for client certificates of `clients`, and an upstream's view of it.
struct Mutual {
    servers: Authority,
    clients: Authority,
    pair: Pair,
}

impl Mutual {
    fn new() -> Mutual {
        let servers = Authority::new("servers");
        let pair = servers.issue(&["gw.example.com"]);
        Mutual { servers, clients: Authority::new("clients"), pair }
    }

    fn listener(&self, clients: &str, lists: &str) -> ListenerTls {
        let contents =
            [("c", &*self.pair.chain), ("k", &self.pair.key), ("trust", &self.clients.pem()), ("crl", lists)];
        let text = format!("certificates: {{certificate: c, key: k}}, client_certificates: {clients}");
        listener(&text, &contents)
    }

    fn client(&self, shown: Option<&Pair>) -> UpstreamTls {
        let authority = self.servers.pem();
        let mut contents = vec![("ca", authority.as_str())];
        let mut own = "";
        if let Some(pair) = shown {
            contents.extend([("me", pair.chain.as_str()), ("mine", &pair.key)]);
            own = ", certificate: me, key: mine";
        }
        upstream("https://gw.example.com/", &format!("tls: {{ca: ca{own}}}"), &contents)
    }
}

#[test]
fn client_certificates_are_required_or_optional() {
    let mutual = Mutual::new();
    let [good, stranger] = [&mutual.clients, &Authority::new("others")].map(|by| by.issue(&["client"]));
    let expired =
        mutual.clients.issue_with(&["client"], |params| params.not_after = date_time_ymd(2001, 1, 1));
    let required = mutual.listener("trust", "");
    let optional = mutual.listener("{trust: trust, mode: optional}", "");
    let table = [
        ("good", Some(&good), true, true),
        ("none", None, false, true),
        ("another authority", Some(&stranger), false, false),
        ("expired", Some(&expired), false, false),
    ];
    for (name, shown, by_required, by_optional) in table {
        let client = mutual.client(shown);
        for (listener, accepted) in [(&required, by_required), (&optional, by_optional)] {
            let met = meet(listener, &client);
            assert_eq!(met.is_ok(), accepted, "{name}: {met:?}");
            let seen = met.ok().and_then(|met| met.client);
            assert_eq!(seen.is_some(), accepted && shown.is_some(), "{name}");
        }
    }
}

#[test]
fn a_revocation_list_speaks_for_its_issuer() {
    let mutual = Mutual::new();
    let [good, revoked] = [(), ()].map(|()| mutual.clients.issue(&["client"]));
    let below = mutual.clients.below("below");
    let mut from_below = below.issue(&["client"]);
    from_below.chain.push_str(&below.pem());
    let forged = Authority::new("clients");
    let with = |lists: &str| mutual.listener("{trust: trust, crls: crl}", lists);
    let current = mutual.clients.revoke(&[&revoked], 4000);
    let table = [
        ("not on the list", &current, &good, None),
        ("on the list", &current, &revoked, Some(CertificateError::Revoked)),
        ("of an issuer without a list", &current, &from_below, None),
        ("a list of somebody else", &Authority::new("x").revoke(&[&good], 4000), &good, None),
    ];
    for (name, lists, shown, refused) in table {
        let error = meet(&with(lists), &mutual.client(Some(shown))).err();
        assert_eq!(error, refused.map(Error::InvalidCertificate), "{name}");
    }
    let late = meet(&with(&mutual.clients.revoke(&[], 2002)), &mutual.client(Some(&good))).unwrap_err();
    assert!(
        matches!(late, Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. })),
        "{late:?}"
    );
    let forged = meet(&with(&forged.revoke(&[], 4000)), &mutual.client(Some(&good))).unwrap_err();
    assert!(matches!(forged, Error::InvalidCertRevocationList(_)), "{forged:?}");
}

#[test]
fn an_upstream_that_was_revoked_is_refused() {
    let authority = Authority::new("one");
    let pair = authority.issue(&["gw.example.com"]);
    let contents = [("ca", &*authority.pem()), ("crl", &authority.revoke(&[&pair], 4000))];
    let upstream = upstream("https://gw.example.com/", "tls: {ca: ca, crls: [crl]}", &contents);
    let error = meet(&showing(&pair), &upstream).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::Revoked));
}

fn pin_mismatch(error: &Error) -> Option<&PinMismatch> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

#[test]
fn a_pin_holds_beyond_a_valid_certificate() {
    let authority = Authority::new("one");
    let [pair, other] = [(), ()].map(|()| authority.issue(&["gw.example.com"]));
    let pin = pin_of(&pair.der).unwrap();
    let pinned = trusting(&authority, &format!(", pins: ['{pin}']"));
    assert!(meet(&showing(&pair), &pinned).is_ok());
    let error = meet(&showing(&other), &pinned).unwrap_err();
    let mismatch = pin_mismatch(&error).unwrap();
    assert_eq!(mismatch.presented, pin_of(&other.der).unwrap());
    let both = trusting(&authority, &format!(", pins: ['{pin}', '{}']", mismatch.presented));
    assert!(meet(&showing(&other), &both).is_ok());
    let stranger = trusting(&Authority::new("two"), &format!(", pins: ['{pin}']"));
    let error = meet(&showing(&pair), &stranger).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer), "a pin is no authority");
    assert!(pin_mismatch(&error).is_none());
}

#[test]
fn sessions_resume_only_where_no_client_is_verified() {
    let mutual = Mutual::new();
    let good = mutual.clients.issue(&["client"]);
    let table = [
        ("anonymous", showing(&mutual.pair), mutual.client(None), HandshakeKind::Resumed),
        ("verified", mutual.listener("trust", ""), mutual.client(Some(&good)), HandshakeKind::Full),
        (
            "optional",
            mutual.listener("{trust: trust, mode: optional}", ""),
            mutual.client(None),
            HandshakeKind::Full,
        ),
    ];
    for (name, listener, client, again) in table {
        assert_eq!(meet(&listener, &client).unwrap().kind, HandshakeKind::Full, "{name}");
        assert_eq!(meet(&listener, &client).unwrap().kind, again, "{name}");
        let reloaded = showing(&mutual.pair);
        assert_eq!(meet(&reloaded, &client).unwrap().kind, HandshakeKind::Full, "{name}: a new listener");
    }
}

#[test]
fn the_system_s_authorities_are_the_default() {
    let authority = Authority::new("one");
    let pair = authority.issue(&["gw.example.com"]);
    for path in ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"] {
        let upstream = upstream("https://gw.example.com/", "", &[(path, &authority.pem())]);
        assert!(meet(&showing(&pair), &upstream).is_ok(), "{path}");
    }
}

/// Loads twice and says whether the listener and the pool key of the upstream are the same.
fn same(before: &MapEnvironment, after: &MapEnvironment) -> (bool, bool) {
    let [before, after] = [before, after].map(loaded);
    let tls = |loaded: &crate::Loaded| loaded.bootstrap.listener_tls("main").cloned().unwrap();
    let key = |loaded: &crate::Loaded| loaded.snapshot.upstreams[0].key;
    assert!(before.bootstrap.restart_needed(&after.bootstrap).is_empty(), "what is inside `tls` is live");
    (tls(&before) == tls(&after), key(&before) == key(&after))
}

#[test]
fn a_rotated_file_changes_its_own_side_and_nothing_else() {
    let mutual = Mutual::new();
    let [mine, next] = [(), ()].map(|()| mutual.clients.issue(&["client"]));
    let list = mutual.clients.revoke(&[], 4000);
    let text = format!(
        "{HEAD}listeners: [{{bind: '127.0.0.1:1', tls: {{certificates: {{certificate: c, key: k}},\n    \
         client_certificates: {{trust: trust, crls: [crl]}}}}}}]\n\
         upstreams: {{a: {{url: 'https://gw.example.com/', tls: {{ca: ca, certificate: me, key: mine}}}}}}\n\
         servers: {{/mcp: a}}\n"
    );
    let env = files(&[
        ("gateway.yaml", &text),
        ("c", &mutual.pair.chain),
        ("k", &mutual.pair.key),
        ("trust", &mutual.clients.pem()),
        ("crl", &list),
        ("ca", &mutual.servers.pem()),
        ("me", &mine.chain),
        ("mine", &mine.key),
    ]);
    assert_eq!(same(&env, &env), (true, true));
    let renewed = mutual.servers.issue(&["gw.example.com"]);
    let longer = mutual.clients.revoke(&[&mine], 4000);
    let pem = |name: &str| Authority::new(name).pem();
    let table: [(&str, Vec<(&str, String)>, (bool, bool)); 6] = [
        ("certificate", vec![("c", renewed.chain), ("k", renewed.key)], (false, true)),
        ("trust", vec![("trust", pem("new"))], (false, true)),
        ("list", vec![("crl", longer)], (false, true)),
        ("authority", vec![("ca", pem("new"))], (true, false)),
        ("client certificate", vec![("me", next.chain), ("mine", next.key)], (true, false)),
        ("settings", vec![("gateway.yaml", text.replace("tls: {ca", "http: 2, tls: {ca"))], (true, false)),
    ];
    for (name, changed, expected) in table {
        let mut after = env.clone();
        after.files.extend(changed.into_iter().map(|(path, text)| (path.into(), text)));
        assert_eq!(same(&env, &after), expected, "{name}");
    }
}
