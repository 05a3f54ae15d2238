//! One [`Outcome`] a message: filled on the way, recorded once, at the latest when it is dropped. A message that another
//! replica serves is recorded there.
//!
//! It is the only place that counts messages and writes records, so a path that forgets to report
//! does not exist: what is dropped without an end counts as cancelled.

mod decided;

use crate::clipped::Clipped;
use crate::context::Gateway;
use crate::identify::EventNumber;
use crate::metrics::{ServerMetrics, Stage, Status, UpstreamMetrics};
use crate::refusals::Refusal;
use crate::upstreams::pool::Pool;
use chrono::{DateTime, SecondsFormat};
use portunus_base::text::push_json;
use portunus_filters::gate::Judged;
use portunus_filters::identity::Principal;
use portunus_filters::mcp::Method;
use portunus_filters::{Arrival, Denial, Era, Message, Reason};
use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened to one message, or to one batch.
pub struct Outcome {
    gateway: Arc<Gateway>,
    started: Instant,
    stage: Instant,
    facts: Facts,
    server: Option<Arc<ServerMetrics>>,
    waiting: bool,
    /// When the upstream was chosen.
    forwarded: Instant,
    /// Start of the present wait for the upstream.
    waits_since: Option<Instant>,
    /// Its last stage has ended.
    over: bool,
    /// Another has taken its place.
    handed_over: bool,
    /// Another replica records it.
    elsewhere: bool,
}

#[derive(Default)]
struct Facts {
    event: EventNumber,
    request_id: Arc<str>,
    trace_id: Option<Box<str>>,
    listener: Arc<str>,
    source: Option<IpAddr>,
    auth: &'static str,
    caller: Option<Arc<Principal>>,
    wall: Duration,
    user_agent: Option<Box<str>>,
    server: Option<Arc<str>>,
    upstream: Option<Arc<UpstreamMetrics>>,
    era: Option<Era>,
    version: Option<&'static str>,
    action: Option<Cow<'static, str>>,
    target: Option<Arc<str>>,
    revision: Option<Arc<str>>,
    request_bytes: usize,
    response_bytes: u64,
    http_status: u16,
    upstream_ms: Option<f64>,
    events: u64,
    reason: Option<Reason>,
    detail: Option<String>,
    status: Option<Status>,
    rpc_error: Option<i64>,
    proven: bool,
    judged: Option<Arc<Judged>>,
}

impl Outcome {
    /// The outcome of what has just arrived.
    pub fn new(gateway: &Arc<Gateway>, arrival: &Arrival) -> Outcome {
        let now = Instant::now();
        let facts = Facts {
            event: gateway.identifier.number(),
            request_id: Arc::clone(&arrival.request_id),
            listener: Arc::clone(&arrival.listener),
            source: Some(arrival.source),
            auth: arrival.identity.auth(),
            wall: arrival.at.wall,
            ..Facts::default()
        };
        Outcome::begun(gateway, now, facts)
    }

    fn begun(gateway: &Arc<Gateway>, now: Instant, facts: Facts) -> Outcome {
        Outcome {
            gateway: Arc::clone(gateway),
            started: now,
            stage: now,
            facts,
            server: None,
            waiting: false,
            forwarded: now,
            waits_since: None,
            over: false,
            handed_over: false,
            elsewhere: false,
        }
    }

    /// The rest of it, for who goes on with the message; this one is not recorded any more.
    pub fn hand_over(&mut self) -> Outcome {
        let nothing = Outcome::of_nothing(&self.gateway);
        std::mem::replace(self, nothing)
    }

    /// What happens to nobody's message: it is not recorded.
    pub fn of_nothing(gateway: &Arc<Gateway>) -> Outcome {
        let mut nothing = Outcome::begun(gateway, Instant::now(), Facts::default());
        nothing.handed_over = true;
        nothing
    }

    /// Notes what the client calls itself and the trace it belongs to, for the record alone.
    pub fn client(&mut self, user_agent: Option<&str>, trace_id: Option<&str>) {
        if self.gateway.access_log.is_enabled() {
            self.facts.user_agent = user_agent.map(Into::into);
            self.facts.trace_id = trace_id.map(Into::into);
        }
    }

    /// Notes that it belongs to another trace.
    pub fn trace(&mut self, id: &str) {
        if self.gateway.access_log.is_enabled() {
            self.facts.trace_id = Some(id.into());
        }
    }

    /// Notes who was found to call.
    pub fn identified(&mut self, principal: &Arc<Principal>) {
        self.facts.auth = principal.auth.as_str();
        self.facts.caller = Some(Arc::clone(principal));
    }

    /// Notes the virtual server and its configuration.
    pub fn server(&mut self, server: &portunus_config::VirtualServer, revision: &Arc<str>) {
        self.facts.server = Some(Arc::clone(&server.name));
        self.facts.revision = Some(Arc::clone(revision));
        self.server = Some(self.gateway.metrics.server(server));
    }

    /// Notes the message; of a batch, its first.
    pub fn message(&mut self, message: &Message, body_bytes: usize) {
        self.facts.era = Some(message.era);
        self.facts.version = message.revision.map(|revision| revision.as_str());
        self.facts.action = Some(message.action());
        self.facts.target.clone_from(&message.target);
        self.facts.request_bytes = body_bytes;
    }

    /// Ends the filters and notes the upstream that was chosen, by its connections. From here on the message counts as
    /// pending, and the upstream is waited for.
    pub fn forwarding(&mut self, pool: &Pool) {
        self.facts.upstream = pool.monitor().map(|monitor| Arc::clone(&monitor.upstream));
        self.stage_done(Stage::Filters);
        self.forwarded = self.stage;
        self.waits_since = Some(self.stage);
        if let Some(server) = &self.server {
            server.pending.inc();
            server.active.inc();
            self.waiting = true;
        }
    }

    /// Ends a wait for the upstream, whatever came of it. The first one ends the stage of forwarding.
    pub fn upstream_said(&mut self) {
        let Some(since) = self.waits_since.take() else { return };
        let now = match self.facts.upstream_ms {
            None => {
                self.stage_done(Stage::Forward);
                self.stage
            }
            Some(_) => Instant::now(),
        };
        let waited = now.duration_since(since).as_secs_f64() * 1e3;
        self.facts.upstream_ms = Some(self.facts.upstream_ms.unwrap_or_default() + waited);
    }

    /// Begins another wait for the upstream; before its first message one is under way.
    pub fn upstream_waits(&mut self) {
        if self.facts.upstream_ms.is_some() {
            self.waits_since.get_or_insert_with(Instant::now);
        }
    }

    /// Ends a stage; its time starts where the last one ended.
    pub fn stage_done(&mut self, stage: Stage) {
        let now = Instant::now();
        self.gateway.metrics.stage(stage, now.duration_since(self.stage).as_secs_f64());
        self.stage = now;
    }

    /// Ends the last stage: what was to be written to the client was, or cannot be.
    pub fn over(&mut self) {
        if !self.over && !self.handed_over {
            self.over = true;
            self.upstream_said();
            self.stage_done(Stage::Respond);
        }
    }

    /// Notes that another replica serves the message, and records it.
    pub fn recorded_elsewhere(&mut self) {
        self.elsewhere = true;
    }

    /// Notes that the other replica is lost, which may not have recorded the message any more.
    pub fn recorded_here(&mut self) {
        self.elsewhere = false;
    }

    /// Notes bytes that went to the client, and how many events they were.
    pub fn sent(&mut self, bytes: usize, events: u64) {
        self.facts.response_bytes += bytes as u64;
        self.facts.events += events;
    }

    /// Notes the status line that the client got.
    pub fn http_status(&mut self, status: u16) {
        self.facts.http_status = status;
    }

    /// The upstream's answer: its JSON-RPC error, if it is one.
    pub fn answered(&mut self, rpc_error: Option<i64>) {
        self.upstream_said();
        self.facts.rpc_error = rpc_error;
        self.facts.status = Some(if rpc_error.is_some() { Status::Error } else { Status::Ok });
    }

    /// As [`Outcome::answered`]; an HTTP error status is an error too.
    pub fn answered_status(&mut self, status: u16, rpc_error: Option<i64>) {
        self.answered(rpc_error);
        if status >= 400 {
            self.facts.status = Some(Status::Error);
        }
    }

    /// Notes whether the upstream gave a result that is no tool error: the tool then exists.
    pub fn proven(&mut self, proven: bool) {
        self.facts.proven = proven;
    }

    /// Notes that the client did not get the end of its answer.
    pub fn cut(&mut self) {
        if self.facts.reason.is_none() {
            self.facts.status = Some(Status::Cancelled);
        }
    }

    /// Notes what could be read of a message that is refused.
    pub fn glimpsed(
        &mut self,
        era: Era,
        method: Option<&Method>,
        target: Option<Arc<str>>,
        body_bytes: usize,
    ) {
        self.facts.era = Some(era);
        self.facts.action = method.map(Method::to_name);
        self.facts.target = target;
        self.facts.request_bytes = body_bytes;
    }

    /// Notes what was decided of the message.
    pub fn judged(&mut self, judged: Option<&Arc<Judged>>) {
        self.facts.judged = judged.cloned();
    }

    /// The refusal that the client gets.
    pub fn denied(&mut self, denial: &Denial) {
        self.upstream_said();
        if let Some(judged) = Judged::of_refusal(denial) {
            self.facts.judged = Some(judged);
        }
        self.facts.reason = Some(denial.reason);
        self.facts.status = Some(denial.reason.into());
        self.facts.detail.get_or_insert_with(|| denial.detail.clone().into_owned());
    }

    /// What only the operator may read of a failure.
    pub fn cause(&mut self, cause: &dyn std::fmt::Display) {
        tracing::debug!(
            request_id = &*self.facts.request_id,
            upstream = self.facts.upstream.as_ref().map(|upstream| &*upstream.name),
            "{cause}"
        );
        self.facts.detail = Some(cause.to_string());
    }

    /// Whether a reason was noted why the client gets no answer of its server.
    pub fn is_failed(&self) -> bool {
        self.facts.reason.is_some()
    }

    fn record(&mut self) {
        self.over();
        if let Some(server) = self.server.as_ref().filter(|_| self.waiting) {
            server.pending.dec();
            server.active.dec();
        }
        if self.elsewhere {
            return;
        }
        let now = Instant::now();
        let elapsed = now.duration_since(self.started);
        let status = self.facts.status.unwrap_or(Status::Cancelled);
        let metrics = &self.gateway.metrics;
        if let Some(server) = &self.server {
            let tool =
                self.facts.target.as_deref().filter(|_| self.facts.action.as_deref() == Some("tools/call"));
            metrics.tool(server, tool, self.facts.proven).count(status, elapsed.as_secs_f64());
        }
        if let Some(upstream) = &self.facts.upstream {
            upstream.count(status, self.facts.reason, now.duration_since(self.forwarded).as_secs_f64());
        }
        if let Some(reason) = self.facts.reason {
            metrics.denied(reason, self.facts.server.as_deref());
            self.gateway.refusals.push(self.refusal(reason));
        }
        if self.gateway.access_log.is_enabled() {
            let event_id = self.gateway.identifier.spell(self.facts.event);
            let line = self.facts.line(&event_id, status, elapsed);
            self.gateway.access_log.write(line);
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        Refusal {
            request_id: Clipped::new(&self.facts.request_id),
            at: timestamp(self.facts.wall),
            reason,
            source: self.facts.source,
            server: self.facts.server.clone(),
            action: self.facts.action.as_deref().map(Clipped::new),
            target: self.facts.target.as_deref().map(Clipped::new),
            revision: self.facts.revision.clone(),
            detail: self.facts.detail.as_deref().map(Clipped::new).unwrap_or_default(),
            judged: self.facts.judged.clone(),
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.handed_over {
            self.record();
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn timestamp(wall: Duration) -> String {
    let seconds = i64::try_from(wall.as_secs()).unwrap_or_default();
    DateTime::from_timestamp(seconds, wall.subsec_nanos())
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default()
}

impl Facts {
    /// The record as one line of `record/1`.
    fn line(&self, event_id: &str, status: Status, elapsed: Duration) -> String {
        let mut line = String::with_capacity(512);
        line.push_str("{\"schema\":\"record/1\",\"event_type\":\"mcp.message\",\"ts\":\"");
        line.push_str(&timestamp(self.wall));
        line.push('"');
        let mut field = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = write!(line, ",\"{name}\":");
                push_json(&mut line, value);
            }
        };
        field("event_id", Some(event_id));
        field("request_id", Some(&self.request_id));
        field("trace_id", self.trace_id.as_deref());
        field("auth", Some(self.auth));
        if let Some(caller) = &self.caller {
            field("tenant_id", Some(&caller.tenant));
            field("user_id", Some(&caller.subject));
            field("agent_id", caller.agent.as_deref());
            field("on_behalf_of", caller.on_behalf_of.as_deref());
        }
        field("ip_address", self.source.map(|ip| ip.to_string()).as_deref());
        field("user_agent", self.user_agent.as_deref());
        field("listener", Some(&self.listener));
        field("era", self.era.map(Era::as_str));
        field("mcp_version", self.version);
        field("action", self.action.as_deref());
        field("resource", self.target.as_deref());
        field("server_name", self.server.as_deref());
        field("upstream", self.upstream.as_ref().map(|upstream| &*upstream.name));
        let call = self.action.as_deref() == Some("tools/call");
        field("tool_name", self.target.as_deref().filter(|_| call));
        field("decision", Some(if status.is_refusal() { "deny" } else { "allow" }));
        field("status", Some(status.as_str()));
        field("reason", self.reason.map(Reason::as_str));
        field("bundle_revision", self.revision.as_deref());
        if let Some(judged) = &self.judged {
            decided::write(&mut line, judged);
        }
        if let Some(code) = self.rpc_error {
            let _ = write!(line, ",\"rpc_error\":{code}");
        }
        if let Some(ms) = self.upstream_ms {
            let _ = write!(line, ",\"upstream_ms\":{ms:.3}");
        }
        let _ = write!(
            line,
            ",\"http_status\":{},\"args_bytes\":{},\"result_size\":{},\"events\":{},\"duration_ms\":{:.3}}}",
            self.http_status,
            self.request_bytes,
            self.response_bytes,
            self.events,
            elapsed.as_secs_f64() * 1e3
        );
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_json_with_hostile_text_defused() {
        let facts = Facts {
            request_id: "r-1".into(),
            wall: Duration::from_millis(1_700_000_000_123),
            user_agent: Some("evil\n\x1b[31m\u{202e}".into()),
            action: Some("tools/call".into()),
            target: Some("echo\"}".into()),
            reason: Some(Reason::HeaderMismatch),
            ..Facts::default()
        };
        let line = facts.line("e-1", Status::Invalid, Duration::from_micros(1500));
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(record["ts"], "2023-11-14T22:13:20.123Z");
        assert_eq!(record["tool_name"], "echo\"}");
        assert_eq!(record["decision"], "deny");
        assert_eq!(record["duration_ms"], 1.5);
    }
}
