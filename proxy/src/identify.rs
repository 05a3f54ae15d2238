//! Finds out who calls.
//!
//! The client's address is the right-most hop that is not a trusted proxy; what anybody else says
//! about it is dropped. What a client shows as a credential becomes a keyed digest that keeps
//! callers apart and allows nothing, until [`authenticate`] has verified it where an endpoint asks
//! for that.

mod challenge;
mod connection_state;
mod credential;
mod facade;
mod fetch;
pub mod inspect;
pub mod interner;
pub mod keys;
mod resource;
mod stage;
mod stream_authorization;
pub mod tokens;

pub use challenge::{Refusal, for_more};
pub use connection_state::ConnectionState;
pub(crate) use connection_state::Recalled;
pub(crate) use credential::strip;
pub(crate) use facade::{MAX_REGISTRATION_BYTES, metadata, registered};
pub use inspect::Trouble;
pub use keys::KeyStatus;
pub(crate) use resource::{WellKnown, resource};
pub use stage::{Shown, authenticate};
pub use stream_authorization::{StreamAuthorization, ended};

use http::header::{AUTHORIZATION, FORWARDED};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use portunus_config::{ForwardedBy, Snapshot};
use portunus_filters::Identity;
use portunus_filters::identity::{Digest, Verified};
use ring::hmac;
use std::net::IpAddr;
use std::sync::Arc;

/// What is known of callers, and of who vouches for them; it outlives snapshots.
pub struct Callers {
    /// Tokens that were verified.
    pub tokens: tokens::Tokens,
    /// Numbers of principals.
    pub principals: interner::Interner,
    /// Keys of issuers.
    pub keys: keys::KeySlots,
    /// Issuers that are asked.
    pub inspectors: inspect::Inspectors,
    /// What providers say of themselves.
    pub(crate) providers: facade::Providers,
}

impl Default for Callers {
    fn default() -> Callers {
        Callers {
            tokens: tokens::Tokens::default(),
            principals: interner::Interner::new(interner::MAX_PRINCIPALS),
            keys: keys::KeySlots::default(),
            inspectors: inspect::Inspectors::default(),
            providers: facade::Providers::default(),
        }
    }
}

impl Callers {
    /// Makes the tables fit `snapshot`.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        self.keys.reconcile(snapshot);
        self.inspectors.reconcile(snapshot);
    }

    /// What was verified, with the number of whom it names.
    fn numbered(&self, mut verified: Verified) -> Verified {
        let principal = Arc::make_mut(&mut verified.principal);
        principal.index = self.principals.number(principal);
        verified
    }

    /// Sizes of the tables, by name.
    pub fn sizes(&self) -> [(&'static str, usize); 3] {
        let (verified, refused) = self.tokens.len();
        [("tokens", verified), ("tokens_refused", refused), ("principals", self.principals.count())]
    }
}

/// Names callers by what they show.
pub struct Identifier {
    key: hmac::Key,
}

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The client.
    pub client: IpAddr,
    /// Whether `X-Forwarded-Host` and `X-Forwarded-Proto` are those of a proxy that is trusted to say so.
    pub behind_proxy: bool,
}

impl Identifier {
    /// One that digests credentials under `key`.
    pub fn new(key: hmac::Key) -> Identifier {
        Identifier { key }
    }

    /// The caller, from what it shows on its connection.
    pub fn identity(
        &self,
        headers: &HeaderMap,
        source: IpAddr,
        connection_state: &ConnectionState,
    ) -> Identity {
        match headers.get(AUTHORIZATION) {
            Some(shown) => Identity::Presented { digest: self.shown(shown, connection_state) },
            None => Identity::Anonymous { source },
        }
    }

    /// The digest of a field that was shown on a connection.
    pub fn shown(&self, field: &HeaderValue, connection_state: &ConnectionState) -> Digest {
        connection_state.digest(field, |field| self.digest(field))
    }

    fn digest(&self, shown: &HeaderValue) -> Digest {
        let tag = hmac::sign(&self.key, shown.as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&tag.as_ref()[..16]);
        Digest(digest)
    }
}

/// The client behind `peer`, by the hops that trusted proxies added to the one header that is read.
pub fn source(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet], by: ForwardedBy) -> Source {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    let peer = peer.to_canonical();
    if !is_trusted(&peer) {
        return Source { client: peer, behind_proxy: false };
    }
    let hops = match by {
        ForwardedBy::XForwardedFor => elements(headers, "x-forwarded-for"),
        ForwardedBy::Forwarded => forwarded_for(headers),
    };
    let client = right_most_untrusted(peer, &hops, &is_trusted);
    Source { client, behind_proxy: by == ForwardedBy::XForwardedFor }
}

/// Walks from the peer towards the client, as long as hops are trusted.
fn right_most_untrusted(peer: IpAddr, hops: &[String], is_trusted: &dyn Fn(&IpAddr) -> bool) -> IpAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        // A hop that cannot be read ends the chain: what lies behind it is hearsay.
        let Some(ip) = address(hop) else { break };
        client = ip;
        if !is_trusted(&ip) {
            break;
        }
    }
    client
}

/// The elements of a header, in the order in which they were added. A value that is no text is an element
/// that nobody can read, and not none: it ends the chain.
fn elements(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    values.flat_map(|value| value.split(',')).map(|hop| hop.trim().to_owned()).collect()
}

/// The hops of `Forwarded` (RFC 7239), in the order in which they were added. An element that names two
/// has none: one of them may be what the client sent as its `Host`.
fn forwarded_for(headers: &HeaderMap) -> Vec<String> {
    let node = |element: &String| {
        let mut nodes = element.split(';').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"').to_owned())
        });
        nodes.next().filter(|_| nodes.next().is_none()).unwrap_or_default()
    };
    elements(headers, FORWARDED.as_str()).iter().map(node).collect()
}

/// An address with or without brackets and port.
fn address(hop: &str) -> Option<IpAddr> {
    let bracketed = hop.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let bare =
        bracketed.or_else(|| hop.split_once(':').filter(|(_, port)| !port.contains(':')).map(|(ip, _)| ip));
    bare.unwrap_or(hop).parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Phases;
    use http::HeaderName;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn identifier(key: &[u8]) -> Identifier {
        Identifier::new(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[test]
    fn the_client_is_the_right_most_hop_that_is_not_trusted() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let xff = |value| headers(&[("x-forwarded-for", value)]);
        let forwarded = |value| headers(&[("forwarded", value)]);
        let both = |one, other| headers(&[("x-forwarded-for", one), ("forwarded", other)]);
        let cases = [
            ("stranger's claim", "203.0.113.7", xff("1.2.3.4"), "203.0.113.7"),
            ("one proxy", "10.0.0.1", xff("198.51.100.9"), "198.51.100.9"),
            ("two proxies", "10.0.0.1", xff("198.51.100.9, 10.0.0.2"), "198.51.100.9"),
            ("forged left part", "10.0.0.1", xff("6.6.6.6, 198.51.100.9"), "198.51.100.9"),
            ("all trusted", "10.0.0.1", xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
            ("unreadable hop", "10.0.0.1", xff("198.51.100.9, unknown, 10.0.0.2"), "10.0.0.2"),
            ("with a port", "10.0.0.1", xff("198.51.100.9:4711"), "198.51.100.9"),
            ("beside the other header", "10.0.0.1", both("198.51.100.9", "x"), "198.51.100.9"),
            ("the other header alone", "10.0.0.1", forwarded("for=198.51.100.9"), "10.0.0.1"),
            ("no header", "10.0.0.1", HeaderMap::new(), "10.0.0.1"),
            ("mapped peer", "::ffff:10.0.0.1", xff("198.51.100.9"), "198.51.100.9"),
        ];
        for (name, peer, headers, expected) in cases {
            let found = source(peer.parse().unwrap(), &headers, &trusted, ForwardedBy::XForwardedFor);
            assert_eq!(found.client, expected.parse::<IpAddr>().unwrap(), "{name}");
            assert_eq!(found.behind_proxy, name != "stranger's claim", "{name}");
        }
        let cases = [
            ("elements", forwarded("for=198.51.100.9;proto=https, for=\"[::1]\""), "198.51.100.9"),
            ("IPv6 with a port", forwarded("For=\"[2001:db8::7]:99\""), "2001:db8::7"),
            ("forged left part", forwarded("for=6.6.6.6, for=198.51.100.9"), "198.51.100.9"),
            ("forged open quote", forwarded("for=\"6.6.6.6, for=198.51.100.9"), "198.51.100.9"),
            ("a host that says more", forwarded("host=\"a;for=6.6.6.6\";for=198.51.100.9"), "10.0.0.1"),
            ("beside the other header", both("6.6.6.6", "for=198.51.100.9"), "198.51.100.9"),
            ("the other header alone", xff("6.6.6.6"), "10.0.0.1"),
        ];
        for (name, headers, expected) in cases {
            let found = source("10.0.0.1".parse().unwrap(), &headers, &trusted, ForwardedBy::Forwarded);
            let client = expected.parse::<IpAddr>().unwrap();
            assert_eq!(found, Source { client, behind_proxy: false }, "{name}");
        }
    }

    #[test]
    fn a_credential_becomes_a_digest_that_only_who_has_the_key_knows() {
        let shown = headers(&[("authorization", "Bearer secret-token")]);
        let ip: IpAddr = "::1".parse().unwrap();
        let by = |key: &[u8], shown: &HeaderMap| {
            identifier(key).identity(shown, ip, &ConnectionState::new(Phases::default()))
        };
        assert_eq!(by(b"key", &shown), by(b"key", &shown));
        assert_ne!(by(b"key", &shown), by(b"another", &shown));
        assert!(!format!("{:?}", by(b"key", &shown)).contains("secret"));
        assert_eq!(by(b"key", &HeaderMap::new()), Identity::Anonymous { source: ip });
    }

    #[test]
    fn a_connection_remembers_the_digest_of_what_was_last_shown_on_it_and_no_other() {
        let (identifier, connection_state) = (identifier(b"key"), ConnectionState::new(Phases::default()));
        let ip: IpAddr = "::1".parse().unwrap();
        for shown in ["Bearer one", "Bearer one", "Bearer two", "Bearer one"] {
            let shown = headers(&[("authorization", shown)]);
            let alone = identifier.identity(&shown, ip, &ConnectionState::new(Phases::default()));
            assert_eq!(identifier.identity(&shown, ip, &connection_state), alone);
        }
    }
}
