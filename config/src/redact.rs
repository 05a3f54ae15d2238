//! The effective configuration for people: every default filled in, every secret hidden.

mod api_keys;
mod caller;
mod identity;
mod peers;
mod policy;
mod servers;
mod tools;
mod upstreams;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bootstrap::{AccessLog, Bootstrap, Listener, LogFormat};
use crate::reference::Reference;
use crate::snapshot::Snapshot;
use crate::tls::{ListenerTls, UpstreamTls};
use crate::units::show_duration;
use peers::{peers, sealing};
use portunus_base::{ClientCertificateMode, UnknownSni};
use servers::virtual_server;
use upstreams::upstream;

/// The effective configuration as one document, `revision` without its digest.
///
/// Names are resolved and defaults filled in: rules of a bundle stand beside the process that loads
/// it, and a named secret is replaced by where it is read from. Read again in the folder of the
/// document it came from, it gives the same configuration, unless a secret was written in the
/// document or in a URL: that is `[secret]` here.
pub fn effective(bootstrap: &Bootstrap, snapshot: &Snapshot) -> Value {
    let upstreams = snapshot.upstreams.iter();
    without_nulls(json!({
        "version": 1,
        "revision": snapshot.revision.label,
        "listeners": bootstrap.listeners.iter().map(|one| listener(one, snapshot)).collect::<Vec<_>>(),
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
        "replica": bootstrap.replica.as_ref().map(ToString::to_string),
        "sealing": sealing(&bootstrap.sealing),
        "peers": bootstrap.peers.as_ref().map(peers),
        "identity": snapshot.identities.as_deref().map(identity::identities),
        "upstreams": Value::Object(upstreams.map(|one| (one.name.to_string(), upstream(one))).collect()),
        "tools": tools::tools(&snapshot.tools),
        "policy": snapshot.policy.as_deref().map(policy::policy),
        "limits": snapshot.limits.as_deref().map(|limits| limits.section.clone()),
        "controls": snapshot.controls.as_ref().map(tools::controls),
        "servers": snapshot.routes.iter().map(|server| virtual_server(server)).collect::<Vec<_>>(),
    }))
}

/// What rules of a policy may know of the gateway: its upstreams, without what they are shown as
/// credentials, their tools, and its servers.
pub(crate) fn enforced(snapshot: &Snapshot) -> Value {
    let open = |(name, mut one): (String, Value)| {
        if let Some(keys) = one.as_object_mut() {
            keys.retain(|key, _| !["credentials", "headers", "tls"].contains(&key.as_str()));
        }
        (name, one)
    };
    let upstreams = snapshot.upstreams.iter().map(|one| open((one.name.to_string(), upstream(one))));
    without_nulls(json!({
        "revision": snapshot.revision.label,
        "upstreams": Value::Object(upstreams.collect()),
        "tools": tools::tools(&snapshot.tools),
        "servers": snapshot.routes.iter().map(|server| virtual_server(server)).collect::<Vec<_>>(),
    }))
}

/// The effective configuration of a running process: with its revision, its serial, and the ids that
/// records name.
pub fn redacted(bootstrap: &Bootstrap, snapshot: &Snapshot) -> Value {
    let mut shown = effective(bootstrap, snapshot);
    shown["revision"] = json!(snapshot.revision.to_string());
    shown["serial"] = json!(snapshot.serial);
    for upstream in &snapshot.upstreams {
        shown["upstreams"][&*upstream.name]["key"] = json!(upstream.key.to_string());
    }
    for (index, server) in snapshot.routes.iter().enumerate() {
        shown["servers"][index]["id"] = json!(server.id.to_string());
    }
    shown
}

/// A key that has no value is not written.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(keys) => {
            let written = keys.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(written.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

fn listener(listener: &Listener, snapshot: &Snapshot) -> Value {
    let limits = &listener.limits;
    // A listener beyond loopback was accepted because callers are identified, or else because it was
    // allowed to be anonymous.
    let loopback = listener.bind.ip().to_canonical().is_loopback() || snapshot.identities.is_some();
    json!({
        "name": listener.name,
        "bind": listener.bind.to_string(),
        "anonymous": if loopback { "loopback" } else { "allow" },
        "hosts": match &listener.hosts {
            None => json!("any"),
            Some(hosts) => json!(texts(hosts)),
        },
        "origins": listener.origins.patterns().collect::<Vec<_>>(),
        "trusted_proxies": texts(&listener.trusted_proxies),
        "forwarded_by": listener.forwarded_by.as_str(),
        "forwarded_from": listener.proxy_protocol.then(|| texts(&listener.forwarded_from)),
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
            "max_connection_age": duration(limits.max_connection_age),
        },
        "tls": listener.tls.as_ref().map(listener_tls),
        "http2": listener.http2,
        "proxy_protocol": if listener.proxy_protocol { "v2" } else { "off" },
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
        "pins": unless_empty(texts(&settings.pins)),
        "server_name": settings.server_name,
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

/// An empty list of these would be refused: it reads as if it allowed nothing.
fn unless_empty(items: Vec<String>) -> Option<Vec<String>> {
    (!items.is_empty()).then_some(items)
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
        assert_eq!(at("/upstreams/a/headers/set/x-b"), "env:T");
        assert_eq!(at("/upstreams/a/headers/set/x-api-key"), "[secret]");
        assert_eq!(at("/upstreams/a/credentials/bearer"), "env:T");
        assert_eq!(at("/upstreams/b/credentials/header/value"), "env:T");
        assert_eq!(at("/upstreams/a/timeouts/total"), "10m");
        assert_eq!(at("/servers/1/bounds/depth"), 10);
        assert!(at("/revision").as_str().unwrap().starts_with("v1 ("));
    }
}
