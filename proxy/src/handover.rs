//! From a running process to its successor: the listening sockets, then the work.
//!
//! The successor asks on the control socket (`POST /upgrade` with `Upgrade: portunus-handover/2`);
//! what follows the 101 are lines of JSON, the sockets travel beside theirs. Both processes then
//! accept from the same queues, so no connection meets a closed door. Until the successor says that it
//! is ready nothing has changed for the old process, and whatever ends the upstream call before that leaves it
//! as it was.
//!
//! ```text
//! successor                        old process
//!     |  POST /upgrade                  |
//!     |-------------------------------->|  checks the peer, answers 101
//!     |  output, socket, socket, …, all |
//!     |<--------------------------------|
//!     |  serves                         |  serves
//!     |  ready                          |
//!     |-------------------------------->|
//!     |                          yours  |
//!     |<--------------------------------|
//!     |  takes the control socket       |  stops accepting, finishes its calls, exits
//! ```

pub mod give;
pub mod take;
mod wire;

use crate::listeners::Place;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::TcpListener;
use std::time::Duration;

/// The protocol and its version, as both sides name it in `Upgrade`.
pub const PROTOCOL: &str = "portunus-handover/2";

/// How long the old process waits for a successor that has its sockets.
const UNTIL_READY: Duration = Duration::from_secs(30);
/// How long either side waits for what the other only has to write.
const UNTIL_SAID: Duration = Duration::from_secs(10);

/// A socket that can be given to a successor.
#[derive(Debug)]
pub struct Holding {
    /// What it is for.
    pub place: Place,
    /// Whether a supervisor keeps it open beyond this process.
    pub supervised: bool,
    /// Our handle on it.
    pub socket: TcpListener,
}

impl Holding {
    /// Another handle on the same socket.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn share(&self) -> io::Result<Holding> {
        let Holding { place, supervised, socket } = self;
        Ok(Holding { place: place.clone(), supervised: *supervised, socket: socket.try_clone()? })
    }
}

/// Describes the old process to its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldProcess {
    /// Version of the old process.
    pub version: String,
    /// Where the supervisor takes notifications, as in `NOTIFY_SOCKET`.
    pub notify: Option<String>,
    /// The watchdog's interval in microseconds, as in `WATCHDOG_USEC`.
    pub watchdog_usec: Option<u64>,
}

/// Where a process writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    /// Standard output: the access log, where it is configured to go there.
    Stdout,
    /// Standard error: the log of the process.
    Stderr,
}

/// What the old process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FromOld {
    /// Where it writes to, which comes with this line.
    Output(Output),
    /// A socket, which comes with this line.
    Socket { place: Place, supervised: bool },
    /// No further sockets.
    All(OldProcess),
    /// The successor is the process now.
    Yours,
    /// It is not going to be.
    Refused(String),
}

/// What the successor says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FromSuccessor {
    /// It serves, on the sockets of these numbers, in the order in which they came.
    Ready(Vec<usize>),
}
