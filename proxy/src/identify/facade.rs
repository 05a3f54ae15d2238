//! A provider that registers no clients, presented with one that is registered there already.
//!
//! Clients of MCP register themselves (RFC 7591). Where the provider has no such endpoint, a resource
//! names itself as the authorization server: its metadata is the provider's own but for the name and
//! the place of registration, and whoever registers gets the one client. Authorization itself, codes
//! and tokens never pass here.

use super::fetch;
use super::keys::metadata_paths;
use crate::frontend::context::Gateway;
use portunus_base::UpstreamUrl;
use portunus_config::{Credentials, KeySource, NormalPath, Profile, Resource, Upstream};
use portunus_filters::mcp::Bounds;
use portunus_filters::mcp::object::{Object, elements};
use portunus_filters::mcp::rewrite::string;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For how long a provider's metadata is kept.
const KEEP: Duration = Duration::from_secs(60);
/// The same of a failure: anybody may ask for metadata, and a provider that is down must not be asked
/// by all of them.
const KEEP_FAILURE: Duration = Duration::from_secs(5);
/// Most issuers that are kept; a configuration with more asks more often.
const MAX_ISSUERS: usize = 256;
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Largest registration that is read.
pub(crate) const MAX_REGISTRATION_BYTES: usize = 16 << 10;
const BOUNDS: Bounds = Bounds { depth: 8, string_bytes: 4 << 10, array_items: 64, object_keys: 64 };

/// Where the metadata of an authorization server is, for one whose name has no path.
const PLACES: [&str; 2] = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

/// Metadata of providers, by the name of the issuer.
#[derive(Default)]
pub(crate) struct Providers(Mutex<HashMap<Arc<str>, Arc<Provider>>>);

/// What a provider said last; who holds it asks, the others wait for what comes of that.
type Provider = tokio::sync::Mutex<Option<Told>>;

struct Told {
    /// In monotonic time.
    until: Duration,
    metadata: Result<Arc<str>, String>,
}

impl Providers {
    fn of(&self, issuer: &Arc<str>) -> Arc<Provider> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_ISSUERS && !all.contains_key(issuer) {
            all.clear();
        }
        Arc::clone(all.entry(Arc::clone(issuer)).or_default())
    }
}

/// The path of the server that a question about its authorization server is about.
pub(crate) fn asked_about(path: &str) -> Option<String> {
    let after = PLACES.iter().find_map(|place| path.strip_prefix(place));
    // OpenID Connect Discovery §4 appends where RFC 8414 §3.1 inserts.
    let rest = after.or_else(|| path.strip_suffix(PLACES[1]))?;
    let path = if rest.is_empty() { "/" } else { rest };
    NormalPath::parse(path).ok().map(|_| path.to_owned())
}

/// The provider's metadata, in the name of the resource.
///
/// # Errors
/// Why there is none, in words for the record.
pub(crate) async fn metadata(
    gateway: &Gateway,
    profile: &Profile,
    resource: &Resource,
) -> Result<String, String> {
    let (_, issuer) = resource.client.as_ref().ok_or("no client is registered")?;
    let own = provider(gateway, profile, issuer).await?;
    let metadata = Object::read(&own).map_err(|_| "its metadata is no JSON object".to_owned())?;
    let place = registration(resource);
    let rewritten = metadata
        .rewrite()
        .set("issuer", string(&resource.uri))
        .set("registration_endpoint", string(&place))
        // The provider signs answers with its own name, which clients would hold against this one.
        .set("authorization_response_iss_parameter_supported", "false")
        .text();
    Ok(rewritten)
}

/// The answer to a client that registers: the one client, with what it asked for (RFC 7591 §3.2.1).
///
/// `None` for what is no registration.
pub(crate) fn registered(resource: &Resource, body: &[u8]) -> Option<String> {
    let (client, _) = resource.client.as_ref()?;
    let text = portunus_filters::mcp::check(body, &BOUNDS).ok()?;
    let asked = Object::read(text).ok()?;
    let redirects =
        asked.get("redirect_uris").filter(|uris| elements(uris).is_ok_and(|all| !all.is_empty()))?;
    Some(format!(
        "{{\"client_id\":{},\"redirect_uris\":{redirects},\"token_endpoint_auth_method\":\"none\",\
         \"grant_types\":[\"authorization_code\",\"refresh_token\"],\"response_types\":[\"code\"]}}",
        string(client)
    ))
}

/// True of a provider that announces `iss` in its authorization responses.
fn announces_issuer(metadata: &str) -> bool {
    let said = Object::read(metadata);
    said.is_ok_and(|said| said.get("authorization_response_iss_parameter_supported") == Some("true"))
}

/// Where clients register: at the metadata itself.
fn registration(resource: &Resource) -> String {
    resource.metadata_url.replacen("oauth-protected-resource", "oauth-authorization-server", 1)
}

async fn provider(gateway: &Gateway, profile: &Profile, issuer: &Arc<str>) -> Result<Arc<str>, String> {
    let provider = gateway.estate.callers.providers.of(issuer);
    let mut told = provider.lock().await;
    let now = gateway.clock.now().monotonic;
    if let Some(told) = told.as_ref().filter(|told| now < told.until) {
        return told.metadata.clone();
    }
    let metadata = asked(gateway, profile, issuer).await;
    let was_known = told.as_ref().is_some_and(|told| told.metadata.is_ok());
    if !was_known && metadata.as_ref().is_ok_and(|metadata| announces_issuer(metadata)) {
        tracing::warn!(
            %issuer,
            "the provider announces the `iss` parameter in authorization responses (RFC 9207): clients refuse \
             the sign-in unless the provider leaves `iss` out for the client of `metadata.client`"
        );
    }
    let keep = if metadata.is_ok() { KEEP } else { KEEP_FAILURE };
    *told = Some(Told { until: gateway.clock.now().monotonic + keep, metadata: metadata.clone() });
    metadata
}

async fn asked(gateway: &Gateway, profile: &Profile, issuer: &str) -> Result<Arc<str>, String> {
    let at = endpoint(profile, issuer).ok_or("the issuer is no URL, or its keys are in a file")?;
    let mut problem = String::new();
    for path in metadata_paths(&at.url.path) {
        match fetch::document(gateway, &at, &path, None, MAX_METADATA_BYTES).await {
            Ok(found) => {
                let text = String::from_utf8(found.body.unwrap_or_default().to_vec());
                let text: Arc<str> = text.map_err(|_| "its metadata is not UTF-8")?.into();
                // RFC 8414 §3.3: what names another must not be used.
                let named =
                    Object::read(&text).is_ok_and(|said| said.text("issuer").as_deref() == Some(issuer));
                return if named { Ok(text) } else { Err("its metadata names another issuer".to_owned()) };
            }
            Err(failed) => problem = failed,
        }
    }
    Err(problem)
}

/// Where the issuer itself is, reached as its keys or answers are.
fn endpoint(profile: &Profile, issuer: &str) -> Option<Upstream> {
    let url = UpstreamUrl::parse(issuer).ok()?;
    let signed = profile.trusts.iter().find(|(trust, _)| *trust.issuer.name == *issuer);
    let at = match signed {
        Some((trust, _)) => match &trust.keys {
            KeySource::Url(at) | KeySource::Discovered(at) => at,
            KeySource::File { .. } => return None,
        },
        None => &profile.inspections.iter().find(|(one, _)| *one.issuer.name == *issuer)?.0.at,
    };
    // What it is told of us for other questions is none of this one's business.
    let mut at = at.at(&url);
    at.credentials = Credentials::None;
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        Resource {
            uri: "https://gw.example/mcp".into(),
            metadata_url: "https://gw.example/.well-known/oauth-protected-resource/mcp".into(),
            metadata: "{}".into(),
            client: Some(("fixed".into(), "https://idp.example".into())),
        }
    }

    #[test]
    fn metadata_is_asked_for_in_every_place_where_clients_look() {
        for path in [
            "/.well-known/oauth-authorization-server/mcp",
            "/.well-known/openid-configuration/mcp",
            "/mcp/.well-known/openid-configuration",
        ] {
            assert_eq!(asked_about(path).as_deref(), Some("/mcp"), "{path}");
        }
        assert_eq!(asked_about("/.well-known/oauth-authorization-server").as_deref(), Some("/"));
        assert_eq!(asked_about("/mcp"), None);
    }

    #[test]
    fn whoever_registers_is_the_one_client() {
        let answer =
            registered(&resource(), br#"{"redirect_uris":["http://127.0.0.1:1/cb"],"client_name":"x"}"#);
        let answer: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
        assert_eq!(
            (&answer["client_id"], &answer["redirect_uris"][0]),
            (&"fixed".into(), &"http://127.0.0.1:1/cb".into())
        );
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"redirect_uris":[]}"#,
            r#"{"redirect_uris":"x"}"#,
            r#"{"redirect_uris":["x"]"#,
        ] {
            assert_eq!(registered(&resource(), bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(
            registration(&resource()),
            "https://gw.example/.well-known/oauth-authorization-server/mcp"
        );
    }
}
