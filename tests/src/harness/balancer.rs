//! A TCP balancer that knows nothing of what it carries: each connection goes to the next backend.

use super::dial;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running balancer; it ends with the value.
pub(crate) struct Balancer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Starts a balancer before these; one that refuses a connection is passed over.
    pub(crate) async fn before(backends: Vec<SocketAddr>) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let turn = AtomicUsize::new(0);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let first = turn.fetch_add(1, Ordering::SeqCst);
                let order = (0..backends.len()).map(|next| backends[(first + next) % backends.len()]);
                tokio::spawn(carry(client, order.collect()));
            }
        });
        Balancer { address, accepting }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, backends: Vec<SocketAddr>) {
    client.set_nodelay(true).ok();
    for backend in backends {
        if let Ok(mut server) = dial(backend).await {
            // Ends when either side does: a killed backend must not leave its clients waiting.
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            return;
        }
    }
}
