//! Who may do what: Rego policy, compiled at activation and asked for each message.
//!
//! A question is projected to what the policy can read of it (`syntax` and `program` tell what
//! that is, and have to agree). The projection is the key of a remembered decision and, where none is
//! remembered, all that the engine is given. Whatever goes wrong on the way denies.
//!
//! A policy of roles is answered from an index instead (`roles`). Evaluations are held to CPU time, each by
//! itself and all of one caller (`cpu`, `budget`).
//!
//! Nothing here reads a clock but that of its own thread, opens a socket or logs: faults and alarms go to the
//! caller.

mod budget;
mod cache;
mod calendar;
mod compile;
mod cpu;
mod decision;
mod document;
mod explain;
mod imports;
mod interpreter;
mod json;
mod lint;
mod paths;
mod problem;
mod program;
mod projection;
mod question;
mod roles;
mod slots;
mod source;
mod syntax;
mod texts;
pub mod trial;

pub use budget::{CpuBudgets, RanOut, Use};
pub use cache::DecisionCache;
pub use calendar::Unit;
pub use compile::{Document, Module, Settings};
pub use cpu::CpuTimer;
pub use decision::{Approval, Decision, Fault, Obligations, Place, Ruling, StepUp};
pub use explain::{Explanation, Read, RuleSeen};
pub use paths::InputPath;
pub use problem::{Problem, Severity};
pub use question::{Context, Direction, Entry, Kind, Mcp, Question, Threat, Tool};

use crate::Owner;
use budget::Rates;
use calendar::{Calendar, LocalTime};
use document::Field;
use interpreter::Interpreter;
use projection::{Key, Projection};
use regorus::Value;
use roles::{ConditionInput, RoleIndex};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// One evaluation in this many is made with the full input too.
const AUDITED: u32 = 256;

/// Tools that ask a policy of roles by its rules, and not by its index, wait for this.
const PATIENT: Duration = Duration::from_secs(10);

/// Arguments of as many bytes take a time that is measured.
const LONG_ARGUMENTS: usize = 4 * 1024;

/// A compiled policy: everything that a bundle's rules say, ready to be asked.
#[derive(Debug)]
pub struct Policy {
    points: Vec<Point>,
    /// Answers in place of the rules, where they are those of `builtin: rbac`.
    roles: Option<RoleIndex>,
    calendar: Calendar,
    /// Tells the answers of this policy from those of others in the same table.
    generation: u64,
    /// A decision is remembered no longer than this.
    ttl: Duration,
    rates: Rates,
    warnings: Vec<Problem>,
}

/// An entry point.
#[derive(Debug)]
struct Point {
    entry: Entry,
    interpreter: Interpreter,
    projection: Projection,
    full: Projection,
    /// Its projection decided otherwise than the full input once: it is given that from then on.
    distrusted: AtomicBool,
    misses: AtomicU32,
}

/// What the decision of an entry point depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On parts of the input other than the time.
    Pure,
    /// On the time too, as fine as the unit.
    Time(Unit),
    /// On the whole input.
    WholeInput,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Class::Pure => f.write_str("pure"),
            Class::Time(unit) => write!(f, "time({})", unit.as_str()),
            Class::WholeInput => f.write_str("whole_input"),
        }
    }
}

/// What makes the lists of callers equal; see [`Policy::view`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Equal for equal lists.
    pub key: Box<[u8]>,
    /// Time since the epoch at which it ends for everybody. What a caller has shown may end before.
    pub until: Duration,
}

/// What is remembered of decisions, and who pays for those that are worked out.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// What was decided before.
    pub decisions: &'a DecisionCache,
    /// Whose CPU time is used; `None` if whoever asks measures it.
    pub budgets: Option<&'a CpuBudgets>,
    /// Whether what is decided now is remembered.
    pub keeps: bool,
}

impl Policy {
    /// The same, answered from an index of `data.rbac`: the rules are those of `builtin: rbac`, which stay what
    /// [`Policy::ask`] and [`Policy::explain`] go by.
    ///
    /// # Errors
    /// What is not as those rules expect it.
    pub fn with_roles(mut self, data: &serde_json::Value) -> Result<Policy, String> {
        self.roles = Some(RoleIndex::new(data)?);
        let patient = |point: Point| Point { interpreter: point.interpreter.within(PATIENT), ..point };
        self.points = self.points.into_iter().map(patient).collect();
        Ok(self)
    }

    /// What the policy says to `question`; answers that `cache` remembers are not worked out again.
    pub fn decide(&self, entry: Entry, question: &Question<'_>, cache: &DecisionCache) -> Decision {
        self.decide_with(entry, question, &Memory { decisions: cache, budgets: None, keeps: true })
    }

    /// The same, with who pays for it.
    pub fn decide_with(&self, entry: Entry, question: &Question<'_>, memory: &Memory<'_>) -> Decision {
        let Some(point) = self.point(entry) else { return fresh(Ruling::fault(Fault::NoEntry)) };
        if let Some(roles) = &self.roles {
            return self.decide_by_roles((roles, point), question, memory);
        }
        let projection = point.in_force();
        let time = self.time(projection, question);
        let mut key = self.key(point);
        if let Err(fault) = projection.key(question, time, &mut key) {
            return fresh(Ruling::fault(Fault::Unreadable(fault)));
        }
        let wall = question.now.wall;
        if let Some(ruling) = memory.decisions.look_up(&key.0, wall) {
            return Decision { ruling, cached: true, diverged: false };
        }
        if memory.decisions.is_slow(&key.0, wall) {
            return Decision { cached: true, ..fresh(Ruling::fault(Fault::TooLong)) };
        }
        let decided = self.paid(question, memory, || self.evaluate(point, question));
        if decided.fault == Some(Fault::TooLong) {
            memory.decisions.keep_slow(&key.0, wall);
        }
        let is_given = question.mcp.arguments.or(question.mcp.responses).is_some() && point.reads_given();
        if decided.lasts() && memory.keeps && (!is_given || memory.decisions.comes_again(&key.0)) {
            memory.decisions.keep(key.0, &decided.ruling, Some(self.end(point, question)));
        }
        decided
    }

    /// An answer by the rules, worked out.
    fn evaluate(&self, point: &Point, question: &Question<'_>) -> Decision {
        let time = self.calendar.at(question.now.wall);
        let asked = |projection: &Projection| match projection.input(question, time) {
            Ok(input) => point.interpreter.ask(input),
            Err(fault) => Ruling::fault(Fault::Unreadable(fault)),
        };
        let ruling = asked(point.in_force());
        if point.is_audited() && !ruling.agrees(&asked(&point.full)) {
            point.distrusted.store(true, Ordering::Relaxed);
            return Decision { diverged: true, ..fresh(Ruling::fault(Fault::Diverged)) };
        }
        fresh(ruling)
    }

    /// An answer by the index. It costs less than to remember it.
    fn decide_by_roles(
        &self,
        (roles, point): (&RoleIndex, &Point),
        question: &Question<'_>,
        memory: &Memory<'_>,
    ) -> Decision {
        let projection = point.in_force();
        let time = self.time(projection, question);
        let answer = |given: &ConditionInput| {
            let ruling = roles.answer(point.entry, question, (time, given));
            Decision { ruling, cached: false, diverged: false }
        };
        if !point.reads_given() {
            return answer(&ConditionInput::default());
        }
        let read = || match ConditionInput::of(question) {
            Ok(given) => answer(&given),
            Err(fault) => fresh(Ruling::fault(fault)),
        };
        match question.mcp.arguments.is_some_and(|arguments| arguments.len() > LONG_ARGUMENTS) {
            true => self.paid(question, memory, read),
            false => read(),
        }
    }

    /// Works an answer out if its caller may use the CPU time, and charges that.
    fn paid(
        &self,
        question: &Question<'_>,
        memory: &Memory<'_>,
        work: impl FnOnce() -> Decision,
    ) -> Decision {
        let Some(budgets) = memory.budgets else { return work() };
        let (charged, now) = ((Use::Decision, self.rates), question.now.monotonic);
        if let Err(wait) =
            budgets.admit(|| question.principal.owner(question.context.source_ip), charged, now)
        {
            budgets.ran_out(RanOut::Caller);
            return fresh(Ruling::fault(Fault::OverBudget(wait)));
        }
        let timer = CpuTimer::start();
        let decision = work();
        let spent = timer.elapsed();
        if !self.rates.is_free(spent) {
            budgets.charge(question.principal.owner(question.context.source_ip), charged, (spent, now));
        }
        if decision.fault == Some(Fault::TooLong) {
            budgets.ran_out(RanOut::Decision);
        }
        decision
    }

    /// For how long a caller has to wait before it may use more CPU time; nothing if it may.
    pub fn wait_for(
        &self,
        purpose: Use,
        owner: impl FnOnce() -> Owner,
        (budgets, now): (&CpuBudgets, Duration),
    ) -> Option<Duration> {
        budgets.admit(owner, (purpose, self.rates), now).err()
    }

    /// Charges CPU time that was used for something, up to `now`, a monotonic time.
    pub fn charge(
        &self,
        owner: Owner,
        (purpose, spent): (Use, Duration),
        (budgets, now): (&CpuBudgets, Duration),
    ) {
        if !self.rates.is_free(spent) {
            budgets.charge(owner, (purpose, self.rates), (spent, now));
        }
    }

    /// CPU time that one decision may take.
    pub fn time_limit(&self) -> Duration {
        self.rates.limit
    }

    /// CPU time that one list may take.
    pub fn list_limit(&self) -> Duration {
        self.rates.a_list()
    }

    /// What the policy says to an input document as JSON text: one that was recorded, or written by hand.
    ///
    /// # Errors
    /// A [`crate::mcp::Fault`] if the text cannot be read in one way.
    pub fn ask(&self, entry: Entry, input: &str) -> Result<Ruling, crate::mcp::Fault> {
        let input = json::value(input)?;
        Ok(match self.point(entry) {
            Some(point) => point.interpreter.ask(point.in_force().of_value(&input)),
            None => Ruling::fault(Fault::NoEntry),
        })
    }

    /// The same with all of the input.
    ///
    /// # Errors
    /// As [`Policy::ask`].
    pub fn ask_in_full(&self, entry: Entry, input: &str) -> Result<Ruling, crate::mcp::Fault> {
        let input = json::value(input)?;
        Ok(match self.point(entry) {
            Some(point) => point.interpreter.ask(input),
            None => Ruling::fault(Fault::NoEntry),
        })
    }

    /// Whether the policy has the entry point; [`Entry::Decision`] is always there.
    pub fn has(&self, entry: Entry) -> bool {
        self.point(entry).is_some()
    }

    /// Whether an entry point reads arguments, or answers to questions. If the decision does not, it says
    /// for a list exactly what it would say for calls.
    pub fn reads_arguments(&self, entry: Entry) -> bool {
        self.point(entry).is_some_and(Point::reads_given)
    }

    /// What each entry point depends on.
    pub fn classes(&self) -> Vec<(Entry, Class)> {
        self.points.iter().map(|point| (point.entry, point.class())).collect()
    }

    /// What an entry point reads, as `input.…`.
    pub fn reads(&self, entry: Entry) -> Vec<String> {
        self.point(entry).map(|point| point.in_force().places()).unwrap_or_default()
    }

    /// What the compiler noticed that is no mistake.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Decides samples with the full and with the projected input. Each is an input document as JSON
    /// text, with a name.
    ///
    /// # Errors
    /// A [`Problem`] for each sample that is no JSON object or is decided in two ways: the policy must
    /// not be used.
    pub fn self_test<'s>(
        &self,
        samples: impl IntoIterator<Item = (&'s str, &'s str)>,
    ) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for (name, text) in samples {
            match json::value(text) {
                Ok(input) => problems.extend(self.disagreements(name, &input)),
                Err(fault) => problems.push(Problem::error(name, 0, fault.to_string())),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The entry points that decide `input` otherwise when they are given their part of it alone.
    fn disagreements(&self, name: &str, input: &Value) -> Vec<Problem> {
        let differs = |point: &&Point| {
            let projected = point.interpreter.ask(point.projection.of_value(input));
            !projected.agrees(&point.interpreter.ask(input.clone()))
        };
        let problem = |point: &Point| {
            let text =
                format!("{} is decided otherwise by what the analysis says it reads", point.entry.as_str());
            Problem::error(name, 0, text).hint("the analysis missed a part of the input; report this policy")
        };
        self.points.iter().filter(differs).map(problem).collect()
    }

    /// What of `question` decides on everything in a list alike: all that an entry point reads, but for
    /// which tool, prompt or resource it is about. A list that was filtered for one question is the
    /// list of all that have an equal view.
    ///
    /// # Errors
    /// [`Fault`] as [`Policy::decide`] has it for what cannot be read.
    pub fn view(&self, entry: Entry, question: &Question<'_>) -> Result<View, Fault> {
        let point = self.point(entry).ok_or(Fault::NoEntry)?;
        let time = self.calendar.at(question.now.wall);
        let mut key = self.key(point);
        match &self.roles {
            Some(roles) => {
                if point.reads_given() {
                    ConditionInput::of(question)?;
                }
                roles.view(entry, question, time, &mut key);
            }
            None => {
                let keyed = point.in_force().key_where(question, time, (&mut key, Field::is_of_all));
                keyed.map_err(Fault::Unreadable)?;
            }
        }
        Ok(View { key: key.0.into(), until: self.end_for_all(point, question) })
    }

    /// The time that an entry point reads.
    fn time(&self, projection: &Projection, question: &Question<'_>) -> LocalTime {
        match projection.unit {
            Some(_) => self.calendar.at(question.now.wall),
            None => LocalTime::default(),
        }
    }

    /// A key with what tells apart policies, entry points and ways to look at the input.
    fn key(&self, point: &Point) -> Key {
        let mut key = Key(Vec::with_capacity(256));
        key.number(self.generation);
        key.number(point.entry as u64 * 2 + u64::from(point.in_force().is_whole()));
        key
    }

    fn point(&self, entry: Entry) -> Option<&Point> {
        self.points.iter().find(|point| point.entry == entry)
    }

    /// When a decision ends: with what the caller showed, and otherwise for everybody.
    fn end(&self, point: &Point, question: &Question<'_>) -> Duration {
        let end = self.end_for_all(point, question);
        question.principal.not_after.map_or(end, |not_after| end.min(not_after))
    }

    /// When a decision ends for everybody: with the unit of time it depends on, or when its time to live is over.
    fn end_for_all(&self, point: &Point, question: &Question<'_>) -> Duration {
        let wall = question.now.wall;
        let end = wall.saturating_add(self.ttl);
        point.in_force().unit.map_or(end, |unit| end.min(self.calendar.boundary(unit, wall)))
    }
}

impl Point {
    fn new(entry: Entry, interpreter: Interpreter, projection: Projection) -> Point {
        Point {
            entry,
            interpreter,
            projection,
            full: Projection::whole(),
            distrusted: AtomicBool::new(false),
            misses: AtomicU32::new(0),
        }
    }

    fn in_force(&self) -> &Projection {
        if self.distrusted.load(Ordering::Relaxed) { &self.full } else { &self.projection }
    }

    /// Whether it reads what calls are given.
    fn reads_given(&self) -> bool {
        [Field::Arguments, Field::Responses].iter().any(|field| self.in_force().reads(*field))
    }

    /// The first evaluation is, and then each [`AUDITED`]th.
    fn is_audited(&self) -> bool {
        let miss = self.misses.fetch_add(1, Ordering::Relaxed);
        !self.in_force().is_whole() && miss.is_multiple_of(AUDITED)
    }

    fn class(&self) -> Class {
        let projection = self.in_force();
        match projection.unit {
            _ if projection.is_whole() => Class::WholeInput,
            Some(unit) => Class::Time(unit),
            None => Class::Pure,
        }
    }
}

fn fresh(ruling: Ruling) -> Decision {
    Decision { ruling: Arc::new(ruling), cached: false, diverged: false }
}

#[cfg(test)]
pub(crate) mod tests;
