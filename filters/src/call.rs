//! A resolved message, and what the filters say of it.

use crate::mcp::Span;
use crate::message::{Arrival, Message};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Where a message goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Label of the virtual server.
    pub server: Arc<str>,
    /// Name of the upstream.
    pub upstream: Arc<str>,
}

/// What filters read.
#[derive(Debug)]
pub struct Call<'a> {
    /// The request it came with.
    pub arrival: &'a Arrival,
    /// The message itself.
    pub message: &'a Message,
    /// Where it goes.
    pub target: &'a Target,
}

/// What filters write. Empty means: as it is.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Changes to the body, applied once after the last filter.
    pub edits: Vec<Edit>,
}

/// A replacement of one span of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The filter that wants it, for the log.
    pub owner: &'static str,
    /// What is replaced.
    pub span: Span,
    /// What stands there afterwards.
    pub with: Bytes,
}

/// Two filters want to change the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The filters.
    pub owners: [&'static str; 2],
}

/// Splices `edits` into `body`; everything between them keeps its bytes.
///
/// # Errors
/// [`Conflict`] if two edits overlap or one lies outside of the body: nothing is guessed.
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Result<Bytes, Conflict> {
    if edits.is_empty() {
        return Ok(body.clone());
    }
    edits.sort_by_key(|edit| edit.span.start);
    let mut out = BytesMut::with_capacity(body.len());
    let mut at = 0usize;
    let mut last = "body";
    for edit in &edits {
        let (start, end) = (edit.span.start as usize, edit.span.end as usize);
        if start < at || end < start || end > body.len() {
            return Err(Conflict { owners: [last, edit.owner] });
        }
        out.extend_from_slice(&body[at..start]);
        out.extend_from_slice(&edit.with);
        at = end;
        last = edit.owner;
    }
    out.extend_from_slice(&body[at..]);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(start: u32, end: u32, with: &'static str) -> Edit {
        Edit { owner: "test", span: Span { start, end }, with: Bytes::from_static(with.as_bytes()) }
    }

    #[test]
    fn edits_change_their_spans_and_nothing_else() {
        let body = Bytes::from_static(b"0123456789");
        let conflict = Err(Conflict { owners: ["test", "test"] });
        let cases: &[(&str, Vec<Edit>, Result<&str, Conflict>)] = &[
            ("none", vec![], Ok("0123456789")),
            ("out of order", vec![edit(8, 9, "x"), edit(0, 2, "ab")], Ok("ab234567x9")),
            ("insertion", vec![edit(5, 5, "-")], Ok("01234-56789")),
            ("touching", vec![edit(0, 5, "a"), edit(5, 10, "b")], Ok("ab")),
            ("overlapping", vec![edit(0, 5, "a"), edit(4, 6, "b")], conflict),
            ("outside", vec![edit(9, 11, "a")], Err(Conflict { owners: ["body", "test"] })),
        ];
        for (name, edits, expected) in cases {
            let expected = expected.clone().map(|text| Bytes::from_static(text.as_bytes()));
            assert_eq!(splice(&body, edits.clone()), expected, "{name}");
        }
    }
}
