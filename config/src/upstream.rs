//! An MCP server behind the gateway: where it is and how it is spoken to.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::caller::CallerRules;
use crate::digest::sha256;
use crate::replicas::{Ejection, Health};
use crate::tls::UpstreamTls;
use crate::upstream_mark::UpstreamMark;
use portunus_base::{AddressGrant, HttpVersion, Pool, Secret, Timeouts, UpstreamUrl};

/// One MCP server behind the gateway.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its key in the document; a label in metrics and records.
    pub name: Arc<str>,
    /// Equal keys may share connections, across revisions too.
    pub key: UpstreamKey,
    /// `key` without the URL: what connections to each replica have in common.
    pub(crate) settings_key: UpstreamKey,
    /// The server in what is sealed and kept.
    pub mark: UpstreamMark,
    /// Where it is.
    pub url: UpstreamUrl,
    /// Further places where the same server is, behind the same scheme.
    pub replicas: Vec<UpstreamUrl>,
    /// Probes of its replicas; `None` learns from calls alone.
    pub health: Option<Health>,
    /// When a replica gets no calls for a while.
    pub ejection: Ejection,
    /// How messages travel to it.
    pub transport: Transport,
    /// Whose calls share a legacy session that the gateway holds.
    pub sessions: SessionSharing,
    /// Whether a legacy session that is gone may be made again without its callers knowing: the
    /// server keeps nothing in it.
    pub stateless_ok: bool,
    /// Whether its `cacheScope: public` counts: one caller's answer may be another's.
    pub trust_cache_scope: bool,
    /// What the document says of it: region, trust.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Which protocol era it speaks.
    pub era: EraMode,
    /// How long its answers may take.
    pub timeouts: Timeouts,
    /// How many connections it is given.
    pub pool: Pool,
    /// Changes to the headers that it receives.
    pub headers: HeaderRules,
    /// What the gateway shows it about itself or the client.
    pub credentials: Credentials,
    /// What it is told of who is calling.
    pub caller: CallerRules,
    /// Which `Host` it receives.
    pub host: HostPolicy,
    /// Which resolved addresses may be dialled.
    pub addresses: AddressGrant,
    /// How it is spoken to under `https`; `None` under `http`.
    pub tls: Option<UpstreamTls>,
    /// Which version of HTTP it speaks.
    pub http: HttpVersion,
}

/// Identity of an upstream's connections: a hash over its name, URL, credentials, pool, connect
/// timeout and address grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamKey([u8; 32]);

impl Hash for UpstreamKey {
    /// A part of a digest is as good as all of it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut part = [0; 8];
        part.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_ne_bytes(part));
    }
}

impl UpstreamKey {
    /// `settings` is everything beside the credentials that connections depend on.
    pub(crate) fn of(settings: &impl fmt::Debug, credentials: &Credentials) -> UpstreamKey {
        let credentials = match credentials {
            Credentials::None => "none".to_owned(),
            Credentials::Passthrough => "passthrough".to_owned(),
            Credentials::Header { name, value } => format!("{name} {:?}", sha256(value.expose().as_bytes())),
        };
        // `Debug` quotes texts and names fields, so that no two upstreams can run together.
        UpstreamKey(sha256(format!("{settings:?} {credentials}").as_bytes()))
    }

    /// The key of connections to one place, made from that of the settings.
    pub(crate) fn at(&self, url: &UpstreamUrl) -> UpstreamKey {
        UpstreamKey(sha256(format!("{:?} {url:?}", self.0).as_bytes()))
    }
}

impl fmt::Display for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamKey({self})")
    }
}

/// Which protocol era an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraMode {
    /// Found out by a probe.
    #[default]
    Auto,
    /// Revisions up to 2025-11-25.
    Legacy,
    /// Revision 2026-07-28 and later.
    Modern,
}

impl EraMode {
    /// The mode as written in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            EraMode::Auto => "auto",
            EraMode::Legacy => "legacy",
            EraMode::Modern => "modern",
        }
    }
}

/// Changes to the headers that an upstream receives: `remove` first, then `set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Set to exactly this value; values from secrets are marked sensitive.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Not forwarded.
    pub remove: Vec<HeaderName>,
    /// Where the values that come from secrets were read from, for people.
    pub sources: Vec<(HeaderName, String)>,
}

/// What an upstream is shown as credentials. The client's own are stripped unless they pass through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// A secret in a header field; a bearer token is `authorization` with its scheme.
    Header {
        /// The field.
        name: HeaderName,
        /// Its whole value.
        value: Secret,
    },
    /// The client's own `Authorization`.
    Passthrough,
}

/// Which `Host` an upstream receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// Its own authority.
    #[default]
    Upstream,
    /// The one the client sent.
    Preserve,
}

/// How messages travel to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP: one endpoint, since 2025-03-26.
    #[default]
    Streamable,
    /// HTTP with SSE: a stream that names the endpoint for messages, 2024-11-05. Legacy only.
    HttpSse,
}

/// Whose calls share a legacy session that the gateway holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionSharing {
    /// Those of one caller.
    #[default]
    PerCaller,
    /// Everyone's.
    Shared,
}
