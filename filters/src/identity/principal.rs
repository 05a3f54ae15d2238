//! A verified caller, and what is known of it.

use super::Digest;
use portunus_base::Owner;
use ring::digest::{Context, SHA256};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A verified caller, as the rules of an identity profile name it.
///
/// Two principals are equal if policy cannot tell them apart, that is by their digests. Who is kept
/// apart in tables is a narrower question, which tenant and subject alone answer.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Tenant that the subject belongs to.
    pub tenant: Arc<str>,
    /// Stable name of the subject within its tenant.
    pub subject: Arc<str>,
    /// The software that acts.
    pub agent: Option<Arc<str>>,
    /// For whom it acts: the outermost subject of a chain of `act` claims (RFC 8693 §4.1).
    pub on_behalf_of: Option<Arc<str>>,
    /// Roles, sorted, each once.
    pub roles: Arc<[Arc<str>]>,
    /// Groups, sorted, each once.
    pub groups: Arc<[Arc<str>]>,
    /// Scopes that were granted, sorted, each once.
    pub scopes: Arc<[Arc<str>]>,
    /// How the caller was verified.
    pub auth: AuthMethod,
    /// More than one factor was used, as the issuer says (`amr`, RFC 8176).
    pub mfa: bool,
    /// The authentication context class, as the issuer says.
    pub acr: Option<Arc<str>>,
    /// When the subject last authenticated, in seconds since the epoch.
    pub auth_time: Option<u64>,
    /// Selected attributes.
    pub claims: Claims,
    /// Dense number of tenant and subject in this process.
    pub index: PrincipalIndex,
    /// Wall time at which what was shown ends; `None` if it does not.
    pub not_after: Option<Duration>,
    /// Of everything above but `index` and `not_after`; set by [`Principal::with_digest`].
    pub digest: Digest,
    /// Of tenant and subject alone, by which callers are kept apart; set by [`Principal::with_digest`].
    pub holder: Digest,
}

/// How a caller was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// An API key of the document.
    ApiKey,
    /// A signed access token.
    Jwt,
    /// A client certificate.
    Mtls,
    /// A client certificate, and a signed access token.
    MtlsJwt,
    /// A token that its issuer vouched for when asked (RFC 7662).
    Introspected,
    /// Nothing was shown, and the document grants that.
    Anonymous,
}

/// A dense number for a principal: an index into tables, and which holder of it this is.
///
/// An index is used again once its principal is forgotten; a table that finds another generation
/// holds nothing of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrincipalIndex {
    /// From 0, below the bound of the table of principals.
    pub index: u32,
    /// Counts the holders of the index, from 1; 0 is nobody.
    pub generation: u32,
}

/// Attributes of a principal: names, sorted, each with its value as JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(Arc<[(Arc<str>, Arc<str>)]>);

/// Names sorted, each once.
pub fn names<T: Into<Arc<str>>>(names: impl IntoIterator<Item = T>) -> Arc<[Arc<str>]> {
    let mut names: Vec<Arc<str>> = names.into_iter().map(Into::into).collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

impl Principal {
    /// The owner that it is counted by: its address for strangers, who have a principal in common.
    pub fn owner(&self, source: IpAddr) -> Owner {
        match self.auth {
            AuthMethod::Anonymous => Owner::at(source),
            _ => Owner::Principal(self.holder.0),
        }
    }

    /// A principal of whom nothing but the name is known, as if by a token that says no more.
    pub fn named(tenant: impl Into<Arc<str>>, subject: impl Into<Arc<str>>) -> Principal {
        let nobody = Principal {
            tenant: tenant.into(),
            subject: subject.into(),
            agent: None,
            on_behalf_of: None,
            roles: Arc::default(),
            groups: Arc::default(),
            scopes: Arc::default(),
            auth: AuthMethod::Jwt,
            mfa: false,
            acr: None,
            auth_time: None,
            claims: Claims::default(),
            index: PrincipalIndex::default(),
            not_after: None,
            digest: Digest::default(),
            holder: Digest::default(),
        };
        nobody.with_digest()
    }

    /// The same with the digests of what it says now: the last step of making one.
    #[must_use]
    pub fn with_digest(mut self) -> Principal {
        let mut tape = Tape(Context::new(&SHA256));
        tape.text("principal");
        tape.text(&self.tenant);
        tape.text(&self.subject);
        self.holder = tape.clone().end();
        tape.maybe(self.agent.as_deref());
        tape.maybe(self.on_behalf_of.as_deref());
        for list in [&self.roles, &self.groups, &self.scopes] {
            tape.number(list.len() as u64);
            list.iter().for_each(|name| tape.text(name));
        }
        tape.text(self.auth.as_str());
        tape.number(u64::from(self.mfa));
        tape.maybe(self.acr.as_deref());
        tape.number(u64::from(self.auth_time.is_some()));
        tape.number(self.auth_time.unwrap_or_default());
        tape.number(self.claims.0.len() as u64);
        for (name, value) in self.claims.iter() {
            tape.text(name);
            tape.text(value);
        }
        self.digest = tape.end();
        self
    }

    /// Whether it was granted `scope`.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.binary_search_by(|held| (**held).cmp(scope)).is_ok()
    }

    /// Whether what it showed has ended by `wall`, the time since the epoch.
    pub fn has_ended(&self, wall: Duration) -> bool {
        self.not_after.is_some_and(|end| wall >= end)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Principal) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl AuthMethod {
    /// Every method.
    pub const ALL: [AuthMethod; 6] = [
        AuthMethod::ApiKey,
        AuthMethod::Jwt,
        AuthMethod::Mtls,
        AuthMethod::MtlsJwt,
        AuthMethod::Introspected,
        AuthMethod::Anonymous,
    ];

    /// The name in records, and in `input.principal.auth`.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::ApiKey => "api_key",
            AuthMethod::Jwt => "jwt",
            AuthMethod::Mtls => "mtls",
            AuthMethod::MtlsJwt => "mtls_jwt",
            AuthMethod::Introspected => "introspected",
            AuthMethod::Anonymous => "anonymous",
        }
    }
}

impl Claims {
    /// Attributes by name, values as JSON text; of a name that comes twice the first counts.
    pub fn new(mut claims: Vec<(Arc<str>, Arc<str>)>) -> Claims {
        claims.sort_by(|(one, _), (other, _)| one.cmp(other));
        claims.dedup_by(|(later, _), (first, _)| later == first);
        Claims(claims.into())
    }

    /// The value of an attribute, as JSON text.
    pub fn value(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(held, _)| (**held).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// All attributes, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

/// A digest over parts, each with its length before it, so that no two lists of parts run together.
#[derive(Clone)]
struct Tape(Context);

impl Tape {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn maybe(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn end(self) -> Digest {
        let mut first = [0; 16];
        first.copy_from_slice(&self.0.finish().as_ref()[..16]);
        Digest(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_policy_can_read_changes_the_digest_and_nothing_else_does() {
        let anna = Principal::named("acme", "anna");
        let one = |name: &str| names([name]);
        let changed = [
            Principal { tenant: "acm".into(), subject: "eanna".into(), ..anna.clone() },
            Principal { agent: Some("".into()), ..anna.clone() },
            Principal { on_behalf_of: Some("".into()), ..anna.clone() },
            Principal { roles: one("a"), ..anna.clone() },
            Principal { groups: one("a"), ..anna.clone() },
            Principal { scopes: one("a"), ..anna.clone() },
            Principal { auth: AuthMethod::Mtls, ..anna.clone() },
            Principal { mfa: true, ..anna.clone() },
            Principal { acr: Some("".into()), ..anna.clone() },
            Principal { auth_time: Some(0), ..anna.clone() },
            Principal { claims: Claims::new(vec![("a".into(), "1".into())]), ..anna.clone() },
        ];
        let digests: Vec<Digest> = changed.map(|principal| principal.with_digest().digest).into();
        for (index, digest) in digests.iter().enumerate() {
            assert!(*digest != anna.digest && !digests[index + 1..].contains(digest), "change {index}");
        }
        let same = Principal {
            index: PrincipalIndex { index: 7, generation: 1 },
            not_after: Some(Duration::from_secs(9)),
            ..anna.clone()
        };
        assert_eq!(same.with_digest(), anna);
    }

    #[test]
    fn names_and_claims_are_found_whatever_their_order_was() {
        let anna = Principal { scopes: names(["b", "a", "b"]), ..Principal::named("acme", "anna") };
        assert_eq!(anna.scopes.len(), 2);
        assert!(anna.has_scope("a") && anna.has_scope("b") && !anna.has_scope("c"));
        let claim = |name: &str, value: &str| (name.into(), value.into());
        let claims = Claims::new(vec![claim("z", "1"), claim("a", "\"x\""), claim("z", "2")]);
        assert_eq!(claims.value("z").map(|value| &**value), Some("1"));
        assert_eq!((claims.iter().len(), claims.value("b")), (2, None));
    }

    #[test]
    fn what_was_shown_ends_with_its_last_moment() {
        let anna = Principal { not_after: Some(Duration::from_secs(9)), ..Principal::named("acme", "anna") };
        assert!(!anna.has_ended(Duration::from_millis(8_999)) && anna.has_ended(Duration::from_secs(9)));
        assert!(!Principal::named("acme", "anna").has_ended(Duration::MAX));
    }
}
