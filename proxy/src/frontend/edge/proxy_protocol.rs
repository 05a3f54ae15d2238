//! PROXY protocol, version 2: a balancer in front says who its client is.
//!
//! The header comes before anything else on the connection, TLS included, and only from peers that
//! are trusted: whoever may send it chooses what address the rest of the gateway sees.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses, and the extensions after them that nobody here reads.
const MAX_BODY: usize = 4096;

/// Reads the header; the client's address, or `None` if the balancer speaks for itself.
///
/// # Errors
/// If what comes is no header, or one that is too long; nothing else of the connection can be
/// trusted then.
pub(super) async fn announced<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<Option<IpAddr>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if &head[..12] != SIGNATURE {
        return Err(invalid("the connection does not begin with a PROXY protocol v2 header"));
    }
    if length > MAX_BODY {
        return Err(invalid("the PROXY protocol header is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    client(head[12], head[13], &body)
}

/// The address in a header's body.
fn client(command: u8, family: u8, body: &[u8]) -> io::Result<Option<IpAddr>> {
    const TRUNCATED: &str = "the PROXY protocol header ends within its addresses";
    match command {
        0x20 => Ok(None),
        0x21 => match family >> 4 {
            // UNSPEC and Unix sockets have no address that a rule could read.
            0 | 3 => Ok(None),
            1 => {
                let source = body.first_chunk::<12>().and_then(|both| both.first_chunk::<4>());
                let source = source.ok_or_else(|| invalid(TRUNCATED))?;
                Ok(Some(Ipv4Addr::from(*source).into()))
            }
            2 => {
                let source = body.first_chunk::<36>().and_then(|both| both.first_chunk::<16>());
                let source = source.ok_or_else(|| invalid(TRUNCATED))?;
                Ok(Some(IpAddr::from(Ipv6Addr::from(*source)).to_canonical()))
            }
            _ => Err(invalid("the PROXY protocol header names an unknown address family")),
        },
        _ => Err(invalid("the PROXY protocol header has an unknown version or command")),
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[tokio::test]
    async fn headers_are_read_or_refused() {
        let four = [198, 51, 100, 9, 10, 0, 0, 1, 0, 1, 0, 2];
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 7;
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        let with_extension = [&four[..], &[4, 0, 1, 0]].concat();
        let address = |text: &str| Some(Some(text.parse::<IpAddr>().unwrap()));
        let cases: Vec<(&str, Vec<u8>, Option<Option<IpAddr>>)> = vec![
            ("IPv4", header(0x21, 0x11, &four), address("198.51.100.9")),
            ("IPv4 with extensions", header(0x21, 0x11, &with_extension), address("198.51.100.9")),
            ("IPv6", header(0x21, 0x21, &six), address("2001::7")),
            ("mapped", header(0x21, 0x21, &mapped), address("192.0.2.1")),
            ("local", header(0x20, 0, &[]), Some(None)),
            ("unspecified", header(0x21, 0, &[]), Some(None)),
            ("Unix", header(0x21, 0x31, &[0; 216]), Some(None)),
            ("truncated addresses", header(0x21, 0x11, &four[..11]), None),
            ("version 1", b"PROXY TCP4 198.51.100.9 10.0.0.1 1 2\r\n".to_vec(), None),
            ("version 3", header(0x31, 0x11, &four), None),
            ("an unknown command", header(0x22, 0x11, &four), None),
            ("an unknown family", header(0x21, 0x41, &four), None),
            ("too long", header(0x21, 0x11, &[0; MAX_BODY + 1]), None),
            ("cut off", header(0x21, 0x11, &four)[..20].to_vec(), None),
            ("TLS instead", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5, 6], None),
        ];
        for (name, bytes, expected) in cases {
            let wire = [bytes, b"GET".to_vec()].concat();
            let mut rest = &wire[..];
            assert_eq!(announced(&mut rest).await.ok(), expected, "{name}");
            if expected.is_some() {
                assert_eq!(rest, b"GET", "{name}: nothing more is taken");
            }
        }
    }
}
