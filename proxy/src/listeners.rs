//! Addresses, listened on before anything starts.
//!
//! Pingora retries a taken address for half a minute, cannot tell the port that 0 became, and closes
//! a listener together with the connections that still wait in its queue. So each socket is made
//! here and handed to Pingora as if it were inherited. A taken address is an error at once, and the
//! socket stays ours: what waits when Pingora stops accepting is still taken, and a successor can be
//! given the socket itself.

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::{ConnectionFilter, L4BufferSettings, ListenerConfig};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service as Serves;
use pingora_core::services::listening::Service;
use serde::{Deserialize, Serialize};
use socket2::{SockFilter, SockRef};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};

/// Read and write buffers of a client connection: small, since most connections are idle.
const READ_BUFFER: usize = 8 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;

/// Shorter than what calls wait for, long enough to cost nothing.
const TICK: Duration = Duration::from_millis(250);

/// What is served on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Surface {
    /// MCP clients.
    Mcp,
    /// Probes and scrapers.
    Telemetry,
    /// Operators.
    Admin,
    /// Other replicas.
    Peers,
}

/// A place to listen, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What is served there.
    pub surface: Surface,
    /// Name of the listener; for the other surfaces, theirs.
    pub name: String,
    /// Address; port 0 lets the system choose.
    pub bind: SocketAddr,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    /// The address, with the port that it really has.
    pub address: SocketAddr,
    /// Whether a supervisor keeps the socket open beyond this process.
    pub supervised: bool,
    socket: TcpListener,
}

/// Listens on an address.
///
/// # Errors
/// If it is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<Listening> {
    let told = |error: io::Error| {
        let text = format!("cannot listen on {address}: {error}; is another process using it?");
        io::Error::new(error.kind(), text)
    };
    let socket = TcpListener::bind(address).map_err(told)?;
    Listening::adopt(socket, false)
}

impl Listening {
    /// Takes over a socket that somebody else made; `supervised` if they keep it open.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn adopt(socket: TcpListener, supervised: bool) -> io::Result<Listening> {
        let address = socket.local_addr()?;
        if !SockRef::from(&socket).is_listener()? {
            let text = format!("the socket for {address} that was passed on does not listen");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        socket.set_nonblocking(true)?;
        Ok(Listening { address, supervised, socket })
    }

    /// Another handle on the same socket.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn share(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }
}

/// Lets a listening socket take no new connection, while handshakes under way go on.
///
/// A socket that is closed resets what the kernel has accepted for it in that instant. Behind this
/// filter (SYN without ACK is dropped, RFC 9293 §3.1) nothing new arrives, so its queue can be emptied
/// first; a client that is held back tries again, and is then refused.
///
/// # Errors
/// If the system forbids packet filters.
pub fn hold_back(socket: &TcpListener) -> io::Result<()> {
    const FLAGS_OFFSET: u32 = 13;
    const SYN_ACK_MASK: u32 = 0x12;
    const SYN: u32 = 0x02;
    let program = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET),
        SockFilter::new(0x54, 0, 0, SYN_ACK_MASK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&program)
}

/// Lets what was accepted run before the next connection is: accepted in one go, those that are about to
/// be refused would hold all file descriptors at once.
#[derive(Debug, Default)]
struct Turns {
    are_over: AtomicBool,
    waiting: AtomicUsize,
}

impl Turns {
    /// Gives no more of them, and waits for those that are under way: whoever stops to accept within one
    /// would lose the connection that it is for.
    async fn end(&self) {
        self.are_over.store(true, Ordering::SeqCst);
        while self.waiting.load(Ordering::SeqCst) > 0 {
            yield_now().await;
        }
    }
}

#[async_trait]
impl ConnectionFilter for Turns {
    async fn should_accept(&self, _: Option<&SocketAddr>) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if !self.are_over.load(Ordering::SeqCst) {
            yield_now().await;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        true
    }
}

/// Work that shares the threads of a service.
pub type Companion = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A service of Pingora on sockets that are there already.
pub struct SocketService<A> {
    service: Service<A>,
    turns: Arc<Turns>,
    sockets: Vec<(String, TcpListener)>,
    companion: Option<Companion>,
    closed: Option<oneshot::Sender<()>>,
}

impl<A> SocketService<A> {
    /// Serves `app` on `listening`, on `threads` threads or as many as the server has.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn new(
        name: &str,
        app: A,
        listening: &[&Listening],
        threads: Option<usize>,
    ) -> io::Result<SocketService<A>> {
        let mut service = Service::new(name.to_owned(), app);
        let turns = Arc::new(Turns::default());
        service.set_connection_filter(Arc::clone(&turns) as Arc<dyn ConnectionFilter>);
        service.threads = threads;
        let mut sockets = Vec::with_capacity(listening.len());
        for one in listening {
            let address = one.address.to_string();
            let buffers = L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER);
            service.add_listener(ListenerConfig::tcp(address.as_str()).l4_buffer(buffers));
            sockets.push((address, one.share()?));
        }
        Ok(SocketService { service, turns, sockets, companion: None, closed: None })
    }

    /// Starts `companion` when the service starts, on its threads.
    pub fn beside(mut self, companion: Companion) -> SocketService<A> {
        self.companion = Some(companion);
        self
    }

    /// Tells when the service, asked to stop, accepts nothing any more.
    pub fn notifying(mut self, closed: oneshot::Sender<()>) -> SocketService<A> {
        self.closed = Some(closed);
        self
    }
}

/// Keeps the runtime's next wake-up near.
///
/// A timer that is due before the next wake-up interrupts the runtime by a system call and makes it
/// look at its sockets once more than needed. Each call arms timers of many seconds; next to this
/// tick none of them is ever the first.
async fn tick() {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Serves for SocketService<A> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        per_socket: usize,
    ) {
        tokio::spawn(tick());
        if let Some(table) = &fds {
            let mut table = table.lock();
            for (address, socket) in self.sockets.drain(..) {
                // From here on Pingora owns this handle, as one that another process passed on.
                table.add(address, socket.into_raw_fd());
            }
        }
        if let Some(companion) = self.companion.take() {
            tokio::spawn(companion);
        }
        let (stop, stopping) = watch::channel(false);
        let turns = Arc::clone(&self.turns);
        tokio::spawn(async move {
            // It is over too if nobody is left to say so.
            drop(shutdown.wait_for(|stops| *stops).await);
            turns.end().await;
            // Who does not listen any more has stopped.
            stop.send(true).ok();
        });
        self.service.start_service(fds, stopping, per_socket).await;
        if let Some(closed) = self.closed.take() {
            // Who does not wait for it does not have to know.
            closed.send(()).ok();
        }
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_an_error_at_once_and_port_zero_becomes_real() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(first.address.port(), 0);
        let taken = listen(first.address).err().unwrap();
        assert!(taken.to_string().contains("is another process using it?"), "{taken}");
        let address = first.address;
        drop(first);
        assert!(listen(address).is_ok());
    }

    #[test]
    fn only_a_socket_that_listens_is_adopted() {
        let listens = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listens.local_addr().unwrap();
        let adopted = Listening::adopt(listens, true).unwrap();
        assert_eq!((adopted.address, adopted.supervised), (address, true));

        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let refused = Listening::adopt(bound.into(), false).unwrap_err();
        assert!(refused.to_string().contains("does not listen"), "{refused}");
    }

    #[test]
    fn a_socket_that_is_held_back_keeps_what_it_has() {
        let listening = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let before = std::net::TcpStream::connect(listening.address).unwrap();
        hold_back(&listening.socket).unwrap();
        let patience = std::time::Duration::from_millis(100);
        assert!(std::net::TcpStream::connect_timeout(&listening.address, patience).is_err(), "a new one");
        let (_, peer) = listening.socket.accept().unwrap();
        assert_eq!(peer, before.local_addr().unwrap());
    }
}
