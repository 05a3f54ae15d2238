//! `tls` of listeners and upstreams.

use serde_json::{Value, json};

use super::values::{Object, count, defined, duration, forms, one_or_list, path, with_default, words};
use crate::document::{DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES};

pub(super) fn listener() -> Value {
    let pair = Object::new("A certificate and its key.")
        .required("certificate", path("PEM file: the certificate first, then those that signed it."))
        .required("key", defined("key_file", "PEM file of the key, or `env:NAME`."))
        .build();
    let clients = Object::new("Certificates that clients show.")
        .required("trust", path("PEM file with the authorities that sign them."))
        .optional("crls", lists())
        .optional("mode", words(&["required", "optional"], "Whether a client may come without."))
        .build();
    let trust = path("PEM file with the authorities that sign them; they are required.");
    let unknown = "What a client gets that names no host of ours: the first certificate, or nothing.";
    Object::new("TLS of this listener. Default: plain TCP.")
        .required(
            "certificates",
            one_or_list(pair, 1, "The first is the default, the others go by the name that is asked for."),
        )
        .optional("min", min())
        .optional("unknown_sni", words(&["default", "refuse"], unknown))
        .optional(
            "client_certificates",
            forms("Certificates that clients show. Default: none.", vec![trust, clients]),
        )
        .optional(
            "handshake_timeout",
            duration(DEFAULT_HANDSHAKE_TIMEOUT, "From the accepted connection to the end of its handshake."),
        )
        .optional(
            "max_handshakes",
            count(1..=1_000_000, Some(DEFAULT_MAX_HANDSHAKES), "Handshakes under way at once."),
        )
        .build()
}

pub(super) fn upstream() -> Value {
    outgoing("TLS to this upstream; for `https://` only.")
}

pub(super) fn peers() -> Value {
    let mut schema = outgoing("Mutual TLS between replicas. Default: none, on loopback only.");
    schema["required"] = json!(["ca", "certificate", "key"]);
    schema
}

fn outgoing(description: &str) -> Value {
    let pin = json!({ "type": "string", "pattern": "^sha256/[A-Za-z0-9+/]{43}=$" });
    let name = json!({
        "description": "Name or address that is asked for and verified. Default: the host of the URL.",
        "type": "string",
        "minLength": 1,
    });
    let ca = "PEM file with the authorities that sign its certificate. Default: the system's.";
    let mut schema = Object::new(description)
        .optional("ca", path(ca))
        .optional("crls", lists())
        .optional("certificate", path("PEM file with the certificate that the gateway shows."))
        .optional("key", defined("key_file", "PEM file of its key, or a reference."))
        .optional(
            "pins",
            one_or_list(pin, 1, "Public keys that the upstream may have (RFC 7469 section 2.4)."),
        )
        .optional("server_name", name)
        .optional("min", min())
        .build();
    schema["dependentRequired"] = json!({ "certificate": ["key"], "key": ["certificate"] });
    schema
}

pub(super) fn http_version() -> Value {
    let description = "Version of HTTP. `auto` is what the TLS handshake agrees on; for `https://` only.";
    json!({ "description": description, "enum": [1, 2, "auto", "1", "2"], "default": 1 })
}

fn min() -> Value {
    let schema =
        json!({ "description": "Oldest version of TLS that is spoken.", "enum": ["1.2", "1.3", 1.2, 1.3] });
    with_default(schema, json!("1.2"))
}

fn lists() -> Value {
    one_or_list(json!({ "$ref": "#/$defs/path" }), 0, "PEM files with revocation lists.")
}
