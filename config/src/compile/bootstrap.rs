//! What a process is, with every default filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{peers, tls};
use crate::bootstrap::{Bootstrap, ForwardedBy, Listener};
use crate::diagnostic::{Findings, Place};
use crate::document::{HostsDocument, ListenerDocument, MtlsDocument, ProcessDocument, RulesDocument};
use crate::files::Files;
use portunus_base::{HostPattern, OriginRule};

/// Where a gateway listens when its document does not say.
const DEFAULT_BIND: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 8080));

/// Compiles the process half. `rules` says whether callers are identified; `None` if unreadable.
pub(crate) fn compile_bootstrap(
    process: &ProcessDocument,
    rules: Option<&RulesDocument>,
    files: &Files<'_>,
) -> Bootstrap {
    let findings = files.findings();
    super::refuse_unenforced(process.unenforced(), findings);
    check_admin(process, findings);
    check_addresses(process, findings);
    let identified = rules.is_none_or(|rules| rules.identity.is_some());
    let documents = process.listeners.iter().flatten();
    let mut names: BTreeSet<String> = process.peers.iter().map(|_| peers::LISTENER.to_owned()).collect();
    let mut listeners = Vec::new();
    for (index, document) in documents.enumerate() {
        if !identified {
            check_exposure(document, process.anonymous, findings);
            check_shares(document, process.anonymous, findings);
        }
        let name = listener_name(document, index);
        if !names.insert(name.clone()) {
            let place = document.name.as_ref().map_or(&document.place, |name| &name.place);
            findings.error(place, format!("another listener is named `{name}`"), "choose another name");
        }
        check_proxy_protocol(document, findings);
        listeners.extend(listener(document, name, files));
    }
    if process.listeners.is_none() {
        listeners.push(default_listener());
    }
    if let Some(mtls) = rules.and_then(|rules| rules.identity.as_ref()?.mtls.as_ref()) {
        check_trust_domains(mtls, &listeners, findings);
    }
    check_kept_key(process, findings);
    let replica = peers::replica(process, files);
    let state = process.state.clone().unwrap_or_else(|| PathBuf::from("./.portunus"));
    Bootstrap {
        listeners,
        telemetry: process.telemetry.as_ref().map(|address| address.value),
        admin: process.admin.as_ref().map(|address| address.value),
        control: process.control.clone().unwrap_or_else(|| state.join("control.sock")),
        threads: process.threads.unwrap_or_else(available_threads),
        state,
        drain: process.drain,
        log: process.log,
        access_log: process.access_log.clone(),
        sealing: peers::sealing(process.sealing.as_ref(), files),
        peers: peers::peers(process, replica.as_ref(), files),
        replica,
    }
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn listener_name(document: &ListenerDocument, index: usize) -> String {
    match (&document.name, index) {
        (Some(name), _) => name.value.clone(),
        (None, 0) => "main".to_owned(),
        (None, index) => format!("listener-{}", index + 1),
    }
}

fn check_proxy_protocol(document: &ListenerDocument, findings: &Findings) {
    if document.proxy_protocol.value && document.trusted_proxies.is_empty() {
        let hint = "name them: `trusted_proxies: [10.0.0.0/8]`";
        let problem = "anyone could claim any address, since no proxy is trusted";
        findings.error(&document.proxy_protocol.place, problem, hint);
    }
    if let Some(from) = &document.forwarded_from
        && !document.proxy_protocol.value
    {
        let problem = "without `proxy_protocol: v2`, it is `trusted_proxies` that says who forwards";
        findings.error(&from.place, problem, "write the networks there, and remove the key");
    }
}

/// Behind PROXY protocol headers the trusted proxy is the one that writes them: a client whose address is
/// among its networks is none.
fn forwarded_from(document: &ListenerDocument) -> Vec<IpNet> {
    match (document.proxy_protocol.value, &document.forwarded_from) {
        (false, _) => document.trusted_proxies.clone(),
        (true, from) => from.as_ref().map(|from| from.value.clone()).unwrap_or_default(),
    }
}

/// A listener whose TLS is wrong is none: it must not become a plain one.
fn listener(document: &ListenerDocument, name: String, files: &Files<'_>) -> Option<Listener> {
    let bind = document.bind.value;
    let loopback = bind.ip().to_canonical().is_loopback();
    let hosts = match &document.hosts {
        Some(HostsDocument::Any) => None,
        Some(HostsDocument::Listed(hosts)) => Some(hosts.clone()),
        None if loopback => Some(loopback_hosts(bind)),
        None => None,
    };
    let origins = match &document.origins {
        Some(origins) => origins.clone(),
        None if loopback => OriginRule::loopback(),
        None => OriginRule::default(),
    };
    let trusted_proxies = document.trusted_proxies.clone();
    let forwarded_from = forwarded_from(document);
    let limits = document.limits;
    let http2 = document.http2.unwrap_or(document.tls.is_some());
    let tls = match &document.tls {
        Some(tls) => Some(tls::listener(tls, http2, &document.place, files)?),
        None => None,
    };
    let proxy_protocol = document.proxy_protocol.value;
    Some(Listener {
        name: name.into(),
        bind,
        hosts,
        origins,
        trusted_proxies,
        forwarded_from,
        forwarded_by: document.forwarded_by,
        limits,
        tls,
        http2,
        proxy_protocol,
    })
}

fn default_listener() -> Listener {
    Listener {
        name: "main".into(),
        bind: DEFAULT_BIND,
        hosts: Some(loopback_hosts(DEFAULT_BIND)),
        origins: OriginRule::loopback(),
        trusted_proxies: vec![],
        forwarded_from: vec![],
        forwarded_by: ForwardedBy::default(),
        limits: portunus_base::ConnectionLimits::default(),
        tls: None,
        http2: false,
        proxy_protocol: false,
    }
}

/// The loopback names, and the address itself where it is another one of 127.0.0.0/8.
fn loopback_hosts(bind: SocketAddr) -> Vec<HostPattern> {
    let mut hosts = HostPattern::loopback();
    let own = HostPattern::exact(bind.ip().to_string());
    if !hosts.contains(&own) {
        hosts.push(own);
    }
    hosts
}

/// Whoever may sign certificates of clients may write any SPIFFE ID into them, also those of another's trust
/// domain. So with several authorities each domain has its own.
fn check_trust_domains(mtls: &MtlsDocument, listeners: &[Listener], findings: &Findings) {
    let signers = listeners.iter().filter_map(|listener| listener.tls.as_ref()?.clients.as_ref());
    let authorities: BTreeSet<_> = signers.flat_map(|signers| signers.authorities()).collect();
    if authorities.len() < 2 {
        return;
    }
    for (domain, _) in mtls.trust_domains.iter().filter(|(_, file)| file.is_none()) {
        let problem = format!(
            "listeners take certificates of {} authorities, and each of them could sign `spiffe://{}/…`",
            authorities.len(),
            domain.value
        );
        let hint = format!(
            "name the file of those that may: `trust_domains: {{{}: tls/authorities.pem}}`",
            domain.value
        );
        findings.error(&domain.place, problem, hint);
    }
}

/// Without identity nobody is told apart, so only this machine may connect unless that is meant.
fn check_exposure(document: &ListenerDocument, anonymous: bool, findings: &Findings) {
    let bind = &document.bind;
    if bind.value.ip().to_canonical().is_loopback() {
        return;
    }
    if anonymous || document.anonymous {
        let problem = "anyone who reaches this address may call, without saying who they are";
        let hint = "keep the address behind something that knows its callers";
        findings.warn(&bind.place, problem, hint);
    } else {
        let problem = "without `identity`, a gateway listens on loopback only";
        let hint = "bind to 127.0.0.1 or [::1]; if anyone who reaches this address may call, say so with \
                    `anonymous: allow`";
        findings.error(&bind.place, problem, hint);
    }
}

/// Shares of what callers hold together are counted by principal, else by address: without either, all who
/// come through one proxy are one caller.
fn check_shares(document: &ListenerDocument, anonymous: bool, findings: &Findings) {
    let bind = &document.bind;
    let is_reached_by_others =
        anonymous || document.anonymous || !bind.value.ip().to_canonical().is_loopback();
    if is_reached_by_others && document.trusted_proxies.is_empty() {
        let problem = "callers are told apart by the address of their connection alone: all who come through \
                       one proxy share what one caller may hold";
        let hint = "set `identity`, or name the proxies that say whom they forward for: \
                    `trusted_proxies: [10.0.0.0/8]`";
        findings.warn(&bind.place, problem, hint);
    }
}

/// Without `sealing`, what clients carry opens for as long as the state folder is there. What serves other
/// machines is often a container, whose working folder goes with it.
fn check_kept_key(process: &ProcessDocument, findings: &Findings) {
    let mut binds = process.listeners.iter().flatten().map(|listener| &listener.bind);
    let exposed = binds.find(|bind| !bind.value.ip().to_canonical().is_loopback());
    if let Some(bind) = exposed
        && process.sealing.is_none()
        && process.state.is_none()
    {
        let problem = "the key of sessions is kept in `./.portunus`, and they all end with that folder";
        let hint = "write `state: /var/lib/portunus`, a folder that outlives the process, or `sealing`";
        findings.warn(&bind.place, problem, hint);
    }
}

fn check_admin(process: &ProcessDocument, findings: &Findings) {
    if let Some(admin) = &process.admin
        && !admin.value.ip().to_canonical().is_loopback()
    {
        let hint = "bind it to 127.0.0.1, and reach it through a tunnel";
        findings.error(&admin.place, "the admin address is not on loopback", hint);
    }
}

fn check_addresses(process: &ProcessDocument, findings: &Findings) {
    let listeners = process.listeners.iter().flatten().map(|listener| &listener.bind);
    let peers = process.peers.as_ref().and_then(|peers| peers.listen.as_ref());
    let surfaces = [process.telemetry.as_ref(), process.admin.as_ref(), peers].into_iter().flatten();
    let mut taken: BTreeMap<SocketAddr, &Place> = BTreeMap::new();
    for address in listeners.chain(surfaces).filter(|address| address.value.port() != 0) {
        if let Some(earlier) = taken.insert(address.value, &address.place) {
            let problem = format!("`{}` is taken by `{}`", address.value, earlier.path);
            findings.error(&address.place, problem, "give each its own port");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{loaded, loaded_with, problems, problems_with};

    const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

    #[test]
    fn the_smallest_document_is_a_loopback_gateway() {
        let bootstrap = loaded(RULES).bootstrap;
        let listener = &bootstrap.listeners[0];
        assert_eq!((&*listener.name, listener.bind.to_string().as_str()), ("main", "127.0.0.1:8080"));
        assert!(listener.hosts.as_ref().unwrap().iter().any(|host| host.matches("localhost:9")));
        assert!(!listener.hosts.as_ref().unwrap().iter().any(|host| host.matches("evil.org")));
        assert!(listener.origins.allows("http://localhost:5173"));
        assert_eq!(bootstrap.state.to_str(), Some("./.portunus"));
        assert_eq!(bootstrap.control.to_str(), Some("./.portunus/control.sock"));
        assert!(bootstrap.threads >= 1);
    }

    #[test]
    fn defaults_follow_the_address() {
        let table = [
            ("loopback", "listen: 127.0.0.2:1", "127.0.0.2", true, true),
            ("loopback, another name", "listen: 127.0.0.2:1", "evil.org", false, true),
            ("ipv6 loopback", "listen: '[::1]:1'", "[::1]:1", true, true),
            ("mapped loopback", "listen: '[::ffff:127.0.0.1]:1'", "localhost", true, true),
            ("elsewhere", "listen: 0.0.0.0:1\nanonymous: allow", "evil.org", true, false),
        ];
        for (name, text, host, host_ok, origin_ok) in table {
            let listener = loaded(&format!("{RULES}{text}\n")).bootstrap.listeners.remove(0);
            let matches =
                listener.hosts.is_none_or(|hosts| hosts.iter().any(|pattern| pattern.matches(host)));
            assert_eq!(
                (matches, listener.origins.allows("http://localhost:1")),
                (host_ok, origin_ok),
                "{name}"
            );
        }
    }

    #[test]
    fn without_identity_only_loopback_is_bound() {
        let refused = "without `identity`, a gateway listens on loopback only";
        let table = [
            ("all interfaces", "listen: 0.0.0.0:1", Some("listen")),
            ("all interfaces, ipv6", "listen: '[::]:1'", Some("listen")),
            ("private", "listeners: [{bind: '10.0.0.1:1'}]", Some("listeners[0].bind")),
            ("loopback", "listen: 127.0.0.1:1", None),
            ("allowed", "listen: 0.0.0.0:1\nanonymous: allow", None),
            ("allowed for one", "listeners: [{bind: '10.0.0.1:1', anonymous: allow}]", None),
            (
                "allowed for another",
                "listeners: [{bind: '10.0.0.1:1'}, {bind: '10.0.0.1:2', anonymous: allow}]",
                Some("listeners[0].bind"),
            ),
        ];
        for (name, text, path) in table {
            let text = format!("{RULES}{text}\n");
            match path {
                Some(path) => assert_eq!(problems(&text), [format!("{path}: {refused}")], "{name}"),
                None => {
                    let exposed =
                        loaded_with(&text, &[]).warnings.iter().any(|w| w.problem.starts_with("anyone who"));
                    assert_eq!(exposed, name.starts_with("allowed"), "{name}");
                }
            }
        }
    }

    #[test]
    fn callers_without_identity_behind_nothing_that_is_trusted_are_a_warning() {
        let identity = "identity: {keys: {entries: {}}}\n";
        let table = [
            ("nothing", "listen: 0.0.0.0:1\nanonymous: allow", true),
            ("for one", "listeners: [{bind: '10.0.0.1:1', anonymous: allow}]", true),
            (
                "a proxy",
                "listeners: [{bind: '10.0.0.1:1', anonymous: allow, trusted_proxies: [10.0.0.0/8]}]",
                false,
            ),
            ("loopback", "listen: 127.0.0.1:1", false),
            ("loopback for others", "listeners: [{bind: '127.0.0.1:1', anonymous: allow}]", true),
            ("identity", "listen: 0.0.0.0:1", false),
        ];
        for (name, text, expected) in table {
            let identity = if name == "identity" { identity } else { "" };
            let warnings = loaded_with(&format!("{RULES}{identity}{text}\n"), &[]).warnings;
            let warned =
                warnings.iter().any(|warning| warning.problem.contains("address of their connection"));
            assert_eq!(warned, expected, "{name}");
        }
    }

    #[test]
    fn addresses_and_names_are_not_shared() {
        let table = [
            ("telemetry: 127.0.0.1:1\nadmin: 127.0.0.1:1", "admin: `127.0.0.1:1` is taken by `telemetry`"),
            ("listen: 127.0.0.1:1\ntelemetry: 127.0.0.1:1", "telemetry: `127.0.0.1:1` is taken by `listen`"),
            ("admin: 10.0.0.1:1", "admin: the admin address is not on loopback"),
            (
                "listeners: [{bind: '127.0.0.1:1', name: a}, {bind: '127.0.0.1:2', name: a}]",
                "listeners[1].name: another listener is named `a`",
            ),
        ];
        for (text, problem) in table {
            assert_eq!(problems(&format!("{RULES}{text}\n")), [problem], "{text}");
        }
        let peers = "replica: a\nsealing: 'env:SEAL'\n\
                     peers: {listen: '127.0.0.1:1', members: {b: 'http://127.0.0.1:2'}}\n";
        let taken = [
            ("listen: 127.0.0.1:1", "peers.listen: `127.0.0.1:1` is taken by `listen`"),
            (
                "listeners: [{bind: '127.0.0.1:3', name: peers}]",
                "listeners[0].name: another listener is named `peers`",
            ),
        ];
        for (text, problem) in taken {
            let found = problems_with(&format!("{RULES}{peers}{text}\n"), &[("SEAL", &"k".repeat(32))]);
            assert_eq!(found, [problem], "{text}");
        }
        assert_eq!(
            loaded(&format!("{RULES}listeners: ['127.0.0.1:0', '127.0.0.1:0']\n")).bootstrap.listeners.len(),
            2
        );
    }
}
