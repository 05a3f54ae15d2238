//! TLS towards upstreams: the handshake, and why it failed in words an operator can act on.

use portunus_base::PinMismatch;
use portunus_config::UpstreamTls;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// Why there is no TLS.
#[derive(Debug)]
pub enum TlsFault {
    /// The upstream did not prove that it is who the configuration names.
    Untrusted(String),
    /// The handshake failed for another reason.
    Failed(String),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::Untrusted(why) => write!(f, "the server's certificate is refused: {why}"),
            TlsFault::Failed(why) => write!(f, "the TLS handshake failed: {why}"),
        }
    }
}

/// Speaks TLS on a connected socket.
///
/// # Errors
/// [`TlsFault`].
pub async fn secure(stream: TcpStream, tls: &UpstreamTls) -> Result<TlsStream<TcpStream>, TlsFault> {
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    connector.connect(tls.server_name.clone(), stream).await.map_err(|error| fault(&error))
}

fn fault(error: &io::Error) -> TlsFault {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return TlsFault::Failed(error.to_string());
    };
    if let Some(mismatch) = pin_mismatch(cause) {
        return TlsFault::Untrusted(format!("{mismatch} (`tls.pins`)"));
    }
    match cause {
        Error::InvalidCertificate(problem) => TlsFault::Untrusted(in_words(problem)),
        Error::AlertReceived(alert) => TlsFault::Failed(complaint(*alert)),
        Error::InvalidMessage(_) => TlsFault::Failed("what answers does not speak TLS".to_owned()),
        other => TlsFault::Failed(other.to_string()),
    }
}

/// The mismatch behind a failed handshake, if there is one.
fn pin_mismatch(error: &Error) -> Option<&PinMismatch> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

fn in_words(problem: &CertificateError) -> String {
    let text = match problem {
        CertificateError::UnknownIssuer => "it was issued by nobody who is trusted here (`tls.ca`)",
        CertificateError::BadSignature => {
            "the authority of that name in `tls.ca` has not signed it: another key, or a forgery"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::Revoked => "it was revoked",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name (`tls.server_name`)"
        }
        other => return other.to_string(),
    };
    text.to_owned()
}

fn complaint(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::CertificateRequired => "the server wants a client certificate (`tls.certificate`)",
        AlertDescription::UnknownCA | AlertDescription::BadCertificate => {
            "the server does not accept our certificate (`tls.certificate`)"
        }
        AlertDescription::ProtocolVersion => "no TLS version in common (`tls.min`)",
        AlertDescription::NoApplicationProtocol => "no HTTP version in common (`http`)",
        AlertDescription::UnrecognisedName => "the server knows no such name (`tls.server_name`)",
        other => return format!("the server said {other:?}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_base::Pin;
    use tokio_rustls::rustls::OtherError;

    #[test]
    fn each_refusal_names_its_cause() {
        let mismatch = PinMismatch { presented: Pin([7; 32]) };
        let cases = [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "`tls.ca`", true),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "`tls.server_name`", true),
            (Error::InvalidCertificate(CertificateError::Expired), "expired", true),
            (Error::InvalidCertificate(CertificateError::Revoked), "revoked", true),
            (
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))),
                "`tls.pins`",
                true,
            ),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "`tls.certificate`", false),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), "HandshakeFailure", false),
        ];
        for (error, named, untrusted) in cases {
            let fault = fault(&io::Error::other(error));
            assert_eq!(matches!(fault, TlsFault::Untrusted(_)), untrusted, "{fault}");
            assert!(fault.to_string().contains(named), "{fault}");
        }
        assert!(matches!(fault(&io::ErrorKind::ConnectionReset.into()), TlsFault::Failed(_)));
    }
}
