//! What is measured of connections of clients.

use super::keep;
use portunus_config::Bootstrap;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What is measured of connections, before there is a message.
pub struct EdgeMetrics {
    pub(super) connections_refused: IntCounter,
    certificates: IntGaugeVec,
    /// Connections that did not begin with the PROXY protocol header that their listener asks for.
    pub proxy_headers_refused: IntCounter,
    /// TLS handshakes of clients, by listener and how they ended.
    pub handshakes: IntCounterVec,
    /// Connections that clients hold.
    pub connections: IntGauge,
}

impl EdgeMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<EdgeMetrics> {
        let handshakes =
            Opts::new("portunus_tls_handshakes_total", "TLS handshakes of clients by how they ended");
        let certificates = Opts::new(
            "portunus_certificate_not_after_timestamp_seconds",
            "Unix time at which a listener's certificate expires",
        );
        let counter = |name: &str, help: &str| keep(registry, IntCounter::new(name, help)?);
        let connections = IntGauge::new("portunus_client_connections", "Connections that clients hold")?;
        Ok(EdgeMetrics {
            connections_refused: counter("portunus_connections_refused_total", "Connections above the cap")?,
            proxy_headers_refused: counter(
                "portunus_proxy_headers_refused_total",
                "Connections without a PROXY protocol header that is trusted",
            )?,
            handshakes: keep(registry, IntCounterVec::new(handshakes, &["listener", "result"])?)?,
            certificates: keep(registry, IntGaugeVec::new(certificates, &["listener", "certificate"])?)?,
            connections: keep(registry, connections)?,
        })
    }

    /// Shows when the certificates in force expire.
    pub fn certificates(&self, bootstrap: &Bootstrap) {
        self.certificates.reset();
        for listener in &bootstrap.listeners {
            for certificate in listener.tls.iter().flat_map(|tls| &tls.certificates) {
                let name = certificate.names.first().map_or("", String::as_str);
                let expiry = i64::try_from(certificate.not_after.as_secs()).unwrap_or(i64::MAX);
                self.certificates.with_label_values(&[&*listener.name, name]).set(expiry);
            }
        }
    }
}
