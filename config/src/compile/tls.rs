//! TLS of listeners and upstreams: files read, pairs matched, handshakes prepared.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateRevocationListDer, ServerName};
use rustls::sign::CertifiedKey;

use super::Keyring;
use crate::diagnostic::{Findings, Located, Place};
use crate::document::{CertificateDocument, ListenerTlsDocument, UpstreamTlsDocument};
use crate::files::Files;
use crate::reference::Reference;
use crate::tls::{
    self, CertificateFacts, Certificates, ClientCertificates, ClientParts, ListenerTls, ListenerTlsSettings,
    Problem, ServerParts, Trust, UpstreamTls, UpstreamTlsSettings,
};
use portunus_base::{HttpVersion, Scheme, TlsVersion, UpstreamUrl};

/// How a listener speaks TLS; `None` if something is wrong with it.
pub(super) fn listener(
    document: &ListenerTlsDocument,
    http2: bool,
    place: &Place,
    files: &Files<'_>,
) -> Option<ListenerTls> {
    let pairs = document.certificates.iter().map(|pair| server_certificate(pair, files));
    // Each is read before one that is wrong ends this, so that all are reported.
    let certificates: Vec<_> = pairs.collect();
    let clients = document.client_certificates.as_ref().map(|clients| {
        let roots = files.parsed(&clients.trust, tls::authorities);
        let lists = revocation_lists(&clients.crls, files);
        Some((Trust { roots: Arc::new(roots?), lists: lists? }, clients.mode))
    });
    let (chains, facts): (Vec<_>, Vec<_>) =
        certificates.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
    let names = facts.iter().map(|facts: &CertificateFacts| facts.names.clone());
    let parts = ServerParts {
        certificates: chains.into_iter().zip(names).collect(),
        unknown_sni: document.unknown_sni,
        clients: match clients {
            Some(clients) => Some(clients?),
            None => None,
        },
        min: document.min,
        http2,
    };
    let identity = parts.identity();
    let (config, clients) = reported(parts.build(), place, files.findings())?;
    Some(ListenerTls {
        config: Arc::new(config),
        clients,
        handshake_timeout: document.handshake_timeout,
        max_handshakes: document.max_handshakes,
        certificates: facts,
        settings: Arc::new(listener_settings(document, files)),
        identity,
    })
}

/// How an upstream is spoken to: `Some(None)` is plain HTTP, `None` that something is wrong.
///
/// The two are apart, so that no mistake can end as plain text. All of `urls` have one scheme; the
/// name to verify is that of the first.
pub(super) fn upstream(
    document: Option<&UpstreamTlsDocument>,
    urls: &[&Located<UpstreamUrl>],
    http: HttpVersion,
    files: &Files<'_>,
    keyring: &Keyring<'_>,
) -> Option<Option<UpstreamTls>> {
    let findings = files.findings();
    let url = urls.first()?;
    if url.value.scheme == Scheme::Http {
        if let Some(document) = document {
            let hint = "write `https://` in the URL, or remove the section: it would look like protection";
            findings.error(&document.place, "the URL of this upstream is `http://`", hint);
        }
        return Some(None);
    }
    let place = document.map_or(&url.place, |document| &document.place);
    // Each replica's is found wrong here, so that none can be later.
    let names: Vec<_> = urls.iter().map(|url| server_name(document, url, findings)).collect();
    let trust = upstream_trust(document, place, files);
    let pair = document.and_then(|document| document.certificate.as_ref());
    let certificate = pair.map(|pair| client_certificate(pair, urls, files, keyring));
    let parts = ClientParts {
        trust: trust?,
        pins: document.map(|document| document.pins.clone()).unwrap_or_default(),
        certificate: match certificate {
            Some(certificate) => Some(certificate?),
            None => None,
        },
        min: document.map_or(TlsVersion::default(), |document| document.min),
        http,
    };
    let identity = parts.identity();
    let settings = document.map(|document| upstream_settings(document, files, keyring));
    Some(Some(UpstreamTls {
        config: Arc::new(reported(parts.build(), place, findings)?),
        server_name: names.into_iter().collect::<Option<Vec<_>>>()?.into_iter().next()?,
        settings: Arc::new(settings.unwrap_or_default()),
        identity,
    }))
}

/// A certificate that clients are shown, with what it says about itself.
fn server_certificate(
    pair: &CertificateDocument,
    files: &Files<'_>,
) -> Option<(Arc<CertifiedKey>, CertificateFacts)> {
    let chain = chain(&pair.certificate, files);
    let refuse = |problem: &str| {
        files.findings().error(&pair.key.place, problem, "write the path of a file, or `env:NAME`");
        None
    };
    let text = match &pair.key.value {
        Reference::Named(_) => refuse("a named secret is for upstreams, within its hosts"),
        Reference::Vault => refuse("this build cannot read from `vault:`"),
        reference => files.secret(reference, &pair.key.place),
    };
    let chain = chain?;
    let leaf = chain.facts.first()?;
    if leaf.names.is_empty() && !leaf.has_addresses {
        let problem = "has a certificate that names no host, so clients will not accept it";
        let hint = "make one with its names as subject alternative names";
        files.warn(&pair.certificate, Problem::new(problem, hint));
    }
    let facts = CertificateFacts {
        names: leaf.names.clone(),
        not_after: Duration::from_secs(u64::try_from(leaf.not_after).unwrap_or_default()),
    };
    let certified = tls::private_key(&text?).and_then(|key| tls::certified(chain, key));
    let problem = match certified {
        Ok(certified) => return Some((Arc::new(certified), facts)),
        Err(problem) => problem,
    };
    let named = format!("`{}` {}", pair.key.value, problem.problem);
    files.findings().error(&pair.key.place, named, problem.hint);
    None
}

/// The certificate that the gateway shows to an upstream.
fn client_certificate(
    pair: &CertificateDocument,
    urls: &[&Located<UpstreamUrl>],
    files: &Files<'_>,
    keyring: &Keyring<'_>,
) -> Option<Arc<CertifiedKey>> {
    let chain = chain(&pair.certificate, files);
    let targets: Vec<_> = urls.iter().map(|url| &url.value).collect();
    let key = keyring.parsed(&pair.key, &targets, |text| {
        let key = tls::private_key(text)?;
        chain.map(|chain| tls::certified(chain, key)).transpose()
    });
    key?.map(Arc::new)
}

/// A chain in its order; dates that the other side will not accept are warned about.
fn chain(path: &Located<PathBuf>, files: &Files<'_>) -> Option<Certificates> {
    let chain = files.parsed(path, |text| {
        let chain = tls::certificates(text)?;
        chain.check_order().map(|()| chain)
    })?;
    chain.doubts(files.reads.now()).into_iter().for_each(|doubt| files.warn(path, doubt));
    Some(chain)
}

fn revocation_lists(
    paths: &[Located<PathBuf>],
    files: &Files<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let read = |path: &Located<PathBuf>| {
        let lists = files.parsed(path, tls::revocation_lists)?;
        let doubts = lists.iter().filter_map(|list| list.doubt(files.reads.now()));
        doubts.for_each(|doubt| files.warn(path, doubt));
        Some(lists.into_iter().map(|list| list.der))
    };
    let all: Vec<_> = paths.iter().map(read).collect();
    Some(all.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The name that is asked for and verified: `server_name`, else the host of the URL.
fn server_name(
    document: Option<&UpstreamTlsDocument>,
    url: &Located<UpstreamUrl>,
    findings: &Findings,
) -> Option<ServerName<'static>> {
    let (name, place) = match document.and_then(|document| document.server_name.as_ref()) {
        Some(name) => (&name.value, &name.place),
        None => (&url.value.host.bare(), &url.place),
    };
    let parsed = ServerName::try_from(name.clone());
    if parsed.is_err() {
        let hint = "name what stands in the server's certificate: `tls: {server_name: crm.example.com}`";
        findings.error(place, format!("`{name}`: not a name that a certificate has"), hint);
    }
    parsed.ok()
}

fn upstream_trust(document: Option<&UpstreamTlsDocument>, place: &Place, files: &Files<'_>) -> Option<Trust> {
    let lists = document.map_or(Some(vec![]), |document| revocation_lists(&document.crls, files));
    let roots = match document.and_then(|document| document.ca.as_ref()) {
        Some(ca) => files.parsed(ca, tls::authorities).map(Arc::new),
        None => files.system_trust(place),
    };
    Some(Trust { roots: roots?, lists: lists? })
}

fn reported<T>(built: Result<T, Problem>, place: &Place, findings: &Findings) -> Option<T> {
    built.map_err(|problem| findings.error(place, format!("it {}", problem.problem), problem.hint)).ok()
}

fn listener_settings(document: &ListenerTlsDocument, files: &Files<'_>) -> ListenerTlsSettings {
    let clients = document.client_certificates.as_ref();
    let pair = |pair: &CertificateDocument| (shown(&pair.certificate, files), pair.key.value.clone());
    ListenerTlsSettings {
        certificates: document.certificates.iter().map(pair).collect(),
        min: document.min,
        unknown_sni: document.unknown_sni,
        client_certificates: clients.map(|clients| ClientCertificates {
            trust: shown(&clients.trust, files),
            crls: clients.crls.iter().map(|path| shown(path, files)).collect(),
            mode: clients.mode,
        }),
    }
}

fn upstream_settings(
    document: &UpstreamTlsDocument,
    files: &Files<'_>,
    keyring: &Keyring<'_>,
) -> UpstreamTlsSettings {
    let pair =
        |pair: &CertificateDocument| (shown(&pair.certificate, files), keyring.followed(&pair.key.value));
    UpstreamTlsSettings {
        ca: document.ca.as_ref().map(|ca| shown(ca, files)),
        crls: document.crls.iter().map(|path| shown(path, files)).collect(),
        certificate: document.certificate.as_ref().map(pair),
        pins: document.pins.clone(),
        server_name: document.server_name.as_ref().map(|name| name.value.clone()),
        min: document.min,
    }
}

fn shown(path: &Located<PathBuf>, files: &Files<'_>) -> PathBuf {
    files.seen_from_document(&path.value)
}

#[cfg(test)]
mod tests;
