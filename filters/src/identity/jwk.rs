//! Keys that an issuer publishes (RFC 7517), and what they verify.
//!
//! A key is taken for what its own document says that it is: an RSA key verifies RSA signatures and
//! nothing else, whatever a token claims. Keys that cannot be used are skipped and told of, so that
//! one odd key of a provider does not lock out everybody.

use super::Algorithm;
use super::algorithm::Check;
use crate::mcp::Bounds;
use crate::mcp::object::{Object, elements};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::RsaPublicKeyComponents;
use std::fmt;
use std::sync::Arc;

/// The keys of one issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A public key for signatures.
#[derive(Clone)]
pub struct Key {
    id: Option<Arc<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

/// A key of a set that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its position in the set, from 0.
    pub position: usize,
    /// Its `kid`, if that can be shown.
    pub id: Option<Arc<str>>,
    /// What is wrong with it.
    pub why: &'static str,
}

const BOUNDS: Bounds = Bounds { depth: 8, string_bytes: 32 << 10, array_items: 256, object_keys: 64 };

/// Longest `kid` that is kept.
pub(super) const MAX_ID_BYTES: usize = 256;

impl KeySet {
    /// Largest key set that is read.
    pub const MAX_BYTES: usize = 256 << 10;
    /// Most keys that are used of a set.
    pub const MAX_KEYS: usize = 64;

    /// Reads a key set: its usable keys, and what was skipped.
    ///
    /// # Errors
    /// If it is no key set at all, or none of its keys can be used.
    pub fn read(text: &[u8]) -> Result<(KeySet, Vec<Skipped>), &'static str> {
        if text.len() > KeySet::MAX_BYTES {
            return Err("the key set is larger than 256 KiB");
        }
        let text =
            crate::mcp::check(text, &BOUNDS).map_err(|_| "the key set is no JSON within its bounds")?;
        let set = Object::read(text).map_err(|_| "the key set is no JSON object")?;
        let keys = set.get("keys").ok_or("the key set has no `keys`")?;
        let keys = elements(keys).map_err(|_| "`keys` of the key set is no array")?;
        let (mut usable, mut skipped) = (Vec::new(), Vec::new());
        for (position, key) in keys.into_iter().enumerate() {
            match Key::read(key) {
                Ok(_) if usable.len() == KeySet::MAX_KEYS => {
                    skipped.push(Skipped { position, id: None, why: "the set has too many keys" });
                }
                Ok(key) => usable.push(key),
                Err((id, why)) => skipped.push(Skipped { position, id, why }),
            }
        }
        match usable.is_empty() {
            true => Err("no key of the key set can verify a signature"),
            false => Ok((KeySet { keys: usable }, skipped)),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key for a token: the one with its `kid`, or the only one that fits if it names none.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }
}

impl Key {
    /// Its `kid`.
    pub fn id(&self) -> Option<&Arc<str>> {
        self.id.as_ref()
    }

    /// Whether it has made this signature over `signed`.
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        match (algorithm.check(), &self.material) {
            (Check::Rsa(parameters), Material::Rsa { modulus, exponent }) => {
                RsaPublicKeyComponents { n: modulus, e: exponent }
                    .verify(parameters, signed, signature)
                    .is_ok()
            }
            (
                Check::Point(check),
                Material::P256(point) | Material::P384(point) | Material::Ed25519(point),
            ) => check.verify((&**point).into(), signed.into(), signature.into()).is_ok(),
            (Check::Rsa(_), _) | (Check::Point(_), Material::Rsa { .. }) => false,
        }
    }

    /// Whether signatures of this algorithm can be its own.
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.material.fits(algorithm)
    }

    fn read(text: &str) -> Result<Key, (Option<Arc<str>>, &'static str)> {
        let key = Object::read(text).map_err(|_| (None, "it is no JSON object with each member once"))?;
        let id: Option<Arc<str>> = match key.get("kid") {
            None => None,
            Some(_) => match key.text("kid").filter(|id| id.len() <= MAX_ID_BYTES) {
                Some(id) => Some(id.as_ref().into()),
                None => return Err((None, "its `kid` is no text, or too long")),
            },
        };
        Key::usable(&key, id.clone()).map_err(|why| (id, why))
    }

    fn usable(key: &Object<'_>, id: Option<Arc<str>>) -> Result<Key, &'static str> {
        if key.get("use").is_some() && key.text("use").as_deref() != Some("sig") {
            return Err("its `use` is not `sig`");
        }
        if let Some(operations) = key.get("key_ops") {
            let operations = elements(operations).map_err(|_| "its `key_ops` is no array")?;
            if !operations.contains(&"\"verify\"") {
                return Err("its `key_ops` are without `verify`");
            }
        }
        if key.get("d").is_some() {
            return Err("it is a private key, which nobody should publish");
        }
        let material = Material::read(key)?;
        let algorithm = match key.get("alg") {
            None => None,
            Some(_) => {
                let named = key.text("alg").and_then(|name| Algorithm::parse(&name));
                Some(named.ok_or("its `alg` is none that is known here")?)
            }
        };
        if algorithm.is_some_and(|algorithm| !material.fits(algorithm)) {
            return Err("its `alg` is none of its kind of key");
        }
        Ok(Key { id, algorithm, material })
    }
}

impl Material {
    fn read(key: &Object<'_>) -> Result<Material, &'static str> {
        let kind = key.text("kty").ok_or("it has no `kty`")?;
        let curve = key.text("crv");
        match (kind.as_ref(), curve.as_deref()) {
            ("RSA", _) => Material::rsa(key),
            ("EC", Some("P-256")) => point(key, 32).map(Material::P256),
            ("EC", Some("P-384")) => point(key, 48).map(Material::P384),
            ("EC", _) => Err("its curve is neither P-256 nor P-384"),
            ("OKP", Some("Ed25519")) => Ok(Material::Ed25519(exact(key, "x", 32)?.into())),
            ("OKP", _) => Err("its curve is not Ed25519"),
            ("oct", _) => Err("it is a shared secret: whoever can verify with it can sign"),
            _ => Err("its `kty` is none that is known here"),
        }
    }

    fn rsa(key: &Object<'_>) -> Result<Material, &'static str> {
        let modulus = number(key, "n")?;
        let exponent = number(key, "e")?;
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        match bits {
            ..2048 => return Err("its RSA modulus has less than 2048 bits"),
            8193.. => return Err("its RSA modulus has more than 8192 bits"),
            _ => {}
        }
        if exponent.len() > 4 || exponent.last().is_none_or(|last| last % 2 == 0) || *exponent == [1] {
            return Err("its RSA exponent is even, one or larger than 32 bits");
        }
        Ok(Material::Rsa { modulus: modulus.into(), exponent: exponent.into() })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Material::Rsa { .. } => matches!(algorithm.check(), Check::Rsa(_)),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }
}

/// A public key is no secret, and says nothing to a reader either.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

fn bytes(key: &Object<'_>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = key.text(name).ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(|_| "a part of it is no base64url")
}

/// An unsigned number without leading zeros, as ring takes it; some providers publish one with.
fn number(key: &Object<'_>, name: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = bytes(key, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    match bytes.get(zeros..) {
        Some(number) if !number.is_empty() => Ok(number.to_vec()),
        _ => Err("a number of it is zero"),
    }
}

fn exact(key: &Object<'_>, name: &str, length: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = bytes(key, name)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err("a coordinate of it has another length than its curve's")
    }
}

/// An uncompressed point (SEC 1 §2.3.3).
fn point(key: &Object<'_>, length: usize) -> Result<Box<[u8]>, &'static str> {
    let mut point = vec![4];
    point.extend(exact(key, "x", length)?);
    point.extend(exact(key, "y", length)?);
    Ok(point.into())
}
