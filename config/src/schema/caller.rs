//! What an upstream is told of callers.

use serde_json::{Value, json};

use super::values::{Object, defined, duration, forms, one_or_list};
use crate::caller::{AssertionRules, CallerFact};

pub(super) fn caller() -> Value {
    let facts = CallerFact::NAMES.map(|(name, _)| name);
    let headers = forms(
        "Facts in header fields `X-Portunus-*`.",
        vec![json!({ "const": "all" }), one_or_list(json!({ "enum": facts }), 0, "Some of them.")],
    );
    let long = Object::new("Facts in headers, a signed token, or both.")
        .optional("headers", headers)
        .optional("assertion", assertion())
        .build();
    forms(
        "What it is told of who is calling. Default: nothing. What a client says under these names is dropped.",
        vec![json!({ "const": "headers", "description": "All facts in header fields." }), long],
    )
}

fn assertion() -> Value {
    let text = |description: &str| json!({ "description": description, "type": "string", "minLength": 1 });
    let keys = "Private keys of Ed25519 or P-256, PKCS #8 as PEM: the first signs, all are published.";
    Object::new("A short token about the caller that the upstream can verify.")
        .required("key", one_or_list(defined("reference", "Where the key is."), 1, keys))
        .required("issuer", text("`iss`: by which URL the upstream knows the gateway."))
        .optional("audience", text("`aud`. Default: the URL of the upstream."))
        .optional("lifetime", duration(AssertionRules::LIFETIME, "From `iat` to `exp`, 10 s to 1 h."))
        .optional(
            "header",
            text("The field; in `Authorization` it is a bearer token. Default: X-Portunus-Assertion."),
        )
        .build()
}
