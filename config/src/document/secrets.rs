//! `secrets`, references to credentials, and lists of hosts.

use crate::diagnostic::Located;
use crate::reader::{Section, Value};
use crate::reference::Reference;
use portunus_base::HostPattern;
use portunus_base::{Scheme, UpstreamUrl};
use std::fmt;

/// A named secret and the hosts it may go to.
#[derive(Clone, Debug)]
pub struct SecretDocument {
    /// Its key.
    pub name: Located<String>,
    /// `from`; `None` if it could not be read.
    pub from: Option<Located<Reference>>,
    /// `hosts`.
    pub hosts: Vec<SecretHost>,
}

/// A host that a secret may go to: over TLS, unless it says `http://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHost {
    host: HostPattern,
    plain: bool,
}

impl SecretHost {
    fn parse(text: &str) -> Result<SecretHost, &'static str> {
        let (plain, host) = match text.strip_prefix("http://") {
            Some(host) => (true, host),
            None => (false, text.strip_prefix("https://").unwrap_or(text)),
        };
        Ok(SecretHost { host: HostPattern::parse(host)?, plain })
    }

    /// Whether the host and port of `url` are meant, by whatever scheme.
    pub fn names(&self, url: &UpstreamUrl) -> bool {
        self.host.covers(&url.host.bare(), url.port)
    }

    /// Whether the secret may go to `url`: nobody but this machine may see it on its way.
    pub fn covers(&self, url: &UpstreamUrl) -> bool {
        let unseen = url.scheme == Scheme::Https || url.host.own_grant().loopback;
        self.names(url) && (unseen || self.plain)
    }
}

impl fmt::Display for SecretHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.plain { "http://" } else { "" }, self.host)
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<SecretDocument> {
    let Some(value) = section.value("secrets") else { return vec![] };
    let secret = |(name, value): (Located<String>, Value<'_>)| {
        let (from, hosts) = value.section(|section| {
            let from = section.required("from", Reference::FORMS).and_then(|value| source(&value));
            let hint = "name the hosts that this secret may be sent to";
            (from, section.required("hosts", hint).map(|value| secret_hosts(&value)).unwrap_or_default())
        })?;
        Some(SecretDocument { name, from, hosts })
    };
    value.entries().into_iter().filter_map(secret).collect()
}

/// A reference to a credential. Anything else may be the credential itself and is not shown.
pub(super) fn reference(value: &Value<'_>) -> Option<Located<Reference>> {
    let reference = value.as_text().and_then(Reference::parse);
    if reference.is_none() {
        value.error("a reference to a secret should stand here, and what does is none", Reference::FORMS);
    }
    reference.map(|reference| Located { value: reference, place: value.place() })
}

/// One or more host patterns.
pub(super) fn hosts(value: &Value<'_>) -> Vec<HostPattern> {
    let hint = "write `api.example.com`, `*.example.com`, `10.0.0.1` or `[::1]`, with `:port` if it matters";
    listed(value, hint, HostPattern::parse)
}

fn secret_hosts(value: &Value<'_>) -> Vec<SecretHost> {
    let hint = "write `api.example.com`, `*.example.com` or `10.0.0.1`, with `:port` if it matters, and with \
                `http://` before it if the secret may go there without TLS";
    listed(value, hint, SecretHost::parse)
}

fn listed<T>(value: &Value<'_>, hint: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Vec<T> {
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("the list is empty", "name a host, or remove the key");
    }
    items.iter().filter_map(|item| item.parsed(hint, &parse)).map(|host| host.value).collect()
}

/// What a named secret is read from; a name of another secret is none.
fn source(value: &Value<'_>) -> Option<Located<Reference>> {
    let reference = reference(value)?;
    if matches!(reference.value, Reference::Named(_)) {
        value.error("a secret cannot refer to another", "write `env:NAME` or `file:/path`");
        return None;
    }
    Some(reference)
}
