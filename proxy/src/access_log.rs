//! The access log: one JSON line a message, written by a thread of its own.
//!
//! A call hands its line over and goes on. When the reader of the log is slower than the traffic
//! for longer than the queue lasts, lines are dropped and counted: a log must not stop the gateway.
//! Lines leave whole, many in one write, so that two processes can append to one file.

use crate::complaint::Complaint;
use crate::metrics::Metrics;
use portunus_config::AccessLog;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines that may wait.
const QUEUE: usize = 16 * 1024;
/// Bytes after which what waits is written.
const BLOCK: usize = 64 * 1024;
/// For how long what waits is written when the process ends.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Where records go.
pub struct Sink {
    queue: RwLock<Option<SyncSender<Entry>>>,
    writer: Mutex<Option<Writing>>,
    lost: Arc<Lost>,
    /// The file is to be opened again before the next line.
    reopen: Arc<AtomicBool>,
    enabled: bool,
}

/// The thread that writes.
struct Writing {
    thread: JoinHandle<()>,
    /// Closed when it ends.
    ended: Receiver<()>,
}

impl Writing {
    fn start(work: impl FnOnce() + Send + 'static) -> io::Result<Writing> {
        let (ending, ended) = sync_channel(0);
        let thread = std::thread::Builder::new().name("access-log".into());
        let thread = thread.spawn(move || {
            let _ending: SyncSender<()> = ending;
            work();
        })?;
        Ok(Writing { thread, ended })
    }
}

/// What the writer gets.
enum Entry {
    Line(String),
    /// There is something to do beside lines.
    Wake,
}

/// Lines that did not reach the log.
struct Lost {
    metrics: Arc<Metrics>,
    complaint: Complaint,
    /// Why the last of them could not be written; none if it was not even taken.
    error: Mutex<Option<io::Error>>,
}

impl Lost {
    fn count(&self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.metrics.records_dropped.inc_by(lines);
        self.complaint.add(lines);
    }
}

impl Sink {
    /// Opens the log that the configuration names.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread not be started.
    pub fn open(settings: &AccessLog, metrics: Arc<Metrics>) -> io::Result<Sink> {
        let lost = Arc::new(Lost { metrics, complaint: Complaint::default(), error: Mutex::default() });
        let reopen = Arc::<AtomicBool>::default();
        let (output, path): (Box<dyn Write + Send>, _) = match settings {
            AccessLog::Off => {
                let (queue, writer) = Default::default();
                return Ok(Sink { queue, writer, lost, reopen, enabled: false });
            }
            AccessLog::Stdout => (Box::new(io::stdout()), None),
            AccessLog::File(path) => (Box::new(open_private(path)?), Some(path.clone())),
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = Writer {
            output,
            path,
            block: Vec::with_capacity(BLOCK),
            lines: 0,
            is_begun: false,
            lost: Arc::clone(&lost),
            reopen: Arc::clone(&reopen),
        };
        let writer = Writing::start(move || writer.run(&receiver))?;
        Ok(Sink {
            queue: RwLock::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
            lost,
            reopen,
            enabled: true,
        })
    }

    /// Whether records are wanted at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Hands one line over.
    pub fn write(&self, line: String) {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        let taken = queue.as_ref().is_some_and(|queue| queue.try_send(Entry::Line(line)).is_ok());
        if !taken && self.enabled {
            self.lost.count(1);
        }
    }

    /// Has the file opened again at its path: lines that wait go to the one that is there then.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        // A queue that is full wakes the writer by itself.
        if let Some(Err(TrySendError::Disconnected(_))) =
            queue.as_ref().map(|queue| queue.try_send(Entry::Wake))
        {
            tracing::error!("the access log's writer has ended");
        }
    }

    /// Complains of lines that were lost, once in a while.
    pub fn sweep(&self, now: Instant) {
        if let Some(lines) = self.lost.complaint.due(now) {
            let error = self.lost.error.lock().unwrap_or_else(PoisonError::into_inner).take();
            match error {
                Some(error) => tracing::error!(lines, %error, "the access log lost lines"),
                None => tracing::error!(lines, "the access log lost lines: it is slower than the calls"),
            }
        }
    }

    /// Writes what waits and ends. A reader that takes nothing more does not keep the process.
    pub fn close(&self) {
        self.close_within(ENDS_WITHIN);
    }

    fn close_within(&self, within: Duration) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Writing { thread, ended }) = writer else { return };
        if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            tracing::error!(?within, "the access log lost lines: its reader did not take the last in time");
        } else if thread.join().is_err() {
            tracing::error!("the access log's writer ended by a panic");
        }
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Writes as much as gets in, and says why that is not all.
fn write_most(output: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, output.flush())
}

/// The thread that writes.
struct Writer {
    output: Box<dyn Write + Send>,
    /// `None` for standard output, which is not ours to open.
    path: Option<PathBuf>,
    /// Whole lines, but for the rest of one that was begun.
    block: Vec<u8>,
    lines: u64,
    /// The block begins with the rest of a line.
    is_begun: bool,
    lost: Arc<Lost>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, entries: &Receiver<Entry>) {
        while let Ok(first) = entries.recv() {
            // Lines appear at once when traffic is low, in blocks when it is high.
            let mut next = Some(first);
            while let Some(entry) = next {
                if self.reopen.swap(false, Ordering::AcqRel) {
                    self.open_again();
                }
                if let Entry::Line(line) = entry {
                    self.block.extend_from_slice(line.as_bytes());
                    self.block.push(b'\n');
                    self.lines += 1;
                }
                if self.block.len() >= BLOCK {
                    self.flush();
                }
                next = entries.try_recv().ok();
            }
            self.flush();
        }
    }

    /// Writes the block. Lines that do not get in are lost, but not the rest of one that was begun.
    fn flush(&mut self) {
        let (written, failed) = write_most(&mut *self.output, &self.block);
        if let Err(error) = failed {
            *self.lost.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        self.is_begun = match self.block[..written].last() {
            Some(last) => *last != b'\n',
            None => self.is_begun,
        };
        let rest = self.block.split_off(written);
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let done = self.block.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.lost.count(self.lines.saturating_sub(done + u64::from(self.is_begun)));
        self.block.clear();
        self.lines = 0;
        if self.is_begun {
            self.block.extend_from_slice(&rest[..end]);
            self.lines = 1;
        }
    }

    /// Writes what waits where it was to go, and goes on at what is now at the path.
    fn open_again(&mut self) {
        let Some(path) = self.path.clone() else { return };
        self.flush();
        match open_private(&path) {
            Ok(file) => {
                self.output = Box::new(file);
                if std::mem::take(&mut self.is_begun) {
                    // Its beginning is in the other file.
                    self.block.clear();
                    self.lost.count(std::mem::take(&mut self.lines));
                }
                tracing::info!(path = %path.display(), "the access log was opened again");
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the access log cannot be opened again: lines go on where they went");
            }
        }
    }
}

#[cfg(test)]
mod tests;
