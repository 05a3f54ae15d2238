//! The process's own log, on standard error; its level can be changed while it runs.
//!
//! A thread of its own writes it: a reader of standard error that stalls must not stop whoever has
//! something to say, nor the end of the process. What is said before the log runs, and panics, go to
//! standard error directly.

mod queue;

use portunus_base::text;
use portunus_config::{LogFormat, LogLevel, LogSettings};
use queue::Queue;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// For how long what waits is written before the process ends or its output becomes another.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);

/// The one of the process, once its log was started.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Changes the level of the running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// Puts a new level in force: `error` to `trace`.
    ///
    /// # Errors
    /// If `level` is none of the five.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let known = ["error", "warn", "info", "debug", "trace"];
        if !known.contains(&level) {
            return Err(format!("`{level}` is no level: use one of {}", known.join(", ")));
        }
        self.0.reload(filter(level)).map_err(|error| error.to_string())
    }
}

/// Starts the log.
///
/// # Errors
/// If a log was started before, or there is no thread for it.
pub fn start(settings: &LogSettings) -> Result<LevelHandle, String> {
    let level = match settings.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(|| Tamed).with_target(false)).try_init(),
        LogFormat::Json => {
            registry.with(fmt::layer().with_writer(|| Tamed).json().flatten_event(true)).try_init()
        }
    };
    started.map_err(|error| error.to_string())?;
    let complain = |lines| tracing::error!(lines, "the log lost lines: its reader is slower than it");
    let queue = Queue::written_to(Stderr, complain).map_err(|error| error.to_string())?;
    QUEUE.get_or_init(|| queue);
    Ok(LevelHandle(handle))
}

/// Waits until what was said up to now is written, at most for two seconds.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSHED_WITHIN);
    }
}

#[cfg(test)]
impl LevelHandle {
    /// That of a log which nobody reads.
    pub(crate) fn unread() -> LevelHandle {
        LevelHandle(reload::Layer::new(filter("error")).1)
    }
}

/// The way to standard error, on which nothing that a terminal acts on survives: servers and clients
/// chose some of the text.
struct Tamed;

impl Write for Tamed {
    /// A line at a time, as the log writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let tame = text::tame_log(&String::from_utf8_lossy(line)).into_bytes();
        match QUEUE.get() {
            Some(queue) => queue.push(tame),
            None => Stderr.write_all(&tame)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error without the lock of [`io::stderr`], which a write that stalls would keep from panics.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pingora logs each broken connection as an error; those are every day's traffic at a rim.
fn filter(level: &str) -> EnvFilter {
    let pingora = if matches!(level, "debug" | "trace") { level } else { "off" };
    EnvFilter::new(format!("{level},pingora_core={pingora},pingora_runtime={pingora}"))
}
