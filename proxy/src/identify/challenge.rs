//! What a caller that is refused is told to do about it (RFC 6750 §3, RFC 9728 §5.1).

use http::HeaderValue;
use portunus_config::{Profile, Resource};
use portunus_filters::identity::Fault;
use portunus_filters::{Denial, Reason};
use std::sync::Arc;

/// The refusal of a caller, and the challenge that goes with it.
pub struct Refusal {
    /// Why.
    pub denial: Denial,
    /// `WWW-Authenticate`; none where nothing that a client could do would help.
    pub challenge: Option<HeaderValue>,
}

impl Refusal {
    /// The refusal of a caller that has not shown what it takes.
    pub fn of(fault: Fault, profile: &Profile) -> Refusal {
        let reason = fault.reason();
        let error = match reason {
            Reason::InvalidToken => Some("invalid_token"),
            Reason::InsufficientScope => Some("insufficient_scope"),
            _ => None,
        };
        let challenge = challenge(profile.resource.as_ref(), error, fault.told(), &profile.asked.scopes);
        Refusal { denial: Denial::new(reason, fault.told()), challenge }
    }

    /// The refusal of a caller whose token reaches not far enough, with every scope that it takes.
    pub fn scopes(profile: &Profile, needed: &[Arc<str>]) -> Refusal {
        let told = Fault::Scope.told();
        let challenge = challenge(profile.resource.as_ref(), Some("insufficient_scope"), told, needed);
        Refusal { denial: Denial::new(Reason::InsufficientScope, told), challenge }
    }
}

/// What goes with the refusal of a message that its caller may send once it shows more: `None` for any
/// other (RFC 6750 §3.1, RFC 9470 §3).
pub fn for_more(denial: &Denial, profile: Option<&Profile>) -> Option<HeaderValue> {
    let resource = profile.and_then(|profile| profile.resource.as_ref());
    let error = match denial.reason {
        Reason::Unauthenticated => None,
        Reason::InsufficientScope => Some("insufficient_scope"),
        Reason::StepUpRequired => Some("insufficient_user_authentication"),
        _ => return None,
    };
    let mut challenge = fields(resource, error, &denial.detail, &[]);
    let named = [("scope", "scope"), ("acrValues", "acr_values"), ("maxAge", "max_age")];
    for (key, name) in named {
        let value = denial.data.iter().find(|(member, _)| *member == key);
        if let Some((_, json)) = value {
            let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.clone());
            challenge.push(field(name, &text));
        }
    }
    bearer(&challenge)
}

/// A `Bearer` challenge. Texts come from a configuration that was checked, or are our own; a quote in
/// one would end it early, and is left out.
fn challenge(
    resource: Option<&Resource>,
    error: Option<&str>,
    told: &str,
    scopes: &[Arc<str>],
) -> Option<HeaderValue> {
    bearer(&fields(resource, error, told, scopes))
}

fn fields(resource: Option<&Resource>, error: Option<&str>, told: &str, scopes: &[Arc<str>]) -> Vec<String> {
    let mut fields = Vec::new();
    if let Some(resource) = resource {
        fields.push(field("resource_metadata", &resource.metadata_url));
    }
    if let Some(error) = error {
        fields.push(field("error", error));
        fields.push(field("error_description", told));
    }
    if !scopes.is_empty() {
        fields.push(field("scope", &scopes.join(" ")));
    }
    fields
}

fn field(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace(['"', '\\'], ""))
}

fn bearer(fields: &[String]) -> Option<HeaderValue> {
    let separator = if fields.is_empty() { "" } else { " " };
    HeaderValue::from_str(&format!("Bearer{separator}{}", fields.join(", "))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;

    fn profile(identity: &str) -> Arc<Profile> {
        let text = format!(
            "version: 1\nupstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\nidentity: {{{identity}}}\n"
        );
        let loaded = load_text(&text, Path::new("g.yaml"), &MapEnvironment::default()).unwrap();
        let profile = loaded.snapshot.routes.iter().next().unwrap().identity.clone();
        profile.unwrap()
    }

    fn shown(refusal: &Refusal) -> (&'static str, &str) {
        let challenge = refusal.challenge.as_ref().map(|value| value.to_str().unwrap());
        (refusal.denial.reason.as_str(), challenge.unwrap_or_default())
    }

    #[test]
    fn a_challenge_says_where_to_go_and_what_to_ask_for() {
        let known = profile(
            "url: 'https://gw.example', jwt: {issuer: 'http://127.0.0.1:9'}, scopes: ['mcp', 'read']",
        );
        let metadata = "resource_metadata=\"https://gw.example/.well-known/oauth-protected-resource/mcp\"";
        let nothing = Refusal::of(Fault::Nothing, &known);
        assert_eq!(shown(&nothing), ("unauthenticated", &*format!("Bearer {metadata}, scope=\"mcp read\"")));
        let expired = Refusal::of(Fault::Expired, &known);
        let error = "error=\"invalid_token\", error_description=\"the token has expired\"";
        assert_eq!(
            shown(&expired),
            ("invalid_token", &*format!("Bearer {metadata}, {error}, scope=\"mcp read\""))
        );
        let more = Refusal::scopes(&known, &["mcp".into(), "read".into(), "write".into()]);
        let (reason, challenge) = shown(&more);
        assert_eq!(reason, "insufficient_scope");
        assert!(challenge.ends_with("scope=\"mcp read write\""), "{challenge}");
        let unknown = profile("jwt: {issuer: 'http://127.0.0.1:9', audience: x}");
        assert_eq!(shown(&Refusal::of(Fault::Nothing, &unknown)), ("unauthenticated", "Bearer"));
    }
}
