//! A filter for tests alone: it marks every text that it sees, so that what no filter sees can be told apart.
//!
//! Tests put [`UNSEEN`] into every place that a server or a client can write, and look for it on the other side.

#[cfg(not(debug_assertions))]
compile_error!(
    "the feature `canary` is for tests: a release changes no text that nobody asked to be changed"
);

use crate::call::{Call, Edit, Verdict};
use crate::denial::Denial;
use crate::mcp::Span;
use crate::message::Kind;
use crate::pipeline::Filter;
use bytes::Bytes;
use memchr::memmem;

/// What tests write.
pub const UNSEEN: &str = "rawCANARY-";
/// What becomes of it; as long, so that no length changes.
const SEEN: &str = "clrCANARY-";

/// The filter of requests.
#[derive(Debug)]
pub struct Canary;

impl Filter for Canary {
    fn name(&self) -> &'static str {
        "canary"
    }

    fn applies(&self, _: Kind) -> bool {
        true
    }

    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        let body = &call.message.body;
        let text = match (call.message.params, &call.message.method) {
            (Some(params), _) => params.of(body),
            // An answer has its text elsewhere.
            (None, None) => body,
            (None, Some(_)) => &[],
        };
        let found =
            memmem::find_iter(text, UNSEEN).filter_map(|at| Span::locate(body, &text[at..at + UNSEEN.len()]));
        let with = Bytes::from_static(SEEN.as_bytes());
        verdict.edits.extend(found.map(|span| Edit { owner: "canary", span, with: with.clone() }));
        Ok(())
    }
}

/// The text of a server as its client gets it.
pub fn seen(text: &[u8]) -> Bytes {
    let mut text = text.to_vec();
    let places: Vec<usize> = memmem::find_iter(&text, UNSEEN).collect();
    for at in places {
        text[at..at + SEEN.len()].copy_from_slice(SEEN.as_bytes());
    }
    text.into()
}
