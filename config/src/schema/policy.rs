//! Where the rules of policy are, and how they are asked.

use serde_json::{Value, json};

use super::values::{Object, count, defined, duration, flag, forms, path};
use crate::limits::MAX_ENTRIES;
use crate::policy::{Lists, PolicyRules};
use portunus_filters::authorize::Settings;

pub(super) fn policy() -> Value {
    let Settings { entrypoint, time_zone, ttl, time_limit, strict, .. } = Settings::default();
    let rule = json!({
        "description": "Path of the rule that decides.",
        "type": "string",
        "pattern": "^(data\\.)?[A-Za-z_][A-Za-z0-9_]*([./][A-Za-z_][A-Za-z0-9_]*)+$",
        "default": entrypoint,
    });
    let zone = json!({
        "description": "Of `input.time`: a name of the IANA database.",
        "type": "string",
        "pattern": "^[A-Za-z0-9/_+-]{1,64}$",
        "default": time_zone,
        "examples": ["Europe/Berlin"],
    });
    let lists = Lists::NAMES.map(|(name, _)| name);
    let lists = json!({ "description": "What lists show. Default: as the rules are.", "enum": lists });
    let mut long = Object::new("Rules and how they are asked.")
        .optional("path", path("A folder with Rego and data, or one Rego file."))
        .optional("builtin", json!({ "description": "Rules of the gateway's own.", "enum": ["rbac"] }))
        .exclusive("path", "builtin")
        .optional("data", path("A folder or file with more data; of `rbac` the file of roles."))
        .optional("entrypoint", rule)
        .optional("cache_ttl", duration(ttl, "A decision is remembered no longer."))
        .optional(
            "cache_entries",
            count(
                0..=MAX_ENTRIES,
                Some(PolicyRules::DEFAULT_CACHE_ENTRIES),
                "Decisions that are remembered.",
            ),
        )
        .optional("lists", lists)
        .optional("time_zone", zone)
        .optional(
            "time_limit",
            duration(time_limit, "CPU time of one decision, 1ms to 10s; one that takes more is a refusal."),
        )
        .optional("strict", flag(strict, "Whether what a builtin cannot take refuses."))
        .optional("reasons_to_client", flag(true, "Whether callers are told the policy's reason."))
        .optional("shadow", shadow())
        .build();
    long["anyOf"] = json!([{ "required": ["path"] }, { "required": ["builtin", "data"] }]);
    forms("Rego that says who may do what. Default: nothing is asked.", vec![path("A folder."), long])
}

fn shadow() -> Value {
    Object::new("A policy that is tried beside the one in force.")
        .required("path", path("A folder with Rego and data, or one Rego file."))
        .optional("data", defined("path", "A folder or file with more data."))
        .optional("sample", count(1..=1_000_000, Some(1), "Of how many decisions one is tried."))
        .build()
}
