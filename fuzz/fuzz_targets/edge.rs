//! What is read of a connection before HTTP is: the PROXY protocol header takes exactly its own bytes,
//! and the scale of HTTP/2 frames judges the same however the bytes arrive.
//!
//! The modules are compiled in by path: the proxy's own crate would bring the whole server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[path = "../../proxy/src/frontend/edge/frames.rs"]
#[allow(dead_code, unreachable_pub, reason = "compiled in from the proxy")]
mod frames;
#[path = "../../proxy/src/frontend/edge/proxy_protocol.rs"]
#[allow(dead_code, unreachable_pub, reason = "compiled in from the proxy")]
mod proxy_protocol;

fuzz_target!(|input: &[u8]| {
    announces(input);
    weighs(input);
});

/// A header is read in one go from bytes that are all there, and nothing behind it is taken.
fn announces(input: &[u8]) {
    let mut rest = input;
    let read = match pin!(proxy_protocol::announced(&mut rest)).poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(read) => read,
        Poll::Pending => panic!("waits for bytes although the input has ended"),
    };
    if read.is_ok() {
        let length = usize::from(u16::from_be_bytes([input[14], input[15]]));
        assert_eq!(rest.len(), input.len() - 16 - length);
    }
}

/// The verdict does not depend on the pieces in which frames arrive; more data never costs less.
fn weighs(input: &[u8]) {
    let now = Instant::now();
    let Some((&step, bytes)) = input.split_first() else { return };
    let whole = frames::FrameScale::new(0, now).weigh(bytes, now);
    let mut scale = frames::FrameScale::new(0, now);
    let mut pieces = bytes.chunks(usize::from(step) + 1);
    assert_eq!(whole, pieces.all(|piece| scale.weigh(piece, now)));
    let mut generous = frames::FrameScale::new(0, now);
    generous.sent(1 << 20);
    assert!(!whole || generous.weigh(bytes, now));
}
