//! What an upstream is told of who is calling.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use portunus_filters::identity::assertion::SigningKey;

use crate::reference::Reference;

/// What one upstream is told of the caller, beside the message. Whatever a client says under the same
/// names is dropped for every upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerRules {
    /// Facts in header fields of their own.
    pub headers: Vec<CallerFact>,
    /// A token that the upstream can verify.
    pub assertion: Option<Arc<AssertionRules>>,
}

impl CallerRules {
    /// Whether it is told nothing.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.assertion.is_none()
    }
}

/// What may be said of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallerFact {
    /// Its stable name within the tenant.
    Subject,
    /// The tenant.
    Tenant,
    /// The software that acts.
    Agent,
    /// For whom it acts.
    OnBehalfOf,
    /// Its roles.
    Roles,
    /// Its groups.
    Groups,
    /// Its scopes.
    Scopes,
}

impl CallerFact {
    /// What the fields of callers begin with; no client's field that does goes up.
    pub const HEADER_PREFIX: &'static str = "x-portunus-";

    /// All of them, by the names of a document.
    pub const NAMES: [(&'static str, CallerFact); 7] = [
        ("subject", CallerFact::Subject),
        ("tenant", CallerFact::Tenant),
        ("agent", CallerFact::Agent),
        ("on_behalf_of", CallerFact::OnBehalfOf),
        ("roles", CallerFact::Roles),
        ("groups", CallerFact::Groups),
        ("scopes", CallerFact::Scopes),
    ];

    /// The field that says it.
    pub fn header(self) -> HeaderName {
        HeaderName::from_static(match self {
            CallerFact::Subject => "x-portunus-subject",
            CallerFact::Tenant => "x-portunus-tenant",
            CallerFact::Agent => "x-portunus-agent",
            CallerFact::OnBehalfOf => "x-portunus-on-behalf-of",
            CallerFact::Roles => "x-portunus-roles",
            CallerFact::Groups => "x-portunus-groups",
            CallerFact::Scopes => "x-portunus-scopes",
        })
    }
}

/// How an upstream is given a token about the caller.
#[derive(Clone, PartialEq, Eq)]
pub struct AssertionRules {
    /// The first signs; all are published.
    pub keys: Vec<Arc<SigningKey>>,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
    /// The field that holds it; in `authorization` it is a bearer token.
    pub header: HeaderName,
    /// Where the keys were read from, for people.
    pub sources: Vec<Reference>,
}

impl AssertionRules {
    /// The field of a document that names none.
    pub const HEADER: HeaderName = HeaderName::from_static("x-portunus-assertion");
    /// `lifetime` of a document that says nothing.
    pub const LIFETIME: Duration = Duration::from_secs(300);
    /// Most keys at once.
    pub const MAX_KEYS: usize = 4;
}

/// The keys by their public halves.
impl fmt::Debug for AssertionRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssertionRules")
            .field("keys", &self.keys)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("lifetime", &self.lifetime)
            .field("header", &self.header)
            .finish()
    }
}
