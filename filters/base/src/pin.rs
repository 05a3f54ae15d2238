//! Pins of public keys, and the error of a TLS handshake with a server whose key is not pinned.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469 §2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// Reads `sha256/` and 32 bytes of base64.
    ///
    /// # Errors
    /// If the text is no pin: what is wrong with it.
    pub fn parse(text: &str) -> Result<Pin, &'static str> {
        let digest = text.strip_prefix("sha256/").ok_or("does not begin with `sha256/`")?;
        let digest = STANDARD.decode(digest).map_err(|_| "not base64 after `sha256/`")?;
        digest.try_into().map(Pin).map_err(|_| "not the 32 bytes of a SHA-256")
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A server whose certificate is valid has a public key that is not pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinMismatch {
    /// The pin of the key that the server has.
    pub presented: Pin,
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's key is not pinned; its pin is `{}`", self.presented)
    }
}

impl std::error::Error for PinMismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_is_read_back_as_it_is_written() {
        let pin = Pin([7; 32]);
        assert_eq!(Pin::parse(&pin.to_string()), Ok(pin));
        let bytes = STANDARD.encode([7; 32]);
        let table = [
            ("no scheme", bytes.clone(), "does not begin with `sha256/`"),
            ("another scheme", format!("sha1/{bytes}"), "does not begin with `sha256/`"),
            ("no base64", format!("sha256/{bytes}!"), "not base64 after `sha256/`"),
            ("too short", format!("sha256/{}", STANDARD.encode([7; 31])), "not the 32 bytes of a SHA-256"),
        ];
        for (name, text, problem) in table {
            assert_eq!(Pin::parse(&text), Err(problem), "{name}");
        }
    }
}
