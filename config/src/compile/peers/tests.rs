//! Names, keys and places of replicas, right and wrong.

use std::path::Path;

use crate::testing::{brief, loaded_with, problems_with};
use crate::tls::testing::{Authority, files};
use crate::{Bootstrap, MapEnvironment, Severity, load};

const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";
const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG=";
const LOCAL: &str = "replica: a\nsealing: 'env:SEAL'\n\
                     peers: {listen: '127.0.0.1:7443', members: {b: 'http://127.0.0.1:7444'}}\n";

fn variables() -> [(&'static str, &'static str); 4] {
    [("SEAL", KEY), ("OLD", "another key, of the same length at least"), ("SHORT", "short"), ("POD", "gw-0")]
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
        assert_eq!(keys.iter().map(portunus_base::Secret::expose).collect::<Vec<_>>(), [KEY], "{form}");
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
        (with(":7444'", ":7444', c: 'http://127.0.0.1:7444/'"), "peers.members.c: `b` is at the same place"),
        (with("{b: 'http://127.0.0.1:7444'}", "{}"), "peers.members: 0 replicas are named"),
        (
            with("b: ", "no/name: "),
            "peers.members.no/name: `no/name` has other characters than letters, digits, `.`, `_`, `-`",
        ),
        (with("listen: '127.0.0.1:7443', ", ""), "peers: `listen` is missing"),
        (with("replica: a", "replica: 'env:NOPE'"), "replica: the environment variable `NOPE` is not set"),
        (
            with("replica: a", "replica: replica-number-one"),
            "replica: `replica-number-one` is longer than 16 characters",
        ),
        (with("'env:SEAL'", "'env:SHORT'"), "sealing: the key in `env:SHORT` has fewer than 32 characters"),
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
        (Some("ca"), portunus_base::ClientCertificateMode::Required)
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
    assert!(
        rotated.listener_tls("peers").is_some() && rotated.listener_tls("peers") != old.listener_tls("peers")
    );
    let table = [("b.internal", "d.internal"), ("c: ", "d: "), ("10.0.0.1:7443", "10.0.0.1:7444")];
    for (from, to) in table {
        assert_eq!(old.restart_needed(&secured(from, to).unwrap()), ["peers"], "{from}");
    }
    let alone = Bootstrap { peers: None, ..old.clone() };
    assert_eq!(old.restart_needed(&alone), ["peers"]);
}
