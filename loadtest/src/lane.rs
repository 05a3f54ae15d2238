//! One kept-alive connection, with one call on it at a time.

use crate::calls::{Calls, connect};
use crate::poll::{Interest, Poll};
use crate::wire::{Head, Inbox, body};
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Instant;

/// A call whose answer is awaited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// Which call.
    pub(crate) number: u64,
    /// When it was due.
    pub(crate) intended: Instant,
    /// When it was handed to the system.
    pub(crate) sent: Instant,
}

/// What came of a look at a lane.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing yet.
    Waiting,
    /// The call is over: answered properly, or not.
    Over(Flight, Result<(), String>),
    /// The connection closed between calls.
    Closed,
}

/// A connection that is opened when a call needs it.
#[derive(Debug)]
pub(crate) struct Lane {
    token: u64,
    stream: Option<TcpStream>,
    inbox: Inbox,
    outbox: Vec<u8>,
    written: usize,
    flight: Option<Flight>,
}

impl Lane {
    /// A lane without a connection.
    pub(crate) fn new(token: u64) -> Lane {
        Lane { token, stream: None, inbox: Inbox::default(), outbox: Vec::new(), written: 0, flight: None }
    }

    /// The call under way.
    pub(crate) fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Opens the connection, if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(&mut self, calls: &Calls, poll: &Poll) -> Result<(), String> {
        if self.stream.is_none() {
            let stream = connect(&calls.target)?;
            let ready = stream.set_nonblocking(true).and_then(|()| poll.add(&stream, self.token));
            ready.map_err(|error| error.to_string())?;
            self.inbox.reset();
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a call.
    pub(crate) fn start(&mut self, calls: &Calls, poll: &Poll, (number, intended): (u64, Instant)) -> Event {
        let flight = Flight { number, intended, sent: Instant::now() };
        self.flight = Some(flight);
        if let Err(problem) = self.open(calls, poll) {
            return self.over(Err(problem));
        }
        calls.write(number, &mut self.outbox);
        self.written = 0;
        match self.push(poll) {
            Ok(()) => Event::Waiting,
            Err(error) => self.over(Err(format!("sending: {error}"))),
        }
    }

    /// Goes on where the socket is ready.
    pub(crate) fn ready(&mut self, calls: &Calls, poll: &Poll, joined: &mut Vec<u8>) -> Event {
        if self.written < self.outbox.len()
            && let Err(error) = self.push(poll)
        {
            return self.over(Err(format!("sending: {error}")));
        }
        let Some(stream) = &self.stream else { return Event::Waiting };
        match self.inbox.fill(stream) {
            Ok(0) => self.end("the connection closed before the answer was complete"),
            Ok(_) if self.flight.is_none() => self.end("bytes that no call asked for"),
            Ok(_) => self.read(calls, joined),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Event::Waiting
            }
            Err(error) => self.end(&format!("receiving: {error}")),
        }
    }

    /// Gives the call up.
    pub(crate) fn give_up(&mut self, problem: &str) -> Event {
        self.end(problem)
    }

    /// Writes what the socket takes, and waits for room if something is left.
    fn push(&mut self, poll: &Poll) -> io::Result<()> {
        let Some(mut stream) = self.stream.as_ref() else { return Ok(()) };
        let partial = self.written > 0;
        while self.written < self.outbox.len() {
            match stream.write(&self.outbox[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return poll.change(stream, self.token, Interest::ReadAndWrite);
                }
                Err(error) => return Err(error),
            }
        }
        if partial { poll.change(stream, self.token, Interest::Read) } else { Ok(()) }
    }

    fn read(&mut self, calls: &Calls, joined: &mut Vec<u8>) -> Event {
        let Some(flight) = self.flight else { return Event::Waiting };
        let bytes = self.inbox.bytes();
        let head = match Head::read(bytes) {
            Ok(Some(head)) => head,
            Ok(None) => return Event::Waiting,
            Err(problem) => return self.over(Err(problem)),
        };
        let (taken, verdict) = match body(&bytes[head.length..], head.framing, joined) {
            Ok(Some((body, taken))) => (taken, calls.verify(flight.number, head.status(), body)),
            Ok(None) => return Event::Waiting,
            Err(problem) => return self.over(Err(problem)),
        };
        let (length, close) = (head.length + taken, head.close);
        if verdict.is_err() || self.written < self.outbox.len() {
            return self.over(verdict.and(Err("an answer before the call was sent whole".to_owned())));
        }
        self.inbox.consume(length);
        if !self.inbox.is_empty() {
            return self.over(Err("more than one answer to a call".to_owned()));
        }
        if close {
            self.stream = None;
        }
        self.flight = None;
        Event::Over(flight, Ok(()))
    }

    /// Ends the connection, and the call on it if there is one.
    fn end(&mut self, problem: &str) -> Event {
        self.over(Err(problem.to_owned()))
    }

    fn over(&mut self, verdict: Result<(), String>) -> Event {
        self.stream = None;
        match self.flight.take() {
            Some(flight) => Event::Over(flight, verdict),
            None => Event::Closed,
        }
    }
}
