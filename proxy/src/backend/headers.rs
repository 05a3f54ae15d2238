//! Which headers cross the gateway, in either direction.
//!
//! What belongs to one hop stays on it (RFC 9110 §7.6.1); what says who the client is, is said once
//! and by us; credentials go where the configuration sends them and nowhere else.

mod caller;
mod claims;
mod client_headers;

pub use caller::{stamp, told};
pub use claims::strip;

use crate::backend::forward::Inbound;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, AUTHORIZATION, CONNECTION, CONTENT_LENGTH,
    COOKIE, HOST, InvalidHeaderValue, ORIGIN, SET_COOKIE, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use pingora_http::ResponseHeader;
use portunus_config::{Credentials, HostPolicy, Upstream};
use std::io::Write;
use std::net::IpAddr;

pub use client_headers::{ClientHeaders, HeaderCache, unchanged};

/// The session of a legacy client.
pub const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PORTUNUS_REQUEST_ID: HeaderName = HeaderName::from_static("portunus-request-id");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A field of an answer that the gateway makes.
pub type Field<'a> = (HeaderName, &'a [u8]);

/// Fields of a request that the gateway writes in the client's place.
pub type OwnFields = [(HeaderName, HeaderValue)];

/// Writes the head of the request to an upstream.
pub fn write_request_head(out: &mut Vec<u8>, inbound: &Inbound<'_>, upstream: &Upstream, body_bytes: usize) {
    write_worded_head(out, inbound, &[], upstream, body_bytes);
}

/// As [`write_request_head`]; `own` fields stand for whatever the client says under their names.
pub fn write_worded_head(
    out: &mut Vec<u8>,
    inbound: &Inbound<'_>,
    own: &OwnFields,
    upstream: &Upstream,
    body_bytes: usize,
) {
    let url = &upstream.url;
    out.extend_from_slice(inbound.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(url.path.as_bytes());
    // Beside one of the document's, a client's would add to it: many servers take the last of two equal names.
    if let Some(query) = inbound.query.filter(|_| !url.path.contains('?')) {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let keeps_host = upstream.host == HostPolicy::Preserve;
    let kept_host = keeps_host.then(|| inbound.headers.get(HOST)).flatten();
    put(out, "host", kept_host.map_or(url.authority.as_bytes(), HeaderValue::as_bytes));
    let hop = hop_tokens(inbound.headers);
    for (name, value) in inbound.headers {
        let said_anew = own.iter().any(|(own, _)| own == name);
        if goes_up(name, upstream, &hop)
            && !said_anew
            && (inbound.origin.trace.joined || name != "tracestate")
        {
            put(out, name.as_str(), value.as_bytes());
        }
    }
    for (name, value) in own {
        put(out, name.as_str(), value.as_bytes());
    }
    put(out, "accept-encoding", b"identity");
    put_forwarded(out, inbound);
    let replaced = |name: &str| upstream.headers.set.iter().any(|(set, _)| set.as_str() == name);
    for (name, value) in
        [("x-request-id", &*inbound.origin.arrival.request_id), ("traceparent", &inbound.origin.trace.parent)]
    {
        if !replaced(name) {
            put(out, name, value.as_bytes());
        }
    }
    for (name, value) in &upstream.headers.set {
        put(out, name.as_str(), value.as_bytes());
    }
    if let Credentials::Header { name, value } = &upstream.credentials {
        put(out, name.as_str(), value.expose().as_bytes());
    }
    if inbound.method == Method::POST {
        out.extend_from_slice(b"content-length: ");
        put_decimal(out, body_bytes);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Values come from parsed headers, a checked configuration or our own text: none holds CR or LF.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields of the hop to us, and those that we write ourselves.
fn is_replaced(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "accept-encoding"
            | "forwarded"
            | "x-request-id"
            | "traceparent"
    )
}

/// Whether what a client shows may vouch for the connection that carries it and not for the request
/// alone, as `Negotiate` does (RFC 4559 §6) and any scheme might that is not known here.
pub fn binds_connection(headers: &HeaderMap) -> bool {
    const OF_THE_REQUEST: [&str; 4] = ["Bearer", "Basic", "DPoP", "Digest"];
    let is_of_the_request = |value: &HeaderValue| {
        let scheme = value.to_str().ok().and_then(|text| text.split(' ').next());
        scheme.is_some_and(|scheme| OF_THE_REQUEST.iter().any(|known| known.eq_ignore_ascii_case(scheme)))
    };
    !headers.get_all(AUTHORIZATION).iter().all(is_of_the_request)
}

fn goes_up(name: &HeaderName, upstream: &Upstream, hop: &[HeaderName]) -> bool {
    let credential = *name == AUTHORIZATION || *name == COOKIE;
    if credential && !matches!(upstream.credentials, Credentials::Passthrough) {
        return false;
    }
    let text = name.as_str();
    // `Origin` was checked here against our hosts; next to another Host it would only mislead.
    let origin = *name == ORIGIN && upstream.host != HostPolicy::Preserve;
    let sets = upstream.headers.set.iter().any(|(set, _)| set == name)
        || matches!(&upstream.credentials, Credentials::Header { name: set, .. } if set == name);
    !(is_replaced(text)
        || origin
        || claims::claims_route(text)
        || sets
        || is_hop(text)
        || hop.contains(name)
        || upstream.headers.remove.contains(name)
        || caller::is_kept_from(name, &upstream.caller)
        || caller::is_assertion(name, &upstream.caller))
}

/// One clean `Forwarded` element (RFC 7239).
fn put_forwarded(out: &mut Vec<u8>, inbound: &Inbound<'_>) {
    let said = |name: HeaderName| {
        if !inbound.origin.behind_proxy {
            return None;
        }
        // Twice means that one of them is the client's own.
        let mut values = inbound.headers.get_all(name).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        value.to_str().ok().filter(|text| !text.contains(['"', '\\', ';', ',']))
    };
    let own = if inbound.origin.secure { "https" } else { "http" };
    let proto = said(X_FORWARDED_PROTO).filter(|proto| matches!(*proto, "http" | "https")).unwrap_or(own);
    let own_host = inbound.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = said(X_FORWARDED_HOST).or(own_host).filter(|host| !host.contains(['"', '\\']));
    out.extend_from_slice(b"forwarded: for=");
    put_node(out, inbound.origin.arrival.source);
    if let Some(host) = host {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(proto.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An address as RFC 7239 §6 writes it.
fn put_node(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, part) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                put_decimal(out, usize::from(part));
            }
        }
        // Writing to memory cannot fail.
        IpAddr::V6(address) => drop(write!(out, "\"[{address}]\"")),
    }
}

/// Spelt by hand: what formats anything costs ten times as much, and a call has six numbers.
pub(crate) fn put_decimal(out: &mut Vec<u8>, number: usize) {
    if number >= 10 {
        put_decimal(out, number / 10);
    }
    out.push(b"0123456789"[number % 10]);
}

/// What the gateway adds to every answer of one request.
#[derive(Debug)]
pub struct Stamp<'a> {
    /// The id that is logged and answered.
    pub request_id: &'a str,
    /// The origin that may read the answer, if the request named a listed one.
    pub origin: Option<&'a HeaderValue>,
}

/// True if an answer is stamped as that to a request of this id.
pub fn is_stamped(answer: &HeaderMap, request_id: &str) -> bool {
    answer.get(PORTUNUS_REQUEST_ID).is_some_and(|id| id.as_bytes() == request_id.as_bytes())
}

impl Stamp<'_> {
    /// Adds the gateway's own headers to an answer of its own.
    ///
    /// # Errors
    /// If the id is no header value; ours always is.
    pub fn put(&self, head: &mut ResponseHeader) -> pingora_core::Result<()> {
        for (name, value) in self.fields() {
            head.append_header(name, value)?;
        }
        Ok(())
    }

    /// The gateway's own headers, which an answer has from nobody else.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let id = (PORTUNUS_REQUEST_ID, self.request_id.as_bytes());
        std::iter::once(id).chain(self.for_origin().into_iter().flatten())
    }

    /// What lets a page of a listed origin read the answer (Fetch standard §3.2).
    fn for_origin(&self) -> Option<[Field<'_>; 3]> {
        let exposed = b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, Portunus-Request-Id, Portunus-Outcome";
        Some([
            (ACCESS_CONTROL_ALLOW_ORIGIN, self.origin?.as_bytes()),
            (ACCESS_CONTROL_EXPOSE_HEADERS, exposed),
            (VARY, b"Origin"),
        ])
    }
}

/// The head of the answer to the client, made of the upstream's fields, with a body of `length`, or else in chunks where
/// the client knows them.
///
/// # Errors
/// If the id of the request is no header value; ours always is.
pub fn response_head(
    status: StatusCode,
    mut headers: HeaderMap,
    (length, chunks): (Option<u64>, bool),
    upstream: &Upstream,
    stamp: &Stamp<'_>,
) -> Result<ResponseHeader, InvalidHeaderValue> {
    let hop = hop_tokens(&headers);
    let stays = |name: &&HeaderName| !goes_down(name, upstream, &hop);
    let stay: Vec<HeaderName> = headers.keys().filter(stays).cloned().collect();
    for name in stay {
        headers.remove(name);
    }
    for (name, value) in stamp.fields() {
        headers.append(name, HeaderValue::from_bytes(value)?);
    }
    // The framing is ours, whatever the server's `Connection` names.
    match length {
        // RFC 9110 §8.6: a 204 has no length.
        Some(0) if status == StatusCode::NO_CONTENT => drop(headers.remove(CONTENT_LENGTH)),
        Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        None => drop(headers.remove(CONTENT_LENGTH)),
    }
    if length.is_none() && chunks {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok(head(status, headers))
}

/// The head of an answer with these fields.
pub fn head(status: StatusCode, headers: HeaderMap) -> ResponseHeader {
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    parts.into()
}

fn goes_down(name: &HeaderName, upstream: &Upstream, hop: &[HeaderName]) -> bool {
    let text = name.as_str();
    let ours = text.starts_with("access-control-") || text.starts_with("portunus-") || is_of_origin(text);
    let cookie = *name == SET_COOKIE && !matches!(upstream.credentials, Credentials::Passthrough);
    !(ours || cookie || is_hop(text) || hop.contains(name))
}

/// What speaks for an origin, to a client for which that is the gateway: RFC 7838 (Alt-Svc), RFC 6797 (HSTS), and
/// Clear-Site-Data, Reporting, Network Error Logging and Service Workers of the W3C.
fn is_of_origin(name: &str) -> bool {
    matches!(
        name,
        "alt-svc"
            | "clear-site-data"
            | "nel"
            | "report-to"
            | "reporting-endpoints"
            | "service-worker-allowed"
            | "strict-transport-security"
    )
}

/// What belongs to one hop (RFC 9110 §7.6.1).
pub(crate) fn is_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// A value of its own, to keep: one of a request shares the memory that all of the request was read to.
pub(crate) fn detached(value: &HeaderValue) -> HeaderValue {
    let mut own = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    own.set_sensitive(value.is_sensitive());
    own
}

/// Names that `Connection` declares to belong to the hop.
pub(crate) fn hop_tokens(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // Naming one of these here would strip what the protocol needs, or who we say that calls.
        .filter(|name| {
            !name.as_str().starts_with("mcp-")
                && !caller::is_ours(name.as_str())
                && !matches!(name.as_str(), "content-type" | "accept" | "authorization")
        })
        .collect()
}

#[cfg(test)]
mod tests;
