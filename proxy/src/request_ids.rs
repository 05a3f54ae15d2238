//! Ids of requests and events, and the traces that they belong to.

use crate::entropy::random;
use http::{HeaderMap, HeaderName};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Makes ids that no other request of the process has; its prefix lives as long as the process.
pub struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

/// The trace that a request belongs to (W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The value that goes upstream.
    pub parent: Arc<str>,
    /// True if a header of the client named it; else its header `tracestate` belongs to another one.
    pub joined: bool,
}

impl Trace {
    /// The trace that a message names as `traceparent`; what else it says of it stays there.
    pub fn named(parent: &str) -> Option<Trace> {
        is_traceparent(parent).then(|| Trace { parent: parent.into(), joined: false })
    }

    /// The 32 hex digits of the trace.
    pub fn id(&self) -> &str {
        self.parent.get(3..35).unwrap_or_default()
    }
}

impl RequestIds {
    /// Ids with a new prefix.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new() -> std::io::Result<RequestIds> {
        let failed = || std::io::Error::other("the system has no randomness");
        let random: [u8; 5] = random().ok_or_else(failed)?;
        let mut prefix = vec![b'-'; 2 * random.len() + 1];
        put_hex(&mut prefix, &random);
        let prefix = String::from_utf8(prefix).map_err(|_| failed())?;
        Ok(RequestIds { prefix, next: AtomicU64::new(1) })
    }

    /// The id of a request: the client's own `X-Request-Id` if it is one plain token, else a new one.
    pub fn request_id(&self, headers: &HeaderMap) -> Arc<str> {
        let offered = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        match offered.filter(|id| is_token(id)) {
            Some(id) => id.into(),
            None => self.event_id(),
        }
    }

    /// An id that no client can choose.
    pub fn event_id(&self) -> Arc<str> {
        self.spell(self.number()).as_str().into()
    }

    /// The number of a new event, which no other of the process has; spelt out only where it is read.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The id of an event: `PREFIX-NUMBER` in hexadecimal.
    pub fn spell(&self, event: u64) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 16);
        id.push_str(&self.prefix);
        // Writing to a `String` cannot fail.
        let _ = write!(id, "{event:x}");
        id
    }

    /// The trace that the client names, or a new one.
    pub fn trace(&self, headers: &HeaderMap) -> Trace {
        let offered = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        match offered.filter(|value| is_traceparent(value)) {
            Some(value) => Trace { parent: value.into(), joined: true },
            None => {
                // Without randomness the trace is all zeroes, which every collector drops as invalid.
                let bytes: [u8; 24] = random().unwrap_or_default();
                let mut parent = *b"00-                                -                -00";
                put_hex(&mut parent[3..35], &bytes[..16]);
                put_hex(&mut parent[36..52], &bytes[16..]);
                Trace { parent: std::str::from_utf8(&parent).unwrap_or_default().into(), joined: false }
            }
        }
    }
}

fn is_token(id: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte))
}

fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return false };
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    *version == "00"
        && is_hex(trace, 32)
        && is_set(trace)
        && is_hex(parent, 16)
        && is_set(parent)
        && is_hex(flags, 2)
}

/// Writes each byte as two digits, as far as there is room.
fn put_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (pairs, _) = out.as_chunks_mut();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn request_ids_are_joined_only_if_they_are_tokens() {
        let ids = RequestIds::new().unwrap();
        assert_eq!(&*ids.request_id(&headers(&[("x-request-id", "abc-1")])), "abc-1");
        for bad in ["", "a b", "<x>", "a\"b"] {
            assert_ne!(&*ids.request_id(&headers(&[("x-request-id", bad)])), bad);
        }
        let fresh = HeaderMap::new();
        assert_ne!(ids.request_id(&fresh), ids.request_id(&fresh));
    }

    #[test]
    fn traces_are_joined_if_valid_and_made_otherwise() {
        let ids = RequestIds::new().unwrap();
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = ids.trace(&headers(&[("traceparent", valid)]));
        assert_eq!((&*trace.parent, trace.id()), (valid, "4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "garbage",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let made = ids.trace(&headers(&[("traceparent", bad)]));
            assert!(&*made.parent != bad && is_traceparent(&made.parent), "{}", made.parent);
        }
    }
}
