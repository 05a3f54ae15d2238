//! Bounds of what a virtual server keeps.

use serde_json::{Value, json};

use super::values::{Object, count, duration, flag, forms, size, with_default};
use crate::limits::MAX_ENTRIES;
use crate::serving::{CacheRules, ParkedRules, ReplayRules, SessionRules};

pub(super) fn sessions(description: &str) -> Value {
    let default = SessionRules::default();
    Object::new(description)
        .optional("idle", duration(default.idle, "One that nothing uses ends."))
        .optional("lifetime", duration(default.lifetime, "It ends, used or not; an anonymous one after 1h."))
        .optional("max", count(1..=MAX_ENTRIES, Some(default.max), "At once; then the longest idle ends."))
        .build()
}

pub(super) fn cache(description: &str) -> Value {
    let default = CacheRules::default();
    let stale = "What is no longer fresh may stand in, while it is refreshed or its upstream is down.";
    let revalidate = "An answer to `resources/read` that was fresh is given at once, and asked for again.";
    let legacy_reads = "Answers of legacy upstreams to `resources/read` are fresh.";
    let long = Object::new(description)
        .optional("lists", duration(default.lists, "Lists of legacy upstreams are fresh."))
        .optional("max_ttl", duration(default.max_ttl, "Most that an upstream's `ttlMs` counts."))
        .optional("stale", duration(default.stale, stale))
        .optional("revalidate", duration(default.revalidate, revalidate))
        .optional("legacy_reads", duration(default.legacy_reads, legacy_reads))
        .optional("coalesce", duration(default.coalesce, "Changes of lists within this are one."))
        .optional("reads", flag(true, "Whether answers to `resources/read` are kept."))
        .optional("max_bytes", size(Some(default.max_bytes), "Of all that is kept."))
        .build();
    forms(description, vec![json!({ "const": "off" }), long])
}

pub(super) fn parked() -> Value {
    let default = ParkedRules::default();
    Object::new("Calls that wait for input of their caller.")
        .optional("max", count(1..=MAX_ENTRIES, Some(default.max), "At once."))
        .optional("per_caller", count(1..=MAX_ENTRIES, Some(default.per_caller), "At once, of one caller."))
        .optional("within", duration(default.within, "For the caller's answer."))
        .build()
}

pub(super) fn replay() -> Value {
    let default = ReplayRules::default();
    let long = Object::new("Events that are kept for a client that resumes its stream.")
        .optional("events", count(1..=100_000, Some(default.events), "Of one session."))
        .optional("bytes", size(Some(default.bytes), "Of one session."))
        .build();
    let off = with_default(json!({ "const": "off" }), json!("off"));
    forms("Events that are kept for clients that resume a stream.", vec![off, long])
}
