//! What endpoints are to clients that look for authorization (RFC 9728).

use std::sync::Arc;

use serde_json::json;

use crate::diagnostic::{Findings, Located};
use crate::document::MetadataDocument;
use crate::identity::{Asked, Identities, Inspection, Metadata, Resource, Trust, Written};
use portunus_base::UpstreamUrl;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A URL that clients know the gateway or a server by: without a query, a fragment or a slash at its
/// end (MCP 2026-07-28, basic/authorization, "Canonical Server URI").
pub(super) fn public_url(url: &Located<String>, findings: &Findings) -> Option<Arc<str>> {
    let parsed = UpstreamUrl::parse(&url.value).ok();
    let parsed = parsed.filter(|parsed| !parsed.path.contains('?'));
    let Some(parsed) = parsed else {
        let hint = "write where clients reach it: `https://gw.example.com`, with a path if it has one";
        findings.error(&url.place, "this is no URL that clients could use as a name", hint);
        return None;
    };
    let authority = parsed.authority.to_ascii_lowercase();
    Some(format!("{}://{authority}{}", parsed.scheme, parsed.path.trim_end_matches('/')).into())
}

/// The identifier of the server at `path`: its own, what follows from the gateway's, or the one
/// audience that ends in its path.
pub(super) fn uri(identities: &Identities, written: &Written, path: &str) -> Option<Arc<str>> {
    if let Some(own) = &written.resource {
        return Some(Arc::clone(own));
    }
    if let Some(url) = &identities.url {
        return Some(format!("{url}{}", path.trim_end_matches('/')).into());
    }
    let of_issuers = identities.trusts.iter().flat_map(|trust| trust.audiences.iter());
    let of_asked = identities.inspections.iter().flat_map(|one| one.audiences.iter());
    let mut fitting = written.audiences.iter().chain(of_issuers).chain(of_asked).filter(|audience| {
        UpstreamUrl::parse(audience)
            .is_ok_and(|url| url.path.trim_end_matches('/') == path.trim_end_matches('/'))
    });
    fitting.next().cloned()
}

pub(super) fn metadata(document: &MetadataDocument, findings: &Findings) -> Metadata {
    for url in document.authorization_servers.iter().chain(&document.documentation) {
        if UpstreamUrl::parse(&url.value).is_err() {
            findings.error(&url.place, "this is no URL", "write `https://idp.example.com`");
        }
    }
    let texts = |texts: &[Located<String>]| texts.iter().map(|text| text.value.as_str().into()).collect();
    Metadata {
        authorization_servers: texts(&document.authorization_servers),
        scopes: texts(&document.scopes),
        documentation: document.documentation.as_ref().map(|url| url.value.as_str().into()),
        client: document.client.as_ref().map(|client| client.value.as_str().into()),
    }
}

/// The resource at `uri`, with its metadata.
pub(super) fn resource(
    identities: &Identities,
    trusts: &[(Arc<Trust>, Arc<[Arc<str>]>)],
    inspections: &[(Arc<Inspection>, Arc<[Arc<str>]>)],
    asked: &Asked,
    uri: Arc<str>,
) -> Resource {
    let issuers = trusts.iter().map(|(trust, _)| &trust.issuer.name);
    let issuers: Vec<&Arc<str>> =
        issuers.chain(inspections.iter().map(|(one, _)| &one.issuer.name)).collect();
    let metadata = &identities.metadata;
    // A provider that registers no clients is presented under the resource's own name.
    let client = metadata.client.clone().zip(issuers.first().map(|issuer| Arc::clone(issuer)));
    let servers: Vec<&str> = match (&client, metadata.authorization_servers.is_empty()) {
        (Some(_), _) => vec![&*uri],
        (None, false) => metadata.authorization_servers.iter().map(|server| &**server).collect(),
        (None, true) => issuers.into_iter().map(|issuer| &**issuer).collect(),
    };
    let mut scopes: Vec<&str> = asked.scopes.iter().chain(&metadata.scopes).map(|scope| &**scope).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let mut document = json!({
        "resource": &*uri,
        "authorization_servers": servers,
        "bearer_methods_supported": ["header"],
    });
    if !scopes.is_empty() {
        document["scopes_supported"] = json!(scopes);
    }
    if let Some(documentation) = &metadata.documentation {
        document["resource_documentation"] = json!(&**documentation);
    }
    if identities.certificates.is_some() {
        document["tls_client_certificate_bound_access_tokens"] = json!(true);
    }
    let metadata_url = metadata_url(&uri).into();
    Resource { metadata: document.to_string().into(), metadata_url, uri, client }
}

/// RFC 9728 §3.1: the well-known path stands between the host and the path of the resource.
fn metadata_url(uri: &str) -> String {
    let host = uri.find("://").map_or(0, |scheme| scheme + 3);
    let path = uri[host..].find('/').map_or(uri.len(), |path| host + path);
    format!("{}{WELL_KNOWN}{}", &uri[..path], &uri[path..])
}
