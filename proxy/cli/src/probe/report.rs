//! What a probe found: its steps as they were made, and what is known of the server.

use portunus_base::{AddressClass, text};
use portunus_config::EraMode;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What a step looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The name becomes addresses.
    Dns,
    /// The addresses may be dialled.
    Address,
    /// One of them accepts.
    Connect,
    /// It proves who it is.
    Tls,
    /// `server/discover`, the first message of clients that speak 2026-07-28.
    Discover,
    /// `initialize`, the first message of clients up to 2025-11-25.
    Initialize,
    /// `tools/list`, and the schemas in it.
    Tools,
    /// `resources/list`.
    Resources,
    /// `prompts/list`.
    Prompts,
    /// GET, the stream of what a legacy server says on its own.
    Stream,
    /// DELETE of the session that the probe made.
    End,
}

impl Stage {
    /// As it is shown, and in the JSON report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Dns => "dns",
            Stage::Address => "address",
            Stage::Connect => "connect",
            Stage::Tls => "tls",
            Stage::Discover => "discover",
            Stage::Initialize => "initialize",
            Stage::Tools => "tools",
            Stage::Resources => "resources",
            Stage::Prompts => "prompts",
            Stage::Stream => "stream",
            Stage::End => "end",
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should.
    Good,
    /// The server does without, which it may.
    Absent,
    /// It can be served, but somebody should know.
    Doubt,
    /// It cannot be served.
    Failed,
}

impl Verdict {
    /// As it is shown, and in the JSON report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Absent => "none",
            Verdict::Doubt => "warn",
            Verdict::Failed => "FAIL",
        }
    }
}

/// One step. Its texts are safe to show: what came from the server went through [`portunus_base::text`].
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it looked at.
    pub stage: Stage,
    /// How it went.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// What was found.
    pub detail: String,
    /// What to do about it, or the parts of it.
    pub hints: Vec<String>,
}

/// What a watcher of a probe is told.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// A step is under way.
    Begun(Stage),
    /// It is over.
    Ended(Step),
}

/// Who watches a probe.
pub(crate) type Watcher = Box<dyn Fn(Progress) + Send + Sync>;

/// Writes the steps down, and tells whoever watches.
pub(super) struct Recorder {
    watcher: Watcher,
    stage: Stage,
    since: Instant,
    steps: Vec<Step>,
}

impl Recorder {
    pub(super) fn new(watcher: Watcher) -> Recorder {
        Recorder { watcher, stage: Stage::Dns, since: Instant::now(), steps: Vec::new() }
    }

    pub(super) fn begin(&mut self, stage: Stage) {
        (self.stage, self.since) = (stage, Instant::now());
        (self.watcher)(Progress::Begun(stage));
    }

    pub(super) fn good(&mut self, detail: impl Into<String>) {
        self.end(Verdict::Good, detail.into(), Vec::new());
    }

    pub(super) fn absent(&mut self, detail: impl Into<String>) {
        self.end(Verdict::Absent, detail.into(), Vec::new());
    }

    pub(super) fn doubt(&mut self, detail: impl Into<String>, hints: Vec<String>) {
        self.end(Verdict::Doubt, detail.into(), hints);
    }

    /// The failure as a value, so that whoever records it can leave with `?`.
    pub(super) fn fail<T>(&mut self, detail: impl Into<String>, hint: impl Into<String>) -> Option<T> {
        self.end(Verdict::Failed, detail.into(), vec![hint.into()]);
        None
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    fn end(&mut self, verdict: Verdict, detail: String, hints: Vec<String>) {
        let step = Step { stage: self.stage, verdict, took: self.since.elapsed(), detail, hints };
        (self.watcher)(Progress::Ended(step.clone()));
        self.steps.push(step);
    }
}

/// Everything that a probe found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The URL, without its query.
    pub url: String,
    /// In the order in which they were made; the last one may have failed.
    pub steps: Vec<Step>,
    /// Where the name leads.
    pub addresses: Vec<IpAddr>,
    /// Classes of addresses that an upstream has to be granted beyond what its URL grants.
    pub grants: Vec<&'static str>,
    /// What answers there.
    pub server: Server,
}

/// What is known of an MCP server. Its texts are as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Its own name.
    pub name: Option<String>,
    /// Its own version.
    pub version: Option<String>,
    /// Revisions that it lists for stateless clients, if it speaks 2026-07-28.
    pub modern: Option<Vec<String>>,
    /// The revision that it agrees on with `initialize`.
    pub legacy: Option<String>,
    /// The `era` that an upstream has to name, and why, if clients of the other one would be misled.
    pub pin: Option<(EraMode, String)>,
    /// It keeps sessions.
    pub session: bool,
    /// What it declares.
    pub capabilities: Vec<String>,
    /// Its tools, if it declares any.
    pub tools: Option<Tools>,
    /// Number of its resources, if it declares any.
    pub resources: Option<usize>,
    /// Number of its prompts, if it declares any.
    pub prompts: Option<usize>,
    /// Events have ids: a broken stream can be resumed.
    pub resumable: bool,
}

/// The tools of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// How many are listed.
    pub count: usize,
    /// In how many pages.
    pub pages: usize,
    /// What clients will stumble over: the tool's name as it came, and what is wrong.
    pub broken: Vec<(String, String)>,
}

impl Report {
    /// Whether a gateway can serve this server.
    pub(crate) fn served(&self) -> bool {
        self.failure().is_none()
    }

    /// The step that failed.
    pub(crate) fn failure(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.verdict == Verdict::Failed)
    }

    /// One line on what answers: name, version, revisions, what it offers. Safe to show.
    pub(crate) fn summary(&self) -> String {
        let server = &self.server;
        let mut parts = vec![server.title()];
        parts.extend(server.revisions());
        let counts = [
            (server.tools.as_ref().map(|tools| tools.count), "tool"),
            (server.resources, "resource"),
            (server.prompts, "prompt"),
        ];
        parts.extend(counts.into_iter().filter_map(|(count, noun)| Some(counted(count?, noun))));
        parts.join(", ")
    }

    /// The report as a JSON document, indented; whatever a viewer would act on is escaped.
    pub(crate) fn json(&self) -> String {
        let steps: Vec<Value> = self.steps.iter().map(step_json).collect();
        let addresses = self.addresses.iter().map(|ip| {
            let class = format!("{:?}", AddressClass::of(*ip)).to_lowercase();
            json!({"address": ip.to_string(), "class": class})
        });
        let server = &self.server;
        let tools = server.tools.as_ref().map(|tools| {
            let broken = tools.broken.iter().map(|(tool, problem)| json!({"tool": tool, "problem": problem}));
            json!({"count": tools.count, "pages": tools.pages, "broken": broken.collect::<Vec<_>>()})
        });
        let document = json!({
            "url": self.url,
            "served": self.served(),
            "failed": self.failure().map(|step| step.stage.name()),
            "steps": steps,
            "addresses": addresses.collect::<Vec<_>>(),
            "grants": self.grants,
            "server": {
                "name": server.name,
                "version": server.version,
                "modern": server.modern,
                "legacy": server.legacy,
                "era": server.pin.as_ref().map(|(era, _)| era.as_str()),
                "session": server.session,
                "resumable": server.resumable,
                "capabilities": server.capabilities,
                "tools": tools,
                "resources": server.resources,
                "prompts": server.prompts,
            },
        });
        text::tame(&serde_json::to_string_pretty(&document).unwrap_or_default())
    }
}

impl Server {
    /// Name and version, quoted.
    pub(crate) fn title(&self) -> String {
        let name = text::json(self.name.as_deref().unwrap_or("a server without a name"));
        match &self.version {
            Some(version) => format!("{name} {}", text::json(version)),
            None => name,
        }
    }

    /// The revisions it speaks.
    fn revisions(&self) -> Vec<String> {
        let modern = self.modern.iter().flatten().map(|revision| text::json(revision));
        let legacy = self.legacy.iter().map(|revision| text::json(revision));
        let shown: Vec<String> = legacy.chain(modern).map(|revision| revision.replace('"', "")).collect();
        if shown.is_empty() { Vec::new() } else { vec![shown.join(" and ")] }
    }
}

fn step_json(step: &Step) -> Value {
    json!({
        "step": step.stage.name(),
        "verdict": step.verdict.name().to_lowercase(),
        "ms": (step.took.as_secs_f64() * 1e6).round() / 1e3,
        "detail": step.detail,
        "hints": step.hints,
    })
}

/// `1 tool`, `2 tools`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
