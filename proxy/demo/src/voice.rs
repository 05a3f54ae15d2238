//! How a running tool speaks to its caller before the result: progress and log lines.

use super::rpc;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Messages that wait for a slow client before the tool waits too.
const BACKLOG: usize = 16;

/// The way from one call to the stream of its answer.
pub(super) struct Voice {
    out: mpsc::Sender<String>,
    progress_token: Option<Value>,
    level: Option<Level>,
}

impl Voice {
    /// A voice, and where its messages come out.
    ///
    /// Without `progress_token` no progress is sent, without `level` no log line.
    pub(super) fn new(
        progress_token: Option<Value>,
        level: Option<Level>,
    ) -> (Voice, mpsc::Receiver<String>) {
        let (out, said) = mpsc::channel(BACKLOG);
        (Voice { out, progress_token, level }, said)
    }

    /// The same way out for another request, which has a token of its own.
    pub(super) fn with_token(&self, progress_token: Option<Value>) -> Voice {
        Voice { out: self.out.clone(), progress_token, level: self.level }
    }

    /// Says that `done` of `total` steps are behind.
    pub(super) async fn progress(&self, done: u64, total: u64, message: &str) {
        if let Some(token) = &self.progress_token {
            let params =
                json!({"progressToken": token, "progress": done, "total": total, "message": message});
            self.say(rpc::notification("notifications/progress", params)).await;
        }
    }

    /// Says a log line, if the caller wants lines of that level.
    pub(super) async fn log(&self, level: Level, text: &str) {
        if self.level.is_some_and(|least| level >= least) {
            let params = json!({"level": level.as_str(), "logger": "demo", "data": text});
            self.say(rpc::notification("notifications/message", params)).await;
        }
    }

    /// Sends a message; one for a client that is gone is lost.
    pub(super) async fn say(&self, message: String) {
        self.out.send(message).await.ok();
    }
}

/// Severity of a log line (RFC 5424 §6.2.1), least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    const ALL: [Level; 8] = [
        Level::Debug,
        Level::Info,
        Level::Notice,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Alert,
        Level::Emergency,
    ];

    /// Reads the name that MCP uses.
    pub(super) fn parse(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == name)
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Alert => "alert",
            Level::Emergency => "emergency",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back_and_are_ordered() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.as_str()), Some(level));
        }
        assert!(Level::ALL.is_sorted());
        assert_eq!(Level::parse("loud"), None);
    }

    #[tokio::test]
    async fn nothing_is_said_that_was_not_asked_for() {
        let (voice, mut said) = Voice::new(None, Some(Level::Warning));
        voice.progress(1, 2, "one").await;
        voice.log(Level::Info, "quiet").await;
        voice.log(Level::Error, "loud").await;
        drop(voice);
        assert!(said.recv().await.unwrap().contains("loud"));
        assert_eq!(said.recv().await, None);
    }
}
