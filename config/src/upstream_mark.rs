//! The mark of a server in what is sealed and kept.

use std::fmt;

use portunus_base::UpstreamUrl;
use ring::digest::{Context, SHA256};

/// The server that something sealed or kept belongs to: eight bytes that are the same on every replica of the gateway.
///
/// Credentials are no part of it, so that rotating one keeps what was sealed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamMark([u8; UpstreamMark::LEN]);

impl UpstreamMark {
    /// Its bytes.
    pub const LEN: usize = 8;

    /// The mark of the server called `name` at `url`; each replica of a server has its own.
    pub fn of(name: &str, url: &UpstreamUrl) -> UpstreamMark {
        let mut context = Context::new(&SHA256);
        for part in [name, url.scheme.default_port().to_string().as_str(), &url.authority, &url.path] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = [0; UpstreamMark::LEN];
        mark.copy_from_slice(&context.finish().as_ref()[..UpstreamMark::LEN]);
        UpstreamMark(mark)
    }

    /// The mark of 16 hexadecimal digits; `None` for another text.
    pub fn of_hex(text: &str) -> Option<UpstreamMark> {
        let is_one = text.len() == 2 * UpstreamMark::LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_one.then(|| u64::from_str_radix(text, 16).ok())?;
        number.map(|number| UpstreamMark(number.to_be_bytes()))
    }

    /// The mark that has these bytes.
    pub fn of_bytes(bytes: [u8; UpstreamMark::LEN]) -> UpstreamMark {
        UpstreamMark(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; UpstreamMark::LEN] {
        &self.0
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for UpstreamMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
