//! An upstream, as a document would write it.

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::caller::caller;
use super::{duration, texts, upstream_tls};
use crate::replicas::Health;
use crate::upstream::{Credentials, HeaderRules, HostPolicy, SessionSharing, Transport, Upstream};
use portunus_base::{HttpVersion, Pool, Timeouts, UpstreamUrl};

pub(super) fn upstream(upstream: &Upstream) -> Value {
    let alone = upstream.replicas.is_empty();
    let replicas = || upstream.urls().map(UpstreamUrl::redacted).collect::<Vec<_>>();
    let labels = upstream.labels.iter().map(|(name, value)| (name.to_string(), json!(**value)));
    json!({
        "url": alone.then(|| upstream.url.redacted()),
        "replicas": (!alone).then(replicas),
        "health": upstream.health.as_ref().map(health),
        "ejection": { "after": upstream.ejection.after, "base": duration(upstream.ejection.base) },
        "transport": match upstream.transport {
            Transport::Streamable => "streamable",
            Transport::HttpSse => "sse",
        },
        "sessions": match upstream.sessions {
            SessionSharing::PerCaller => "per_caller",
            SessionSharing::Shared => "shared",
        },
        "stateless_ok": upstream.stateless_ok,
        "trust_cache_scope": upstream.trust_cache_scope,
        "labels": labels.collect::<Value>(),
        "era": upstream.era.as_str(),
        "timeouts": timeouts(&upstream.timeouts),
        "pool": pool(&upstream.pool),
        "headers": headers(&upstream.headers),
        "credentials": credentials(&upstream.credentials),
        "caller": caller(&upstream.caller),
        "host": match upstream.host {
            HostPolicy::Upstream => "upstream",
            HostPolicy::Preserve => "preserve",
        },
        "addresses": upstream.addresses.names(),
        "http": match upstream.http {
            HttpVersion::One => json!(1),
            HttpVersion::Two => json!(2),
            HttpVersion::Auto => json!("auto"),
        },
        "tls": upstream.tls.as_ref().map(upstream_tls),
    })
}

fn health(health: &Health) -> Value {
    json!({
        "interval": duration(health.interval),
        "timeout": duration(health.timeout),
        "unhealthy_after": health.unhealthy_after,
    })
}

fn timeouts(timeouts: &Timeouts) -> Value {
    json!({
        "connect": duration(timeouts.connect),
        "first_byte": duration(timeouts.first_byte),
        "idle": duration(timeouts.idle),
        "total": timeouts.total.map_or("none".to_owned(), duration),
    })
}

fn pool(pool: &Pool) -> Value {
    json!({
        "max_idle": pool.max_idle,
        "idle_timeout": duration(pool.idle_timeout),
        "max_connections": pool.max_connections,
        "max_streams": pool.max_streams,
    })
}

fn headers(rules: &HeaderRules) -> Value {
    let set = rules.set.iter().map(|(name, value)| (name.to_string(), header_value(name, value, rules)));
    json!({ "set": set.collect::<Value>(), "remove": texts(&rules.remove) })
}

pub(super) fn credentials(credentials: &Credentials) -> Value {
    match credentials {
        Credentials::None => json!("none"),
        Credentials::Passthrough => json!("passthrough"),
        Credentials::Header { value, .. } if value.is_bearer() => {
            json!({ "bearer": value.source() })
        }
        Credentials::Header { name, value } => {
            json!({ "header": { "name": name.to_string(), "value": value.source() } })
        }
    }
}

/// A value is shown by where it was read from, and else only if it is none that could be a secret.
fn header_value(name: &HeaderName, value: &HeaderValue, rules: &HeaderRules) -> Value {
    let source = rules.sources.iter().find(|(of, _)| of == name).map(|(_, source)| source);
    match (source, value.to_str()) {
        (Some(source), _) => json!(source),
        (None, Ok(text)) if !value.is_sensitive() => json!(text),
        (None, _) => json!("[secret]"),
    }
}
