//! What stands before a server and lets its requests through, or fails them in one way.

use super::dial;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

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
    task: JoinHandle<()>,
}

impl Front {
    /// One that lets requests through to `target`.
    pub(crate) async fn before(target: SocketAddr) -> Front {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = socket.local_addr().unwrap();
        Front { address, target, task: serve(socket, target, Mood::Passes) }
    }

    /// Changes what becomes of requests; connections that there are end.
    pub(crate) async fn turn(&mut self, mood: Mood) {
        self.task.abort();
        (&mut self.task).await.ok();
        self.task = serve(bound(self.address), self.target, mood);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket that has the address, and does not listen yet.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// Listens from now on, unless nobody is to.
fn serve(socket: TcpSocket, target: SocketAddr, mood: Mood) -> JoinHandle<()> {
    if let Mood::Refuses = mood {
        return tokio::spawn(async move {
            let _held = socket;
            std::future::pending().await
        });
    }
    let listener: TcpListener = socket.listen(1024).unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, target, mood));
        }
    })
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
