//! Metrics of the process, under the names that Prometheus gives them everywhere.

use super::keep;
use crate::descriptors::{self, Wanting};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use std::sync::{Mutex, PoisonError};

/// File descriptors of the process.
pub(super) struct ProcessMetrics {
    open: IntGauge,
    most: IntGauge,
    refused: IntCounterVec,
    /// Two who look at once would count twice.
    looking: Mutex<()>,
}

impl ProcessMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<ProcessMetrics> {
        let gauge = |name: &str, help: &str| keep(registry, IntGauge::new(name, help)?);
        let (name, help) =
            ("portunus_descriptors_refused_total", "Connections for which no file descriptor was left");
        Ok(ProcessMetrics {
            open: gauge("process_open_fds", "Open file descriptors")?,
            most: gauge("process_max_fds", "Most file descriptors that may be open")?,
            refused: keep(registry, IntCounterVec::new(Opts::new(name, help), &["for"])?)?,
            looking: Mutex::default(),
        })
    }

    /// Takes the numbers as they are now.
    pub(super) fn look(&self) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, most) = descriptors::usage();
        self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.most.set(i64::try_from(most).unwrap_or(i64::MAX));
        for (wanting, label) in Wanting::ALL {
            let counter = self.refused.with_label_values(&[label]);
            counter.inc_by(descriptors::refused(wanting).saturating_sub(counter.get()));
        }
    }
}
