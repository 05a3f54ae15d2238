//! `builtin: rbac` without its rules: what roles may do, as an index.
//!
//! The rules that come with the gateway stay what a policy of roles means: they are what `eject` writes and what
//! explains a refusal. They read each grant of a caller in turn, so they are answered from here, and a test asks
//! both the same. Each function names the rule that it stands for.

mod patterns;

use super::calendar::LocalTime;
use super::decision::{Fault, Ruling};
use super::json;
use super::projection::Key;
use super::question::{Direction, Entry, Kind, Question};
use crate::mcp;
use patterns::{NamePattern, PatternIndex};
use regorus::Value;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

type Name = Box<str>;

/// The grants of all roles, by what they are about.
#[derive(Debug)]
pub(super) struct RoleIndex {
    /// By direction.
    general: [HashSet<Name>; 2],
    /// Roles by what makes a caller hold them: a role, a group, a subject of the caller.
    by_role: HashMap<Name, Vec<u32>>,
    by_group: HashMap<Name, Vec<u32>>,
    by_subject: HashMap<Name, Vec<u32>>,
    roles: Vec<Role>,
    grants: Vec<Grant>,
    allow: ByKind,
    deny: ByKind,
    /// What of a caller, beside the roles, grants ask for.
    asks: Asks,
    answers: Answers,
}

#[derive(Debug)]
struct Role {
    tenants: Vec<Name>,
    methods: HashSet<Name>,
}

/// What is known of a grant beside its patterns.
#[derive(Debug)]
struct Grant {
    servers: Vec<Name>,
    zones: Vec<Name>,
    classes: Vec<Name>,
    max_risk: Option<u8>,
    mfa: bool,
    weekdays: Vec<Name>,
    hours: Option<Hours>,
    justification: bool,
    arguments: Vec<(Name, WantedValues)>,
    conditional: bool,
}

/// What an argument has to be: one of the values, or that of a claim.
#[derive(Debug)]
struct WantedValues {
    values: Vec<Value>,
    claim: Option<Name>,
}

/// A grant of a role.
#[derive(Clone, Copy, Debug)]
struct Granted {
    role: u32,
    grant: u32,
}

#[derive(Debug, Default)]
struct ByKind {
    tools: PatternIndex<Granted>,
    prompts: PatternIndex<Granted>,
    resources: PatternIndex<Granted>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asks {
    zone: bool,
    mfa: bool,
    time: bool,
    justification: bool,
}

/// Every answer there is.
#[derive(Debug)]
struct Answers {
    allowed: Arc<Ruling>,
    refused: Arc<Ruling>,
    not_granted: Arc<Ruling>,
    shown: Arc<Ruling>,
    hidden: Arc<Ruling>,
}

/// The roles that a caller holds, a bit for each.
struct Held {
    bits: Vec<u64>,
}

impl Held {
    fn has(&self, role: u32) -> bool {
        self.bits[role as usize / 64] & (1 << (role % 64)) != 0
    }

    fn roles(&self) -> impl Iterator<Item = usize> {
        let places = |(word, bits): (usize, &u64)| {
            let bits = *bits;
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit)
        };
        self.bits.iter().enumerate().filter(|(_, bits)| **bits != 0).flat_map(places)
    }

    fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }
}

/// What conditions on arguments are held against.
#[derive(Debug, Default)]
pub(super) struct ConditionInput {
    arguments: Option<Value>,
    claims: HashMap<Arc<str>, Value>,
}

impl ConditionInput {
    /// Everything that the rules are given where some grant has a condition on arguments.
    ///
    /// # Errors
    /// The [`Fault`] of what cannot be read in one way.
    pub(super) fn of(question: &Question<'_>) -> Result<ConditionInput, Fault> {
        let read = || -> Result<ConditionInput, mcp::Fault> {
            let claims = question.principal.claims.iter();
            let claims = claims.map(|(name, text)| Ok((Arc::clone(name), json::value(text)?)));
            // In the order in which they stand in the input document: the first fault is the one that is told.
            let claims = claims.collect::<Result<_, mcp::Fault>>()?;
            Ok(ConditionInput { arguments: question.mcp.arguments.map(json::passed_on).transpose()?, claims })
        };
        read().map_err(Fault::Unreadable)
    }

    fn argument(&self, name: &str) -> Option<&Value> {
        self.arguments.as_ref()?.as_object().ok()?.get(&Value::from(name))
    }
}

/// One question, with what is worked out of it once.
struct Asked<'a> {
    question: &'a Question<'a>,
    held: Held,
    time: LocalTime,
    given: &'a ConditionInput,
}

impl RoleIndex {
    /// Of `data.rbac`, as the file of roles is lowered for the rules.
    ///
    /// # Errors
    /// What is not as the rules expect it.
    pub(super) fn new(data: &serde_json::Value) -> Result<RoleIndex, String> {
        let RbacDocument { general, roles } =
            RbacDocument::deserialize(data).map_err(|error| error.to_string())?;
        let mut index = RoleIndex {
            general: [general.to_server.into_iter().collect(), general.to_client.into_iter().collect()],
            by_role: HashMap::new(),
            by_group: HashMap::new(),
            by_subject: HashMap::new(),
            roles: Vec::with_capacity(roles.len()),
            grants: Vec::new(),
            allow: ByKind::default(),
            deny: ByKind::default(),
            asks: Asks::default(),
            answers: Answers::new(),
        };
        for (number, role) in (0..).zip(roles.into_values()) {
            index.add(number, role)?;
        }
        Ok(index)
    }

    fn add(&mut self, number: u32, role: RoleDocument) -> Result<(), String> {
        let marks = [
            (&mut self.by_role, role.roles),
            (&mut self.by_group, role.groups),
            (&mut self.by_subject, role.subjects),
        ];
        for (by_mark, marks) in marks {
            marks.into_iter().for_each(|mark| by_mark.entry(mark).or_default().push(number));
        }
        self.roles.push(Role { tenants: role.tenants, methods: role.methods.into_iter().collect() });
        for (grants, is_allow) in [(role.allow, true), (role.deny, false)] {
            for document in grants {
                let place = u32::try_from(self.grants.len()).map_err(|_| "too many grants")?;
                let granted = Granted { role: number, grant: place };
                let index = if is_allow { &mut self.allow } else { &mut self.deny };
                index.insert(&document, granted);
                let grant = Grant::new(document)?;
                self.asks.zone |= !grant.zones.is_empty();
                self.asks.mfa |= grant.mfa;
                self.asks.time |= !grant.weekdays.is_empty() || grant.hours.is_some();
                self.asks.justification |= grant.justification;
                self.grants.push(grant);
            }
        }
        Ok(())
    }

    /// `decision` or `visible`.
    pub(super) fn answer(
        &self,
        entry: Entry,
        question: &Question<'_>,
        (time, given): (LocalTime, &ConditionInput),
    ) -> Arc<Ruling> {
        let asked = Asked { question, held: self.held(question), time, given };
        let answers = &self.answers;
        let is_general = self.is_general(&asked);
        Arc::clone(match entry {
            Entry::Visible if is_general || self.is_visible(&asked) => &answers.shown,
            Entry::Visible => &answers.hidden,
            _ if is_general => &answers.allowed,
            _ if self.any(&self.deny, &asked, |grant| grant.holds(&asked)) => &answers.refused,
            _ if self.any(&self.allow, &asked, |grant| grant.holds(&asked)) => &answers.allowed,
            _ => &answers.not_granted,
        })
    }

    /// What of `question` tells callers apart in lists: the roles that they hold, and what grants of any role
    /// ask of callers.
    pub(super) fn view(&self, entry: Entry, question: &Question<'_>, time: LocalTime, key: &mut Key) {
        key.text(question.mcp.server);
        self.held(question).bits.iter().for_each(|bits| key.number(*bits));
        if self.asks.zone {
            key.number(u64::from(question.context.zone.is_some()));
            key.text(question.context.zone.unwrap_or_default());
        }
        if self.asks.mfa {
            key.number(u64::from(question.principal.mfa));
        }
        if entry != Entry::Visible {
            if self.asks.time {
                key.number(u64::from(time.hour));
                key.text(time.weekday());
            }
            if self.asks.justification {
                key.number(u64::from(is_justified(question)));
            }
        }
    }

    /// `held`.
    fn held(&self, question: &Question<'_>) -> Held {
        let mut held = Held { bits: vec![0; self.roles.len().div_ceil(64)] };
        let principal = question.principal;
        let by_role = principal.roles.iter().filter_map(|role| self.by_role.get(&**role));
        let by_group = principal.groups.iter().filter_map(|group| self.by_group.get(&**group));
        let by_subject = self.by_subject.get(&*principal.subject);
        for role in by_role.chain(by_group).chain(by_subject).flatten() {
            let tenants = &self.roles[*role as usize].tenants;
            // `of_tenant`.
            if tenants.is_empty() || lists(tenants, &principal.tenant) {
                held.bits[*role as usize / 64] |= 1 << (role % 64);
            }
        }
        held
    }

    /// `general`.
    fn is_general(&self, asked: &Asked<'_>) -> bool {
        let mcp = &asked.question.mcp;
        let open = &self.general[usize::from(mcp.direction == Direction::ToClient)];
        let is_open = matches!(mcp.kind, Kind::Server | Kind::Stream)
            && open.contains(mcp.method)
            && !asked.held.is_empty();
        let is_named = || {
            matches!(mcp.kind, Kind::Server | Kind::Other)
                && asked.held.roles().any(|role| self.roles[role].methods.contains(mcp.method))
        };
        is_open || is_named()
    }

    /// The rest of `visible`.
    fn is_visible(&self, asked: &Asked<'_>) -> bool {
        self.any(&self.allow, asked, |grant| grant.suits(asked.question))
            && !self.any(&self.deny, asked, |grant| !grant.conditional)
    }

    /// Whether a grant of the caller is about this (`matches`), and `holds`.
    fn any(&self, index: &ByKind, asked: &Asked<'_>, mut holds: impl FnMut(&Grant) -> bool) -> bool {
        let mcp = &asked.question.mcp;
        let Some((patterns, target)) = index.about(asked.question) else { return false };
        let (Some(upstream), Some(target)) = (mcp.upstream, target) else { return false };
        patterns.any(upstream, target, |granted| {
            asked.held.has(granted.role) && {
                let grant = &self.grants[granted.grant as usize];
                // `on_server`.
                (grant.servers.is_empty() || lists(&grant.servers, mcp.server)) && holds(grant)
            }
        })
    }
}

impl ByKind {
    fn insert(&mut self, grant: &GrantDocument, granted: Granted) {
        // Of templates there are the same patterns.
        let kinds = [
            (&mut self.tools, &grant.tool),
            (&mut self.prompts, &grant.prompt),
            (&mut self.resources, &grant.resource),
        ];
        for (index, patterns) in kinds {
            patterns.iter().for_each(|pattern| index.insert(&pattern.upstream, &pattern.name, granted));
        }
    }

    /// The patterns over what `question` is about, and `target`.
    fn about<'q>(&self, question: &Question<'q>) -> Option<(&PatternIndex<Granted>, Option<&'q str>)> {
        match question.mcp.kind {
            Kind::Tool => Some((&self.tools, question.mcp.name)),
            Kind::Prompt => Some((&self.prompts, question.mcp.name)),
            Kind::Resource | Kind::Template => Some((&self.resources, question.mcp.uri)),
            Kind::Server | Kind::Stream | Kind::Other => None,
        }
    }
}

impl Grant {
    fn new(document: GrantDocument) -> Result<Grant, String> {
        let wanted = |(name, wanted): (Name, WantedDocument)| {
            let values = wanted.values.iter().map(|value| json::value(&value.to_string()));
            let values = values.collect::<Result<_, _>>().map_err(|fault| fault.to_string())?;
            Ok((name, WantedValues { values, claim: wanted.claim }))
        };
        let max_risk = document.max_risk.as_deref();
        Ok(Grant {
            servers: document.servers,
            zones: document.zones,
            classes: document.classes,
            max_risk: max_risk.map(|name| rank(name).ok_or("an unknown risk")).transpose()?,
            mfa: document.mfa,
            weekdays: document.weekdays,
            hours: document.hours,
            justification: document.justification,
            arguments: document.arguments.into_iter().map(wanted).collect::<Result<_, String>>()?,
            conditional: document.conditional,
        })
    }

    /// Everything that `allowed` and `refused` ask of a grant that matches.
    fn holds(&self, asked: &Asked<'_>) -> bool {
        self.suits(asked.question)
            && self.in_time(asked.time)
            && (!self.justification || is_justified(asked.question))
            && self.arguments.iter().all(|(name, wanted)| {
                asked.given.argument(name).is_some_and(|value| wanted.fits(value, asked.given))
            })
    }

    /// `suits`.
    fn suits(&self, question: &Question<'_>) -> bool {
        let tool = question.tool.as_ref();
        let in_zone = || question.context.zone.is_some_and(|zone| lists(&self.zones, zone));
        let of_class = || tool.is_some_and(|tool| lists(&self.classes, tool.class));
        let within_risk = |most: u8| tool.and_then(|tool| rank(tool.risk)).is_some_and(|rank| rank <= most);
        (self.zones.is_empty() || in_zone())
            && (self.classes.is_empty() || of_class())
            && self.max_risk.is_none_or(within_risk)
            && (!self.mfa || question.principal.mfa)
    }

    /// `in_time`.
    fn in_time(&self, time: LocalTime) -> bool {
        (self.weekdays.is_empty() || lists(&self.weekdays, time.weekday()))
            && self.hours.is_none_or(|hours| (hours.from..hours.to).contains(&time.hour))
    }
}

impl WantedValues {
    /// `argument_fits`.
    fn fits(&self, value: &Value, given: &ConditionInput) -> bool {
        let claim = self.claim.as_ref().and_then(|name| given.claims.get(&**name));
        self.values.contains(value) || claim == Some(value)
    }
}

impl Answers {
    fn new() -> Answers {
        let refusal = |reason: &str| Arc::new(Ruling { reason: reason.into(), ..Ruling::plain(false) });
        Answers {
            allowed: Arc::new(Ruling::plain(true)),
            refused: refusal("a role of the caller refuses this"),
            not_granted: refusal("no role of the caller allows this"),
            shown: Arc::new(Ruling::plain(true)),
            hidden: Arc::new(Ruling::plain(false)),
        }
    }
}

/// `justified`, of a grant that asks for a reason.
fn is_justified(question: &Question<'_>) -> bool {
    question.context.justification.is_some_and(|reason| !reason.trim().is_empty())
}

/// `risks`.
fn rank(risk: &str) -> Option<u8> {
    match risk {
        "low" => Some(1),
        "medium" => Some(2),
        "high" | "unrated" => Some(3),
        "critical" => Some(4),
        _ => None,
    }
}

fn lists(names: &[Name], name: &str) -> bool {
    names.iter().any(|listed| **listed == *name)
}

/// `data.rbac`. What is not known here is refused: a condition that is not read would not be met.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RbacDocument {
    general: GeneralDocument,
    roles: BTreeMap<Name, RoleDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GeneralDocument {
    to_server: Vec<Name>,
    to_client: Vec<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleDocument {
    roles: Vec<Name>,
    groups: Vec<Name>,
    subjects: Vec<Name>,
    tenants: Vec<Name>,
    methods: Vec<Name>,
    allow: Vec<GrantDocument>,
    deny: Vec<GrantDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantDocument {
    tool: Vec<PatternDocument>,
    prompt: Vec<PatternDocument>,
    resource: Vec<PatternDocument>,
    #[serde(rename = "template")]
    _template: Vec<PatternDocument>,
    servers: Vec<Name>,
    zones: Vec<Name>,
    classes: Vec<Name>,
    weekdays: Vec<Name>,
    arguments: BTreeMap<Name, WantedDocument>,
    conditional: bool,
    max_risk: Option<Name>,
    #[serde(default)]
    mfa: bool,
    hours: Option<Hours>,
    #[serde(default)]
    justification: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternDocument {
    upstream: NamePattern,
    name: NamePattern,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hours {
    from: u8,
    to: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedDocument {
    values: Vec<serde_json::Value>,
    claim: Option<Name>,
}
