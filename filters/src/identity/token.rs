//! A token as it is shown: read in one way, believed in nothing.
//!
//! What is here is what the token says of itself. Its header is read for the algorithm, the key and
//! the type, and for nothing that would let it bring its own key (`jwk`, `jku`, `x5u`, `x5c`).

use super::{Algorithm, Fault};
use crate::mcp::Bounds;
use crate::mcp::object::Object;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

/// Largest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Largest header of a token, decoded.
const MAX_HEADER_BYTES: usize = 4 << 10;

/// A header and a payload have few members, and no depth to speak of.
const BOUNDS: Bounds = Bounds { depth: 16, string_bytes: 8 << 10, array_items: 512, object_keys: 256 };

/// A compact JWS (RFC 7515 §7.1) with JSON objects in it, not verified.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// What it says that it is signed with.
    pub algorithm: Algorithm,
    /// Which key it says that it is signed with.
    pub key_id: Option<Arc<str>>,
    /// Its media type, in lower case and without `application/`; `None` if it has none.
    pub kind: Option<String>,
    payload: String,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Fault`]: too large, no JWS that reads in one way only, an algorithm that nobody may sign
    /// with, or an extension that must be understood.
    pub fn read(text: &'a str) -> Result<Token<'a>, Fault> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Fault::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Fault::Malformed)?;
        let header = decoded(header)?;
        let payload = decoded(payload)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Fault::Malformed)?;
        if header.len() > MAX_HEADER_BYTES || signature.is_empty() {
            return Err(Fault::Malformed);
        }
        let header = Object::read(&header).map_err(|_| Fault::Malformed)?;
        let algorithm = header.text("alg").ok_or(Fault::Malformed)?;
        let algorithm = Algorithm::parse(&algorithm).ok_or(Fault::Algorithm)?;
        if header.get("crit").is_some() {
            return Err(Fault::Critical);
        }
        let (key_id, kind) = (optional(&header, "kid")?, optional(&header, "typ")?);
        let kind = kind.map(|kind| media_type(&kind));
        // Repeated members of the payload are found here, before anything is read of it.
        Object::read(&payload).map_err(|_| Fault::Malformed)?;
        Ok(Token { algorithm, key_id: key_id.map(Into::into), kind, payload, signed, signature })
    }

    /// What it claims.
    ///
    /// # Errors
    /// [`Fault::Malformed`]; never of a token that was read.
    pub fn claims(&self) -> Result<Object<'_>, Fault> {
        Object::read(&self.payload).map_err(|_| Fault::Malformed)
    }

    /// The issuer that it names.
    ///
    /// # Errors
    /// [`Fault::Issuer`] if it names none.
    pub fn issuer(&self) -> Result<String, Fault> {
        let issuer = self.claims()?.text("iss").map(|issuer| issuer.into_owned());
        issuer.ok_or(Fault::Issuer)
    }

    /// The bytes that were signed, and the signature.
    pub fn signed(&self) -> (&'a [u8], &[u8]) {
        (self.signed.as_bytes(), &self.signature)
    }
}

/// A type as tokens and documents may spell it (RFC 7515 §4.1.9): in lower case, without
/// `application/`.
pub fn media_type(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)
}

fn decoded(part: &str) -> Result<String, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Malformed)?;
    crate::mcp::check(&bytes, &BOUNDS).map_err(|_| Fault::Malformed)?;
    String::from_utf8(bytes).map_err(|_| Fault::Malformed)
}

fn optional(header: &Object<'_>, name: &str) -> Result<Option<String>, Fault> {
    match header.get(name) {
        None => Ok(None),
        Some(_) => {
            let text = header.text(name).filter(|text| text.len() <= super::jwk::MAX_ID_BYTES);
            Ok(Some(text.ok_or(Fault::Malformed)?.into_owned()))
        }
    }
}
