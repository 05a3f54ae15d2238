//! The raw check of header sections: it never panics, does not depend on how the bytes arrive, and
//! what it accepts is one unambiguous request for the parser behind it too.
//!
//! The module is compiled in by path: the proxy's own crate would bring the whole server.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../proxy/src/head.rs"]
#[allow(dead_code, unreachable_pub, reason = "compiled in from the proxy")]
mod head;

use head::{HeadLimits, HeadScan};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 64 };

fuzz_target!(|input: &[u8]| {
    let whole = HeadScan::default().look(input, LIMITS);
    let mut scan = HeadScan::default();
    let mut piecewise = Ok(None);
    for end in 0..=input.len() {
        piecewise = scan.look(&input[..end], LIMITS);
        if !matches!(piecewise, Ok(None)) {
            break;
        }
    }
    assert_eq!(whole, piecewise, "the verdict does not depend on how the bytes arrive");
    if let Ok(Some(length)) = whole {
        agrees(&input[..length]);
    }
});

/// The parser that Pingora uses reads the same section, to the same end.
fn agrees(section: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(section) {
        Ok(httparse::Status::Complete(length)) => assert_eq!(length, section.len()),
        Ok(httparse::Status::Partial) => panic!("the parser wants more than was accepted"),
        // Stricter than the check in places; then the request is refused there.
        Err(_) => return,
    }
    let count =
        |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    assert_eq!(count("host"), 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
}
