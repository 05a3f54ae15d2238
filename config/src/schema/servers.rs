//! `servers`: what a virtual server is made of, and what callers see of it.

use portunus_filters::mcp::Bounds;
use portunus_filters::{AnswerBound, Beyond};
use serde_json::{Value, json};

use super::identity;
use super::process::hosts;
use super::serving;
use super::values::{Object, count, duration, flag, forms, label, mapping, one_or_list, size, words};
use crate::members::NamePolicy;
use crate::snapshot::VirtualServer;

/// Virtual servers, by path or as a list.
pub(super) fn servers() -> Value {
    let path = json!({
        "description": "Path of the endpoint.",
        "type": "string",
        "pattern": "^/",
        "examples": ["/mcp"],
    });
    let keyed = mapping(
        json!({ "type": "string", "pattern": "^[^/]*/" }),
        forms("An MCP endpoint.", vec![names(), server().build()]),
        1,
        "By path, with a host before it if it matters.",
    );
    let listed = json!({ "type": "array", "items": server().required("path", path).build(), "minItems": 1 });
    forms("MCP endpoints that the gateway offers.", vec![keyed, listed])
}

fn server() -> Object {
    let policies = NamePolicy::NAMES.map(|(name, _)| name);
    let separator = json!({
        "description": "Between the name of a member and that of its tool.",
        "type": "string",
        "pattern": "^[A-Za-z0-9_.-]{1,8}$",
        "default": VirtualServer::DEFAULT_SEPARATOR,
    });
    let keepalive = "A comment goes over a stream that was silent for this long.";
    let bridge = "Whether clients of an era that an upstream does not speak are served.";
    let status = "How refusals of calls show in HTTP.";
    let object = Object::new("An MCP endpoint, with settings.")
        .required("upstreams", members())
        .optional("hosts", hosts("Hosts it answers to. Default: any."))
        .optional("name", label("Label in metrics and records. Default: the path without its first slash."))
        .optional("names", words(&policies, "How names of several members share one endpoint."))
        .optional("separator", separator)
        .all(view())
        .optional("bridge", flag(true, bridge))
        .optional("sessions", serving::sessions("Sessions that are given to clients."))
        .optional("cache", serving::cache("What is kept of the answers of upstreams."))
        .optional("parked", serving::parked())
        .optional("replay", serving::replay())
        .optional("keepalive", duration(VirtualServer::DEFAULT_KEEPALIVE, keepalive))
        .optional(
            "list_timeout",
            duration(
                VirtualServer::DEFAULT_LIST_TIMEOUT,
                "For each upstream where several are asked at once.",
            ),
        )
        .optional(
            "http_sse",
            flag(false, "Whether clients are offered the transport of 2024-11-05 as well."),
        );
    object
        .optional("bounds", bounds())
        .optional("max_body_bytes", size(None, "Body of a request. Default: the listener's."))
        .optional("answers", answers())
        .optional("http_status", words(&["in_band", "mirror"], status))
        .optional("identity", identity::of_server())
}

fn answers() -> Value {
    let default = AnswerBound::default();
    let beyond = Beyond::NAMES.map(|(name, _)| name);
    Object::new("How much of an answer is held so that filters can read it.")
        .optional("hold", size(Some(default.hold), "Bytes of one result, error, notification or question."))
        .optional("beyond", words(&beyond, "The rule for a longer one that has to be read."))
        .build()
}

fn name(description: &str) -> Value {
    json!({ "description": description, "type": "string", "minLength": 1 })
}

fn names() -> Value {
    one_or_list(name("Name of an upstream."), 1, "What it is made of.")
}

fn members() -> Value {
    let by = |key: &str, description| mapping(name(key), name("Name of an upstream."), 1, description);
    let fixed = Object::new("An upstream under another name.")
        .required("name", name("Name of the member."))
        .required("upstream", name("Name of the upstream."))
        .build();
    let by_tenant = Object::new("An upstream for each tenant.")
        .required("name", name("Name of the member."))
        .required("by_tenant", by("A tenant.", "Upstreams by tenant."))
        .optional("otherwise", name("For all other callers. Default: they do not see the member."))
        .build();
    let twins = Object::new("The same tools in several places, selected by an argument.")
        .required("name", name("Name of the member."))
        .required("selector", name("Name of the argument that tools gain."))
        .required("regions", by("A value of the argument.", "Upstreams by value of the argument."))
        .required("default", name("The region for what has no arguments."))
        .build();
    let one = forms("A member.", vec![name("Name of an upstream."), fixed, by_tenant, twins]);
    one_or_list(one, 1, "What it is made of: the first that has a name owns it.")
}

/// What callers see, over `member.name`.
fn view() -> Vec<(&'static str, Value)> {
    let pattern = json!({
        "description": "`MEMBER.NAME`, where `*` is any run of characters.",
        "type": "string",
        "pattern": "^[^.]+\\..",
        "examples": ["crm.*", "*.delete_*", "files.file:///etc/*"],
    });
    let patterns = |description| one_or_list(pattern.clone(), 1, description);
    let change = json!({ "type": "string", "pattern": "^[^.*]+\\.[^*]+$" });
    let tool = json!({ "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$" });
    let text = json!({ "type": "string", "minLength": 1 });
    vec![
        ("allow", patterns("What callers see. Default: everything.")),
        ("deny", patterns("What they do not see, though it is allowed.")),
        ("rename", mapping(change.clone(), tool, 0, "New names by `MEMBER.NAME`.")),
        ("describe", mapping(change, text, 0, "New descriptions by `MEMBER.NAME`.")),
    ]
}

fn bounds() -> Value {
    let default = Bounds::default();
    let long = Object::new("Bounds on the shape of a message.")
        .optional("depth", count(1..=Bounds::MAX_DEPTH, Some(default.depth), "Nesting."))
        .optional(
            "string",
            size(None, "Bytes of one string as written; as many as a body may have, unless this says less."),
        )
        .optional("array", count(1..=100_000_000, Some(default.array_items), "Items of one array."))
        .optional("keys", count(1..=10_000_000, Some(default.object_keys), "Keys of one object."))
        .build();
    forms("Bounds on the shape of a message.", vec![words(&["default", "strict"], "A preset."), long])
}
