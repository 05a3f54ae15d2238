//! Protocol revisions of MCP and the era each belongs to.

use portunus_base::Era;
use std::fmt;

/// A revision of the specification that this gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// The first public one; only seen in the body of `initialize`.
    V2024_11_05,
    /// Streamable HTTP, batches.
    V2025_03_26,
    /// `MCP-Protocol-Version`, no batches.
    V2025_06_18,
    /// Tasks, URL elicitation.
    V2025_11_25,
    /// Stateless: `_meta` envelope, `server/discover`, multi round-trip requests.
    V2026_07_28,
}

impl Revision {
    /// All of them, newest first: the order in which they are offered.
    pub const ALL: [Revision; 5] = [
        Revision::V2026_07_28,
        Revision::V2025_11_25,
        Revision::V2025_06_18,
        Revision::V2025_03_26,
        Revision::V2024_11_05,
    ];

    /// Those of the modern era, newest first.
    pub const MODERN: &'static [Revision] = Revision::ALL.split_at(1).0;

    /// Those of the legacy era, newest first.
    pub const LEGACY: &'static [Revision] = Revision::ALL.split_at(1).1;

    /// Reads the date form of the specification, exactly.
    pub fn parse(text: &str) -> Option<Revision> {
        Revision::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The date form of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// Stateless revisions are modern, all before are legacy.
    pub fn era(self) -> Era {
        if self >= Revision::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_revision_reads_back_as_itself() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
        }
        let of = |era| Revision::ALL.into_iter().filter(|one| one.era() == era).collect::<Vec<_>>();
        assert_eq!((Revision::MODERN, Revision::LEGACY), (&*of(Era::Modern), &*of(Era::Legacy)));
        assert_eq!(Revision::parse("2026-07-28 "), None);
        assert_eq!(Revision::parse("2025-01-01"), None);
    }
}
