//! The access log: one JSON line a message, written by a thread of its own.
//!
//! A call hands its line over and goes on. When the reader of the log is slower than the traffic
//! for longer than the queue lasts, lines are dropped and counted: a log must not stop the gateway.

use crate::metrics::Metrics;
use portunus_config::AccessLog;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

/// Lines that may wait.
const QUEUE: usize = 16 * 1024;

/// Where records go.
pub struct Sink {
    queue: RwLock<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
    enabled: bool,
}

impl Sink {
    /// Opens the log that the configuration names.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread not be started.
    pub fn open(settings: &AccessLog, metrics: Arc<Metrics>) -> io::Result<Sink> {
        let output: Box<dyn Write + Send> = match settings {
            AccessLog::Off => {
                return Ok(Sink {
                    queue: RwLock::default(),
                    writer: Mutex::default(),
                    metrics,
                    enabled: false,
                });
            }
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(open_private(path)?),
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&receiver, output))?;
        Ok(Sink {
            queue: RwLock::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
            metrics,
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
        let Some(queue) = queue.as_ref() else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(line) {
            self.metrics.records_dropped.inc();
        }
    }

    /// Writes what waits and ends.
    pub fn close(&self) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the access log's writer ended by a panic");
        }
    }
}

fn open_private(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write_all(lines: &Receiver<String>, output: Box<dyn Write + Send>) {
    let mut output = BufWriter::new(output);
    while let Ok(line) = lines.recv() {
        let mut result = writeln!(output, "{line}");
        // Flush when nothing waits: lines appear at once when traffic is low, in blocks when high.
        while let Ok(line) = lines.try_recv() {
            result = result.and_then(|()| writeln!(output, "{line}"));
        }
        if let Err(error) = result.and_then(|()| output.flush()) {
            tracing::error!(%error, "the access log cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_on_disk_after_close() {
        let path = std::env::temp_dir().join(format!("portunus-access-{}.log", std::process::id()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let sink = Sink::open(&AccessLog::File(path.clone()), metrics).unwrap();
        for index in 0..1000 {
            sink.write(format!("{{\"n\":{index}}}"));
        }
        sink.close();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(text.lines().last(), Some("{\"n\":999}"));
    }
}
