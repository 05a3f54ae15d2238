//! What is in PEM files (RFC 7468), and what certificates and revocation lists say about themselves.

use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// What is wrong with the content of a file, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Completes a sentence that begins with the file.
    pub(crate) problem: String,
    pub(crate) hint: String,
}

impl Problem {
    pub(crate) fn new(problem: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { problem: problem.into(), hint: hint.into() }
    }
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// DNS names it is valid for, in lower case; `*.` stands for one label.
    pub(crate) names: Vec<String>,
    /// Whether it is valid for addresses.
    pub(crate) has_addresses: bool,
    /// Seconds since the Unix epoch.
    pub(crate) not_before: i64,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: i64,
    /// Distinguished names as they are encoded.
    subject: Vec<u8>,
    issuer: Vec<u8>,
    /// For people.
    shown: String,
}

/// Certificates of a file, at least one, each with its facts.
pub(crate) struct Certificates {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) facts: Vec<Facts>,
}

/// Reads every certificate of a PEM text.
pub(crate) fn certificates(text: &str) -> Result<Certificates, Problem> {
    let hint = "it should hold certificates as PEM, `-----BEGIN CERTIFICATE-----`";
    let chain = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| broken(&error))?;
    if chain.is_empty() {
        return Err(Problem::new("has no certificate in it", hint));
    }
    let facts = chain.iter().enumerate().map(|(index, der)| {
        Facts::of(der).ok_or_else(|| {
            let problem = format!("has a certificate (number {}) that cannot be read", index + 1);
            Problem::new(problem, "make the file again from its source")
        })
    });
    let facts = facts.collect::<Result<Vec<_>, Problem>>()?;
    Ok(Certificates { chain, facts })
}

impl Certificates {
    /// Whether each certificate was signed by the next: clients follow the chain in its order.
    pub(crate) fn check_order(&self) -> Result<(), Problem> {
        for (index, pair) in self.facts.windows(2).enumerate() {
            let [signed, signer] = pair else { continue };
            if signed.issuer != signer.subject {
                let problem = format!(
                    "has its chain out of order: certificate {} is not signed by the next one, `{}`",
                    index + 1,
                    signer.shown
                );
                let hint = "put the server's own certificate first, then the one that signed it, and so on";
                return Err(Problem::new(problem, hint));
            }
        }
        Ok(())
    }

    /// What is wrong with the dates at `now`, time since the Unix epoch: nothing stops working here
    /// for them, but the other side will refuse.
    pub(crate) fn doubts(&self, now: Duration) -> Vec<Problem> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.facts.iter().filter_map(|facts| facts.doubt(now)).collect()
    }
}

impl Facts {
    fn of(der: &[u8]) -> Option<Facts> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let alternative = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let names = alternative.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        Some(Facts {
            names: names.collect(),
            has_addresses: alternative.iter().any(|name| matches!(name, GeneralName::IPAddress(_))),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            shown: certificate.subject().to_string(),
        })
    }

    fn doubt(&self, now: i64) -> Option<Problem> {
        let renew = "renew it; the file is watched";
        if now > self.not_after {
            let problem =
                format!("has a certificate, `{}`, that expired {}", self.shown, date(self.not_after));
            return Some(Problem::new(problem, renew));
        }
        (now < self.not_before).then(|| {
            let problem = format!(
                "has a certificate, `{}`, that is valid from {} only",
                self.shown,
                date(self.not_before)
            );
            Problem::new(problem, "check the clock of this machine, and the certificate")
        })
    }
}

/// Reads the private key of a PEM text: PKCS #8, PKCS #1 or SEC 1.
pub(crate) fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, Problem> {
    let hint = "it should hold one private key as PEM, `-----BEGIN PRIVATE KEY-----`";
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err(Problem::new("holds an encrypted key", "store the key without a passphrase, mode 600"));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => Problem::new("has no private key in it", hint),
        error => broken(&error),
    })
}

/// A revocation list, and when the next one is due.
pub(crate) struct RevocationList {
    pub(crate) der: CertificateRevocationListDer<'static>,
    next_update: Option<i64>,
    issuer: String,
}

/// Reads every revocation list of a PEM text.
pub(crate) fn revocation_lists(text: &str) -> Result<Vec<RevocationList>, Problem> {
    let hint = "it should hold revocation lists as PEM, `-----BEGIN X509 CRL-----`";
    let lists = CertificateRevocationListDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| broken(&error))?;
    if lists.is_empty() {
        return Err(Problem::new("has no revocation list in it", hint));
    }
    lists.into_iter().map(|der| RevocationList::of(der).ok_or_else(unreadable_list)).collect()
}

impl RevocationList {
    fn of(der: CertificateRevocationListDer<'static>) -> Option<RevocationList> {
        let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
        let next_update = list.next_update().as_ref().map(ASN1Time::timestamp);
        let issuer = list.issuer().to_string();
        Some(RevocationList { der, next_update, issuer })
    }

    /// A list is trusted until its successor is due; then its issuer's certificates are refused.
    pub(crate) fn doubt(&self, now: Duration) -> Option<Problem> {
        let due = self.next_update?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        (now > due).then(|| {
            let problem = format!(
                "has a revocation list that was to be renewed {}: no certificate of `{}` is accepted",
                date(due),
                self.issuer
            );
            Problem::new(problem, "fetch the current list; the file is watched")
        })
    }
}

/// A list that the handshake's verifier cannot use.
pub(crate) fn unreadable_list() -> Problem {
    let hint = "make it again: version 2, with its number and the date of the next update (RFC 5280)";
    Problem::new("has a revocation list that cannot be read", hint)
}

/// The error is described by its kind: its own text may quote the file.
fn broken(error: &pem::Error) -> Problem {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "has a section without its `-----END`",
        pem::Error::IllegalSectionStart { .. } => "has a broken `-----BEGIN` line",
        pem::Error::Base64Decode(_) => "has a section that is not base64",
        _ => "cannot be read as PEM",
    };
    Problem::new(what, "make the file again from its source")
}

/// A date for people, UTC.
fn date(timestamp: i64) -> String {
    ASN1Time::from_timestamp(timestamp).map_or_else(|_| timestamp.to_string(), |time| time.to_string())
}
