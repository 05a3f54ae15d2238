//! Several places behind one upstream's name: how their health is found out.

use std::time::Duration;

use crate::tls::UpstreamTls;
use crate::upstream::Upstream;
use crate::upstream_mark::UpstreamMark;
use portunus_base::{Host, UpstreamUrl};
use rustls::pki_types::ServerName;

/// Most replicas of one upstream, the first included.
pub(crate) const MAX_REPLICAS: usize = 100;

/// Probes of an upstream's replicas that do not wait for calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// From one probe to the next. Default 30 s.
    pub interval: Duration,
    /// A probe that takes longer has failed; never longer than `interval`. Default 5 s.
    pub timeout: Duration,
    /// Probes that fail in a row until a replica gets no calls. Default 3.
    pub unhealthy_after: usize,
}

impl Default for Health {
    fn default() -> Self {
        Health { interval: Duration::from_secs(30), timeout: Duration::from_secs(5), unhealthy_after: 3 }
    }
}

/// When a replica that fails calls gets no more of them for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Calls that fail in a row. Default 5.
    pub after: usize,
    /// For how long the first time; each time in a row it is longer. Default 10 s.
    pub base: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection { after: 5, base: Duration::from_secs(10) }
    }
}

impl Upstream {
    /// Every place it is at, the first one first; at least one.
    pub fn urls(&self) -> impl Iterator<Item = &UpstreamUrl> {
        std::iter::once(&self.url).chain(&self.replicas)
    }

    /// The same upstream as if it were at `url` alone, for the connections to that replica.
    pub fn at(&self, url: &UpstreamUrl) -> Upstream {
        Upstream {
            key: self.settings_key.at(url),
            mark: UpstreamMark::of(&self.name, url),
            url: url.clone(),
            replicas: vec![],
            tls: self.tls.as_ref().map(|tls| tls.at(&url.host)),
            ..self.clone()
        }
    }
}

impl UpstreamTls {
    /// How the same upstream is spoken to at another host: a name that the document gives stays.
    fn at(&self, host: &Host) -> UpstreamTls {
        let named = self.settings.server_name.is_some();
        let name = if named { None } else { ServerName::try_from(host.bare()).ok() };
        UpstreamTls { server_name: name.unwrap_or_else(|| self.server_name.clone()), ..self.clone() }
    }
}
