//! What is known of tools, and what follows from it.

use portunus_filters::{Class, Control, Profile, Risk};
use serde_json::{Value, json};

use super::values::{Object, defined, flag, forms, label, mapping, one_or_list, with_default, words};

pub(super) fn tools() -> Value {
    let pattern =
        json!({ "type": "string", "pattern": "^.+\\..+$", "examples": ["crm.delete_*", "*.delete_*"] });
    let word = json!({ "$ref": "#/$defs/label" });
    let scope = json!({ "type": "string", "pattern": "^[!#-\\[\\]-~]{1,256}$" });
    let amount =
        json!({ "description": "Price of a call.", "type": "number", "minimum": 0, "maximum": 1_000_000 });
    let end = json!({
        "description": "Last day or moment that it is called.",
        "type": "string",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",
        "examples": ["2026-12-31", "2026-12-31T08:00:00Z"],
    });
    let risks = words(&Risk::NAMES.map(|(name, _)| name), "What its use can do.");
    let classes = Class::NAMES.map(|(name, _)| name);
    let classes = json!({ "description": "Who may see what it deals with.", "enum": classes });
    let facts = Object::new("What is known of these tools.")
        .optional("risk", risks)
        .optional("class", with_default(classes, json!(Class::default().as_str())))
        .optional("labels", one_or_list(word, 0, "Words for policies."))
        .optional("scopes", one_or_list(scope, 0, "OAuth scopes that a caller needs, all of them."))
        .optional("cost", amount)
        .optional("timeout", defined("duration", "Deadline of a call."))
        .optional("owner", label("Who answers for it."))
        .optional("not_after", end)
        .optional("read_only", flag(false, "Whether it changes nothing."))
        .optional("idempotent", flag(false, "Whether a second equal call changes nothing more."))
        .optional(
            "max_auth_age",
            defined("duration", "Longest time since the caller's person was authenticated."),
        )
        .build();
    mapping(pattern, facts, 1, "Facts by `UPSTREAM.NAME`; `*` is any run of characters.")
}

pub(super) fn controls() -> Value {
    let profiles = || json!({ "enum": Profile::NAMES.map(|(name, _)| name) });
    let optional: Vec<&str> = Control::optional().into_iter().map(|(name, _)| name).collect();
    let without = one_or_list(json!({ "enum": optional }), 0, "What is left out, in writing.");
    let long = Object::new("A profile, less what is left out.")
        .required("profile", profiles())
        .optional("without", without)
        .build();
    forms("What tools are held to by their risk. Default: nothing.", vec![profiles(), long])
}
