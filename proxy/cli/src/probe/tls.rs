//! What a handshake showed: version, protocol, and the certificate of the server.

use chrono::DateTime;
use portunus::backend::upstreams::tls::TlsFault;
use portunus_base::text;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ProtocolVersion;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that ends sooner should be renewed by now.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What was agreed on and shown in safe words, and what to do about it.
pub(super) fn seen(stream: &TlsStream<TcpStream>, now: Duration) -> (String, Vec<String>) {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let protocol = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let protocol = protocol.map_or("no ALPN".to_owned(), |name| format!("ALPN {}", text::json(&name)));
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let (shown, hints) = match certificate.map(|der| described(der, now)) {
        Some((shown, hints)) => (format!(", {shown}"), hints),
        None => (String::new(), Vec::new()),
    };
    (format!("{version}, {protocol}{shown}"), hints)
}

/// What to do when there was no handshake.
pub(super) fn mend(fault: &TlsFault) -> &'static str {
    match fault {
        TlsFault::Untrusted(_) => {
            "trust its authority with `--ca FILE` (`tls.ca` of an upstream), or mend the certificate of the server"
        }
        TlsFault::Failed(_) => {
            "look at the TLS settings of the server; if the port speaks plain HTTP, the URL begins with `http://`"
        }
    }
}

fn described(der: &[u8], now: Duration) -> (String, Vec<String>) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return ("a certificate that cannot be read".to_owned(), Vec::new());
    };
    let end = certificate.validity().not_after.timestamp();
    let day = DateTime::from_timestamp(end, 0).map(|end| end.format("%Y-%m-%d").to_string());
    let shown = format!(
        "certificate of {} by {}, to {}",
        text::json(&certificate.subject().to_string()),
        text::json(&certificate.issuer().to_string()),
        day.unwrap_or_default()
    );
    let left = Duration::from_secs(u64::try_from(end).unwrap_or(0)).saturating_sub(now);
    let hint = || format!("the certificate expires in {} days: renew it", left.as_secs() / 86_400);
    (shown, (left < SOON).then(hint).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon_is_told_of() {
        let mut params = rcgen::CertificateParams::new(vec!["a.internal".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a\u{1b}[31m");
        params.not_after = rcgen::date_time_ymd(2030, 1, 15);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let day = |number: u64| Duration::from_secs(1_893_456_000 + (number - 1) * 86_400);
        let (shown, hints) = described(certificate.der(), day(1));
        assert!(hints.is_empty(), "{hints:?}");
        assert!(shown.contains(r"a\u001b[31m") && shown.ends_with("to 2030-01-15"), "{shown}");
        assert_eq!(described(certificate.der(), day(10)).1, ["the certificate expires in 5 days: renew it"]);
    }
}
