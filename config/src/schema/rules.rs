//! What is enforced.

use portunus_filters::mcp::Bounds;
use serde_json::{Value, json};

use super::process::{addresses, hosts};
use super::tls;
use super::values::{
    Object, count, defined, duration, forms, label, mapping, one_or_list, size, with_default, words,
};
use crate::units::show_duration;
use crate::upstream::{Pool, Timeouts};

/// Keys of the rules half, but for `revision`.
pub(super) fn keys() -> Vec<(&'static str, Value)> {
    let upstreams = mapping(
        json!({ "$ref": "#/$defs/label" }),
        forms("An MCP server.", vec![url("An MCP server, with defaults."), upstream()]),
        1,
        "MCP servers behind the gateway, by name.",
    );
    vec![("upstreams", upstreams), ("servers", servers())]
}

fn url(description: &str) -> Value {
    json!({
        "description": description,
        "type": "string",
        "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s#]+$",
        "examples": ["http://127.0.0.1:9101/mcp"],
    })
}

fn upstream() -> Value {
    let default = Timeouts::default();
    Object::new("An MCP server, with settings.")
        .required("url", url("Where it is; a query is sent with every request and hidden where it is shown."))
        .optional("era", words(&["auto", "legacy", "modern"], "Which revisions of MCP it speaks."))
        .optional("http", tls::http_version())
        .optional("tls", tls::upstream())
        .optional("timeout", duration(default.first_byte, "Short form: sets `first_byte` and `total`."))
        .optional("timeouts", timeouts())
        .exclusive("timeout", "timeouts")
        .optional("pool", pool())
        .optional("headers", headers())
        .optional("credentials", credentials())
        .optional("host", words(&["upstream", "preserve"], "`Host` that it gets: its own, or the client's."))
        .optional(
            "addresses",
            addresses("Classes of addresses that it may be dialled at, beside public ones."),
        )
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

fn credentials() -> Value {
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

fn servers() -> Value {
    let path = json!({
        "description": "Path of the endpoint.",
        "type": "string",
        "pattern": "^/",
        "examples": ["/mcp"],
    });
    let names = one_or_list(json!({ "type": "string", "minLength": 1 }), 1, "Name of the upstream.");
    let keyed = mapping(
        json!({ "type": "string", "pattern": "^[^/]*/" }),
        forms("An MCP endpoint.", vec![names, server().build()]),
        1,
        "By path, with a host before it if it matters.",
    );
    let listed = json!({ "type": "array", "items": server().required("path", path).build(), "minItems": 1 });
    forms("MCP endpoints that the gateway offers.", vec![keyed, listed])
}

fn server() -> Object {
    let upstreams =
        one_or_list(json!({ "type": "string", "minLength": 1 }), 1, "Name of the upstream it offers.");
    let status = "How refusals of calls show in HTTP.";
    Object::new("An MCP endpoint, with settings.")
        .required("upstreams", upstreams)
        .optional("hosts", hosts("Hosts it answers to. Default: any."))
        .optional("name", label("Label in metrics and records. Default: the path without its first slash."))
        .optional(
            "names",
            words(&["none", "prefix_on_conflict"], "How names of several upstreams share one endpoint."),
        )
        .optional("bounds", bounds())
        .optional("max_body_bytes", size(None, "Body of a request. Default: the listener's."))
        .optional("http_status", words(&["in_band", "mirror"], status))
}

fn bounds() -> Value {
    let default = Bounds::default();
    let long = Object::new("Bounds on the shape of a message.")
        .optional("depth", count(1..=Bounds::MAX_DEPTH, Some(default.depth), "Nesting."))
        .optional("string", size(Some(default.string_bytes), "Bytes of one string as written."))
        .optional("array", count(1..=100_000_000, Some(default.array_items), "Items of one array."))
        .optional("keys", count(1..=10_000_000, Some(default.object_keys), "Keys of one object."))
        .build();
    forms("Bounds on the shape of a message.", vec![words(&["default", "strict"], "A preset."), long])
}
