//! Certificates made on the spot, and handshakes in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

use crate::schema::tests::assert_valid;
use crate::{Attempt, Loaded, MapEnvironment};

/// An authority that signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    serial: SerialNumber,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(authority_params(name), key).unwrap())
    }

    /// An authority that this one has signed.
    pub(crate) fn below(&self, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::signed_by(authority_params(name), key, &self.0).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| ())
    }

    /// A certificate that is valid for ages, unless `change` says otherwise.
    pub(crate) fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from_slice(&key.public_key_raw()[1..9]);
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone(), serial }
    }

    /// A revocation list of these certificates, to be renewed in the year `until`.
    pub(crate) fn revoke(&self, revoked: &[&Pair], until: i32) -> String {
        let entry = |pair: &&Pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Files in memory, with the time in the year 2027.
pub(crate) fn files(files: &[(&str, &str)]) -> MapEnvironment {
    let files = files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect();
    MapEnvironment { files, now: Duration::from_secs(1_800_000_000), ..MapEnvironment::default() }
}

/// The configuration in `gateway.yaml`, which is accepted.
pub(crate) fn loaded(env: &MapEnvironment) -> Loaded {
    let outcome = Attempt::new(Path::new("gateway.yaml"), env).outcome;
    assert_valid(&env.files[Path::new("gateway.yaml")]);
    outcome.unwrap_or_else(|report| panic!("{report}"))
}

/// What both sides know after a handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) alpn: Option<String>,
    pub(crate) version: rustls::ProtocolVersion,
    pub(crate) server: CertificateDer<'static>,
    pub(crate) client: Option<CertificateDer<'static>>,
    pub(crate) kind: HandshakeKind,
}

/// A handshake; the error is that of the side that refuses, the client's first.
pub(crate) fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Handshake, rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    while client.wants_write() || server.wants_write() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut flight = flight.as_slice();
        while !flight.is_empty() {
            server.read_tls(&mut flight).unwrap();
            server.process_new_packets()?;
        }
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut flight = flight.as_slice();
        while !flight.is_empty() {
            client.read_tls(&mut flight).unwrap();
            client.process_new_packets()?;
        }
    }
    let first = |chain: Option<&[CertificateDer<'static>]>| chain.and_then(|chain| chain.first()).cloned();
    Ok(Handshake {
        alpn: client.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        version: client.protocol_version().unwrap(),
        server: first(client.peer_certificates()).unwrap(),
        client: first(server.peer_certificates()),
        kind: server.handshake_kind().unwrap(),
    })
}
