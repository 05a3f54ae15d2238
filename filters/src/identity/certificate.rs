//! Client certificates: whose they are.
//!
//! The handshake has verified the chain. Here the leaf is read for one name: its SPIFFE ID
//! (X.509-SVID §2: one URI, on a leaf) or a DNS name.

use super::claims::plain;
use super::{AuthMethod, Fault, Principal, Verified, names};
use ring::digest::{SHA256, digest};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest SPIFFE ID (SPIFFE-ID §2.3).
const MAX_ID_BYTES: usize = 2048;
/// Most DNS names of a certificate that names somebody.
const MAX_DNS_NAMES: usize = 64;

/// What a client certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of the whole of it.
    pub fingerprint: [u8; 32],
    /// Its SPIFFE ID, if it has exactly one URI and that is one.
    pub spiffe: Option<Arc<str>>,
    /// Its DNS names, in lower case.
    pub dns: Vec<Arc<str>>,
    /// Its end, since the epoch.
    pub not_after: Duration,
    /// It may sign others, so it names nobody.
    pub is_authority: bool,
    /// It has URIs, and they are no single SPIFFE ID; or more names than are looked at; or it cannot be
    /// read at all.
    pub is_ambiguous: bool,
}

/// Which certificates name a caller, and whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateRules {
    /// Trust domains whose SPIFFE IDs are taken, without `spiffe://`.
    pub trust_domains: Vec<Arc<str>>,
    /// DNS names that are taken: whole ones, or `*.` and what must follow.
    pub dns: Vec<Arc<str>>,
    /// The tenant; `None` for the trust domain.
    pub tenant: Option<Arc<str>>,
    /// Roles of all who come by a certificate.
    pub roles: Vec<Arc<str>>,
}

impl Certificate {
    /// Reads the leaf of a chain, in DER.
    ///
    /// # Errors
    /// [`Fault::Certificate`] if it cannot be read.
    pub fn read(der: &[u8]) -> Result<Certificate, Fault> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Fault::Certificate)?;
        if !rest.is_empty() {
            return Err(Fault::Certificate);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
        let (mut uris, mut dns, mut is_authority) = (Vec::new(), Vec::new(), false);
        let mut names_many = false;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => is_authority = constraints.ca,
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::URI(uri) => uris.push(*uri),
                            GeneralName::DNSName(_) if dns.len() == MAX_DNS_NAMES => names_many = true,
                            GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase().into()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let spiffe = match uris.as_slice() {
            [one] => spiffe_id(one),
            _ => None,
        };
        let end = certificate.validity().not_after.timestamp();
        Ok(Certificate {
            fingerprint,
            is_ambiguous: (!uris.is_empty() && spiffe.is_none()) || names_many,
            spiffe,
            dns,
            not_after: Duration::from_secs(u64::try_from(end).unwrap_or_default()),
            is_authority,
        })
    }

    /// One that was shown and cannot be read: it names nobody, which is not the same as none.
    pub fn unreadable(der: &[u8]) -> Certificate {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
        Certificate {
            fingerprint,
            spiffe: None,
            dns: Vec::new(),
            not_after: Duration::ZERO,
            is_authority: false,
            is_ambiguous: true,
        }
    }

    /// The trust domain of its SPIFFE ID.
    pub fn trust_domain(&self) -> Option<&str> {
        self.spiffe.as_ref()?.strip_prefix("spiffe://")?.split('/').next()
    }
}

impl CertificateRules {
    /// Whom a certificate names.
    ///
    /// # Errors
    /// [`Fault::Certificate`] if that is nobody, or not one alone.
    pub fn verify(&self, certificate: &Certificate) -> Result<Verified, Fault> {
        if certificate.is_authority || certificate.is_ambiguous {
            return Err(Fault::Certificate);
        }
        let (domain, subject) = self.name(certificate).ok_or(Fault::Certificate)?;
        let tenant = self.tenant.clone().unwrap_or(domain);
        let principal = Principal {
            agent: Some(Arc::clone(&subject)),
            roles: names(self.roles.iter().cloned()),
            auth: AuthMethod::Mtls,
            not_after: Some(certificate.not_after),
            ..Principal::named(tenant, subject)
        };
        Ok(Verified {
            principal: Arc::new(principal.with_digest()),
            issuer: None,
            token_id: None,
            key_id: None,
            bound_to: Some(certificate.fingerprint),
            audiences: Vec::new(),
        })
    }

    /// Trust domain and subject.
    fn name(&self, certificate: &Certificate) -> Option<(Arc<str>, Arc<str>)> {
        if let Some(id) = &certificate.spiffe {
            let domain = certificate.trust_domain()?;
            let trusted = self.trust_domains.iter().find(|trusted| ***trusted == *domain)?;
            return Some((Arc::clone(trusted), Arc::clone(id)));
        }
        let mut taken = certificate.dns.iter().filter(|name| self.dns.iter().any(|own| covers(own, name)));
        let name = taken.next().filter(|_| taken.next().is_none())?;
        Some((Arc::from("dns"), plain(name)?))
    }
}

/// Whether a DNS name is the pattern's; a star stands for one label, as in certificates. A name with a star
/// of its own is that of many, and so of no caller.
fn covers(pattern: &str, name: &str) -> bool {
    if name.contains('*') {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == parent),
        None => pattern == name,
    }
}

/// A SPIFFE ID with a path (SPIFFE-ID §2), as it stands.
pub fn spiffe_id(uri: &str) -> Option<Arc<str>> {
    let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= MAX_ID_BYTES)?;
    let (domain, path) = rest.split_once('/')?;
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    (is_trust_domain(domain) && path.split('/').all(is_segment)).then(|| uri.into())
}

/// Whether a text is a trust domain (SPIFFE-ID §2.1).
pub fn is_trust_domain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}
