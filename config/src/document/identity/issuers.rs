//! `jwt` and `introspection`: who issues tokens, and which claims say what.

use std::path::PathBuf;
use std::time::Duration;

use portunus_filters::identity::Algorithm;

use super::{listed, texts};
use crate::diagnostic::{Located, Place};
use crate::document::UpstreamDocument;
use crate::document::credentials::credentials;
use crate::document::secrets::reference;
use crate::document::tls;
use crate::document::{replicas, upstreams};
use crate::limits::{ANY_DURATION, POSITIVE_DURATION};
use crate::reader::{Section, Value};
use crate::reference::Reference;
use portunus_base::UpstreamUrl;

/// An issuer of signed tokens.
#[derive(Clone, Debug)]
pub struct IssuerDocument {
    /// Where it is written.
    pub place: Place,
    /// `issuer`; `None` if it could not be read.
    pub issuer: Option<Located<String>>,
    /// `audience`; none for the resource of each server.
    pub audiences: Vec<Located<String>>,
    /// `jwks`; `None` for what the issuer's own metadata says.
    pub keys: Option<KeysDocument>,
    /// `jwks.max_stale`.
    pub max_stale: Option<Duration>,
    /// `algorithms`.
    pub algorithms: Option<Vec<Located<Algorithm>>>,
    /// `types`.
    pub types: Option<Vec<Located<String>>>,
    /// `clock_skew`.
    pub clock_skew: Option<Duration>,
    /// `max_lifetime`.
    pub max_lifetime: Option<Duration>,
    /// `refresh`.
    pub refresh: Option<Duration>,
    /// Which claims say what.
    pub mapping: MappingDocument,
    /// How its keys are fetched: an upstream without a place.
    pub endpoint: UpstreamDocument,
}

/// `jwks`.
#[derive(Clone, Debug)]
pub enum KeysDocument {
    /// A URL.
    Url(Located<UpstreamUrl>),
    /// A file.
    File(Located<PathBuf>),
}

/// An issuer that is asked about its tokens (RFC 7662).
#[derive(Clone, Debug)]
pub struct IntrospectionDocument {
    /// Where it is written.
    pub place: Place,
    /// `issuer`; `None` if it could not be read.
    pub issuer: Option<Located<String>>,
    /// `audience`; none for the resource of each server.
    pub audiences: Vec<Located<String>>,
    /// `client`.
    pub client: Option<ClientDocument>,
    /// `cache`.
    pub cache: Option<Duration>,
    /// `clock_skew`.
    pub clock_skew: Option<Duration>,
    /// Which claims say what.
    pub mapping: MappingDocument,
    /// Where it is asked, and how: `url`, `credentials` and the like.
    pub endpoint: UpstreamDocument,
}

/// `client`: as whom the gateway asks.
#[derive(Clone, Debug)]
pub struct ClientDocument {
    /// `id`.
    pub id: Located<String>,
    /// `secret`.
    pub secret: Located<Reference>,
}

/// Which claims say what.
#[derive(Clone, Debug, Default)]
pub struct MappingDocument {
    /// `tenant`.
    pub tenant: Option<NamingDocument>,
    /// `subject`.
    pub subject: Option<Located<String>>,
    /// `agent`.
    pub agent: Option<Vec<Located<String>>>,
    /// `roles`.
    pub roles: Option<Vec<Located<String>>>,
    /// `groups`.
    pub groups: Option<Vec<Located<String>>>,
    /// `scopes`.
    pub scopes: Option<Vec<Located<String>>>,
    /// `claims`: names with the claims that they stand for.
    pub claims: Vec<(Located<String>, Located<String>)>,
}

/// What names a tenant.
#[derive(Clone, Debug)]
pub enum NamingDocument {
    /// A text.
    Fixed(Located<String>),
    /// `{claim: PATH}`.
    Claim(Located<String>),
}

pub(super) fn jwt(value: &Value<'_>) -> Vec<IssuerDocument> {
    value.items_or_one().iter().filter_map(|item| item.section(issuer)).collect()
}

pub(super) fn introspection(value: &Value<'_>) -> Vec<IntrospectionDocument> {
    value.items_or_one().iter().filter_map(|item| item.section(asked)).collect()
}

const ISSUER: &str = "write `issuer: \"https://idp.example.com\"`, exactly as its tokens have it in `iss`";

fn issuer(section: &mut Section<'_>) -> IssuerDocument {
    let algorithms: Vec<(&str, Algorithm)> = Algorithm::ALL.map(|one| (one.as_str(), one)).to_vec();
    let algorithm =
        |item: &Value<'_>| Some(Located { value: item.one_of(&algorithms)?, place: item.place() });
    let (keys, max_stale) = section.value("jwks").map(|value| jwks(&value)).unwrap_or_default();
    IssuerDocument {
        place: section.place().clone(),
        issuer: section.required("issuer", ISSUER).and_then(|value| value.text()),
        audiences: texts(section, "audience"),
        keys,
        max_stale,
        algorithms: section
            .value("algorithms")
            .map(|value| value.items_or_one().iter().filter_map(algorithm).collect()),
        types: section.value("types").map(|value| listed(&value)),
        clock_skew: section.value("clock_skew").and_then(|value| value.duration(ANY_DURATION)),
        max_lifetime: section.value("max_lifetime").and_then(|value| value.duration(POSITIVE_DURATION)),
        refresh: section.value("refresh").and_then(|value| value.duration(POSITIVE_DURATION)),
        mapping: mapping(section),
        endpoint: endpoint(section),
    }
}

fn asked(section: &mut Section<'_>) -> IntrospectionDocument {
    let url = section.required("url", "write `url: \"https://idp.example.com/introspect\"`");
    let url = url.and_then(|value| replicas::url(&value));
    let own = section.value("credentials").and_then(|value| credentials(&value)).unwrap_or_default();
    section.exclusive("client", "credentials");
    IntrospectionDocument {
        place: section.place().clone(),
        issuer: section.required("issuer", ISSUER).and_then(|value| value.text()),
        audiences: texts(section, "audience"),
        client: section.value("client").and_then(|value| client(&value)),
        cache: section.value("cache").and_then(|value| value.duration(ANY_DURATION)),
        clock_skew: section.value("clock_skew").and_then(|value| value.duration(ANY_DURATION)),
        mapping: mapping(section),
        endpoint: UpstreamDocument { url, credentials: own, ..endpoint(section) },
    }
}

/// How something is fetched: the settings of an upstream that matter for it.
fn endpoint(section: &mut Section<'_>) -> UpstreamDocument {
    let name = Located { value: "identity".to_owned(), place: section.place().clone() };
    let timeout = section.value("timeout").and_then(|value| value.duration(POSITIVE_DURATION));
    UpstreamDocument {
        addresses: section.value("addresses").map(|value| upstreams::addresses(&value)).unwrap_or_default(),
        tls: section.value("tls").and_then(|value| tls::upstream(&value)),
        timeouts: upstreams::gateway_request_timeouts(timeout),
        ..upstreams::blank(name)
    }
}

/// Where keys are, and how old they may be when they cannot be fetched.
fn jwks(value: &Value<'_>) -> (Option<KeysDocument>, Option<Duration>) {
    if !value.is_mapping() {
        return (keys(value), None);
    }
    let both = |section: &mut Section<'_>| {
        let at = section.value("url").and_then(|value| keys(&value));
        (at, section.value("max_stale").and_then(|value| value.duration(ANY_DURATION)))
    };
    value.section(both).unwrap_or_default()
}

/// A URL, or the path of a file.
fn keys(value: &Value<'_>) -> Option<KeysDocument> {
    let text = value.text()?;
    let scheme = text.value.get(..8).unwrap_or(&text.value).to_ascii_lowercase();
    match scheme.starts_with("http://") || scheme.starts_with("https://") {
        true => replicas::url(value).map(KeysDocument::Url),
        false => Some(KeysDocument::File(Located { value: PathBuf::from(text.value), place: text.place })),
    }
}

fn client(value: &Value<'_>) -> Option<ClientDocument> {
    value.section(|section| {
        let id = section.required("id", "write `id: NAME`").and_then(|value| value.text());
        let secret = section.required("secret", Reference::FORMS).and_then(|value| reference(&value));
        Some(ClientDocument { id: id?, secret: secret? })
    })?
}

fn mapping(section: &mut Section<'_>) -> MappingDocument {
    let mut list = |key| section.value(key).map(|value| listed(&value));
    MappingDocument {
        agent: list("agent"),
        roles: list("roles"),
        groups: list("groups"),
        scopes: list("scopes"),
        tenant: section.value("tenant").and_then(|value| naming(&value)),
        subject: section.value("subject").and_then(|value| value.text()),
        claims: section.value("claims").map(|value| attributes(&value)).unwrap_or_default(),
    }
}

fn naming(value: &Value<'_>) -> Option<NamingDocument> {
    if !value.is_mapping() {
        return value.text().map(NamingDocument::Fixed);
    }
    let claim = |section: &mut Section<'_>| {
        section.required("claim", "write `claim: NAME`").and_then(|value| value.text())
    };
    value.section(claim)?.map(NamingDocument::Claim)
}

/// `[region]`, or `{region: address.region}`.
fn attributes(value: &Value<'_>) -> Vec<(Located<String>, Located<String>)> {
    if !value.is_mapping() {
        return listed(value).into_iter().map(|name| (name.clone(), name)).collect();
    }
    value.entries().into_iter().filter_map(|(name, value)| Some((name, value.text()?))).collect()
}
