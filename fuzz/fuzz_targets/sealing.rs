//! What clients carry for us: nothing that was not sealed opens, a sealed token that was changed
//! does not either, and contents have one form.
//!
//! The first byte of an input says which character of a sealed text is replaced by the second; the
//! rest is a text, and contents. The module is compiled in by path: the proxy's own crate would bring
//! the whole server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portunus_config::ServerId;
use portunus_filters::Identity;
use std::sync::LazyLock;

#[path = "../../proxy/src/sealing/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "compiled in from the proxy")]
mod sealing;

use sealing::{Binding, CallerKey, HandleToken, Purpose, Seals, SessionToken, StateToken, Token, Writer};

static SEALS: LazyLock<Seals> = LazyLock::new(|| Seals::of([&b"a key"[..]]).unwrap());
static SERVER: LazyLock<ServerId> = LazyLock::new(|| ServerId("*|/mcp".into()));

fuzz_target!(|input: &[u8]| {
    let caller = CallerKey::for_seals(&Identity::Anonymous { source: [127, 0, 0, 1].into() });
    let binding = Binding { server: &SERVER, caller };
    let [place, new, rest @ ..] = input else { return };
    if let Ok(text) = std::str::from_utf8(rest) {
        for purpose in Purpose::ALL {
            assert_eq!(SEALS.open(purpose, &binding, text), None, "nobody sealed this");
        }
    }
    if rest.len() <= Purpose::Session.max_plain() {
        let mut text = SEALS.seal(Purpose::Session, &binding, rest).into_bytes();
        let place = usize::from(*place) % text.len();
        let is_same = text[place] == *new;
        text[place] = *new;
        let opened = str::from_utf8(&text).ok().and_then(|text| SEALS.open(Purpose::Session, &binding, text));
        assert_eq!(opened.as_deref(), is_same.then_some(rest));
    }
    is_exact::<SessionToken>(rest);
    is_exact::<StateToken>(rest);
    is_exact::<HandleToken>(rest);
});

/// Bytes that read as a token are exactly what that token writes.
fn is_exact<T: Token>(plain: &[u8]) {
    if let Some(token) = T::decode(plain) {
        let mut out = Writer::new(T::FORM);
        token.write(&mut out);
        assert_eq!(out.finish().as_deref(), Some(plain));
    }
}
