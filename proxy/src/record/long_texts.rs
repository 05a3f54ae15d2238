//! Counts texts of servers that filters had to read and that were longer than what is held for that.

use crate::metrics::Metrics;
use portunus_config::VirtualServer;
use portunus_filters::{Beyond, LongTextObserver, LongTexts};
use std::fmt;
use std::sync::Arc;

/// The long texts that are for the client of a message at a virtual server.
pub fn long_texts(metrics: &Arc<Metrics>, server: &VirtualServer) -> Arc<LongTexts> {
    let counter = Counter { metrics: Arc::clone(metrics), server: Arc::clone(&server.name) };
    Arc::new(LongTexts::new(server.answers, Box::new(counter)))
}

/// Counts in the metrics of one virtual server.
struct Counter {
    metrics: Arc<Metrics>,
    server: Arc<str>,
}

impl LongTextObserver for Counter {
    fn observe(&self, beyond: Beyond) {
        self.metrics.long_text(&self.server, beyond);
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("server", &self.server).finish_non_exhaustive()
    }
}
