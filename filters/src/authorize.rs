//! Who may do what: Rego policy, compiled at activation and asked for each message.
//!
//! A question is projected to what the policy can read of it (`syntax` and `program` tell what
//! that is, and have to agree). The projection is the key of a remembered decision and, where none is
//! remembered, all that the engine is given. Whatever goes wrong on the way denies.
//!
//! Nothing here reads a clock, opens a socket or logs: faults and alarms go to the caller.

mod cache;
mod calendar;
mod compile;
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
mod slots;
mod source;
mod syntax;
mod texts;
pub mod trial;

pub use cache::DecisionCache;
pub use calendar::Unit;
pub use compile::{Document, Module, Settings};
pub use decision::{Approval, Decision, Fault, Obligations, Place, Ruling, StepUp};
pub use explain::{Explanation, Read, RuleSeen};
pub use paths::InputPath;
pub use problem::{Problem, Severity};
pub use question::{Context, Direction, Entry, Kind, Mcp, Question, Threat, Tool};

use calendar::{Calendar, LocalTime};
use document::Field;
use interpreter::Interpreter;
use projection::{Key, Projection};
use regorus::Value;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// One evaluation in this many is made with the full input too.
const AUDITED: u32 = 256;

/// A compiled policy: everything that a bundle's rules say, ready to be asked.
#[derive(Debug)]
pub struct Policy {
    points: Vec<Point>,
    calendar: Calendar,
    /// Tells the answers of this policy from those of others in the same table.
    generation: u64,
    /// A decision is remembered no longer than this.
    ttl: Duration,
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
    /// Time since the epoch at which it ends.
    pub until: Duration,
}

impl Policy {
    /// What the policy says to `question`; answers that `cache` remembers are not worked out again.
    pub fn decide(&self, entry: Entry, question: &Question<'_>, cache: &DecisionCache) -> Decision {
        let Some(point) = self.point(entry) else { return fresh(Ruling::fault(Fault::NoEntry)) };
        let projection = point.in_force();
        let time = match projection.unit {
            Some(_) => self.calendar.at(question.now.wall),
            None => LocalTime::default(),
        };
        let mut key = self.key(point);
        if let Err(fault) = projection.key(question, time, &mut key) {
            return fresh(Ruling::fault(Fault::Unreadable(fault)));
        }
        if let Some(ruling) = cache.look_up(&key.0, question.now.wall) {
            return Decision { ruling, cached: true, diverged: false };
        }
        let time = self.calendar.at(question.now.wall);
        let asked = |projection: &Projection| match projection.input(question, time) {
            Ok(input) => point.interpreter.ask(input),
            Err(fault) => Ruling::fault(Fault::Unreadable(fault)),
        };
        let ruling = asked(projection);
        if point.is_audited() && !ruling.agrees(&asked(&point.full)) {
            point.distrusted.store(true, Ordering::Relaxed);
            return Decision { diverged: true, ..fresh(Ruling::fault(Fault::Diverged)) };
        }
        let ruling = Arc::new(ruling);
        if ruling.lasts() {
            cache.keep(key.0, &ruling, Some(self.end(point, question)));
        }
        Decision { ruling, cached: false, diverged: false }
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
        let given_by_calls = [Field::Arguments, Field::Responses];
        self.point(entry)
            .is_some_and(|point| given_by_calls.iter().any(|field| point.in_force().reads(*field)))
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
        let keyed = point.in_force().key_where(question, time, (&mut key, Field::is_of_all));
        keyed.map_err(Fault::Unreadable)?;
        Ok(View { key: key.0.into(), until: self.end(point, question) })
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

    /// When a decision ends: with the unit of time it depends on, with what the caller showed, or
    /// when its time to live is over.
    fn end(&self, point: &Point, question: &Question<'_>) -> Duration {
        let wall = question.now.wall;
        let unit = point.in_force().unit.map(|unit| self.calendar.boundary(unit, wall));
        let ends = [Some(wall.saturating_add(self.ttl)), unit, question.principal.not_after];
        ends.into_iter().flatten().min().unwrap_or(wall)
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
mod tests;
