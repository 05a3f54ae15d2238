//! `identity`, as a document would write it.

use portunus_filters::identity::{Algorithm, ClaimPath, ClaimRules, Issuer, Naming, Revoked};
use serde_json::{Map, Value, json};

use super::api_keys::api_keys;
use super::upstreams::credentials;
use super::{duration, unless_empty, upstream_tls};
use crate::identity::{Asked, ClientNames, Identities, Inspection, KeySource, Profile, Trust};
use crate::upstream::Upstream;

pub(super) fn identities(identities: &Identities) -> Value {
    let mtls = identities.certificates.as_ref().map(|names| {
        let rules = &names.rules;
        json!({
            "trust_domains": trust_domains(names),
            "dns": unless_empty(texts(&rules.dns)),
            "tenant": rules.tenant.as_deref(),
            "roles": texts(&rules.roles),
            "token_caller": names.token_caller.as_str(),
        })
    });
    let metadata = &identities.metadata;
    let mut shown = asked(&identities.asked);
    shown.extend(members(json!({
        "url": identities.url.as_deref(),
        "jwt": (!identities.trusts.is_empty())
            .then(|| identities.trusts.iter().map(|one| trust(one)).collect::<Vec<_>>()),
        "introspection": (!identities.inspections.is_empty())
            .then(|| identities.inspections.iter().map(|one| inspection(one)).collect::<Vec<_>>()),
        "mtls": mtls,
        "keys": identities.keys.as_ref().map(|keys| api_keys(keys)),
        "revoked": revoked(&identities.revoked),
        "metadata": {
            "authorization_servers": unless_empty(texts(&metadata.authorization_servers)),
            "scopes": texts(&metadata.scopes),
            "documentation": metadata.documentation.as_deref(),
            "client": metadata.client.as_deref(),
        },
    })));
    Value::Object(shown)
}

/// As a list, or with the files of those that sign for each.
fn trust_domains(names: &ClientNames) -> Option<Value> {
    if names.signers.is_empty() {
        return unless_empty(texts(&names.rules.trust_domains)).map(|domains| json!(domains));
    }
    let bound = names
        .signers
        .iter()
        .map(|(domain, (file, _))| (domain.to_string(), json!(file.display().to_string())));
    Some(Value::Object(bound.collect()))
}

/// `identity` of a server; what it asks is written out.
pub(super) fn profile(profile: &Profile) -> Value {
    let mut shown = asked(&profile.asked);
    shown.extend(members(json!({
        "resource": profile.written.resource.as_deref(),
        "audience": unless_empty(texts(&profile.written.audiences)),
        "issuers": profile.written.issuers.as_deref().map(texts),
    })));
    Value::Object(shown)
}

fn asked(asked: &Asked) -> Map<String, Value> {
    let anonymous = asked.anonymous.as_ref().map_or(json!("off"), |stranger| {
        json!({
            "tenant": &*stranger.tenant,
            "roles": texts(&stranger.roles),
            "scopes": texts(&stranger.scopes),
        })
    });
    members(json!({
        "require": asked.require.iter().map(|shows| shows.as_str()).collect::<Vec<_>>(),
        "anonymous": anonymous,
        "scopes": texts(&asked.scopes),
    }))
}

fn trust(trust: &Trust) -> Value {
    let issuer = &trust.issuer;
    let kind = |kind: &String| if kind.is_empty() { "none".to_owned() } else { kind.clone() };
    let max_stale = duration(trust.max_stale);
    let (jwks, at) = match &trust.keys {
        KeySource::File { path, .. } => (json!(path.display().to_string()), None),
        KeySource::Url(at) => (json!({ "url": at.url.redacted(), "max_stale": max_stale }), Some(at)),
        KeySource::Discovered(at) => (json!({ "max_stale": max_stale }), Some(at)),
    };
    let mut shown = rules(&issuer.rules);
    shown.extend(at.map(|at| endpoint(at)).unwrap_or_default());
    shown.extend(members(json!({
        "issuer": &*issuer.name,
        "audience": unless_empty(texts(&trust.audiences)),
        "jwks": jwks,
        "algorithms": issuer.algorithms.iter().copied().map(Algorithm::as_str).collect::<Vec<_>>(),
        "types": issuer.types.iter().map(kind).collect::<Vec<_>>(),
        "clock_skew": duration(issuer.clock_skew),
        "max_lifetime": issuer.max_lifetime.map(duration),
        "refresh": duration(trust.refresh),
    })));
    Value::Object(shown)
}

fn inspection(inspection: &Inspection) -> Value {
    let Issuer { name, clock_skew, rules: claims, .. } = &inspection.issuer;
    let client = inspection.client.as_ref();
    let mut shown = rules(claims);
    shown.extend(endpoint(&inspection.at));
    shown.extend(members(json!({
        "url": inspection.at.url.redacted(),
        "issuer": &**name,
        "audience": unless_empty(texts(&inspection.audiences)),
        "client": client.map(|(id, secret)| json!({ "id": &**id, "secret": secret.to_string() })),
        "credentials": client.is_none().then(|| credentials(&inspection.at.credentials)),
        "cache": duration(inspection.cache),
        "clock_skew": duration(*clock_skew),
    })));
    Value::Object(shown)
}

fn endpoint(at: &Upstream) -> Map<String, Value> {
    members(json!({
        "timeout": duration(at.timeouts.connect),
        "addresses": at.addresses.names(),
        "tls": at.tls.as_ref().map(upstream_tls),
    }))
}

fn rules(rules: &ClaimRules) -> Map<String, Value> {
    let paths = |paths: &[ClaimPath]| paths.iter().map(|path| path.as_str().to_owned()).collect::<Vec<_>>();
    let attributes = rules.attributes.iter().map(|(name, path)| (name.to_string(), json!(path.as_str())));
    members(json!({
        "tenant": match &rules.tenant {
            Naming::Fixed(name) => json!(&**name),
            Naming::Claim(path) => json!({ "claim": path.as_str() }),
        },
        "subject": match &rules.subject {
            Naming::Claim(path) => Some(path.as_str()),
            Naming::Fixed(_) => None,
        },
        "agent": paths(&rules.agent),
        "roles": paths(&rules.roles),
        "groups": paths(&rules.groups),
        "scopes": paths(&rules.scopes),
        "claims": attributes.collect::<Value>(),
    }))
}

fn revoked(revoked: &Revoked) -> Value {
    let subjects = revoked.subjects.iter().flat_map(|(subject, tenants)| {
        let anywhere = tenants.is_empty().then(|| json!(&**subject));
        let within = tenants.iter().map(|tenant| json!({ "tenant": &**tenant, "subject": &**subject }));
        anywhere.into_iter().chain(within)
    });
    let hex = |bytes: &[u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "subjects": subjects.collect::<Vec<_>>(),
        "tokens": revoked.tokens.iter().map(|id| id.to_string()).collect::<Vec<_>>(),
        "keys": revoked.keys.iter().map(|id| id.to_string()).collect::<Vec<_>>(),
        "certificates": revoked.certificates.iter().map(hex).collect::<Vec<_>>(),
    })
}

fn texts(texts: &[std::sync::Arc<str>]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
