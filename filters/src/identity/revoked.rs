//! What was taken back before its time.

use super::{Principal, Verified};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The denylist of a configuration. It is asked at every use, so that it takes effect at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Revoked {
    /// Subjects, each with the tenants in which it is meant; none for any tenant.
    pub subjects: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Ids of tokens (`jti`).
    pub tokens: BTreeSet<Arc<str>>,
    /// Ids of keys: those that tokens are signed with (`kid`), and API keys.
    pub keys: BTreeSet<Arc<str>>,
    /// SHA-256 of client certificates.
    pub certificates: BTreeSet<[u8; 32]>,
}

impl Revoked {
    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
            && self.tokens.is_empty()
            && self.keys.is_empty()
            && self.certificates.is_empty()
    }

    /// Whether a caller is on the list, or who acts for it.
    pub fn names(&self, principal: &Principal) -> bool {
        let named = |subject: &Arc<str>| {
            let tenants = self.subjects.get(subject);
            tenants.is_some_and(|tenants| tenants.is_empty() || tenants.contains(&principal.tenant))
        };
        named(&principal.subject) || principal.agent.as_ref().is_some_and(named)
    }

    /// Whether whom a credential names, or what it was verified by, is on the list. Certificates are
    /// looked at where they are shown.
    pub fn has(&self, verified: &Verified) -> bool {
        self.names(&verified.principal)
            || verified.token_id.as_ref().is_some_and(|id| self.tokens.contains(id))
            || verified.key_id.as_ref().is_some_and(|id| self.keys.contains(id))
    }
}
