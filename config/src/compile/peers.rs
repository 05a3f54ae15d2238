//! What makes several processes one gateway: a name, keys in common, and a way to each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Files, Keyring, tls, upstreams};
use crate::address::AddressGrant;
use crate::bootstrap::{ConnectionLimits, Listener};
use crate::diagnostic::{Findings, Located};
use crate::document::{
    ClientCertificatesDocument, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES, ListenerTlsDocument,
    PeersDocument, ProcessDocument, SealingDocument, UpstreamTlsDocument,
};
use crate::hosts::OriginRule;
use crate::peers::{Peers, ReplicaId, Sealing};
use crate::replicas::Ejection;
use crate::secret::{Reference, Secret};
use crate::tls::{ClientCertificateMode, HttpVersion, UnknownSni};
use crate::upstream::{
    Credentials, EraMode, HeaderRules, HostPolicy, LegSharing, Pool, Timeouts, Transport, Upstream,
    UpstreamKey,
};
use crate::url::{Scheme, UpstreamUrl};

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
    match Secret::new(files.secret(source, place)?, source.clone()) {
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
        name: LISTENER.to_owned(),
        bind: document.listen.as_ref()?.value,
        hosts: None,
        origins: OriginRule::default(),
        trusted_proxies: vec![],
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
        name,
        key: settings_key.at(&url.value),
        settings_key,
        url: url.value.clone(),
        replicas: vec![],
        health: None,
        ejection: Ejection::default(),
        transport: Transport::default(),
        sessions: LegSharing::default(),
        stateless_ok: false,
        trust_cache_scope: false,
        labels: BTreeMap::new(),
        era: EraMode::default(),
        timeouts,
        pool,
        headers: HeaderRules::default(),
        credentials: Credentials::None,
        host: HostPolicy::default(),
        addresses,
        tls,
        http,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::testing::{brief, loaded_with, problems_with};
    use crate::tls::testing::{Authority, files};
    use crate::{Bootstrap, MapEnvironment, Severity, load};

    const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";
    const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG=";
    const LOCAL: &str = "replica: a\nsealing: 'env:SEAL'\n\
                         peers: {listen: '127.0.0.1:7443', members: {b: 'http://127.0.0.1:7444'}}\n";

    fn variables() -> [(&'static str, &'static str); 4] {
        [
            ("SEAL", KEY),
            ("OLD", "another key, of the same length at least"),
            ("SHORT", "short"),
            ("POD", "gw-0"),
        ]
    }

    fn bootstrap(text: &str) -> Bootstrap {
        loaded_with(&format!("{RULES}{text}"), &variables()).bootstrap
    }

    #[test]
    fn a_process_alone_has_no_name_and_no_keys() {
        let alone = bootstrap("");
        assert!(alone.replica.is_none() && alone.sealing.keys.is_empty() && alone.peers.is_none());
    }

    #[test]
    fn every_form_of_sealing_ends_in_keys_in_their_order() {
        for form in ["'env:SEAL'", "['env:SEAL']", "{keys: 'env:SEAL'}"] {
            let keys = bootstrap(&format!("sealing: {form}\n")).sealing.keys;
            assert_eq!(keys.iter().map(crate::Secret::expose).collect::<Vec<_>>(), [KEY], "{form}");
        }
        let two = bootstrap("sealing: {keys: ['env:OLD', 'env:SEAL']}\n").sealing.keys;
        assert_eq!((two.len(), two[1].expose()), (2, KEY));
    }

    #[test]
    fn one_document_serves_every_replica() {
        let both = "sealing: 'env:SEAL'\npeers:\n  listen: '127.0.0.1:7443'\n  \
                    members: {gw-0: 'http://127.0.0.1:1', gw-1: 'http://127.0.0.1:2'}\n";
        let here = bootstrap(&format!("replica: 'env:POD'\n{both}"));
        let peers = here.peers.as_ref().unwrap();
        assert_eq!(here.replica.as_ref().map(ToString::to_string).as_deref(), Some("gw-0"));
        let others: Vec<_> = peers.members.iter().map(|(name, one)| (name.as_str(), one.url.port)).collect();
        assert_eq!(others, [("gw-1", 2)]);
        assert_eq!((peers.listener.bind.port(), peers.listener.tls.is_some()), (7443, false));
    }

    #[test]
    fn a_replica_without_others_listens_for_none() {
        let text = format!("{RULES}{}", LOCAL.replace("members: {b:", "members: {a:"));
        let loaded = loaded_with(&text, &variables());
        assert!(loaded.bootstrap.peers.is_none());
        assert!(loaded.warnings.iter().any(|warning| warning.path == "peers"));
    }

    #[test]
    fn what_peers_need_is_named() {
        let tls = "without `tls`, replicas meet on loopback only";
        let with = |from: &str, to: &str| LOCAL.replace(from, to);
        let table = [
            (with("replica: a\n", ""), "peers: this process has no name among its peers"),
            (
                with("sealing: 'env:SEAL'\n", ""),
                "peers: without `sealing`, no replica can open what another has sealed",
            ),
            (with("'127.0.0.1:7443'", "'10.0.0.1:7443'"), &format!("peers.listen: {tls}")),
            (with("127.0.0.1:7444", "b.internal:7444"), &format!("peers.members.b: {tls}")),
            (with("http:", "https:"), "peers.members.b: a replica is at `http://` here"),
            (with(":7444'", ":7444/mcp'"), "peers.members.b: the URL of a replica has a path"),
            (
                with(":7444'", ":7444', c: 'http://127.0.0.1:7444/'"),
                "peers.members.c: `b` is at the same place",
            ),
            (with("{b: 'http://127.0.0.1:7444'}", "{}"), "peers.members: 0 replicas are named"),
            (
                with("b: ", "no/name: "),
                "peers.members.no/name: `no/name` has other characters than letters, digits, `.`, `_`, `-`",
            ),
            (with("listen: '127.0.0.1:7443', ", ""), "peers: `listen` is missing"),
            (
                with("replica: a", "replica: 'env:NOPE'"),
                "replica: the environment variable `NOPE` is not set",
            ),
            (
                with("replica: a", "replica: replica-number-one"),
                "replica: `replica-number-one` is longer than 16 characters",
            ),
            (
                with("'env:SEAL'", "'env:SHORT'"),
                "sealing: the key in `env:SHORT` has fewer than 32 characters",
            ),
            (with("'env:SEAL'", "['env:SEAL', 'env:SEAL']"), "sealing[1]: this key is named twice"),
            (with("'env:SEAL'", "'secret:x'"), "sealing: a named secret is for upstreams, within its hosts"),
            (with("'env:SEAL'", "[]"), "sealing: 0 keys are named"),
        ];
        for (text, problem) in table {
            assert_eq!(problems_with(&format!("{RULES}{text}"), &variables()), [problem], "{text}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let report = problems_with(&format!("{RULES}sealing: {KEY}\n"), &[]).concat();
        assert!(
            report.contains("a reference to a secret should stand here") && !report.contains(KEY),
            "{report}"
        );
    }

    /// A replica with certificates, its own document changed from `from` to `to`.
    fn secured(from: &str, to: &str) -> Result<Bootstrap, Vec<String>> {
        let authority = Authority::new("peers");
        let pair = authority.issue(&["gateway.internal"]);
        let text = format!(
            "{RULES}replica: a\nsealing: 'file:seal'\npeers:\n  listen: '10.0.0.1:7443'\n  \
             tls: {{ca: ca, certificate: me, key: key, server_name: gateway.internal}}\n  \
             members: {{b: 'https://b.internal:7443', c: 'https://10.0.0.3:7443'}}\n"
        );
        let env: MapEnvironment = files(&[
            ("gateway.yaml", &text.replace(from, to)),
            ("seal", KEY),
            ("ca", &authority.pem()),
            ("me", &pair.chain),
            ("key", &pair.key),
        ]);
        let errors = |report: crate::Report| {
            report.0.iter().filter(|found| found.severity == Severity::Error).map(brief).collect()
        };
        load(Path::new("gateway.yaml"), &env).map(|loaded| loaded.bootstrap).map_err(errors)
    }

    #[test]
    fn replicas_show_each_other_certificates() {
        let bootstrap = secured("", "").unwrap();
        let peers = bootstrap.peers.as_ref().unwrap();
        let settings = &peers.listener.tls.as_ref().unwrap().settings;
        let clients = settings.client_certificates.as_ref().unwrap();
        assert_eq!(
            (clients.trust.to_str(), clients.mode),
            (Some("ca"), crate::ClientCertificateMode::Required)
        );
        for member in peers.members.values() {
            assert_eq!(member.tls.as_ref().unwrap().server_name.to_str(), "gateway.internal");
            assert!(member.addresses.permits("10.0.0.3".parse().unwrap()));
            assert!(!member.addresses.permits("127.0.0.1".parse().unwrap()));
        }
        assert_eq!(
            bootstrap,
            secured("", "").map(|again| Bootstrap { peers: bootstrap.peers.clone(), ..again }).unwrap()
        );
    }

    #[test]
    fn half_of_mutual_tls_is_none() {
        let missing = "peers.tls: replicas show each other certificates, and not both sides of that are here";
        let plain = "peers.members.b: a replica is at `https://` here";
        assert_eq!(secured("ca: ca, ", "").unwrap_err()[0], missing);
        assert_eq!(secured("certificate: me, key: key, ", "").unwrap_err(), [missing]);
        assert!(secured("https://b.", "http://b.").unwrap_err().contains(&plain.to_owned()));
    }

    #[test]
    fn a_new_certificate_needs_no_restart_and_a_new_place_does() {
        let (old, rotated) = (secured("", "").unwrap(), secured("", "").unwrap());
        assert!(old.peers != rotated.peers, "another authority made it");
        assert!(old.restart_needed(&rotated).is_empty());
        let table = [("b.internal", "d.internal"), ("c: ", "d: "), ("10.0.0.1:7443", "10.0.0.1:7444")];
        for (from, to) in table {
            assert_eq!(old.restart_needed(&secured(from, to).unwrap()), ["peers"], "{from}");
        }
        let alone = Bootstrap { peers: None, ..old.clone() };
        assert_eq!(old.restart_needed(&alone), ["peers"]);
    }
}
