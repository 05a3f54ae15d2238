//! The MCP wire model: reading JSON-RPC envelopes in place, the rules that tie headers to bodies,
//! and the splitting of event streams.
//!
//! Nothing here re-serialises a message. What is read is borrowed or located by [`Span`]s, so an
//! untouched message leaves byte for byte.

mod bounds;
pub mod bridge;
pub mod envelope;
pub mod headers;
mod late_id;
pub mod method;
pub mod object;
pub mod revision;
pub mod rewrite;
pub(crate) mod scan;
mod sentinel;
pub mod sse;
mod summary;
pub mod tree;
pub mod uri;

pub use bounds::Bounds;
pub use envelope::{Envelope, Id, MAX_BATCH, ResultSummary, Shape};
pub use late_id::LateId;
pub use method::Method;
pub use revision::Revision;
pub use scan::{Fault, check, text};
pub use summary::{Answer, Summary};

/// A half-open byte range of a message body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Where `part` lies in `whole`.
    ///
    /// `None` if `part` is no sub-slice of `whole`, or `whole` is longer than 4 GiB.
    pub fn locate(whole: &[u8], part: &[u8]) -> Option<Span> {
        let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        let end = start.checked_add(part.len())?;
        if end > whole.len() {
            return None;
        }
        Some(Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
    }

    /// The bytes of this span in the body it was located in.
    pub fn of(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}
