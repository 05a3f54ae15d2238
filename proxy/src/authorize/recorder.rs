//! Questions to policy as they came, for `portunus diff --replay`.
//!
//! Off unless an operator starts it, and then for a time: of every so many questions one, as far as the
//! policy can read it, a JSON document a line. What policy reads of arguments is payload, so the file
//! is in the state folder and for its owner alone.

use chrono::DateTime;
use portunus_filters::authorize::Entry;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of one recording.
const MAX_BYTES: u64 = 256 << 20;

/// Longest recording.
pub const MAX_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// A recording, or none.
#[derive(Default)]
pub(super) struct Recorder {
    running: Option<Recording>,
}

struct Recording {
    out: BufWriter<File>,
    path: PathBuf,
    until: Instant,
    bytes: u64,
    lines: u64,
}

impl Recorder {
    /// Begins a recording in a folder; one that runs ends. Gives its file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(super) fn begin(&mut self, folder: &Path, wall: Duration, within: Duration) -> io::Result<PathBuf> {
        self.end();
        let seconds = i64::try_from(wall.as_secs()).unwrap_or_default();
        let at = DateTime::from_timestamp(seconds, 0).map(|time| time.format("%Y%m%dT%H%M%SZ").to_string());
        let path = folder.join(format!("policy-{}.jsonl", at.unwrap_or_default()));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let until = Instant::now() + within.min(MAX_WITHIN);
        let out = BufWriter::new(file);
        self.running = Some(Recording { out, path: path.clone(), until, bytes: 0, lines: 0 });
        Ok(path)
    }

    /// Ends the recording, if there is one.
    pub(super) fn end(&mut self) {
        let Some(mut recording) = self.running.take() else { return };
        if let Err(error) = recording.out.flush() {
            tracing::error!(%error, path = %recording.path.display(), "a recording could not be written");
        }
        tracing::info!(path = %recording.path.display(), lines = recording.lines, "the recording has ended");
    }

    /// Writes a question; whether more are wanted.
    pub(super) fn write(&mut self, entry: Entry, input: &str) -> bool {
        let Some(recording) = &mut self.running else { return false };
        if Instant::now() < recording.until && recording.bytes < MAX_BYTES {
            match recording.line(entry, input) {
                Ok(()) => return true,
                Err(error) => {
                    tracing::error!(%error, path = %recording.path.display(), "a recording ends early");
                }
            }
        }
        self.end();
        false
    }
}

impl Recording {
    fn line(&mut self, entry: Entry, input: &str) -> io::Result<()> {
        writeln!(self.out, "{{\"entry\":\"{}\",\"input\":{input}}}", entry.as_str())?;
        self.lines += 1;
        self.bytes += input.len() as u64 + 40;
        // Few enough, and whoever looks at the file finds whole lines.
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_ends_by_itself_and_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("portunus-recorder-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut recorder = Recorder::default();
        assert!(!recorder.write(Entry::Decision, "{}"), "nothing is recorded unasked");
        let path = recorder.begin(&folder, Duration::from_secs(1_700_000_000), MAX_WITHIN).unwrap();
        assert!(path.ends_with("policy-20231114T221320Z.jsonl"), "{}", path.display());
        assert!(recorder.write(Entry::Decision, "{\"a\":1}"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"entry\":\"decision\",\"input\":{\"a\":1}}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        recorder.begin(&folder, Duration::from_secs(1), Duration::ZERO).unwrap();
        assert!(!recorder.write(Entry::Decision, "{}"), "its time is over");
        std::fs::remove_dir_all(&folder).ok();
    }
}
