//! Addresses, taken before anything starts.
//!
//! Pingora retries a taken address for half a minute and cannot tell the port that 0 became. So each
//! address is bound here first: a taken one is an error at once, and a port chosen by the system is
//! held by a socket that never listens until Pingora binds beside it.

use pingora_core::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// Read and write buffers of a client connection: small, since most connections are idle.
const READ_BUFFER: usize = 8 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;

/// An address that is ours.
pub struct Reserved {
    /// The address, with the port that it really has.
    pub address: SocketAddr,
    held: Option<TcpSocket>,
}

/// Takes an address.
///
/// # Errors
/// If it is taken or not ours.
pub fn reserve(address: SocketAddr) -> io::Result<Reserved> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let chosen = address.port() == 0;
    if chosen {
        socket.set_reuseport(true)?;
    } else {
        socket.set_reuseaddr(true)?;
    }
    socket.bind(address).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}; is another process using it?"),
        )
    })?;
    if chosen {
        return Ok(Reserved { address: socket.local_addr()?, held: Some(socket) });
    }
    // Binding beside a listener with SO_REUSEADDR succeeds; listening does not.
    drop(socket.listen(1).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}; is another process using it?"),
        )
    })?);
    Ok(Reserved { address, held: None })
}

impl Reserved {
    /// The endpoint for Pingora.
    pub fn endpoint(&self) -> ListenerConfig {
        let mut options = TcpSocketOptions::default();
        options.so_reuseport = self.held.is_some().then_some(true);
        ListenerConfig::tcp(self.address.to_string())
            .tcp_socket_options(options)
            .l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_an_error_at_once_and_port_zero_becomes_real() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(reserve(address).err().unwrap().to_string().contains("is another process using it?"));
        let chosen = reserve("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(chosen.address.port(), 0);
        drop(taken);
        assert!(reserve(address).is_ok());
    }
}
