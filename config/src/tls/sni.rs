//! Which certificate a client is shown, by the name it asks for (SNI, RFC 6066 §3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use portunus_base::UnknownSni;

/// The certificates of a listener by the names they are valid for.
#[derive(Debug)]
pub(super) struct CertificateChoice {
    /// By name, or by `*.` and the name below. Several: one for each kind of key.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Who asks for no name of ours gets the first.
    all: Vec<Arc<CertifiedKey>>,
    unknown: UnknownSni,
}

impl CertificateChoice {
    /// `certificates`, each with its names, in the order of the document.
    pub(super) fn new(
        certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>,
        unknown: UnknownSni,
    ) -> CertificateChoice {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for (certificate, names) in &certificates {
            for name in names {
                by_name.entry(name.clone()).or_default().push(Arc::clone(certificate));
            }
        }
        let all = certificates.into_iter().map(|(certificate, _)| certificate).collect();
        CertificateChoice { by_name, all, unknown }
    }

    /// The certificates for a name: its own, else those of the wildcard above it.
    fn named(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).map(Vec::as_slice)
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = match (name.and_then(|name| self.named(name)), self.unknown) {
            (Some(named), _) => named,
            (None, UnknownSni::Default) => self.all.get(..1)?,
            (None, UnknownSni::Refuse) => return None,
        };
        let usable = |candidate: &&Arc<CertifiedKey>| candidate.key.choose_scheme(schemes).is_some();
        candidates.iter().find(usable).or(candidates.first()).cloned()
    }
}

impl ResolvesServerCert for CertificateChoice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}
