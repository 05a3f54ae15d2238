//! One request's way in and its answer's way out, over whichever HTTP its connection speaks. What is written is bounded in
//! time.

pub mod one;

use crate::backend::headers::{Field, head};
use crate::drain::{Phase, Phases};
use crate::time_limit::with_timeout;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use one::Rest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use portunus_filters::{Denial, RawPass, Released};
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::Instant;

/// Largest piece of one write: the write timeout applies to each.
const WRITE_BYTES: usize = 64 * 1024;

/// A client that waits for an answer.
pub enum Client {
    /// HTTP/1.1: the whole connection.
    One(Box<one::Session>),
    /// HTTP/2: a stream of it; and whether the request was HEAD, whose answer has no body.
    Two(Box<ServerSession>, bool),
}

/// Why a body ends before it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The client closed its connection or its stream.
    Gone,
    /// It took too long.
    Late,
    /// Its framing is broken.
    Malformed,
}

/// How an answer ended.
pub enum End {
    /// Completely: the client's connection can be used again.
    Done,
    /// Before its head was written: the caller answers.
    Refused(Denial),
    /// The client closed a stream that has no end of its own.
    Left,
    /// The client is gone, or was left with half an answer.
    Broken,
}

/// The head of an answer that may be written to a client; its body is [`Released`].
pub struct ReleasedHead(ResponseHeader);

/// The time that the writes of one answer may take.
pub struct WriteLimits<'a> {
    /// Each piece of it.
    pub timeout: Duration,
    /// How far the end of the process has come.
    pub phases: &'a Phases,
    /// When the call as a whole is over: no further piece is written then.
    pub deadline: Option<Instant>,
}

impl ReleasedHead {
    /// Releases a head whose fields the gateway wrote itself.
    pub fn own(head: ResponseHeader) -> ReleasedHead {
        ReleasedHead(head)
    }

    /// Adds a field with text of a server.
    ///
    /// # Errors
    /// If the text is no value of a header.
    pub fn append(&mut self, name: HeaderName, text: &Released) -> io::Result<()> {
        let value = HeaderValue::from_bytes(text.bytes()).map_err(io::Error::other)?;
        self.0.append_header(name, value).map(drop).map_err(io::Error::other)
    }

    /// Releases the head of an answer that passes as it came.
    pub fn passed(_: RawPass, head: ResponseHeader) -> ReleasedHead {
        ReleasedHead(head)
    }
}

impl Client {
    /// Whether the request's body was read to its end.
    pub fn is_body_done(&mut self) -> bool {
        match self {
            Client::One(session) => session.is_body_done(),
            Client::Two(session, _) => session.is_body_done(),
        }
    }

    /// The next part of the request's body; `None` at its end. Safe to cancel.
    ///
    /// # Errors
    /// [`BodyError`].
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self {
            Client::One(session) => session.read_body().await,
            Client::Two(session, _) => session.read_request_body().await.map_err(|error| fault(&error)),
        }
    }

    /// Returns when the client has left; what it sends meanwhile is kept.
    pub async fn gone(&mut self) {
        match self {
            Client::One(session) => session.gone().await,
            Client::Two(session, _) => drop(session.read_body_or_idle(true).await),
        }
    }

    /// Tells a client that waits for it to send its body (`100 Continue`).
    ///
    /// # Errors
    /// If it has left.
    pub async fn go_on(&mut self) -> io::Result<()> {
        match self {
            Client::One(session) => session.go_on().await,
            Client::Two(session, _) => session.write_continue_response().await.map_err(io::Error::other),
        }
    }

    /// Lets the connection end with this answer, where it is not shared.
    pub fn close_after(&mut self) {
        if let Client::One(session) = self {
            session.close_after();
        }
    }

    /// Writes the head of an answer whose body comes in pieces.
    ///
    /// # Errors
    /// If the client has left.
    pub async fn begin(&mut self, head: ReleasedHead) -> io::Result<()> {
        match self {
            Client::One(session) => session.begin(&head.0).await,
            Client::Two(session, _) => {
                Box::pin(session.write_response_header(Box::new(head.0))).await.map_err(io::Error::other)
            }
        }
    }

    /// Writes a piece of the body.
    ///
    /// # Errors
    /// If the client has left.
    pub async fn write(&mut self, piece: Released) -> io::Result<()> {
        match self {
            Client::One(session) => session.write(piece.bytes()).await,
            Client::Two(_, true) => Ok(()),
            Client::Two(session, false) => {
                let written = session.write_response_body(piece.bytes().clone(), false);
                Box::pin(written).await.map_err(io::Error::other)
            }
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If the client has left.
    pub async fn end(&mut self) -> io::Result<()> {
        match self {
            Client::One(session) => session.end().await,
            Client::Two(session, _) => session.finish_body().await.map_err(io::Error::other),
        }
    }

    /// Writes an answer as a whole.
    ///
    /// # Errors
    /// If the client has left.
    pub async fn answer(&mut self, head: ReleasedHead, body: Released) -> io::Result<()> {
        match self {
            Client::One(session) => session.answer(&head.0, body.bytes()).await,
            Client::Two(session, bodiless) => {
                let body = if *bodiless { Bytes::new() } else { body.bytes().clone() };
                Box::pin(session.write_response_header(Box::new(head.0))).await.map_err(io::Error::other)?;
                Box::pin(session.write_response_body(body, true)).await.map_err(io::Error::other)
            }
        }
    }

    /// As [`Client::answer`], with a head of these fields and the length of its body.
    ///
    /// No value may hold CR or LF: they come from parsed headers or are our own text.
    ///
    /// # Errors
    /// If the client has left.
    pub async fn tell(&mut self, status: StatusCode, fields: &[Field<'_>], body: Released) -> io::Result<()> {
        match self {
            // Most answers by far: no map of headers is made for them.
            Client::One(session) => session.tell(status, fields, body.bytes()).await,
            Client::Two(..) => {
                let head = head_of(status, fields, Some(body.len()))?;
                Box::pin(self.answer(head, body)).await
            }
        }
    }

    /// What is left of the connection for its next request; `None` if there is none, or if it is
    /// shared. One that ends with a whole answer says so (RFC 8446 §6.1).
    pub async fn finish(self) -> Option<Rest> {
        match self {
            Client::One(session) => session.finish().await,
            Client::Two(..) => None,
        }
    }
}

impl WriteLimits<'_> {
    /// Writes the head of an answer whose body comes in pieces.
    ///
    /// # Errors
    /// If the client has left or takes too long.
    pub async fn begin(&self, client: &mut Client, head: ReleasedHead) -> io::Result<()> {
        self.close_where_draining(client);
        in_time(self.timeout, pin!(client.begin(head))).await
    }

    /// Writes a part of the body. A client that reads slowly is waited for piece by piece.
    ///
    /// # Errors
    /// As [`WriteLimits::begin`].
    pub async fn write(&self, client: &mut Client, text: Released) -> io::Result<()> {
        let mut pieces = text.split(WRITE_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            unless_expired(self.phases, self.timeout, pin!(client.write(piece))).await?;
            if pieces.peek().is_some() && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(timed_out());
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub async fn end(&self, client: &mut Client) -> End {
        in_time(self.timeout, pin!(client.end())).await.map_or(End::Broken, |()| End::Done)
    }

    /// Writes an answer as a whole; in one write, if its body is no longer than one piece.
    pub async fn answer(&self, client: &mut Client, head: ReleasedHead, body: Released) -> End {
        if body.len() <= WRITE_BYTES {
            self.close_where_draining(client);
            let answered = pin!(client.answer(head, body));
            let answered = unless_expired(self.phases, self.timeout, answered).await;
            return answered.map_or(End::Broken, |()| End::Done);
        }
        if self.begin(client, head).await.is_err() || self.write(client, body).await.is_err() {
            return End::Broken;
        }
        self.end(client).await
    }

    /// A connection has no further request once the process is about to end.
    fn close_where_draining(&self, client: &mut Client) {
        if self.phases.is_reached(Phase::Draining) {
            client.close_after();
        }
    }
}

/// Bounds a write in time.
///
/// # Errors
/// The error of the write, or that its time is over.
pub async fn in_time<T>(
    within: Duration,
    write: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    with_timeout(within, write).await.unwrap_or_else(|| Err(timed_out()))
}

/// As [`in_time`], and by the end of the process.
///
/// # Errors
/// The error of the write, or that its time is over.
pub async fn unless_expired<T>(
    phases: &Phases,
    within: Duration,
    write: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    tokio::select! {
        biased;
        written = in_time(within, write) => written,
        () = phases.reached(Phase::Expired) => Err(timed_out()),
    }
}

/// The head of an answer with these fields, which the gateway wrote, and a body of `length` bytes, or of as many as come.
///
/// # Errors
/// If a value is none that a field can have.
pub fn head_of(status: StatusCode, fields: &[Field<'_>], length: Option<usize>) -> io::Result<ReleasedHead> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 1);
    if let Some(length) = length.filter(|_| one::has_length(status)) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    for (name, value) in fields {
        headers.append(name, HeaderValue::from_bytes(value).map_err(io::Error::other)?);
    }
    Ok(ReleasedHead::own(head(status, headers)))
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn fault(error: &Error) -> BodyError {
    match error.etype() {
        ErrorType::ReadTimedout => BodyError::Late,
        ErrorType::ConnectionClosed | ErrorType::ReadError => BodyError::Gone,
        _ => BodyError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use http::header::{CONTENT_TYPE, VARY};
    use http::{Method, Version};
    use tokio::io::{AsyncReadExt, DuplexStream};

    /// A client of `method`, and its end.
    fn client(method: &Method, version: Version) -> (Client, DuplexStream) {
        let head = http::Request::builder().method(method).version(version).body(()).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        let rest = Rest { stream: Box::new(near), ahead: BytesMut::new() };
        (Client::One(Box::new(one::Session::new(&head.into_parts().0, rest))), far)
    }

    /// What a client of `method` gets of an answer, without its date, and whether its connection goes on.
    async fn received(
        method: &Method,
        version: Version,
        answer: impl AsyncFnOnce(&mut Client) -> io::Result<()>,
    ) -> (String, bool) {
        let (mut client, mut far) = client(method, version);
        answer(&mut client).await.unwrap();
        let persists = client.finish().await.is_some();
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("date: "));
        (lines.collect(), persists)
    }

    #[tokio::test]
    async fn an_answer_of_fields_is_the_one_that_their_map_would_be() {
        let fields: [Field<'_>; 3] =
            [(CONTENT_TYPE, b"application/json"), (VARY, b"Origin"), (VARY, b"Accept")];
        let (ok, none) = (StatusCode::OK, StatusCode::NO_CONTENT);
        let bodies = ["", "{}", &"a".repeat(20_000)].map(|body| Released::own(body.to_owned()));
        for method in [Method::POST, Method::HEAD] {
            for version in [Version::HTTP_11, Version::HTTP_10] {
                for (status, body) in bodies.iter().map(|body| (ok, body)).chain([(none, &bodies[0])]) {
                    let (said, same) = (body.clone(), body.clone());
                    let told =
                        received(&method, version, async |client| client.tell(status, &fields, said).await);
                    let mapped = received(&method, version, async |client| {
                        client.answer(head_of(status, &fields, Some(same.len()))?, same).await
                    });
                    let (told, mapped) = (told.await, mapped.await);
                    assert_eq!(told, mapped, "{method} {version:?} {status} of {} bytes", body.len());
                }
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_can_have_no_body_is_not_written_with_one() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            let (mut client, mut far) = client(&Method::POST, Version::HTTP_11);
            assert!(client.tell(status, &[], Released::own("{}")).await.is_err(), "{status}");
            assert!(client.finish().await.is_none(), "{status}");
            assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "{status}");
        }
    }
}
