//! What the document says of tools, by pattern.
//!
//! Every line that matches a tool counts. Where two of them say different things of one fact, the
//! line counts whose names are all among the other's; two lines of which that cannot be said, and
//! that some name could match, are refused when the document is compiled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::{Class, Risk, ToolFacts};

use crate::view::Pattern;

/// One thing that is said of tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// `risk`.
    Risk(Risk),
    /// `class`.
    Class(Class),
    /// `labels`, sorted, each once.
    Labels(Arc<[Arc<str>]>),
    /// `scopes`, sorted, each once.
    Scopes(Arc<[Arc<str>]>),
    /// `cost`, in millionths.
    CostMicros(u64),
    /// `timeout`.
    Timeout(Duration),
    /// `owner`.
    Owner(Arc<str>),
    /// `not_after`, since the Unix epoch.
    NotAfter(Duration),
    /// `read_only`.
    ReadOnly(bool),
    /// `idempotent`.
    Idempotent(bool),
    /// `max_auth_age`.
    MaxAuthAge(Duration),
}

impl Fact {
    /// The key in the document.
    pub fn name(&self) -> &'static str {
        match self {
            Fact::Risk(_) => "risk",
            Fact::Class(_) => "class",
            Fact::Labels(_) => "labels",
            Fact::Scopes(_) => "scopes",
            Fact::CostMicros(_) => "cost",
            Fact::Timeout(_) => "timeout",
            Fact::Owner(_) => "owner",
            Fact::NotAfter(_) => "not_after",
            Fact::ReadOnly(_) => "read_only",
            Fact::Idempotent(_) => "idempotent",
            Fact::MaxAuthAge(_) => "max_auth_age",
        }
    }

    fn apply(&self, facts: &mut ToolFacts) {
        match self {
            Fact::Risk(risk) => facts.risk = *risk,
            Fact::Class(class) => facts.class = *class,
            Fact::Labels(labels) => facts.labels = Arc::clone(labels),
            Fact::Scopes(scopes) => facts.scopes = Arc::clone(scopes),
            Fact::CostMicros(micros) => facts.cost_micros = Some(*micros),
            Fact::Timeout(timeout) => facts.timeout = Some(*timeout),
            Fact::Owner(owner) => facts.owner = Some(Arc::clone(owner)),
            Fact::NotAfter(end) => facts.not_after = Some(*end),
            Fact::ReadOnly(flag) => facts.read_only = Some(*flag),
            Fact::Idempotent(flag) => facts.idempotent = Some(*flag),
            Fact::MaxAuthAge(age) => facts.max_auth_age = Some(*age),
        }
    }
}

/// A pattern over tools and what is said of those that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) pattern: Pattern,
    pub(crate) facts: Vec<Fact>,
}

impl Line {
    /// A fact of this line that `other` says otherwise.
    fn disagreement(&self, other: &Line) -> Option<&Fact> {
        let otherwise =
            |fact: &&Fact| other.facts.iter().any(|theirs| theirs.name() == fact.name() && theirs != *fact);
        self.facts.iter().find(otherwise)
    }
}

/// What is known of every tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolRules {
    /// Those that another's names are all among come before it.
    lines: Vec<Line>,
}

/// Two lines that one tool could match and that say different things of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The lines, by their index.
    pub(crate) lines: [usize; 2],
    /// What they do not agree on.
    pub(crate) fact: &'static str,
    /// A pattern of exactly the names that both match, if there is one.
    pub(crate) both: Option<Pattern>,
}

impl ToolRules {
    /// Rules of these lines; those of one another are put in the order in which they count.
    pub(crate) fn new(mut lines: Vec<Line>) -> ToolRules {
        let patterns: Vec<Pattern> = lines.iter().map(|line| line.pattern.clone()).collect();
        lines.sort_by_cached_key(|line| {
            let wider = |other: &&Pattern| other.covers(&line.pattern) && !line.pattern.covers(other);
            patterns.iter().filter(wider).count()
        });
        ToolRules { lines }
    }

    /// What is known of a tool, by its upstream and the name it has there. A tool that no line
    /// matches is unrated and internal.
    ///
    /// It goes through all lines: ask once for each entry of a catalogue.
    pub fn facts(&self, upstream: &str, original: &str) -> ToolFacts {
        let mut facts = ToolFacts::default();
        let hits = self.lines.iter().filter(|line| line.pattern.matches(upstream, original));
        hits.flat_map(|line| &line.facts).for_each(|fact| fact.apply(&mut facts));
        facts
    }

    /// Whether nothing is said of any tool.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Patterns and what is said of their tools, the wider ones first.
    pub fn iter(&self) -> impl Iterator<Item = (String, &[Fact])> {
        self.lines.iter().map(|line| (line.pattern.to_string(), line.facts.as_slice()))
    }
}

/// The first disagreement of each pair of lines that no third one settles.
pub(crate) fn conflicts(lines: &[Line]) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for (earlier, other) in lines[..index].iter().enumerate() {
            let Some(fact) = line.disagreement(other) else { continue };
            let inside = (line.pattern.covers(&other.pattern), other.pattern.covers(&line.pattern));
            if inside.0 != inside.1 || !line.pattern.overlaps(&other.pattern) {
                continue;
            }
            let both = line.pattern.intersection(&other.pattern);
            let settled = both.as_ref().is_some_and(|both| settles(lines, both, fact.name()));
            if inside == (true, true) || !settled {
                found.push(Conflict { lines: [earlier, index], fact: fact.name(), both });
            }
        }
    }
    found
}

/// Whether a line of exactly these names speaks of the fact.
fn settles(lines: &[Line], both: &Pattern, fact: &str) -> bool {
    let exactly = |line: &Line| line.pattern.covers(both) && both.covers(&line.pattern);
    let speaks = |line: &Line| line.facts.iter().any(|said| said.name() == fact);
    lines.iter().any(|line| exactly(line) && speaks(line))
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.both {
            Some(both) => write!(f, "say what holds for both: `\"{both}\": {{ {}: … }}`", self.fact),
            None => write!(f, "make one pattern narrower, so that no name fits both"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pattern: &str, facts: &[Fact]) -> Line {
        Line { pattern: Pattern::parse(pattern).unwrap(), facts: facts.to_vec() }
    }

    const LOW: Fact = Fact::Risk(Risk::Low);
    const HIGH: Fact = Fact::Risk(Risk::High);
    const CRITICAL: Fact = Fact::Risk(Risk::Critical);

    #[test]
    fn the_narrower_line_counts_whatever_the_order() {
        let lines = [
            line("crm.delete_all", &[CRITICAL]),
            line("*.*", &[LOW, Fact::ReadOnly(true)]),
            line("crm.delete_*", &[HIGH, Fact::Owner("crm".into())]),
            line("crm.*", &[LOW, Fact::Class(Class::Confidential)]),
        ];
        for turn in 0..lines.len() {
            let mut turned = lines.to_vec();
            turned.rotate_left(turn);
            assert_eq!(conflicts(&turned), []);
            let rules = ToolRules::new(turned);
            let facts = rules.facts("crm", "delete_all");
            assert_eq!((facts.risk, facts.class), (Risk::Critical, Class::Confidential), "{turn}");
            assert_eq!((facts.read_only, facts.owner.as_deref()), (Some(true), Some("crm")), "{turn}");
            assert_eq!(rules.facts("crm", "delete_one").risk, Risk::High, "{turn}");
            assert_eq!(rules.facts("crm", "find").class, Class::Confidential, "{turn}");
            assert_eq!(rules.facts("wiki", "delete_all").risk, Risk::Low, "{turn}");
        }
        assert_eq!(ToolRules::new(vec![]).facts("crm", "find"), ToolFacts::default());
    }

    #[test]
    fn lines_that_one_name_could_fit_do_not_contradict_each_other() {
        let table: [(&[Line], Option<Option<&str>>); 9] = [
            (&[line("crm.*", &[LOW]), line("*.delete_*", &[HIGH])], Some(Some("crm.delete_*"))),
            (&[line("crm.*", &[HIGH]), line("*.delete_*", &[HIGH])], None),
            (&[line("crm.*", &[LOW]), line("*.delete_*", &[Fact::ReadOnly(false)])], None),
            (&[line("crm.*", &[LOW]), line("*.d_*", &[HIGH]), line("crm.d_*", &[CRITICAL])], None),
            (
                &[line("crm.*", &[LOW]), line("*.d_*", &[HIGH]), line("crm.d_*", &[Fact::ReadOnly(true)])],
                Some(Some("crm.d_*")),
            ),
            (&[line("crm.get_*", &[LOW]), line("crm.*_all", &[HIGH])], Some(None)),
            (&[line("crm.get_*", &[LOW]), line("crm.set_*", &[HIGH])], None),
            (&[line("crm.*", &[LOW]), line("wiki.*", &[HIGH])], None),
            (&[line("crm.*", &[LOW]), line("crm.**", &[HIGH])], Some(Some("crm.*"))),
        ];
        for (lines, expected) in table {
            let found = conflicts(lines);
            let both = found.first().map(|conflict| conflict.both.as_ref().map(Pattern::to_string));
            assert_eq!(both, expected.map(|both| both.map(str::to_owned)), "{lines:?}");
        }
    }

    #[test]
    fn a_third_line_counts_where_two_disagree() {
        let rules =
            ToolRules::new(vec![line("crm.d_*", &[CRITICAL]), line("crm.*", &[LOW]), line("*.d_*", &[HIGH])]);
        assert_eq!(rules.facts("crm", "d_all").risk, Risk::Critical);
    }
}
