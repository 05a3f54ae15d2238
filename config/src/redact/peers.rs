//! What makes several processes one gateway, as a document would write it.

use serde_json::{Value, json};

use super::upstream_tls;
use crate::peers::{Peers, Sealing};

/// A key is shown by where it is, never by what it is.
pub(super) fn sealing(sealing: &Sealing) -> Option<Value> {
    let keys: Vec<&str> = sealing.keys.iter().map(|key| key.source()).collect();
    (!keys.is_empty()).then(|| json!({ "keys": keys }))
}

/// The members have the TLS of the document in common.
pub(super) fn peers(peers: &Peers) -> Value {
    let members = peers.members.iter().map(|(name, one)| (name.to_string(), json!(one.url.redacted())));
    let tls = peers.members.values().find_map(|member| member.tls.as_ref());
    json!({
        "listen": peers.listener.bind.to_string(),
        "tls": tls.map(upstream_tls),
        "members": members.collect::<Value>(),
    })
}
