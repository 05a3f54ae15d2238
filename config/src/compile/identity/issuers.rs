//! Issuers: what verifying needs of them, and where their keys and answers are.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use portunus_filters::identity::{Algorithm, ClaimPath, ClaimRules, Issuer, KeySet, Naming, media_type};

use super::{CACHE, Context, REFRESH, name};
use crate::compile::upstreams;
use crate::diagnostic::{Findings, Located};
use crate::document::{
    ClientDocument, IdentityDocument, IntrospectionDocument, IssuerDocument, KeysDocument, MappingDocument,
    NamingDocument, UpstreamDocument,
};
use crate::identity::{Inspection, KeySource, Trust, TrustId};
use crate::reference::Reference;
use crate::tls::Problem;
use crate::upstream::{Credentials, Upstream};
use portunus_base::{Scheme, UpstreamUrl};

/// How old keys of an earlier process may be.
const MAX_STALE: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn trust(document: &IssuerDocument, context: &Context<'_>) -> Option<Trust> {
    let findings = context.findings();
    let issuer = issuer(document, findings);
    let keys = source(document, context);
    let (issuer, keys) = (issuer?, keys?);
    let audiences = audiences(&document.audiences);
    let from: (&dyn std::fmt::Debug, &dyn std::fmt::Debug) = match &keys {
        KeySource::File { keys, .. } => (&"file", keys),
        KeySource::Url(at) => (&"url", &at.key),
        KeySource::Discovered(at) => (&"discovered", &at.key),
    };
    let id = TrustId::of(&(&issuer, from));
    Some(Trust {
        id,
        issuer,
        audiences,
        keys,
        refresh: document.refresh.unwrap_or(REFRESH),
        max_stale: document.max_stale.unwrap_or(MAX_STALE),
    })
}

pub(super) fn inspection(document: &IntrospectionDocument, context: &Context<'_>) -> Option<Inspection> {
    let findings = context.findings();
    let named = document.issuer.as_ref();
    let issuer = named.and_then(|named| {
        Some(Issuer {
            name: named.value.as_str().into(),
            algorithms: vec![],
            types: vec![],
            clock_skew: document.clock_skew.unwrap_or(Issuer::DEFAULT_CLOCK_SKEW),
            max_lifetime: None,
            rules: rules(&document.mapping, named, findings)?,
        })
    });
    let at = endpoint(&document.endpoint, context);
    let client = document.client.as_ref();
    let credentials = client.map(|client| basic(client, &document.endpoint, context));
    let (issuer, mut at) = (issuer?, at?);
    match credentials {
        Some(credentials) => at.credentials = credentials?,
        None if at.credentials == Credentials::None => {
            let hint = "write `client: {id: NAME, secret: \"env:SECRET\"}`, or `credentials`";
            findings.error(&document.place, "the issuer is not told who asks", hint);
        }
        None => {}
    }
    let client = client.map(|client| (client.id.value.as_str().into(), client.secret.value.clone()));
    let client = client.map(|(id, secret): (Arc<str>, Reference)| (id, context.keyring.followed(&secret)));
    Some(Inspection {
        id: TrustId::of(&(&issuer, &at.key)),
        issuer,
        audiences: audiences(&document.audiences),
        at: Arc::new(at),
        client,
        cache: document.cache.unwrap_or(CACHE),
    })
}

/// Two issuers of one name could not be told apart by their tokens.
pub(super) fn check_unique(document: &IdentityDocument, findings: &Findings) {
    let signed = document.jwt.iter().filter_map(|one| one.issuer.as_ref());
    let asked = document.introspection.iter().filter_map(|one| one.issuer.as_ref());
    let mut seen: Vec<&str> = Vec::new();
    for issuer in signed.chain(asked) {
        if seen.contains(&issuer.value.as_str()) {
            let problem = format!("the issuer `{}` is written twice", issuer.value);
            findings.error(&issuer.place, problem, "keep one of them, with all its audiences");
        }
        seen.push(&issuer.value);
    }
}

fn issuer(document: &IssuerDocument, findings: &Findings) -> Option<Issuer> {
    let named = document.issuer.as_ref()?;
    let algorithms = match &document.algorithms {
        None => Algorithm::DEFAULT.to_vec(),
        Some(written) => {
            if written.is_empty() {
                findings.error(&document.place, "no algorithm is taken", "name one, or remove `algorithms`");
            }
            written.iter().map(|algorithm| algorithm.value).collect()
        }
    };
    let types = match &document.types {
        None => Issuer::DEFAULT_TYPES.map(str::to_owned).to_vec(),
        // A list cannot hold an empty text, so that what has no type has a word.
        Some(written) => written
            .iter()
            .map(|kind| match kind.value.as_str() {
                "none" => String::new(),
                kind => media_type(kind),
            })
            .collect(),
    };
    Some(Issuer {
        name: named.value.as_str().into(),
        algorithms,
        types,
        clock_skew: document.clock_skew.unwrap_or(Issuer::DEFAULT_CLOCK_SKEW),
        max_lifetime: document.max_lifetime,
        rules: rules(&document.mapping, named, findings)?,
    })
}

fn source(document: &IssuerDocument, context: &Context<'_>) -> Option<KeySource> {
    let at = |url: Located<UpstreamUrl>| {
        endpoint(&UpstreamDocument { url: Some(url), ..document.endpoint.clone() }, context).map(Arc::new)
    };
    match &document.keys {
        Some(KeysDocument::File(path)) => {
            let keys = context.files.parsed(path, key_set)?;
            Some(KeySource::File {
                path: context.files.seen_from_document(&path.value),
                keys: Arc::new(keys),
            })
        }
        Some(KeysDocument::Url(url)) => at(url.clone()).map(KeySource::Url),
        None => {
            let issuer = document.issuer.as_ref()?;
            match UpstreamUrl::parse(&issuer.value) {
                Ok(url) => at(Located { value: url, place: issuer.place.clone() }).map(KeySource::Discovered),
                Err(_) => {
                    let problem = "this issuer is no URL, so that its keys cannot be found by it";
                    let hint = "write `jwks`: the URL or the file of its keys";
                    context.findings().error(&issuer.place, problem, hint);
                    None
                }
            }
        }
    }
}

fn key_set(text: &str) -> Result<KeySet, Problem> {
    let hint = "it should be a JSON Web Key Set with a public key in it (RFC 7517 §5)";
    match KeySet::read(text.as_bytes()) {
        Ok((keys, _)) => Ok(keys),
        Err(problem) => Err(Problem { problem: format!("cannot be used: {problem}"), hint: hint.to_owned() }),
    }
}

/// Where the gateway asks for something. Keys that come in the clear could be anybody's.
fn endpoint(document: &UpstreamDocument, context: &Context<'_>) -> Option<Upstream> {
    let at = upstreams::upstream(document, context.confinement, context.files, context.keyring)?;
    let place = document.url.as_ref().map_or(&document.name.place, |url| &url.place);
    if at.url.scheme == Scheme::Http && !at.addresses.loopback {
        let problem = "what comes from there in the clear could be anybody's";
        context.findings().error(place, problem, "write `https://`");
        return None;
    }
    Some(at)
}

/// RFC 6749 §2.3.1.
fn basic(client: &ClientDocument, endpoint: &UpstreamDocument, context: &Context<'_>) -> Option<Credentials> {
    let urls: Vec<&UpstreamUrl> = endpoint.url.iter().map(|url| &url.value).collect();
    let secret = context.keyring.secret(&client.secret, &urls)?;
    let value = secret.map(|value| basic_credential(&client.id.value, value));
    Some(Credentials::Header { name: AUTHORIZATION, value })
}

/// The credential `Basic <id:secret>`, both form-encoded (RFC 6749 §2.3.1, RFC 7617).
fn basic_credential(id: &str, secret: &str) -> String {
    let pair = format!("{}:{}", form_encoded(id), form_encoded(secret));
    format!("Basic {}", STANDARD.encode(pair))
}

/// `application/x-www-form-urlencoded` of one value (WHATWG URL §5.2).
fn form_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn audiences(texts: &[Located<String>]) -> Arc<[Arc<str>]> {
    texts.iter().map(|text| Arc::from(text.value.as_str())).collect()
}

fn rules(document: &MappingDocument, issuer: &Located<String>, findings: &Findings) -> Option<ClaimRules> {
    // Two issuers may have the same subject, so that without a word on it they are two tenants.
    let tenant = match &document.tenant {
        None => name(issuer, findings).map(Naming::Fixed),
        Some(NamingDocument::Fixed(text)) => name(text, findings).map(Naming::Fixed),
        Some(NamingDocument::Claim(path)) => claim(path, findings).map(Naming::Claim),
    };
    let usual = ClaimRules::of(tenant?);
    let paths = |written: &Option<Vec<Located<String>>>, usual: Vec<ClaimPath>| match written {
        None => usual,
        Some(written) => written.iter().filter_map(|path| claim(path, findings)).collect(),
    };
    let subject = document.subject.as_ref().map(|path| claim(path, findings).map(Naming::Claim));
    let attributes = document
        .claims
        .iter()
        .filter_map(|(named, path)| Some((name(named, findings)?, claim(path, findings)?)));
    Some(ClaimRules {
        tenant: usual.tenant,
        subject: subject.unwrap_or(Some(usual.subject))?,
        agent: paths(&document.agent, usual.agent),
        roles: paths(&document.roles, usual.roles),
        groups: paths(&document.groups, usual.groups),
        scopes: paths(&document.scopes, usual.scopes),
        attributes: attributes.collect(),
    })
}

fn claim(path: &Located<String>, findings: &Findings) -> Option<ClaimPath> {
    let parsed = ClaimPath::parse(&path.value);
    if parsed.is_none() {
        let hint = "write the name of a claim, or names with dots between them: `realm_access.roles`";
        findings.error(&path.place, format!("`{}` is no path to a claim", path.value), hint);
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_by_id_and_secret() {
        let expected = format!("Basic {}", STANDARD.encode("gate+way:a%3Ab+c%25"));
        assert_eq!(basic_credential("gate way", "a:b c%"), expected);
    }
}
