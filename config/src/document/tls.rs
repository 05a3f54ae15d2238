//! `tls` of listeners and upstreams.

use std::path::PathBuf;
use std::time::Duration;

use super::secrets;
use crate::diagnostic::{Located, Place};
use crate::limits::POSITIVE_DURATION;
use crate::reader::{Section, Value};
use crate::reference::Reference;
use portunus_base::{ClientCertificateMode, HttpVersion, Pin, TlsVersion, UnknownSni};

/// `tls` of a listener.
#[derive(Clone, Debug)]
pub struct ListenerTlsDocument {
    /// `certificates`; the first is the default.
    pub certificates: Vec<CertificateDocument>,
    /// `min`.
    pub min: TlsVersion,
    /// `unknown_sni`.
    pub unknown_sni: UnknownSni,
    /// `client_certificates`.
    pub client_certificates: Option<ClientCertificatesDocument>,
    /// `handshake_timeout`.
    pub handshake_timeout: Duration,
    /// `max_handshakes`.
    pub max_handshakes: usize,
}

/// A certificate chain and its key.
#[derive(Clone, Debug)]
pub struct CertificateDocument {
    /// `certificate`, a PEM file: the certificate first, then those that signed it.
    pub certificate: Located<PathBuf>,
    /// `key`, a path or a reference.
    pub key: Located<Reference>,
}

/// `client_certificates`.
#[derive(Clone, Debug)]
pub struct ClientCertificatesDocument {
    /// `trust`.
    pub trust: Located<PathBuf>,
    /// `crls`.
    pub crls: Vec<Located<PathBuf>>,
    /// `mode`.
    pub mode: ClientCertificateMode,
}

/// `tls` of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamTlsDocument {
    /// `ca`; `None` for the system's authorities.
    pub ca: Option<Located<PathBuf>>,
    /// `crls`.
    pub crls: Vec<Located<PathBuf>>,
    /// `certificate` and `key`.
    pub certificate: Option<CertificateDocument>,
    /// `pins`.
    pub pins: Vec<Pin>,
    /// `server_name`; `None` for the host of the URL.
    pub server_name: Option<Located<String>>,
    /// `min`.
    pub min: TlsVersion,
    /// Where the section is written.
    pub place: Place,
}

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

pub(crate) const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) const DEFAULT_MAX_HANDSHAKES: usize = 1000;

/// `tls` of a listener; `None` if what is written cannot be used.
pub(super) fn listener(value: &Value<'_>) -> Option<ListenerTlsDocument> {
    value.section(|section| {
        let hint = "write `certificates: {certificate: tls/gateway.pem, key: tls/gateway.key}`";
        let certificates = section.required("certificates", hint).map(|value| {
            let items = value.items_or_one();
            if items.is_empty() {
                value.error("the list is empty", hint);
            }
            items.iter().filter_map(certificate).collect()
        });
        let unknown = [("default", UnknownSni::Default), ("refuse", UnknownSni::Refuse)];
        let timeout = section.value("handshake_timeout").and_then(|value| value.duration(POSITIVE_DURATION));
        let handshakes = section.value("max_handshakes").and_then(|value| value.count(1..=1_000_000));
        Some(ListenerTlsDocument {
            min: min(section),
            unknown_sni: section
                .value("unknown_sni")
                .and_then(|value| value.one_of(&unknown))
                .unwrap_or_default(),
            client_certificates: section.value("client_certificates").and_then(|value| clients(&value)),
            handshake_timeout: timeout.unwrap_or(DEFAULT_HANDSHAKE_TIMEOUT),
            max_handshakes: handshakes.unwrap_or(DEFAULT_MAX_HANDSHAKES),
            certificates: certificates?,
        })
    })?
}

/// `tls` of an upstream.
pub(super) fn upstream(value: &Value<'_>) -> Option<UpstreamTlsDocument> {
    value.section(|section| UpstreamTlsDocument {
        ca: section.value("ca").and_then(|value| path(&value)),
        crls: crls(section),
        certificate: client_certificate(section),
        pins: section.value("pins").map(|value| pins(&value)).unwrap_or_default(),
        server_name: section.value("server_name").and_then(|value| value.text()),
        min: min(section),
        place: section.place().clone(),
    })
}

/// `http` of an upstream.
pub(super) fn http_version(section: &mut Section<'_>) -> Option<Located<HttpVersion>> {
    let words = [("1", HttpVersion::One), ("2", HttpVersion::Two), ("auto", HttpVersion::Auto)];
    let value = section.value("http")?;
    Some(Located { value: value.one_of(&words)?, place: value.place() })
}

fn min(section: &mut Section<'_>) -> TlsVersion {
    section.value("min").and_then(|value| value.one_of(&VERSIONS)).unwrap_or_default()
}

fn certificate(value: &Value<'_>) -> Option<CertificateDocument> {
    value.section(|section| {
        let certificate =
            section.required("certificate", "write `certificate: tls/gateway.pem`").and_then(|v| path(&v));
        let key = section.required("key", "write `key: tls/gateway.key`").and_then(|value| key(&value));
        Some(CertificateDocument { certificate: certificate?, key: key? })
    })?
}

/// The certificate that the gateway shows to an upstream: both keys of it, or neither.
fn client_certificate(section: &mut Section<'_>) -> Option<CertificateDocument> {
    let (certificate, key_value) = (section.value("certificate"), section.value("key"));
    match (certificate, key_value) {
        (None, None) => None,
        (Some(certificate), Some(key_value)) => {
            let (certificate, key) = (path(&certificate), key(&key_value));
            Some(CertificateDocument { certificate: certificate?, key: key? })
        }
        (Some(alone), None) => {
            alone.error("a certificate is shown with its key", "write `key` beside it");
            None
        }
        (None, Some(alone)) => {
            alone.error("a key is used with its certificate", "write `certificate` beside it");
            None
        }
    }
}

/// `client_certificates: tls/clients-ca.pem`, or a mapping.
fn clients(value: &Value<'_>) -> Option<ClientCertificatesDocument> {
    if value.as_text().is_some() {
        return Some(ClientCertificatesDocument {
            trust: path(value)?,
            crls: vec![],
            mode: ClientCertificateMode::Required,
        });
    }
    let modes =
        [("required", ClientCertificateMode::Required), ("optional", ClientCertificateMode::Optional)];
    value.section(|section| {
        let hint = "write `trust: tls/clients-ca.pem`, the authorities that sign the clients' certificates";
        let trust = section.required("trust", hint).and_then(|value| path(&value));
        let crls = crls(section);
        let mode = section.value("mode").and_then(|value| value.one_of(&modes)).unwrap_or_default();
        Some(ClientCertificatesDocument { trust: trust?, crls, mode })
    })?
}

fn crls(section: &mut Section<'_>) -> Vec<Located<PathBuf>> {
    let value = section.value("crls");
    value.map(|value| value.items_or_one().iter().filter_map(path).collect()).unwrap_or_default()
}

fn pins(value: &Value<'_>) -> Vec<Pin> {
    let hint = "write `sha256/` and the base64 of the SHA-256 of the public key (RFC 7469 section 2.4)";
    let items = value.items_or_one();
    if items.is_empty() {
        // An empty list reads as protection and would be none.
        value.error("the list is empty", "name a pin, or remove the key");
    }
    items.iter().filter_map(|item| Some(item.parsed(hint, Pin::parse)?.value)).collect()
}

pub(super) fn path(value: &Value<'_>) -> Option<Located<PathBuf>> {
    match value.as_text() {
        Some(text) if is_pem(text) => {
            value.error("the content of a file stands here", "write it to a file, and its path here");
            None
        }
        _ => value.text().map(|text| Located { value: text.value.into(), place: text.place }),
    }
}

/// A private key: a reference, or the path of its file. Anything else may be the key itself.
fn key(value: &Value<'_>) -> Option<Located<Reference>> {
    match value.as_text() {
        Some(text) if !is_pem(text) && !text.is_empty() && Reference::parse(text).is_none() => {
            let path = Reference::File(text.into());
            Some(Located { value: path, place: value.place() })
        }
        _ => secrets::reference(value),
    }
}

fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN") || text.contains('\n')
}
