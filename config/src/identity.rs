//! Whom the gateway believes to be who they say, and what each endpoint asks of its callers.
//!
//! What verifying itself depends on is in `portunus_filters::identity`; here is where keys come from,
//! and what a virtual server makes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use portunus_filters::identity::{
    AuthMethod, Certificate, CertificateRules, Fault, Issuer, KeySet, Occasion, Principal, Revoked, Verified,
    names,
};

use crate::digest::sha256;
use crate::keys::ApiKeys;
use crate::reference::Reference;
use crate::tls::Signers;
use crate::upstream::Upstream;

/// `identity`, compiled.
#[derive(Clone, Debug)]
pub struct Identities {
    /// Where clients reach the gateway: scheme, host and what stands before the paths of servers.
    pub url: Option<Arc<str>>,
    /// Issuers of signed tokens.
    pub trusts: Vec<Arc<Trust>>,
    /// Issuers that are asked about their tokens.
    pub inspections: Vec<Arc<Inspection>>,
    /// Client certificates that name callers.
    pub certificates: Option<Arc<ClientNames>>,
    /// API keys.
    pub keys: Option<Arc<ApiKeys>>,
    /// What was taken back.
    pub revoked: Arc<Revoked>,
    /// What metadata says beside what follows from the rest.
    pub metadata: Metadata,
    /// What is asked of callers where a server says nothing.
    pub asked: Asked,
}

/// `identity.mtls`, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientNames {
    /// Which names are taken.
    pub rules: CertificateRules,
    /// Trust domains whose certificates only these may sign, each with the file that they are in.
    pub signers: BTreeMap<Arc<str>, (PathBuf, Arc<Signers>)>,
    /// Whose tokens and keys may come with a certificate, where both are required.
    pub token_caller: TokenCaller,
}

/// Whose tokens and keys may come with a certificate, where both are required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenCaller {
    /// Those of the caller that the certificate names, as their subject or agent; and tokens that are bound
    /// to the certificate (RFC 8705).
    #[default]
    Same,
    /// Anybody's: the certificate says by which machine, and the token who.
    Any,
}

impl TokenCaller {
    /// Each with its name in a document.
    pub const NAMES: [(&'static str, TokenCaller); 2] =
        [("same", TokenCaller::Same), ("any", TokenCaller::Any)];

    /// The name in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenCaller::Same => "same",
            TokenCaller::Any => "any",
        }
    }
}

impl ClientNames {
    /// Whom a certificate names at `now`, time since the Unix epoch; `chain` begins with it.
    ///
    /// # Errors
    /// [`Fault::Certificate`], and [`Fault::Authority`] for one that others than those of its trust domain
    /// have signed.
    pub fn verify(
        &self,
        certificate: &Certificate,
        chain: &[CertificateDer<'_>],
        now: Duration,
    ) -> Result<Verified, Fault> {
        let verified = self.rules.verify(certificate)?;
        let signers = certificate.trust_domain().and_then(|domain| self.signers.get(domain));
        match signers {
            Some((_, signers)) if signers.verify(chain, now).is_err() => Err(Fault::Authority),
            _ => Ok(verified),
        }
    }

    /// Whether a token or key may come with the certificate that `certificate` was verified from.
    ///
    /// # Errors
    /// [`Fault::OtherCaller`].
    pub fn pairs(&self, token: &Verified, certificate: &Verified) -> Result<(), Fault> {
        let (principal, name) = (&token.principal, &certificate.principal.subject);
        let is_same = (token.bound_to.is_some() && token.bound_to == certificate.bound_to)
            || principal.subject == *name
            || principal.agent.as_ref() == Some(name);
        match self.token_caller {
            TokenCaller::Same if !is_same => Err(Fault::OtherCaller),
            _ => Ok(()),
        }
    }
}

/// An issuer of signed tokens, and where its keys are.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Equal for equal settings, across revisions.
    pub id: TrustId,
    /// Which tokens are its own, and what they say.
    pub issuer: Issuer,
    /// Audiences of its tokens; none for the resource of each server.
    pub audiences: Arc<[Arc<str>]>,
    /// Its keys.
    pub keys: KeySource,
    /// Keys that were fetched are fetched again after this, at the latest.
    pub refresh: Duration,
    /// How old the keys that an earlier process has fetched may be while none can be.
    pub max_stale: Duration,
}

/// Identity of an issuer's settings: what verified under equal ones holds under both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustId([u8; 16]);

/// Where the keys of an issuer come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A file, read with the document.
    File {
        /// As the document names it.
        path: PathBuf,
        /// What was in it.
        keys: Arc<KeySet>,
    },
    /// A URL.
    Url(Arc<Upstream>),
    /// The issuer's own metadata says where (RFC 8414, OpenID Connect Discovery), at its own host.
    Discovered(Arc<Upstream>),
}

/// An issuer that is asked about each of its tokens (RFC 7662).
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Equal for equal settings, across revisions.
    pub id: TrustId,
    /// What its answers say.
    pub issuer: Issuer,
    /// Audiences of its tokens; none for the resource of each server.
    pub audiences: Arc<[Arc<str>]>,
    /// Where it is asked, with the credentials of the gateway.
    pub at: Arc<Upstream>,
    /// As whom the gateway asks, if it is by id and secret.
    pub client: Option<(Arc<str>, Reference)>,
    /// For how long an answer is kept.
    pub cache: Duration,
}

/// What a caller can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shows {
    /// A token of an issuer, signed or asked about.
    Jwt,
    /// A client certificate.
    Mtls,
    /// An API key.
    Key,
}

impl Shows {
    /// Each with its name in a document.
    pub const NAMES: [(&'static str, Shows); 3] =
        [("jwt", Shows::Jwt), ("mtls", Shows::Mtls), ("key", Shows::Key)];

    /// The name in a document.
    pub fn as_str(self) -> &'static str {
        Shows::NAMES.into_iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// What an endpoint asks of its callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// All of these; none for any one that is taken.
    pub require: Vec<Shows>,
    /// Whom a caller that shows nothing is taken for; `None`: it is refused.
    pub anonymous: Option<Arc<Stranger>>,
    /// Scopes that every caller needs.
    pub scopes: Arc<[Arc<str>]>,
}

/// Whom callers are taken for that show nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Their tenant.
    pub tenant: Arc<str>,
    /// Their roles.
    pub roles: Arc<[Arc<str>]>,
    /// Their scopes.
    pub scopes: Arc<[Arc<str>]>,
}

/// What metadata says beside what follows from the rest (RFC 9728 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Authorization servers; none for the issuers.
    pub authorization_servers: Vec<Arc<str>>,
    /// Scopes that a client may ask for, beside those that every caller needs.
    pub scopes: Vec<Arc<str>>,
    /// Where people can read on.
    pub documentation: Option<Arc<str>>,
    /// The client that every client is registered as, at providers that register none themselves.
    pub client: Option<Arc<str>>,
}

/// What one virtual server asks, and whom it believes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its issuers of signed tokens, with the audiences that its tokens have to be for.
    pub trusts: Vec<(Arc<Trust>, Arc<[Arc<str>]>)>,
    /// The same of issuers that are asked.
    pub inspections: Vec<(Arc<Inspection>, Arc<[Arc<str>]>)>,
    /// Client certificates that name callers.
    pub certificates: Option<Arc<ClientNames>>,
    /// API keys.
    pub keys: Option<Arc<ApiKeys>>,
    /// What was taken back.
    pub revoked: Arc<Revoked>,
    /// What is asked of callers.
    pub asked: Asked,
    /// What it is to clients that ask for authorization; `None` if it has no URL.
    pub resource: Option<Resource>,
    /// What its section of the document says, for printing.
    pub written: Written,
}

/// What the `identity` of a server says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `resource`.
    pub resource: Option<Arc<str>>,
    /// `audience`.
    pub audiences: Vec<Arc<str>>,
    /// `issuers`.
    pub issuers: Option<Vec<Arc<str>>>,
}

/// A protected resource (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its identifier: where clients reach it.
    pub uri: Arc<str>,
    /// Where its metadata is.
    pub metadata_url: Arc<str>,
    /// Its metadata, JSON.
    pub metadata: Arc<str>,
    /// The client that every client is registered as, and the issuer that has it.
    pub client: Option<(Arc<str>, Arc<str>)>,
}

impl TrustId {
    /// It as hexadecimal digits, the same in every process.
    pub fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `settings` is everything that verifying depends on.
    pub(crate) fn of(settings: &impl fmt::Debug) -> TrustId {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(format!("{settings:?}").as_bytes())[..16]);
        TrustId(id)
    }
}

impl fmt::Debug for TrustId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustId(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl Stranger {
    /// The tenant of strangers, if the document names none.
    pub const TENANT: &'static str = "anonymous";

    /// A caller at this address. Those at different ones are different callers: strangers never share
    /// what is kept for one of them.
    pub fn at(&self, source: std::net::IpAddr) -> Principal {
        let stranger = Principal {
            roles: Arc::clone(&self.roles),
            scopes: Arc::clone(&self.scopes),
            auth: AuthMethod::Anonymous,
            ..Principal::named(Arc::clone(&self.tenant), source.to_string())
        };
        stranger.with_digest()
    }
}

impl Asked {
    /// Whether callers have to show this.
    pub fn requires(&self, shows: Shows) -> bool {
        self.require.contains(&shows)
    }
}

impl Profile {
    /// Whether what verified under these settings counts here.
    pub fn trusts(&self, id: TrustId) -> bool {
        self.trusts.iter().any(|(trust, _)| trust.id == id)
            || self.inspections.iter().any(|(inspection, _)| inspection.id == id)
            || self.keys.as_ref().is_some_and(|keys| keys.id == id)
    }

    /// Audiences that tokens of an issuer have to be for; `None` for an issuer that is not trusted.
    pub fn audiences(&self, issuer: &str) -> Option<&[Arc<str>]> {
        let signed = self.trusts.iter().map(|(trust, audiences)| (&trust.issuer, audiences));
        let asked = self.inspections.iter().map(|(inspection, audiences)| (&inspection.issuer, audiences));
        signed.chain(asked).find(|(known, _)| *known.name == *issuer).map(|(_, audiences)| &**audiences)
    }

    /// Whether what was verified may be used here now; see [`Verified::holds`].
    ///
    /// # Errors
    /// As there, and if its issuer is not trusted here.
    pub fn admits(
        &self,
        verified: &Verified,
        certificate: Option<&portunus_filters::identity::Certificate>,
        wall: Duration,
    ) -> Result<(), portunus_filters::identity::Fault> {
        let audiences = match &verified.issuer {
            None => None,
            Some(issuer) => Some(self.audiences(issuer).ok_or(portunus_filters::identity::Fault::Issuer)?),
        };
        let scopes = &self.asked.scopes;
        verified.holds(&Occasion { audiences, scopes, certificate, revoked: &self.revoked, wall })
    }
}

/// Names of a document, sorted, each once.
pub(crate) fn sorted(texts: impl IntoIterator<Item = String>) -> Arc<[Arc<str>]> {
    names(texts)
}
