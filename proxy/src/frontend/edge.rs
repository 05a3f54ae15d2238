//! The rim: connections and their permits, who is behind them, TLS, and which HTTP they speak.
//!
//! In order: a permit, the PROXY protocol header, the TLS handshake, and then the loop of
//! HTTP/1.1 or HTTP/2. Each of them has a deadline and a bound.

mod frames;
mod h1;
mod h2;
mod layers;
mod peer;
mod proxy_protocol;
mod tls;

pub use tls::{Handshake, LiveTls};

use crate::descriptors::{self, Wanting};
use crate::frontend::context::Gateway;
use crate::frontend::serve::{Connection, serve};
use crate::frontend::session::in_time;
use crate::frontend::session::one::Rest;
use crate::frontend::session::{Client, ReleasedHead};
use crate::identify::{ConnectionState, source};
use crate::listeners::hold_back;
use crate::metrics::Counted;
use crate::record::RecordGuard;
use crate::reply::{self, Answer, Refused};
use crate::shares::{Owner, Share, Shares};
use async_trait::async_trait;
use http::HeaderMap;
use http::request::Parts;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use portunus_config::Listener;
use portunus_filters::{Arrival, Denial, Identity, Reason, Released};
use proxy_protocol::announced;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// How long, and how much of, what a refused client still sends is read before closing, so that
/// the answer is not lost to a reset.
const CLOSE_LINGER: Duration = Duration::from_millis(500);
const CLOSE_LINGER_BYTES: usize = 256 * 1024;
/// A listener that closes waits this long for handshakes that were under way.
const HANDSHAKE: Duration = Duration::from_millis(30);

/// Who is at the other end of a connection.
#[derive(Clone)]
struct PeerInfo {
    /// The peer; behind a PROXY protocol header, who that names.
    address: IpAddr,
    /// The address is its own, or was named: it may be one that forwarding headers are believed from.
    forwards: bool,
    /// The connection is under TLS.
    secure: bool,
    /// What it has shown of itself.
    connection_state: Arc<ConnectionState>,
    /// When it takes no new requests.
    leaves_at: Instant,
}

/// What all listeners lead to.
#[derive(Clone)]
pub struct ConnectionServer {
    gateway: Arc<Gateway>,
    /// What a replica shows is its own, and nothing of the clients whose requests it brings.
    nobody: Arc<ConnectionState>,
    listeners: Arc<[ListenerRuntime]>,
}

/// One listener at work.
#[derive(Clone)]
struct ListenerRuntime {
    listener: Arc<Listener>,
    bound: SocketAddr,
    permits: Arc<Shares>,
    /// For requests on connections that are not one caller's, or that share one: as many at once as there
    /// may be connections.
    stream_permits: Arc<Shares>,
    tls: Option<Arc<LiveTls>>,
    peer_kind: PeerKind,
    /// There are not enough descriptors for `max_connections`.
    is_cut: bool,
}

/// Who comes by a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PeerKind {
    /// MCP clients.
    Clients,
    /// Other replicas, with what clients have asked of them.
    Replicas,
}

impl ConnectionServer {
    /// An edge for listeners that are bound to these addresses; `peers` is that of the listener for
    /// other replicas.
    pub fn new(gateway: Arc<Gateway>, bound: &[SocketAddr], peers: Option<SocketAddr>) -> Self {
        let wanted = descriptors::wanted(&gateway.bootstrap);
        let listeners = gateway.bootstrap.listeners.iter().zip(&gateway.tls).zip(bound);
        let clients = listeners.map(|((listener, tls), bound)| {
            ListenerRuntime::new(listener, *bound, tls.clone(), PeerKind::Clients).within(wanted)
        });
        let replicas = gateway.bootstrap.peers.iter().zip(peers).map(|(peers, bound)| {
            ListenerRuntime::new(&peers.listener, bound, gateway.peers.tls.clone(), PeerKind::Replicas)
                .within(wanted)
        });
        Self {
            listeners: clients.chain(replicas).collect(),
            nobody: Arc::new(ConnectionState::new(gateway.drain.phases().child())),
            gateway,
        }
    }

    /// The listener that a connection came in by.
    fn runtime_at(&self, local: Option<SocketAddr>) -> Option<&ListenerRuntime> {
        let local = local?;
        let same_port = |one: &&ListenerRuntime| one.bound.port() == local.port();
        let exact =
            self.listeners.iter().filter(same_port).find(|one| one.bound.ip() == local.ip().to_canonical());
        exact.or_else(|| self.listeners.iter().filter(same_port).find(|one| one.bound.ip().is_unspecified()))
    }

    /// Answers what never became a request, and closes.
    async fn refuse(&self, runtime: &ListenerRuntime, peer: &PeerInfo, stream: &mut Stream, denial: &Denial) {
        let (answer, request_id) = self.record_refusal(runtime, peer, denial);
        let wire = raw(&answer, denial, &request_id);
        if let Ok(Ok(())) = timeout(runtime.listener.limits.write_timeout, write(stream, &wire)).await {
            linger(stream).await;
        }
    }

    /// Answers a request that no stage has seen.
    async fn refuse_client(
        &self,
        runtime: &ListenerRuntime,
        peer: &PeerInfo,
        client: &mut Client,
        denial: &Denial,
    ) {
        let (answer, request_id) = self.record_refusal(runtime, peer, denial);
        let head = || -> pingora_core::Result<ResponseHeader> {
            let mut head = ResponseHeader::build(answer.status, Some(6))?;
            head.insert_header("Content-Type", "application/json")?;
            head.insert_header("Content-Length", answer.body.len())?;
            head.insert_header("Portunus-Request-Id", &*request_id)?;
            head.insert_header("Portunus-Outcome", denial.reason.as_str())?;
            Ok(head)
        };
        if let Ok(head) = head() {
            let written = client.answer(ReleasedHead::own(head), Released::own(answer.body.clone()));
            drop(in_time(runtime.listener.limits.write_timeout, pin!(written)).await);
        }
    }

    /// Refuses a request for which there is no place.
    async fn refuse_stream(&self, runtime: &ListenerRuntime, peer: &PeerInfo, client: &mut Client) {
        self.refuse_client(runtime, peer, client, &crowded()).await;
    }

    fn record_refusal(
        &self,
        runtime: &ListenerRuntime,
        peer: &PeerInfo,
        denial: &Denial,
    ) -> (Answer, Arc<str>) {
        let arrival = Arrival {
            listener: Arc::clone(&runtime.listener.name),
            source: peer.address,
            identity: Identity::Anonymous { source: peer.address },
            request_id: self.gateway.backend.ids.event_id(),
            at: self.gateway.clock.now(),
        };
        let mut record = RecordGuard::new(&self.gateway.recorder, &arrival);
        record.note_denial(denial);
        let answer = reply::refuse(denial, &Refused::default(), &arrival.request_id);
        record.note_http_status(answer.status.as_u16());
        (answer, arrival.request_id)
    }
}

impl ListenerRuntime {
    fn new(listener: &Listener, bound: SocketAddr, tls: Option<Arc<LiveTls>>, peer_kind: PeerKind) -> Self {
        let most = listener.limits.max_connections;
        Self {
            listener: Arc::new(listener.clone()),
            bound,
            permits: Shares::new(most),
            stream_permits: Shares::new(most),
            tls,
            peer_kind,
            is_cut: false,
        }
    }

    /// Lets it hold its share of the descriptors that there are, if they are fewer than all listeners want.
    fn within(self, all_want: usize) -> Self {
        let wanted = self.permits.most();
        let share = descriptors::share(wanted, all_want);
        match share < wanted {
            true => Self { permits: Shares::new(share), is_cut: true, ..self },
            false => self,
        }
    }

    /// Whose a connection from `peer` is: a proxy's is that of many, and so is a replica's.
    fn owner(&self, peer: IpAddr) -> Owner {
        match self.peer_kind {
            PeerKind::Clients if !self.is_proxy(peer) => Owner::at(peer),
            PeerKind::Clients | PeerKind::Replicas => Owner::Nobody,
        }
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        let listener = &self.listener;
        let mut proxies = listener.trusted_proxies.iter().chain(&listener.forwarded_from);
        proxies.any(|net| net.contains(&peer))
    }

    /// Leave to serve one request on a connection whose share is not its caller's alone.
    fn admit_stream(&self, peer: &PeerInfo, headers: &HeaderMap) -> Option<Share> {
        let owner = match self.peer_kind {
            PeerKind::Replicas => Owner::Nobody,
            PeerKind::Clients => {
                let from = if peer.forwards { &self.listener.forwarded_from[..] } else { &[] };
                Owner::at(source(peer.address, headers, from, self.listener.forwarded_by).client)
            }
        };
        self.stream_permits.take(owner, 1)
    }
}

impl ConnectionServer {
    /// One connection, from its first byte to its end.
    async fn connect(&self, mut stream: Stream) {
        let socket = stream.get_socket_digest();
        let inet = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
            address.and_then(|address| address.as_inet()).copied()
        };
        let local = inet(socket.as_ref().and_then(|socket| socket.local_addr()));
        let peer = inet(socket.as_ref().and_then(|socket| socket.peer_addr()));
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
        let Some(runtime) = self.runtime_at(local) else { return };
        let Some(mut permit) = runtime.permits.take(runtime.owner(peer), 1) else {
            if runtime.is_cut {
                descriptors::refuse(Wanting::Client);
            }
            return self.refuse_connection(&mut stream).await;
        };
        let _counted = Counted::one(&self.gateway.metrics.edge.connections);
        let (peer, forwards) = match self.client_behind(runtime, &mut stream, peer).await {
            Ok(client) => (client.unwrap_or(peer), !runtime.listener.proxy_protocol || client.is_some()),
            Err(error) => {
                tracing::debug!(listener = &*runtime.listener.name, %peer, %error, "connection refused");
                return self.gateway.metrics.edge.proxy_headers_refused.inc();
            }
        };
        if runtime.listener.proxy_protocol && forwards {
            drop(permit);
            // Whose it is was not known before.
            match runtime.permits.take(runtime.owner(peer), 1) {
                Some(own) => permit = own,
                None => return self.refuse_connection(&mut stream).await,
            }
        }
        let _permit = permit;
        let (stream, http_2, connection_state) = match &runtime.tls {
            None => (stream, false, ConnectionState::new(self.gateway.drain.phases().child())),
            Some(tls) => match self.secured(runtime, tls, stream, peer).await {
                Some(secured) => secured,
                None => return,
            },
        };
        let connection_state = Arc::new(connection_state);
        let leaves_at = Instant::now() + runtime.listener.limits.max_connection_age;
        let peer =
            PeerInfo { address: peer, forwards, secure: runtime.tls.is_some(), connection_state, leaves_at };
        // Boxed: what an idle connection of the other protocol would need is not reserved.
        match http_2 {
            true => Box::pin(self.run_h2(runtime, stream, Vec::new(), &peer)).await,
            false => self.run_h1(runtime, stream, &peer).await,
        }
    }

    /// Serves one request; gives the connection back if it can carry another.
    async fn serve(
        &self,
        runtime: &ListenerRuntime,
        peer: &PeerInfo,
        head: Parts,
        client: Client,
    ) -> Option<Rest> {
        if runtime.peer_kind == PeerKind::Clients {
            return serve(head, client, self.connection(runtime, peer)).await;
        }
        Box::pin(self.serve_replica(runtime, peer, head, client)).await
    }

    async fn refuse_connection(&self, stream: &mut Stream) {
        self.gateway.metrics.connection_refused();
        drop(timeout(CLOSE_LINGER, write(stream, FULL)).await);
    }

    fn connection<'a>(&'a self, runtime: &'a ListenerRuntime, peer: &'a PeerInfo) -> Connection<'a> {
        let (secure, connection_state, listener) = (peer.secure, &peer.connection_state, &runtime.listener);
        let (peer, forwards) = (peer.address, peer.forwards);
        Connection {
            gateway: &self.gateway,
            listener,
            peer,
            forwards,
            secure,
            connection_state,
            relayed: None,
        }
    }

    /// Who is behind the peer, where its connections say so; `None` if that is nobody with an address.
    async fn client_behind(
        &self,
        runtime: &ListenerRuntime,
        stream: &mut Stream,
        peer: IpAddr,
    ) -> io::Result<Option<IpAddr>> {
        if !runtime.listener.proxy_protocol {
            return Ok(None);
        }
        if !runtime.listener.trusted_proxies.iter().any(|trusted| trusted.contains(&peer)) {
            let problem = "the peer is none of `trusted_proxies` and may not say who its client is";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        let announced = timeout(runtime.listener.limits.header_timeout, announced(stream)).await;
        announced.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The connection under TLS, whether it speaks HTTP/2, and who has opened it.
    async fn secured(
        &self,
        runtime: &ListenerRuntime,
        tls: &Arc<LiveTls>,
        stream: Stream,
        peer: IpAddr,
    ) -> Option<(Stream, bool, ConnectionState)> {
        let listener = &*runtime.listener.name;
        let fresh = !runtime.listener.proxy_protocol;
        let (result, secured) = match Box::pin(tls.accept(stream, fresh)).await {
            Ok((stream, http_2)) => {
                let connection_state = ConnectionState::with_certificates(
                    self.gateway.drain.phases().child(),
                    stream.client_certificates(),
                    tls,
                );
                (Handshake::Done, Some((Box::new(stream) as Stream, http_2, connection_state)))
            }
            Err((result, why)) => {
                tracing::debug!(listener, %peer, result = result.as_str(), why, "TLS handshake failed");
                (result, None)
            }
        };
        self.gateway.metrics.edge.handshakes.with_label_values(&[listener, result.as_str()]).inc();
        secured
    }

    /// Takes what still waits in the listen queues, for `linger`, and then closes them.
    ///
    /// A connection that the kernel has accepted may have sent its request already; closing the
    /// socket would reset it.
    pub async fn accept_rest(self: Arc<Self>, queues: Vec<std::net::TcpListener>, linger: Duration) {
        let until = Instant::now() + linger;
        let accepting = queues.into_iter().map(|queue| {
            let connection_server = Arc::clone(&self);
            async move {
                let handle = queue.try_clone();
                let Ok(queue) = TcpListener::from_std(queue) else { return };
                while let Ok(Ok((stream, _))) = timeout_at(until, queue.accept()).await {
                    connection_server.take(stream);
                }
                if let Err(error) = handle.and_then(|handle| hold_back(&handle)) {
                    tracing::debug!(%error, "new connections cannot be held back while the listener closes");
                }
                while let Ok(Ok((stream, _))) = timeout(HANDSHAKE, queue.accept()).await {
                    connection_server.take(stream);
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
        tokio::spawn(self.run(stream));
    }

    /// Serves a connection, from its first byte to its end.
    pub(crate) fn run(self: &Arc<Self>, stream: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        let (connection_server, in_flight) = (Arc::clone(self), self.gateway.drain.enter());
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        let mut stream = L4Stream::from(stream);
        stream.set_socket_digest(digest);
        async move {
            let _in_flight = in_flight;
            connection_server.connect(Box::new(stream)).await;
        }
    }
}

/// The connection server as Pingora's app.
pub struct PingoraAdapter(pub Arc<ConnectionServer>);

#[async_trait]
impl ServerApp for PingoraAdapter {
    async fn process_new(self: &Arc<Self>, stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        self.0.connect(stream).await;
        None
    }
}

/// For a request above the cap, or above its caller's share of it.
fn crowded() -> Denial {
    Denial::new(Reason::Overloaded, "too many requests are open at once")
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

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
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
