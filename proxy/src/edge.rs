//! The rim: connections, permits, deadlines, raw header checks, keep-alive.
//!
//! Pingora waits for an idle connection and for its next header in one future, without a deadline
//! for either. So the keep-alive loop is ours: the first byte under the idle timeout, the header
//! section under its own deadline and checked on its raw bytes, and only then a session that is
//! handed those bytes.

use crate::context::Gateway;
use crate::drain::{InFlight, Phase, reached};
use crate::head::{HeadLimits, HeadScan};
use crate::listeners::hold_back;
use crate::metrics::Counted;
use crate::outcome::Outcome;
use crate::reply::{self, Answer, Refused};
use crate::respond::in_time;
use crate::serve::{Connection, serve};
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use portunus_config::{ConnectionLimits, Listener};
use portunus_filters::{Arrival, Denial, Identity, Reason};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// How long an idle connection is kept while draining: a request may already be on its way.
const DRAIN_LINGER: Duration = Duration::from_millis(200);
/// How long, and how much of, what a refused client still sends is read before closing, so that
/// the answer is not lost to a reset.
const CLOSE_LINGER: Duration = Duration::from_millis(500);
const CLOSE_LINGER_BYTES: usize = 256 * 1024;
/// A listener that closes waits this long for handshakes that were under way.
const HANDSHAKE: Duration = Duration::from_millis(30);
/// First allocation for a header section.
const HEAD_BYTES: usize = 4096;

/// What all listeners lead to.
pub struct Edge {
    gateway: Arc<Gateway>,
    doors: Vec<Door>,
}

/// One listener at work.
struct Door {
    listener: Arc<Listener>,
    bound: SocketAddr,
    permits: Arc<Semaphore>,
}

/// What the wait for a request ended in.
enum Awaited {
    /// A complete header section, and what arrived behind it; in flight since its first byte.
    Head(BytesMut, InFlight),
    /// Nothing more comes, or nothing more is taken.
    Over,
    /// What came is refused.
    Refused(Denial),
}

impl Edge {
    /// An edge for listeners that are bound to these addresses.
    pub fn new(gateway: Arc<Gateway>, bound: &[SocketAddr]) -> Edge {
        let doors = gateway.bootstrap.listeners.iter().zip(bound).map(|(listener, bound)| Door {
            listener: Arc::new(listener.clone()),
            bound: *bound,
            permits: Arc::new(Semaphore::new(listener.limits.max_connections.min(Semaphore::MAX_PERMITS))),
        });
        Edge { doors: doors.collect(), gateway }
    }

    /// The listener that a connection came in by.
    fn door(&self, local: Option<SocketAddr>) -> Option<&Door> {
        let local = local?;
        let same_port = |door: &&Door| door.bound.port() == local.port();
        let exact =
            self.doors.iter().filter(same_port).find(|door| door.bound.ip() == local.ip().to_canonical());
        exact.or_else(|| self.doors.iter().filter(same_port).find(|door| door.bound.ip().is_unspecified()))
    }

    async fn run(&self, door: &Door, mut stream: Stream, peer: IpAddr) {
        let limits = &door.listener.limits;
        let mut pipelined = BytesMut::new();
        loop {
            let (head, _in_flight) =
                match self.await_head(&mut stream, std::mem::take(&mut pipelined), limits).await {
                    Awaited::Head(head, in_flight) => (head, in_flight),
                    Awaited::Over => return,
                    Awaited::Refused(denial) => return self.refuse(door, peer, &mut stream, &denial).await,
                };
            let mut session = ServerSession::new_http1(stream);
            session.set_pipelined_prefix(head);
            session.set_pipelining_enabled(true);
            session.set_read_timeout(Some(limits.body_timeout));
            session.set_write_timeout(Some(limits.write_timeout));
            session.set_total_drain_timeout(Some(limits.body_timeout));
            if !matches!(session.read_request().await, Ok(true)) {
                return self.refuse_unparsed(door, peer, &mut session).await;
            }
            if self.gateway.drain.phase() >= Phase::Draining {
                session.set_keepalive(None);
            }
            let connection = Connection { gateway: &self.gateway, listener: &door.listener, peer };
            let Some(reusable) = serve(session, connection).await else { return };
            let (kept, prefix) = reusable.into_parts();
            stream = kept;
            pipelined = prefix.unwrap_or_default();
        }
    }

    /// Waits for the next header section.
    async fn await_head(
        &self,
        stream: &mut Stream,
        mut bytes: BytesMut,
        limits: &ConnectionLimits,
    ) -> Awaited {
        if bytes.is_empty() {
            match self.first_byte(stream, limits.idle_timeout).await {
                Some(byte) => {
                    bytes.reserve(HEAD_BYTES);
                    bytes.extend_from_slice(&[byte]);
                }
                None => return Awaited::Over,
            }
        }
        let in_flight = self.gateway.drain.enter();
        let deadline = Instant::now() + limits.header_timeout;
        let head_limits = HeadLimits { bytes: limits.max_header_bytes, fields: limits.max_headers };
        let mut scan = HeadScan::default();
        loop {
            match scan.look(&bytes, head_limits) {
                Ok(Some(_)) => return Awaited::Head(bytes, in_flight),
                Ok(None) => {}
                Err(denial) => return Awaited::Refused(denial),
            }
            bytes.reserve(HEAD_BYTES);
            match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => return Awaited::Over,
                Err(_) => {
                    let denial =
                        Denial::new(Reason::RequestTimeout, "the header section did not arrive in time");
                    return Awaited::Refused(denial);
                }
            }
        }
    }

    /// The first byte of a request; holds no buffer while it waits.
    async fn first_byte(&self, stream: &mut Stream, idle: Duration) -> Option<u8> {
        let mut byte = [0];
        let mut phase = self.gateway.drain.watch();
        let read = tokio::select! {
            biased;
            read = timeout(idle, stream.read(&mut byte)) => read,
            () = reached(&mut phase, Phase::Draining) => timeout(DRAIN_LINGER, stream.read(&mut byte)).await,
        };
        matches!(read, Ok(Ok(1))).then_some(byte[0])
    }

    /// Answers what never became a request, and closes.
    async fn refuse(&self, door: &Door, peer: IpAddr, stream: &mut Stream, denial: &Denial) {
        let (answer, request_id) = self.record_refusal(door, peer, denial);
        let wire = raw(&answer, denial, &request_id);
        if let Ok(Ok(())) = timeout(door.listener.limits.write_timeout, write(stream, &wire)).await {
            linger(stream).await;
        }
    }

    /// The raw check passed and the parser did not: the same answer, and nothing after it is trusted.
    async fn refuse_unparsed(&self, door: &Door, peer: IpAddr, session: &mut ServerSession) {
        let denial = Denial::new(Reason::MalformedHttp, "the header section cannot be parsed");
        let (answer, request_id) = self.record_refusal(door, peer, &denial);
        session.set_keepalive(None);
        let written = async {
            let mut head = ResponseHeader::build(answer.status, Some(6))?;
            head.insert_header("Content-Type", "application/json")?;
            head.insert_header("Content-Length", answer.body.len())?;
            head.insert_header("Portunus-Request-Id", &*request_id)?;
            head.insert_header("Portunus-Outcome", denial.reason.as_str())?;
            session.write_response_header(Box::new(head)).await?;
            session.write_response_body(answer.body, true).await
        };
        drop(in_time(door.listener.limits.write_timeout, written).await);
    }

    fn record_refusal(&self, door: &Door, peer: IpAddr, denial: &Denial) -> (Answer, Arc<str>) {
        let arrival = Arrival {
            listener: door.listener.name.as_str().into(),
            source: peer,
            identity: Identity::Anonymous { source: peer },
            request_id: self.gateway.identifier.event_id(),
            at: self.gateway.clock.now(),
        };
        let mut outcome = Outcome::new(&self.gateway, &arrival);
        outcome.denied(denial);
        let answer = reply::refuse(denial, &Refused::default(), &arrival.request_id);
        outcome.http_status(answer.status.as_u16());
        (answer, arrival.request_id)
    }
}

impl Edge {
    /// One connection, from its first byte to its end.
    async fn connect(&self, mut stream: Stream) {
        let socket = stream.get_socket_digest();
        let inet = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
            address.and_then(|address| address.as_inet()).copied()
        };
        let local = inet(socket.as_ref().and_then(|socket| socket.local_addr()));
        let peer = inet(socket.as_ref().and_then(|socket| socket.peer_addr()));
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
        let Some(door) = self.door(local) else { return };
        let Ok(_permit) = Arc::clone(&door.permits).try_acquire_owned() else {
            self.gateway.metrics.connection_refused();
            drop(timeout(CLOSE_LINGER, write(&mut stream, FULL)).await);
            return;
        };
        let _counted = Counted::one(&self.gateway.metrics.connections);
        self.run(door, stream, peer).await;
    }

    /// Takes what still waits in the listen queues, for `linger`, and then closes them.
    ///
    /// A connection that the kernel has accepted may have sent its request already; closing the
    /// socket would reset it.
    pub async fn accept_rest(self: Arc<Self>, queues: Vec<std::net::TcpListener>, linger: Duration) {
        let until = Instant::now() + linger;
        let accepting = queues.into_iter().map(|queue| {
            let edge = Arc::clone(&self);
            async move {
                let handle = queue.try_clone();
                let Ok(queue) = TcpListener::from_std(queue) else { return };
                while let Ok(Ok((stream, _))) = timeout_at(until, queue.accept()).await {
                    edge.take(stream);
                }
                if let Err(error) = handle.and_then(|handle| hold_back(&handle)) {
                    tracing::debug!(%error, "new connections cannot be held back while the listener closes");
                }
                while let Ok(Ok((stream, _))) = timeout(HANDSHAKE, queue.accept()).await {
                    edge.take(stream);
                }
            }
        });
        let tasks: Vec<_> = accepting.map(tokio::spawn).collect();
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("the last connections could not be taken");
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream) {
        let (edge, in_flight) = (Arc::clone(self), self.gateway.drain.enter());
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        let mut stream = L4Stream::from(stream);
        stream.set_socket_digest(digest);
        tokio::spawn(async move {
            let _in_flight = in_flight;
            edge.connect(Box::new(stream)).await;
        });
    }
}

/// The edge as Pingora's app.
pub struct Rim(pub Arc<Edge>);

#[async_trait]
impl ServerApp for Rim {
    async fn process_new(self: &Arc<Self>, stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        self.0.connect(stream).await;
        None
    }
}

/// For a connection above the cap, before a byte of it was read.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
Content-Length: 0\r\nPortunus-Outcome: overloaded\r\n\r\n";

/// An answer as bytes, for a connection that has no session.
fn raw(answer: &Answer, denial: &Denial, request_id: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Portunus-Request-Id: {request_id}\r\nPortunus-Outcome: {}\r\n\r\n",
        answer.status,
        answer.body.len(),
        denial.reason
    );
    [head.as_bytes(), &answer.body].concat()
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    AsyncWriteExt::shutdown(stream).await
}

/// Reads what the client still sends, within bounds: closing with unread bytes resets the
/// connection, and the reset can overtake the answer.
async fn linger(stream: &mut Stream) {
    let mut scratch = [0; 4096];
    let drained = async {
        let mut left = CLOSE_LINGER_BYTES;
        while let Ok(read) = stream.read(&mut scratch).await {
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                break;
            }
        }
    };
    drop(timeout(CLOSE_LINGER, drained).await);
}
