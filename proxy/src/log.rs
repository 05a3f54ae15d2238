//! The process's own log, on standard error; its level can be changed while it runs.

use crate::text;
use portunus_config::{LogFormat, LogLevel, LogSettings};
use std::io::{self, Write};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

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
/// If a log was started before.
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
    Ok(LevelHandle(handle))
}

#[cfg(test)]
impl LevelHandle {
    /// That of a log which nobody reads.
    pub(crate) fn unread() -> LevelHandle {
        LevelHandle(reload::Layer::new(filter("error")).1)
    }
}

/// Standard error, on which nothing that a terminal acts on survives: servers and clients chose some of
/// the text.
struct Tamed;

impl Write for Tamed {
    /// A line at a time, as the log writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(text::tame_log(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Pingora logs each broken connection as an error; those are every day's traffic at a rim.
fn filter(level: &str) -> EnvFilter {
    let pingora = if matches!(level, "debug" | "trace") { level } else { "off" };
    EnvFilter::new(format!("{level},pingora_core={pingora},pingora_runtime={pingora}"))
}
