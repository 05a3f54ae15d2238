//! A gateway under a clock that a test moves: this binary once more, as a process of its own.

use super::Gateway;
use portunus::clock::SystemClock;
use portunus::handover::take::Inheritance;
use portunus::run::{Origin, Process, run};
use portunus_config::{Attempt, ProcessEnvironment};
use portunus_filters::{Clock, Moment};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The variable that names the file with the time.
const VARIABLE: &str = "PORTUNUS_CLOCK";

/// That file, in the folder of the gateway: seconds since the epoch.
const FILE: &str = "clock";

/// The gateway on the configuration of a folder, at a time that stands still until [`set`] moves it.
pub(crate) fn run_at(folder: &Path, wall: u64) -> Command {
    let file = folder.join(FILE);
    std::fs::write(&file, wall.to_string()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["harness::clock::gateway", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, file).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Moves the clock of a gateway that [`run_at`] started.
pub(crate) fn set(gateway: &Gateway, wall: u64) {
    gateway.place(FILE, &wall.to_string());
}

/// The wall clock is what the file says; the monotonic one, which waits are measured by, goes on.
struct Written {
    file: PathBuf,
    system: SystemClock,
}

impl Clock for Written {
    fn now(&self) -> Moment {
        let wall = std::fs::read_to_string(&self.file).unwrap().parse().unwrap();
        Moment { wall: Duration::from_secs(wall), ..self.system.now() }
    }
}

#[test]
#[ignore = "no test: what `run_at` starts"]
fn gateway() {
    let Some(file) = std::env::var_os(VARIABLE) else { return };
    let config = Path::new("gateway.yaml");
    let attempt = Attempt::new(config, &ProcessEnvironment);
    let process = Process {
        loaded: attempt.outcome.unwrap_or_else(|report| panic!("{report}")),
        watched: Some((config.to_owned(), attempt.fingerprint)),
        origin: Origin::Start(Inheritance::default()),
        clock: Arc::new(Written { file: file.into(), system: SystemClock::new() }),
        extra: Vec::new(),
        scratch: None,
        ready: Box::new(|_| {}),
    };
    run(process).unwrap();
}
