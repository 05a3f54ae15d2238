//! What makes several processes one gateway: a name, keys in common, and a way to each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Keyring, tls, upstreams};
use crate::bootstrap::{ForwardedBy, Listener};
use crate::caller::CallerRules;
use crate::diagnostic::{Findings, Located};
use crate::document::{
    ClientCertificatesDocument, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES, ListenerTlsDocument,
    PeersDocument, ProcessDocument, SealingDocument, UpstreamTlsDocument,
};
use crate::files::Files;
use crate::peers::{Peers, ReplicaId, Sealing};
use crate::reference::Reference;
use crate::replicas::Ejection;
use crate::upstream::{
    Credentials, EraMode, HeaderRules, HostPolicy, SessionSharing, Transport, Upstream, UpstreamKey,
};
use crate::upstream_mark::UpstreamMark;
use portunus_base::{
    AddressGrant, ClientCertificateMode, ConnectionLimits, HttpVersion, OriginRule, Pool, Scheme, Secret,
    Timeouts, UnknownSni, UpstreamUrl,
};

/// Name of the listener for peers.
pub(super) const LISTENER: &str = "peers";

/// A replica that does not take a connection for this long is gone for the message at hand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const FORMS: &str = "write `env:NAME` or `file:/path`";

const KEY_HINT: &str = "make one with `openssl rand -base64 32`, the same on every replica";

/// The name of this process: written, or in an environment variable.
pub(super) fn replica(process: &ProcessDocument, files: &Files<'_>) -> Option<ReplicaId> {
    let Located { value: written, place } = process.replica.as_ref()?;
    let text = match Reference::parse(written) {
        Some(variable @ Reference::Variable(_)) => files.secret(&variable, place)?,
        _ => written.clone(),
    };
    let refuse = |problem| {
        let hint = "use 1 to 16 letters, digits, `.`, `_`, `-`, or `env:NAME`";
        files.findings().error(place, format!("`{text}` {problem}"), hint);
    };
    ReplicaId::parse(&text).map_err(refuse).ok()
}

/// The keys that could be read.
pub(super) fn sealing(document: Option<&SealingDocument>, files: &Files<'_>) -> Sealing {
    let mut keys: Vec<Secret> = vec![];
    for reference in document.iter().flat_map(|document| &document.keys) {
        let Some(key) = key(reference, files) else { continue };
        if keys.iter().any(|earlier| earlier.expose() == key.expose()) {
            files.findings().error(&reference.place, "this key is named twice", "keep one of them");
        }
        keys.push(key);
    }
    Sealing { keys }
}

/// The other replicas; `None` if something is wrong with how they are reached.
pub(super) fn peers(process: &ProcessDocument, own: Option<&ReplicaId>, files: &Files<'_>) -> Option<Peers> {
    let document = process.peers.as_ref()?;
    check_common(process, document, files.findings());
    check_members(document, files.findings());
    let listener = listener(document, files);
    let others = document.members.iter().filter(|(name, _)| Some(&name.value) != own);
    let other = |(name, url): &(Located<ReplicaId>, Located<UpstreamUrl>)| {
        Some((name.value.clone(), member(&name.value, url, document, files)?))
    };
    // Each is compiled before one that is wrong ends this, so that all are reported.
    let members: Vec<_> = others.map(other).collect();
    if members.is_empty() && !document.members.is_empty() {
        let problem = "no other replica is named, so none is listened for";
        files.findings().warn(
            &document.place,
            problem,
            "name the others under `members`, or remove the section",
        );
        return None;
    }
    Some(Peers { listener: listener?, members: members.into_iter().collect::<Option<BTreeMap<_, _>>>()? })
}

fn key(reference: &Located<Reference>, files: &Files<'_>) -> Option<Secret> {
    let Located { value: source, place } = reference;
    let refuse = |problem: String, hint: &str| {
        files.findings().error(place, problem, hint);
        None
    };
    match source {
        Reference::Named(_) => {
            return refuse("a named secret is for upstreams, within its hosts".to_owned(), FORMS);
        }
        Reference::Vault => return refuse("this build cannot read from `vault:`".to_owned(), FORMS),
        Reference::Variable(_) | Reference::File(_) => {}
    }
    match Secret::new(files.secret(source, place)?, source) {
        Ok(key) if key.expose().len() < Sealing::MIN_KEY_BYTES => {
            let least = Sealing::MIN_KEY_BYTES;
            refuse(format!("the key in `{source}` has fewer than {least} characters"), KEY_HINT)
        }
        Ok(key) => Some(key),
        Err(problem) => refuse(format!("the key in `{source}` {problem}"), KEY_HINT),
    }
}

/// What replicas need beside their addresses.
fn check_common(process: &ProcessDocument, document: &PeersDocument, findings: &Findings) {
    if process.replica.is_none() {
        let hint = "name this process: `replica: a`, or `replica: \"env:NAME\"`";
        findings.error(&document.place, "this process has no name among its peers", hint);
    }
    if process.sealing.is_none() {
        let problem = "without `sealing`, no replica can open what another has sealed";
        findings.error(&document.place, problem, format!("write `sealing: \"env:NAME\"`; {KEY_HINT}"));
    }
    let Some(tls) = &document.tls else { return check_loopback(document, findings) };
    if tls.ca.is_none() || tls.certificate.is_none() {
        let problem = "replicas show each other certificates, and not both sides of that are here";
        findings.error(&tls.place, problem, "write `ca`, `certificate` and `key`");
    }
}

/// Replicas believe what others say of a caller: without TLS nobody else may be able to say it.
fn check_loopback(document: &PeersDocument, findings: &Findings) {
    let hint = "write `tls: {ca: peers-ca.pem, certificate: me.pem, key: me.key}`, or use 127.0.0.1";
    if let Some(listen) =
        document.listen.as_ref().filter(|listen| !listen.value.ip().to_canonical().is_loopback())
    {
        findings.error(&listen.place, "without `tls`, replicas meet on loopback only", hint);
    }
    for (_, url) in document.members.iter().filter(|(_, url)| !url.value.host.own_grant().loopback) {
        findings.error(&url.place, "without `tls`, replicas meet on loopback only", hint);
    }
}

fn check_members(document: &PeersDocument, findings: &Findings) {
    let scheme = if document.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let mut places: BTreeMap<&str, &Located<ReplicaId>> = BTreeMap::new();
    for (name, Located { value: url, place }) in &document.members {
        upstreams::check_url(url, place, findings);
        if url.scheme != scheme {
            let problem = format!("a replica is at `{scheme}://` here");
            findings.error(place, problem, "with `tls`, all members are at `https://`; without, none");
        }
        if url.path != "/" {
            findings.error(place, "the URL of a replica has a path", "write scheme, host and port only");
        }
        if let Some(earlier) = places.insert(&url.authority, name) {
            let problem = format!("`{}` is at the same place", earlier.value);
            findings.error(place, problem, "name each replica once");
        }
    }
}

fn listener(document: &PeersDocument, files: &Files<'_>) -> Option<Listener> {
    let tls = match &document.tls {
        Some(tls) => Some(tls::listener(&listener_tls(tls)?, true, &tls.place, files)?),
        None => None,
    };
    Some(Listener {
        name: LISTENER.into(),
        bind: document.listen.as_ref()?.value,
        hosts: None,
        origins: OriginRule::default(),
        trusted_proxies: vec![],
        forwarded_from: vec![],
        forwarded_by: ForwardedBy::default(),
        limits: ConnectionLimits::default(),
        http2: tls.is_some(),
        tls,
        proxy_protocol: false,
    })
}

/// The other side of how a replica speaks TLS to its peers.
fn listener_tls(tls: &UpstreamTlsDocument) -> Option<ListenerTlsDocument> {
    Some(ListenerTlsDocument {
        certificates: vec![tls.certificate.clone()?],
        min: tls.min,
        unknown_sni: UnknownSni::Default,
        client_certificates: Some(ClientCertificatesDocument {
            trust: tls.ca.clone()?,
            crls: tls.crls.clone(),
            mode: ClientCertificateMode::Required,
        }),
        handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
        max_handshakes: DEFAULT_MAX_HANDSHAKES,
    })
}

/// A replica as an upstream: what is relayed goes to its root.
fn member(
    name: &ReplicaId,
    url: &Located<UpstreamUrl>,
    document: &PeersDocument,
    files: &Files<'_>,
) -> Option<Arc<Upstream>> {
    if document.tls.is_some() != (url.value.scheme == Scheme::Https) {
        return None;
    }
    let http = if document.tls.is_some() { HttpVersion::Auto } else { HttpVersion::One };
    let keyring = Keyring::new(&[], false, files);
    let tls = tls::upstream(document.tls.as_ref(), &[url], http, files, &keyring)?;
    // The bootstrap names it, and TLS says that it is the right one: it may be in this network.
    let addresses = url.value.host.own_grant().union(AddressGrant { loopback: false, private: true });
    let (timeouts, pool) =
        (Timeouts { connect: CONNECT_TIMEOUT, total: None, ..Timeouts::default() }, Pool::default());
    let name: Arc<str> = format!("{LISTENER}/{name}").into();
    let settings_key = UpstreamKey::of(
        &(&name, timeouts.connect, pool, addresses, http, tls.as_ref().map(|tls| tls.identity)),
        &Credentials::None,
    );
    Some(Arc::new(Upstream {
        mark: UpstreamMark::of(&name, &url.value),
        name,
        key: settings_key.at(&url.value),
        settings_key,
        url: url.value.clone(),
        replicas: vec![],
        health: None,
        ejection: Ejection::default(),
        transport: Transport::default(),
        sessions: SessionSharing::default(),
        stateless_ok: false,
        trust_cache_scope: false,
        labels: BTreeMap::new(),
        era: EraMode::default(),
        timeouts,
        pool,
        headers: HeaderRules::default(),
        credentials: Credentials::None,
        caller: CallerRules::default(),
        host: HostPolicy::default(),
        addresses,
        tls,
        http,
    }))
}

#[cfg(test)]
mod tests;
