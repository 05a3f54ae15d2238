//! `identity`: whom the gateway believes to be who they say, and what is asked of callers.

mod issuers;

pub use issuers::{
    ClientDocument, IntrospectionDocument, IssuerDocument, KeysDocument, MappingDocument, NamingDocument,
};

use std::path::PathBuf;

use super::api_keys::{self, ApiKeysDocument};
use super::tls;
use crate::diagnostic::{Located, Place};
use crate::identity::{Shows, TokenCaller};
use crate::reader::{Section, Value};

/// `identity`.
#[derive(Clone, Debug)]
pub struct IdentityDocument {
    /// Where it is written.
    pub place: Place,
    /// `url`.
    pub url: Option<Located<String>>,
    /// `jwt`.
    pub jwt: Vec<IssuerDocument>,
    /// `introspection`.
    pub introspection: Vec<IntrospectionDocument>,
    /// `mtls`.
    pub mtls: Option<MtlsDocument>,
    /// `keys`.
    pub keys: Option<ApiKeysDocument>,
    /// `revoked`.
    pub revoked: RevokedDocument,
    /// `metadata`.
    pub metadata: MetadataDocument,
    /// What is asked of callers, unless a server says otherwise.
    pub asked: AskedDocument,
}

/// What an endpoint asks of its callers.
#[derive(Clone, Debug, Default)]
pub struct AskedDocument {
    /// `require`.
    pub require: Option<Vec<Located<Shows>>>,
    /// `anonymous`; `Some(None)` for `off`.
    pub anonymous: Option<Option<AnonymousDocument>>,
    /// `scopes`.
    pub scopes: Option<Vec<Located<String>>>,
}

/// `identity` of a server.
#[derive(Clone, Debug)]
pub struct ServerIdentityDocument {
    /// Where it is written.
    pub place: Place,
    /// `resource`.
    pub resource: Option<Located<String>>,
    /// `audience`; none for those of the issuers.
    pub audiences: Vec<Located<String>>,
    /// `issuers`; `None` for all.
    pub issuers: Option<Vec<Located<String>>>,
    /// What is asked of its callers.
    pub asked: AskedDocument,
}

/// `anonymous`.
#[derive(Clone, Debug, Default)]
pub struct AnonymousDocument {
    /// `tenant`.
    pub tenant: Option<Located<String>>,
    /// `roles`.
    pub roles: Vec<Located<String>>,
    /// `scopes`.
    pub scopes: Vec<Located<String>>,
}

/// `mtls`.
#[derive(Clone, Debug)]
pub struct MtlsDocument {
    /// Where it is written.
    pub place: Place,
    /// `trust_domains`, each with the file of the authorities that sign for it, if it has its own.
    pub trust_domains: Vec<(Located<String>, Option<Located<PathBuf>>)>,
    /// `dns`.
    pub dns: Vec<Located<String>>,
    /// `tenant`.
    pub tenant: Option<Located<String>>,
    /// `roles`.
    pub roles: Vec<Located<String>>,
    /// `token_caller`.
    pub token_caller: TokenCaller,
}

/// `revoked`.
#[derive(Clone, Debug, Default)]
pub struct RevokedDocument {
    /// `subjects`, with the tenant of those that name one.
    pub subjects: Vec<(Option<Located<String>>, Located<String>)>,
    /// `tokens`.
    pub tokens: Vec<Located<String>>,
    /// `keys`.
    pub keys: Vec<Located<String>>,
    /// `certificates`.
    pub certificates: Vec<Located<String>>,
}

/// `metadata`.
#[derive(Clone, Debug, Default)]
pub struct MetadataDocument {
    /// `authorization_servers`.
    pub authorization_servers: Vec<Located<String>>,
    /// `scopes`.
    pub scopes: Vec<Located<String>>,
    /// `documentation`.
    pub documentation: Option<Located<String>>,
    /// `client`.
    pub client: Option<Located<String>>,
}

/// `identity` at the top.
pub(super) fn read(section: &mut Section<'_>) -> Option<IdentityDocument> {
    section.value("identity")?.section(|section| IdentityDocument {
        place: section.place().clone(),
        url: section.value("url").and_then(|value| value.text()),
        jwt: section.value("jwt").map(|value| issuers::jwt(&value)).unwrap_or_default(),
        introspection: section
            .value("introspection")
            .map(|value| issuers::introspection(&value))
            .unwrap_or_default(),
        mtls: section.value("mtls").and_then(|value| mtls(&value)),
        keys: section.value("keys").and_then(|value| api_keys::keys(&value)),
        revoked: section.value("revoked").and_then(|value| revoked(&value)).unwrap_or_default(),
        metadata: section.value("metadata").and_then(|value| metadata(&value)).unwrap_or_default(),
        asked: asked(section),
    })
}

/// `identity` of a server.
pub(super) fn of_server(section: &mut Section<'_>) -> Option<ServerIdentityDocument> {
    section.value("identity")?.section(|section| ServerIdentityDocument {
        place: section.place().clone(),
        resource: section.value("resource").and_then(|value| value.text()),
        audiences: texts(section, "audience"),
        issuers: section.value("issuers").map(|value| listed(&value)),
        asked: asked(section),
    })
}

fn asked(section: &mut Section<'_>) -> AskedDocument {
    let shows =
        |value: &Value<'_>| Some(Located { value: value.one_of(&Shows::NAMES)?, place: value.place() });
    AskedDocument {
        require: section
            .value("require")
            .map(|value| value.items_or_one().iter().filter_map(shows).collect()),
        anonymous: section.value("anonymous").and_then(|value| anonymous(&value)),
        scopes: section.value("scopes").map(|value| listed(&value)),
    }
}

/// `off`, or whom strangers are taken for.
fn anonymous(value: &Value<'_>) -> Option<Option<AnonymousDocument>> {
    if !value.is_mapping() {
        let words = [("off", false), ("allow", true)];
        return value.one_of(&words).map(|allowed| allowed.then(AnonymousDocument::default));
    }
    let long = |section: &mut Section<'_>| AnonymousDocument {
        tenant: section.value("tenant").and_then(|value| value.text()),
        roles: texts(section, "roles"),
        scopes: texts(section, "scopes"),
    };
    value.section(long).map(Some)
}

fn mtls(value: &Value<'_>) -> Option<MtlsDocument> {
    value.section(|section| MtlsDocument {
        place: section.place().clone(),
        trust_domains: section.value("trust_domains").map(|value| trust_domains(&value)).unwrap_or_default(),
        dns: texts(section, "dns"),
        tenant: section.value("tenant").and_then(|value| value.text()),
        roles: texts(section, "roles"),
        token_caller: section
            .value("token_caller")
            .and_then(|value| value.one_of(&TokenCaller::NAMES))
            .unwrap_or_default(),
    })
}

/// `[example.org]`, or `{example.org: tls/example.pem}`.
fn trust_domains(value: &Value<'_>) -> Vec<(Located<String>, Option<Located<PathBuf>>)> {
    if !value.is_mapping() {
        return listed(value).into_iter().map(|domain| (domain, None)).collect();
    }
    let bound = |(domain, file): (Located<String>, Value<'_>)| Some((domain, Some(tls::path(&file)?)));
    value.entries().into_iter().filter_map(bound).collect()
}

fn revoked(value: &Value<'_>) -> Option<RevokedDocument> {
    value.section(|section| RevokedDocument {
        subjects: section
            .value("subjects")
            .map(|value| value.items_or_one().iter().filter_map(subject).collect())
            .unwrap_or_default(),
        tokens: texts(section, "tokens"),
        keys: texts(section, "keys"),
        certificates: texts(section, "certificates"),
    })
}

/// `anna`, or `{tenant: acme, subject: anna}`.
fn subject(value: &Value<'_>) -> Option<(Option<Located<String>>, Located<String>)> {
    if !value.is_mapping() {
        return Some((None, value.text()?));
    }
    value.section(|section| {
        let tenant = section.required("tenant", "write `tenant: NAME`, or the subject alone for any tenant");
        let subject = section.required("subject", "write `subject: NAME`");
        Some((tenant.and_then(|value| value.text()), subject.and_then(|value| value.text())?))
    })?
}

fn metadata(value: &Value<'_>) -> Option<MetadataDocument> {
    value.section(|section| MetadataDocument {
        authorization_servers: texts(section, "authorization_servers"),
        scopes: texts(section, "scopes"),
        documentation: section.value("documentation").and_then(|value| value.text()),
        client: section.value("client").and_then(|value| value.text()),
    })
}

/// The texts of a key: one, or a list of them.
fn texts(section: &mut Section<'_>, key: &'static str) -> Vec<Located<String>> {
    section.value(key).map(|value| listed(&value)).unwrap_or_default()
}

fn listed(value: &Value<'_>) -> Vec<Located<String>> {
    value.items_or_one().iter().filter_map(Value::text).collect()
}
