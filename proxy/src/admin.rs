//! The read surface for operators: `/status`, `/config`, `/refusals`.
//!
//! It only reads, and only answers for loopback names and its own address: a page on the web that
//! makes a browser ask here under its own name gets nothing (DNS rebinding).

use crate::frontend::context::{Active, Gateway};
use crate::telemetry::{answer, names_this_machine, plain};
use async_trait::async_trait;
use http::header::{HOST, ORIGIN};
use http::{Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use portunus_base::text;
use portunus_config::{Diagnostic, Upstream};
use portunus_filters::limits::RuleOutcome;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Refusals shown unless `limit` asks for more or less.
const DEFAULT_LIMIT: usize = 100;

/// The app behind `admin`.
pub struct Admin {
    gateway: Arc<Gateway>,
    address: SocketAddr,
}

impl Admin {
    /// A surface over this process, bound to `address`.
    pub fn new(gateway: Arc<Gateway>, address: SocketAddr) -> Admin {
        Admin { gateway, address }
    }

    /// What is in force, what was refused, what runs.
    fn status(&self) -> Value {
        let gateway = &self.gateway;
        let active = gateway.active();
        let reload = gateway.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = active.snapshot.routes.iter().map(|server| {
            let upstreams: Vec<&str> = server.upstreams.iter().map(|upstream| &*upstream.name).collect();
            let lists = gateway.estate.catalogs.report(&server.id, gateway.clock.now());
            let mode = if active.may_pass(server) { "passes" } else { "serves" };
            json!({
                "path": server.path,
                "name": *server.name,
                "mode": mode,
                "upstreams": upstreams,
                "lists": lists,
            })
        });
        let replicas = gateway.backend.instances.status(gateway.clock.now().monotonic);
        let upstreams = active.snapshot.upstreams.iter().map(|upstream| {
            let replicas = replicas.iter().filter(|replica| replica.upstream == upstream.name);
            let replicas: Vec<Value> = replicas
                .map(|replica| json!({"url": replica.url, "state": replica.state, "in_flight": replica.in_flight}))
                .collect();
            let pool = active.pool(upstream);
            let (idle, active) = pool.map_or((0, 0), |pool| (pool.idle_count(), pool.active_count()));
            json!({
                "name": *upstream.name,
                "url": upstream.url.redacted(),
                "connections": {"idle": idle, "active": active},
                "replicas": replicas,
                "failing": failing(gateway, upstream),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": &*active.revision,
            "serial": active.snapshot.serial,
            "phase": format!("{:?}", gateway.drain.phase()).to_lowercase(),
            "in_flight": gateway.drain.in_flight(),
            "connections": gateway.metrics.edge.connections.get(),
            "streams": gateway.metrics.streams.get(),
            "snapshots_alive": gateway.metrics.snapshots_alive.get(),
            "restart_needed": reload.restart_needed,
            "refused": diagnostics(&reload.refused),
            "warnings": diagnostics(&reload.warnings),
            "servers": servers.collect::<Vec<_>>(),
            "upstreams": upstreams.collect::<Vec<_>>(),
            "identity": identity(gateway),
            "limits": limits(gateway, &active),
        })
    }

    fn refusals(&self, query: &str) -> String {
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LIMIT);
        self.gateway.recorder.refusals.render(limit, value("id"))
    }
}

/// The instances of an upstream that do not answer now.
fn failing(gateway: &Gateway, upstream: &Upstream) -> Vec<Value> {
    let now = Instant::now();
    let instances = gateway.metrics.upstreams.instances_of(upstream);
    let outages = instances.iter().filter_map(|instance| Some((instance, instance.outage(now)?)));
    let told = outages.map(|(instance, outage)| {
        json!({
            "instance": instance.url,
            "problem": outage.problem,
            "seconds": outage.age.as_secs(),
            "failed_calls": outage.failed_calls,
        })
    });
    told.collect()
}

/// Each limit with its calls.
fn limits(gateway: &Gateway, active: &Active) -> Vec<Value> {
    gateway.measure_limits();
    let rules = active.limits.rules().iter().map(|active| {
        let rule = &active.rule;
        let calls = RuleOutcome::ALL.map(|outcome| gateway.metrics.limits.calls(&rule.name, outcome));
        let [allowed, refused, observed] = calls;
        json!({
            "rule": *rule.name,
            "limit": *rule.shown,
            "mode": rule.mode.as_str(),
            "keys": active.counters.keys(),
            "allowed": allowed,
            "refused": refused,
            "observed": observed,
        })
    });
    rules.collect()
}

/// Whose tokens are taken, and what is known of their keys; `null` where nobody is asked.
fn identity(gateway: &Gateway) -> Value {
    if gateway.active().snapshot.identities.is_none() {
        return Value::Null;
    }
    let issuers = gateway.estate.callers.keys.status(gateway.clock.now());
    let issuers = issuers.iter().map(|issuer| {
        json!({
            "issuer": *issuer.issuer,
            "keys": issuer.keys,
            "age_seconds": issuer.age.map(|age| age.as_secs()),
            "from_disk": issuer.from_disk,
            "failed": issuer.failed,
        })
    });
    json!({ "issuers": issuers.collect::<Vec<_>>() })
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !names_this_machine(host, self.address.ip()) || request.headers.contains_key(ORIGIN) {
            return plain(
                StatusCode::FORBIDDEN,
                "the admin surface answers for loopback names, and no web page\n",
            );
        }
        if request.method != Method::GET {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "this surface only reads; changes go through the control socket\n",
            );
        }
        // Servers and clients chose some of the text, and a terminal or page may show it.
        let shown = |body: String| answer(StatusCode::OK, "application/json", text::tame(&body).into_bytes());
        match request.uri.path() {
            "/status" => shown(format!("{:#}\n", self.status())),
            "/config" => shown(format!(
                "{:#}\n",
                portunus_config::redacted(&self.gateway.bootstrap, &self.gateway.active().snapshot)
            )),
            "/refusals" => shown(self.refusals(request.uri.query().unwrap_or_default())),
            _ => plain(
                StatusCode::NOT_FOUND,
                "here are /status, /config and /refusals?limit=N&id=REQUEST-ID\n",
            ),
        }
    }
}

fn diagnostics(list: &[Diagnostic]) -> Vec<Value> {
    let told = |one: &Diagnostic| {
        let at = one.at.as_ref().map(ToString::to_string);
        json!({"at": at, "path": one.path, "problem": one.problem, "hint": one.hint})
    };
    list.iter().map(told).collect()
}
