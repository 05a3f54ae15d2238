//! What upstreams are told of callers: keys read, what gets in each other's way refused.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use portunus_filters::identity::assertion::SigningKey;

use super::Keyring;
use crate::caller::{AssertionRules, CallerRules};
use crate::diagnostic::Findings;
use crate::document::{ASSERTION_KEY_HINT, AssertionDocument, CredentialsDocument, UpstreamDocument};
use crate::tls::{Problem, private_key};
use portunus_base::UpstreamUrl;

/// `urls` are the places of the upstream.
pub(super) fn caller(
    document: &UpstreamDocument,
    urls: &[&UpstreamUrl],
    keyring: &Keyring<'_>,
    findings: &Findings,
) -> CallerRules {
    let Some(caller) = &document.caller else { return CallerRules::default() };
    let assertion = caller.assertion.as_ref().and_then(|assertion| {
        check_header(assertion, document, findings);
        rules(assertion, urls, keyring)
    });
    CallerRules { headers: caller.headers.clone(), assertion: assertion.map(Arc::new) }
}

fn rules(
    document: &AssertionDocument,
    urls: &[&UpstreamUrl],
    keyring: &Keyring<'_>,
) -> Option<AssertionRules> {
    let signing = |text: &str| {
        let der = private_key(text)?;
        SigningKey::from_pkcs8(der.secret_der()).map_err(|problem| Problem::new(problem, ASSERTION_KEY_HINT))
    };
    let keys: Vec<_> =
        document.keys.iter().filter_map(|key| keyring.parsed(key, urls, signing)).map(Arc::new).collect();
    if keys.is_empty() {
        return None;
    }
    // A query may hold a credential.
    let bare = |url: &&UpstreamUrl| url.path.split('?').next().unwrap_or_default().to_owned();
    let own = || urls.first().map(|url| format!("{}://{}{}", url.scheme, url.authority, bare(url)));
    Some(AssertionRules {
        keys,
        issuer: document.issuer.clone()?,
        audience: document.audience.clone().or_else(own)?,
        lifetime: document.lifetime,
        header: document.header.clone(),
        sources: document.keys.iter().map(|key| keyring.followed(&key.value)).collect(),
    })
}

/// One field has one value.
fn check_header(document: &AssertionDocument, upstream: &UpstreamDocument, findings: &Findings) {
    let taken = match &upstream.credentials {
        CredentialsDocument::None | CredentialsDocument::Exchange(_) => false,
        CredentialsDocument::Passthrough(_) | CredentialsDocument::Bearer(_) => {
            document.header == AUTHORIZATION
        }
        CredentialsDocument::Header { name, .. } => document.header == *name,
    };
    let set = upstream.headers.set.iter().any(|(name, _)| *name == document.header);
    if taken || set {
        let problem = format!("`{}` has another value for this upstream already", document.header);
        findings.error(&document.place, problem, "write another `header`");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use crate::caller::{AssertionRules, CallerFact};
    use crate::testing::{loaded, loaded_with, problems_with};
    use crate::{CallerRules, Upstream};

    fn document(caller: &str, more: &str) -> String {
        format!(
            "version: 1\nupstreams: {{a: {{url: 'http://crm.example.com/mcp?x=1', caller: {caller}{more}}}}}\n\
             servers: {{/mcp: a}}\n"
        )
    }

    fn rules(caller: &str) -> CallerRules {
        let pem = |algorithm| KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let (old, new) = (pem(&PKCS_ECDSA_P256_SHA256), pem(&PKCS_ED25519));
        let loaded = loaded_with(&document(caller, ""), &[("OLD", &old), ("NEW", &new)]);
        loaded.snapshot.upstreams[0].caller.clone()
    }

    #[test]
    fn every_form_names_facts_in_their_order() {
        let every: Vec<CallerFact> = CallerFact::NAMES.map(|(_, fact)| fact).to_vec();
        let table = [
            ("headers", every.clone()),
            ("{headers: all}", every),
            ("{headers: roles}", vec![CallerFact::Roles]),
            ("{headers: [roles, subject, roles]}", vec![CallerFact::Subject, CallerFact::Roles]),
        ];
        for (text, expected) in table {
            let rules = rules(text);
            assert_eq!((rules.headers, rules.assertion.is_none()), (expected, true), "{text}");
        }
        assert!(
            loaded(&document("headers", "").replace(", caller: headers", "")).snapshot.upstreams[0]
                .caller
                .is_empty()
        );
    }

    #[test]
    fn an_assertion_is_for_its_upstream_unless_it_says_otherwise() {
        let short = rules("{assertion: {key: 'env:NEW', issuer: 'https://gw'}}").assertion.unwrap();
        assert_eq!(short.audience, "http://crm.example.com/mcp");
        assert_eq!((short.lifetime, &short.header), (AssertionRules::LIFETIME, &AssertionRules::HEADER));
        let long = rules(
            "{headers: subject, assertion: {key: ['env:NEW', 'env:OLD'], issuer: 'https://gw', audience: crm,\n  \
             lifetime: 1m, header: Authorization}}",
        );
        let long = long.assertion.unwrap();
        assert_eq!(
            (long.audience.as_str(), long.header.as_str(), long.keys.len()),
            ("crm", "authorization", 2)
        );
        assert!(long.keys[0].jwk().contains("Ed25519") && long.keys[1].jwk().contains("P-256"));
    }

    #[test]
    fn connections_are_apart_by_what_their_assertions_say() {
        let pem = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        let key = |caller: &str| {
            let upstream = &loaded_with(&document(caller, ""), &[("K", &pem)]).snapshot.upstreams[0];
            Upstream::clone(upstream).key
        };
        let base = key("{assertion: {key: 'env:K', issuer: 'https://gw'}}");
        for other in [
            "headers",
            "{assertion: {key: 'env:K', issuer: 'https://other'}}",
            "{assertion: {key: 'env:K', issuer: 'https://gw', lifetime: 10s}}",
        ] {
            assert_ne!(key(other), base, "{other}");
        }
    }

    #[test]
    fn callers_of_whom_it_is_told_share_no_session() {
        let found = problems_with(&document("headers", ", sessions: shared"), &[]);
        let expected = "upstreams.a.sessions: `sessions: shared` shares a session between callers of whom";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }

    #[test]
    fn wrong_rules_are_named() {
        let pem = |algorithm| KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let (good, other) = (pem(&PKCS_ED25519), pem(&PKCS_ECDSA_P384_SHA384));
        let assertion = |more: &str| format!("{{assertion: {{issuer: 'https://gw'{more}}}}}");
        let table = [
            ("{}".to_owned(), "", ": the upstream is told nothing"),
            ("everything".to_owned(), "", ": text where `headers`, or a mapping with `headers` or"),
            ("{headers: [mail]}".to_owned(), "", ".headers[0]: `mail` is not known here"),
            (assertion(""), "", ".assertion: `key` is missing"),
            (assertion(", key: 'env:K', lifetime: 2d"), "", ".assertion.lifetime: `2d` is out of range"),
            (assertion(", key: 'env:OTHER'"), "", ".assertion.key: `env:OTHER` is no private key of P-256"),
            (assertion(", key: 'env:TEXT'"), "", ".assertion.key: `env:TEXT` has no private key in it"),
            (assertion(", key: []"), "", ".assertion.key: 0 keys are named"),
            (assertion(", key: 'env:K', header: Host"), "", ".assertion.header: this field belongs to the"),
            (
                assertion(", key: 'env:K', header: X-Portunus-Roles"),
                "",
                ".assertion.header: this field belongs to the",
            ),
            (
                assertion(", key: 'env:K', header: Authorization"),
                ", credentials: passthrough",
                ".assertion: `authorization` has another value",
            ),
            (
                assertion(", key: 'env:K', header: X-A"),
                ", headers: {set: {x-a: b}}",
                ".assertion: `x-a` has another value",
            ),
        ];
        let variables = [("K", good.as_str()), ("OTHER", &other), ("TEXT", "hunter2")];
        for (caller, more, expected) in table {
            let found = problems_with(&document(&caller, more), &variables);
            let expected = format!("upstreams.a.caller{expected}");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{caller}: {found:?}");
        }
    }
}
