//! A request as it leaves, whatever protocol carries it.

use bytes::Bytes;
use http::{Request, Uri};

/// A body up to this size leaves in one write with its head; a larger one follows without being copied.
const ONE_WRITE_BYTES: usize = 16 * 1024;
const MAX_FIELDS: usize = 256;

/// Head and body of one request, written once for all attempts to send it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    joined: Bytes,
    head_bytes: usize,
    rest: Bytes,
}

impl Outgoing {
    /// Takes a head in the form of HTTP/1.1, and its body.
    pub fn new(mut head: Vec<u8>, body: Bytes) -> Outgoing {
        let head_bytes = head.len();
        let joins = body.len() <= ONE_WRITE_BYTES;
        if joins {
            head.extend_from_slice(&body);
        }
        let rest = if joins { Bytes::new() } else { body };
        Outgoing { joined: head.into(), head_bytes, rest }
    }

    /// Room that a head and the part of a body that joins it may take.
    pub fn buffer(body_bytes: usize) -> Vec<u8> {
        let joins = if body_bytes <= ONE_WRITE_BYTES { body_bytes } else { 0 };
        Vec::with_capacity(1024 + joins)
    }

    /// What leaves in one write: the head, and a small body.
    pub fn joined(&self) -> &[u8] {
        &self.joined
    }

    /// A large body, to follow.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// The body, whatever its size.
    pub fn body(&self) -> Bytes {
        if self.rest.is_empty() { self.joined.slice(self.head_bytes..) } else { self.rest.clone() }
    }

    /// The same head for HTTP/2 (RFC 9113 §8.3.1): `Host` becomes the authority.
    ///
    /// `None` if the head is none; ours always is.
    pub fn head(&self, scheme: &str) -> Option<Request<()>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed.parse(&self.joined[..self.head_bytes]).ok()?;
        let mut request = Request::builder().method(parsed.method?);
        let mut authority = None;
        for field in parsed.headers {
            match field.name {
                "host" => authority = Some(field.value),
                name => request = request.header(name, field.value),
            }
        }
        let uri = Uri::builder().scheme(scheme).authority(authority?).path_and_query(parsed.path?);
        request.uri(uri.build().ok()?).body(()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(body: &[u8]) -> Outgoing {
        let head = "POST /mcp?a=b HTTP/1.1\r\nhost: crm:81\r\nx-a: 1\r\nx-a: 2\r\n\r\n";
        Outgoing::new(head.into(), Bytes::copy_from_slice(body))
    }

    #[test]
    fn small_bodies_join_their_head_and_large_ones_follow() {
        let (small, large) = (outgoing(b"{}"), outgoing(&[b'x'; ONE_WRITE_BYTES + 1]));
        assert!(small.joined().ends_with(b"\r\n\r\n{}") && small.rest().is_empty());
        assert_eq!(small.body(), "{}");
        assert!(large.joined().ends_with(b"\r\n\r\n"));
        assert_eq!((large.rest().len(), large.body().len()), (ONE_WRITE_BYTES + 1, ONE_WRITE_BYTES + 1));
    }

    #[test]
    fn a_head_reads_the_same_in_http_2() {
        let head = outgoing(b"{}").head("https").unwrap();
        assert_eq!(head.uri(), "https://crm:81/mcp?a=b");
        assert_eq!(head.method(), "POST");
        let values: Vec<_> = head.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(!head.headers().contains_key("host"));
    }
}
