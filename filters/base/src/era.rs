//! The two forms of the protocol.

/// The rules that a message follows: the stateless ones of 2026-07-28, or those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: `initialize`, sessions, server requests.
    Legacy,
    /// 2026-07-28: stateless.
    Modern,
}

impl Era {
    /// Name in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}
