//! Somebody who was verified, and on which conditions that holds.
//!
//! Verifying costs tens of microseconds and is done once. What it leaves is asked at every use again,
//! since that depends on who uses it, where, when, and on what was revoked in the meantime.

use super::{Certificate, Fault, Principal, Revoked};
use std::sync::Arc;
use std::time::Duration;

/// What verifying a token, a key or a certificate gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whom it names.
    pub principal: Arc<Principal>,
    /// The issuer of the token; `None` for keys and certificates.
    pub issuer: Option<Arc<str>>,
    /// Id of the token (`jti`).
    pub token_id: Option<Arc<str>>,
    /// Id of the key that it was signed with; of an API key its own.
    pub key_id: Option<Arc<str>>,
    /// SHA-256 of the only certificate that it may be shown with.
    pub bound_to: Option<[u8; 32]>,
    /// For whom the token is.
    pub audiences: Vec<Arc<str>>,
}

/// One use of what was verified.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// Audiences that tokens of its issuer have to be for, one of them; `None` where that is no
    /// question, as for keys and certificates.
    pub audiences: Option<&'a [Arc<str>]>,
    /// Scopes that every caller needs here.
    pub scopes: &'a [Arc<str>],
    /// The certificate of the client's connection.
    pub certificate: Option<&'a Certificate>,
    /// What was taken back.
    pub revoked: &'a Revoked,
    /// Time since the epoch.
    pub wall: Duration,
}

impl Verified {
    /// Whether it may be used on this occasion.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn holds(&self, occasion: &Occasion<'_>) -> Result<(), Fault> {
        if self.principal.has_ended(occasion.wall) {
            return Err(Fault::Expired);
        }
        if occasion.audiences.is_some_and(|wanted| !self.audiences.iter().any(|one| wanted.contains(one))) {
            return Err(Fault::Audience);
        }
        let shown = occasion.certificate.map(|certificate| &certificate.fingerprint);
        if self.bound_to.is_some() && self.bound_to.as_ref() != shown {
            return Err(Fault::NotBound);
        }
        if occasion.revoked.has(self)
            || shown.is_some_and(|shown| occasion.revoked.certificates.contains(shown))
        {
            return Err(Fault::Revoked);
        }
        if !occasion.scopes.iter().all(|scope| self.principal.has_scope(scope)) {
            return Err(Fault::Scope);
        }
        Ok(())
    }
}
