//! Tokens and key sets from strangers: whatever is read has one form, and nothing verifies that was
//! not signed.
//!
//! The first byte says what is done with the rest: read as a token, as a key set, as an issuer's
//! answer, or put where the payload or the signature of a good token stands.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use portunus_filters::identity::{Algorithm, Certificate, ClaimRules, Issuer, KeySet, Naming, Token};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::sync::LazyLock;
use std::time::Duration;

const HEADER: &str = r#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#;
const CLAIMS: &str = r#"{"iss":"i","sub":"s","aud":"a","iat":1,"exp":1000}"#;

static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
});

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let x = URL_SAFE_NO_PAD.encode(KEY.public_key());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
    KeySet::read(set.as_bytes()).unwrap().0
});

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| Issuer {
    name: "i".into(),
    algorithms: Algorithm::ALL.to_vec(),
    types: Issuer::DEFAULT_TYPES.map(str::to_owned).to_vec(),
    clock_skew: Duration::ZERO,
    max_lifetime: None,
    rules: ClaimRules::of(Naming::Fixed("t".into())),
});

fuzz_target!(|input: &[u8]| {
    let Some((way, rest)) = input.split_first() else { return };
    let now = Duration::from_secs(10);
    let verifies =
        |text: &str| Token::read(text).is_ok_and(|token| ISSUER.verify(&token, &KEYS, now).is_ok());
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(HEADER.as_bytes()), encode(CLAIMS.as_bytes()));
    let signature = KEY.sign(signed.as_bytes());
    match way % 5 {
        0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                assert!(!verifies(text), "nobody signed this");
            }
        }
        1 => drop(KeySet::read(rest)),
        2 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                drop(ISSUER.inspected(text, now, Duration::from_secs(1)));
            }
        }
        3 => {
            let text =
                format!("{}.{}.{}", encode(HEADER.as_bytes()), encode(rest), encode(signature.as_ref()));
            assert_eq!(verifies(&text), rest == CLAIMS.as_bytes());
            // Signed by the issuer, and still as hostile as it may be.
            let signed = format!("{}.{}", encode(HEADER.as_bytes()), encode(rest));
            let signature = KEY.sign(signed.as_bytes());
            verifies(&format!("{signed}.{}", encode(signature.as_ref())));
        }
        _ => {
            drop(Certificate::read(rest));
            let text = format!("{signed}.{}", encode(rest));
            assert_eq!(verifies(&text), rest == signature.as_ref());
        }
    }
});
