//! Fetching what verifying needs: key sets, metadata, and what an issuer says of a token.
//!
//! Over the one dialler, with the bounds of time and size of whoever asks; a redirect is an answer
//! like any other that is not 200.

use crate::backend::headers::put;
use crate::backend::upstreams::pool::{CheckoutOptions, Connection, Pool};
use crate::backend::upstreams::request::Outgoing;
use crate::frontend::context::Gateway;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, ETAG};
use http::{HeaderMap, StatusCode};
use portunus_config::{Credentials, Upstream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A document that was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Its content; `None` if it is as it was.
    pub(super) body: Option<Bytes>,
    /// Its version.
    pub(super) etag: Option<String>,
    /// For how long it says that it is fresh.
    pub(super) fresh: Option<Duration>,
}

struct Request<'a> {
    method: &'static str,
    path: &'a str,
    etag: Option<&'a str>,
    /// A form, for POST.
    form: Bytes,
    most: usize,
}

/// Fetches a JSON document of at most `most` bytes.
///
/// # Errors
/// What went wrong, in words for the log.
pub(super) async fn document(
    gateway: &Gateway,
    at: &Upstream,
    path: &str,
    etag: Option<&str>,
    most: usize,
) -> Result<Fetched, String> {
    let request = Request { method: "GET", path, etag, form: Bytes::new(), most };
    let (status, headers, body) = exchange(gateway, at, &request).await?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let etag = text(ETAG).filter(|etag| etag.len() <= 256);
    let fresh = text(CACHE_CONTROL).as_deref().and_then(max_age);
    match status {
        StatusCode::OK => Ok(Fetched { body: Some(body), etag, fresh }),
        StatusCode::NOT_MODIFIED if request.etag.is_some() => Ok(Fetched { body: None, etag, fresh }),
        status => Err(format!("`{path}` answers with status {}", status.as_u16())),
    }
}

/// Posts a form and reads the answer, of at most `most` bytes and whatever status.
///
/// # Errors
/// If there is none, in words for the log.
pub(super) async fn post(
    gateway: &Gateway,
    at: &Upstream,
    form: Bytes,
    most: usize,
) -> Result<(StatusCode, Bytes), String> {
    let request = Request { method: "POST", path: &at.url.path, etag: None, form, most };
    let (status, _, body) = exchange(gateway, at, &request).await?;
    Ok((status, body))
}

async fn exchange(
    gateway: &Gateway,
    at: &Upstream,
    request: &Request<'_>,
) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let within = at.timeouts.total.unwrap_or(at.timeouts.first_byte);
    let done = timeout(within, exchange_whole(gateway, at, request)).await;
    done.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// One connection, which is not kept: this is done every few minutes.
async fn exchange_whole(
    gateway: &Gateway,
    at: &Upstream,
    request: &Request<'_>,
) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let pool = Arc::new(Pool::new(at));
    let options = CheckoutOptions { fresh: true, ..CheckoutOptions::default() };
    let checkout = pool.checkout(at, &gateway.backend.resolver, options).await;
    let mut checkout = checkout.map_err(|error| error.to_string())?;
    let connection = checkout.connection().ok_or_else(|| "there is no connection".to_owned())?;
    let outgoing = Outgoing::new(head(at, request), request.form.clone());
    let head = connection.exchange(&outgoing).await.map_err(|fault| fault.to_string())?;
    let body = whole(connection, request.most).await?;
    Ok((head.status, head.headers, body))
}

async fn whole(connection: &mut Connection, most: usize) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(piece) = connection.read_body().await.map_err(|fault| fault.to_string())? {
        if whole.len() + piece.len() > most {
            return Err(format!("the answer is larger than {most} bytes"));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn head(at: &Upstream, request: &Request<'_>) -> Vec<u8> {
    let mut out = Outgoing::buffer(request.form.len());
    out.extend_from_slice(format!("{} {} HTTP/1.1\r\n", request.method, request.path).as_bytes());
    put(&mut out, "host", at.url.authority.as_bytes());
    put(&mut out, "user-agent", concat!("portunus/", env!("CARGO_PKG_VERSION")).as_bytes());
    put(&mut out, "accept", b"application/json");
    put(&mut out, "accept-encoding", b"identity");
    if let Some(etag) = request.etag {
        put(&mut out, "if-none-match", etag.as_bytes());
    }
    if let Credentials::Header { name, value } = &at.credentials {
        put(&mut out, name.as_str(), value.expose().as_bytes());
    }
    if request.method == "POST" {
        put(&mut out, "content-type", b"application/x-www-form-urlencoded");
        put(&mut out, "content-length", request.form.len().to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// `max-age` of a `Cache-Control` (RFC 9111 §5.2.2.1).
fn max_age(control: &str) -> Option<Duration> {
    let seconds = control.split(',').find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| value.trim().trim_matches('"').parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_read_as_it_is_written() {
        let table = [
            ("max-age=600", Some(600)),
            ("public, Max-Age=\"60\", must-revalidate", Some(60)),
            ("s-maxage=5", None),
            ("max-age=soon", None),
            ("no-store", None),
        ];
        for (control, expected) in table {
            assert_eq!(max_age(control), expected.map(Duration::from_secs), "{control}");
        }
    }
}
