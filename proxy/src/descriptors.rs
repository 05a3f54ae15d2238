//! File descriptors: how many there are, who may have them, and what is said when they run out.
//!
//! They belong to the process, and so does this table. Clients get half of them, since most calls need
//! a second one towards a server; the last ones are for what must work in any case: the operating
//! surfaces, the control socket, files. The lowest number that is free is given out first, so that a
//! socket's own number says how far the table is filled.

use crate::complaint::Complaint;
use portunus_config::{Bootstrap, Diagnostic, Severity};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// For the surfaces, the control socket and files.
const RESERVED: usize = 32;
/// What a process holds without a connection: its runtimes, listeners, logs.
const OWN: usize = 32;
/// The same for each worker thread.
const OWN_OF_THREAD: usize = 4;

static TABLE: LazyLock<Table> = LazyLock::new(Table::default);

/// Who did not get a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanting {
    /// A client that wanted to connect.
    Client,
    /// A connection to an upstream.
    Upstream,
}

impl Wanting {
    /// All of them with their label values.
    pub const ALL: [(Wanting, &'static str); 2] =
        [(Wanting::Client, "client"), (Wanting::Upstream, "upstream")];
}

struct Table {
    /// Descriptors with this number and above are reserved.
    floor: AtomicUsize,
    clients: AtomicUsize,
    refused: [AtomicU64; Wanting::ALL.len()],
    complaint: Complaint,
    /// Somebody did not get one since the last look.
    is_scarce: AtomicBool,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            floor: AtomicUsize::new(usize::MAX),
            clients: AtomicUsize::new(usize::MAX),
            refused: Default::default(),
            complaint: Complaint::default(),
            is_scarce: AtomicBool::new(false),
        }
    }
}

/// Lets this process have as many descriptors as it may, and reserves the last of them.
///
/// The limit that is in force by default is for programs of another time (select(2)).
pub fn claim(bootstrap: &Bootstrap) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised to what is allowed");
        }
    }
    let most = limit_of(getrlimit(Resource::Nofile).current);
    TABLE.floor.store(most.saturating_sub(RESERVED.min(most / 4)), Ordering::Relaxed);
    TABLE.clients.store(for_clients(most, bootstrap.threads), Ordering::Relaxed);
}

/// Whether a new descriptor may be used; it is to be closed at once if not.
pub fn may_use(descriptor: &impl AsRawFd) -> bool {
    usize::try_from(descriptor.as_raw_fd()).is_ok_and(|number| number < TABLE.floor.load(Ordering::Relaxed))
}

/// Whether all got what they wanted of late: otherwise nobody keeps what is idle.
pub fn is_plenty() -> bool {
    !TABLE.is_scarce.load(Ordering::Relaxed)
}

/// How many connections a listener may hold that was given `wanted` of `all`.
pub fn share(wanted: usize, all: usize) -> usize {
    share_of(TABLE.clients.load(Ordering::Relaxed), wanted, all)
}

/// Notes that somebody waits for a descriptor.
pub fn await_one() {
    TABLE.is_scarce.store(true, Ordering::Relaxed);
}

/// Notes that somebody did not get a descriptor.
pub fn refuse(wanting: Wanting) {
    TABLE.refused[wanting as usize].fetch_add(1, Ordering::Relaxed);
    TABLE.is_scarce.store(true, Ordering::Relaxed);
    TABLE.complaint.add(1);
}

/// How often somebody did not get one.
pub fn refused(wanting: Wanting) -> u64 {
    TABLE.refused[wanting as usize].load(Ordering::Relaxed)
}

/// Open descriptors, and how many there can be.
pub fn usage() -> (usize, usize) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (open, limit_of(getrlimit(Resource::Nofile).current))
}

/// Complains if they run out, once in a while.
pub fn sweep(now: Instant) {
    TABLE.is_scarce.store(false, Ordering::Relaxed);
    if let Some(times) = TABLE.complaint.due(now) {
        let (open, limit) = usage();
        tracing::error!(
            times,
            open,
            limit,
            "file descriptors run out: connections were refused; raise the limit of open files (`ulimit -n`, `LimitNOFILE=`)"
        );
    }
}

/// What is wrong with `max_connections` under the limit that is allowed to this process.
pub fn doubt(bootstrap: &Bootstrap) -> Option<Diagnostic> {
    let limit = limit_of(getrlimit(Resource::Nofile).maximum);
    let wanted = wanted(bootstrap);
    // About as many as are wanted are no reason to warn.
    if wanted <= limit / 2 {
        return None;
    }
    let served = for_clients(limit, bootstrap.threads);
    Some(Diagnostic {
        path: "limits.max_connections".to_owned(),
        at: None,
        problem: format!(
            "the listeners may hold {wanted} connections, but a process may have {limit} files open here, which is enough for {served}"
        ),
        hint: format!(
            "allow {} open files (`ulimit -Hn`, `LimitNOFILE=`), or lower `max_connections`",
            wanted * 2 + RESERVED + own(bootstrap.threads)
        ),
        severity: Severity::Warning,
    })
}

/// Connections that all listeners together may hold.
pub fn wanted(bootstrap: &Bootstrap) -> usize {
    let peers = bootstrap.peers.iter().map(|peers| &peers.listener);
    bootstrap.listeners.iter().chain(peers).map(|listener| listener.limits.max_connections).sum()
}

fn own(threads: usize) -> usize {
    OWN + OWN_OF_THREAD * threads
}

fn for_clients(limit: usize, threads: usize) -> usize {
    (limit.saturating_sub(RESERVED + own(threads)) / 2).max(1)
}

fn share_of(there: usize, wanted: usize, all: usize) -> usize {
    if all <= there {
        return wanted;
    }
    let share = (wanted as u128) * (there as u128) / (all as u128);
    usize::try_from(share).unwrap_or(wanted).clamp(1, wanted.max(1))
}

/// `None` is no limit, which Linux does not have.
fn limit_of(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_what_there_is() {
        let cases = [
            ("enough", 10_000, 10_000, 10_000, 10_000),
            ("too few for one", 92, 10_000, 10_000, 92),
            ("too few for two", 100, 30, 120, 25),
            ("nothing to speak of", 1, 10, 1_000, 1),
        ];
        for (name, there, wanted, all, expected) in cases {
            assert_eq!(share_of(there, wanted, all), expected, "{name}");
        }
    }

    #[test]
    fn half_of_what_is_not_reserved_is_for_clients() {
        assert_eq!(for_clients(256, 2), (256 - 32 - 40) / 2);
        assert_eq!(for_clients(16, 2), 1);
    }
}
