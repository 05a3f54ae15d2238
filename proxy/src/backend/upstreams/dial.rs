//! The one dialler: every outgoing connection of the process is made here.
//!
//! It resolves, checks the resolved address and connects to exactly what it checked.

use super::dns::Resolver;
use super::stream::Stream;
use super::tls::{TlsFault, secure};
use crate::descriptors::{self, Wanting};
use portunus_base::{AddressGrant, Host, Scheme};
use portunus_config::Upstream;
use rustix::net::sockopt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// How long a connection waits for a file descriptor, and how often it looks.
const DESCRIPTOR_WITHIN: Duration = Duration::from_secs(1);
const DESCRIPTOR_RETRY: Duration = Duration::from_millis(20);
/// When the system asks whether the other end of a silent connection is still there, and how often before it
/// takes it for lost: after two minutes in all (tcp(7)).
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_PROBES: u32 = 3;
/// The process, or the system, has too many files open (errno(3)).
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name could not be resolved.
    Unresolved(std::io::Error),
    /// Every address of the host is in a range that it was not granted.
    Refused(IpAddr),
    /// No address accepted.
    Unreachable(std::io::Error),
    /// No address accepted in time.
    TimedOut,
    /// An address accepted, and then TLS failed.
    Tls(TlsFault),
    /// The process has no file descriptor left.
    NoDescriptor,
    /// An address accepted, and HTTP/2 did not begin on it.
    NotHttp2(std::io::Error),
}

impl DialError {
    /// The cause that it is counted as.
    pub fn cause(&self) -> ConnectCause {
        match self {
            DialError::Unresolved(_) => ConnectCause::Dns,
            DialError::Refused(_) => ConnectCause::AddressNotGranted,
            DialError::Unreachable(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                ConnectCause::Refused
            }
            DialError::Unreachable(_) => ConnectCause::Unreachable,
            DialError::TimedOut => ConnectCause::Timeout,
            DialError::Tls(TlsFault::Untrusted(_)) => ConnectCause::Untrusted,
            DialError::Tls(TlsFault::Failed(_)) => ConnectCause::Tls,
            DialError::NoDescriptor => ConnectCause::NoDescriptor,
            DialError::NotHttp2(_) => ConnectCause::Http2,
        }
    }
}

/// Why there is no connection, as metrics and the log count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCause {
    /// The server refused it.
    Refused,
    /// No address could be reached.
    Unreachable,
    /// No address accepted in time.
    Timeout,
    /// The name could not be resolved.
    Dns,
    /// The address is in a range that was not granted.
    AddressNotGranted,
    /// The server did not prove who it is.
    Untrusted,
    /// TLS failed otherwise.
    Tls,
    /// HTTP/2 did not begin.
    Http2,
    /// All places of the pool are taken.
    PoolExhausted,
    /// The process has no file descriptor left.
    NoDescriptor,
}

impl ConnectCause {
    /// Each of them.
    pub const ALL: [ConnectCause; 10] = [
        ConnectCause::Refused,
        ConnectCause::Unreachable,
        ConnectCause::Timeout,
        ConnectCause::Dns,
        ConnectCause::AddressNotGranted,
        ConnectCause::Untrusted,
        ConnectCause::Tls,
        ConnectCause::Http2,
        ConnectCause::PoolExhausted,
        ConnectCause::NoDescriptor,
    ];

    /// The label in metrics, and the problem in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectCause::Refused => "refused",
            ConnectCause::Unreachable => "unreachable",
            ConnectCause::Timeout => "timeout",
            ConnectCause::Dns => "dns",
            ConnectCause::AddressNotGranted => "address_not_granted",
            ConnectCause::Untrusted => "untrusted",
            ConnectCause::Tls => "tls",
            ConnectCause::Http2 => "http2",
            ConnectCause::PoolExhausted => "pool_exhausted",
            ConnectCause::NoDescriptor => "no_descriptor",
        }
    }
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialError::Unresolved(error) => write!(f, "the name could not be resolved: {error}"),
            DialError::Refused(ip) => write!(f, "the address {ip} is not granted to this upstream"),
            DialError::Unreachable(error) => write!(f, "no connection: {error}"),
            DialError::TimedOut => f.write_str("no connection in time"),
            DialError::Tls(fault) => fault.fmt(f),
            DialError::NoDescriptor => {
                f.write_str("no file descriptor is left: raise the limit of open files")
            }
            DialError::NotHttp2(error) => {
                write!(f, "HTTP/2 did not begin: {error} (`http` says which version the upstream speaks)")
            }
        }
    }
}

/// Connects to an upstream, under TLS where it is configured; within its connect timeout.
///
/// # Errors
/// [`DialError`].
pub async fn open(resolver: &Arc<Resolver>, upstream: &Upstream) -> Result<Stream, DialError> {
    let opened = async {
        let url = &upstream.url;
        let stream = connect_first(resolver, &url.host, url.port, &upstream.addresses).await?;
        match &upstream.tls {
            None if url.scheme == Scheme::Https => {
                // Compiling a configuration rules this out; in the clear it must not go in any case.
                Err(DialError::Tls(TlsFault::Failed("no TLS is configured for `https`".to_owned())))
            }
            None => Ok(Stream::Plain(stream)),
            Some(tls) => {
                let secured = secure(stream, tls).await.map_err(DialError::Tls)?;
                Ok(Stream::Secure(Box::new(secured)))
            }
        }
    };
    match timeout(upstream.timeouts.connect, opened).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut),
    }
}

/// Connects to the first address of `host` that is permitted and accepts.
///
/// # Errors
/// [`DialError`]; `within` bounds the whole of it.
pub async fn dial(
    resolver: &Arc<Resolver>,
    host: &Host,
    port: u16,
    grant: &AddressGrant,
    within: Duration,
) -> Result<TcpStream, DialError> {
    match timeout(within, connect_first(resolver, host, port, grant)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut),
    }
}

async fn connect_first(
    resolver: &Arc<Resolver>,
    host: &Host,
    port: u16,
    grant: &AddressGrant,
) -> Result<TcpStream, DialError> {
    let addresses = resolver.resolve(host).await.map_err(DialError::Unresolved)?;
    let mut last = None;
    for &ip in addresses.iter() {
        if !grant.permits(ip) {
            last.get_or_insert(DialError::Refused(ip));
            continue;
        }
        match connect(SocketAddr::new(ip, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(DialError::TimedOut))
}

#[expect(clippy::disallowed_methods, reason = "this is the dialler that everything else has to use")]
async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = socket(address).await?.connect(address).await.map_err(DialError::Unreachable)?;
    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
    keep_alive(&stream).map_err(|error| DialError::Unreachable(error.into()))?;
    Ok(stream)
}

/// Has the system look after a silent connection: its other end may be gone, and what lies between forgets it.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)
}

/// A socket, as soon as there is one that may be used: connections end all the time.
async fn socket(address: SocketAddr) -> Result<TcpSocket, DialError> {
    let until = Instant::now() + DESCRIPTOR_WITHIN;
    loop {
        let made = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        match made {
            Ok(socket) if descriptors::may_use(&socket) => return Ok(socket),
            Err(error) if !matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                return Err(DialError::Unreachable(error));
            }
            Ok(_) | Err(_) => descriptors::await_one(),
        }
        if Instant::now() >= until {
            descriptors::refuse(Wanting::Upstream);
            return Err(DialError::NoDescriptor);
        }
        sleep(DESCRIPTOR_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_not_granted_is_never_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let resolver = Arc::new(Resolver::default());
        let within = Duration::from_secs(5);
        for host in [Host::Name("localhost".to_owned()), Host::Ip("127.0.0.1".parse().unwrap())] {
            let none = AddressGrant { loopback: false, private: true };
            let refused = dial(&resolver, &host, port, &none, within).await;
            assert!(matches!(refused, Err(DialError::Refused(ip)) if ip.is_loopback()), "{host:?}");
            let granted = AddressGrant { loopback: true, private: false };
            assert!(dial(&resolver, &host, port, &granted, within).await.is_ok(), "{host:?}");
        }
    }
}
