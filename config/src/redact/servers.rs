//! A virtual server, as a document would write it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::identity::profile;
use super::{duration, texts, unless_empty};
use crate::members::{Choice, Member, NamePolicy};
use crate::serving::{CacheRules, ReplayRules};
use crate::snapshot::{HttpStatus, VirtualServer};
use crate::upstream::Upstream;
use crate::view::{Changes, Pattern};

pub(super) fn virtual_server(server: &VirtualServer) -> Value {
    let (bounds, sessions, parked) = (&server.bounds, &server.sessions, &server.parked);
    let policy = NamePolicy::NAMES.iter().find(|(_, policy)| *policy == server.names);
    let view = &server.view;
    json!({
        "name": &*server.name,
        "path": server.path,
        "hosts": unless_empty(texts(&server.hosts)),
        "upstreams": server.members.iter().map(member).collect::<Vec<_>>(),
        "names": policy.map(|(name, _)| *name),
        "separator": &*server.separator,
        "allow": view.allow.as_deref().map(patterns),
        "deny": unless_empty(patterns(&view.deny)),
        "rename": changes(&view.rename),
        "describe": changes(&view.describe),
        "bridge": server.bridge,
        "sessions": {
            "idle": duration(sessions.idle),
            "lifetime": duration(sessions.lifetime),
            "max": sessions.max,
        },
        "cache": cache(&server.cache),
        "parked": {
            "max": parked.max,
            "per_caller": parked.per_caller,
            "within": duration(parked.within),
        },
        "replay": server.replay.as_ref().map_or(json!("off"), replay),
        "keepalive": duration(server.keepalive),
        "list_timeout": duration(server.list_timeout),
        "http_sse": server.http_sse,
        "bounds": {
            "depth": bounds.depth,
            "string": Some(bounds.string_bytes).filter(|bytes| *bytes < usize::MAX),
            "array": bounds.array_items,
            "keys": bounds.object_keys,
        },
        "max_body_bytes": server.max_body_bytes,
        "answers": { "hold": server.answers.hold, "beyond": server.answers.beyond.as_str() },
        "http_status": match server.http_status {
            HttpStatus::InBand => "in_band",
            HttpStatus::Mirror => "mirror",
        },
        "identity": server.identity.as_deref().map(profile),
    })
}

/// The short form where it says everything.
fn member(member: &Member) -> Value {
    let name = &*member.name;
    match &member.choice {
        Choice::Fixed(upstream) if upstream.name == member.name => json!(name),
        Choice::Fixed(upstream) => json!({ "name": name, "upstream": &*upstream.name }),
        Choice::ByTenant { map, otherwise } => json!({
            "name": name,
            "by_tenant": names(map),
            "otherwise": otherwise.as_ref().map(|upstream| &*upstream.name),
        }),
        Choice::Twins { selector, map, default } => {
            json!({ "name": name, "selector": &**selector, "regions": names(map), "default": &**default })
        }
    }
}

fn names(map: &BTreeMap<Arc<str>, Arc<Upstream>>) -> Value {
    map.iter().map(|(key, upstream)| (key.to_string(), json!(&*upstream.name))).collect()
}

fn patterns(patterns: &[Pattern]) -> Vec<String> {
    texts(patterns)
}

fn changes(changes: &Changes) -> Option<Value> {
    let of_member = |(member, texts): (&Arc<str>, &BTreeMap<Arc<str>, Arc<str>>)| -> Vec<(String, Value)> {
        texts.iter().map(|(original, text)| (format!("{member}.{original}"), json!(&**text))).collect()
    };
    (!changes.is_empty()).then(|| changes.iter().flat_map(of_member).collect())
}

fn cache(cache: &CacheRules) -> Value {
    json!({
        "lists": duration(cache.lists),
        "max_ttl": duration(cache.max_ttl),
        "stale": duration(cache.stale),
        "revalidate": duration(cache.revalidate),
        "legacy_reads": duration(cache.legacy_reads),
        "coalesce": duration(cache.coalesce),
        "reads": cache.reads,
        "max_bytes": cache.max_bytes,
    })
}

fn replay(replay: &ReplayRules) -> Value {
    json!({ "events": replay.events, "bytes": replay.bytes })
}
