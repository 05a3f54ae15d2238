//! What makes several processes one gateway.

use serde_json::{Value, json};

use super::values::{Object, defined, forms, mapping, one_or_list};
use super::{rules, tls};

/// Keys of the process half that concern its peers.
pub(super) fn keys() -> Vec<(&'static str, Value)> {
    let replica = json!({
        "description": "Name of this process among its peers, or `env:NAME`. Default: made up at start.",
        "type": "string",
        "pattern": "^(env:[A-Za-z0-9_.-]+|[A-Za-z0-9._-]{1,16})$",
        "examples": ["a", "env:POD_NAME"],
    });
    vec![("replica", replica), ("sealing", sealing()), ("peers", peers())]
}

fn sealing() -> Value {
    let reference = defined("reference", "Where a key is: at least 32 characters, never written here.");
    let keys = || one_or_list(reference.clone(), 1, "The first seals, all of them open.");
    let long = Object::new("What seals ids and states that clients keep.").required("keys", keys()).build();
    forms("What seals ids and states that clients keep. Default: a key made at start.", vec![keys(), long])
}

fn peers() -> Value {
    let id = json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,16}$" });
    let members = "Where each replica listens for the others, by name; this process may be among them.";
    Object::new("The other replicas of this gateway. Needs `replica` and `sealing`.")
        .required("listen", defined("address", "Where the other replicas connect."))
        .optional("tls", tls::peers())
        .required("members", mapping(id, rules::url("Scheme, host and port."), 1, members))
        .build()
}
