//! What clients carry for us and cannot read, change or lend: sealed tokens.
//!
//! A token is authenticated encryption (AES-256-GCM-SIV, RFC 8452) of a few bytes under the key of its
//! purpose. The virtual server and the caller are bound in without being in it, so that a token that
//! was taken elsewhere does not open. Its text is base64url without padding, which a header field, a
//! JSON string and a URL hold as it is:
//!
//! ```text
//! form (1) | key id (4) | nonce (12) | tag (16) | ciphertext
//! ```
//!
//! Every token that does not open is one and the same `None`: why it does not is nobody's business.
//! What the tokens say is in the modules below; when one is too old is for those who keep time.

mod caller;
mod fields;
mod handle;
mod keys;
mod line;
mod session;
mod state;

pub use caller::{Binding, CallerKey, Marks};
pub use handle::HandleToken;
pub use keys::{Purpose, Seals};
pub use line::LineToken;
pub use session::{Home, PassedSession, SealedSession, SealedUpstreamSession, SessionName, SessionToken};
pub use state::StateToken;

pub(crate) use fields::{Reader, Writer};

use std::fmt;

/// Something that is sealed for a client or a peer to carry.
pub trait Token: Sized {
    /// The key that it is sealed under.
    const PURPOSE: Purpose;
    /// First byte inside: tokens that share a purpose are told apart by it, and old forms from new.
    const FORM: u8;

    /// Writes everything that follows the form.
    fn write(&self, out: &mut Writer);

    /// Reads what [`Token::write`] wrote; `None` for anything that it would not write.
    fn read(from: &mut Reader<'_>) -> Option<Self>;

    /// The token as text, bound to the server and the caller of `binding`.
    ///
    /// # Errors
    /// If what an upstream gave us to seal is longer than a client can be asked to carry.
    fn seal(&self, seals: &Seals, binding: &Binding<'_>) -> Result<String, Oversize> {
        let mut out = Writer::new(Self::FORM);
        self.write(&mut out);
        let plain = out.finish().filter(|plain| plain.len() <= Self::PURPOSE.max_plain());
        let plain = plain.ok_or(Oversize { max_bytes: Self::PURPOSE.max_plain() })?;
        Ok(seals.seal(Self::PURPOSE, binding, &plain))
    }

    /// What `text` says, if it was sealed here or by a replica for this server and caller.
    fn open(seals: &Seals, binding: &Binding<'_>, text: &str) -> Option<Self> {
        Self::decode(&seals.open(Self::PURPOSE, binding, text)?)
    }

    /// Reads the opened bytes of a token, all of them.
    fn decode(plain: &[u8]) -> Option<Self> {
        let mut from = Reader::new(plain, Self::FORM)?;
        let token = Self::read(&mut from)?;
        from.is_empty().then_some(token)
    }
}

/// What was to be sealed is longer than a token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// Most bytes that fit, the token's own fields included.
    pub max_bytes: usize,
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what the server gave to carry does not fit the {} bytes of a token", self.max_bytes)
    }
}

impl std::error::Error for Oversize {}

#[cfg(test)]
mod tests;
