//! What the bytes of one connection travel on: a socket, or TLS on a socket.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connected stream of bytes to an upstream.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS. Boxed: it is many times the size of a socket.
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether it is open and nothing has arrived.
    ///
    /// Under TLS the socket may well be readable: records that carry no data, such as session
    /// tickets, are taken in by this.
    pub fn is_quiet(&mut self) -> bool {
        let mut probe = [0];
        match self {
            Stream::Plain(stream) => is_empty(&stream.try_read(&mut probe)),
            Stream::Secure(stream) => {
                let mut context = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut probe)).is_pending()
            }
        }
    }

    /// Whether the handshake agreed on HTTP/2 (RFC 7301).
    pub fn chose_http_2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Secure(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Bytes of a request of which an upstream has seen nothing if writing them fails at once: any
    /// number in the clear, one record under TLS (RFC 8446 §5.1), which cannot be read in part.
    pub fn atomic_bytes(&self) -> usize {
        match self {
            Stream::Plain(_) => usize::MAX,
            Stream::Secure(_) => 1 << 14,
        }
    }
}

fn is_empty(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
