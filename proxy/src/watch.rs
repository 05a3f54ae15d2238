//! Watching the configuration's files.
//!
//! Polled: it costs some microseconds ten times a second, and sees what notifications miss on
//! network file systems and with the symbolic links that orchestrators swap. Metadata tells that
//! nothing happened; where it cannot be sure, contents are compared.

use crate::frontend::context::Gateway;
use portunus_config::{Attempt, Fingerprint, ProcessEnvironment, Report};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

const PERIOD: Duration = Duration::from_millis(100);

/// A file written less than this ago may be written again without its time changing.
const SETTLED: Duration = Duration::from_secs(2);

/// What identifies the state of a file: device, inode, size, time of change in nanoseconds.
type Stamp = Option<(u64, u64, u64, i128)>;

/// Follows the files of one configuration.
pub struct Watcher {
    gateway: Arc<Gateway>,
    path: PathBuf,
    fingerprint: Fingerprint,
    seen: Vec<Stamp>,
}

impl Watcher {
    /// A watcher for the configuration at `path`, which was found as `fingerprint`.
    pub fn new(gateway: Arc<Gateway>, path: &Path, fingerprint: Fingerprint) -> Watcher {
        Watcher { gateway, path: path.to_owned(), fingerprint, seen: Vec::new() }
    }

    /// Follows changes until the process ends; `asked` asks for a look at once.
    pub async fn run(mut self, asked: Arc<Notify>) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let look = tokio::select! {
                _ = tick.tick() => self.may_have_changed() && self.fingerprint.changed(&ProcessEnvironment),
                () = asked.notified() => true,
            };
            if look {
                self.reload().await;
            }
        }
    }

    async fn reload(&mut self) {
        let mut attempt = Attempt::new(&self.path, &ProcessEnvironment);
        if attempt.outcome.is_err() {
            // A file that is being written reads as a broken one: look once more.
            sleep(PERIOD).await;
            attempt = Attempt::new(&self.path, &ProcessEnvironment);
        }
        self.fingerprint = attempt.fingerprint;
        match attempt.outcome {
            Ok(loaded) => self.gateway.activate(loaded),
            Err(Report(diagnostics)) => self.gateway.refuse_configuration(diagnostics),
        }
    }

    /// Whether metadata differs, or is too young to be trusted.
    fn may_have_changed(&mut self) -> bool {
        let stamps: Vec<Stamp> = self.fingerprint.paths().map(stamp).collect();
        let now = i128::try_from(self.gateway.clock.now().wall.as_nanos()).unwrap_or(i128::MAX);
        let settled = i128::try_from(SETTLED.as_nanos()).unwrap_or(i128::MAX);
        let young = stamps.iter().flatten().any(|(.., changed)| now - changed < settled);
        let differs = stamps != self.seen;
        self.seen = stamps;
        differs || young
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), changed))
}
