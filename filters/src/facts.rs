//! What is known of a tool beyond what its server says of itself.
//!
//! Facts come from the configuration. What a server claims in `annotations` is only a claim and is
//! never among them.

use std::sync::Arc;
use std::time::Duration;

/// What a use of a tool can do to those who own it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// Nobody has looked at it.
    #[default]
    Unrated,
    /// Reads what many may see.
    Low,
    /// Changes what can be changed back, or reads what few may see.
    Medium,
    /// Changes what is hard to change back.
    High,
    /// Moves money, deletes, or reaches outside.
    Critical,
}

impl Risk {
    /// Every risk by its name in configurations and policies.
    pub const NAMES: [(&'static str, Risk); 5] = [
        ("unrated", Risk::Unrated),
        ("low", Risk::Low),
        ("medium", Risk::Medium),
        ("high", Risk::High),
        ("critical", Risk::Critical),
    ];

    /// The name in configurations, policies and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Risk::Unrated => "unrated",
            Risk::Low => "low",
            Risk::Medium => "medium",
            Risk::High => "high",
            Risk::Critical => "critical",
        }
    }
}

/// Who may see what a tool deals with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Everyone.
    Public,
    /// Everyone of the house.
    #[default]
    Internal,
    /// Those who need it.
    Confidential,
    /// Those who are named.
    Restricted,
}

impl Class {
    /// Every class by its name in configurations and policies.
    pub const NAMES: [(&'static str, Class); 4] = [
        ("public", Class::Public),
        ("internal", Class::Internal),
        ("confidential", Class::Confidential),
        ("restricted", Class::Restricted),
    ];

    /// The name in configurations, policies and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Public => "public",
            Class::Internal => "internal",
            Class::Confidential => "confidential",
            Class::Restricted => "restricted",
        }
    }
}

/// What the configuration says of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ToolFacts {
    /// What its use can do.
    pub risk: Risk,
    /// Who may see what it deals with.
    pub class: Class,
    /// Words of the author's choosing, sorted, each once.
    pub labels: Arc<[Arc<str>]>,
    /// OAuth scopes that a caller needs, all of them; sorted, each once.
    pub scopes: Arc<[Arc<str>]>,
    /// Price of a call, in millionths of the author's currency.
    pub cost_micros: Option<u64>,
    /// Deadline of a call, where it is shorter than that of its upstream.
    pub timeout: Option<Duration>,
    /// Who answers for it.
    pub owner: Option<Arc<str>>,
    /// From this time since the Unix epoch on it is not called any more.
    pub not_after: Option<Duration>,
    /// Whether it changes nothing; `None` leaves that open.
    pub read_only: Option<bool>,
    /// Whether a second call with the same arguments changes nothing more; `None` leaves that open.
    pub idempotent: Option<bool>,
    /// Longest time since the caller's person was authenticated.
    pub max_auth_age: Option<Duration>,
}

/// What a caller or the time does not fulfil, whatever a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The time of the tool has ended.
    Withdrawn,
    /// Scopes that the caller would need, all of them: a challenge names them at once (RFC 6750,
    /// section 3; MCP 2025-11-25, basic/authorization, "Scope Challenge Handling").
    Scopes(Arc<[Arc<str>]>),
    /// The caller's person was authenticated longer ago than this, or it is not known when
    /// (RFC 9470, section 3).
    Reauthentication(Duration),
}

impl ToolFacts {
    /// What stands in the way of a call at `now`, first what the caller cannot mend.
    ///
    /// `scopes` are those of the caller, sorted; `auth_time` is when its person was authenticated.
    /// Both times count from the Unix epoch.
    pub fn unmet(&self, scopes: &[Arc<str>], auth_time: Option<Duration>, now: Duration) -> Option<Unmet> {
        if self.not_after.is_some_and(|end| now >= end) {
            return Some(Unmet::Withdrawn);
        }
        if self.scopes.iter().any(|needed| scopes.binary_search(needed).is_err()) {
            return Some(Unmet::Scopes(Arc::clone(&self.scopes)));
        }
        let longest = self.max_auth_age?;
        let recent = auth_time.is_some_and(|at| now.saturating_sub(at) <= longest);
        (!recent).then_some(Unmet::Reauthentication(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn words(words: &[&str]) -> Arc<[Arc<str>]> {
        words.iter().map(|word| Arc::from(*word)).collect()
    }

    #[test]
    fn what_nobody_rated_is_unrated_and_internal() {
        let facts = ToolFacts::default();
        assert_eq!((facts.risk, facts.class), (Risk::Unrated, Class::Internal));
        assert_eq!(facts.unmet(&[], None, S(0)), None);
    }

    #[test]
    fn names_and_values_are_one_list() {
        assert!(Risk::NAMES.iter().all(|(name, risk)| risk.as_str() == *name));
        assert!(Class::NAMES.iter().all(|(name, class)| class.as_str() == *name));
    }

    #[test]
    fn a_caller_is_told_what_is_missing() {
        let facts = ToolFacts {
            scopes: words(&["crm.read", "crm.write"]),
            not_after: Some(S(100)),
            max_auth_age: Some(S(10)),
            ..ToolFacts::default()
        };
        let needed = Some(Unmet::Scopes(Arc::clone(&facts.scopes)));
        let again = Some(Unmet::Reauthentication(S(10)));
        let both = ["crm.read", "crm.write", "other"];
        let table: [(&str, &[&str], Option<u64>, u64, Option<Unmet>); 8] = [
            ("all is well", &both, Some(45), 50, None),
            ("just recent enough", &both, Some(40), 50, None),
            ("too long ago", &both, Some(39), 50, again.clone()),
            ("nobody knows when", &both, None, 50, again),
            ("by a clock that is ahead", &both, Some(60), 50, None),
            ("one scope of two", &["crm.read"], Some(45), 50, needed.clone()),
            ("no scope", &[], None, 50, needed),
            ("at its end", &both, Some(99), 100, Some(Unmet::Withdrawn)),
        ];
        for (name, scopes, auth_time, now, expected) in table {
            assert_eq!(facts.unmet(&words(scopes), auth_time.map(S), S(now)), expected, "{name}");
        }
    }
}
