//! The effective configuration for people: every default filled in, every secret hidden.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use serde_json::{Value, json};

use crate::bootstrap::{AccessLog, Bootstrap, Listener, LogFormat};
use crate::secret::Reference;
use crate::snapshot::{HttpStatus, Snapshot, VirtualServer};
use crate::tls::{ClientCertificateMode, HttpVersion, ListenerTls, UnknownSni, UpstreamTls};
use crate::units::show_duration;
use crate::upstream::{Credentials, HostPolicy, Upstream};

/// The effective configuration as JSON, in the document's own words.
pub fn redacted(bootstrap: &Bootstrap, snapshot: &Snapshot) -> Value {
    let upstreams = snapshot.upstreams.iter();
    json!({
        "revision": snapshot.revision.to_string(),
        "serial": snapshot.serial,
        "listeners": bootstrap.listeners.iter().map(listener).collect::<Vec<_>>(),
        "telemetry": bootstrap.telemetry.map(|address| address.to_string()),
        "admin": bootstrap.admin.map(|address| address.to_string()),
        "control": bootstrap.control.display().to_string(),
        "threads": bootstrap.threads,
        "state": bootstrap.state.display().to_string(),
        "drain": { "deadline": duration(bootstrap.drain.deadline), "delay": duration(bootstrap.drain.delay) },
        "log": {
            "level": bootstrap.log.level.as_str(),
            "format": match bootstrap.log.format { LogFormat::Text => "text", LogFormat::Json => "json" },
        },
        "access_log": match &bootstrap.access_log {
            AccessLog::Stdout => json!("stdout"),
            AccessLog::Off => json!("off"),
            AccessLog::File(path) => json!({ "file": path.display().to_string() }),
        },
        "upstreams": Value::Object(upstreams.map(|one| (one.name.to_string(), upstream(one))).collect()),
        "servers": snapshot.routes.iter().map(|server| virtual_server(server)).collect::<Vec<_>>(),
    })
}

fn listener(listener: &Listener) -> Value {
    let limits = &listener.limits;
    json!({
        "name": listener.name,
        "bind": listener.bind.to_string(),
        "hosts": match &listener.hosts {
            None => json!("any"),
            Some(hosts) => json!(texts(hosts)),
        },
        "origins": listener.origins.patterns().collect::<Vec<_>>(),
        "trusted_proxies": texts(&listener.trusted_proxies),
        "limits": {
            "max_connections": limits.max_connections,
            "idle_timeout": duration(limits.idle_timeout),
            "header_timeout": duration(limits.header_timeout),
            "body_timeout": duration(limits.body_timeout),
            "write_timeout": duration(limits.write_timeout),
            "max_header_bytes": limits.max_header_bytes,
            "max_headers": limits.max_headers,
            "max_body_bytes": limits.max_body_bytes,
            "max_streams": limits.max_streams,
        },
        "tls": listener.tls.as_ref().map(listener_tls),
        "http2": listener.http2,
        "proxy_protocol": if listener.proxy_protocol { "v2" } else { "off" },
    })
}

fn upstream(upstream: &Upstream) -> Value {
    let (timeouts, pool) = (&upstream.timeouts, &upstream.pool);
    let set = upstream.headers.set.iter();
    json!({
        "url": upstream.url.redacted(),
        "key": upstream.key.to_string(),
        "era": upstream.era.as_str(),
        "timeouts": {
            "connect": duration(timeouts.connect),
            "first_byte": duration(timeouts.first_byte),
            "idle": duration(timeouts.idle),
            "total": timeouts.total.map_or("none".to_owned(), duration),
        },
        "pool": {
            "max_idle": pool.max_idle,
            "idle_timeout": duration(pool.idle_timeout),
            "max_connections": pool.max_connections,
            "max_streams": pool.max_streams,
        },
        "headers": {
            "set": Value::Object(set.map(|(name, value)| (name.to_string(), header_value(value))).collect()),
            "remove": texts(&upstream.headers.remove),
        },
        "credentials": match &upstream.credentials {
            Credentials::None => json!("none"),
            Credentials::Passthrough => json!("passthrough"),
            Credentials::Header { name, value } => {
                json!({ "header": { "name": name.to_string(), "value": value.to_string() } })
            }
        },
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

fn listener_tls(tls: &ListenerTls) -> Value {
    let settings = &tls.settings;
    let clients = settings.client_certificates.as_ref().map(|clients| {
        json!({
            "trust": clients.trust.display().to_string(),
            "crls": paths(&clients.crls),
            "mode": match clients.mode {
                ClientCertificateMode::Required => "required",
                ClientCertificateMode::Optional => "optional",
            },
        })
    });
    json!({
        "certificates": settings.certificates.iter().map(pair).collect::<Vec<_>>(),
        "min": settings.min.as_str(),
        "unknown_sni": match settings.unknown_sni {
            UnknownSni::Default => "default",
            UnknownSni::Refuse => "refuse",
        },
        "client_certificates": clients,
        "handshake_timeout": duration(tls.handshake_timeout),
        "max_handshakes": tls.max_handshakes,
    })
}

fn upstream_tls(tls: &UpstreamTls) -> Value {
    let settings = &tls.settings;
    let own = settings.certificate.as_ref();
    json!({
        "ca": settings.ca.as_ref().map(|path| path.display().to_string()),
        "crls": paths(&settings.crls),
        "certificate": own.map(|(certificate, _)| certificate.display().to_string()),
        "key": own.map(|(_, key)| key.to_string()),
        "pins": texts(&settings.pins),
        "server_name": tls.server_name.to_str(),
        "min": settings.min.as_str(),
    })
}

/// A key is shown by where it is, never by what it is.
fn pair((certificate, key): &(PathBuf, Reference)) -> Value {
    json!({ "certificate": certificate.display().to_string(), "key": key.to_string() })
}

fn paths(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

fn virtual_server(server: &VirtualServer) -> Value {
    let bounds = &server.bounds;
    json!({
        "id": server.id.to_string(),
        "name": &*server.name,
        "path": server.path,
        "hosts": texts(&server.hosts),
        "upstreams": server.upstreams.iter().map(|upstream| upstream.name.to_string()).collect::<Vec<_>>(),
        "bounds": {
            "depth": bounds.depth,
            "string": bounds.string_bytes,
            "array": bounds.array_items,
            "keys": bounds.object_keys,
        },
        "max_body_bytes": server.max_body_bytes,
        "http_status": match server.http_status {
            HttpStatus::InBand => "in_band",
            HttpStatus::Mirror => "mirror",
        },
    })
}

fn header_value(value: &HeaderValue) -> Value {
    match value.to_str() {
        Ok(text) if !value.is_sensitive() => json!(text),
        _ => json!("[secret]"),
    }
}

fn duration(duration: Duration) -> String {
    show_duration(duration)
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::loaded_with;

    const TEXT: &str = "version: 1\nrevision: v1\nupstreams:\n  \
         a: {url: 'http://h/mcp?key=hunter2', credentials: {bearer: 'env:T'},\n    \
         headers: {set: {X-A: plain, X-B: 'env:T', X-Api-Key: hunter2}}}\n  \
         b: {url: 'http://h/', credentials: {header: {name: X-Key, value: 'env:T'}}}\n\
         servers: {/a: a, /b: {upstreams: b, bounds: strict}}\n";

    #[test]
    fn no_secret_is_shown_in_any_form() {
        let loaded = loaded_with(TEXT, &[("T", "hunter2")]);
        let shown = redacted(&loaded.bootstrap, &loaded.snapshot).to_string();
        let debugged = format!("{loaded:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        // The query of a URL is part of the request and no secret by type; `Debug` shows it.
        assert!(!debugged.replace("key=hunter2", "").contains("hunter2"), "{debugged}");
    }

    #[test]
    fn defaults_are_filled_in() {
        let loaded = loaded_with(TEXT, &[("T", "hunter2")]);
        let shown = redacted(&loaded.bootstrap, &loaded.snapshot);
        let at = |pointer: &str| shown.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/listeners/0/bind"), "127.0.0.1:8080");
        assert_eq!(at("/listeners/0/hosts/2"), "[::1]");
        assert_eq!(at("/listeners/0/limits/idle_timeout"), "75s");
        assert_eq!(at("/drain/deadline"), "30s");
        assert_eq!(at("/upstreams/a/url"), "http://h/mcp?[secret]");
        assert_eq!(at("/upstreams/a/headers/set/x-a"), "plain");
        assert_eq!(at("/upstreams/a/headers/set/x-b"), "[secret]");
        assert_eq!(at("/upstreams/a/headers/set/x-api-key"), "[secret]");
        assert_eq!(at("/upstreams/a/credentials/header/name"), "authorization");
        assert_eq!(at("/upstreams/a/credentials/header/value"), "[secret]");
        assert_eq!(at("/upstreams/a/timeouts/total"), "10m");
        assert_eq!(at("/servers/1/bounds/depth"), 10);
        assert!(at("/revision").as_str().unwrap().starts_with("v1 ("));
    }
}
