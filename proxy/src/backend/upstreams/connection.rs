//! One exchange at a time with an upstream, over whichever protocol its connection speaks.

use super::fault::Fault;
use super::request::Outgoing;
use super::wire::Head;
use super::{h1, h2};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

/// A connection, or a share of one, for one exchange.
pub enum Connection {
    /// HTTP/1.1: the whole connection.
    One(h1::Connection),
    /// HTTP/2: a stream of it.
    Two(h2::Stream),
}

impl Connection {
    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn exchange(&mut self, request: &Outgoing) -> Result<Head, Fault> {
        match self {
            Connection::One(connection) => connection.exchange(request).await,
            Connection::Two(stream) => stream.exchange(request).await,
        }
    }

    /// As [`Connection::exchange`]; `None` if that takes until `end`.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn exchange_until(&mut self, end: Instant, request: &Outgoing) -> Option<Result<Head, Fault>> {
        match self {
            Connection::One(connection) => connection.exchange_until(end, request).await,
            Connection::Two(stream) => timeout_at(end, stream.exchange(request)).await.ok(),
        }
    }

    /// The next part of the answer's body; `None` at its end. Safe to cancel.
    ///
    /// # Errors
    /// [`Fault::Broken`], [`Fault::Malformed`].
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Connection::One(connection) => connection.read_body().await,
            Connection::Two(stream) => stream.read_body().await,
        }
    }

    /// As [`Connection::read_body`], of what is here already; `None` if it must be waited for.
    pub fn arrived(&mut self) -> Option<Result<Option<Bytes>, Fault>> {
        match self {
            Connection::One(connection) => connection.arrived(),
            Connection::Two(_) => None,
        }
    }

    /// Notes that nothing came in time. A connection of one exchange ends with it; a shared one gets
    /// no new calls, for it may be dead.
    pub fn suspect(&self) {
        if let Connection::Two(stream) = self {
            stream.suspect();
        }
    }
}
