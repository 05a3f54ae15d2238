//! Answers of upstreams: reading never panics, gives no more than it got, and does not depend on
//! how the bytes arrive.
//!
//! The first byte of an input is the length of the pieces; the rest is what the upstream sends.
//! The module is compiled in by path: the proxy's own crate would bring the whole server.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

#[path = "../../proxy/src/backend/upstreams/wire.rs"]
#[allow(dead_code, unreachable_pub, reason = "compiled in from the proxy")]
mod wire;

use wire::{BodyReader, Malformed, Part, read_head};

fuzz_target!(|input: &[u8]| {
    let Some((length, wire)) = input.split_first() else { return };
    let step = usize::from(*length).max(1);
    let whole = read(wire, wire.len().max(1));
    assert_eq!(read(wire, step), whole, "the answer does not depend on how the bytes arrive");
    if let Ok(Some((_, body, _))) = whole {
        assert!(body.len() <= wire.len(), "no byte is made up");
    }
});

type Answer = Option<(u16, Vec<u8>, bool)>;

/// Status, body and whether it is complete, from bytes that arrive `step` at a time.
fn read(wire: &[u8], step: usize) -> Result<Answer, Malformed> {
    let mut pieces = wire.chunks(step);
    let mut buffer = BytesMut::new();
    let head = loop {
        if let Some(head) = read_head(&mut buffer)? {
            break head;
        }
        let Some(piece) = pieces.next() else { return Ok(None) };
        buffer.extend_from_slice(piece);
    };
    let mut reader = BodyReader::new(head.framing);
    let mut body = Vec::new();
    loop {
        match reader.next_part(&mut buffer)? {
            Part::Data(data) => body.extend_from_slice(&data),
            Part::End => return Ok(Some((head.status.as_u16(), body, true))),
            Part::Starved => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok(Some((head.status.as_u16(), body, false))),
            },
        }
    }
}
