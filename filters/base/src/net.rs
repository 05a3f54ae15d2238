//! Settings of connections, for listeners and upstreams: bounds, deadlines, versions of TLS and HTTP. Those that name
//! files, or are compiled to what a TLS handshake needs, are in the configuration.

use std::time::Duration;

/// Bounds on connections and on what comes over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections; more are refused. Default 10000.
    pub max_connections: usize,
    /// Silence between two requests of a connection. Default 75 s.
    pub idle_timeout: Duration,
    /// From the first byte of a request to the end of its header. Default 10 s.
    pub header_timeout: Duration,
    /// From the end of the header to the end of the body. Default 30 s.
    pub body_timeout: Duration,
    /// A client that takes no byte for this long is gone. Default 30 s.
    pub write_timeout: Duration,
    /// Size of a request's header. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Number of a request's header fields. Default 128.
    pub max_headers: usize,
    /// Size of a request's body. Default 4 MiB.
    pub max_body_bytes: usize,
    /// HTTP/2 streams of one connection at once. Default 100.
    pub max_streams: usize,
    /// A connection takes no new requests when it is this old. Default 1 h.
    pub max_connection_age: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            max_connections: 10_000,
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_header_bytes: 64 << 10,
            max_headers: 128,
            max_body_bytes: 4 << 20,
            max_streams: 100,
            max_connection_age: Duration::from_secs(3600),
        }
    }
}

/// The times that an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept a connection. Default 5 s.
    pub connect: Duration,
    /// From the end of the request to the first byte of the answer. Default 60 s.
    pub first_byte: Duration,
    /// Between two bytes of a stream. Default 300 s.
    pub idle: Duration,
    /// A whole call; never applied to GET streams and `subscriptions/listen`. Default 10 min.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
            total: Some(Duration::from_secs(600)),
        }
    }
}

/// The number of connections that an upstream is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections kept. Default 64.
    pub max_idle: usize,
    /// Idle connections are closed after this. Default 4 s: Node and uvicorn close theirs at 5 s.
    pub idle_timeout: Duration,
    /// Connections for calls at once, idle ones not counted. Default 1024.
    pub max_connections: usize,
    /// Connections for streams without an end of their own, beside those for calls: clients that
    /// listen must not keep others from calling. Default 4096.
    pub max_streams: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { max_idle: 64, idle_timeout: Duration::from_secs(4), max_connections: 1024, max_streams: 4096 }
    }
}

/// The version of HTTP that an upstream is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    One,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113 §3.3).
    Two,
    /// The version that the TLS handshake agrees on (ALPN).
    Auto,
}

/// The answer to a client that comes without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificateMode {
    /// The handshake fails.
    #[default]
    Required,
    /// It may come; a certificate that it shows must be valid all the same.
    Optional,
}

/// Oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// The version as written in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }
    }
}

/// The answer to a client that names (SNI, RFC 6066 §3) no host of ours, or none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownSni {
    /// The first certificate.
    #[default]
    Default,
    /// A failed handshake.
    Refuse,
}
