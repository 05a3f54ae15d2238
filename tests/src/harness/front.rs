//! What stands before a server and lets its requests through, or fails them in one way.

use super::dial;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What becomes of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    /// They reach the server.
    Passes,
    /// Nobody listens.
    Refuses,
    /// They are read and not answered.
    Hangs,
    /// They are answered with these bytes, and the connection closes.
    Says(&'static str),
}

/// A front; it ends with the value.
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    target: SocketAddr,
    /// Keeps the address while nobody listens there.
    _held: TcpSocket,
    /// Stays through all moods in which somebody listens.
    listener: Option<Arc<TcpListener>>,
    /// One that accepts, or none; it ends with `stop`, after its connections.
    task: JoinSet<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Front {
    /// One that lets requests through to `target`.
    pub(crate) async fn before(target: SocketAddr) -> Front {
        let held = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = held.local_addr().unwrap();
        let mut front =
            Front { address, target, _held: held, listener: None, task: JoinSet::new(), stop: None };
        front.turn(Mood::Passes).await;
        front
    }

    /// Changes what becomes of requests; connections that there are end.
    pub(crate) async fn turn(&mut self, mood: Mood) {
        self.stop = None;
        while self.task.join_next().await.is_some() {}
        if let Mood::Refuses = mood {
            self.listener = None;
            return;
        }
        let listen = || Arc::new(bound(self.address).listen(1024).unwrap());
        let listener = Arc::clone(self.listener.get_or_insert_with(listen));
        let target = self.target;
        let (stop, mut stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            connections.spawn(connection(stream, target, mood));
                        }
                    }
                }
            }
            connections.shutdown().await;
        });
    }
}

/// A socket that has the address, which it shares with others of its kind, and does not listen yet.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn connection(mut stream: TcpStream, target: SocketAddr, mood: Mood) {
    match mood {
        Mood::Passes => {
            if let Ok(mut server) = dial(target).await {
                copy_bidirectional(&mut stream, &mut server).await.ok();
            }
        }
        Mood::Refuses | Mood::Hangs => std::future::pending().await,
        Mood::Says(bytes) => {
            read_request(&mut stream).await;
            stream.write_all(bytes.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    }
}

/// Reads a request to its end: closing with unread bytes could take the answer along.
async fn read_request(stream: &mut TcpStream) {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return;
            }
        }
        match stream.read(&mut piece).await {
            Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
}
