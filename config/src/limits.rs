//! Bounds that several sections share.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest wait that a document can ask for.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// A wait that may be none.
pub(crate) const ANY_DURATION: RangeInclusive<Duration> = Duration::ZERO..=LONGEST;

/// A wait that is one: a deadline of zero would refuse everything.
pub(crate) const POSITIVE_DURATION: RangeInclusive<Duration> = Duration::from_millis(1)..=LONGEST;

/// Largest body that a document can allow.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 30;

/// Most entries of a table that a document can allow.
pub(crate) const MAX_ENTRIES: usize = 10_000_000;

/// Most worker threads.
pub(crate) const MAX_THREADS: usize = 1024;

/// What a name may look like, for hints.
pub(crate) const LABEL: &str = "use letters, digits and `.`, `_`, `-`, `/`; at most 64";

/// Whether a name can stand in a metric label, a log field and a file name's middle.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// Whether a text can be a tool's name: 1 to 128 letters, digits, `_`, `-` and `.` (MCP 2025-11-25,
/// server/tools, "Tool Names").
pub(crate) fn is_tool_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}
