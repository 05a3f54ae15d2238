//! Legacy sessions that the gateway holds at upstreams.

use crate::talk::words::Facts;
use portunus_filters::mcp::Revision;
use std::sync::Arc;

/// A legacy session at an upstream.
pub struct Leg {
    /// What the server said of itself.
    pub facts: Arc<Facts>,
    /// The revision that was agreed on.
    pub version: Revision,
}
