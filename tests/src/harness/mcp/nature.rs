//! Settings of a scripted server.

use crate::harness::Era;
use std::time::Duration;

/// Settings of a server, besides its tools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// The era that it speaks.
    pub(crate) era: Era,
    /// Tools on one page of its list.
    pub(crate) page: usize,
    /// How long each of its answers takes.
    pub(crate) delay: Duration,
    /// `ttlMs` of its list, in the modern era.
    pub(crate) ttl_ms: u64,
    /// `cacheScope` of its list, in the modern era.
    pub(crate) scope: &'static str,
    /// Status for a session that it does not know; a success has no body.
    pub(crate) unknown: u16,
    /// Its instructions.
    pub(crate) instructions: &'static str,
}

impl Nature {
    /// Answers at once, all tools on one page, as fresh as a minute, unknown sessions with 404.
    pub(crate) fn of(era: Era) -> Nature {
        let (page, delay) = (usize::MAX, Duration::ZERO);
        Nature { era, page, delay, ttl_ms: 60_000, scope: "private", unknown: 404, instructions: "" }
    }
}
