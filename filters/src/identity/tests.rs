//! Tokens, keys and certificates, good and bad.

mod certificates;
mod edges;
mod keys;
mod rfc7515;
mod tokens;

use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RsaEncoding,
};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whoever signs tokens.
enum Signer {
    Rsa(rsa::KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn new(algorithm: Algorithm) -> Signer {
        let random = SystemRandom::new();
        let ecdsa = |how| {
            let key = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).unwrap()
        };
        match algorithm {
            Algorithm::Es256 => Signer::P256(ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING)),
            Algorithm::Es384 => Signer::P384(ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING)),
            Algorithm::EdDsa => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Signer::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
            _ => {
                let part = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
                let components = rsa::KeyPairComponents {
                    public_key: rsa::PublicKeyComponents {
                        n: part(rfc7515::MODULUS),
                        e: part(rfc7515::EXPONENT),
                    },
                    d: part(rfc7515::PRIVATE_EXPONENT),
                    p: part(rfc7515::FIRST_PRIME),
                    q: part(rfc7515::SECOND_PRIME),
                    dP: part(rfc7515::FIRST_EXPONENT),
                    dQ: part(rfc7515::SECOND_EXPONENT),
                    qInv: part(rfc7515::COEFFICIENT),
                };
                Signer::Rsa(rsa::KeyPair::from_components(&components).unwrap())
            }
        }
    }

    /// Its public key as a JWK, with these members beside the key itself.
    fn jwk(&self, members: &str) -> String {
        let point = |key: &[u8]| {
            let (x, y) = key[1..].split_at((key.len() - 1) / 2);
            format!("\"x\":\"{}\",\"y\":\"{}\"", encode(x), encode(y))
        };
        let key = match self {
            Signer::Rsa(_) => {
                format!("\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"{}\"", rfc7515::MODULUS, rfc7515::EXPONENT)
            }
            Signer::P256(key) => {
                format!("\"kty\":\"EC\",\"crv\":\"P-256\",{}", point(key.public_key().as_ref()))
            }
            Signer::P384(key) => {
                format!("\"kty\":\"EC\",\"crv\":\"P-384\",{}", point(key.public_key().as_ref()))
            }
            Signer::Ed25519(key) => {
                format!("\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"", encode(key.public_key()))
            }
        };
        format!("{{{key}{members}}}")
    }

    fn sign(&self, algorithm: Algorithm, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Rsa(key) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut made = vec![0; key.public().modulus_len()];
                key.sign(encoding, &random, signed, &mut made).unwrap();
                made
            }
            Signer::P256(key) | Signer::P384(key) => key.sign(&random, signed).unwrap().as_ref().to_vec(),
            Signer::Ed25519(key) => key.sign(signed).as_ref().to_vec(),
        }
    }

    /// A token with this header and payload.
    fn token(&self, algorithm: Algorithm, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(payload));
        let made = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", encode(made))
    }
}

fn key_set(keys: &[String]) -> KeySet {
    KeySet::read(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).unwrap().0
}

fn issuer() -> Issuer {
    Issuer {
        name: "https://idp.example".into(),
        algorithms: Algorithm::ALL.to_vec(),
        types: Issuer::DEFAULT_TYPES.map(str::to_owned).to_vec(),
        clock_skew: Duration::from_secs(30),
        max_lifetime: None,
        rules: ClaimRules::of(Naming::Fixed("acme".into())),
    }
}

/// Claims of a token that is good now, with these instead or beside them.
fn claims(changes: &[(&str, Option<&str>)]) -> String {
    let now = NOW.as_secs();
    let mut all = vec![
        ("iss", "\"https://idp.example\"".to_owned()),
        ("sub", "\"anna\"".to_owned()),
        ("aud", "\"https://gw.example/mcp\"".to_owned()),
        ("iat", now.to_string()),
        ("exp", (now + 300).to_string()),
        ("jti", "\"t-1\"".to_owned()),
    ];
    for (name, value) in changes {
        all.retain(|(known, _)| known != name);
        all.extend(value.map(|value| (*name, value.to_owned())));
    }
    let members: Vec<String> = all.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}
