//! API keys.

use portunus_filters::identity::api_key::KeyTable;
use serde_json::{Value, json};

use super::values::{Object, defined, forms, mapping, one_or_list, path, with_default};

pub(super) fn api_keys() -> Value {
    let files = || one_or_list(path("A file that `portunus key` writes."), 1, "Files of keys.");
    let server_keys = format!(
        "What keys are stored under, {} at most; the first is for new ones. Default: none.",
        KeyTable::MAX_SERVER_KEYS
    );
    let shown = json!({
        "description": "`bearer`, or a header of their own.",
        "type": "string",
        "minLength": 1,
        "examples": ["bearer", "X-API-Key"],
    });
    let shown = one_or_list(shown, 1, "Where clients show their keys; their own headers never go upstream.");
    let mut long = Object::new("API keys, and where clients show them.")
        .optional("files", files())
        .optional("entries", mapping(id(), entry(), 0, "Keys by their ids, as they stand in a file of keys."))
        .optional("server_key", one_or_list(defined("reference", "Where it is."), 1, &server_keys))
        .optional("shown_in", with_default(shown, json!("bearer")))
        .build();
    long["anyOf"] = json!([{ "required": ["files"] }, { "required": ["entries"] }]);
    forms("API keys that name callers.", vec![files(), long])
}

fn id() -> Value {
    json!({ "type": "string", "pattern": "^[a-z2-7]{16}$" })
}

fn entry() -> Value {
    let text = |description: &str| json!({ "description": description, "type": "string", "minLength": 1 });
    let texts = |description: &str| one_or_list(json!({ "type": "string", "minLength": 1 }), 0, description);
    let time = |description: &str| {
        json!({
            "description": description,
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",
        })
    };
    let attributes = mapping(
        json!({ "type": "string", "minLength": 1 }),
        text("A text."),
        0,
        "What policies may read of the caller beside.",
    );
    let stored = json!({
        "description": "What is stored of it; never the key.",
        "type": "string",
        "pattern": "^hmac-sha256:(none|[0-9a-f]{8}):[A-Za-z0-9_-]{43}$",
    });
    Object::new("One key.")
        .required("for", text("Whose it is: TENANT/SUBJECT."))
        .required("hash", stored)
        .optional("agent", text("The software that uses it."))
        .optional("roles", texts("Roles."))
        .optional("groups", texts("Groups."))
        .optional("scopes", texts("Scopes."))
        .optional("attributes", attributes)
        .optional("created", time("When it was made."))
        .optional("expires", time("From when on it is refused."))
        .optional("revoked", time("When it was taken back."))
        .optional("note", text("What people remember it by."))
        .build()
}
