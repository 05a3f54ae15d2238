//! Tokens of one issuer: which are its own, for how long, and whom they name.

use super::claims::date;
use super::{Algorithm, AuthMethod, ClaimRules, Fault, KeySet, Token, Verified};
use crate::mcp::object::{Object, elements};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use std::time::Duration;

/// Most audiences of one token.
const MAX_AUDIENCES: usize = 64;

/// An issuer whose tokens are trusted, and how far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issuer {
    /// Its name, as `iss` has it.
    pub name: Arc<str>,
    /// What it signs with.
    pub algorithms: Vec<Algorithm>,
    /// Types of its access tokens, as [`super::media_type`] writes them; the empty text stands for a
    /// token without a type.
    pub types: Vec<String>,
    /// How far its clock and ours may be apart.
    pub clock_skew: Duration,
    /// Longest time from `iat` to `exp`; `None` for any.
    pub max_lifetime: Option<Duration>,
    /// Which claims say what.
    pub rules: ClaimRules,
}

impl Issuer {
    /// Types of access tokens, if nothing else is said (RFC 9068 §2.1, RFC 7519 §5.1).
    pub const DEFAULT_TYPES: [&'static str; 2] = ["at+jwt", "jwt"];
    /// Default of [`Issuer::clock_skew`].
    pub const DEFAULT_CLOCK_SKEW: Duration = Duration::from_secs(30);

    /// Verifies a token of this issuer against its keys, at `wall` since the epoch.
    ///
    /// What a token may be used for is another question, and asked at each use: [`Verified::holds`].
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::UnknownKey`] if other keys might verify it.
    pub fn verify(&self, token: &Token<'_>, keys: &KeySet, wall: Duration) -> Result<Verified, Fault> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Fault::Algorithm);
        }
        let kind = token.kind.as_deref().unwrap_or_default();
        if !self.types.iter().any(|allowed| allowed == kind) {
            return Err(Fault::Type);
        }
        let key = keys.find(token.key_id.as_deref(), token.algorithm).ok_or(Fault::UnknownKey)?;
        let (signed, signature) = token.signed();
        if !key.verifies(token.algorithm, signed, signature) {
            return Err(Fault::Signature);
        }
        let claims = token.claims()?;
        let key_id = token.key_id.clone().or_else(|| key.id().cloned());
        if claims.text("iss").as_deref() != Some(&*self.name) {
            return Err(Fault::Issuer);
        }
        let expires = date(&claims, "exp")?.ok_or(Fault::Expired)?;
        let end = self.lifetime(&claims, expires, wall)?;
        self.accept(&claims, AuthMethod::Jwt, end).map(|verified| Verified { key_id, ..verified })
    }

    /// What the issuer's answer about a token amounts to (RFC 7662 §2.2), believed for `keep`.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Inactive`] for a token that is not good.
    pub fn inspected(&self, answer: &str, wall: Duration, keep: Duration) -> Result<Verified, Fault> {
        let claims = Object::read(answer).map_err(|_| Fault::Malformed)?;
        if claims.get("active") != Some("true") {
            return Err(Fault::Inactive);
        }
        if claims.get("iss").is_some() && claims.text("iss").as_deref() != Some(&*self.name) {
            return Err(Fault::Issuer);
        }
        let until = wall + keep;
        let end = match date(&claims, "exp")? {
            Some(expires) => self.lifetime(&claims, expires, wall)?.min(until),
            None => until,
        };
        self.accept(&claims, AuthMethod::Introspected, end)
    }

    /// Whom claims name that are known to be the issuer's, until `end`.
    fn accept(&self, claims: &Object<'_>, auth: AuthMethod, end: Duration) -> Result<Verified, Fault> {
        let mut principal = self.rules.principal(claims, auth)?;
        principal.not_after = Some(end);
        Ok(Verified {
            principal: Arc::new(principal.with_digest()),
            issuer: Some(Arc::clone(&self.name)),
            token_id: claims.text("jti").map(|id| id.as_ref().into()),
            key_id: None,
            bound_to: bound_to(claims)?,
            audiences: audiences(claims)?,
        })
    }

    /// The time at which a token is no longer accepted, if it is now.
    fn lifetime(&self, claims: &Object<'_>, expires: Duration, wall: Duration) -> Result<Duration, Fault> {
        let (issued, begins) = (date(claims, "iat")?, date(claims, "nbf")?);
        let end = expires + self.clock_skew;
        if wall >= end {
            return Err(Fault::Expired);
        }
        let latest = wall + self.clock_skew;
        if [issued, begins].into_iter().flatten().any(|date| date > latest) {
            return Err(Fault::NotYet);
        }
        if let Some(most) = self.max_lifetime {
            let issued = issued.ok_or(Fault::LongLived)?;
            if expires.saturating_sub(issued) > most {
                return Err(Fault::LongLived);
            }
        }
        Ok(end)
    }
}

/// The certificate that a token is bound to (RFC 8705 §3.1). Any other binding cannot be checked here,
/// and a token that asks for it is not taken without.
fn bound_to(claims: &Object<'_>) -> Result<Option<[u8; 32]>, Fault> {
    let Some(text) = claims.get("cnf") else { return Ok(None) };
    let confirmation = Object::read(text).map_err(|_| Fault::Binding)?;
    let thumbprint = confirmation.text("x5t#S256").ok_or(Fault::Binding)?;
    if confirmation.members().len() != 1 {
        return Err(Fault::Binding);
    }
    let bytes = URL_SAFE_NO_PAD.decode(thumbprint.as_bytes()).map_err(|_| Fault::Binding)?;
    bytes.try_into().map(Some).map_err(|_| Fault::Binding)
}

/// For whom a token is: a text or an array of them (RFC 7519 §4.1.3).
fn audiences(claims: &Object<'_>) -> Result<Vec<Arc<str>>, Fault> {
    let Some(text) = claims.get("aud") else { return Ok(Vec::new()) };
    let texts =
        if text.starts_with('[') { elements(text).map_err(|_| Fault::Malformed)? } else { vec![text] };
    if texts.len() > MAX_AUDIENCES {
        return Err(Fault::TooMuch);
    }
    let read = |text: &str| serde_json::from_str::<String>(text).map_err(|_| Fault::Malformed);
    texts.into_iter().map(|text| Ok(read(text)?.into())).collect()
}
