//! The process's own log, on standard error; its level can be changed while it runs.

use portunus_config::{LogFormat, LogLevel, LogSettings};
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
        LogFormat::Text => {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init()
        }
        LogFormat::Json => {
            registry.with(fmt::layer().with_writer(std::io::stderr).json().flatten_event(true)).try_init()
        }
    };
    started.map_err(|error| error.to_string())?;
    Ok(LevelHandle(handle))
}

/// Pingora logs each broken connection as an error; those are every day's traffic at a rim.
fn filter(level: &str) -> EnvFilter {
    let pingora = if matches!(level, "debug" | "trace") { level } else { "off" };
    EnvFilter::new(format!("{level},pingora_core={pingora},pingora_runtime={pingora}"))
}
