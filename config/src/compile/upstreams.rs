//! Upstreams: secrets resolved, addresses held to their grant.

use std::sync::Arc;

use http::HeaderValue;

use super::caller::caller;
use super::{Confinement, Keyring, tls};
use crate::diagnostic::{Findings, Located, Place};
use crate::document::{
    CeilingDocument, CredentialsDocument, HeaderSource, HeadersDocument, UpstreamDocument,
};
use crate::files::Files;
use crate::upstream::{Credentials, EraMode, HeaderRules, SessionSharing, Transport, Upstream, UpstreamKey};
use crate::upstream_mark::UpstreamMark;
use portunus_base::{AddressClass, AddressGrant, Host, HostPattern, HttpVersion, Scheme, UpstreamUrl};

pub(super) fn compile(
    documents: &[UpstreamDocument],
    confinement: Confinement<'_>,
    files: &Files<'_>,
    keyring: &Keyring<'_>,
) -> Vec<Arc<Upstream>> {
    let compile = |document| upstream(document, confinement, files, keyring).map(Arc::new);
    documents.iter().filter_map(compile).collect()
}

pub(super) fn upstream(
    document: &UpstreamDocument,
    confinement: Confinement<'_>,
    files: &Files<'_>,
    keyring: &Keyring<'_>,
) -> Option<Upstream> {
    let findings = files.findings();
    let urls: Vec<_> = document.url.iter().chain(&document.replicas).collect();
    let targets: Vec<_> = urls.iter().map(|url| &url.value).collect();
    let credentials = credentials(&document.credentials, &targets, keyring, findings);
    let caller = caller(document, &targets, keyring, findings);
    let headers = header_rules(&document.headers, &targets, keyring);
    let http = http_version(document, findings);
    let era = era(document, findings);
    check_schemes(&urls, findings);
    check_sharing(document, findings);
    let tls = tls::upstream(document.tls.as_ref(), &urls, http, files, keyring);
    urls.iter().for_each(|url| check_url(&url.value, &url.place, findings));
    let addresses = grant(document, &urls, confinement, findings);
    let url = document.url.as_ref()?.value.clone();
    let tls = tls?;
    let name: Arc<str> = document.name.value.as_str().into();
    let handshake = tls.as_ref().map(|tls| (tls.identity, tls.settings.server_name.as_ref()));
    let settings = (&name, document.pool, document.timeouts.connect, addresses, http, handshake, &caller);
    let settings_key = UpstreamKey::of(&settings, &credentials);
    Some(Upstream {
        mark: UpstreamMark::of(&name, &url),
        name,
        key: settings_key.at(&url),
        settings_key,
        url,
        replicas: document.replicas.iter().map(|url| url.value.clone()).collect(),
        health: document.health,
        ejection: document.ejection,
        transport: document.transport,
        sessions: match document.shared_sessions {
            Some(_) => SessionSharing::Shared,
            None => SessionSharing::PerCaller,
        },
        stateless_ok: document.stateless_ok,
        trust_cache_scope: document.trust_cache_scope.is_some(),
        labels: document.labels.clone(),
        era,
        timeouts: document.timeouts,
        pool: document.pool,
        headers,
        credentials,
        caller,
        host: document.host,
        addresses,
        tls,
        http,
    })
}

fn credentials(
    document: &CredentialsDocument,
    urls: &[&UpstreamUrl],
    keyring: &Keyring<'_>,
    findings: &Findings,
) -> Credentials {
    match document {
        CredentialsDocument::None => Credentials::None,
        CredentialsDocument::Passthrough(place) => {
            let problem = "the client's own `Authorization` is passed to this upstream";
            let hint = "give the upstream a credential of its own, unless it checks each client itself";
            findings.warn(place, problem, hint);
            Credentials::Passthrough
        }
        CredentialsDocument::Bearer(reference) => {
            let Some(secret) = keyring.secret(reference, urls) else { return Credentials::None };
            match secret.into_bearer() {
                Ok(value) => Credentials::Header { name: http::header::AUTHORIZATION, value },
                Err(problem) => {
                    let hint = "it should hold the token alone, without `Bearer`";
                    findings.error(&reference.place, format!("the secret {problem}"), hint);
                    Credentials::None
                }
            }
        }
        CredentialsDocument::Header { name, value } => match keyring.secret(value, urls) {
            Some(value) => Credentials::Header { name: name.clone(), value },
            None => Credentials::None,
        },
        CredentialsDocument::Exchange(exchange) => {
            super::refuse(exchange, findings);
            Credentials::None
        }
    }
}

fn header_rules(document: &HeadersDocument, urls: &[&UpstreamUrl], keyring: &Keyring<'_>) -> HeaderRules {
    let mut rules = HeaderRules { remove: document.remove.clone(), ..HeaderRules::default() };
    for (name, source) in &document.set {
        match source {
            HeaderSource::Literal(value) => rules.set.push((name.clone(), value.clone())),
            HeaderSource::Reference(reference) => {
                let Some(secret) = keyring.secret(reference, urls) else { continue };
                let Ok(mut value) = HeaderValue::from_str(secret.expose()) else { continue };
                value.set_sensitive(true);
                rules.set.push((name.clone(), value));
                rules.sources.push((name.clone(), secret.source().to_owned()));
            }
        }
    }
    rules
}

fn http_version(document: &UpstreamDocument, findings: &Findings) -> HttpVersion {
    let Some(http) = &document.http else { return HttpVersion::default() };
    let plain = document.url.as_ref().is_some_and(|url| url.value.scheme == Scheme::Http);
    if plain && http.value == HttpVersion::Auto {
        let hint = "write 1, or 2 where the server is known to speak it, or `https://` in the URL";
        findings.error(&http.place, "the version is agreed on in a TLS handshake, and there is none", hint);
    }
    http.value
}

/// The transport of 2024-11-05 is spoken by the legacy era only.
fn era(document: &UpstreamDocument, findings: &Findings) -> EraMode {
    let written = document.era.as_ref();
    if document.transport == Transport::Streamable {
        return written.map(|era| era.value).unwrap_or_default();
    }
    if let Some(era) = written.filter(|era| era.value == EraMode::Modern) {
        let hint = "remove `era`, or `transport: sse`";
        findings.error(&era.place, "no modern server speaks the transport `sse`", hint);
    }
    EraMode::Legacy
}

/// One way to speak TLS serves all replicas, or none of them.
fn check_schemes(urls: &[&Located<UpstreamUrl>], findings: &Findings) {
    let Some((first, further)) = urls.split_first() else { return };
    for url in further.iter().filter(|url| url.value.scheme != first.value.scheme) {
        let problem = format!("this replica is `{}://`, and the first is not", url.value.scheme);
        findings.error(&url.place, problem, "make them upstreams of their own, or use one scheme");
    }
}

/// With the client's own credentials, what one client is told is not for another.
fn check_sharing(document: &UpstreamDocument, findings: &Findings) {
    if !matches!(document.credentials, CredentialsDocument::Passthrough(_)) {
        if let Some(place) = document.shared_sessions.as_ref().filter(|_| document.caller.is_some()) {
            let problem = "`sessions: shared` shares a session between callers of whom the upstream is told";
            findings.error(place, problem, "remove `caller`, or `sessions: shared`");
        }
        return;
    }
    let written = [
        ("sessions: shared", &document.shared_sessions),
        ("trust_cache_scope: true", &document.trust_cache_scope),
    ];
    for (key, place) in written {
        if let Some(place) = place {
            let problem = format!("`{key}` shares between callers what each has by its own credentials");
            findings.error(place, problem, "give the upstream a credential of its own, or remove the key");
        }
    }
}

pub(super) fn check_url(url: &UpstreamUrl, place: &Place, findings: &Findings) {
    if let Host::Ip(address) = url.host
        && AddressClass::of(address) == AddressClass::Forbidden
    {
        let problem = format!("`{address}` is never dialled: a metadata, link-local or reserved address");
        findings.error(place, problem, "name the address of an MCP server");
    }
}

/// What an upstream may be dialled at: what it asks for, and itself where it is written as an
/// address. A ceiling bounds both; in a bundle without one, nothing beyond public addresses is granted.
fn grant(
    document: &UpstreamDocument,
    urls: &[&Located<UpstreamUrl>],
    confinement: Confinement<'_>,
    findings: &Findings,
) -> AddressGrant {
    let own = urls.iter().map(|url| url.value.host.own_grant());
    let wanted = own.fold(document.addresses, AddressGrant::union);
    let place = urls.first().map_or(&document.name.place, |url| &url.place);
    let none = CeilingDocument::default();
    let Some(ceiling) = confinement.ceiling.or(confinement.bundle.then_some(&none)) else { return wanted };
    if !ceiling.addresses.contains(&wanted) {
        let problem =
            format!("this upstream needs {} addresses, beyond the ceiling", wanted.names().join(" and "));
        let hint = "extend the bootstrap's `egress_ceiling: {addresses: [...]}` if that is meant";
        findings.error(place, problem, hint);
    }
    let covered = |url: &UpstreamUrl| {
        let covers = |host: &HostPattern| host.covers(&url.host.bare(), url.port);
        ceiling.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(covers))
    };
    for Located { value: url, place } in urls.iter().filter(|url| !covered(&url.value)) {
        let problem = format!("the host `{}` is beyond the ceiling", url.authority);
        let hint = "extend the bootstrap's `egress_ceiling: {hosts: [...]}` if that is meant";
        findings.error(place, problem, hint);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::testing::{brief, loaded, loaded_with, problems, problems_with};
    use crate::{Loaded, MapEnvironment, Report, Severity, load};

    fn one_file(url: &str, rest: &str) -> String {
        format!("version: 1\nupstreams: {{a: {{url: '{url}'{rest}}}}}\nservers: {{/mcp: a}}\n")
    }

    fn in_bundle(url: &str, rest: &str, bootstrap: &str) -> Result<Loaded, Report> {
        let mut environment = MapEnvironment::default();
        environment.files.insert("g.yaml".into(), format!("version: 1\nbundle: {{path: b}}\n{bootstrap}"));
        environment.files.insert(PathBuf::from("b/gateway.yaml"), one_file(url, rest));
        load(Path::new("g.yaml"), &environment)
    }

    #[test]
    fn an_address_written_in_a_file_here_is_its_own_grant() {
        let table = [
            ("http://127.0.0.1:1/", "", vec!["loopback"]),
            ("http://localhost:1/", "", vec!["loopback"]),
            ("http://10.0.0.1/", "", vec!["private"]),
            ("http://crm.internal/", "", vec![]),
            ("http://crm.internal/", ", addresses: private", vec!["private"]),
            ("http://127.0.0.1/", ", addresses: [private]", vec!["loopback", "private"]),
        ];
        for (url, rest, expected) in table {
            let granted = loaded(&one_file(url, rest)).snapshot.upstreams[0].addresses.names();
            assert_eq!(granted, expected, "{url}{rest}");
        }
    }

    #[test]
    fn metadata_and_link_local_addresses_are_refused_whatever_is_granted() {
        for address in
            ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0.0.0.0"]
        {
            let text = one_file(&format!("http://{address}/"), ", addresses: [loopback, private]");
            let found = problems(&text);
            assert!(found.len() == 1 && found[0].contains("is never dialled"), "{address}: {found:?}");
        }
    }

    #[test]
    fn a_bundle_stays_below_the_ceiling() {
        let loopback = "egress_ceiling: {addresses: [loopback]}\n";
        let hosts = "egress_ceiling: {hosts: ['*.example.com']}\n";
        let beyond_address = "upstreams.a.url: this upstream needs loopback addresses, beyond the ceiling";
        let beyond_private = "upstreams.a.url: this upstream needs private addresses, beyond the ceiling";
        let table = [
            ("public, no ceiling", "http://api.example.com/", "", "", None),
            ("loopback, no ceiling", "http://127.0.0.1/", "", "", Some(beyond_address)),
            ("localhost, no ceiling", "http://localhost/", "", "", Some(beyond_address)),
            ("asked for, no ceiling", "http://crm/", ", addresses: [private]", "", Some(beyond_private)),
            ("loopback granted", "http://127.0.0.1/", "", loopback, None),
            ("private beyond", "http://10.0.0.1/", "", loopback, Some(beyond_private)),
            ("host listed", "http://api.example.com/", "", hosts, None),
            (
                "host beyond",
                "http://evil.org:81/",
                "",
                hosts,
                Some("upstreams.a.url: the host `evil.org:81` is beyond the ceiling"),
            ),
        ];
        for (name, url, rest, bootstrap, problem) in table {
            let found = in_bundle(url, rest, bootstrap)
                .err()
                .map(|report| report.0.iter().map(brief).collect::<Vec<_>>());
            let hit = found
                .as_ref()
                .is_some_and(|found| problem.is_some_and(|p| found.iter().any(|shown| shown == p)));
            assert_eq!((found.is_some(), hit), (problem.is_some(), problem.is_some()), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_ceiling_in_one_file_bounds_that_file() {
        let text = format!("{}egress_ceiling: {{addresses: []}}\n", one_file("http://127.0.0.1/", ""));
        assert_eq!(
            problems(&text),
            ["upstreams.a.url: this upstream needs loopback addresses, beyond the ceiling"]
        );
    }

    #[test]
    fn every_replica_stays_below_the_ceiling() {
        let two = |second: &str| {
            one_file("http://api.example.com/", "").replace(
                "url: 'http://api.example.com/'",
                &format!("replicas: ['http://api.example.com/', '{second}']"),
            )
        };
        let load = |second: &str| {
            let mut environment = MapEnvironment::default();
            let ceiling = "egress_ceiling: {hosts: ['*.example.com']}\n";
            environment.files.insert("g.yaml".into(), format!("version: 1\nbundle: {{path: b}}\n{ceiling}"));
            environment.files.insert(PathBuf::from("b/gateway.yaml"), two(second));
            let found = load(Path::new("g.yaml"), &environment);
            found.map_err(|report| {
                report.0.iter().filter(|d| d.severity == Severity::Error).map(brief).collect::<Vec<_>>()
            })
        };
        assert!(load("http://other.example.com/").is_ok());
        assert_eq!(
            load("http://evil.org/").unwrap_err(),
            ["upstreams.a.replicas[1]: the host `evil.org` is beyond the ceiling"]
        );
        assert_eq!(
            load("http://10.0.0.1/").unwrap_err(),
            [
                "upstreams.a.replicas[0]: this upstream needs private addresses, beyond the ceiling",
                "upstreams.a.replicas[1]: the host `10.0.0.1` is beyond the ceiling",
            ]
        );
        assert_eq!(
            problems(&two("http://169.254.169.254/")),
            [
                "upstreams.a.replicas[1]: `169.254.169.254` is never dialled: a metadata, link-local or reserved address"
            ]
        );
    }

    #[test]
    fn a_secret_goes_to_all_replicas_or_none() {
        let text = |hosts: &str| {
            format!(
                "version: 1\nupstreams: {{a: {{replicas: ['http://a.org/', 'http://b.org/'], \n  \
                 credentials: {{bearer: 'secret:s'}}}}}}\nservers: {{/mcp: a}}\n\
                 secrets: {{s: {{from: 'env:T', hosts: [{hosts}]}}}}\n"
            )
        };
        let variables = [("T", "t0k")];
        assert_eq!(
            loaded_with(&text("'http://a.org', 'http://b.org'"), &variables).snapshot.upstreams.len(),
            1
        );
        assert_eq!(
            problems_with(&text("'http://a.org'"), &variables),
            ["upstreams.a.credentials.bearer: the secret `s` may not be sent to `b.org`"]
        );
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let table = [
            (", transport: sse, era: modern", ".era: no modern server speaks the transport `sse`"),
            (
                ", credentials: passthrough, sessions: shared",
                ".sessions: `sessions: shared` shares between callers what each has by its own credentials",
            ),
            (
                ", credentials: passthrough, trust_cache_scope: true",
                ".trust_cache_scope: `trust_cache_scope: true` shares between callers what each has by its own \
                 credentials",
            ),
            (", by_tenant: {}", ".by_tenant: unknown key `by_tenant`"),
        ];
        for (settings, problem) in table {
            assert_eq!(
                problems(&one_file("http://h/", settings)),
                [format!("upstreams.a{problem}")],
                "{settings}"
            );
        }
        for accepted in [", transport: sse, era: legacy", ", credentials: passthrough, sessions: per_caller"]
        {
            assert_eq!(loaded(&one_file("http://h/", accepted)).snapshot.upstreams.len(), 1, "{accepted}");
        }
        assert_eq!(
            loaded(&one_file("http://h/", ", transport: sse")).snapshot.upstreams[0].era,
            crate::EraMode::Legacy
        );
    }

    #[test]
    fn passthrough_is_warned_about() {
        let loaded = loaded(&one_file("http://h/", ", credentials: passthrough"));
        assert!(loaded.warnings.iter().any(|warning| warning.path == "upstreams.a.credentials"));
    }
}
