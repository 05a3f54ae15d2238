//! `identity`: issuers with their keys, and what each server asks.

mod issuers;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::identity::{CertificateRules, Revoked, is_trust_domain, plain};

use super::{Confinement, Keyring, api_keys};
use crate::diagnostic::{Findings, Located, Place};
use crate::document::{
    AskedDocument, IdentityDocument, MtlsDocument, RevokedDocument, RulesDocument, ServerIdentityDocument,
};
use crate::files::Files;
use crate::identity::{Asked, ClientNames, Identities, Profile, Shows, Stranger, Written, sorted};
use crate::reader::suggestion;
use crate::snapshot::VirtualServer;
use crate::tls::{Signers, authorities};

const NAME: &str = "write 1 to 512 bytes without control characters";

/// Keys are fetched again after this, unless the issuer asks for it sooner.
const REFRESH: Duration = Duration::from_secs(600);
/// For how long what an issuer said of a token is kept.
const CACHE: Duration = Duration::from_secs(30);

/// What compiles into `identity`, for the functions below.
pub(super) struct Context<'a> {
    pub(super) confinement: Confinement<'a>,
    pub(super) files: &'a Files<'a>,
    pub(super) keyring: &'a Keyring<'a>,
}

impl Context<'_> {
    fn findings(&self) -> &Findings {
        self.files.findings()
    }
}

/// `identity` at the top.
pub(super) fn compile(document: &IdentityDocument, context: &Context<'_>) -> Identities {
    let findings = context.findings();
    check_any(document, findings);
    let trusts = document.jwt.iter().filter_map(|one| issuers::trust(one, context)).map(Arc::new);
    let trusts: Vec<_> = trusts.collect();
    let asked = document.introspection.iter().filter_map(|one| issuers::inspection(one, context));
    let inspections: Vec<_> = asked.map(Arc::new).collect();
    issuers::check_unique(document, findings);
    Identities {
        url: document.url.as_ref().and_then(|url| resources::public_url(url, findings)),
        trusts,
        inspections,
        certificates: document.mtls.as_ref().map(|mtls| Arc::new(certificates(mtls, context.files))),
        keys: document
            .keys
            .as_ref()
            .map(|keys| Arc::new(api_keys::keys(keys, context.files, context.keyring))),
        revoked: Arc::new(revoked(&document.revoked, findings)),
        metadata: resources::metadata(&document.metadata, findings),
        asked: asked_of(&document.asked, &Asked::default(), findings),
    }
}

/// Gives each server what it asks of its callers; the servers are those of the document, in its order.
pub(super) fn assign(
    servers: &mut [VirtualServer],
    identities: Option<&Identities>,
    rules: &RulesDocument,
    findings: &Findings,
) {
    for (server, document) in servers.iter_mut().zip(&rules.servers) {
        let own = document.identity.as_ref();
        match (identities, own) {
            (Some(identities), own) => {
                let asks = Asks { path: &document.path, place: &document.place, own };
                server.identity = Some(Arc::new(profile(identities, &asks, findings)));
            }
            (None, Some(own)) => {
                let problem = "nobody is identified, so that nothing can be asked of callers here";
                findings.error(&own.place, problem, "write `identity` at the top of the document");
            }
            (None, None) => {}
        }
    }
}

/// A server, as far as identity concerns it.
struct Asks<'a> {
    path: &'a str,
    place: &'a Place,
    own: Option<&'a ServerIdentityDocument>,
}

/// What one server asks, and whom it believes.
fn profile(identities: &Identities, asks: &Asks<'_>, findings: &Findings) -> Profile {
    let Asks { path, place, own } = *asks;
    let written = written(identities, own, findings);
    let asked = match own {
        Some(own) => asked_of(&own.asked, &identities.asked, findings),
        None => identities.asked.clone(),
    };
    let uri = resources::uri(identities, &written, path);
    let named = |name: &Arc<str>| written.issuers.as_ref().is_none_or(|issuers| issuers.contains(name));
    let audiences = |of_issuer: &Arc<[Arc<str>]>| -> Arc<[Arc<str>]> {
        match (written.audiences.is_empty(), of_issuer.is_empty()) {
            (false, _) => written.audiences.clone().into(),
            (true, false) => Arc::clone(of_issuer),
            (true, true) => uri.iter().cloned().collect(),
        }
    };
    let trusts = identities.trusts.iter().filter(|trust| named(&trust.issuer.name));
    let trusts: Vec<_> = trusts.map(|trust| (Arc::clone(trust), audiences(&trust.audiences))).collect();
    let inspections = identities.inspections.iter().filter(|one| named(&one.issuer.name));
    let inspections: Vec<_> = inspections.map(|one| (Arc::clone(one), audiences(&one.audiences))).collect();
    let place = own.map_or(place, |own| &own.place);
    if trusts
        .iter()
        .map(|(_, all)| all)
        .chain(inspections.iter().map(|(_, all)| all))
        .any(|all| all.is_empty())
    {
        let problem = "for whom tokens have to be is not said";
        let hint = "write `audience` at the issuer, `identity: {url: \"https://…\"}` at the top, or \
                    `identity: {resource: \"https://…\"}` at the server";
        findings.error(place, problem, hint);
    }
    let possible = |shows| match shows {
        Shows::Jwt => !trusts.is_empty() || !inspections.is_empty(),
        Shows::Mtls => identities.certificates.is_some(),
        Shows::Key => identities.keys.is_some(),
    };
    for shows in asked.require.iter().filter(|shows| !possible(**shows)) {
        let problem = format!("`{}` is required, and nothing here takes one", shows.as_str());
        findings.error(place, problem, format!("write `identity.{}`", key_of(*shows)));
    }
    if uri.is_none() && (possible(Shows::Jwt)) {
        let problem = "clients cannot find out where to be authorized: this server has no public URL";
        let hint = "write `identity: {url: \"https://gw.example.com\"}`, which the paths of servers follow";
        findings.warn(place, problem, hint);
    }
    let resource = uri.map(|uri| resources::resource(identities, &trusts, &inspections, &asked, uri));
    Profile {
        trusts,
        inspections,
        certificates: identities.certificates.clone(),
        keys: identities.keys.clone(),
        revoked: Arc::clone(&identities.revoked),
        asked,
        resource,
        written,
    }
}

fn key_of(shows: Shows) -> &'static str {
    match shows {
        Shows::Jwt => "jwt",
        Shows::Mtls => "mtls",
        Shows::Key => "keys",
    }
}

/// A section that lets nobody in, or everybody, says so.
fn check_any(document: &IdentityDocument, findings: &Findings) {
    let anonymous = document.asked.anonymous.as_ref().is_some_and(Option::is_some);
    let none = document.jwt.is_empty()
        && document.introspection.is_empty()
        && document.mtls.is_none()
        && document.keys.is_none();
    if none && !anonymous {
        let hint = "write `jwt`, `introspection`, `mtls`, `keys`, or `anonymous: allow`";
        findings.error(&document.place, "nobody could call: no way to say who one is is taken", hint);
    }
    if anonymous {
        let problem = "callers that show nothing are served";
        findings.warn(&document.place, problem, "let `policy` say what they may do");
    }
}

fn written(identities: &Identities, own: Option<&ServerIdentityDocument>, findings: &Findings) -> Written {
    let Some(own) = own else { return Written::default() };
    let known: Vec<&str> = identities
        .trusts
        .iter()
        .map(|trust| &*trust.issuer.name)
        .chain(identities.inspections.iter().map(|one| &*one.issuer.name))
        .collect();
    for issuer in own.issuers.iter().flatten().filter(|issuer| !known.contains(&issuer.value.as_str())) {
        let hint = suggestion(&issuer.value, &known, "known issuers:");
        findings.error(&issuer.place, format!("no issuer is named `{}`", issuer.value), hint);
    }
    let texts = |texts: &[Located<String>]| texts.iter().map(|text| text.value.as_str().into()).collect();
    Written {
        resource: own.resource.as_ref().and_then(|url| resources::public_url(url, findings)),
        audiences: texts(&own.audiences),
        issuers: own.issuers.as_deref().map(texts),
    }
}

/// What is asked; keys that are not written are as in `base`.
fn asked_of(document: &AskedDocument, base: &Asked, findings: &Findings) -> Asked {
    let require = document.require.as_ref().map(|require| {
        let all: BTreeSet<Shows> = require.iter().map(|shows| shows.value).collect();
        all.into_iter().collect()
    });
    let require = require.unwrap_or_else(|| base.require.clone());
    let anonymous = match &document.anonymous {
        None => base.anonymous.clone(),
        Some(None) => None,
        Some(Some(stranger)) => {
            let tenant = stranger.tenant.as_ref().and_then(|tenant| name(tenant, findings));
            Some(Arc::new(Stranger {
                tenant: tenant.unwrap_or_else(|| Stranger::TENANT.into()),
                roles: list(&stranger.roles, findings).into(),
                scopes: list(&stranger.scopes, findings).into(),
            }))
        }
    };
    if let (Some(written), Some(_)) = (document.require.iter().flatten().next(), &anonymous) {
        let problem = "both `require` and `anonymous` are in force here";
        findings.error(&written.place, problem, "remove `require`, or write `anonymous: off`");
    }
    let scopes = document.scopes.as_ref().map(|scopes| {
        scopes.iter().for_each(|scope| check_scope(scope, findings));
        sorted(scopes.iter().map(|scope| scope.value.clone()))
    });
    Asked { require, anonymous, scopes: scopes.unwrap_or_else(|| Arc::clone(&base.scopes)) }
}

/// RFC 6749 §3.3.
fn check_scope(scope: &Located<String>, findings: &Findings) {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if !scope.value.bytes().all(allowed) {
        let hint = "write visible ASCII without spaces, quotes and backslashes";
        findings.error(&scope.place, format!("`{}` is no scope", scope.value), hint);
    }
}

fn certificates(document: &MtlsDocument, files: &Files<'_>) -> ClientNames {
    let findings = files.findings();
    let domains = || document.trust_domains.iter().map(|(domain, _)| domain);
    for domain in domains().filter(|domain| !is_trust_domain(&domain.value)) {
        let hint = "write it as it stands in SPIFFE IDs, without `spiffe://`: `example.org`";
        findings.error(&domain.place, format!("`{}` is no trust domain", domain.value), hint);
    }
    for pattern in &document.dns {
        let rest = pattern.value.strip_prefix("*.").unwrap_or(&pattern.value);
        if rest.is_empty() || rest.contains('*') || !rest.is_ascii() {
            let hint = "write `planner.agents.internal` or `*.agents.internal`";
            findings.error(&pattern.place, format!("`{}` is no DNS name", pattern.value), hint);
        }
    }
    if document.trust_domains.is_empty() && document.dns.is_empty() {
        let hint = "write `trust_domains: [example.org]`, or `dns: [\"*.agents.internal\"]`";
        findings.error(&document.place, "no name in a certificate is taken", hint);
    }
    let lower = |text: &Located<String>| text.value.to_ascii_lowercase().into();
    let rules = CertificateRules {
        trust_domains: domains().map(|domain| domain.value.as_str().into()).collect(),
        dns: document.dns.iter().map(lower).collect(),
        tenant: document.tenant.as_ref().and_then(|tenant| name(tenant, findings)),
        roles: list(&document.roles, findings),
    };
    let signers = document.trust_domains.iter().filter_map(|(domain, file)| {
        let file = file.as_ref()?;
        let signers = files.parsed(file, |text| authorities(text).and_then(Signers::of))?;
        Some((domain.value.as_str().into(), (files.seen_from_document(&file.value), Arc::new(signers))))
    });
    ClientNames { rules, signers: signers.collect(), token_caller: document.token_caller }
}

fn revoked(document: &RevokedDocument, findings: &Findings) -> Revoked {
    let mut subjects: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    // A subject without a tenant is meant in all of them, whatever else is written.
    let anywhere: BTreeSet<&str> = document
        .subjects
        .iter()
        .filter(|(tenant, _)| tenant.is_none())
        .map(|(_, one)| one.value.as_str())
        .collect();
    for (tenant, subject) in &document.subjects {
        let tenants = subjects.entry(subject.value.as_str().into()).or_default();
        let tenant = tenant.as_ref().filter(|_| !anywhere.contains(subject.value.as_str()));
        tenants.extend(tenant.map(|tenant| Arc::from(tenant.value.as_str())));
    }
    let fingerprint = |text: &Located<String>| {
        let bytes = fingerprint(&text.value);
        if bytes.is_none() {
            let hint =
                "write its SHA-256 as 64 hex digits: `openssl x509 -noout -fingerprint -sha256 -in FILE`";
            findings.error(&text.place, "this is no fingerprint of a certificate", hint);
        }
        bytes
    };
    let texts = |texts: &[Located<String>]| texts.iter().map(|text| text.value.as_str().into()).collect();
    Revoked {
        subjects,
        tokens: texts(&document.tokens),
        keys: texts(&document.keys),
        certificates: document.certificates.iter().filter_map(fingerprint).collect(),
    }
}

/// A SHA-256 in hex, with or without colons.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let pairs = digits.chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let hex = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let bytes: Option<Vec<u8>> = hex.then(|| pairs.map(byte).collect()).flatten();
    bytes?.try_into().ok()
}

fn name(text: &Located<String>, findings: &Findings) -> Option<Arc<str>> {
    let name = plain(&text.value);
    if name.is_none() {
        findings.error(&text.place, "this cannot be a name", NAME);
    }
    name
}

fn list(texts: &[Located<String>], findings: &Findings) -> Vec<Arc<str>> {
    let mut all: Vec<Arc<str>> = texts.iter().filter_map(|text| name(text, findings)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
