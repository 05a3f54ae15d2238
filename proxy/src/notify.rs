//! What a supervisor is told: ready, reloading, stopping, alive, and who the main process is.
//!
//! The protocol of systemd (sd_notify(3)): one datagram of `KEY=value` lines each to the socket that
//! `NOTIFY_SOCKET` names. Without a supervisor nothing is sent.

use crate::handover::OldProcess;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// The supervisor of this process, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    address: Option<String>,
    /// Within this time it has to hear that the process lives.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The supervisor that started this process.
    pub fn of_environment() -> Supervisor {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let usec = variable("WATCHDOG_USEC").filter(|_| meant).and_then(|usec| usec.parse().ok());
        Supervisor { address: variable("NOTIFY_SOCKET"), watchdog: usec.map(Duration::from_micros) }
    }

    /// The supervisor of the old process; one that it did not have is not asked for either.
    pub fn inherited(old: &OldProcess) -> Supervisor {
        let watchdog = old.watchdog_usec.map(Duration::from_micros);
        Supervisor { address: old.notify.clone(), watchdog }
    }

    /// What a successor has to know.
    pub fn old_process(&self) -> OldProcess {
        let usec = self.watchdog.map(|watchdog| u64::try_from(watchdog.as_micros()).unwrap_or(u64::MAX));
        OldProcess {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notify: self.address.clone(),
            watchdog_usec: usec,
        }
    }

    /// The process serves.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The process is about to be succeeded; [`Supervisor::ready`] ends this state.
    pub fn reloading(&self, status: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS={status}\n"));
    }

    /// The process ends in order.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}\n"));
    }

    /// Another process is the main one from now on.
    pub fn main_process(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}\n"));
    }

    /// Says that the process lives, twice in each interval of the watchdog.
    pub async fn beat(self) {
        let Some(watchdog) = self.watchdog.filter(|watchdog| !watchdog.is_zero()) else { return };
        let mut tick = interval(watchdog / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.tell("WATCHDOG=1\n");
        }
    }

    /// Whether process `pid` lives in the same unit, so that the supervisor accepts it as the main one.
    ///
    /// Without a supervisor any process does.
    pub fn knows(&self, pid: u32) -> bool {
        let unit = |pid: &str| std::fs::read(format!("/proc/{pid}/cgroup")).ok();
        self.address.is_none() || unit(&pid.to_string()) == unit("self")
    }

    fn tell(&self, text: &str) {
        let Some(address) = &self.address else { return };
        if let Err(error) = send(address, text.as_bytes()) {
            tracing::warn!(%error, address, "the supervisor cannot be told how this process is");
        }
    }
}

fn send(address: &str, text: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not read must not hold this process up.
    socket.set_nonblocking(true)?;
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    socket.send_to_addr(text, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervised(name: &str) -> (UnixDatagram, Supervisor) {
        let name = format!("portunus-notify-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let supervisor =
            Supervisor { address: Some(format!("@{name}")), watchdog: Some(Duration::from_millis(10)) };
        (socket, supervisor)
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_state_is_one_datagram() {
        let (socket, supervisor) = supervised("states");
        supervisor.ready("serving");
        assert_eq!(next(&socket), "READY=1\nSTATUS=serving\n");
        supervisor.stopping("draining");
        assert_eq!(next(&socket), "STOPPING=1\nSTATUS=draining\n");
        supervisor.main_process(7);
        assert_eq!(next(&socket), "MAINPID=7\n");
        supervisor.reloading("handing over");
        let reloading = next(&socket);
        let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(reloading.starts_with("RELOADING=1\n") && usec.unwrap().parse::<u64>().unwrap() > 0);
    }

    #[tokio::test]
    async fn the_watchdog_hears_a_beat_only_where_there_is_one() {
        let (socket, supervisor) = supervised("beat");
        let beating = tokio::spawn(supervisor.clone().beat());
        let heard = tokio::task::spawn_blocking(move || next(&socket)).await.unwrap();
        assert_eq!(heard, "WATCHDOG=1\n");
        beating.abort();
        Supervisor { watchdog: None, ..supervisor }.beat().await;
    }

    #[test]
    fn a_successor_has_the_supervisor_of_the_old_process() {
        let (_socket, supervisor) = supervised("facts");
        assert_eq!(Supervisor::inherited(&supervisor.old_process()), supervisor);
    }

    #[test]
    fn a_process_of_another_unit_is_not_known() {
        let (_socket, supervisor) = supervised("unit");
        assert!(supervisor.knows(std::process::id()));
        // No process has this number: the largest is 2^22 (proc(5)).
        assert!(!supervisor.knows(u32::MAX));
        assert!(Supervisor::default().knows(u32::MAX));
    }
}
