//! Who is calling.
//!
//! Every arrival has an identity from the first byte on, so that keys of pools, caches and tables
//! keep callers apart even where nobody is authenticated. Only [`Identity::Principal`] may ever be
//! a reason to allow something.

mod algorithm;
pub mod api_key;
pub mod assertion;
mod certificate;
mod claims;
mod fault;
mod issuer;
mod jwk;
mod principal;
mod revoked;
#[cfg(test)]
mod tests;
mod token;
mod verified;

pub use algorithm::Algorithm;
pub use certificate::{Certificate, CertificateRules, is_trust_domain, spiffe_id};
pub use claims::{ClaimPath, ClaimRules, MAX_NAME_BYTES, Naming, plain};
pub use fault::Fault;
pub use issuer::Issuer;
pub use jwk::{Key, KeySet, Skipped};
pub use principal::{AuthMethod, Claims, Principal, PrincipalIndex, names};
pub use revoked::Revoked;
pub use token::{MAX_TOKEN_BYTES, Token, media_type};
pub use verified::{Occasion, Verified};

use portunus_base::Owner;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The caller of a message.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Nothing was shown; callers are told apart by their address alone.
    Anonymous {
        /// Address of the client: the right-most hop that is not a trusted proxy.
        source: IpAddr,
    },
    /// Something was shown and not verified. Keeps callers apart, never allows.
    Presented {
        /// Keyed digest of what the client showed, the same on all replicas with the same sealing keys.
        digest: Digest,
    },
    /// A verified principal.
    Principal(Arc<Principal>),
}

/// First 16 bytes of a SHA-256, keyed where what it stands for is a secret.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Anonymous { source } => write!(f, "anonymous({source})"),
            Identity::Presented { digest } => write!(f, "presented({digest})"),
            Identity::Principal(principal) => {
                write!(f, "principal({}/{})", principal.tenant, principal.subject)
            }
        }
    }
}

impl Identity {
    /// The record's `auth` field: how the caller is known.
    pub fn auth(&self) -> &'static str {
        match self {
            Identity::Anonymous { .. } => "anonymous",
            Identity::Presented { .. } => "presented",
            Identity::Principal(principal) => principal.auth.as_str(),
        }
    }

    /// Whether nothing was shown, whether or not that is granted.
    pub fn is_anonymous(&self) -> bool {
        match self {
            Identity::Anonymous { .. } => true,
            Identity::Presented { .. } => false,
            Identity::Principal(principal) => principal.auth == AuthMethod::Anonymous,
        }
    }

    /// The owner that a caller at this address is counted by.
    pub fn owner(&self, source: IpAddr) -> Owner {
        match self {
            Identity::Principal(principal) => principal.owner(source),
            Identity::Anonymous { .. } | Identity::Presented { .. } => Owner::at(source),
        }
    }

    /// The verified principal, if there is one.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        match self {
            Identity::Principal(principal) => Some(principal),
            Identity::Anonymous { .. } | Identity::Presented { .. } => None,
        }
    }
}
