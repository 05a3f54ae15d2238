//! Bounds the text of one answer that is held so that inspectors can read it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much text of an answer is held, and the rule for longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerBound {
    /// Bytes of one result, error, notification or question. Default 32 MiB.
    pub hold: usize,
    /// The rule for a longer one that has to be read. Default [`Beyond::Block`].
    pub beyond: Beyond,
}

/// The rule for a text that has to be read and is longer than what is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// The client does not get it.
    #[default]
    Block,
    /// The client gets it unread.
    Pass,
}

impl AnswerBound {
    /// The longest message of a server that is read at all; a longer text is never held.
    pub const MAX_HOLD: usize = 32 << 20;
}

impl Default for AnswerBound {
    fn default() -> AnswerBound {
        AnswerBound { hold: AnswerBound::MAX_HOLD, beyond: Beyond::default() }
    }
}

impl Beyond {
    /// The names of the rules in a configuration.
    pub const NAMES: [(&'static str, Beyond); 2] = [("block", Beyond::Block), ("pass", Beyond::Pass)];

    /// The name of the rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Beyond::Block => "block",
            Beyond::Pass => "pass",
        }
    }
}

/// Is told of each text that had to be read and was longer than what is held.
pub trait LongTextObserver: fmt::Debug + Send + Sync {
    /// Notes one text, and the rule that was applied to it.
    fn observe(&self, beyond: Beyond);
}

/// The bound on texts for the client of one message, and the count of those beyond it.
#[derive(Debug)]
pub struct LongTexts {
    bound: AnswerBound,
    blocked: AtomicU64,
    passed: AtomicU64,
    observer: Box<dyn LongTextObserver>,
}

impl LongTexts {
    /// None yet.
    pub fn new(bound: AnswerBound, observer: Box<dyn LongTextObserver>) -> LongTexts {
        LongTexts { bound, blocked: AtomicU64::default(), passed: AtomicU64::default(), observer }
    }

    /// The bound.
    pub fn bound(&self) -> AnswerBound {
        self.bound
    }

    /// Texts that the client did not get, and those that it got unread.
    pub fn counts(&self) -> (u64, u64) {
        (self.blocked.load(Ordering::Relaxed), self.passed.load(Ordering::Relaxed))
    }

    /// Counts a text beyond the bound.
    pub(crate) fn count(&self) {
        let counter = match self.bound.beyond {
            Beyond::Block => &self.blocked,
            Beyond::Pass => &self.passed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.observer.observe(self.bound.beyond);
    }
}
