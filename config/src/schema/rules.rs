//! What is enforced.

use serde_json::{Value, json};

use super::caller::caller;
use super::process::addresses;
use super::values::{
    Object, count, defined, duration, flag, forms, mapping, one_or_list, with_default, words,
};
use super::{identity, policy, servers, serving, tls, tools};
use crate::described::Described;
use crate::document::LimitsDocument;
use crate::replicas::{Ejection, Health};
use crate::units::show_duration;
use portunus_base::{Pool, Timeouts};

/// Keys of the rules half, but for `revision`.
pub(super) fn keys() -> Vec<(&'static str, Value)> {
    let upstreams = mapping(
        json!({ "$ref": "#/$defs/label" }),
        forms("An MCP server.", vec![url("An MCP server, with defaults."), upstream()]),
        1,
        "MCP servers behind the gateway, by name.",
    );
    vec![
        ("upstreams", upstreams),
        ("servers", servers::servers()),
        ("identity", identity::identity()),
        ("sessions", serving::sessions("Default of `sessions` of every server.")),
        ("cache", serving::cache("Default of `cache` of every server.")),
        ("tools", tools::tools()),
        ("controls", tools::controls()),
        ("limits", LimitsDocument::schema()),
        ("policy", policy::policy()),
    ]
}

pub(super) fn url(description: &str) -> Value {
    json!({
        "description": description,
        "type": "string",
        "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s#]+$",
        "examples": ["http://127.0.0.1:9101/mcp"],
    })
}

fn upstream() -> Value {
    let default = Timeouts::default();
    let place = "Where it is; a query is sent with every request and hidden where it is shown.";
    let replicas = "Several places where the same server is, instead of `url`.";
    let labels = mapping(
        json!({ "$ref": "#/$defs/label" }),
        json!({ "$ref": "#/$defs/label" }),
        0,
        "What is known of it: region, trust.",
    );
    let mut schema = Object::new("An MCP server, with settings.")
        .optional("url", url(place))
        .optional("replicas", one_or_list(url("One place."), 1, replicas))
        .exclusive("url", "replicas")
        .optional("health", health())
        .optional("ejection", ejection())
        .optional(
            "transport",
            words(&["streamable", "sse"], "How messages travel; `sse` is that of 2024-11-05."),
        )
        .optional(
            "sessions",
            words(&["per_caller", "shared"], "Whose calls share a legacy session that the gateway holds."),
        )
        .optional(
            "stateless_ok",
            flag(false, "Whether a legacy session that is gone may be made again unseen."),
        )
        .optional("trust_cache_scope", flag(false, "Whether its `cacheScope: public` counts."))
        .optional("labels", labels)
        .optional("era", words(&["auto", "legacy", "modern"], "Which revisions of MCP it speaks."))
        .optional("http", tls::http_version())
        .optional("tls", tls::upstream())
        .optional("timeout", duration(default.first_byte, "Short form: sets `first_byte` and `total`."))
        .optional("timeouts", timeouts())
        .exclusive("timeout", "timeouts")
        .optional("pool", pool())
        .optional("headers", headers())
        .optional("credentials", credentials())
        .optional("caller", caller())
        .optional("host", words(&["upstream", "preserve"], "`Host` that it gets: its own, or the client's."))
        .optional(
            "addresses",
            addresses("Classes of addresses that it may be dialled at, beside public ones."),
        )
        .build();
    schema["anyOf"] = json!([{ "required": ["url"] }, { "required": ["replicas"] }]);
    schema
}

fn health() -> Value {
    let default = Health::default();
    let interval = || duration(default.interval, "From one probe to the next.");
    let long = Object::new("Probes.")
        .optional("interval", interval())
        .optional("timeout", duration(default.timeout, "A probe that takes longer has failed."))
        .optional(
            "unhealthy_after",
            count(
                1..=1000,
                Some(default.unhealthy_after),
                "Probes that fail in a row until it gets no calls.",
            ),
        )
        .build();
    forms("Probes that do not wait for calls. Default: none.", vec![interval(), long])
}

fn ejection() -> Value {
    let default = Ejection::default();
    Object::new("When a replica gets no calls for a while.")
        .optional("after", count(1..=1000, Some(default.after), "Calls that fail in a row."))
        .optional("base", duration(default.base, "For how long the first time; then longer."))
        .build()
}

fn timeouts() -> Value {
    let default = Timeouts::default();
    let total = json!({
        "description": "A whole call, or `none`.",
        "anyOf": [{ "const": "none" }, { "$ref": "#/$defs/duration" }],
    });
    let total = match default.total {
        Some(total_default) => with_default(total, json!(show_duration(total_default))),
        None => total,
    };
    Object::new("How long it may take.")
        .optional("connect", duration(default.connect, "For a connection."))
        .optional(
            "first_byte",
            duration(default.first_byte, "From the start of forwarding to the answer's head."),
        )
        .optional("idle", duration(default.idle, "Between two pieces of an answer."))
        .optional("total", total)
        .build()
}

fn pool() -> Value {
    let default = Pool::default();
    let at_most = |least, default, description| count(least..=1_000_000, Some(default), description);
    Object::new("How many connections it is given.")
        .optional("max_idle", at_most(0, default.max_idle, "Idle connections that are kept."))
        .optional("idle_timeout", duration(default.idle_timeout, "Then an idle one closes."))
        .optional("max_connections", at_most(1, default.max_connections, "Connections for calls at once."))
        .optional("max_streams", at_most(0, default.max_streams, "Connections for streams, beside those."))
        .build()
}

fn headers() -> Value {
    let name = json!({ "type": "string", "minLength": 1 });
    let value =
        json!({ "description": "A text, or a reference to a secret.", "type": "string", "minLength": 1 });
    Object::new("Changes to the headers that it receives.")
        .optional("set", mapping(name.clone(), value, 0, "Fields with the value that it gets."))
        .optional("remove", one_or_list(name, 0, "Fields of the client that it does not get."))
        .build()
}

pub(super) fn credentials() -> Value {
    let reference = || defined("reference", "Where the secret is, never the secret itself.");
    let bearer = Object::new("A bearer token.").required("bearer", reference()).build();
    let name = json!({ "description": "Name of the field.", "type": "string", "minLength": 1 });
    let field = Object::new("A header field.").required("name", name).required("value", reference()).build();
    let header = Object::new("A secret in a header field.").required("header", field).build();
    forms(
        "What it is shown as credentials. The client's own are stripped unless they pass through.",
        vec![json!({ "enum": ["none", "passthrough"], "default": "none" }), bearer, header],
    )
}
