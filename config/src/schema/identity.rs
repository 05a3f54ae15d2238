//! `identity`: whom the gateway believes, and what is asked of callers.

use portunus_filters::identity::{Algorithm, Issuer};
use serde_json::{Value, json};

use super::api_keys::api_keys;
use super::process::addresses;
use super::rules::{credentials, url};
use super::tls;
use super::values::{Object, defined, duration, forms, mapping, one_or_list, with_default, words};
use crate::identity::{Shows, TokenCaller};

/// `identity` at the top.
pub(super) fn identity() -> Value {
    let issuer = one_or_list(issuer(), 1, "Issuers of signed tokens.");
    let asked_about =
        one_or_list(introspection(), 1, "Issuers that are asked about their tokens (RFC 7662).");
    Object::new("Whom the gateway believes to be who they say. Default: nobody is asked.")
        .optional("url", url("Where clients reach the gateway; the paths of servers follow it."))
        .optional("jwt", issuer)
        .optional("introspection", asked_about)
        .optional("mtls", mtls())
        .optional("keys", api_keys())
        .optional("revoked", revoked())
        .optional("metadata", metadata())
        .all(asked())
        .build()
}

/// `identity` of a server.
pub(super) fn of_server() -> Value {
    let issuers = texts("Issuers that it trusts, of those at the top. Default: all.");
    Object::new("What it asks of its callers, where that differs from the top.")
        .optional("resource", url("Its identifier (RFC 8707). Default: `identity.url` and its path."))
        .optional("audience", texts("For whom tokens have to be. Default: as the issuer says."))
        .optional("issuers", issuers)
        .all(asked())
        .build()
}

fn asked() -> Vec<(&'static str, Value)> {
    let names = Shows::NAMES.map(|(name, _)| name);
    let shows = json!({ "enum": names });
    let stranger = Object::new("Whom they are taken for.")
        .optional("tenant", text("Their tenant."))
        .optional("roles", texts("Their roles."))
        .optional("scopes", texts("Their scopes."))
        .build();
    let words = json!({ "enum": ["off", "allow"], "default": "off" });
    vec![
        ("require", one_or_list(shows, 0, "All that callers have to show. Default: any one that is taken.")),
        ("anonymous", forms("Whether callers are served that show nothing.", vec![words, stranger])),
        ("scopes", texts("Scopes that every caller needs.")),
    ]
}

fn issuer() -> Value {
    let algorithms = Algorithm::ALL.map(Algorithm::as_str);
    let default = Algorithm::DEFAULT.map(Algorithm::as_str);
    let algorithms =
        with_default(one_or_list(json!({ "enum": algorithms }), 1, "What it signs with."), json!(default));
    let types = with_default(
        texts("`typ` of its access tokens; `none` for tokens without."),
        json!(Issuer::DEFAULT_TYPES),
    );
    Object::new("An issuer of signed tokens.")
        .required("issuer", text("As its tokens have it in `iss`."))
        .optional("audience", texts("For whom its tokens have to be. Default: the resource of each server."))
        .optional("jwks", jwks())
        .optional("algorithms", algorithms)
        .optional("types", types)
        .optional("clock_skew", duration(Issuer::DEFAULT_CLOCK_SKEW, "How far clocks may be apart."))
        .optional("max_lifetime", defined("duration", "From `iat` to `exp`. Default: any."))
        .optional("refresh", with_default(defined("duration", "Keys are fetched again."), json!("10m")))
        .all(mapping_keys())
        .all(endpoint())
        .build()
}

fn jwks() -> Value {
    let at = || text("URL or file of its keys. Default: what its metadata says.");
    let max_stale =
        defined("duration", "How old keys of an earlier process may be while none can be fetched.");
    let both = Object::new("Its keys.")
        .optional("url", at())
        .optional("max_stale", with_default(max_stale, json!("24h")))
        .build();
    json!({ "anyOf": [at(), both] })
}

fn introspection() -> Value {
    let client = Object::new("As whom the gateway asks.")
        .required("id", text("Its `client_id`."))
        .required("secret", defined("reference", "Where its secret is."))
        .build();
    let cache = defined("duration", "For how long an answer is kept.");
    Object::new("An issuer that is asked about its tokens.")
        .required("url", url("Its introspection endpoint."))
        .required("issuer", text("Its name, as its answers have it in `iss`, if they do."))
        .optional("audience", texts("For whom its tokens have to be. Default: the resource of each server."))
        .optional("client", client)
        .optional("credentials", credentials())
        .exclusive("client", "credentials")
        .optional("cache", with_default(cache, json!("30s")))
        .optional("clock_skew", duration(Issuer::DEFAULT_CLOCK_SKEW, "How far clocks may be apart."))
        .all(mapping_keys())
        .all(endpoint())
        .build()
}

fn endpoint() -> Vec<(&'static str, Value)> {
    vec![
        ("timeout", duration(std::time::Duration::from_secs(5), "For each step of a fetch.")),
        ("addresses", addresses("Classes of addresses that may be dialled for it, beside public ones.")),
        ("tls", tls::upstream()),
    ]
}

fn mapping_keys() -> Vec<(&'static str, Value)> {
    let claim = Object::new("As a claim says.").required("claim", text("Path of the claim.")).build();
    let tenant =
        forms("Tenant of its callers. Default: the issuer's name.", vec![text("The same for all."), claim]);
    let usual = |default: &[&str], description| with_default(texts(description), json!(default));
    let attributes = mapping(
        json!({ "type": "string", "minLength": 1 }),
        text("Path of the claim."),
        0,
        "By the name that policy knows them by.",
    );
    vec![
        ("tenant", tenant),
        ("subject", with_default(text("Claim that names the subject."), json!("sub"))),
        ("agent", usual(&["azp", "client_id", "cid", "appid"], "Claims that name the software, by turns.")),
        ("roles", usual(&["roles"], "Claims with roles.")),
        ("groups", usual(&["groups"], "Claims with groups.")),
        ("scopes", usual(&["scope", "scp"], "Claims with scopes.")),
        (
            "claims",
            forms("Further claims that policy may read.", vec![texts("Under their own names."), attributes]),
        ),
    ]
}

fn mtls() -> Value {
    let bound = json!({
        "description": "Each with the PEM file of the authorities that sign for it.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": { "type": "string", "minLength": 1 },
    });
    let mut schema = Object::new("Client certificates that name callers; a listener has to ask for them.")
        .optional(
            "trust_domains",
            forms(
                "Trust domains of SPIFFE IDs.",
                vec![texts("All certificates are signed by one authority."), bound],
            ),
        )
        .optional("dns", texts("DNS names; `*.` stands for one label."))
        .optional("tenant", text("Tenant of all. Default: the trust domain."))
        .optional("roles", texts("Roles of all."))
        .optional(
            "token_caller",
            words(
                &TokenCaller::NAMES.map(|(name, _)| name),
                "Whose tokens and keys may come with a certificate, where both are required.",
            ),
        )
        .build();
    schema["anyOf"] = json!([{ "required": ["trust_domains"] }, { "required": ["dns"] }]);
    schema
}

fn revoked() -> Value {
    let one = Object::new("A subject of one tenant.")
        .required("tenant", text("The tenant."))
        .required("subject", text("The subject."))
        .build();
    let subjects = forms("A caller.", vec![text("A subject, of any tenant."), one]);
    let fingerprint = json!({ "type": "string", "pattern": "^[0-9A-Fa-f:]{64,95}$" });
    Object::new("What was taken back: refused from the swap on, and its streams ended.")
        .optional("subjects", one_or_list(subjects, 0, "Callers, and who acts for others."))
        .optional("tokens", texts("Ids of tokens (`jti`)."))
        .optional("keys", texts("Ids of keys (`kid`)."))
        .optional("certificates", one_or_list(fingerprint, 0, "SHA-256 of client certificates, in hex."))
        .build()
}

fn metadata() -> Value {
    let client = "The client that all are registered as, at a provider that registers none by itself.";
    Object::new("What clients are told that look for authorization (RFC 9728).")
        .optional(
            "authorization_servers",
            one_or_list(url("Where they are authorized."), 0, "Default: the issuers."),
        )
        .optional("scopes", texts("Scopes that they may ask for, beside those that all need."))
        .optional("documentation", url("Where people can read on."))
        .optional("client", text(client))
        .build()
}

fn text(description: &str) -> Value {
    json!({ "description": description, "type": "string", "minLength": 1 })
}

fn texts(description: &str) -> Value {
    one_or_list(json!({ "type": "string", "minLength": 1 }), 0, description)
}
