//! What a process is.

use serde_json::{Value, json};

use super::tls;
use super::values::{
    Object, count, defined, duration, forms, label, mapping, one_or_list, path, size, with_default, words,
};
use crate::bootstrap::{Drain, ForwardedBy, LogLevel};
use crate::limits::MAX_THREADS;
use portunus_base::ConnectionLimits;

/// Keys of the process half.
pub(super) fn keys() -> Vec<(&'static str, Value)> {
    let address = |description| defined("address", description);
    let threads = count(1..=MAX_THREADS, None, "Worker threads. Default: what the machine offers.");
    let control = path("Path of the control socket. Default: `control.sock` in the state folder.");
    let state = with_default(path("State folder, made with mode 0700."), json!("./.portunus"));
    vec![
        ("listen", address("Short form of `listeners`: one address. Default: 127.0.0.1:8080.")),
        ("listeners", listeners()),
        ("telemetry", address("Address of /livez, /readyz and /metrics. Not served by default.")),
        (
            "admin",
            address("Address of /status, /config and /refusals; loopback only. Not served by default."),
        ),
        ("control", control),
        ("threads", threads),
        ("state", state),
        ("drain", drain()),
        ("log", log()),
        ("access_log", access_log()),
        ("anonymous", anonymous("Whether listeners may bind beyond loopback though nobody is identified.")),
        ("bundle", bundle()),
        ("secrets", secrets()),
        ("egress_ceiling", ceiling()),
    ]
}

/// Classes of addresses that may be dialled.
pub(super) fn addresses(description: &str) -> Value {
    one_or_list(json!({ "enum": ["loopback", "private"] }), 0, description)
}

/// One or more host patterns.
pub(super) fn hosts(description: &str) -> Value {
    one_or_list(json!({ "$ref": "#/$defs/host" }), 1, description)
}

fn anonymous(description: &str) -> Value {
    words(&["loopback", "allow"], description)
}

fn listeners() -> Value {
    let short = defined("address", "A listener with defaults.");
    json!({
        "description": "Where MCP clients connect.",
        "type": "array",
        "items": forms("A listener.", vec![short, listener()]),
        "minItems": 1,
    })
}

fn listener() -> Value {
    let origins = one_or_list(
        json!({ "type": "string", "minLength": 1, "examples": ["https://app.example.com", "http://localhost:*"] }),
        0,
        "Accepted `Origin` values. Default: those of the loopback names on loopback, else none.",
    );
    let any_host = json!({ "const": "any" });
    let listed = hosts("Names and addresses.");
    let network = json!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" });
    Object::new("A listener with settings.")
        .required("bind", defined("address", "Address and port; port 0 lets the system choose."))
        .optional("name", label("Unique; in the log and records. Default: main, then listener-2, …"))
        .optional(
            "hosts",
            forms(
                "Accepted `Host` values. Default: the loopback names on loopback, else any.",
                vec![any_host, listed],
            ),
        )
        .optional("origins", origins)
        .optional(
            "trusted_proxies",
            one_or_list(network.clone(), 0, "Networks or addresses whose word on the address of a client is believed."),
        )
        .optional(
            "forwarded_by",
            words(
                &ForwardedBy::NAMES.map(|(name, _)| name),
                "The header in which they say for whom; the other one is dropped.",
            ),
        )
        .optional(
            "forwarded_from",
            one_or_list(
                network,
                0,
                "With `proxy_protocol: v2`: networks or addresses whose forwarding headers are believed. Default: none.",
            ),
        )
        .optional("anonymous", anonymous("The same as at the top, for this listener alone."))
        .optional("tls", tls::listener())
        .optional(
            "http2",
            json!({
                "description": "HTTP/2 beside HTTP/1.1. Default: true with `tls`, else false.",
                "type": "boolean",
            }),
        )
        .optional(
            "proxy_protocol",
            words(&["off", "v2"], "Connections begin with a PROXY protocol header. Needs `trusted_proxies`."),
        )
        .optional("limits", limits())
        .build()
}

fn limits() -> Value {
    let default = ConnectionLimits::default();
    let connections = "Open connections; one more gets 503.";
    let header = "From the first byte of a request to the end of its header section.";
    Object::new("Bounds on connections and on what comes over them.")
        .optional("max_connections", count(1..=1_000_000, Some(default.max_connections), connections))
        .optional("idle_timeout", duration(default.idle_timeout, "Silence between two requests."))
        .optional("header_timeout", duration(default.header_timeout, header))
        .optional("body_timeout", duration(default.body_timeout, "For the whole body of a request."))
        .optional(
            "write_timeout",
            duration(default.write_timeout, "For one write to a client that does not read."),
        )
        .optional("max_header_bytes", size(Some(default.max_header_bytes), "Header section of a request."))
        .optional("max_headers", count(8..=256, Some(default.max_headers), "Header fields of a request."))
        .optional("max_body_bytes", size(Some(default.max_body_bytes), "Body of a request."))
        .optional(
            "max_streams",
            count(1..=1000, Some(default.max_streams), "HTTP/2 streams of one connection at once."),
        )
        .optional(
            "max_connection_age",
            duration(default.max_connection_age, "An older connection closes after the answers under way."),
        )
        .build()
}

fn drain() -> Value {
    let default = Drain::default();
    let deadline = "After this, what still runs at shutdown ends with an error.";
    let delay = "Before it stops accepting, the process is not ready for this long.";
    let long = Object::new("How the process ends.")
        .optional("deadline", duration(default.deadline, deadline))
        .optional("delay", duration(default.delay, delay))
        .build();
    forms("How the process ends.", vec![duration(default.deadline, deadline), long])
}

fn log() -> Value {
    let levels = LogLevel::NAMES.map(|(name, _)| name);
    let level = json!({
        "description": "Least severe line that is written.",
        "enum": levels,
        "default": LogLevel::default().as_str(),
    });
    let long = Object::new("The process's own log.")
        .optional("level", level.clone())
        .optional("format", words(&["text", "json"], "Shape of a line."))
        .build();
    forms("The process's own log.", vec![level, long])
}

fn access_log() -> Value {
    let file = Object::new("Appended to a file.").required("file", path("Path of the file.")).build();
    let short = json!({ "type": "string", "pattern": "^(stdout|off|.*/.*)$", "default": "stdout" });
    forms("Where one line per message goes: `stdout`, `off` or a file.", vec![short, file])
}

fn bundle() -> Value {
    let folder =
        json!({ "type": "string", "minLength": 1, "not": { "pattern": "://" }, "examples": ["bundle"] });
    let long = Object::new("A folder with the rules.").required("path", path("The folder.")).build();
    forms("Folder whose gateway.yaml has the rules; relative to this file.", vec![folder, long])
}

fn secrets() -> Value {
    const TO: &str = "Hosts that the secret may be sent to, over TLS unless `http://` stands before them.";
    let from = json!({
        "description": "Where the value is read from.",
        "type": "string",
        "pattern": "^(env:[A-Za-z0-9_.-]+|file:.+)$",
    });
    let secret = Object::new("A secret and the hosts it may go to.")
        .required("from", from)
        .required("hosts", one_or_list(json!({ "$ref": "#/$defs/secret_host" }), 1, TO))
        .build();
    mapping(json!({ "type": "string" }), secret, 0, "Secrets by name, for `secret:NAME`.")
}

fn ceiling() -> Value {
    Object::new("What upstreams cannot exceed.")
        .optional("addresses", addresses("Classes of addresses that upstreams may have at most."))
        .optional("hosts", hosts("Hosts that upstreams may be at. Default: any."))
        .build()
}
