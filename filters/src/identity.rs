//! Who is calling.
//!
//! Every arrival has an identity from the first byte on, so that keys of pools, caches and tables
//! keep callers apart even where nobody is authenticated. Only [`Identity::Principal`] may ever be
//! a reason to allow something.

pub mod api_key;

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

/// A verified caller, as the identity stage of a deployment names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Tenant that the subject belongs to.
    pub tenant: Arc<str>,
    /// Stable name of the subject within its tenant.
    pub subject: Arc<str>,
}

/// First 16 bytes of a keyed SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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
            Identity::Principal(_) => "principal",
        }
    }
}
