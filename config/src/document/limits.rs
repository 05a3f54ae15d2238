//! `limits`: how much callers may use.

use super::values::{Budget, EndTime, Label, Money, NamePattern, Positive, Quota, Zone};
use crate::described::{Described, ShortForm, ShortOrLong, section};
use crate::diagnostic::Place;
use crate::reader::{Section, Unenforced};
use crate::units::Rate;
use chrono_tz::Tz;
use portunus_filters::limits::{KeyPart, Mode, Unit};

/// Default of [`LimitsDocument::max_keys`].
const DEFAULT_MAX_KEYS: Positive = Positive(1_000_000);

section! {
    /// Limits of what callers may use. All rules of a call are asked before any of them counts it.
    pub struct LimitsDocument {
        /// Calls of each caller.
        per_principal: ShortOrLong<CallLimit> => optional,
        /// Calls of each tool by each caller.
        per_tool: ShortOrLong<CallLimit> => optional,
        /// Calls of each tenant, by all its callers together.
        per_tenant: ShortOrLong<CallLimit> => optional,
        /// Calls of each project, which is the claim `project` of callers, by all its callers together.
        per_project: ShortOrLong<CallLimit> => optional,
        /// Calls of each caller at once.
        concurrent: ShortOrLong<ConcurrencyLimit> => optional,
        /// Calls of one tool with the same arguments by one caller; the order of keys and whitespace do not count.
        r#loop: ShortOrLong<LoopLimit> => optional,
        /// Polls of tasks (`tasks/get`, `tasks/result`) by each caller. No other key counts them.
        polls: ShortOrLong<CallLimit> => optional,
        /// Calls, cost and time of a run.
        per_run: () => unenforced,
        /// Money that one call may cost.
        per_tool_call: Money => optional,
        /// Concurrency that follows what upstreams can do.
        adaptive_surge: () => unenforced,
        /// Further rules.
        rules: LimitRuleDocument => list,
        /// Zone whose clock ends the windows of quotas and budgets, where a rule names no other.
        time_zone: Zone => default(Zone(Tz::UTC)),
        /// Keys that each rule counts at once. Further ones share one count. Callers who prove no name have a sixteenth of it.
        max_keys: Positive => default(DEFAULT_MAX_KEYS),
    }
}

section! {
    /// A limit of calls: a `rate`, a `quota` or a `budget`.
    pub struct CallLimit as "call_limit" {
        /// A rate: `1000/hour` admits at most 2,000 in any hour, as many as its burst at once.
        rate: Rate => optional,
        /// Calls that `rate` admits at once. Default: its count.
        burst: Positive => optional,
        /// An exact number in each window of the calendar.
        quota: Quota => optional,
        /// Money in each window of the calendar, by the `cost` of tools or what the policy says that a call costs.
        budget: Budget => optional,
        /// Zone whose clock ends the windows of `quota` and `budget`.
        time_zone: Zone => optional,
        /// The calls that it counts. Default: all.
        r#match: LimitMatchDocument => optional,
        /// Calls that it does not count.
        except: LimitExceptionDocument => list,
        /// `enforce` refuses; `observe` refuses nothing and tells what it would have refused.
        mode: Mode => default(Mode::Enforce),
    }
}

section! {
    /// A limit of calls at once.
    pub struct ConcurrencyLimit {
        /// Calls that may be under way at once.
        most: Positive => required("write how many calls may be under way at once"),
        /// The calls that it counts. Default: all.
        r#match: LimitMatchDocument => optional,
        /// Calls that it does not count.
        except: LimitExceptionDocument => list,
        /// `enforce` refuses; `observe` refuses nothing and tells what it would have refused.
        mode: Mode => default(Mode::Enforce),
    }
}

section! {
    /// A limit of the same call again and again.
    pub struct LoopLimit {
        /// How often the same call may come: `5/m` lets it come five times at once, and then once every 12 s.
        rate: Rate => required("write how often the same call may come, such as `5/m`"),
        /// The calls that it counts. Default: all.
        r#match: LimitMatchDocument => optional,
        /// Calls that it does not count, such as those of a tool that is meant to be polled.
        except: LimitExceptionDocument => list,
        /// `enforce` refuses; `observe` refuses nothing and tells what it would have refused.
        mode: Mode => default(Mode::Enforce),
    }
}

section! {
    /// A rule: one of `rate`, `quota`, `budget`, `concurrent` and `loop`.
    pub struct LimitRuleDocument {
        /// Its name in refusals, the log and metrics.
        name: Label => required("write a name for the rule"),
        /// Calls with the same values of these share a count. Default: all calls share one.
        key: KeyPart => list,
        /// The messages that it counts.
        unit: Unit => default(Unit::Calls),
        /// A rate: `1000/hour` admits at most 2,000 in any hour, as many as its burst at once.
        rate: Rate => optional,
        /// Calls that `rate` admits at once. Default: its count.
        burst: Positive => optional,
        /// An exact number in each window of the calendar.
        quota: Quota => optional,
        /// Money in each window of the calendar, by the `cost` of tools or what the policy says that a call costs.
        budget: Budget => optional,
        /// Zone whose clock ends the windows of `quota` and `budget`.
        time_zone: Zone => optional,
        /// Calls that may be under way at once.
        concurrent: Positive => optional,
        /// A rate of calls of one tool with the same arguments.
        r#loop: Rate => optional,
        /// The calls that it counts. Default: all.
        r#match: LimitMatchDocument => optional,
        /// Calls that it does not count.
        except: LimitExceptionDocument => list,
        /// `enforce` refuses; `observe` refuses nothing and tells what it would have refused.
        mode: Mode => default(Mode::Enforce),
    }
}

section! {
    /// Calls that match each key which is written. In patterns `*` is any run of characters.
    pub struct LimitMatchDocument as "limit_match" {
        /// Tools, `UPSTREAM.NAME`, by the name that the upstream gives them.
        tools: NamePattern => list,
        /// Names of upstreams.
        upstreams: NamePattern => list,
        /// Endpoints, by their label: `mcp` for `/mcp`.
        endpoints: NamePattern => list,
        /// Methods, such as `tools/call`.
        methods: NamePattern => list,
        /// Tenants of callers.
        tenants: NamePattern => list,
        /// Subjects of callers (`sub`).
        principals: NamePattern => list,
        /// Agents, the software that acts.
        agents: NamePattern => list,
        /// Roles, of which the caller has one.
        roles: NamePattern => list,
        /// Groups, of which the caller has one.
        groups: NamePattern => list,
    }
}

section! {
    /// Calls that a rule does not count.
    pub struct LimitExceptionDocument as "limit_exception" {
        /// The calls.
        r#match: LimitMatchDocument => required("write which calls the rule is not for"),
        /// Last day, or moment of UTC, at which it holds. Default: it holds for ever.
        until: EndTime => optional,
    }
}

impl ShortForm for CallLimit {
    type Form = Rate;

    fn from_short(rate: Rate, place: Place) -> CallLimit {
        let (burst, quota, budget, time_zone) = (None, None, None, None);
        CallLimit {
            place,
            rate: Some(rate),
            burst,
            quota,
            budget,
            time_zone,
            r#match: None,
            except: vec![],
            mode: Mode::Enforce,
        }
    }
}

impl ShortForm for ConcurrencyLimit {
    type Form = Positive;

    fn from_short(most: Positive, place: Place) -> ConcurrencyLimit {
        ConcurrencyLimit { place, most, r#match: None, except: vec![], mode: Mode::Enforce }
    }
}

impl ShortForm for LoopLimit {
    type Form = Rate;

    fn from_short(rate: Rate, place: Place) -> LoopLimit {
        LoopLimit { place, rate, r#match: None, except: vec![], mode: Mode::Enforce }
    }
}

impl LimitsDocument {
    /// The keys that are written and not enforced.
    pub(super) fn unenforced(&self) -> impl Iterator<Item = &Unenforced> {
        [&self.per_run, &self.adaptive_surge].into_iter().flatten()
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Option<LimitsDocument> {
    section.value("limits").and_then(|value| LimitsDocument::read(&value))
}

/// The tables of all keys of `limits`, as the reference has them.
pub fn reference() -> String {
    use crate::described::table;
    let sections = [
        ("`limits`", LimitsDocument::rows()),
        (
            "The long form of `per_principal`, `per_tool`, `per_tenant`, `per_project` and `polls`",
            CallLimit::rows(),
        ),
        ("The long form of `concurrent`", ConcurrencyLimit::rows()),
        ("The long form of `loop`", LoopLimit::rows()),
        ("`rules`", LimitRuleDocument::rows()),
        ("`match`", LimitMatchDocument::rows()),
        ("`except`", LimitExceptionDocument::rows()),
    ];
    let shown = sections.map(|(title, rows)| format!("{title}:\n\n{}", table(&rows)));
    shown.join("\n")
}
