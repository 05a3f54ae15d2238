//! TLS towards clients: handshakes with a deadline and a bound, certificates that swap live.
//!
//! The handshake is ours and not Pingora's: a PROXY protocol header comes before it, its deadline is
//! configured, and each one takes the certificates, trust and revocation lists in force at that moment.

use super::layers::Secured;
use arc_swap::{ArcSwap, Guard};
use pingora_core::protocols::Stream;
use portunus_config::ListenerTls;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{CertificateError, Error};

/// First byte of every TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
const WRITE_WITHIN: Duration = Duration::from_millis(500);

/// What rustls says when none of our certificates has the name or the kind of key that is asked for.
const NO_CERTIFICATE_FITS: &str = "no server certificate chain resolved";

/// For a client that forgot the `s` of `https`.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
Content-Length: 50\r\nPortunus-Outcome: malformed_http\r\n\r\nThis listener speaks TLS: use a URL with https://\n";

/// How one listener speaks TLS now.
pub struct LiveTls {
    current: ArcSwap<ListenerTls>,
    under_way: AtomicUsize,
}

/// How a handshake ended; the label of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With a connection.
    Done,
    /// Above the bound on handshakes under way.
    Shed,
    /// It took too long.
    TimedOut,
    /// What came was no TLS.
    NotTls,
    /// The client broke off.
    Closed,
    /// No version, cipher, protocol or name in common.
    NothingInCommon,
    /// The client showed no certificate.
    NoCertificate,
    /// Its certificate was signed by nobody who is trusted.
    UnknownIssuer,
    /// Its certificate has expired, or is not valid yet.
    Expired,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate is refused for another reason.
    BadCertificate,
    /// The client refused ours.
    Alert,
    /// Anything else.
    Failed,
}

impl Handshake {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Handshake::Done => "ok",
            Handshake::Shed => "shed",
            Handshake::TimedOut => "timeout",
            Handshake::NotTls => "not_tls",
            Handshake::Closed => "closed",
            Handshake::NothingInCommon => "nothing_in_common",
            Handshake::NoCertificate => "no_certificate",
            Handshake::UnknownIssuer => "unknown_issuer",
            Handshake::Expired => "expired",
            Handshake::Revoked => "revoked",
            Handshake::BadCertificate => "bad_certificate",
            Handshake::Alert => "alert",
            Handshake::Failed => "failed",
        }
    }
}

impl LiveTls {
    /// TLS as a listener begins with it.
    pub fn new(tls: ListenerTls) -> LiveTls {
        LiveTls { current: ArcSwap::from_pointee(tls), under_way: AtomicUsize::new(0) }
    }

    /// What is in force.
    pub fn current(&self) -> Guard<Arc<ListenerTls>> {
        self.current.load()
    }

    /// Takes what a reload brings; an equal one is left, so that clients go on resuming.
    pub fn replace(&self, tls: &ListenerTls) {
        if **self.current.load() != *tls {
            self.current.store(Arc::new(tls.clone()));
        }
    }

    /// Makes a connection secure; true if it speaks HTTP/2.
    ///
    /// `fresh` if nothing of the connection was read yet.
    ///
    /// # Errors
    /// How the handshake failed, and why in words for the log.
    pub(super) async fn accept(
        &self,
        stream: Stream,
        fresh: bool,
    ) -> Result<(Secured, bool), (Handshake, String)> {
        let tls = self.current.load_full();
        match timeout(tls.handshake_timeout, self.shake_hands(&tls, stream, fresh)).await {
            Ok(Ok(secured)) => Ok(secured),
            Ok(Err(Failed { result, why, stream })) => {
                if let Some(mut stream) = stream {
                    super::linger(&mut stream).await;
                }
                Err((result, why))
            }
            Err(_) => Err((Handshake::TimedOut, "it did not end in time".to_owned())),
        }
    }

    async fn shake_hands(
        &self,
        tls: &ListenerTls,
        mut stream: Stream,
        fresh: bool,
    ) -> Result<(Secured, bool), Failed> {
        if fresh {
            // Looked at in the socket, not read: a plain request gets an answer that it understands.
            let mut first = [HANDSHAKE_RECORD];
            let peeked = stream.try_peek(&mut first).await;
            if matches!(peeked, Ok(true)) && first[0] != HANDSHAKE_RECORD && first[0] != 0 {
                drop(timeout(WRITE_WITHIN, super::write(&mut stream, NOT_TLS)).await);
                let why = "the first byte is not that of a TLS handshake".to_owned();
                return Err(Failed { result: Handshake::NotTls, why, stream: Some(stream) });
            }
        }
        let mut greeted = pin!(LazyConfigAcceptor::new(Acceptor::default(), stream));
        let start = match greeted.as_mut().await {
            Ok(start) => start,
            Err(error) => return Err(failed(&error, greeted.take_io()).await),
        };
        // Only now: a connection that says nothing costs nothing, and must not keep others out.
        let Some(_turn) = Turn::take(&self.under_way, tls.max_handshakes) else {
            let why = "too many handshakes are under way".to_owned();
            return Err(Failed { result: Handshake::Shed, why, stream: None });
        };
        match start.into_stream(Arc::clone(&tls.config)).into_fallible().await {
            Ok(stream) => {
                let http_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Ok((Secured(Box::new(stream)), http_2))
            }
            Err((error, stream)) => Err(failed(&error, Some(stream)).await),
        }
    }
}

/// A handshake that failed.
struct Failed {
    result: Handshake,
    why: String,
    /// The connection, if what was said last may still have to arrive: a client of TLS 1.3 sends its
    /// request before it learns that its certificate is refused, and closing would reset it.
    stream: Option<Stream>,
}

/// Notes how a handshake failed, and ends it in order where the client may still read.
async fn failed(error: &io::Error, stream: Option<Stream>) -> Failed {
    let (result, why) = (judge(error), error.to_string());
    // Whoever broke off, or refused us, waits for nothing.
    let waiting = stream.filter(|_| !matches!(result, Handshake::Closed | Handshake::Alert));
    let Some(mut stream) = waiting else { return Failed { result, why, stream: None } };
    let told = matches!(timeout(WRITE_WITHIN, stream.shutdown()).await, Ok(Ok(())));
    Failed { result, why, stream: told.then_some(stream) }
}

fn judge(error: &io::Error) -> Handshake {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return Handshake::Closed;
    };
    match cause {
        Error::NoCertificatesPresented => Handshake::NoCertificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Handshake::NothingInCommon,
        // rustls has no name of its own for a resolver without a certificate for this client.
        Error::General(why) if why == NO_CERTIFICATE_FITS => Handshake::NothingInCommon,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => Handshake::UnknownIssuer,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Handshake::Expired,
        Error::InvalidCertificate(CertificateError::Revoked) => Handshake::Revoked,
        Error::InvalidCertificate(_) => Handshake::BadCertificate,
        Error::AlertReceived(_) => Handshake::Alert,
        Error::InvalidMessage(_) => Handshake::NotTls,
        _ => Handshake::Failed,
    }
}

/// One handshake under way.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn take(under_way: &'a AtomicUsize, most: usize) -> Option<Turn<'a>> {
        let turn = Turn(under_way);
        // Counted before it is judged, so that the drop of a refused one gives it back.
        (under_way.fetch_add(1, Ordering::AcqRel) < most).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_under_way_are_bounded() {
        let under_way = AtomicUsize::new(0);
        let first = Turn::take(&under_way, 2);
        let second = Turn::take(&under_way, 2);
        assert!(first.is_some() && second.is_some() && Turn::take(&under_way, 2).is_none());
        drop(first);
        assert!(Turn::take(&under_way, 2).is_some());
    }

    #[test]
    fn failures_are_told_apart() {
        let cases = [
            (Error::NoCertificatesPresented, Handshake::NoCertificate),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Handshake::UnknownIssuer),
            (Error::InvalidCertificate(CertificateError::Expired), Handshake::Expired),
            (Error::InvalidCertificate(CertificateError::Revoked), Handshake::Revoked),
            (Error::InvalidCertificate(CertificateError::BadEncoding), Handshake::BadCertificate),
            (Error::NoApplicationProtocol, Handshake::NothingInCommon),
        ];
        for (error, expected) in cases {
            assert_eq!(judge(&io::Error::other(error)), expected);
        }
        assert_eq!(judge(&io::ErrorKind::UnexpectedEof.into()), Handshake::Closed);
    }
}
