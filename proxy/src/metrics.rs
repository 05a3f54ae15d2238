//! Counters, gauges and histograms, and their names.
//!
//! Handles with labels are resolved when a snapshot is built; a call only adds to them. A tool's
//! name becomes a label only after its server answered a call of it well, and only the first
//! [`MAX_TOOL_LABELS`] of a server do: names that callers make up are counted under `other`.

mod edge;
mod limits;
mod policy;
mod process;
mod upstreams;

pub use edge::EdgeMetrics;
pub use limits::LimitMetrics;
pub use policy::PolicyMetrics;
use process::ProcessMetrics;
pub use upstreams::{UpstreamMetrics, UpstreamsMetrics};

use arc_swap::ArcSwap;
use portunus_config::{Snapshot, VirtualServer};
use portunus_filters::{Beyond, FILTERS, Reason, Status};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Tool names per virtual server that get a label of their own.
pub const MAX_TOOL_LABELS: usize = 512;

/// Tools with a longer name than MCP lets them have are counted under `other` too.
const MAX_LABEL_BYTES: usize = 128;
/// Upper bounds of histograms of whole calls, in seconds.
const CALL_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Stages whose time is measured.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// From the virtual server to the read message: the caller and the body.
    Intake,
    /// From the header section to the virtual server.
    Resolve,
    /// Until the upstream is chosen: routing, lists that this needs, filters.
    Filters,
    /// Until the first message of the upstream, or the answer of another replica.
    Forward,
    /// Until the last byte of the answer was written.
    Respond,
}

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    errors: IntCounterVec,
    denials: HashMap<Reason, IntCounter>,
    stages: [Histogram; 5],
    filters: [Histogram; FILTERS.len()],
    active: IntGaugeVec,
    pending: IntGaugeVec,
    /// What happens before a message.
    pub edge: EdgeMetrics,
    /// What is decided of messages.
    pub policy: PolicyMetrics,
    /// Limits: calls that were allowed and refused.
    pub limits: LimitMetrics,
    /// Who is calling.
    pub identity: IdentityMetrics,
    /// What becomes of calls at upstreams.
    pub upstreams: UpstreamsMetrics,
    process: ProcessMetrics,
    /// Streams without an end of their own: GET and `subscriptions/listen`.
    pub streams: IntGauge,
    /// Snapshots that something still holds.
    pub snapshots_alive: IntGauge,
    /// Activations of a configuration, by result.
    pub activations: IntCounterVec,
    /// Unix time of the last activation, in seconds.
    pub activated_at: IntGauge,
    /// Records that the access log could not take.
    pub records_dropped: IntCounter,
    /// What the gateway said to upstreams on its own.
    pub gateway_requests: IntCounterVec,
    untold: IntCounterVec,
    long_texts: IntCounterVec,
    /// Sizes of the tables that outlive messages.
    pub tables: IntGaugeVec,
    servers: ArcSwap<HashMap<Arc<str>, Arc<ServerMetrics>>>,
}

/// What is measured of who is calling.
pub struct IdentityMetrics {
    /// Tokens that their connection remembered.
    pub connection_hits: IntCounter,
    /// Tokens that were verified before.
    pub hits: IntCounter,
    /// Tokens that were refused before.
    pub refused_hits: IntCounter,
    /// Tokens that had to be verified.
    pub misses: IntCounter,
    /// Callers that were refused, by what was wrong.
    pub faults: IntCounterVec,
    /// Key sets that were fetched, by issuer and result.
    pub fetches: IntCounterVec,
    /// Age of key sets in seconds, by issuer.
    pub key_ages: IntGaugeVec,
    /// Questions about tokens, by issuer and result.
    pub inspections: IntCounterVec,
}

impl IdentityMetrics {
    fn new(registry: &Registry) -> prometheus::Result<IdentityMetrics> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let tokens =
            counters("mcp_token_cache_total", "Tokens of callers by where they were found", &["result"])?;
        let ages = Opts::new("portunus_jwks_age_seconds", "Time since the keys of an issuer were fetched");
        let (fetches, help) = ("portunus_jwks_fetches_total", "Fetches of the keys of issuers");
        let (asked, asked_help) = ("portunus_introspections_total", "Questions to issuers about tokens");
        Ok(IdentityMetrics {
            connection_hits: tokens.with_label_values(&["connection"]),
            hits: tokens.with_label_values(&["hit"]),
            refused_hits: tokens.with_label_values(&["refused"]),
            misses: tokens.with_label_values(&["miss"]),
            faults: counters(
                "portunus_identity_faults_total",
                "Callers refused, by what was wrong",
                &["fault"],
            )?,
            fetches: counters(fetches, help, &["issuer", "result"])?,
            key_ages: keep(registry, IntGaugeVec::new(ages, &["issuer"])?)?,
            inspections: counters(asked, asked_help, &["issuer", "result"])?,
        })
    }
}

/// Handles of one virtual server.
pub struct ServerMetrics {
    name: Arc<str>,
    /// Messages that are being forwarded or answered.
    pub active: IntGauge,
    /// The same number, in this build.
    pub pending: IntGauge,
    other: Arc<ToolMetrics>,
    tools: ArcSwap<HashMap<Arc<str>, Arc<ToolMetrics>>>,
    /// Held while a tool is added, which is copied into a new table: each is looked up far more often.
    adding: Mutex<()>,
}

/// Handles of one tool.
pub struct ToolMetrics {
    requests: [IntCounter; Status::ALL.len()],
    duration: Histogram,
}

impl ToolMetrics {
    /// Counts one finished call.
    pub fn count(&self, status: Status, seconds: f64) {
        if let Some(position) = Status::ALL.iter().position(|one| *one == status) {
            self.requests[position].inc();
        }
        self.duration.observe(seconds);
    }
}

impl Metrics {
    /// All metrics, registered and at zero.
    ///
    /// # Errors
    /// If two of them share a name: a programming error, told at start.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            keep(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            keep(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str| keep(&registry, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| keep(&registry, IntCounter::new(name, help)?);
        let under_way = "Messages that are being forwarded or answered";
        let (stages, filters) = stages(&registry)?;
        Ok(Metrics {
            requests: counters(
                "mcp_requests_total",
                "Messages that reached a virtual server, by outcome",
                &["server_name", "tool_name", "status"],
            )?,
            durations: durations(&registry)?,
            errors: counters(
                "mcp_errors_total",
                "Messages that were refused, or that an upstream failed, by reason",
                &["server_name", "reason"],
            )?,
            denials: refusals(&counters("mcp_denials_total", "Refusals by reason", &["reason"])?),
            stages,
            filters,
            active: gauges("mcp_active_connections", under_way, &["server_name"])?,
            pending: gauges("mcp_pending_requests", under_way, &["server_name"])?,
            edge: EdgeMetrics::new(&registry)?,
            policy: PolicyMetrics::new(&registry)?,
            limits: LimitMetrics::new(&registry)?,
            identity: IdentityMetrics::new(&registry)?,
            upstreams: UpstreamsMetrics::new(&registry)?,
            process: ProcessMetrics::new(&registry)?,
            streams: gauge("portunus_streams", "Open GET and subscriptions/listen streams")?,
            snapshots_alive: gauge("portunus_snapshots_alive", "Configurations that something still holds")?,
            activations: counters("portunus_activations_total", "Configurations by result", &["result"])?,
            activated_at: gauge("portunus_activated_timestamp_seconds", "Unix time of the last activation")?,
            records_dropped: counter("portunus_records_dropped_total", "Records that the access log lost")?,
            gateway_requests: counters(
                "portunus_gateway_requests_total",
                "Messages the gateway sent on its own",
                &["kind", "result"],
            )?,
            untold: counters(
                "portunus_messages_dropped_total",
                "Messages lost because their recipient did not keep up",
                &["for"],
            )?,
            long_texts: counters(
                "portunus_long_texts_total",
                "Texts of servers that had to be read and were longer than `answers.hold`",
                &["server_name", "outcome"],
            )?,
            tables: gauges("portunus_table_entries", "Entries in tables that outlive messages", &["table"])?,
            servers: ArcSwap::default(),
            registry,
        })
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        self.process.look();
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        out
    }

    /// Handles for each virtual server of a snapshot; those of removed ones are forgotten.
    pub fn resolve(&self, snapshot: &Snapshot) {
        let resolved: HashMap<Arc<str>, Arc<ServerMetrics>> = {
            let known = self.servers.load();
            snapshot
                .routes
                .iter()
                .map(|server| {
                    let handles = known
                        .get(&server.name)
                        .cloned()
                        .unwrap_or_else(|| Arc::new(self.server_handles(server)));
                    (Arc::clone(&server.name), handles)
                })
                .collect()
        };
        self.servers.store(Arc::new(resolved));
    }

    /// The handles of a virtual server.
    pub fn server(&self, server: &VirtualServer) -> Arc<ServerMetrics> {
        let known = self.servers.load();
        match known.get(&server.name) {
            Some(handles) => Arc::clone(handles),
            None => Arc::new(self.server_handles(server)),
        }
    }

    /// The handles of a tool of a server; `proven` admits its name as a label.
    pub fn tool(&self, server: &ServerMetrics, tool: Option<&str>, proven: bool) -> Arc<ToolMetrics> {
        let Some(tool) = tool else { return Arc::clone(&server.other) };
        let known = |tools: &HashMap<_, _>| tools.get(tool).map(Arc::clone);
        if let Some(handles) = known(&server.tools.load()) {
            return handles;
        }
        if !proven || tool.len() > MAX_LABEL_BYTES {
            return Arc::clone(&server.other);
        }
        let _one_at_a_time = server.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tools = HashMap::clone(&server.tools.load());
        if let Some(handles) = known(&tools) {
            return handles;
        }
        if tools.len() >= MAX_TOOL_LABELS {
            return Arc::clone(&server.other);
        }
        let handles = Arc::new(self.tool_handles(&server.name, tool));
        tools.insert(tool.into(), Arc::clone(&handles));
        server.tools.store(Arc::new(tools));
        handles
    }

    /// Counts a refusal, or a failure of an upstream: that is an error of its virtual server, and no denial.
    pub fn denied(&self, reason: Reason, server: Option<&str>) {
        if let Some(counter) = self.denials.get(&reason) {
            counter.inc();
        }
        if let Some(server) = server {
            self.errors.with_label_values(&[server, reason.as_str()]).inc();
        }
    }

    /// Counts a connection above the cap.
    pub fn connection_refused(&self) {
        self.edge.connections_refused.inc();
        self.denied(Reason::Overloaded, None);
    }

    /// Adds the time of one stage.
    pub fn stage(&self, stage: Stage, seconds: f64) {
        self.stages[stage as usize].observe(seconds);
    }

    /// Notes how long a filter took for a message.
    pub fn filter(&self, name: &str, seconds: f64) {
        // Filters of tests are not in the list.
        if let Some(at) = FILTERS.iter().position(|known| *known == name) {
            self.filters[at].observe(seconds);
        }
    }

    /// Counts messages that were lost because their recipient did not keep up.
    pub fn untold(&self, whom: &'static str, messages: u64) {
        if messages > 0 {
            self.untold.with_label_values(&[whom]).inc_by(messages);
        }
    }

    /// Counts a text that had to be read and was longer than what is held for that.
    pub fn long_text(&self, server: &str, beyond: Beyond) {
        self.long_texts.with_label_values(&[server, beyond.as_str()]).inc();
    }

    fn server_handles(&self, server: &VirtualServer) -> ServerMetrics {
        ServerMetrics {
            name: Arc::clone(&server.name),
            active: self.active.with_label_values(&[&*server.name]),
            pending: self.pending.with_label_values(&[&*server.name]),
            other: Arc::new(self.tool_handles(&server.name, "other")),
            tools: ArcSwap::default(),
            adding: Mutex::default(),
        }
    }

    fn tool_handles(&self, server: &str, tool: &str) -> ToolMetrics {
        ToolMetrics {
            requests: Status::ALL
                .map(|status| self.requests.with_label_values(&[server, tool, status.as_str()])),
            duration: self.durations.with_label_values(&[server, tool]),
        }
    }
}

/// One more in a gauge, until it is dropped.
pub struct Counted(IntGauge);

impl Counted {
    /// Counts one.
    pub fn one(gauge: &IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A counter for each reason of a refusal.
fn refusals(counters: &IntCounterVec) -> HashMap<Reason, IntCounter> {
    let refusals = Reason::ALL.iter().filter(|reason| Status::from(**reason).is_refusal());
    refusals.map(|reason| (*reason, counters.with_label_values(&[reason.as_str()]))).collect()
}

/// The histogram of the time that calls take.
fn durations(registry: &Registry) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts::new(
        "mcp_request_duration_seconds",
        "Time from the header section to the end of the answer",
    );
    let options = options.buckets(CALL_BUCKETS.to_vec());
    keep(registry, HistogramVec::new(options, &["server_name", "tool_name"])?)
}

/// The histograms of the stages, and of the filters within theirs.
fn stages(registry: &Registry) -> prometheus::Result<([Histogram; 5], [Histogram; FILTERS.len()])> {
    let fine = vec![1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0, 10.0];
    let stages =
        HistogramOpts::new("mcp_stage_duration_seconds", "Time a message spends in a stage").buckets(fine);
    let stages = keep(registry, HistogramVec::new(stages, &["stage"])?)?;
    let names = ["intake", "resolve", "filters", "forward", "respond"];
    let filters = std::array::from_fn(|at| stages.with_label_values(&[FILTERS[at]]));
    Ok((names.map(|name| stages.with_label_values(&[name])), filters))
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
