//! Verifies client certificates, in a handshake and on open connections.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{Error, RootCertStore};

use super::Problem;
use super::build::{Trust, client_verifier, digests};
use portunus_base::ClientCertificateMode;

/// Authorities that sign certificates of clients, with what they have revoked.
pub struct Signers {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    authorities: BTreeSet<[u8; 32]>,
}

impl Signers {
    pub(super) fn new(trust: Trust, mode: ClientCertificateMode) -> Result<Signers, Problem> {
        let authorities = digests(&trust.roots);
        Ok(Signers { verifier: client_verifier(trust, mode)?, authorities })
    }

    /// Those of a PEM text, which have revoked nothing.
    pub(crate) fn of(roots: RootCertStore) -> Result<Signers, Problem> {
        let trust = Trust { roots: Arc::new(roots), lists: Vec::new() };
        Signers::new(trust, ClientCertificateMode::Required)
    }

    /// Whether a chain, its leaf first, leads to one of them at `now`, time since the Unix epoch.
    ///
    /// # Errors
    /// As in a handshake.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Duration) -> Result<(), Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verifier.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(now)).map(drop)
    }

    /// Digests of their names and keys.
    pub(crate) fn authorities(&self) -> &BTreeSet<[u8; 32]> {
        &self.authorities
    }
}

impl PartialEq for Signers {
    fn eq(&self, other: &Signers) -> bool {
        self.authorities == other.authorities
    }
}

impl fmt::Debug for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signers").field("authorities", &self.authorities.len()).finish_non_exhaustive()
    }
}
