//! TLS, compiled to what a handshake needs: everything that can be wrong with certificates, keys,
//! trust and revocation lists is found when a document is loaded.
//!
//! Cryptography is always ring's, named explicitly: nothing here depends on the default that a
//! process may have installed.

mod build;
mod clients;
#[cfg(test)]
mod handshakes;
mod pem;
mod pins;
mod sni;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use build::{ClientParts, ServerParts, Trust, authorities, certified, system_authorities};
pub use clients::Signers;
pub(crate) use pem::{Certificates, Problem, certificates, private_key, revocation_lists};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::reference::Reference;
use portunus_base::{ClientCertificateMode, Pin, TlsVersion, UnknownSni};

/// How a listener speaks TLS. It swaps live: a rotated certificate is a reload like any other.
///
/// Equal values give equal handshakes. A proxy keeps the one in force when a reload brings an equal
/// one, so that clients can go on resuming their sessions.
#[derive(Clone)]
pub struct ListenerTls {
    /// For each handshake: certificates by name, client verification, protocols (ALPN), resumption.
    pub config: Arc<ServerConfig>,
    /// Who signs the certificates of clients; `None` if none is asked for.
    pub clients: Option<Arc<Signers>>,
    /// From the accepted connection to the end of its handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once on this listener. Default 1000.
    pub max_handshakes: usize,
    /// The certificates, in the order of the document.
    pub certificates: Vec<CertificateFacts>,
    /// What the document says, for people.
    pub settings: Arc<ListenerTlsSettings>,
    /// Digest of all that `config` was made from.
    pub(crate) identity: [u8; 32],
}

impl PartialEq for ListenerTls {
    fn eq(&self, other: &ListenerTls) -> bool {
        let all = |tls: &ListenerTls| (tls.identity, tls.handshake_timeout, tls.max_handshakes);
        all(self) == all(other)
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls")
            .field("settings", &self.settings)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("max_handshakes", &self.max_handshakes)
            .finish_non_exhaustive()
    }
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names it is valid for, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// End of its validity, time since the Unix epoch.
    pub not_after: Duration,
}

/// What a document says about a listener's TLS, paths from the document's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTlsSettings {
    /// Certificate files with where their keys are; the first is the default.
    pub certificates: Vec<(PathBuf, Reference)>,
    /// Oldest protocol version. Default 1.2.
    pub min: TlsVersion,
    /// What a client gets that names no host of ours.
    pub unknown_sni: UnknownSni,
    /// Client certificates; `None` asks for none.
    pub client_certificates: Option<ClientCertificates>,
}

/// Which client certificates a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// File with the authorities that sign them.
    pub trust: PathBuf,
    /// Files with revocation lists.
    pub crls: Vec<PathBuf>,
    /// Whether a client may come without.
    pub mode: ClientCertificateMode,
}

/// How the gateway speaks TLS to an upstream.
#[derive(Clone)]
pub struct UpstreamTls {
    /// For each handshake: trust, pins, client certificate, protocols (ALPN), resumption.
    pub config: Arc<ClientConfig>,
    /// The name that is sent (SNI) and verified; an address is verified only. Never empty.
    pub server_name: ServerName<'static>,
    /// What the document says, for people.
    pub settings: Arc<UpstreamTlsSettings>,
    /// Digest of all that `config` was made from.
    pub(crate) identity: [u8; 32],
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &UpstreamTls) -> bool {
        (self.identity, &self.server_name) == (other.identity, &other.server_name)
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("server_name", &self.server_name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What a document says about an upstream's TLS, paths from the folder of the document that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTlsSettings {
    /// File with the authorities that sign its certificate; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// Files with revocation lists.
    pub crls: Vec<PathBuf>,
    /// File with the certificate that the gateway shows, and where its key is.
    pub certificate: Option<(PathBuf, Reference)>,
    /// `sha256/…` of the public keys that the server may have; empty for any.
    pub pins: Vec<Pin>,
    /// Name or address that is asked for and verified; `None` for the host of each URL.
    pub server_name: Option<String>,
    /// Oldest protocol version. Default 1.2.
    pub min: TlsVersion,
}
