//! Streams of bytes of our own making, as Pingora wants them.

use super::frames::Weighed;
use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

/// A client's connection under TLS. Boxed: it is many times the size of a socket.
#[derive(Debug)]
pub(super) struct Secured(pub(super) Box<TlsStream<Stream>>);

impl Secured {
    /// The chain that the client has shown, its own certificate first.
    pub(super) fn client_certificates(&self) -> &[CertificateDer<'static>] {
        let (_, session) = self.0.get_ref();
        session.peer_certificates().unwrap_or_default()
    }
}

/// A client's connection that speaks HTTP/2, guarded against floods.
#[derive(Debug)]
pub(super) struct Guarded(pub(super) Weighed<Stream>);

/// What a layer over another stream takes over from it.
macro_rules! layer {
    ($layer:ty, |$read:ident| $reads:expr, |$write:ident| $writes:expr, |$below:ident| $socket:expr) => {
        impl AsyncRead for $layer {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let $read = self.get_mut();
                Pin::new($reads).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $layer {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                let $write = self.get_mut();
                Pin::new($writes).poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let $write = self.get_mut();
                Pin::new($writes).poll_write_vectored(cx, slices)
            }

            fn is_write_vectored(&self) -> bool {
                let $below = self;
                $socket.is_write_vectored()
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $write = self.get_mut();
                Pin::new($writes).poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $write = self.get_mut();
                Pin::new($writes).poll_shutdown(cx)
            }
        }

        #[async_trait]
        impl Shutdown for $layer {
            async fn shutdown(&mut self) {
                if let Err(error) = AsyncWriteExt::shutdown(self).await {
                    tracing::debug!(%error, "a connection was not shut down in order");
                }
            }
        }

        impl UniqueID for $layer {
            fn id(&self) -> UniqueIDType {
                let $below = self;
                $socket.id()
            }
        }

        impl GetTimingDigest for $layer {
            fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
                let $below = self;
                $socket.get_timing_digest()
            }
        }

        impl GetProxyDigest for $layer {
            fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
                let $below = self;
                $socket.get_proxy_digest()
            }
        }

        impl GetSocketDigest for $layer {
            fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
                let $below = self;
                $socket.get_socket_digest()
            }
        }

        impl Ssl for $layer {}
        impl Peek for $layer {}
    };
}

layer!(Secured, |this| &mut *this.0, |this| &mut *this.0, |this| this.0.get_ref().0);
layer!(Guarded, |this| &mut this.0, |this| &mut this.0, |this| this.0.inner());
