//! The side of the successor, and of a process whose sockets systemd made.

use super::wire::{self, Inbox};
use super::{FromOld, FromSuccessor, OldProcess, Output, PROTOCOL, UNTIL_SAID};
use crate::listeners::{Listening, Place, listen};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use rustix::stdio::{dup2_stderr, dup2_stdout};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Sockets that were there before this process.
#[derive(Default)]
pub struct Inheritance {
    sockets: Vec<Option<Inherited>>,
    claimed: Vec<usize>,
}

struct Inherited {
    /// What the old process used it for, or what systemd calls it.
    label: Label,
    listening: Listening,
}

#[derive(Debug)]
enum Label {
    Place(Place),
    Name(String),
}

/// The old process, until it has let go.
pub struct Predecessor {
    stream: UnixStream,
    inbox: Inbox,
    old: OldProcess,
    /// This process is to write where the old one does.
    takes_output: bool,
    stderr: Option<OwnedFd>,
}

impl Inheritance {
    /// The sockets that systemd passed to this process, if it did (sd_listen_fds(3)).
    ///
    /// Reads and removes `LISTEN_FDS` and `LISTEN_PID`, so it belongs where there is one thread yet.
    ///
    /// # Errors
    /// If one of them is no listening TCP socket.
    pub fn of_systemd() -> io::Result<Inheritance> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut passed = listenfd::ListenFd::from_env();
        let mut inheritance = Inheritance::default();
        for index in 0..passed.len() {
            let told = |error: io::Error| {
                let text = format!(
                    "socket {index} of the socket unit is not what this process listens on: {error}; ListenStream= with an IP address and port makes the right kind"
                );
                io::Error::new(error.kind(), text)
            };
            let Some(socket) = passed.take_tcp_listener(index).map_err(told)? else { continue };
            let listening = Listening::adopt(socket, true).map_err(told)?;
            inheritance.add(Label::Name(names.next().unwrap_or_default()), listening);
        }
        Ok(inheritance)
    }

    /// The socket of a place, inherited or new.
    ///
    /// A fixed address is found by itself, whatever it served before. Port 0 is found by its listener,
    /// and keeps the port that it became.
    ///
    /// # Errors
    /// If it is not inherited and the address is taken or not ours.
    pub fn listen(&mut self, place: &Place) -> io::Result<Listening> {
        let fits = |inherited: &Inherited| match &inherited.label {
            _ if place.bind.port() != 0 => inherited.listening.address == place.bind,
            Label::Place(before) => before == place,
            Label::Name(name) => *name == place.name,
        };
        let found = self.sockets.iter().position(|socket| socket.as_ref().is_some_and(fits));
        let Some(inherited) = found.and_then(|index| self.sockets[index].take()) else {
            return listen(place.bind);
        };
        self.claimed.extend(found);
        Ok(inherited.listening)
    }

    /// Closes what nobody claimed; the numbers of what was, in the order in which they came.
    ///
    /// # Errors
    /// If systemd passed it: its clients would wait in a queue that nobody empties.
    pub fn settle(self) -> io::Result<Vec<usize>> {
        let left = self.sockets.iter().flatten().find_map(|left| match &left.label {
            Label::Name(name) => Some((left.listening.address, name)),
            Label::Place(_) => None,
        });
        match left {
            None => Ok(self.claimed),
            Some((address, name)) => Err(io::Error::other(format!(
                "the socket unit passes {address} (`{name}`), and no listener of the configuration has that address: write the same in both"
            ))),
        }
    }

    fn add(&mut self, label: Label, listening: Listening) {
        self.sockets.push(Some(Inherited { label, listening }));
    }
}

impl Predecessor {
    /// Asks the process behind a control socket for its listening sockets, and with `takes_output` for
    /// where it writes to: standard output at once, standard error with its place.
    ///
    /// # Errors
    /// If there is none, if it belongs to somebody else, or if it says no; it then goes on.
    pub fn ask(control: &Path, takes_output: bool) -> io::Result<(Predecessor, Inheritance)> {
        let stream = UnixStream::connect(control).map_err(|error| {
            let text = format!("no process answers on {}: {error}; an upgrade needs one that runs with the same `control` and `state`; else start without --upgrade", control.display());
            io::Error::new(error.kind(), text)
        })?;
        let (theirs, ours) = (socket_peercred(&stream)?.uid, geteuid());
        if theirs != ours {
            let text = format!(
                "the running process belongs to user {theirs}, this one to {ours}: upgrade as its user",
                theirs = theirs.as_raw(),
                ours = ours.as_raw()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        stream.set_read_timeout(Some(UNTIL_SAID))?;
        stream.set_write_timeout(Some(UNTIL_SAID))?;
        let (inbox, old) = (Inbox::default(), OldProcess::default());
        let mut predecessor = Predecessor { stream, inbox, old, takes_output, stderr: None };
        predecessor.greet()?;
        let inheritance = predecessor.receive_all()?;
        Ok((predecessor, inheritance))
    }

    /// What it said besides the sockets.
    pub fn old_process(&self) -> &OldProcess {
        &self.old
    }

    /// Says that this process serves on `claimed`, and waits to be let.
    ///
    /// An old process that is gone without a word has let go too.
    ///
    /// # Errors
    /// If it says no or nothing: it goes on, and this process must not.
    pub fn ready(mut self, claimed: Vec<usize>) -> io::Result<()> {
        if self.stream.write_all(&wire::line(&FromSuccessor::Ready(claimed))?).is_err() {
            tracing::debug!("the old process does not read any more");
        }
        match self.message()? {
            Some(FromOld::Yours) => {
                self.take_stderr();
                Ok(())
            }
            Some(FromOld::Refused(why)) => Err(refused(&why)),
            Some(FromOld::Socket { .. } | FromOld::Output(_) | FromOld::All(_)) => {
                Err(nonsense("another socket"))
            }
            None => {
                self.take_stderr();
                tracing::warn!("the old process died while it was succeeded");
                Ok(())
            }
        }
    }

    /// Up to here, whoever started this process had to read why it did not get to serve.
    fn take_stderr(&mut self) {
        // What was said before is for them.
        crate::log::flush();
        if let Some(stderr) = self.stderr.take()
            && let Err(error) = dup2_stderr(stderr)
        {
            tracing::warn!(%error, "the log does not go on where the old process wrote it");
        }
    }

    fn take_output(&mut self, output: Output) -> io::Result<()> {
        let file = self.inbox.socket().ok_or_else(|| nonsense("an output that did not come"))?;
        match output {
            _ if !self.takes_output => {}
            Output::Stdout => dup2_stdout(file)?,
            Output::Stderr => self.stderr = Some(file),
        }
        Ok(())
    }

    fn greet(&mut self) -> io::Result<()> {
        let request = format!(
            "POST /upgrade HTTP/1.1\r\nHost: portunus\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())?;
        let head = loop {
            if let Some(head) = self.inbox.head() {
                break head;
            }
            if !self.receive()? {
                return Err(refused("it answers nothing"));
            }
        };
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status == "101" {
            return Ok(());
        }
        while self.receive()? {}
        Err(refused(&format!("{} ({status})", self.inbox.rest().trim())))
    }

    fn receive_all(&mut self) -> io::Result<Inheritance> {
        let mut inheritance = Inheritance::default();
        loop {
            match self.message()? {
                Some(FromOld::Socket { place, supervised }) => {
                    let socket = self.inbox.socket().ok_or_else(|| nonsense("a socket that did not come"))?;
                    let listening = Listening::adopt(TcpListener::from(socket), supervised)?;
                    inheritance.add(Label::Place(place), listening);
                }
                Some(FromOld::Output(output)) => self.take_output(output)?,
                Some(FromOld::All(old)) => {
                    self.old = old;
                    return Ok(inheritance);
                }
                Some(FromOld::Refused(why)) => return Err(refused(&why)),
                Some(FromOld::Yours) => return Err(nonsense("that it is over before it began")),
                None => return Err(refused("it ended")),
            }
        }
    }

    fn message(&mut self) -> io::Result<Option<FromOld>> {
        loop {
            if let Some(message) = self.inbox.message()? {
                return Ok(Some(message));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self) -> io::Result<bool> {
        self.inbox.receive(&self.stream).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the running process said nothing for {} s and goes on; look at its log",
                    UNTIL_SAID.as_secs()
                ),
            ),
            _ => error,
        })
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::other(format!("the running process does not hand over, and goes on: {why}"))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the running process says {what}; start anew instead of upgrading"),
    )
}
