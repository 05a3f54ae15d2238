//! Identifies the caller, and checks that this is enough for the endpoint.
//!
//! Verifying is done once for a token; what it may be used for is asked at every use. A connection
//! remembers what was last shown on it, so that a client that goes on calling costs a comparison.

use super::connection_state::{ConnectionState, Remembered};
use super::credential::Credential;
use super::inspect::Trouble;
use super::tokens::{KEEP, KEEP_REFUSED, Known};
use crate::backend::headers::detached;
use crate::frontend::context::Gateway;
use crate::shares::Owner;
use http::HeaderMap;
use portunus_config::{ApiKeys, Profile, Shows, Trust};
use portunus_filters::Moment;
use portunus_filters::identity::{AuthMethod, Fault, Principal, Token, Verified};
use std::net::IpAddr;
use std::sync::Arc;

/// What a request shows of who sends it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The request's fields.
    pub headers: &'a HeaderMap,
    /// Its connection.
    pub connection_state: &'a ConnectionState,
    /// The client's address.
    pub source: IpAddr,
}

/// Tells who calls at `now`, and whether that is enough for `profile`.
///
/// # Errors
/// [`Trouble`].
pub async fn authenticate(
    gateway: &Arc<Gateway>,
    profile: &Profile,
    shown: Shown<'_>,
    now: Moment,
) -> Result<Arc<Principal>, Trouble> {
    shown.connection_state.check_certificate(now)?;
    let verified = match Credential::of(shown.headers, profile)? {
        Some(credential) => {
            let field = credential.field;
            let same =
                |known: &Arc<Verified>| (known.principal.auth == AuthMethod::ApiKey) == credential.is_key;
            let verified = match shown.connection_state.remembered(field, profile, now.monotonic).filter(same)
            {
                Some(verified) => {
                    gateway.metrics.identity.connection_hits.inc();
                    verified
                }
                None => {
                    let known =
                        credential_verified(gateway, profile, credential, now, Owner::at(shown.source))
                            .await?;
                    let verified = known.outcome.clone()?;
                    shown.connection_state.remember(Remembered { field: detached(field), known });
                    verified
                }
            };
            profile.admits(&verified, shown.connection_state.certificate(), now.wall)?;
            check_kind(&verified, profile)?;
            match profile.asked.requires(Shows::Mtls) {
                true => joined(gateway, profile, shown, (&verified, now))?,
                false => Arc::clone(&verified.principal),
            }
        }
        None => unsigned(gateway, profile, shown, now)?,
    };
    Ok(verified)
}

/// A key is no token where a token is asked for, and the other way round.
fn check_kind(verified: &Verified, profile: &Profile) -> Result<(), Fault> {
    let missing = match verified.principal.auth {
        AuthMethod::ApiKey => Shows::Jwt,
        _ => Shows::Key,
    };
    if profile.asked.requires(missing) { Err(Fault::NoToken) } else { Ok(()) }
}

/// A caller without a token: by its certificate, or as a stranger.
fn unsigned(
    gateway: &Gateway,
    profile: &Profile,
    shown: Shown<'_>,
    now: Moment,
) -> Result<Arc<Principal>, Fault> {
    let by_certificate = by_certificate(gateway, profile, shown, now);
    if profile.asked.requires(Shows::Jwt) || profile.asked.requires(Shows::Key) {
        return Err(by_certificate.map_or(Fault::Nothing, |_| Fault::NoToken));
    }
    match (by_certificate, &profile.asked.anonymous) {
        (Ok(verified), _) => {
            profile.admits(&verified, shown.connection_state.certificate(), now.wall)?;
            Ok(Arc::clone(&verified.principal))
        }
        // Who shows a certificate that names nobody is no stranger, but somebody who is not known.
        (Err(Fault::NoCertificate), Some(stranger)) => {
            let mut principal = stranger.at(shown.source);
            principal.index = gateway.estate.callers.principals.number(&principal);
            let verified = Verified {
                principal: Arc::new(principal),
                issuer: None,
                token_id: None,
                key_id: None,
                bound_to: None,
                audiences: Vec::new(),
            };
            profile.admits(&verified, shown.connection_state.certificate(), now.wall)?;
            Ok(verified.principal)
        }
        (Err(Fault::NoCertificate), None) if !profile.asked.requires(Shows::Mtls) => Err(Fault::Nothing),
        (Err(fault), _) => Err(fault),
    }
}

/// Whom the client's certificate names.
fn by_certificate(
    gateway: &Gateway,
    profile: &Profile,
    shown: Shown<'_>,
    now: Moment,
) -> Result<Arc<Verified>, Fault> {
    let rules = profile.certificates.as_ref().ok_or(Fault::NoCertificate)?;
    if let Some(known) = shown.connection_state.named(rules) {
        return Ok(known);
    }
    let verified =
        Arc::new(gateway.estate.callers.numbered(shown.connection_state.named_by(rules, now.wall)?));
    shown.connection_state.name(rules, &verified);
    Ok(verified)
}

/// A caller that has to show both: the token says who it is, the certificate by what. Each of them can be
/// taken back, and end, by itself.
fn joined(
    gateway: &Gateway,
    profile: &Profile,
    shown: Shown<'_>,
    (verified, now): (&Verified, Moment),
) -> Result<Arc<Principal>, Fault> {
    let certificate = by_certificate(gateway, profile, shown, now)?;
    if certificate.principal.has_ended(now.wall) {
        return Err(Fault::Expired);
    }
    if profile.revoked.has(&certificate) {
        return Err(Fault::Revoked);
    }
    if let Some(names) = &profile.certificates {
        names.pairs(verified, &certificate)?;
    }
    let (by_token, by_certificate) = (&verified.principal, &certificate.principal);
    let ends = [by_token.not_after, by_certificate.not_after];
    let principal = Principal {
        auth: match by_token.auth {
            AuthMethod::ApiKey => AuthMethod::ApiKey,
            _ => AuthMethod::MtlsJwt,
        },
        agent: by_token.agent.clone().or_else(|| by_certificate.agent.clone()),
        not_after: ends.into_iter().flatten().min(),
        ..Principal::clone(by_token)
    };
    Ok(Arc::new(principal.with_digest()))
}

/// What is known of a token or key, from before or from now on.
async fn credential_verified(
    gateway: &Arc<Gateway>,
    profile: &Profile,
    credential: Credential<'_>,
    now: Moment,
    owner: Owner,
) -> Result<Arc<Known>, Trouble> {
    let (callers, token) = (&gateway.estate.callers, credential.text()?);
    let trusted = |known: &Arc<Known>| {
        let by_key = profile.keys.as_ref().is_some_and(|keys| keys.id == known.trust);
        // Of several issuers that are asked, one that does not know a token says nothing of the others.
        let decides = known.outcome.is_ok()
            || profile.inspections.len() < 2
            || profile.inspections.iter().all(|(inspection, _)| inspection.id != known.trust);
        profile.trusts(known.trust) && by_key == credential.is_key && decides
    };
    if let Some(known) = callers.tokens.find(token, now.monotonic).filter(trusted) {
        match known.outcome {
            Ok(_) => gateway.metrics.identity.hits.inc(),
            Err(_) => gateway.metrics.identity.refused_hits.inc(),
        }
        return Ok(known);
    }
    gateway.metrics.identity.misses.inc();
    if let Some(keys) = profile.keys.as_ref().filter(|_| credential.is_key) {
        let known = Arc::new(by_table(gateway, keys, token, now));
        callers.tokens.keep(token, Arc::clone(&known));
        return Ok(known);
    }
    let known = match signed_by(profile, token) {
        Ok((trust, read)) => Arc::new(by_keys(gateway, trust, &read).await?),
        // Only what is no token of a known issuer is asked about: a bad one is bad.
        Err(fault @ (Fault::Malformed | Fault::Issuer | Fault::Algorithm)) => {
            by_asking(gateway, profile, token, fault, owner).await?
        }
        Err(fault) => return Err(fault.into()),
    };
    callers.tokens.keep(token, Arc::clone(&known));
    Ok(known)
}

/// The issuer of a signed token, as it says itself.
fn signed_by<'p, 't>(profile: &'p Profile, token: &'t str) -> Result<(&'p Arc<Trust>, Token<'t>), Fault> {
    if profile.trusts.is_empty() {
        return Err(Fault::Issuer);
    }
    let read = Token::read(token)?;
    let issuer = read.issuer()?;
    let trust = profile.trusts.iter().find(|(trust, _)| *trust.issuer.name == *issuer);
    Ok((&trust.ok_or(Fault::Issuer)?.0, read))
}

/// Verifies an API key.
fn by_table(gateway: &Gateway, keys: &ApiKeys, shown: &str, now: Moment) -> Known {
    let (outcome, keep) = match keys.table.verify(shown, now.wall) {
        Ok(key) => {
            let verified = Verified {
                principal: Arc::clone(&key.holder),
                issuer: None,
                token_id: None,
                key_id: Some(key.id.as_str().into()),
                bound_to: None,
                audiences: Vec::new(),
            };
            let left = key.expires().map_or(KEEP, |end| end.saturating_sub(now.wall));
            (Ok(Arc::new(gateway.estate.callers.numbered(verified))), left.min(KEEP))
        }
        Err(fault) => (Err(fault.into()), KEEP_REFUSED),
    };
    Known::new(outcome, keys.id, None, now.monotonic + keep)
}

/// Verifies a token by the keys of its issuer; once more if those may be old.
async fn by_keys(gateway: &Arc<Gateway>, trust: &Trust, token: &Token<'_>) -> Result<Known, Trouble> {
    let slot = gateway.estate.callers.keys.slot(&trust.id);
    let slot = slot.ok_or_else(|| Trouble::Unavailable("the issuer is configured no longer".to_owned()))?;
    let verify = || {
        let (keys, generation) = slot.keys()?;
        let now = gateway.clock.now();
        let outcome = trust.issuer.verify(token, &keys, now.wall);
        Some((outcome, generation, now))
    };
    let mut tried = verify();
    if tried.as_ref().is_none_or(|(outcome, ..)| matches!(outcome, Err(Fault::UnknownKey))) {
        slot.newer(gateway, tried.as_ref().map(|(_, generation, _)| *generation)).await;
        tried = verify();
    }
    let (outcome, generation, now) = tried
        .ok_or_else(|| Trouble::Unavailable("the keys of the issuer were not fetched yet".to_owned()))?;
    let keys = Some((Arc::clone(&slot), generation));
    match outcome {
        Ok(verified) => {
            let left = verified.principal.not_after.map_or(KEEP, |end| end.saturating_sub(now.wall));
            let verified = Arc::new(gateway.estate.callers.numbered(verified));
            Ok(Known::new(Ok(verified), trust.id, keys, now.monotonic + left.min(KEEP)))
        }
        // These change with time, or with the next fetch.
        Err(fault @ (Fault::UnknownKey | Fault::NotYet)) => Err(fault.into()),
        Err(fault) => Ok(Known::new(Err(fault), trust.id, keys, now.monotonic + KEEP_REFUSED)),
    }
}

/// Asks those issuers about a token that may have given it out.
async fn by_asking(
    gateway: &Arc<Gateway>,
    profile: &Profile,
    token: &str,
    otherwise: Fault,
    owner: Owner,
) -> Result<Arc<Known>, Trouble> {
    let mut last = Trouble::Fault(otherwise);
    for (inspection, _) in &profile.inspections {
        let said = gateway.estate.callers.inspectors.ask(gateway, inspection, token, owner).await;
        let no = match said {
            Ok(known) => match known.outcome {
                Err(fault) if profile.inspections.len() > 1 => Trouble::Fault(fault),
                _ => return Ok(known),
            },
            Err(trouble) => trouble,
        };
        // Nobody can tell counts before no: another issuer's no is none of this token.
        if !matches!((&last, &no), (Trouble::Unavailable(_), Trouble::Fault(_))) {
            last = no;
        }
    }
    Err(last)
}
