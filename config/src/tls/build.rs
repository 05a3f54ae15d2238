//! From parsed parts to what rustls runs.
//!
//! A revocation list speaks for its issuer: certificates of that issuer are refused when they are
//! listed, when the list is past its next update, or when its signature is wrong. Certificates of an
//! issuer without a list are accepted, so that a list can be added for one authority at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::clients::Signers;
use super::pem::{Certificates, Problem, certificates, unreadable_list};
use super::pins::PinnedVerifier;
use super::sni::CertificateChoice;
use portunus_base::{ClientCertificateMode, HttpVersion, Pin, TlsVersion, UnknownSni};

/// Authorities, and what they have revoked.
pub(crate) struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) lists: Vec<CertificateRevocationListDer<'static>>,
}

/// What a listener's handshakes are made of.
pub(crate) struct ServerParts {
    /// Each certificate with its names.
    pub(crate) certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>,
    pub(crate) unknown_sni: UnknownSni,
    pub(crate) clients: Option<(Trust, ClientCertificateMode)>,
    pub(crate) min: TlsVersion,
    pub(crate) http2: bool,
}

/// What an upstream's handshakes are made of.
pub(crate) struct ClientParts {
    pub(crate) trust: Trust,
    pub(crate) pins: Vec<Pin>,
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    pub(crate) min: TlsVersion,
    pub(crate) http: HttpVersion,
}

impl ServerParts {
    pub(crate) fn identity(&self) -> [u8; 32] {
        let mut identity = Identity::new("listener");
        for (certificate, _) in &self.certificates {
            identity.chain(certificate);
        }
        if let Some((trust, mode)) = &self.clients {
            identity.trust(trust).part(format!("{mode:?}"));
        }
        identity.part(format!("{:?} {:?} {}", self.unknown_sni, self.min, self.http2)).finish()
    }

    pub(crate) fn build(self) -> Result<(ServerConfig, Option<Arc<Signers>>), Problem> {
        let signers = match self.clients {
            Some((trust, mode)) => Some(Arc::new(Signers::new(trust, mode)?)),
            None => None,
        };
        let clients = match &signers {
            Some(signers) => Arc::clone(&signers.verifier),
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let choice = CertificateChoice::new(self.certificates, self.unknown_sni);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(self.min))
            .map_err(unusable)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(choice));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if signers.is_some() {
            // A resumed session shows no certificate: one that has expired would still be good.
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Ticketer::new().map_err(unusable)?;
        }
        config.alpn_protocols = match self.http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        Ok((config, signers))
    }
}

impl ClientParts {
    pub(crate) fn identity(&self) -> [u8; 32] {
        let mut identity = Identity::new("upstream");
        identity.trust(&self.trust);
        for pin in &self.pins {
            identity.part(pin.0);
        }
        if let Some(certificate) = &self.certificate {
            identity.chain(certificate);
        }
        identity.part(format!("{:?} {:?}", self.min, self.http)).finish()
    }

    pub(crate) fn build(self) -> Result<ClientConfig, Problem> {
        let mut verifier: Arc<dyn ServerCertVerifier> = server_verifier(self.trust)?;
        if !self.pins.is_empty() {
            verifier = Arc::new(PinnedVerifier { usual: verifier, pins: self.pins });
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(self.min))
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match self.http {
            HttpVersion::One => vec![b"http/1.1".to_vec()],
            HttpVersion::Two => vec![b"h2".to_vec()],
            HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(config)
    }
}

/// A certificate chain with its key; an error concerns the file of the key.
pub(crate) fn certified(
    certificates: Certificates,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Problem> {
    let key = provider().key_provider.load_private_key(key).map_err(|_| {
        let hint = "use RSA from 2048 bits, ECDSA P-256 or P-384, or Ed25519";
        Problem::new("holds a key that TLS cannot use here", hint)
    })?;
    let certified = CertifiedKey::new(certificates.chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let hint = "put the key beside the certificate that was made for it; if both are being renewed, \
                        the old pair stays in force until both are there";
            Err(Problem::new("is not the key of its certificate", hint))
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Every authority of a PEM text; one that cannot be used is an error.
pub(crate) fn authorities(text: &str) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for (index, der) in certificates(text)?.chain.into_iter().enumerate() {
        roots.add(der).map_err(|_| {
            let problem = format!("has a certificate (number {}) that cannot be an authority", index + 1);
            Problem::new(problem, "keep only the certificates of authorities, X.509 version 3")
        })?;
    }
    Ok(roots)
}

/// The authorities of a system's store. Stores hold some that no verifier reads: those are left out.
pub(crate) fn system_authorities(text: &str) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok));
    match roots.is_empty() {
        true => Err(Problem::new("has no authority in it", "install the system's `ca-certificates`")),
        false => Ok(roots),
    }
}

/// The same cryptography everywhere, whatever the process has installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match min {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_2[..1],
    }
}

/// One for each authority: its name, key and constraints.
pub(super) fn digests(roots: &RootCertStore) -> BTreeSet<[u8; 32]> {
    let digest = |root: &TrustAnchor<'_>| Identity::new("authority").authority(root).finish();
    roots.roots.iter().map(digest).collect()
}

pub(super) fn client_verifier(
    trust: Trust,
    mode: ClientCertificateMode,
) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
    let builder = WebPkiClientVerifier::builder_with_provider(trust.roots, provider())
        .with_crls(trust.lists)
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration();
    let builder = match mode {
        ClientCertificateMode::Required => builder,
        ClientCertificateMode::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| verifier_problem(&error))
}

fn server_verifier(trust: Trust) -> Result<Arc<WebPkiServerVerifier>, Problem> {
    WebPkiServerVerifier::builder_with_provider(trust.roots, provider())
        .with_crls(trust.lists)
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| verifier_problem(&error))
}

fn verifier_problem(error: &VerifierBuilderError) -> Problem {
    match error {
        VerifierBuilderError::InvalidCrl(_) => unreadable_list(),
        _ => Problem::new("has no authority in it", "it should hold the certificates of authorities as PEM"),
    }
}

fn unusable(error: Error) -> Problem {
    Problem::new(format!("cannot be used for TLS: {error}"), "make the file again from its source")
}

/// A digest over named parts, none of which can run into the next.
struct Identity(Context);

impl Identity {
    fn new(kind: &str) -> Identity {
        let mut identity = Identity(Context::new(&SHA256));
        identity.part(kind);
        identity
    }

    fn part(&mut self, bytes: impl AsRef<[u8]>) -> &mut Identity {
        let bytes = bytes.as_ref();
        self.0.update(&bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The certificates; each key was found to be that of its certificate.
    fn chain(&mut self, certified: &CertifiedKey) -> &mut Identity {
        self.part("chain");
        certified.cert.iter().for_each(|certificate| {
            self.part(certificate);
        });
        self
    }

    fn trust(&mut self, trust: &Trust) -> &mut Identity {
        self.part("trust");
        for root in &trust.roots.roots {
            self.authority(root);
        }
        self.part("lists");
        trust.lists.iter().for_each(|list| {
            self.part(list);
        });
        self
    }

    fn authority(&mut self, root: &TrustAnchor<'_>) -> &mut Identity {
        let constraints = root.name_constraints.as_ref().map_or(&[][..], |constraints| constraints);
        self.part(&root.subject).part(&root.subject_public_key_info).part(constraints)
    }

    fn finish(&mut self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.clone().finish().as_ref());
        digest
    }
}
