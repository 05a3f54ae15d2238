//! What one replica says to another about a client and its request.

use super::caller::{read_address, read_identity, write_address, write_identity};
use crate::identify::Source;
use crate::sealing::{Binding, CallerKey, Home, Purpose, Reader, Token, Writer};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Credentials, ServerId, Upstream, VirtualServer};
use portunus_filters::Identity;
use ring::digest::{Context, SHA256, digest};
use std::sync::Arc;
use std::time::Duration;

/// For how long an assertion may be used, and how far the clocks of replicas may be apart.
pub(super) const VALID: Duration = Duration::from_secs(30);

/// Headers that decide what a request is and whose it is.
const DECISIVE: [HeaderName; 7] = [
    HOST,
    CONTENT_TYPE,
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
    HeaderName::from_static("mcp-name"),
    HeaderName::from_static("last-event-id"),
];

/// Headers by which a client shows who it is. No head between replicas has them: the listener for peers
/// is one that more may reach than hold the keys by which an assertion is opened.
pub(super) const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, COOKIE];

/// A sealed statement of the replica that a request came in at, for one other to use once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Who says so.
    pub from: Home,
    /// Which run of the addressee it is for.
    pub boot: u32,
    /// When it was said, in seconds since the Unix epoch.
    pub issued: u64,
    /// Counts what this run has sent to the addressee.
    pub number: u64,
    /// A digest of the head of the request.
    pub head: [u8; 32],
    /// What the addressee is to take over.
    pub relayed: Relayed,
}

/// What was found out about a request where it came in, and holds where it is served.
///
/// A request that has it was charged and admitted there, and is never relayed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Name of the listener that it came in by.
    pub listener: Arc<str>,
    /// The virtual server that it was resolved to.
    pub server: ServerId,
    /// The client's address, and whether a trusted proxy is before it.
    pub source: Source,
    /// The client's connection is under TLS.
    pub secure: bool,
    /// Who calls.
    pub identity: Identity,
    /// The id under which it is logged and answered.
    pub request_id: Arc<str>,
    /// SHA-256 of its body.
    pub body: [u8; 32],
    /// What its client showed, where a server gets that: else the identity says it all.
    pub credentials: Vec<(HeaderName, HeaderValue)>,
}

impl Relayed {
    /// What of a client's credentials another replica needs to serve it: nothing, unless a server is
    /// shown them as they are.
    pub fn credentials_for(server: &VirtualServer, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let passes = |upstream: &Arc<Upstream>| matches!(upstream.credentials, Credentials::Passthrough);
        if !server.upstreams.iter().any(passes) {
            return Vec::new();
        }
        let shown = CREDENTIALS.into_iter().flat_map(|name| {
            let values = headers.get_all(&name).iter();
            values.map(|value| (name.clone(), value.clone())).collect::<Vec<_>>()
        });
        shown.collect()
    }

    /// Puts the credentials back to where they were in the client's own head.
    pub fn restore(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.credentials {
            headers.append(name, value.clone());
        }
    }

    /// Whether this is the body that was asserted.
    pub fn covers(&self, body: &[u8]) -> bool {
        self.body == sha256(body)
    }

    /// What stands for a body.
    pub fn digest(body: &[u8]) -> [u8; 32] {
        sha256(body)
    }

    fn write(&self, out: &mut Writer) {
        out.text(&self.listener);
        out.text(&self.server.0);
        out.flag(self.source.behind_proxy);
        write_address(out, self.source.client);
        out.flag(self.secure);
        write_identity(out, &self.identity);
        out.text(&self.request_id);
        out.bytes(&self.body);
        out.list(&self.credentials, |out, (name, value)| {
            out.short(name.as_str());
            // Values beyond ASCII are no credentials that anybody makes.
            out.text(value.to_str().unwrap_or_default());
        });
    }

    fn read(from: &mut Reader<'_>) -> Option<Relayed> {
        let (listener, server) = (from.text()?.into(), ServerId(from.text()?.into()));
        let (behind_proxy, client) = (from.flag()?, read_address(from)?);
        Some(Relayed {
            listener,
            server,
            source: Source { client, behind_proxy },
            secure: from.flag()?,
            identity: read_identity(from)?,
            request_id: from.text()?.into(),
            body: from.array()?,
            credentials: from.list(|from| {
                let name = HeaderName::from_bytes(from.short()?.as_bytes()).ok()?;
                let value = HeaderValue::from_str(from.text()?).ok()?;
                CREDENTIALS.contains(&name).then_some((name, value))
            })?,
        })
    }
}

impl Token for Assertion {
    const PURPOSE: Purpose = Purpose::Peer;
    const FORM: u8 = 3;

    fn write(&self, out: &mut Writer) {
        self.from.write(out);
        out.bytes(&self.boot.to_be_bytes());
        out.number(self.issued);
        out.number(self.number);
        out.bytes(&self.head);
        self.relayed.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Assertion> {
        Some(Assertion {
            from: Home::read(from)?,
            boot: from.array().map(u32::from_be_bytes)?,
            issued: from.number()?,
            number: from.number()?,
            head: from.array()?,
            relayed: Relayed::read(from)?,
        })
    }
}

/// What is sealed for a replica opens there only.
pub(super) struct Address(ServerId);

impl Address {
    pub(super) fn of(replica: &str) -> Address {
        // No virtual server has a name without `|`.
        Address(ServerId(format!("replica {replica}").into()))
    }

    pub(super) fn binding(&self) -> Binding<'_> {
        Binding { server: &self.0, caller: CallerKey::of_replicas() }
    }
}

/// A digest of everything in a head that decides something.
pub(super) fn head_digest(head: &Parts) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    };
    add(head.method.as_str().as_bytes());
    add(target(head).as_bytes());
    for name in &DECISIVE {
        let values: Vec<&HeaderValue> = head.headers.get_all(name).iter().collect();
        add(&values.len().to_be_bytes());
        values.iter().for_each(|value| add(value.as_bytes()));
    }
    let mut whole = [0; 32];
    whole.copy_from_slice(context.finish().as_ref());
    whole
}

/// Path and query, as they stand in a request.
pub(super) fn target(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut whole = [0; 32];
    whole.copy_from_slice(digest(&SHA256, bytes).as_ref());
    whole
}
