//! What a process is: the half of the configuration that needs a restart to change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::peers::{Peers, ReplicaId, Sealing};
use crate::tls::ListenerTls;
use portunus_base::{ConnectionLimits, HostPattern, OriginRule};

/// Everything a process is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Where MCP clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// `/livez /readyz /metrics`; `None` serves none.
    pub telemetry: Option<SocketAddr>,
    /// `/status /config /refusals`, always on loopback; `None` serves none.
    pub admin: Option<SocketAddr>,
    /// Unix socket of the commands that change state; default `<state>/control.sock`.
    pub control: PathBuf,
    /// Worker threads; default: what the machine offers.
    pub threads: usize,
    /// Folder of what outlives the process; default `./.portunus`.
    pub state: PathBuf,
    /// How the process ends.
    pub drain: Drain,
    /// The process's own log.
    pub log: LogSettings,
    /// Where one line per message goes.
    pub access_log: AccessLog,
    /// Name of this process among its peers; `None`: it has none and makes one up when it starts.
    pub replica: Option<ReplicaId>,
    /// What seals ids and states that clients keep.
    pub sealing: Sealing,
    /// The other replicas; `None`: this process is the only one.
    pub peers: Option<Peers>,
}

impl Bootstrap {
    /// Keys, named as in the document, in which `new` differs: they take effect at the next start.
    ///
    /// Everything else of a configuration is in the snapshot and swaps live.
    pub fn restart_needed(&self, new: &Bootstrap) -> Vec<&'static str> {
        let changed = [
            ("listen", self.listeners_changed(new)),
            ("telemetry", self.telemetry != new.telemetry),
            ("admin", self.admin != new.admin),
            ("control", self.control != new.control),
            ("threads", self.threads != new.threads),
            ("state", self.state != new.state),
            ("drain", self.drain != new.drain),
            ("log", self.log != new.log),
            ("access_log", self.access_log != new.access_log),
            ("replica", self.replica != new.replica),
            ("sealing", self.sealing != new.sealing),
            ("peers", self.peers_changed(new)),
        ];
        changed.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// How the listener of that name, that for peers included, speaks TLS: what a reload brings to
    /// one that is running.
    pub fn listener_tls(&self, name: &str) -> Option<&ListenerTls> {
        let for_peers = self.peers.as_ref().map(|peers| &peers.listener);
        self.listeners.iter().chain(for_peers).find(|listener| *listener.name == *name)?.tls.as_ref()
    }

    fn peers_changed(&self, new: &Bootstrap) -> bool {
        match (&self.peers, &new.peers) {
            (Some(old), Some(new)) => old.restart_needed(new),
            (old, new) => old.is_some() != new.is_some(),
        }
    }

    fn listeners_changed(&self, new: &Bootstrap) -> bool {
        self.listeners.len() != new.listeners.len()
            || self.listeners.iter().zip(&new.listeners).any(|(old, new)| old.restart_needed(new))
    }
}

/// One address that MCP clients connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Name in logs, metrics and policy input; unique.
    pub name: Arc<str>,
    /// Address; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Accepted `Host` values; `None` accepts any.
    pub hosts: Option<Vec<HostPattern>>,
    /// Accepted `Origin` values.
    pub origins: OriginRule,
    /// Proxies that may speak for others: by forwarding headers, or by PROXY protocol headers where
    /// connections begin with these.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose forwarding headers are believed: `trusted_proxies`, or behind PROXY protocol headers a list of
    /// its own.
    pub forwarded_from: Vec<IpNet>,
    /// The header that names the hops; the other one is not read.
    pub forwarded_by: ForwardedBy,
    /// Bounds on connections and on what comes over them.
    pub limits: ConnectionLimits,
    /// How it speaks TLS; `None` for plain TCP. What is inside swaps live.
    pub tls: Option<ListenerTls>,
    /// HTTP/2 beside HTTP/1.1: by ALPN with TLS, by prior knowledge (RFC 9113 §3.3) without.
    pub http2: bool,
    /// Connections begin with a PROXY protocol header, version 2; only trusted proxies connect.
    pub proxy_protocol: bool,
}

impl Listener {
    /// Whether `new` needs a restart. What is inside `tls` does not.
    pub(crate) fn restart_needed(&self, new: &Listener) -> bool {
        let fixed = |listener: &Listener| Listener { tls: None, ..listener.clone() };
        self.tls.is_some() != new.tls.is_some() || fixed(self) != fixed(new)
    }
}

/// The header by which proxies say for whom they forward. A proxy that writes one passes the other on as
/// the client forged it, so only one is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ForwardedBy {
    /// Each with its name in a document.
    pub const NAMES: [(&'static str, ForwardedBy); 2] =
        [("x-forwarded-for", ForwardedBy::XForwardedFor), ("forwarded", ForwardedBy::Forwarded)];

    /// The name in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            ForwardedBy::XForwardedFor => "x-forwarded-for",
            ForwardedBy::Forwarded => "forwarded",
        }
    }
}

/// How a process ends after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Calls and streams still open after this are cut. Default 30 s.
    pub deadline: Duration,
    /// Connections are still accepted for this long after readiness went false. Default 0 s.
    pub delay: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Drain { deadline: Duration::from_secs(30), delay: Duration::ZERO }
    }
}

/// The process's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Least severe line that is written.
    pub level: LogLevel,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Least severe log line that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Degraded but serving.
    Warn,
    /// The life of the process and bundle revisions.
    #[default]
    Info,
    /// One line a call.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level, as written in a document.
    pub const NAMES: [(&'static str, LogLevel); 5] = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];

    /// The level as written in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where one line per message goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap() -> Bootstrap {
        Bootstrap {
            listeners: vec![],
            telemetry: None,
            admin: None,
            control: "c".into(),
            threads: 1,
            state: "s".into(),
            drain: Drain::default(),
            log: LogSettings::default(),
            access_log: AccessLog::default(),
            replica: None,
            sealing: Sealing::default(),
            peers: None,
        }
    }

    #[test]
    fn each_changed_key_is_named() {
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        let drain = Drain { delay: Duration::from_secs(1), ..Drain::default() };
        let log = LogSettings { level: LogLevel::Debug, ..LogSettings::default() };
        let table: [(&[&str], Bootstrap); 9] = [
            (&[], bootstrap()),
            (&["telemetry"], Bootstrap { telemetry: address, ..bootstrap() }),
            (&["admin"], Bootstrap { admin: address, ..bootstrap() }),
            (&["control"], Bootstrap { control: "d".into(), ..bootstrap() }),
            (&["threads"], Bootstrap { threads: 2, ..bootstrap() }),
            (&["state"], Bootstrap { state: "t".into(), ..bootstrap() }),
            (&["drain"], Bootstrap { drain, ..bootstrap() }),
            (&["log"], Bootstrap { log, ..bootstrap() }),
            (&["access_log"], Bootstrap { access_log: AccessLog::Off, ..bootstrap() }),
        ];
        for (expected, new) in table {
            assert_eq!(bootstrap().restart_needed(&new), expected);
        }
    }

    #[test]
    fn a_listener_swaps_only_what_is_inside_its_tls() {
        use crate::tls::testing::{Authority, files, loaded};
        let pair = Authority::new("root").issue(&["gw.example.com"]);
        let bootstrap = |listener: &str| {
            let text = format!(
                "version: 1\nlisteners: [{{bind: '127.0.0.1:1', {listener}}}]\n\
                 upstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\n"
            );
            loaded(&files(&[("gateway.yaml", &text), ("c", &pair.chain), ("k", &pair.key)])).bootstrap
        };
        let [plain, h2c] = ["", "http2: true"].map(bootstrap);
        let tls = bootstrap("tls: {certificates: {certificate: c, key: k}}");
        let strict = bootstrap(
            "tls: {certificates: {certificate: c, key: k}, min: 1.3, unknown_sni: refuse, \
             handshake_timeout: 1s, max_handshakes: 7}",
        );
        let table = [
            ("the same", &tls, bootstrap("tls: {certificates: {certificate: c, key: k}}"), false),
            ("inside", &tls, strict.clone(), false),
            ("TLS comes", &h2c, tls.clone(), true),
            ("TLS goes", &tls, h2c.clone(), true),
            ("h2c", &plain, h2c.clone(), true),
            ("another limit", &plain, bootstrap("limits: {max_streams: 7}"), true),
        ];
        for (name, old, new, restart) in table {
            let expected: &[&str] = if restart { &["listen"] } else { &[] };
            assert_eq!(old.restart_needed(&new), expected, "{name}");
        }
        let inside = strict.listener_tls("main").unwrap();
        assert_eq!((inside.handshake_timeout, inside.max_handshakes), (Duration::from_secs(1), 7));
        assert_ne!(Some(inside), tls.listener_tls("main"));
        assert!(plain.listener_tls("main").is_none() && tls.listener_tls("other").is_none());
    }

    #[test]
    fn level_names_agree_both_ways() {
        for (name, level) in LogLevel::NAMES {
            assert_eq!(level.as_str(), name);
        }
    }
}
