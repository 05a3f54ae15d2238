//! HTTP/2 connections to an upstream (RFC 9113): one carries many calls.

use super::fault::Fault;
use super::request::Outgoing;
use super::wire::{Framing, Head, MAX_HEAD_BYTES, Malformed, decimal, is_bodiless};
use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};

/// Streams of one connection at once; a server may allow fewer.
const MAX_STREAMS: usize = 100;
/// How many may be open before the server has said so: a number that it cannot say (RFC 9113 §6.5.1).
const UNSETTLED: usize = usize::MAX - 1;
/// What an upstream may send ahead of a client that reads slowly.
const STREAM_WINDOW: u32 = 128 << 10;
/// All streams together: none of them waits because others are read slowly.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// What frames of less than 256 bytes may fall short of that, unread, before the connection ends: all
/// windows full of events of 16 bytes. The default ends it, and everybody's calls on it, when a few
/// clients read small events slowly.
const SMALL_FRAMES: usize = CONNECTION_WINDOW as usize / 16 * 240;
const MAX_HEADER_LIST: u32 = 64 << 10;

/// A connection that calls share.
#[derive(Clone)]
pub struct Link {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    scheme: &'static str,
    streams: AtomicUsize,
    /// No new stream is opened: it has closed, or is suspected to be dead.
    retired: AtomicBool,
    idle_since: Mutex<Instant>,
}

/// One call's share of a connection.
pub struct Stream {
    link: Link,
    body: Option<RecvStream>,
    done: bool,
}

impl Link {
    /// Begins HTTP/2 on a connected stream of bytes, and waits for the server's settings: until they
    /// are here nobody knows how many streams it takes, or whether it speaks HTTP/2 at all.
    ///
    /// # Errors
    /// If the preface cannot be written, or what answers it is no HTTP/2.
    pub async fn open<T>(io: T, scheme: &'static str) -> io::Result<Link>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .max_concurrent_streams(0)
            .initial_max_send_streams(UNSETTLED)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES)
            .max_header_list_size(MAX_HEADER_LIST);
        let (sender, mut connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        settled(&sender, &mut connection).await?;
        let shared = Arc::new(Shared {
            scheme,
            streams: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
        });
        let ended = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
            ended.retired.store(true, Ordering::Release);
        });
        Ok(Link { sender, shared })
    }

    /// A share of the connection, if there is one left.
    pub fn lease(&self) -> Option<Stream> {
        let most = self.sender.current_max_send_streams().min(MAX_STREAMS);
        let taken = self.shared.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, |streams| {
            (streams < most).then_some(streams + 1)
        });
        if taken.is_err() {
            return None;
        }
        // Made before the check, so that its drop gives the share back.
        let stream = Stream { link: self.clone(), body: None, done: false };
        (!self.is_retired()).then_some(stream)
    }

    /// Whether it takes no new streams.
    pub fn is_retired(&self) -> bool {
        self.shared.retired.load(Ordering::Acquire)
    }

    /// Since when no call uses it.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.shared.streams.load(Ordering::Acquire) == 0;
        idle.then(|| *self.shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Stream {
    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn exchange(&mut self, request: &Outgoing) -> Result<Head, Fault> {
        let unsent = |error: h2::Error| Fault::Unsent(io::Error::other(error));
        let invalid = || Fault::Unsent(io::ErrorKind::InvalidInput.into());
        let head = request.head(self.link.shared.scheme).ok_or_else(invalid)?;
        let body = request.body();
        let mut sender = self.link.sender.clone().ready().await.map_err(|error| self.lost(unsent(error)))?;
        let (mut response, sending) =
            sender.send_request(head, body.is_empty()).map_err(|error| self.lost(unsent(error)))?;
        let answer = match send_body(sending, body, &mut response).await {
            Some(early) => early,
            None => response.await,
        };
        let answer = answer.map_err(|error| match error.is_reset() {
            // A reset concerns this stream and no other.
            true => before_head(error),
            false => self.lost(before_head(error)),
        })?;
        let head = head_of(&answer)?;
        self.body = Some(answer.into_body());
        Ok(head)
    }

    /// The next part of the answer's body; `None` at its end. Safe to cancel.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(body) = self.body.as_mut().filter(|_| !self.done) else { return Ok(None) };
        match body.data().await {
            Some(Ok(data)) => {
                body.flow_control().release_capacity(data.len()).map_err(broken)?;
                Ok(Some(data))
            }
            Some(Err(error)) => Err(broken(error)),
            None => {
                self.done = true;
                Ok(None)
            }
        }
    }

    /// Gives the connection no new calls: it did not answer this one in time.
    pub fn suspect(&self) {
        self.link.shared.retired.store(true, Ordering::Release);
    }

    fn lost(&self, fault: Fault) -> Fault {
        self.suspect();
        fault
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let shared = &self.link.shared;
        if shared.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            *shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

async fn settled<T>(sender: &SendRequest<Bytes>, connection: &mut Connection<T>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|context| match Pin::new(&mut *connection).poll(context) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
        Poll::Pending if sender.current_max_send_streams() == UNSETTLED => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await
}

type Answer = Result<Response<RecvStream>, h2::Error>;

/// Sends a body as the upstream takes it, while listening: one that refuses it answers before it is out.
async fn send_body(
    mut sending: SendStream<Bytes>,
    mut body: Bytes,
    response: &mut ResponseFuture,
) -> Option<Answer> {
    let mut early = None;
    while !body.is_empty() {
        sending.reserve_capacity(body.len());
        let capacity = tokio::select! {
            answer = &mut *response, if early.is_none() => {
                if !answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                    // Not reset: that would cut the rest of the answer off. The stream ends with its
                    // last handle.
                    return Some(answer);
                }
                early = Some(answer);
                continue;
            }
            capacity = poll_fn(|context| sending.poll_capacity(context)) => capacity,
        };
        // Whatever ended the stream is what the answer fails with.
        let Some(Ok(capacity)) = capacity else { return early };
        let piece = body.split_to(capacity.min(body.len()));
        if sending.send_data(piece, body.is_empty()).is_err() {
            return early;
        }
    }
    early
}

fn head_of(answer: &Response<RecvStream>) -> Result<Head, Fault> {
    let (status, headers) = (answer.status(), answer.headers().clone());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Malformed(Malformed("the upstream switches protocols unasked")));
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > MAX_HEAD_BYTES {
        return Err(Fault::Malformed(Malformed("the head of the answer is too large")));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let framing = match (lengths.next(), lengths.next()) {
        (None, _) => Framing::Chunked,
        (Some(length), None) => Framing::Length(decimal(length).map_err(Fault::Malformed)?),
        (Some(_), Some(_)) => return Err(Fault::Malformed(Malformed("more than one Content-Length"))),
    };
    let framing = if is_bodiless(status) { Framing::Length(0) } else { framing };
    Ok(Head { status, headers, framing, keep_alive: true })
}

/// RFC 9113 §8.7: a refused stream was not processed, nor one above the last of a graceful GOAWAY.
fn before_head(error: h2::Error) -> Fault {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let left = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    match error.is_reset() {
        _ if refused || left => Fault::Unsent(io::Error::other(error)),
        true => Fault::Broken(io::Error::other(error)),
        false => Fault::Silent(io::Error::other(error)),
    }
}

fn broken(error: h2::Error) -> Fault {
    Fault::Broken(io::Error::other(error))
}
