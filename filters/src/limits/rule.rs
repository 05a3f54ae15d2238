//! Describes a rule: the messages that it counts, its key, and its effect at the limit.

use super::meter::Meter;
use crate::call::{Call, Subject};
use crate::glob::Glob;
use crate::identity::Principal;
use portunus_base::Moment;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in refusals, records and metrics; unique.
    pub name: Arc<str>,
    /// Calls that have the same values of these share a count.
    pub key: Box<[KeyPart]>,
    /// The messages that it counts.
    pub unit: Unit,
    /// The calls that it is for.
    pub matches: Match,
    /// Calls that it is not for.
    pub except: Box<[Exception]>,
    /// Its effect at the limit.
    pub mode: Mode,
    /// How it counts.
    pub meter: Meter,
    /// The limit for people, such as `1000/hour`.
    pub shown: Arc<str>,
    /// Its place in the document, `FILE:LINE`.
    pub place: Arc<str>,
}

/// The effect of a rule whose limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It refuses.
    #[default]
    Enforce,
    /// It lets the call pass, and tells.
    Observe,
}

impl Mode {
    /// Every mode by its name.
    pub const NAMES: [(&'static str, Mode); 2] = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    }
}

/// The messages that a rule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// `tools/call`, `prompts/get`, `resources/read` and `completion/complete`.
    #[default]
    Calls,
    /// `tasks/get` and `tasks/result`.
    Polls,
}

impl Unit {
    /// Every unit by its name.
    pub const NAMES: [(&'static str, Unit); 2] = [("calls", Unit::Calls), ("polls", Unit::Polls)];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Calls => "calls",
            Unit::Polls => "polls",
        }
    }

    /// Its methods.
    pub fn methods(self) -> &'static [&'static str] {
        match self {
            Unit::Calls => &["tools/call", "prompts/get", "resources/read", "completion/complete"],
            Unit::Polls => &["tasks/get", "tasks/result"],
        }
    }

    /// The unit that a request is counted as, by its method.
    pub(super) fn of_method(method: &str) -> Option<Unit> {
        let mut units = Unit::NAMES.iter().map(|(_, unit)| *unit);
        units.find(|unit| unit.methods().contains(&method))
    }
}

macro_rules! key_parts {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal),+ $(,)?) => {
        /// A property of a call by which calls are told apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum KeyPart {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl KeyPart {
            /// Every part by its name.
            pub const NAMES: &[(&'static str, KeyPart)] = &[$(($name, KeyPart::$variant)),+];

            /// The name in configurations and explanations.
            pub fn as_str(self) -> &'static str {
                match self { $(KeyPart::$variant => $name),+ }
            }
        }
    };
}

key_parts! {
    /// The tenant of the caller.
    Tenant => "tenant",
    /// The caller: tenant and subject, or the address of a caller that shows nothing.
    Principal => "principal",
    /// The person that an agent acts for.
    OnBehalfOf => "on_behalf_of",
    /// The software that acts.
    Agent => "agent",
    /// Each role of the caller.
    Role => "role",
    /// Each group of the caller.
    Group => "group",
    /// The claim `project` of the caller.
    Project => "project",
    /// The claim `team` of the caller.
    Team => "team",
    /// The listener that took the call.
    Listener => "listener",
    /// The endpoint that was called.
    Endpoint => "endpoint",
    /// The upstream that the call goes to.
    Upstream => "upstream",
    /// The tool that is called, by upstream and name. A rule with it counts calls of tools alone.
    Tool => "tool",
    /// The method of the message.
    Method => "method",
    /// The address of the client; of IPv6, its network of 64 bits.
    Source => "source",
}

/// The calls that a rule is for: all that match each list which is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// `UPSTREAM.TOOL`.
    pub tools: Vec<ToolPattern>,
    /// Names of upstreams.
    pub upstreams: Vec<Glob>,
    /// Names of endpoints.
    pub endpoints: Vec<Glob>,
    /// Methods.
    pub methods: Vec<Glob>,
    /// Tenants.
    pub tenants: Vec<Glob>,
    /// Subjects.
    pub principals: Vec<Glob>,
    /// Agents.
    pub agents: Vec<Glob>,
    /// Roles, of which the caller has one.
    pub roles: Vec<Glob>,
    /// Groups, of which the caller has one.
    pub groups: Vec<Glob>,
}

/// A pattern over tools, by upstream and name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPattern {
    /// The upstream.
    pub upstream: Glob,
    /// The tool.
    pub tool: Glob,
}

/// Calls that a rule is not for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The calls.
    pub matches: Match,
    /// Until then, since the Unix epoch.
    pub until: Option<Duration>,
}

impl Rule {
    /// True if it counts a call.
    pub(super) fn applies(&self, call: &Call<'_>, (unit, method): (Unit, &str), now: Moment) -> bool {
        let is_excepted = |exception: &Exception| {
            exception.until.is_none_or(|end| now.wall < end) && exception.matches.matches(call, method)
        };
        self.unit == unit
            && !(self.meter.reads_arguments() && is_continued(call))
            && (!self.key.contains(&KeyPart::Tool) || call.target.tool().is_some())
            && self.matches.matches(call, method)
            && !self.except.iter().any(is_excepted)
    }

    /// The subject of its counts as text: two rules with the same one count the same things.
    pub(super) fn shape(&self) -> String {
        let parts: Vec<&str> = self.key.iter().map(|part| part.as_str()).collect();
        format!("{} by {}", self.unit.as_str(), parts.join(","))
    }

    /// True if it holds each caller to a rate or quota of its own: for all calls, or for all calls of each tool, endpoint,
    /// upstream or method. Nothing else in its key is the same whatever a caller shows.
    pub fn binds_every_caller(&self) -> bool {
        use KeyPart::{Endpoint, Method, Principal, Tool, Upstream};
        self.mode == Mode::Enforce
            && self.unit == Unit::Calls
            && self.key.contains(&Principal)
            && self.key.iter().all(|part| [Principal, Tool, Endpoint, Upstream, Method].contains(part))
            && self.matches.is_any()
            && self.except.is_empty()
            && matches!(self.meter, Meter::Rate(_) | Meter::Quota { .. })
    }

    /// True if each caller whom it counts is counted alone, so that nobody can use up what is another's.
    pub fn keeps_callers_apart(&self) -> bool {
        self.key.iter().any(|part| matches!(part, KeyPart::Principal | KeyPart::Source))
    }
}

/// True if a call goes on with one that was made before: it brings the same arguments because it has to (MCP 2026-07-28,
/// multi round-trip requests).
fn is_continued(call: &Call<'_>) -> bool {
    let Ok(body) = std::str::from_utf8(&call.message.body) else { return false };
    let params = call.message.message_index.as_ref().map(|index| index.params(body));
    params
        .is_some_and(|params| params.get("inputResponses").is_some() || params.get("requestState").is_some())
}

impl Match {
    /// True if it is for every call.
    pub fn is_any(&self) -> bool {
        *self == Match::default()
    }

    fn matches(&self, call: &Call<'_>, method: &str) -> bool {
        let target = call.target;
        let principal = call.arrival.identity.principal();
        let of = |text: fn(&Principal) -> Option<&str>| principal.and_then(|principal| text(principal));
        let tool = |tool: &ToolPattern| match &target.subject {
            Some(Subject::Tool(known)) => {
                tool.upstream.matches(&target.upstream) && tool.tool.matches(&known.original)
            }
            _ => false,
        };
        (self.tools.is_empty() || self.tools.iter().any(tool))
            && one(&self.upstreams, Some(&target.upstream))
            && one(&self.endpoints, Some(&target.server))
            && one(&self.methods, Some(method))
            && one(&self.tenants, of(|principal| Some(&principal.tenant)))
            && one(&self.principals, of(|principal| Some(&principal.subject)))
            && one(&self.agents, of(|principal| principal.agent.as_deref()))
            && some(&self.roles, principal.map_or(&[], |principal| &principal.roles))
            && some(&self.groups, principal.map_or(&[], |principal| &principal.groups))
    }
}

fn one(globs: &[Glob], name: Option<&str>) -> bool {
    globs.is_empty() || name.is_some_and(|name| globs.iter().any(|glob| glob.matches(name)))
}

fn some(globs: &[Glob], names: &[Arc<str>]) -> bool {
    globs.is_empty() || names.iter().any(|name| globs.iter().any(|glob| glob.matches(name)))
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.upstream, self.tool)
    }
}
