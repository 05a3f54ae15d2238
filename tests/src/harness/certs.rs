//! Certificates made on the spot, and what both sides of TLS are set up with.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

/// Both versions of TLS that are spoken.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// An authority that signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) chain: String,
    /// Its key.
    pub(crate) key: String,
    /// The certificate as it is shown in a handshake.
    pub(crate) der: CertificateDer<'static>,
    /// SubjectPublicKeyInfo, which pins are made of.
    pub(crate) public_key: Vec<u8>,
    serial: SerialNumber,
}

impl Authority {
    /// A fresh authority; two of the same name are not the same.
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these DNS names and addresses, valid for ages.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_until(names, 2_100)
    }

    /// A certificate that is valid until the first day of a year.
    pub(crate) fn issue_until(&self, names: &[&str], year: i32) -> Pair {
        self.issue_with(names, |params| params.not_after = date_time_ymd(year, 1, 1))
    }

    /// A certificate that is valid for this long.
    pub(crate) fn issue_for(&self, names: &[&str], time: Duration) -> Pair {
        self.issue_with(names, |params| params.not_after = (now() + time).into())
    }

    fn issue_with(&self, names: &[&str], end: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let first = names[0].clone();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, first);
        params.not_before = date_time_ymd(2001, 1, 1);
        end(&mut params);
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from_slice(&key.public_key_raw()[1..9]);
        params.serial_number = Some(serial.clone());
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            public_key: rcgen::PublicKeyData::subject_public_key_info(&key),
            serial,
        }
    }

    /// A certificate of this SPIFFE ID.
    pub(crate) fn issue_id(&self, id: &str) -> Pair {
        self.issue_with(&["workload.internal"], |params| {
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
            params.not_after = date_time_ymd(2_100, 1, 1);
        })
    }

    /// A revocation list that names these certificates.
    pub(crate) fn revoke(&self, revoked: &[&Pair]) -> String {
        let entry = |pair: &&Pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    /// A client that trusts this authority, with these protocols (ALPN) and certificate.
    pub(crate) fn client(&self, alpn: &[&str], shows: Option<&Pair>) -> ClientConfig {
        self.client_of(&VERSIONS, alpn, shows)
    }

    /// The same with these versions of TLS.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
        shows: Option<&Pair>,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match shows {
            Some(pair) => builder.with_client_auth_cert(vec![pair.der.clone()], pair.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A server that wants a client certificate of this authority.
    pub(crate) fn server_for_clients(&self, pair: &Pair, alpn: &[&str]) -> ServerConfig {
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)
            .unwrap()
            .with_client_cert_verifier(clients);
        let mut config = builder.with_single_cert(vec![pair.der.clone()], pair.private_key()).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

impl Pair {
    /// What a token says of it that is bound to it (RFC 8705 §3.1).
    pub(crate) fn thumbprint(&self) -> String {
        let digest = ::ring::digest::digest(&::ring::digest::SHA256, &self.der);
        URL_SAFE_NO_PAD.encode(digest)
    }

    /// A server with this certificate.
    pub(crate) fn server(&self, alpn: &[&str]) -> ServerConfig {
        self.server_of(&VERSIONS, alpn)
    }

    /// The same with these versions of TLS.
    pub(crate) fn server_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.der.clone()], self.private_key()).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Whether this is the certificate that a server showed.
    pub(crate) fn is(&self, shown: &CertificateDer<'_>) -> bool {
        self.der == *shown
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates end by the clock of the gateway")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The same cryptography as the gateway's.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
