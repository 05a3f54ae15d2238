//! The side of the old process.

use super::wire::{self, Inbox};
use super::{FromOld, FromSuccessor, Holding, OldProcess, Output, PROTOCOL, UNTIL_READY, UNTIL_SAID};
use crate::drain::{Drain, Phase};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A process that asked to take over, and may: its rights were checked.
pub struct Candidate {
    stream: UnixStream,
    inbox: Inbox,
    /// Its process id, as the system says it.
    pub pid: u32,
}

/// Sockets that the successor serves on, by their place in the list of holdings.
pub type Kept = BTreeSet<usize>;

impl Candidate {
    /// The other end of `stream`, which asked in HTTP and is told that something else is spoken now.
    ///
    /// # Errors
    /// If the system knows no process at the other end, or it does not listen.
    pub async fn greet(stream: UnixStream) -> io::Result<Candidate> {
        let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the peer is no process that is visible here"))?;
        let mut candidate = Candidate { stream, inbox: Inbox::default(), pid };
        candidate.write(answer().as_bytes(), None).await?;
        Ok(candidate)
    }

    /// Gives it the sockets and waits until it serves on them.
    ///
    /// # Errors
    /// If it ends before, takes too long, or says what is none of this; or if this process drains
    /// meanwhile. It was told why, where it can still hear.
    pub async fn prepare(
        &mut self,
        holdings: &[Holding],
        old: OldProcess,
        drain: &Drain,
    ) -> io::Result<Kept> {
        let ready = async {
            timeout(UNTIL_SAID, self.offer(holdings, old)).await.map_err(|_| late("take the sockets"))??;
            timeout(UNTIL_READY, self.receive()).await.map_err(|_| late("serve"))?
        };
        let ready = tokio::select! {
            ready = ready => ready,
            () = drain.phases().reached(Phase::Leaving) => Err(io::Error::other("the running process ends")),
        };
        match ready {
            Ok(FromSuccessor::Ready(kept)) => Ok(kept.into_iter().collect()),
            Err(error) => {
                self.refuse(&error.to_string()).await;
                Err(error)
            }
        }
    }

    /// Tells it that it is the process from now on.
    ///
    /// # Errors
    /// If it cannot hear it: then it is not.
    pub async fn succeed(&mut self) -> io::Result<()> {
        timeout(UNTIL_SAID, self.say(&FromOld::Yours, None)).await.map_err(|_| late("listen"))?
    }

    /// Tells it why it does not become the process.
    pub async fn refuse(&mut self, why: &str) {
        // One that cannot hear it has ended, which is as good.
        drop(timeout(UNTIL_SAID, self.say(&FromOld::Refused(why.to_owned()), None)).await);
    }

    async fn offer(&mut self, holdings: &[Holding], old: OldProcess) -> io::Result<()> {
        self.say(&FromOld::Output(Output::Stdout), Some(io::stdout().as_fd())).await?;
        self.say(&FromOld::Output(Output::Stderr), Some(io::stderr().as_fd())).await?;
        for Holding { place, supervised, socket } in holdings {
            let offer = FromOld::Socket { place: place.clone(), supervised: *supervised };
            self.say(&offer, Some(socket.as_fd())).await?;
        }
        self.say(&FromOld::All(old), None).await
    }

    async fn say(&mut self, message: &FromOld, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.write(&wire::line(message)?, socket).await
    }

    async fn write(&mut self, mut bytes: &[u8], mut socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while !bytes.is_empty() {
            let send = || wire::send(&self.stream, bytes, socket);
            let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
            bytes = &bytes[sent..];
            socket = None;
        }
        Ok(())
    }

    async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<M> {
        loop {
            if let Some(message) = self.inbox.message()? {
                return Ok(message);
            }
            let (stream, inbox) = (&self.stream, &mut self.inbox);
            if !stream.async_io(Interest::READABLE, || inbox.receive(stream)).await? {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the successor ended before it served",
                ));
            }
        }
    }
}

/// The HTTP answer after which both sides speak [`PROTOCOL`].
fn answer() -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n")
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the successor took too long to {what}"))
}
