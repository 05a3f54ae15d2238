//! What upstreams are told of a caller in a form that they can verify: a short signed token (RFC 7519)
//! for one upstream, under a key of the gateway's own.
//!
//! It is no token that a client could show here: its issuer is the gateway, which is no issuer of the
//! gateway's.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde::Serialize;

/// What an upstream is told of a caller. Absent members are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Stable name within the tenant.
    pub sub: String,
    /// The tenant.
    pub tenant: String,
    /// The software that acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// For whom it acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Scopes, with a space between them (RFC 8693 §4.2).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
}

/// A key that assertions are signed with.
pub struct SigningKey {
    pair: Pair,
    /// Its public half (RFC 7517), which has its thumbprint (RFC 7638) for a name.
    jwk: String,
    header: String,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// For whom an assertion is, and when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// `iss`: who verifies it finds the keys by this name.
    pub issuer: &'a str,
    /// `aud`: the upstream.
    pub audience: &'a str,
    /// `iat` and `nbf`, since the Unix epoch.
    pub now: Duration,
    /// `exp` is so much later.
    pub lifetime: Duration,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    #[serde(flatten)]
    told: &'a Told,
}

impl SigningKey {
    /// A private key of P-256 or Ed25519 (PKCS #8, DER).
    ///
    /// # Errors
    /// What is wrong with it, never the key.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, &'static str> {
        let random = SystemRandom::new();
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
            // An uncompressed point: 4, x, y (SEC 1 §2.3.3).
            let point = pair.public_key().as_ref().get(1..65).ok_or("has no public half")?;
            let (x, y) = point.split_at(32);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            let members = format!(r#""crv":"P-256","kty":"EC","x":"{x}","y":"{y}""#);
            return Ok(SigningKey::new(Pair::Es256(pair), &members, "ES256"));
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|_| "is no private key of P-256 or Ed25519 in PKCS #8")?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let members = format!(r#""crv":"Ed25519","kty":"OKP","x":"{x}""#);
        Ok(SigningKey::new(Pair::Ed25519(pair), &members, "EdDSA"))
    }

    /// `members` are those that the thumbprint is taken of, in its order.
    fn new(pair: Pair, members: &str, algorithm: &str) -> SigningKey {
        let thumbprint = digest(&SHA256, format!("{{{members}}}").as_bytes());
        let name = URL_SAFE_NO_PAD.encode(thumbprint.as_ref());
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"{name}"}}"#);
        SigningKey {
            pair,
            jwk: format!(r#"{{{members},"use":"sig","alg":"{algorithm}","kid":"{name}"}}"#),
            header: URL_SAFE_NO_PAD.encode(header),
        }
    }

    /// Its public half, as JSON text.
    pub fn jwk(&self) -> &str {
        &self.jwk
    }

    /// A token that tells the upstream of `terms` who is calling; `None` if the system has no
    /// randomness.
    pub fn sign(&self, told: &Told, terms: &Terms<'_>) -> Option<String> {
        let now = terms.now.as_secs();
        let claims = Claims {
            iss: terms.issuer,
            aud: terms.audience,
            iat: now,
            nbf: now,
            exp: now.saturating_add(terms.lifetime.as_secs()),
            told,
        };
        let claims = serde_json::to_vec(&claims).ok()?;
        let text = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let signature = match &self.pair {
            Pair::Es256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).ok()?;
                URL_SAFE_NO_PAD.encode(signature)
            }
            Pair::Ed25519(pair) => URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes())),
        };
        Some(format!("{text}.{signature}"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.jwk)
    }
}

/// Two keys with one public half are one.
impl PartialEq for SigningKey {
    fn eq(&self, other: &SigningKey) -> bool {
        self.jwk == other.jwk
    }
}

impl Eq for SigningKey {}

/// The public halves of `keys`, each once (RFC 7517 §5).
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
    let mut keys: Vec<&str> = keys.into_iter().map(SigningKey::jwk).collect();
    keys.sort_unstable();
    keys.dedup();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair as Generated, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
    use serde_json::{Value, json};

    fn keys() -> [SigningKey; 2] {
        [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].map(|algorithm| {
            let der = Generated::generate_for(algorithm).unwrap().serialize_der();
            SigningKey::from_pkcs8(&der).unwrap()
        })
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn an_upstream_verifies_who_is_calling_with_the_published_key() {
        for key in keys() {
            let told = Told {
                sub: "anna \"x\"".into(),
                tenant: "acme".into(),
                roles: vec!["a".into()],
                scope: "r w".into(),
                ..Told::default()
            };
            let terms = Terms {
                issuer: "https://gw.example.com",
                audience: "https://crm/mcp",
                now: Duration::from_millis(9_999),
                lifetime: Duration::from_secs(60),
            };
            let token = key.sign(&told, &terms).unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let (header, claims) = signed.split_once('.').unwrap();
            let (header, jwk) = (decoded(header), serde_json::from_str::<Value>(key.jwk()).unwrap());
            assert_eq!((&header["kid"], &header["alg"]), (&jwk["kid"], &jwk["alg"]));
            let bytes = |member: &str| URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap()).unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let verified = match jwk["kty"].as_str().unwrap() {
                "EC" => {
                    let point = [vec![4], bytes("x"), bytes("y")].concat();
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                        .verify(signed.as_bytes(), &signature)
                }
                _ => UnparsedPublicKey::new(&ED25519, bytes("x")).verify(signed.as_bytes(), &signature),
            };
            assert!(verified.is_ok(), "{jwk}");
            assert_eq!(
                decoded(claims),
                json!({
                    "iss": "https://gw.example.com", "aud": "https://crm/mcp",
                    "iat": 9, "nbf": 9, "exp": 69,
                    "sub": "anna \"x\"", "tenant": "acme", "roles": ["a"], "scope": "r w",
                })
            );
        }
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        // RFC 8037 appendix A.3.
        let members = r#""crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let key = SigningKey::new(Pair::Ed25519(pair), members, "EdDSA");
        assert!(key.jwk().contains(r#""kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k""#));
    }

    #[test]
    fn the_set_has_each_key_once_and_no_private_half() {
        let [one, other] = keys();
        let set: Value = serde_json::from_str(&key_set([&one, &other, &one])).unwrap();
        let set = set["keys"].as_array().unwrap();
        assert_eq!(set.len(), 2);
        assert!(set.iter().all(|key| key.get("d").is_none()));
    }

    #[test]
    fn other_keys_are_refused() {
        let other = Generated::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_der();
        for der in [&other[..], b"", b"secret"] {
            let problem = SigningKey::from_pkcs8(der).unwrap_err();
            assert_eq!(problem, "is no private key of P-256 or Ed25519 in PKCS #8");
        }
    }
}
